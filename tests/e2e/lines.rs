//! What goes in as lines and comes out as text: `load` and `emit` take the same lines, and every form of `query` prints the
//! same values.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use tidegauge_client::Client;
use tidegauge_tests::{Server, ServerOptions, binary, client};

use crate::published;

const TENANTS: [&str; 2] = ["tenant-001", "tenant-002"];
/// The byte order mark.
const MARK: &str = "\u{feff}";

struct Bench {
    folder: TempDir,
    server: Server,
    token: String,
    client: Client,
}

impl Bench {
    async fn new() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let server = Server::start(&folder.path().join("data"), &ServerOptions::quick());
        let token = server.token("admin", "admin", &TENANTS);
        let client = client(&server, &token, None).await;
        Self { folder, server, token, client }
    }

    /// Runs the command line with this on its standard input.
    fn run(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = Command::new(binary())
            .args(arguments)
            .env("TIDEGAUGE_ENDPOINT", self.server.endpoint())
            .env("TIDEGAUGE_TOKEN", &self.token)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        child.stdin.take().expect("standard input is piped").write_all(input).expect("all of it is read");
        child.wait_with_output().expect("the command ends")
    }

    /// Loads a file of this text: exit code, and sums.
    fn load(&self, name: &str, text: &[u8], more: &[&str]) -> (Option<i32>, Value) {
        let path = self.folder.path().join(name);
        fs::write(&path, text).expect("a file");
        let path = path.display().to_string();
        let output = Command::new(binary())
            .args([&["load", "-o", "json", &path], more].concat())
            .env("TIDEGAUGE_ENDPOINT", self.server.endpoint())
            .env("TIDEGAUGE_TOKEN", &self.token)
            .stdin(Stdio::null())
            .output()
            .expect("the binary runs");
        (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}")))
    }

    /// Sends this text with `emit`: exit code, and sums.
    fn emit(&self, text: &[u8]) -> (Option<i32>, Value) {
        let output = self.run(&["emit", "--backfill", "-o", "json"], text);
        (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}")))
    }

    /// What a query prints.
    fn query(&self, form: &str, sql: &str) -> String {
        let output = self.run(&["query", "--tenant", TENANTS[0], "-o", form, sql], b"");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    }
}

fn line(metric: &str, value: &str) -> String {
    format!(
        r#"{{"event_type":"m","timestamp":"2026-03-02T07:08:09Z","source":"s","version":"1","payload":{{"tenant_id":"{}","metric_name":"{metric}","metric_value":{value}}}}}"#,
        TENANTS[0]
    )
}

/// A file of lines that two readers could see differently counts the same, whoever sends it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_and_emit_take_the_same_lines() {
    let bench = Bench::new().await;
    let good = line("m", "0.1");
    let with = |part: &str, by: &str| {
        assert_eq!(good.matches(part).count(), 1, "{part}");
        good.replace(part, by)
    };
    let unknown = |value: &str| good.replacen('{', &format!("{{\"x\":{value},"), 1);
    let lines = [
        good.clone(),
        format!("{MARK}{good}\r"),
        format!("{MARK}{MARK} {good}"),
        MARK.to_owned(),
        " \t\r".to_owned(),
        "\u{a0}".to_owned(),
        "\u{3000}".to_owned(),
        with(":0.1", ":1E5"),
        with(":0.1", ":-0"),
        with(":0.1", ":1e400"),
        with(":0.1", ":+1"),
        with(":0.1", ":01"),
        with(":0.1", ":NaN"),
        with(":0.1", ":123456789012345678901234567890"),
        with("T07:08:09Z", "t07:08:09z"),
        with("T07:08:09Z", " 07:08:09.1234567891+01:00"),
        with("T07:08:09Z", "T07:08:60Z"),
        with("\"s\"", "\"\\ud83d\\ude00\""),
        with("\"s\"", "\"\\ud83d\""),
        with("\"s\"", "\"\u{0}\""),
        with("\"s\"", "\"s\",\"source\":\"s\""),
        with(":0.1", ":1,\"dimensions\":{\"a\":\"b\",\"a\":\"b\"}"),
        with(":0.1", ":1,\"dimensions\":{\"a\":1}"),
        with(":0.1", ":1,\"dimensions\":\"eu\""),
        with("\"tenant-001\"", "\"\""),
        unknown("\"\\ud800\""),
        unknown("\"\\u00zz\""),
        unknown("[1,]"),
        unknown(&format!("\"{}\"", "y".repeat(300_000))),
        unknown(&format!("{}{}", "[".repeat(300_000), "]".repeat(300_000))),
        r#"["m","2026-03-02T07:08:09Z","s","1",["tenant-001","m",1,{}]]"#.to_owned(),
        "nonsense".to_owned(),
    ];
    let mut text = lines.join("\n").into_bytes();
    text.extend(b"\n\"\xFF\"\n");
    let other = String::from_utf8_lossy(&text).replace(TENANTS[0], TENANTS[1]).replace('\u{fffd}', "\u{0}");

    let (code, loaded) = bench.load("lines.ndjson", &text, &[]);
    let (emit_code, emitted) = bench.emit(other.as_bytes());
    assert_eq!((code, emit_code), (Some(1), Some(1)), "{loaded} {emitted}");
    assert_eq!((&loaded["accepted"], &emitted["accepted"]), (&json!(13), &json!(13)), "{loaded} {emitted}");
    assert_eq!(
        (&loaded["lines_without_event"], &loaded["refused"], &emitted["refused"]),
        (&json!(18), &json!(0), &json!(18)),
        "{loaded} {emitted}"
    );
    published(&bench.client).await;
    let sums = |tenant: &str| {
        let sql = "SELECT event_count, sum_value, min_value, max_value, last_time FROM dashboard_metrics ORDER BY window_start";
        let output = bench.run(&["query", "--tenant", tenant, "-o", "csv", sql], b"");
        assert!(output.status.success(), "{output:?}");
        // An event as a message of its own, which `emit` sends, loses the sign of a zero: the encoder takes it for absent.
        String::from_utf8(output.stdout).expect("text").replace(",-0.0,", ",0.0,")
    };
    assert_eq!(sums(TENANTS[0]), sums(TENANTS[1]));
    assert_eq!(sums(TENANTS[0]).lines().count(), 3, "a window an hour earlier, too");
}

