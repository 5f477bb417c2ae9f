//! The file layer under the log, injectable so that tests can fill the disk, fail a sync or cut the power.
//!
//! [`DiskFiles`] is the operating system's file system; [`MemoryFiles`] keeps everything in memory and misbehaves on
//! demand. The traits hold what the log needs and no more.

mod disk;
mod memory;

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

pub use disk::DiskFiles;
pub use memory::{Faults, MemoryFiles};

/// Room on the disk that holds a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// Bytes that this process may still take.
    pub available: u64,
    /// Bytes of the whole disk.
    pub total: u64,
}

/// A file system. Calls block: they belong on threads of their own.
///
/// Names (`create`, `rename`, `remove`) are durable once [`Files::sync_dir`] of their directory has returned, content
/// once the file's own sync has.
pub trait Files: Send + Sync + Debug + 'static {
    /// Makes a new file, open for reading and writing; an existing one is `AlreadyExists`.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn FileHandle>>;

    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn FileHandle>>;

    /// Makes a directory and those above it; one that exists is fine.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Names in a directory, sorted; a directory that does not exist is `NotFound`.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Renames a file within its directory, replacing one that has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Handles that are open stay usable.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Opens a directory, to make the names in it durable later. What a step needs to be confirmed is opened before it: where
    /// no descriptor is left, nothing has happened yet.
    fn open_dir(&self, dir: &Path) -> io::Result<Box<dyn DirHandle>>;

    /// Makes the names in a directory durable. Only where an error is no worse for the names having changed already.
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.open_dir(dir)?.sync()
    }

    /// Room on the disk that holds `path`.
    fn space(&self, path: &Path) -> io::Result<Space>;
}

/// An open directory.
pub trait DirHandle: Send + Sync + Debug {
    /// Makes the names in it durable.
    fn sync(&self) -> io::Result<()>;
}

/// An open file.
pub trait FileHandle: Send + Sync + Debug {
    /// Bytes in the file.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Reads at an offset; may read less than asked, and reads nothing at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes at an offset; may write less than given. Safe beside any other call.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Writes several pieces one after the other; may write less than given. One caller at a time.
    fn write_vectored_at(&self, pieces: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;

    /// Cuts the file, or extends it with zeros.
    fn set_len(&self, bytes: u64) -> io::Result<()>;

    /// Makes the content durable, and the length if it is needed to read the content (`fdatasync`).
    fn sync_data(&self) -> io::Result<()>;

    /// Makes content and all metadata durable (`fsync`).
    fn sync_all(&self) -> io::Result<()>;
}

/// Whether no descriptor was free: the process's (EMFILE) or the machine's (ENFILE). It passes; nothing has happened.
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    /// Linux and the BSDs agree on both.
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE))
}

/// Reads until the buffer is full or the file ends; the number of bytes read.
pub fn read_full(file: &dyn FileHandle, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes all bytes at an offset.
pub fn write_full(file: &dyn FileHandle, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match file.write_at(&bytes[done..], offset + done as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => done += written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes all pieces one after the other at an offset. One caller at a time and file.
pub fn write_vectored_full(file: &dyn FileHandle, mut pieces: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    // Leading empty pieces would look like a write that makes no progress.
    IoSlice::advance_slices(&mut pieces, 0);
    while !pieces.is_empty() {
        match file.write_vectored_at(pieces, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                IoSlice::advance_slices(&mut pieces, written);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes a small file whole or not at all: beside it first, then renamed, both durable on return.
pub fn write_whole(files: &dyn Files, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let dir = files.open_dir(path.parent().unwrap_or(Path::new(".")))?;
    match files.remove(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = files.create(&beside)?;
    write_full(&*file, bytes, 0)?;
    file.sync_all()?;
    files.rename(&beside, path)?;
    dir.sync()
}
