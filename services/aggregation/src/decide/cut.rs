//! Cuts: what a key has waiting goes into one epoch's outputs, and when.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use tidegauge_core::hot::WindowRow;
use tidegauge_core::time::{Day, Hour, SECOND_NS};
use tidegauge_core::{Epoch, Key, MetricName, Ordinal, limits};

use super::dead::retry_after_ns;
use super::key::KeyState;
use super::persist::outbox_entries;
use super::rows::Part;
use super::shard::{DecisionKind, Shard};

/// A row to merge into an object.
#[derive(Clone, PartialEq, Debug)]
pub struct OutputRow {
    /// Start of the window, Unix nanoseconds.
    pub start_ns: i64,
    /// The metric.
    pub metric: MetricName,
    /// What to add.
    pub row: WindowRow,
}

/// Rows of one hour, sorted by metric and start.
#[derive(Clone, PartialEq, Debug)]
pub struct OutputHour {
    /// The hour.
    pub hour: Hour,
    /// The rows.
    pub rows: Arc<[OutputRow]>,
}

/// What a cut took, until it is in the lake and the boundary has moved. A key has at most one: while its rows cannot be
/// written, later ones wait in the state, so that an object always takes epochs in their order.
#[derive(Clone, PartialEq, Debug)]
pub struct Outbox {
    /// The epoch that carries it first; stands in the footers.
    pub epoch: Epoch,
    /// Ordinal at the cut; stands in the footers.
    pub ordinal: Ordinal,
    /// Where the boundary moves.
    pub through: i64,
    /// Rows by hour; empty when only the boundary moves.
    pub hours: Vec<OutputHour>,
    /// Events in rows that are not live windows: pending until all hours are in the lake.
    pub correction_events: u64,
    /// Failed attempts to apply it.
    pub attempts: u32,
    /// When the first of them failed, by the decisions' clock.
    pub failing_since: i64,
    /// When to try again, by the decisions' clock.
    pub retry_at: i64,
    /// Objects that could not be written in the last attempt.
    pub parked: Vec<String>,
    /// Why trying again will not help.
    pub stopped: Option<String>,
}

/// Work for the writer: the outputs of one key.
#[derive(Clone, PartialEq, Debug)]
pub struct ApplyJob {
    /// The key's index.
    pub index: u32,
    /// The key.
    pub key: Key,
    /// Epoch for the footers.
    pub epoch: Epoch,
    /// Ordinal for the footers.
    pub ordinal: Ordinal,
    /// Series of the key: how large its objects may be.
    pub series: usize,
    /// The rows.
    pub hours: Vec<OutputHour>,
}

/// How applying a key's outputs went wrong.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ApplyFailure {
    /// Objects that could not be written, with the reason.
    pub parked: Vec<String>,
    /// Advice, where trying again will not help.
    pub stopped: Option<String>,
    /// The lake had no room: no fault of an object's.
    pub no_room: bool,
}

/// Objects of the first epoch of a shard, before anything tells the lake's pace: a second and less of a slow disk.
pub(super) const EPOCH_OBJECTS_FIRST: usize = 256;
/// Objects that an epoch takes on the slowest lake.
const EPOCH_OBJECTS_MIN: usize = 16;
/// Hours that a key may take of an epoch, however many keys there are: one of its live windows and one of what waits below
/// the boundary.
const KEY_HOURS_MIN: usize = 2;
/// Series of a key whose object takes as long again as one of few series.
const SERIES_PER_OBJECT: usize = 512;

/// A key that could be cut.
#[derive(Clone, Copy, Debug)]
struct Due {
    index: usize,
    /// Rows that a whole cut would take; known under pressure.
    rows: usize,
    /// By its turn, or because it has much waiting.
    in_turn: bool,
}

