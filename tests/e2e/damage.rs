//! A data directory that lost something is refused at start, with what and where; nothing is skipped silently.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
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

/// A file without the zeros that are written ahead.
fn content(path: &Path) -> Vec<u8> {
    let mut bytes = fs::read(path).expect("a segment");
    let used = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
    bytes.truncate(used);
    bytes
}
