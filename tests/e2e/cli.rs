//! The command line beside a real server: what scripts rely on.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
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

/// `emit` sends a line while the next one is not there yet, and neither a refused line stops anything nor a tenant that the
/// token does not cover: it is named with its first line, and counted.
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
    let others = [line("tenant-002", now_ns()), line("tenant-001", now_ns()), line("tenant-002", now_ns())];
    for (count, lines) in [(1, &lines[..1]), (2, &lines[1..]), (3, &others[..])] {
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
    drop(stdin);
    let mut said = String::new();
    emit.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
    assert_eq!(emit.wait().expect("emit ends").code(), Some(1), "{said}");
    for expected in [
        "line 2: timestamp: ",
        "line 3: not an event",
        "line 5, tenant tenant-002: ",
        "3 events durable, 2 events of tenant-002 not sent\n",
        "error: 2 lines refused, 2 events not sent\n",
    ] {
        assert!(said.contains(expected), "no {expected:?} in\n{said}");
    }
    // The tenant is the line's own, and is named with a way out.
    assert_eq!(said.matches("(TENANT_DENIED)\nhint: \"tenant-002\" was asked for").count(), 1, "{said}");
}

/// Runs the command line against a server with this on its standard input.
fn fed(server: &Server, token: &str, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(tidegauge_tests::binary())
        .args(arguments)
        .env("TIDEGAUGE_ENDPOINT", server.endpoint())
        .env("TIDEGAUGE_TOKEN", token)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut stdin = child.stdin.take().expect("standard input is piped");
    // A command that ends before it has read everything has said why.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("the command ends")
}

/// The one document on standard output, and what stood on standard error.
fn document(output: &Output) -> (Value, String) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let document = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    (document, said)
}

/// With `-o json` a program learns from `emit` what is durable and where, and each refused event with its place, field and
/// reason, also where all of a request are refused and where the whole request is; the exit code says which.
#[test]
fn emit_gives_a_document() {
    let folder = TempDir::new().expect("a temporary folder");
    let server = Server::start(folder.path(), &ServerOptions::quick());
    let token = server.token("admin", "admin", &["tenant-001"]);
    let one = |more: &[&str]| {
        let output = server.cli(&token, &[&["emit", "--metric", "cpu", "--value", "1", "-o", "json"], more].concat());
        let (document, said) = document(&output);
        (output.status.code(), document, said)
    };
    let (code, taken, _) = one(&[]);
    assert_eq!((code, &taken["accepted"], &taken["error"]), (Some(0), &json!(1), &Value::Null), "{taken}");
    assert!(taken["positions"][0]["position"].as_str().is_some_and(|hex| !hex.is_empty()), "{taken}");
    let (code, refused, said) = one(&["--time", "1999-12-31"]);
    assert_eq!((code, &refused["accepted"], &refused["refused"]), (Some(1), &json!(0), &json!(1)), "{refused}");
    assert_eq!(refused["refusals"][0]["field"], "timestamp");
    assert_eq!(refused["refusals"][0]["reason"], "TIMESTAMP_TOO_EARLY");
    assert!(
        refused["error"]["message"].is_string() && said.contains("error: the event was refused"),
        "{refused} {said}"
    );
    let (code, denied, _) = one(&["--tenant", "tenant-002"]);
    assert_eq!((code, &denied["error"]["reason"]), (Some(1), &json!("TENANT_DENIED")), "{denied}");
    assert!(
        denied["error"]["hint"].as_str().is_some_and(|hint| hint.contains("\"tenant-002\" was asked for")),
        "{denied}"
    );

    // Ten lines that the server refuses, all in one request: more than an error names.
    let too_early: Vec<String> = (0..10).map(|_| line("tenant-001", -1)).collect();
    let output = fed(&server, &token, &["emit", "-o", "json"], &too_early.join("\n"));
    let (all, said) = document(&output);
    assert_eq!((output.status.code(), all["refusals"].as_array().map(Vec::len)), (Some(1), Some(10)), "{all}");
    assert_eq!(
        (&all["refusals"][9]["line"], &all["refusals"][9]["reason"]),
        (&json!(10), &json!("TIMESTAMP_TOO_EARLY"))
    );
    assert_eq!(said.matches("(TIMESTAMP_TOO_EARLY)").count(), 10, "{said}");

    // What is wrong with a line loses its neighbours nothing.
    let good = line("tenant-001", now_ns());
    let input = [
        good.clone(),
        good.replace(":1}", ":\"abc\"}"),
        good.replace("tenant-001", "Tenant 1"),
        good[..good.len() - 20].to_owned(),
        good.clone(),
    ];
    let output = fed(&server, &token, &["emit", "-o", "json"], &input.join("\n"));
    let (some, _) = document(&output);
    assert_eq!((output.status.code(), &some["accepted"], &some["refused"]), (Some(1), &json!(2), &json!(3)), "{some}");
    let told: Vec<(&Value, &Value, &Value)> =
        some["refusals"].as_array().expect("a list").iter().map(|r| (&r["line"], &r["field"], &r["reason"])).collect();
    let expected = [
        (&json!(2), &json!("payload.metric_value"), &json!("FIELD_TYPE")),
        (&json!(3), &json!("payload.tenant_id"), &json!("TENANT_ID_INVALID")),
        (&json!(4), &Value::Null, &json!("LINE_INVALID")),
    ];
    assert_eq!(told, expected, "{some}");
    assert!(some["refusals"][0]["message"].as_str().is_some_and(|text| text.contains("\"abc\"")), "{some}");
}

