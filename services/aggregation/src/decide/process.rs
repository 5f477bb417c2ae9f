//! One record: dedup, dead letters, and what the key and the shard note about it.

use bytes::Bytes;
use tidegauge_core::Key;
use tidegauge_core::event::{EventBatch, Mode};
use tidegauge_core::limits::EVENT_TIME_MIN_NS;
use tidegauge_proto::convert::batch::encode;

use super::assign::{Record, TIME_MAX};
use super::dead::{DeadLetter, DeadReason, part_of};
use super::dedup::Outcome;
use super::shard::Shard;

impl Shard {
    /// Processes a record that could be read. `now` is the decisions' time.
    pub fn process(&mut self, key: &Key, batch: &EventBatch, raw: &Bytes, now: i64) {
        if batch.tenant != key.tenant {
            let detail = format!("the record of key {key} is of tenant {}", batch.tenant);
            self.undecodable(key, raw, detail, now);
            return;
        }
        self.ordinal += 1;
        let index = self.key_index(key, now);
        let mut scratch = std::mem::take(&mut self.scratch);
        let rows_max = self.rows_max_of(index);
        let state = &mut self.keys[index];
        let events = batch.columns.len() as u64;
        state.counters.on_log += events;
        let arrival = batch.arrival_ns.clamp(EVENT_TIME_MIN_NS, TIME_MAX);
        state.arrival = state.arrival.max(arrival);
        if batch.mode == Mode::Live {
            state.heard = state.heard.max(arrival.min(now));
        }

        scratch.fresh.clear();
        let whole = match &batch.request {
            None => {
                scratch.fresh.push(0..events as u32);
                None
            }
            Some(id) => {
                let at = state.arrival;
                match state.producers.check(id, &batch.indexes, at, &self.settings, &mut scratch.fresh) {
                    Outcome::Checked { duplicates } => {
                        state.counters.duplicates += duplicates;
                        None
                    }
                    Outcome::Reused => Some(DeadReason::SequenceReused),
                    Outcome::BelowHorizon => Some(DeadReason::BelowDedupHorizon),
                    Outcome::TooManyKept => Some(DeadReason::TooManyKeptProducers),
                }
            }
        };
        let rows_before = state.rows.len();
        match whole {
            Some(reason) => {
                let (ordinal, arrival_ns, payload) = (self.ordinal, batch.arrival_ns, own(raw));
                let detail = String::new();
                self.bury(index, DeadLetter { ordinal, arrival_ns, reason, detail, events, payload });
            }
            None => {
                let (scratch, settings) = (&mut scratch, &self.settings);
                Record { state, scratch, settings, batch, arrival, now, rows_max }.run(self.ordinal);
                if !scratch.dead.is_empty() {
                    self.bury_parts(index, batch, &scratch.dead);
                }
            }
        }
        self.count_rows(index, rows_before);
        self.scratch = scratch;
        self.mark(index);
        self.queue_hot(index);
    }

    /// Processes a record that could not be read: one dead letter.
    pub fn undecodable(&mut self, key: &Key, raw: &Bytes, detail: String, now: i64) {
        self.ordinal += 1;
        let index = self.key_index(key, now);
        self.keys[index].counters.on_log += 1;
        let (ordinal, reason, payload) = (self.ordinal, DeadReason::Undecodable, own(raw));
        self.bury(index, DeadLetter { ordinal, arrival_ns: now, reason, detail, events: 1, payload });
        self.mark(index);
        self.queue_hot(index);
    }

    fn bury(&mut self, index: usize, letter: DeadLetter) {
        self.keys[index].counters.dead += letter.events;
        self.fresh_dead_bytes += letter.weight();
        self.dead_bytes += letter.weight();
        self.dead.push((index as u32, letter));
    }

    fn bury_parts(&mut self, index: usize, batch: &EventBatch, dead: &[(u32, DeadReason)]) {
        for reason in DeadReason::ALL {
            let mut positions: Vec<u32> = dead.iter().filter(|(_, r)| *r == reason).map(|(at, _)| *at).collect();
            if positions.is_empty() {
                continue;
            }
            positions.sort_unstable();
            let payload = encode(part_of(batch, &positions));
            let (ordinal, arrival_ns, events) = (self.ordinal, batch.arrival_ns, positions.len() as u64);
            let detail = String::new();
            self.bury(index, DeadLetter { ordinal, arrival_ns, reason, detail, events, payload });
        }
    }
}

/// A copy: a record is a slice of what was read at once, which must not stay in memory for its sake.
fn own(raw: &Bytes) -> Bytes {
    Bytes::copy_from_slice(raw)
}
