//! Rules, one by one.

use proptest::prelude::*;
use tidegauge_core::checkpoint::Change;
use tidegauge_core::event::{EventBatch, IndexRange, Mode};
use tidegauge_core::time::{MINUTE_NS, SECOND_NS, floor_ns};

use super::{T0, batch, key, raw, request, settings};
use crate::decide::{Counters, DeadReason, DecisionKind, Settings, Shard};

fn process(shard: &mut Shard, record: &EventBatch) {
    let key = key(record.tenant.as_str());
    shard.process(&key, record, &raw(record), record.arrival_ns);
}

fn counters(shard: &Shard) -> Counters {
    shard.key(&key("a")).unwrap().counters
}

fn reasons(shard: &mut Shard) -> Vec<(DeadReason, u64)> {
    shard.take_changes(u64::MAX);
    shard
        .dead_jobs(i64::MAX)
        .iter()
        .flat_map(|batch| &batch.letters)
        .map(|letter| (letter.reason, letter.events))
        .collect()
}

fn numbered(producer: u8, kept: bool, sequence: u64, events: u32, arrival: i64) -> EventBatch {
    let events: Vec<_> = (0..events).map(|i| (i % 8, arrival, f64::from(i))).collect();
    let mut record = batch(&key("a"), Mode::Live, arrival, &events);
    record.request = request(producer, kept, sequence, u128::from(sequence) << 70 | 5);
    record
}

/// A request split in two, retried whole, then with a hole: each index counts once, whatever arrives with it.
#[test]
fn splits_and_retries_meet_by_index() {
    let mut shard = Shard::new(settings());
    let part = |first: u32, count: u32| {
        let mut record = numbered(1, false, 1, count, T0);
        record.indexes = vec![IndexRange { first, count }];
        record
    };
    process(&mut shard, &part(4, 3));
    process(&mut shard, &part(0, 2));
    assert_eq!((counters(&shard).on_time, counters(&shard).duplicates), (5, 0));
    let mut rest = numbered(1, false, 1, 4, T0);
    rest.indexes =
        vec![IndexRange { first: 1, count: 1 }, IndexRange { first: 2, count: 2 }, IndexRange { first: 6, count: 1 }];
    process(&mut shard, &rest);
    assert_eq!((counters(&shard).on_time, counters(&shard).duplicates), (7, 2));
    process(&mut shard, &part(0, 7));
    assert_eq!((counters(&shard).on_time, counters(&shard).duplicates), (7, 9));
}

/// Beyond the number or the age remembered, a fresh producer's event is neither counted nor dropped; a kept one's is a
/// duplicate, for ever.
#[test]
fn below_the_floor_fresh_is_dead_and_kept_is_a_duplicate() {
    let few = Settings { dedup_sequences: 4, ..settings() };
    let mut shard = Shard::new(few.clone());
    for sequence in 1..=6 {
        process(&mut shard, &numbered(1, false, sequence, 1, T0));
        process(&mut shard, &numbered(2, true, sequence, 1, T0));
    }
    for sequence in [2, 3] {
        process(&mut shard, &numbered(1, false, sequence, 1, T0));
        process(&mut shard, &numbered(2, true, sequence, 1, T0));
    }
    // 2 is below the floor; 3 is remembered.
    assert_eq!(counters(&shard), Counters { on_log: 16, duplicates: 3, on_time: 12, dead: 1, ..Counters::default() });
    assert_eq!(reasons(&mut shard), [(DeadReason::BelowDedupHorizon, 1)]);

    let later = T0 + few.dedup_age_ns + 2 * 3_600 * SECOND_NS;
    process(&mut shard, &numbered(3, false, 1, 1, later));
    process(&mut shard, &numbered(1, false, 6, 1, later));
    process(&mut shard, &numbered(2, true, 6, 1, later));
    process(&mut shard, &numbered(1, false, 7, 1, later));
    let now = counters(&shard);
    assert_eq!((now.duplicates, now.dead, now.on_time), (4, 2, 14));
}

