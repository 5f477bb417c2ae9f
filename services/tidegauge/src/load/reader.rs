//! A file as chunks: reads lines, parses them, cuts. One function of the file, whatever became of an earlier run.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::mpsc;

use serde::{Deserialize, Serialize};

use super::block::{self, Content};
use super::chunk::{Chunk, Chunker};
use super::csv::{self, CsvOptions, CsvPlan, Row};
use super::event::{Place, RawEvent};
use super::json;
use super::lines::Lines;
use super::names::Names;
use super::refusal::{Refusal, shown};
use super::scan::TimeCache;
use super::source::{BACK_IN_ORDER, Source};
use crate::failure::{Doing as _, Failure, Outcome};

/// Scanned blocks between the two threads.
const BLOCKS_WAITING: usize = 4;

/// How a file is to be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Format {
    /// One JSON event a line. With a tenant, other tenants' events are refused.
    Ndjson {
        /// The only tenant wanted.
        tenant: Option<String>,
    },
    /// A table.
    Csv(Box<CsvOptions>),
}

/// A place between two segments, at which a load can start.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Resume {
    /// Offset of the next line.
    pub(crate) offset: u64,
    /// Lines before it.
    pub(crate) line: u64,
    /// Chunks before it, by tenant.
    pub(crate) chunks: BTreeMap<String, u64>,
    /// Cells of a table before it that hold no measurement.
    #[serde(default)]
    pub(crate) empty_cells: u64,
}

/// What reading gives, in order of the file.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Step {
    /// A full chunk, or what is left of one at the end of a segment.
    Chunk(Box<Chunk>),
    /// A line that holds no event.
    Bad {
        /// Where.
        place: Place,
        /// Why.
        reason: String,
    },
    /// All chunks of the segment have been given.
    Segment(Resume),
}

/// Takes the steps; `false` ends the reading.
pub(crate) trait Sink: FnMut(Step) -> bool {}
impl<F: FnMut(Step) -> bool> Sink for F {}

/// Reads the first `bytes` of a file's content from a resume point on: what is added to it meanwhile is not of this load.
/// `described` gets what a CSV header was understood as.
///
/// # Errors
/// I/O errors, and a CSV header without the columns asked for.
pub(crate) fn read(
    path: &Path,
    format: &Format,
    from: &Resume,
    bytes: u64,
    described: impl FnOnce(String),
    sink: impl Sink,
) -> Outcome {
    let mut file = Source::open(path, BACK_IN_ORDER).doing(path.display())?;
    match format {
        Format::Ndjson { tenant } => {
            file.seek(SeekFrom::Start(from.offset)).doing(path.display())?;
            let lines = Lines::new(file, from.offset, from.line, bytes);
            Reader::new(from, tenant.clone(), Names::of_format(format), sink).ndjson(lines).doing(path.display())
        }
        Format::Csv(options) => {
            let (header, plan) = planned(path, &mut file, options)?;
            described(plan.describe());
            let (start, offset) = match from.offset {
                0 => (Resume { line: header.lines, ..from.clone() }, header.offset),
                offset => (from.clone(), offset),
            };
            file.seek(SeekFrom::Start(offset)).doing(path.display())?;
            let lines = Lines::new(file, offset, start.line, bytes);
            let only = options.only().map(str::to_owned);
            Reader::new(&start, only, Names::of_format(format), sink).csv(lines, &plan).doing(path.display())
        }
    }
}

/// Where the header of a table stands, which must have the columns asked for; afterwards the format says what the file says.
///
/// # Errors
/// I/O errors, a header that cannot be read, and the column that is not there.
pub(crate) fn settle(path: &Path, format: &mut Format) -> Outcome<Option<Place>> {
    let Format::Csv(options) = format else { return Ok(None) };
    let mut file = Source::open(path, BACK_IN_ORDER).doing(path.display())?;
    let (header, _) = planned(path, &mut file, options)?;
    options.settle(header.delimiter);
    Ok(Some(header.place))
}

