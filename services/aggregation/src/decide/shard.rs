//! State of one shard: its keys and what they have in common.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use tidegauge_core::{Epoch, Key, Ordinal};

use super::assign::Scratch;
use super::cut::EPOCH_OBJECTS_FIRST;
use super::dead::{DeadLetter, DeadOutbox};
use super::key::{KeyState, NEVER};
use super::settings::Settings;

/// A decision that a clock or a limit caused, and the ordinal at which it took effect (I4).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// Records processed before it.
    pub ordinal: Ordinal,
    /// The key's number.
    pub key: u32,
    /// What was decided.
    pub kind: DecisionKind,
}

/// What was decided.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DecisionKind {
    /// The key was idle: its watermark followed the clock to this time.
    Idle(i64),
    /// Memory ran short and nothing could be cut: the watermark was advanced to this time.
    Pressed(i64),
    /// What waited was cut.
    Cut {
        /// The boundary moves to this time.
        through: i64,
        /// Hours that it could take of live windows, and of what waits below the boundary.
        hours: u32,
    },
    /// The key's outbox is stuck: from here on its rows have a limit of their own. Noted again in every epoch.
    Held,
    /// The outbox got through.
    Released,
}

/// State of one shard.
#[derive(Debug, Clone)]
pub struct Shard {
    pub(super) settings: Settings,
    pub(super) keys: Vec<KeyState>,
    pub(super) by_key: HashMap<Key, u32>,
    pub(super) ordinal: Ordinal,
    /// Rows of all keys.
    pub(super) rows: usize,
    /// Of these, rows of keys that are held.
    pub(super) held_rows: usize,
    /// Keys that are held.
    pub(super) held: Vec<u32>,
    /// When an object, or the worker's probe, was written last, by the decisions' clock.
    pub(super) written_at: i64,
    pub(super) scratch: Scratch,
    /// Keys changed since the last epoch.
    pub(super) dirty: Vec<u32>,
    pub(super) decisions: Vec<Decision>,
    pub(super) decisions_stored: bool,
    pub(super) head_stored: bool,
    /// Objects that an epoch takes, by the lake's pace.
    pub(super) epoch_objects: usize,
    /// Keys that were cut in part and can be cut again.
    pub(super) unfinished: usize,

    /// Dead letters of no epoch yet.
    pub(super) dead: Vec<(u32, DeadLetter)>,
    /// Bytes of these.
    pub(super) fresh_dead_bytes: usize,
    /// Bytes of all dead letters in memory.
    pub(super) dead_bytes: usize,
    /// Dead letters of epochs whose objects are not written yet.
    pub(super) dead_outboxes: Vec<DeadOutbox>,
    pub(super) dropped_dead: Vec<Bytes>,

    /// Keys to tell hot-metric about, oldest change first.
    pub(super) hot_queue: VecDeque<u32>,
    pub(super) hot_queued: u64,
    pub(super) hot_taken: u64,
    pub(super) generation: u64,
    pub(super) push: u64,
}

impl Shard {
    /// A shard without history.
    pub fn new(settings: Settings) -> Self {
        let epoch_objects = EPOCH_OBJECTS_FIRST.min(settings.epoch_objects_max);
        Self {
            settings,
            keys: Vec::new(),
            by_key: HashMap::new(),
            ordinal: 0,
            rows: 0,
            held_rows: 0,
            held: Vec::new(),
            written_at: NEVER,
            scratch: Scratch::default(),
            dirty: Vec::new(),
            decisions: Vec::new(),
            decisions_stored: false,
            head_stored: false,
            epoch_objects,
            unfinished: 0,
            dead: Vec::new(),
            fresh_dead_bytes: 0,
            dead_bytes: 0,
            dead_outboxes: Vec::new(),
            dropped_dead: Vec::new(),
            hot_queue: VecDeque::new(),
            hot_queued: 0,
            hot_taken: 0,
            generation: 0,
            push: 0,
        }
    }

    /// Records processed.
    pub fn ordinal(&self) -> Ordinal {
        self.ordinal
    }

    /// Objects that an epoch takes, by the lake's pace.
    pub fn epoch_objects(&self) -> usize {
        self.epoch_objects
    }

