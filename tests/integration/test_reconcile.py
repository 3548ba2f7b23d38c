"""Reconciliation: the source's rows against committed windows, at each depth, and what it says of the differences."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from rivet_dagster.errors import RivetError
from rivet_dagster.export.operations import TableExport
from rivet_dagster.export.reconcile import Comparison, Reconciliation, plan_in_force, reconcile
from rivet_dagster.export.window import read_pages
from rivet_dagster.sources.base import Session
from rivet_dagster.sources.postgres.session import PostgresSession
from tests.support.cli import command, rivet
from tests.support.exports import export_all, prepared, run_all
from tests.support.mysql_tables import Sql as MysqlSql
from tests.support.mysql_tables import database_of
from tests.support.readers import tree

Sql = Callable[[str], list[tuple[Any, ...]]]
DEPTHS: tuple[Comparison, ...] = ("count", "keys", "rows")

ORDERS = """
CREATE TABLE public.orders (
    region text, id bigint, total numeric(12,2), note text, at timestamptz, tags text[], PRIMARY KEY (region, id)
);
INSERT INTO public.orders
SELECT 'r' || n % 3, n * 10, n / 7.0, nullif('note ' || n % 5, 'note 0'), TIMESTAMPTZ '2024-01-01' + n * INTERVAL '1 h',
       ARRAY['x', n::text]
  FROM generate_series(1, 3000) AS n;
"""


@pytest.fixture
def orders(sql: Sql, dsn: str, lake: Path) -> TableExport:
    """Three windows of a thousand rows: all of a region, each."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(ORDERS)
    export = prepared(dsn, lake, "public.orders", rows=1000)
    export_all(export)
    return export


def differing(report: Reconciliation) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(finding.code, finding.window, finding.columns) for finding in report.findings]


@pytest.mark.parametrize("depth", DEPTHS)
def test_an_unchanged_table_is_equal_at_every_depth(orders: TableExport, depth: Comparison, lake: Path) -> None:
    before = tree(lake)
    seen: list[str] = []
    report = reconcile(orders, depth, workers=3, progress=lambda window: seen.append(window.key))
    assert (report.ok, report.windows, report.uncommitted, report.rows) == (True, 3, 0, 3000)
    assert (report.depth, report.snapshot, report.generation) == (depth, True, 1)
    assert report.read_at <= report.read_until
    assert sorted(seen) == ["g1-w000000", "g1-w000001", "g1-w000002"]
    assert tree(lake) == before


# What changes in the source, and what each depth sees of it: nothing, or the columns that it names.
CHANGES: dict[str, dict[Comparison, tuple[str, ...] | None]] = {
    "DELETE FROM orders WHERE id = 1010": {"count": (), "keys": (), "rows": ()},
    "INSERT INTO orders SELECT region, 3, total, note FROM orders WHERE id = 1010": {
        "count": (),
        "keys": (),
        "rows": (),
    },
    "UPDATE orders SET id = 5 WHERE id = 1010": {"count": None, "keys": ("id",), "rows": ("id",)},
    "UPDATE orders SET total = total + 0.01 WHERE id = 1010": {"count": None, "keys": None, "rows": ("total",)},
    "UPDATE orders SET note = NULL, tags = tags || 'y'::text WHERE id = 1010": {
        "count": None,
        "keys": None,
        "rows": ("note", "tags"),
    },
    # Two rows exchange their totals: every column has the values that it had.
    "UPDATE orders SET total = CASE id WHEN 1010 THEN 1040 / 70.0 ELSE 1010 / 70.0 END WHERE id IN (1010, 1040)": {
        "count": None,
        "keys": None,
        "rows": (),
    },
}


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("change", CHANGES)
def test_each_depth_sees_what_it_promises(orders: TableExport, sql: Sql, change: str, depth: Comparison) -> None:
    sql(change)
    ((region,),) = sql("SELECT region FROM orders WHERE id = 1040")
    window = f"g1-w00000{region[1:]}"
    columns = CHANGES[change][depth]
    code = f"RIVET_RECONCILE_{depth.upper()}"
    assert differing(reconcile(orders, depth)) == ([] if columns is None else [(code, window, columns)])


