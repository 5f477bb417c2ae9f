//! A shard from its entries.

use bytes::Bytes;
use tidegauge_core::checkpoint::Keyspace;
use tidegauge_core::event::IndexRange;
use tidegauge_core::time::Hour;
use tidegauge_core::{Key, MetricName, Ordinal};

use super::codec::{Problem, Reader, key_part};
use super::{DECISIONS, HEAD, RestoreError, from_ordered, keyspace};
use crate::decide::Settings;
use crate::decide::cut::{Outbox, OutputHour, OutputRow};
use crate::decide::dead::{DeadBatch, DeadLetter, DeadOutbox, DeadReason};
use crate::decide::dedup::{ProducerState, Seen};
use crate::decide::key::{KeyState, NEVER};
use crate::decide::rows::{BLOCK, Part};
use crate::decide::shard::{Decision, DecisionKind, Shard};

impl Shard {
    /// Restores a shard from the entries of its last prepared epoch, sorted by keyspace and key.
    ///
    /// # Errors
    /// [`RestoreError`] when an entry is not what was written, or was written for another window length.
    pub fn restore(
        settings: Settings,
        ordinal: Ordinal,
        entries: &[(Keyspace, Bytes, Bytes)],
    ) -> Result<Self, RestoreError> {
        let mut shard = Self::new(settings);
        shard.ordinal = ordinal;
        for (keyspace, key, value) in entries {
            if *keyspace == keyspace::SHARD && key.as_ref() == HEAD {
                shard.check_head(value)?;
                continue;
            }
            shard.restore_entry(*keyspace, key, value).map_err(|problem| damaged(*keyspace, key, problem))?;
        }
        for key in &mut shard.keys {
            finish(key);
            shard.rows += key.rows.len();
        }
        Ok(shard)
    }

    /// The decisions that the stored epoch recorded.
    ///
    /// # Errors
    /// [`RestoreError::Damaged`].
    pub fn stored_decisions(entries: &[(Keyspace, Bytes, Bytes)]) -> Result<Vec<Decision>, RestoreError> {
        let found = entries.iter().find(|(space, key, _)| *space == keyspace::SHARD && key.as_ref() == DECISIONS);
        let Some((space, key, value)) = found else { return Ok(Vec::new()) };
        decisions(value).map_err(|problem| damaged(*space, key, problem))
    }

    fn check_head(&mut self, value: &Bytes) -> Result<(), RestoreError> {
        let read = Reader::new(value).and_then(|mut reader| {
            let window_ns = reader.signed()?;
            reader.end()?;
            Ok(window_ns)
        });
        let stored_ns = read.map_err(|problem| damaged(keyspace::SHARD, HEAD, problem))?;
        let wanted_ns = self.settings.window.ns();
        if stored_ns != wanted_ns {
            return Err(RestoreError::Window { stored_ns, wanted_ns });
        }
        self.head_stored = true;
        Ok(())
    }

    fn restore_entry(&mut self, space: Keyspace, key: &[u8], value: &Bytes) -> Result<(), Problem> {
        if space == keyspace::SHARD {
            self.decisions_stored = !decisions(value)?.is_empty();
            return Ok(());
        }
        let mut reader = Reader::new(value)?;
        if space == keyspace::DEAD {
            return self.restore_dead(key, &mut reader);
        }
        let number = u32::from_be_bytes(key_part(key, 0)?);
        if space == keyspace::KEYS {
            return self.restore_meta(number, &mut reader);
        }
        let state = self.keys.get_mut(number as usize).ok_or("its key number is unknown")?;
        match space {
            keyspace::NAMES => restore_names(state, &mut reader),
            keyspace::SERIES => restore_series(state, u32::from_be_bytes(key_part(key, 4)?), &mut reader),
            keyspace::ROWS => restore_rows(state, Part::Live, key, &mut reader),
            keyspace::WAITING => restore_rows(state, Part::Waiting, key, &mut reader),
            keyspace::PRODUCERS => restore_producer(state, key, &mut reader),
            keyspace::SEQUENCES => restore_sequences(state, key, &mut reader),
            keyspace::OUTPUTS => restore_output(state, key, &mut reader),
            _ => Err("its keyspace is unknown"),
        }
    }

