//! The writer of a shard: a thread of its own that commits what waits, in one write and one sync.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use bytes::Bytes;

use super::fill::Fill;
use super::format::{Envelope, Place, SEGMENT_HEADER_BYTES, SegmentHeader, stored_bytes};
use super::queue::{Job, Refusal, Taken};
use super::segment::{CreateError, Segment, create_segment, segment_path};
use super::shard::Shard;
use super::tally::Tally;
use crate::files::{FileHandle, is_out_of_descriptors, write_vectored_full};

/// Share of the retention time after which a segment is ended, full or not: what one quiet segment holds can only go once
/// the next one has begun.
const ROLL_SHARE: u32 = 8;
/// A segment is not ended sooner than this for its age.
const ROLL_AGE_MIN: Duration = Duration::from_secs(60);
/// Payloads up to this are copied beside their headers: cheaper than a piece of their own.
const INLINE_BYTES_MAX: usize = 4 << 10;
/// Commits above this gain nothing from zeros written ahead.
const SMALL_COMMIT_BYTES: usize = 256 << 10;

/// The writer.
#[derive(Debug)]
pub(super) struct Writer {
    shard: Arc<Shard>,
    active: Active,
    /// Position after the last record.
    end: u64,
    filler: SyncSender<Arc<Fill>>,
    /// Headers, paddings and small payloads of a commit; reused.
    inline: Vec<u8>,
}

/// The segment that is written.
#[derive(Debug)]
pub(super) struct Active {
    base: u64,
    /// When its first record was written; without records, when it was begun.
    oldest_ns: i64,
    file: Arc<dyn FileHandle>,
    fill: Arc<Fill>,
    /// Whose bytes it holds.
    tally: Tally,
}

impl Active {
    /// `file` is the segment's, `filled` its length, `end` the position after its records, `tally` whose they are.
    pub(super) fn new(
        shard: &Shard,
        segment: &Segment,
        file: Arc<dyn FileHandle>,
        filled: u64,
        end: u64,
        tally: Tally,
    ) -> Self {
        let limit = SEGMENT_HEADER_BYTES as u64 + shard.options.segment_bytes;
        let ahead = shard.options.write_ahead_bytes;
        let fill = Fill::new(Arc::clone(&file), filled, segment.offset(end), ahead, limit);
        Self { base: segment.base, oldest_ns: segment.created_ns, file, fill: Arc::new(fill), tally }
    }
}

/// Why a commit failed.
enum Failure {
    /// Nothing of it is on the log, which goes on.
    Refused(Refusal),
    /// Nobody knows what is durable.
    Unknown(String),
}

enum Piece<'a> {
    Inline(Range<usize>),
    Payload(&'a Bytes),
}

impl Writer {
    pub(super) fn new(shard: Arc<Shard>, active: Active, end: u64, filler: SyncSender<Arc<Fill>>) -> Self {
        Self { shard, active, end, filler, inline: Vec::new() }
    }

    /// Commits until the queue is closed and empty.
    pub(super) fn run(mut self) {
        // Also if this thread should panic: nobody waits for an answer that cannot come.
        let _closing = FailOnDrop(Arc::clone(&self.shard));
        self.write_ahead();
        loop {
            let options = &self.shard.options;
            let done = match self.shard.queue.take(options.group_commit_bytes, options.idle) {
                Taken::Jobs(jobs) => self.commit(jobs),
                Taken::Idle => self.tidy(),
                Taken::Closed => return,
            };
            if let Err(reason) = done {
                self.shard.queue.fail(&reason);
                return;
            }
        }
    }

    /// Ends a segment that has grown old, and deletes what has expired.
    ///
    /// # Errors
    /// Why the process should have ended.
    fn tidy(&mut self) -> Result<(), String> {
        if let Err(Failure::Unknown(reason)) = self.roll_if_old() {
            self.shard.options.abort.call(&reason);
            return Err(reason);
        }
        if let Err(error) = self.shard.retain() {
            tracing::warn!(%error, shard = self.shard.id.0, "cannot delete old segments of the log");
        }
        self.shard.room.look_again(&self.shard);
        Ok(())
    }