@pytest.mark.parametrize(
    ("change", "depth", "words"),
    [
        ("DELETE FROM orders WHERE region = 'r1' AND id < 700", "count", "the source has 977 rows, not 1000"),
        ("DELETE FROM orders WHERE region = 'r1' AND id < 700", "rows", "the source has 977 rows, not 1000"),
        ("INSERT INTO orders SELECT 'r1', -n FROM generate_series(1, 50) AS n", "count", "more than 1000 rows, not"),
        ("INSERT INTO orders SELECT 'r1', -n FROM generate_series(1, 50) AS n", "keys", "the source has 1050 rows"),
        ("UPDATE orders SET note = 'else' WHERE id = 1000", "rows", "the source has other values in note"),
    ],
)
def test_findings_say_what_differs(orders: TableExport, sql: Sql, change: str, depth: Comparison, words: str) -> None:
    sql(change)
    (finding,) = reconcile(orders, depth).findings
    assert words in finding.what
    manifest = json.loads((Path(orders.store.uri.removeprefix("file://")) / finding.path).read_text())
    assert finding.window == manifest["key"]
    assert manifest["read_at"] in finding.what


def test_keys_are_compared_without_reading_the_other_columns(
    orders: TableExport, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql("UPDATE orders SET id = 6 WHERE region = 'r2' AND id = 20")
    described: list[list[str]] = []
    open_window = PostgresSession.open_window

    def opened(self: PostgresSession, table: Any, *more: Any) -> Any:
        described.append([column.name for column in table.columns])
        return open_window(self, table, *more)

    monkeypatch.setattr(PostgresSession, "open_window", opened)
    assert differing(reconcile(orders, "keys")) == [("RIVET_RECONCILE_KEYS", "g1-w000002", ("id",))]
    assert described == [["region", "id"]] * 3


def test_parts_without_checksums_are_compared_by_whole_rows(orders: TableExport, sql: Sql, lake: Path) -> None:
    for file in (lake / "public.orders/g1/windows").iterdir():
        manifest = json.loads(file.read_text())
        for part in manifest["parts"]:
            del part["columns"]
        file.write_text(json.dumps(manifest))
    assert reconcile(orders, "keys").ok
    sql("UPDATE orders SET total = 0 WHERE id = 1010")
    assert [code for code, _, _ in differing(reconcile(orders, "keys"))] == ["RIVET_RECONCILE_KEYS"]


def test_windows_of_several_parts_and_of_none(dsn: str, sql: Sql, lake: Path) -> None:
    sql("CREATE TABLE public.wide (id int PRIMARY KEY, v text)")
    sql("INSERT INTO wide SELECT n, repeat(md5(n::text), 40) FROM generate_series(1, 4000) AS n")
    small = {"row_group_bytes": 64 << 10, "part_bytes": 1 << 20, "compression": "none"}
    export = prepared(dsn, lake, "public.wide", rows=2000, format=small)
    export_all(export)
    sql("DELETE FROM wide WHERE id > 2000")
    plan = export.planned()
    assert all(outcome.error is None for outcome in run_all(export, plan, "again"))
    windows = [json.loads(file.read_text()) for file in sorted((lake / "public.wide/g1/windows").iterdir())]
    assert [len(window["parts"]) > 1 for window in windows] == [True, False]
    assert [len(window["parts"]) for window in windows][1] == 0
    assert all(reconcile(export, depth).ok for depth in DEPTHS)
    sql("INSERT INTO wide VALUES (3000, '')")
    sql("UPDATE wide SET v = 'x' WHERE id = 1500")
    assert differing(reconcile(export, "rows")) == [
        ("RIVET_RECONCILE_ROWS", "g1-w000000", ("v",)),
        ("RIVET_RECONCILE_ROWS", "g1-w000001", ()),
    ]
    assert [window for _, window, _ in differing(reconcile(export, "keys"))] == ["g1-w000001"]


def test_windows_that_are_not_committed_are_counted(orders: TableExport, sql: Sql) -> None:
    sql("INSERT INTO orders SELECT 'r9', n FROM generate_series(1, 10) AS n")
    orders.plan()
    report = reconcile(orders, "rows")
    assert (report.ok, report.windows, report.uncommitted) == (True, 3, 1)


def test_the_sealed_generation_is_compared(orders: TableExport, sql: Sql) -> None:
    from rivet_dagster.export.planning import Wish

    orders.plan(Wish("another"))
    assert orders.planned().generation == 2
    assert plan_in_force(orders).generation == 1
    assert reconcile(orders, "count").windows == 3


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(
    "windows",
    [
        {"type": "int_range", "column": "id", "size": 700},
        {"type": "cursor", "column": "moved", "lag": 0, "rows": 600},
        {"type": "keyset", "columns": ["moved"], "rows": 600},
        {"type": "full"},
    ],
    ids=lambda windows: str(windows["type"]),
)
def test_windows_of_every_type(dsn: str, sql: Sql, lake: Path, windows: dict[str, Any], depth: Comparison) -> None:
    sql("CREATE TABLE public.t (id int PRIMARY KEY, moved int, v text)")
    sql("CREATE INDEX ON t (moved)")
    sql("INSERT INTO t SELECT n, nullif(n / 3, 5), md5(n::text) FROM generate_series(1, 2000) AS n")
    export = prepared(dsn, lake, "public.t")
    export = TableExport(export.config.model_validate({"table": "public.t", "windows": windows}), dsn, str(lake))
    export_all(export)
    assert reconcile(export, depth).ok
    sql("DELETE FROM t WHERE id = 777")
    (finding,) = reconcile(export, depth).findings
    # Without a key, keys are whole rows.
    expected = "rows" if depth == "keys" and windows["type"] == "full" else depth
    assert finding.code == f"RIVET_RECONCILE_{expected.upper()}"


def test_a_changed_schema_is_an_error(orders: TableExport, sql: Sql) -> None:
    sql("ALTER TABLE orders DROP note")
    with pytest.raises(RivetError) as caught:
        reconcile(orders, "rows")
    assert caught.value.code == "RIVET_SCHEMA_DRIFT"


def test_a_lost_connection_is_tried_again(orders: TableExport, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = threading.Event()

    def interrupted(*arguments: Any) -> None:
        if not killed.is_set():
            killed.set()
            sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend'"
                " AND datname = current_database() AND pid <> pg_backend_pid()"
            )
        read_pages(*arguments)

    monkeypatch.setattr("rivet_dagster.export.reconcile.read_pages", interrupted)
    orders.config = orders.config.model_copy(
        update={"limits": orders.config.limits.model_copy(update={"retry_seconds": 0.01})}
    )
    assert reconcile(orders, "rows", workers=1).ok
    assert killed.is_set()


def test_an_error_in_one_window_ends_the_others(orders: TableExport, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Session] = []
    close = PostgresSession.close

    def noted(self: PostgresSession) -> None:
        closed.append(self)
        close(self)

    monkeypatch.setattr(PostgresSession, "close", noted)
    sql("UPDATE orders SET total = 'NaN' WHERE id = 1010")
    with pytest.raises(RivetError) as caught:
        reconcile(orders, "rows", workers=2)
    assert caught.value.code == "RIVET_VALUE_UNSUPPORTED"
    left = sql(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'rivet%' AND datname = current_database()"
    )
    assert (len(set(map(id, closed))), left) == (3, [(0,)])


def test_the_command_line_compares(orders: TableExport, sql: Sql, dsn: str, lake: Path) -> None:
    arguments = ("reconcile", "--source", dsn, "--table", "public.orders", "--to", str(lake))
    equal = rivet(*arguments, "--json")
    assert (equal.code, equal.json["ok"], equal.json["depth"], equal.json["windows"]) == (0, True, "keys", 3)
    assert "has what the source has (3 windows with 3,000 rows by keys" in rivet(*arguments).out
    sql("UPDATE orders SET note = 'else' WHERE id = 1010")
    assert rivet(*arguments, "--json").code == 0
    found = rivet(*arguments, "--depth", "rows", "--json")
    assert found.code == 3
    assert [(each["code"], each["columns"]) for each in found.json["findings"]] == [("RIVET_RECONCILE_ROWS", ["note"])]
    said = rivet(*arguments, "--depth", "rows")
    assert (said.code, "other values in note" in said.out) == (3, True)


def test_a_stop_is_orderly(dsn: str, sql: Sql, lake: Path) -> None:
    sql("CREATE TABLE public.orders (id int PRIMARY KEY, note text)")
    sql("INSERT INTO orders SELECT n, repeat('x', 300) FROM generate_series(1, 300000) AS n")
    export_all(prepared(dsn, lake, "public.orders", rows=3000))
    before = tree(lake)
    arguments = ("reconcile", "--table", "public.orders", "--to", str(lake), "--depth", "rows")
    process = subprocess.Popen(
        command(*arguments), env={**os.environ, "RIVET_SOURCE": dsn}, stderr=subprocess.PIPE, text=True
    )
    reading = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid() AND query LIKE 'COPY%'"
    )
    while sql(reading) == [(0,)]:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err.splitlines()) == (
        143,
        ["RIVET_INTERRUPTED: The comparison was stopped.", "Nothing was written."],
    )
    assert tree(lake) == before