fn planned<'o>(path: &Path, file: &mut Source, options: &'o CsvOptions) -> Outcome<(Header, CsvPlan<'o>)> {
    let header = header(file, options).map_err(|e| e.context(path.display()))?;
    let plan = CsvPlan::new(options, &header.names, header.delimiter);
    let plan = plan.map_err(|e| Failure::usage(format!("{}: {e}", path.display())))?;
    Ok((header, plan))
}

/// The first record of a CSV file, with the line before it that names the delimiter, if there is one.
struct Header {
    place: Place,
    names: Vec<Cow<'static, str>>,
    delimiter: u8,
    /// Offset of what follows it.
    offset: u64,
    /// Lines it takes.
    lines: u64,
}

fn header(file: &mut Source, options: &CsvOptions) -> Outcome<Header> {
    let mut lines = Lines::new(file, 0, 0, u64::MAX);
    let first = header_record(&mut lines)?;
    let told = csv::told_delimiter(&first.1);
    let delimiter = options.delimiter(told).map_err(Failure::usage)?;
    let (place, text) = match told {
        None => first,
        Some(_) => {
            let (place, text) = header_record(&mut lines)?;
            let bytes = place.offset + u64::from(place.bytes) - first.0.offset;
            (Place { bytes: u32::try_from(bytes).unwrap_or(u32::MAX), ..first.0 }, text)
        }
    };
    let mut fields = Vec::new();
    csv::split(&text, delimiter, &mut fields).map_err(Failure::new)?;
    let names = fields.into_iter().map(|name| Cow::Owned(name.trim().to_owned())).collect();
    Ok(Header { place, names, delimiter, offset: lines.offset(), lines: lines.line() })
}

fn header_record(lines: &mut Lines<impl Read + Seek>) -> Outcome<(Place, String)> {
    let mut record = Vec::new();
    let read = csv::next_record(lines, &mut record).doing("header")?;
    let Some(csv::Record { place, refusal, .. }) = read else {
        return Err(Failure::new("the file is empty, a header was expected"));
    };
    if let Some(refusal) = refusal {
        return Err(Failure::new(format!("the header cannot be read: {refusal}")));
    }
    let text = String::from_utf8(record).map_err(|error| {
        Failure::new(format!("the header is not UTF-8 at byte {}", error.utf8_error().valid_up_to()))
    })?;
    Ok((place, text))
}

struct Reader<F> {
    chunker: Chunker,
    /// Other tenants' events take part in the cutting, so that a tenant's chunks are always the same, and go no further.
    only: Option<String>,
    names: Names,
    empty_cells: u64,
    sink: F,
}

impl<F: Sink> Reader<F> {
    fn new(from: &Resume, only: Option<String>, names: Names, sink: F) -> Self {
        let chunks = from.chunks.iter().map(|(tenant, count)| (tenant.as_str(), *count));
        Self { chunker: Chunker::after(from.line, chunks), only, names, empty_cells: from.empty_cells, sink }
    }

    /// Scans on a thread of its own and cuts on this one: about half of the work each.
    fn ndjson(mut self, lines: Lines<Source>) -> std::io::Result<()> {
        let (mut line, mut offset) = (lines.line(), lines.offset());
        std::thread::scope(|scope| {
            let (scanned, blocks) = mpsc::sync_channel(BLOCKS_WAITING);
            let (used, unused) = mpsc::sync_channel(BLOCKS_WAITING);
            let scanning = scope.spawn(move || block::scan(lines, &scanned, &unused));
            let mut times = TimeCache::default();
            for block in blocks {
                for found in &block.lines {
                    (line, offset) = (found.place.line, found.next);
                    let pushed = match &found.content {
                        Content::Blank => Ok(None),
                        Content::Event(scanned) => self.push(&scanned.event(&block.text), found.place),
                        Content::Json(span) => match json::parse(span.text(&block.text), &mut times) {
                            Ok(event) => self.push(&event, found.place),
                            Err(refusal) => Err(refusal.to_string()),
                        },
                        Content::Bad(reason) => Err(reason.clone()),
                    };
                    if !give(&mut self.sink, found.place, pushed) || !self.end_segment(line, offset, false) {
                        return Ok(());
                    }
                }
                // A block that finds no room among the unused ones is not needed.
                let _ = used.try_send(block);
            }
            scanning.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            self.end_segment(line, offset, true);
            Ok(())
        })
    }

