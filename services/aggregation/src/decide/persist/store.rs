//! What changed since the last epoch, as changes of entries.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidegauge_core::Epoch;
use tidegauge_core::checkpoint::{Change, Keyspace};

use super::codec::Writer;
use super::{
    DECISIONS, HEAD, OUTPUT_CHUNK, block_key, dead_key, key_number, keyspace, outbox_key, output_key, producer_key,
    row_key, sequences_key,
};
use crate::decide::cut::Outbox;
use crate::decide::dead::{DeadBatch, DeadLetter, DeadOutbox};
use crate::decide::dedup::ProducerState;
use crate::decide::key::KeyState;
use crate::decide::rows::{BLOCK, DURABLE, Part, Rows};
use crate::decide::series::SeriesSet;
use crate::decide::shard::{Decision, DecisionKind, Shard};

/// Collects changes.
#[derive(Debug, Default)]
struct Changes(Vec<Change>);

impl Changes {
    fn put(&mut self, keyspace: Keyspace, key: Bytes, value: Writer) {
        self.0.push(Change { keyspace, key, value: Some(value.finish()) });
    }

    fn delete(&mut self, keyspace: Keyspace, key: Bytes) {
        self.0.push(Change { keyspace, key, value: None });
    }
}

impl Shard {
    /// Everything that changed since the last call, for the prepare of `epoch`; an entry stands in it at most once.
    /// The new dead letters belong to the epoch from here on.
    pub fn take_changes(&mut self, epoch: Epoch) -> Vec<Change> {
        let mut changes = Changes::default();
        if !self.head_stored {
            self.head_stored = true;
            let mut value = Writer::new();
            value.signed(self.settings.window.ns());
            changes.put(keyspace::SHARD, Bytes::from_static(HEAD), value);
        }
        for index in std::mem::take(&mut self.dirty) {
            self.keys[index as usize].listed = false;
            store_key(&mut self.keys[index as usize], epoch, &mut changes);
        }
        for entry in std::mem::take(&mut self.dropped_dead) {
            changes.delete(keyspace::DEAD, entry);
        }
        self.store_dead(epoch, &mut changes);
        let decisions = std::mem::take(&mut self.decisions);
        self.repeat_holds();
        if !decisions.is_empty() || self.decisions_stored {
            self.decisions_stored = !decisions.is_empty();
            changes.put(keyspace::SHARD, Bytes::from_static(DECISIONS), decisions_value(epoch, &decisions));
        }
        changes.0
    }

    /// The epoch of the last [`Shard::take_changes`] is durable.
    pub fn prepared(&mut self) {
        for index in 0..self.keys.len() {
            let key = &mut self.keys[index];
            let shown = key.shown_watermark();
            key.durable_watermark = key.prepared_watermark;
            if key.shown_watermark() != shown {
                self.queue_hot(index);
            }
        }
    }

    fn store_dead(&mut self, epoch: Epoch, changes: &mut Changes) {
        self.fresh_dead_bytes = 0;
        let mut batches: BTreeMap<_, (Vec<DeadLetter>, Vec<Bytes>)> = BTreeMap::new();
        for (count, (index, letter)) in std::mem::take(&mut self.dead).into_iter().enumerate() {
            let key = dead_key(epoch, index, count as u32);
            let mut value = Writer::new();
            value.number(letter.ordinal);
            value.signed(letter.arrival_ns);
            value.byte(letter.reason as u8);
            value.bytes(letter.detail.as_bytes());
            value.number(letter.events);
            value.bytes(&letter.payload);
            changes.put(keyspace::DEAD, key.clone(), value);
            let (letters, entries) = batches.entry(self.keys[index as usize].key.tenant.clone()).or_default();
            letters.push(letter);
            entries.push(key);
        }
        for (tenant, (letters, entries)) in batches {
            self.dead_outboxes.push(DeadOutbox::new(DeadBatch { epoch, tenant, letters }, entries));
        }
    }
}

