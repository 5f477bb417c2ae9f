//! Keys that are held: one whose objects cannot be written must not stop its shard (I7).
//!
//! What a stuck key has waiting takes room that nobody can make: no cut of it is possible. So its rows have a limit of
//! their own, a share of half the shard's; the other half always belongs to the keys that can be written. An event that
//! would need one more row becomes a dead letter, kept with its bytes until the key is mended; events of rows that are
//! there go on being counted. If nothing at all can be written, no key is held: then reading pauses.
//!
//! Whether the lake or the object is to blame shows in what else was written meanwhile: an object of another key, or, where
//! no other key had anything to write, a probe of the worker's ([`Shard::lake_was_written`]).

use super::cut::Outbox;
use super::shard::{Decision, DecisionKind, Shard};

/// Failed attempts after which a key is stuck, if others were written meanwhile: half a minute.
const ATTEMPTS_STUCK: u32 = 4;

impl Shard {
    /// Takes the fact that something else than the failing objects was written to the lake at `now`. No decision by itself:
    /// it only tells [`Shard::hold_stuck`] that the lake as a whole is not to blame.
    pub fn lake_was_written(&mut self, now: i64) {
        self.written_at = self.written_at.max(now);
    }

    /// Holds the keys whose outboxes are stuck. A decision: only while nothing is replayed, for the records that readers
    /// have seen counted must be counted again.
    pub fn hold_stuck(&mut self) {
        let written_at = self.written_at;
        let stuck = |outbox: &Outbox| {
            outbox.stopped.is_some() || (outbox.attempts >= ATTEMPTS_STUCK && written_at > outbox.failing_since)
        };
        for index in 0..self.keys.len() {
            let key = &self.keys[index];
            if !key.held && key.outbox.as_ref().is_some_and(stuck) {
                self.hold(index as u32);
            }
        }
    }

    pub(super) fn hold(&mut self, index: u32) {
        let key = &mut self.keys[index as usize];
        if std::mem::replace(&mut key.held, true) {
            return;
        }
        self.held_rows += key.rows.len();
        self.held.push(index);
        self.decide(index as usize, DecisionKind::Held);
    }

    pub(super) fn release(&mut self, index: u32) {
        let key = &mut self.keys[index as usize];
        if !std::mem::replace(&mut key.held, false) {
            return;
        }
        self.held_rows -= key.rows.len();
        self.held.retain(|held| *held != index);
        self.decide(index as usize, DecisionKind::Released);
    }

    /// Notes the keys that are held among the decisions of the epoch that begins: with the checkpoint before it, its
    /// decisions tell all (I4).
    pub(super) fn repeat_holds(&mut self) {
        let ordinal = self.ordinal;
        self.decisions.extend(self.held.iter().map(|key| Decision { ordinal, key: *key, kind: DecisionKind::Held }));
    }

    /// Rows up to which a key may have new ones.
    pub(super) fn rows_max_of(&self, index: usize) -> usize {
        if self.keys[index].held { self.settings.state_rows_max / 2 / self.held.len().max(1) } else { usize::MAX }
    }

    /// Rows that keys which are not held may have together: at least half of all.
    pub(super) fn room(&self) -> usize {
        let max = self.settings.state_rows_max;
        max - self.held_rows.min(max / 2)
    }

    /// Whether keys that are not held may have another row.
    pub(super) fn has_row_room(&self) -> bool {
        self.rows - self.held_rows < self.room()
    }

    /// Whether room is short.
    pub(super) fn is_pressed(&self) -> bool {
        self.rows - self.held_rows > self.room() / 4 * 3
    }

    /// Takes over that a key has another number of rows than before.
    pub(super) fn count_rows(&mut self, index: usize, before: usize) {
        let key = &self.keys[index];
        let now = key.rows.len();
        self.rows = self.rows + now - before;
        if key.held {
            self.held_rows = self.held_rows + now - before;
        }
    }
}
