//! Queries through Arrow Flight SQL.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::decode::{DecodedPayload, FlightDataDecoder};
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt as _};
use arrow_flight::{FlightData, FlightDescriptor, FlightInfo, Ticket};
use futures::{StreamExt as _, TryStreamExt as _};
use prost::Message as _;
use tidegauge_proto::freshness::v1::Freshness;
use tidegauge_proto::limits;
use tonic::metadata::MetadataValue;
use tonic::{Request, Streaming};

use crate::channel::Authorized;
use crate::error::ClientError;

/// Header that asks for an answer with what is there.
const ALLOW_PARTIAL: &str = "x-allow-partial";

/// The rows of a query as Arrow batches, and how fresh they are.
#[derive(Debug)]
pub struct QueryResult {
    schema: SchemaRef,
    client: FlightServiceClient<Authorized>,
    tickets: VecDeque<Ticket>,
    allow_partial: bool,
    current: Option<FlightDataDecoder>,
    planned: Option<Freshness>,
    /// Written by the stream under `current`, which sees the messages before they are decoded.
    executed: Arc<Mutex<Option<Freshness>>>,
}

impl QueryResult {
    /// Columns of the result.
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// How fresh the answer is: as promised with its schema and, after the last batch, as executed.
    pub fn freshness(&self) -> Option<Freshness> {
        let executed = self.executed.lock().ok().and_then(|slot| slot.clone());
        executed.or_else(|| self.planned.clone())
    }

    /// The next batch; `None` after the last.
    ///
    /// # Errors
    /// What the server said. `Aborted` means that the data changed under the query: run it again.
    pub async fn next_batch(&mut self) -> Result<Option<RecordBatch>, ClientError> {
        loop {
            if self.current.is_none() {
                let Some(ticket) = self.tickets.pop_front() else { return Ok(None) };
                self.current = Some(self.fetch(ticket).await?);
            }
            let Some(decoder) = self.current.as_mut() else { continue };
            match decoder.next().await {
                None => self.current = None,
                Some(Err(error)) => return Err(flight_error(error)),
                Some(Ok(data)) => match data.payload {
                    DecodedPayload::None => {}
                    DecodedPayload::Schema(schema) if schema.fields() == self.schema.fields() => {}
                    DecodedPayload::Schema(_) => {
                        return Err(ClientError::Protocol("the stream's schema is not the promised one".to_owned()));
                    }
                    DecodedPayload::RecordBatch(batch) => return Ok(Some(batch)),
                },
            }
        }
    }

    /// All remaining batches. For results that fit into memory.
    ///
    /// # Errors
    /// As [`QueryResult::next_batch`].
    pub async fn collect(&mut self) -> Result<Vec<RecordBatch>, ClientError> {
        let mut batches = Vec::new();
        while let Some(batch) = self.next_batch().await? {
            batches.push(batch);
        }
        Ok(batches)
    }

    async fn fetch(&mut self, ticket: Ticket) -> Result<FlightDataDecoder, ClientError> {
        let stream = self.client.do_get(request(ticket, self.allow_partial)).await?.into_inner();
        Ok(decoder(stream, self.executed.clone()))
    }
}

pub(crate) async fn run(channel: Authorized, sql: &str, allow_partial: bool) -> Result<QueryResult, ClientError> {
    let mut client = FlightServiceClient::new(channel).max_decoding_message_size(limits::RESPONSE_BYTES_MAX);
    let command = CommandStatementQuery { query: sql.to_owned(), transaction_id: None };
    let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
    let info = client.get_flight_info(request(descriptor, allow_partial)).await?.into_inner();
    let planned = freshness(&info.app_metadata)?;
    let schema = schema(&info)?;
    Ok(QueryResult {
        schema,
        client,
        tickets: info.endpoint.into_iter().filter_map(|endpoint| endpoint.ticket).collect(),
        allow_partial,
        current: None,
        planned,
        executed: Arc::default(),
    })
}

fn request<T>(message: T, allow_partial: bool) -> Request<T> {
    let mut request = Request::new(message);
    if allow_partial {
        request.metadata_mut().insert(ALLOW_PARTIAL, MetadataValue::from_static("true"));
    }
    request
}

fn schema(info: &FlightInfo) -> Result<SchemaRef, ClientError> {
    let schema = Schema::try_from(arrow_flight::IpcMessage(info.schema.clone()))
        .map_err(|e| ClientError::Protocol(format!("the schema cannot be read: {e}")))?;
    Ok(Arc::new(schema))
}

fn freshness(app_metadata: &[u8]) -> Result<Option<Freshness>, ClientError> {
    if app_metadata.is_empty() {
        return Ok(None);
    }
    let decoded = Freshness::decode(app_metadata);
    decoded.map(Some).map_err(|e| ClientError::Protocol(format!("the freshness cannot be read: {e}")))
}

/// Decodes the messages; metadata is taken off before, since the last message may carry nothing else.
fn decoder(stream: Streaming<FlightData>, executed: Arc<Mutex<Option<Freshness>>>) -> FlightDataDecoder {
    let stream = stream.map_err(FlightError::from).try_filter_map(move |data| {
        let read = freshness(&data.app_metadata).map_err(|e| FlightError::ExternalError(Box::new(e)));
        let kept = read.map(|found| {
            if let (Some(found), Ok(mut slot)) = (found, executed.lock()) {
                *slot = Some(found);
            }
            (!data.data_header.is_empty()).then_some(data)
        });
        std::future::ready(kept)
    });
    FlightDataDecoder::new(stream)
}

fn flight_error(error: FlightError) -> ClientError {
    match error {
        FlightError::Tonic(status) => ClientError::from(*status),
        FlightError::ExternalError(error) => match error.downcast::<ClientError>() {
            Ok(error) => *error,
            Err(error) => ClientError::Protocol(error.to_string()),
        },
        other => ClientError::Protocol(other.to_string()),
    }
}
