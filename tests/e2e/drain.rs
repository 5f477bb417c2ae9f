//! SIGTERM drains and ends with 0; what was acknowledged is there afterwards.

use std::time::Duration;

use futures::StreamExt as _;
use tempfile::TempDir;
use tidegauge_core::clock::{Clock as _, SystemClock};
use tidegauge_proto::ingest::v1::PublishStreamRequest;
use tidegauge_proto::ingest::v1::ingest_service_client::IngestServiceClient;
use tidegauge_tests::events::{live, series};
use tidegauge_tests::{Server, ServerOptions, client};

use crate::{counted, now_ns, published};

/// Under load, with an open watch: the process ends with 0 within the limit, watchers are told, nothing acknowledged is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_drains() {
    let folder = TempDir::new().expect("a temporary folder");
    let server = Server::start(folder.path(), &ServerOptions::quick());
    let token = server.token("admin", "admin", &["tenant-001"]);
    let producer = client(&server, &token, Some("tenant-001")).await;
    let watcher = client(&server, &token, Some("tenant-001")).await;
    let mut watch = watcher.watch(Vec::new()).await.expect("a watch");

    let load = tokio::spawn(async move {
        let mut acknowledged = 0;
        for sequence in 1.. {
            match producer.publish(live(1, sequence, series("m", 100, now_ns()))).await {
                Ok(answer) => acknowledged += u64::from(answer.accepted),
                Err(_) => break,
            }
        }
        acknowledged
    });
    // The load is under way when the watcher sees a value.
    loop {
        let step = watch.next().await.expect("an open stream").expect("a step");
        if !step.metrics.is_empty() {
            break;
        }
    }
    let clock = SystemClock::default();
    let from = clock.monotonic_ns();
    let (status, log) = tokio::task::spawn_blocking(move || server.terminate()).await.expect("no panic");
    let took = Duration::from_nanos(clock.monotonic_ns() - from);
    assert!(status.success(), "{status}:\n{log}");
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert!(!log.contains("panicked"), "{log}");
    assert!(log.contains("stopped complete=true"), "nothing was left undone: {log}");
    let acknowledged = load.await.expect("no panic");
    while let Some(step) = watch.next().await {
        if step.is_err() {
            break;
        }
    }

    let server = Server::start(folder.path(), &ServerOptions::quick());
    let reader = client(&server, &token, Some("tenant-001")).await;
    published(&reader).await;
    let sum = counted(&reader).await.expect("an answer").sum;
    // The request that the drain cut off may or may not have become durable.
    assert!((acknowledged..=acknowledged + 100).contains(&sum), "acknowledged {acknowledged}, counted {sum}");
}

/// Streams that would stay open for ever are told at once that the server drains, so that they do not hold it up: one that
/// the server must cut off at the end of their time hears another reason.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_streams_do_not_hold_up_a_drain() {
    let folder = TempDir::new().expect("a temporary folder");
    let server = Server::start(folder.path(), &ServerOptions::quick());
    let token = server.token("admin", "admin", &["tenant-001"]);
    let watcher = client(&server, &token, Some("tenant-001")).await;
    let mut watch = watcher.watch(Vec::new()).await.expect("a watch");
    watch.next().await.expect("an open stream").expect("a step");

    let (requests, queue) = tokio::sync::mpsc::channel(4);
    let request = PublishStreamRequest { request: Some(live(1, 1, series("m", 10, now_ns()))) };
    requests.send(request).await.expect("the stream is open");
    let mut request = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(queue));
    let bearer = format!("Bearer {token}").parse().expect("a header");
    request.metadata_mut().insert("authorization", bearer);
    let mut ingest = IngestServiceClient::connect(server.endpoint()).await.expect("the server accepts");
    let mut answers = ingest.publish_stream(request).await.expect("a stream").into_inner();
    answers.message().await.expect("an open stream").expect("an answer");

    let (status, log) = tokio::task::spawn_blocking(move || server.terminate()).await.expect("no panic");
    assert!(status.success() && log.contains("stopped"), "{status}:\n{log}");
    let watched = loop {
        if let Err(end) = watch.next().await.expect("the stream ends with a status") {
            break end;
        }
    };
    assert_eq!(watched.reason(), Some("DRAINING"), "{watched}");
    let published = tidegauge_client::ClientError::from(answers.message().await.expect_err("the stream has ended"));
    assert_eq!(published.reason(), Some("DRAINING"), "{published}");
    drop(requests);
}

/// A port in use and a data directory in use are errors that name them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_server_is_told_what_is_busy() {
    let folder = TempDir::new().expect("a temporary folder");
    let server = Server::start(folder.path(), &ServerOptions::quick());
    let other = TempDir::new().expect("a temporary folder");
    let output = std::process::Command::new(tidegauge_tests::binary())
        .args(["serve", "--grpc", &server.grpc, "--http", "127.0.0.1:0", "--data-dir"])
        .arg(other.path())
        .output()
        .expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains(&server.grpc) && said.contains("--grpc"), "{said}");

    let said = Server::try_start(folder.path(), &ServerOptions::quick()).expect_err("the directory is locked");
    assert!(said.contains("in use") || said.contains("locked"), "{said}");
}
