//! I6: readers ask in a loop while events are published, corrected, cut, while the process is killed and restarted. Every
//! answer obeys `ledger(as-of) − pending ≤ sum ≤ ledger(as-of)` and never falls.
//!
//! The ledger is the test's own: one tenant and one producer whose requests count in their order, so what an answer
//! counts must be the size of the first n requests for some n that were sent.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tidegauge_client::Client;
use tidegauge_core::time::{MINUTE_NS, SECOND_NS};
use tidegauge_proto::ingest::v1::PublishRequest;
use tidegauge_proto::stream::v1::Mode;
use tidegauge_tests::events::{event, live};
use tidegauge_tests::{Server, ServerOptions, client, wait};
use tokio::sync::watch;

use crate::{Counted, count, now_ns, published};

const TENANT: &str = "tenant-001";
/// Answers to collect unless `SEAM_ANSWERS` says more; `cargo xtask prove seam` asks for 10,000. Kills fall at
/// equal distances.
const ANSWERS: u64 = 1_500;
const KILLS: u64 = 4;
const READERS: usize = 3;

/// Ways to count the same events: plainly, with the table against itself, and halves of it put together.
const QUERIES: [&str; 4] = [
    "SELECT CAST(COALESCE(SUM(event_count), 0) AS BIGINT) FROM dashboard_metrics",
    "SELECT CAST(COALESCE(SUM(event_count), 0) / 2 AS BIGINT) FROM (SELECT event_count FROM dashboard_metrics \
     UNION ALL SELECT event_count FROM dashboard_metrics)",
    "SELECT CAST(COALESCE(SUM(a.event_count), 0) AS BIGINT) FROM dashboard_metrics a JOIN dashboard_metrics b \
     ON a.window_start = b.window_start AND a.metric_name = b.metric_name AND a.event_count = b.event_count",
    "SELECT CAST(COALESCE(SUM(event_count), 0) AS BIGINT) FROM (SELECT event_count FROM dashboard_metrics WHERE \
     metric_name < 'm2' UNION ALL SELECT event_count FROM dashboard_metrics WHERE metric_name >= 'm2')",
];

/// Events of a request: of growing count, in published, closed and open windows.
fn request(sequence: u64, base_ns: i64) -> PublishRequest {
    let mode = if sequence % 7 == 3 { Mode::Backfill } else { Mode::Live };
    let now = base_ns + sequence as i64 * SECOND_NS / 20;
    let events = (0..events_of(sequence))
        .map(|i| {
            let age = match (sequence + i) % 6 {
                0 => 70 * MINUTE_NS,
                1 => 8 * MINUTE_NS,
                _ => 0,
            };
            event(&format!("m{}", i % 4), i as f64, now - age)
        })
        .collect();
    PublishRequest { mode: mode as i32, ..live(1, sequence, events) }
}

fn events_of(sequence: u64) -> u64 {
    5 + sequence % 11
}

/// Events of the first `requests` requests.
fn ledger(requests: u64) -> u64 {
    (1..=requests).map(events_of).sum()
}

/// What readers and the writer share.
#[derive(Debug)]
struct Shared {
    endpoint: watch::Receiver<String>,
    token: String,
    answers: AtomicU64,
    refused: AtomicU64,
    /// Requests sent so far (or being sent).
    sent: AtomicU64,
    stop: AtomicBool,
    /// Per query text the largest sum answered so far.
    highest: Mutex<u64>,
}

async fn connect(shared: &Shared) -> Option<Client> {
    let endpoint = shared.endpoint.borrow().clone();
    let options = tidegauge_client::ClientOptions {
        endpoint,
        token: Some(shared.token.clone()),
        tenant: Some(TENANT.to_owned()),
        ..tidegauge_client::ClientOptions::default()
    };
    Client::connect(options).await.ok()
}

fn check(sql: &str, found: Counted, before: u64, shared: &Shared) {
    let known = found.counted;
    let requests = (0..=shared.sent.load(Ordering::SeqCst)).scan(0, |sum, n| {
        *sum += if n == 0 { 0 } else { events_of(n) };
        Some(*sum)
    });
    assert!(requests.into_iter().any(|sum| sum == known), "{sql}: not the size of the first requests: {found:?}");
    assert!(
        known - found.pending <= found.sum && found.sum <= known,
        "{sql}: {} ≤ {} ≤ {known} does not hold: {found:?}",
        known - found.pending,
        found.sum
    );
    assert!(found.sum >= before, "{sql}: an earlier answer said {before}: {found:?}");
}

