//! A process that may open few files: whoever connects, events are taken, checkpointed and published, and nothing is lost.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use tempfile::TempDir;
use tidegauge_core::time::HOUR_NS;
use tidegauge_proto::ingest::v1::PublishRequest;
use tidegauge_proto::stream::v1::Mode;
use tidegauge_tests::events::{event, live, series};
use tidegauge_tests::{Server, ServerOptions, client};

use crate::{counted, now_ns, published, verified};

/// Lowers both limits of open files, then becomes the command that follows.
const WITH_FEW_FILES: [&str; 3] = ["sh", "-c", "ulimit -n 256 && exec \"$@\""];
/// A soft limit far below the hard one.
const WITH_A_LOW_SOFT_LIMIT: [&str; 3] = ["sh", "-c", "ulimit -Sn 64 && exec \"$@\""];
/// The beginning of HTTP/2: the preface and an empty SETTINGS frame.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Connections that a hostile client opens to each address: more than the process may open files.
const HOSTILE: usize = 400;

/// Connects as often as it can, says something, and holds what it got.
fn hold(address: &str, beginning: &[u8]) -> Vec<TcpStream> {
    let address = address.parse().expect("an address");
    let connect = |_| {
        let mut io = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
        // One that was refused at once may be closed already.
        let _ = io.write_all(beginning);
        Some(io)
    };
    (0..HOSTILE).filter_map(connect).collect()
}

/// Asks by a connection of its own, as a probe does.
fn ask(address: &str, path: &str) -> Result<String, std::io::Error> {
    let mut io = TcpStream::connect(address)?;
    io.set_read_timeout(Some(Duration::from_secs(20)))?;
    io.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    io.read_to_string(&mut answer)?;
    if answer.is_empty() { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(answer) }
}

/// A gauge in the exposition.
fn gauge(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().expect("a number")
}

/// History of ten hours: each is an object that is read, written and renamed.
fn history(sequence: u64) -> PublishRequest {
    let now = now_ns();
    let events =
        (1..=10).map(|hour| event("h", 1.0, now - (i64::from(hour) + 10 * sequence as i64) * HOUR_NS)).collect();
    PublishRequest { mode: Mode::Backfill as i32, ..live(2, sequence, events) }
}

/// Hostile connections take all they can get at both addresses of a process that may open 256 files. Meanwhile a producer
/// that was there before is acknowledged, segments begin, checkpoints and objects are written, a query counts all of it
/// and probes are answered; the process never has more open than it may, does not abort, and a kill loses nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_connections_take_no_file_from_the_log() {
    let folder = TempDir::new().expect("a temporary folder");
    let options = ServerOptions::quick().set("TIDEGAUGE_LOG_SEGMENT_BYTES", "256 KiB");
    let mut server = Server::start(folder.path(), &options.clone().wrapped(&WITH_FEW_FILES, folder.path()));
    let token = server.token("admin", "admin", &["tenant-001"]);
    let ours = client(&server, &token, Some("tenant-001")).await;
    let mut acknowledged =
        u64::from(ours.publish(live(1, 1, series("m", 100, now_ns()))).await.expect("taken").accepted);

    let held = [hold(&server.grpc, HTTP2), hold(&server.http, b"GET / HTTP/1.1\r\n"), hold(&server.http, b"")];
    assert!(held.iter().map(Vec::len).sum::<usize>() > HOSTILE, "the kernel takes them, whatever the server does");
    for sequence in 1..=20 {
        for request in [live(1, sequence + 1, series("m", 1_000, now_ns())), history(sequence)] {
            let answer = ours.publish(request).await.unwrap_or_else(|refused| panic!("{refused}\n{}", server.log()));
            acknowledged += u64::from(answer.accepted);
        }
        let http = server.http.clone();
        let alive = tokio::task::spawn_blocking(move || ask(&http, "/livez")).await.expect("no panic");
        assert!(alive.is_ok_and(|answer| answer.ends_with("live\n")), "a probe is answered");
    }
    published(&ours).await;
    assert_eq!(counted(&ours).await.expect("an answer").sum, acknowledged);
    let http = server.http.clone();
    let text = tokio::task::spawn_blocking(move || ask(&http, "/metrics")).await.expect("no panic").expect("answered");
    assert_eq!(gauge(&text, "process_max_fds"), 256.0);
    let shares = text.lines().filter(|line| line.starts_with("tidegauge_files_share{"));
    let shares: f64 =
        shares.map(|line| line.rsplit(' ').next().expect("a value").parse::<f64>().expect("a number")).sum();
    assert!(shares > 200.0 && shares <= 256.0, "{shares} of 256 are given away");
    let log = server.log();
    assert!(!log.contains("Too many open files"), "{log}");
    assert!(server.runs(), "{log}");
    drop(held);

    let data_dir = server.kill();
    let server = Server::start(&data_dir, &options);
    let ours = client(&server, &token, Some("tenant-001")).await;
    published(&ours).await;
    assert_eq!(counted(&ours).await.expect("an answer").sum, acknowledged);
    let (status, log) = server.terminate();
    assert!(status.success(), "{log}");
    verified(&data_dir);
}

/// A low soft limit is raised; a hard limit that is too low for the log is refused with what is needed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_soft_limit_is_raised() {
    let folder = TempDir::new().expect("a temporary folder");
    let low = ServerOptions::quick().wrapped(&WITH_A_LOW_SOFT_LIMIT, folder.path());
    let server = Server::start(folder.path(), &low);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.pid())).expect("Linux");
    let files = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line").split_whitespace();
    let files: Vec<&str> = files.collect();
    assert_eq!(files[3], files[4], "soft and hard limit: {files:?}");
    drop(server);
    let few = low.clone().wrapped(&WITH_FEW_FILES, folder.path()).set("TIDEGAUGE_LOG_SHARDS", "64");
    let refused = Server::try_start(&folder.path().join("other"), &few).expect_err("too few files");
    assert!(refused.contains("256 files") && refused.contains("64 shards") && refused.contains("ulimit"), "{refused}");
}