/// The account of standard input adds up whatever becomes of its lines: taken, refused, of a tenant that the token does not
/// cover; and what may be too old for windows is told once and counted, unless it is sent as history.
#[test]
fn emit_accounts_for_every_line() {
    let folder = TempDir::new().expect("a temporary folder");
    let server = Server::start(folder.path(), &ServerOptions::quick());
    let token = server.token("admin", "admin", &["tenant-001"]);
    let (now, old) = (now_ns(), now_ns() - 9 * 86_400_000_000_000);
    let lines = [
        line("tenant-001", now),
        line("tenant-002", now),
        String::new(),
        line("tenant-001", old),
        line("tenant-002", old),
        "nonsense".to_owned(),
        line("tenant-001", -1),
        line("tenant-001", old),
    ];
    let emitted = |more: &[&str]| {
        let output = fed(&server, &token, &[&["emit", "-o", "json"], more].concat(), &lines.join("\n"));
        let (sums, said) = document(&output);
        assert_eq!(output.status.code(), Some(1), "{sums}");
        (sums, said)
    };
    let (sums, said) = emitted(&[]);
    let counts = |sums: &Value| ["accepted", "refused", "not_sent", "too_old"].map(|name| sums[name].as_u64());
    assert_eq!(counts(&sums), [Some(3), Some(2), Some(2), Some(2)], "{sums}");
    assert_eq!(sums["refused_tenants"].as_array().map(Vec::len), Some(1), "{sums}");
    let tenant = &sums["refused_tenants"][0];
    assert_eq!(
        (&tenant["tenant_id"], &tenant["reason"], &tenant["not_sent"]),
        (&json!("tenant-002"), &json!("TENANT_DENIED"), &json!(2))
    );
    assert_eq!((said.matches("note: ").count(), said.matches("note: line 4 is 9 d old").count()), (1, 1), "{said}");
    assert!(said.contains("3 events durable, 2 of them more than 24 h old, 2 events of tenant-002 not sent"), "{said}");

    let (sums, said) = emitted(&["--backfill"]);
    assert_eq!(counts(&sums), [Some(3), Some(2), Some(2), Some(0)], "{sums}");
    assert!(!said.contains("note: "), "{said}");

    // With a tenant of the call's own there are no others that could go on.
    let (sums, said) = emitted(&["--tenant", "tenant-002"]);
    assert_eq!((&sums["accepted"], &sums["error"]["reason"]), (&json!(0), &json!("TENANT_DENIED")), "{sums}");
    assert!(sums["not_sent"].as_u64() >= Some(1) && said.contains("the rest was not read"), "{sums} {said}");
}

