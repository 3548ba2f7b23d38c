"""`check` and `doctor` on real servers: verdicts, predictions beside what exports then do, what is sent, no secrets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

from demo.mariadb import MariaServer
from demo.postgres import EmbeddedPostgres
from rivet_dagster.errors import ConfigError, SourceError
from rivet_dagster.export.config import parse_config
from rivet_dagster.export.governing import parse_governor
from rivet_dagster.export.operations import TableExport
from rivet_dagster.export.preflight import ExportReport, SourceReport, check_export, examine_source
from rivet_dagster.export.verdicts import Verdict
from rivet_dagster.sources import open_source
from tests.conftest import PASSWORD
from tests.support.cli import rivet
from tests.support.debian import until
from tests.support.exports import export_all
from tests.support.signals import meanwhile

Sql = Callable[[str], list[tuple[Any, ...]]]
# Of a machine that other tests keep busy, only what sessions do counts here.
GOVERNOR: dict[str, Any] = {"tick_s": 0.1, "limits": {"canary_s": 10, "checkpoints_requested": 1000}}
SHORT = {"snapshot_s": 0.01}
QUICK = ("--governor", json.dumps(GOVERNOR))


@pytest.fixture
def orders(sql: Sql) -> Sql:
    """A table that nothing speaks against: a key, statistics, and no value whose width is open."""
    sql("CREATE TABLE public.orders (id bigint PRIMARY KEY, at timestamptz NOT NULL, amount numeric(12, 2))")
    sql(
        "INSERT INTO public.orders SELECT n, TIMESTAMPTZ '2020-01-01' + n * INTERVAL '1 hour', n / 4.0"
        " FROM generate_series(1, 20000) AS n"
    )
    sql("CREATE INDEX ON public.orders (at, id)")
    sql("VACUUM ANALYZE public.orders")
    return sql


@pytest.fixture
def visits(mysql_sql: Sql) -> Sql:
    """The same on MariaDB."""
    mysql_sql("CREATE TABLE orders (id bigint PRIMARY KEY, at datetime NOT NULL, amount decimal(12, 2), KEY (at))")
    mysql_sql("INSERT INTO orders SELECT seq, '2020-01-01' + INTERVAL seq HOUR, seq / 4 FROM seq_1_to_20000")
    mysql_sql("ANALYZE TABLE orders")
    return mysql_sql


def export_of(dsn: str, table: str, lake: Path, governor: dict[str, Any] | None = None, **config: Any) -> TableExport:
    asked = parse_config({"table": table, **config})
    return TableExport(asked, dsn, str(lake), governor=parse_governor({**GOVERNOR, **(governor or {})}))


def checked(dsn: str, table: str, lake: Path, workers: int = 2, **options: Any) -> ExportReport:
    return check_export(export_of(dsn, table, lake, **options), workers)


def examined(dsn: str, workers: int = 2, destination: Path | None = None, **governor: Any) -> SourceReport:
    config = parse_governor({**GOVERNOR, **governor})
    place = None if destination is None else str(destination)
    return examine_source(open_source(dsn), config, workers=workers, destination=place)


def rules(report: ExportReport | SourceReport) -> list[str]:
    return [reason.rule for reason in report.reasons]


def said(report: ExportReport | SourceReport, rule: str) -> str:
    (reason,) = (each for each in report.reasons if each.rule == rule)
    return reason.what


def mysql_table(dsn: str, name: str) -> str:
    return f"{dsn.rpartition('/')[2]}.{name}"


@contextmanager
def busy(postgres: EmbeddedPostgres, dsn: str, sessions: int) -> Iterator[None]:
    """So many sessions of others at work."""
    with ExitStack() as stack:
        for _ in range(sessions):
            connection = stack.enter_context(psycopg.connect(dsn, autocommit=True))

            def run(connection: psycopg.Connection[Any] = connection) -> None:
                with suppress(psycopg.errors.QueryCanceled):
                    connection.execute("SELECT pg_sleep(600)")

            stack.enter_context(meanwhile(run, connection.cancel_safe))
        counted = "SELECT count(*)::int FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' AND state = 'active'"
        with psycopg.connect(postgres.dsn(), autocommit=True) as admin:

            def all_work() -> bool:
                return admin.execute(counted).fetchone() == (sessions,)

            until(all_work, "all of them work")
        yield


# --------------------------------------------------------------------------------------------------------- verdicts


def test_nothing_speaks_against_a_good_table(orders: Sql, dsn: str, lake: Path) -> None:
    found = checked(dsn, "public.orders", lake)
    assert (found.verdict, found.reasons, found.exit_code) == (Verdict.EFFICIENT, (), 0)
    assert (found.key.columns, found.key.index) == (("id",), "orders_pkey")
    assert (found.rows.value, found.rows.basis) == (20_000, "catalog")
    types = [(column.name, column.native_type, column.type, column.nullable) for column in found.columns]
    assert types == [
        ("id", "bigint", "int64", False),
        ("at", "timestamp with time zone", "timestamp(us, UTC)", False),
        ("amount", "numeric(12,2)", "decimal(12, 2)", True),
    ]
    assert found.load.pressure is not None
    assert {"active_sessions", "canary_s", "blocked_sessions"} <= {each.name for each in found.load.signals}
    assert not lake.exists(), "nothing is written"


def test_nothing_speaks_against_a_good_table_of_mariadb(visits: Sql, mysql_dsn: str, lake: Path) -> None:
    found = checked(mysql_dsn, mysql_table(mysql_dsn, "orders"), lake)
    assert (found.verdict, found.reasons) == (Verdict.EFFICIENT, ())
    assert (found.key.columns, found.key.index) == (("id",), "PRIMARY")
    assert found.rows.basis == "catalog"
    assert found.rows.value == pytest.approx(20_000, rel=0.2)


def test_a_table_without_a_key_is_read_as_a_whole_by_who_asks_for_it(sql: Sql, dsn: str, lake: Path) -> None:
    sql("CREATE TABLE public.bare (id int, other int UNIQUE)")
    sql("INSERT INTO public.bare SELECT n, n FROM generate_series(1, 1000) AS n")
    sql("VACUUM ANALYZE public.bare")
    found = checked(dsn, "public.bare", lake)
    assert (found.verdict, rules(found), found.exit_code) == (Verdict.UNSAFE, ["RIVET_KEY_MISSING", "no_key"], 1)
    assert found.rejected_indexes == (("bare_other_key", "a column of it may be NULL"),)
    whole = checked(dsn, "public.bare", lake, windows={"type": "full"})
    assert (whole.verdict, rules(whole), whole.exit_code) == (Verdict.DEGRADED, ["no_key"], 0)
    assert "by ranges of its storage" in said(whole, "no_key")
    assert (whole.windows.value, whole.key.columns) == (1, ())
    assert whole.workers == 1, "more than there are windows never read"


def test_a_table_without_a_key_is_one_statement_on_mariadb(mysql_sql: Sql, mysql_dsn: str, lake: Path) -> None:
    mysql_sql("CREATE TABLE bare (id int, note char(250) CHARACTER SET latin1)")
    mysql_sql("INSERT INTO bare SELECT seq, repeat('x', 250) FROM seq_1_to_20000")
    mysql_sql("ANALYZE TABLE bare")
    found = checked(mysql_dsn, mysql_table(mysql_dsn, "bare"), lake, windows={"type": "full"})
    assert (found.verdict, rules(found)) == (Verdict.DEGRADED, ["no_key"])
    assert "by one statement" in said(found, "no_key")
    assert found.rows.value is not None
    assert found.row_bytes.value is not None
    seconds = found.rows.value * found.row_bytes.value / (50 << 20)
    assert found.statement_s.value == pytest.approx(seconds, abs=0.002)
    ended = checked(mysql_dsn, mysql_table(mysql_dsn, "bare"), lake, windows={"type": "full"}, limits=SHORT)
    assert (ended.verdict, rules(ended), ended.exit_code) == (Verdict.UNSAFE, ["statement_ended", "no_key"], 1)


def test_of_a_view_only_measuring_tells(orders: Sql, dsn: str, lake: Path) -> None:
    orders("CREATE VIEW public.paid AS SELECT id, at FROM public.orders WHERE amount > 10")
    windows = {"columns": ["id"], "rows": 5000}
    found = checked(dsn, "public.paid", lake, windows=windows)
    assert (found.verdict, rules(found)) == (Verdict.DEGRADED, ["statement_unknown", "key_declared"])
    assert "of a view every page may run all of it" in said(found, "statement_unknown")
    assert found.statement_s.value is None
    assert found.key.declared
    export_all(export_of(dsn, "public.paid", lake, windows=windows))
    found = checked(dsn, "public.paid", lake, windows=windows)
    assert (found.verdict, rules(found)) == (Verdict.ACCEPTABLE, ["key_declared"])
    assert found.statement_s.basis == "measured"


def test_of_a_query_too(visits: Sql, mysql_dsn: str, lake: Path) -> None:
    query = {"query": "SELECT id, at FROM orders", "windows": {"columns": ["id"]}}
    found = checked(mysql_dsn, "shop.some", lake, **query)
    assert (found.verdict, found.kind) == (Verdict.DEGRADED, "query")
    assert "of a query every page may run all of it" in said(found, "statement_unknown")


def test_without_statistics_the_ends_of_the_key_tell_how_many_rows_there_may_be(sql: Sql, dsn: str, lake: Path) -> None:
    sql("CREATE TABLE public.fresh (id int PRIMARY KEY, n int) WITH (autovacuum_enabled = false)")
    empty = checked(dsn, "public.fresh", lake)
    assert (empty.rows.value, empty.rows.basis, empty.windows.value) == (0, "ends", 0)
    assert empty.verdict is Verdict.EFFICIENT
    sql("INSERT INTO public.fresh SELECT n * 2, n FROM generate_series(1, 30000) AS n")
    found = checked(dsn, "public.fresh", lake, windows={"rows": 10_000})
    assert (found.verdict, rules(found)) == (Verdict.ACCEPTABLE, ["never_analysed"])
    assert (found.rows.value, found.rows.basis, found.windows.value) == (59_999, "ends", 6)
    assert found.row_bytes.basis == "assumed"
    sql("ANALYZE public.fresh")
    assert checked(dsn, "public.fresh", lake).verdict is Verdict.EFFICIENT


def test_what_a_role_may_not_see_is_said_with_the_right_that_it_lacks(
    orders: Sql, postgres: EmbeddedPostgres, dsn: str, lake: Path
) -> None:
    orders("CREATE ROLE preflight_reader LOGIN PASSWORD 'narrow'")
    try:
        orders("GRANT SELECT ON public.orders TO preflight_reader")
        reader = postgres.dsn(dsn.rpartition("/")[2], user="preflight_reader", password="narrow")
        found = checked(reader, "public.orders", lake)
        assert (found.verdict, rules(found)) == (Verdict.ACCEPTABLE, ["signals_unseen"])
        assert "active_sessions, oldest_transaction_s, waiting_sessions without pg_read_all_stats" in said(
            found, "signals_unseen"
        )
        seen = examined(reader)
        assert seen.identity is not None
        assert (seen.identity.user, seen.identity.rights, seen.identity.excessive) == ("preflight_reader", (), ())
        assert "signals_unseen" in rules(seen)
        orders("GRANT pg_read_all_stats TO preflight_reader")
        assert checked(reader, "public.orders", lake).verdict is Verdict.EFFICIENT
        seen = examined(reader)
        assert seen.identity is not None
        assert seen.identity.rights == ("pg_read_all_stats",)
        orders("ALTER ROLE preflight_reader CONNECTION LIMIT 4")
        assert rules(checked(reader, "public.orders", lake, workers=1)) == ["little_room"]
        crowded = checked(reader, "public.orders", lake, workers=4, windows={"rows": 100})
        assert (rules(crowded), crowded.exit_code) == (["no_room"], 1)
        assert "5 connections are needed, one of them to look, and 4 could be opened" in said(crowded, "no_room")
        assert rules(examined(reader, workers=4))[0] == "no_room"
    finally:
        orders("DROP OWNED BY preflight_reader")
        orders("DROP ROLE preflight_reader")


def test_what_a_user_of_mariadb_may_not_see_is_said_too(
    visits: Sql, mariadb: MariaServer, mysql_dsn: str, lake: Path
) -> None:
    visits("CREATE USER preflight_reader@'%' IDENTIFIED BY 'narrow'")
    try:
        name = mysql_dsn.rpartition("/")[2]
        visits(f"GRANT SELECT ON {name}.orders TO preflight_reader@'%'")
        reader = mariadb.dsn(name, user="preflight_reader", password="narrow")
        found = checked(reader, f"{name}.orders", lake)
        assert (found.verdict, rules(found)) == (Verdict.ACCEPTABLE, ["signals_unseen"])
        for words in ("blocked_sessions", "without PROCESS", "replica_lag_s without SLAVE MONITOR"):
            assert words in said(found, "signals_unseen")
        visits(f"GRANT UPDATE (amount) ON {name}.orders TO preflight_reader@'%'")
        visits("GRANT PROCESS, SLAVE MONITOR ON *.* TO preflight_reader@'%'")
        seen = examined(reader)
        assert seen.identity is not None
        assert seen.identity.user == "preflight_reader@%"
        assert set(seen.identity.rights) == {
            "PROCESS on *.*",
            "SLAVE MONITOR on *.*",
            f"SELECT on `{name}`.`orders`",
            f"UPDATE (`amount`) on `{name}`.`orders`",
        }
        assert seen.identity.excessive == (f"UPDATE (`amount`) on `{name}`.`orders`",)
        assert checked(reader, f"{name}.orders", lake).verdict is Verdict.EFFICIENT
    finally:
        visits("DROP USER preflight_reader@'%'")


def test_load_of_others_shows_and_closes_gates(orders: Sql, postgres: EmbeddedPostgres, dsn: str, lake: Path) -> None:
    critical = {"above": {"active_sessions": 4}}
    quiet = checked(dsn, "public.orders", lake, governor={"cores": 5, "critical": critical})
    assert quiet.verdict is Verdict.EFFICIENT
    options: dict[str, Any] = {"windows": {"rows": 1000}, "workers": 4}
    with busy(postgres, dsn, 5):
        loaded = checked(dsn, "public.orders", lake, governor={"cores": 5, "critical": critical}, **options)
        aborted = checked(dsn, "public.orders", lake, governor={"critical": {**critical, "action": "abort"}}, **options)
        seen = examined(dsn, workers=4, cores=5)
        ungoverned = checked(dsn, "public.orders", lake, governor={"enabled": False, "critical": critical}, **options)
    assert (loaded.verdict, rules(loaded)) == (Verdict.DEGRADED, ["gate_closed", "loaded"])
    assert "active_sessions is at 5, above the critical 4" in said(loaded, "gate_closed")
    assert "active_sessions is at 1.00 of full load" in said(loaded, "loaded")
    assert (loaded.load.begins_with, loaded.workers) == (1, 4)
    assert "critical_load" in rules(aborted)
    assert aborted.exit_code == 1
    assert seen.load is not None
    (active,) = (each for each in seen.load.signals if each.name == "active_sessions")
    assert (active.value, active.limit, active.share) == (5, 5, 1)
    assert ungoverned.load.gates == ()
    assert ungoverned.load.begins_with == 4


def test_gates_and_memory_of_ones_own(orders: Sql, dsn: str, lake: Path, tmp_path: Path) -> None:
    veto = tmp_path / "no-exports"
    governor: dict[str, Any] = {"vetoes": [{"type": "file", "path": str(veto)}]}
    assert checked(dsn, "public.orders", lake, governor=governor).verdict is Verdict.EFFICIENT
    veto.touch()
    assert rules(checked(dsn, "public.orders", lake, governor=governor)) == ["gate_closed"]
    small = checked(dsn, "public.orders", lake, governor={"memory_bytes": 100 << 20})
    assert (small.verdict, rules(small)) == (Verdict.UNSAFE, ["too_much_memory"])
    assert "too_much_memory" in rules(examined(dsn, memory_bytes=100 << 20))


# ------------------------------------------------------------------------------------------------------ predictions


def test_widths_are_measured_once_windows_are_committed(sql: Sql, dsn: str, lake: Path) -> None:
    # Compressed where it is stored: the catalog thinks of a fraction of what comes over the wire.
    sql("CREATE TABLE public.prose (id int PRIMARY KEY, words text)")
    sql("INSERT INTO public.prose SELECT n, repeat('word ', 6000) FROM generate_series(1, 600) AS n")
    sql("VACUUM ANALYZE public.prose")
    windows = {"rows": 200}
    before = checked(dsn, "public.prose", lake, windows=windows)
    assert (before.verdict, rules(before)) == (Verdict.ACCEPTABLE, ["width_unmeasured"])
    assert "by words" in said(before, "width_unmeasured")
    assert before.row_bytes.value is not None
    assert before.row_bytes.value < 1000
    assert before.page_rows == 200
    assert before.measured is None
    export_all(export_of(dsn, "public.prose", lake, windows=windows))
    after = checked(dsn, "public.prose", lake, windows=windows)
    assert (after.verdict, after.reasons) == (Verdict.EFFICIENT, ())
    (width,) = sql("SELECT avg(octet_length(words))::int FROM public.prose")[0]
    assert after.row_bytes.basis == "measured"
    assert after.row_bytes.value == pytest.approx(width, rel=0.01)
    whole = checked(dsn, "public.prose", lake, windows={"rows": 200}, limits={"page_bytes": 1 << 20})
    assert whole.page_rows == pytest.approx((1 << 20) / width, abs=1)
    manifests = [json.loads(path.read_text()) for path in (lake / "public.prose/g1/windows").iterdir()]
    assert after.measured is not None
    assert after.measured.windows == len(manifests) == 3
    assert after.measured.rows == 600
    assert after.measured.workers == 2
    for name, figure in (("longest_statement_s", after.statement_s), ("peak_memory_bytes", after.memory_bytes)):
        assert figure.basis == "measured"
        assert figure.value is not None
        assert figure.value >= max(manifest["statistics"][name] for manifest in manifests)


def test_widths_are_measured_on_mariadb_too(mysql_sql: Sql, mysql_dsn: str, lake: Path) -> None:
    mysql_sql("CREATE TABLE prose (id int PRIMARY KEY, words mediumtext) STATS_AUTO_RECALC = 0")
    mysql_sql("INSERT INTO prose SELECT seq, 'short' FROM seq_1_to_600")
    mysql_sql("ANALYZE TABLE prose")
    mysql_sql("UPDATE prose SET words = repeat('word ', 2000)")
    table = mysql_table(mysql_dsn, "prose")
    before = checked(mysql_dsn, table, lake)
    assert rules(before) == ["width_unmeasured"]
    assert before.row_bytes.value is not None
    assert before.row_bytes.value < 1000
    export_all(export_of(mysql_dsn, table, lake))
    after = checked(mysql_dsn, table, lake)
    assert (after.verdict, after.row_bytes.basis) == (Verdict.EFFICIENT, "measured")
    assert after.row_bytes.value == pytest.approx(10_000, rel=0.01)
    assert after.page_rows == 600


WINDOWS: list[dict[str, Any]] = [
    {"rows": 3000},
    {"rows": 3000, "columns": ["at"]},
    {"type": "int_range", "column": "id"},
    {"type": "int_range", "column": "id", "size": 700},
    {"type": "cursor", "column": "at", "rows": 3000},
    {"type": "full"},
]


@pytest.mark.parametrize("windows", WINDOWS, ids=str)
@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
def test_as_many_windows_are_foreseen_as_are_planned(
    engine: str, windows: dict[str, Any], request: pytest.FixtureRequest, lake: Path
) -> None:
    request.getfixturevalue("orders" if engine == "postgresql" else "visits")
    dsn: str = request.getfixturevalue("dsn" if engine == "postgresql" else "mysql_dsn")
    table = "public.orders" if engine == "postgresql" else mysql_table(dsn, "orders")
    found = checked(dsn, table, lake, windows=windows)
    export = export_of(dsn, table, lake, windows=windows)
    plan, _ = export.plan()
    assert found.windows.value is not None
    assert found.windows.value == pytest.approx(len(plan.windows), abs=1)
    again = check_export(export)
    assert (again.windows.value, again.windows.basis) == (len(plan.windows), "plan")


def test_slices_of_time_follow_from_the_calendar(orders: Sql, dsn: str, lake: Path) -> None:
    windows = {"type": "time", "column": "at", "start": "2020-01-01", "end": "2020-03-01"}
    found = checked(dsn, "public.orders", lake, windows=windows)
    assert (found.windows.value, found.windows.basis) == (60, "calendar")
    assert found.verdict is Verdict.EFFICIENT
    hourly = {**windows, "every": "hour", "start": "2016-01-01", "end": None}
    assert rules(checked(dsn, "public.orders", lake, windows=hourly)) == ["many_windows"]


def test_windows_without_a_key_behind_them_are_one_statement_each(sql: Sql, dsn: str, lake: Path) -> None:
    sql("CREATE TABLE public.log (day date NOT NULL, n int)")
    sql("INSERT INTO public.log SELECT DATE '2020-01-01' + n % 50, n FROM generate_series(1, 5000) AS n")
    sql("CREATE INDEX ON public.log (day)")
    sql("VACUUM ANALYZE public.log")
    windows = {"type": "time", "column": "day", "start": "2020-01-01", "end": "2020-02-20"}
    found = checked(dsn, "public.log", lake, windows=windows)
    assert (found.verdict, rules(found)) == (Verdict.ACCEPTABLE, ["one_statement_a_window"])
    assert (found.windows.value, found.window_rows.value) == (50, 100)


def test_too_many_windows_are_refused_before_they_are_planned(orders: Sql, dsn: str, lake: Path) -> None:
    found = checked(dsn, "public.orders", lake, windows={"rows": 10, "max_windows": 1000})
    assert (rules(found), found.exit_code) == (["too_many_windows"], 1)
    assert rules(checked(dsn, "public.orders", lake, windows={"rows": 2})) == ["many_windows"]
    estimated = checked(dsn, "public.orders", lake, windows={"boundaries": "estimated"})
    assert rules(estimated) == ["boundaries_estimated"]


def test_nothing_is_scanned(orders: Sql, sql: Sql, dsn: str, lake: Path) -> None:
    sql("CREATE TABLE public.bare (id int)")
    sql("INSERT INTO public.bare SELECT generate_series(1, 20000)")
    sql("CREATE VIEW public.seen AS SELECT * FROM public.bare")
    sql("VACUUM ANALYZE public.bare")
    read = (
        "SELECT coalesce(sum(seq_scan), 0)::int, coalesce(sum(seq_tup_read), 0)::int,"
        " coalesce(sum(idx_tup_fetch), 0)::int, coalesce(sum(idx_scan), 0)::int FROM pg_stat_user_tables"
    )
    sql("SELECT pg_stat_force_next_flush()")
    ((scans, read_rows, fetched, looks),) = sql(read)
    for table, windows in (
        ("public.orders", {"type": "int_range", "column": "id"}),
        ("public.orders", {"type": "cursor", "column": "at"}),
        ("public.orders", {}),
        ("public.bare", {"type": "full"}),
        ("public.seen", {"columns": ["id"]}),
        ("public.seen", {"type": "full"}),
    ):
        checked(dsn, table, lake, windows=windows)
    # What a session has read is counted when it ends at the latest.
    until(lambda: sql(read)[0][3] > looks, "the looks at indexes are counted")
    ((scans_after, read_after, fetched_after, _),) = sql(read)
    assert (scans_after, read_after) == (scans, read_rows)
    assert fetched_after - fetched < 200


# --------------------------------------------------------------------------------------------------- errors, machine


def test_what_was_planned_otherwise_or_has_changed_is_unsafe(orders: Sql, dsn: str, lake: Path) -> None:
    export_of(dsn, "public.orders", lake).plan()
    other = checked(dsn, "public.orders", lake, windows={"type": "int_range", "column": "id"})
    assert (rules(other), other.exit_code) == (["RIVET_PLAN_MISMATCH"], 1)
    orders("ALTER TABLE public.orders ADD COLUMN note int")
    drifted = checked(dsn, "public.orders", lake)
    assert (rules(drifted), drifted.exit_code) == (["RIVET_SCHEMA_DRIFT"], 4)
    assert "note" in said(drifted, "RIVET_SCHEMA_DRIFT")


def test_what_cannot_be_asked_for_is_an_error(orders: Sql, dsn: str, lake: Path) -> None:
    for code, config in (
        ("RIVET_CONFIG_COLUMN", {"windows": {"columns": ["nothing"]}}),
        ("RIVET_CONFIG_TYPE", {"columns": {"id": {"type": "date"}}}),
        ("RIVET_CONFIG_WINDOWS", {"windows": {"type": "int_range", "column": "at"}}),
    ):
        with pytest.raises(ConfigError) as raised:
            checked(dsn, "public.orders", lake, **config)
        assert raised.value.code == code
    with pytest.raises(SourceError, match="RIVET_SOURCE_TABLE_MISSING"):
        checked(dsn, "public.nothing", lake)
    unindexed = checked(dsn, "public.orders", lake, windows={"columns": ["amount"]})
    assert (rules(unindexed), unindexed.exit_code) == (["RIVET_KEY_UNUSABLE"], 1)


def test_options_of_columns_are_in_the_type_report(orders: Sql, dsn: str, lake: Path) -> None:
    columns = {"at": {"unrepresentable": "null"}, "amount": {"type": "text"}}
    found = checked(dsn, "public.orders", lake, columns=columns).to_json()["columns"]
    assert [(each["name"], each["type"], each["nullable"], each["unrepresentable"]) for each in found] == [
        ("id", "int64", False, "error"),
        ("at", "timestamp(us, UTC)", True, "null"),
        ("amount", "text", True, "error"),
    ]


def test_a_destination_is_tried_and_left_as_it_was(dsn: str, lake: Path) -> None:
    unfinished = lake / "public.orders/part#1"
    unfinished.parent.mkdir(parents=True)
    unfinished.write_text("another export writes this at this moment")
    before = sorted(lake.rglob("*"))
    found = examined(dsn, destination=lake)
    assert rules(found) == ["rights_excessive"]
    assert found.identity is not None
    assert (found.identity.rights, found.identity.encrypted) == (("superuser",), False)
    assert sorted(lake.rglob("*")) == before
    lake.joinpath("file").touch()
    found = examined(dsn, destination=lake / "file/lake")
    assert rules(found)[0].startswith("RIVET_STORE_")
    assert found.exit_code == 1


def test_the_spool_folder_is_tried(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("RIVET_SPOOL_DIR", str(file / "spool"))
    found = examined(dsn)
    assert rules(found)[0] == "RIVET_SPOOL_NOT_WRITABLE"
    assert found.machine.spool_free is None
    monkeypatch.setenv("RIVET_SPOOL_DIR", str(tmp_path))
    found = examined(dsn)
    assert found.machine.spool == str(tmp_path)
    assert (found.machine.spool_free or 0) > 0
    assert list(tmp_path.iterdir()) == [file]


# ---------------------------------------------------------------------------------------------------- command line


def assert_no_secret(*texts: str) -> None:
    for text in texts:
        for secret in (PASSWORD, quote(PASSWORD, safe=""), "s3cr3t"):
            assert secret not in text


def test_check_prints_for_people_and_for_programs(orders: Sql, dsn: str, lake: Path) -> None:
    done = rivet("check", "--source", dsn, "--table", "public.orders", "--to", str(lake), *QUICK)
    assert done.code == 0, done.err
    for words in ("public.orders: EFFICIENT", "(id) by orders_pkey", "20,000", "decimal(12, 2)", "Nothing speaks"):
        assert words in done.out
    options = ("--rows-per-window", "2", "--workers", "3", "--profile", "safe", "--format", "csv")
    printed = rivet("check", "--source", dsn, "--table", "public.orders", *options, *QUICK, "--json")
    assert printed.code == 0, printed.err
    found = printed.json
    assert (found["verdict"], [reason["rule"] for reason in found["reasons"]]) == ("DEGRADED", ["many_windows"])
    assert found["windows"] == {"value": 10_000, "basis": "catalog"}
    assert (found["workers"], found["key"]["columns"], found["mode"]) == (3, ["id"], "keyset")
    assert found["load"]["signals"]["canary_s"]["value"] > 0
    assert_no_secret(done.out, done.err, printed.out, printed.err)


def test_check_fails_where_an_export_would(sql: Sql, dsn: str) -> None:
    sql("CREATE TABLE public.bare (id int, words text)")
    arguments = ("check", "--source", dsn, "--table", "public.bare", *QUICK)
    done = rivet(*arguments, env={"COLUMNS": "200"})
    assert done.code == 1
    for words in ("public.bare: UNSAFE", "RIVET_KEY_MISSING", "none: the table is read as a whole", "what to do"):
        assert words in done.out
    assert rivet(*arguments, "--whole").code == 0
    missing = rivet("check", "--source", dsn, "--table", "public.nothing", "--json")
    assert (missing.code, missing.json["error"]["code"]) == (1, "RIVET_SOURCE_TABLE_MISSING")
    assert_no_secret(done.out, done.err, missing.out, missing.err)


def test_doctor_prints_for_people_and_for_programs(dsn: str, mysql_dsn: str, lake: Path) -> None:
    done = rivet("doctor", "--source", dsn, "--to", str(lake), *QUICK, env={"COLUMNS": "150"})
    assert done.code == 0, done.err
    for words in (": ACCEPTABLE", "superuser", "without TLS", "active_sessions", "rights_excessive", str(lake)):
        assert words in done.out
    printed = rivet("doctor", "--source", mysql_dsn, "--workers", "3", *QUICK, "--json")
    assert printed.code == 0, printed.err
    found = printed.json
    assert found["server"]["version"].startswith("MariaDB ")
    assert "ALL PRIVILEGES on *.*" in found["identity"]["excessive"]
    assert (found["workers"], found["load"]["begins_with"]) == (3, 3)
    assert {"active_sessions", "history_list", "log_waits", "canary_s"} <= found["load"]["signals"].keys()
    assert found["load"]["signals"]["log_waits"]["a_second"]
    assert_no_secret(done.out, done.err, printed.out, printed.err)


def test_doctor_says_what_fails_and_looks_at_the_rest(
    postgres: EmbeddedPostgres, dsn: str, lake: Path, tmp_path: Path
) -> None:
    wrong = postgres.dsn(dsn.rpartition("/")[2], password="wrong s3cr3t")
    done = rivet("doctor", "--source", wrong, "--to", str(lake), *QUICK, env={"COLUMNS": "150"})
    assert done.code == 1
    for words in (": UNSAFE", "cannot be reached", "RIVET_SOURCE_AUTH", "spool folder"):
        assert words in done.out
    away = rivet("doctor", "--source", "postgresql://reader:s3cr3t@127.0.0.1:1/shop", *QUICK, "--json")
    assert away.code == 2, "trying again may help"
    assert [reason["rule"] for reason in away.json["reasons"]] == ["RIVET_SOURCE_UNREACHABLE"]
    assert (away.json["server"], away.json["load"]) == (None, None)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    refused = rivet("doctor", "--source", dsn, "--to", str(closed), *QUICK, "--json", obey_modes=True)
    assert refused.code == 1
    assert refused.json["reasons"][0]["rule"].startswith("RIVET_STORE_")
    assert_no_secret(done.out, done.err, away.out, away.err, refused.out, refused.err)
