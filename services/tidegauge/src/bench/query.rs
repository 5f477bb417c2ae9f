//! `bench query`: the dashboard query over one day of 20 metrics, through Flight SQL.

use std::time::Duration;

use clap::Args;
use tidegauge_client::{ColumnsBuilder, EventRef, Mode, ProducerOptions};
use tidegauge_core::clock::{Clock as _, SystemClock};
use tidegauge_core::time::{Day, MINUTE_NS};

use super::histogram::Times;
use super::report::Report;
use super::server::{Server, TENANT};
use super::{TargetArgs, data};
use crate::failure::{Failure, Outcome};
use crate::units::readable;

const MINUTES: usize = 24 * 60;

/// Arguments of `bench query`.
#[derive(Clone, Debug, Args)]
pub(crate) struct QueryArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// How often the query runs
    #[arg(long, default_value_t = 300)]
    runs: u32,
}

/// Runs the benchmark.
///
/// # Errors
/// When the answer is not the whole day.
pub(crate) async fn run(args: QueryArgs) -> Outcome {
    let server = Server::start(&args.target, &[("TIDEGAUGE_PUBLISH_INTERVAL", "1s")])?;
    let client = server.connect().await?;
    let clock = SystemClock::default();
    let day = Day::of(clock.wall_ns() - 3 * 24 * 60 * MINUTE_NS);
    load_day(&client, day).await?;

    let (year, month, day_of_month) = day.civil();
    let sql = format!(
        "SELECT metric_name, DATE_TRUNC('hour', window_start) AS hour, SUM(event_count) AS total_events, \
         AVG(avg_value) AS avg_metric_value FROM dashboard_metrics \
         WHERE tenant_id = '{TENANT}' AND year = {year} AND month = {month} AND day = {day_of_month} \
         GROUP BY metric_name, DATE_TRUNC('hour', window_start) ORDER BY hour DESC"
    );
    let mut times = Times::default();
    for _ in 0..args.runs {
        let start = clock.monotonic_ns();
        let batches = client.query(&sql).await?.collect().await?;
        times.add(Duration::from_nanos(clock.monotonic_ns() - start));
        let rows: usize = batches.iter().map(|batch| batch.num_rows()).sum();
        if rows != 24 * data::METRICS {
            return Err(Failure::new(format!("the answer has {rows} rows, not {}", 24 * data::METRICS)));
        }
    }

    let mut report = Report::default();
    report.text("data", format!("{} windows of one day in 24 objects of the lake", MINUTES * data::METRICS));
    report.text("query", "the dashboard query: hourly totals per metric of one tenant and day");
    let [p50, p99, max] = times.percentiles([0.5, 0.99, 1.0]);
    let shown = format!("p50 {}, p99 {}, max {}, of {}", readable(p50), readable(p99), readable(max), times.len());
    report.add("answered after", shown, serde_json::json!([p50, p99, max].map(|t| t.as_secs_f64())));
    report.print(args.target.output)
}

/// Loads one event a minute and metric, and waits until all is published.
async fn load_day(client: &tidegauge_client::Client, day: Day) -> Outcome {
    let options = ProducerOptions { mode: Mode::Backfill, ..ProducerOptions::default() };
    let mut producer = client.producer(options);
    let mut builder = ColumnsBuilder::new();
    for minute in 0..MINUTES {
        for metric in 0..data::METRICS {
            builder.push(EventRef {
                event_type: "measurement",
                metric: &data::metric(metric),
                time_ns: day.start_ns() + minute as i64 * MINUTE_NS,
                value: (minute * metric) as f64,
                dimensions: &[("host", "h1")],
                source: "bench",
                version: "1",
            });
        }
        if builder.len() >= 8_000 {
            producer.send(builder.take()).await?;
        }
    }
    if !builder.is_empty() {
        producer.send(builder.take()).await?;
    }
    producer.close().await?;
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    for _ in 0..1_200 {
        ticks.tick().await;
        if client.status().await?.quiescent {
            return Ok(());
        }
    }
    Err(Failure::new("the day was not published within two minutes"))
}