fn decisions_value(epoch: Epoch, decisions: &[Decision]) -> Writer {
    let mut value = Writer::new();
    value.number(epoch);
    for decision in decisions {
        let (kind, to, hours) = match decision.kind {
            DecisionKind::Idle(to) => (1, to, None),
            DecisionKind::Pressed(to) => (2, to, None),
            DecisionKind::Cut { through, hours } => (3, through, Some(hours)),
            DecisionKind::Held => (4, 0, None),
            DecisionKind::Released => (5, 0, None),
        };
        value.number(decision.ordinal);
        value.number(u64::from(decision.key));
        value.byte(kind);
        value.signed(to);
        if let Some(hours) = hours {
            value.number(u64::from(hours));
        }
    }
    value
}

fn store_key(key: &mut KeyState, epoch: Epoch, changes: &mut Changes) {
    let number = key.number;
    key.prepared_watermark = key.watermark;
    if std::mem::take(&mut key.meta_dirty) {
        changes.put(keyspace::KEYS, key_number(number), meta_value(key));
    }
    store_series(number, &mut key.series, changes);
    for (part, start, block) in std::mem::take(&mut key.dropped_blocks) {
        changes.delete(rows_keyspace(part), row_key(number, start, block));
    }
    for part in [Part::Live, Part::Waiting] {
        store_rows(number, &mut key.rows, part, changes);
    }
    store_producers(key, changes);
    for entry in std::mem::take(&mut key.dropped_outputs) {
        changes.delete(keyspace::OUTPUTS, entry);
    }
    if let Some(outbox) = key.outbox.as_ref().filter(|outbox| outbox.epoch == epoch) {
        store_outbox(number, outbox, changes);
    }
}

fn meta_value(key: &KeyState) -> Writer {
    let mut value = Writer::new();
    value.bytes(key.key.to_string().as_bytes());
    let counters = &key.counters;
    for count in [
        counters.on_log,
        counters.duplicates,
        counters.on_time,
        counters.late,
        counters.backfilled,
        counters.dead,
        key.index_version,
    ] {
        value.number(count);
    }
    for time in [key.watermark, key.event_watermark, key.boundary, key.arrival, key.heard, key.cut_at] {
        value.signed(time);
    }
    value
}

fn store_series(number: u32, series: &mut SeriesSet, changes: &mut Changes) {
    let all = series.all.len() as u32;
    if series.stored_names < all {
        for block in series.stored_names / BLOCK..=(all - 1) / BLOCK {
            let mut value = Writer::new();
            for id in block * BLOCK..all.min((block + 1) * BLOCK) {
                value.bytes(series.name(id).as_str().as_bytes());
            }
            changes.put(keyspace::NAMES, block_key(number, block), value);
        }
        series.stored_names = all;
    }
    for block in sorted(&mut series.dirty) {
        let mut value = Writer::new();
        for id in block * BLOCK..all.min((block + 1) * BLOCK) {
            let series = &mut series.all[id as usize];
            series.flags &= !DURABLE;
            value.number(series.count);
            value.float(series.last);
            value.signed(series.last_time);
            value.signed(series.updated_at);
            value.number(series.ordinal);
        }
        changes.put(keyspace::SERIES, block_key(number, block), value);
    }
}

fn rows_keyspace(part: Part) -> Keyspace {
    if part == Part::Waiting { keyspace::WAITING } else { keyspace::ROWS }
}

