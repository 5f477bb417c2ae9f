"""The tools of our users against a real server: ADBC and pyarrow over Flight SQL, DuckDB on the lake's files.

Run by `cargo xtask test` with the pinned packages of requirements.txt; TIDEGAUGE_BIN names the binary.
"""

import csv
import datetime
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import traceback

import adbc_driver_flightsql.dbapi as flightsql
import duckdb
import pyarrow as pa
import pyarrow.flight as flight
from adbc_driver_flightsql import DatabaseOptions

BINARY = os.environ["TIDEGAUGE_BIN"]
PATIENCE_SECONDS = 120
START = datetime.datetime(2026, 3, 2, tzinfo=datetime.timezone.utc)
TENANT = "tenant-001"

R6 = """
SELECT metric_name, DATE_TRUNC('hour', window_start) AS hour,
       SUM(event_count) AS total_events, AVG(avg_value) AS avg_metric_value
FROM dashboard_metrics
WHERE tenant_id = 'tenant-001' AND year = 2026 AND month = 3 AND day = 2
GROUP BY metric_name, DATE_TRUNC('hour', window_start) ORDER BY hour DESC
"""


class Server:
    """A server on free ports with a data directory of its own."""

    def __init__(self, data_dir: pathlib.Path):
        self.data_dir = data_dir
        settings = {
            "TIDEGAUGE_WINDOW_IDLE_TIMEOUT": "1s",
            "TIDEGAUGE_PUBLISH_INTERVAL": "500ms",
            "TIDEGAUGE_PUBLISH_CHECKPOINT_INTERVAL": "300ms",
        }
        command = [BINARY, "serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir", str(data_dir)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **settings})
        for line in self.process.stdout:
            if line.startswith("listening "):
                self.grpc = dict(word.split("=") for word in line.split()[1:])["grpc"]
                break
        else:
            raise RuntimeError("the server did not start")

    def run(self, *arguments: str, token: str = "") -> str:
        environment = {**os.environ, "TIDEGAUGE_ENDPOINT": f"http://{self.grpc}", "TIDEGAUGE_TOKEN": token}
        done = subprocess.run([BINARY, *arguments], env=environment, text=True, capture_output=True)
        if done.returncode != 0:
            raise RuntimeError(f"{arguments}: exit {done.returncode}\n{done.stderr}")
        return done.stdout

    def token(self, role: str, *tenants: str) -> str:
        scope = [word for tenant in tenants for word in ("--tenant", tenant)] or ["--all-tenants"]
        made = self.run("token", "create", "--data-dir", str(self.data_dir), "--user", "test", "--role", role,
                        "--ttl", "1h", *scope)
        return made.strip()

    def stop(self) -> None:
        self.process.terminate()
        if self.process.wait(timeout=60) != 0:
            raise RuntimeError(f"the server ended with {self.process.returncode}")


def write_events(path: pathlib.Path) -> int:
    """A day of two metrics, one event a minute and metric, as NDJSON."""
    count = 0
    with path.open("w") as out:
        for minute in range(24 * 60):
            at = START + datetime.timedelta(minutes=minute, seconds=30)
            for metric, value in (("cpu", minute % 100), ("memory", 1000 + minute)):
                payload = {"tenant_id": TENANT, "metric_name": metric, "metric_value": value,
                           "dimensions": {"host": f"h{minute % 7}"}}
                event = {"event_type": "measurement", "timestamp": at.isoformat().replace("+00:00", "Z"),
                         "source": "test", "version": "1", "payload": payload}
                out.write(json.dumps(event) + "\n")
                count += 1
    return count


