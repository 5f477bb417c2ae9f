//! Batches to Flight messages, each small enough for every client.

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};
use arrow_flight::{FlightData, SchemaAsIpc};
use futures::stream::{self, Stream, StreamExt as _};
use prost::Message as _;
use tidegauge_core::{ErrorKind, ServiceError, limits};

use crate::answer::{Answer, batch_bytes};

/// Bytes of one message, about: clients refuse 16 MiB, some 4.
const MESSAGE_BYTES: usize = 2 << 20;
/// Bytes of one row: what a message takes, with room for its frame.
const ROW_BYTES_MAX: usize = limits::RESPONSE_BYTES_MAX - (1 << 20);

/// Encodes the messages of one stream.
pub(super) struct Encoder {
    generator: IpcDataGenerator,
    dictionaries: DictionaryTracker,
    options: IpcWriteOptions,
    context: IpcWriteContext,
}

impl Default for Encoder {
    fn default() -> Self {
        Self {
            generator: IpcDataGenerator::default(),
            dictionaries: DictionaryTracker::new(false),
            options: IpcWriteOptions::default(),
            context: IpcWriteContext::default(),
        }
    }
}

impl Encoder {
    /// The message that opens a stream.
    pub(super) fn schema(&mut self, schema: &Schema) -> FlightData {
        SchemaAsIpc::new(schema, &self.options).into()
    }

    /// The messages of a batch: it is cut where it is large.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED for a row that no message can carry.
    pub(super) fn batch(&mut self, batch: &RecordBatch) -> Result<Vec<FlightData>, ServiceError> {
        let mut messages = Vec::new();
        self.cut(batch, &mut messages)?;
        Ok(messages)
    }

    /// Halves what is too large: rows may differ much in size.
    fn cut(&mut self, batch: &RecordBatch, messages: &mut Vec<FlightData>) -> Result<(), ServiceError> {
        let (rows, bytes) = (batch.num_rows(), batch_bytes(batch));
        if bytes > MESSAGE_BYTES && rows > 1 {
            self.cut(&batch.slice(0, rows / 2), messages)?;
            return self.cut(&batch.slice(rows / 2, rows - rows / 2), messages);
        }
        if bytes > ROW_BYTES_MAX {
            let message =
                format!("a row of the result has {} MiB, at most {} are sent", bytes >> 20, ROW_BYTES_MAX >> 20);
            let error = ServiceError::new(ErrorKind::ResourceExhausted, "RESULT_LIMIT", message.clone());
            return Err(error.quota("result", message));
        }
        let encoded = self.generator.encode(batch, &mut self.dictionaries, &self.options, &mut self.context);
        let (dictionaries, data) = encoded.map_err(|error| broken(&error))?;
        messages.extend(dictionaries.into_iter().map(FlightData::from));
        messages.push(data.into());
        Ok(())
    }
}

/// What cannot happen unless there is a defect.
pub(super) fn broken(error: &dyn std::fmt::Display) -> ServiceError {
    tracing::error!(%error, "a result could not be encoded");
    ServiceError::new(ErrorKind::Internal, "ENCODING", "the result could not be encoded")
}

/// Where a stream of messages is.
enum At {
    Schema(SchemaRef),
    Batches,
    End,
}

/// The answer as messages: schema, batches, and a batch without rows that carries the freshness.
pub(super) fn messages(answer: Answer) -> impl Stream<Item = Result<FlightData, ServiceError>> + Send {
    let start = (At::Schema(answer.schema()), answer, Encoder::default());
    let steps = stream::try_unfold(start, |(at, mut answer, mut encoder)| async move {
        match at {
            At::End => Ok(None),
            At::Schema(schema) => Ok(Some((vec![encoder.schema(&schema)], (At::Batches, answer, encoder)))),
            At::Batches => match answer.next().await? {
                Some(batch) => Ok(Some((encoder.batch(&batch)?, (At::Batches, answer, encoder)))),
                None => {
                    let mut last = encoder.batch(&RecordBatch::new_empty(answer.schema()))?;
                    if let Some(message) = last.last_mut() {
                        message.app_metadata = answer.freshness().encode_to_vec().into();
                    }
                    Ok(Some((last, (At::End, answer, encoder))))
                }
            },
        }
    });
    steps.flat_map(|step: Result<Vec<FlightData>, ServiceError>| match step {
        Ok(messages) => stream::iter(messages.into_iter().map(Ok).collect::<Vec<_>>()),
        Err(error) => stream::iter(vec![Err(error)]),
    })
}
