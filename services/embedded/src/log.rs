//! The embedded event log: shards of segment files on the local disk (design I1).
//!
//! One directory a shard, one append-only chain of segment files in it ([`format`] documents the bytes). A position is
//! the number of record bytes since the shard began, 8 bytes big endian.
//!
//! A thread per shard commits what waits: one write, one `fdatasync`, then all answers. What arrives during a sync forms
//! the next commit, so batching needs no delay; keys take turns in it ([`queue`]), so that none waits for another's load. A failed sync ends the process; a write that finds no space is cut back
//! and refused, and the log goes on. A start checks what a crash can have touched ([`recovery`]) and the newest of what
//! cannot have changed since ([`check`]); the rest is checked while the log runs ([`scrub`]), and everything again when it is
//! read. Nothing is ever skipped.
//!
//! Whoever opens the log holds the lock of its directory ([`crate::data_dir`]).

mod check;
mod fill;
mod format;
mod meter;
mod open;
mod options;
mod queue;
mod read;
mod recovery;
mod room;
mod scrub;
mod segment;
mod shard;
mod tally;
mod window;
mod writer;

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tidegauge_core::clock::{Clock, Steady};
use tidegauge_core::limits::RECORD_BYTES_MAX;
use tidegauge_core::log::{EventLog, NewRecord, Position, ReadBatch, ShardStatus, StoreError};
use tidegauge_core::time::SECOND_NS;
use tidegauge_core::{Key, ShardId};
use tokio::sync::oneshot;

use crate::files::Files;
use fill::Filler;
use queue::{Job, PendingRecord, Refusal};
use room::Room;
use scrub::{Ending, Scrub, Waiting};
use segment::Sealed;
use shard::{Place, Shard};
use writer::{Active, Writer};

pub use open::SHARDS_MAX;
pub use options::{AbortHook, DiskReserve, LogOptions};

/// When a caller should try again after a full queue: some commits later.
const BUSY_RETRY: Duration = Duration::from_millis(50);

/// The embedded log.
#[derive(Debug)]
pub struct EmbeddedLog {
    shards: Vec<Arc<Shard>>,
    group_commit_bytes: usize,
    threads: Mutex<Vec<JoinHandle<()>>>,
    ending: Arc<Ending>,
}

impl EmbeddedLog {
    /// Opens the log, making it if there is none. Blocks: it checks the last segment of every shard, and of the others as many
    /// bytes as the options say.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for damage or a log that ends before a known position, with file, offset and advice;
    /// [`StoreError::Invalid`] for options that do not fit the log; [`StoreError::Full`] and [`StoreError::Io`].
    pub fn open(options: LogOptions, files: Arc<dyn Files>, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let now_ns = clock.wall_ns();
        open::prepare(&options, &*files, now_ns)?;
        let opened = open::open_shards(&options, &files, now_ns)?;
        warn_of_the_future(&opened, now_ns);
        let sealed = (0..).map(ShardId).zip(&opened).flat_map(|(id, opened)| opened.sealed(id)).collect();
        let mut checked = check::check_newest(&*files, sealed, options.start_check_bytes)?;
        let room = Arc::new(Room::default());
        let options = Arc::new(options);
        // Before the channel: where a thread cannot be started, the filler must see its end before its thread is waited for.
        let mut log = Self {
            shards: Vec::with_capacity(opened.len()),
            group_commit_bytes: options.group_commit_bytes,
            threads: Mutex::default(),
            ending: Arc::default(),
        };
        // One request a shard at a time.
        let (fill_sender, requests) = mpsc::sync_channel(opened.len());
        let filler = Filler {
            requests,
            files: Arc::clone(&files),
            dir: options.dir.clone(),
            reserve: options.reserve,
            abort: options.abort.clone(),
        };
        log.spawn("log-fill".to_owned(), move || filler.run())?;
        for (id, opened) in (0..).map(ShardId).zip(opened) {
            let dir = segment::shard_dir(&options.dir, id);
            let mut opened = opened;
            for segment in &mut opened.segments {
                segment.tally = checked.tallies.remove(&(id, segment.base)).map(Arc::new);
            }
            let (end, filled, last) = (opened.end, opened.filled, opened.segments.back().cloned());
            let tally = std::mem::take(&mut opened.tally);
            let place = Place { id, dir, options: Arc::clone(&options), room: Arc::clone(&room) };
            let shard = Arc::new(Shard::new(place, Arc::clone(&files), Arc::clone(&clock), opened));
            log.shards.push(Arc::clone(&shard));
            if let Some((last, file)) = last.and_then(|last| Some((last.clone(), last.active?))) {
                let active = Active::new(&shard, &last, file, filled, end, tally);
                let writer = Writer::new(shard, active, end, fill_sender.clone());
                log.spawn(format!("log-{id}"), move || writer.run())?;
            }
        }
        room.of(&log.shards);
        log.scrub(checked.left, files, clock, options.scrub_bytes_per_second)?;
        Ok(log)
    }

