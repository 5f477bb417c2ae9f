//! `tidegauge load` to the end in spite of everything (I2): the loader dies mid-way and goes on from its state file, the
//! server dies under it, a loader begins again without any state. The sums are the file's own, every line that was
//! not taken is counted, named and kept.
//!
//! The server's quota makes loads long enough to be killed: a bucket holds one second, so each chunk of a tenant
//! waits for the one before it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use arrow::array::{Array as _, Float64Array, Int64Array};
use arrow::util::display::array_value_to_string;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidegauge_client::Client;
use tidegauge_core::time::{MINUTE_NS, rfc3339};
use tidegauge_tests::{Server, ServerOptions, binary, client, wait};

use crate::{now_ns, published, verified};

/// Tenants of the NDJSON file and their lines: eight chunks, three, and less than one.
const TENANTS: [(&str, usize); 3] = [("tenant-001", 80_000), ("tenant-002", 25_000), ("tenant-003", 5_000)];
/// Tenant and rows of the CSV file: five chunks.
const TABLE: (&str, usize) = ("tenant-004", 50_000);
/// Events a second that a tenant may publish while loaders are to be killed: a chunk a second.
const SLOWLY: &str = "10000";

/// Events and the sum of their values, by tenant and metric. Values are eighths, so sums are exact.
type Sums = BTreeMap<(String, String), (u64, f64)>;

/// The NDJSON file and what was put into it that is no event.
struct Lines {
    path: PathBuf,
    /// Lines without an event that the server could get, by number (from 1).
    unreadable: BTreeMap<usize, String>,
    /// Events that the server refuses.
    refused: BTreeMap<usize, String>,
}

fn event_line(tenant: &str, metric: &str, value: f64, time_ns: i64) -> String {
    let payload =
        json!({"tenant_id": tenant, "metric_name": metric, "metric_value": value, "dimensions": {"host": "h1"}});
    let timestamp = rfc3339(time_ns);
    json!({"event_type": "measurement", "timestamp": timestamp, "source": "t", "version": "1", "payload": payload})
        .to_string()
}

impl Lines {
    /// An hour that ended ten minutes ago, in its order but for late lines; every tenth line stands there twice.
    fn write(path: PathBuf) -> Self {
        let now = now_ns();
        let start = now - 70 * MINUTE_NS;
        let good = event_line("tenant-001", "m1", 1.0, start);
        let unreadable = [
            "not an event".to_owned(),
            good[..good.len() / 2].to_owned(),
            good.replace("1.0", "\"a number\""),
            good.replace("\"m1\"", "\"\""),
            good.replace("tenant-001", "Tenant 1"),
            good.replace("timestamp", "time"),
        ];
        let refused = [event_line("tenant-001", "m1", 1.0, now + 600 * MINUTE_NS)];
        let total: usize = TENANTS.iter().map(|(_, lines)| lines).sum();
        let mut lines = Self { path, unreadable: BTreeMap::new(), refused: BTreeMap::new() };
        let mut out = BufWriter::new(File::create(&lines.path).expect("a file"));
        let mut number = 0;
        let mut add = |text: &str| {
            number += 1;
            writeln!(out, "{text}").expect("written");
            number
        };
        let mut left = TENANTS.map(|(_, lines)| lines);
        let mut kinds = unreadable.into_iter().map(|text| (true, text)).chain(refused.map(|text| (false, text)));
        let mut before = String::new();
        for i in 0..total {
            // The tenant with the greatest share left, so that all of them go through the whole file.
            let share = |t: usize| left[t] as f64 / TENANTS[t].1 as f64;
            let tenant = (0..TENANTS.len()).max_by(|a, b| share(*a).total_cmp(&share(*b))).expect("tenants");
            left[tenant] -= 1;
            let lateness = if i % 50 == 7 { 20 * MINUTE_NS } else { 0 };
            let time = start + 60 * MINUTE_NS * i as i64 / total as i64 - lateness;
            // What stands there twice counts twice: it is the place in the file that makes an event.
            if i % 10 != 9 || !before.contains(TENANTS[tenant].0) {
                let value = (i % 1_000) as f64 / 8.0 - 20.0;
                before = event_line(TENANTS[tenant].0, &format!("m{}", i % 5), value, time);
            }
            add(&before);
            if i % 14_000 == 11
                && let Some((is_unreadable, text)) = kinds.next()
            {
                let place = add(&text);
                if is_unreadable { &mut lines.unreadable } else { &mut lines.refused }.insert(place, text);
            }
        }
        assert_eq!(kinds.next(), None, "the file is too short for every kind of bad line");
        out.flush().expect("written");
        lines
    }

