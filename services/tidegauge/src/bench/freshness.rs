//! `bench freshness`: time from publishing an event to a watcher that sees it, under a paced load.

use std::time::Duration;

use clap::Args;
use futures::StreamExt as _;
use tidegauge_client::{ColumnsBuilder, EventRef, ProducerOptions};
use tidegauge_core::clock::{Clock as _, SystemClock};

use super::histogram::Times;
use super::ingest::{rows_grown, rows_total};
use super::report::Report;
use super::server::Server;
use super::{TargetArgs, data};
use crate::failure::{Failure, Outcome};
use crate::units::{grouped, readable};

/// The metric whose value is the number of its event.
const MARKER: &str = "marker";

/// Arguments of `bench freshness`.
#[derive(Clone, Debug, Args)]
pub(crate) struct FreshnessArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Events a second
    #[arg(long, default_value_t = 50_000)]
    rate: u32,
    /// Batches a second
    #[arg(long, default_value_t = 100)]
    batches: u32,
    /// How long
    #[arg(long, default_value_t = 20)]
    seconds: u32,
}

/// Runs the benchmark.
///
/// # Errors
/// When the watch ends or a marker never arrives.
pub(crate) async fn run(args: FreshnessArgs) -> Outcome {
    let server = Server::start(&args.target, &[])?;
    let reader = server.connect().await?;
    let rows_before = rows_total(&reader).await?;
    let mut watch = reader.watch(vec![MARKER.to_owned()]).await?;
    while let Some(step) = watch.next().await {
        if step?.initial_state_complete {
            break;
        }
    }
    let total = args.batches * args.seconds;
    let load = data::columns((args.rate / args.batches).max(1) as usize, 0);
    let mut producer = server.connect().await?.producer(ProducerOptions::default());

    let clock = std::sync::Arc::new(SystemClock::default());
    let sent = std::sync::Arc::new(std::sync::Mutex::new(Vec::with_capacity(total as usize)));
    let sending = {
        let (clock, sent) = (clock.clone(), sent.clone());
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / args.batches);
            for number in 0..total {
                ticks.tick().await;
                let now = clock.wall_ns();
                let mut marker = ColumnsBuilder::new();
                marker.push(EventRef {
                    event_type: "measurement",
                    metric: MARKER,
                    time_ns: now,
                    value: f64::from(number),
                    dimensions: &[],
                    source: "bench",
                    version: "1",
                });
                let mut columns = load.clone();
                for (i, time) in columns.times_unix_nano.iter_mut().enumerate() {
                    *time = now + i as i64;
                }
                if let Ok(mut sent) = sent.lock() {
                    sent.push(clock.monotonic_ns());
                }
                producer.send(marker.take()).await?;
                producer.send(columns).await?;
            }
            producer.close().await
        })
    };

    let mut times = Times::default();
    let mut seen = 0_usize;
    let mut coalesced = 0;
    while seen < total as usize {
        let step = tokio::time::timeout(Duration::from_secs(30), watch.next()).await;
        let step = step.map_err(|_| Failure::new(format!("marker {seen} did not arrive within 30 s")))?;
        let step = step.ok_or_else(|| Failure::new("the watch has ended"))??;
        let now = clock.monotonic_ns();
        for metric in step.metrics.iter().filter(|m| m.metric_name == MARKER) {
            // Values between two pushes are coalesced: the newest stands for them, and each of them became visible now.
            let newest = metric.last_value as usize;
            let sent = sent.lock().map_err(|_| Failure::new("the sender has failed"))?;
            for sent_at in sent.iter().take(newest + 1).skip(seen) {
                times.add(Duration::from_nanos(now.saturating_sub(*sent_at)));
            }
            coalesced += (newest + 1).saturating_sub(seen + 1);
            seen = seen.max(newest + 1);
        }
    }
    let sent = sending.await.map_err(|panic| Failure::new(panic.to_string()))??;
    let rows = rows_grown(&reader, rows_before, sent.accepted).await?;

    let mut report = Report::default();
    report.text("data", format!("{}; {} batches and markers a second", data::DESCRIPTION, args.batches));
    report.add("events a second", grouped(u64::from(args.rate)), args.rate);
    report.add("markers", format!("{} ({coalesced} seen with a later one)", times.len()), times.len());
    let [p50, p99, max] = times.percentiles([0.5, 0.99, 1.0]);
    let shown = format!("p50 {}, p99 {}, max {}", readable(p50), readable(p99), readable(max));
    report.add("event to watcher", shown, serde_json::json!([p50, p99, max].map(|t| t.as_secs_f64())));
    report.add("checked", format!("SUM(event_count) = {}", grouped(rows)), rows);
    report.print(args.target.output)
}
