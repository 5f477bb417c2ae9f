//! A data directory that lost something is refused at start, with what and where; nothing is skipped silently.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tidegauge_proto::aggregation::v1::ShardState;
use tidegauge_tests::events::{live, series};
use tidegauge_tests::{Server, ServerOptions, client};

use crate::{now_ns, published};

fn segments(data_dir: &Path) -> Vec<PathBuf> {
    let shards = fs::read_dir(data_dir.join("log")).expect("the log's directory").flatten();
    let files =
        shards.filter(|e| e.path().is_dir()).flat_map(|shard| fs::read_dir(shard.path()).expect("a shard").flatten());
    files.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "seg")).collect()
}

/// A log that was cut back behind what the checkpoint has seen: events that were acknowledged and counted are gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_ends_before_its_checkpoint_is_refused() {
    let folder = TempDir::new().expect("a temporary folder");
    let server = Server::start(folder.path(), &ServerOptions::quick());
    let token = server.token("admin", "admin", &["tenant-001"]);
    let ours = client(&server, &token, Some("tenant-001")).await;
    for sequence in 1..=5 {
        ours.publish(live(1, sequence, series("cpu", 2_000, now_ns()))).await.expect("taken");
    }
    published(&ours).await;
    let (status, log) = server.terminate();
    assert!(status.success(), "{log}");

    // One byte of a record in the middle is another: what was written is not what is read.
    let path = segments(folder.path()).into_iter().max_by_key(|p| content(p).len()).expect("a segment");
    let whole = fs::read(&path).expect("a segment");
    let used = content(&path).len();
    let mut flipped = whole.clone();
    flipped[used / 2] ^= 1;
    fs::write(&path, &flipped).expect("writable");
    let said = Server::try_start(folder.path(), &ServerOptions::quick()).expect_err("a changed byte");
    assert!(said.contains(&path.file_name().expect("a name").to_string_lossy().into_owned()), "{said}");

    // Cut inside a record: a torn tail by its looks, but the checkpoint knows better.
    fs::write(&path, &whole[..used / 2]).expect("writable");
    let said = Server::try_start(folder.path(), &ServerOptions::quick()).expect_err("a log cut short");
    assert!(said.contains("position"), "{said}");

    fs::write(&path, &whole).expect("writable");
    let server = Server::start(folder.path(), &ServerOptions::quick());
    let ours = client(&server, &token, Some("tenant-001")).await;
    assert_eq!(crate::counted(&ours).await.expect("an answer").counted, 10_000);
}

