//! Opening a log: its description, and each shard's chain of segments.
//!
//! The file `format` says that this is a log and how many shards it has. It is written last when a log is made, so a
//! directory without it holds no acknowledged record.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;

use tidegauge_core::ShardId;
use tidegauge_core::log::StoreError;

use super::format::{SEGMENT_HEADER_BYTES, SegmentHeader};
use super::options::LogOptions;
use super::recovery::find_end;
use super::segment::{
    ADVICE, CreateError, Segment, create_segment, damaged, failed, open_sealed, read_header, segment_bases,
    segment_path, shard_dir,
};
use super::shard::Opened;
use super::tally::Tally;
use crate::files::{FileHandle, Files, read_full, write_full, write_whole};

const FORMAT_FILE: &str = "format";
/// More shards than this is a mistake: each has two threads' worth of work and an open file.
pub const SHARDS_MAX: u32 = 1_024;

/// Makes the log if there is none, and checks that it has the shards asked for.
pub(super) fn prepare(options: &LogOptions, files: &dyn Files, now_ns: i64) -> Result<(), StoreError> {
    if options.shards == 0 || options.shards > SHARDS_MAX {
        return Err(StoreError::Invalid(format!("a log has 1 to {SHARDS_MAX} shards, not {}", options.shards)));
    }
    if options.segment_bytes == 0 || options.queue_bytes > u32::MAX as usize {
        return Err(StoreError::Invalid("segments hold at least a byte and queues less than 4 GiB".to_owned()));
    }
    let dir = &options.dir;
    files.create_dir_all(dir).map_err(|error| failed("make", dir, error))?;
    match read_description(files, &dir.join(FORMAT_FILE))? {
        Some(shards) if shards == options.shards => Ok(()),
        Some(shards) => Err(StoreError::Invalid(format!(
            "the log in {} has {shards} shards, not {}: the number is fixed when a log is made; set it back, or start with \
             another data directory",
            dir.display(),
            options.shards
        ))),
        None => create(options, files, now_ns),
    }
}

/// The description as text: it checks itself, and a person can read it.
fn description(shards: u32) -> String {
    let text = format!("tidegauge log\nversion 1\nshards {shards}\n");
    let checksum = crc32c::crc32c(text.as_bytes());
    format!("{text}crc32c {checksum:08x}\n")
}

fn read_description(files: &dyn Files, path: &Path) -> Result<Option<u32>, StoreError> {
    let file = match files.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|error| failed("open", path, error))?,
    };
    let mut bytes = vec![0; 1_024];
    let read = read_full(&*file, &mut bytes, 0).map_err(|error| failed("read", path, error))?;
    let text = String::from_utf8_lossy(&bytes[..read]);
    let shards = text.lines().find_map(|line| line.strip_prefix("shards ")?.parse().ok());
    match shards {
        Some(shards) if description(shards) == text => Ok(Some(shards)),
        _ => Err(damaged(path, 0, "the description of the log is not what was written")),
    }
}

fn create(options: &LogOptions, files: &dyn Files, now_ns: i64) -> Result<(), StoreError> {
    let dir = &options.dir;
    for name in files.list(dir).map_err(|error| failed("list", dir, error))? {
        if name.starts_with("shard-") {
            remove_unfinished(files, &dir.join(name))?;
        }
    }
    for shard in (0..options.shards).map(ShardId) {
        let shard_dir = shard_dir(dir, shard);
        files.create_dir_all(&shard_dir).map_err(|error| failed("make", &shard_dir, error))?;
        let header = SegmentHeader { shard, base: 0, created_ns: now_ns };
        create_segment(files, &shard_dir, header).map_err(|error| match error {
            CreateError::Refused(source) | CreateError::Sync(source) => {
                failed("begin a segment in", &shard_dir, source)
            }
        })?;
    }
    files.sync_dir(dir).map_err(|error| failed("sync", dir, error))?;
    let path = dir.join(FORMAT_FILE);
    write_whole(files, &path, description(options.shards).as_bytes()).map_err(|error| failed("write", &path, error))?;
    match dir.parent() {
        Some(parent) if parent != Path::new("") => {
            files.sync_dir(parent).map_err(|error| failed("sync", parent, error))
        }
        _ => Ok(()),
    }
}