/// A crash left the first record of a kept producer's request on the log. However late and often the request is sent again,
/// each of its events counts once.
#[test]
fn a_kept_request_is_finished_however_late() {
    for days in [0, 3] {
        let mut shard = Shard::new(settings());
        let part = |first: u32, count: u32, arrival: i64| {
            let mut record = numbered(2, true, 5, count, arrival);
            record.indexes = vec![IndexRange { first, count }];
            record
        };
        process(&mut shard, &numbered(2, true, 4, 1, T0));
        process(&mut shard, &part(0, 3, T0));
        let later = T0 + days * settings().dedup_age_ns;
        process(&mut shard, &numbered(3, false, 1, 1, later));
        for record in [part(0, 4, later), part(4, 6, later), part(0, 4, later)] {
            process(&mut shard, &record);
        }
        let now = counters(&shard);
        assert_eq!((now.on_time, now.duplicates, now.dead), (1 + 10 + 1, 3 + 4, 0), "{days} days later");
        process(&mut shard, &numbered(2, true, 6, 1, later));
        process(&mut shard, &numbered(2, true, 4, 1, later));
        assert_eq!(counters(&shard).duplicates, 3 + 4 + 1, "what came before it is a duplicate");
    }
}

/// The same sequence with other content is set aside whole.
#[test]
fn a_reused_sequence_is_dead() {
    let mut shard = Shard::new(settings());
    process(&mut shard, &numbered(1, false, 1, 3, T0));
    let mut other = numbered(1, false, 1, 2, T0);
    other.request.as_mut().unwrap().digest ^= 1;
    process(&mut shard, &other);
    assert_eq!(counters(&shard), Counters { on_log: 5, on_time: 3, dead: 2, ..Counters::default() });
    assert_eq!(reasons(&mut shard), [(DeadReason::SequenceReused, 2)]);
}

/// Requests of which every other event was refused leave a range an event. They take the same memory as others do (I8): of
/// fewer of them the single indexes are remembered, and what is older is set aside, not counted again.
#[test]
fn requests_with_many_holes_are_remembered_for_a_shorter_time() {
    let mut shard = Shard::new(Settings { dedup_key_sequences: 10_000, ..settings() });
    let holes = |sequence: u64| {
        let mut record = numbered(1, false, sequence, 1_000, T0);
        record.indexes = (0..1_000).map(|i| IndexRange { first: 2 * i, count: 1 }).collect();
        record
    };
    for sequence in 1..=100 {
        process(&mut shard, &holes(sequence));
    }
    assert_eq!(counters(&shard).on_time, 100_000);
    process(&mut shard, &holes(100));
    assert_eq!((counters(&shard).duplicates, counters(&shard).dead), (1_000, 0));
    process(&mut shard, &holes(1));
    assert_eq!((counters(&shard).duplicates, counters(&shard).dead), (1_000, 1_000));
    // The same after a restart.
    let entries = shard.take_changes(1).into_iter();
    let mut entries: Vec<_> = entries.filter_map(|c| Some((c.keyspace, c.key, c.value?))).collect();
    entries.sort();
    let mut restored = Shard::restore(shard.settings().clone(), shard.ordinal(), &entries).unwrap();
    for sequence in 101..=200 {
        process(&mut restored, &holes(sequence));
    }
    process(&mut restored, &holes(150));
    assert_eq!((counters(&restored).on_time, counters(&restored).dead), (200_000, 2_000));
}

/// However many producers bring requests with many holes, memory has its limit: fresh ones are forgotten, silent ones first, and
/// kept ones, which are not, are refused in time. What cannot be told becomes a dead letter, so nothing counts twice.
#[test]
fn many_producers_with_holes_are_bounded() {
    let settings = || Settings { dedup_key_sequences: 4_000, ..settings() };
    let holes = |producer: u8, kept: bool, second: i64| {
        let mut record = numbered(producer, kept, 1, 1_000, T0 + second * SECOND_NS);
        record.indexes = (0..1_000).map(|i| IndexRange { first: 2 * i, count: 1 }).collect();
        record
    };
    for kept in [false, true] {
        let mut shard = Shard::new(settings());
        for producer in 0..100 {
            process(&mut shard, &holes(producer, kept, i64::from(producer)));
        }
        let weight = shard.key(&key("a")).unwrap().dedup_weight();
        assert!(weight <= 4_000, "kept {kept}: {weight}");
        let before = counters(&shard);
        assert_eq!(before.on_time + before.dead, 100_000);
        for producer in 0..100 {
            process(&mut shard, &holes(producer, kept, 100));
        }
        let after = counters(&shard);
        assert_eq!(after.on_time, before.on_time, "kept {kept}: nothing counts twice");
        assert_eq!(after.duplicates + after.dead - before.dead, 100_000);
        assert!(after.duplicates >= 3_000, "kept {kept}: the newest are remembered");
    }
}

