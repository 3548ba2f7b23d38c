"""Sessions as a DBA's servers have them: older versions, hot standbys, poolers, narrow roles, roles with odd defaults.

pgBouncer stands for poolers in transaction mode. Odyssey is not in Debian; nothing that is sent here depends on which
of them it is: no startup parameter that a pooler would have to ignore, no prepared statement, no setting that outlives
a transaction, and both hand out process ids of their own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest

from demo.postgres import EmbeddedPostgres
from rivet_dagster import ExportConfig, RivetResource, build_rivet_assets
from rivet_dagster.errors import InterruptedExport, SourceError
from rivet_dagster.export import window as window_module
from rivet_dagster.export.runner import WindowRun
from rivet_dagster.sources import open_source
from rivet_dagster.sources.base import BatchLimits, KeyRange, SourceLimits
from rivet_dagster.sources.postgres.failures import translated
from rivet_dagster.sources.postgres.reader import PostgresWindowReader
from rivet_dagster.sources.postgres.session import PostgresSession
from tests.conftest import empty_database
from tests.support.cli import rivet
from tests.support.debian import DebianPostgres, PgBouncer, Sql, Standby, runner_of, standby_of, until, version_of
from tests.support.exports import export_all, prepared, run_all
from tests.support.readers import assert_same, exported_rows, source_rows, tree
from tests.support.tables import EVENTS, make_table

SMALL_PAGES = {"page_bytes": 65536, "retry_seconds": 0}


@pytest.fixture
def debian_sql(debian_dsn: str) -> Iterator[Sql]:
    with runner_of(debian_dsn) as run:
        yield run


def make_numbers(sql: Sql, rows: int = 6000) -> None:
    sql("CREATE TABLE public.n (id int PRIMARY KEY, v text)")
    sql(f"INSERT INTO public.n SELECT n, repeat('v', 200) FROM generate_series(1, {rows}) AS n")
    sql("CREATE TABLE public.other (id int)")
    sql("INSERT INTO public.other SELECT generate_series(1, 50)")
    sql("ANALYZE")


def session_on(dsn: str, **limits: float) -> closing[PostgresSession]:
    session = open_source(dsn, SourceLimits(**limits)).connect()
    assert isinstance(session, PostgresSession)
    return closing(session)


@pytest.mark.parametrize("server", ["postgres", "debian_postgres"])
def test_a_snapshot_has_its_settings_and_leaves_none(server: str, request: pytest.FixtureRequest) -> None:
    target: EmbeddedPostgres = request.getfixturevalue(server)
    with empty_database(target) as name, runner_of(target.dsn(name)) as sql:
        make_numbers(sql, 10)
        limits = {"statement_timeout_s": 31.0, "lock_timeout_s": 0.5, "idle_in_transaction_timeout_s": 61.0}
        with session_on(target.dsn(name), **limits) as session:
            before = settings_of(session._connection)
            table = session.describe("public", "n")
            with session.open_window(table, table.keys[0], BatchLimits()) as reader:
                assert reader.read_page(KeyRange(None, None), 100).rows == 10
                during = settings_of(session._connection)
                with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                    session._connection.execute("DELETE FROM public.n")
            assert settings_of(session._connection) == before
    assert {name: during[name] for name in SETTINGS} == SETTINGS
    assert during["application_name"] == "rivet_dagster"


SETTINGS = {
    "transaction_isolation": "repeatable read",
    "transaction_read_only": "on",
    "TimeZone": "UTC",
    "statement_timeout": "31000",
    "lock_timeout": "500",
    "idle_in_transaction_session_timeout": "61000",
    "row_security": "off",
    "search_path": "pg_catalog",
}


def settings_of(connection: psycopg.Connection[Any]) -> dict[str, str]:
    return dict(connection.execute("SELECT name, setting FROM pg_catalog.pg_settings").fetchall())


def test_a_role_whose_time_out_strikes_before_it_is_changed(
    debian_dsn: str, debian_sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_numbers(debian_sql, 10)
    with session_on(debian_dsn) as session:
        session._connection.execute("SET statement_timeout = '1ms'")
        execute, struck = session._connection.execute, []

        def slow(query: Any, *rest: Any) -> Any:
            if len(struck) < 3 and "BEGIN" in str(query):
                struck.append(query)
                return execute("BEGIN; SELECT pg_sleep(60)")
            return execute(query, *rest)

        monkeypatch.setattr(session._connection, "execute", slow)
        assert session.describe("public", "n").columns[0].name == "id"
        assert len(struck) == 3


def test_a_statement_of_an_open_snapshot_is_not_repeated(debian_dsn: str) -> None:
    with session_on(debian_dsn, statement_timeout_s=0.001) as session:
        with pytest.raises(SourceError) as caught, translated("waiting"), session._snapshot():
            session._connection.execute("SELECT pg_sleep(60)")
        assert (caught.value.code, caught.value.retryable) == ("RIVET_SOURCE_TIMEOUT", True)


# ---------------------------------------------------------------------------------------------------------- roles


PARTITIONED = """
CREATE TABLE public.log (region text NOT NULL, day date NOT NULL, id int NOT NULL, amount numeric(12,2), at timestamptz,
    ratio float8, small float4, raw bytea, note text, PRIMARY KEY (day, region, id)) PARTITION BY RANGE (day);
