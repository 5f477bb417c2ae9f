//! Room on the disk: when it is short, segments that nothing needs go before their time.
//!
//! Below every checkpoint the log serves nobody but `verify` and an operator who restores an older state: it must never be
//! the reason for which events are refused. So before a commit is refused, and whenever a checkpoint has made more of the
//! log dispensable while room is short, such segments are deleted, of whatever shard, until there is room.
//!
//! Which ones: a shard's log has no holes, so only its oldest segment can go. Among those the oldest goes first; but before
//! any other those of a key that has used up its share, so that who writes most keeps least, and others keep the time that
//! retention promises. A segment is shared by the keys of its shard. It is taken for a key's if at least half of its bytes
//! are: then whoever else is in it loses less than the key does, and a key that others outweigh is not blamed for them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use super::shard::Shard;

/// What the shards of a log share of its disk.
#[derive(Debug, Default)]
pub(super) struct Room {
    shards: OnceLock<Vec<Weak<Shard>>>,
    /// One makes room at a time: several would delete for one shortage several times.
    making: Mutex<()>,
    /// Bytes for which there was no room when it was looked for last; 0 if it was found.
    missing: AtomicUsize,
}

impl Room {
    /// Says which shards there are; once.
    pub(super) fn of(&self, shards: &[Arc<Shard>]) {
        // Told once, when the log opens.
        let _ = self.shards.set(shards.iter().map(Arc::downgrade).collect());
    }

    /// Whether a commit was refused for want of room, and none has been found since.
    pub(super) fn is_short(&self) -> bool {
        self.missing.load(Ordering::Acquire) > 0
    }

    /// Whether some segment could make room.
    pub(super) fn has_dispensable(&self) -> bool {
        let mut shards = self.shards.get().into_iter().flatten().filter_map(Weak::upgrade);
        shards.any(|shard| shard.dispensable(u64::MAX).is_some())
    }

    /// Looks again for what was missing; whoever appends is told whether it is there.
    pub(super) fn look_again(&self, shard: &Shard) {
        let missing = self.missing.load(Ordering::Acquire);
        if missing > 0 && self.find(shard, missing).is_ok() {
            tracing::info!("the log has made room: what no checkpoint needs was deleted before its time");
        }
    }

    /// Finds room for so many bytes of a shard, making it if need be. Blocks.
    ///
    /// # Errors
    /// What is missing, when nothing is left that may go.
    pub(super) fn find(&self, shard: &Shard, bytes: usize) -> Result<(), String> {
        let found = shard.check_reserve(bytes).or_else(|_| {
            let _one_at_a_time = self.making.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                match shard.check_reserve(bytes) {
                    Err(missing) if !self.drop_one(shard) => return Err(missing),
                    Err(_) => {}
                    Ok(()) => return Ok(()),
                }
            }
        });
        let missing = if found.is_err() { bytes.max(1) } else { 0 };
        self.missing.store(missing, Ordering::Release);
        found
    }

    /// Deletes the segment that goes first; false if none can.
    fn drop_one(&self, short: &Shard) -> bool {
        let share = short.tenant_share();
        let shards: Vec<_> = self.shards.get().into_iter().flatten().filter_map(Weak::upgrade).collect();
        let candidates = shards.iter().filter_map(|shard| Some((shard.dispensable(share)?, shard)));
        let first = candidates.min_by_key(|(candidate, _)| (!candidate.over_share, candidate.created_ns));
        let Some((_, shard)) = first else { return false };
        match shard.drop_early() {
            Ok(dropped) => dropped,
            Err(error) => {
                tracing::warn!(%error, shard = shard.id.0, "cannot delete a segment of the log to make room");
                false
            }
        }
    }
}
