//! `tidegauge query`: SQL over live values and history, as a table or for programs.

mod output;

use std::io::Read as _;

use clap::{Args, ValueEnum};
use tidegauge_client::ClientError;
use tidegauge_client::proto::freshness::v1::Freshness;
use tidegauge_core::clock::{Clock as _, SystemClock};
use tidegauge_core::time::rfc3339;
use tidegauge_proto::convert::time::timestamp_ns;

use crate::connect::ConnectArgs;
use crate::failure::{Doing as _, Failure, Outcome};
use crate::units::{counted, readable};

/// Times that a query is run again after the data changed under it, before anything was written.
const TRIES: usize = 5;

/// Flags of `query`.
#[derive(Clone, Debug, Args)]
pub(crate) struct QueryArgs {
    /// One SELECT; - reads it from standard input
    #[arg(value_name = "SQL")]
    sql: String,
    #[command(flatten)]
    connect: ConnectArgs,
    /// Form of the result; json gives one object a line, arrow an IPC stream
    #[arg(short, long, value_enum, default_value = "table", value_name = "FORM")]
    output: Form,
    /// Answer with what is there when a part of the data is unreachable
    #[arg(long)]
    allow_partial: bool,
}

/// Form of a result.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Form {
    /// Aligned columns
    Table,
    /// With a header
    Csv,
    /// One JSON object a line
    Json,
    /// Arrow IPC stream
    Arrow,
}

/// Runs the query and writes its result; how fresh it is goes to standard error.
///
/// # Errors
/// What the server said.
pub(crate) async fn run(args: QueryArgs) -> Outcome {
    let sql = match args.sql.as_str() {
        "-" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).doing("standard input")?;
            text
        }
        sql => sql.to_owned(),
    };
    let clock = SystemClock::default();
    let client = args.connect.connect().await?;
    let start_ns = clock.monotonic_ns();
    let mut tries = TRIES;
    loop {
        tries -= 1;
        let answer = if args.allow_partial { client.query_partial(&sql).await } else { client.query(&sql).await };
        let mut result = match answer {
            Ok(result) => result,
            Err(error) if tries > 0 && aborted(&error) => continue,
            Err(error) => return Err(sql_failure(error)),
        };
        let mut writer = output::Writer::new(args.output, &result.schema())?;
        let outcome = loop {
            match result.next_batch().await {
                Ok(Some(batch)) => writer.write(&batch)?,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        match outcome {
            Err(error) if tries > 0 && aborted(&error) && !writer.has_written() => continue,
            Err(error) => return Err(sql_failure(error)),
            Ok(()) => {}
        }
        let rows = writer.finish()?;
        let took = std::time::Duration::from_nanos(clock.monotonic_ns() - start_ns);
        eprintln!(
            "{} in {}{}",
            counted(rows, "row"),
            readable(took),
            freshness_text(result.freshness(), clock.wall_ns())
        );
        return Ok(());
    }
}

fn aborted(error: &ClientError) -> bool {
    error.code() == Some(tonic::Code::Aborted)
}

fn sql_failure(error: ClientError) -> Failure {
    match error.code() {
        Some(tonic::Code::InvalidArgument) if error.hint().is_none() => Failure::from(error).hint(
            "the table is dashboard_metrics, with tenant_id, window_start, window_end, metric_name, event_count, avg_value, \
             sum_value, min_value, max_value, last_value, year, month, day, hour",
        ),
        _ => error.into(),
    }
}

/// How fresh an answer is, in words; begins with a separator.
pub(crate) fn freshness_text(freshness: Option<Freshness>, now_ns: i64) -> String {
    let Some(freshness) = freshness else { return String::new() };
    let mut text = match freshness.complete_through.as_ref().and_then(timestamp_ns) {
        Some(through) => {
            let age = std::time::Duration::from_nanos(u64::try_from(now_ns - through).unwrap_or(0));
            format!("; in the lake up to {} ({} ago), live after it", rfc3339(through), readable(age))
        }
        None => "; nothing published yet, all live".to_owned(),
    };
    let pending: u64 = freshness.keys.iter().map(|key| key.pending_events).sum();
    if pending > 0 {
        text.push_str(&format!("; {} not in the rows yet", counted(pending, "late or loaded event")));
    }
    if !freshness.missing_keys.is_empty() {
        text.push_str(&format!("; PARTIAL, missing: {}", freshness.missing_keys.join(", ")));
    }
    text
}
