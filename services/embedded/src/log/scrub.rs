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
//! then to restore the file, or to wait for retention to delete it.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tidegauge_core::clock::Clock;
use tidegauge_core::log::StoreError;

use super::check::check_sealed;
use super::segment::{ADVICE, Sealed};
use super::shard::Shard;
use crate::files::Files;

/// Times that a segment is tried which cannot be read: a disk may be away for a moment, and files may be short.
const TRIES: u32 = 3;
/// Time between two of them.
const TRY_PAUSE_NS: u64 = 10_000_000_000;

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

/// The thread.
#[derive(Debug)]
pub(super) struct Scrub {
    /// What is to be checked, in this order.
    pub(super) left: Vec<(Arc<Shard>, Sealed)>,
    pub(super) files: Arc<dyn Files>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) bytes_per_second: u64,
    pub(super) ending: Arc<Ending>,
}

impl Scrub {
    /// Checks all segments once, or until the log closes.
    pub(super) fn run(self) {
        for (shard, segment) in &self.left {
            if !self.scrub(shard, segment) {
                return;
            }
            shard.count_unchecked(0, segment.bytes());
        }
        tracing::info!(segments = self.left.len(), "the older segments of the log are checked");
    }

    /// Checks a segment and tells of damage; false if the log closes.
    fn scrub(&self, shard: &Shard, segment: &Sealed) -> bool {
        for tries_left in (0..TRIES).rev() {
            let found = match check_sealed(&*self.files, segment, |bytes| self.pace(bytes)) {
                Ok(go_on) => return go_on,
                // Retention was faster.
                Err(_) if shard.is_deleted(segment.base) => return true,
                Err(StoreError::Corrupt(found)) => found,
                Err(error) if tries_left == 0 => format!("{error}; {ADVICE}"),
                Err(_) => {
                    if !self.wait(TRY_PAUSE_NS) {
                        return false;
                    }
                    continue;
                }
            };
            if shard.note_damage(segment.base, found.clone()) {
                tracing::error!(
                    shard = shard.id.0,
                    damage = found,
                    "a sealed segment of the log is damaged: events are taken and processed as before, but a start that checks \
                     it will be refused"
                );
            }
            return true;
        }
        true
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
