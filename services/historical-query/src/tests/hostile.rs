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
