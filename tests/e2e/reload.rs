//! Files that are loaded again after they were changed, corrected or have grown (I2): a file counts once, another content is
//! another file, and whoever would count lines twice by correcting a file is told before.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use tidegauge_client::Client;
use tidegauge_core::time::rfc3339;
use tidegauge_tests::{Server, ServerOptions, binary, client};

use crate::{count, published};

const TENANT: &str = "tenant-001";
/// 2 March 2026.
const START_NS: i64 = 1_772_409_600_000_000_000;

/// A server, and `tidegauge load` against it.
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
        let token = server.token("loader", "admin", &[TENANT]);
        let client = client(&server, &token, None).await;
        Self { folder, server, token, client }
    }

    /// Writes a file; its path.
    fn write(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        fs::write(&path, text).expect("a file");
        path.display().to_string()
    }

    /// Loads: exit code, sums (null without any), what was said.
    fn load(&self, arguments: &[&str]) -> (i32, Value, String) {
        let output = Command::new(binary())
            .args(["load", "-o", "json"])
            .args(arguments)
            .env("TIDEGAUGE_ENDPOINT", self.server.endpoint())
            .env("TIDEGAUGE_TOKEN", &self.token)
            .stdin(Stdio::null())
            .output()
            .expect("the binary runs");
        let sums = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code().expect("a code"), sums, String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Events of a metric in SQL, when all is published.
    async fn events(&self, metric: &str) -> u64 {
        published(&self.client).await;
        let sql = format!(
            "SELECT CAST(COALESCE(SUM(event_count), 0) AS BIGINT) AS n FROM dashboard_metrics WHERE metric_name = '{metric}'"
        );
        count(&self.client, &sql).await.expect("an answer").sum
    }

    /// Events that are dead letters.
    async fn dead(&self) -> u64 {
        let status = self.client.status().await.expect("a status");
        status.keys.iter().filter_map(|key| key.counters).map(|counters| counters.dead).sum()
    }
}

fn line(metric: &str, number: i64) -> String {
    let payload = json!({"tenant_id": TENANT, "metric_name": metric, "metric_value": 1.0});
    let timestamp = rfc3339(START_NS + number * 1_000_000);
    let event = json!({"event_type": "m", "timestamp": timestamp, "source": "s", "version": "1", "payload": payload});
    format!("{event}\n")
}

fn state_of(file: &str) -> String {
    format!("{file}.tidegauge-load")
}

/// A file that was changed in its middle and kept its length is another file: nothing of it is taken for what the server
/// has had, and nothing of it is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_in_the_middle_is_another_file() {
    const LINES: i64 = 30_000;
    let bench = Bench::new().await;
    let text: String = (0..LINES).map(|number| line("before", number)).collect();
    let file = bench.write("events.ndjson", &text);
    for again in [0, LINES] {
        let (code, sums, said) = bench.load(&[&file]);
        assert_eq!((code, &sums["accepted"], &sums["loaded_before"]), (0, &json!(LINES), &json!(again)), "{said}");
    }
    assert!(!Path::new(&state_of(&file)).exists(), "a load without refusals leaves nothing behind");
    assert_eq!(bench.events("before").await, LINES as u64);

    // Far from both ends.
    let middle = (0..LINES).map(|number| line(if number == LINES / 2 { "behind" } else { "before" }, number));
    let changed = middle.collect::<String>();
    assert_eq!(changed.len(), text.len());
    bench.write("events.ndjson", &changed);
    let (code, sums, said) = bench.load(&[&file]);
    assert_eq!((code, &sums["accepted"], &sums["loaded_before"]), (0, &json!(LINES), &json!(0)), "{said}");
    assert_eq!((bench.events("behind").await, bench.events("before").await), (1, 2 * LINES as u64 - 1));
    assert_eq!(bench.dead().await, 0);
}

/// A file with a refused line is corrected and loaded again: that would count the others twice, and is told before anything
/// is sent. The file as it was can be loaded again, and so can the corrected one by those who mean it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_corrected_file_is_not_loaded_by_accident() {
    let bench = Bench::new().await;
    let bad = line("fixed", 1).replace("1.0", "NaN");
    let file = bench.write("events.ndjson", &format!("{}{bad}", line("fixed", 0)));
    for again in [0, 1] {
        let (code, sums, said) = bench.load(&[&file]);
        assert_eq!((code, &sums["accepted"], &sums["loaded_before"]), (1, &json!(1), &json!(again)), "{said}");
        assert!(said.contains("line 2: "), "{said}");
    }
    bench.write("events.ndjson", &format!("{}{}", line("fixed", 0), line("fixed", 1)));
    let (code, sums, said) = bench.load(&[&file]);
    assert_eq!((code, sums), (1, Value::Null), "{said}");
    for word in ["it has changed since 1 event of it", &state_of(&file), "would count again", "--as-new"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert_eq!(bench.events("fixed").await, 1);
    let (code, sums, said) = bench.load(&[&file, "--as-new"]);
    assert_eq!((code, &sums["accepted"]), (0, &json!(2)), "{said}");
    assert_eq!(bench.events("fixed").await, 3);
    assert!(!Path::new(&state_of(&file)).exists());
}

