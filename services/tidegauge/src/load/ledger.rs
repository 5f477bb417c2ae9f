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
use super::state::{Done, Entry, Rejects, StateFile};
use crate::failure::{Doing as _, Outcome};

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
        /// What it said.
        reason: String,
    },
    /// The load cannot go on.
    Broken(ClientError),
}

/// The rejects file.
#[derive(Debug)]
pub(crate) struct RejectsFile {
    out: BufWriter<File>,
    bytes: u64,
}

impl RejectsFile {
    /// Opens the file; what stands after `keep_bytes` is done again and so cut off.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn open(path: &Path, keep_bytes: u64) -> Outcome<Self> {
        let open = || -> std::io::Result<Self> {
            let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
            let bytes = keep_bytes.min(file.metadata()?.len());
            file.set_len(bytes)?;
            file.seek(SeekFrom::Start(bytes))?;
            Ok(Self { out: BufWriter::new(file), bytes })
        };
        open().doing(path.display())
    }

    /// Copies a refused line as it stands in its file.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn copy(&mut self, source: &mut File, place: Place) -> std::io::Result<()> {
        let copied = copy_text(source, place, &mut self.out)?;
        self.out.write_all(b"\n")?;
        self.bytes += copied + 1;
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
    source: File,
    state: StateFile,
    rejects_file: Option<RejectsFile>,
    progress: Progress,
    /// Sums, earlier runs included.
    pub(crate) accepted: u64,
    /// Events that the server refused one by one, earlier runs included.
    pub(crate) rejected: u64,
    /// Lines that hold no event, earlier runs included.
    pub(crate) unreadable: Rejects,
    /// Tenants that the server did not take, with what it said.
    pub(crate) refused_tenants: BTreeMap<Arc<str>, String>,
    /// Last durable chunk by tenant.
    pub(crate) sequences: HashMap<String, u64>,
    segments: VecDeque<Resume>,
    shown: u64,
}

impl Ledger {
    /// An account that continues an earlier one.
    pub(crate) fn new(
        source: File,
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
            rejected: done.rejected,
            unreadable: done.rejects,
            refused_tenants: BTreeMap::new(),
            sequences: done.sequences,
            segments: VecDeque::new(),
            shown: 0,
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
                Report::Segment(resume) => self.segments.push_back(resume),
                Report::Passed { line_bytes } => self.progress.done(line_bytes, 0),
                Report::Refused { tenant, reason } => {
                    self.progress.say(&format!("tenant {tenant}: {reason}"));
                    self.refused_tenants.entry(tenant).or_insert(reason);
                }
                Report::Broken(error) => {
                    broken.get_or_insert(error);
                }
                Report::Durable { tenant, sequence, accepted, rejected, line_bytes } => {
                    self.accepted += accepted;
                    self.rejected += rejected.len() as u64;
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
        self.refuse(place, reason)
    }

    fn refuse(&mut self, place: Place, reason: &str) -> Outcome {
        if self.shown < SHOWN_MAX {
            self.progress.say(&format!("line {}: {}", place.line, crate::text_table::printable(reason)));
        } else if self.shown == SHOWN_MAX {
            self.progress.say("further refusals are counted, not shown");
        }
        self.shown += 1;
        self.keep(place)
    }

    /// Puts the line at a place into the rejects file.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn keep(&mut self, place: Place) -> Outcome {
        if let Some(rejects) = &mut self.rejects_file {
            rejects.copy(&mut self.source, place).doing("the rejects file")?;
        }
        Ok(())
    }

    /// Whether refused lines are kept.
    pub(crate) fn keeps_rejects(&self) -> bool {
        self.rejects_file.is_some()
    }

    /// Ends the account. The state file goes when nothing is left to do.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn close(mut self) -> Outcome<Progress> {
        if let Some(rejects) = &mut self.rejects_file {
            rejects.flush().doing("the rejects file")?;
        }
        if self.refused_tenants.is_empty() {
            self.state.remove()?;
        }
        Ok(self.progress)
    }
}
