//! Keys that are stuck: I7 for the memory of a shard.

use bytes::Bytes;
use tidegauge_core::event::Mode;
use tidegauge_core::time::{MINUTE_NS, SECOND_NS};

use super::{T0, batch, key, raw, settings};
use crate::decide::{ApplyFailure, DeadReason, DecisionKind, Settings, Shard};

const NOW: i64 = T0 + 60 * MINUTE_NS;

/// Sends one event of each metric and minute before [`NOW`].
fn send(shard: &mut Shard, name: &str, metrics: u32, minutes: std::ops::Range<i64>) {
    let times = minutes.map(|minute| NOW - minute * MINUTE_NS);
    let events: Vec<_> = times.flat_map(|time| (0..metrics).map(move |metric| (metric, time, 1.0))).collect();
    let record = batch(&key(name), Mode::Backfill, NOW, &events);
    shard.process(&key(name), &record, &raw(&record), NOW);
}

fn tight() -> Settings {
    Settings { state_rows_max: 40, ..settings() }
}

/// A shard with rows of "a" on their way, which an operator must mend.
fn stopped() -> Shard {
    let mut shard = Shard::new(tight());
    send(&mut shard, "a", 4, 10..12);
    shard.cut_due(1, NOW + MINUTE_NS);
    let job = shard.apply_jobs(i64::MAX).remove(0);
    let stopped = ApplyFailure { stopped: Some("unreadable".to_owned()), ..ApplyFailure::default() };
    shard.parked(job.index, stopped, NOW);
    shard
}

/// Whatever a stopped key is sent, half of the room stays with the others; its events beyond are dead letters, those of
/// rows that are there are counted; mended, it is as free as before. Nothing is lost (I3).
#[test]
fn a_stopped_key_leaves_room_to_the_others() {
    let mut shard = stopped();
    shard.hold_stuck();
    assert_eq!(shard.decisions().last().map(|d| d.kind.clone()), Some(DecisionKind::Held));
    send(&mut shard, "a", 8, 10..40);
    let held = shard.key(&key("a")).unwrap().clone();
    assert_eq!(held.state_rows(), 20, "half of 40");
    // 8 events are on their way; 20 of 240 found room.
    assert_eq!((held.counters.backfilled, held.counters.dead), (8 + 20, 240 - 20));
    assert!(held.counters.conserved());
    send(&mut shard, "a", 4, 10..11);
    assert_eq!(shard.key(&key("a")).unwrap().counters.backfilled, 28 + 4, "rows that are there take more");

    send(&mut shard, "b", 1, 10..29);
    assert!(shard.has_room());
    shard.cut_due(2, NOW + MINUTE_NS);
    assert_eq!(shard.apply_jobs(i64::MAX).len(), 2, "the other key is cut");
    let index = shard.apply_jobs(i64::MAX)[1].index;
    shard.applied(index, NOW);
    assert!(!shard.relieve(), "no watermark is pressed for the sake of a stopped key");

    shard.applied(0, NOW);
    assert!(shard.decisions().iter().any(|d| d.kind == DecisionKind::Released));
    send(&mut shard, "a", 8, 40..50);
    let free = shard.key(&key("a")).unwrap().clone();
    assert_eq!(free.counters.backfilled, 32 + 80);
    assert!(free.counters.conserved());
    shard.take_changes(3);
    let letters: Vec<_> = shard.dead_jobs(i64::MAX).into_iter().flat_map(|batch| batch.letters).collect();
    assert!(letters.iter().all(|letter| letter.reason == DeadReason::KeyHeld), "{letters:?}");
    assert_eq!(letters.iter().map(|letter| letter.events).sum::<u64>(), free.counters.dead);
}

/// Two stopped keys share the half: their room does not add up to all.
#[test]
fn stopped_keys_share_their_half() {
    let mut shard = Shard::new(tight());
    for name in ["a", "b"] {
        send(&mut shard, name, 1, 10..12);
    }
    shard.cut_due(1, NOW + MINUTE_NS);
    for job in shard.apply_jobs(i64::MAX) {
        shard.parked(
            job.index,
            ApplyFailure { stopped: Some("unreadable".to_owned()), ..ApplyFailure::default() },
            NOW,
        );
    }
    shard.hold_stuck();
    for name in ["a", "b", "c"] {
        send(&mut shard, name, 8, 20..22);
    }
    let rows = |name: &str| shard.key(&key(name)).unwrap().state_rows();
    assert_eq!((rows("a"), rows("b"), rows("c")), (10, 10, 16));
    assert!(shard.has_room());
}