    /// Writes jobs and answers them.
    ///
    /// # Errors
    /// Why the process should have ended.
    fn commit(&mut self, jobs: Vec<Job>) -> Result<(), String> {
        let bytes: usize = jobs.iter().map(|job| job.stored_bytes).sum();
        let written = self.write(&jobs, bytes);
        self.shard.queue.release_all(&jobs);
        self.shard.meter.queue_bytes.decrement(bytes as f64);
        self.note_room(&written);
        match written {
            Ok(()) => {
                let mut position = self.end;
                self.end += bytes as u64;
                // Readers first: whoever has an answer finds the record.
                self.shard.durable.send_replace(self.end);
                self.shard.meter.append_bytes.increment(bytes as u64);
                for job in jobs {
                    self.active.tally.add(&job.key_bytes, job.stored_bytes as u64);
                    self.shard.meter.append_records.increment(job.records.len() as u64);
                    let after = job.records.iter().map(|record| {
                        position += stored_bytes(job.key_bytes.len(), record.payload.len()) as u64;
                        position
                    });
                    let positions = after.collect();
                    let _ = job.done.send(Ok(positions));
                }
                self.shard.measure();
                if bytes <= SMALL_COMMIT_BYTES {
                    self.write_ahead();
                }
                Ok(())
            }
            Err(Failure::Refused(refusal)) => {
                self.shard.meter.refused.increment(jobs.len() as u64);
                for job in jobs {
                    let _ = job.done.send(Err(refusal.clone()));
                }
                Ok(())
            }
            Err(Failure::Unknown(reason)) => {
                self.shard.options.abort.call(&reason);
                for job in jobs {
                    let _ = job.done.send(Err(Refusal::Stopped(reason.clone())));
                }
                Err(reason)
            }
        }
    }

    /// Remembers whether there was room, and tells the operator when that changes.
    fn note_room(&self, written: &Result<(), Failure>) {
        let full = match written {
            Err(Failure::Refused(Refusal::Full(what))) => Some(what),
            _ => None,
        };
        if self.shard.full.swap(full.is_some(), Ordering::AcqRel) == full.is_some() {
            return;
        }
        let shard = self.shard.id.0;
        match full {
            Some(what) => tracing::warn!(shard, what, "the log has no room: events are refused until there is some"),
            None => tracing::info!(shard, "the log has room again"),
        }
    }

    fn write(&mut self, jobs: &[Job], bytes: usize) -> Result<(), Failure> {
        self.check_reserve(bytes)?;
        let used = self.end - self.active.base;
        if used > 0 && used + bytes as u64 > self.shard.options.segment_bytes {
            self.roll()?;
        } else {
            self.roll_if_old()?;
        }
        if self.end == self.active.base {
            self.active.oldest_ns = self.shard.clock.wall_ns();
        }
        let offset = self.offset();
        self.active.fill.claim(offset + bytes as u64);
        if let Err(error) = self.write_records(jobs, offset) {
            return Err(self.cut_back(offset, &error));
        }
        let start_ns = self.shard.clock.monotonic_ns();
        self.active.file.sync_data().map_err(|error| self.sync_failed(&error))?;
        let took_ns = self.shard.clock.monotonic_ns().saturating_sub(start_ns);
        self.shard.meter.syncs.increment(1);
        self.shard.meter.sync_seconds.record(took_ns as f64 / 1e9);
        Ok(())
    }

    fn offset(&self) -> u64 {
        SEGMENT_HEADER_BYTES as u64 + self.end - self.active.base
    }

    fn check_reserve(&self, bytes: usize) -> Result<(), Failure> {
        self.shard.room.find(&self.shard, bytes).map_err(|what| Failure::Refused(Refusal::Full(what)))
    }

    /// Lays out the records around their payloads and writes them.
    fn write_records(&mut self, jobs: &[Job], offset: u64) -> io::Result<()> {
        self.inline.clear();
        let mut pieces = Vec::new();
        let mut inline_from = 0;
        let mut place = Place { position: self.end, offset, commit_start: self.end };
        let records = jobs.iter().flat_map(|job| job.records.iter().map(|record| (&*job.key_bytes, record)));
        for (key, record) in records {
            let envelope = Envelope::new(place, key, &record.payload, record.content_checksum);
            self.inline.extend_from_slice(&envelope.header);
            self.inline.extend_from_slice(key);
            if record.payload.len() <= INLINE_BYTES_MAX {
                self.inline.extend_from_slice(&record.payload);
            } else {
                pieces.push(Piece::Inline(inline_from..self.inline.len()));
                pieces.push(Piece::Payload(&record.payload));
                inline_from = self.inline.len();
            }
            self.inline.extend_from_slice(envelope.tail());
            let stored = stored_bytes(key.len(), record.payload.len()) as u64;
            place.position += stored;
            place.offset += stored;
        }
        pieces.push(Piece::Inline(inline_from..self.inline.len()));
        let mut slices: Vec<IoSlice<'_>> = pieces
            .iter()
            .map(|piece| match piece {
                Piece::Inline(range) => IoSlice::new(&self.inline[range.clone()]),
                Piece::Payload(payload) => IoSlice::new(payload),
            })
            .collect();
        write_vectored_full(&*self.active.file, &mut slices, offset)
    }

