//! The disk fills up: ingest stops taking first, what was taken is still aggregated and published, a disk without a byte left loses
//! nothing, and room makes everything go on, without a restart.
//!
//! The disk is a small `tmpfs` in a mount namespace of the server's own, so that it can really be full. A machine that gives
//! none fails the test by name; whoever knows that it has none says so with [`WITHOUT_MOUNTS`], and is told what was left out.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use tidegauge_client::{Client, ClientError};
use tidegauge_tests::events::{live, series};
use tidegauge_tests::{Server, ServerOptions, WITHOUT_MOUNTS, client, is_without_mounts, wait};
use tonic::Code;

use crate::{counted, now_ns, published};

/// Mounts the disk over the folder that comes first, then becomes the command that follows.
const ON_A_DISK_OF_ITS_OWN: [&str; 3] = ["sh", "-c", "mount -t tmpfs -o size=64m tidegauge \"$0\" && exec \"$@\""];

/// Ways into a mount namespace: an ordinary user's, and root's where user namespaces are not allowed.
const WAYS: [&[&str]; 2] = [&["unshare", "-rm"], &["unshare", "-m"]];

/// The command that starts the server on a disk of its own; `None` if the machine is known to have none.
///
/// # Panics
/// When the machine has none and nobody said so.
fn own_disk(folder: &Path) -> Option<Vec<&'static str>> {
    if is_without_mounts() {
        eprintln!("LEFT OUT, because {WITHOUT_MOUNTS} is set: what happens when the disk fills up");
        return None;
    }
    let mut refusals = String::new();
    for way in WAYS {
        let command = [way, &ON_A_DISK_OF_ITS_OWN].concat();
        match Command::new(command[0]).args(&command[1..]).arg(folder).arg("true").output() {
            Ok(output) if output.status.success() => return Some(command),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                refusals += &format!("\n  {}: {}, {}", way.join(" "), output.status, said.trim());
            }
            Err(error) => refusals += &format!("\n  {}: {error}", way.join(" ")),
        }
    }
    panic!(
        "a full disk needs a mount namespace with a tmpfs in it, and this machine gives none:{refusals}\n\
         allow unprivileged user namespaces (for a container: its seccomp and AppArmor profile), or run as root with \
         CAP_SYS_ADMIN; where neither can be, set {WITHOUT_MOUNTS}=1 to leave these tests out"
    );
}

struct Setup {
    _folder: TempDir,
    server: Server,
    client: Client,
    /// The server's disk, seen from outside.
    disk: PathBuf,
}

async fn setup() -> Option<Setup> {
    let folder = TempDir::new().expect("a temporary folder");
    let command = own_disk(folder.path())?;
    let options = ServerOptions::quick()
        .wrapped(&command, folder.path())
        .set("TIDEGAUGE_LOG_SHARDS", "2")
        .set("TIDEGAUGE_LOG_SEGMENT_BYTES", "4 MiB")
        .set("TIDEGAUGE_LOG_RESERVE_BYTES", "24 MiB");
    let server = Server::start(folder.path(), &options);
    let inside = folder.path().strip_prefix("/").expect("a temporary folder has an absolute path");
    let disk = Path::new(&format!("/proc/{}/root", server.pid())).join(inside);
    let token = tidegauge_tests::token(&disk, "admin", "admin", &["tenant-001"]);
    let client = client(&server, &token, Some("tenant-001")).await;
    Some(Setup { _folder: folder, server, client, disk })
}

impl Setup {
    /// Publishes 1,000 events.
    async fn publish(&self, sequence: u64) -> Result<u64, ClientError> {
        let answer = self.client.publish(live(1, sequence, series("m", 1_000, now_ns()))).await?;
        Ok(u64::from(answer.accepted))
    }

    /// Takes so many bytes of the disk, or what is left of it; the file that holds them.
    fn fill(&self, bytes: usize) -> PathBuf {
        let path = self.disk.join("filler");
        let mut file = fs::File::create(&path).expect("a file on the server's disk");
        let block = vec![7; 1 << 16];
        let mut left = bytes;
        while left > 0 {
            match file.write(&block[..left.min(block.len())]) {
                Ok(written) => left -= written,
                Err(_) => break,
            }
        }
        path
    }
}

/// Ingest is refused by name while the reserve is untouched, everything acknowledged still reaches the lake, and room is all
/// it takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filling_disk_stops_ingest_and_nothing_else() {
    let Some(setup) = setup().await else { return };
    let mut acknowledged = 0;
    let mut sequence = 0;
    while sequence < 20 {
        sequence += 1;
        acknowledged += setup.publish(sequence).await.expect("there is room");
    }
    // Not the log fills the disk: that would make room.
    let filler = setup.fill(36 << 20);
    let refused = loop {
        sequence += 1;
        match setup.publish(sequence).await {
            Ok(accepted) => acknowledged += accepted,
            Err(error) => break error,
        }
        assert!(sequence < 10_000, "64 MiB were never full");
    };
    let said = refused.server().unwrap_or_else(|| panic!("{refused}"));
    assert_eq!((said.code, said.reason.as_str()), (Code::ResourceExhausted, "DISK_FULL"), "{said:?}");
    assert!(said.retry_after.is_some(), "a full disk is no reason to give up: {said:?}");
    published(&setup.client).await;
    assert_eq!(counted(&setup.client).await.expect("an answer").sum, acknowledged);

    fs::remove_file(filler).expect("the filler is ours");
    acknowledged += setup.publish(sequence).await.expect("the same request, once there is room");
    published(&setup.client).await;
    assert_eq!(counted(&setup.client).await.expect("an answer").sum, acknowledged);
}

