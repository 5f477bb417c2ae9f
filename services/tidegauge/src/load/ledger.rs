//! Keeps account of a load: what is durable, what was refused and why, and from where a later run can go on.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::Arc;

use tidegauge_client::ClientError;

use super::event::Place;
use super::progress::Progress;
use super::reader::{Resume, copy_text};
use super::source::Source;
use super::state::{Done, Entry, Header, Rejects, StateFile};
use crate::failure::{Doing as _, Failure, Outcome};

/// Refusals shown one by one; the rest is counted.
const SHOWN_MAX: u64 = 20;

/// What became of a part of the file.
#[derive(Debug)]
pub(crate) enum Report {
    /// A line held no event.
    Bad {
        /// Where.
        place: Place,
        /// Why.
        reason: String,
    },
    /// All chunks before this point have been handed to their lanes.
    Segment(Resume),
    /// A chunk is durable.
    Durable {
        /// Its tenant.
        tenant: Arc<str>,
        /// Its sequence.
        sequence: u64,
        /// Events accepted.
        accepted: u64,
        /// The server remembers that it had the chunk before.
        again: bool,
        /// Events refused, with reasons.
        rejected: Vec<(Place, String)>,
        /// Bytes of its lines.
        line_bytes: u64,
    },
    /// A chunk was not sent: it is durable already, or its tenant was refused.
    Passed {
        /// Bytes of its lines.
        line_bytes: u64,
    },
    /// The server does not take this tenant's events.
    Refused {
        /// The tenant.
        tenant: Arc<str>,
        /// What it said, with advice.
        failure: Failure,
    },
    /// Nothing of this tenant gets through for a while; it is tried again.
    Waiting {
        /// The tenant.
        tenant: Arc<str>,
        /// What the server, or the line to it, says.
        error: ClientError,
    },
    /// The load cannot go on.
    Broken(ClientError),
}

/// The rejects file.
#[derive(Debug)]
pub(crate) struct RejectsFile {
    out: BufWriter<File>,
    bytes: u64,
    /// What stands above the lines in their own file, so that a corrected rejects file can be loaded.
    header: Option<Place>,
}

impl RejectsFile {
    /// Opens the file; what stands after `keep_bytes` is done again and so cut off.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn open(path: &Path, keep_bytes: u64, header: Option<Place>) -> Outcome<Self> {
        let open = || -> std::io::Result<Self> {
            let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
            let bytes = keep_bytes.min(file.metadata()?.len());
            file.set_len(bytes)?;
            file.seek(SeekFrom::Start(bytes))?;
            Ok(Self { out: BufWriter::new(file), bytes, header })
        };
        open().doing(path.display())
    }

    /// Copies a refused line as it stands in its file.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn copy(&mut self, source: &mut Source, place: Place) -> std::io::Result<()> {
        let header = self.header.filter(|_| self.bytes == 0);
        for place in header.into_iter().chain([place]) {
            let copied = copy_text(source, place, &mut self.out)?;
            self.out.write_all(b"\n")?;
            self.bytes += copied + 1;
        }
        Ok(())
    }

    /// Makes what was written visible to others.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// The account of one file.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// The file, for the text of refused lines.
    source: Source,
    state: StateFile,
    rejects_file: Option<RejectsFile>,
    progress: Progress,
    /// Sums, earlier runs included.
    pub(crate) accepted: u64,
    /// Of the events of this run, those that the server remembers from before: they count once.
    pub(crate) known_before: u64,
    /// Events that the server refused one by one, earlier runs included.
    pub(crate) rejected: u64,
    /// Lines that hold no event, earlier runs included.
    pub(crate) unreadable: Rejects,
    /// Cells of a table that hold no measurement, earlier runs included.
    pub(crate) empty_cells: u64,
    /// Tenants that the server did not take, with what it said.
    pub(crate) refused_tenants: BTreeMap<Arc<str>, Failure>,
    /// Last durable chunk by tenant.
    pub(crate) sequences: HashMap<String, u64>,
    segments: VecDeque<Resume>,
    /// Offset of the last record that was kept because its events were not taken: those of a record come together.
    last_kept: Option<u64>,
    shown: u64,
    /// Why nothing moves, as last told.
    waits: Option<(Option<tonic::Code>, String)>,
}