/// Limits of producers: one more kept producer is refused, one more fresh one makes the most silent one forgotten.
#[test]
fn producers_are_limited() {
    let mut shard = Shard::new(Settings { kept_producers_max: 1, fresh_producers_max: 2, ..settings() });
    process(&mut shard, &numbered(1, true, 1, 1, T0));
    process(&mut shard, &numbered(2, true, 1, 1, T0));
    assert_eq!(counters(&shard).dead, 1);
    for (second, producer) in [(0, 3), (1, 4), (2, 5)] {
        process(&mut shard, &numbered(producer, false, 1, 1, T0 + second * SECOND_NS));
    }
    // 3 is forgotten, 4 is not.
    process(&mut shard, &numbered(4, false, 1, 1, T0 + 3 * SECOND_NS));
    assert_eq!(counters(&shard).duplicates, 1);
    process(&mut shard, &numbered(3, false, 1, 1, T0 + 4 * SECOND_NS));
    assert_eq!(counters(&shard).duplicates, 1);
}

/// A key is born LIVE with its boundary before everything it holds, BACKFILL at arrival less lateness.
#[test]
fn birth_sets_the_boundary() {
    let now = T0 + 10 * MINUTE_NS + 7;
    let mut live = Shard::new(settings());
    process(&mut live, &batch(&key("a"), Mode::Live, now, &[(0, now, 1.0), (0, now - 30 * MINUTE_NS, 1.0)]));
    let (watermark, boundary) = live.key(&key("a")).unwrap().times().unwrap();
    assert_eq!((watermark, boundary), (now - 2 * MINUTE_NS, T0 - 20 * MINUTE_NS));
    assert_eq!(counters(&live).late, 0, "nothing is late before there is a watermark");

    let mut recent = Shard::new(settings());
    process(&mut recent, &batch(&key("a"), Mode::Live, now, &[(0, now, 1.0)]));
    assert_eq!(recent.key(&key("a")).unwrap().times().unwrap().1, T0 + 8 * MINUTE_NS);

    let mut history = Shard::new(settings());
    let old = [(0, T0 - 600 * MINUTE_NS, 1.0), (0, now, 2.0)];
    process(&mut history, &batch(&key("a"), Mode::Backfill, now, &old));
    let state = history.key(&key("a")).unwrap();
    assert_eq!(state.times(), Some((T0 + 8 * MINUTE_NS, T0 + 8 * MINUTE_NS)));
    assert_eq!((state.pending(), state.counters.backfilled), (1, 2));
    // The first LIVE record may be as old as it likes; from then on there is a horizon.
    process(&mut history, &batch(&key("a"), Mode::Live, now, &[(0, T0 - 600 * MINUTE_NS, 1.0)]));
    assert_eq!((counters(&history).late, counters(&history).dead), (1, 0));
}

/// Idle advance makes late events, never dead ones; only events move what "too old" is measured from.
#[test]
fn idle_advance_makes_late_but_never_dead() {
    let mut shard = Shard::new(settings());
    process(&mut shard, &batch(&key("a"), Mode::Live, T0, &[(0, T0, 1.0)]));
    shard.advance_idle(T0 + MINUTE_NS - 1);
    assert_eq!(shard.key(&key("a")).unwrap().times().unwrap().0, T0 - 2 * MINUTE_NS, "not idle yet");
    let days_later = T0 + 3 * 1_440 * MINUTE_NS;
    shard.advance_idle(days_later);
    assert_eq!(shard.key(&key("a")).unwrap().times().unwrap().0, days_later - 2 * MINUTE_NS);
    process(&mut shard, &batch(&key("a"), Mode::Live, days_later, &[(0, T0 + MINUTE_NS, 1.0)]));
    assert_eq!((counters(&shard).late, counters(&shard).dead), (1, 0));
    // Now an event of the day has moved the watermark of events, and the same age is too old: to the nanosecond.
    process(&mut shard, &batch(&key("a"), Mode::Live, days_later, &[(0, days_later, 1.0)]));
    let oldest = days_later - 62 * MINUTE_NS;
    process(&mut shard, &batch(&key("a"), Mode::Live, days_later, &[(0, oldest, 1.0), (1, oldest - 1, 1.0)]));
    assert_eq!((counters(&shard).late, counters(&shard).dead), (2, 1));
    // History has no horizon.
    process(&mut shard, &batch(&key("a"), Mode::Backfill, days_later, &[(0, T0 - days_later % T0, 1.0)]));
    assert_eq!((counters(&shard).backfilled, counters(&shard).dead), (1, 1));
    assert_eq!(reasons(&mut shard), [(DeadReason::TooOld, 1)]);
}

