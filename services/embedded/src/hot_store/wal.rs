//! Write-ahead files: what makes an update durable.
//!
//! ```text
//! file    wal-<number>: "TGHOTWAL", version u8, then records
//! record  length of the payload u32, CRC32C of the payload u32, CRC32C of these two u32, payload
//! payload entries, one after the other, see `entries`; then the byte 0xE0, so that no payload ends in zeros
//! ```
//! One record is one commit, written by one call and synced before the next one. So only the last record of the last
//! file can be torn (I1): the file ends inside it, or a sector of it was never written and reads as zeros. It was not
//! acknowledged and is cut off. Any other damage refuses the start.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use tidegauge_core::hot::StoreError;

use super::abort;
use super::entries::{self, Entry};
use super::values::ADVICE;

const MAGIC: &[u8; 9] = b"TGHOTWAL\x01";
const HEADER_BYTES: usize = 12;
/// Ends a payload.
const END: u8 = 0xE0;
/// A write that was not synced may leave whole sectors of zeros.
const SECTOR_BYTES: usize = 512;

/// The file that is written.
#[derive(Debug)]
pub(super) struct Wal {
    file: File,
    pub(super) path: PathBuf,
    pub(super) number: u64,
    /// Bytes that are durable.
    pub(super) bytes: u64,
    buffer: Vec<u8>,
}

fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("wal-{number:020}"))
}

/// The files there are, by number.
pub(super) fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>, StoreError> {
    let io = |e| StoreError::io(format!("listing {}", dir.display()), e);
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("wal-")).and_then(|number| number.parse().ok());
        found.extend(number.map(|number| (number, path_of(dir, number))));
    }
    found.sort();
    Ok(found)
}

impl Wal {
    /// Makes a new file, durably. On an error there is none.
    pub(super) fn create(dir: &Path, number: u64) -> Result<Self, StoreError> {
        let path = path_of(dir, number);
        let make = || {
            // In append mode a write always goes to the end, also after a cut.
            let mut file = File::options().append(true).create_new(true).open(&path)?;
            let folder = file.write_all(MAGIC).and_then(|()| File::open(dir)).inspect_err(|_| {
                // Otherwise the next try would find it, and a start would take the file before it for a whole one.
                let _ = fs::remove_file(&path);
            })?;
            Ok((file, folder))
        };
        let (file, folder) = make().map_err(|e| StoreError::io(format!("making {}", path.display()), e))?;
        sync(&file, &path);
        sync(&folder, dir);
        Ok(Self { file, path, number, bytes: MAGIC.len() as u64, buffer: Vec::new() })
    }

    /// Writes a record and makes it durable. Entries are those that `write` adds to the buffer.
    ///
    /// On an error nothing is written: what was begun is cut off again.
    pub(super) fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), StoreError> {
        self.buffer.clear();
        self.buffer.resize(HEADER_BYTES, 0);
        write(&mut self.buffer);
        self.buffer.push(END);
        let (header, payload) = self.buffer.split_at_mut(HEADER_BYTES);
        let length = u32::try_from(payload.len())
            .map_err(|_| StoreError::Invalid(format!("{} bytes in one commit", payload.len())))?;
        header[..4].copy_from_slice(&length.to_le_bytes());
        header[4..8].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
        let crc = crc32c::crc32c(&header[..8]);
        header[8..].copy_from_slice(&crc.to_le_bytes());
        if let Err(error) = self.file.write_all(&self.buffer) {
            if let Err(error) = self.file.set_len(self.bytes) {
                abort(&self.path, &error);
            }
            return Err(StoreError::io(format!("writing {}", self.path.display()), error));
        }
        sync(&self.file, &self.path);
        self.bytes += self.buffer.len() as u64;
        // One large takeover must not keep its memory for ever.
        self.buffer.shrink_to(1 << 20);
        Ok(())
    }
}

/// Makes a file durable. After a failed sync nobody knows what is, so the process ends.
fn sync(file: &File, path: &Path) {
    if let Err(error) = file.sync_data() {
        abort(path, &error);
    }
}

/// Reads a file's entries in order. In the last file a torn record at the end is cut off, durably.
pub(super) fn replay(path: &Path, last: bool, mut take: impl FnMut(Entry)) -> Result<(), StoreError> {
    let io = |doing: &str, e| StoreError::io(format!("{doing} {}", path.display()), e);
    let bytes = fs::read(path).map_err(|e| io("reading", e))?;
    let damaged =
        |at: usize, what: &str| StoreError::Corrupt(format!("{} at byte {at}: {what}; {ADVICE}", path.display()));
    let mut at = MAGIC.len();
    if !bytes.starts_with(MAGIC) {
        // The file was being made: nothing can be behind a header that is not whole.
        if last && (bytes.len() < MAGIC.len() || bytes.iter().all(|byte| *byte == 0)) {
            return fs::remove_file(path).map_err(|e| io("removing", e));
        }
        return Err(damaged(0, "it has no header that this program knows"));
    }
    if at == bytes.len() {
        // Starts without an update must not pile up files.
        return fs::remove_file(path).map_err(|e| io("removing", e));
    }
    while at < bytes.len() {
        match record(&bytes, at) {
            Record::Whole(payload) => {
                entries::decode(payload, &mut take)?;
                at += HEADER_BYTES + payload.len() + 1;
            }
            Record::Torn if last => {
                let file = File::options().write(true).open(path).map_err(|e| io("opening", e))?;
                file.set_len(at as u64).map_err(|e| io("cutting", e))?;
                sync(&file, path);
                return Ok(());
            }
            Record::Torn | Record::Damaged => return Err(damaged(at, "a record is not as it was written")),
        }
    }
    Ok(())
}

