//! Texts made to kill the process, or to fill it.

use std::time::Duration;

use tidegauge_core::ErrorKind;

use super::world::{World, key, options};
use crate::QueryOptions;

fn repeated(count: usize, part: impl Fn(usize) -> String, between: &str) -> String {
    (0..count).map(part).collect::<Vec<_>>().join(between)
}

/// The most memory that the process ever had, bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or_default() << 10
}

/// Proves that texts at the limits of length, terms and nesting are answered or refused, and leave a process that
/// serves: every one is followed by a query that must succeed.
#[tokio::test]
async fn killers_do_not_kill() {
    let time = Duration::from_secs(10);
    let world = World::with(QueryOptions { planning_time_max: time, ..options() });
    world.fill(&key("a"), 1).await;
    let from = "SELECT COUNT(*) FROM dashboard_metrics WHERE";
    let texts = [
        format!("{from} {}", repeated(300, |n| format!("metric_name = 'm{n}'"), " OR ")),
        format!("{from} {}", repeated(1_200, |n| format!("event_count = {n}"), " OR ")),
        format!("{from} {}", repeated(3_000, |n| format!("hour = {n}"), " OR ")),
        format!("{from} {}", repeated(1_200, |n| format!("event_count <> {n}"), " AND ")),
        format!("{from} event_count IN ({})", repeated(2_400, |n| n.to_string(), ", ")),
        format!("{from} month IN ({})", repeated(2_400, |n| format!("'{n:05}'"), ", ")),
        format!("{from} event_count < {}", repeated(2_400, |n| n.to_string(), " + ")),
        format!("SELECT {} FROM dashboard_metrics", repeated(1_500, |_| "metric_name".to_owned(), " || ")),
        format!("{from} {}true", "NOT ".repeat(110)),
        format!("{from} {}true", "NOT ".repeat(4_000)),
        format!("SELECT {}1", "- ".repeat(4_000)),
        format!("SELECT {}1{}", "(".repeat(49), ")".repeat(49)),
        format!("SELECT {}1{}", "(".repeat(30_000), ")".repeat(30_000)),
        format!("SELECT {}1{}", "CASE WHEN 1=1 THEN ".repeat(49), " END".repeat(49)),
        format!("SELECT {}1{}", "abs(".repeat(49), ")".repeat(49)),
        format!("SELECT {}1{}", "[".repeat(49), "]".repeat(49)),
        format!("SELECT * FROM {}dashboard_metrics{}", "(SELECT * FROM ".repeat(49), ")".repeat(49)),
        repeated(1_600, |n| format!("SELECT {n}"), " UNION ALL "),
        repeated(200, |_| "SELECT event_count FROM dashboard_metrics".to_owned(), " UNION ALL "),
        repeated(200, |_| "SELECT event_count FROM dashboard_metrics".to_owned(), " INTERSECT "),
        format!("SELECT COUNT(*) FROM {}", repeated(12, |n| format!("dashboard_metrics t{n}"), " NATURAL JOIN ")),
        format!("WITH {} SELECT * FROM c39", {
            let next = |n: usize| match n {
                0 => "c0 AS (SELECT 'x' AS s)".to_owned(),
                n => format!("c{n} AS (SELECT concat(s, s) AS s FROM c{})", n - 1),
            };
            repeated(40, next, ", ")
        }),
        format!("WITH {} SELECT * FROM c39", {
            let next = |n: usize| match n {
                0 => "c0 AS (SELECT 'xxxxxxxx' AS s)".to_owned(),
                n => format!("c{n} AS (SELECT s || s || s || s AS s FROM c{})", n - 1),
            };
            repeated(40, next, ", ")
        }),
        format!(
            "SELECT {}metric_name{} FROM dashboard_metrics",
            "replace(".repeat(40),
            ", 'p', 'pppppppppppppppp')".repeat(40)
        ),
        format!(
            "SELECT length({}) FROM (SELECT '{}' AS s)",
            repeated(1_000, |_| "s".to_owned(), " || "),
            "x".repeat(16_000)
        ),
        format!("SELECT concat_ws('{}', {})", "x".repeat(16_000), repeated(2_000, |n| n.to_string(), ",")),
        format!("SELECT {}make_array(1){}", "array_concat(make_array(1,2,3,4,5,6,7,8), ".repeat(40), ")".repeat(40)),
        format!("WITH {} SELECT array_length(l) FROM c9", {
            let next = |n: usize| match n {
                0 => "c0 AS (SELECT make_array(1,2,3,4,5,6,7,8) AS l)".to_owned(),
                n => format!("c{n} AS (SELECT array_concat(l,l,l,l,l,l,l,l) AS l FROM c{})", n - 1),
            };
            repeated(10, next, ", ")
        }),
        format!(
            "SELECT COUNT(*) FROM dashboard_metrics GROUP BY {}",
            repeated(1_000, |n| format!("event_count + {n}"), ", ")
        ),
        format!("SELECT {} FROM dashboard_metrics", repeated(1_500, |n| format!("event_count AS c{n}"), ", ")),
        format!("/*{}", "/*".repeat(30_000)),
        format!("SELECT '{}", "'".repeat(60_001)),
        "SELECT regexp_replace(metric_name, '(((a*)*)*)*$', 'x') FROM dashboard_metrics".to_owned(),
        "SELECT regexp_like('x', 'a{1000}{1000}{1000}')".to_owned(),
        "SELECT array_repeat(1, 10000000000)".to_owned(),
        "SELECT * FROM UNNEST(range(1, 100000000000))".to_owned(),
        "SELECT power(10, 1000), 9223372036854775807 + 1, 1 % 0, CAST('x' AS INT)".to_owned(),
        "SELECT to_char(now(), '%Y%%%%%'), date_trunc('nonsense', window_start) FROM dashboard_metrics".to_owned(),
        "SELECT \u{0}".to_owned(),
        "SELECT '\u{202e}\u{1f4a9}' AS \"\u{1f4a9}\"".to_owned(),
    ];
    for text in texts {
        let shown: String = text.chars().take(70).collect();
        let (started, memory) = (std::time::Instant::now(), resident());
        if let Err(error) = world.query(&["a"], &text).await {
            assert!(error.message.chars().count() < 1_100, "{shown}: {}", error.message.len());
            let expected = [
                ErrorKind::InvalidArgument,
                ErrorKind::ResourceExhausted,
                ErrorKind::DeadlineExceeded,
                ErrorKind::Internal,
            ];
            assert!(expected.contains(&error.kind), "{shown}: {error:?}");
            println!("{:>7.2?} {shown}: {:?} {}", started.elapsed(), error.kind, error.message);
        } else {
            println!("{:>7.2?} {shown}: answered", started.elapsed());
        }
        let grown = resident().saturating_sub(memory) >> 20;
        println!("{grown} MiB");
        assert!(grown < 1_500, "{shown}: {grown} MiB");
        assert_eq!(world.number(&["a"], "SELECT COUNT(*) FROM dashboard_metrics").await, 180, "{shown}");
    }
}