impl Shard {
    /// Cuts the keys whose turn it is into `epoch`; whether there were any with something to write.
    ///
    /// A key's turns are `publish_interval` apart, at a phase of its own. A key with much waiting does not wait for its
    /// turn, nor does the rest of what was cut in part, and under pressure the fullest keys go first. A key on which nothing
    /// waits just lets its boundary follow.
    ///
    /// An epoch takes a bounded number of objects ([`Shard::pace`]), because nothing else of the shard is checkpointed or
    /// cut until they are written. The keys share it fairly: who needs less than an equal share gets all of it, and the
    /// others share what that leaves. The key that has waited longest comes first.
    pub fn cut_due(&mut self, epoch: Epoch, now: i64) -> bool {
        let window_ns = self.settings.window.ns();
        let much = (self.settings.state_rows_max / 8).max(1);
        let pressed = self.is_pressed();
        let (mut due, mut followers) = (Vec::new(), Vec::new());
        for (index, key) in self.keys.iter().enumerate() {
            if !key.born() || key.outbox.is_some() {
                continue;
            }
            if !key.waits(window_ns) {
                if self.settings.window.start_of(key.watermark) > key.boundary {
                    followers.push(index);
                }
                continue;
            }
            let rows = if pressed || key.rows.len() >= much { key.rows_to_cut(window_ns) } else { 0 };
            let in_turn = key.unfinished || rows >= much || turn(key, now, self.settings.publish_ns);
            if in_turn || pressed {
                due.push(Due { index, rows, in_turn });
            }
        }
        for index in followers {
            self.cut(index, epoch, now, KEY_HOURS_MIN as u32);
        }
        let mut left = self.epoch_objects;
        let mut shares = self.shares(due, pressed).into_iter();
        let mut keys_left = shares.len();
        let wrote = keys_left > 0;
        while let Some((index, need)) = shares.next().filter(|_| left > 0) {
            let each = object_cost(&self.keys[index]);
            let hours = (need.min(left / keys_left) / each).max(KEY_HOURS_MIN);
            self.cut(index, epoch, now, u32::try_from(hours).unwrap_or(u32::MAX));
            let taken = self.keys[index].outbox.as_ref().map_or(0, |outbox| outbox.hours.len());
            left = left.saturating_sub(taken * each);
            keys_left -= 1;
        }
        wrote
    }

    /// The keys of an epoch and what each needs of it: the one cut longest ago, then those that need least.
    fn shares(&self, mut due: Vec<Due>, pressed: bool) -> Vec<(usize, usize)> {
        let mut first = 0;
        if pressed {
            due.sort_unstable_by_key(|key| (Reverse(key.rows), key.index));
            let frozen = self.keys.iter().filter(|key| !key.held).map(|key| key.rows.frozen.rows).sum::<usize>();
            let mut rows_left = self.rows - self.held_rows - frozen;
            due.retain(|key| {
                let relieves = rows_left > self.room() / 2;
                rows_left -= if relieves { rows_left.min(key.rows) } else { 0 };
                relieves || key.in_turn
            });
            // Room is wanted, but not at the price of keys that have little.
            first = due.len().min(self.epoch_objects.div_ceil(2));
        }
        due[first..].sort_unstable_by_key(|key| (self.keys[key.index].cut_at, key.index));
        due.truncate(self.epoch_objects);
        let mut needs: Vec<(usize, usize)> = due
            .iter()
            .map(|key| (key.index, self.objects_waiting(&self.keys[key.index]) * object_cost(&self.keys[key.index])))
            .collect();
        needs.sort_unstable_by_key(|(index, need)| (*need, *index));
        if let Some(oldest) = (0..needs.len()).min_by_key(|at| self.keys[needs[*at].0].cut_at) {
            needs[..=oldest].rotate_right(1);
        }
        needs
    }

    /// Hours that a cut of the key would take, counted up to what an epoch takes.
    fn objects_waiting(&self, key: &KeyState) -> usize {
        let most = self.epoch_objects;
        let closed = closed(key, self.settings.window.ns(), self.settings.window.start_of(key.watermark));
        (take_hours(closed, most).0 + take_hours(key.rows.waiting.windows.keys().copied(), most).0).min(most)
    }