/// Marks stand at the start of files, twice after some editors, and within files that were joined.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn byte_order_marks_are_skipped() {
    let bench = Bench::new().await;
    let two = format!("{MARK}{MARK}{}\n", line("two", "1"));
    let joined = format!("{MARK}{}\n{MARK}{}\n", line("joined", "1"), line("joined", "2"));
    let table = format!("{MARK}{MARK}timestamp,value\n{MARK}2026-03-02T07:08:09Z,1\n\"2026-03-02T07:08:10Z\",2\n");
    let quoted = format!("{MARK}\"timestamp\",\"value\"\r\n\"2026-03-02T07:08:09Z\",\"1\"\r\n");
    let csv = ["--tenant", TENANTS[0], "--metric", "table"];
    for (name, text, flags, events) in [
        ("two.ndjson", &two, &[][..], 1),
        ("joined.ndjson", &joined, &[], 2),
        ("two.csv", &table, &csv, 2),
        ("quoted.csv", &quoted, &csv, 1),
    ] {
        let (code, sums) = bench.load(name, text.as_bytes(), flags);
        assert_eq!((code, &sums["accepted"]), (Some(0), &json!(events)), "{name}: {sums}");
    }
    for (text, events) in [(&two, 1), (&joined, 2)] {
        let (code, sums) = bench.emit(text.as_bytes());
        assert_eq!((code, &sums["accepted"], &sums["refused"]), (Some(0), &json!(events), &json!(0)), "{sums}");
    }
}

/// Times have their zone, numbers that are none are words, and no value is no empty text, in every form.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forms_print_the_same_values() {
    let bench = Bench::new().await;
    assert_eq!(bench.emit(line("m", "0.30000000000000004").as_bytes()).0, Some(0));
    published(&bench.client).await;
    let sql = "SELECT window_start, last_time, sum_value, CAST('Infinity' AS DOUBLE) AS high, \
               CAST('-Infinity' AS DOUBLE) AS low, CAST('NaN' AS DOUBLE) AS none, '' AS empty, \
               CAST(NULL AS VARCHAR) AS nothing, date_trunc('day', window_start) AS day FROM dashboard_metrics";
    let header = "window_start,last_time,sum_value,high,low,none,empty,nothing,day";
    let values = "2026-03-02T07:08:00Z,2026-03-02T07:08:09Z,0.30000000000000004,Infinity,-Infinity,NaN";
    let day = "2026-03-02T00:00:00Z";
    assert_eq!(bench.query("csv", sql), format!("{header}\n{values},\"\",,{day}\n"));
    let expected = json!({"window_start": "2026-03-02T07:08:00Z", "last_time": "2026-03-02T07:08:09Z",
        "sum_value": 0.300_000_000_000_000_04, "high": "Infinity", "low": "-Infinity", "none": "NaN", "empty": "",
        "nothing": null, "day": day});
    assert_eq!(serde_json::from_str::<Value>(&bench.query("json", sql)).expect("JSON"), expected);
    let table = bench.query("table", sql);
    let cells: Vec<&str> = table.lines().nth(1).expect("a row").split_whitespace().collect();
    assert_eq!(cells, format!("{values},{day}").split(',').collect::<Vec<_>>());
    let output = bench.run(&["watch", "--tenant", TENANTS[0], "--once", "-o", "lines"], b"");
    let watched = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(watched.contains("  m  0.30000000000000004  (1 event)"), "{watched}");
}
