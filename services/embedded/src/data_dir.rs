//! Layout of a data directory and the locks on its parts.
//!
//! ```text
//! <root>/log/    the event log            state/  checkpoints
//!        hot/    the hot store            lake/   Parquet objects and their index
//!        auth/   signing key, API keys (not locked: read by every role)
//! ```
//! Each part has a lock of its own, so that roles split over processes can share one directory, and a command that
//! works on a stopped directory takes the locks of the parts it touches. A lock is a `flock` on `<part>/.lock`: it
//! ends with the process, however that ends.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use fs4::fs_std::FileExt;

/// Name of the lock file in a part.
const LOCK_FILE: &str = ".lock";

/// A part of the data directory that one process at a time may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Part {
    /// The event log.
    Log,
    /// Checkpoints.
    State,
    /// The hot store.
    Hot,
    /// Parquet objects and their index.
    Lake,
}

impl Part {
    /// All parts, in the order in which to lock them.
    pub const ALL: [Self; 4] = [Self::Log, Self::State, Self::Hot, Self::Lake];

    /// Name of the directory.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::State => "state",
            Self::Hot => "hot",
            Self::Lake => "lake",
        }
    }
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process has the part.
    #[error("{} is in use by {}: stop it first, or name another data directory", dir.display(), holder_text(*holder))]
    Locked {
        /// The part's directory.
        dir: PathBuf,
        /// Process id of the holder, if it left one.
        holder: Option<u32>,
    },
    /// The operating system refused.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done, with the path.
        doing: String,
        /// The cause.
        source: io::Error,
    },
}

fn holder_text(holder: Option<u32>) -> String {
    match holder {
        Some(process) => format!("process {process}"),
        None => "another process".to_owned(),
    }
}

/// A data directory.
#[derive(Clone, Debug)]
pub struct DataDir {
    root: PathBuf,
}

impl DataDir {
    /// Opens the directory, making it (for this user alone) if it does not exist. Locks nothing yet.
    ///
    /// # Errors
    /// [`DataDirError::Io`] when it cannot be made.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, DataDirError> {
        let root = root.into();
        make_dir(&root)?;
        Ok(Self { root })
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Directory of a part; it exists once the part has been locked.
    pub fn path(&self, part: Part) -> PathBuf {
        self.root.join(part.name())
    }

    /// Directory of keys and rules; made by whoever writes there first.
    pub fn auth(&self) -> PathBuf {
        self.root.join("auth")
    }

    /// Takes a part for this process, making its directory if needed. Ends when the lock is dropped.
    ///
    /// # Errors
    /// [`DataDirError::Locked`] when another holder has it.
    pub fn lock(&self, part: Part) -> Result<PartLock, DataDirError> {
        let dir = self.path(part);
        make_dir(&dir)?;
        let path = dir.join(LOCK_FILE);
        let doing = || format!("lock {}", path.display());
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|source| DataDirError::Io { doing: doing(), source })?;
        let taken = FileExt::try_lock_exclusive(&file).map_err(|source| DataDirError::Io { doing: doing(), source })?;
        if !taken {
            let mut text = String::new();
            // The process id is a help to the reader, not needed for the lock.
            let _ = file.read_to_string(&mut text);
            return Err(DataDirError::Locked { dir, holder: text.trim().parse().ok() });
        }
        let noted = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
        if let Err(source) = noted
            && source.kind() != io::ErrorKind::StorageFull
        {
            return Err(DataDirError::Io { doing: doing(), source });
        }
        Ok(PartLock { part, dir, _file: file })
    }
}

/// A part held by this process until this is dropped.
#[derive(Debug)]
#[must_use = "the part is free again when the lock is dropped"]
pub struct PartLock {
    part: Part,
    dir: PathBuf,
    _file: File,
}

impl PartLock {
    /// The part.
    pub fn part(&self) -> Part {
        self.part
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

fn make_dir(dir: &Path) -> Result<(), DataDirError> {
    if dir.is_dir() {
        return Ok(());
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(|source| DataDirError::Io { doing: format!("make {}", dir.display()), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A part has one holder at a time, parts are independent, and the error says who holds it.
    #[test]
    fn a_part_has_one_holder() {
        let root = tempfile::tempdir().unwrap();
        let dir = DataDir::open(root.path().join("deep/data")).unwrap();
        let log = dir.lock(Part::Log).unwrap();
        let _state = dir.lock(Part::State).unwrap();
        let error = dir.lock(Part::Log).unwrap_err();
        assert!(
            matches!(&error, DataDirError::Locked { holder: Some(id), .. } if *id == std::process::id()),
            "{error}"
        );
        assert!(error.to_string().contains("stop it first"), "{error}");
        drop(log);
        let again = dir.lock(Part::Log).unwrap();
        assert_eq!(again.dir(), dir.path(Part::Log));
    }
}
