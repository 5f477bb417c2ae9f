//! `bench neighbours`: what a tenant that sends all it may does to the times of a quiet one (I7).
//!
//! The quiet tenant publishes small batches and reads a current value at a steady pace. Rounds alone and rounds beside a
//! neighbour alternate, so that the machine's own moods fall on both; the neighbour sends as fast as its quota lets it. It
//! is a process of its own, and of low priority: on a machine of few cores its encoding would otherwise delay the client
//! that measures, and the server would be blamed.

use std::process::Stdio;
use std::time::Duration;

use clap::Args;
use tidegauge_client::{Client, ProducerOptions};
use tidegauge_core::clock::{Clock as _, SystemClock};

use super::histogram::Times;
use super::report::Report;
use super::server::{NEIGHBOUR, Server, TENANT};
use super::{TargetArgs, data};
use crate::connect::ConnectArgs;
use crate::failure::{Doing as _, Failure, Outcome};
use crate::units::{grouped, readable};

/// Events in a batch of the neighbour.
const NEIGHBOUR_BATCH: usize = 10_000;
/// Events in a batch of the quiet tenant.
const QUIET_BATCH: usize = 100;
/// Between two batches of the quiet tenant.
const QUIET_INTERVAL: Duration = Duration::from_millis(5);

/// Arguments of `bench neighbours`.
#[derive(Clone, Debug, Args)]
pub(crate) struct NeighboursArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Events a second that a tenant may send, on a server of our own
    #[arg(long, default_value_t = 500_000)]
    quota: u64,
    /// Pairs of rounds: alone, then beside the neighbour
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Length of a round
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
}

/// Times of one kind of round.
#[derive(Debug, Default)]
struct Found {
    acknowledged: Times,
    read: Times,
}

/// Runs the benchmark.
///
/// # Errors
/// When an event of the quiet tenant is refused or a value is missing.
pub(crate) async fn run(args: NeighboursArgs) -> Outcome {
    let quota = args.quota.to_string();
    let server = Server::start(&args.target, &[("TIDEGAUGE_QUOTA_EVENTS_PER_SECOND", &quota)])?;
    let quiet = server.connect_as(TENANT).await?;
    round(&quiet, 1, &mut Found::default()).await?;

    let (mut alone, mut beside) = (Found::default(), Found::default());
    let mut sent = 0;
    for _ in 0..args.rounds {
        settled(&quiet).await?;
        round(&quiet, args.seconds, &mut alone).await?;
        let neighbour = Neighbour::start(&server)?;
        round(&quiet, args.seconds, &mut beside).await?;
        sent += neighbour.stop().await?;
    }

    let mut report = Report::default();
    let batches = Duration::from_secs(1).div_duration_f64(QUIET_INTERVAL);
    report.text("quiet tenant", format!("{batches} batches of {QUIET_BATCH} events and {batches} reads a second"));
    let a_second = sent / u64::from(args.rounds * args.seconds);
    report.add("neighbour", format!("{} events/s taken, quota {}", grouped(a_second), grouped(args.quota)), a_second);
    report.text("rounds", format!("{} pairs of {} s", args.rounds, args.seconds));
    compare(
        &mut report,
        ["acknowledged alone", "acknowledged beside", "acknowledged ratio"],
        [&mut alone.acknowledged, &mut beside.acknowledged],
    );
    compare(&mut report, ["read alone", "read beside", "read ratio"], [&mut alone.read, &mut beside.read]);
    report.print(args.target.output)
}