    /// Rows in memory.
    pub fn state_rows(&self) -> usize {
        self.rows
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// All keys, in the order of their birth.
    pub fn keys(&self) -> &[KeyState] {
        &self.keys
    }

    /// The first key.
    #[cfg(test)]
    pub(crate) fn first_key_mut(&mut self) -> &mut KeyState {
        &mut self.keys[0]
    }

    /// A key.
    pub fn key(&self, key: &Key) -> Option<&KeyState> {
        self.by_key.get(key).map(|index| &self.keys[*index as usize])
    }

    /// Decisions since the last epoch.
    pub fn decisions(&self) -> &[Decision] {
        &self.decisions
    }

    /// Whether the next record may be taken: there is room for its rows and dead letters.
    pub fn has_room(&self) -> bool {
        self.has_row_room() && self.dead_bytes < self.settings.dead_bytes_max
    }

    /// Whether an epoch would have something to record.
    pub fn changed(&self) -> bool {
        !(self.dirty.is_empty() && self.dead.is_empty() && self.dropped_dead.is_empty())
    }

    /// Whether everything processed is published as far as the watermarks allow.
    pub fn settled(&self) -> bool {
        let window_ns = self.settings.window.ns();
        self.dead.is_empty()
            && self.dead_outboxes.is_empty()
            && self.keys.iter().all(|key| key.outbox.is_none() && !key.waits(window_ns))
    }

    /// Lets the watermarks of silent keys follow the clock. Only while the reader is at the tip.
    pub fn advance_idle(&mut self, now: i64) {
        /// Some 32 MB. So many wait only when no epoch can be made durable for long: then nothing can be published either.
        const DECISIONS_MAX: usize = 1 << 20;
        if self.decisions.len() >= DECISIONS_MAX {
            return;
        }
        let target = now.saturating_sub(self.settings.lateness_ns);
        let target_start = self.settings.window.start_of(target);
        for index in 0..self.keys.len() {
            let key = &mut self.keys[index];
            let idle = key.born() && now.saturating_sub(key.heard) >= self.settings.idle_ns;
            // Within a window nothing would change but the number.
            if !idle || key.watermark >= target_start {
                continue;
            }
            key.watermark = target;
            self.decide(index, DecisionKind::Idle(target));
        }
    }

    /// Repeats a recorded decision, when an epoch is worked through again: with the same records and the same decisions
    /// at the same ordinals the same comes out (I4). `epoch` and `now` are those of the recorded epoch.
    pub fn repeat(&mut self, decision: &Decision, epoch: Epoch, now: i64) {
        let index = decision.key as usize;
        let Some(key) = self.keys.get_mut(index) else { return };
        match decision.kind {
            DecisionKind::Idle(to) | DecisionKind::Pressed(to) => {
                key.watermark = key.watermark.max(to);
                self.decide(index, decision.kind.clone());
            }
            DecisionKind::Cut { hours, .. } => self.cut(index, epoch, now, hours),
            DecisionKind::Held => self.hold(decision.key),
            DecisionKind::Released => self.release(decision.key),
        }
    }

    pub(super) fn decide(&mut self, index: usize, kind: DecisionKind) {
        self.decisions.push(Decision { ordinal: self.ordinal, key: index as u32, kind });
        self.mark(index);
        self.queue_hot(index);
    }

    pub(super) fn key_index(&mut self, key: &Key, now: i64) -> usize {
        if let Some(index) = self.by_key.get(key) {
            return *index as usize;
        }
        let index = self.keys.len();
        self.keys.push(KeyState::new(key.clone(), index as u32, now));
        self.by_key.insert(key.clone(), index as u32);
        index
    }

    /// Notes that a key must be in the next epoch.
    pub(super) fn mark(&mut self, index: usize) {
        let key = &mut self.keys[index];
        key.meta_dirty = true;
        if !key.listed {
            key.listed = true;
            self.dirty.push(index as u32);
        }
    }

    /// Notes that hot-metric must hear of a key.
    pub(super) fn queue_hot(&mut self, index: usize) {
        let key = &mut self.keys[index];
        if !key.hot_queued && key.born() {
            key.hot_queued = true;
            self.hot_queue.push_back(index as u32);
            self.hot_queued += 1;
        }
    }
}
