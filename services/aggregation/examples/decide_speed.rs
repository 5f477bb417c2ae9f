//! Measures the decisions alone, without log, lake and runtime: `cargo run --release -p tidegauge-aggregation --example
//! decide_speed`. Prints, for records of several shapes, the time of an event in decoding and in processing.

use bytes::Bytes;
use tidegauge_aggregation::decide::{Settings, Shard};
use tidegauge_core::clock::{Clock, SystemClock};
use tidegauge_core::event::{Dimensions, EventBatch, EventColumns, IndexRange, Mode};
use tidegauge_core::time::SECOND_NS;
use tidegauge_core::{Key, TenantId};
use tidegauge_proto::convert::batch::{decode, encode};

/// Records of one measurement.
const RECORDS: i64 = 200;
/// 2026-03-02T00:00:00Z.
const START_NS: i64 = 1_772_409_600 * SECOND_NS;

/// A LIVE record of eight metrics whose events lie up to `spread_ns` before its arrival.
fn record(tenant: &TenantId, number: i64, events: i64, spread_ns: i64) -> EventBatch {
    let arrival_ns = START_NS + number * SECOND_NS;
    let zero = vec![0; events as usize];
    EventBatch {
        tenant: tenant.clone(),
        request: None,
        indexes: vec![IndexRange { first: 0, count: events as u32 }],
        mode: Mode::Live,
        arrival_ns,
        columns: EventColumns {
            event_types: vec!["t".to_owned()],
            metrics: (0..8).map(|metric| format!("m{metric}")).collect(),
            sources: vec![String::new()],
            versions: vec![String::new()],
            dimension_sets: vec![Dimensions::default()],
            times: (0..events).map(|i| arrival_ns - (i * 7_919 % 1_000) * (spread_ns / 1_000)).collect(),
            values: (0..events).map(|i| i as f64).collect(),
            event_type_ids: zero.clone(),
            metric_ids: (0..events).map(|i| (i % 8) as u32).collect(),
            source_ids: zero.clone(),
            version_ids: zero.clone(),
            dimension_set_ids: zero,
        },
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let clock = SystemClock::default();
    let tenant = TenantId::parse("a")?;
    let key = Key::of(tenant.clone());
    for (events, spread_ns) in [(1_000, SECOND_NS), (10_000, SECOND_NS), (1_000, 240 * SECOND_NS), (10, SECOND_NS)] {
        let payloads: Vec<Bytes> =
            (0..RECORDS).map(|number| encode(record(&tenant, number, events, spread_ns))).collect();
        let (mut decoding_ns, mut processing_ns) = (u64::MAX, u64::MAX);
        for _ in 0..5 {
            let mut shard = Shard::new(Settings::default());
            let start_ns = clock.monotonic_ns();
            let batches = payloads.iter().map(|payload| decode(payload.clone())).collect::<Result<Vec<_>, _>>()?;
            let decoded_ns = clock.monotonic_ns();
            for (batch, payload) in batches.iter().zip(&payloads) {
                shard.process(&key, batch, payload, batch.arrival_ns);
            }
            decoding_ns = decoding_ns.min(decoded_ns - start_ns);
            processing_ns = processing_ns.min(clock.monotonic_ns() - decoded_ns);
        }
        let count = (events * RECORDS) as f64;
        println!(
            "{events} a record over {} s: decode {:.1} ns, process {:.1} ns an event, together {:.1} M/s",
            spread_ns / SECOND_NS,
            decoding_ns as f64 / count,
            processing_ns as f64 / count,
            count * 1e3 / (decoding_ns + processing_ns) as f64
        );
    }
    Ok(())
}
