//! What the tests of the log share.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegauge_core::clock::{Clock, ManualClock};
use tidegauge_core::log::{Damage, EventLog, LogRecord, NewRecord, Position, StoreError};
use tidegauge_core::{Key, ShardId, TenantId};
use tidegauge_embedded::files::MemoryFiles;
use tidegauge_embedded::log::{AbortHook, DiskReserve, EmbeddedLog, LogOptions};

pub(crate) const DIR: &str = "/data/log";
pub(crate) const SHARD: ShardId = ShardId(0);

pub(crate) fn clock() -> Arc<dyn Clock> {
    Arc::new(ManualClock::at(1_772_434_800_000_000_000))
}

/// Small segments without zeros ahead, no reserve; an abort is a panic of the thread that wants it.
pub(crate) fn options(shards: u32) -> LogOptions {
    LogOptions {
        shards,
        segment_bytes: 64 << 10,
        write_ahead_bytes: 0,
        reserve: DiskReserve::NONE,
        abort: AbortHook::new(|reason| panic!("abort: {reason}")),
        ..LogOptions::new(DIR)
    }
}

/// A hook that remembers why it was called.
pub(crate) fn remembering_hook() -> (AbortHook, Arc<Mutex<Vec<String>>>) {
    let reasons = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&reasons);
    (AbortHook::new(move |reason| kept.lock().unwrap().push(reason.to_owned())), reasons)
}

pub(crate) fn open(options: LogOptions, files: &MemoryFiles) -> Result<EmbeddedLog, StoreError> {
    EmbeddedLog::open(options, Arc::new(files.clone()), clock())
}

/// Runs a test's future on a small runtime.
pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(future)
}

pub(crate) fn key(tenant: &str) -> Key {
    Key::of(TenantId::parse(tenant).unwrap())
}

pub(crate) fn record(tenant: &str, payload: impl Into<Vec<u8>>) -> NewRecord {
    NewRecord { key: key(tenant), payload: payload.into().into() }
}

/// Bytes that look like nothing in particular.
pub(crate) fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

/// Appends one record in a commit of its own.
pub(crate) async fn append(log: &EmbeddedLog, record: NewRecord) -> Result<Position, StoreError> {
    Ok(log.append(vec![record]).await?.remove(0).1)
}

/// Waits until all sealed segments are checked; what the shard says of damage.
pub(crate) async fn scrubbed(log: &EmbeddedLog) -> Option<Damage> {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while log.unchecked_bytes() > 0 {
            tokio::task::yield_now().await;
        }
    });
    waited.await.unwrap();
    log.status(SHARD).await.unwrap().damage
}

/// Everything durable in a shard, or the error that a reader meets.
pub(crate) async fn read_all(
    log: &EmbeddedLog,
    shard: ShardId,
    bytes_max: usize,
) -> Result<Vec<LogRecord>, StoreError> {
    let mut from = Position::start();
    let mut all = Vec::new();
    loop {
        let batch = log.read(shard, &from, bytes_max, Duration::ZERO).await?;
        match batch.records.last() {
            Some(last) => from = last.position.clone(),
            None => return Ok(all),
        }
        all.extend(batch.records);
    }
}

pub(crate) fn payloads(records: &[LogRecord]) -> Vec<Vec<u8>> {
    records.iter().map(|record| record.payload.to_vec()).collect()
}

/// Paths of the segments of a shard, oldest first.
pub(crate) fn segments(files: &MemoryFiles, shard: ShardId) -> Vec<PathBuf> {
    let dir = Path::new(DIR).join(format!("shard-{:04}", shard.0));
    let paths = files.paths().into_iter();
    paths.filter(|path| path.parent() == Some(&*dir) && path.extension().is_some_and(|end| end == "seg")).collect()
}

/// Offset in its segment of a position; `segment` names its base.
pub(crate) fn offset(segment: &Path, position: &Position) -> usize {
    let base: u64 = segment.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    let bytes = u64::from_be_bytes(position.0[..].try_into().unwrap());
    (512 + bytes - base) as usize
}
