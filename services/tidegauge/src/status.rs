//! `tidegauge status`: how far the platform is, for people and programs.

use clap::Args;
use serde_json::{Value, json};
use tidegauge_client::proto::aggregation::v1::{GetStatusResponse, KeyStatus, ShardState, ShardStatus};
use tidegauge_core::clock::{Clock as _, SystemClock};
use tidegauge_core::time::rfc3339;
use tidegauge_proto::convert::time::timestamp_ns;

use crate::connect::ConnectArgs;
use crate::failure::Outcome;
use crate::output::{TableForm, harmless};
use crate::stdout;
use crate::text_table::{Align, TextTable, printable};
use crate::units::{Size, grouped, readable, short};

const EXAMPLES: &str = "\
Examples:
  tidegauge status
  tidegauge status -o json

Totals of a shard over all tenants are shown to admins only; other users see a dash.

PENDING events are counted and not yet in the rows that SQL shows: loaded history and corrections of published windows,
until the next cut (setting publish.interval).";

/// Flags of `status`.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct StatusArgs {
    /// Form of the answer
    #[arg(short, long, value_enum, default_value = "table", value_name = "FORM")]
    output: TableForm,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// Shows the status.
///
/// # Errors
/// What the server said.
pub(crate) async fn run(args: StatusArgs) -> Outcome {
    let client = args.connect.connect().await?;
    let status = client.status().await?;
    match args.output {
        TableForm::Json => stdout::write(format_args!("{}\n", harmless(format!("{:#}", document(&status))))),
        TableForm::Table => stdout::write(tables(&status, SystemClock::default().wall_ns())),
    }
}

type Time = Option<prost_types::Timestamp>;

fn ns(time: &Time) -> Option<i64> {
    time.as_ref().and_then(timestamp_ns)
}

/// A figure over all tenants of a shard; `None` where the server does not tell it: to credentials that may not operate, and
/// before a worker has the shard.
fn total<T>(shard: &ShardStatus, figure: T) -> Option<T> {
    (shard.generation > 0).then_some(figure)
}

fn document(status: &GetStatusResponse) -> Value {
    let time = |time: &Time| ns(time).map(rfc3339);
    let shards = status.shards.iter().map(|shard| {
        json!({
            "shard": shard.shard,
            "generation": total(shard, shard.generation),
            "prepared_epoch": total(shard, shard.prepared_epoch),
            "completed_epoch": total(shard, shard.completed_epoch),
            "ordinal": total(shard, shard.ordinal),
            "at_tip": shard.at_tip,
            "lag_ms": shard.lag_ms,
            "state_rows": total(shard, shard.state_rows),
            "log_bytes": total(shard, shard.log_bytes),
            "log_unneeded_bytes": total(shard, shard.log_unneeded_bytes),
            "log_early_deleted_bytes": total(shard, shard.log_early_deleted_bytes),
            "log_damaged_segments": shard.log_damaged_segments,
            "log_damage": shard.log_damage,
            "state": state_word(shard.state()),
            "stopped_because": shard.stopped_because,
        })
    });
    let keys = status.keys.iter().map(|key| {
        let counters = key.counters.unwrap_or_default();
        json!({
            "tenant_id": key.tenant_id,
            "bucket": key.bucket,
            "shard": key.shard,
            "watermark": time(&key.watermark),
            "boundary": time(&key.boundary),
            "counters": {
                "on_log": counters.on_log,
                "duplicates": counters.duplicates,
                "on_time": counters.on_time,
                "late": counters.late,
                "backfilled": counters.backfilled,
                "dead": counters.dead,
            },
            "pending_events": key.pending_events,
            "state_rows": key.state_rows,
            "parked_objects": key.parked_objects,
            "log_unneeded_bytes": key.log_unneeded_bytes,
            "stopped_because": key.stopped_because,
            "index_unchecked": key.index_unchecked,
        })
    });
    json!({
        "quiescent": status.quiescent,
        "shards": shards.collect::<Vec<_>>(),
        "keys": keys.collect::<Vec<_>>(),
    })
}

