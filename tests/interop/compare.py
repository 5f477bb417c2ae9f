"""Compares windows with DuckDB's GROUP BY over the events they were made from.

Two comparisons, row for row: the rows that Tidegauge's SQL gave (CSV), and the lake's Parquet files alone.
Count, minimum and maximum must be equal; sum and average to 1e-9, relative to the sum of magnitudes.
"""

import argparse
import sys

import duckdb

TOLERANCE = 1e-9

ORACLE = """
CREATE TABLE oracle AS
SELECT payload.tenant_id AS tenant_id,
       time_bucket(INTERVAL 1 minute, CAST("timestamp" AS TIMESTAMP)) AS window_start,
       payload.metric_name AS metric_name,
       count(*) AS event_count,
       sum(payload.metric_value) AS sum_value,
       avg(payload.metric_value) AS avg_value,
       min(payload.metric_value) AS min_value,
       max(payload.metric_value) AS max_value,
       sum(abs(payload.metric_value)) AS magnitude
FROM read_json(?, format = 'newline_delimited', columns = {
    'timestamp': 'VARCHAR',
    'payload': 'STRUCT(tenant_id VARCHAR, metric_name VARCHAR, metric_value DOUBLE)'
})
GROUP BY ALL
"""

DEVIATIONS = f"""
SELECT coalesce(o.tenant_id, f.tenant_id) AS tenant_id,
       coalesce(o.window_start, f.window_start) AS window_start,
       coalesce(o.metric_name, f.metric_name) AS metric_name,
       o.event_count AS expected_count, f.event_count AS found_count,
       o.sum_value AS expected_sum, f.sum_value AS found_sum
FROM oracle o FULL OUTER JOIN found f
  ON o.tenant_id = f.tenant_id AND o.window_start = f.window_start AND o.metric_name = f.metric_name
WHERE o.event_count IS DISTINCT FROM f.event_count
   OR o.min_value IS DISTINCT FROM f.min_value
   OR o.max_value IS DISTINCT FROM f.max_value
   OR (abs(o.sum_value - f.sum_value) <= {TOLERANCE} * greatest(o.magnitude, 1e-300)) IS NOT TRUE
   OR (abs(o.avg_value - f.avg_value) <= {TOLERANCE} * greatest(o.magnitude / o.event_count, 1e-300)) IS NOT TRUE
ORDER BY ALL
"""


def compare(db: duckdb.DuckDBPyConnection, what: str) -> bool:
    rows, events = db.execute("SELECT count(*), coalesce(sum(event_count), 0) FROM found").fetchone()
    expected_rows, expected_events = db.execute("SELECT count(*), sum(event_count) FROM oracle").fetchone()
    doubles = db.execute(
        "SELECT count(*) FROM (SELECT 1 FROM found GROUP BY tenant_id, window_start, metric_name HAVING count(*) > 1)"
    ).fetchone()[0]
    deviations = db.execute(DEVIATIONS).fetchall()
    print(f"{what}: {rows} windows, {events} events; expected {expected_rows}, {expected_events}; "
          f"{len(deviations)} deviate, {doubles} stand twice")
    for row in deviations[:10]:
        print("   ", row)
    return not deviations and not doubles and rows == expected_rows


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--events", required=True, help="the events, NDJSON")
    arguments.add_argument("--rows", help="rows of dashboard_metrics from Tidegauge's SQL, CSV")
    arguments.add_argument("--lake", help="the lake's folder")
    given = arguments.parse_args()

    db = duckdb.connect()
    db.execute(ORACLE, [given.events])
    good = True
    if given.rows:
        db.execute("CREATE OR REPLACE TABLE found AS SELECT * FROM read_csv(?, header = true)", [given.rows])
        good &= compare(db, "Tidegauge SQL")
    if given.lake:
        db.execute(
            "CREATE OR REPLACE TABLE found AS SELECT * FROM read_parquet(?, hive_partitioning = true, "
            "hive_types = {'tenant_id': VARCHAR, 'year': INTEGER, 'month': INTEGER, 'day': INTEGER, 'hour': INTEGER})",
            [f"{given.lake}/aggregated/*/*/*/*/*/*.parquet"],
        )
        good &= compare(db, "DuckDB on the lake's files")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
