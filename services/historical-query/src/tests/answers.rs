//! What queries answer and what they refuse.

use std::time::Duration;

use futures::FutureExt as _;
use tidegauge_core::clock::Clock as _;
use tidegauge_core::{ErrorKind, Key};

use super::world::{World, footer, key, options, publish, row, scope, time};
use crate::{How, QueryOptions};
use tidegauge_core::time::Hour;

/// The dashboard query of the requirements, to the letter.
const DASHBOARD: &str = "SELECT metric_name, DATE_TRUNC('hour', window_start) AS hour,
           SUM(event_count) AS total_events, AVG(avg_value) AS avg_metric_value
    FROM dashboard_metrics
    WHERE tenant_id = 'tenant-001' AND year = 2026 AND month = 3 AND day = 2
    GROUP BY metric_name, DATE_TRUNC('hour', window_start) ORDER BY hour DESC";

/// Proves R6: the text runs unchanged, over lake and live windows, and is the same the second time, from the cache.
#[tokio::test]
async fn the_dashboard_query_runs_unchanged() {
    let world = World::new();
    world.fill(&key("tenant-001"), 2).await;
    let expected = "\
+-------------+---------------------+--------------+------------------+
| metric_name | hour                | total_events | avg_metric_value |
+-------------+---------------------+--------------+------------------+
| cpu         | 2026-03-02T02:00:00 | 30           | 14.5             |
| mem         | 2026-03-02T02:00:00 | 30           | 14.5             |
| cpu         | 2026-03-02T01:00:00 | 60           | 29.5             |
| mem         | 2026-03-02T01:00:00 | 60           | 29.5             |
| cpu         | 2026-03-02T00:00:00 | 60           | 29.5             |
| mem         | 2026-03-02T00:00:00 | 60           | 29.5             |
+-------------+---------------------+--------------+------------------+";
    let ordered = DASHBOARD.replace("ORDER BY hour DESC", "ORDER BY hour DESC, metric_name");
    for _ in 0..2 {
        assert_eq!(world.table(&["tenant-001"], &ordered).await, expected);
        let rows: usize =
            world.query(&["tenant-001"], DASHBOARD).await.expect("rows").iter().map(|b| b.num_rows()).sum();
        assert_eq!(rows, 6);
    }
}

/// Proves that a partition column means the same as a number, as text and as zero-padded text, on either side, in
/// lists, ranges, joins, CASE and through a subquery, and that other text is refused by name.
#[tokio::test]
async fn partition_columns_compare_in_every_form() {
    let world = World::new();
    world.fill(&key("a"), 3).await;
    // Another month: what must not be found.
    let other = Hour::of(time("2026-11-02T00:00:00Z"));
    publish(world.lake.as_ref(), &key("a"), other, &[row(other.start_ns(), "cpu", 1.0)], &footer(&key("a"), 9, 400))
        .await;
    world.live.change(&key("a"), |live| {
        live.meta.version.ordinal = 400;
        live.meta.boundary_ns = time("2026-12-01T00:00:00Z");
        live.meta.index_version = 99;
        live.windows.clear();
    });
    for condition in [
        "month = 3",
        "month = '3'",
        "month = '03'",
        "'03' = month",
        "month = ' 03 '",
        "month IN ('03')",
        "month IN ('3', '04')",
        "month IN (3, '04')",
        "month NOT IN ('11')",
        "month < '10'",
        "'010' > month",
        "month BETWEEN '02' AND '04'",
        "month <> '11'",
        "NOT month = '11'",
        "month IS NOT DISTINCT FROM '03'",
        "CASE month WHEN '03' THEN true ELSE false END",
        "month = '03' AND day = '02' AND hour < '024' AND year = '2026'",
        "month = CAST('03' AS INT)",
    ] {
        let sql = format!("SELECT COUNT(*) FROM dashboard_metrics WHERE {condition}");
        assert_eq!(world.number(&["a"], &sql).await, 360, "{condition}");
    }
    for sql in [
        "SELECT COUNT(*) FROM (SELECT month AS m FROM dashboard_metrics) WHERE m = '03'",
        "WITH x AS (SELECT month m, hour h FROM dashboard_metrics) SELECT COUNT(*) FROM x WHERE m IN ('03') AND h >= '00'",
        "SELECT COUNT(*) FROM dashboard_metrics d JOIN (SELECT 3 AS m) k ON d.month = k.m AND d.month = '03'",
        "SELECT SUM(CASE WHEN month = '03' THEN 1 ELSE 0 END) FROM dashboard_metrics",
        "SELECT COUNT(*) FROM dashboard_metrics d WHERE EXISTS (SELECT 1 FROM dashboard_metrics e WHERE e.month = '03' \
         AND e.window_start = d.window_start AND e.metric_name = d.metric_name)",
    ] {
        assert_eq!(world.number(&["a"], sql).await, 360, "{sql}");
    }
    for condition in ["month = 'abc'", "month = '3.5'", "'' = month", "month IN ('03', 'March')"] {
        let error = world.refused(&["a"], &format!("SELECT COUNT(*) FROM dashboard_metrics WHERE {condition}")).await;
        assert_eq!((error.kind, error.reason), (ErrorKind::InvalidArgument, "SQL_INVALID"), "{condition}");
        assert!(error.message.contains("month"), "{condition}: {error}");
    }
    assert_eq!(world.number(&["a"], "SELECT COUNT(*) FROM dashboard_metrics WHERE month = '11'").await, 1);
}

