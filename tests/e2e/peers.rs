//! Clients that hold what others need: connections without a credential, answers that nobody reads.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use tempfile::TempDir;
use tidegauge_tests::events::{event, live};
use tidegauge_tests::{Server, ServerOptions, client, raw};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::now_ns;

const HEALTH: &str = "/grpc.health.v1.Health/Check";
/// What every HTTP/2 client begins with, and settings that change nothing.
const BEGINNING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Few files, so that few connections fill the server. What it may raise by itself is no more.
const FEW_FILES: [&str; 3] = ["sh", "-c", "ulimit -n \"$0\" && exec \"$@\""];
/// Time for what the server does by itself after ten seconds.
const PATIENCE: Duration = Duration::from_secs(60);

async fn livez(server: &Server) -> String {
    let mut io = TcpStream::connect(&server.http).await.expect("it listens");
    io.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.expect("open");
    let mut answer = String::new();
    io.read_to_string(&mut answer).await.expect("it is answered");
    answer
}

/// More connections than the server has places, that begin with HTTP/2 and say no more, and more silent ones to HTTP: health
/// is told, a client with a credential publishes, one that had been connected before goes on, and soon the strangers are gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_keep_nobody_out() {
    let folder = TempDir::new().expect("a temporary folder");
    let options = ServerOptions::quick().wrapped(&FEW_FILES, "1024".as_ref());
    let server = Server::start(folder.path(), &options);
    let token = server.token("writer", "writer", &["tenant-001"]);
    let before = client(&server, &token, Some("tenant-001")).await;
    let request = |sequence| live(1, sequence, vec![event("m", 1.0, now_ns())]);
    before.publish(request(1)).await.expect("taken");

    let (mut strangers, mut silent) = (Vec::new(), Vec::new());
    for _ in 0..520 {
        let mut io = TcpStream::connect(&server.grpc).await.expect("it listens");
        // The server may have closed it already, to make room for another.
        let _ = io.write_all(BEGINNING).await;
        strangers.push(io);
    }
    for _ in 0..270 {
        silent.push(TcpStream::connect(&server.http).await.expect("it listens"));
    }
    for sequence in 2..5 {
        let health = raw::call(&server.grpc, HEALTH, &[]).await.expect("there is room for a probe");
        assert_eq!(health.code, Some(0));
        assert!(livez(&server).await.ends_with("live\n"));
        let after = client(&server, &token, Some("tenant-001")).await;
        after.publish(request(sequence)).await.expect("taken over a new connection");
    }
    before.publish(request(5)).await.expect("taken over the old connection");
    for mut io in strangers.into_iter().chain(silent) {
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(PATIENCE, io.read_to_end(&mut rest));
        let _ = closed.await.expect("nobody holds a place without a call");
    }
}

/// Opens a stream of requests whose answers have no window.
async fn stream(connection: &mut SendRequest<Bytes>, server: &Server, token: &str) -> h2::SendStream<Bytes> {
    let request =
        http::Request::post(format!("http://{}/tidegauge.ingest.v1.IngestService/PublishStream", server.grpc))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", format!("Bearer {token}"))
            .body(())
            .expect("a request");
    let (answer, requests) = connection.send_request(request, false).expect("open");
    let answer = answer.await.expect("begun");
    // Kept for the time of the test, so that the call goes on, and never read.
    std::mem::forget(answer);
    requests
}

/// A client with many streams, that reads no answers and sends as much as it may, may not send much, however many
/// connections it has; another tenant publishes meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_nothing_may_send_little() {
    const CONNECTIONS: usize = 40;
    // A principal's share of all windows, what each connection begins with, and as much again that handlers have taken.
    const MOST: usize = 2 * ((64 << 20) + CONNECTIONS * (64 << 10));
    let folder = TempDir::new().expect("a temporary folder");
    let server = Server::start(folder.path(), &ServerOptions::quick());
    let token = server.token("writer", "writer", &["tenant-001"]);
    // An answer, which is not read, and then a message that never ends.
    let refused = Bytes::from_static(b"\0\0\0\0\x06\x0a\x04\x18\x01\x22\0");
    let endless = Bytes::from_static(&[0, 0, 0xF0, 0, 0]);
    let block = Bytes::from(vec![0; 1 << 20]);
    let (mut sent, mut held) = (0, Vec::new());
    for _ in 0..CONNECTIONS {
        let io = TcpStream::connect(&server.grpc).await.expect("it listens");
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(0).max_send_buffer_size(4 << 20);
        let (mut connection, driver) = builder.handshake(io).await.expect("handshake");
        held.push(tokio::spawn(driver));
        for _ in 0..4 {
            let mut requests = stream(&mut connection, &server, &token).await;
            for part in [&refused, &endless] {
                requests.send_data(part.clone(), false).expect("open");
            }
            loop {
                requests.reserve_capacity(block.len());
                let more = poll_fn(|context| requests.poll_capacity(context));
                // Nothing more is granted for as long as nobody reads; the pause decides that it is so.
                let Ok(Some(Ok(more))) = tokio::time::timeout(Duration::from_millis(100), more).await else { break };
                let part = block.slice(..more.min(block.len()));
                sent += part.len();
                assert!(sent <= MOST, "the server takes more than {MOST} bytes of who does not read");
                requests.send_data(part, false).expect("open");
            }
            std::mem::forget(requests);
        }
    }
    assert!(sent > 1 << 20, "something is taken: {sent}");
    let other = server.token("other", "writer", &["tenant-002"]);
    let other = client(&server, &other, Some("tenant-002")).await;
    other.publish(live(2, 1, vec![event("m", 1.0, now_ns())])).await.expect("another tenant publishes");
    held.iter().for_each(tokio::task::JoinHandle::abort);
}
