//! Cutting a file into chunks. Which event stands in which chunk is a function of the file and of [`CHUNKING`] alone:
//! a chunk sent again after a crash must hold the same bytes, otherwise the server cannot know it as the same.

use std::sync::Arc;

use tidegauge_core::TenantId;
use tidegauge_core::limits;
use tidegauge_proto::stream::v1 as pb;

use super::dictionary::{Sets, TextMap, Texts, name_rule, source_rule};
use super::event::{Place, RawEvent};

/// Version of the rules of this file; part of every producer id. Raise it with any change of what a chunk holds.
pub(crate) const CHUNKING: u32 = 1;
/// Events of a chunk.
const CHUNK_EVENTS: usize = limits::EVENTS_PER_REQUEST_MAX;
/// Bytes of a chunk's lines: far below a request's limit also where nothing repeats.
const CHUNK_LINE_BYTES: u64 = 4 << 20;
/// Lines after which every open chunk is cut: bounds memory with many tenants, and gives a resumed load places to start.
pub(crate) const SEGMENT_LINES: u64 = 1_000_000;

/// A batch of one tenant's events.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Chunk {
    /// The tenant.
    pub(crate) tenant: Arc<str>,
    /// Its place among the tenant's chunks, from 1: the request's sequence.
    pub(crate) sequence: u64,
    /// The events.
    pub(crate) columns: pb::EventColumns,
    /// Where each event stands in the file.
    pub(crate) places: Vec<Place>,
    /// Bytes of the events' lines.
    pub(crate) line_bytes: u64,
}

/// A tenant's chunk in the making.
#[derive(Debug)]
struct Open {
    tenant: Arc<str>,
    sequence: u64,
    columns: pb::EventColumns,
    places: Vec<Place>,
    line_bytes: u64,
    event_types: Texts,
    metrics: Texts,
    sources: Texts,
    versions: Texts,
    sets: Sets,
}

impl Open {
    fn new(tenant: &str, chunks_before: u64) -> Self {
        Self {
            tenant: tenant.into(),
            sequence: chunks_before + 1,
            columns: pb::EventColumns::default(),
            places: Vec::new(),
            line_bytes: 0,
            event_types: Texts::new(name_rule),
            metrics: Texts::new(name_rule),
            sources: Texts::new(source_rule),
            versions: Texts::new(source_rule),
            sets: Sets::default(),
        }
    }

    fn push(&mut self, event: &RawEvent<'_>, place: Place) -> Result<(), String> {
        let chunk = self.sequence;
        let columns = &mut self.columns;
        // A refused event may leave entries in the dictionaries that no event uses; they have passed their checks.
        let event_type = self
            .event_types
            .id(&event.event_type, chunk, &mut columns.event_types)
            .map_err(|e| format!("event_type {e}"))?;
        let metric =
            self.metrics.id(&event.metric, chunk, &mut columns.metrics).map_err(|e| format!("metric_name {e}"))?;
        let source = self.sources.id(&event.source, chunk, &mut columns.sources).map_err(|e| format!("source {e}"))?;
        let version =
            self.versions.id(&event.version, chunk, &mut columns.versions).map_err(|e| format!("version {e}"))?;
        let set = self.sets.id(&event.dimensions, chunk, &mut columns.dimension_sets)?;
        columns.event_type_ids.push(event_type);
        columns.metric_ids.push(metric);
        columns.source_ids.push(source);
        columns.version_ids.push(version);
        columns.dimension_set_ids.push(set);
        columns.times_unix_nano.push(event.time_ns);
        columns.values.push(event.value);
        self.places.push(place);
        self.line_bytes += u64::from(place.bytes) + 1;
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.places.len() >= CHUNK_EVENTS || self.line_bytes >= CHUNK_LINE_BYTES
    }

    fn cut(&mut self) -> Chunk {
        let events = self.places.len();
        let columns = std::mem::take(&mut self.columns);
        let chunk = Chunk {
            tenant: Arc::clone(&self.tenant),
            sequence: self.sequence,
            columns,
            places: std::mem::replace(&mut self.places, Vec::with_capacity(events)),
            line_bytes: std::mem::take(&mut self.line_bytes),
        };
        self.columns.times_unix_nano.reserve(events);
        self.columns.values.reserve(events);
        self.sequence += 1;
        for texts in [&mut self.event_types, &mut self.metrics, &mut self.sources, &mut self.versions] {
            texts.trim();
        }
        self.sets.trim();
        chunk
    }
}

/// Puts events into their tenants' chunks.
#[derive(Debug, Default)]
pub(crate) struct Chunker {
    by_tenant: TextMap<usize>,
    open: Vec<Open>,
    last: Option<usize>,
}