/// A stray quote costs its own row. The rejects of a table stand under its header, so that they can be corrected and loaded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stray_quote_costs_one_row() {
    let bench = Bench::new().await;
    let row = |number: i64, text: &str| format!("{},{text},1\r\n", rfc3339(START_NS + number * 1_000_000));
    for (name, stray) in [("unclosed", &[500][..]), ("closed", &[500, 700])] {
        let rows = (0..1_000).map(|number| match number {
            stray_row if stray.contains(&stray_row) => row(number, "\"oops"),
            7 => row(number, "\"two\r\nlines, \"\"quoted\"\"\""),
            _ => row(number, "plain"),
        });
        let text: String = std::iter::once("timestamp,note,value\r\n".to_owned()).chain(rows).collect();
        let file = bench.write(&format!("{name}.csv"), &text);
        let rejects = bench.folder.path().join(format!("{name}-rejects.csv")).display().to_string();
        let flags = ["--tenant", TENANT, "--metric", name];
        let (code, sums, said) = bench.load(&[&[&*file, "--rejects", &rejects], &flags[..]].concat());
        let (good, bad) = (1_000 - stray.len(), stray.len());
        assert_eq!((code, &sums["accepted"], &sums["lines_without_event"]), (1, &json!(good), &json!(bad)), "{said}");
        // One line of the header, and one more in the row of two lines.
        assert!(stray.iter().all(|number| said.contains(&format!("line {}: ", number + 3))), "{said}");
        let kept = fs::read_to_string(&rejects).expect("rejects");
        let expected: String = stray.iter().map(|number| row(*number, "\"oops").replace('\r', "")).collect();
        assert_eq!(kept, format!("timestamp,note,value\n{expected}"));

        fs::write(&rejects, kept.replace('"', "")).expect("a file");
        let (code, sums, said) = bench.load(&[&[&*rejects], &flags[..]].concat());
        assert_eq!((code, &sums["accepted"]), (0, &json!(bad)), "{said}");
        assert_eq!(bench.events(name).await, 1_000);
    }
    // A record that keeps the rules of quoting, and has a field too many: its text holds no rows.
    let inside = format!("\"hello\r\n{}bye\"", row(1, "plain"));
    let text = format!("timestamp,note,value\r\n{}{}", row(0, "plain"), row(0, &format!("{inside},1")));
    let (file, rejects) = (bench.write("text.csv", &text), bench.write("text-rejects.csv", ""));
    let (code, sums, said) = bench.load(&[&file, "--tenant", TENANT, "--metric", "text", "--rejects", &rejects]);
    assert_eq!((code, &sums["accepted"], &sums["lines_without_event"]), (1, &json!(1), &json!(1)), "{said}");
    let kept = fs::read_to_string(&rejects).expect("rejects");
    assert!(kept.contains("hello\r\n") && kept.trim_end().ends_with("bye\",1,1"), "{kept:?}");
    assert_eq!(bench.events("text").await, 1);

    let (code, _, said) = bench.load(&[&bench.write("other.csv", "a,b\n1,2\n"), "--tenant", TENANT]);
    assert!(code == 2 && said.contains("there is no column \"timestamp\""), "{said}");
    assert!(!bench.folder.path().join("other.csv.tidegauge-load").exists(), "nothing was begun");
}

/// A row with several values is taken as a whole or not at all, and kept once: whoever mends it counts none of them twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_several_values_are_whole() {
    let bench = Bench::new().await;
    let time = |number: i64| rfc3339(START_NS + number * 1_000_000);
    let far = "2031-01-01T00:00:00Z";
    let bad = [format!("{},1,x\n", time(1)), format!("{far},1,1\n")];
    let text = format!("timestamp,net,gross\n{},1,1\n{}{}", time(0), bad[0], bad[1]);
    let (file, rejects) = (bench.write("sales.csv", &text), bench.write("rejects.csv", ""));
    let columns = ["--tenant", TENANT, "--value-column", "net", "--value-column", "gross"];
    let (code, sums, said) = bench.load(&[&[&*file, "--rejects", &rejects], &columns[..]].concat());
    let counts = ["accepted", "lines_without_event", "refused"].map(|name| sums[name].as_u64());
    assert_eq!((code, counts), (1, [2, 1, 2].map(Some)), "{said}");
    let kept = fs::read_to_string(&rejects).expect("rejects");
    let mut lines: Vec<&str> = kept.split_inclusive('\n').collect();
    let header = lines.remove(0);
    lines.sort_unstable();
    assert_eq!((header, lines), ("timestamp,net,gross\n", vec![&*bad[0], &*bad[1]]));

    let again = [&[&*rejects, "--rejects", &*rejects], &columns[..]].concat();
    let (code, _, said) = bench.load(&again);
    assert!(code == 2 && said.contains("would be written over"), "{said}");
    assert_eq!(fs::read_to_string(&rejects).expect("rejects"), kept, "the file that is loaded is not touched");
    fs::write(&rejects, kept.replace(",x", ",1").replace(far, &time(2))).expect("a file");
    let (code, sums, said) = bench.load(&[&[&*rejects], &columns[..]].concat());
    assert_eq!((code, &sums["accepted"]), (0, &json!(4)), "{said}");
    assert_eq!((bench.events("net").await, bench.events("gross").await), (3, 3));
    assert_eq!(bench.dead().await, 0);
}
