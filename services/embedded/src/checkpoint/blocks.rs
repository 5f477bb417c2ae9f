//! Files of entries, sorted by (keyspace, key): deltas (an epoch's changes) and bases (everything up to an epoch).
//!
//! ```text
//! header   "TGSTATE1", lineage u128, epoch u64, CRC32C of these u32
//! section  keyspace u8, zero × 3, entries u32, bytes u32, CRC32C of the bytes u32, CRC32C of this header u32,
//!          then per entry: key length u16, value length u32 (all ones: deleted), key, value
//! ```
//! Numbers are little-endian. A keyspace has a section, or several if it is large, so that a file can be read and
//! written in pieces. Length and CRC32C of the whole file stand in the manifest.

use std::io::Read;
use std::path::PathBuf;

use bytes::Bytes;
use tidegauge_core::checkpoint::{Keyspace, StoreError};
use tidegauge_core::ids::{Epoch, LineageId};

use super::files::WriteFile;
use super::manifest::DataFile;

const MAGIC: &[u8; 8] = b"TGSTATE1";
const HEADER_BYTES: usize = 36;
const SECTION_HEADER_BYTES: usize = 20;
/// A section is written once it has this many bytes: what a merge holds in memory per file.
const SECTION_BYTES: usize = 256 << 10;
/// Value length that marks a deletion.
const DELETED: u32 = u32::MAX;
/// Longest key.
pub(super) const KEY_BYTES_MAX: usize = u16::MAX as usize;
/// Longest value: a section with one entry must fit the length field.
pub(super) const VALUE_BYTES_MAX: usize = (u32::MAX >> 1) as usize;

/// What to do about damage.
pub(super) const ADVICE: &str = "restore the state directory from a backup, or move it away to begin a new history \
                                 (hours already published by the old one are then refused until they are moved too)";

/// An entry of a file; without a value it is deleted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) keyspace: Keyspace,
    pub(super) key: Bytes,
    pub(super) value: Option<Bytes>,
}

/// Writes a file of entries.
pub(super) struct BlockWriter {
    file: Box<dyn WriteFile>,
    name: String,
    epoch: Epoch,
    bytes: u64,
    crc: u32,
    keyspace: Keyspace,
    entries: u32,
    /// The section being filled, with room for its header.
    section: Vec<u8>,
}

impl BlockWriter {
    pub(super) fn begin(
        file: Box<dyn WriteFile>,
        name: String,
        lineage: LineageId,
        epoch: Epoch,
    ) -> std::io::Result<Self> {
        let section = Vec::with_capacity(SECTION_BYTES + SECTION_HEADER_BYTES);
        let mut writer = Self { file, name, epoch, bytes: 0, crc: 0, keyspace: 0, entries: 0, section };
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend(MAGIC);
        header.extend(lineage.0.to_le_bytes());
        header.extend(epoch.to_le_bytes());
        header.extend(crc32c::crc32c(&header).to_le_bytes());
        writer.append(&header)?;
        Ok(writer)
    }

    /// Adds an entry; the caller brings them sorted.
    pub(super) fn add(&mut self, keyspace: Keyspace, key: &[u8], value: Option<&[u8]>) -> std::io::Result<()> {
        let full = self.section.len() >= SECTION_BYTES + SECTION_HEADER_BYTES;
        if self.entries > 0 && (self.keyspace != keyspace || full) {
            self.end_section()?;
        }
        if self.entries == 0 {
            self.keyspace = keyspace;
            self.section.resize(SECTION_HEADER_BYTES, 0);
        }
        self.entries += 1;
        self.section.extend((key.len() as u16).to_le_bytes());
        self.section.extend(value.map_or(DELETED, |value| value.len() as u32).to_le_bytes());
        self.section.extend(key);
        self.section.extend(value.unwrap_or_default());
        Ok(())
    }

    /// Ends the file and makes it durable (not yet its name).
    pub(super) fn finish(mut self) -> std::io::Result<DataFile> {
        if self.entries > 0 {
            self.end_section()?;
        }
        self.file.sync()?;
        Ok(DataFile { name: self.name, epoch: self.epoch, bytes: self.bytes, crc32c: self.crc })
    }