def connect(server: Server, token: str):
    header = DatabaseOptions.RPC_CALL_HEADER_PREFIX.value
    options = {DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {token}", header + "x-tenant-id": TENANT}
    return flightsql.connect(f"grpc://{server.grpc}", db_kwargs=options, autocommit=True)


def adbc_answers_the_dashboard_query(server: Server, token: str, events: int) -> None:
    with connect(server, token) as connection, connection.cursor() as cursor:
        cursor.execute(R6)
        table = cursor.fetch_arrow_table()
        assert table.num_rows == 48, table.num_rows
        assert sum(table["total_events"].to_pylist()) == events
        hours = table["hour"].to_pylist()
        assert hours == sorted(hours, reverse=True)
        # The filters are no ornament: another day, another tenant.
        for other in (R6.replace("day = 2", "day = 3"), R6.replace("'tenant-001'", "'tenant-002'")):
            cursor.execute(other)
            assert cursor.fetch_arrow_table().num_rows == 0, other


def month_forms_agree(server: Server, token: str, events: int) -> None:
    with connect(server, token) as connection, connection.cursor() as cursor:
        for form in ("3", "'3'", "'03'"):
            cursor.execute(f"SELECT SUM(event_count) FROM dashboard_metrics WHERE month = {form}")
            assert cursor.fetchone()[0] == events, form
        for form in ("4", "'4'", "'04'"):
            cursor.execute(f"SELECT SUM(event_count) FROM dashboard_metrics WHERE month = {form}")
            assert cursor.fetchone()[0] is None, form


def pyarrow_reads_flight(server: Server, token: str, events: int) -> None:
    client = flight.connect(f"grpc://{server.grpc}")
    headers = [(b"authorization", f"Bearer {token}".encode()), (b"x-tenant-id", TENANT.encode())]
    options = flight.FlightCallOptions(headers=headers)
    # A CommandStatementQuery in a google.protobuf.Any, written by hand: pyarrow speaks Flight, not Flight SQL.
    sql = b"SELECT * FROM dashboard_metrics"
    query = b"\x0a" + bytes([len(sql)]) + sql
    url = b"type.googleapis.com/arrow.flight.protocol.sql.CommandStatementQuery"
    command = b"\x0a" + bytes([len(url)]) + url + b"\x12" + bytes([len(query)]) + query
    info = client.get_flight_info(flight.FlightDescriptor.for_command(command), options)
    assert info.app_metadata, "freshness is missing"
    reader = client.do_get(info.endpoints[0].ticket, options)
    table = reader.read_all()
    assert table.schema.equals(info.schema), (table.schema, info.schema)
    assert sum(table["event_count"].to_pylist()) == events
    names = ["window_start", "window_end", "metric_name", "event_count", "avg_value"]
    assert table.schema.names[:5] == names, table.schema.names
    for column in ("year", "month", "day", "hour"):
        assert pa.types.is_integer(table.schema.field(column).type)


def basic_authentication_works(server: Server, token: str, events: int) -> None:
    options = {"username": "test", "password": token, DatabaseOptions.RPC_CALL_HEADER_PREFIX.value + "x-tenant-id": TENANT}
    with flightsql.connect(f"grpc://{server.grpc}", db_kwargs=options, autocommit=True) as connection:
        with connection.cursor() as cursor:
            cursor.execute("SELECT SUM(event_count) AS n FROM dashboard_metrics")
            assert cursor.fetchone()[0] == events


def another_tenant_is_refused(server: Server, token: str, events: int) -> None:
    other = server.token("reader", "tenant-002")
    with connect(server, other) as connection, connection.cursor() as cursor:
        try:
            cursor.execute("SELECT * FROM dashboard_metrics")
        except Exception as error:
            assert "does not cover" in str(error), error
        else:
            raise AssertionError("tenant-002's token read tenant-001")


def duckdb_reads_the_lake(server: Server, token: str, events: int) -> None:
    files = f"{server.data_dir}/lake/aggregated/*/*/*/*/*/*.parquet"
    types = "{'tenant_id': VARCHAR, 'year': INTEGER, 'month': INTEGER, 'day': INTEGER, 'hour': INTEGER}"
    table = f"read_parquet('{files}', hive_partitioning = true, hive_types = {types})"
    ours = list(csv.reader(server.run("query", "-o", "csv", R6, token=token).splitlines()))[1:]
    ours = {(metric, hour): (int(total), float(average)) for metric, hour, total, average in ours}
    theirs = duckdb.sql(R6.replace("dashboard_metrics", table)).fetchall()
    # The files hold UTC without a zone; the command line writes the zone.
    theirs = {(metric, hour.isoformat() + "Z"): (total, average) for metric, hour, total, average in theirs}
    assert ours.keys() == theirs.keys() and len(ours) == 48, (list(ours)[:3], list(theirs)[:3])
    for key, (total, average) in ours.items():
        assert total == theirs[key][0] and abs(average - theirs[key][1]) <= 1e-9 * abs(average), (key, ours[key])
    for form in ("3", "'03'"):
        found = duckdb.sql(f"SELECT SUM(event_count) FROM {table} WHERE month = {form}").fetchone()[0]
        assert found == events, (form, found)
    assert duckdb.sql(f"SELECT SUM(event_count) FROM {table} WHERE month = 4").fetchone()[0] is None


def tools_find_the_table(server: Server, token: str, events: int) -> None:
    """What BI tools ask first: catalogs, schemas, tables, columns."""
    with connect(server, token) as connection:
        (catalog,) = connection.adbc_get_objects(depth="all").read_all().to_pylist()
        (schema,) = catalog["catalog_db_schemas"]
        (table,) = schema["db_schema_tables"]
        names = [catalog["catalog_name"], schema["db_schema_name"], table["table_name"], table["table_type"]]
        assert names == ["tidegauge", "public", "dashboard_metrics", "TABLE"], names
        with connection.cursor() as cursor:
            cursor.execute("SELECT * FROM dashboard_metrics LIMIT 1")
            columns = cursor.fetch_arrow_table().schema
        assert [column["column_name"] for column in table["table_columns"]] == columns.names
        assert connection.adbc_get_table_schema("dashboard_metrics").equals(columns)
        assert connection.adbc_get_table_types() == ["TABLE"]
        assert connection.adbc_get_info()["vendor_name"] == "Tidegauge"


def cli_loads_csv(server: Server, token: str, events: int) -> None:
    """CSV with --time-column and friends, beside live traffic of the same tenant."""
    path = server.data_dir.parent / "series.csv"
    with path.open("w") as out:
        out.write("timestamp,value\n")
        for minute in range(0, 24 * 60, 5):
            at = datetime.datetime(2014, 2, 14) + datetime.timedelta(minutes=minute)
            out.write(f"{at:%Y-%m-%d %H:%M:%S},{minute / 7}\n")
    server.run("load", str(path), "--time-column", "timestamp", "--time-format", "%Y-%m-%d %H:%M:%S", "--value-column",
               "value", "--metric", "ec2_cpu", "--dimension", "host=a1", "--tenant", TENANT, token=token)
    publish(server, token)
    rows = server.run("query", "-o", "csv", "SELECT COUNT(*), SUM(event_count), MIN(year) FROM dashboard_metrics "
                      "WHERE metric_name = 'ec2_cpu'", token=token).splitlines()
    assert rows[1] == "288,288,2014", rows


def publish(server: Server, token: str) -> None:
    """Waits until everything that was taken is in the lake."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        status = json.loads(server.run("status", "-o", "json", token=token))
        if status["quiescent"]:
            return
        time.sleep(0.2)
    raise RuntimeError(f"not published within {PATIENCE_SECONDS} s: {status}")


CHECKS = [
    adbc_answers_the_dashboard_query,
    month_forms_agree,
    pyarrow_reads_flight,
    basic_authentication_works,
    another_tenant_is_refused,
    duckdb_reads_the_lake,
    tools_find_the_table,
    cli_loads_csv,
]


def main() -> int:
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        server = Server(folder / "data")
        try:
            token = server.token("admin", TENANT)
            events = write_events(folder / "events.ndjson")
            server.run("load", str(folder / "events.ndjson"), token=token)
            publish(server, token)
            for check in CHECKS:
                name = check.__name__.replace("_", " ")
                try:
                    check(server, token, events)
                    print(f"ok      {name}")
                except Exception:
                    failed += 1
                    print(f"FAILED  {name}")
                    traceback.print_exc(file=sys.stdout)
        finally:
            server.stop()
    print(f"readers: {len(CHECKS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
