//! Removing duplicates (I2). The unit is (tenant, producer, sequence, index in the request).
//!
//! Of each producer the newest sequences are remembered one by one, with the digest of their content and the indexes
//! seen, so that splits, partial rejections and retries meet. Below them stands a floor: what comes from there can no
//! longer be told apart. A fresh producer's event below the floor becomes a dead letter; a kept producer sends in order
//! and so has sent it before. A silent producer keeps its floor alone, a kept one its newest sequence too.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Range;

use tidegauge_core::event::{IndexRange, RequestId};

use super::settings::Settings;

/// Sequences of one durable block.
pub(super) const SEQUENCES_PER_BLOCK: u64 = 256;
/// Ranges of indexes that take as much memory as a sequence.
const RANGES_PER_SEQUENCE: usize = 4;
/// Ranges of a kept producer's request beyond which it is refused once the newest sequences of kept producers, which are never
/// forgotten, take a quarter of the room. (All that may come then still leaves room for others.)
const KEPT_RANGES_MAX: usize = 8;
/// Marks a sequence whose indexes are not simply the first ones.
const ODD: u32 = u32::MAX;

/// A remembered sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) sequence: u64,
    /// Low half of the digest.
    pub(super) digest: u64,
    /// Largest arrival of the key when it was seen first.
    pub(super) arrival: i64,
    /// Indexes `0..events`, or [`ODD`].
    events: u32,
}

/// A producer.
#[derive(Clone, Debug, Default)]
pub(super) struct ProducerState {
    pub(super) kept: bool,
    /// At or below it nothing is remembered one by one.
    pub(super) floor: u64,
    /// Largest arrival of the key when it was heard last.
    pub(super) heard: i64,
    /// Sorted by sequence.
    pub(super) seen: VecDeque<Seen>,
    /// Indexes of odd sequences.
    odd: BTreeMap<u64, Vec<IndexRange>>,
    /// What it takes in memory, as a number of plain sequences.
    weight: usize,
    dirty: bool,
    /// Blocks changed since the last epoch; may hold a block twice.
    pub(super) dirty_blocks: Vec<u64>,
}

/// What is to be done with a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// The fresh events are in the list given; so many others are duplicates.
    Checked {
        /// Events seen before.
        duplicates: u64,
    },
    /// The sequence was used for other content.
    Reused,
    /// Too old to tell.
    BelowHorizon,
    /// One more kept producer than a tenant may have.
    TooManyKept,
}

/// Producers of a key.
#[derive(Clone, Debug, Default)]
pub(super) struct Producers {
    pub(super) all: HashMap<u128, ProducerState>,
    kept: usize,
    /// What all take in memory, as a number of plain sequences.
    weight: usize,
    /// Of this, the newest sequences of kept producers.
    pinned: usize,
    swept_at: i64,
    /// Changed since the last epoch.
    pub(super) dirty: Vec<u128>,
    /// Forgotten since the last epoch, with the blocks that may stand in the checkpoint.
    pub(super) removed: Vec<(u128, Vec<u64>)>,
}

impl Producers {
    /// Checks a record of `ranges`; `at` is the largest arrival of the key so far. Positions (not indexes) of events
    /// that were never seen are appended to `fresh`.
    pub(super) fn check(
        &mut self,
        id: &RequestId,
        ranges: &[IndexRange],
        at: i64,
        settings: &Settings,
        fresh: &mut Vec<Range<u32>>,
    ) -> Outcome {
        self.sweep(at, settings);
        let producer = id.producer.id;
        let is_known = || self.all.get(&producer).is_some_and(|state| state.knows(id.sequence));
        let is_tight = self.pinned > settings.dedup_key_sequences / 4;
        if id.producer.kept && ranges.len() > KEPT_RANGES_MAX && is_tight && !is_known() {
            return Outcome::TooManyKept;
        }
        if !self.all.contains_key(&producer) {
            if id.producer.kept && self.kept >= settings.kept_producers_max {
                return Outcome::TooManyKept;
            }
            if !id.producer.kept && self.all.len() - self.kept >= settings.fresh_producers_max {
                self.forget_silent(settings.fresh_producers_max / 100 + 1);
            }
            self.kept += usize::from(id.producer.kept);
            self.all.insert(producer, ProducerState { kept: id.producer.kept, ..ProducerState::default() });
        }
        let Some(state) = self.all.get_mut(&producer) else { return Outcome::BelowHorizon };
        state.heard = state.heard.max(at);
        if !state.dirty {
            state.dirty = true;
            self.dirty.push(producer);
        }
        let (before, pinned_before) = (state.weight, state.pinned());
        state.age(at.saturating_sub(settings.dedup_age_ns));
        let outcome = state.check(id, ranges, at, fresh);
        while state.seen.len() > settings.dedup_sequences {
            state.evict();
        }
        self.weight = self.weight + state.weight - before;
        self.pinned = self.pinned + state.pinned() - pinned_before;
        if self.weight > settings.dedup_key_sequences {
            self.shrink(settings.dedup_key_sequences / 10 * 9, producer);
        }
        outcome
    }

