//! Two sample tenants. Everything about them says that it is synthetic: the tenants' names, the source and a dimension.

use std::f64::consts::TAU;
use std::time::Duration;

use tidegauge_client::{Client, ColumnsBuilder, Mode, ProducerOptions};
use tidegauge_core::clock::{Clock as _, SystemClock};
use tidegauge_core::ids::Producer as ProducerId;
use tidegauge_core::time::{HOUR_NS, MINUTE_NS, floor_ns};
use tokio_util::sync::CancellationToken;

use super::feed::{Measurement, send};
use crate::failure::Outcome;

const SOURCE: &str = "synthetic";
const INTERVAL: Duration = Duration::from_millis(500);
/// History made at a demo's start, up to the last whole hour.
const HISTORY_HOURS: i64 = 3;
/// Distance of two history events of a series.
const HISTORY_STEP_NS: i64 = 10_000_000_000;

/// A sample tenant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Its id.
    pub(super) tenant: &'static str,
    metrics: &'static [Wave],
    places: &'static [&'static str],
    place_key: &'static str,
}

/// A metric that swings around a level.
#[derive(Clone, Copy, Debug)]
struct Wave {
    name: &'static str,
    level: f64,
    swing: f64,
    period_minutes: f64,
}

/// The sample tenants.
pub(super) const ALL: &[Sample] = &[
    Sample {
        tenant: "sample-shop",
        metrics: &[
            Wave { name: "orders.value_eur", level: 48.0, swing: 30.0, period_minutes: 47.0 },
            Wave { name: "checkout.latency_ms", level: 120.0, swing: 60.0, period_minutes: 13.0 },
            Wave { name: "carts.open", level: 310.0, swing: 120.0, period_minutes: 90.0 },
        ],
        places: &["berlin", "lyon", "porto"],
        place_key: "city",
    },
    Sample {
        tenant: "sample-factory",
        metrics: &[
            Wave { name: "oven.temperature_c", level: 214.0, swing: 9.0, period_minutes: 21.0 },
            Wave { name: "line.pieces_per_minute", level: 72.0, swing: 11.0, period_minutes: 33.0 },
            Wave { name: "press.vibration_mm_s", level: 2.4, swing: 0.8, period_minutes: 7.0 },
        ],
        places: &["line-1", "line-2"],
        place_key: "line",
    },
];

impl Wave {
    /// The value at a time: a pure function, so that the same history is made twice.
    fn at(&self, time_ns: i64, place: usize) -> f64 {
        let minutes = (time_ns / 1_000_000) as f64 / 60_000.0;
        let slow = (minutes / self.period_minutes * TAU + place as f64).sin();
        let fast = (minutes * 7.3 + place as f64 * 2.0 + self.level).sin();
        self.level + self.swing * (0.8 * slow + 0.2 * fast)
    }
}

impl Sample {
    fn measurements(&self, time_ns: i64) -> impl Iterator<Item = Measurement> {
        self.metrics.iter().flat_map(move |wave| {
            self.places.iter().enumerate().map(move |(place, name)| Measurement {
                metric: wave.name.to_owned(),
                value: wave.at(time_ns, place),
                time_ns,
                dimensions: vec![(self.place_key, (*name).to_owned()), ("synthetic", "true".to_owned())],
            })
        })
    }

    /// A kept producer of one hour of history: making it again, in a later demo on the same data, counts nothing twice.
    fn history_producer(&self, hour: i64) -> [u8; 16] {
        let mut id = [0; 16];
        id[0] = ProducerId::KEPT_PREFIX;
        id[1..9].copy_from_slice(&hour.to_be_bytes());
        for (at, byte) in self.tenant.bytes().enumerate() {
            id[9 + at % 7] ^= byte.rotate_left(at as u32 % 8);
        }
        id
    }
}

/// Feeds a sample tenant: first some history, then live events until told to stop.
///
/// # Errors
/// When a producer has failed for good.
pub(super) async fn feed(client: Client, sample: &'static Sample, stop: CancellationToken) -> Outcome {
    let clock = SystemClock::default();
    let mut builder = ColumnsBuilder::new();
    let end = floor_ns(clock.wall_ns() - 10 * MINUTE_NS, HOUR_NS);
    for hour in (1..=HISTORY_HOURS).rev().map(|back| end - back * HOUR_NS) {
        let mut producer = client.producer(ProducerOptions {
            mode: Mode::Backfill,
            producer_id: Some(sample.history_producer(hour / HOUR_NS)),
            ..ProducerOptions::default()
        });
        let times = (hour..hour + HOUR_NS).step_by(HISTORY_STEP_NS as usize);
        let measurements: Vec<_> = times.flat_map(|time| sample.measurements(time)).collect();
        send(&mut producer, &mut builder, SOURCE, &measurements).await?;
        producer.close().await?;
    }

    let mut producer = client.producer(ProducerOptions::default());
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => break,
        }
        let measurements: Vec<_> = sample.measurements(clock.wall_ns()).collect();
        send(&mut producer, &mut builder, SOURCE, &measurements).await?;
    }
    producer.close().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A repeated demo sends the same history under the same identities.
    #[test]
    fn history_is_the_same_every_time() {
        for sample in ALL {
            let once: Vec<_> = sample.measurements(1_772_434_800_000_000_000).map(|m| m.value).collect();
            let twice: Vec<_> = sample.measurements(1_772_434_800_000_000_000).map(|m| m.value).collect();
            assert_eq!(once, twice);
            assert!(once.iter().all(|v| v.is_finite()));
            assert_ne!(sample.history_producer(1), sample.history_producer(2));
        }
        assert_ne!(ALL[0].history_producer(1), ALL[1].history_producer(1));
    }
}
