//! Building columns from single events without an allocation per event.

mod table;

use tidegauge_proto::raw::encode::ColumnParts;
use tidegauge_proto::stream::v1::{Dimension, DimensionSet, EventColumns};

use self::table::{SetTable, TextTable};

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

/// Collects events as columns. It checks nothing: the server judges each event. Its memory is kept between batches.
#[derive(Debug, Default)]
pub struct ColumnsBuilder {
    /// Event types, metrics, sources, versions.
    texts: [TextTable; 4],
    sets: SetTable,
    times: Vec<i64>,
    values: Vec<f64>,
    ids: [Vec<u32>; 5],
}

impl ColumnsBuilder {
    /// An empty builder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an event.
    pub fn push(&mut self, event: EventRef<'_>) {
        let texts = [event.event_type, event.metric, event.source, event.version];
        for ((table, ids), text) in self.texts.iter_mut().zip(&mut self.ids).zip(texts) {
            ids.push(table.number(text));
        }
        self.ids[4].push(self.sets.number(event.dimensions));
        self.times.push(event.time_ns);
        self.values.push(event.value);
    }

    /// Events added since the last [`ColumnsBuilder::take`].
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether no event was added.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// Bytes that the columns take when encoded, about.
    pub fn encoded_bytes(&self) -> usize {
        const BYTES_PER_EVENT: usize = 16 + 5;
        let texts: usize = self.texts.iter().map(TextTable::encoded_bytes).sum();
        self.len() * BYTES_PER_EVENT + texts + self.sets.encoded_bytes()
    }

    /// The columns; the builder is empty afterwards.
    pub fn take(&mut self) -> EventColumns {
        let [event_types, metrics, sources, versions] =
            self.texts.each_ref().map(|table| table.texts().map(str::to_owned).collect());
        let set = |pairs: &[(&str, &str)]| DimensionSet {
            dimensions: pairs.iter().map(|(k, v)| Dimension { key: (*k).to_owned(), value: (*v).to_owned() }).collect(),
        };
        let [event_type_ids, metric_ids, source_ids, version_ids, dimension_set_ids] =
            self.ids.each_mut().map(std::mem::take);
        let columns = EventColumns {
            event_types,
            metrics,
            sources,
            versions,
            dimension_sets: self.sets.with_sets(|sets| sets.iter().map(|pairs| set(pairs)).collect()),
            times_unix_nano: std::mem::take(&mut self.times),
            values: std::mem::take(&mut self.values),
            event_type_ids,
            metric_ids,
            source_ids,
            version_ids,
            dimension_set_ids,
        };
        self.clear();
        columns
    }

    /// Calls `with` with the parts for encoding.
    pub(crate) fn with_parts<R>(&self, with: impl FnOnce(&ColumnParts<'_, &str, &[(&str, &str)]>) -> R) -> R {
        let texts = self.texts.each_ref().map(|table| table.texts().collect::<Vec<_>>());
        self.sets.with_sets(|sets| {
            with(&ColumnParts {
                texts: texts.each_ref().map(Vec::as_slice),
                sets,
                times: &self.times,
                values: &self.values,
                ids: self.ids.each_ref().map(Vec::as_slice),
            })
        })
    }

    /// Forgets the events; keeps the memory.
    pub fn clear(&mut self) {
        self.texts.iter_mut().for_each(TextTable::clear);
        self.sets.clear();
        self.times.clear();
        self.values.clear();
        self.ids.iter_mut().for_each(Vec::clear);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event<'a>(metric: &'a str, dimensions: &'a [(&'a str, &'a str)]) -> EventRef<'a> {
        EventRef { event_type: "sample", metric, time_ns: 7, value: 1.5, dimensions, source: "", version: "1" }
    }

    /// Different texts and sets get numbers in the order of their first use, the same ones the same number, sets in
    /// canonical order; also after the builder was emptied, and with more entries than the first table holds.
    #[test]
    fn events_become_columns() {
        let mut builder = ColumnsBuilder::new();
        for round in 0..2 {
            builder.push(event("cpu", &[("host", "a"), ("az", "1")]));
            builder.push(event("mem", &[("az", "1"), ("host", "a")]));
            builder.push(event("cpu", &[]));
            // The same bytes, divided otherwise.
            builder.push(event("cp", &[("a", "z1")]));
            builder.push(event("u", &[("az", "1")]));
            let columns = builder.take();
            assert_eq!(columns.metrics, ["cpu", "mem", "cp", "u"], "round {round}");
            assert_eq!(columns.metric_ids, [0, 1, 0, 2, 3]);
            assert_eq!(columns.dimension_set_ids, [0, 0, 1, 2, 3]);
            let first = &columns.dimension_sets[0].dimensions;
            assert_eq!(
                first.iter().map(|d| (d.key.as_str(), d.value.as_str())).collect::<Vec<_>>(),
                [("az", "1"), ("host", "a")]
            );
            assert_eq!((columns.sources, columns.versions), (vec![String::new()], vec!["1".to_owned()]));
            assert_eq!((columns.times_unix_nano, columns.values), (vec![7; 5], vec![1.5; 5]));
            assert!(builder.is_empty());
        }
        let names: Vec<String> = (0..3_000).map(|n| format!("metric.{n}")).collect();
        for name in names.iter().chain(&names) {
            builder.push(event(name, &[("name", name)]));
        }
        let expected: Vec<u32> = (0..3_000).chain(0..3_000).collect();
        let columns = builder.take();
        assert_eq!(columns.metrics, names);
        assert_eq!((&columns.metric_ids, &columns.dimension_set_ids), (&expected, &expected));
    }

    /// The builder's own encoding is that of the columns it gives out.
    #[test]
    fn parts_and_columns_are_the_same() {
        let mut builder = ColumnsBuilder::new();
        for n in 0..300 {
            let (metric, host) = (format!("m{}", n % 7), format!("h{}", n % 150));
            builder.push(event(&metric, &[("host", &host)]));
        }
        let encoded = builder.with_parts(|parts| {
            let mut out = Vec::new();
            parts.encode(&mut out);
            out
        });
        let about = builder.encoded_bytes();
        let mut expected = Vec::new();
        ColumnParts::from(&builder.take()).encode(&mut expected);
        assert_eq!(encoded, expected);
        assert!(about >= encoded.len() / 2 && about <= encoded.len() * 2, "{about} for {}", encoded.len());
    }
}
