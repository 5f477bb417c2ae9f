//! Log records: [`EventBatch`] against its encoded form, `tidegauge.stream.v1.EventBatch`.

use bytes::Bytes;
use tidegauge_core::event::{Dimensions, EventBatch, EventColumns, Mode};

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

/// Columns as they are sent. Id arrays of dictionaries with at most one entry are left out.
pub fn columns_to_proto(columns: EventColumns) -> pb::EventColumns {
    fn ids<T>(dictionary: &[T], ids: Vec<u32>) -> Vec<u32> {
        if dictionary.len() <= 1 { Vec::new() } else { ids }
    }
    pb::EventColumns {
        event_type_ids: ids(&columns.event_types, columns.event_type_ids),
        metric_ids: ids(&columns.metrics, columns.metric_ids),
        source_ids: ids(&columns.sources, columns.source_ids),
        version_ids: ids(&columns.versions, columns.version_ids),
        dimension_set_ids: ids(&columns.dimension_sets, columns.dimension_set_ids),
        event_types: columns.event_types,
        metrics: columns.metrics,
        sources: columns.sources,
        versions: columns.versions,
        dimension_sets: columns.dimension_sets.iter().map(dimensions_to_proto).collect(),
        times_unix_nano: columns.times,
        values: columns.values,
    }
}

/// A dimension set as it is sent.
pub fn dimensions_to_proto(dimensions: &Dimensions) -> pb::DimensionSet {
    let pairs = dimensions.pairs().iter();
    let dimensions = pairs.map(|(key, value)| pb::Dimension { key: key.clone(), value: value.clone() }).collect();
    pb::DimensionSet { dimensions }
}

/// Reads columns and checks their *shape*: equal lengths, ids inside their dictionaries, unique dimension keys. Left-out
/// id arrays are filled, empty dictionaries of sources, versions and dimension sets get their empty entry. Names, values
/// and times are not checked here: that is ingest's verdict per event.
///
/// # Errors
/// [`BatchError::Field`] with the array's name.
pub fn columns_from_proto(columns: pb::EventColumns) -> Result<EventColumns, BatchError> {
    fn ids(name: &'static str, ids: Vec<u32>, dictionary: usize, events: usize) -> Result<Vec<u32>, BatchError> {
        if ids.is_empty() && dictionary <= 1 {
            return if dictionary == 0 && events > 0 {
                Err(field(name, "its dictionary is empty"))
            } else {
                Ok(vec![0; events])
            };
        }
        if ids.len() != events {
            return Err(field(name, format!("has {} entries, but there are {events} events", ids.len())));
        }
        let largest = ids.iter().copied().max().unwrap_or(0);
        if largest as usize >= dictionary {
            return Err(field(name, format!("holds {largest}, but its dictionary has {dictionary} entries")));
        }
        Ok(ids)
    }
    let events = columns.times_unix_nano.len();
    if columns.values.len() != events {
        return Err(field("values", format!("has {} entries, but there are {events} events", columns.values.len())));
    }
    let or_empty = |texts: Vec<String>| if texts.is_empty() { vec![String::new()] } else { texts };
    let sources = or_empty(columns.sources);
    let versions = or_empty(columns.versions);
    let mut dimension_sets = Vec::with_capacity(columns.dimension_sets.len().max(1));
    for set in columns.dimension_sets {
        let pairs = set.dimensions.into_iter().map(|d| (d.key, d.value)).collect();
        let set = Dimensions::from_pairs(pairs)
            .map_err(|key| field("dimension_sets", format!("the key {key:?} stands twice in one set")))?;
        dimension_sets.push(set);
    }
    if dimension_sets.is_empty() {
        dimension_sets.push(Dimensions::default());
    }
    Ok(EventColumns {
        event_type_ids: ids("event_type_ids", columns.event_type_ids, columns.event_types.len(), events)?,
        metric_ids: ids("metric_ids", columns.metric_ids, columns.metrics.len(), events)?,
        source_ids: ids("source_ids", columns.source_ids, sources.len(), events)?,
        version_ids: ids("version_ids", columns.version_ids, versions.len(), events)?,
        dimension_set_ids: ids("dimension_set_ids", columns.dimension_set_ids, dimension_sets.len(), events)?,
        event_types: columns.event_types,
        metrics: columns.metrics,
        sources,
        versions,
        dimension_sets,
        times: columns.times_unix_nano,
        values: columns.values,
    })
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