    /// Lets silent producers keep their floor alone. What is dropped would be dropped at its next use just so.
    fn sweep(&mut self, at: i64, settings: &Settings) {
        const EVERY: i64 = tidegauge_core::time::HOUR_NS;
        if at.saturating_sub(self.swept_at) < EVERY {
            return;
        }
        self.swept_at = at;
        let before = at.saturating_sub(settings.dedup_age_ns);
        for (id, state) in &mut self.all {
            let weight = state.weight;
            state.age(before);
            if state.weight < weight {
                self.weight -= weight - state.weight;
                if !state.dirty {
                    state.dirty = true;
                    self.dirty.push(*id);
                }
            }
        }
    }

    /// Ids of producers, the one silent for longest first.
    fn by_silence(&self, only_fresh: bool) -> Vec<u128> {
        let mut ids: Vec<_> = self
            .all
            .iter()
            .filter(|(_, state)| !(only_fresh && state.kept))
            .map(|(id, state)| (state.heard, *id))
            .collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id).collect()
    }

    fn forget_silent(&mut self, count: usize) {
        let forgotten: HashSet<u128> = self.by_silence(true).into_iter().take(count).collect();
        self.dirty.retain(|id| !forgotten.contains(id));
        for id in forgotten {
            let Some(state) = self.all.remove(&id) else { continue };
            self.weight -= state.weight;
            let mut blocks = state.dirty_blocks;
            blocks.extend(state.seen.iter().map(|seen| seen.sequence / SEQUENCES_PER_BLOCK));
            blocks.sort_unstable();
            blocks.dedup();
            self.removed.push((id, blocks));
        }
    }

    /// Reduces the longest silent producers to their floors until all weigh at most `goal`. The newest sequence of a kept
    /// producer stays (see [`ProducerState::age`]), and that of the `current` one, most likely to be sent again.
    fn shrink(&mut self, goal: usize, current: u128) {
        for id in self.by_silence(false) {
            if self.weight <= goal {
                return;
            }
            let Some(state) = self.all.get_mut(&id) else { continue };
            let stays = usize::from(state.kept || id == current);
            while state.seen.len() > stays && self.weight > goal {
                let before = state.weight;
                state.evict();
                self.weight -= before - state.weight;
            }
            if !state.dirty {
                state.dirty = true;
                self.dirty.push(id);
            }
        }
    }

    /// What all take in memory, as a number of plain sequences.
    #[cfg(test)]
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    /// Takes the ids of changed producers.
    pub(super) fn take_dirty(&mut self) -> Vec<u128> {
        for id in &self.dirty {
            if let Some(state) = self.all.get_mut(id) {
                state.dirty = false;
            }
        }
        std::mem::take(&mut self.dirty)
    }

    /// Puts a restored producer back.
    pub(super) fn restore(&mut self, id: u128, state: ProducerState) {
        self.kept += usize::from(state.kept);
        self.weight += state.weight;
        self.all.insert(id, state);
    }

    /// Puts a restored sequence back; sequences of a producer come in order.
    pub(super) fn restore_seen(&mut self, id: u128, seen: Seen, ranges: Option<Vec<IndexRange>>) {
        let Some(state) = self.all.get_mut(&id) else { return };
        let (before, pinned_before) = (state.weight, state.pinned());
        if let Some(ranges) = ranges {
            state.set_odd(seen.sequence, ranges);
        }
        state.seen.push_back(seen);
        state.weight += 1;
        self.weight += state.weight - before;
        self.pinned = self.pinned + state.pinned() - pinned_before;
    }
}

impl Seen {
    /// A restored sequence; `events` is `None` where the indexes stand apart.
    pub(super) fn restored(sequence: u64, digest: u64, arrival: i64, events: Option<u32>) -> Self {
        Self { sequence, digest, arrival, events: events.unwrap_or(ODD) }
    }
}

impl ProducerState {
    /// A restored producer, its sequences to follow.
    pub(super) fn restored(kept: bool, floor: u64, heard: i64) -> Self {
        Self { kept, floor, heard, ..Self::default() }
    }

    /// Indexes of a sequence: their number if they are the first ones, otherwise their ranges.
    pub(super) fn indexes(&self, seen: &Seen) -> Result<u32, &[IndexRange]> {
        if seen.events == ODD { Err(self.odd.get(&seen.sequence).map_or(&[], Vec::as_slice)) } else { Ok(seen.events) }
    }

    /// Whether this sequence was seen, or must have been.
    fn knows(&self, sequence: u64) -> bool {
        sequence <= self.floor || self.seen.binary_search_by_key(&sequence, |seen| seen.sequence).is_ok()
    }

    /// What its newest sequence takes, if it stays whatever happens.
    fn pinned(&self) -> usize {
        match self.seen.back() {
            Some(newest) if self.kept => 1 + self.indexes(newest).err().map_or(0, <[_]>::len) / RANGES_PER_SEQUENCE,
            _ => 0,
        }
    }

    /// Sequences of a block.
    pub(super) fn block(&self, block: u64) -> impl Iterator<Item = &Seen> {
        let first = self.seen.partition_point(|seen| seen.sequence / SEQUENCES_PER_BLOCK < block);
        self.seen.range(first..).take_while(move |seen| seen.sequence / SEQUENCES_PER_BLOCK == block)
    }