/// One tenant's clock that runs ahead moves nothing: the watermark takes the smaller of event and arrival time.
#[test]
fn the_future_does_not_move_the_watermark() {
    let mut shard = Shard::new(settings());
    let ahead = T0 + 10 * MINUTE_NS;
    process(&mut shard, &batch(&key("a"), Mode::Live, T0, &[(0, ahead, 1.0), (0, ahead + 1, 1.0)]));
    assert_eq!((counters(&shard).on_time, counters(&shard).dead), (1, 1));
    assert_eq!(shard.key(&key("a")).unwrap().times().unwrap().0, T0 - 2 * MINUTE_NS);
}

/// The limit of series sets only the events of further metrics aside.
#[test]
fn series_are_limited() {
    let mut shard = Shard::new(Settings { series_max: 2, ..settings() });
    let events: Vec<_> = (0..8).map(|i| (i % 4, T0, 1.0)).collect();
    process(&mut shard, &batch(&key("a"), Mode::Live, T0, &events));
    assert_eq!((counters(&shard).on_time, counters(&shard).dead), (4, 4));
    assert_eq!(reasons(&mut shard), [(DeadReason::TooManySeries, 4)]);
}

/// Dictionaries longer than the dense table, and records over very many windows, take other ways to the same rows.
#[test]
fn wide_records_give_the_same_rows() {
    let mut shard = Shard::new(settings());
    let mut record = batch(&key("a"), Mode::Backfill, T0, &[]);
    record.columns.metrics = (0..6_000).map(|m| format!("m{m}")).collect();
    for event in 0..9_000_i64 {
        record.columns.times.push(T0 - (event * 7_919 % 3_000) * MINUTE_NS);
        record.columns.values.push(1.0);
        record.columns.metric_ids.push((event * 31 % 700 * 8) as u32);
    }
    for ids in [
        &mut record.columns.event_type_ids,
        &mut record.columns.source_ids,
        &mut record.columns.version_ids,
        &mut record.columns.dimension_set_ids,
    ] {
        ids.resize(9_000, 0);
    }
    record.indexes = vec![IndexRange { first: 0, count: 9_000 }];
    process(&mut shard, &record);
    let mut expected = std::collections::HashMap::new();
    for (time, id) in record.columns.times.iter().zip(&record.columns.metric_ids) {
        *expected.entry((floor_ns(*time, MINUTE_NS), format!("m{id}"))).or_insert(0_u64) += 1;
    }
    shard.cut_due(1, T0 + 3_600 * SECOND_NS);
    let rows = shard.apply_jobs(i64::MAX).into_iter().flat_map(|job| job.hours).flat_map(|hour| hour.rows.to_vec());
    let cut: std::collections::HashMap<_, _> =
        rows.map(|row| ((row.start_ns, row.metric.to_string()), row.row.count)).collect();
    expected.retain(|(start, _), _| *start < T0 - 2 * MINUTE_NS);
    assert_eq!(cut, expected);
}

/// Cuts are spread over the interval.
#[test]
fn cuts_are_staggered() {
    let mut shard = Shard::new(Settings { publish_ns: MINUTE_NS, ..settings() });
    let start = T0 + 30 * MINUTE_NS;
    for number in 0..60 {
        let key = key(&format!("k{number}"));
        let record = batch(&key, Mode::Backfill, start, &[(0, T0, 1.0)]);
        shard.process(&key, &record, &raw(&record), start);
    }
    let mut sizes = Vec::new();
    for second in 1..=61 {
        let epoch = second as u64;
        shard.cut_due(epoch, start + second * SECOND_NS);
        let jobs: Vec<_> = shard.apply_jobs(i64::MAX).into_iter().filter(|job| !job.hours.is_empty()).collect();
        sizes.push(jobs.len());
        for job in shard.apply_jobs(i64::MAX) {
            shard.applied(job.index, start + second * SECOND_NS);
        }
    }
    assert_eq!(sizes.iter().sum::<usize>(), 60, "every key has had its turn");
    assert!(sizes.iter().all(|size| *size <= 4), "{sizes:?}");
}