/// Proves that nothing but reading the one table gets through, whatever the engine would be able to do.
#[tokio::test]
async fn only_reading_gets_through() {
    let world = World::new();
    for sql in [
        "INSERT INTO dashboard_metrics SELECT * FROM dashboard_metrics",
        "COPY (SELECT 1) TO '/tmp/out.csv'",
        "CREATE VIEW v AS SELECT 1",
        "DROP TABLE dashboard_metrics",
        "SET datafusion.execution.target_partitions = 1",
        "SHOW ALL",
        "DESCRIBE dashboard_metrics",
        "EXPLAIN ANALYZE SELECT 1",
        "EXPLAIN DELETE FROM dashboard_metrics",
        "SELECT input_file_name() FROM dashboard_metrics",
        "SELECT version()",
        "PREPARE p AS SELECT 1",
        "SELECT * INTO x FROM dashboard_metrics",
        "SELECT 1; DROP TABLE dashboard_metrics",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM \"/etc/passwd\"",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM information_schema.columns",
        "SELECT $1",
        "SELECT ?",
        "SELECT @@version",
    ] {
        let error = world.refused(&["a"], sql).await;
        assert_eq!(error.kind, ErrorKind::InvalidArgument, "{sql}: {error:?}");
    }
}

/// Proves that a call that works for minutes on one batch ends with its query, and so keeps no thread from the queries of
/// others: there is one thread.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_calls_end_with_their_query() {
    let time = Duration::from_secs(4);
    let world = World::with(QueryOptions { query_time_max: time, threads: Some(1), ..options() });
    world.fill(&key("a"), 2).await;
    let long = repeated(1_000, |n| (n % 7).to_string(), "");
    for sql in [
        format!("SELECT SUM(levenshtein(metric_name || '{long}', '{long}')) FROM dashboard_metrics"),
        format!("SELECT SUM(regexp_count(metric_name || '{long}', '(\\w{{0,9}}\\s?){{0,9}}z')) FROM dashboard_metrics"),
        format!("SELECT COUNT(*) FROM dashboard_metrics WHERE metric_name || '{long}' ~ '(\\w{{0,9}}\\s?){{0,9}}z$'"),
    ] {
        let ended = world.refused(&["a"], &sql).await;
        assert_eq!((ended.kind, ended.reason), (ErrorKind::DeadlineExceeded, "QUERY_TIME"), "{sql}");
        assert_eq!(world.number(&["b"], "SELECT COUNT(*) FROM dashboard_metrics").await, 0, "{sql}");
    }
}