CREATE TABLE public.log_a PARTITION OF public.log FOR VALUES FROM ('2024-01-01') TO ('2024-02-01')
    PARTITION BY LIST (region);
CREATE TABLE public.log_a_eu PARTITION OF public.log_a FOR VALUES IN ('eu');
CREATE TABLE public.log_a_rest PARTITION OF public.log_a DEFAULT;
CREATE TABLE public.log_b PARTITION OF public.log FOR VALUES FROM ('2024-02-01') TO ('2024-03-01');
CREATE TABLE public.log_rest PARTITION OF public.log DEFAULT;
INSERT INTO public.log
SELECT ('{eu,us,asia}'::text[])[n % 3 + 1], DATE '2023-12-20' + n % 100, n, n / 7.0,
       TIMESTAMPTZ '2024-01-01 00:00:00.123456+00' + n * INTERVAL '1 hour', n / 3.0, n / 7.0,
       decode(md5(n::text), 'hex'), E'back\\\\slash ''' || n
  FROM generate_series(1, 4000) AS n;
ANALYZE
"""

ODD_DEFAULTS = (
    "statement_timeout = '1ms'",
    "lock_timeout = '1ms'",
    "idle_in_transaction_session_timeout = '1ms'",
    "default_transaction_read_only = off",
    "default_transaction_isolation = 'serializable'",
    "DateStyle = 'SQL, DMY'",
    "IntervalStyle = 'postgres_verbose'",
    "TimeZone = 'Asia/Kathmandu'",
    "lc_monetary = 'C'",
    "bytea_output = 'escape'",
    "extra_float_digits = -15",
    "search_path = 'elsewhere'",
    "client_encoding = 'LATIN1'",
    "standard_conforming_strings = off",
    "enable_indexscan = off",
    "row_security = on",
)


@pytest.fixture
def narrow_role(debian_postgres: DebianPostgres, debian_sql: Sql) -> Iterator[str]:
    """A role that may SELECT from public.log, the partitioned parent, and nothing else."""
    for statement in PARTITIONED.split(";\n"):
        debian_sql(statement)
    role = f"narrow_{debian_sql('SELECT current_database()')[0][0]}"
    debian_sql(f"CREATE ROLE {role} LOGIN PASSWORD 'narrow'")
    debian_sql("REVOKE ALL ON SCHEMA public FROM PUBLIC")
    debian_sql(f"GRANT USAGE ON SCHEMA public TO {role}")
    debian_sql(f"GRANT SELECT ON public.log TO {role}")
    yield role
    debian_sql(f"DROP OWNED BY {role}")
    debian_sql(f"DROP ROLE {role}")


def test_a_narrow_role_with_odd_defaults_exports_the_owner_s_bytes(
    debian_postgres: DebianPostgres, debian_dsn: str, debian_sql: Sql, narrow_role: str, tmp_path: Path
) -> None:
    database = debian_dsn.rpartition("/")[2]
    direct = debian_postgres.dsn(database, user=narrow_role, password="narrow")
    with PgBouncer(debian_postgres, users={narrow_role: "narrow"}) as pooler:
        lakes = {
            "owner": debian_dsn,
            "narrow": direct,
            "odd": direct,
            "odd_pooled": pooler.dsn(database, user=narrow_role),
        }
        for name, dsn in lakes.items():
            if name == "odd":
                for default in ODD_DEFAULTS:
                    debian_sql(f"ALTER ROLE {narrow_role} SET {default}")
                with psycopg.connect(direct, autocommit=True) as connection:
                    assert connection.execute("SHOW statement_timeout").fetchone() == ("1ms",)
            lake = tmp_path / name
            export_all(prepared(dsn, lake, "public.log", rows=700, limits=SMALL_PAGES))
    assert_same(exported_rows(tmp_path / "owner/public.log"), source_rows(debian_dsn, "public.log", "day,region,id"))
    trees = {
        name: {path: data for path, data in tree(tmp_path / name).items() if "/windows/" not in path} for name in lakes
    }
    assert len(trees["owner"]) > 6
    for name in lakes:
        assert trees[name] == trees["owner"], name


def test_a_narrow_role_may_read_no_partition_by_itself(
    debian_postgres: DebianPostgres, debian_dsn: str, narrow_role: str, lake: Path
) -> None:
    dsn = debian_postgres.dsn(debian_dsn.rpartition("/")[2], user=narrow_role, password="narrow")
    with pytest.raises(SourceError) as caught:
        prepared(dsn, lake, "public.log_b").plan()
    assert caught.value.code == "RIVET_SOURCE_FORBIDDEN"


def test_a_server_that_is_full_is_not_taken_for_a_wrong_password(
    debian_postgres: DebianPostgres, debian_dsn: str, debian_sql: Sql, narrow_role: str
) -> None:
    dsn = debian_postgres.dsn(debian_dsn.rpartition("/")[2], user=narrow_role, password="narrow")
    debian_sql(f"ALTER ROLE {narrow_role} CONNECTION LIMIT 1")
    with session_on(dsn), pytest.raises(SourceError) as caught:
        open_source(dsn).connect()
    assert (caught.value.code, caught.value.retryable) == ("RIVET_SOURCE_UNREACHABLE", True)
    assert "too many connections" in caught.value.what
    debian_sql(f"ALTER ROLE {narrow_role} PASSWORD 'another'")
    with pytest.raises(SourceError) as caught:
        open_source(dsn).connect()
    assert (caught.value.code, caught.value.fatal) == ("RIVET_SOURCE_AUTH", True)


# --------------------------------------------------------------------------------------------------------- poolers


@pytest.fixture
def pooled(debian_postgres: DebianPostgres, debian_dsn: str) -> Iterator[Callable[[int], str]]:
    """Address of the database behind a pooler with so many connections to the server."""
    poolers: list[PgBouncer] = []

    def start(pool_size: int) -> str:
        poolers.append(PgBouncer(debian_postgres, pool_size).__enter__())
        return poolers[-1].dsn(debian_dsn.rpartition("/")[2])

    yield start
    for pooler in poolers:
        pooler.__exit__()


def test_an_export_through_a_pooler(pooled: Callable[[int], str], debian_dsn: str, debian_sql: Sql, lake: Path) -> None:
    with psycopg.connect(debian_dsn, autocommit=True) as connection:
        make_table(connection, EVENTS, 4000)
    done = rivet(
        *("export", "--source", pooled(2), "--table", "public.events", "--to", str(lake)),
        *("--rows-per-window", "500", "--workers", "2", "--json"),
    )
    assert done.code == 0, done.err
    assert done.json["server"] == {"version": version_of(debian_dsn), "notes": ["behind a connection pooler"]}
    assert (done.json["rows"], done.json["windows"], done.json["conflicts"]) == (4000, 8, 0)
    assert_same(exported_rows(lake / "public.events"), source_rows(debian_dsn, "public.events", "id"))


def test_no_setting_reaches_the_pooler_s_next_client(
    pooled: Callable[[int], str], debian_dsn: str, debian_sql: Sql, lake: Path
) -> None:
    make_numbers(debian_sql)
    dsn = pooled(1)
    with psycopg.connect(dsn, autocommit=True) as client:
        backend, fresh = client.execute("SELECT pg_backend_pid()").fetchone(), settings_of(client)
        with session_on(dsn) as session:
            facts = session.facts()
            assert settings_of(client) == fresh
            table = session.describe("public", "n")
            with session.open_window(table, table.keys[0], BatchLimits()) as reader:
                reader.read_page(KeyRange(None, None), 10)
                assert debian_sql(
                    "SELECT pid FROM pg_stat_activity WHERE application_name = 'rivet_dagster'"
                    " AND datname = current_database()"
                ) == [backend]
            assert settings_of(client) == fresh
            # Also where a window ends with an error.
            with pytest.raises(SourceError), session.open_window(table, table.keys[0], BatchLimits()) as reader:
                reader.read_page(KeyRange(("no number",), None), 10)
            assert settings_of(client) == fresh
        export_all(prepared(dsn, lake, "public.n", rows=2000, limits=SMALL_PAGES))
        assert settings_of(client) == fresh
        assert client.execute("SELECT pg_backend_pid()").fetchone() == backend
    assert str(facts) == f"{version_of(debian_dsn)}, behind a connection pooler"


def test_a_stop_cancels_statements_behind_a_pooler(
    pooled: Callable[[int], str], debian_dsn: str, debian_sql: Sql, lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_numbers(debian_sql)
    waiting = (
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'rivet_dagster' AND datname = current_database()"
        " AND wait_event_type = 'Lock'"
    )
    # Nothing but a stop ends these statements in time.
    limits = {"lock_timeout_s": 3600, "statement_timeout_s": 3600, "attempts": 1}
    export = prepared(pooled(2), lake, "public.n", rows=1000, limits=limits)
    plan, _ = export.plan()

    blocker, enter = psycopg.connect(debian_dsn), WindowRun.__enter__

    def locked(run: WindowRun) -> WindowRun:
        blocker.execute("LOCK TABLE public.n IN ACCESS EXCLUSIVE MODE")
        return enter(run)

    monkeypatch.setattr(WindowRun, "__enter__", locked)
    with blocker, export.run(plan, plan.windows, "work", 2) as run:
        until(lambda: len(debian_sql(waiting)) == 2, "both workers wait for the lock")
        left = run.stop()
        until(lambda: debian_sql(waiting) == [], "no statement runs on the server")
    assert [type(outcome.error) for outcome in left] == [InterruptedExport, InterruptedExport]


# -------------------------------------------------------------------------------------------------------- standbys


@dataclass(frozen=True)
class Pair:
    """A database on a primary, and the same on its standby."""

    sql: Sql
    primary_dsn: str
    dsn: str
    standby: Standby

    def conflict(self, statement: str = "") -> None:
        """Let the standby replay what no older snapshot may survive, and wait until it has."""
        if statement:
            self.sql(statement)
        self.sql("UPDATE public.other SET id = id + 1")
        self.sql("VACUUM public.other")
        self.standby.catch_up()

    def lock(self) -> None:
        """Let the standby replay an exclusive lock on the table."""
        self.sql("BEGIN")
        self.sql("LOCK TABLE public.n IN ACCESS EXCLUSIVE MODE")
        self.sql("COMMIT")
        self.standby.catch_up()


@pytest.fixture(scope="module", params=["debian_postgres", "postgres"])
def standby(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standby]:
    """A standby that ends readers at once where they stand in the way of its replay."""
    primary: EmbeddedPostgres = request.getfixturevalue(request.param)
    settings = {"max_standby_streaming_delay": "0", "fsync": "off", "shared_buffers": "64MB"}
    server = standby_of(primary, tmp_path_factory.mktemp("standby") / "server", settings)
    with server:
        yield server
    server.destroy()


@pytest.fixture
def pair(standby: Standby) -> Iterator[Pair]:
    with empty_database(standby.primary) as name, runner_of(standby.primary.dsn(name)) as sql:
        make_numbers(sql)
        standby.catch_up()
        yield Pair(sql, standby.primary.dsn(name), standby.dsn(name), standby)


def test_an_export_from_a_standby(pair: Pair, lake: Path) -> None:
    with session_on(pair.dsn) as session:
        assert str(session.facts()) == f"{version_of(pair.dsn)}, hot standby"
    with session_on(pair.primary_dsn) as session:
        assert str(session.facts()) == version_of(pair.dsn)
    outcomes = export_all(prepared(pair.dsn, lake, "public.n", rows=1500, limits=SMALL_PAGES))
    assert [outcome.conflicts for outcome in outcomes] == [0, 0, 0, 0]
    assert_same(exported_rows(lake / "public.n"), source_rows(pair.primary_dsn, "public.n", "id"))


@pytest.mark.parametrize("way", ["conflict", "lock"])
def test_a_snapshot_that_the_replay_ends_is_a_conflict(pair: Pair, way: str) -> None:
    with session_on(pair.dsn) as session:
        table = session.describe("public", "n")

        def read_two_pages() -> None:
            with session.open_window(table, table.keys[0], BatchLimits()) as reader:
                assert reader.read_page(KeyRange(None, None), 10).rows == 10
                getattr(pair, way)()
                reader.read_page(KeyRange(("10",), None), 10)

        with pytest.raises(SourceError) as caught:
            read_two_pages()
        assert_conflict(caught.value)


def assert_conflict(error: SourceError) -> None:
    assert (error.code, error.retryable, error.fatal) == ("RIVET_SOURCE_CONFLICT", True, False)
    assert "conflict with recovery" in error.what
    for word in ("max_standby_streaming_delay", "hot_standby_feedback", "page_bytes"):
        assert word in error.advice


def test_a_running_statement_that_the_replay_ends_is_a_conflict(pair: Pair) -> None:
    found: list[SourceError] = []

    def read(connection: psycopg.Connection[Any]) -> None:
        try:
            with translated("reading"):
                connection.execute("SELECT count(*), pg_sleep(600) FROM public.n")
        except SourceError as exc:
            found.append(exc)

    with psycopg.connect(pair.dsn) as connection, psycopg.connect(pair.dsn, autocommit=True) as observer:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        pid = connection.info.backend_pid
        reader = threading.Thread(target=read, args=(connection,))
        reader.start()
        asleep = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
        until(lambda: observer.execute(asleep, (pid,)).fetchone() is not None, "the reader sleeps in its statement")
        pair.conflict()
        reader.join()
        with suppress(psycopg.Error):
            connection.rollback()
    assert_conflict(found[0])


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows that each page of this test asks for."""
    asked: list[int] = []
    read_page = PostgresWindowReader.read_page

    def recorded(self: PostgresWindowReader, span: KeyRange, limit: int) -> Any:
        asked.append(limit)
        return read_page(self, span, limit)

    monkeypatch.setattr(PostgresWindowReader, "read_page", recorded)
    return asked