    /// Takes how long the outputs of an epoch took, whose cost was so many objects ([`Shard::cost`]): the next ones take
    /// what the lake does in [`limits::EPOCH_APPLY_TIME`].
    pub fn pace(&mut self, cost: usize, taken_ns: u64) {
        let target_ns = u64::try_from(limits::EPOCH_APPLY_TIME.as_nanos()).unwrap_or(u64::MAX);
        // An epoch of few objects tells little of the lake, unless it took long all the same.
        if cost == 0 || (cost < self.epoch_objects / 2 && taken_ns < target_ns) {
            return;
        }
        let sustained = cost as u128 * u128::from(target_ns) / u128::from(taken_ns.max(1));
        let sustained = usize::try_from(sustained).unwrap_or(usize::MAX);
        // Half of the way, at most twice as many: one slow or fast epoch is not the lake.
        let next = (self.epoch_objects + sustained.min(3 * self.epoch_objects)) / 2;
        let most = self.settings.epoch_objects_max.max(1);
        self.epoch_objects = next.clamp(EPOCH_OBJECTS_MIN.min(most), most);
    }

    /// What jobs cost, in objects of few series.
    pub fn cost(&self, jobs: &[ApplyJob]) -> usize {
        jobs.iter().map(|job| job.hours.len() * object_cost(&self.keys[job.index as usize])).sum()
    }

    /// Whether a key was cut in part and can be cut again: the next epoch need not wait.
    pub fn has_unfinished(&self) -> bool {
        self.unfinished > 0
    }

    /// Whether [`Shard::cut_due`] would find something to write now; cheap enough to ask often.
    pub fn cut_is_due(&self, now: i64) -> bool {
        let window_ns = self.settings.window.ns();
        let pressed = self.is_pressed();
        self.keys.iter().any(|key| {
            key.born()
                && key.outbox.is_none()
                && key.waits(window_ns)
                && (pressed || key.unfinished || turn(key, now, self.settings.publish_ns))
        })
    }

    /// When memory is short and no cut can help, because all rows are in open windows: closes the older half of the
    /// windows of the fullest key. Later events for them become corrections; nothing is lost. Whether it did.
    pub fn relieve(&mut self) -> bool {
        let window_ns = self.settings.window.ns();
        let can_cut = |key: &KeyState| key.outbox.is_none() && key.waits(window_ns);
        if self.has_row_room() || self.keys.iter().any(can_cut) {
            return false;
        }
        let free = self.keys.iter().enumerate().filter(|(_, key)| key.born() && key.outbox.is_none());
        let Some((index, _)) = free.max_by_key(|(_, key)| key.rows.live.rows) else { return false };
        let windows = &self.keys[index].rows.live.windows;
        let Some(start) = windows.keys().nth(windows.len().saturating_sub(1) / 2) else { return false };
        let to = start + window_ns;
        self.keys[index].watermark = self.keys[index].watermark.max(to);
        self.decide(index, DecisionKind::Pressed(to));
        true
    }