fn tables(status: &GetStatusResponse, now_ns: i64) -> String {
    use Align::{Left, Right};
    let ago = |time: &Time| match ns(time) {
        None => "-".to_owned(),
        Some(time) if time > now_ns => rfc3339(time),
        Some(time) => format!("{} ago", readable(std::time::Duration::from_nanos((now_ns - time) as u64))),
    };
    let mut shards = TextTable::new(&[
        ("SHARD", Right),
        ("STATE", Left),
        ("RECORDS", Right),
        ("LAG", Right),
        ("AT TIP", Left),
        ("EPOCH", Right),
        ("ROWS IN MEMORY", Right),
        ("LOG", Right),
        ("NOT NEEDED", Right),
    ]);
    for shard in &status.shards {
        let epoch = match shard.prepared_epoch == shard.completed_epoch {
            true => shard.completed_epoch.to_string(),
            false => format!("{} (applying)", shard.prepared_epoch),
        };
        let told = |figure: String| total(shard, figure).unwrap_or_else(|| "-".to_owned());
        shards.row([
            shard.shard.to_string(),
            state_word(shard.state()).to_owned(),
            told(grouped(shard.ordinal)),
            readable(std::time::Duration::from_millis(shard.lag_ms)),
            if shard.at_tip { "yes" } else { "no" }.to_owned(),
            told(epoch),
            told(grouped(shard.state_rows)),
            told(bytes(shard.log_bytes)),
            told(bytes(shard.log_unneeded_bytes)),
        ]);
    }
    let mut keys = TextTable::new(&[
        ("TENANT", Left),
        ("SHARD", Right),
        ("EVENTS", Right),
        ("LATE", Right),
        ("BACKFILLED", Right),
        ("DUPLICATE", Right),
        ("DEAD", Right),
        ("PENDING", Right),
        ("WATERMARK", Right),
        ("IN THE LAKE UP TO", Right),
        ("NOTE", Left),
    ]);
    for key in &status.keys {
        let counters = key.counters.unwrap_or_default();
        let tenant = match key.bucket {
            0 => key.tenant_id.clone(),
            bucket => format!("{}#{bucket}", key.tenant_id),
        };
        keys.row([
            tenant,
            key.shard.to_string(),
            grouped(counters.on_time + counters.late + counters.backfilled),
            grouped(counters.late),
            grouped(counters.backfilled),
            grouped(counters.duplicates),
            grouped(counters.dead),
            grouped(key.pending_events),
            ago(&key.watermark),
            ago(&key.boundary),
            note(key),
        ]);
    }
    let state = match status.quiescent {
        true => "everything received is processed and published as far as the watermarks allow",
        false => "processing",
    };
    let troubles = status
        .shards
        .iter()
        .flat_map(|shard| [trouble(shard), damage(shard), early(shard)])
        .flatten()
        .collect::<String>();
    let has_dead = status.keys.iter().any(|key| key.counters.is_some_and(|counters| counters.dead > 0));
    let dead = if has_dead { DEAD_LETTERS } else { "" };
    format!("{shards}\n{keys}\n{troubles}{dead}{state}\n")
}

/// What somebody should know of dead letters; the notes of the keys say in which folders.
const DEAD_LETTERS: &str = "\
dead letters stand in the folders noted, below the server's data directory: Parquet, each with its reason and bytes
";

/// What somebody should know of a key.
fn note(key: &KeyStatus) -> String {
    let trouble = match (key.stopped_because.as_str(), key.parked_objects.len()) {
        ("", 0) => None,
        ("", parked @ 1..=8) => Some(format!("{parked} objects cannot be written")),
        ("", _) => Some("many objects cannot be written".to_owned()),
        (reason, _) => Some(format!("STOPPED: {reason}")),
    };
    let has_dead = key.counters.is_some_and(|counters| counters.dead > 0);
    let dead = has_dead.then(|| format!("dead letters: lake/dead_letters/tenant_id={}", key.tenant_id));
    [trouble, dead].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// A shard's state, as in the JSON form.
fn state_word(state: ShardState) -> &'static str {
    match state {
        ShardState::Unspecified => "unknown",
        ShardState::Starting => "starting",
        ShardState::Running => "running",
        ShardState::Retrying => "retrying",
        ShardState::Stopped => "stopped",
    }
}

/// What somebody should know of a shard that is not running: its tenants stand still, and their keys are missing above.
fn trouble(shard: &ShardStatus) -> Option<String> {
    let what = match shard.state() {
        ShardState::Stopped => "STOPPED until somebody mends it and restarts the server",
        ShardState::Retrying => "failed, and begins again by itself",
        ShardState::Unspecified | ShardState::Starting | ShardState::Running => return None,
    };
    Some(format!("shard {} has {what}: {}\n", shard.shard, told(&shard.stopped_because)))
}

