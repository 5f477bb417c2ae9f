//! Who a load is: the same file, read the same way, into the same tenant gives the same producer, on any machine and at
//! any time, so that the server knows a chunk that it has had.
//!
//! Every byte counts: were two files with different lines one load, the server would take chunks of the second for chunks
//! that it has had. So the file is read once before, at the speed of the disk or of memory, by several threads.

use std::fs::File;
use std::num::NonZero;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};
use tidegauge_core::ids::Producer;
use twox_hash::XxHash3_128;

use super::chunk::CHUNKING;
use super::reader::Format;
use crate::failure::{Doing as _, Outcome};

/// Bytes hashed together, by one thread. Part of the definition of the digest.
const PIECE_BYTES: u64 = 16 << 20;
/// Bytes read at once: they stay in the cache of a core.
const READ_BYTES: usize = 256 << 10;
/// Threads at most: what is not in memory is read no faster by more.
const THREADS_MAX: usize = 4;

/// What tells a file that has changed from one that has not, without reading it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stamp {
    /// Length of the file.
    pub(crate) bytes: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    /// Of a file as it is now.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn of(path: &Path) -> Outcome<Self> {
        let metadata = std::fs::metadata(path).doing(path.display())?;
        Ok(Self { bytes: metadata.len(), modified: metadata.modified().ok() })
    }

    /// Whether the file is still as it was.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn holds(&self, path: &Path) -> Outcome<bool> {
        Ok(Self::of(path)? == *self)
    }
}

/// What is known of a file and of how it is read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    /// Length of the file.
    pub(crate) bytes: u64,
    content: [u8; 32],
    digest: [u8; 32],
}

impl Identity {
    /// Reads a file. Blocks.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn of(path: &Path, format: &Format) -> Outcome<Self> {
        let file = File::open(path).doing(path.display())?;
        let bytes = file.metadata().doing(path.display())?.len();
        let mut hash = Sha256::new();
        hash.update(bytes.to_be_bytes());
        for piece in pieces(&file, bytes).doing(path.display())? {
            hash.update(piece.to_be_bytes());
        }
        let content: [u8; 32] = hash.finalize().into();
        let mut hash = Sha256::new();
        hash.update(content);
        hash.update(CHUNKING.to_be_bytes());
        hash.update(mapping(format));
        Ok(Self { bytes, content, digest: hash.finalize().into() })
    }

    /// Digest of the content alone, in hexadecimal, for the state file.
    pub(crate) fn content(&self) -> String {
        hexadecimal(&self.content)
    }

    /// In hexadecimal, for the state file.
    pub(crate) fn text(&self) -> String {
        hexadecimal(&self.digest)
    }

    /// The 16 bytes of a tenant's producer id: a kept one.
    pub(crate) fn producer(&self, tenant: &str) -> [u8; 16] {
        let mut hash = Sha256::new();
        hash.update(self.digest);
        hash.update(tenant);
        let digest: [u8; 32] = hash.finalize().into();
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        id[0] = Producer::KEPT_PREFIX;
        id
    }
}

/// The first half of a digest: enough to tell files apart.
fn hexadecimal(digest: &[u8; 32]) -> String {
    digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The digests of the pieces of a file, in order.
fn pieces(file: &File, bytes: u64) -> std::io::Result<Vec<u128>> {
    let count = bytes.div_ceil(PIECE_BYTES);
    let digests = Mutex::new(vec![0; count as usize]);
    let next = AtomicU64::new(0);
    let work = || -> std::io::Result<()> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let piece = next.fetch_add(1, Ordering::Relaxed);
            if piece >= count {
                return Ok(());
            }
            let mut hasher = XxHash3_128::new();
            let (mut at, end) = (piece * PIECE_BYTES, bytes.min((piece + 1) * PIECE_BYTES));
            while at < end {
                let part = &mut buffer[..READ_BYTES.min((end - at) as usize)];
                file.read_exact_at(part, at)?;
                hasher.write(part);
                at += part.len() as u64;
            }
            let digest = hasher.finish_128();
            if let Ok(mut digests) = digests.lock() {
                digests[piece as usize] = digest;
            }
        }
    };
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let helpers = cores.min(THREADS_MAX).min(count as usize).saturating_sub(1);
    thread::scope(|scope| {
        let helping: Vec<_> = (0..helpers).map(|_| scope.spawn(work)).collect();
        let own = work();
        let joined = helping.into_iter().map(|thread| match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.fold(own, Result::and)
    })?;
    Ok(digests.into_inner().unwrap_or_default())
}

/// How lines become events: another mapping of the same file gives other events, which must not pass for the same.
fn mapping(format: &Format) -> String {
    match format {
        // Whether one tenant or all are wanted changes no tenant's chunks.
        Format::Ndjson { .. } => "ndjson".to_owned(),
        Format::Csv(options) => options.mapping(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The id depends on tenant, content, length and mapping, and on nothing else; it is a kept one.
    #[test]
    fn ids_are_derived() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let all = Format::Ndjson { tenant: None };
        let one = Format::Ndjson { tenant: Some("a".to_owned()) };
        let first = Identity::of(&write("1", "x\ny\n"), &all).unwrap();
        assert_eq!(first, Identity::of(&write("2", "x\ny\n"), &one).unwrap());
        assert_ne!(first, Identity::of(&write("3", "x\nz\n"), &all).unwrap());
        assert_ne!(first, Identity::of(&write("4", "x\ny\n\n"), &all).unwrap());
        assert_ne!(first.producer("a"), first.producer("b"));
        assert_eq!(first.producer("a"), first.producer("a"));
        assert!(Producer::from_bytes(first.producer("a")).kept);
    }

    /// A change of any byte, in any piece, is another file; the mapping is no part of the content.
    #[test]
    fn every_byte_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large");
        let format = Format::Ndjson { tenant: None };
        let mut content = vec![b'x'; 2 * PIECE_BYTES as usize + 7];
        std::fs::write(&path, &content).unwrap();
        let first = Identity::of(&path, &format).unwrap();
        assert_eq!(first, Identity::of(&path, &format).unwrap());
        let middle = PIECE_BYTES as usize;
        for at in [0, 5_000_000, middle - 1, middle, middle + READ_BYTES, content.len() - 1] {
            content[at] = b'y';
            std::fs::write(&path, &content).unwrap();
            let changed = Identity::of(&path, &format).unwrap();
            assert!(changed.text() != first.text() && changed.content() != first.content(), "byte {at}");
            content[at] = b'x';
        }
    }

    /// A file that is written to while it is read is noticed.
    #[test]
    fn a_change_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("growing");
        std::fs::write(&path, "a").unwrap();
        let before = Stamp::of(&path).unwrap();
        assert!(before.holds(&path).unwrap());
        std::fs::write(&path, "ab").unwrap();
        assert!(!before.holds(&path).unwrap());
    }
}