/// Proves I7: whatever the text, no row, path or name of another tenant is reached, and the answer to asking for one is
/// the answer to asking for nobody.
#[tokio::test]
async fn no_text_reaches_another_tenant() {
    let world = World::new();
    world.fill(&key("a"), 2).await;
    world.fill(&key("b"), 3).await;
    for (sql, expected) in [
        ("SELECT COUNT(*) FROM dashboard_metrics", 300),
        ("SELECT COUNT(*) FROM dashboard_metrics WHERE tenant_id = 'b'", 0),
        ("SELECT COUNT(*) FROM dashboard_metrics WHERE tenant_id = 'nobody'", 0),
        ("SELECT COUNT(*) FROM dashboard_metrics WHERE tenant_id <> 'a' OR 1 = 1", 300),
        ("SELECT COUNT(DISTINCT tenant_id) FROM tidegauge.public.dashboard_metrics WHERE tenant_id >= ''", 1),
        ("SELECT COUNT(*) FROM (SELECT * FROM dashboard_metrics UNION ALL SELECT * FROM dashboard_metrics)", 600),
    ] {
        assert_eq!(world.number(&["a"], sql).await, expected, "{sql}");
    }
    assert_eq!(world.number(&["a", "b"], "SELECT COUNT(*) FROM dashboard_metrics").await, 300 + 420);
    for sql in [
        "SELECT * FROM b",
        "SELECT * FROM b.public.dashboard_metrics",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM 'aggregated/tenant_id=b/year=2026/month=03/day=02/hour=00/part-00000.parquet'",
        "SELECT tenant FROM dashboard_metrics",
        "SELECT * FROM dashboard_metrics WHERE tenant_id = 1 / 0",
        "SELECT CAST(metric_name AS INT) FROM dashboard_metrics",
    ] {
        let error = world.refused(&["a"], sql).await;
        assert_eq!(error.kind, ErrorKind::InvalidArgument, "{sql}: {error:?}");
        assert!(!error.message.contains("tenant_id=b") || sql.contains("tenant_id=b"), "{sql}: {error}");
    }
    let freshness = world.engine.freshness(&scope(&["a"])).await.expect("freshness");
    assert_eq!(freshness.keys.iter().map(|k| k.tenant_id.as_str()).collect::<Vec<_>>(), ["a"]);
    let nobody = world.query(&["nobody"], "SELECT * FROM dashboard_metrics").await.expect("an empty answer");
    assert!(nobody.is_empty());
    let freshness = world.engine.freshness(&scope(&["nobody"])).await.expect("freshness");
    assert_eq!((freshness.keys.len(), freshness.complete_through), (0, None));
}