    fn end_section(&mut self) -> std::io::Result<()> {
        let mut section = std::mem::take(&mut self.section);
        let (header, payload) = section.split_at_mut(SECTION_HEADER_BYTES);
        header[0] = self.keyspace;
        header[4..8].copy_from_slice(&self.entries.to_le_bytes());
        header[8..12].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        header[12..16].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
        let crc = crc32c::crc32c(&header[..16]);
        header[16..20].copy_from_slice(&crc.to_le_bytes());
        self.append(&section)?;
        section.clear();
        section.shrink_to(SECTION_BYTES + SECTION_HEADER_BYTES);
        self.section = section;
        self.entries = 0;
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.append(bytes)?;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

/// Reads a file of entries in pieces. Everything is checked on the way; the last check is behind the last entry, so
/// nothing may be used before all was read.
pub(super) struct BlockReader {
    file: Box<dyn Read + Send>,
    path: PathBuf,
    expected: DataFile,
    /// Bytes read so far.
    at: u64,
    crc: u32,
    keyspace: Keyspace,
    /// Entries of the section that were not returned yet.
    entries: u32,
    section: Bytes,
    /// The entry returned last.
    last: Option<(Keyspace, Bytes)>,
}

impl BlockReader {
    pub(super) fn begin(
        file: Box<dyn Read + Send>,
        path: PathBuf,
        expected: DataFile,
        lineage: LineageId,
    ) -> Result<Self, StoreError> {
        let section = Bytes::new();
        let mut reader = Self { file, path, expected, at: 0, crc: 0, keyspace: 0, entries: 0, section, last: None };
        let header = reader.read(HEADER_BYTES)?;
        let (covered, crc) = header.split_at(HEADER_BYTES - 4);
        if crc32c::crc32c(covered).to_le_bytes() != crc || covered[..8] != *MAGIC {
            return Err(reader.damaged(0, "its header is not whole"));
        }
        let epoch = reader.expected.epoch;
        if covered[8..24] != lineage.0.to_le_bytes() || covered[24..] != epoch.to_le_bytes() {
            return Err(reader.damaged(0, "it belongs to another history or epoch"));
        }
        Ok(reader)
    }

    /// The next entry, `None` behind the last one once the whole file has proved to be as written.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, StoreError> {
        if self.entries == 0 {
            if !self.section.is_empty() {
                return Err(self.damaged(self.at, "a section is longer than its entries"));
            }
            if self.at == self.expected.bytes {
                return self.end().map(|()| None);
            }
            self.begin_section()?;
        }
        self.entries -= 1;
        let entry = self.parse_entry().ok_or_else(|| self.damaged(self.at, "a section is shorter than its entries"))?;
        let place = (entry.keyspace, entry.key.clone());
        if self.last.as_ref().is_some_and(|last| *last >= place) {
            return Err(self.damaged(self.at, "its entries are not in order"));
        }
        self.last = Some(place);
        Ok(Some(entry))
    }

    fn begin_section(&mut self) -> Result<(), StoreError> {
        let from = self.at;
        let header = self.read(SECTION_HEADER_BYTES)?;
        let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let whole = crc32c::crc32c(&header[..16]) == number(16) && header[1..4] == [0; 3] && number(4) > 0;
        if !whole {
            return Err(self.damaged(from, "a section's header is not whole"));
        }
        self.keyspace = header[0];
        self.entries = number(4);
        self.section = Bytes::from(self.read(number(8) as usize)?);
        if crc32c::crc32c(&self.section) != number(12) {
            return Err(self.damaged(from, "a section's checksum does not match"));
        }
        Ok(())
    }

    fn parse_entry(&mut self) -> Option<Entry> {
        let mut take = |bytes: usize| (self.section.len() >= bytes).then(|| self.section.split_to(bytes));
        let lengths = take(6)?;
        let key = usize::from(u16::from_le_bytes([lengths[0], lengths[1]]));
        let value = u32::from_le_bytes([lengths[2], lengths[3], lengths[4], lengths[5]]);
        let key = take(key)?;
        let value = if value == DELETED { None } else { Some(take(value as usize)?) };
        Some(Entry { keyspace: self.keyspace, key, value })
    }

    /// Reads exactly so many bytes, never past the length that the manifest says.
    fn read(&mut self, bytes: usize) -> Result<Vec<u8>, StoreError> {
        if self.expected.bytes - self.at < bytes as u64 {
            return Err(self.damaged(self.at, "it ends inside a section"));
        }
        let mut buffer = vec![0; bytes];
        match self.file.read_exact(&mut buffer) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                let what = format!("it is shorter than the {} bytes that were written", self.expected.bytes);
                return Err(self.damaged(self.at, &what));
            }
            Err(error) => return Err(StoreError::io(format!("reading {}", self.path.display()), error)),
        }
        self.crc = crc32c::crc32c_append(self.crc, &buffer);
        self.at += bytes as u64;
        Ok(buffer)
    }

    fn end(&mut self) -> Result<(), StoreError> {
        let more = self.file.read(&mut [0]);
        let more = more.map_err(|e| StoreError::io(format!("reading {}", self.path.display()), e))?;
        if more > 0 {
            return Err(self.damaged(self.at, "it is longer than what was written"));
        }
        if self.crc != self.expected.crc32c {
            return Err(self.damaged(0, "its checksum is not the manifest's"));
        }
        Ok(())
    }

    fn damaged(&self, at: u64, what: &str) -> StoreError {
        StoreError::Corrupt(format!("{} at byte {at}: {what}; {ADVICE}", self.path.display()))
    }
}
