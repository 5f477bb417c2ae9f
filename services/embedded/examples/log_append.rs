//! Measures durable appends: `cargo run --release -p tidegauge-embedded --example log_append -- DIR [PAYLOAD_BYTES]
//! [IN_FLIGHT] [SECONDS] [WRITE_AHEAD_BYTES]`. Prints records and bytes a second, the latency of an append, and how long
//! the log takes to open again and to be read. DIR is used as it is: give an empty one on the disk to be measured.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tidegauge_core::clock::{Clock, SystemClock};
use tidegauge_core::log::{EventLog, NewRecord, Position};
use tidegauge_core::{Key, ShardId, TenantId};
use tidegauge_embedded::files::DiskFiles;
use tidegauge_embedded::log::{EmbeddedLog, LogOptions};

fn argument<T: FromStr>(index: usize, default: T) -> T {
    std::env::args().nth(index).and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Some(dir) = std::env::args().nth(1).map(PathBuf::from) else {
        return Err("name a directory".into());
    };
    let payload_bytes = argument(2, 64 << 10);
    let in_flight = argument(3, 16_u64);
    let seconds = argument(4, 5_u64);
    let mut options = LogOptions::new(dir);
    options.write_ahead_bytes = argument(5, options.write_ahead_bytes);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let open = || EmbeddedLog::open(options.clone(), Arc::new(DiskFiles), Arc::clone(&clock));

    let log = Arc::new(open()?);
    let payload: Vec<u8> = (0..payload_bytes).map(|at: usize| (at * 7 % 251) as u8).collect();
    let payload = bytes::Bytes::from(payload);
    let start_ns = clock.monotonic_ns();
    let end_ns = start_ns + Duration::from_secs(seconds).as_nanos() as u64;
    let tasks: Vec<_> = (0..in_flight)
        .map(|task| {
            let (log, clock, payload) = (Arc::clone(&log), Arc::clone(&clock), payload.clone());
            tokio::spawn(async move {
                let key = Key::of(TenantId::parse(&format!("tenant-{task}")).map_err(|error| error.to_string())?);
                let mut took_ns = Vec::new();
                loop {
                    let before_ns = clock.monotonic_ns();
                    if before_ns >= end_ns {
                        return Ok::<_, String>(took_ns);
                    }
                    let record = NewRecord { key: key.clone(), payload: payload.clone() };
                    log.append(vec![record]).await.map_err(|error| error.to_string())?;
                    took_ns.push(clock.monotonic_ns() - before_ns);
                }
            })
        })
        .collect();
    let mut took_ns = Vec::new();
    for task in tasks {
        took_ns.extend(task.await??);
    }
    let elapsed = (clock.monotonic_ns() - start_ns) as f64 / 1e9;
    took_ns.sort_unstable();
    let percentile = |share: usize| took_ns.get(took_ns.len() * share / 100).copied().unwrap_or(0) as f64 / 1e6;
    let records = took_ns.len() as f64 / elapsed;
    println!(
        "{records:.0} records/s, {:.0} MB/s, append p50 {:.2} ms, p99 {:.2} ms",
        records * payload_bytes as f64 / 1e6,
        percentile(50),
        percentile(99)
    );
    log.close().await;
    drop(log);

    let before_ns = clock.monotonic_ns();
    let log = open()?;
    println!("opened again in {:.0} ms", (clock.monotonic_ns() - before_ns) as f64 / 1e6);
    let before_ns = clock.monotonic_ns();
    let mut bytes = 0;
    for shard in (0..log.shards()).map(ShardId) {
        let mut from = Position::start();
        loop {
            let batch = log.read(shard, &from, 1 << 20, Duration::ZERO).await?;
            bytes += batch.records.iter().map(|record| record.payload.len()).sum::<usize>();
            match batch.records.last() {
                Some(last) => from = last.position.clone(),
                None => break,
            }
        }
    }
    let seconds = (clock.monotonic_ns() - before_ns) as f64 / 1e9;
    println!("read {:.0} MB at {:.0} MB/s", bytes as f64 / 1e6, bytes as f64 / 1e6 / seconds);
    Ok(())
}
