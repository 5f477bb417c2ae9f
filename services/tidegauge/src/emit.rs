//! `tidegauge emit`: one event from flags, or events as NDJSON on standard input.

use std::io::BufRead as _;

use clap::Args;
use tidegauge_client::proto::ingest::v1::{Event, PublishRequest, PublishResponse};
use tidegauge_client::{Client, Mode};
use tidegauge_core::clock::{Clock as _, SystemClock};
use tidegauge_core::limits;
use tidegauge_core::time::parse_rfc3339;
use tidegauge_proto::convert::time::timestamp;

use crate::connect::ConnectArgs;
use crate::failure::{Doing as _, Failure, Outcome};
use crate::load::{json, scan};
use crate::units::counted;

/// Flags of `emit`.
#[derive(Clone, Debug, Args)]
pub(crate) struct EmitArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Metric; without it events are read from standard input, one JSON event a line
    #[arg(long, value_name = "NAME", requires = "value")]
    metric: Option<String>,
    /// Value
    #[arg(long, allow_negative_numbers = true, value_name = "NUMBER", requires = "metric")]
    value: Option<f64>,
    /// Dimension; may be given several times
    #[arg(long, value_name = "K=V")]
    dimension: Vec<String>,
    /// Event time, ISO 8601 [default: now]
    #[arg(long, value_name = "TIME")]
    time: Option<String>,
    /// Event type
    #[arg(long, value_name = "TYPE", default_value = "measurement")]
    event_type: String,
    /// Name of the emitter
    #[arg(long, value_name = "NAME", default_value = "tidegauge-emit")]
    source: String,
    /// Send as history, which moves no watermark
    #[arg(long)]
    backfill: bool,
}

/// Publishes and says what became of it.
///
/// # Errors
/// When an event was refused.
pub(crate) async fn run(args: EmitArgs) -> Outcome {
    let mode = if args.backfill { Mode::Backfill } else { Mode::Live };
    match (&args.metric, args.value) {
        (Some(metric), Some(value)) => {
            let event = one(&args, metric, value)?;
            let client = args.connect.connect().await?;
            let answer = publish(&client, vec![event], mode).await?;
            let refused = refusals(&answer, |_| "the event".to_owned());
            if refused > 0 {
                return Err(Failure::new("the event was refused"));
            }
            eprintln!("1 event durable");
            Ok(())
        }
        _ => lines(&args, mode).await,
    }
}

fn one(args: &EmitArgs, metric: &str, value: f64) -> Outcome<Event> {
    let time_ns = match &args.time {
        None => SystemClock::default().wall_ns(),
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

/// Reads standard input to its end; batches go out as they fill, and at the end.
async fn lines(args: &EmitArgs, mode: Mode) -> Outcome {
    let client = args.connect.connect().await?;
    let mut times = scan::TimeCache::default();
    let (mut batch, mut places) = (Vec::new(), Vec::new());
    let (mut accepted, mut refused) = (0, 0);
    let mut tenant: Option<String> = None;
    for (number, line) in (1_u64..).zip(std::io::stdin().lock().lines()) {
        let line = line.doing(format_args!("standard input, line {number}"))?;
        if line.trim().is_empty() {
            continue;
        }
        match json::parse(&line, &mut times) {
            Err(reason) => {
                eprintln!("line {number}: {reason}");
                refused += 1;
            }
            Ok(event) => {
                // A request is for one tenant: the file's tenant chooses, unless a flag did.
                if !batch.is_empty() && tenant.as_deref() != Some(&*event.tenant) {
                    send(&client, tenant.as_deref(), &mut batch, &mut places, mode, (&mut accepted, &mut refused))
                        .await?;
                }
                tenant = Some(event.tenant.to_string());
                places.push(number);
                batch.push(Event {
                    tenant_id: event.tenant.to_string(),
                    event_type: event.event_type.to_string(),
                    timestamp: Some(timestamp(event.time_ns)),
                    metric_name: event.metric.to_string(),
                    metric_value: event.value,
                    dimensions: event.dimensions.pairs().into_iter().collect(),
                    source: event.source.to_string(),
                    version: event.version.to_string(),
                });
            }
        }
        if batch.len() == limits::EVENTS_PER_REQUEST_MAX {
            send(&client, tenant.as_deref(), &mut batch, &mut places, mode, (&mut accepted, &mut refused)).await?;
        }
    }
    send(&client, tenant.as_deref(), &mut batch, &mut places, mode, (&mut accepted, &mut refused)).await?;
    eprintln!("{} durable", counted(accepted, "event"));
    if refused > 0 {
        return Err(Failure::new(format!("{} refused", counted(refused, "event"))));
    }
    Ok(())
}

async fn send(
    client: &Client,
    tenant: Option<&str>,
    batch: &mut Vec<Event>,
    places: &mut Vec<u64>,
    mode: Mode,
    (accepted, refused): (&mut u64, &mut u64),
) -> Outcome {
    if batch.is_empty() {
        return Ok(());
    }
    let events = std::mem::take(batch);
    let answer = match tenant {
        Some(tenant) if client.options().tenant.is_none() => publish(&client.for_tenant(tenant)?, events, mode).await?,
        _ => publish(client, events, mode).await?,
    };
    *accepted += u64::from(answer.accepted);
    *refused +=
        refusals(&answer, |index| places.get(index as usize).map_or_else(String::new, |line| format!("line {line}")));
    places.clear();
    Ok(())
}

/// Sends with an identity of its own, so that a retry below could not count twice.
async fn publish(client: &Client, events: Vec<Event>, mode: Mode) -> Outcome<PublishResponse> {
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
    Ok(client.publish(request).await?)
}

fn refusals(answer: &PublishResponse, place: impl Fn(u32) -> String) -> u64 {
    for event in &answer.rejected {
        let message = crate::text_table::printable(&event.message);
        eprintln!("{}: {}: {message} ({})", place(event.index), event.field, event.reason);
    }
    answer.rejected.len() as u64
}
