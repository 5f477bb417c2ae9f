//! Cutting a file into chunks. Which event stands in which chunk is a function of the file and of [`CHUNKING`] alone:
//! a chunk sent again after a crash must hold the same bytes, otherwise the server cannot know it as the same.

use std::sync::Arc;

use tidegauge_core::TenantId;
use tidegauge_core::ids::NameError;
use tidegauge_core::limits;
use tidegauge_proto::stream::v1 as pb;

use super::dictionary::{Local, Sets, TextMap, Texts, name_rule, source_rule};
use super::event::{Place, RawEvent};
use super::refusal::{Refusal, shown};

/// Version of the rules of this file; part of every producer id. Raise it with any change of what a chunk holds.
pub(crate) const CHUNKING: u32 = 3;
/// Events of a chunk.
const CHUNK_EVENTS: usize = limits::EVENTS_PER_REQUEST_MAX;
/// Bytes of a chunk's lines: far below a request's limit also where nothing repeats.
const CHUNK_LINE_BYTES: u64 = 4 << 20;
/// Lines after which every open chunk is cut: bounds memory with many tenants, and gives a resumed load places to start.
const SEGMENT_LINES: u64 = 1_000_000;
/// Different texts and dimension sets after which the same happens: bounds memory for files without repetition.
const SEGMENT_ENTRIES: usize = 100_000;

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

/// The dictionaries of a segment.
#[derive(Debug)]
struct Dictionaries {
    event_types: Texts,
    metrics: Texts,
    sources: Texts,
    versions: Texts,
    sets: Sets,
}

/// An event's ids in the dictionaries: event type, metric, source, version.
type TextIds = [u32; 4];

impl Dictionaries {
    fn new() -> Self {
        Self {
            event_types: Texts::new(name_rule),
            metrics: Texts::new(name_rule),
            sources: Texts::new(source_rule),
            versions: Texts::new(source_rule),
            sets: Sets::default(),
        }
    }

    fn ids(&mut self, event: &RawEvent<'_>) -> Result<(TextIds, u32), Refusal> {
        let event_type = self.event_types.id(&event.event_type).map_err(refused("event_type", &event.event_type))?;
        let metric = self.metrics.id(&event.metric).map_err(refused("metric_name", &event.metric))?;
        let source = self.sources.id(&event.source).map_err(refused("source", &event.source))?;
        let version = self.versions.id(&event.version).map_err(refused("version", &event.version))?;
        let set = self.sets.id(&event.dimensions)?;
        Ok(([event_type, metric, source, version], set))
    }

    fn len(&self) -> usize {
        let texts = [&self.event_types, &self.metrics, &self.sources, &self.versions];
        texts.into_iter().map(Texts::len).sum::<usize>() + self.sets.len()
    }

    fn clear(&mut self) {
        for texts in [&mut self.event_types, &mut self.metrics, &mut self.sources, &mut self.versions] {
            texts.clear();
        }
        self.sets.clear();
    }
}

/// Refuses a text that breaks a rule.
fn refused<'a>(field: &'a str, text: &'a str) -> impl FnOnce(NameError) -> Refusal + 'a {
    move |rule| Refusal::new(field, "NAME_INVALID", format!("{} {rule}", shown(text)))
}

/// Why a text is no tenant's id.
///
/// # Errors
/// The refusal.
pub(crate) fn check_tenant(text: &str) -> Result<(), Refusal> {
    let problem = |rule| format!("{} {rule}; a tenant id is a to z, 0 to 9, _ and -, at most 63 of them", shown(text));
    let checked = TenantId::parse(text).map(drop);
    checked.map_err(|rule| Refusal::new("tenant_id", "TENANT_ID_INVALID", problem(rule)))
}

/// A tenant's chunk in the making.
#[derive(Debug)]
struct Open {
    tenant: Arc<str>,
    sequence: u64,
    columns: pb::EventColumns,
    places: Vec<Place>,
    line_bytes: u64,
    /// As in [`TextIds`].
    texts: [Local; 4],
    sets: Local,
}

impl Open {
    fn new(tenant: &str, chunks_before: u64) -> Self {
        Self {
            tenant: tenant.into(),
            sequence: chunks_before + 1,
            columns: pb::EventColumns::default(),
            places: Vec::new(),
            line_bytes: 0,
            texts: Default::default(),
            sets: Local::default(),
        }
    }