    fn restore_meta(&mut self, number: u32, reader: &mut Reader<'_>) -> Result<(), Problem> {
        if number as usize != self.keys.len() {
            return Err("a key number is missing");
        }
        let key = Key::parse(reader.text()?).map_err(|_| "its name is no key")?;
        let mut state = KeyState::new(key.clone(), number, 0);
        let counters = &mut state.counters;
        for count in [
            &mut counters.on_log,
            &mut counters.duplicates,
            &mut counters.on_time,
            &mut counters.late,
            &mut counters.backfilled,
            &mut counters.dead,
            &mut state.index_version,
        ] {
            *count = reader.number()?;
        }
        for time in [
            &mut state.watermark,
            &mut state.event_watermark,
            &mut state.boundary,
            &mut state.arrival,
            &mut state.heard,
            &mut state.cut_at,
        ] {
            *time = reader.signed()?;
        }
        reader.end()?;
        state.meta_dirty = false;
        state.cut_through = state.boundary;
        state.prepared_watermark = state.watermark;
        state.durable_watermark = state.watermark;
        self.by_key.insert(key, number);
        self.keys.push(state);
        Ok(())
    }

    fn restore_dead(&mut self, key: &[u8], reader: &mut Reader<'_>) -> Result<(), Problem> {
        let epoch = u64::from_be_bytes(key_part(key, 0)?);
        let number = u32::from_be_bytes(key_part(key, 8)?);
        let tenant = self.keys.get(number as usize).ok_or("its key number is unknown")?.key.tenant.clone();
        let ordinal = reader.number()?;
        let arrival_ns = reader.signed()?;
        let reason = reader.byte()?;
        let reason = DeadReason::ALL.into_iter().find(|r| *r as u8 == reason).ok_or("its reason is unknown")?;
        let detail = reader.text()?.to_owned();
        let events = reader.number()?;
        let payload = Bytes::copy_from_slice(reader.bytes()?);
        reader.end()?;
        let letter = DeadLetter { ordinal, arrival_ns, reason, detail, events, payload };
        self.dead_bytes += letter.weight();
        let entry = Bytes::copy_from_slice(key);
        let known = |outbox: &&mut DeadOutbox| outbox.batch.epoch == epoch && outbox.batch.tenant == tenant;
        match self.dead_outboxes.iter_mut().find(known) {
            Some(outbox) => {
                outbox.batch.letters.push(letter);
                outbox.entries.push(entry);
            }
            None => {
                let batch = DeadBatch { epoch, tenant, letters: vec![letter] };
                self.dead_outboxes.push(DeadOutbox::new(batch, vec![entry]));
            }
        }
        Ok(())
    }
}

fn damaged(keyspace: Keyspace, key: &[u8], problem: Problem) -> RestoreError {
    let key = key.iter().map(|byte| format!("{byte:02x}")).collect();
    RestoreError::Damaged { keyspace, key, problem }
}

fn decisions(value: &Bytes) -> Result<Vec<Decision>, Problem> {
    let mut reader = Reader::new(value)?;
    reader.number()?;
    let mut decisions = Vec::new();
    while !reader.is_empty() {
        let (ordinal, key, kind, to) = (reader.number()?, reader.small()?, reader.byte()?, reader.signed()?);
        let kind = match kind {
            1 => DecisionKind::Idle(to),
            2 => DecisionKind::Pressed(to),
            3 => DecisionKind::Cut { through: to, hours: reader.small()? },
            4 => DecisionKind::Held,
            5 => DecisionKind::Released,
            _ => return Err("its kind is unknown"),
        };
        decisions.push(Decision { ordinal, key, kind });
    }
    Ok(decisions)
}

fn restore_names(state: &mut KeyState, reader: &mut Reader<'_>) -> Result<(), Problem> {
    while !reader.is_empty() {
        let name = MetricName::parse(reader.text()?).map_err(|_| "it holds no metric name")?;
        state.series.push(name);
    }
    state.series.stored_names = state.series.all.len() as u32;
    Ok(())
}

fn restore_series(state: &mut KeyState, block: u32, reader: &mut Reader<'_>) -> Result<(), Problem> {
    let mut id = block as usize * BLOCK as usize;
    while !reader.is_empty() {
        let series = state.series.all.get_mut(id).ok_or("a series has no name")?;
        series.count = reader.number()?;
        series.last = reader.float()?;
        series.last_time = reader.signed()?;
        series.updated_at = reader.signed()?;
        series.ordinal = reader.number()?;
        id += 1;
    }
    Ok(())
}