/// Proves that a key that cannot be read fails the query by name and with a time to retry, that nobody else's does, and
/// that a partial answer is given only when asked for and says what is missing.
#[tokio::test]
async fn what_cannot_be_read_is_never_left_out_silently() {
    let count = "SELECT COUNT(*) FROM dashboard_metrics";
    let object = "aggregated/tenant_id=a/year=2026/month=03/day=02/hour=01/part-00000.parquet";
    let index = "_index/aggregated/a/00000/2026-03-02.json";
    type Fault = (&'static str, fn(&World));
    let flip: Fault = ("a flipped bit in the data", |world| {
        let object = "aggregated/tenant_id=a/year=2026/month=03/day=02/hour=01/part-00000.parquet";
        world.lake.damage(object, |old| {
            let mut new = old.to_vec();
            new[100] ^= 1;
            Some(new)
        });
    });
    let faults: [Fault; 4] = [
        flip,
        ("a cut object", |world| {
            let object = "aggregated/tenant_id=a/year=2026/month=03/day=02/hour=01/part-00000.parquet";
            world.lake.damage(object, |old| Some(old[..old.len() / 2].to_vec()));
        }),
        ("a missing object", |world| {
            let object = "aggregated/tenant_id=a/year=2026/month=03/day=02/hour=01/part-00000.parquet";
            world.lake.damage(object, |_| None);
        }),
        ("live windows that are not all there", |world| world.live.change(&key("a"), |live| live.complete = false)),
    ];
    // A damaged index costs nobody an answer: the lake says the same.
    let world = World::new();
    world.fill(&key("a"), 2).await;
    world.lake.damage(index, |_| Some(b"{".to_vec()));
    assert_eq!(world.number(&["a"], count).await, 300);
    for (name, fault) in faults {
        let world = World::new();
        world.fill(&key("a"), 2).await;
        world.fill(&key("b"), 2).await;
        assert!(world.lake.paths().iter().any(|p| p == object) && world.lake.paths().iter().any(|p| p == index));
        fault(&world);
        let error = world.refused(&["a", "b"], count).await;
        assert_eq!((error.kind, error.reason), (ErrorKind::Unavailable, "KEY_UNAVAILABLE"), "{name}: {error:?}");
        assert!(error.retry_after.is_some() && error.message.contains(" of a "), "{name}: {error}");
        assert_eq!(world.number(&["b"], count).await, 300, "{name}");

        let how = How { allow_partial: true, schema: None };
        let mut answer = world.engine.execute(&scope(&["a", "b"]), count, how).await.expect("a partial answer");
        let rows = super::world::number(&answer.collect().await.expect("rows"));
        assert!((300..600).contains(&rows), "{name}: {rows}");
        let freshness = answer.freshness();
        assert_eq!(freshness.missing_keys, ["a"], "{name}");
        assert_eq!(freshness.keys.iter().map(|k| k.tenant_id.as_str()).collect::<Vec<_>>(), ["b"], "{name}");
    }
}

/// Proves that announced and streamed schema are equal for results of every kind, nullability included.
#[tokio::test]
async fn the_announced_schema_is_the_streamed_one() {
    let world = World::new();
    world.fill(&key("a"), 1).await;
    for sql in [
        "SELECT * FROM dashboard_metrics",
        "SELECT COUNT(*), SUM(event_count), AVG(avg_value), MIN(metric_name), MAX(window_start) FROM dashboard_metrics",
        "SELECT CAST(metric_name AS VARCHAR) AS v, metric_name || 'x', upper(metric_name), concat(tenant_id, month) \
         FROM dashboard_metrics",
        "SELECT 1 AS x, NULL AS y, 'z' AS z, now() AS t, INTERVAL '1' DAY AS i, ARRAY[1, 2] AS l",
        "SELECT metric_name, ROW_NUMBER() OVER (ORDER BY window_start) FROM dashboard_metrics",
        "SELECT a.metric_name, b.metric_name FROM dashboard_metrics a LEFT JOIN dashboard_metrics b \
         ON a.window_start = b.window_end AND a.metric_name = b.metric_name",
        "SELECT array_agg(metric_name) FROM dashboard_metrics WHERE hour = 0",
        "SELECT * FROM dashboard_metrics WHERE hour = 23",
        "SELECT sketch, approx_percentile_cont(avg_value, 0.9) FROM dashboard_metrics GROUP BY sketch",
        "VALUES (1, 'a'), (2, NULL)",
    ] {
        let described =
            world.engine.describe(&scope(&["a"]), sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let how = How { schema: Some(crate::fingerprint(&described)), ..How::default() };
        let mut answer =
            world.engine.execute(&scope(&["a"]), sql, how).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(answer.schema(), described, "{sql}");
        for batch in answer.collect().await.unwrap_or_else(|error| panic!("{sql}: {error}")) {
            assert_eq!(batch.schema(), described, "{sql}");
        }
    }
    let how = How { schema: Some(1), ..How::default() };
    let error = world.engine.execute(&scope(&["a"]), "SELECT 1", how).await.expect_err("another schema");
    assert_eq!(error.reason, "SCHEMA_CHANGED");
}

/// Proves that predicates keep objects from being opened, and counts without columns work.
#[tokio::test]
async fn predicates_prune_objects() {
    let world = World::new();
    world.fill(&key("a"), 6).await;
    let scanned = async |sql: &str| {
        let mut answer = world.engine.execute(&scope(&["a"]), sql, How::default()).await.expect("an answer");
        let rows = super::world::number(&answer.collect().await.expect("rows"));
        (rows, answer.scanned_bytes())
    };
    let (all_rows, all) = scanned("SELECT COUNT(*) FROM dashboard_metrics").await;
    assert_eq!(all_rows, 6 * 120 + 60);
    for (condition, rows, share) in [
        ("hour = '02'", 120, 6),
        ("window_start >= TIMESTAMP '2026-03-02T05:00:00' AND window_start < '2026-03-02T05:30:00'", 60, 6),
        ("year = 2025", 0, u64::MAX),
        ("tenant_id = 'b'", 0, u64::MAX),
        ("hour IN (1, 2, 3) AND metric_name = 'cpu'", 180, 2),
    ] {
        let sql = format!("SELECT COUNT(*) FROM dashboard_metrics WHERE {condition}");
        let (found, bytes) = scanned(&sql).await;
        assert_eq!(found, rows, "{condition}");
        assert!(bytes <= all / share + 100, "{condition}: {bytes} of {all}");
    }
}

/// Proves the limits of execution: scanned bytes, rows and bytes of the result, memory, and queries at once; each error
/// says when to try again, and the engine serves on.
#[tokio::test]
async fn queries_have_limits() {
    let all = "SELECT * FROM dashboard_metrics";
    let sort = "SELECT a.metric_name, b.avg_value FROM dashboard_metrics a CROSS JOIN dashboard_metrics b \
                ORDER BY b.avg_value, a.window_start";
    let cases: [(QueryOptions, &str, &str); 4] = [
        (QueryOptions { scan_bytes_max: 1_000, ..options() }, all, "SCAN_LIMIT"),
        (QueryOptions { result_rows_max: 100, ..options() }, all, "RESULT_LIMIT"),
        (QueryOptions { result_bytes_max: 1_000, ..options() }, all, "RESULT_LIMIT"),
        (QueryOptions { query_memory_bytes: 1 << 20, ..options() }, sort, "QUERY_MEMORY"),
    ];
    for (options, sql, reason) in cases {
        let world = World::with(options);
        world.fill(&key("a"), 3).await;
        let error = world.refused(&["a"], sql).await;
        assert_eq!((error.kind, error.reason), (ErrorKind::ResourceExhausted, reason), "{error:?}");
        assert!(error.retry_after.is_some());
        assert_eq!(world.number(&["a"], "SELECT 1").await, 1, "{reason}");
    }

    let world = World::with(QueryOptions { queries_per_tenant: 1, waiting_per_tenant: 0, ..options() });
    world.fill(&key("a"), 1).await;
    let long = "SELECT a.* FROM dashboard_metrics a, dashboard_metrics b, dashboard_metrics c";
    let running = world.engine.execute(&scope(&["a"]), long, How::default()).await.expect("a running query");
    assert_eq!(world.refused(&["a"], all).await.reason, "QUERY_QUEUE_FULL");
    assert_eq!(world.number(&["b"], "SELECT 1").await, 1, "another tenant runs");
    assert!(world.engine.drain(Duration::from_secs(60)).now_or_never().is_none(), "a drain waits for it");
    drop(running);
    world.engine.drain(Duration::from_secs(60)).await;
    assert_eq!(world.refused(&["a"], "SELECT 1").await.reason, "DRAINING");
    assert!(world.clock.wall_ns() > 0);
}

/// Proves that a query that would run for ever is ended in time, also while its reader does not read, and that it gives
/// its one thread back.
#[tokio::test]
async fn time_is_limited() {
    let limit = Duration::from_secs(2);
    let world = World::with(QueryOptions { query_time_max: limit, threads: Some(1), ..options() });
    world.fill(&key("a"), 3).await;
    let four = "dashboard_metrics a, dashboard_metrics b, dashboard_metrics c, dashboard_metrics d";
    let error = world.refused(&["a"], &format!("SELECT SUM(a.event_count * d.revision) FROM {four}")).await;
    assert_eq!((error.kind, error.reason), (ErrorKind::DeadlineExceeded, "QUERY_TIME"));

    let sql = "SELECT a.event_count FROM dashboard_metrics a, dashboard_metrics b";
    let mut answer = world.engine.execute(&scope(&["a"]), sql, How::default()).await.expect("a first batch");
    assert_eq!(world.number(&["a"], "SELECT 1").await, 1);
    let not_reading = tokio::time::timeout(limit, std::future::pending::<()>());
    not_reading.await.expect_err("nothing to wait for");
    let ended = async {
        loop {
            if let Err(error) = answer.next().await {
                break error;
            }
        }
    };
    let error = tokio::time::timeout(Duration::from_secs(30), ended).await.expect("it ends");
    assert_eq!(error.reason, "QUERY_TIME");
}

/// Proves that a key with several buckets is one tenant, and that live windows below the boundary or lake rows from it
/// on never count.
#[tokio::test]
async fn the_boundary_divides_lake_and_live() {
    let world = World::new();
    let buckets: [Key; 2] = [key("a"), key("a#1")];
    for key in &buckets {
        world.fill(key, 2).await;
    }
    assert_eq!(world.number(&["a"], "SELECT COUNT(*) FROM dashboard_metrics").await, 600);
    // Published up to 02:20 while the boundary is still 02:00: the live windows count.
    let hour = Hour::of(time("2026-03-02T02:00:00Z"));
    let rows = super::world::hour_rows(hour, 20);
    publish(world.lake.as_ref(), &buckets[0], hour, &rows, &footer(&buckets[0], 3, 300)).await;
    assert_eq!(world.number(&["a"], "SELECT COUNT(*) FROM dashboard_metrics").await, 600);
    // The boundary moves into the hour: rows below it come from the lake, the others from the live windows.
    world.live.change(&buckets[0], |live| {
        live.meta.boundary_ns = time("2026-03-02T02:20:00Z");
        live.meta.index_version += 1;
    });
    assert_eq!(world.number(&["a"], "SELECT COUNT(*) FROM dashboard_metrics").await, 600);
    assert_eq!(world.number(&["a"], "SELECT COUNT(*) FROM dashboard_metrics WHERE revision = 0").await, 60 + 20);
    let freshness = world.engine.freshness(&scope(&["a"])).await.expect("freshness");
    assert_eq!(freshness.keys.len(), 2);
}