impl Chunker {
    /// A chunker that continues after so many chunks of each tenant.
    pub(crate) fn after<'a>(chunks: impl IntoIterator<Item = (&'a str, u64)>) -> Self {
        let mut chunker = Self::default();
        for (tenant, count) in chunks {
            chunker.add(tenant, count);
        }
        chunker
    }

    fn add(&mut self, tenant: &str, chunks_before: u64) -> usize {
        let at = self.open.len();
        self.open.push(Open::new(tenant, chunks_before));
        self.by_tenant.insert(tenant.into(), at);
        at
    }

    /// Takes an event; a chunk that became full is handed out.
    ///
    /// # Errors
    /// Why the event can never be taken.
    pub(crate) fn push(&mut self, event: &RawEvent<'_>, place: Place) -> Result<Option<Chunk>, String> {
        let at = match self.last {
            Some(at) if *self.open[at].tenant == *event.tenant => at,
            _ => match self.by_tenant.get(&*event.tenant) {
                Some(at) => *at,
                None => {
                    TenantId::parse(&event.tenant).map_err(|e| format!("tenant_id {:?} {e}", event.tenant))?;
                    self.add(&event.tenant, 0)
                }
            },
        };
        self.last = Some(at);
        let open = &mut self.open[at];
        open.push(event, place)?;
        Ok(open.is_full().then(|| open.cut()))
    }

    /// Cuts what is open, at the end of a segment or of the file.
    pub(crate) fn cut_all(&mut self) -> Vec<Chunk> {
        self.open.iter_mut().filter(|open| !open.places.is_empty()).map(Open::cut).collect()
    }

    /// Chunks handed out so far, by tenant.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (&str, u64)> {
        self.open.iter().map(|open| (&*open.tenant, open.sequence - 1))
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::load::event::RawDimensions;

    fn event<'a>(tenant: &'a str, metric: &'a str, dimensions: &'a str, time_ns: i64) -> RawEvent<'a> {
        RawEvent {
            tenant: Cow::Borrowed(tenant),
            event_type: Cow::Borrowed("t"),
            source: Cow::Borrowed(""),
            version: Cow::Borrowed("1"),
            metric: Cow::Borrowed(metric),
            value: time_ns as f64,
            time_ns,
            dimensions: RawDimensions::Json(dimensions),
        }
    }

    fn place(line: u64) -> Place {
        Place { line, offset: line * 100, bytes: 99 }
    }

    /// Chunks are per tenant, full at 10,000 events, and hold what was pushed.
    #[test]
    fn chunks_are_cut_per_tenant() {
        let mut chunker = Chunker::default();
        let mut chunks = Vec::new();
        for i in 0..25_000_i64 {
            let tenant = if i % 5 == 0 { "b" } else { "a" };
            let metric = if i % 2 == 0 { "m0" } else { "m1" };
            let set = if i % 3 == 0 { r#"{"x": "1", "a": "2"}"# } else { r#"{"a":"2","x":"1"}"# };
            chunks.extend(chunker.push(&event(tenant, metric, set, i), place(i as u64)).unwrap());
        }
        chunks.extend(chunker.cut_all());
        let shape: Vec<_> = chunks.iter().map(|c| (&*c.tenant, c.sequence, c.places.len())).collect();
        assert_eq!(shape, [("a", 1, 10_000), ("a", 2, 10_000), ("b", 1, 5_000)]);
        let columns = &chunks[1].columns;
        assert_eq!(columns.dimension_sets.len(), 1, "one set, however it was written");
        assert_eq!(columns.dimension_sets[0].dimensions[0].key, "a");
        assert_eq!(columns.metrics.len(), 2);
        assert_eq!(columns.times_unix_nano[0], chunks[1].places[0].line as i64);
        assert!(chunker.cut_all().is_empty());
    }

    /// A load that starts again at a segment cuts the same chunks as one that runs through: the server must know them.
    #[test]
    fn a_resumed_load_cuts_the_same_chunks() {
        let texts: Vec<String> = (0..90_u32).map(|i| format!("metric-{}", i * 7 % 90)).collect();
        let sets: Vec<String> = (0..70_000).map(|i| format!("{{\"id\": \"{i}\"}}")).collect();
        let push = |chunker: &mut Chunker, i: usize| {
            let event = event(["a", "b", "c"][i % 3], &texts[i % 90], &sets[i * 13 % 70_000], i as i64);
            chunker.push(&event, place(i as u64)).unwrap()
        };
        let (first, all) = (100_000, 200_000);
        let mut through = Chunker::default();
        let mut before = Vec::new();
        for i in 0..first {
            before.extend(push(&mut through, i));
        }
        before.extend(through.cut_all());
        let counts: Vec<(String, u64)> = through.counts().map(|(t, n)| (t.to_owned(), n)).collect();
        let mut resumed = Chunker::after(counts.iter().map(|(t, n)| (t.as_str(), *n)));
        for i in first..all {
            assert_eq!(push(&mut through, i), push(&mut resumed, i));
        }
        assert_eq!(through.cut_all(), resumed.cut_all());
    }

    /// What can never be taken is refused by name and leaves the chunk whole.
    #[test]
    fn impossible_events_are_refused() {
        let mut chunker = Chunker::default();
        let refused = [
            (event("T!", "m", "{}", 1), "tenant_id \"T!\""),
            (event("a", "", "{}", 1), "metric_name must not be empty"),
            (event("a", "m", r#"{"k": "1", "k": "2"}"#, 1), "\"k\" stands twice"),
            (event("a", "m", r#"{"": "1"}"#, 1), "empty key"),
        ];
        for (event, reason) in &refused {
            let error = chunker.push(event, place(1)).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        assert_eq!(chunker.push(&event("a", "m", "{}", 1), place(1)), Ok(None));
        let [chunk] = &chunker.cut_all()[..] else { panic!("one chunk") };
        assert_eq!(chunk.places.len(), chunk.columns.metric_ids.len());
    }
}
