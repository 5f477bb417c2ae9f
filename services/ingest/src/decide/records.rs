//! Log records from accepted events, split where one would be too long.

use std::ops::Range;

use bytes::Bytes;
use tidegauge_core::event::{IndexRange, Mode, RequestId};
use tidegauge_core::ids::Key;
use tidegauge_core::{ServiceError, limits};
use tidegauge_proto::raw::encode::RecordHeader;

use super::draft::Draft;
use super::{Accepted, Decision, columns};

/// What stands in each record beside its events.
#[derive(Clone, Debug)]
pub struct Labels {
    /// The key of the events.
    pub key: Key,
    /// Identity for deduplication.
    pub request: Option<RequestId>,
    /// Mode.
    pub mode: Mode,
    /// Arrival, Unix nanoseconds.
    pub arrival_ns: i64,
}

/// Encodes the accepted events into records of at most `record_bytes_max` with their key.
///
/// # Errors
/// INVALID_ARGUMENT when the records together grow beyond [`limits::REQUEST_RECORDS_BYTES_MAX`]; INTERNAL when a single
/// event does not fit, which the limits rule out.
pub fn encode(decision: &Decision<'_>, labels: &Labels, record_bytes_max: usize) -> Result<Vec<Bytes>, ServiceError> {
    let bytes_max = record_bytes_max.saturating_sub(labels.key.to_string().len());
    let mut records = Vec::with_capacity(1);
    match &decision.accepted {
        Accepted::AsSent { message, view } => {
            let header = header(labels, &decision.indexes);
            match header.encode(message.len(), bytes_max, |out| out.extend_from_slice(message)) {
                Some(record) => records.push(record),
                None => split(&columns::build(view)?, &decision.indexes, labels, bytes_max, &mut records)?,
            }
        }
        Accepted::Built(draft) if draft.is_empty() => {}
        Accepted::Built(draft) => split(draft, &decision.indexes, labels, bytes_max, &mut records)?,
    }
    Ok(records)
}

fn header<'a>(labels: &'a Labels, indexes: &'a [IndexRange]) -> RecordHeader<'a> {
    RecordHeader {
        tenant: &labels.key.tenant,
        request: labels.request,
        indexes,
        mode: labels.mode,
        arrival_ns: labels.arrival_ns,
    }
}

/// Encodes the draft, halved until each part fits.
fn split(
    draft: &Draft<'_>,
    indexes: &[IndexRange],
    labels: &Labels,
    bytes_max: usize,
    records: &mut Vec<Bytes>,
) -> Result<(), ServiceError> {
    let header = header(labels, indexes);
    let whole = draft.with_parts(|parts| header.encode(parts.encoded_len(), bytes_max, |out| parts.encode(out)));
    if let Some(record) = whole {
        records.push(record);
        let bytes: usize = records.iter().map(Bytes::len).sum();
        return if bytes <= limits::REQUEST_RECORDS_BYTES_MAX { Ok(()) } else { Err(grown()) };
    }
    let events = draft.len();
    if events < 2 {
        return Err(ServiceError::new(
            tidegauge_core::ErrorKind::Internal,
            "EVENT_TOO_LARGE",
            format!("one event does not fit into a record of {bytes_max} bytes"),
        ));
    }
    let middle = events / 2;
    for part in [0..middle, middle..events] {
        split(&draft.slice(part.clone()), &slice(indexes, part), labels, bytes_max, records)?;
    }
    Ok(())
}

/// Only columns grow like this: each record repeats the dictionary entries that its events use.
fn grown() -> ServiceError {
    let description = format!(
        "take more than {} bytes in log records of {} bytes, because distant events share large dictionary entries; send \
         fewer events a request",
        limits::REQUEST_RECORDS_BYTES_MAX,
        limits::RECORD_BYTES_MAX
    );
    ServiceError::invalid("columns", "COLUMNS_TOO_LARGE", description)
}

/// The original indexes of some of the accepted events, which are counted from 0.
fn slice(ranges: &[IndexRange], events: Range<usize>) -> Vec<IndexRange> {
    let mut slice = Vec::new();
    let mut before = 0;
    for range in ranges {
        let count = range.count as usize;
        let from = events.start.clamp(before, before + count) - before;
        let to = events.end.clamp(before, before + count) - before;
        if from < to {
            slice.push(IndexRange { first: range.first + from as u32, count: (to - from) as u32 });
        }
        before += count;
    }
    slice
}