/// A failure that may pass holds a key only if others can be written meanwhile; if nothing can, reading pauses and no
/// event becomes a dead letter.
#[test]
fn an_outage_of_the_whole_lake_holds_nobody() {
    let mut shard = Shard::new(tight());
    for name in ["a", "b"] {
        send(&mut shard, name, 8, 10..12);
    }
    shard.cut_due(1, NOW + MINUTE_NS);
    let jobs = shard.apply_jobs(i64::MAX);
    for attempt in 0..10 {
        let now = NOW + attempt * MINUTE_NS;
        jobs.iter().for_each(|job| shard.parked(job.index, ApplyFailure::default(), now));
        shard.hold_stuck();
    }
    send(&mut shard, "a", 8, 20..30);
    assert!(!shard.has_room());
    assert_eq!(shard.key(&key("a")).unwrap().counters.dead, 0);
    // The other one gets through: the lake is there, and "a" is stuck alone.
    shard.applied(jobs[1].index, NOW + 20 * MINUTE_NS);
    shard.hold_stuck();
    assert!(shard.has_room());
}

/// Of the only key that has something to write, nothing but a probe tells whether its object is to blame or the lake. Written
/// since the object fails, the probe has the key held: others find room. Not written, nobody is held.
#[test]
fn a_probe_tells_the_object_from_the_lake() {
    for written in [false, true] {
        let mut shard = Shard::new(tight());
        send(&mut shard, "a", 8, 10..12);
        shard.cut_due(1, NOW + MINUTE_NS);
        let job = shard.apply_jobs(i64::MAX).remove(0);
        for attempt in 1..=4 {
            let now = NOW + attempt * MINUTE_NS;
            shard.parked(job.index, ApplyFailure::default(), now);
            if written {
                shard.lake_was_written(now);
            }
            shard.hold_stuck();
            let held = shard.decisions().iter().any(|decision| decision.kind == DecisionKind::Held);
            assert_eq!(held, written && attempt == 4, "attempt {attempt}");
        }
        send(&mut shard, "a", 8, 20..30);
        assert_eq!(shard.has_room(), written);
        let a = shard.key(&key("a")).unwrap();
        assert!(a.counters.conserved());
        assert_eq!((a.state_rows(), a.counters.dead), if written { (20, 60) } else { (80, 0) });
    }
    // What was written before it began to fail proves nothing.
    let mut shard = Shard::new(tight());
    send(&mut shard, "a", 8, 10..12);
    shard.cut_due(1, NOW + MINUTE_NS);
    shard.lake_was_written(NOW + 2 * MINUTE_NS);
    let index = shard.apply_jobs(i64::MAX)[0].index;
    (2..9).for_each(|minutes| shard.parked(index, ApplyFailure::default(), NOW + minutes * MINUTE_NS));
    shard.hold_stuck();
    assert_eq!(shard.decisions().iter().filter(|decision| decision.kind == DecisionKind::Held).count(), 0);
}

/// I4: with the checkpoint made while a key was held, and the decisions of the next epoch, the same records give the same
/// bytes, dead letters included.
#[test]
fn a_held_key_is_worked_through_again_alike() {
    let mut shard = stopped();
    shard.hold_stuck();
    let mut entries = std::collections::BTreeMap::new();
    let mut store = |shard: &mut Shard, epoch| {
        for change in shard.take_changes(epoch) {
            match change.value {
                Some(value) => entries.insert((change.keyspace, change.key), value),
                None => entries.remove(&(change.keyspace, change.key)),
            };
        }
        let sorted = |((space, key), value): (&(u8, Bytes), &Bytes)| (*space, key.clone(), value.clone());
        entries.iter().map(sorted).collect::<Vec<_>>()
    };
    let stored = store(&mut shard, 2);
    let mut again = Shard::restore(tight(), shard.ordinal(), &stored).unwrap();
    send(&mut shard, "a", 8, 20..40);
    let decisions = shard.decisions().to_vec();
    assert!(shard.key(&key("a")).unwrap().counters.dead > 0);
    decisions.iter().for_each(|decision| again.repeat(decision, 3, NOW));
    send(&mut again, "a", 8, 20..40);
    let bytes = |shard: &mut Shard| {
        let mut changes: Vec<_> = shard.take_changes(3).into_iter().map(|c| (c.keyspace, c.key, c.value)).collect();
        changes.sort();
        changes
    };
    assert_eq!(bytes(&mut again), bytes(&mut shard));
}

/// Dead letters that cannot be written are tried again at a pace, not in every turn of the worker.
#[test]
fn dead_letters_are_tried_again_at_a_pace() {
    let mut shard = Shard::new(Settings { dead_bytes_max: 10, ..settings() });
    shard.undecodable(&key("a"), &Bytes::from_static(b"garbage"), String::new(), NOW);
    assert!(shard.dead_letters_press(NOW));
    shard.take_changes(1);
    let job = shard.dead_jobs(NOW).remove(0);
    for (attempt, pause_s) in [2, 4, 8, 16, 32, 64, 64].into_iter().enumerate() {
        let now = NOW + attempt as i64 * 3_600 * SECOND_NS;
        assert!(shard.dead_letters_press(now) && shard.retry_is_due(now));
        shard.dead_parked(&job, now);
        let early = now + pause_s * SECOND_NS - 1;
        assert!(!shard.dead_letters_press(early) && !shard.retry_is_due(early) && shard.dead_jobs(early).is_empty());
        assert!(!shard.changed(), "nothing else needs an epoch");
    }
    shard.dead_applied(&job);
    assert!(shard.changed() && shard.has_room());
}
