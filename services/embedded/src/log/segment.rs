//! Segment files of a shard: names, creation, and the chain they form.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidegauge_core::ShardId;
use tidegauge_core::log::StoreError;

use super::format::{SEGMENT_HEADER_BYTES, SegmentHeader};
use super::tally::Tally;
use crate::files::{FileHandle, Files, read_full, write_full};

const SUFFIX: &str = ".seg";
const UNFINISHED_SUFFIX: &str = ".new";

/// What to do about damage; part of every message that refuses a start or a read.
pub(super) const ADVICE: &str = "restore the data directory from a backup; nothing was changed or skipped";
/// The same for the records of a sealed segment at the start. Most likely they are processed, and nothing needs them.
pub(super) const ADVICE_AT_START: &str = "put this file back from a copy; or set log.start_check_bytes = 0, and the server starts without \
     checking older segments: what a checkpoint has seen is processed, the rest is checked when it is read";
/// The same while the log runs.
pub(super) const ADVICE_WHILE_RUNNING: &str = "put this file back from a copy, or leave the server running until retention deletes it: what a \
     checkpoint has seen is processed";

/// A segment of a shard.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    /// Position of its first record.
    pub(super) base: u64,
    /// When it was begun; its predecessor's records are all older.
    pub(super) created_ns: i64,
    pub(super) path: PathBuf,
    /// The open file of the segment that is written; sealed ones are opened when they are read.
    pub(super) active: Option<Arc<dyn FileHandle>>,
    /// Whose bytes it holds, once it is sealed; of one from before the start once it has been checked.
    pub(super) tally: Option<Arc<Tally>>,
}

impl Segment {
    /// Offset in the file of a position.
    pub(super) fn offset(&self, position: u64) -> u64 {
        SEGMENT_HEADER_BYTES as u64 + position - self.base
    }
}

/// Damage that is met at the start or by a reader, with place and advice.
pub(super) fn damaged(path: &Path, offset: u64, what: &str) -> StoreError {
    damaged_with(ADVICE, path, offset, what)
}

/// Damage, with place and other advice.
pub(super) fn damaged_with(advice: &str, path: &Path, offset: u64, what: &str) -> StoreError {
    StoreError::Corrupt(format!("{} at offset {offset}: {what}; {advice}", path.display()))
}

/// Wraps an error of the file layer.
pub(super) fn failed(doing: &str, path: &Path, source: io::Error) -> StoreError {
    StoreError::io(format!("{doing} {}", path.display()), source)
}

pub(super) fn shard_dir(log: &Path, shard: ShardId) -> PathBuf {
    log.join(format!("shard-{:04}", shard.0))
}

pub(super) fn segment_path(dir: &Path, base: u64) -> PathBuf {
    dir.join(format!("{base:020}{SUFFIX}"))
}

/// Bases of the segments in a directory, ascending; also removes what was begun and never finished.
pub(super) fn segment_bases(files: &dyn Files, dir: &Path) -> Result<Vec<u64>, StoreError> {
    let names = files.list(dir).map_err(|error| failed("list", dir, error))?;
    let mut bases = Vec::new();
    for name in names {
        if name.ends_with(UNFINISHED_SUFFIX) {
            let path = dir.join(&name);
            files.remove(&path).map_err(|error| failed("remove unfinished", &path, error))?;
        } else if let Some(digits) = name.strip_suffix(SUFFIX) {
            match digits.parse() {
                Ok(base) if digits.len() == 20 => bases.push(base),
                _ => return Err(damaged(&dir.join(&name), 0, "the name of the segment is not a position")),
            }
        }
    }
    bases.sort_unstable();
    Ok(bases)
}

/// Reads and checks the header of a segment; `None` when the file is too short to hold one.
pub(super) fn read_header(
    file: &dyn FileHandle,
    path: &Path,
    shard: ShardId,
    base: u64,
    advice: &str,
) -> Result<Option<SegmentHeader>, StoreError> {
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    let read = read_full(file, &mut bytes, 0).map_err(|error| failed("read", path, error))?;
    if read < bytes.len() {
        return Ok(None);
    }
    let header = SegmentHeader::decode(&bytes).map_err(|what| damaged_with(advice, path, 0, &what))?;
    if header.shard != shard || header.base != base {
        let what =
            format!("the segment is of shard {} and position {}, not what its name says", header.shard, header.base);
        return Err(damaged_with(advice, path, 0, &what));
    }
    Ok(Some(header))
}

/// A segment that was complete when the log was opened.
#[derive(Clone, Debug)]
pub(super) struct Sealed {
    pub(super) shard: ShardId,
    /// Position of its first record.
    pub(super) base: u64,
    /// Position of the first record of the next segment.
    pub(super) next: u64,
    pub(super) created_ns: i64,
    pub(super) path: PathBuf,
}

impl Sealed {
    /// Bytes of its records.
    pub(super) fn bytes(&self) -> u64 {
        self.next - self.base
    }
}

/// Opens the segment of positions `base..next`, whose header must check and whose length must fit.
pub(super) fn open_sealed(
    files: &dyn Files,
    path: &Path,
    shard: ShardId,
    base: u64,
    next: u64,
    advice: &str,
) -> Result<(Arc<dyn FileHandle>, SegmentHeader), StoreError> {
    let file = files.open(path).map_err(|error| failed("open", path, error))?;
    let Some(header) = read_header(&*file, path, shard, base, advice)? else {
        return Err(damaged_with(advice, path, 0, "the file ends inside the segment's header"));
    };
    let expected = SEGMENT_HEADER_BYTES as u64 + (next - base);
    let bytes = file.len().map_err(|error| failed("read", path, error))?;
    if bytes != expected {
        let what = format!(
            "the segment has {bytes} bytes, but the next one begins where {expected} would end: it was cut, or one between them \
             is missing"
        );
        return Err(damaged_with(advice, path, bytes.min(expected), &what));
    }
    Ok((file, header))
}

/// Why a segment could not be begun.
#[derive(Debug)]
pub(super) enum CreateError {
    /// Nothing of it is left, or what is left is removed at the next start.
    Refused(io::Error),
    /// A sync failed: nobody knows what is durable.
    Sync(io::Error),
}

/// Begins a segment: beside the others first, so that a name ending in `.seg` always has a whole header.
pub(super) fn create_segment(
    files: &dyn Files,
    dir: &Path,
    header: SegmentHeader,
) -> Result<(Segment, Arc<dyn FileHandle>), CreateError> {
    let path = segment_path(dir, header.base);
    let unfinished = path.with_extension(&UNFINISHED_SUFFIX[1..]);
    let names = files.open_dir(dir).map_err(CreateError::Refused)?;
    let file = begin(files, &unfinished, header).inspect_err(|_| {
        // Best effort: the next start removes it too.
        let _ = files.remove(&unfinished);
    })?;
    files.rename(&unfinished, &path).map_err(CreateError::Refused)?;
    names.sync().map_err(CreateError::Sync)?;
    let segment = Segment {
        base: header.base,
        created_ns: header.created_ns,
        path,
        active: Some(Arc::clone(&file)),
        tally: None,
    };
    Ok((segment, file))
}

fn begin(files: &dyn Files, path: &Path, header: SegmentHeader) -> Result<Arc<dyn FileHandle>, CreateError> {
    match files.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(CreateError::Refused(error)),
        _ => {}
    }
    let file = files.create(path).map_err(CreateError::Refused)?;
    write_full(&*file, &header.encode(), 0).map_err(CreateError::Refused)?;
    file.sync_all().map_err(CreateError::Sync)?;
    Ok(file)
}