impl Ledger {
    /// An account that continues an earlier one.
    pub(crate) fn new(
        source: Source,
        state: StateFile,
        rejects_file: Option<RejectsFile>,
        done: Done,
        progress: Progress,
    ) -> Self {
        Self {
            source,
            state,
            rejects_file,
            progress,
            accepted: done.accepted,
            known_before: 0,
            rejected: done.rejected,
            unreadable: done.rejects,
            empty_cells: done.resume.empty_cells,
            refused_tenants: BTreeMap::new(),
            sequences: done.sequences,
            segments: VecDeque::new(),
            last_kept: None,
            shown: 0,
            waits: None,
        }
    }

    /// Tells why nothing moves; once for all tenants that wait for the same.
    fn waiting(&mut self, tenant: &str, error: &ClientError) {
        let reason = (error.code(), error.reason().unwrap_or_default().to_owned());
        if self.waits.as_ref() != Some(&reason) {
            self.progress.say(&format!("waiting and trying again: {error} (tenant {tenant})"));
            self.waits = Some(reason);
        }
    }

    /// Takes reports that have come together; state is written once for all.
    ///
    /// # Errors
    /// I/O errors, and the failure that ends the load.
    pub(crate) fn take(&mut self, reports: Vec<Report>) -> Outcome {
        let mut entries = Vec::new();
        let mut broken = None;
        let unreadable_before = self.unreadable;
        for report in reports {
            match report {
                Report::Bad { place, reason } => self.bad(place, &reason)?,
                Report::Segment(resume) => {
                    self.empty_cells = resume.empty_cells;
                    self.segments.push_back(resume);
                }
                Report::Passed { line_bytes } => self.progress.done(line_bytes, 0),
                Report::Refused { tenant, failure } => self.refuse_tenant(tenant, failure),
                Report::Waiting { tenant, error } => self.waiting(&tenant, &error),
                Report::Broken(error) => {
                    broken.get_or_insert(error);
                }
                Report::Durable { tenant, sequence, accepted, again, rejected, line_bytes } => {
                    self.known_before += if again { accepted } else { 0 };
                    self.accepted += accepted;
                    self.rejected += rejected.len() as u64;
                    self.waits = None;
                    self.progress.done(line_bytes, accepted);
                    for (place, reason) in &rejected {
                        self.refuse(*place, reason)?;
                    }
                    self.sequences.insert(tenant.to_string(), sequence);
                    let (tenant, rejected) = (tenant.to_string(), rejected.len() as u64);
                    entries.push(Entry::Chunk { tenant, sequence, events: accepted, rejected });
                }
            }
        }
        while self.segments.front().is_some_and(|segment| self.is_done(segment)) {
            entries.extend(self.segments.pop_front().map(|resume| Entry::Resume { resume }));
        }
        if let Some(rejects) = &mut self.rejects_file {
            rejects.flush().doing("the rejects file")?;
            self.unreadable.bytes = rejects.bytes;
        }
        if self.unreadable != unreadable_before {
            entries.push(Entry::Rejects { rejects: self.unreadable });
        }
        if !entries.is_empty() {
            self.state.add(&entries)?;
        }
        match broken {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    fn is_done(&self, segment: &Resume) -> bool {
        segment.chunks.iter().all(|(tenant, count)| self.sequences.get(tenant).copied().unwrap_or(0) >= *count)
    }

    fn bad(&mut self, place: Place, reason: &str) -> Outcome {
        // Lines up to here were refused, and written, by an earlier run.
        if place.line <= self.unreadable.through_line {
            return Ok(());
        }
        self.unreadable.through_line = place.line;
        self.unreadable.lines += 1;
        self.progress.done(u64::from(place.bytes) + 1, 0);
        self.tell(place, reason);
        self.copy(place)
    }

    fn refuse_tenant(&mut self, tenant: Arc<str>, failure: Failure) {
        match self.refused_tenants.len() as u64 {
            0..SHOWN_MAX => {
                self.progress.say(&format!("tenant {tenant}: {}", failure.message()));
                if let Some(hint) = failure.advice() {
                    self.progress.say(&format!("hint: {hint}"));
                }
            }
            SHOWN_MAX => self.progress.say("further tenants are counted, not shown"),
            _ => {}
        }
        self.refused_tenants.entry(tenant).or_insert(failure);
    }

    fn refuse(&mut self, place: Place, reason: &str) -> Outcome {
        self.tell(place, reason);
        self.keep(place)
    }

    fn tell(&mut self, place: Place, reason: &str) {
        if self.shown < SHOWN_MAX {
            self.progress.say(&format!("line {}: {}", place.line, crate::text_table::printable(reason)));
        } else if self.shown == SHOWN_MAX {
            self.progress.say("further refusals are counted, not shown");
        }
        self.shown += 1;
    }

    /// Puts the line of an event into the rejects file, once for all its events.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn keep(&mut self, place: Place) -> Outcome {
        match self.last_kept.replace(place.offset) == Some(place.offset) {
            true => Ok(()),
            false => self.copy(place),
        }
    }

    fn copy(&mut self, place: Place) -> Outcome {
        if let Some(rejects) = &mut self.rejects_file {
            rejects.copy(&mut self.source, place).doing("the rejects file")?;
        }
        Ok(())
    }

    /// Whether refused lines are kept.
    pub(crate) fn keeps_rejects(&self) -> bool {
        self.rejects_file.is_some()
    }

    /// Ends the account. The state file goes when nothing is left to do; where lines were refused, and somebody may mend them
    /// (`header` is given), it keeps whose they were.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn close(mut self, header: Option<&Header>) -> Outcome<Progress> {
        if let Some(rejects) = &mut self.rejects_file {
            rejects.flush().doing("the rejects file")?;
        }
        let has_refused = self.unreadable.lines + self.rejected > 0;
        match header.filter(|_| has_refused && self.accepted > 0) {
            _ if !self.refused_tenants.is_empty() => {}
            Some(header) => self.state.finish(header, self.accepted)?,
            None => self.state.remove()?,
        }
        Ok(self.progress)
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;
    use tidegauge_core::clock::ManualClock;

    use super::super::identity::Identity;
    use super::super::progress::ProgressMode;
    use super::super::reader::Format;
    use super::super::state::Earlier;
    use super::*;

    /// A file of four lines, the second and fourth without an event.
    const TEXT: &[u8] = b"one\nbad\nthree\nworse\n";

    struct Bench {
        folder: TempDir,
        header: Header,
        above: Option<Place>,
    }

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let source = folder.path().join("source");
            std::fs::write(&source, TEXT).unwrap();
            let format = Format::Ndjson { tenant: None };
            let header = Header::new(&source, &Identity::of(&source, &format).unwrap(), &format, "http://a");
            Self { folder, header, above: None }
        }