/// What stands at a place of a file.
#[derive(PartialEq, Debug)]
enum Record<'a> {
    /// A record with this payload, without its end byte.
    Whole(&'a [u8]),
    /// Not all of it was written.
    Torn,
    Damaged,
}

fn record(bytes: &[u8], at: usize) -> Record<'_> {
    let Some((header, rest)) = bytes[at..].split_first_chunk::<HEADER_BYTES>() else { return Record::Torn };
    let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if crc32c::crc32c(&header[..8]) != number(8) {
        let lost = lost_a_sector(bytes, at, at + HEADER_BYTES, bytes.len());
        return if lost { Record::Torn } else { Record::Damaged };
    }
    let length = number(0) as usize;
    let Some(payload) = rest.get(..length) else { return Record::Torn };
    if crc32c::crc32c(payload) == number(4)
        && let Some((&END, payload)) = payload.split_last()
    {
        return Record::Whole(payload);
    }
    let end = at + HEADER_BYTES + length;
    if end == bytes.len() && lost_a_sector(bytes, at, end, end) { Record::Torn } else { Record::Damaged }
}

/// Whether the part of some sector between `from` and `end` is zero, of those sectors that `from..to` touches. Neither
/// the header of a record nor its end is ever zero.
fn lost_a_sector(bytes: &[u8], from: usize, to: usize, end: usize) -> bool {
    let mut at = from;
    while at < to {
        let next = ((at / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
        if bytes[at..next].iter().all(|byte| *byte == 0) {
            return true;
        }
        at = next;
    }
    false
}

#[cfg(test)]
mod tests {
    use tidegauge_core::ids::ShardId;

    use super::*;

    fn notes(path: &Path, last: bool) -> Result<Vec<u32>, StoreError> {
        let mut found = Vec::new();
        let take = |entry| match entry {
            Entry::Hold(shard, _) => found.push(shard.0),
            Entry::Update(_) => panic!("no update was written"),
        };
        replay(path, last, take).map(|()| found)
    }

    fn written(dir: &Path, records: u32) -> PathBuf {
        let mut wal = Wal::create(dir, 7).expect("makes");
        for shard in 0..records {
            wal.append(|buffer| entries::encode_hold(ShardId(shard), 9, buffer)).expect("appends");
        }
        assert_eq!(wal.bytes, fs::metadata(&wal.path).expect("there").len());
        wal.path
    }

    /// Cut anywhere, every whole record before the cut stays, and the file can be read again; but only as last file.
    #[test]
    fn a_torn_end_is_cut_off() {
        let folder = tempfile::tempdir().expect("folder");
        let path = written(folder.path(), 3);
        assert_eq!(list(folder.path()).expect("lists"), [(7, path.clone())]);
        let whole = fs::read(&path).expect("reads");
        let record = (whole.len() - MAGIC.len()) / 3;
        for cut in MAGIC.len()..whole.len() {
            fs::write(&path, &whole[..cut]).expect("writes");
            let records = (cut - MAGIC.len()) / record;
            let expected: Vec<u32> = (0..records as u32).collect();
            if cut == MAGIC.len() {
                assert_eq!(notes(&path, true).expect("empty"), expected);
                assert!(!path.exists(), "a file without records is removed");
                continue;
            }
            if cut > MAGIC.len() + records * record {
                assert!(matches!(notes(&path, false), Err(StoreError::Corrupt(_))), "cut at {cut}");
            }
            assert_eq!(notes(&path, true).expect("torn"), expected, "cut at {cut}");
            if records > 0 {
                assert_eq!(notes(&path, false).expect("whole now"), expected, "cut at {cut}");
            }
        }
        for cut in 0..MAGIC.len() {
            fs::write(&path, &whole[..cut]).expect("writes");
            assert_eq!(notes(&path, true).expect("was being made"), [0; 0]);
            assert!(!path.exists());
        }
    }

    /// A sector that was never written tears the last record, and no other.
    #[test]
    fn a_lost_sector_tears_the_last_record_only() {
        let folder = tempfile::tempdir().expect("folder");
        let mut wal = Wal::create(folder.path(), 7).expect("makes");
        let mut ends = Vec::new();
        for first in [0, 1_000] {
            let shards = first..first + 300;
            wal.append(|buffer| shards.for_each(|shard| entries::encode_hold(ShardId(shard), 9, buffer)))
                .expect("appends");
            ends.push(wal.bytes as usize);
        }
        let whole = fs::read(&wal.path).expect("reads");
        for sector in 0..whole.len().div_ceil(SECTOR_BYTES) {
            let (from, to) = (sector * SECTOR_BYTES, ((sector + 1) * SECTOR_BYTES).min(whole.len()));
            let mut lost = whole.clone();
            lost[from..to].fill(0);
            fs::write(&wal.path, &lost).expect("writes");
            let found = notes(&wal.path, true);
            if from >= ends[0] {
                assert_eq!(found.expect("torn").len(), 300, "sector {sector}");
                assert_eq!(fs::metadata(&wal.path).expect("there").len() as usize, ends[0]);
            } else {
                assert!(matches!(found, Err(StoreError::Corrupt(_))), "sector {sector}: {found:?}");
            }
        }
    }

    /// Every flipped bit is refused, with the file's name, also in a length: the header has a checksum of its own.
    #[test]
    fn every_flipped_bit_is_refused() {
        let folder = tempfile::tempdir().expect("folder");
        let path = written(folder.path(), 3);
        let whole = fs::read(&path).expect("reads");
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &flipped).expect("writes");
            match notes(&path, true) {
                Err(StoreError::Corrupt(text)) => assert!(text.contains(path.to_str().expect("text"))),
                other => panic!("bit {bit}: {other:?}"),
            }
            assert_eq!(fs::read(&path).expect("reads"), flipped, "a refused file stays as it is");
        }
    }
}