/// Proves that what the engine's operators do not count is refused: input that a window holds, and long values that a
/// join would repeat for every row.
#[tokio::test]
async fn what_operators_do_not_count_is_bounded() {
    let world = World::with(QueryOptions { query_memory_bytes: 16 << 20, ..options() });
    world.fill(&key("a"), 6).await;
    let from = "FROM (SELECT * FROM dashboard_metrics LIMIT 20) a CROSS JOIN dashboard_metrics b CROSS JOIN dashboard_metrics c";
    for frame in ["", "ROWS BETWEEN 1000000000 PRECEDING AND CURRENT ROW"] {
        let sql = format!("SELECT MAX(s) FROM (SELECT SUM(c.event_count) OVER ({frame}) AS s {from})");
        let error = world.refused(&["a"], &sql).await;
        assert_eq!((error.kind, error.reason), (ErrorKind::ResourceExhausted, "QUERY_MEMORY"), "{frame}: {error:?}");
    }
    let list = "(SELECT array_agg(event_count) AS l, string_agg(metric_name, ',') AS s FROM dashboard_metrics) x";
    for sql in [
        format!("SELECT COUNT(*) FROM {list}, dashboard_metrics WHERE array_length(l) + event_count > 3"),
        format!("SELECT COUNT(*) FROM {list}, dashboard_metrics WHERE length(s) + event_count > 3"),
        format!("SELECT unnest(l), s FROM {list}"),
    ] {
        let error = world.refused(&["a"], &sql).await;
        assert_eq!((error.kind, error.reason), (ErrorKind::InvalidArgument, "SQL_FAILED"), "{sql}: {error:?}");
        assert!(error.message.contains("longer than 1024 bytes"), "{error}");
    }
    // Without a join they are what they are.
    let sql = format!("SELECT array_length(l) + length(s) FROM {list}");
    assert_eq!(world.number(&["a"], &sql).await, 780 + 780 * 4 - 1);
    let windowed = "SELECT SUM(s) FROM (SELECT SUM(event_count) OVER (PARTITION BY metric_name ORDER BY window_start) \
                    AS s FROM dashboard_metrics)";
    assert_eq!(world.number(&["a"], windowed).await, 390 * 391);
}

/// Proves that a plan is shown, and names no file, no other tenant and no ordinal.
#[tokio::test]
async fn a_plan_tells_nothing_that_a_query_does_not() {
    let world = World::new();
    world.fill(&key("a"), 2).await;
    world.fill(&key("secret"), 2).await;
    let sql = "EXPLAIN SELECT metric_name, SUM(event_count) FROM dashboard_metrics WHERE month = '03' GROUP BY 1";
    let shown = world.table(&["a"], sql).await;
    assert!(shown.contains("DashboardScan: parts=3") && shown.contains("month = Int32(3)"), "{shown}");
    for hidden in ["parquet", "part-", "aggregated/", "tenant_id=", "secret", "ordinal", "generation"] {
        assert!(!shown.contains(hidden), "{hidden}: {shown}");
    }
}

/// Proves that an hour of many live windows runs in batches like everything else.
#[tokio::test]
async fn large_live_hours_are_cut() {
    let world = World::new();
    world.fill(&key("a"), 1).await;
    let start = super::world::time("2026-03-02T01:00:00Z");
    let rows = (0..30_000).map(|n| super::world::live_window(&super::world::row(start, &format!("m{n:05}"), 1.0)));
    world.live.change(&key("a"), |live| live.windows = rows.collect());
    let batches = world.query(&["a"], "SELECT concat(metric_name, '-x') FROM dashboard_metrics").await.expect("rows");
    assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 30_120);
    assert!(batches.iter().all(|batch| batch.num_rows() <= 8_192));
}
