//! `bench load`: a file of events through `tidegauge load`, until durable and until in windows.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use clap::Args;
use tidegauge_client::Client;
use tidegauge_core::clock::{Clock as _, SystemClock};
use tokio::process::Command;

use super::TargetArgs;
use super::ingest::rows_total;
use super::report::Report;
use super::server::Server;
use crate::failure::{Doing as _, Failure, Outcome};
use crate::units::{grouped, readable, short};

/// How long the windows may lag behind before the benchmark gives up.
const LAG_MAX: Duration = Duration::from_secs(120);

/// How long it may take until history stands in rows.
const PUBLISHED_MAX: Duration = Duration::from_secs(300);

/// Arguments of `bench load`.
#[derive(Clone, Debug, Args)]
pub(crate) struct LoadArgs {
    /// NDJSON of events; `cargo xtask generate events.ndjson` writes one
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Load as measurements of now, as `load --live` does
    #[arg(long)]
    live: bool,
    #[command(flatten)]
    target: TargetArgs,
}

/// Runs the benchmark.
///
/// # Errors
/// When the load fails, or its events do not reach the windows.
pub(crate) async fn run(args: LoadArgs) -> Outcome {
    let bytes = std::fs::metadata(&args.file).doing(args.file.display())?.len();
    let server = Server::start(&args.target, &[])?;
    let reader = server.connect_to_all().await?;
    let before = settled(&reader).await?;
    let rows_before = rows_total(&reader).await?;
    let folder = tempfile::tempdir().doing("a temporary folder")?;

    let mut command = Command::new(std::env::current_exe().doing("this program's path")?);
    command
        .arg("load")
        .arg(&args.file)
        .args(["--progress", "json", "--allow-rejects", "--state"])
        .arg(folder.path().join("state"))
        .args(args.live.then_some("--live"))
        .envs(server.credentials())
        .env_remove("TIDEGAUGE_TENANT")
        .env_remove("TIDEGAUGE_CA")
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    let clock = SystemClock::default();
    let start = clock.monotonic_ns();
    let output = command.output().await.doing("tidegauge load")?;
    let durable = Duration::from_nanos(clock.monotonic_ns() - start);
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(Failure::new(format!("the load failed: {}", said.trim())));
    }
    let sums = said.lines().rev().find_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let events = sums.and_then(|sums| sums["events"].as_u64()).ok_or_else(|| Failure::new("the load gave no sums"))?;

    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    let (counted, dead) = loop {
        ticks.tick().await;
        let now = settled(&reader).await?;
        let elapsed = Duration::from_nanos(clock.monotonic_ns() - start);
        let (found, dead) = (now.0 - before.0, now.1 - before.1);
        if found + dead == events {
            break (elapsed, dead);
        }
        if found + dead > events || elapsed > durable + LAG_MAX {
            let text = format!("{events} events are durable, but {found} stand in windows and {dead} are dead letters");
            return Err(Failure::new(text));
        }
    };

    let memory = server.memory_bytes();
    // History stands in rows after the next cut.
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    let rows = loop {
        ticks.tick().await;
        let rows = rows_total(&reader).await? - rows_before;
        let elapsed = Duration::from_nanos(clock.monotonic_ns() - start);
        if rows == events - dead {
            break rows;
        }
        if rows > events || elapsed > counted + PUBLISHED_MAX {
            let text = format!("{events} events are durable, {dead} are dead letters, SUM(event_count) grew by {rows}");
            return Err(Failure::new(text));
        }
    };

    let mut report = Report::default();
    report.add("file", format!("{}B", short(bytes as f64)), bytes);
    report.add("events", grouped(events), events);
    for (name, time) in [("until durable", durable), ("until in windows", counted)] {
        let rate = events as f64 / time.as_secs_f64();
        report.add(name, format!("{}/s ({})", short(rate), readable(time)), rate);
    }
    report.add("dead letters", grouped(dead), dead);
    if let Some(bytes) = memory {
        report.add("server memory", format!("{}B", short(bytes as f64)), bytes);
    }
    report.add("checked", format!("SUM(event_count) = {}", grouped(rows)), rows);
    report.print(args.target.output)
}

/// Events in windows and dead letters, of all tenants.
async fn settled(client: &Client) -> Outcome<(u64, u64)> {
    let status = client.status().await?;
    let counters = status.keys.iter().filter_map(|key| key.counters);
    Ok(counters.fold((0, 0), |(counted, dead), c| (counted + c.on_time + c.late + c.backfilled, dead + c.dead)))
}