/// Removes what an interrupted first start left; a shard with records is none of that.
fn remove_unfinished(files: &dyn Files, dir: &Path) -> Result<(), StoreError> {
    for base in segment_bases(files, dir)? {
        let path = segment_path(dir, base);
        let file = files.open(&path).map_err(|error| failed("open", &path, error))?;
        if base != 0 || find_end(&*file, &path, base, &mut Tally::default())?.offset > SEGMENT_HEADER_BYTES as u64 {
            return Err(damaged(&path, 0, "there are records, but the log's file named format is missing"));
        }
        files.remove(&path).map_err(|error| failed("remove", &path, error))?;
    }
    Ok(())
}

/// Opens a shard: checks the chain of its segments and every record of the last one ([`super::check`] goes through the
/// others), cuts a torn tail, and makes
/// durable what a killed process had written and not synced.
pub(super) fn open_shard(
    options: &LogOptions,
    files: &dyn Files,
    shard: ShardId,
    now_ns: i64,
) -> Result<Opened, StoreError> {
    let dir = shard_dir(&options.dir, shard);
    let bases = segment_bases(files, &dir)?;
    let Some((last, sealed)) = bases.split_last() else {
        return Err(damaged(&dir, 0, "the shard has no segment"));
    };
    let mut segments = VecDeque::with_capacity(bases.len());
    for (base, next) in sealed.iter().zip(&bases[1..]) {
        let path = segment_path(&dir, *base);
        let (_, header) = open_sealed(files, &path, shard, *base, *next, ADVICE)?;
        segments.push_back(Segment { base: *base, created_ns: header.created_ns, path, active: None, tally: None });
    }

    let path = segment_path(&dir, *last);
    let file = files.open(&path).map_err(|error| failed("open", &path, error))?;
    let created_ns = match read_header(&*file, &path, shard, *last, ADVICE)? {
        Some(header) => header.created_ns,
        None => rewrite_header(&*file, &path, SegmentHeader { shard, base: *last, created_ns: now_ns })?,
    };
    let mut tally = Tally::default();
    let end = find_end(&*file, &path, *last, &mut tally)?;
    let end_position = last + end.offset - SEGMENT_HEADER_BYTES as u64;
    for (_, known) in options.known.iter().filter(|(id, _)| *id == shard) {
        let known = super::parse_position(known)?.unwrap_or(0);
        if known > end_position {
            let what = format!("the log ends at position {end_position}, but position {known} is known to be durable");
            return Err(damaged(&path, end.offset, &what));
        }
    }
    if end.torn {
        let bytes = file.len().map_err(|error| failed("read", &path, error))?.saturating_sub(end.offset);
        tracing::warn!(shard = shard.0, path = %path.display(), offset = end.offset, bytes, "a torn tail is cut: the last write was not finished");
        file.set_len(end.offset).map_err(|error| failed("cut", &path, error))?;
    }
    file.sync_all().map_err(|error| failed("sync", &path, error))?;
    files.sync_dir(&dir).map_err(|error| failed("sync", &dir, error))?;
    let filled = file.len().map_err(|error| failed("read", &path, error))?;
    segments.push_back(Segment { base: *last, created_ns, path, active: Some(file), tally: None });
    Ok(Opened { segments, end: end_position, filled, tally })
}

/// A last segment that ends inside its header holds no record; the header says nothing that the name does not.
fn rewrite_header(file: &dyn FileHandle, path: &Path, header: SegmentHeader) -> Result<i64, StoreError> {
    tracing::warn!(path = %path.display(), "a segment that ends inside its header is begun again");
    let written = file.set_len(0).and_then(|()| write_full(file, &header.encode(), 0)).and_then(|()| file.sync_all());
    written.map_err(|error| failed("write", path, error))?;
    Ok(header.created_ns)
}

/// Opens all shards, each on a thread of its own.
pub(super) fn open_shards(
    options: &LogOptions,
    files: &Arc<dyn Files>,
    now_ns: i64,
) -> Result<Vec<Opened>, StoreError> {
    std::thread::scope(|scope| {
        let opening: Vec<_> = (0..options.shards)
            .map(ShardId)
            .map(|shard| scope.spawn(move || open_shard(options, &**files, shard, now_ns)))
            .collect();
        let joined = opening.into_iter().map(|thread| match thread.join() {
            Ok(opened) => opened,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect()
    })
}