def after_pages(monkeypatch: pytest.MonkeyPatch, window: str, step: Callable[[int], None]) -> None:
    """Do `step` after each page of a window; it is given how many pages of it there were before."""
    turns: list[int] = []

    def at(point: str, key: str = "") -> None:
        if (point, key) == ("after_page", window):
            turns.append(1)
            step(len(turns) - 1)

    monkeypatch.setattr(window_module, "fault_point", at)


def test_a_conflict_is_tried_again_with_smaller_pages(
    pair: Pair, lake: Path, pages: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The window that is ended is read again as a whole, from the snapshot of its second try."""
    before: list[int] = []

    def end_the_second_page(turn: int) -> None:
        if turn == 1:
            before.extend(pages)
            pair.conflict("DELETE FROM public.n WHERE id % 3 = 0")

    export = prepared(pair.dsn, lake, "public.n", rows=3000, limits=SMALL_PAGES)
    after_pages(monkeypatch, "g1-w000001", end_the_second_page)
    outcomes = export_all(export, workers=1)
    assert [outcome.conflicts for outcome in outcomes] == [0, 1]
    assert [outcome.manifest.statistics.attempts for outcome in outcomes if outcome.manifest] == [1, 2]
    again = pages[len(before) :]
    assert max(again) <= before[-1] // 2, "and they do not grow before the window is through"
    keys = [row[0] for row in exported_rows(lake / "public.n")]
    assert keys == [*range(1, 3001), *(n for n in range(3001, 6001) if n % 3)]


def test_conflicts_without_end_are_an_error_that_says_what_to_change(
    pair: Pair, lake: Path, pages: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    export = prepared(pair.dsn, lake, "public.n", rows=3000, limits={**SMALL_PAGES, "attempts": 3})
    plan, _ = export.plan()
    after_pages(monkeypatch, "g1-w000001", lambda turn: pair.conflict())
    done, failed = run_all(export, plan, workers=1)
    assert done.manifest is not None, "the other window is kept"
    assert isinstance(failed.error, SourceError)
    assert_conflict(failed.error)
    assert failed.error.process_exit_code == 2
    first, second, third = pages[-3:]  # each try met a conflict behind its first page
    assert second <= first // 2
    assert third <= second // 2


def test_the_server_is_shown_in_dagster_and_on_the_command_line(
    pair: Pair, lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_DSN", pair.dsn)
    assets = build_rivet_assets(ExportConfig(table="public.n"))
    resources = {"rivet": RivetResource(source=dg.EnvVar("TEST_DSN"), destination=str(lake))}
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([assets[0]], instance=instance, resources=resources)
    (event,) = result.asset_materializations_for_node("rivet__public__n__plan")
    shown = f"{version_of(pair.dsn)}, hot standby"
    assert event.metadata["rivet/server"].value == shown
    assert event.metadata["rivet/planned_rows"].value == 6000
    assert (event.tags or {})["dagster/data_version"] == event.metadata["rivet/plan"].value
    done = rivet("export", "--source", pair.dsn, "--table", "public.n", "--to", str(lake))
    assert done.code == 0, done.err
    assert shown in done.out
