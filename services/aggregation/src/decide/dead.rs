//! Dead letters: what was durable and could not be counted, with its bytes and the reason.

use bytes::Bytes;
use tidegauge_core::TenantId;
use tidegauge_core::event::{EventBatch, EventColumns, IndexRange};
use tidegauge_core::time::SECOND_NS;
use tidegauge_core::{Epoch, Ordinal};

use super::shard::Shard;

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
    /// An object of the key cannot be written, and its rows that wait for it take all the room they may.
    KeyHeld = 9,
}

impl DeadReason {
    /// Every reason.
    pub const ALL: [Self; 9] = [
        Self::Undecodable,
        Self::SequenceReused,
        Self::BelowDedupHorizon,
        Self::TooManyKeptProducers,
        Self::TooOld,
        Self::TooFarInFuture,
        Self::TooManySeries,
        Self::Invalid,
        Self::KeyHeld,
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
            Self::KeyHeld => "KEY_HELD",
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

impl DeadLetter {
    /// What it takes in memory and in the checkpoint: its bytes, and what goes with each letter however small it is.
    pub(super) fn weight(&self) -> usize {
        const EACH: usize = 256;
        self.payload.len() + self.detail.len() + EACH
    }
}

/// Dead letters of one tenant and epoch: one object. Nothing in it expands when it is written, so it is bounded as they are
/// in memory, by [`super::Settings::dead_bytes_max`] and what one read of the log may add.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeadBatch {
    /// The epoch that carries them first.
    pub epoch: Epoch,
    /// The tenant.
    pub tenant: TenantId,
    /// In the order of the log.
    pub letters: Vec<DeadLetter>,
}

/// Dead letters on their way into the lake.
#[derive(Clone, Debug)]
pub(super) struct DeadOutbox {
    pub(super) batch: DeadBatch,
    /// Keys of their entries in the checkpoint.
    pub(super) entries: Vec<Bytes>,
    /// Failed attempts to write them.
    attempts: u32,
    /// When to try again, by the decisions' clock.
    retry_at: i64,
}

impl DeadOutbox {
    pub(super) fn new(batch: DeadBatch, entries: Vec<Bytes>) -> Self {
        Self { batch, entries, attempts: 0, retry_at: i64::MIN }
    }

    fn is_of(&self, batch: &DeadBatch) -> bool {
        self.batch.epoch == batch.epoch && self.batch.tenant == batch.tenant
    }
}

impl Shard {
    /// Batches of dead letters to write now.
    pub fn dead_jobs(&self, now: i64) -> Vec<DeadBatch> {
        let due = self.dead_outboxes.iter().filter(|outbox| outbox.retry_at <= now);
        due.map(|outbox| outbox.batch.clone()).collect()
    }

    /// Whether dead letters should be written now, without waiting for the next regular checkpoint.
    pub fn dead_letters_press(&self, now: i64) -> bool {
        let much = self.settings.dead_bytes_max / 2;
        self.fresh_dead_bytes >= much || (self.dead_bytes >= much && self.dead_is_due(now))
    }

    /// Whether dead letters could be written now.
    pub(super) fn dead_is_due(&self, now: i64) -> bool {
        self.dead_outboxes.iter().any(|outbox| outbox.retry_at <= now)
    }

    /// A batch of dead letters is in the lake.
    pub fn dead_applied(&mut self, batch: &DeadBatch) {
        if let Some(place) = self.dead_outboxes.iter().position(|outbox| outbox.is_of(batch)) {
            let DeadOutbox { batch, entries, .. } = self.dead_outboxes.remove(place);
            self.dead_bytes -= batch.letters.iter().map(DeadLetter::weight).sum::<usize>();
            self.dropped_dead.extend(entries);
        }
    }

    /// A batch of dead letters could not be written: it stays.
    pub fn dead_parked(&mut self, batch: &DeadBatch, now: i64) {
        if let Some(outbox) = self.dead_outboxes.iter_mut().find(|outbox| outbox.is_of(batch)) {
            outbox.attempts = outbox.attempts.saturating_add(1);
            outbox.retry_at = now.saturating_add(retry_after_ns(outbox.attempts));
        }
    }
}

/// Pause before the next attempt after so many failed ones: two seconds, growing to about a minute.
pub(super) fn retry_after_ns(attempts: u32) -> i64 {
    SECOND_NS << attempts.min(6)
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
