//! Random lives of a shard.

use proptest::prelude::*;
use tidegauge_core::event::{IndexRange, Mode};
use tidegauge_core::time::{Hour, MINUTE_NS, SECOND_NS};

use super::sim::{Crash, Sim};
use super::{Event, T0, batch, key, request, settings};
use crate::decide::Settings;

#[derive(Clone, Debug)]
enum Op {
    Send {
        key: usize,
        backfill: bool,
        producer: Option<u8>,
        events: Vec<(u32, Offset, i8)>,
        arrives: i64,
    },
    /// Sends an earlier request again: all of it, or the indexes from `from` on, in two records.
    Retry {
        which: usize,
        from: u32,
        split: bool,
        other_content: bool,
    },
    Process(usize),
    Tick(i64),
    Push(usize),
    Epoch(Option<Crash>),
    /// Objects of an hour, relative to now, cannot be written from here on.
    Break(Option<i64>),
    Restart,
}

/// Time of an event relative to now.
#[derive(Clone, Copy, Debug)]
enum Offset {
    Near(i64),
    /// So many windows away, and so many nanoseconds from the boundary.
    Edge(i64, i64),
    /// Relative to what the watermark would be.
    AtWatermark(i64),
}

fn offset() -> impl Strategy<Value = Offset> {
    prop_oneof![
        4 => (-50..5_i64).prop_map(|s| Offset::Near(s * SECOND_NS)),
        2 => (-9..3_i64, -1..2_i64).prop_map(|(w, d)| Offset::Edge(w, d)),
        2 => (-1..2_i64).prop_map(Offset::AtWatermark),
        1 => (-200..-2_i64).prop_map(|m| Offset::Near(m * MINUTE_NS)),
        1 => (8..14_i64).prop_map(|m| Offset::Near(m * MINUTE_NS)),
    ]
}

