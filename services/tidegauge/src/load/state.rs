//! What a load remembers between two runs: a file of JSON lines, appended to. Losing its last lines, or all of it, costs
//! time and nothing else, because the server knows what it has had.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::identity::Identity;
use super::reader::{Format, Resume};
use crate::failure::{Doing as _, Outcome};

/// Version of the file's format.
const FORMAT: u32 = 3;

/// First line: whose state this is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Header {
    format: u32,
    /// The file, by its full name; what is no text in it is replaced, so that any name can be written.
    file: String,
    file_bytes: u64,
    /// Of the file's content.
    content: String,
    /// Of the content and of how it is read.
    identity: String,
    /// The only tenant that was sent, if one was chosen: the others' events of such a load are not done.
    only: Option<String>,
    /// Server that acknowledged.
    pub(crate) endpoint: String,
}

impl Header {
    /// The header of a load.
    pub(crate) fn new(file: &Path, identity: &Identity, format: &Format, endpoint: &str) -> Self {
        let only = match format {
            Format::Ndjson { tenant } => tenant.clone(),
            Format::Csv(options) => options.only().map(str::to_owned),
        };
        Self {
            format: FORMAT,
            file: std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned()).to_string_lossy().into_owned(),
            file_bytes: identity.bytes,
            content: identity.content(),
            identity: identity.text(),
            only,
            endpoint: endpoint.to_owned(),
        }
    }

    /// Whether the other one is of the same file read the same way.
    pub(crate) fn is_same_load(&self, other: &Self) -> bool {
        let key = |header: &Self| (header.format, header.file_bytes, header.identity.clone(), header.only.clone());
        key(self) == key(other)
    }
}

/// Every further line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Entry {
    /// A chunk is durable.
    Chunk {
        /// Its tenant.
        tenant: String,
        /// Its sequence; all earlier ones of the tenant are durable, too.
        sequence: u64,
        /// Events accepted.
        events: u64,
        /// Events refused.
        rejected: u64,
    },
    /// Everything before this point is done.
    Resume {
        /// The point.
        resume: Resume,
    },
    /// The rejects file is written so far.
    Rejects {
        /// Its state.
        rejects: Rejects,
    },
    /// The load came to its end, and lines were refused: nothing is left to resume, but whoever corrects them must not
    /// load the rest again.
    Finished {
        /// Events accepted.
        finished: u64,
    },
}

/// How far the rejects of unreadable lines are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Rejects {
    /// Length of the rejects file.
    pub(crate) bytes: u64,
    /// Last line that was refused as unreadable.
    pub(crate) through_line: u64,
    /// Unreadable lines so far.
    pub(crate) lines: u64,
}

/// What an earlier run has done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Done {
    /// Where to start reading.
    pub(crate) resume: Resume,
    /// Last durable chunk by tenant.
    pub(crate) sequences: HashMap<String, u64>,
    /// Events by tenant that the server had accepted.
    pub(crate) accepted_by_tenant: HashMap<String, u64>,
    /// Events accepted.
    pub(crate) accepted: u64,
    /// Events refused by the server.
    pub(crate) rejected: u64,
    /// Unreadable lines.
    pub(crate) rejects: Rejects,
    /// Events that had been accepted when the load came to its end.
    pub(crate) finished: u64,
}

/// What a state file says of a load.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Earlier {
    /// Nothing, or what does not concern it.
    Nothing,
    /// It was begun.
    Begun(Box<(Header, Done)>),
    /// The file had another content, of which so many events are durable.
    Changed(u64),
}

impl Done {
    fn add(&mut self, entry: Entry) {
        match entry {
            Entry::Chunk { tenant, sequence, events, rejected } => {
                *self.accepted_by_tenant.entry(tenant.clone()).or_default() += events;
                self.sequences.insert(tenant, sequence);
                self.accepted += events;
                self.rejected += rejected;
            }
            Entry::Resume { resume } => self.resume = resume,
            Entry::Rejects { rejects } => self.rejects = rejects,
            Entry::Finished { finished } => self.finished = finished,
        }
    }
}

/// The open state file.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    file: File,
}

