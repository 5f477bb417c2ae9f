//! kill -9 between any two steps of the commit protocol, under load: nothing acknowledged is lost, nothing counts twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;
use tidegauge_core::time::{MINUTE_NS, SECOND_NS};
use tidegauge_proto::ingest::v1::PublishRequest;
use tidegauge_proto::stream::v1::Mode;
use tidegauge_tests::events::{event, live};
use tidegauge_tests::{Server, ServerOptions, client};

use crate::{counted, now_ns, published};

/// Steps of the protocol, and how often each is passed before the process dies.
const POINTS: [&str; 9] = [
    "before-prepare:2",
    "after-prepare:1",
    "after-prepare:3",
    "after-object:1",
    "after-object:4",
    "after-index:2",
    "after-apply:2",
    "after-boundary:2",
    "after-complete:2",
];

const TENANT: &str = "tenant-001";

/// A batch whose events lie in published, closed and open windows, so that every cut has rows and corrections.
fn batch(sequence: u64, base_ns: i64) -> PublishRequest {
    let base_ns = base_ns + sequence as i64 * SECOND_NS / 100;
    let mode = if sequence.is_multiple_of(3) { Mode::Backfill } else { Mode::Live };
    let events = (0..50_i64)
        .map(|i| {
            let age = match i % 5 {
                0 => 90 * MINUTE_NS,
                1 => 7 * MINUTE_NS,
                _ => 0,
            };
            event(&format!("m{}", i % 4), i as f64, base_ns - age + i * SECOND_NS / 50)
        })
        .collect();
    PublishRequest { mode: mode as i32, ..live(1, sequence, events) }
}

/// One producer publishes in order and repeats whatever was not acknowledged, over all crashes: the sum is exact.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_of_the_commit_protocol() {
    let folder = TempDir::new().expect("a temporary folder");
    let base = now_ns();
    // The last acknowledged sequence.
    let mut sequence = 0;
    let mut token = None;
    for point in POINTS {
        let options = ServerOptions::quick().set("TIDEGAUGE_CRASH_AT", point);
        let server = Server::start(folder.path(), &options);
        let token = token.get_or_insert_with(|| server.token("admin", "admin", &[TENANT])).clone();
        let ours = client(&server, &token, Some(TENANT)).await;
        let died = Arc::new(AtomicBool::new(false));
        let watch = {
            let died = Arc::clone(&died);
            tokio::task::spawn_blocking(move || {
                let ended = server.wait();
                died.store(true, Ordering::SeqCst);
                ended
            })
        };
        let load = async {
            loop {
                // The batch after the last acknowledged one: it may be on the log already, when a crash took the answer.
                match ours.publish(batch(sequence + 1, base)).await {
                    Ok(answer) => assert_eq!(answer.accepted, 50),
                    Err(_) if died.load(Ordering::SeqCst) => break,
                    Err(error) if error.is_retryable() => {
                        crate::pace(std::time::Duration::from_millis(20)).await;
                        continue;
                    }
                    Err(error) => panic!("{point}: {error}"),
                }
                sequence += 1;
                crate::pace(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(tidegauge_tests::wait::PATIENCE, load)
            .await
            .unwrap_or_else(|_| panic!("{point} was not reached"));
        let (status, _) = watch.await.expect("no panic");
        assert!(!status.success(), "{point}: {status}");
    }

    // Two kills from outside, at any moment.
    for _ in 0..2 {
        let server = Server::start(folder.path(), &ServerOptions::quick());
        let ours = client(&server, token.as_deref().expect("made above"), Some(TENANT)).await;
        for _ in 0..20 {
            sequence += 1;
            let answer = ours.publish(batch(sequence, base)).await.expect("taken");
            assert_eq!(answer.accepted, 50);
        }
        server.kill();
    }

    let server = Server::start(folder.path(), &ServerOptions::quick());
    let ours = client(&server, token.as_deref().expect("made above"), Some(TENANT)).await;
    // The whole history once more: all of it is a duplicate, so what follows also proves the dedup state.
    for sequence in 1..=sequence {
        ours.publish(batch(sequence, base)).await.expect("taken");
    }
    published(&ours).await;
    let found = counted(&ours).await.expect("an answer");
    assert_eq!((found.sum, found.pending), (sequence * 50, 0), "{found:?}");
    let counters = ours.status().await.expect("a status").keys[0].counters.expect("counters");
    let total = counters.duplicates + counters.on_time + counters.late + counters.backfilled + counters.dead;
    assert_eq!(counters.on_log, total, "{counters:?}");
    assert_eq!(counters.on_time + counters.late + counters.backfilled, sequence * 50, "{counters:?}");
    assert!(
        counters.late > 0 && counters.backfilled > 0,
        "the load must hold late and backfilled events: {counters:?}"
    );

    let (status, log) = server.terminate();
    assert!(status.success(), "{status}:\n{log}");
    let output = std::process::Command::new(tidegauge_tests::binary())
        .args(["verify", "--data-dir"])
        .arg(folder.path())
        .output()
        .expect("the binary runs");
    assert!(
        output.status.success(),
        "verify: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
