//! Dead letters of a hostile client: legal requests whose events share much and all of which are refused after they were
//! durable.

use tempfile::TempDir;
use tidegauge_client::Client;
use tidegauge_core::time::{HOUR_NS, SECOND_NS};
use tidegauge_proto::ingest::v1::PublishRequest;
use tidegauge_proto::stream::v1::{Dimension, DimensionSet, EventColumns, Mode};
use tidegauge_tests::events::{event, live};
use tidegauge_tests::{Server, ServerOptions, client, wait};

use crate::{now_ns, published, verified};

const REQUESTS: u64 = 40;
const EVENTS: u64 = 10_000;
/// What the process may have held at any time.
const MEMORY_MAX: u64 = 300 << 20;

/// Events of three days ago that share one dimension set of 25 kB.
fn old(sequence: u64) -> PublishRequest {
    let ids = || vec![0; EVENTS as usize];
    let dimensions =
        (0..64).map(|at| Dimension { key: format!("key-{at:03}{}", "k".repeat(120)), value: "v".repeat(256) });
    let start = now_ns() - 72 * HOUR_NS + sequence as i64 * SECOND_NS;
    let columns = EventColumns {
        event_types: vec!["measurement".to_owned()],
        metrics: vec!["m".to_owned()],
        sources: vec![String::new()],
        versions: vec![String::new()],
        dimension_sets: vec![DimensionSet { dimensions: dimensions.collect() }],
        times_unix_nano: (0..EVENTS as i64).map(|at| start + at).collect(),
        values: (0..EVENTS).map(|at| at as f64).collect(),
        event_type_ids: ids(),
        metric_ids: ids(),
        source_ids: ids(),
        version_ids: ids(),
        dimension_set_ids: ids(),
    };
    PublishRequest { columns: Some(columns), mode: Mode::Live as i32, ..live(7, sequence, Vec::new()) }
}

async fn dead(client: &Client) -> u64 {
    let status = client.status().await.expect("status");
    status.keys.iter().filter_map(|key| key.counters).map(|counters| counters.dead).sum()
}

/// The most memory that the process has had, in bytes.
fn peak(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("kilobytes") << 10
}

/// 40 such requests cost little more than their bytes, while they are taken, when they are written, and when a server that
/// was killed meanwhile starts again; every event is a dead letter once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_do_not_expand() {
    let folder = TempDir::new().expect("a temporary folder");
    let options = ServerOptions::quick();
    let server = Server::start(folder.path(), &options);
    let token = server.token("admin", "admin", &["tenant-001"]);
    let publisher = client(&server, &token, Some("tenant-001")).await;
    publisher.publish(live(6, 1, vec![event("m", 1.0, now_ns())])).await.expect("a live event");
    for sequence in 1..=REQUESTS {
        let answer = publisher.publish(old(sequence)).await.expect("the contract allows it");
        assert_eq!(u64::from(answer.accepted), EVENTS);
    }
    let first = peak(&server);
    let data_dir = server.kill();

    let started_ns = now_ns();
    let server = Server::start(&data_dir, &options);
    eprintln!("peak {} MB; listening again after {} ms", first >> 20, (now_ns() - started_ns) / 1_000_000);
    let reader = client(&server, &token, Some("tenant-001")).await;
    wait::until("every event to be a dead letter", || async {
        match dead(&reader).await {
            found if found == REQUESTS * EVENTS => Ok(()),
            found => Err(format!("{found} dead letters")),
        }
    })
    .await;
    published(&reader).await;
    let second = peak(&server);
    eprintln!("peak {} MB after the restart", second >> 20);
    assert!(first.max(second) < MEMORY_MAX, "{first} and {second} bytes");
    let (status, log) = server.terminate();
    assert!(status.success(), "{log}");
    verified(&data_dir);
}
