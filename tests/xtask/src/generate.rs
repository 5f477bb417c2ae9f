//! Writes events as NDJSON for `prove load`: many tenants of very different size, and every kind of lateness.
//!
//! The same seed, count and start give the same file.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::Result;

use tidegauge_core::clock::{Clock as _, SystemClock};
use tidegauge_core::time::rfc3339;

use crate::environment::number;

/// Number of tenants.
pub(crate) const TENANTS: usize = 50;
const METRICS: usize = 20;
const MINUTE_MS: i64 = 60_000;
/// Span of the nominal event times.
pub(crate) const SPAN_MS: i64 = 120 * MINUTE_MS;
/// The allowed lateness that the events are made for.
const LATENESS_MS: i64 = 5 * MINUTE_MS;

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Name of a tenant.
pub(crate) fn tenant(index: usize) -> String {
    format!("tenant-{index:03}")
}

/// `generate FILE [--events N]`.
pub(crate) fn command(file: &str, flags: &[&str]) -> Result<()> {
    let events = number(flags, "--events", 2_000_000)?;
    write(Path::new(file), events, now_ms() - SPAN_MS - 15 * MINUTE_MS)
}

/// The wall clock, in milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    SystemClock::default().wall_ns() / 1_000_000
}

/// Writes `events` events whose nominal times run evenly from `start_ms` over two hours.
pub(crate) fn write(path: &Path, events: u64, start_ms: i64) -> Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut random = Random(0x7469_6465);
    // Greatest event time so far, per tenant: the watermark follows it.
    let mut newest = [i64::MIN; TENANTS];
    for i in 0..events {
        let nominal = start_ms + (i as i64) * SPAN_MS / (events as i64);
        // The square of a uniform number: tenant 0 gets about 14 % of the events, the last one about 1 %.
        let draw = random.below(1 << 20) as f64 / (1 << 20) as f64;
        let t = ((draw * draw) * TENANTS as f64) as usize;
        let time = match random.below(1_000) {
            0..20 => nominal - random.below(4 * MINUTE_MS as u64) as i64,
            20..25 => nominal - 6 * MINUTE_MS - random.below(24 * MINUTE_MS as u64) as i64,
            25..27 if newest[t] > i64::MIN => newest[t] - LATENESS_MS,
            // A round minute moves the watermark exactly onto the end of a window.
            27..29 => nominal - nominal.rem_euclid(MINUTE_MS),
            _ => nominal,
        };
        newest[t] = newest[t].max(time);
        let metric = random.below(METRICS as u64);
        let value = (random.below(2_000_000) as f64 - 200_000.0) / 128.0;
        writeln!(
            out,
            concat!(
                r#"{{"event_type":"measurement","timestamp":"{}","source":"generator","version":"1.0","#,
                r#""payload":{{"tenant_id":"{}","metric_name":"metric_{:02}","metric_value":{},"#,
                r#""dimensions":{{"region":"region-{}","host":"host-{:03}","build":"b{}"}}}}}}"#
            ),
            rfc3339(time * 1_000_000),
            tenant(t),
            metric,
            value,
            random.below(5),
            random.below(40),
            random.below(3),
        )?;
    }
    out.flush()?;
    Ok(())
}
