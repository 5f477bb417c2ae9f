//! Writing: temporary file, sync, version check, rename, sync of the directory.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidegauge_core::lake::{Expected, ObjectVersion, StoreError};

use super::directories::Directories;
use super::probe::{Probe, Step};
use super::{open_file, version};

/// Hidden directory of the temporary files, in the root.
const TEMPORARY: &str = ".tmp";

/// Locks that the paths share: enough that two writers rarely meet, few enough to forget about.
const STRIPES: usize = 64;

/// The writing half of a local lake store. All methods block.
#[derive(Debug)]
pub(super) struct Writer {
    root: Arc<PathBuf>,
    temporary: PathBuf,
    next: AtomicU64,
    hasher: RandomState,
    stripes: [Mutex<()>; STRIPES],
    directories: Directories,
    probe: Arc<dyn Probe>,
}

impl Writer {
    /// Makes the directories and removes the temporary files of an earlier process.
    pub(super) fn open(root: Arc<PathBuf>, probe: Arc<dyn Probe>) -> Result<Self, StoreError> {
        let temporary = root.join(TEMPORARY);
        let opening = |e| StoreError::io(format!("opening the lake {}", root.display()), e);
        fs::create_dir_all(&temporary).map_err(opening)?;
        for entry in fs::read_dir(&temporary).map_err(opening)? {
            fs::remove_file(entry.map_err(opening)?.path()).map_err(opening)?;
        }
        // Found out here, where it is an ordinary error: a file system that cannot sync a directory.
        let above = root.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        for directory in [&temporary, root.as_path(), above] {
            File::open(directory).and_then(|directory| directory.sync_all()).map_err(opening)?;
        }
        let directories = Directories::default();
        directories.insert(&root);
        Ok(Self {
            temporary,
            root,
            next: AtomicU64::new(0),
            hasher: RandomState::new(),
            stripes: std::array::from_fn(|_| Mutex::new(())),
            directories,
            probe,
        })
    }

    /// Replaces an object; see [`super`].
    pub(super) fn replace(&self, path: &str, expected: &Expected, content: &[u8]) -> Result<ObjectVersion, StoreError> {
        let target = self.root.join(path);
        let directory = target.parent().unwrap_or(&self.root);
        self.create_directory(directory)?;
        let names = self.names_of(directory)?;
        let temporary = Temporary::write(self, content)?;

        let _locked = self.lock(path);
        let found = open_file(&target)?.map(|file| version::of_file(&file)).transpose()?;
        let as_expected = match expected {
            Expected::Absent => found.is_none(),
            Expected::Version(version) => found.as_ref() == Some(version),
        };
        if !as_expected {
            return Err(StoreError::Conflict(path.to_owned()));
        }
        temporary.rename(&target)?;
        self.sync_renamed(&names);
        Ok(version::of_content(content))
    }

    /// Deletes an object; also makes an earlier deletion durable.
    pub(super) fn delete(&self, path: &str) -> Result<(), StoreError> {
        let target = self.root.join(path);
        let directory = target.parent().unwrap_or(&self.root);
        let _locked = self.lock(path);
        let found = open_file(&target)?;
        if found.is_none() && !directory.is_dir() {
            return Ok(());
        }
        let names = self.names_of(directory)?;
        if found.is_some() {
            self.probe
                .before(Step::Delete, &target)
                .and_then(|()| fs::remove_file(&target))
                .map_err(|e| StoreError::io(format!("deleting {}", target.display()), e))?;
        }
        self.sync_renamed(&names);
        Ok(())
    }

    /// Makes durable what a reader of the directory sees now, once in the life of this store. A directory that does not
    /// exist needs nothing.
    pub(super) fn make_durable(&self, directory: &Path) -> Result<(), StoreError> {
        if self.directories.contains(directory) || !directory.is_dir() {
            return Ok(());
        }
        self.create_directory(directory)
    }

    /// Makes a directory and those above it, durably. Also syncs those that exist but are not known to be durable: an
    /// earlier process may have been killed before its sync.
    fn create_directory(&self, directory: &Path) -> Result<(), StoreError> {
        if self.directories.contains(directory) {
            return Ok(());
        }
        let below = directory.strip_prefix(self.root.as_path()).unwrap_or(Path::new(""));
        let mut above = self.root.as_path().to_owned();
        for part in below {
            let next = above.join(part);
            if !self.directories.contains(&next) {
                let names = self.names_of(&above)?;
                let made = self.probe.before(Step::CreateDirectory, &next).and_then(|()| fs::create_dir(&next));
                let existed = match made {
                    Ok(()) => false,
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => true,
                    Err(e) => return Err(StoreError::io(format!("making the directory {}", next.display()), e)),
                };
                self.sync_renamed(&names);
                if existed {
                    self.sync_renamed(&self.names_of(&next)?);
                }
                self.directories.insert(&next);
            }
            above = next;
        }
        Ok(())
    }

    /// Opens the directory whose names are to change. Before they do: an error, such as no free descriptor, is then an
    /// ordinary one, and the write can be tried again.
    fn names_of(&self, directory: &Path) -> Result<Names, StoreError> {
        self.probe
            .before(Step::OpenDirectory, directory)
            .and_then(|()| File::open(directory))
            .map(|file| Names { file, path: directory.to_owned() })
            .map_err(|e| StoreError::io(format!("opening the directory {}", directory.display()), e))
    }

    /// Syncs a directory whose names have changed. There is no way on after a failure: a later sync may answer Ok for
    /// names that were lost, so the process ends and the next one finds what is really there.
    fn sync_renamed(&self, names: &Names) {
        let synced = self.probe.before(Step::SyncDirectory, &names.path).and_then(|()| names.file.sync_all());
        if let Err(error) = synced {
            tracing::error!(directory = %names.path.display(), %error, "cannot sync a directory of the lake, aborting");
            std::process::abort();
        }
    }

    fn lock(&self, path: &str) -> MutexGuard<'_, ()> {
        let stripe = self.hasher.hash_one(path) as usize % STRIPES;
        // The lock guards no data: after a panic the file system is as consistent as before.
        self.stripes[stripe].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open directory whose names are to change.
struct Names {
    file: File,
    path: PathBuf,
}

/// A written and synced temporary file; removed when dropped, unless it was renamed.
struct Temporary<'a> {
    writer: &'a Writer,
    path: PathBuf,
    renamed: bool,
}

impl<'a> Temporary<'a> {
    fn write(writer: &'a Writer, content: &[u8]) -> Result<Self, StoreError> {
        let number = writer.next.fetch_add(1, Ordering::Relaxed);
        let path = writer.temporary.join(format!("{number:016x}"));
        let temporary = Self { writer, path, renamed: false };
        let (path, probe) = (&temporary.path, &writer.probe);
        let write = || {
            probe.before(Step::CreateTemporary, path)?;
            let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
            probe.before(Step::Write, path)?;
            file.write_all(content)?;
            probe.before(Step::SyncFile, path)?;
            // A failure here is no reason to abort: this file is thrown away, and nothing else was in the sync.
            file.sync_data()
        };
        match write() {
            Ok(()) => Ok(temporary),
            Err(e) => Err(StoreError::io(format!("writing {}", path.display()), e)),
        }
    }

    fn rename(mut self, target: &Path) -> Result<(), StoreError> {
        self.writer
            .probe
            .before(Step::Rename, target)
            .and_then(|()| fs::rename(&self.path, target))
            .map_err(|e| StoreError::io(format!("renaming a file to {}", target.display()), e))?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.renamed {
            // What cannot be removed is removed at the next open.
            let _ = fs::remove_file(&self.path);
        }
    }
}