/// What somebody should know of a shard whose log was found damaged: it goes on, but perhaps not after a restart.
fn damage(shard: &ShardStatus) -> Option<String> {
    let segments = match shard.log_damaged_segments {
        0 => return None,
        1 => "a DAMAGED segment".to_owned(),
        more => format!("{more} DAMAGED segments"),
    };
    Some(format!(
        "the log of shard {} has {segments}; it goes on, but a restart may be refused: {}\n",
        shard.shard,
        told(&shard.log_damage)
    ))
}

/// What somebody should know of a shard whose log has had to make room.
fn early(shard: &ShardStatus) -> Option<String> {
    if shard.log_early_deleted_bytes == 0 {
        return None;
    }
    let deleted = bytes(shard.log_early_deleted_bytes);
    Some(format!(
        "room is short: {deleted} of the log of shard {}, needed by nothing, were deleted before their time\n",
        shard.shard
    ))
}

/// A reason, or who is told.
fn told(why: &str) -> String {
    match why {
        "" => "an admin's token is told why, and so is the server's log".to_owned(),
        why => printable(why),
    }
}

/// Bytes for people.
fn bytes(bytes: u64) -> String {
    if bytes.is_multiple_of(1 << 20) { Size(bytes).to_string() } else { format!("{}B", short(bytes as f64)) }
}

#[cfg(test)]
mod tests {
    use tidegauge_client::proto::aggregation::v1::KeyCounters;

    use super::*;

    /// Programs find every figure by name; people see what needs their attention.
    #[test]
    fn status_is_shown() {
        let counters = KeyCounters { on_log: 12, duplicates: 1, on_time: 6, late: 2, backfilled: 3, dead: 0 };
        let key = KeyStatus {
            tenant_id: "acme".to_owned(),
            boundary: Some(prost_types::Timestamp { seconds: 60, nanos: 0 }),
            counters: Some(counters),
            stopped_because: "restored".to_owned(),
            ..KeyStatus::default()
        };
        let shard = ShardStatus {
            shard: 1,
            at_tip: true,
            generation: 1,
            log_bytes: 64 << 20,
            log_unneeded_bytes: 32 << 20,
            log_early_deleted_bytes: 128 << 20,
            ..ShardStatus::default()
        };
        let stopped = ShardStatus {
            shard: 2,
            state: ShardState::Stopped as i32,
            stopped_because: "its manifest is damaged".to_owned(),
            log_damaged_segments: 2,
            ..ShardStatus::default()
        };
        let status = GetStatusResponse {
            shards: vec![shard, stopped],
            keys: vec![key],
            quiescent: true,
            ..GetStatusResponse::default()
        };
        let document = document(&status);
        assert_eq!(document["keys"][0]["counters"]["backfilled"], 3);
        assert_eq!(document["keys"][0]["boundary"], "1970-01-01T00:01:00Z");
        assert_eq!(document["quiescent"], true);
        assert_eq!(document["shards"][0]["log_unneeded_bytes"], 32 << 20);
        assert_eq!(document["shards"][0]["log_early_deleted_bytes"], 128 << 20);
        assert_eq!(document["shards"][0]["log_bytes"], 64 << 20);
        assert_eq!(document["shards"][1]["log_bytes"], Value::Null, "not told");
        assert_eq!(document["shards"][1]["state"], "stopped");
        assert_eq!(document["shards"][1]["stopped_because"], "its manifest is damaged");
        let text = tables(&status, 120_000_000_000);
        assert!(text.contains("STOPPED: restored") && text.contains("60 s ago") && text.contains("64MB"), "{text}");
        assert!(text.contains(" 32MB") && text.contains("128MB of the log of shard 1, needed by nothing"), "{text}");
        assert!(
            text.contains("shard 2 ") && text.contains("STOPPED until") && text.contains("manifest is damaged"),
            "{text}"
        );
        assert!(!text.contains("dead letters"), "{text}");
        let mut status = status;
        if let Some(counters) = &mut status.keys[0].counters {
            counters.dead = 3;
        }
        let told = tables(&status, 120_000_000_000);
        assert!(told.contains("STOPPED: restored; dead letters: lake/dead_letters/tenant_id=acme\n"), "{told}");
        assert!(
            told.contains("\ndead letters stand in the folders noted, below the server's data directory: Parquet"),
            "{told}"
        );
        assert_eq!(document["shards"][1]["log_damaged_segments"], 2);
        assert!(text.contains("log of shard 2 has 2 DAMAGED segments") && text.contains("an admin's token"), "{text}");
    }
}
