//! `tidegauge emit`: one event from flags, or events as NDJSON on standard input.

mod lines;

use std::time::Duration;

use clap::Args;
use tidegauge_client::proto::ingest::v1::{Event, PublishRequest, PublishResponse};
use tidegauge_client::{Client, ClientError, Mode};
use tidegauge_core::clock::{Clock as _, SystemClock};
use tidegauge_core::limits;
use tidegauge_core::time::parse_rfc3339;
use tidegauge_proto::convert::time::timestamp;

use crate::connect::ConnectArgs;
use crate::failure::{Doing as _, Failure, Outcome};
use crate::tell::tell;
use crate::units::readable;

/// Pause before a request is sent again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Times that a request is sent while the server cannot take it for now.
const TRIES: u32 = 20;

const EXAMPLES: &str = "\
Examples:
  tidegauge emit --metric room.temperature --value 21.5 --dimension room=kitchen
  tidegauge emit --metric room.temperature --value 19 --time 2026-03-02T07:08:09Z --backfill
  tail -f events.ndjson | tidegauge emit

A line on standard input is
  {\"event_type\": …, \"timestamp\": …, \"source\": …, \"version\": …,
   \"payload\": {\"tenant_id\": …, \"metric_name\": …, \"metric_value\": …, \"dimensions\": {…}}}";

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
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Publishes and says what became of it.
///
/// # Errors
/// When an event was refused.
pub(crate) async fn run(args: EmitArgs) -> Outcome {
    let mode = if args.backfill { Mode::Backfill } else { Mode::Live };
    let (Some(metric), Some(value)) = (&args.metric, args.value) else {
        return lines::run(&args.connect.connect().await?, mode).await;
    };
    let now_ns = SystemClock::default().wall_ns();
    let event = one(&args, metric, value, now_ns)?;
    let age = age(&event, now_ns);
    let client = args.connect.connect().await?;
    let answer = publish(&client, vec![event], mode).await??;
    if lines::tell_refusals(&answer, |_| "the event".to_owned()) > 0 {
        return Err(Failure::new("the event was refused"));
    }
    tell("1 event durable");
    if mode == Mode::Live && age > limits::LATENESS_HORIZON {
        tell(format_args!(
            "note: it is {} old, and LIVE events far behind their tenant's newest become dead letters, which \
             `tidegauge status` counts; history is sent with --backfill",
            readable(age)
        ));
    }
    Ok(())
}

fn age(event: &Event, now_ns: i64) -> Duration {
    let time_ns = event.timestamp.as_ref().and_then(tidegauge_proto::convert::time::timestamp_ns).unwrap_or(now_ns);
    Duration::from_nanos(u64::try_from(now_ns.saturating_sub(time_ns)).unwrap_or(0))
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

/// Sends with an identity of its own, so that a retry could not count twice; tries again while the server only cannot take
/// it for now.
async fn publish(client: &Client, events: Vec<Event>, mode: Mode) -> Outcome<Result<PublishResponse, ClientError>> {
    let mut producer_id = [0; 16];
    getrandom::fill(&mut producer_id).doing("random numbers")?;
    // The first byte 0xFF is reserved for derived identities.
    producer_id[0] &= 0x7F;
    let request = PublishRequest {
        producer_id: producer_id.to_vec().into(),
        sequence: 1,
        mode: mode.into(),
        events,
        columns: None,
    };
    let mut pace = tokio::time::interval(RETRY_PAUSE);
    pace.tick().await;
    for _ in 1..TRIES {
        match client.publish(request.clone()).await {
            Err(error) if error.is_retryable() => pace.tick().await,
            answer => return Ok(answer),
        };
    }
    Ok(client.publish(request).await)
}
