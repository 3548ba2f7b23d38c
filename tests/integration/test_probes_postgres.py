"""What the probe says of PostgreSQL servers, held against load that the test makes: 15 out of Debian and 18."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql as psql

from demo.postgres import EmbeddedPostgres
from rivet_dagster.errors import SourceError
from rivet_dagster.sources import open_source, vitals
from rivet_dagster.sources.base import BatchLimits, KeyRange, Table
from rivet_dagster.sources.postgres import probe_templates
from rivet_dagster.sources.postgres.probe import PostgresProbe
from rivet_dagster.sources.vitals import Vitals
from tests.conftest import PASSWORD, empty_database
from tests.support.debian import DebianPostgres, PgBouncer, Sql, Standby, runner_of, standby_of, until, version_of
from tests.support.signals import SIGNALS, expected_signals, found_signals, meanwhile

SERVERS = ["debian_postgres", "postgres"]
QUICK_S = 0.5  # while other tests keep the machine busy
ONE = ["postgres"]  # for what no version does otherwise


@dataclass(frozen=True)
class Database:
    """A database with the table `public.n` of a thousand rows."""

    server: EmbeddedPostgres
    name: str
    sql: Sql

    @property
    def dsn(self) -> str:
        return self.server.dsn(self.name)

    @contextmanager
    def probe(self, dsn: str = "", *, table: str = "") -> Iterator[PostgresProbe]:
        described = self.table(table) if table else None
        probe = open_source(dsn or self.dsn).probe(described, described.keys[0] if described else None)
        assert isinstance(probe, PostgresProbe)
        with closing(probe):
            yield probe

    def table(self, name: str = "n") -> Table:
        with closing(open_source(self.dsn).connect()) as session:
            return session.describe("public", name)

    @contextmanager
    def window(self) -> Iterator[None]:
        """A window of this package's, of which a page is read."""
        with closing(open_source(self.dsn).connect()) as session:
            table = session.describe("public", "n")
            with session.open_window(table, table.keys[0], BatchLimits()) as reader:
                reader.read_page(KeyRange(None, None), 10)
                yield

    @contextmanager
    def running(self, statement: str) -> Iterator[int]:
        """A session that runs a statement, which is cancelled in the end; gives its process id."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:

            def run() -> None:
                with suppress(psycopg.errors.QueryCanceled):
                    connection.execute(statement)  # type: ignore[call-overload]

            pid = connection.info.backend_pid
            with meanwhile(run, connection.cancel_safe):
                state = f"SELECT state FROM pg_stat_activity WHERE pid = {pid}"
                until(lambda: self.sql(state) == [("active",)], "the statement runs")
                yield pid

    @contextmanager
    def holding(self, statement: str) -> Iterator[psycopg.Connection[Any]]:
        """A transaction that has run a statement."""
        with psycopg.connect(self.dsn) as connection:
            connection.execute(statement)  # type: ignore[call-overload]
            yield connection
            connection.rollback()

    def wait_for_lock(self, pid: int) -> None:
        waits = f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Lock'"
        until(lambda: self.sql(waits) == [(1,)], "the statement waits for a lock")

    @contextmanager
    def role(self, *grants: str) -> Iterator[str]:
        """Address for a role that may read the table, and has been granted other roles."""
        self.sql("CREATE ROLE probe_reader LOGIN PASSWORD 'narrow'")
        self.sql("GRANT SELECT ON public.n TO probe_reader")
        for grant in grants:
            self.sql(f"GRANT {grant} TO probe_reader")
        try:
            yield self.server.dsn(self.name, user="probe_reader", password="narrow")
        finally:
            self.sql("DROP OWNED BY probe_reader")
            self.sql("DROP ROLE probe_reader")


@pytest.fixture(scope="module")
def homes(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Database]]:
    """A database on each server, for all tests that need one."""
    with ExitStack() as stack:

        @cache
        def home(name: str) -> Database:
            server: EmbeddedPostgres = request.getfixturevalue(name)
            database = stack.enter_context(empty_database(server))
            return Database(server, database, stack.enter_context(runner_of(server.dsn(database))))

        yield home


@pytest.fixture(params=SERVERS)
def database(request: pytest.FixtureRequest, homes: Callable[[str], Database]) -> Database:
    found = homes(request.param)
    make_table(found.sql)
    return found


def make_table(sql: Sql) -> None:
    sql("DROP TABLE IF EXISTS public.n, public.other")
    sql("CREATE TABLE public.n (id int PRIMARY KEY, v text)")
    sql("INSERT INTO public.n SELECT n, 'v' FROM generate_series(1, 1000) AS n")
    sql("CREATE TABLE public.other (id int)")
    sql("INSERT INTO public.other SELECT generate_series(1, 50)")
    sql("VACUUM ANALYZE public.n")


def look_until(probe: PostgresProbe, holds: Callable[[Vitals], bool], what: str) -> Vitals:
    """Look until something shows that a server says with a delay; gives the look."""
    seen: list[Vitals] = []

    def look() -> bool:
        seen.append(probe.look())
        return holds(seen[-1])

    until(look, what)
    return seen[-1]


def values(seen: Vitals, *names: str) -> list[float]:
    return [seen.values[name] for name in names]


# ------------------------------------------------------------------------------------------------------ signals


@pytest.mark.parametrize("grants", ["full", "minimal"])
def test_every_signal_is_read_or_said_to_be_missing(database: Database, grants: Any) -> None:
    expected = expected_signals("postgresql", grants)
    assert sorted(expected) == SIGNALS, "every signal has its line in the matrix"
    granted = ("pg_read_all_stats",) if grants == "full" else ()
    with database.role(*granted) as dsn, database.probe(dsn, table="n") as probe:
        for _ in range(2):
            assert found_signals(probe.look()) == expected
    with database.probe() as probe:
        assert found_signals(probe.look()) == expected_signals("postgresql", "full")


@pytest.mark.parametrize("database", ONE, indirect=True)
def test_a_right_that_is_granted_shows_at_the_next_look(database: Database) -> None:
    with database.role() as dsn, database.probe(dsn) as probe, database.running("SELECT pg_sleep(600)"):
        assert probe.look().unseen[vitals.ACTIVE_SESSIONS] == "pg_read_all_stats"
        database.sql("GRANT pg_read_all_stats TO probe_reader")
        seen = probe.look()
        assert (seen.values[vitals.ACTIVE_SESSIONS], dict(seen.unseen)) == (1, {})
        database.sql("REVOKE pg_read_all_stats FROM probe_reader")
        assert vitals.ACTIVE_SESSIONS not in probe.look().values


@pytest.mark.parametrize("database", ONE, indirect=True)
def test_a_view_that_is_locked_away_hides_its_signals_alone(database: Database) -> None:
    database.sql("REVOKE SELECT ON pg_stat_database FROM PUBLIC")
    with database.role("pg_monitor") as dsn, database.probe(dsn) as probe:
        for _ in range(3):
            seen = probe.look()
            assert dict(seen.unseen) == {vitals.CONFLICTS: "SELECT on pg_stat_database"}
            assert vitals.CHECKPOINTS_REQUESTED in seen.counters
        database.sql("GRANT SELECT ON pg_stat_database TO PUBLIC")
        for _ in range(60):
            seen = probe.look()
        assert dict(seen.unseen) == {}
        database.sql("REVOKE SELECT ON pg_stat_database FROM PUBLIC")
        assert dict(probe.look().unseen) == {vitals.CONFLICTS: "SELECT on pg_stat_database"}
        database.sql("GRANT SELECT ON pg_stat_database TO PUBLIC")


@pytest.mark.parametrize("database", ONE, indirect=True)
def test_a_role_with_odd_defaults_sees_the_same(database: Database) -> None:
    with database.role("pg_read_all_stats") as dsn:
        for default in (
            *("datestyle = 'SQL, DMY'", "timezone = 'Asia/Kathmandu'", "intervalstyle = 'sql_standard'"),
            *("extra_float_digits = -15", "statement_timeout = '1ms'", "search_path = 'nowhere'"),
            *("enable_indexscan = off", "default_transaction_isolation = 'serializable'"),
        ):
            database.sql(f"ALTER ROLE probe_reader SET {default}")
        with database.probe(dsn, table="n") as probe, database.window():
            for _ in range(3):
                seen = probe.look()
                assert found_signals(seen) == expected_signals("postgresql", "full")
            assert values(seen, vitals.OWN_SESSIONS) == [1]
            assert probe.look().epoch == seen.epoch
        database.sql("ALTER ROLE probe_reader RESET ALL")


@pytest.mark.parametrize("database", ONE, indirect=True)
def test_sessions_that_are_not_tracked_are_not_taken_for_idle(database: Database) -> None:
    with database.probe() as probe, database.holding("SET track_activities = off") as untracked:
        untracked.execute("SELECT 1")
        assert probe.look().unseen[vitals.ACTIVE_SESSIONS] == "track_activities"


# ----------------------------------------------------------------------------------------------------- sessions


def test_sessions_of_others_are_counted_and_our_own_are_not(database: Database) -> None:
    activity = (vitals.ACTIVE_SESSIONS, vitals.OWN_SESSIONS)
    with database.probe() as probe, ExitStack() as stack:
        assert values(probe.look(), *activity) == [0, 0]
        stack.enter_context(database.window())
        stack.enter_context(database.window())
        assert values(probe.look(), *activity) == [0, 2]
        for _ in range(3):
            stack.enter_context(database.running("SELECT pg_sleep(600)"))
        assert values(probe.look(), *activity) == [3, 2]
        stack.close()
        assert values(probe.look(), *activity) == [0, 0]


def test_between_the_statements_of_a_transaction_a_session_is_at_work(database: Database) -> None:
    with database.probe() as probe, database.holding("SELECT 1") as holder:
        probe.look()
        holder.execute("SELECT 1")
        assert values(probe.look(), vitals.ACTIVE_SESSIONS) == [1]
        time.sleep(0.1)
        assert values(probe.look(), vitals.ACTIVE_SESSIONS) == [0], "it only holds the transaction"


@pytest.mark.parametrize("database", ONE, indirect=True)
def test_our_own_sessions_have_the_name_that_the_address_gives(database: Database) -> None:
    dsn = f"{database.dsn}?application_name=nightly"
    with closing(open_source(dsn).connect()) as session, database.probe(dsn) as probe:
        table = session.describe("public", "n")
        with session.open_window(table, table.keys[0], BatchLimits()):
            assert values(probe.look(), vitals.OWN_SESSIONS) == [1]


def test_ages_of_transactions_and_of_snapshots(database: Database) -> None:
    ages = (vitals.OLDEST_TRANSACTION, vitals.OWN_TRANSACTION, vitals.OWN_XMIN_AGE)
    with database.probe() as probe:
        assert values(probe.look(), *ages) == [0, 0, 0]
        with database.holding("SELECT 1"), database.window():
            for _ in range(20):
                database.sql("UPDATE public.other SET id = id")
            time.sleep(0.2)
            oldest, own, xmin = values(probe.look(), *ages)
        assert 0.2 <= own <= oldest < 30
        assert xmin >= 20
        assert values(probe.look(), *ages) == [0, 0, 0]


def test_a_session_that_waits_for_the_server_itself(database: Database) -> None:
    """VACUUM waits for a page that a cursor stands on."""
    with database.probe() as probe, database.holding("DECLARE c CURSOR FOR SELECT * FROM public.other") as holder:
        holder.execute("FETCH 1 FROM c")
        with database.running("VACUUM (FREEZE, DISABLE_PAGE_SKIPPING) public.other"):
            # The cursor's session has only just spoken, too.
            alone = (vitals.WAITING_SESSIONS, vitals.ACTIVE_SESSIONS, vitals.BLOCKED_SESSIONS)
            look_until(probe, lambda seen: values(seen, *alone) == [1, 1, 0], "VACUUM waits")


BLOCKED = (vitals.BLOCKED_SESSIONS, vitals.BLOCKED_BY_US)


@pytest.fixture(params=["full", "minimal"])
def looking(request: pytest.FixtureRequest, database: Database) -> Iterator[PostgresProbe]:
    """A probe with all rights, and one with none: whom locks block needs none."""
    with ExitStack() as stack:
        dsn = database.dsn if request.param == "full" else stack.enter_context(database.role())
        yield stack.enter_context(database.probe(dsn))


def test_sessions_that_others_block(database: Database, looking: PostgresProbe) -> None:
    update = "UPDATE public.n SET v = 'w' WHERE id = 1"
    assert values(looking.look(), *BLOCKED) == [0, 0]
    with database.holding(update), database.running(update) as first, database.running(update) as second:
        database.wait_for_lock(first)
        database.wait_for_lock(second)
        assert values(looking.look(), *BLOCKED) == [2, 0]
    assert values(looking.look(), *BLOCKED) == [0, 0]


def test_sessions_that_a_window_blocks_with_those_behind_them(database: Database, looking: PostgresProbe) -> None:
    with database.window(), database.running("ALTER TABLE public.n ADD w int") as altering:
        database.wait_for_lock(altering)
        assert values(looking.look(), *BLOCKED) == [1, 1]
        with database.running("SELECT count(*) FROM public.n") as reading:
            database.wait_for_lock(reading)
            assert values(looking.look(), *BLOCKED) == [2, 2]
    assert values(looking.look(), *BLOCKED) == [0, 0]


def test_a_window_that_waits_is_not_counted_and_blocks_nobody(database: Database, looking: PostgresProbe) -> None:
    def read() -> None:
        with suppress(SourceError), database.window():
            pass

    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'public.n'::regclass"
    with database.holding("LOCK TABLE public.n") as locking, meanwhile(read, locking.rollback):
        until(lambda: database.sql(waits) == [(1,)], "the window waits")
        assert values(looking.look(), *BLOCKED) == [0, 0]


def test_locks_that_applications_make_up_are_their_own_business(database: Database, looking: PostgresProbe) -> None:
    with database.holding("SELECT pg_advisory_xact_lock(1)"), database.running("SELECT pg_advisory_lock(1)") as pid:
        database.wait_for_lock(pid)
        assert values(looking.look(), *BLOCKED) == [0, 0]


# --------------------------------------------------------------------------------------------------------- room


def room(dsn: str) -> float:
    with closing(open_source(dsn).probe()) as probe:
        return probe.look().values[vitals.CONNECTION_ROOM]


def test_room_is_what_the_narrowest_limit_leaves(database: Database) -> None:
    ((most,),) = database.sql("SELECT current_setting('max_connections')::int")
    ((kept,),) = database.sql("SELECT sum(setting::int) FROM pg_settings WHERE name ~ 'reserved_connections$'")
    assert kept >= 3

    def left() -> int:
        ((taken,),) = database.sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
        return int(most - taken - 1)  # the probe's own

    until(lambda: room(database.dsn) == left(), "earlier tests' connections have ended")
    with database.role() as dsn:
        until(lambda: room(dsn) == left() - kept, "the probes' connections have ended")
        database.sql("ALTER ROLE probe_reader CONNECTION LIMIT 3")
        until(lambda: room(dsn) == 2, "the role's limit shows")
        with psycopg.connect(dsn), psycopg.connect(dsn):
            until(lambda: room(dsn) == 0, "the role's limit is reached")
        database.sql("ALTER ROLE probe_reader CONNECTION LIMIT -1")
        database.sql(f"ALTER DATABASE {database.name} CONNECTION LIMIT 5")
        until(lambda: room(dsn) == 5 - 1 - 1, "the test's own connection and the probe's are in the database")
        database.sql(f"ALTER DATABASE {database.name} CONNECTION LIMIT -1")


# ----------------------------------------------------------------------------------------------------- counters


def test_checkpoints_that_are_asked_for_are_counted(database: Database) -> None:
    with database.probe() as probe:
        before = probe.look()
        for _ in range(2):
            database.sql("INSERT INTO public.other VALUES (1)")
            database.sql("CHECKPOINT")
        counter = vitals.CHECKPOINTS_REQUESTED
        after = look_until(probe, lambda seen: seen.counters[counter] > before.counters[counter] + 1, "it is counted")
        assert after.counters[counter] == before.counters[counter] + 2
        assert after.epoch == before.epoch
        assert after.at > before.at


@pytest.mark.parametrize("what", ["checkpoints", "database"])
def test_counters_that_somebody_resets_begin_a_new_epoch(database: Database, what: str) -> None:
    with database.probe() as probe:
        before = probe.look()
        assert probe.look().epoch == before.epoch
        if what == "database":
            database.sql("SELECT pg_stat_reset()")
        else:
            moved = database.sql("SELECT to_regclass('pg_stat_checkpointer') IS NOT NULL") == [(True,)]
            database.sql(f"SELECT pg_stat_reset_shared('{'checkpointer' if moved else 'bgwriter'}')")
        look_until(probe, lambda seen: seen.epoch != before.epoch, "the epoch is another")


# -------------------------------------------------------------------------------------------------- connections


def own_connection(database: Database, probe: PostgresProbe) -> int:
    assert probe._connection is not None
    return probe._connection.info.backend_pid


@pytest.mark.parametrize("database", ONE, indirect=True)
def test_nothing_is_open_between_looks_and_nothing_connects_before(database: Database) -> None:
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    with database.probe(table="n") as probe:
        until(lambda: database.sql(sessions) == [(1,)], "there is only the test's own connection")
        probe.look()
        assert database.sql(
            "SELECT state, xact_start, backend_xmin FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND datname = current_database()"
        ) == [("idle", None, None)]
        probe.close()
        until(lambda: database.sql(sessions) == [(1,)], "the connection is closed")
        assert probe.look().values, "it connects again"
    probe.close()


@pytest.mark.parametrize("database", ONE, indirect=True)
def test_a_look_that_fails_says_so_and_the_next_connects_anew(database: Database) -> None:
    with database.probe() as probe:
        probe.look()
        database.sql(f"SELECT pg_terminate_backend({own_connection(database, probe)}, 10000)")
        with pytest.raises(SourceError) as caught:
            probe.look()
        assert (caught.value.code, caught.value.retryable) == ("RIVET_SOURCE_LOST", True)
        assert values(probe.look(), vitals.OWN_SESSIONS) == [0]
        assert str(probe.facts()) == version_of(database.dsn)


@pytest.mark.parametrize("database", ONE, indirect=True)
def test_a_server_that_is_not_there(database: Database) -> None:
    dsn = database.dsn.replace(f":{database.server.port}/", ":1/")
    with database.probe(dsn) as probe:
        for _ in range(2):
            with pytest.raises(SourceError) as caught:
                probe.look()
            assert caught.value.code == "RIVET_SOURCE_UNREACHABLE"


def settings_of(connection: psycopg.Connection[Any]) -> dict[str, str]:
    return dict(connection.execute("SELECT name, setting FROM pg_catalog.pg_settings").fetchall())


def test_looks_through_a_pooler_leave_nothing_behind(debian_postgres: DebianPostgres) -> None:
    with (
        empty_database(debian_postgres) as name,
        runner_of(debian_postgres.dsn(name)) as sql,
        PgBouncer(debian_postgres, pool_size=1) as pooler,
        psycopg.connect(pooler.dsn(name), autocommit=True) as client,
    ):
        make_table(sql)
        database = Database(debian_postgres, name, sql)
        fresh = settings_of(client)
        with database.probe(pooler.dsn(name), table="n") as probe, database.window():
            for _ in range(2):
                seen = probe.look()
                assert found_signals(seen) == expected_signals("postgresql", "full")
                assert values(seen, vitals.ACTIVE_SESSIONS, vitals.OWN_SESSIONS) == [0, 1]
                assert settings_of(client) == fresh
            assert probe.facts().notes == ("behind a connection pooler",)
            assert settings_of(client) == fresh


# ------------------------------------------------------------------------------------------------------- canary


def canary(probe: PostgresProbe) -> float:
    return probe.look().values[vitals.CANARY]


@pytest.mark.parametrize("database", ONE, indirect=True)
def test_the_canary_is_quick_with_and_without_a_table(database: Database) -> None:
    with database.probe() as plain, database.probe(table="n") as looking:
        for probe in (plain, looking):
            assert all(0 < canary(probe) < QUICK_S for _ in range(3))


def test_the_canary_looks_one_row_up_by_the_index(database: Database) -> None:
    def scans() -> tuple[int, int]:
        ((by_index, whole),) = database.sql("SELECT idx_scan, seq_scan FROM pg_stat_user_tables WHERE relname = 'n'")
        return by_index, whole

    by_index, whole = scans()
    with database.probe(table="n") as probe:
        probe.look()
    # One for the first row, three of the canary. A session's counts are known at the latest when it ends.
    until(lambda: scans() == (by_index + 4, whole), "the look-ups are counted")


@pytest.mark.parametrize("database", ONE, indirect=True)
def test_the_canary_takes_as_long_as_its_row(database: Database) -> None:
    """A row that takes 50 ms: the clock is not read before it is there."""
    slow = psql.SQL("(SELECT 1 AS id, pg_sleep(0.05))")
    statement = psql.SQL(probe_templates.CANARY).format(table=slow, equal=psql.SQL(" WHERE t.id = 1"))
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        row = connection.execute(statement).fetchone()
    assert row is not None
    seconds, found = row
    assert found == 1
    assert 0.05 <= seconds < 2


@pytest.mark.parametrize("database", ONE, indirect=True)
def test_a_canary_whose_table_is_locked_or_gone(database: Database) -> None:
    with database.probe(table="n") as probe:
        assert 0 < canary(probe) < QUICK_S
        with database.holding("LOCK TABLE public.n"):
            began = time.monotonic()
            assert 0 < canary(probe) < QUICK_S, "somebody's lock does not make the server slow"
            assert 0.5 <= time.monotonic() - began < 5
        database.sql("TRUNCATE public.n")
        assert 0 < canary(probe) < QUICK_S
        database.sql("DROP TABLE public.n")
        assert [0 < canary(probe) < QUICK_S for _ in range(2)] == [True, True]


@pytest.mark.parametrize("database", ONE, indirect=True)
def test_a_canary_whose_table_the_user_may_not_read(database: Database) -> None:
    table = database.table()
    with database.role() as dsn:
        database.sql("REVOKE SELECT ON public.n FROM probe_reader")
        with closing(open_source(dsn).probe(table, table.keys[0])) as probe:
            assert 0 < probe.look().values[vitals.CANARY] < QUICK_S


# ----------------------------------------------------------------------------------------------------- standbys


@pytest.fixture(scope="module", params=SERVERS)
def standby(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standby]:
    """A standby that ends readers at once where they stand in the way of its replay."""
    primary: EmbeddedPostgres = request.getfixturevalue(request.param)
    settings = {
        "max_standby_streaming_delay": "0",
        "fsync": "off",
        "shared_buffers": "64MB",
        "wal_receiver_status_interval": "1",
    }
    server = standby_of(primary, tmp_path_factory.mktemp("standby") / "server", settings)
    with server:
        yield server
    server.destroy()


@pytest.fixture
def pair(standby: Standby) -> Iterator[tuple[Database, Database]]:
    """A database on a primary and on its standby."""
    with (
        empty_database(standby.primary) as name,
        runner_of(standby.primary.dsn(name)) as sql,
    ):
        make_table(sql)
        standby.catch_up()
        with runner_of(standby.dsn(name)) as read:
            yield Database(standby.primary, name, sql), Database(standby, name, read)


def test_lag_as_both_sides_see_it(pair: tuple[Database, Database], standby: Standby) -> None:
    primary, replica = pair
    lag = vitals.REPLICA_LAG
    with primary.probe() as above, replica.probe() as below:
        for probe in (above, below):
            look_until(probe, lambda seen: seen.values[lag] == 0, "the standby is level")
        time.sleep(1)
        assert below.look().values[lag] == 0, "where nothing happens, nothing is late"
        replica.sql("SELECT pg_wal_replay_pause()")
        try:
            primary.sql("INSERT INTO public.other SELECT generate_series(1, 1000)")
            for probe in (above, below):
                first = look_until(probe, lambda seen: seen.values[lag] > 0, "the standby is behind")
                assert first.values[lag] < 20
                time.sleep(0.5)
                later = probe.look()
                assert 0.2 < later.values[lag] - first.values[lag] < 20, "and falls behind with the time"
        finally:
            # What is replayed then may be in the way of the very statement that asked for it.
            with suppress(psycopg.errors.SerializationFailure):
                replica.sql("SELECT pg_wal_replay_resume()")
        standby.catch_up()
        for probe in (above, below):
            look_until(probe, lambda seen: seen.values[lag] == 0, "the standby is level again")


def test_lag_with_and_without_rights(pair: tuple[Database, Database], standby: Standby) -> None:
    primary, replica = pair
    for grants in ("full", "minimal"):
        granted = ("pg_read_all_stats",) if grants == "full" else ()
        with primary.role(*granted) as dsn:
            standby.catch_up()
            for database, server in ((primary, "postgresql with a standby"), (replica, "postgresql standby")):
                address = dsn.replace(f":{primary.server.port}/", f":{database.server.port}/")
                with database.probe(address) as probe:
                    expected = expected_signals("postgresql", grants) | expected_signals(server, grants)
                    assert found_signals(probe.look()) == expected, server


def test_a_subscriber_is_no_replica(tmp_path: Path) -> None:
    """It applies changes when it can, which says nothing of the server's load: here, its table is locked."""
    settings = {"fsync": "off", "shared_buffers": "32MB", "wal_level": "logical"}
    server = DebianPostgres(tmp_path / "server", password=PASSWORD, settings=settings)
    with (
        server,
        runner_of(server.dsn()) as admin,
        empty_database(server) as name,
        runner_of(server.dsn(name)) as sql,
    ):
        for database in (sql, admin):
            database("CREATE TABLE public.told (id int PRIMARY KEY)")
        sql("CREATE PUBLICATION changes FOR TABLE public.told")
        sql("SELECT pg_create_logical_replication_slot('changes', 'pgoutput')")
        source = server.dsn(name)
        admin(
            f"CREATE SUBSCRIPTION changes CONNECTION '{source}' PUBLICATION changes"
            " WITH (create_slot = false, copy_data = false)"
        )
        behind = "SELECT replay_lsn < pg_current_wal_flush_lsn() FROM pg_stat_replication WHERE state = 'streaming'"
        until(lambda: sql(behind) != [], "the subscriber is there")
        with runner_of(server.dsn()) as locker, closing(open_source(source).probe()) as probe:
            locker("BEGIN; LOCK TABLE public.told")
            sql("INSERT INTO public.told VALUES (1)")
            until(lambda: sql(behind) == [(True,)], "the subscriber is behind")
            seen = probe.look()
            locker("COMMIT")
        assert vitals.REPLICA_LAG not in {**seen.values, **seen.unseen}
        admin("DROP SUBSCRIPTION changes")
    server.destroy()