    /// Takes what waits in a key into its outbox, up to so many hours, the oldest first.
    ///
    /// Live windows take at most half of the hours while something waits below the boundary, so that neither keeps the other
    /// out. The boundary moves only up to the first live window that is left; what is left below it stays pending.
    pub(super) fn cut(&mut self, index: usize, epoch: Epoch, now: i64, hours_max: u32) {
        let window_ns = self.settings.window.ns();
        let key = &mut self.keys[index];
        let rows_before = key.rows.len();
        let whole = self.settings.window.start_of(key.watermark).max(key.boundary);
        let most = hours_max as usize;
        let live_most = if key.rows.waiting.rows == 0 { most } else { most.div_ceil(2) };
        let (live_hours, live_end) = take_hours(closed(key, window_ns, whole), live_most);
        let waiting = key.rows.waiting.windows.keys().copied();
        let (_, waiting_end) = take_hours(waiting, most.saturating_sub(live_hours));
        let through = live_end.unwrap_or(whole);
        if std::mem::replace(&mut key.unfinished, live_end.is_some() || waiting_end.is_some()) {
            self.unfinished -= 1;
        }
        let mut hours: BTreeMap<Hour, Vec<OutputRow>> = BTreeMap::new();
        let mut correction_events = 0;
        for part in [Part::Waiting, Part::Live] {
            let end = if part == Part::Waiting { waiting_end.unwrap_or(i64::MAX) } else { through };
            for (start, window) in key.rows.take_windows(part, window_ns, end) {
                let rows = hours.entry(Hour::of(start)).or_default();
                for (metric, slot) in &window.slots {
                    let row = key.rows.row(*slot).data.clone();
                    if part == Part::Waiting {
                        correction_events += row.count;
                    }
                    rows.push(OutputRow { start_ns: start, metric: key.series.name(*metric).clone(), row });
                }
                key.dropped_blocks.extend(window.stored.iter().map(|block| (part, start, *block)));
                if part == Part::Waiting {
                    key.rows.release(&window);
                } else {
                    key.rows.freeze(start, window);
                }
            }
        }
        key.waiting_events -= correction_events;
        debug_assert!(waiting_end.is_some() || key.waiting_events == 0);
        let hours = hours.into_iter().map(|(hour, mut rows)| {
            rows.sort_unstable_by(|a, b| (&a.metric, a.start_ns).cmp(&(&b.metric, b.start_ns)));
            OutputHour { hour, rows: rows.into() }
        });
        key.outbox = Some(Outbox {
            epoch,
            ordinal: self.ordinal,
            through,
            hours: hours.collect(),
            correction_events,
            attempts: 0,
            failing_since: now,
            retry_at: now,
            parked: Vec::new(),
            stopped: None,
        });
        key.cut_through = through;
        key.cut_at = now;
        self.count_rows(index, rows_before);
        self.decide(index, DecisionKind::Cut { through, hours: hours_max });
    }

    /// Outputs to apply now: those of this epoch and those whose turn to be tried again has come.
    pub fn apply_jobs(&self, now: i64) -> Vec<ApplyJob> {
        let outboxes = self.keys.iter().enumerate().filter_map(|(index, key)| Some((index, key, key.outbox.as_ref()?)));
        let due = outboxes.filter(|(_, _, outbox)| outbox.retry_at <= now);
        due.map(|(index, key, outbox)| ApplyJob {
            index: index as u32,
            key: key.key.clone(),
            epoch: outbox.epoch,
            ordinal: outbox.ordinal,
            series: key.series.all.len(),
            hours: outbox.hours.clone(),
        })
        .collect()
    }

    /// Sees to it that hot-metric hears of the keys whose objects and indexes `epoch` is about to change, and that the
    /// epoch's checkpoint knows. The footers will name this ordinal, and a reader must be able to reach it; what it has
    /// kept of the hour index is no longer good, whatever becomes of the outputs (I6).
    pub fn announce(&mut self, epoch: Epoch, jobs: &[ApplyJob]) {
        for job in jobs {
            let index = job.index as usize;
            if !job.hours.is_empty() {
                self.keys[index].index_version = epoch;
                self.keys[index].index_open = true;
                self.mark(index);
            }
            self.queue_hot(index);
        }
    }

    /// Whether a job may be applied although it was not announced in this session: it has nothing to write; hot-metric, when
    /// it was met last, did not know the key, so that nobody reads it; or readers see the boundary that the job moves already,
    /// so that all of it is in the lake. In the last case it must be: a boundary that readers have seen does not go back.
    pub fn needs_no_announcement(&self, job: &ApplyJob) -> bool {
        let key = &self.keys[job.index as usize];
        let moves_to = key.outbox.as_ref().map(|outbox| outbox.through).filter(|through| *through > key.boundary);
        job.hours.is_empty()
            || key.hot_known.is_none_or(|known| moves_to.is_some_and(|through| known.boundary_ns >= through))
    }

