//! `tidegauge watch`: current values as they change. A table that moves in a terminal, otherwise one line a change.

mod board;

use std::collections::BTreeSet;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use clap::Args;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tidegauge_client::proto::hotmetric::v1::{Metric, WatchMetricsResponse};
use tidegauge_client::{Client, ClientError, MessageStream};
use tidegauge_core::clock::{Clock as _, SystemClock};
use tidegauge_core::time::rfc3339;
use tidegauge_proto::convert::time::timestamp_ns;

use crate::connect::ConnectArgs;
use crate::failure::{Doing as _, Failure, Outcome};
use crate::output::{Float, harmless};
use crate::stdout;
use crate::tell::tell;
use crate::terminal::Screen;
use crate::text_table::printable;
use crate::units::counted;
use board::Board;

/// Time between two drawings: as fast as eyes follow.
const DRAW_INTERVAL: Duration = Duration::from_millis(100);
/// Pause before a broken stream is opened again.
const REOPEN_PAUSE: Duration = Duration::from_millis(500);
/// Tries to open a broken stream before giving up.
const REOPEN_TRIES: u32 = 60;

const EXAMPLES: &str = "\
Examples:
  tidegauge watch
  tidegauge watch cpu.usage_percent memory.used_bytes
  tidegauge watch --once -o json
  tidegauge watch -o lines | grep cpu";

/// Flags of `watch`.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct WatchArgs {
    /// Metrics to watch [default: all]
    #[arg(value_name = "METRIC")]
    metrics: Vec<String>,
    /// table redraws in a terminal, lines gives a line a change, json an object a change [default: by the terminal]
    #[arg(short, long, value_enum, value_name = "FORM")]
    output: Option<WatchForm>,
    /// Show the current values and end
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// Form of the changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum WatchForm {
    /// A table that is drawn again and again
    Table,
    /// One line a change
    Lines,
    /// One JSON object a change
    Json,
}

/// Watches until it is interrupted.
///
/// # Errors
/// What the server said, when trying again does not help.
pub(crate) async fn run(args: WatchArgs) -> Outcome {
    let client = args.connect.connect().await?;
    let is_terminal = std::io::stdout().is_terminal();
    let form = args.output.unwrap_or(if is_terminal { WatchForm::Table } else { WatchForm::Lines });
    let wanted = args.metrics.clone();
    let stream = client.watch(args.metrics.clone()).await?;
    let mut steps = Watch { stream, client, metrics: args.metrics }.into_steps();
    match form {
        WatchForm::Table if args.once => {
            let mut board = Board::default();
            while !board.take(next(&mut steps).await?) {}
            stdout::write(board.table(now_ns(), usize::MAX))?;
            all_found(&wanted, |name| board.has(name))
        }
        WatchForm::Table => draw(steps).await,
        WatchForm::Lines | WatchForm::Json => {
            let mut found = BTreeSet::new();
            loop {
                let step = next(&mut steps).await?;
                write_changes(&step, form).doing("standard output")?;
                if args.once {
                    found.extend(step.metrics.into_iter().map(|metric| metric.metric_name));
                    if step.initial_state_complete {
                        return all_found(&wanted, |name| found.contains(name));
                    }
                }
            }
        }
    }
}

/// A metric that was asked for by name and has no value is an error: a script must not take silence for an answer.
fn all_found(wanted: &[String], found: impl Fn(&str) -> bool) -> Outcome {
    let missing: Vec<&str> = wanted.iter().map(String::as_str).filter(|name| !found(name)).collect();
    match &missing[..] {
        [] => Ok(()),
        names => Err(Failure::new(format!("no value yet of {}", printable(&names.join(", "))))
            .hint("`tidegauge watch --once` shows which metrics there are; one has a value from its first event on")),
    }
}

fn now_ns() -> i64 {
    SystemClock::default().wall_ns()
}

async fn draw(mut steps: MessageStream<WatchMetricsResponse>) -> Outcome {
    let mut board = Board::default();
    let mut screen = Screen::new();
    let mut ticks = tokio::time::interval(DRAW_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            step = next(&mut steps) => { board.take(step?); }
            _ = ticks.tick() => screen.draw(&board.lines(now_ns(), screen.height())).doing("the terminal")?,
        }
    }
}

/// The next step. Cancelling it loses nothing, not even a try to open the watch again: that goes on with the next call.
async fn next(steps: &mut MessageStream<WatchMetricsResponse>) -> Result<WatchMetricsResponse, ClientError> {
    let ended = || ClientError::Protocol("the watch has ended".to_owned());
    steps.next().await.ok_or_else(ended)?
}

/// A watch that is opened again when the connection breaks or the server is restarted.
struct Watch {
    stream: MessageStream<WatchMetricsResponse>,
    client: Client,
    metrics: Vec<String>,
}

impl Watch {
    /// Its steps until an error that trying again does not mend.
    fn into_steps(self) -> MessageStream<WatchMetricsResponse> {
        futures::stream::try_unfold(self, |mut watch| async move {
            loop {
                match watch.stream.next().await {
                    Some(Ok(step)) => return Ok(Some((step, watch))),
                    Some(Err(error)) if !error.is_retryable() => return Err(error),
                    Some(Err(_)) | None => watch.reopen().await?,
                }
            }
        })
        .boxed()
    }

    /// A pause comes before the first try too: a server that ends every watch at once must not be flooded.
    async fn reopen(&mut self) -> Result<(), ClientError> {
        let mut pace = tokio::time::interval(REOPEN_PAUSE);
        pace.tick().await;
        let mut tries = REOPEN_TRIES;
        loop {
            pace.tick().await;
            match self.client.watch(self.metrics.clone()).await {
                Ok(stream) => {
                    self.stream = stream;
                    return Ok(());
                }
                Err(error) if tries == 0 || !error.is_retryable() => return Err(error),
                Err(_) => tries -= 1,
            }
        }
    }
}

fn write_changes(step: &WatchMetricsResponse, form: WatchForm) -> std::io::Result<()> {
    let mut out = std::io::BufWriter::new(stdout::Out::default());
    if step.missed_updates > 0 {
        tell(format_args!("{} skipped: this reader is too slow", counted(step.missed_updates, "change")));
    }
    for metric in &step.metrics {
        match form {
            WatchForm::Json => writeln!(out, "{}", harmless(document(metric).to_string()))?,
            WatchForm::Table | WatchForm::Lines => {
                let time = time(metric.last_time.as_ref()).unwrap_or_default();
                let name = printable(&metric.metric_name);
                let value = Float(metric.last_value);
                writeln!(out, "{time}  {name}  {value}  ({})", counted(metric.event_count, "event"))?;
            }
        }
    }
    out.flush()
}

fn time(time: Option<&prost_types::Timestamp>) -> Option<String> {
    time.and_then(timestamp_ns).map(rfc3339)
}

fn document(metric: &Metric) -> Value {
    json!({
        "metric_name": metric.metric_name,
        "last_value": Value::from(Float(metric.last_value)),
        "last_time": time(metric.last_time.as_ref()),
        "updated_at": time(metric.updated_at.as_ref()),
        "event_count": metric.event_count,
    })
}