/// With `-o json` a credential comes with what it grants, and works; without, it alone goes to standard output.
#[test]
fn credentials_come_as_documents() {
    let folder = TempDir::new().expect("a temporary folder");
    let server = Server::start(folder.path(), &ServerOptions::quick());
    let data_dir = folder.path().display().to_string();
    let create = |arguments: &[&str]| {
        let shared = ["create", "--user", "ann", "--role", "admin", "--data-dir", &data_dir];
        let output = server.cli("", &[&arguments[..1], &shared, &arguments[1..]].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        output
    };
    let (token, said) = document(&create(&["token", "--tenant", "tenant-001", "--ttl", "1h", "-o", "json"]));
    assert_eq!(
        (&token["user"], &token["role"], &token["tenants"]),
        (&json!("ann"), &json!("admin"), &json!(["tenant-001"]))
    );
    assert!(token["id"].as_str().is_some_and(|id| id.starts_with("token:")), "{token}");
    let until = token["valid_until"].as_str().and_then(tidegauge_core::time::parse_rfc3339).expect("a time");
    assert!((until - now_ns()).abs() <= 3_600_000_000_000, "{token}");
    assert_eq!(said, "", "the document says it all");

    let (key, _) = document(&create(&["key", "--all-tenants", "-o", "json"]));
    assert_eq!((&key["all_tenants"], &key["tenants"], &key["valid_until"]), (&json!(true), &Value::Null, &Value::Null));
    assert!(key["id"].as_str().is_some_and(|id| id.starts_with("key:")), "{key}");
    let output = server.cli(token["token"].as_str().expect("a text"), &["status", "-o", "json"]);
    assert!(output.status.success() && document(&output).0["shards"].is_array(), "{output:?}");

    let text = create(&["key", "--tenant", "tenant-001"]);
    let said = String::from_utf8_lossy(&text.stderr);
    assert!(
        said.contains("valid until it is removed") && said.contains("auth/api-keys.json; a running server"),
        "{said}"
    );
    for wrong in [["--ttl", "0s"], ["--ttl", "999ms"], ["--user", ""], ["--user", "a:b"]] {
        for kind in ["token", "key"] {
            let flags: &[&str] = if wrong[0] == "--user" { &[] } else { &["--user", "ann"] };
            let shared = [kind, "create", "--tenant", "tenant-001", "--role", "admin", "--data-dir", &data_dir];
            let output = server.cli("", &[&shared, flags, &wrong].concat());
            assert_eq!(output.status.code(), Some(2), "{output:?}");
        }
    }

    let text = create(&["token", "--tenant", "tenant-001"]);
    let line = String::from_utf8(text.stdout).expect("text");
    assert!(line.ends_with('\n') && line.trim().split('.').count() == 3 && !line.trim().contains(char::is_whitespace));
}

/// Each line that `load` cannot take is told with its number, field and value, the others are durable, and the sums are one
/// document.
#[test]
fn load_names_line_field_and_value() {
    let folder = TempDir::new().expect("a temporary folder");
    let server = Server::start(&folder.path().join("data"), &ServerOptions::quick());
    let token = server.token("admin", "admin", &["tenant-001"]);
    let good = line("tenant-001", now_ns());
    let ndjson = folder.path().join("events.ndjson");
    let lines = [
        good.clone(),
        good.replace(":1}", ":\"abc\"}"),
        good.replace("tenant-001", "Tenant"),
        line("tenant-001", -1),
        line("tenant-002", now_ns()),
    ];
    std::fs::write(&ndjson, lines.join("\n")).expect("writable");
    let csv = folder.path().join("events.csv");
    std::fs::write(&csv, "timestamp,value\n2026-03-02,1\n2026-03-02,much\nsoon,2\n").expect("writable");

    let path = ndjson.display().to_string();
    let output = server.cli(&token, &["load", &path, "-o", "json"]);
    let (sums, said) = document(&output);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!((&sums["accepted"], &sums["lines_without_event"], &sums["refused"]), (&json!(1), &json!(2), &json!(1)));
    assert_eq!(
        (&sums["not_sent"], &sums["refused_tenants"][0]["reason"]),
        (&json!(1), &json!("TENANT_DENIED")),
        "{sums}"
    );
    for expected in [
        "line 2: payload.metric_value: \"abc\" is a text, must be a number",
        "line 3: payload.tenant_id: \"Tenant\" has the character 'T' at byte 0",
        "line 4: timestamp: 1969-12-31T23:59:59.999999999Z is before 2000-01-01",
        "tenant tenant-002: the credential does not cover the requested tenant (TENANT_DENIED)\nhint: \"tenant-002\" was",
    ] {
        assert!(said.contains(expected), "no {expected:?} in\n{said}");
    }
    let path = csv.display().to_string();
    let output = server.cli(&token, &["load", &path, "--tenant", "tenant-001"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for expected in
        ["line 3: column value: \"much\" is no finite number", "line 4: column timestamp: \"soon\" is no time"]
    {
        assert!(said.contains(expected), "no {expected:?} in\n{said}");
    }
}

/// What stands in the way is told with a way out, and a tenant that cannot be one is a wrong call.
#[test]
fn failures_have_hints() {
    let folder = TempDir::new().expect("a temporary folder");
    let server = Server::start(&folder.path().join("data"), &ServerOptions::quick());
    let token = server.token("admin", "admin", &["tenant-001"]);
    let reader = server.token("reader", "reader", &["tenant-001"]);
    let data_dir = server.data_dir().display().to_string();
    let query = "SELECT 1 FROM dashboard_metrics";
    for (token, arguments, code, expected) in [
        (
            &token,
            &["query", "--tenant", "acme", query][..],
            1,
            "(TENANT_DENIED)\nhint: \"acme\" was asked for: choose another",
        ),
        (&token, &["status", "--tenant", "Acme"], 2, "--tenant \"Acme\" has the character 'A' at byte 0"),
        (&token, &["query", "SELECT nothing FROM dashboard_metrics"], 1, "hint: `tidegauge query --help`"),
        (&token, &["watch", "--once", "no.such"], 1, "no value yet of no.such\nhint: "),
        (
            &token,
            &["load", "no-such-file.ndjson"],
            1,
            "no-such-file.ndjson: No such file or directory (os error 2)\nhint: ",
        ),
        (&token, &["status", "--endpoint", "http://127.0.0.1:1"], 1, "\nhint: is the server running?"),
        (&token, &["verify", "--data-dir", &data_dir], 1, "stop it first, or name another data directory"),
        (
            &reader,
            &["emit", "--metric", "m", "--value", "1"],
            1,
            "(PERMISSION_MISSING)\nhint: use a credential of another role",
        ),
        (&"nonsense".to_owned(), &["status"], 1, "(CREDENTIAL_INVALID)\nhint: use a token made with"),
        (&String::new(), &["status"], 1, "(CREDENTIAL_MISSING)\nhint: give a token or API key with --token"),
        (&token, &["serve", "--grpc", &server.grpc, "--http", "127.0.0.1:0"], 1, "hint: another process has this port"),
        (&token, &["serve", "--grpc", "here"], 1, "hint: write host and port, for example --grpc 127.0.0.1:7171"),
    ] {
        let output = server.cli(token, arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: no {expected:?} in\n{said}");
    }
}

/// Programs read settings, and the addresses of a server, as JSON.
#[test]
fn serve_speaks_json() {
    let folder = TempDir::new().expect("a temporary folder");
    let data_dir = folder.path().display().to_string();
    let output = Command::new(tidegauge_tests::binary())
        .args(["serve", "--print-config", "-o", "json", "--data-dir", &data_dir])
        .output()
        .expect("the binary runs");
    let (settings, _) = document(&output);
    assert_eq!((&settings["server"]["data_dir"], &settings["server"]["threads"]), (&json!(data_dir), &json!(0)));
    let mut serving = Command::new(tidegauge_tests::binary())
        .args(["serve", "-o", "json", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir", &data_dir])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs");
    let mut line = String::new();
    let stdout = serving.stdout.take().expect("standard output is piped");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    serving.kill().expect("a child can be killed");
    serving.wait().expect("a killed child ends");
    let addresses: Value = serde_json::from_str(&line).expect("JSON");
    assert!(addresses["grpc"].as_str().is_some_and(|address| address.starts_with("127.0.0.1:")), "{line}");
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