    /// Notes the indexes of a sequence that are not simply the first ones.
    fn set_odd(&mut self, sequence: u64, ranges: Vec<IndexRange>) {
        self.weight += ranges.len() / RANGES_PER_SEQUENCE;
        if let Some(before) = self.odd.insert(sequence, ranges) {
            self.weight -= before.len() / RANGES_PER_SEQUENCE;
        }
    }

    fn unset_odd(&mut self, sequence: u64) {
        if let Some(before) = self.odd.remove(&sequence) {
            self.weight -= before.len() / RANGES_PER_SEQUENCE;
        }
    }

    fn touch(&mut self, sequence: u64) {
        let block = sequence / SEQUENCES_PER_BLOCK;
        if self.dirty_blocks.last() != Some(&block) {
            self.dirty_blocks.push(block);
        }
    }

    /// Forgets the lowest sequence.
    fn evict(&mut self) {
        if let Some(lowest) = self.seen.pop_front() {
            self.floor = lowest.sequence;
            self.weight -= 1;
            self.unset_odd(lowest.sequence);
            self.touch(lowest.sequence);
        }
    }

    /// Forgets what is old. The newest sequence of a kept producer stays: of a request in several records a crash may have
    /// left the first ones, and what is sent again, however late, must not pass for a duplicate.
    fn age(&mut self, before: i64) {
        while self.seen.len() > usize::from(self.kept) && self.seen.front().is_some_and(|seen| seen.arrival < before) {
            self.evict();
        }
    }

    fn check(&mut self, id: &RequestId, ranges: &[IndexRange], at: i64, fresh: &mut Vec<Range<u32>>) -> Outcome {
        let events: u64 = ranges.iter().map(|range| u64::from(range.count)).sum();
        if id.sequence <= self.floor {
            return if self.kept { Outcome::Checked { duplicates: events } } else { Outcome::BelowHorizon };
        }
        let digest = id.digest as u64;
        let place = match self.seen.back() {
            Some(newest) if newest.sequence >= id.sequence => {
                self.seen.binary_search_by_key(&id.sequence, |seen| seen.sequence)
            }
            _ => Err(self.seen.len()),
        };
        match place {
            Err(place) => {
                let plain = match ranges {
                    [one] if one.first == 0 => one.count,
                    _ => ODD,
                };
                if plain == ODD {
                    self.set_odd(id.sequence, ranges.to_vec());
                }
                self.weight += 1;
                self.seen.insert(place, Seen { sequence: id.sequence, digest, arrival: at, events: plain });
                self.touch(id.sequence);
                fresh.push(0..events as u32);
                Outcome::Checked { duplicates: 0 }
            }
            Ok(place) => {
                if self.seen[place].digest != digest {
                    return Outcome::Reused;
                }
                let known = match self.indexes(&self.seen[place]) {
                    Ok(events) => vec![IndexRange { first: 0, count: events }],
                    Err(ranges) => ranges.to_vec(),
                };
                let found_from = fresh.len();
                subtract(ranges, &known, fresh);
                let found: u64 = fresh[found_from..].iter().map(|range| u64::from(range.end - range.start)).sum();
                if found > 0 {
                    let all = union(&known, ranges);
                    match all.as_slice() {
                        [one] if one.first == 0 => {
                            self.unset_odd(id.sequence);
                            self.seen[place].events = one.count;
                        }
                        _ => {
                            self.set_odd(id.sequence, all);
                            self.seen[place].events = ODD;
                        }
                    }
                    self.touch(id.sequence);
                }
                Outcome::Checked { duplicates: events - found }
            }
        }
    }
}

/// Positions of the indexes of `ranges` that are not in `known`; both sorted and without overlap.
fn subtract(ranges: &[IndexRange], known: &[IndexRange], fresh: &mut Vec<Range<u32>>) {
    let mut position = 0;
    let mut at = 0;
    for range in ranges {
        let (mut index, end) = (range.first, range.first + range.count);
        while index < end {
            while at < known.len() && known[at].first + known[at].count <= index {
                at += 1;
            }
            let (next, is_fresh) = match known.get(at) {
                Some(seen) if seen.first <= index => (end.min(seen.first + seen.count), false),
                Some(seen) => (end.min(seen.first), true),
                None => (end, true),
            };
            if is_fresh {
                fresh.push(position..position + (next - index));
            }
            position += next - index;
            index = next;
        }
    }
}

/// Both together, sorted, neighbours joined.
fn union(one: &[IndexRange], other: &[IndexRange]) -> Vec<IndexRange> {
    let mut all: Vec<IndexRange> = one.iter().chain(other).copied().collect();
    all.sort_unstable();
    let mut joined: Vec<IndexRange> = Vec::with_capacity(all.len());
    for range in all {
        match joined.last_mut() {
            Some(last) if range.first <= last.first + last.count => {
                let end = (range.first + range.count).max(last.first + last.count);
                last.count = end - last.first;
            }
            _ => joined.push(range),
        }
    }
    joined
}
