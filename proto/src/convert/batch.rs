//! Log records: [`EventBatch`] against its encoded form, `tidegauge.stream.v1.EventBatch`.

use bytes::Bytes;
use tidegauge_core::event::{Dimensions, EventBatch, Mode};

use crate::raw::encode::{ColumnParts, RecordHeader};
use crate::raw::{self, Malformed};
use crate::stream::v1 as pb;

/// Version of the format written today.
pub const FORMAT_VERSION: u32 = 1;

/// Why a record cannot be read. The record becomes a dead letter with this text as its reason.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// Not a protobuf message of the right form.
    #[error("not an event batch: {0}")]
    Malformed(#[from] Malformed),
    /// Written by a newer version of this program.
    #[error("format version {0} is unknown")]
    Version(u32),
    /// A field breaks the record's rules.
    #[error("{field}: {problem}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

pub(crate) fn field(field: &'static str, problem: impl Into<String>) -> BatchError {
    BatchError::Field { field, problem: problem.into() }
}

/// Reads the mode; `None` for an unset or unknown one.
pub fn mode(mode: i32) -> Option<Mode> {
    match pb::Mode::try_from(mode) {
        Ok(pb::Mode::Live) => Some(Mode::Live),
        Ok(pb::Mode::Backfill) => Some(Mode::Backfill),
        Ok(pb::Mode::Unspecified) | Err(_) => None,
    }
}

/// The mode as it is sent.
pub fn mode_to_proto(mode: Mode) -> pb::Mode {
    match mode {
        Mode::Live => pb::Mode::Live,
        Mode::Backfill => pb::Mode::Backfill,
    }
}

/// A dimension set as it is sent.
pub fn dimensions_to_proto(dimensions: &Dimensions) -> pb::DimensionSet {
    let pairs = dimensions.pairs().iter();
    let dimensions = pairs.map(|(key, value)| pb::Dimension { key: key.clone(), value: value.clone() }).collect();
    pb::DimensionSet { dimensions }
}

/// Encodes a batch as a log record.
pub fn encode(batch: EventBatch) -> Bytes {
    let columns = ColumnParts::from(&batch.columns);
    let header = RecordHeader {
        tenant: &batch.tenant,
        request: batch.request,
        indexes: &batch.indexes,
        mode: batch.mode,
        arrival_ns: batch.arrival_ns,
    };
    let encoded = header.encode(columns.encoded_len(), usize::MAX, |out| columns.encode(out));
    encoded.expect("no record is longer than the largest number")
}

/// Reads a log record.
///
/// # Errors
/// [`BatchError`] when it is no batch, of another version, or breaks its own rules.
pub fn decode(record: Bytes) -> Result<EventBatch, BatchError> {
    raw::decode_batch(&record)
}