fn crash() -> impl Strategy<Value = Crash> {
    prop_oneof![
        Just(Crash::BeforePrepare),
        Just(Crash::AfterPrepare),
        (0..4_usize).prop_map(Crash::AfterObjects),
        Just(Crash::BeforeBoundary),
        Just(Crash::BeforeComplete),
        Just(Crash::AfterComplete),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let events = prop::collection::vec((0..3_u32, offset(), any::<i8>()), 1..8);
    let send = (0..2_usize, prop::bool::weighted(0.25), prop::option::of(0..3_u8), events, -90..3_i64);
    prop_oneof![
        8 => send.prop_map(|(key, backfill, producer, events, arrives)| Op::Send { key, backfill, producer, events, arrives }),
        2 => (any::<usize>(), 0..4_u32, any::<bool>(), prop::bool::weighted(0.2))
            .prop_map(|(which, from, split, other_content)| Op::Retry { which, from, split, other_content }),
        6 => (1..6_usize).prop_map(Op::Process),
        4 => prop_oneof![0..5_i64, 20..200_i64].prop_map(|s| Op::Tick(s * SECOND_NS + 1)),
        3 => (1..40_usize).prop_map(Op::Push),
        5 => prop::option::weighted(0.4, crash()).prop_map(Op::Epoch),
        1 => prop::option::of(-3..1_i64).prop_map(Op::Break),
        1 => Just(Op::Restart),
    ]
}

#[derive(Clone, Debug)]
struct Sent {
    key: usize,
    backfill: bool,
    producer: u8,
    sequence: u64,
    events: Vec<Event>,
}

fn run(settings: Settings, ops: &[Op]) -> Sim {
    let keys = [key("a"), key("b")];
    let lateness = settings.lateness_ns;
    let window = settings.window;
    let mut sim = Sim::new(settings);
    let mut sent: Vec<Sent> = Vec::new();
    for op in ops {
        match op {
            Op::Send { key, backfill, producer, events, arrives } => {
                let arrival = sim.now + arrives * SECOND_NS;
                let at = |offset: &Offset| match offset {
                    Offset::Near(ns) => sim.now + ns,
                    Offset::Edge(windows, ns) => window.start_of(sim.now) + windows * window.ns() + ns,
                    Offset::AtWatermark(ns) => sim.now - lateness + ns,
                };
                let events: Vec<Event> = events.iter().map(|(m, offset, v)| (*m, at(offset), f64::from(*v))).collect();
                let mode = if *backfill { Mode::Backfill } else { Mode::Live };
                let mut record = batch(&keys[*key], mode, arrival, &events);
                if let Some(producer) = producer {
                    let sequence = sent.len() as u64 + 1;
                    record.request = request(*producer, false, sequence, u128::from(sequence));
                    sent.push(Sent { key: *key, backfill: *backfill, producer: *producer, sequence, events });
                }
                sim.append(&keys[*key], record);
            }
            Op::Retry { which, from, split, other_content } => {
                let Some(first) = (!sent.is_empty()).then(|| &sent[which % sent.len()]) else { continue };
                let from = (*from as usize).min(first.events.len() - 1);
                let middle = if *split { (from + first.events.len()).div_ceil(2) } else { first.events.len() };
                for (low, high) in [(from, middle), (middle, first.events.len())] {
                    if low == high {
                        continue;
                    }
                    let mode = if first.backfill { Mode::Backfill } else { Mode::Live };
                    let mut record = batch(&keys[first.key], mode, sim.now, &first.events[low..high]);
                    record.indexes = vec![IndexRange { first: low as u32, count: (high - low) as u32 }];
                    let digest = u128::from(first.sequence) + u128::from(*other_content);
                    record.request = request(first.producer, false, first.sequence, digest);
                    sim.append(&keys[first.key], record);
                }
            }
            Op::Process(records) => sim.process(*records),
            Op::Tick(ns) => sim.tick(*ns),
            Op::Push(items) => sim.push(*items),
            Op::Epoch(crash) => sim.epoch(*crash),
            Op::Break(hour) => sim.broken = hour.map(|hours| Hour(Hour::of(sim.now).0 + hours)),
            Op::Restart => sim.restart(),
        }
        sim.check();
    }
    sim
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes in whatever order, with crashes at any step: nothing is lost, nothing doubled (I2, I3), every
    /// answer on the way lies within I6's bounds, and in the end lake and running counts equal the naive GROUP BY.
    #[test]
    fn a_shard_equals_the_oracle(ops in prop::collection::vec(op(), 1..80)) {
        run(settings(), &ops).finish_and_compare();
    }

    /// The same with room for few rows: cuts are forced, watermarks pressed.
    #[test]
    fn a_shard_without_room_equals_the_oracle(ops in prop::collection::vec(op(), 1..60)) {
        let tight = Settings { state_rows_max: 6, ..settings() };
        run(tight, &ops).finish_and_compare();
    }

    /// The same with epochs that take one or a few objects: cuts are taken in parts, boundaries stop at what is left, with
    /// and without room for rows.
    #[test]
    fn a_shard_of_small_epochs_equals_the_oracle(
        ops in prop::collection::vec(op(), 1..80),
        epoch_objects_max in 1..4_usize,
        short in any::<bool>(),
    ) {
        let state_rows_max = if short { 6 } else { settings().state_rows_max };
        run(Settings { epoch_objects_max, state_rows_max, ..settings() }, &ops).finish_and_compare();
    }
}

/// The same lives by hand, for the eye: events exactly at, before and after the watermark.
#[test]
fn one_nanosecond_decides() {
    let mut sim = Sim::new(settings());
    let a = key("a");
    let newest = T0 + 10 * MINUTE_NS;
    let watermark = newest - 2 * MINUTE_NS;
    sim.now = newest;
    sim.append(&a, batch(&a, Mode::Live, newest, &[(0, newest, 1.0)]));
    // The window that ends at the watermark is closed; the one that the watermark begins is open.
    sim.append(&a, batch(&a, Mode::Live, newest, &[(0, watermark - 1, 2.0), (0, watermark, 3.0)]));
    sim.process(2);
    let state = sim.shard.key(&a).unwrap();
    assert_eq!((state.counters.on_time, state.counters.late), (2, 1));
    assert_eq!(state.times(), Some((watermark, watermark)));
    sim.finish_and_compare();
}
