//! kill -9 of a process that appends: everything it was told to be durable is there.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use tidegauge_core::ShardId;
use tidegauge_core::log::EventLog;
use tidegauge_embedded::files::DiskFiles;
use tidegauge_embedded::log::{DiskReserve, EmbeddedLog, LogOptions};

use super::support::{clock, noise, read_all, record, run};

const CHILD: &str = "TIDEGAUGE_TEST_LOG_CHILD";

fn open(dir: &Path) -> EmbeddedLog {
    let options = LogOptions { segment_bytes: 300_000, reserve: DiskReserve::NONE, ..LogOptions::new(dir) };
    EmbeddedLog::open(options, Arc::new(DiskFiles), clock()).unwrap()
}

/// The process that is killed: eight tasks append and print what they were told to be durable. Does nothing unless it
/// was started by the test below.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    run(async {
        let log = Arc::new(open(Path::new(&dir)));
        let tasks: Vec<_> = (0..8)
            .map(|task| {
                let log = Arc::clone(&log);
                tokio::spawn(async move {
                    for index in 0.. {
                        let content = noise(200 + index * 61 % 9_000, task);
                        let records = vec![record(&format!("tenant-{task}"), content)];
                        let (shard, position) = log.append(records).await.unwrap().remove(0);
                        let text: String = position.0.iter().map(|byte| format!("{byte:02x}")).collect();
                        // One write a line; the harness's own capture would hold it back.
                        std::io::stdout().lock().write_all(format!("acked {shard} {text}\n").as_bytes()).unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

/// A process killed again and again while it appends has lost nothing that it was told to be durable.
#[test]
fn killed_again_and_again() {
    let root = tempfile::tempdir().unwrap();
    let mut acked: BTreeSet<(u32, String)> = BTreeSet::new();
    for round in 0..4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "log::kill::child", "--nocapture"])
            .env(CHILD, root.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut here = Vec::new();
        while here.len() < 150 + round * 70 {
            here.extend(parse(&lines.next().unwrap().unwrap()));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What was in the pipe was acknowledged too; the last line may be cut.
        here.extend(lines.map_while(Result::ok).filter_map(|line| parse(&line)));
        acked.extend(here);

        let log = open(root.path());
        let mut found = BTreeSet::new();
        for shard in (0..log.shards()).map(ShardId) {
            for record in run(read_all(&log, shard, 1 << 20)).unwrap() {
                let text: String = record.position.0.iter().map(|byte| format!("{byte:02x}")).collect();
                found.insert((shard.0, text));
            }
        }
        assert!(acked.is_subset(&found), "lost: {:?}", acked.difference(&found).collect::<Vec<_>>());
    }
}

fn parse(line: &str) -> Option<(u32, String)> {
    let (shard, position) = line.strip_prefix("acked ")?.split_once(' ')?;
    (position.len() == 16).then(|| (shard.parse().unwrap(), position.to_owned()))
}