    fn push(&mut self, event: &RawEvent<'_>, (texts, set): (TextIds, u32), dictionaries: &Dictionaries, place: Place) {
        // Only compared with neighbours: the lower half is enough.
        let chunk = self.sequence as u32;
        let columns = &mut self.columns;
        let [event_types, metrics, sources, versions] = &mut self.texts;
        for (local, id, used, ids, text) in [
            (event_types, texts[0], &mut columns.event_types, &mut columns.event_type_ids, &event.event_type),
            (metrics, texts[1], &mut columns.metrics, &mut columns.metric_ids, &event.metric),
            (sources, texts[2], &mut columns.sources, &mut columns.source_ids, &event.source),
            (versions, texts[3], &mut columns.versions, &mut columns.version_ids, &event.version),
        ] {
            ids.push(local.of(id, chunk, used.len()).unwrap_or_else(|new| {
                used.push(text.to_string());
                new
            }));
        }
        let used = &mut columns.dimension_sets;
        columns.dimension_set_ids.push(self.sets.of(set, chunk, used.len()).unwrap_or_else(|new| {
            used.push(dictionaries.sets.set(set).clone());
            new
        }));
        columns.times_unix_nano.push(event.time_ns);
        columns.values.push(event.value);
        self.places.push(place);
        self.line_bytes += u64::from(place.bytes) + 1;
    }

    fn is_full(&self) -> bool {
        self.places.len() >= CHUNK_EVENTS || self.line_bytes >= CHUNK_LINE_BYTES
    }

    /// Hands out the chunk. Boxed: what is asked after every event must not be as large as a chunk.
    #[inline(never)]
    fn cut(&mut self) -> Box<Chunk> {
        let chunk = Box::new(Chunk {
            tenant: Arc::clone(&self.tenant),
            sequence: self.sequence,
            columns: std::mem::take(&mut self.columns),
            places: std::mem::take(&mut self.places),
            line_bytes: std::mem::take(&mut self.line_bytes),
        });
        // The next chunk is likely as large.
        let events = chunk.places.len();
        self.places.reserve(events);
        let columns = &mut self.columns;
        columns.times_unix_nano.reserve(events);
        columns.values.reserve(events);
        for ids in [
            &mut columns.event_type_ids,
            &mut columns.metric_ids,
            &mut columns.source_ids,
            &mut columns.version_ids,
            &mut columns.dimension_set_ids,
        ] {
            ids.reserve(events);
        }
        self.sequence += 1;
        chunk
    }
}

/// Puts events into their tenants' chunks.
#[derive(Debug)]
pub(crate) struct Chunker {
    by_tenant: TextMap<usize>,
    open: Vec<Open>,
    last: Option<usize>,
    dictionaries: Dictionaries,
    /// Line after which the segment ends.
    segment_end: u64,
}