#[derive(Clone, Debug)]
enum Step {
    Live(Vec<i64>),
    Wait(i64),
}

fn step() -> impl Strategy<Value = Step> {
    let times = prop::collection::vec(prop_oneof![-300..5_i64, Just(-120), Just(-60)], 1..5);
    prop_oneof![times.prop_map(Step::Live), (1..150_i64).prop_map(Step::Wait)]
}

proptest! {
    /// Late is exactly what comes when its window had closed, by a watermark computed the naive way.
    #[test]
    fn lateness_is_exact(steps in prop::collection::vec(step(), 1..40)) {
        let settings = settings();
        let (lateness, window) = (settings.lateness_ns, settings.window.ns());
        let mut shard = Shard::new(settings);
        let (mut now, mut watermark, mut late, mut heard) = (T0, None::<i64>, 0, 0);
        for step in steps {
            match step {
                Step::Live(times) => {
                    let events: Vec<_> = times.iter().map(|s| (0, now + s * SECOND_NS, 1.0)).collect();
                    late += events.iter().filter(|e| watermark.is_some_and(|w| floor_ns(e.1, window) + window <= w)).count();
                    let newest = events.iter().map(|e| e.1.min(now)).max().unwrap();
                    watermark = watermark.max(Some(newest - lateness));
                    heard = now;
                    process(&mut shard, &batch(&key("a"), Mode::Live, now, &events));
                }
                Step::Wait(seconds) => {
                    now += seconds * SECOND_NS;
                    shard.advance_idle(now);
                    if let Some(old) = watermark && now - heard >= MINUTE_NS && old < floor_ns(now - lateness, window) {
                        watermark = Some(now - lateness);
                    }
                }
            }
            if let Some(state) = shard.key(&key("a")) {
                prop_assert_eq!(state.counters.late, late as u64);
                prop_assert_eq!(state.times().map(|t| t.0), watermark);
            }
        }
    }

    /// I4: from the same checkpoint the same records and the same recorded decisions give the same changes, byte for
    /// byte, although no clock decides the second time.
    #[test]
    fn the_same_decisions_give_the_same_bytes(before in prop::collection::vec(step(), 1..10), after in prop::collection::vec(step(), 1..20)) {
        let mut shard = Shard::new(settings());
        let mut now = T0;
        let mut records = Vec::new();
        let mut live = |shard: &mut Shard, steps: Vec<Step>, records: &mut Vec<EventBatch>| {
            for step in steps {
                match step {
                    Step::Live(times) => {
                        let events: Vec<_> = times.iter().map(|s| (0, now + s * SECOND_NS, 1.5)).collect();
                        let record = batch(&key("a"), Mode::Live, now, &events);
                        process(shard, &record);
                        records.push(record);
                    }
                    Step::Wait(seconds) => {
                        now += seconds * SECOND_NS;
                        shard.advance_idle(now);
                    }
                }
            }
            now
        };
        // There is a key, and in the end silence enough for decisions.
        live(&mut shard, [vec![Step::Live(vec![0])], before].concat(), &mut records);
        let mut entries = std::collections::BTreeMap::new();
        for change in shard.take_changes(1) {
            entries.insert((change.keyspace, change.key), change.value.unwrap());
        }
        let entries: Vec<_> = entries.into_iter().map(|((space, key), value)| (space, key, value)).collect();
        let mut again = Shard::restore(settings(), shard.ordinal(), &entries).unwrap();

        let end = live(&mut shard, [after, vec![Step::Wait(200)]].concat(), &mut records);
        shard.cut_due(2, end);
        let decisions = shard.decisions().to_vec();
        prop_assert!(!decisions.is_empty(), "nothing to repeat");
        let changes = shard.take_changes(2);

        for decision in &decisions {
            while again.ordinal() < decision.ordinal {
                let next = again.ordinal() as usize;
                process(&mut again, &records[next]);
            }
            again.repeat(decision, 2, end);
        }
        while (again.ordinal() as usize) < records.len() {
            let next = again.ordinal() as usize;
            process(&mut again, &records[next]);
        }
        let sorted = |mut changes: Vec<Change>| {
            changes.sort_by(|a, b| (a.keyspace, &a.key).cmp(&(b.keyspace, &b.key)));
            changes
        };
        prop_assert_eq!(sorted(again.take_changes(2)), sorted(changes));
        prop_assert!(decisions.iter().all(|d| !matches!(d.kind, DecisionKind::Pressed(_))));
    }
}
