//! The file operations of the checkpoint store, few enough to be replaced by ones that crash between any two of them.

use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::Path;

/// A file being written.
pub trait WriteFile: Send {
    /// Appends all bytes.
    ///
    /// # Errors
    /// Any error of the operating system; some of the bytes may be written.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes what was appended durable.
    ///
    /// # Errors
    /// Those of replacements in tests; [`DiskFiles`] ends the process, see there.
    fn sync(&mut self) -> io::Result<()>;
}

/// What the checkpoint store needs of a file system.
pub trait StateFiles: Send + Sync + Debug + 'static {
    /// Makes a directory and its parents, durably.
    ///
    /// # Errors
    /// Any error of the operating system.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Names of the files in a directory; empty if there is none.
    ///
    /// # Errors
    /// Any error of the operating system.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Creates a file, or empties it.
    ///
    /// # Errors
    /// Any error of the operating system.
    fn create(&self, path: &Path) -> io::Result<Box<dyn WriteFile>>;

    /// Opens a file for reading.
    ///
    /// # Errors
    /// Any error of the operating system.
    fn open(&self, path: &Path) -> io::Result<Box<dyn Read + Send>>;

    /// Renames a file over another, atomically; durable after [`StateFiles::sync_dir`].
    ///
    /// # Errors
    /// Any error of the operating system.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// Any error of the operating system.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Opens a directory, to make names in it durable later. What a step needs to be confirmed is opened before it: where no
    /// descriptor is left, nothing has happened yet.
    ///
    /// # Errors
    /// Any error of the operating system.
    fn open_dir(&self, dir: &Path) -> io::Result<Box<dyn SyncNames>>;

    /// Makes creations, renames and removals in a directory durable. Only where an error is no worse for the names having
    /// changed already.
    ///
    /// # Errors
    /// Those of [`StateFiles::open_dir`] and [`SyncNames::sync`].
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.open_dir(dir)?.sync()
    }
}

/// An open directory.
pub trait SyncNames: Send {
    /// Makes creations, renames and removals in it durable.
    ///
    /// # Errors
    /// Those of replacements in tests; [`DiskFiles`] ends the process, see there.
    fn sync(&self) -> io::Result<()>;
}

/// The operating system's files. A failed sync ends the process: after it nobody knows what is durable, and the kernel
/// may say yes to the next one.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskFiles;

struct DiskFile(File);

impl WriteFile for DiskFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data().or_else(abort)
    }
}

struct DiskNames(File);

impl SyncNames for DiskNames {
    fn sync(&self) -> io::Result<()> {
        self.0.sync_all().or_else(abort)
    }
}

fn abort(error: io::Error) -> io::Result<()> {
    tracing::error!(%error, "a sync of the state directory failed, the process ends");
    std::process::abort()
}

impl StateFiles for DiskFiles {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        match dir.parent() {
            Some(parent) => self.sync_dir(parent),
            None => Ok(()),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        Ok(Box::new(DiskFile(File::create(path)?)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(File::open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn open_dir(&self, dir: &Path) -> io::Result<Box<dyn SyncNames>> {
        // An empty parent is the current directory.
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        Ok(Box::new(DiskNames(File::open(dir)?)))
    }
}