fn compare(report: &mut Report, names: [&'static str; 3], [alone, beside]: [&mut Times; 2]) {
    let ranks = [alone, beside].map(|times| times.percentiles([0.5, 0.99, 1.0]));
    for (name, [p50, p99, max]) in names.into_iter().zip(ranks) {
        let shown = format!("p50 {}, p99 {}, max {}", readable(p50), readable(p99), readable(max));
        report.add(name, shown, serde_json::json!([p50, p99, max].map(|t| t.as_secs_f64())));
    }
    let [p50, p99, _] = std::array::from_fn(|i| ranks[1][i].as_secs_f64() / ranks[0][i].as_secs_f64());
    report.add(names[2], format!("p50 × {p50:.2}, p99 × {p99:.2}"), serde_json::json!([p50, p99]));
}

/// Waits until nothing of the neighbour's is left to be aggregated.
async fn settled(client: &Client) -> Outcome {
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    loop {
        ticks.tick().await;
        if client.status().await?.shards.iter().all(|shard| shard.at_tip) {
            return Ok(());
        }
    }
}

/// One round of the quiet tenant.
async fn round(client: &Client, seconds: u32, found: &mut Found) -> Outcome {
    let clock = SystemClock::default();
    let mut producer = client.producer(ProducerOptions::default());
    let mut columns = data::columns(QUIET_BATCH, 0);
    let mut ticks = tokio::time::interval(QUIET_INTERVAL);
    // A busy machine must not be asked for what it has missed: that would be another load.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let end = clock.monotonic_ns() + Duration::from_secs(seconds.into()).as_nanos() as u64;
    while clock.monotonic_ns() < end {
        ticks.tick().await;
        let now = clock.wall_ns();
        for (i, time) in columns.times_unix_nano.iter_mut().enumerate() {
            *time = now + i as i64;
        }
        let ack = producer.send(columns.clone()).await?.ack().await?;
        if let Some(first) = ack.rejected().first() {
            return Err(Failure::new(format!("an event was refused: {} {}", first.field, first.message)));
        }
        found.acknowledged.add(ack.latency);
        let asked = clock.monotonic_ns();
        match client.get_metric(&data::metric(0)).await {
            Ok(_) => found.read.add(Duration::from_nanos(clock.monotonic_ns() - asked)),
            // Before the very first batch is in its window there is nothing to read.
            Err(error) if error.code() == Some(tonic::Code::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
    }
    producer.close().await?;
    Ok(())
}

/// The neighbour's process.
#[derive(Debug)]
struct Neighbour(tokio::process::Child);

impl Neighbour {
    fn start(server: &Server) -> Outcome<Self> {
        let program = std::env::current_exe().doing("this program's path")?;
        // Where there is no such program, the neighbour is as urgent as everybody.
        let mut command = match std::process::Command::new("nice").arg("true").status() {
            Ok(status) if status.success() => {
                let mut command = tokio::process::Command::new("nice");
                command.args(["-n", "19"]).arg(program);
                command
            }
            _ => tokio::process::Command::new(program),
        };
        command
            .args(["bench", "flood", "--tenant", NEIGHBOUR])
            .envs(server.credentials())
            .env_remove("TIDEGAUGE_CA")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        Ok(Self(command.spawn().doing("starting the neighbour")?))
    }

    /// Ends it; how many of its events were taken.
    async fn stop(mut self) -> Outcome<u64> {
        // The end of its input ends it.
        drop(self.0.stdin.take());
        let output = self.0.wait_with_output().await.doing("the neighbour")?;
        let said = String::from_utf8_lossy(&output.stdout);
        said.trim().parse().map_err(|_| Failure::new(format!("the neighbour ended with {}", output.status)))
    }
}

/// Arguments of `bench flood`.
#[derive(Clone, Debug, Args)]
pub(crate) struct FloodArgs {
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Sends as much as the server takes until standard input ends; prints how many events were taken.
///
/// # Errors
/// What the server said.
pub(crate) async fn flood(args: FloodArgs) -> Outcome {
    let client = args.connect.connect().await?;
    let (ended, mut end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // An input that cannot be read has ended too.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _ = ended.send(());
    });
    let clock = SystemClock::default();
    let mut producer = client.producer(ProducerOptions { in_flight: 16, ..ProducerOptions::default() });
    let mut columns = data::columns(NEIGHBOUR_BATCH, 0);
    while matches!(end.try_recv(), Err(tokio::sync::oneshot::error::TryRecvError::Empty)) {
        let now = clock.wall_ns();
        for (i, time) in columns.times_unix_nano.iter_mut().enumerate() {
            *time = now + i as i64;
        }
        producer.send(columns.clone()).await?;
    }
    let accepted = producer.close().await?.accepted;
    crate::stdout::write(format_args!("{accepted}\n"))
}