    #[inline(always)]
    fn push(&mut self, event: &RawEvent<'_>, place: Place) -> Result<Option<Box<Chunk>>, String> {
        let cut = match self.chunker.push(event, place) {
            Ok(cut) => cut,
            Err(refusal) => return Err(self.refused(refusal)),
        };
        match &self.only {
            Some(only) if **only != *event.tenant => Err(self.unwanted(&event.tenant, only)),
            _ => Ok(cut),
        }
    }

    #[cold]
    fn refused(&self, refusal: Refusal) -> String {
        self.names.translate(refusal).to_string()
    }

    #[cold]
    fn unwanted(&self, tenant: &str, only: &str) -> String {
        let problem = format!("{} is another tenant than {only}, which --tenant chooses", shown(tenant));
        self.refused(Refusal::new("tenant_id", "TENANT_MISMATCH", problem))
    }

    fn csv(mut self, mut lines: Lines<Source>, plan: &CsvPlan<'_>) -> std::io::Result<()> {
        let (mut text, mut row, mut unused) = (Vec::new(), Row::default(), Vec::new());
        while let Some(mut record) = csv::next_record(&mut lines, &mut text)? {
            if record.refusal.is_none() && text.is_empty() {
                continue;
            }
            let mut fields = emptied(unused);
            let split = match record.refusal.take() {
                Some(refusal) => Err(refusal),
                None => match std::str::from_utf8(&text) {
                    Err(error) => Err(Refusal::not_utf8(&text, &error).to_string()),
                    Ok(text) => {
                        let split = csv::split(text, plan.delimiter(), &mut fields);
                        if split.is_err() && record.spans_lines() {
                            // Stray quotes have tied these lines together.
                            record.go_back(&mut lines)?;
                        }
                        split
                    }
                },
            };
            let place = record.place;
            let goes_on = match split.and_then(|()| self.read_row(plan, &fields, &mut row)) {
                Err(reason) => (self.sink)(Step::Bad { place, reason }),
                Ok(()) => {
                    let mut is_taken = true;
                    let goes_on = (0..row.events()).all(|at| {
                        let pushed = self.push(&plan.event(&fields, &row, at), place);
                        is_taken &= pushed.is_ok();
                        give(&mut self.sink, place, pushed)
                    });
                    self.empty_cells += if is_taken { row.empty_cells } else { 0 };
                    goes_on
                }
            };
            if !goes_on || !self.end_segment(lines.line(), lines.offset(), false) {
                return Ok(());
            }
            unused = emptied(fields);
        }
        self.end_segment(lines.line(), lines.offset(), true);
        Ok(())
    }

    /// Reads a record: all of its events can be taken, or none is, because whoever mends the row loads it as a whole.
    fn read_row(&mut self, plan: &CsvPlan<'_>, fields: &[Cow<'_, str>], row: &mut Row) -> Result<(), String> {
        plan.fits(fields)?;
        plan.read(fields, row)?;
        if row.events() > 1 {
            for at in 0..row.events() {
                self.chunker.check(&plan.event(fields, row, at)).map_err(|refusal| self.refused(refusal))?;
            }
        }
        Ok(())
    }

    /// Cuts every open chunk where a segment ends: behind this line, before this offset.
    fn end_segment(&mut self, line: u64, offset: u64, at_end: bool) -> bool {
        if !at_end && !self.chunker.segment_ends(line) {
            return true;
        }
        let is_wanted = |tenant: &str| self.only.as_deref().is_none_or(|only| only == tenant);
        for chunk in self.chunker.end_segment(line) {
            if is_wanted(&chunk.tenant) && !(self.sink)(Step::Chunk(chunk)) {
                return false;
            }
        }
        let counts = self.chunker.counts().filter(|(tenant, _)| is_wanted(tenant));
        let chunks = counts.map(|(tenant, count)| (tenant.to_owned(), count)).collect();
        (self.sink)(Step::Segment(Resume { offset, line, chunks, empty_cells: self.empty_cells }))
    }
}

