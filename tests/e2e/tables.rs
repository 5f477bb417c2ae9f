//! `tidegauge load` on tables: what stands in a file stands in SQL, or the call or the row is refused by name.

use std::io::Write as _;
use std::path::Path;
use std::process::Output;

use arrow::util::display::array_value_to_string;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidegauge_client::Client;
use tidegauge_tests::{Server, ServerOptions, client};

use crate::published;

const TENANT: &str = "tenant-001";

struct Bench {
    folder: TempDir,
    server: Server,
    token: String,
}

/// What a load said: exit code, sums, messages.
type Said = (Option<i32>, Value, String);

impl Bench {
    fn start() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let server = Server::start(&folder.path().join("data"), &ServerOptions::quick());
        let token = server.token("admin", "admin", &[TENANT, "tenant-002"]);
        Self { folder, server, token }
    }

    fn load(&self, name: &str, content: impl AsRef<[u8]>, flags: &[&str]) -> Said {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).expect("writable");
        self.again(&path, flags)
    }

    fn again(&self, path: &Path, flags: &[&str]) -> Said {
        let path = path.display().to_string();
        let arguments = [&["load", &path, "-o", "json"], flags].concat();
        let Output { status, stdout, stderr } = self.server.cli(&self.token, &arguments);
        let said = String::from_utf8_lossy(&stderr).into_owned();
        (status.code(), serde_json::from_slice(&stdout).unwrap_or_default(), said)
    }

    async fn client(&self) -> Client {
        client(&self.server, &self.token, Some(TENANT)).await
    }
}

async fn rows(client: &Client, sql: &str) -> Vec<String> {
    published(client).await;
    let mut result = client.query(sql).await.expect("an answer");
    let mut rows = Vec::new();
    while let Some(batch) = result.next_batch().await.expect("a batch") {
        for row in 0..batch.num_rows() {
            let cells = batch.columns().iter().map(|column| array_value_to_string(column, row).expect("a text"));
            rows.push(cells.collect::<Vec<_>>().join(" "));
        }
    }
    rows
}

