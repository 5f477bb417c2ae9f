//! The durable form must not change by accident: state written by an older build has to be read.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bytes::Bytes;
use tidegauge_core::event::{IndexRange, Mode};
use tidegauge_core::time::MINUTE_NS;

use super::{T0, batch, key, raw, request, settings};
use crate::decide::Shard;

const GOLDEN: &str = include_str!("../../../tests/data/checkpoint-v2.txt");

/// A shard with an entry of every kind.
fn shard() -> (Shard, BTreeMap<(u8, Bytes), Bytes>) {
    let mut shard = Shard::new(settings());
    let mut entries = BTreeMap::new();
    let send = |shard: &mut Shard, name: &str, mode, now: i64, times: &[i64], sequence: u64| {
        let key = key(name);
        let events: Vec<_> = times.iter().enumerate().map(|(i, t)| (i as u32, *t, i as f64 + 0.5)).collect();
        let mut record = batch(&key, mode, now, &events);
        record.request = request(1, sequence.is_multiple_of(2), sequence, u128::from(sequence));
        if sequence == 3 {
            record.indexes = vec![IndexRange { first: 5, count: times.len() as u32 }];
        }
        shard.process(&key, &record, &raw(&record), now);
    };
    let now = T0 + 10 * MINUTE_NS;
    send(&mut shard, "a", Mode::Live, now, &[now, now - MINUTE_NS, T0], 1);
    send(&mut shard, "b", Mode::Backfill, now, &[T0 - 90 * MINUTE_NS, now], 2);
    shard.undecodable(&key("a"), &Bytes::from_static(b"garbage"), "not an event batch".to_owned(), now);
    let mut store = |shard: &mut Shard, epoch| {
        for change in shard.take_changes(epoch) {
            match change.value {
                Some(value) => entries.insert((change.keyspace, change.key), value),
                None => entries.remove(&(change.keyspace, change.key)),
            };
        }
    };
    store(&mut shard, 1);
    shard.advance_idle(now + 2 * MINUTE_NS);
    shard.cut_due(2, now + 2 * MINUTE_NS);
    store(&mut shard, 2);
    let later = now + 3 * MINUTE_NS;
    send(&mut shard, "a", Mode::Live, later, &[later, T0, later - MINUTE_NS], 3);
    store(&mut shard, 3);
    (shard, entries)
}

fn text(entries: &BTreeMap<(u8, Bytes), Bytes>) -> String {
    let hex = |bytes: &Bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut text = String::new();
    for ((space, key), value) in entries {
        writeln!(text, "{space} {} {}", hex(key), hex(value)).unwrap();
    }
    text
}

/// What is written today is the golden file, and the golden file is read.
#[test]
fn the_durable_form_is_the_golden_file() {
    let (shard, entries) = shard();
    let spaces: std::collections::BTreeSet<u8> = entries.keys().map(|(space, _)| *space).collect();
    assert_eq!(spaces, (1..=10).collect(), "an entry of every kind");
    if std::env::var_os("TIDEGAUGE_WRITE_GOLDEN").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/checkpoint-v2.txt");
        std::fs::write(path, text(&entries)).unwrap();
        return;
    }
    assert_eq!(text(&entries), GOLDEN, "a changed form needs a new version and a reader for the old one");

    let bytes = |hex: &str| -> Bytes {
        let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(digits).collect::<Vec<_>>().into()
    };
    let golden: Vec<_> = GOLDEN
        .lines()
        .map(|line| {
            let parts: Vec<&str> = line.split(' ').collect();
            (parts[0].parse().unwrap(), bytes(parts[1]), bytes(parts[2]))
        })
        .collect();
    let restored = Shard::restore(settings(), shard.ordinal(), &golden).unwrap();
    assert_eq!(restored.keys().len(), shard.keys().len());
    for (one, other) in shard.keys().iter().zip(restored.keys()) {
        assert_eq!(one.key, other.key);
        assert_eq!(one.counters, other.counters);
        assert_eq!(one.times(), other.times());
        assert_eq!(one.pending(), other.pending());
        assert_eq!(one.state_rows(), other.state_rows());
        assert_eq!(one.sums(), other.sums());
        assert_eq!(one.outbox().map(|o| &o.hours), other.outbox().map(|o| &o.hours));
    }
    assert_eq!(restored.dead_jobs(i64::MAX), shard.dead_jobs(i64::MAX));
    // Every entry that is cut short or prolonged is refused, not guessed at.
    for (place, entry) in golden.iter().enumerate() {
        let mut damaged = golden.clone();
        damaged[place].2 = entry.2.slice(..entry.2.len() - 1);
        assert!(Shard::restore(settings(), 3, &damaged).is_err(), "cut short: {entry:?}");
        damaged[place].2 = [&entry.2[..], &[0]].concat().into();
        assert!(Shard::restore(settings(), 3, &damaged).is_err(), "prolonged: {entry:?}");
    }
}
