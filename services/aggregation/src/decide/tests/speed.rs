//! How fast the decisions are. Run by hand, optimised; the figure is printed.

use std::time::Instant;

use tidegauge_core::event::{EventBatch, Mode};
use tidegauge_core::time::SECOND_NS;
use tidegauge_proto::convert::batch::decode;

use super::{T0, batch, key, raw};
use crate::decide::{Settings, Shard};

fn records(events: i64, spread_ns: i64) -> Vec<EventBatch> {
    let key = key("a");
    let each = |record: i64| {
        let now = T0 + record * SECOND_NS;
        let event = |i: i64| ((i % 8) as u32, now - (i * 7_919 % 1_000) * (spread_ns / 1_000), i as f64);
        batch(&key, Mode::Live, now, &(0..events).map(event).collect::<Vec<_>>())
    };
    (0..200).map(each).collect()
}

#[test]
#[ignore = "a measurement, only of use optimised: cargo test --release -- --ignored --nocapture speed"]
#[allow(clippy::disallowed_methods, reason = "measures")]
fn events_a_second() {
    for (events, spread) in [(1_000, SECOND_NS), (10_000, SECOND_NS), (1_000, 240 * SECOND_NS), (10, SECOND_NS)] {
        let batches = records(events, spread);
        let payloads: Vec<_> = batches.iter().map(raw).collect();
        let key = key("a");
        let (mut decoding, mut processing) = (f64::MAX, f64::MAX);
        for _ in 0..5 {
            let mut shard = Shard::new(Settings::default());
            let start = Instant::now();
            for payload in &payloads {
                std::hint::black_box(decode(payload.clone()).unwrap());
            }
            decoding = decoding.min(start.elapsed().as_secs_f64());
            let start = Instant::now();
            for (record, payload) in batches.iter().zip(&payloads) {
                shard.process(&key, record, payload, record.arrival_ns);
            }
            processing = processing.min(start.elapsed().as_secs_f64());
        }
        let count = (events * 200) as f64;
        println!(
            "{events} a record over {} s: decode {:.1} ns, process {:.1} ns an event, together {:.1} M/s",
            spread / SECOND_NS,
            decoding / count * 1e9,
            processing / count * 1e9,
            count / (decoding + processing) / 1e6
        );
    }
}
