//! Checks of a request as a whole, before any event is looked at.

use tidegauge_core::event::{Mode, RequestId};
use tidegauge_core::ids::Producer;
use tidegauge_core::{FieldViolation, Reason, ServiceError, limits};
use tidegauge_proto::convert::batch::mode;
use tidegauge_proto::raw::{ColumnsError, ColumnsView, Malformed, RequestView};
use twox_hash::XxHash3_128;

/// A request that is right as a whole.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// The producer and its sequence, if there is a producer.
    pub producer: Option<(Producer, u64)>,
    /// Mode.
    pub mode: Mode,
    /// Number of events.
    pub events: usize,
}

fn violation(field: &str, reason: Reason, description: impl Into<String>) -> FieldViolation {
    FieldViolation { field: field.to_owned(), reason, description: description.into() }
}

/// The error for bytes that are no request.
pub fn malformed(error: Malformed) -> ServiceError {
    ServiceError::invalid("request", "REQUEST_MALFORMED", error.to_string())
}

/// The error for columns that cannot be read.
pub fn columns_error(error: ColumnsError) -> ServiceError {
    match error {
        ColumnsError::Malformed(error) => malformed(error),
        ColumnsError::TooManyEntries { field } => {
            ServiceError::invalid(format!("columns.{field}"), "DICTIONARY_TOO_LARGE", error.to_string())
        }
    }
}

/// Number of events in a request, right or not.
pub fn events(view: &RequestView<'_>, columns: Option<&ColumnsView<'_>>) -> usize {
    view.rows + columns.map_or(0, ColumnsView::len)
}

/// Checks everything but the events.
///
/// # Errors
/// INVALID_ARGUMENT with a violation for each field that is wrong.
pub fn check(view: &RequestView<'_>, columns: Option<&ColumnsView<'_>>) -> Result<Head, ServiceError> {
    let mut wrong = Vec::new();
    let producer = match <[u8; 16]>::try_from(view.producer_id) {
        Ok(_) if view.sequence == 0 => {
            wrong.push(violation("sequence", "SEQUENCE_MISSING", "is 0, but a producer counts from 1"));
            None
        }
        Ok(id) => Some((Producer::from_bytes(id), view.sequence)),
        Err(_) if view.producer_id.is_empty() => None,
        Err(_) => {
            let bytes = view.producer_id.len();
            wrong.push(violation(
                "producer_id",
                "PRODUCER_ID_LENGTH",
                format!("has {bytes} bytes, but must have 16 or none"),
            ));
            None
        }
    };
    let mode = mode(view.mode);
    match (mode, view.mode) {
        (Some(_), _) => {}
        (None, 0) => wrong.push(violation("mode", "MODE_UNSPECIFIED", "must be MODE_LIVE or MODE_BACKFILL")),
        (None, other) => wrong.push(violation("mode", "MODE_UNKNOWN", format!("{other} is no mode"))),
    }
    let (field, events) = match columns {
        Some(_) if view.rows > 0 => {
            wrong.push(violation("columns", "ROWS_AND_COLUMNS", "events must be sent as rows or as columns, not both"));
            ("events", view.rows)
        }
        Some(columns) => ("columns.times_unix_nano", columns.len()),
        None => ("events", view.rows),
    };
    if events == 0 {
        wrong.push(violation(field, "NO_EVENTS", "the request holds no events"));
    }
    if events > limits::EVENTS_PER_REQUEST_MAX {
        let description = format!("holds {events} events, at most {} are allowed", limits::EVENTS_PER_REQUEST_MAX);
        wrong.push(violation(field, "TOO_MANY_EVENTS", description));
    }
    match mode {
        Some(mode) if wrong.is_empty() => Ok(Head { producer, mode, events }),
        _ => Err(ServiceError::invalid_fields(wrong)),
    }
}

/// Digest of the request's events as sent: xxh3-128 of its fields `events` and `columns`, tags and lengths included, in
/// their order.
pub fn digest(view: &RequestView<'_>) -> u128 {
    let mut hasher = XxHash3_128::new();
    let mut head = Vec::with_capacity(11);
    for (number, payload) in view.content() {
        head.clear();
        prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, &mut head);
        prost::encoding::encode_varint(payload.len() as u64, &mut head);
        hasher.write(&head);
        hasher.write(payload);
    }
    hasher.finish_128()
}

/// The identity under which the request's events are deduplicated; none without a producer.
pub fn identity(head: &Head, view: &RequestView<'_>) -> Option<RequestId> {
    head.producer.map(|(producer, sequence)| RequestId { producer, sequence, digest: digest(view) })
}
