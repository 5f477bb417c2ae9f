//! `tidegauge verify`: conservation (I3), proved against what log, checkpoint and lake of a stopped server still hold.

use std::path::{Path, PathBuf};

use clap::Args;
use tidegauge_aggregation::verify::{self, KeyFacts, VerifyReport};
use tidegauge_core::Key;

use crate::failure::{Failure, Outcome};
use crate::output::TableForm;
use crate::serve::compose;
use crate::settings::{self, Settings};
use crate::text_table::{Align, TextTable};
use crate::units::grouped;

const EXAMPLES: &str = "\
Examples:
  tidegauge verify
  tidegauge verify --data-dir /var/lib/tidegauge -o json

Exit code: 0 if everything adds up, 1 if something does not or could not be read.";

/// Arguments of `verify`.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct VerifyArgs {
    /// Data directory of a stopped server [default: setting server.data_dir]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value = "table", value_name = "FORM")]
    output: TableForm,
}

/// What to do about findings.
const KEEP_IT: &str = "keep a copy of the directory as it is, before a server is started on it again";

/// What every data directory has, from its first start on.
const ALWAYS_THERE: [&str; 3] = ["log/format", "state", "lake"];

/// Opening a store makes what is missing: without this, any folder would be found in order, and be filled.
fn must_be_data_dir(dir: &Path) -> Outcome {
    match ALWAYS_THERE.into_iter().find(|part| !dir.join(part).exists()) {
        None => Ok(()),
        Some(part) => Err(Failure::new(format!("{} is no data directory: it has no {part}", dir.display()))
            .hint("name the directory of a stopped server with --data-dir")),
    }
}

/// Verifies a data directory; nothing in it is changed but the lease generations.
///
/// # Errors
/// When it is in use or cannot be read, and when something does not add up.
pub(crate) async fn run(args: VerifyArgs) -> Outcome {
    let mut settings = Settings::read(&settings::load(None)?)?;
    if let Some(data_dir) = args.data_dir {
        settings.server.data_dir = data_dir.display().to_string();
    }
    must_be_data_dir(Path::new(&settings.server.data_dir))?;
    let stopped = compose::open_stopped(&settings).await?;
    let report = verify::verify(&stopped.options, &stopped.backends, &stopped.authority)
        .await
        .map_err(|error| Failure::new(error.to_string()))?;
    match args.output {
        TableForm::Json => crate::stdout::write(format_args!("{:#}\n", json(&report)))?,
        TableForm::Table => crate::stdout::write(table(&report))?,
    }
    match report.findings.len() {
        0 => Ok(()),
        1 => Err(Failure::new("one finding: the data directory does not add up").hint(KEEP_IT)),
        many => Err(Failure::new(format!("{many} findings: the data directory does not add up")).hint(KEEP_IT)),
    }
}

fn keys(report: &VerifyReport) -> impl Iterator<Item = (u32, &Key, &KeyFacts)> {
    report.shards.iter().flat_map(|(shard, facts)| facts.keys.iter().map(|(key, found)| (shard.0, key, found)))
}

fn table(report: &VerifyReport) -> String {
    let right = |name| (name, Align::Right);
    let mut table = TextTable::new(&[
        ("KEY", Align::Left),
        right("SHARD"),
        right("ON THE LOG"),
        right("DUPLICATE"),
        right("ON TIME"),
        right("LATE"),
        right("BACKFILLED"),
        right("DEAD"),
        right("IN THE LAKE"),
        right("IN THE STATE"),
        right("ON THE WAY"),
    ]);
    for (shard, key, found) in keys(report) {
        let counters = &found.counters;
        let numbers = [
            u64::from(shard),
            counters.on_log,
            counters.duplicates,
            counters.on_time,
            counters.late,
            counters.backfilled,
            counters.dead,
            found.lake_events,
            found.state_events,
            found.outbox_events,
        ];
        table.row(std::iter::once(key.to_string()).chain(numbers.map(grouped)));
    }
    let mut text = table.to_string();
    for finding in &report.findings {
        text.push_str(&format!("finding: {finding}\n"));
    }
    for (shard, facts) in report.shards.iter().filter(|(_, facts)| facts.removed_records() > 0) {
        text.push_str(&format!(
            "shard {shard}: retention removed the oldest {} records from the log; what was in them is proved by state and lake \
             alone\n",
            grouped(facts.removed_records())
        ));
    }
    if report.is_clean() {
        text.push_str("everything adds up\n");
    }
    text
}

fn json(report: &VerifyReport) -> serde_json::Value {
    let keys = keys(report).map(|(shard, key, found)| {
        serde_json::json!({
            "key": key.to_string(),
            "shard": shard,
            "on_log": found.counters.on_log,
            "duplicates": found.counters.duplicates,
            "on_time": found.counters.on_time,
            "late": found.counters.late,
            "backfilled": found.counters.backfilled,
            "dead": found.counters.dead,
            "lake_events": found.lake_events,
            "state_events": found.state_events,
            "outbox_events": found.outbox_events,
        })
    });
    let findings = report.findings.iter().map(ToString::to_string);
    let shards = report.shards.iter().map(|(shard, facts)| {
        serde_json::json!({
            "shard": shard.0,
            "records": facts.ordinal,
            "records_removed_by_retention": facts.removed_records(),
        })
    });
    serde_json::json!({
        "keys": keys.collect::<Vec<_>>(),
        "shards": shards.collect::<Vec<_>>(),
        "findings": findings.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use tidegauge_aggregation::verify::Facts;
    use tidegauge_core::ShardId;

    use super::*;

    /// What retention has removed is said, and is no finding; a whole log needs no word.
    #[test]
    fn a_shortened_log_is_no_finding() {
        let facts = |log_records| Facts { ordinal: 3_000, log_records, ..Facts::default() };
        let shards = vec![(ShardId(0), facts(3_000)), (ShardId(1), facts(1_000))];
        let report = VerifyReport { shards, findings: Vec::new() };
        let text = table(&report);
        assert!(
            text.contains("shard 1: retention removed the oldest 2,000 records") && !text.contains("shard 0"),
            "{text}"
        );
        assert!(text.ends_with("everything adds up\n"), "{text}");
        assert_eq!(json(&report)["shards"][1]["records_removed_by_retention"], 2_000);
    }

    /// A folder that is no data directory, or has lost a part, is named and not filled.
    #[test]
    fn other_folders_are_refused() {
        let folder = tempfile::TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join("log")).unwrap();
        let refused = must_be_data_dir(folder.path()).unwrap_err().to_string();
        assert!(refused.contains(&folder.path().display().to_string()) && refused.contains("log/format"), "{refused}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        std::fs::write(folder.path().join("log/format"), "").unwrap();
        for part in ["state", "lake"] {
            assert!(must_be_data_dir(folder.path()).unwrap_err().to_string().contains(part));
            std::fs::create_dir(folder.path().join(part)).unwrap();
        }
        must_be_data_dir(folder.path()).unwrap();
    }
}