/// One tenant writes several times what the disk holds. What every checkpoint is beyond goes before its time, so that neither
/// it nor another tenant is refused for long, or at all; state and lake have everything, and `verify` says what is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_tenant_does_not_fill_the_disk_for_others() {
    let Some(setup) = setup().await else { return };
    let token = tidegauge_tests::token(&setup.disk, "admin", "admin", &["tenant-002"]);
    let quiet = client(&setup.server, &token, Some("tenant-002")).await;
    // Long dimensions make a large log of few rows.
    let bulky = |sequence: u64| {
        let mut events = series("m", 1_000, now_ns());
        for (number, event) in events.iter_mut().enumerate() {
            let value = format!("{sequence}-{number}-{}", "x".repeat(220));
            event.dimensions = [("request".to_owned(), value)].into();
        }
        live(1, sequence, events)
    };
    let (mut loud_events, mut quiet_events) = (0, 0);
    for sequence in 1..=600 {
        loud_events += wait::until("the loud tenant to be taken", || async {
            match setup.client.publish(bulky(sequence)).await {
                Ok(answer) => Ok(u64::from(answer.accepted)),
                Err(refused) => Err(refused.to_string()),
            }
        })
        .await;
        if sequence % 10 == 0 {
            let answer = quiet.publish(live(2, sequence / 10, series("q", 10, now_ns()))).await;
            quiet_events += u64::from(answer.expect("the quiet tenant is never refused").accepted);
        }
    }
    published(&setup.client).await;
    published(&quiet).await;
    assert_eq!(counted(&setup.client).await.expect("an answer").sum, loud_events);
    assert_eq!(counted(&quiet).await.expect("an answer").sum, quiet_events);
    let shards = setup.client.status().await.expect("a status").shards;
    let deleted: u64 = shards.iter().map(|shard| shard.log_early_deleted_bytes).sum();
    let kept: u64 = shards.iter().map(|shard| shard.log_bytes).sum();
    assert!(
        deleted + kept > 128 << 20 && deleted > 64 << 20,
        "{deleted} bytes deleted, {kept} kept of more than the disk holds"
    );
    let shown = setup.server.cli(&tidegauge_tests::token(&setup.disk, "admin", "admin", &["tenant-001"]), &["status"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("needed by nothing"), "{shown}");

    // At rest, a copy of the directory is what the next start would find.
    let copy = TempDir::new().expect("a temporary folder");
    let copied = Command::new("cp").arg("-r").arg(setup.disk.join(".")).arg(copy.path()).status().expect("cp");
    assert!(copied.success());
    let verified = Command::new(tidegauge_tests::binary())
        .args(["verify", "--data-dir"])
        .arg(copy.path())
        .env("TIDEGAUGE_LOG_SHARDS", "2")
        .output()
        .expect("the binary runs");
    let said = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(verified.status.success(), "{said}{}", String::from_utf8_lossy(&verified.stderr));
    assert!(said.contains("retention removed the oldest") && said.contains("everything adds up"), "{said}");
}

/// Not a byte is left while events wait to be aggregated, checkpointed and published: nothing is lost or doubled, and it goes on by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_without_a_byte_left_loses_nothing() {
    let Some(mut setup) = setup().await else { return };
    let mut acknowledged = 0;
    for sequence in 1..=20 {
        acknowledged += setup.publish(sequence).await.expect("there is room");
    }
    let filler = setup.fill(usize::MAX);
    // The worker has met the full disk.
    wait::until("the full disk to be met", || async {
        let log = setup.server.log();
        // Where it meets it first depends on what it was doing: a checkpoint's delta waits, a manifest makes it begin again.
        let has_met = ["a checkpoint has to wait", "the worker begins again"].iter().any(|said| log.contains(said));
        if has_met && log.contains("no space") { Ok(()) } else { Err(log) }
    })
    .await;
    let refused = setup.publish(21).await.expect_err("no room at all");
    assert_eq!(refused.server().map(|said| said.code), Some(Code::ResourceExhausted), "{refused}");
    assert!(setup.server.runs(), "a full disk is no reason to die");

    fs::remove_file(filler).expect("the filler is ours");
    acknowledged += wait::until("the same request to be taken", || async {
        setup.publish(21).await.map_err(|refused| refused.to_string())
    })
    .await;
    published(&setup.client).await;
    assert_eq!(counted(&setup.client).await.expect("an answer").sum, acknowledged);
    let (status, log) = setup.server.terminate();
    assert!(status.success(), "{status}: {log}");
}
