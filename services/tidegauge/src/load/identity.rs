//! Who a load is: the same file, read the same way, into the same tenant gives the same producer, on any machine and at
//! any time, so that the server knows a chunk that it has had.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use sha2::{Digest as _, Sha256};
use tidegauge_core::ids::Producer;

use super::chunk::CHUNKING;
use super::reader::Format;
use crate::failure::{Doing as _, Outcome};

/// Bytes hashed at either end of the file.
const ENDS_BYTES: u64 = 1 << 20;

/// What is known of a file and of how it is read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    /// Length of the file.
    pub(crate) bytes: u64,
    digest: [u8; 32],
}

impl Identity {
    /// Reads the ends of a file.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn of(path: &Path, format: &Format) -> Outcome<Self> {
        let read = || -> std::io::Result<(u64, Sha256)> {
            let mut file = File::open(path)?;
            let bytes = file.metadata()?.len();
            let mut hash = Sha256::new();
            std::io::copy(&mut (&mut file).take(ENDS_BYTES), &mut hash)?;
            file.seek(SeekFrom::Start(bytes.saturating_sub(ENDS_BYTES)))?;
            std::io::copy(&mut file.take(ENDS_BYTES), &mut hash)?;
            Ok((bytes, hash))
        };
        let (bytes, mut hash) = read().doing(path.display())?;
        hash.update(bytes.to_be_bytes());
        hash.update(CHUNKING.to_be_bytes());
        hash.update(mapping(format));
        Ok(Self { bytes, digest: hash.finalize().into() })
    }

    /// In hexadecimal, for the state file.
    pub(crate) fn text(&self) -> String {
        self.digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
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

/// How lines become events: another mapping of the same file gives other events, which must not pass for the same.
fn mapping(format: &Format) -> String {
    match format {
        // Whether one tenant or all are wanted changes no tenant's chunks.
        Format::Ndjson { .. } => "ndjson".to_owned(),
        Format::Csv(options) => format!("{options:?}"),
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
}
