//! `tidegauge emit`: one event from flags, or events as NDJSON on standard input.

mod lines;
mod publisher;
mod report;

use std::time::Duration;

use clap::Args;
use tidegauge_client::Mode;
use tidegauge_client::proto::ingest::v1::Event;
use tidegauge_core::clock::{Clock as _, SystemClock};
use tidegauge_core::limits;
use tidegauge_core::time::parse_rfc3339;
use tidegauge_proto::convert::time::{timestamp, timestamp_ns};

use crate::connect::ConnectArgs;
use crate::failure::{Failure, Outcome};
use crate::output::{self, TextForm};
use crate::tell::tell;
use publisher::Publisher;
use report::{Origin, Report};

const EXAMPLES: &str = "\
Examples:
  tidegauge emit --metric room.temperature --value 21.5 --dimension room=kitchen
  tidegauge emit --metric room.temperature --value 19 --time 2026-03-02T07:08:09Z --backfill
  tail -f events.ndjson | tidegauge emit
  tidegauge emit -o json < events.ndjson | jq '.refusals[]'

A line on standard input is
  {\"event_type\": …, \"timestamp\": …, \"source\": …, \"version\": …,
   \"payload\": {\"tenant_id\": …, \"metric_name\": …, \"metric_value\": …, \"dimensions\": {…}}}
A tenant that the credential may not publish for stops no other one; its events are told and counted as not sent, and it
is asked for again every few seconds.
With -o json the document holds accepted, refused, not_sent (together all lines, unless an error ends it before),
too_old (accepted LIVE events that may become dead letters), refusals (line, field, reason, message; the first 1,000),
refused_tenants, positions and error. Exit code: 0 if every event was taken, 1 if not, 2 for a wrong call.";

/// Flags of `emit`.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct EmitArgs {
    /// Metric; without it events are read from standard input, one JSON event a line
    #[arg(long, value_name = "NAME", requires = "value")]
    metric: Option<String>,
    /// Value
    #[arg(long, allow_negative_numbers = true, value_name = "NUMBER", requires = "metric")]
    value: Option<f64>,
    /// Dimension; may be given several times
    #[arg(long, value_name = "K=V", requires = "metric")]
    dimension: Vec<String>,
    /// Event time, ISO 8601 [default: now]
    #[arg(long, value_name = "TIME", requires = "metric")]
    time: Option<String>,
    /// Event type
    #[arg(long, value_name = "TYPE", default_value = "measurement", requires = "metric")]
    event_type: String,
    /// Name of the emitter
    #[arg(long, value_name = "NAME", default_value = "tidegauge-emit", requires = "metric")]
    source: String,
    /// Send as history, which moves no watermark
    #[arg(long)]
    backfill: bool,
    /// Form of the account: text on standard error; json also one document at the end, on standard output
    #[arg(short, long, value_enum, default_value = "text", value_name = "FORM")]
    output: TextForm,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// Publishes and says what became of it.
///
/// # Errors
/// When an event was refused.
pub(crate) async fn run(args: EmitArgs) -> Outcome {
    let mode = if args.backfill { Mode::Backfill } else { Mode::Live };
    let now_ns = SystemClock::default().wall_ns();
    let event = match (&args.metric, args.value) {
        (Some(metric), Some(value)) => Some(one(&args, metric, value, now_ns)?),
        _ => None,
    };
    args.connect.options()?;
    let mut report = Report::default();
    let ended = publish(&args.connect, event, mode, now_ns, &mut report).await;
    if args.output == TextForm::Text {
        return ended;
    }
    let ended = ended.map_err(|failure| failure.asked_for(args.connect.tenant().unwrap_or_default()));
    output::document(&report.document(ended.as_ref().err()))?;
    ended
}

/// Publishes the event, or those of standard input.
async fn publish(connect: &ConnectArgs, event: Option<Event>, mode: Mode, now_ns: i64, report: &mut Report) -> Outcome {
    let mut publisher = Publisher::new(connect.connect().await?, mode);
    let Some(event) = event else { return lines::run(&mut publisher, report).await };
    let age = too_old(&event, mode, now_ns);
    let answer = match publisher.publish("", vec![event]).await {
        Ok(answer) => answer,
        Err(not_taken) => {
            report.not_sent += 1;
            return Err(not_taken.failure);
        }
    };
    publisher.close().await;
    report.answered(&answer, |_| Origin::Flags, str::to_owned);
    if report.refused > 0 {
        return Err(Failure::new("the event was refused"));
    }
    tell("1 event durable");
    if let Some(age) = age {
        report.old(Origin::Flags, age);
    }
    Ok(())
}

/// The age of a LIVE event that may be too old for its tenant's windows. How old is too old depends on the tenant's newest
/// event, and on the server's settings: this goes by the clock and the defaults.
fn too_old(event: &Event, mode: Mode, now_ns: i64) -> Option<Duration> {
    let time_ns = event.timestamp.as_ref().and_then(timestamp_ns)?;
    let age = Duration::from_nanos(u64::try_from(now_ns.saturating_sub(time_ns)).unwrap_or(0));
    (mode == Mode::Live && age > limits::LATENESS_HORIZON).then_some(age)
}

fn one(args: &EmitArgs, metric: &str, value: f64, now_ns: i64) -> Outcome<Event> {
    let time_ns = match &args.time {
        None => now_ns,
        Some(text) => parse_rfc3339(text).ok_or_else(|| {
            Failure::usage(format!("--time {text:?} is no ISO 8601 time such as 2026-03-02T07:08:09Z"))
        })?,
    };
    let mut dimensions = std::collections::HashMap::new();
    for pair in &args.dimension {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(Failure::usage(format!("--dimension {pair:?} is not of the form key=value")));
        };
        if dimensions.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(Failure::usage(format!("--dimension {key:?} is given twice")));
        }
    }
    Ok(Event {
        tenant_id: String::new(),
        event_type: args.event_type.clone(),
        timestamp: Some(timestamp(time_ns)),
        metric_name: metric.to_owned(),
        metric_value: value,
        dimensions,
        source: args.source.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}
