//! The scrub: sealed segments that the start had no time for are checked while the log runs, each once.
//!
//! It reads the oldest ones first, at a pace that leaves the disk to the writers, in a thread that ends when all are
//! checked. Segments that are sealed later were checked when they were written.
//!
//! Damage that it finds does not stop the shard. What a checkpoint has seen is processed already: its copy on the log
//! serves `verify` and an operator who restores an older state, and refusing new events would not mend it, but lose what
//! their senders cannot keep. What no checkpoint has seen is read by the worker with the same checks, and stops it there.
//! So the log goes on, and says so: once as an error with file, offset and advice, in the shard's status and in a metric for
//! as long as the segment is kept. The next start refuses if it comes to check that segment (I1): the operator has until
//! then to restore the file, or to wait for retention to delete it. A segment that cannot be read is told in the same way
//! while that lasts, and counts as unchecked.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tidegauge_core::clock::Clock;
use tidegauge_core::log::StoreError;

use super::check::check_sealed;
use super::segment::{ADVICE_WHILE_RUNNING, Sealed};
use super::shard::Shard;
use crate::files::Files;

/// Times that a segment is tried before it is told that it cannot be read: a disk may be away for a moment, and open files
/// may be short.
const TRIES: u32 = 3;
/// Time until what could not be read is tried again; it doubles up to the second.
const TRY_PAUSE_NS: u64 = 10_000_000_000;
const TRY_PAUSE_MAX_NS: u64 = 10 * 60 * 1_000_000_000;

/// Tells the scrub that the log is closing.
#[derive(Default, Debug)]
pub(super) struct Ending {
    ended: Mutex<bool>,
    changed: Condvar,
}

impl Ending {
    pub(super) fn end(&self) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Waits until a time by the clock; false if the end came first.
    fn wait_until(&self, clock: &dyn Clock, until_ns: u64) -> bool {
        /// The clock is looked at again after this at the latest: a test moves it by hand.
        const LOOK: Duration = Duration::from_millis(50);
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        while !*ended {
            let left_ns = until_ns.saturating_sub(clock.monotonic_ns());
            if left_ns == 0 {
                return true;
            }
            let waited = self.changed.wait_timeout(ended, LOOK.min(Duration::from_nanos(left_ns)));
            ended = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }
}

/// A segment that waits to be checked.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) shard: Arc<Shard>,
    pub(super) segment: Sealed,
    /// How often it could not be read.
    pub(super) failures: u32,
}

/// The thread.
#[derive(Debug)]
pub(super) struct Scrub {
    /// What is to be checked, in this order.
    pub(super) left: VecDeque<Waiting>,
    pub(super) files: Arc<dyn Files>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) bytes_per_second: u64,
    pub(super) ending: Arc<Ending>,
}

impl Scrub {
    /// Checks all segments once, or until the log closes. What cannot be read goes behind the others.
    pub(super) fn run(mut self) {
        let segments = self.left.len();
        let mut unreadable = 0;
        let mut pause_ns = TRY_PAUSE_NS;
        while let Some(mut waiting) = self.left.pop_front() {
            match check_sealed(&*self.files, &waiting.segment, ADVICE_WHILE_RUNNING, |bytes| self.pace(bytes)) {
                Ok(None) => return,
                Err(StoreError::Io { doing, source }) if !waiting.is_deleted() => {
                    waiting.failures += 1;
                    if waiting.failures == TRIES {
                        waiting.tell("cannot be read", format!("{doing}: {source}; it is tried again"));
                    }
                    self.left.push_back(waiting);
                    unreadable += 1;
                    if unreadable < self.left.len() {
                        continue;
                    }
                    // None is left that could be read.
                    if !self.wait(pause_ns) {
                        return;
                    }
                    pause_ns = (2 * pause_ns).min(TRY_PAUSE_MAX_NS);
                }
                outcome => {
                    match outcome {
                        Err(error) => waiting.tell("is damaged", error.to_string()),
                        Ok(tally) => {
                            waiting.shard.clear_damage(waiting.segment.base);
                            waiting.shard.note_tally(waiting.segment.base, tally);
                        }
                    }
                    waiting.shard.count_unchecked(0, waiting.segment.bytes());
                    pause_ns = TRY_PAUSE_NS;
                }
            }
            unreadable = 0;
        }
        tracing::info!(segments, "the older segments of the log are checked");
    }

    /// Waits as long as reading so many bytes may take; false if the log closes.
    fn pace(&self, bytes: u64) -> bool {
        let ns = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second.max(1));
        self.wait(u64::try_from(ns).unwrap_or(u64::MAX))
    }

    fn wait(&self, ns: u64) -> bool {
        self.ending.wait_until(&*self.clock, self.clock.monotonic_ns().saturating_add(ns))
    }
}

impl Waiting {
    /// Whether retention was faster.
    fn is_deleted(&self) -> bool {
        self.shard.is_deleted(self.segment.base)
    }

    /// Tells what is wrong, unless the segment is deleted.
    fn tell(&self, what: &str, damage: String) {
        if self.shard.note_damage(self.segment.base, damage.clone()) {
            tracing::error!(
                shard = self.shard.id.0,
                damage,
                "a sealed segment of the log {what}: events are taken and processed as before, but a start that checks it will be \
                 refused"
            );
        }
    }
}
