//! Events as columns: the form in which they stand on the log and are aggregated.

use crate::ids::{Producer, Sequence, TenantId};

/// Dimensions of an event in canonical form: sorted by key, keys unique.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord)]
pub struct Dimensions(Vec<(String, String)>);

impl Dimensions {
    /// Sorts the pairs by key.
    ///
    /// # Errors
    /// The key that stands twice.
    pub fn from_pairs(mut pairs: Vec<(String, String)>) -> Result<Self, String> {
        pairs.sort();
        match pairs.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(pair[0].0.clone()),
            None => Ok(Self(pairs)),
        }
    }

    /// The pairs, sorted by key.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    /// 128-bit xxh3 of the canonical form: each key and value followed by a zero byte, which neither can hold.
    pub fn hash128(&self) -> u128 {
        let mut hasher = twox_hash::XxHash3_128::new();
        for (key, value) in &self.0 {
            hasher.write(key.as_bytes());
            hasher.write(&[0]);
            hasher.write(value.as_bytes());
            hasher.write(&[0]);
        }
        hasher.finish_128()
    }
}

/// Events as parallel arrays with dictionaries. Event `i` is `times[i]`, `values[i]`, `metrics[metric_ids[i]]`, ….
///
/// Invariant, checked where columns enter the system: all arrays have the same length, every id is inside its
/// dictionary, every dictionary entry obeys [`crate::limits`], every value is finite. **Nothing else**: a dictionary may be
/// in any order, hold an entry twice, or entries that no event uses, as the sender's encoder had it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct EventColumns {
    /// Dictionary of event types.
    pub event_types: Vec<String>,
    /// Dictionary of metric names.
    pub metrics: Vec<String>,
    /// Dictionary of sources; an empty text means absent.
    pub sources: Vec<String>,
    /// Dictionary of versions; an empty text means absent.
    pub versions: Vec<String>,
    /// Dictionary of dimension sets.
    pub dimension_sets: Vec<Dimensions>,
    /// Event times, Unix nanoseconds.
    pub times: Vec<i64>,
    /// Values, finite.
    pub values: Vec<f64>,
    /// Index into `event_types`, per event.
    pub event_type_ids: Vec<u32>,
    /// Index into `metrics`, per event.
    pub metric_ids: Vec<u32>,
    /// Index into `sources`, per event.
    pub source_ids: Vec<u32>,
    /// Index into `versions`, per event.
    pub version_ids: Vec<u32>,
    /// Index into `dimension_sets`, per event.
    pub dimension_set_ids: Vec<u32>,
}

impl EventColumns {
    /// Number of events.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether there are no events.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }
}

/// How a batch takes part in event time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Mode {
    /// Measurements of now: move the watermark, may be late.
    Live,
    /// History: never moves a watermark, never late.
    Backfill,
}

/// Identity of the request that a record came from: the unit of dedup together with the event's index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestId {
    /// The producer.
    pub producer: Producer,
    /// Place in the producer's order.
    pub sequence: Sequence,
    /// 128-bit digest of the request's events as sent: another digest under a used sequence is `SEQUENCE_REUSED`.
    pub digest: u128,
}

/// A run of original indexes: events `first..first + count` of the request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct IndexRange {
    /// First index.
    pub first: u32,
    /// Number of indexes, at least 1.
    pub count: u32,
}

/// One record of the log: accepted events of one request (or a part of it) of one tenant.
#[derive(Clone, PartialEq, Debug)]
pub struct EventBatch {
    /// The tenant of every event.
    pub tenant: TenantId,
    /// Who sent it; `None` for senders without a producer id, which are not deduplicated.
    pub request: Option<RequestId>,
    /// Indexes in the request, in order; their counts add up to the number of events.
    pub indexes: Vec<IndexRange>,
    /// How the events take part in event time.
    pub mode: Mode,
    /// When the log took the batch, Unix nanoseconds.
    pub arrival_ns: i64,
    /// The events.
    pub columns: EventColumns,
}