        fn open(&self) -> (Ledger, Done) {
            let state_path = self.folder.path().join("state");
            let (state, done) = match StateFile::read(&state_path, &self.header).unwrap() {
                Earlier::Begun(begun) => (StateFile::append_to(&state_path).unwrap(), begun.1),
                _ => (StateFile::create(&state_path, &self.header, 0).unwrap(), Done::default()),
            };
            let rejects =
                RejectsFile::open(&self.folder.path().join("rejects"), done.rejects.bytes, self.above).unwrap();
            let clock = Arc::new(ManualClock::at(0));
            let progress = Progress::new(ProgressMode::None, TEXT.len() as u64, done.resume.offset, 0, clock);
            let source = Source::open(&self.folder.path().join("source"), 0).unwrap();
            (Ledger::new(source, state, Some(rejects), done.clone(), progress), done)
        }

        fn rejects(&self) -> Vec<u8> {
            std::fs::read(self.folder.path().join("rejects")).unwrap()
        }
    }

    fn durable(tenant: &str, sequence: u64, rejected: Vec<(Place, String)>) -> Report {
        Report::Durable { tenant: tenant.into(), sequence, accepted: 1, again: false, rejected, line_bytes: 4 }
    }

    const BAD: Place = Place { line: 2, offset: 4, bytes: 3 };
    const THREE: Place = Place { line: 3, offset: 8, bytes: 5 };
    const WORSE: Place = Place { line: 4, offset: 14, bytes: 5 };

    fn bad(place: Place) -> Report {
        Report::Bad { place, reason: "no event".to_owned() }
    }

    fn segment(chunks: &[(&str, u64)]) -> Report {
        let chunks = chunks.iter().map(|(tenant, count)| ((*tenant).to_owned(), *count)).collect();
        Report::Segment(Resume { offset: 20, line: 4, chunks, empty_cells: 0 })
    }

    /// However a load is cut off, every refused line stands among the rejects once: what was written after the last
    /// state is cut off, what was written before it is not written again.
    #[test]
    fn rejects_are_written_once() {
        let bench = Bench::new();
        let (mut ledger, _) = bench.open();
        ledger.take(vec![bad(BAD), durable("a", 1, vec![(THREE, "refused".to_owned())])]).unwrap();
        assert_eq!(bench.rejects(), b"bad\nthree\n");
        // A crash: a further line had reached the file, but no state.
        drop(ledger);
        std::fs::write(bench.folder.path().join("rejects"), b"bad\nthree\nwor").unwrap();

        let (mut ledger, done) = bench.open();
        assert_eq!((done.accepted, done.rejected, done.sequences["a"]), (1, 1, 1));
        ledger.take(vec![bad(BAD), bad(WORSE)]).unwrap();
        assert_eq!(bench.rejects(), b"bad\nthree\nworse\n");
        assert_eq!((ledger.unreadable.lines, ledger.rejected), (2, 1));
        ledger.close(Some(&bench.header)).unwrap();
        let left = StateFile::read(&bench.folder.path().join("state"), &bench.header).unwrap();
        let Earlier::Begun(begun) = left else { panic!("{left:?}") };
        assert_eq!(
            begun.1,
            Done { finished: 1, ..Done::default() },
            "nothing to resume, but it is known what is durable"
        );
    }

    /// A later run starts after a segment only when every chunk in it is durable; a refused tenant holds that up, and its
    /// state stays.
    #[test]
    fn a_segment_is_done_when_all_of_it_is_durable() {
        let bench = Bench::new();
        let (mut ledger, _) = bench.open();
        ledger.take(vec![segment(&[("a", 1), ("b", 1)]), durable("a", 1, Vec::new())]).unwrap();
        assert_eq!(bench.open().1.resume, Resume::default());
        let (tenant, failure) = (Arc::from("b"), Failure::new("not yours"));
        ledger.take(vec![Report::Refused { tenant, failure }, Report::Passed { line_bytes: 4 }]).unwrap();
        ledger.close(Some(&bench.header)).unwrap();
        let (mut ledger, done) = bench.open();
        assert_eq!((done.resume.offset, done.sequences.len()), (0, 1));
        ledger.take(vec![segment(&[("a", 1), ("b", 1)]), durable("b", 1, Vec::new())]).unwrap();
        assert_eq!(bench.open().1.resume.offset, 20);
    }

    /// A load without refusals leaves nothing behind; the rejects of a table stand under its header, once.
    #[test]
    fn what_is_left_behind() {
        let mut bench = Bench::new();
        let (mut ledger, _) = bench.open();
        ledger.take(vec![durable("a", 1, Vec::new())]).unwrap();
        ledger.close(Some(&bench.header)).unwrap();
        assert!(!bench.folder.path().join("state").exists());
        let (mut ledger, _) = bench.open();
        ledger.take(vec![durable("a", 1, vec![(THREE, "refused".to_owned()), (THREE, "too".to_owned())])]).unwrap();
        assert_eq!(bench.rejects(), b"three\n", "once for both events of the line");
        ledger.close(None).unwrap();
        assert!(!bench.folder.path().join("state").exists(), "who allows rejects does not mend them");

        bench.above = Some(Place { line: 1, offset: 0, bytes: 3 });
        let (mut ledger, _) = bench.open();
        ledger.take(vec![bad(BAD)]).unwrap();
        drop(ledger);
        let (mut ledger, _) = bench.open();
        ledger.take(vec![bad(BAD), bad(WORSE)]).unwrap();
        assert_eq!(bench.rejects(), b"one\nbad\nworse\n");
    }

    /// A failure of the load is returned, after what is durable has been written down.
    #[test]
    fn a_failure_ends_the_load_and_loses_nothing() {
        let bench = Bench::new();
        let (mut ledger, _) = bench.open();
        let reports = vec![Report::Broken(ClientError::Closed(None)), durable("a", 1, Vec::new())];
        assert!(ledger.take(reports).is_err());
        assert_eq!(bench.open().1.sequences["a"], 1);
    }
}
