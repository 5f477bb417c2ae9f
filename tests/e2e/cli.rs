//! The command line beside a real server: what scripts rely on.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use tempfile::TempDir;
use tidegauge_core::time::rfc3339;
use tidegauge_tests::{Server, ServerOptions, client, wait};

use crate::now_ns;

fn line(tenant: &str, time_ns: i64) -> String {
    format!(
        r#"{{"event_type":"m","timestamp":"{}","source":"","version":"","payload":{{"tenant_id":"{tenant}","metric_name":"cpu","metric_value":1}}}}"#,
        rfc3339(time_ns)
    )
}

/// `emit` sends a line while the next one is not there yet, and a refused line stops nothing; a tenant that the token does
/// not cover ends it, with the line and what is durable until then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn emit_sends_lines_as_they_come() {
    let folder = TempDir::new().expect("a temporary folder");
    let server = Server::start(folder.path(), &ServerOptions::quick());
    let token = server.token("admin", "admin", &["tenant-001"]);
    let ours = client(&server, &token, Some("tenant-001")).await;
    let mut emit = Command::new(tidegauge_tests::binary())
        .arg("emit")
        .env("TIDEGAUGE_ENDPOINT", server.endpoint())
        .env("TIDEGAUGE_TOKEN", &token)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut stdin = emit.stdin.take().expect("standard input is piped");
    let lines = [
        line("tenant-001", now_ns()),
        // Refused by the server, alone in its request.
        line("tenant-001", now_ns() + 3_600_000_000_000),
        "nonsense".to_owned(),
        line("tenant-001", now_ns()),
    ];
    for (count, lines) in [(1, &lines[..1]), (2, &lines[1..])] {
        for line in lines {
            writeln!(stdin, "{line}").expect("emit reads");
        }
        stdin.flush().expect("emit reads");
        wait::until("the events of the lines so far", || async {
            let found = ours.get_metric("cpu").await.map_err(|e| e.to_string())?.metric.map_or(0, |m| m.event_count);
            if found == count { Ok(()) } else { Err(format!("{found} of {count}")) }
        })
        .await;
    }
    writeln!(stdin, "{}", line("tenant-002", now_ns())).expect("emit reads");
    drop(stdin);
    let mut said = String::new();
    emit.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
    assert_eq!(emit.wait().expect("emit ends").code(), Some(1), "{said}");
    for expected in ["line 2: timestamp: ", "line 3: not an event", "2 events durable", "line 5, tenant tenant-002"] {
        assert!(said.contains(expected), "no {expected:?} in\n{said}");
    }
}

/// Nobody who reads standard error (`2>&1 | head`) is no failure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_standard_error_changes_nothing() {
    let folder = TempDir::new().expect("a temporary folder");
    let server = Server::start(folder.path(), &ServerOptions::quick());
    let token = server.token("admin", "admin", &["tenant-001"]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let status = Command::new(tidegauge_tests::binary())
        .args(["emit", "--metric", "cpu", "--value", "1"])
        .env("TIDEGAUGE_ENDPOINT", server.endpoint())
        .env("TIDEGAUGE_TOKEN", &token)
        .stderr(writer)
        .status()
        .expect("the binary runs");
    assert_eq!(status.code(), Some(0));
    let output = server.cli(&token, &["watch", "--once", "cpu", "-o", "json"]);
    assert!(output.status.success(), "{output:?}");
    let output = server.cli(&token, &["watch", "--once", "cpu", "no.such.metric"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("no.such.metric"), "{output:?}");
}

/// A folder that is no data directory is not found in order, and not made into one.
#[test]
fn verify_refuses_other_folders() {
    let folder = TempDir::new().expect("a temporary folder");
    let output = Command::new(tidegauge_tests::binary())
        .args(["verify", "--data-dir"])
        .arg(folder.path())
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("no data directory"), "{output:?}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 0);
}