    /// Whether an output should be tried again now. To be asked while no epoch is in flight.
    pub fn retry_is_due(&self, now: i64) -> bool {
        self.keys.iter().any(|key| key.outbox.as_ref().is_some_and(|outbox| outbox.retry_at <= now))
            || self.dead_is_due(now)
    }

    /// All outputs of a key are in the lake: its boundary moves, its frozen rows are forgotten.
    pub fn applied(&mut self, index: u32, now: i64) {
        self.release(index);
        let key = &mut self.keys[index as usize];
        let rows_before = key.rows.len();
        let Some(outbox) = key.outbox.take() else { return };
        self.unfinished += usize::from(key.unfinished);
        key.boundary = outbox.through;
        key.index_open = false;
        if !outbox.hours.is_empty() {
            self.written_at = now;
        }
        let frozen = std::mem::take(&mut key.rows.frozen);
        for window in frozen.windows.values() {
            key.rows.release(window);
        }
        outbox_entries(index, &outbox, &mut key.dropped_outputs);
        self.count_rows(index as usize, rows_before);
        self.mark(index as usize);
        self.queue_hot(index as usize);
    }

    /// Outputs of a key could not all be written: they stay, and so does the boundary. Some may have been; until they are
    /// tried again the key's objects and index stay as they are.
    pub fn parked(&mut self, index: u32, failure: ApplyFailure, now: i64) {
        self.keys[index as usize].index_open = false;
        self.queue_hot(index as usize);
        let Some(outbox) = &mut self.keys[index as usize].outbox else { return };
        if outbox.attempts == 0 {
            outbox.failing_since = now;
        }
        outbox.attempts = outbox.attempts.saturating_add(1);
        // A stopped key waits for an operator; it is tried again, slowly, because the operator may have come.
        let wait_ns = if failure.stopped.is_some() { 60 * SECOND_NS } else { retry_after_ns(outbox.attempts) };
        outbox.retry_at = now.saturating_add(wait_ns);
        outbox.parked = failure.parked;
        outbox.stopped = failure.stopped;
    }
}

/// Starts of the live windows that end at or before `end`, in order.
fn closed(key: &KeyState, window_ns: i64, end: i64) -> impl Iterator<Item = i64> {
    key.rows.live.windows.keys().copied().take_while(move |start| start + window_ns <= end)
}

/// Of windows in order, the hours that are taken, and where they end: the first window that is left, if any is. Days are
/// taken whole where one fits, because each has an index object that is written with every epoch.
fn take_hours(starts: impl Iterator<Item = i64>, most: usize) -> (usize, Option<i64>) {
    let (mut hours, mut last) = (0, None);
    let mut day: Option<(Day, usize, i64)> = None;
    for start in starts {
        let hour = Hour::of(start);
        if last == Some(hour) {
            continue;
        }
        let (_, before, first) = match day {
            Some(known @ (of, ..)) if of == hour.day() => known,
            _ => *day.insert((hour.day(), hours, start)),
        };
        if hours == most {
            return if before > 0 { (before, Some(first)) } else { (hours, Some(start)) };
        }
        (hours, last) = (hours + 1, Some(hour));
    }
    (hours, None)
}

/// What writing an object of a key costs, in objects of few series.
fn object_cost(key: &KeyState) -> usize {
    1 + key.series.all.len() / SERIES_PER_OBJECT
}

/// Whether a turn of the key has come since it was cut last.
fn turn(key: &KeyState, now: i64, interval: i64) -> bool {
    let interval = interval.max(1);
    // Keys are numbered in the order of their birth: steps of the golden ratio spread neighbours evenly.
    let spread = u128::from(u64::from(key.number).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let phase = ((spread * u128::from(interval.unsigned_abs())) >> 64) as i64;
    let number = |time: i64| time.saturating_sub(phase).div_euclid(interval);
    // Not "greater": after a restart with an earlier wall clock the key must not wait for its former future.
    number(now) != number(key.cut_at)
}