def test_a_standby_that_receives_nothing_falls_behind(pair: tuple[Database, Database], standby: Standby) -> None:
    _, replica = pair
    lag = vitals.REPLICA_LAG
    with replica.probe() as probe:
        look_until(probe, lambda seen: seen.values[lag] == 0, "the standby is level")
        ((where,),) = replica.sql("SHOW primary_conninfo")
        with psycopg.connect(replica.dsn, autocommit=True) as admin:
            admin.execute("ALTER SYSTEM SET primary_conninfo = ''")
            admin.execute("SELECT pg_reload_conf()")
            try:
                first = look_until(probe, lambda seen: seen.values[lag] > 0, "nothing is received")
                time.sleep(0.3)
                later = probe.look()
                assert 0.1 < later.values[lag] - first.values[lag] < 20
            finally:
                back = psql.SQL("ALTER SYSTEM SET primary_conninfo = {}").format(psql.Literal(where))
                admin.execute(back)
                admin.execute("SELECT pg_reload_conf()")
        look_until(probe, lambda seen: seen.values[lag] == 0, "the standby is level again")


def test_readers_that_the_replay_ends_are_counted(pair: tuple[Database, Database], standby: Standby) -> None:
    primary, replica = pair
    with replica.probe() as probe, psycopg.connect(replica.dsn) as reader:
        before = probe.look().counters[vitals.CONFLICTS]
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("SELECT count(*) FROM public.n")
        primary.sql("UPDATE public.other SET id = id + 1")
        primary.sql("VACUUM public.other")
        standby.catch_up()
        with pytest.raises(psycopg.OperationalError):
            reader.execute("SELECT count(*) FROM public.n")
        look_until(probe, lambda seen: seen.counters[vitals.CONFLICTS] == before + 1, "it is counted")


@pytest.mark.parametrize("database", ONE, indirect=True)
def test_time_outs_are_short_and_only_the_transaction_s(database: Database) -> None:
    with database.probe() as probe:
        probe.look()
        connection = probe._connection
        assert connection is not None
        outside = settings_of(connection)
        with probe._transaction(connection):
            inside = settings_of(connection)
        assert settings_of(connection) == outside
    changed = {name: value for name, value in inside.items() if outside[name] != value}
    assert changed["statement_timeout"] == "2000"
    assert changed["lock_timeout"] == "500"
    assert changed["application_name"] == "rivet_dagster"
    assert (inside["transaction_read_only"], inside["transaction_isolation"]) == ("on", "read committed")