    /// Takes a failed write back, durably: what was refused must not come up after a crash.
    fn cut_back(&self, offset: u64, cause: &io::Error) -> Failure {
        let path = segment_path(&self.shard.dir, self.active.base);
        let undone = self.active.fill.cut_back(offset).and_then(|()| self.active.file.sync_all());
        match undone {
            Ok(()) => {
                tracing::warn!(error = %cause, shard = self.shard.id.0, "a write of the log failed and was cut back");
                Failure::Refused(refusal("write", &path, cause))
            }
            Err(error) => {
                Failure::Unknown(format!("cutting {} back after a failed write ({cause}): {error}", path.display()))
            }
        }
    }

    /// Goes on in a new segment if this one has records and is old. It can wait where there is no room for that now.
    fn roll_if_old(&mut self) -> Result<(), Failure> {
        let age_ns = self.shard.clock.wall_ns().saturating_sub(self.active.oldest_ns);
        let old = (self.shard.options.retention / ROLL_SHARE).max(ROLL_AGE_MIN);
        if self.end == self.active.base || u128::try_from(age_ns).unwrap_or(0) < old.as_nanos() {
            return Ok(());
        }
        match self.roll() {
            Err(Failure::Refused(refusal)) => {
                tracing::warn!(?refusal, shard = self.shard.id.0, "cannot begin a new segment of the log now");
                // Not tried again with every commit.
                self.active.oldest_ns = self.shard.clock.wall_ns();
                Ok(())
            }
            rolled => rolled,
        }
    }

    /// Seals the segment and goes on in a new one.
    fn roll(&mut self) -> Result<(), Failure> {
        let path = segment_path(&self.shard.dir, self.active.base);
        match self.active.fill.seal(self.offset()) {
            Ok(false) => {}
            Ok(true) => self.active.file.sync_all().map_err(|error| self.sync_failed(&error))?,
            Err(error) => return Err(Failure::Refused(refusal("cut", &path, &error))),
        }
        let header = SegmentHeader { shard: self.shard.id, base: self.end, created_ns: self.shard.clock.wall_ns() };
        let created = create_segment(&*self.shard.files, &self.shard.dir, header);
        let (segment, file) = created.map_err(|error| match error {
            CreateError::Refused(error) => {
                Failure::Refused(refusal("begin", &segment_path(&self.shard.dir, self.end), &error))
            }
            CreateError::Sync(error) => self.sync_failed(&error),
        })?;
        let filled = SEGMENT_HEADER_BYTES as u64;
        let active = Active::new(&self.shard, &segment, file, filled, self.end, Tally::default());
        let sealed = std::mem::replace(&mut self.active, active);
        self.shard.push_segment(segment, sealed.tally);
        if self.shard.has_expired()
            && let Err(error) = self.shard.retain()
        {
            tracing::warn!(%error, shard = self.shard.id.0, "cannot delete old segments of the log");
        }
        Ok(())
    }

    fn sync_failed(&self, error: &io::Error) -> Failure {
        let path = segment_path(&self.shard.dir, self.active.base);
        Failure::Unknown(format!("sync of {} failed: {error}", path.display()))
    }

    /// Asks for zeros ahead; if the helper has too much to do, commits are slower and no less safe.
    fn write_ahead(&self) {
        if self.active.fill.request() && self.filler.try_send(Arc::clone(&self.active.fill)).is_err() {
            self.active.fill.finished();
        }
    }
}

fn refusal(doing: &str, path: &std::path::Path, error: &io::Error) -> Refusal {
    let doing = format!("{doing} {}", path.display());
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Refusal::Full(doing),
        // Without the path: callers are told.
        _ if is_out_of_descriptors(error) => {
            tracing::warn!(doing, %error, "the log needs a file and has no descriptor for it, see ulimit -n");
            Refusal::Descriptors("the server has no file descriptor free for the log".to_owned())
        }
        kind => Refusal::Io(doing, kind),
    }
}

struct FailOnDrop(Arc<Shard>);

impl Drop for FailOnDrop {
    fn drop(&mut self) {
        self.0.queue.fail("the log has stopped");
    }
}