impl StateFile {
    /// Reads what an earlier run left.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn read(path: &Path, header: &Header) -> Outcome<Earlier> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Earlier::Nothing),
            Err(error) => return Err(error).doing(path.display()),
        };
        let mut lines = BufReader::new(file).split(b'\n').map_while(Result::ok);
        let found = lines.next().and_then(|line| serde_json::from_slice::<Header>(&line).ok());
        let Some(found) = found.filter(|found| found.format == FORMAT) else { return Ok(Earlier::Nothing) };
        let mut done = Done::default();
        // A torn last line ends the reading: what it said is done again.
        for entry in lines.map_while(|line| serde_json::from_slice::<Entry>(&line).ok()) {
            done.add(entry);
        }
        let durable = done.accepted.max(done.finished);
        Ok(match found.is_same_load(header) {
            true => Earlier::Begun(Box::new((found, done))),
            false if found.file == header.file && found.content != header.content && durable > 0 => {
                Earlier::Changed(durable)
            }
            false => Earlier::Nothing,
        })
    }

    /// Starts a state file anew; so many events were durable when an earlier load of the file came to its end.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn create(path: &Path, header: &Header, finished: u64) -> Outcome<Self> {
        let file = File::create(path).doing(path.display())?;
        let mut state = Self { path: path.to_owned(), file };
        let line = serde_json::to_string(header).doing(path.display())?;
        state.write(format!("{line}\n").as_bytes())?;
        if finished > 0 {
            state.add(&[Entry::Finished { finished }])?;
        }
        Ok(state)
    }

    /// Goes on with a state file, after cutting off what it could not read.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn append_to(path: &Path) -> Outcome<Self> {
        let text = std::fs::read(path).doing(path.display())?;
        let whole = memchr::memrchr(b'\n', &text).map_or(0, |at| at + 1);
        let file = OpenOptions::new().append(true).open(path).doing(path.display())?;
        file.set_len(whole as u64).doing(path.display())?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Appends entries with one write.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn add(&mut self, entries: &[Entry]) -> Outcome {
        let mut text = Vec::new();
        for entry in entries {
            serde_json::to_writer(&mut text, entry).doing(self.path.display())?;
            text.push(b'\n');
        }
        self.write(&text)
    }

    fn write(&mut self, text: &[u8]) -> Outcome {
        self.file.write_all(text).doing(self.path.display())
    }

    /// Leaves nothing but that the load came to its end.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn finish(self, header: &Header, accepted: u64) -> Outcome {
        Self::create(&self.path, header, accepted).map(drop)
    }

    /// Removes the file: nothing is left to resume.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn remove(self) -> Outcome {
        std::fs::remove_file(&self.path).doing(self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was added is read back, a torn line is not, another file's state is ignored.
    #[test]
    fn state_survives_a_torn_write() {
        let folder = tempfile::tempdir().unwrap();
        let (data, path) = (folder.path().join("data"), folder.path().join("state"));
        std::fs::write(&data, "x").unwrap();
        let all = Format::Ndjson { tenant: None };
        let identity = Identity::of(&data, &all).unwrap();
        let header = Header::new(&data, &identity, &all, "http://a");
        let read = |header: &Header| StateFile::read(&path, header).unwrap();
        let begun = || match read(&header) {
            Earlier::Begun(begun) => begun.1,
            other => panic!("{other:?}"),
        };
        assert_eq!(read(&header), Earlier::Nothing);
        let chunk = |sequence| Entry::Chunk { tenant: "t".to_owned(), sequence, events: 10, rejected: 1 };
        let resume = Resume { offset: 7, line: 2, chunks: [("t".to_owned(), 1)].into(), empty_cells: 0 };
        let mut state = StateFile::create(&path, &header, 0).unwrap();
        state.add(&[chunk(1), Entry::Resume { resume: resume.clone() }]).unwrap();
        state.add(&[chunk(2), Entry::Rejects { rejects: Rejects { bytes: 5, through_line: 9, lines: 1 } }]).unwrap();
        let done = begun();
        assert_eq!((done.accepted, done.rejected, done.sequences["t"], done.rejects.bytes), (20, 2, 2, 5));
        assert_eq!(done.resume, resume);

        let text = std::fs::read(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 30]).unwrap();
        let mut state = StateFile::append_to(&path).unwrap();
        state.add(&[chunk(3)]).unwrap();
        let done = begun();
        assert_eq!((done.sequences["t"], done.rejects.bytes), (3, 0));

        std::fs::write(&data, "y").unwrap();
        let one = Format::Ndjson { tenant: Some("t".to_owned()) };
        let of_one = Header::new(&data, &identity, &one, "http://a");
        assert_eq!(read(&of_one), Earlier::Nothing, "another tenant of the same file");
        let other = Identity::of(&data, &all).unwrap();
        let changed = Header::new(&data, &other, &all, "http://a");
        let elsewhere = Header::new(folder.path(), &other, &all, "http://a");
        assert_eq!(read(&elsewhere), Earlier::Nothing, "another file with the same state file");
        assert_eq!(read(&changed), Earlier::Changed(30));
        state.finish(&header, 30).unwrap();
        assert_eq!((begun().finished, begun().accepted, read(&changed)), (30, 0, Earlier::Changed(30)));
        StateFile::create(&path, &header, 0).unwrap();
        assert_eq!(read(&changed), Earlier::Nothing, "nothing of it was durable");
        let nameless = Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xFF.ndjson"));
        StateFile::create(&path, &Header::new(nameless, &identity, &all, "http://a"), 0).unwrap();
        StateFile::append_to(&path).unwrap().remove().unwrap();
        assert!(!path.exists());
    }
}