impl Chunker {
    /// A chunker for what stands after a line, the last one of a segment (0 for the beginning), and so many chunks of
    /// each tenant.
    pub(crate) fn after<'a>(line: u64, chunks: impl IntoIterator<Item = (&'a str, u64)>) -> Self {
        let mut chunker = Self {
            by_tenant: TextMap::default(),
            open: Vec::new(),
            last: None,
            dictionaries: Dictionaries::new(),
            segment_end: line + SEGMENT_LINES,
        };
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

    /// Whether an event can be taken.
    ///
    /// # Errors
    /// Why it can never be.
    pub(crate) fn check(&mut self, event: &RawEvent<'_>) -> Result<(), Refusal> {
        check_tenant(&event.tenant)?;
        self.dictionaries.ids(event).map(drop)
    }

    /// Takes an event; a chunk that became full is handed out.
    ///
    /// # Errors
    /// Why the event can never be taken.
    pub(crate) fn push(&mut self, event: &RawEvent<'_>, place: Place) -> Result<Option<Box<Chunk>>, Refusal> {
        let at = match self.last {
            Some(at) if *self.open[at].tenant == *event.tenant => at,
            _ => match self.by_tenant.get(&*event.tenant) {
                Some(at) => *at,
                None => {
                    check_tenant(&event.tenant)?;
                    self.add(&event.tenant, 0)
                }
            },
        };
        self.last = Some(at);
        let ids = self.dictionaries.ids(event)?;
        let open = &mut self.open[at];
        open.push(event, ids, &self.dictionaries, place);
        Ok(open.is_full().then(|| open.cut()))
    }

    /// Whether a segment ends after this line: then [`Chunker::end_segment`] comes next.
    pub(crate) fn segment_ends(&self, line: u64) -> bool {
        line >= self.segment_end || self.dictionaries.len() >= SEGMENT_ENTRIES
    }

    /// Cuts what is open and starts anew, as a chunker would that starts after this line.
    #[expect(clippy::vec_box, reason = "whoever takes them wants each in its box")]
    pub(crate) fn end_segment(&mut self, line: u64) -> Vec<Box<Chunk>> {
        self.segment_end = line + SEGMENT_LINES;
        let chunks = self.open.iter_mut().filter(|open| !open.places.is_empty()).map(Open::cut).collect();
        self.dictionaries.clear();
        for open in &mut self.open {
            open.texts.iter_mut().for_each(Local::clear);
            open.sets.clear();
        }
        chunks
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
        let mut chunker = Chunker::after(0, []);
        let mut chunks = Vec::new();
        for i in 0..25_000_i64 {
            let tenant = if i % 5 == 0 { "b" } else { "a" };
            let metric = if i % 2 == 0 { "m0" } else { "m1" };
            let set = if i % 3 == 0 { r#"{"x": "1", "a": "2"}"# } else { r#"{"a":"2","x":"1"}"# };
            chunks.extend(chunker.push(&event(tenant, metric, set, i), place(i as u64)).unwrap());
        }
        chunks.extend(chunker.end_segment(25_000));
        let shape: Vec<_> = chunks.iter().map(|c| (&*c.tenant, c.sequence, c.places.len())).collect();
        assert_eq!(shape, [("a", 1, 10_000), ("a", 2, 10_000), ("b", 1, 5_000)]);
        let columns = &chunks[1].columns;
        assert_eq!(columns.dimension_sets.len(), 1, "one set, however it was written");
        assert_eq!(columns.dimension_sets[0].dimensions[0].key, "a");
        assert_eq!(columns.metrics.len(), 2);
        assert_eq!(columns.times_unix_nano[0], chunks[1].places[0].line as i64);
        assert!(chunker.end_segment(25_000).is_empty());
    }

    /// A load that starts again at a segment cuts the same chunks as one that runs through: the server must know them.
    #[test]
    fn a_resumed_load_cuts_the_same_chunks() {
        let texts: Vec<String> = (0..90_u32).map(|i| format!("metric-{}", i * 7 % 90)).collect();
        let sets: Vec<String> = (0..70_000).map(|i| format!("{{\"id\": \"{i}\"}}")).collect();
        let run = |chunker: &mut Chunker, lines: std::ops::Range<usize>| {
            let (mut chunks, mut segments) = (Vec::new(), Vec::new());
            for i in lines.clone() {
                let event = event(["a", "b", "c"][i % 3], &texts[i % 90], &sets[i * 13 % 70_000], i as i64);
                chunks.extend(chunker.push(&event, place(i as u64)).unwrap());
                let line = i as u64 + 1;
                if chunker.segment_ends(line) || i + 1 == lines.end {
                    chunks.extend(chunker.end_segment(line));
                    let counts: Vec<(String, u64)> = chunker.counts().map(|(t, n)| (t.to_owned(), n)).collect();
                    segments.push((line, chunks.len(), counts));
                }
            }
            (chunks, segments)
        };
        let all = 150_000;
        let (through, segments) = run(&mut Chunker::after(0, []), 0..all);
        assert!(segments.len() >= 3, "{}", segments.len());
        for (line, before, counts) in segments {
            let counts = counts.iter().map(|(tenant, count)| (tenant.as_str(), *count));
            let (resumed, _) = run(&mut Chunker::after(line, counts), line as usize..all);
            assert!(through[before..] == resumed, "after line {line}");
        }
    }

    /// What can never be taken is refused by name and leaves the chunk whole.
    #[test]
    fn impossible_events_are_refused() {
        let mut chunker = Chunker::after(0, []);
        let (long, value) = ("x".repeat(300), format!("{{\"k\": \"{}\"}}", "x".repeat(300)));
        let refused = [
            (event("t!", "m", "{}", 1), "tenant_id: \"t!\" has the character '!' at byte 1"),
            (event("", "m", "{}", 1), "tenant_id: \"\" must not be empty"),
            (event("a", "", "{}", 1), "metric_name: \"\" must not be empty"),
            (event("a", &long, "{}", 1), "xxx…\" is 300 bytes long, at most 255 are allowed"),
            (event("a", "m", r#"{"k": "1", "k": "2"}"#, 1), "dimensions[k]: stands twice"),
            (event("a", "m", r#"{"": "1"}"#, 1), "dimensions[]: has an empty key"),
            (event("a", "m", &value, 1), "xxx…\" is 300 bytes long, at most 256 are allowed"),
        ];
        for (event, reason) in &refused {
            let error = chunker.push(event, place(1)).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        assert_eq!(chunker.push(&event("a", "m", "{}", 1), place(1)), Ok(None));
        let [chunk] = &chunker.end_segment(4)[..] else { panic!("one chunk") };
        assert_eq!(chunk.places.len(), chunk.columns.metric_ids.len());
    }
}