    /// The file's own sums, line by line.
    fn sums(&self) -> Sums {
        let mut sums = Sums::new();
        for (number, line) in (1..).zip(BufReader::new(File::open(&self.path).expect("written above")).lines()) {
            if self.unreadable.contains_key(&number) || self.refused.contains_key(&number) {
                continue;
            }
            let event: Value = serde_json::from_str(&line.expect("text")).expect("JSON");
            let payload = &event["payload"];
            let text = |name: &str| payload[name].as_str().expect("a text").to_owned();
            let sum = sums.entry((text("tenant_id"), text("metric_name"))).or_default();
            sum.0 += 1;
            sum.1 += payload["metric_value"].as_f64().expect("a number");
        }
        sums
    }
}

/// A table of one series with a column that means nothing.
fn write_table(path: &Path) {
    let start = now_ns() - 48 * 60 * MINUTE_NS;
    let mut out = BufWriter::new(File::create(path).expect("a file"));
    writeln!(out, "host,measured at,note,celsius").expect("written");
    for row in 0..TABLE.1 {
        let time = rfc3339(start + row as i64 * MINUTE_NS / 20);
        writeln!(out, "h{},{time},\"a, b\",{}", row % 3, (row % 800) as f64 / 8.0).expect("written");
    }
    out.flush().expect("written");
}

/// The table's own sums, by what stands in its last column.
fn table_sums(path: &Path) -> Sums {
    let text = fs::read_to_string(path).expect("written above");
    let values = text.lines().skip(1).map(|line| {
        let value = line.rsplit(',').next().expect("a column");
        value.parse::<f64>().expect("a number")
    });
    let (count, sum) = values.fold((0, 0.0), |(count, sum), value| (count + 1, sum + value));
    [((TABLE.0.to_owned(), "temperature".to_owned()), (count, sum))].into()
}

/// A `tidegauge load` under way.
struct Loader {
    child: Child,
    state: PathBuf,
    output: PathBuf,
    errors: PathBuf,
}

impl Loader {
    fn start(server: &Server, token: &str, state: &Path, arguments: &[&str]) -> Self {
        let beside = |name: &str| state.with_extension(name);
        let (output, errors) = (beside("out"), beside("err"));
        let child = Command::new(binary())
            .args(["load", "-o", "json", "--state"])
            .arg(state)
            .args(arguments)
            .env("TIDEGAUGE_ENDPOINT", server.endpoint())
            .env("TIDEGAUGE_TOKEN", token)
            .stdin(Stdio::null())
            .stdout(File::create(&output).expect("a file"))
            .stderr(File::create(&errors).expect("a file"))
            .spawn()
            .expect("the binary runs");
        Self { child, state: state.to_owned(), output, errors }
    }

    /// Waits until more than `known` chunks are acknowledged by the state file; how many are.
    async fn acknowledged(&mut self, known: usize) -> usize {
        let (state, errors, child) = (self.state.clone(), self.errors.clone(), &mut self.child);
        let mut ended = move || child.try_wait().expect("a child can be asked");
        wait::until("the state file to say more", || {
            let (chunks, ended) = (chunks(&state), ended());
            let errors = || fs::read_to_string(&errors).unwrap_or_default();
            assert_eq!(ended, None, "the load was over before it could be killed: {}", errors());
            std::future::ready(if chunks > known { Ok(chunks) } else { Err(format!("{chunks} chunks: {}", errors())) })
        })
        .await
    }