/// A time format is understood or refused before the first row; a row whose time is not is refused by name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_are_as_written_or_refused() {
    let bench = Bench::start();
    let load = |metric: &str, text: &str, format: &str, more: &[&str]| {
        let flags = ["--tenant", TENANT, "--metric", metric, "--time-column", "ts", "--time-format", format];
        bench.load(&format!("{metric}.csv"), format!("ts,value\n{text}"), &[&flags[..], more].concat())
    };
    for (format, told) in [
        ("%d/%m/%Y %I:%M:%S", "%I is an hour of a clock with twelve hours"),
        ("%Y-%m-%d %M:%S", "there is no hour"),
        ("%H:%M", "the date is incomplete"),
    ] {
        let (code, _, said) = load("no", "02/03/2026 07:08:09,1\n", format, &[]);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(told), "{said}");
    }
    let (code, _, said) = load("no", "1772435289,1\n", "unix", &["--time-zone", "Europe/Berlin"]);
    assert_eq!(code, Some(2), "{said}");
    for (metric, text, format, more) in [
        ("hour", "2026-03-02 07,1\n2026-03-02 23,2\n", "%Y-%m-%d %H", &[][..]),
        ("hour.offset", "2026030207-0500,1\n", "%Y%m%d%H%z", &[]),
        ("half", "03/02/2026 3 PM,1\n03/02/2026 11 AM,2\n", "%m/%d/%Y %I %p", &[]),
        ("local", "2026-07-02 07:08,1\n", "%Y-%m-%d %H:%M", &["--time-zone", "Europe/Berlin"]),
        ("fold", "2026-10-25 02:30,1\n", "%F %R", &["--time-zone", "Europe/Berlin", "--time-fold", "later"]),
        ("leap", "2016-12-31T23:59:60Z,1\n", "iso", &[]),
        ("leap.pattern", "2016-12-31 23:59:60,1\n", "%F %T", &[]),
    ] {
        let (code, _, said) = load(metric, text, format, more);
        assert_eq!(code, Some(0), "{format}: {said}");
    }
    let fractions = "2026-03-02 07:08:09.9,1\n2026-03-02 07:08:09.10,2\n2026-03-02 07:08:09.500000,3\n";
    let (code, _, said) = load("fraction", fractions, "%Y-%m-%d %H:%M:%S.%f", &[]);
    assert_eq!(code, Some(0), "{said}");
    let zones = "2026-03-02 07:08:09 EST,1\n2026-03-02 12:08:09 UTC,2\n2026-03-02 07:08:09 America/New_York,4\n";
    let (code, sums, said) = load("zone", zones, "%Y-%m-%d %H:%M:%S %Z", &[]);
    assert_eq!((code, &sums["accepted"], &sums["lines_without_event"]), (Some(1), &json!(2), &json!(1)), "{said}");
    assert!(said.contains("line 2: column ts: \"2026-03-02 07:08:09 EST\" has the name of a zone"), "{said}");
    let offsets = "2026-03-02T07:08:09+0000,1\n2026-03-02T07:08:09+2400,2\n2026-03-02T07:08:09+9959,3\n";
    let (code, sums, said) = load("offset", offsets, "%Y-%m-%dT%H:%M:%S%z", &[]);
    assert_eq!((code, &sums["accepted"], &sums["lines_without_event"]), (Some(1), &json!(1), &json!(2)), "{said}");
    let (code, _, said) =
        load("no", "2026-10-25 02:30,1\n2026-03-29 02:30,2\n", "%F %R", &["--time-zone", "Europe/Berlin"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("comes twice in Europe/Berlin") && said.contains("does not exist in Europe/Berlin"),
        "{said}"
    );

    let sql = "SELECT metric_name, CAST(window_start AS VARCHAR) AS s, sum_value FROM dashboard_metrics ORDER BY 1, 2";
    assert_eq!(
        rows(&bench.client().await, sql).await,
        [
            "fold 2026-10-25T01:30:00 1.0",
            "fraction 2026-03-02T07:08:00 6.0",
            "half 2026-03-02T11:00:00 2.0",
            "half 2026-03-02T15:00:00 1.0",
            "hour 2026-03-02T07:00:00 1.0",
            "hour 2026-03-02T23:00:00 2.0",
            "hour.offset 2026-03-02T12:00:00 1.0",
            "leap 2017-01-01T00:00:00 1.0",
            "leap.pattern 2017-01-01T00:00:00 1.0",
            "local 2026-07-02T05:08:00 1.0",
            "offset 2026-03-02T07:08:00 1.0",
            "zone 2026-03-02T12:08:00 6.0",
        ]
    );
    let sql = "SELECT last_value FROM dashboard_metrics WHERE metric_name = 'fraction'";
    assert_eq!(rows(&bench.client().await, sql).await, ["1.0"], "nine tenths are the last of the second");
}