/// One shard whose state is damaged stands still, and says so: to probes, to an operator with the reason, to a reader
/// without it. The others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_shard_says_so_and_the_others_go_on() {
    let tenants: Vec<String> = (0..8).map(|number| format!("tenant-{number:03}")).collect();
    let names: Vec<&str> = tenants.iter().map(String::as_str).collect();
    let folder = TempDir::new().expect("a temporary folder");
    let server = Server::start(folder.path(), &ServerOptions::quick());
    let (admin, reader) = (server.token("admin", "admin", &names), server.token("reader", "reader", &names));
    let mut shards = Vec::new();
    for tenant in &names {
        let ours = client(&server, &admin, Some(tenant)).await;
        ours.publish(live(1, 1, series("cpu", 10, now_ns()))).await.expect("taken");
        published(&ours).await;
        shards.push(ours.status().await.expect("a status").keys[0].shard);
    }
    let (status, log) = server.terminate();
    assert!(status.success(), "{log}");
    let broken = shards[0];
    let whole = shards.iter().position(|shard| *shard != broken).expect("eight tenants lie in several shards");

    let state = folder.path().join(format!("state/shard-{broken:04}"));
    for file in fs::read_dir(&state).expect("the shard's state").flatten() {
        if file.file_name() != "manifest" {
            let mut bytes = fs::read(file.path()).expect("a file of the state");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(file.path(), bytes).expect("writable");
        }
    }
    let server = Server::start(folder.path(), &ServerOptions::quick());
    let ours = client(&server, &admin, Some(names[whole])).await;
    let stopped = tidegauge_tests::wait::until("the shard to be stopped", || async {
        let status = ours.status().await.map_err(|e| e.to_string())?;
        let found = status.shards.iter().find(|shard| shard.state() == ShardState::Stopped).cloned();
        found.ok_or_else(|| format!("{status:?}"))
    })
    .await;
    assert_eq!(stopped.shard, broken);
    assert!(stopped.stopped_because.contains(&state.display().to_string()), "{stopped:?}");
    let told = client(&server, &reader, Some(names[whole])).await.status().await.expect("a status");
    assert_eq!(told.shards[broken as usize].state(), ShardState::Stopped);
    assert_eq!(told.shards[broken as usize].stopped_because, "", "paths are the operator's business");
    let probe = probe(&server.http, "/readyz").await;
    assert!(probe.starts_with("HTTP/1.1 503 ") && probe.contains(&format!("shard {broken} is stopped")), "{probe}");

    ours.publish(live(1, 2, series("cpu", 5, now_ns()))).await.expect("taken");
    tidegauge_tests::wait::until("the other shard's tenant", || async {
        let found = crate::counted(&ours).await.map_err(|e| e.to_string())?;
        if found.counted == 15 { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

/// A sealed segment that was damaged refuses the start; where the start has no time for it, the server serves, finds it, and
/// says so: to probes, to an operator with file and offset, to a reader without them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_sealed_segment_is_told() {
    let folder = TempDir::new().expect("a temporary folder");
    let small = || ServerOptions::quick().set("TIDEGAUGE_LOG_SEGMENT_BYTES", "64KB");
    let server = Server::start(folder.path(), &small());
    let token = server.token("admin", "admin", &["tenant-001"]);
    let reader = server.token("reader", "reader", &["tenant-001"]);
    let ours = client(&server, &token, Some("tenant-001")).await;
    for sequence in 1..=20 {
        ours.publish(live(1, sequence, series("cpu", 2_000, now_ns()))).await.expect("taken");
    }
    published(&ours).await;
    let (status, log) = server.terminate();
    assert!(status.success(), "{log}");

    let largest = segments(folder.path()).into_iter().max_by_key(|path| content(path).len()).expect("a segment");
    let shard = largest.parent().expect("the shard's directory");
    let mut chain: Vec<_> = segments(folder.path()).into_iter().filter(|path| path.starts_with(shard)).collect();
    chain.sort();
    assert!(chain.len() > 2, "{chain:?}");
    let mut bytes = fs::read(&chain[0]).expect("a segment");
    let at = bytes.len() - 100;
    bytes[at] ^= 1;
    fs::write(&chain[0], bytes).expect("writable");
    let path = chain[0].display().to_string();
    let said = Server::try_start(folder.path(), &small()).expect_err("a changed byte in a sealed segment");
    assert!(said.contains(&path) && said.contains("at offset"), "{said}");

    let server = Server::start(folder.path(), &small().set("TIDEGAUGE_LOG_START_CHECK_BYTES", "0"));
    let ours = client(&server, &token, Some("tenant-001")).await;
    let found = tidegauge_tests::wait::until("the damage to be found", || async {
        let status = ours.status().await.map_err(|e| e.to_string())?;
        let found = status.shards.iter().find(|shard| shard.log_damaged_segments == 1).cloned();
        found.ok_or_else(|| format!("{status:?}"))
    })
    .await;
    assert!(found.log_damage.contains(&path) && found.state() == ShardState::Running, "{found:?}");
    let told = client(&server, &reader, Some("tenant-001")).await.status().await.expect("a status");
    let told = &told.shards[found.shard as usize];
    assert_eq!((told.log_damaged_segments, told.log_damage.as_str()), (1, ""), "paths are the operator's business");
    let ready = probe(&server.http, "/readyz").await;
    let named = format!("ready, but the log of shard {} is damaged", found.shard);
    assert!(ready.starts_with("HTTP/1.1 200 ") && ready.contains(&named), "{ready}");
    let metrics = probe(&server.http, "/metrics").await;
    assert!(metrics.contains(&format!("tidegauge_log_damaged_segments{{shard=\"{}\"}} 1", found.shard)), "{metrics}");
    let shown = server.cli(&token, &["status", "--tenant", "tenant-001"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("a DAMAGED segment") && shown.contains(&path), "{shown}");
    assert_eq!(server.log().matches(" ERROR ").count(), 1, "{}", server.log());

    ours.publish(live(1, 21, series("cpu", 5, now_ns()))).await.expect("taken: the log goes on");
    tidegauge_tests::wait::until("it to be counted", || async {
        let found = crate::counted(&ours).await.map_err(|e| e.to_string())?;
        if found.counted == 40_005 { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

async fn probe(address: &str, path: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let mut io = tokio::net::TcpStream::connect(address).await.expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    io.write_all(request.as_bytes()).await.expect("open");
    let mut answer = String::new();
    io.read_to_string(&mut answer).await.expect("text");
    answer
}

/// A file without the zeros that are written ahead.
fn content(path: &Path) -> Vec<u8> {
    let mut bytes = fs::read(path).expect("a segment");
    let used = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
    bytes.truncate(used);
    bytes
}