    /// kill -9; what it had said.
    fn kill(mut self) -> String {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a killed child ends");
        fs::read_to_string(&self.errors).expect("text")
    }

    /// Waits for its end: status, sums, what it said.
    fn finish(mut self) -> (ExitStatus, Value, String) {
        let status = self.child.wait().expect("a child can be awaited");
        let errors = fs::read_to_string(&self.errors).expect("text");
        let sums = fs::read_to_string(&self.output).expect("text");
        let sums: Value = serde_json::from_str(&sums).unwrap_or_else(|e| panic!("{e}: {sums:?}, {status}: {errors}"));
        // What was finished leaves nothing to resume, and a word that it was where lines were refused and nobody allowed that.
        assert_eq!((self.state.exists(), chunks(&self.state)), (!status.success(), 0), "{sums}");
        (status, sums, errors)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Chunks that a state file calls acknowledged.
fn chunks(state: &Path) -> usize {
    let text = fs::read_to_string(state).unwrap_or_default();
    let entries = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    entries.filter(|entry| entry["sequence"].is_u64()).count()
}

/// Sums by tenant and metric, as SQL says them.
async fn answered(client: &Client) -> Sums {
    let sql = "SELECT tenant_id, metric_name, CAST(SUM(event_count) AS BIGINT), SUM(sum_value) FROM dashboard_metrics \
               GROUP BY tenant_id, metric_name";
    let mut sums = Sums::new();
    for batch in client.query(sql).await.expect("an answer").collect().await.expect("rows") {
        let counts = batch.column(2).as_any().downcast_ref::<Int64Array>().expect("BIGINT");
        let values = batch.column(3).as_any().downcast_ref::<Float64Array>().expect("DOUBLE");
        for row in 0..batch.num_rows() {
            let text = |column: usize| array_value_to_string(batch.column(column), row).expect("text");
            let known = sums.insert((text(0), text(1)), (counts.value(row) as u64, values.value(row)));
            assert_eq!(known, None, "{batch:?}");
        }
    }
    sums
}

/// Starts the server again where it was. The port is free but for a moment in which something else may have been given it.
async fn again(data: &Path, options: &ServerOptions) -> Server {
    wait::until("the server to be back", || std::future::ready(Server::try_start(data, options))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_is_exact_through_every_kill() {
    let folder = TempDir::new().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    let data = at("data");
    let lines = Lines::write(at("events.ndjson"));
    let (file, table) = (lines.path.display().to_string(), at("table.csv").display().to_string());
    write_table(Path::new(&table));
    let slow = ServerOptions::quick().set("TIDEGAUGE_QUOTA_EVENTS_PER_SECOND", SLOWLY);
    let server = Server::start(&data, &slow);
    let tenants: Vec<&str> = TENANTS.iter().map(|(tenant, _)| *tenant).chain([TABLE.0]).collect();
    let token = server.token("loader", "admin", &tenants);
    let rejects = at("rejects").display().to_string();
    let ndjson = [file.as_str(), "--live", "--rejects", &rejects];

    // The loader dies, and goes on from its state file.
    let state = at("state");
    let mut loader = Loader::start(&server, &token, &state, &ndjson);
    let done = loader.acknowledged(0).await;
    let said_first = loader.kill();
    let mut loader = Loader::start(&server, &token, &state, &[&ndjson[..], &["--allow-rejects"]].concat());
    loader.acknowledged(done).await;
    // The server dies under it, and comes back; the loader sees it through.
    let address = server.grpc.clone();
    server.kill();
    let server = again(&data, &ServerOptions::quick().at(&address)).await;
    let (status, sums, said) = loader.finish();
    assert!(status.success(), "{status}: {said}");
    let resumed = said.lines().any(|line| line.contains("resuming after"));
    assert!(resumed, "it began at the beginning: {said}");
    let expected = lines.sums();
    let events: u64 = expected.values().map(|(count, _)| count).sum();
    let taken =
        |sums: &Value| ["accepted", "lines_without_event", "refused", "not_sent"].map(|name| sums[name].as_u64());
    let all = [events, lines.unreadable.len() as u64, lines.refused.len() as u64, 0].map(Some);
    assert_eq!(taken(&sums), all, "{sums}");
    for number in lines.unreadable.keys().chain(lines.refused.keys()) {
        let named = format!("line {number}: ");
        assert!([&said_first, &said].iter().any(|said| said.contains(&named)), "{named}{said_first}\n{said}");
    }
    let mut kept: Vec<String> = fs::read_to_string(&rejects).expect("text").lines().map(str::to_owned).collect();
    let mut bad: Vec<String> = lines.unreadable.values().chain(lines.refused.values()).cloned().collect();
    kept.sort();
    bad.sort();
    assert_eq!(kept, bad, "each line that was not taken is kept, once");

    // A loader without a state, which dies as well, and a table; then everything once more from the beginning.
    server.kill();
    let server = Server::start(&data, &slow);
    let mut loader = Loader::start(&server, &token, &at("forgotten"), &ndjson[..2]);
    let columns = ["--time-column", "measured at", "--value-column", "celsius", "--dimension", "host=host"];
    let csv = [&[table.as_str(), "--tenant", TABLE.0, "--metric", "temperature"][..], &columns].concat();
    let mut of_table = Loader::start(&server, &token, &at("table"), &csv);
    loader.acknowledged(0).await;
    loader.kill();
    fs::remove_file(at("forgotten")).expect("a state");
    of_table.acknowledged(0).await;
    of_table.kill();
    server.kill();
    let server = Server::start(&data, &ServerOptions::quick());
    let (status, sums, said) = Loader::start(&server, &token, &at("forgotten"), &ndjson[..2]).finish();
    assert_eq!(status.code(), Some(1), "lines were refused, and nobody allowed that: {said}");
    assert!(said.contains("not every line was taken"), "{said}");
    assert_eq!(taken(&sums), all, "{sums}");
    let (status, sums, said) = Loader::start(&server, &token, &at("table"), &csv).finish();
    assert!(status.success(), "{status}: {said}");
    assert_eq!(taken(&sums), [TABLE.1 as u64, 0, 0, 0].map(Some), "{sums}");

    let everything = client(&server, &token, None).await;
    published(&everything).await;
    let mut expected = expected;
    expected.extend(table_sums(Path::new(&table)));
    assert_eq!(answered(&everything).await, expected);
    let status = everything.status().await.expect("a status");
    assert_eq!(status.keys.iter().map(|key| key.tenant_id.as_str()).collect::<Vec<_>>(), tenants);
    for key in &status.keys {
        let counters = key.counters.expect("counters");
        let of_tenant = expected.iter().filter(|((tenant, _), _)| *tenant == key.tenant_id);
        let events: u64 = of_tenant.map(|(_, (count, _))| count).sum();
        let added = counters.on_time + counters.late + counters.backfilled;
        assert_eq!((added, counters.dead), (events, 0), "{key:?}");
        assert_eq!(counters.on_log, added + counters.duplicates, "{key:?}");
        let is_table = key.tenant_id == TABLE.0;
        assert_eq!(counters.backfilled, if is_table { events } else { 0 }, "{key:?}");
        // Nothing is late in the only chunk of the smallest: before it there is no watermark.
        let has_late = counters.late > 0 || key.tenant_id == TENANTS[2].0;
        assert!(is_table || has_late && counters.duplicates >= events, "too easy: {key:?}");
    }
    let (status, log) = server.terminate();
    assert!(status.success(), "{status}:\n{log}");
    verified(&data);
}
