//! Dead letters: what was durable and could not be counted, with its bytes and the reason.

use bytes::Bytes;
use tidegauge_core::TenantId;
use tidegauge_core::event::{EventBatch, EventColumns, IndexRange};
use tidegauge_core::{Epoch, Ordinal};

/// Why an event or record was set aside. The numbers are stored: never reuse one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum DeadReason {
    /// The record cannot be read, or belongs to another key.
    Undecodable = 1,
    /// The sequence was used before with other content.
    SequenceReused = 2,
    /// Too old to tell whether it was counted.
    BelowDedupHorizon = 3,
    /// One more kept producer than a tenant may have.
    TooManyKeptProducers = 4,
    /// Older than the lateness horizon; a redrive publishes it as BACKFILL.
    TooOld = 5,
    /// Too far after its arrival.
    TooFarInFuture = 6,
    /// One more series than a key may have.
    TooManySeries = 7,
    /// The metric's name or the time breaks the rules that ingest checks.
    Invalid = 8,
}

impl DeadReason {
    /// Every reason.
    pub const ALL: [Self; 8] = [
        Self::Undecodable,
        Self::SequenceReused,
        Self::BelowDedupHorizon,
        Self::TooManyKeptProducers,
        Self::TooOld,
        Self::TooFarInFuture,
        Self::TooManySeries,
        Self::Invalid,
    ];

    /// Whether it concerns whole records, kept as they stood on the log; otherwise single events.
    pub const fn whole_record(self) -> bool {
        matches!(self, Self::Undecodable | Self::SequenceReused | Self::BelowDedupHorizon | Self::TooManyKeptProducers)
    }

    /// UPPER_SNAKE word for programs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Undecodable => "UNDECODABLE",
            Self::SequenceReused => "SEQUENCE_REUSED",
            Self::BelowDedupHorizon => "BELOW_DEDUP_HORIZON",
            Self::TooManyKeptProducers => "TOO_MANY_KEPT_PRODUCERS",
            Self::TooOld => "TOO_OLD",
            Self::TooFarInFuture => "TOO_FAR_IN_FUTURE",
            Self::TooManySeries => "TOO_MANY_SERIES",
            Self::Invalid => "INVALID",
        }
    }
}

/// Events of one record that were set aside together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeadLetter {
    /// Ordinal of the record.
    pub ordinal: Ordinal,
    /// When the log took the record, or, where that cannot be read, when it was processed; Unix nanoseconds.
    pub arrival_ns: i64,
    /// Why.
    pub reason: DeadReason,
    /// For people; may be empty.
    pub detail: String,
    /// Number of events; 1 for an undecodable record.
    pub events: u64,
    /// The record as it stood on the log, or a record of the dead events alone.
    pub payload: Bytes,
}

/// Dead letters of one tenant and epoch: one object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeadBatch {
    /// The epoch that carries them first.
    pub epoch: Epoch,
    /// The tenant.
    pub tenant: TenantId,
    /// In the order of the log.
    pub letters: Vec<DeadLetter>,
}

/// A batch of the events at `positions` alone, with their dictionaries.
pub(super) fn part_of(batch: &EventBatch, positions: &[u32]) -> EventBatch {
    let columns = &batch.columns;
    let take = |ids: &[u32]| positions.iter().map(|at| ids[*at as usize]).collect::<Vec<_>>();
    let (metrics, metric_ids) = trim(&columns.metrics, take(&columns.metric_ids));
    let (event_types, event_type_ids) = trim(&columns.event_types, take(&columns.event_type_ids));
    let (sources, source_ids) = trim(&columns.sources, take(&columns.source_ids));
    let (versions, version_ids) = trim(&columns.versions, take(&columns.version_ids));
    let (dimension_sets, dimension_set_ids) = trim(&columns.dimension_sets, take(&columns.dimension_set_ids));
    EventBatch {
        tenant: batch.tenant.clone(),
        request: batch.request,
        indexes: indexes_of(batch, positions),
        mode: batch.mode,
        arrival_ns: batch.arrival_ns,
        columns: EventColumns {
            event_types,
            metrics,
            sources,
            versions,
            dimension_sets,
            times: positions.iter().map(|at| columns.times[*at as usize]).collect(),
            values: positions.iter().map(|at| columns.values[*at as usize]).collect(),
            event_type_ids,
            metric_ids,
            source_ids,
            version_ids,
            dimension_set_ids,
        },
    }
}

/// The entries that are used, and the ids that name them now.
fn trim<T: Clone>(dictionary: &[T], ids: Vec<u32>) -> (Vec<T>, Vec<u32>) {
    let mut used = ids.clone();
    used.sort_unstable();
    used.dedup();
    let entries = used.iter().map(|id| dictionary[*id as usize].clone()).collect();
    let ids = ids.into_iter().map(|id| used.partition_point(|u| *u < id) as u32).collect();
    (entries, ids)
}

fn indexes_of(batch: &EventBatch, positions: &[u32]) -> Vec<IndexRange> {
    let mut indexes: Vec<IndexRange> = Vec::new();
    let mut ranges = batch.indexes.iter();
    let (mut current, mut from) = (ranges.next(), 0);
    for &position in positions {
        while let Some(range) = current {
            if position < from + range.count {
                let index = range.first + (position - from);
                match indexes.last_mut() {
                    Some(last) if last.first + last.count == index => last.count += 1,
                    _ => indexes.push(IndexRange { first: index, count: 1 }),
                }
                break;
            }
            from += range.count;
            current = ranges.next();
        }
    }
    indexes
}

/// Each event of a batch as a batch of its own, with its index in the request.
pub fn split_events(batch: &EventBatch) -> Vec<(u32, EventBatch)> {
    let indexes = batch.indexes.iter().flat_map(|range| range.first..range.first + range.count);
    indexes.zip(0..batch.columns.len() as u32).map(|(index, position)| (index, part_of(batch, &[position]))).collect()
}