    /// Leaves segments to the scrub.
    fn scrub(
        &mut self,
        segments: Vec<Sealed>,
        files: Arc<dyn Files>,
        clock: Arc<dyn Clock>,
        bytes_per_second: u64,
    ) -> Result<(), StoreError> {
        if segments.is_empty() {
            return Ok(());
        }
        let mut left = VecDeque::with_capacity(segments.len());
        for segment in segments {
            let shard = Arc::clone(self.shard(segment.shard)?);
            shard.count_unchecked(segment.bytes(), 0);
            left.push_back(Waiting { shard, segment, failures: 0 });
        }
        let bytes = self.unchecked_bytes();
        tracing::info!(segments = left.len(), bytes, "older segments of the log are checked while it runs");
        let scrub = Scrub { left, files, clock, bytes_per_second, ending: Arc::clone(&self.ending) };
        self.spawn("log-scrub".to_owned(), move || scrub.run())
    }

    /// Bytes of sealed segments that have not been checked since the log was opened.
    pub fn unchecked_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.unchecked()).sum()
    }

    /// Shards in whose sealed segments damage was found; cheap, for probes. [`EventLog::status`] tells what.
    pub fn damaged_shards(&self) -> Vec<ShardId> {
        self.shards.iter().filter(|shard| shard.is_damaged()).map(|shard| shard.id).collect()
    }

    fn spawn(&mut self, name: String, body: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
        let spawned = Builder::new().name(name).spawn(body);
        let thread = spawned.map_err(|source| StoreError::Io { doing: "start a thread".to_owned(), source })?;
        self.threads.get_mut().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    /// Takes no more records, makes durable what waits, and ends the log's threads. Reading goes on.
    pub async fn close(&self) {
        self.stop();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        // A thread that panicked has said so.
        let _ = tokio::task::spawn_blocking(|| threads.into_iter().for_each(|thread| drop(thread.join()))).await;
    }

    fn stop(&self) {
        for shard in &self.shards {
            shard.queue.close("the log is closing");
        }
        self.ending.end();
    }

    fn shard(&self, id: ShardId) -> Result<&Arc<Shard>, StoreError> {
        let shard = usize::try_from(id.0).ok().and_then(|index| self.shards.get(index));
        shard.ok_or_else(|| StoreError::Invalid(format!("shard {id} of a log with {} shards", self.shards.len())))
    }

    /// Divides the records of a call by key into parts of at most a commit, and makes them ready, or refuses the call.
    fn divide(&self, records: Vec<NewRecord>) -> Result<Vec<Part>, StoreError> {
        let shards = self.shards();
        let mut parts: Vec<Part> = Vec::new();
        for (index, record) in records.into_iter().enumerate() {
            // The newest part of a key is found first: its records keep their order.
            let at = match parts.iter().rposition(|part| part.key == record.key) {
                Some(at) => at,
                None => {
                    parts.push(Part::new(record.key, shards));
                    parts.len() - 1
                }
            };
            let part = &mut parts[at];
            let bytes = part.key_bytes.len() + record.payload.len();
            if bytes > RECORD_BYTES_MAX || part.key_bytes.len() > format::KEY_BYTES_MAX {
                return Err(StoreError::Invalid(format!("a record of {bytes} bytes, more than {RECORD_BYTES_MAX}")));
            }
            let content_checksum = format::content_checksum(&part.key_bytes, &record.payload);
            let stored_bytes = format::stored_bytes(part.key_bytes.len(), record.payload.len());
            let pending = PendingRecord { payload: record.payload, content_checksum };
            if part.stored_bytes > 0 && part.stored_bytes + stored_bytes > self.group_commit_bytes {
                let mut next = part.continued();
                next.push(index, pending, stored_bytes);
                parts.push(next);
            } else {
                part.push(index, pending, stored_bytes);
            }
        }
        Ok(parts)
    }

    /// Takes room in all queues, or in none.
    fn reserve(&self, parts: &[Part]) -> Result<(), StoreError> {
        // What a key needs is asked for at once: parts one by one could meet the bound of the key's share.
        let mut needs: Vec<(&Part, usize, usize)> = Vec::new();
        for part in parts {
            match needs.iter_mut().find(|(first, ..)| first.key == part.key) {
                Some((_, stored_bytes, room)) => {
                    *stored_bytes += part.stored_bytes;
                    *room += part.room();
                }
                None => needs.push((part, part.stored_bytes, part.room())),
            }
        }
        // A call of several keys leaves no claims: it would keep room of one queue while it waits for another's.
        let may_claim = needs.len() == 1;
        for (done, (part, stored_bytes, room)) in needs.iter().enumerate() {
            let shard = self.shard(part.shard)?;
            let refused = match shard.full.load(Ordering::Acquire) {
                // Asked before anything is queued, so that a refused call over several shards leaves nothing.
                // Room that can be made is made by the writer.
                true => shard
                    .check_reserve(*stored_bytes)
                    .err()
                    .filter(|_| !shard.room.has_dispensable())
                    .map(StoreError::Full),
                false => None,
            };
            let refused = match refused {
                None if *room > shard.options.queue_bytes => Some(StoreError::Invalid(format!(
                    "{stored_bytes} bytes in one call for shard {}, more than its queue ever holds",
                    part.shard
                ))),
                None if !shard.queue.reserve(&part.key, *room, may_claim, shard.clock.monotonic_ns()) => {
                    Some(StoreError::Busy {
                        what: format!("the queue of shard {}", part.shard),
                        retry_after: BUSY_RETRY,
                    })
                }
                other => other,
            };
            if let Some(error) = refused {
                for (part, stored_bytes, room) in &needs[..done] {
                    self.release(part, *stored_bytes, *room);
                }
                return Err(error);
            }
            shard.meter.queue_bytes.increment(*stored_bytes as f64);
        }
        Ok(())
    }

    fn release(&self, part: &Part, stored_bytes: usize, room: usize) {
        if let Ok(shard) = self.shard(part.shard) {
            shard.queue.release(&part.key, room);
            shard.meter.queue_bytes.decrement(stored_bytes as f64);
        }
    }
}

impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        self.stop();
        for thread in self.threads.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// What one call brings for one key, or as much of it as goes into one commit.
struct Part {
    shard: ShardId,
    key: Key,
    key_bytes: Box<[u8]>,
    /// Places of the records in the call.
    indexes: Vec<usize>,
    records: Vec<PendingRecord>,
    stored_bytes: usize,
}

impl Part {
    fn new(key: Key, shards: u32) -> Self {
        let (shard, key_bytes) = (key.shard(shards), key.to_string().into_bytes().into_boxed_slice());
        Self { shard, key, key_bytes, indexes: Vec::new(), records: Vec::new(), stored_bytes: 0 }
    }

    /// An empty part of the same key.
    fn continued(&self) -> Self {
        let (key, key_bytes) = (self.key.clone(), self.key_bytes.clone());
        Self { shard: self.shard, key, key_bytes, indexes: Vec::new(), records: Vec::new(), stored_bytes: 0 }
    }

    fn push(&mut self, index: usize, record: PendingRecord, stored_bytes: usize) {
        self.indexes.push(index);
        self.records.push(record);
        self.stored_bytes += stored_bytes;
    }

    /// Room that it takes in the queue.
    fn room(&self) -> usize {
        queue::room(self.stored_bytes)
    }
}

type Answer = oneshot::Receiver<Result<Vec<u64>, Refusal>>;

#[async_trait]
impl EventLog for EmbeddedLog {
    fn shards(&self) -> u32 {
        self.shards.len() as u32
    }

    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<(ShardId, Position)>, StoreError> {
        let count = records.len();
        let parts = self.divide(records)?;
        self.reserve(&parts)?;
        let mut waiting: Vec<(ShardId, Vec<usize>, Answer)> = Vec::with_capacity(parts.len());
        let mut refused = None;
        for part in parts {
            let (done, answer) = oneshot::channel();
            let shard = self.shard(part.shard)?;
            let Part { key, key_bytes, indexes, records, stored_bytes, .. } = part;
            match shard.queue.push(Job { key, key_bytes, records, stored_bytes, done }) {
                Ok(()) => waiting.push((part.shard, indexes, answer)),
                Err((job, why)) => {
                    shard.queue.release_all(&[job]);
                    shard.meter.queue_bytes.decrement(stored_bytes as f64);
                    refused = Some(StoreError::Unavailable(why));
                }
            }
        }
        let mut positions = vec![(ShardId(0), Position::start()); count];
        let mut written = false;
        for (shard, indexes, answer) in waiting {
            match answer.await {
                Ok(Ok(after)) => {
                    written = true;
                    for (index, after) in indexes.into_iter().zip(after) {
                        positions[index] = (shard, position(after));
                    }
                }
                Ok(Err(refusal)) => refused = Some(refusal.into()),
                Err(_) => refused = Some(StoreError::Unavailable(format!("shard {shard} has stopped"))),
            }
        }
        match refused {
            None => Ok(positions),
            // Full means that nothing is on the log; here other parts are there already.
            Some(StoreError::Full(what)) if written => {
                tracing::warn!(what, "a call was written in part, then there was no room");
                Err(StoreError::Unavailable("a part is written, for the rest the disk is full".to_owned()))
            }
            Some(StoreError::Io { doing, source }) if written => {
                tracing::warn!(doing, %source, "a call was written in part, then a write failed");
                Err(StoreError::Unavailable("a part is written, for the rest a write failed".to_owned()))
            }
            Some(error) => Err(error),
        }
    }

