//! `bench ingest`: durable events a second.
//!
//! *Burst* is the rate until the last acknowledgement; *sustained* the rate until the last event stands in a window, counted
//! from the same start. With `--rate` the batches are paced, and the time from sending to acknowledgement is what is
//! measured.

use std::time::Duration;

use clap::Args;
use tidegauge_client::{Batch, Client, ProducerOptions, Ticket};
use tidegauge_core::clock::{Clock as _, SystemClock};

use super::histogram::Times;
use super::report::Report;
use super::server::Server;
use super::{TargetArgs, data};
use crate::failure::{Failure, Outcome};
use crate::units::{grouped, readable, short};

/// How long the windows may lag behind before the benchmark gives up.
const LAG_MAX: Duration = Duration::from_secs(120);

/// Arguments of `bench ingest`.
#[derive(Clone, Debug, Args)]
pub(crate) struct IngestArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// columns or rows
    #[arg(long, default_value = "columns", value_parser = ["columns", "rows"])]
    format: String,
    /// Events in a batch
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
    /// Streams, each over a connection of its own
    #[arg(long, default_value_t = 2)]
    streams: u32,
    /// Batches in flight on a stream
    #[arg(long, default_value_t = 16)]
    in_flight: usize,
    /// Events to send
    #[arg(long, default_value_t = 20_000_000)]
    events: u64,
    /// Events a second, over all streams; measures the time to the acknowledgement [default: as fast as possible]
    #[arg(long)]
    rate: Option<u64>,
}

/// Runs the benchmark.
///
/// # Errors
/// When an event is refused, or the totals differ.
pub(crate) async fn run(args: IngestArgs) -> Outcome {
    let server = Server::start(&args.target, &[])?;
    let clock = SystemClock::default();
    let before = count(&server.connect().await?).await?;
    let rows_before = rows_total(&server.connect().await?).await?;
    let syncs_before = server.counter("tidegauge_log_syncs_total").await;

    let batches = args.events.div_ceil(u64::from(args.batch)).div_ceil(u64::from(args.streams)).max(1);
    let start = clock.monotonic_ns();
    let mut streams = tokio::task::JoinSet::new();
    for _ in 0..args.streams {
        let client = server.connect().await?;
        streams.spawn(stream(client, args.clone(), batches));
    }
    let mut times = Times::default();
    while let Some(done) = streams.join_next().await {
        for time in done.map_err(|panic| Failure::new(panic.to_string()))?? {
            times.add(time);
        }
    }
    let acknowledged = Duration::from_nanos(clock.monotonic_ns() - start);
    let events = batches * u64::from(args.streams) * u64::from(args.batch);

    let reader = server.connect().await?;
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    let counted = loop {
        ticks.tick().await;
        let found = count(&reader).await? - before;
        let elapsed = Duration::from_nanos(clock.monotonic_ns() - start);
        if found == events {
            break elapsed;
        }
        if found > events || elapsed > acknowledged + LAG_MAX {
            return Err(Failure::new(format!("sent {events} events, but {found} stand in windows")));
        }
    };
    let rows = rows_grown(&reader, rows_before, events).await?;

    let mut report = Report::default();
    report.text("data", format!("{}; {} events a batch as {}", data::DESCRIPTION, args.batch, args.format));
    report.text("streams", format!("{}, {} batches in flight each", args.streams, args.in_flight));
    report.add("events", grouped(events), events);
    let rate = |time: Duration| events as f64 / time.as_secs_f64();
    report.add("burst", format!("{}/s until acknowledged", short(rate(acknowledged))), rate(acknowledged));
    report.add("sustained", format!("{}/s until in windows", short(rate(counted))), rate(counted));
    report.add(
        "lag",
        readable(counted.saturating_sub(acknowledged)),
        counted.saturating_sub(acknowledged).as_secs_f64(),
    );
    if let (Some(now), Some(then)) = (server.counter("tidegauge_log_syncs_total").await, syncs_before) {
        report.add("syncs", grouped((now - then) as u64), now - then);
    }
    let [p50, p99, max] = times.percentiles([0.5, 0.99, 1.0]);
    let shown = format!("p50 {}, p99 {}, max {}, of {}", readable(p50), readable(p99), readable(max), times.len());
    report.add("acknowledged after", shown, serde_json::json!([p50, p99, max].map(|t| t.as_secs_f64())));
    if let Some(bytes) = server.memory_bytes() {
        report.add("server memory", format!("{}B", short(bytes as f64)), bytes);
    }
    report.add("checked", format!("SUM(event_count) = {}", grouped(rows)), rows);
    report.print(args.target.output)
}

