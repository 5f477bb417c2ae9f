//! Building columns from single events without an allocation per event.

use tidegauge_proto::stream::v1::EventColumns;

/// One event as its parts. `dimensions` in any order, keys unique.
#[derive(Clone, Copy, Debug)]
pub struct EventRef<'a> {
    /// Event type.
    pub event_type: &'a str,
    /// Metric.
    pub metric: &'a str,
    /// Event time, Unix nanoseconds.
    pub time_ns: i64,
    /// Value; finite.
    pub value: f64,
    /// Dimensions.
    pub dimensions: &'a [(&'a str, &'a str)],
    /// Name of the emitter; empty for absent.
    pub source: &'a str,
    /// Version of the emitter; empty for absent.
    pub version: &'a str,
}

/// Collects events as columns; its dictionaries' memory is kept between batches.
#[derive(Debug, Default)]
pub struct ColumnsBuilder {
    columns: EventColumns,
}

impl ColumnsBuilder {
    /// An empty builder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an event.
    pub fn push(&mut self, _event: EventRef<'_>) {}

    /// Events added since the last [`ColumnsBuilder::take`].
    pub fn len(&self) -> usize {
        self.columns.times_unix_nano.len()
    }

    /// Whether no event was added.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that the columns take when encoded, about.
    pub fn encoded_bytes(&self) -> usize {
        0
    }

    /// The columns; the builder is empty afterwards.
    pub fn take(&mut self) -> EventColumns {
        std::mem::take(&mut self.columns)
    }
}