    async fn read(
        &self,
        shard: ShardId,
        from: &Position,
        bytes_max: usize,
        wait: Duration,
    ) -> Result<ReadBatch, StoreError> {
        let shard = Arc::clone(self.shard(shard)?);
        let mut durable = shard.durable.subscribe();
        let from = parse_position(from)?.unwrap_or_else(|| shard.oldest());
        if from < shard.oldest() {
            return Err(shard.passed(from));
        }
        let mut end = shard.durable_end();
        if from > end {
            let what = format!("position {from} of shard {}: the log ends at {end}", shard.id);
            return Err(StoreError::NotFound(what));
        }
        if from == end && !wait.is_zero() {
            let grown = tokio::time::timeout(wait, durable.wait_for(|end| *end > from)).await;
            end = grown.ok().and_then(Result::ok).map_or(end, |grown| *grown);
        }
        if from == end {
            return Ok(ReadBatch { records: Vec::new(), at_tip: true });
        }
        let reading = Arc::clone(&shard);
        let read = tokio::task::spawn_blocking(move || reading.read_block(from, end, bytes_max)).await;
        let records = read.map_err(|error| StoreError::Unavailable(format!("reading was interrupted: {error}")))??;
        let last = records.last().map(|record| parse_position(&record.position)).transpose()?.flatten();
        Ok(ReadBatch { records, at_tip: last == Some(shard.durable_end()) })
    }

    async fn status(&self, shard: ShardId) -> Result<ShardStatus, StoreError> {
        Ok(self.shard(shard)?.status())
    }

    async fn acknowledge(&self, shard: ShardId, position: &Position) -> Result<(), StoreError> {
        let shard = Arc::clone(self.shard(shard)?);
        let Some(upto) = parse_position(position)? else {
            return Ok(());
        };
        let end = shard.durable_end();
        if upto > end {
            let what = format!("position {upto} of shard {} is acknowledged, but the log ends at {end}", shard.id);
            return Err(StoreError::Invalid(what));
        }
        shard.acknowledge(upto);
        shard.measure_unneeded();
        let is_short = shard.room.is_short();
        if !shard.has_expired() && !is_short {
            return Ok(());
        }
        let deleted = tokio::task::spawn_blocking(move || {
            let retained = shard.retain();
            shard.room.look_again(&shard);
            retained
        });
        let deleted = deleted.await;
        deleted.map_err(|error| StoreError::Unavailable(format!("deleting was interrupted: {error}")))?
    }
}

/// A start believes the wall clock, and tells where the log does not: it was written at a later time.
fn warn_of_the_future(opened: &[shard::Opened], now_ns: i64) {
    let newest_ns = opened.iter().filter_map(|opened| Some(opened.segments.back()?.created_ns)).max();
    let behind_ns = newest_ns.map_or(0, |newest_ns| newest_ns.saturating_sub(now_ns));
    if behind_ns > Steady::FOLLOWED_NS {
        let behind_s = behind_ns / SECOND_NS;
        tracing::warn!(
            behind_s,
            "the wall clock is behind the newest segment of the log: it is wrong now, or was when the segment was begun; live \
             events may be too old for what was counted then"
        );
    }
}

/// A position of this log as the contract's opaque one.
fn position(bytes: u64) -> Position {
    Position(Bytes::copy_from_slice(&bytes.to_be_bytes()))
}

/// The position as a number; `None` for the start.
fn parse_position(position: &Position) -> Result<Option<u64>, StoreError> {
    if position.is_start() {
        return Ok(None);
    }
    match <[u8; 8]>::try_from(&position.0[..]).map(u64::from_be_bytes) {
        Ok(bytes) if bytes % format::ALIGN as u64 == 0 => Ok(Some(bytes)),
        _ => Err(StoreError::Invalid(format!("{:?} is no position of this log", position.0))),
    }
}