/// Sends one stream's batches; returns the time to each acknowledgement.
async fn stream(client: Client, args: IngestArgs, batches: u64) -> Outcome<Vec<Duration>> {
    let clock = SystemClock::default();
    let options = ProducerOptions { in_flight: args.in_flight, ..ProducerOptions::default() };
    let mut producer = client.producer(options);
    let mut columns = data::columns(args.batch as usize, clock.wall_ns());
    let mut pace = args.rate.map(|rate| {
        let a_second = rate as f64 / f64::from(args.batch) / f64::from(args.streams);
        let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / a_second.max(0.001)));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        ticks
    });
    let mut times = Vec::with_capacity(batches as usize);
    let mut waiting: std::collections::VecDeque<Ticket> = std::collections::VecDeque::new();
    for _ in 0..batches {
        if let Some(ticks) = &mut pace {
            ticks.tick().await;
        }
        let now = clock.wall_ns();
        let batch = if args.format == "columns" {
            for (i, time) in columns.times_unix_nano.iter_mut().enumerate() {
                *time = now + i as i64;
            }
            Batch::Columns(columns.clone())
        } else {
            Batch::Rows(data::rows(args.batch as usize, now))
        };
        waiting.push_back(producer.send(batch).await?);
        while let Some(mut ticket) = waiting.pop_front() {
            match ticket.try_ack() {
                Some(ack) => times.push(taken(ack?)?),
                None => {
                    waiting.push_front(ticket);
                    break;
                }
            }
        }
    }
    for ticket in waiting {
        times.push(taken(ticket.ack().await?)?);
    }
    producer.close().await?;
    Ok(times)
}

fn taken(ack: tidegauge_client::Ack) -> Outcome<Duration> {
    match ack.rejected().first() {
        None => Ok(ack.latency),
        Some(first) => Err(Failure::new(format!("an event was refused: {} {}", first.field, first.message))),
    }
}

/// Events that stand in windows, by the counters of aggregation.
async fn count(client: &Client) -> Outcome<u64> {
    let status = client.status().await?;
    Ok(status.keys.iter().filter_map(|key| key.counters).map(|c| c.on_time + c.late + c.backfilled).sum())
}

/// Waits until the table has grown by so many events, and returns them: SQL answers as of what hot-metric has heard, which is
/// a push behind.
///
/// # Errors
/// When they are more, or not there in time.
pub(super) async fn rows_grown(client: &Client, before: u64, events: u64) -> Outcome<u64> {
    let clock = SystemClock::default();
    let until_ns = clock.monotonic_ns() + LAG_MAX.as_nanos() as u64;
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    loop {
        ticks.tick().await;
        let rows = rows_total(client).await? - before;
        if rows == events {
            return Ok(rows);
        }
        if rows > events || clock.monotonic_ns() > until_ns {
            return Err(Failure::new(format!("sent {events} events, but SUM(event_count) grew by {rows}")));
        }
    }
}

/// Events in the table, by SQL.
pub(super) async fn rows_total(client: &Client) -> Outcome<u64> {
    use arrow::array::{Array as _, Int64Array};

    let sql = "SELECT CAST(COALESCE(SUM(event_count), 0) AS BIGINT) FROM dashboard_metrics";
    let batches = client.query(sql).await?.collect().await?;
    let column =
        batches.iter().find(|b| b.num_rows() == 1).and_then(|b| b.column(0).as_any().downcast_ref::<Int64Array>());
    let found = column.filter(|c| c.is_valid(0)).map(|c| c.value(0));
    found.and_then(|n| u64::try_from(n).ok()).ok_or_else(|| Failure::new("the check gave no number"))
}
