//! Records of the same events in every legal encoding: the same decisions, to the last byte of the checkpoint.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use tidegauge_core::Key;
use tidegauge_core::event::{EventBatch, IndexRange, Mode};
use tidegauge_core::time::{MINUTE_NS, SECOND_NS};
use tidegauge_proto::convert::time::timestamp;
use tidegauge_proto::encodings::Encoder;
use tidegauge_proto::ingest::v1::Event;
use tidegauge_proto::raw::decode_batch;
use tidegauge_proto::raw::encode::RecordHeader;

use super::oracle::Oracle;
use super::sim::Sim;
use super::{T0, batch, key, raw, request, settings};
use crate::decide::persist::keyspace;
use crate::decide::{Settings, Shard};

const NOW: i64 = T0 + 90 * MINUTE_NS;

fn event() -> impl Strategy<Value = Event> {
    let minutes = prop_oneof![5 => -3..=0_i64, 2 => -70..0_i64, 1 => 1..20_i64];
    let value = prop_oneof![4 => -1e3..1e3_f64, 1 => prop::sample::select(vec![0.0, -0.0, 1.7e308, -1.7e308, 1e-300])];
    ("[a-e]", minutes, 0..60_i64, value).prop_map(|(metric_name, minutes, seconds, metric_value)| Event {
        event_type: "t".to_owned(),
        timestamp: Some(timestamp(NOW + minutes * MINUTE_NS - seconds * SECOND_NS)),
        metric_name,
        metric_value,
        ..Event::default()
    })
}

/// A record as ingest writes it when it takes columns as they came.
fn record(key: &Key, mode: Mode, sequence: u64, events: &[Event], encoder: &mut Encoder) -> (EventBatch, Bytes) {
    let columns = encoder.columns(events);
    let header = RecordHeader {
        tenant: &key.tenant,
        request: request(1, false, sequence, u128::from(sequence)),
        indexes: &[IndexRange { first: 0, count: events.len() as u32 }],
        mode,
        arrival_ns: NOW,
    };
    let bytes = header.encode(columns.len(), usize::MAX, |out| out.extend_from_slice(&columns)).unwrap();
    (decode_batch(&bytes).unwrap(), bytes)
}

type Request = (bool, Vec<Event>);