fn restore_rows(state: &mut KeyState, part: Part, key: &[u8], reader: &mut Reader<'_>) -> Result<(), Problem> {
    let start = from_ordered(key_part(key, 4)?);
    let block = u32::from_be_bytes(key_part(key, 12)?);
    while !reader.is_empty() {
        let metric = block * BLOCK + u32::from(reader.byte()?);
        if metric as usize >= state.series.all.len() {
            return Err("a row has no series");
        }
        let row = reader.row(start)?;
        if part == Part::Waiting {
            state.waiting_events += row.count;
        }
        let slot = state.rows.slot(part, start, metric);
        state.rows.row_mut(slot).data = row;
    }
    if let Some(window) = state.rows.table_mut(part).windows.get_mut(&start) {
        window.stored.push(block);
    }
    Ok(())
}

fn restore_producer(state: &mut KeyState, key: &[u8], reader: &mut Reader<'_>) -> Result<(), Problem> {
    let id = u128::from_be_bytes(key_part(key, 4)?);
    let kept = reader.byte()? == 1;
    let floor = reader.number()?;
    let heard = reader.signed()?;
    reader.end()?;
    state.producers.restore(id, ProducerState::restored(kept, floor, heard));
    Ok(())
}

fn restore_sequences(state: &mut KeyState, key: &[u8], reader: &mut Reader<'_>) -> Result<(), Problem> {
    let id = u128::from_be_bytes(key_part(key, 4)?);
    while !reader.is_empty() {
        let (sequence, digest, arrival) = (reader.number()?, reader.fixed()?, reader.signed()?);
        let (events, ranges) = match reader.number()? {
            0 => (Some(reader.small()?), None),
            count => {
                let mut ranges = Vec::new();
                for _ in 0..count {
                    ranges.push(IndexRange { first: reader.small()?, count: reader.small()? });
                }
                (None, Some(ranges))
            }
        };
        state.producers.restore_seen(id, Seen::restored(sequence, digest, arrival, events), ranges);
    }
    Ok(())
}

fn restore_output(state: &mut KeyState, key: &[u8], reader: &mut Reader<'_>) -> Result<(), Problem> {
    let epoch = u64::from_be_bytes(key_part(key, 4)?);
    if key.len() == 12 {
        let (ordinal, through) = (reader.number()?, reader.signed()?);
        reader.end()?;
        if state.outbox.is_some() {
            return Err("its key has two cuts");
        }
        state.outbox = Some(Outbox {
            epoch,
            ordinal,
            through,
            hours: Vec::new(),
            correction_events: 0,
            attempts: 0,
            failing_since: NEVER,
            retry_at: NEVER,
            parked: Vec::new(),
            stopped: None,
        });
        return Ok(());
    }
    let hour = Hour(from_ordered(key_part(key, 12)?));
    let outbox = state.outbox.as_mut().filter(|outbox| outbox.epoch == epoch).ok_or("its cut is missing")?;
    let mut rows: Vec<OutputRow> = Vec::new();
    while !reader.is_empty() {
        let name = reader.text()?;
        let metric = match (name.is_empty(), rows.last()) {
            (true, Some(last)) => last.metric.clone(),
            _ => MetricName::parse(name).map_err(|_| "it holds no metric name")?,
        };
        let start_ns = reader.signed()?.wrapping_add(hour.start_ns());
        let row = reader.row(start_ns)?;
        rows.push(OutputRow { start_ns, metric, row });
    }
    match outbox.hours.last_mut().filter(|last| last.hour == hour) {
        Some(last) => last.rows = last.rows.iter().cloned().chain(rows).collect(),
        None => outbox.hours.push(OutputHour { hour, rows: rows.into() }),
    }
    Ok(())
}

/// Derives what is not stored: frozen rows and pending events of the outbox.
fn finish(state: &mut KeyState) {
    let Some(outbox) = &mut state.outbox else { return };
    state.cut_through = outbox.through;
    // A session that has just ended may have left a write on its way.
    state.index_open = !outbox.hours.is_empty();
    for row in outbox.hours.iter().flat_map(|hour| hour.rows.iter()) {
        // A cut takes corrections from before the boundary and windows from after it.
        if row.start_ns < state.boundary {
            outbox.correction_events += row.row.count;
        } else if let Ok(metric) = state.series.intern(row.metric.as_str(), usize::MAX) {
            let slot = state.rows.slot(Part::Frozen, row.start_ns, metric);
            state.rows.row_mut(slot).data = row.row.clone();
        }
    }
}