def test_the_command_line_compares_slices_of_time(dsn: str, sql: Sql, lake: Path) -> None:
    sql("CREATE TABLE public.events (id int PRIMARY KEY, at timestamp NOT NULL)")
    sql("CREATE INDEX ON events (at, id)")
    sql("INSERT INTO events SELECT n, TIMESTAMP '2024-01-01' + n * INTERVAL '1 hour' FROM generate_series(0, 71) AS n")
    windows = json.dumps({"type": "time", "column": "at", "start": "2024-01-01", "end": "2024-01-04"})
    arguments = ("--source", dsn, "--table", "public.events", "--to", str(lake))
    assert rivet("export", *arguments, "--windows", windows).code == 0
    assert rivet("reconcile", *arguments, "--windows", windows, "--json").json["windows"] == 3
    sql("DELETE FROM events WHERE id = 30")
    found = rivet("reconcile", *arguments, "--windows", windows, "--depth", "count", "--json")
    assert (found.code, [each["window"] for each in found.json["findings"]]) == (3, ["2024-01-02"])
    unsaid = rivet("reconcile", *arguments, "--json")
    assert (unsaid.code, unsaid.json["error"]["code"]) == (1, "RIVET_CONFIG_INVALID")


@pytest.mark.parametrize("storage", ["InnoDB", "Aria"])
def test_tables_of_mariadb(mysql_dsn: str, mysql_sql: MysqlSql, lake: Path, storage: str) -> None:
    mysql_sql(f"CREATE TABLE t (a int, b varchar(20), v decimal(9,2), PRIMARY KEY (a, b)) ENGINE={storage}")
    mysql_sql("INSERT INTO t SELECT seq, concat('b', seq % 7), seq / 4 FROM seq_1_to_3000")
    export = prepared(mysql_dsn, lake, f"{database_of(mysql_dsn)}.t", rows=1000)
    export_all(export)
    for depth in DEPTHS:
        report = reconcile(export, depth)
        assert (report.ok, report.windows, report.snapshot) == (True, 3, storage == "InnoDB")
    mysql_sql("UPDATE t SET b = 'else' WHERE a = 1500")
    mysql_sql("UPDATE t SET v = v + 1 WHERE a = 2500")
    assert differing(reconcile(export, "count")) == []
    assert differing(reconcile(export, "keys")) == [("RIVET_RECONCILE_KEYS", "g1-w000001", ("b",))]
    assert differing(reconcile(export, "rows")) == [
        ("RIVET_RECONCILE_ROWS", "g1-w000001", ("b",)),
        ("RIVET_RECONCILE_ROWS", "g1-w000002", ("v",)),
    ]