/// Gaps, long tables, tabs, decimal commas and packed files give what stands in them, once; what is unclear is a wrong call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_are_as_written_or_refused() {
    let bench = Bench::start();
    let ours = ["--tenant", TENANT];
    let with = |flags: &[&'static str]| [&ours[..], flags].concat();

    let station = "timestamp,station,temp,wind\n2026-03-02T07:00:00Z,ridge,10,3.5\n2026-03-02T07:01:00Z,ridge,11,\n\
                   2026-03-02T07:02:00Z,ridge,,\n2026-03-02T07:03:00Z,ridge,x,4\n";
    let flags = with(&["--value-column", "temp", "--value-column", "wind", "--dimension", "station=station"]);
    for before in [0, 3] {
        let (code, sums, said) = bench.load("station.csv", station, &flags);
        assert_eq!((code, &sums["accepted"], &sums["empty_cells"]), (Some(1), &json!(3), &json!(3)), "{said}");
        assert_eq!((&sums["lines_without_event"], &sums["loaded_before"]), (&json!(1), &json!(before)), "{said}");
        assert!(said.contains("line 5: column temp: \"x\" is no finite number"), "{said}");
    }

    let long = "timestamp,who,metric,host,value\n2026-03-02T07:08:09Z,tenant-001,long.cpu,a,10\n\
                2026-03-02T07:08:09Z,tenant-001,long.mem,a,2000\n2026-03-02T07:08:09Z,tenant-002,long.mem,a,7\n";
    let (code, _, said) = bench.load("long.csv", long, &with(&["--metric", "metric"]));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--metric-column metric") && said.contains("--metric-name metric"), "{said}");
    let flags = ["--metric-column", "metric", "--tenant-column", "who", "--dimension", "host=host"];
    let (code, sums, said) = bench.load("long.csv", long, &flags);
    assert_eq!((code, &sums["accepted"]), (Some(0), &json!(3)), "{said}");

    let twice = "timestamp,value,value\n2026-03-02T07:08:09Z,1,100\n";
    for flags in [&["--metric", "no"][..], &["--value-column", "timestamp", "--value-column", "timestamp"]] {
        let (code, _, said) = bench.load("twice.csv", twice, &with(flags));
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("stands twice"), "{said}");
    }

    let tabs = "timestamp\tvalue\n2026-03-02T07:08:09Z\t1\n2026-03-02T07:08:10Z\t2\n";
    for (name, flags) in
        [("cpu.tsv", &["--metric", "tabs"][..]), ("cpu.txt", &["--metric", "tabs", "--delimiter", "\\t"])]
    {
        let (code, sums, said) = bench.load(name, tabs, &with(flags));
        // The same content, read the same way, is the same load.
        assert_eq!((code, &sums["accepted"]), (Some(0), &json!(2)), "{said}");
    }
    let event = r#"{"event_type":"m","timestamp":"2026-03-02T07:08:09Z","source":"","version":"","payload":{"tenant_id":"tenant-001","metric_name":"no","metric_value":1}}"#;
    for flags in [&["--metric", "x"][..], &["--format", "ndjson", "--event-type", "x"]] {
        let (code, _, said) = bench.load("events.ndjson", event, &with(flags));
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("does not apply"), "{said}");
    }

    let haus = "sep=;\r\nZeit;Wert\r\n02.03.2026 07:08:09;19,5\r\n02.03.2026 07:09:09;1.234,5\r\n";
    let flags = with(&["--metric", "haus", "--time-column", "Zeit", "--time-format", "%d.%m.%Y %H:%M:%S"]);
    let flags = [&flags[..], &["--value-column", "Wert", "--decimal", ","]].concat();
    let (code, _, said) = bench.load("haus.csv", haus, &[&flags[..], &["--delimiter", ","]].concat());
    assert_eq!(code, Some(2), "{said}");
    let rejects = bench.folder.path().join("rejects.csv");
    let (code, sums, said) =
        bench.load("haus.csv", haus, &[&flags[..], &["--rejects", &rejects.display().to_string()]].concat());
    assert_eq!((code, &sums["accepted"]), (Some(1), &json!(1)), "{said}");
    let (code, sums, said) = bench.again(&rejects, &[&flags[..], &["--thousands", "."]].concat());
    assert_eq!((code, &sums["accepted"]), (Some(0), &json!(1)), "what was refused is loaded as it stands: {said}");

    let table: String = (0..20_000).map(|i| format!("2026-03-02T07:{:02}:00Z,{i}\n", i % 60)).collect();
    let table = format!("timestamp,value\n{table}soon,1\n");
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(table.as_bytes()).expect("memory");
    let packed = encoder.finish().expect("memory");
    let flags = with(&["--metric", "packed"]);
    let (code, sums, said) = bench.load("packed.csv", &packed[..packed.len() / 2], &flags);
    assert_eq!((code, &sums), (Some(1), &Value::Null), "{said}");
    assert!(said.contains("the gzip file breaks off") && said.contains("nothing of it was sent"), "{said}");
    let rejects = bench.folder.path().join("packed-rejects.csv").display().to_string();
    for before in [0, 20_000] {
        let (code, sums, said) = bench.load("packed.csv", &packed, &[&flags[..], &["--rejects", &rejects]].concat());
        assert_eq!((code, &sums["accepted"]), (Some(1), &json!(20_000)), "{said}");
        assert_eq!(sums["loaded_before"], json!(before), "{said}");
        assert_eq!(std::fs::read_to_string(&rejects).expect("written"), "timestamp,value\nsoon,1\n");
    }

    let sql =
        "SELECT metric_name, SUM(event_count) AS n, SUM(sum_value) AS s FROM dashboard_metrics GROUP BY 1 ORDER BY 1";
    assert_eq!(
        rows(&bench.client().await, sql).await,
        [
            "haus 2 1254.0",
            "long.cpu 1 10.0",
            "long.mem 1 2000.0",
            "packed 20000 199990000.0",
            "tabs 2 3.0",
            "temp 2 21.0",
            "wind 1 3.5",
        ]
    );
}
