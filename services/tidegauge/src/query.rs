//! `tidegauge query`: SQL over live values and history, as a table or for programs.

mod cells;
mod output;

use std::io::Read as _;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tidegauge_client::proto::freshness::v1::Freshness;
use tidegauge_client::{Client, ClientError};
use tidegauge_core::clock::{Clock as _, SystemClock};
use tidegauge_core::time::rfc3339;
use tidegauge_proto::convert::time::timestamp_ns;
use tonic::Code;

use crate::connect::ConnectArgs;
use crate::failure::{Doing as _, Failure, Outcome};
use crate::tell::tell;
use crate::units::{counted, readable};

/// Times that a query is run again after the data changed under it, before anything was written.
const TRIES: usize = 5;
/// Pause between two tries when the server names none.
const PAUSE: Duration = Duration::from_millis(200);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What every question begins with.
const TABLE: &str = "\
The table is dashboard_metrics, one row a tenant, metric and minute: tenant_id, window_start, window_end, metric_name,
event_count, avg_value, sum_value, min_value, max_value, last_value, last_time, late_count, revision, year, month, day, hour.
Times are UTC.";

const EXAMPLES: &str = "\
Examples:
  tidegauge query \"SELECT * FROM dashboard_metrics ORDER BY window_start DESC LIMIT 20\"
  tidegauge query -o csv \"SELECT metric_name, SUM(event_count) FROM dashboard_metrics GROUP BY metric_name\" > counts.csv
  tidegauge query - < report.sql";

/// Flags of `query`.
#[derive(Clone, Debug, Args)]
#[command(after_help = format!("{EXAMPLES}\n\n{TABLE}"))]
pub(crate) struct QueryArgs {
    /// One SELECT; - reads it from standard input
    #[arg(value_name = "SQL")]
    sql: String,
    /// Form of the result; json gives one object a line, arrow an IPC stream
    #[arg(short, long, value_enum, default_value = "table", value_name = "FORM")]
    output: Form,
    /// Answer with what is there when a part of the data is unreachable
    #[arg(long)]
    allow_partial: bool,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
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
        match answer(&client, &sql, &args).await? {
            Ended::Whole(rows, freshness) => {
                let took = Duration::from_nanos(clock.monotonic_ns() - start_ns);
                let freshness = freshness_text(freshness, clock.wall_ns());
                tell(format_args!("{} in {}{freshness}", counted(rows, "row"), readable(took)));
                return Ok(());
            }
            Ended::Moved(error) if tries == 0 => return Err(sql_failure(error, &sql)),
            Ended::Moved(error) => {
                let mut pause = tokio::time::interval(error.retry_after().unwrap_or(PAUSE).min(PAUSE_MAX));
                pause.tick().await;
                pause.tick().await;
            }
        }
    }
}

/// How a try ended.
enum Ended {
    /// So many rows were written.
    Whole(u64, Option<Freshness>),
    /// The data changed under the query, and nothing was written.
    Moved(ClientError),
}

async fn answer(client: &Client, sql: &str, args: &QueryArgs) -> Outcome<Ended> {
    let answer = if args.allow_partial { client.query_partial(sql).await } else { client.query(sql).await };
    let mut result = match answer {
        Ok(result) => result,
        Err(error) if aborted(&error) => return Ok(Ended::Moved(error)),
        Err(error) => return Err(sql_failure(error, sql)),
    };
    // Made with the first batch: some forms begin with a header, and a header must not go out twice.
    let mut writer = None;
    loop {
        match result.next_batch().await {
            Ok(Some(batch)) => match &mut writer {
                Some(writer) => output::Writer::write(writer, &batch)?,
                none => none.insert(output::Writer::new(args.output, &result.schema())?).write(&batch)?,
            },
            Ok(None) => break,
            Err(error) if aborted(&error) && !writer.as_ref().is_some_and(output::Writer::has_written) => {
                return Ok(Ended::Moved(error));
            }
            Err(error) => return Err(sql_failure(error, sql)),
        }
    }
    let writer = match writer {
        Some(writer) => writer,
        None => output::Writer::new(args.output, &result.schema())?,
    };
    Ok(Ended::Whole(writer.finish()?, result.freshness()))
}

fn aborted(error: &ClientError) -> bool {
    error.code() == Some(Code::Aborted)
}

fn sql_failure(error: ClientError, sql: &str) -> Failure {
    match sql_hint(&error, sql) {
        Some(hint) => Failure::from(error).hint(hint),
        None => error.into(),
    }
}

/// Advice about a text that was refused, where the message does not give it.
fn sql_hint(error: &ClientError, sql: &str) -> Option<String> {
    let said = error.server().filter(|said| said.code == Code::InvalidArgument && said.reason != "SQL_FAILED")?;
    if said.message.starts_with("no field named") && sql.contains('"') {
        return Some("texts stand in single quotes: 'cpu'; double quotes are for names of columns".to_owned());
    }
    let asks_about_it = said.reason == "SQL_NOT_READ_ONLY" || !sql.to_ascii_lowercase().contains("dashboard_metrics");
    asks_about_it.then(|| TABLE.replacen("The", "the", 1).replace('\n', " "))
}

/// How fresh an answer is, in words; begins with a separator.
pub(crate) fn freshness_text(freshness: Option<Freshness>, now_ns: i64) -> String {
    let Some(freshness) = freshness else { return String::new() };
    let mut text = match freshness.complete_through.as_ref().and_then(timestamp_ns) {
        Some(through) => {
            let age = Duration::from_nanos(u64::try_from(now_ns - through).unwrap_or(0));
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