fn give(sink: &mut impl Sink, place: Place, pushed: Result<Option<Box<Chunk>>, String>) -> bool {
    match pushed {
        Ok(None) => true,
        Ok(Some(chunk)) => sink(Step::Chunk(chunk)),
        Err(reason) => sink(Step::Bad { place, reason }),
    }
}

/// A list of fields with nothing in it, in the memory of another one.
fn emptied<'a>(mut fields: Vec<Cow<'_, str>>) -> Vec<Cow<'a, str>> {
    fields.clear();
    fields.into_iter().map(|_| Cow::Borrowed("")).collect()
}

/// Copies the text of a place.
pub(crate) fn copy_text(
    file: &mut (impl Read + Seek),
    place: Place,
    out: &mut impl std::io::Write,
) -> std::io::Result<u64> {
    file.seek(SeekFrom::Start(place.offset))?;
    std::io::copy(&mut file.take(u64::from(place.bytes)), out)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn steps(path: &Path, format: &Format, from: &Resume, bytes: u64) -> Vec<Step> {
        let mut steps = Vec::new();
        read(path, format, from, bytes, drop, |step| {
            steps.push(step);
            true
        })
        .unwrap();
        steps
    }

    /// From every place at which a load can start, the rest is what it was, also where the file is packed: offsets, lines,
    /// chunks and the count of empty cells go on.
    #[test]
    fn a_packed_table_is_resumed() {
        let folder = tempfile::tempdir().unwrap();
        let mut table = "host,value,other,timestamp\n".to_owned();
        for row in 0..130_000 {
            let value = if row % 3 == 0 { String::new() } else { row.to_string() };
            let time = if row % 40_000 == 7 { "soon" } else { "2026-03-02" };
            writeln!(table, "h{row},{value},,{time}").unwrap();
        }
        let dimensions = vec![("host".to_owned(), "host".to_owned())];
        let options = CsvOptions { dimensions, ..CsvOptions::of_tenant("a") };
        let packed = zstd::stream::encode_all(table.as_bytes(), 1).unwrap();
        let mut read_as = Vec::new();
        for (name, content) in [("plain", table.as_bytes()), ("packed", &packed)] {
            let (path, mut format) = (folder.path().join(name), Format::Csv(Box::new(options.clone())));
            std::fs::write(&path, content).unwrap();
            assert_eq!(settle(&path, &mut format).unwrap(), Some(Place { line: 1, offset: 0, bytes: 26 }));
            let bytes = Source::measure(&path).unwrap();
            assert_eq!(bytes, table.len() as u64);
            let all = steps(&path, &format, &Resume::default(), bytes);
            let mut resumes = 0;
            for (at, step) in all.iter().enumerate() {
                if let Step::Segment(resume) = step {
                    resumes += 1;
                    assert!(all[at + 1..] == steps(&path, &format, resume, bytes) || at + 1 == all.len(), "{resume:?}");
                }
            }
            assert!(resumes > 1, "one segment shows nothing");
            let Some(Step::Segment(last)) = all.last() else { panic!("no end") };
            assert_eq!((last.offset, last.line, last.empty_cells), (bytes, 130_001, 43_334 - 1), "of {resumes}");
            read_as.push(all);
        }
        assert!(read_as[0] == read_as[1], "packing is not content");
    }
}
