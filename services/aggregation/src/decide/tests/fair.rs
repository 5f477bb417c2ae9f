//! Epochs of bounded size, shared fairly: I7 for the time of a shard.

use tidegauge_core::event::Mode;
use tidegauge_core::time::{HOUR_NS, MINUTE_NS, SECOND_NS};

use super::{T0, batch, key, raw, settings};
use crate::decide::{Settings, Shard};

const NOW: i64 = T0 + 60 * MINUTE_NS;

fn send(shard: &mut Shard, name: &str, mode: Mode, times: &[i64]) {
    for times in times.chunks(10_000) {
        let events: Vec<_> = times.iter().map(|time| (0, *time, 1.0)).collect();
        let record = batch(&key(name), mode, NOW, &events);
        shard.process(&key(name), &record, &raw(&record), NOW);
    }
}

/// One event in each of so many hours of the past.
fn years(shard: &mut Shard, name: &str, hours: i64) {
    let times: Vec<i64> = (1..=hours).map(|hours| T0 - hours * HOUR_NS).collect();
    send(shard, name, Mode::Backfill, &times);
}

/// Cuts what is due; hours of each key.
fn epoch(shard: &mut Shard, epoch: u64, now: i64) -> Vec<(String, usize)> {
    shard.cut_due(epoch, now);
    let jobs = shard.apply_jobs(i64::MAX);
    jobs.iter().for_each(|job| shard.applied(job.index, now));
    jobs.iter().map(|job| (job.key.tenant.to_string(), job.hours.len())).collect()
}

/// However much history one key has, an epoch takes a bounded part of it and all of what its neighbours have; the rest
/// follows at once, oldest first and in whole days.
#[test]
fn history_of_one_key_leaves_the_epoch_to_the_others() {
    for hours in [43_800, 229_000] {
        let mut shard = Shard::new(settings());
        years(&mut shard, "a", hours);
        for name in ["b", "c", "d"] {
            send(&mut shard, name, Mode::Live, &[NOW - 2 * HOUR_NS]);
            send(&mut shard, name, Mode::Live, &[NOW]);
        }
        let mut oldest = i64::MIN;
        let (mut written, mut epochs) = (0, 0);
        for number in 1.. {
            shard.cut_due(number, NOW + MINUTE_NS);
            let jobs = shard.apply_jobs(i64::MAX);
            let objects: usize = jobs.iter().map(|job| job.hours.len()).sum();
            assert!(objects <= shard.settings().epoch_objects_max + 1, "{objects} objects in epoch {number}");
            if number == 1 {
                assert_eq!(jobs.len(), 4, "nobody waits for the history of another");
            }
            let history = jobs.iter().find(|job| job.key == key("a")).unwrap();
            let (first, last) = (history.hours.first().unwrap().hour, history.hours.last().unwrap().hour);
            assert!(first.0 > oldest, "oldest first");
            oldest = last.0;
            written += history.hours.len();
            assert_eq!(
                shard.key(&key("a")).unwrap().pending(),
                (hours as usize - (written - history.hours.len())) as u64
            );
            jobs.iter().for_each(|job| shard.applied(job.index, NOW));
            // A disk that writes 2,000 objects a second.
            shard.pace(objects, objects as u64 * 500_000);
            epochs = number;
            if !shard.has_unfinished() {
                break;
            }
            assert_eq!(last.hour_of_day(), 23, "whole days");
            assert!(shard.cut_is_due(NOW + MINUTE_NS), "the rest does not wait for a turn");
        }
        assert_eq!(written as i64, hours);
        assert!(epochs <= hours as u64 / 2_500, "{epochs} epochs: {} objects each", shard.epoch_objects());
    }
}

/// A key with live windows and history moves its boundary while its history waits, and its history is not kept waiting by
/// its live windows.
#[test]
fn live_windows_and_history_of_a_key_both_go_on() {
    let mut shard = Shard::new(Settings { epoch_objects_max: 4, ..settings() });
    send(&mut shard, "a", Mode::Live, &[NOW - 20 * HOUR_NS]);
    for hours in (0..20).rev() {
        send(&mut shard, "a", Mode::Live, &[NOW - hours * HOUR_NS]);
    }
    years(&mut shard, "a", 1_000);
    assert_eq!(epoch(&mut shard, 1, NOW + MINUTE_NS), [("a".to_owned(), 4)]);
    let state = shard.key(&key("a")).unwrap();
    let (watermark, boundary) = state.times().unwrap();
    assert_eq!(boundary, NOW - 18 * HOUR_NS, "two hours of live windows");
    assert!(boundary < watermark && state.waits(MINUTE_NS));
    // Events for windows that wait their turn are counted in them, those below the boundary wait.
    let pending = state.pending();
    send(&mut shard, "a", Mode::Backfill, &[boundary, boundary - MINUTE_NS]);
    let state = shard.key(&key("a")).unwrap();
    assert_eq!(state.pending(), pending + 1);
    assert!(state.counters.conserved());
}

/// With more keys than an epoch takes, each has its turn, whatever the others have.
#[test]
fn no_key_starves() {
    let mut shard = Shard::new(Settings { epoch_objects_max: 8, ..settings() });
    let names: Vec<String> = (0..40).map(|number| format!("k{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        years(&mut shard, name, if number % 10 == 0 { 500 } else { 1 });
    }
    let mut seen = std::collections::BTreeSet::new();
    for number in 1..=45 {
        let now = NOW + MINUTE_NS + number * SECOND_NS;
        // The small ones have more every time.
        for name in names.iter().filter(|name| !name.ends_with('0')) {
            send(&mut shard, name, Mode::Backfill, &[T0 - number * HOUR_NS]);
        }
        let taken = epoch(&mut shard, number as u64, now + number * MINUTE_NS);
        assert!(taken.iter().map(|(_, hours)| hours).sum::<usize>() <= 9, "{taken:?}");
        seen.extend(taken.into_iter().map(|(name, _)| name));
    }
    assert_eq!(seen.len(), 40, "{seen:?}");
}

/// An epoch takes what the lake writes in the time it may take: it grows on a fast lake and shrinks on a slow one, within
/// its limits.
#[test]
fn epochs_follow_the_pace_of_the_lake() {
    let mut shard = Shard::new(settings());
    let settle = |shard: &mut Shard, a_second: u64| {
        for _ in 0..30 {
            let objects = shard.epoch_objects();
            shard.pace(objects, objects as u64 * 1_000_000_000 / a_second);
        }
        shard.epoch_objects()
    };
    assert!((3_900..=4_000).contains(&settle(&mut shard, 2_000)));
    assert!((195..=205).contains(&settle(&mut shard, 100)));
    assert_eq!(settle(&mut shard, 1), 16);
    assert_eq!(settle(&mut shard, 1_000_000), shard.settings().epoch_objects_max);
    let before = shard.epoch_objects();
    shard.pace(3, SECOND_NS as u64);
    assert_eq!(shard.epoch_objects(), before, "few objects tell nothing");
}