async fn read(shared: Arc<Shared>, first: usize) {
    let mut round = first;
    let mut connection = connect(&shared).await;
    while !shared.stop.load(Ordering::SeqCst) {
        let Some(ours) = &connection else {
            crate::pace(std::time::Duration::from_millis(20)).await;
            connection = connect(&shared).await;
            continue;
        };
        round += 1;
        let sql = QUERIES[round % QUERIES.len()];
        let before = *shared.highest.lock().expect("no holder panics");
        match count(ours, sql).await {
            Ok(found) => {
                check(sql, found, before, &shared);
                let mut highest = shared.highest.lock().expect("no holder panics");
                *highest = (*highest).max(found.sum);
                shared.answers.fetch_add(1, Ordering::SeqCst);
            }
            Err(error) if error.is_retryable() => {
                shared.refused.fetch_add(1, Ordering::SeqCst);
                connection = None;
            }
            Err(error) => panic!("{sql}: {error}"),
        }
    }
}

/// Publishes until told to stop, over all restarts; whatever was not acknowledged is sent again.
async fn write(shared: Arc<Shared>, base_ns: i64) -> u64 {
    let mut acknowledged = 0;
    let mut connection = connect(&shared).await;
    while !shared.stop.load(Ordering::SeqCst) {
        let Some(ours) = &connection else {
            crate::pace(std::time::Duration::from_millis(20)).await;
            connection = connect(&shared).await;
            continue;
        };
        shared.sent.store(acknowledged + 1, Ordering::SeqCst);
        match ours.publish(request(acknowledged + 1, base_ns)).await {
            Ok(_) => acknowledged += 1,
            Err(error) if error.is_retryable() => connection = None,
            Err(error) => panic!("{error}"),
        }
        crate::pace(std::time::Duration::from_millis(10)).await;
    }
    acknowledged
}

fn start(folder: &Path) -> Server {
    Server::start(folder, &ServerOptions::quick())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_gap_and_no_double_count() {
    let folder = TempDir::new().expect("a temporary folder");
    let data: PathBuf = folder.path().join("data");
    let base = now_ns();
    let mut server = start(&data);
    let token = server.token("admin", "admin", &[TENANT]);
    let (endpoint, receiver) = watch::channel(server.endpoint());
    let shared = Arc::new(Shared {
        endpoint: receiver,
        token: token.clone(),
        answers: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        sent: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        highest: Mutex::new(0),
    });
    let writer = tokio::spawn(write(Arc::clone(&shared), base));
    let readers: Vec<_> = (0..READERS).map(|first| tokio::spawn(read(Arc::clone(&shared), first))).collect();

    let answers = match std::env::var("SEAM_ANSWERS") {
        Ok(text) => text.parse().expect("SEAM_ANSWERS is a number"),
        Err(_) => ANSWERS,
    };
    for step in 1..=KILLS + 1 {
        let wanted = answers * step / (KILLS + 1);
        loop {
            assert!(readers.iter().all(|r| !r.is_finished()), "a reader has ended: see its panic");
            assert!(!writer.is_finished(), "the writer has ended: see its panic");
            if shared.answers.load(Ordering::SeqCst) >= wanted {
                break;
            }
            crate::pace(std::time::Duration::from_millis(20)).await;
        }
        if step <= KILLS {
            server.kill();
            server = start(&data);
            endpoint.send(server.endpoint()).expect("readers listen");
        }
    }
    shared.stop.store(true, Ordering::SeqCst);
    for reader in readers {
        reader.await.expect("no deviation");
    }
    let acknowledged = writer.await.expect("no refusal");

    let ours = client(&server, &token, Some(TENANT)).await;
    published(&ours).await;
    for sql in QUERIES {
        let found =
            wait::until("the last answer", || async { count(&ours, sql).await.map_err(|e| e.to_string()) }).await;
        assert_eq!(found.pending, 0, "{sql}: {found:?}");
        // The last request may be durable without having been acknowledged.
        let possible = [ledger(acknowledged), ledger(acknowledged + 1)];
        assert!(possible.contains(&found.sum) && found.sum == found.counted, "{sql}: {found:?}, one of {possible:?}");
    }
    let (answers, refused) = (shared.answers.load(Ordering::SeqCst), shared.refused.load(Ordering::SeqCst));
    println!("seam: {answers} answers, {refused} refused as unavailable, {acknowledged} requests, {KILLS} kills");
}