/// Everything that a shard lets be seen, after the requests and again after a cut.
fn observe(settings: &Settings, requests: &[Request], seed: u64) -> String {
    use std::fmt::Write as _;

    let key = key("a");
    let mut encoder = Encoder::new(seed);
    let mut shard = Shard::new(settings.clone());
    let mut oracle = Oracle::new(settings.clone());
    shard.set_generation(1);
    let mut seen = String::new();
    for (sequence, (backfill, events)) in (1..).zip(requests) {
        let mode = if *backfill { Mode::Backfill } else { Mode::Live };
        let (batch, bytes) = record(&key, mode, sequence, events, &mut encoder);
        shard.process(&key, &batch, &bytes, NOW);
        // Again, as it stands on a log after a lost answer.
        shard.process(&key, &batch, &bytes, NOW);
        oracle.take(&key, &batch);
        oracle.take(&key, &batch);
    }
    let look = |shard: &mut Shard, seen: &mut String, epoch| {
        let state = shard.key(&key).unwrap();
        let counters = state.counters;
        assert!(counters.conserved(), "{counters:?}");
        let outbox: Vec<_> = state.outbox().into_iter().flat_map(|outbox| outbox.hours.iter()).collect();
        let on_the_way: u64 = outbox.iter().flat_map(|hour| hour.rows.iter()).map(|row| row.row.count).sum();
        assert_eq!(state.sums().rows + on_the_way, counters.counted(), "the ledger is the sum of the rows");
        assert_eq!(state.sums().series, counters.counted());
        writeln!(seen, "{counters:?} {} {:?} {outbox:?}", state.pending(), state.times()).unwrap();
        // A dead letter keeps the record's own bytes, or those of a part of it.
        let changes = shard.take_changes(epoch).into_iter().filter(|change| change.keyspace != keyspace::DEAD);
        writeln!(seen, "{:?}", changes.collect::<Vec<_>>()).unwrap();
        for letter in shard.dead_jobs(i64::MAX).into_iter().flat_map(|batch| batch.letters) {
            let EventBatch { indexes, columns, .. } = decode_batch(&letter.payload).unwrap();
            let bits: Vec<u64> = columns.values.iter().map(|value| value.to_bits()).collect();
            let names = columns.metric_ids.iter().map(|id| &columns.metrics[*id as usize]);
            let names: Vec<_> = names.collect();
            let (ordinal, reason) = (letter.ordinal, letter.reason);
            writeln!(seen, "{ordinal} {reason:?} {indexes:?} {:?} {bits:?} {names:?}", columns.times).unwrap();
        }
        // What hot-metric is told, in an order of its own.
        let mut told = Vec::new();
        for mut update in shard.collect_updates(usize::MAX) {
            update.windows.sort_by(|a, b| (a.start_ns, &a.metric).cmp(&(b.start_ns, &b.metric)));
            told.push(update);
        }
        writeln!(seen, "{told:?}").unwrap();
    };
    look(&mut shard, &mut seen, 1);
    shard.cut_due(2, NOW + MINUTE_NS);
    look(&mut shard, &mut seen, 2);
    let (state, expected) = (shard.key(&key).unwrap(), &oracle.keys[&key]);
    let found = (state.counters.counted(), state.counters.duplicates, state.counters.dead);
    assert_eq!(found, (expected.counted, expected.duplicates, expected.dead));
    seen
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a dictionary looks like, each event counts once, and nothing that can be seen depends on it. Also where
    /// series or rows run out.
    #[test]
    fn nothing_depends_on_the_encoding(
        requests in vec((any::<bool>(), vec(event(), 1..30)), 1..4),
        seeds in vec(any::<u64>(), 2..5),
    ) {
        let plain = settings();
        let first = observe(&plain, &requests, seeds[0]);
        for seed in &seeds[1..] {
            prop_assert_eq!(&observe(&plain, &requests, *seed), &first);
        }
    }

    /// Divided into other records in the same order, the rows, running counts and sums are the same in the end.
    #[test]
    fn rows_do_not_depend_on_the_division(
        events in vec(event(), 1..40),
        cuts in vec(0..40_usize, 0..4),
        seed: u64,
    ) {
        let key = key("a");
        let mut encoder = Encoder::new(seed);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(events.len())).collect();
        cuts.extend([0, events.len()]);
        cuts.sort_unstable();
        cuts.dedup();
        let mut sim = Sim::new(settings());
        sim.now = NOW;
        for (sequence, cut) in (1..).zip(cuts.windows(2)) {
            let (batch, _) = record(&key, Mode::Backfill, sequence, &events[cut[0]..cut[1]], &mut encoder);
            sim.append(&key, batch);
        }
        sim.process(10);
        sim.finish_and_compare();
    }
}

/// The request that made 10,000 events count as 50,005,000: ten thousand entries, all the same metric.
#[test]
fn a_metric_that_stands_often_in_a_dictionary_counts_once() {
    for (entries, mode) in [(3, Mode::Live), (4_096, Mode::Backfill), (10_000, Mode::Live), (10_000, Mode::Backfill)] {
        let key = key("a");
        let events: Vec<_> = (0..entries).map(|i| (i, NOW - 70 * MINUTE_NS * i64::from(i % 2), 1.0)).collect();
        let mut record = batch(&key, mode, NOW, &events);
        record.columns.metrics = vec!["m".to_owned(); entries as usize];
        let mut shard = Shard::new(Settings { horizon_ns: 1_440 * MINUTE_NS, ..settings() });
        shard.process(&key, &record, &raw(&record), NOW);
        shard.process(&key, &record, &raw(&record), NOW);
        let state = shard.key(&key).unwrap();
        let counted = 2 * u64::from(entries);
        assert!(state.counters.conserved());
        assert_eq!((state.counters.counted(), state.sums().rows, state.sums().series), (counted, counted, counted));
        shard.cut_due(1, NOW + MINUTE_NS);
        let updates = shard.collect_updates(usize::MAX);
        assert_eq!((updates[0].meta.counted, updates[0].currents[0].event_count), (counted, counted));
    }
}