fn store_rows(number: u32, rows: &mut Rows, part: Part, changes: &mut Changes) {
    for start in std::mem::take(&mut rows.table_mut(part).dirty) {
        let Some(window) = rows.table_mut(part).windows.get_mut(&start) else { continue };
        let blocks = sorted(&mut window.dirty);
        for block in &blocks {
            if !window.stored.contains(block) {
                window.stored.push(*block);
            }
        }
        let slots: Vec<Vec<(u32, u32)>> = blocks
            .iter()
            .map(|block| {
                let ids = block * BLOCK..(block + 1) * BLOCK;
                ids.filter_map(|id| Some((id, *window.slots.get(&id)?))).collect()
            })
            .collect();
        for (block, slots) in blocks.into_iter().zip(slots) {
            let mut value = Writer::new();
            for (id, slot) in slots {
                let row = rows.row_mut(slot);
                row.flags &= !DURABLE;
                value.byte((id % BLOCK) as u8);
                value.row(&row.data, start);
            }
            changes.put(rows_keyspace(part), row_key(number, start, block), value);
        }
    }
}

fn store_producers(key: &mut KeyState, changes: &mut Changes) {
    let number = key.number;
    // A producer may be forgotten and heard of again within an epoch: what is put last counts.
    let mut entries: BTreeMap<(Keyspace, Bytes), Option<Writer>> = BTreeMap::new();
    for (producer, blocks) in std::mem::take(&mut key.producers.removed) {
        entries.insert((keyspace::PRODUCERS, producer_key(number, producer)), None);
        for block in blocks {
            entries.insert((keyspace::SEQUENCES, sequences_key(number, producer, block)), None);
        }
    }
    for producer in key.producers.take_dirty() {
        let Some(state) = key.producers.all.get_mut(&producer) else { continue };
        let mut value = Writer::new();
        value.byte(u8::from(state.kept));
        value.number(state.floor);
        value.signed(state.heard);
        entries.insert((keyspace::PRODUCERS, producer_key(number, producer)), Some(value));
        let mut blocks = std::mem::take(&mut state.dirty_blocks);
        blocks.sort_unstable();
        blocks.dedup();
        for block in blocks {
            entries.insert((keyspace::SEQUENCES, sequences_key(number, producer, block)), sequences(state, block));
        }
    }
    for ((keyspace, key), value) in entries {
        match value {
            Some(value) => changes.put(keyspace, key, value),
            None => changes.delete(keyspace, key),
        }
    }
}

fn sequences(state: &ProducerState, block: u64) -> Option<Writer> {
    let mut value = Writer::new();
    let mut any = false;
    for seen in state.block(block) {
        any = true;
        value.number(seen.sequence);
        value.fixed(seen.digest);
        value.signed(seen.arrival);
        match state.indexes(seen) {
            Ok(events) => {
                value.number(0);
                value.number(u64::from(events));
            }
            Err(ranges) => {
                value.number(ranges.len() as u64);
                for range in ranges {
                    value.number(u64::from(range.first));
                    value.number(u64::from(range.count));
                }
            }
        }
    }
    any.then_some(value)
}

fn store_outbox(number: u32, outbox: &Outbox, changes: &mut Changes) {
    let mut value = Writer::new();
    value.number(outbox.ordinal);
    value.signed(outbox.through);
    changes.put(keyspace::OUTPUTS, outbox_key(number, outbox.epoch), value);
    for hour in &outbox.hours {
        for (chunk, rows) in hour.rows.chunks(OUTPUT_CHUNK).enumerate() {
            let mut value = Writer::new();
            let mut metric = None;
            for row in rows {
                // Rows are sorted by metric: its name is written once.
                if metric == Some(&row.metric) {
                    value.number(0);
                } else {
                    value.bytes(row.metric.as_str().as_bytes());
                    metric = Some(&row.metric);
                }
                value.signed(row.start_ns - hour.hour.start_ns());
                value.row(&row.row, row.start_ns);
            }
            changes.put(keyspace::OUTPUTS, output_key(number, outbox.epoch, hour.hour, chunk as u32), value);
        }
    }
}

fn sorted(blocks: &mut Vec<u32>) -> Vec<u32> {
    let mut blocks = std::mem::take(blocks);
    blocks.sort_unstable();
    blocks.dedup();
    blocks
}
