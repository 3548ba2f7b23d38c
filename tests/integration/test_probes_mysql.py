"""What the probe says of MariaDB servers, held against load that the test makes.

One server is as Debian has it, without the performance schema. The other has it, and a replica, and is in another time
zone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql
import pytest
from pymysql.connections import Connection

from demo.mariadb import MariaServer
from rivet_dagster.errors import SourceError
from rivet_dagster.sources import open_source, vitals
from rivet_dagster.sources.base import BatchLimits, KeyRange
from rivet_dagster.sources.mysql import probe_templates, templates
from rivet_dagster.sources.mysql.probe import MysqlProbe
from rivet_dagster.sources.mysql.statements import Statements
from rivet_dagster.sources.vitals import Vitals
from tests.conftest import PASSWORD
from tests.support.debian import until
from tests.support.mysql_proxy import TcpProxy
from tests.support.mysql_tables import ask, session_of
from tests.support.signals import SIGNALS, expected_signals, found_signals, meanwhile

# What a look costs: one statement for the signals, one for replication, three of the canary.
ROUND_TRIPS = 5
QUICK_S = 0.5  # while other tests keep the machine busy
# InnoDB lists its transactions anew only for somebody who comes after nobody has asked for a tenth of a second.
LISTED_ANEW_S = 0.11


@dataclass(frozen=True)
class Database:
    """A database with the table `n` of a thousand rows."""

    server: MariaServer
    name: str

    @property
    def dsn(self) -> str:
        return self.server.dsn(self.name)

    def sql(self, *statements: str) -> list[tuple[Any, ...]]:
        with self.server.connect(self.name) as connection:
            return [ask(connection, statement) for statement in statements][-1]

    @contextmanager
    def probe(self, dsn: str = "", *, table: str = "") -> Iterator[MysqlProbe]:
        key = described = None
        if table:
            with session_of(self.dsn) as session:
                described = session.describe(self.name, table)
                key = described.keys[0]
        probe = open_source(dsn or self.dsn).probe(described, key)
        assert isinstance(probe, MysqlProbe)
        with closing(probe):
            yield probe

    @contextmanager
    def window(self, dsn: str = "") -> Iterator[None]:
        """A window of this package's, of which a page is read."""
        with session_of(dsn or self.dsn) as session:
            table = session.describe(self.name, "n")
            with session.open_window(table, table.keys[0], BatchLimits()) as reader:
                reader.read_page(KeyRange(None, None), 10)
                list(reader.decode_page())
                yield

    @contextmanager
    def running(self, statement: str, state: str = "") -> Iterator[int]:
        """A session that runs a statement, which is killed in the end; gives its id once it is in that state."""
        with self.server.connect(self.name) as connection:
            number = connection.thread_id()

            def run() -> None:
                with suppress(pymysql.MySQLError):
                    ask(connection, statement)

            def kill() -> None:
                with suppress(pymysql.MySQLError):
                    self.sql(f"KILL QUERY {number}")

            with meanwhile(run, kill):
                runs = f"SELECT 1 FROM information_schema.processlist WHERE id = {number} AND command <> 'Sleep'"
                waits = f"{runs} AND state LIKE '{state}'" if state else runs
                until(lambda: self.sql(waits) == [(1,)], f"{statement} runs")
                yield number

    @contextmanager
    def holding(self, statement: str) -> Iterator[Connection[Any]]:
        """A transaction that has run a statement."""
        with self.server.connect(self.name) as connection:
            ask(connection, "BEGIN")
            ask(connection, statement)
            yield connection
            connection.rollback()

    @contextmanager
    def user(self, *grants: str, limits: str = "") -> Iterator[str]:
        """Address for a user who may read the table, and has been granted more."""
        self.sql(f"CREATE USER probe_reader@'%' IDENTIFIED BY 'narrow' {limits}")
        self.sql("GRANT SELECT ON n TO probe_reader@'%'")
        for grant in grants:
            self.sql(f"GRANT {grant} TO probe_reader@'%'")
        try:
            yield self.server.dsn(self.name, user="probe_reader", password="narrow")
        finally:
            self.sql("DROP USER probe_reader@'%'")


@contextmanager
def database_on(server: MariaServer, name: str) -> Iterator[Database]:
    database = Database(server, name)
    database.sql(
        "CREATE TABLE n (id int PRIMARY KEY, v varchar(9))", "INSERT INTO n SELECT seq, 'v' FROM seq_1_to_1000"
    )
    yield database


@pytest.fixture
def plain(mariadb: MariaServer, mysql_dsn: str) -> Iterator[Database]:
    """On the server without the performance schema."""
    with database_on(mariadb, mysql_dsn.rpartition("/")[2]) as database:
        yield database


@pytest.fixture(scope="module")
def watched_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaServer]:
    settings = {
        "performance-schema": "on",
        "performance-schema-instrument": "wait/lock/metadata/sql/mdl=ON",
        "log-bin": "log",
        "server-id": "1",
        "innodb-flush-log-at-trx-commit": "0",
    }
    server = MariaServer(tmp_path_factory.mktemp("watched") / "server", password=PASSWORD, settings=settings)
    zone = os.environ.get("TZ")
    os.environ["TZ"] = "Asia/Kathmandu"
    try:
        server.start()
    finally:
        del os.environ["TZ"]
        if zone is not None:
            os.environ["TZ"] = zone
    with server:
        yield server
    server.destroy()


@pytest.fixture
def watched(watched_server: MariaServer) -> Iterator[Database]:
    """On the server with the performance schema."""
    with watched_server.connect() as admin:
        ask(admin, "CREATE DATABASE shop")
        with database_on(watched_server, "shop") as database:
            yield database
        ask(admin, "DROP DATABASE shop")


@pytest.fixture(params=["plain", "watched"])
def database(request: pytest.FixtureRequest) -> Database:
    found: Database = request.getfixturevalue(request.param)
    return found


def look_until(probe: MysqlProbe, holds: Callable[[Vitals], bool], what: str) -> Vitals:
    """Look until something shows that a server says with a delay; gives the look."""
    seen: list[Vitals] = []

    def look() -> bool:
        time.sleep(LISTED_ANEW_S)
        seen.append(probe.look())
        return holds(seen[-1])

    until(look, what)
    return seen[-1]


def values(seen: Vitals, *names: str) -> list[float]:
    return [seen.values[name] for name in names]


def settled(probe: MysqlProbe, names: tuple[str, ...], expected: list[float]) -> None:
    look_until(probe, lambda seen: values(seen, *names) == expected, f"{names} are {expected}")


# ------------------------------------------------------------------------------------------------------ signals


ALL_GRANTS = ("PROCESS ON *.*", "SLAVE MONITOR ON *.*")


@pytest.mark.parametrize("grants", ["full", "minimal"])
def test_every_signal_is_read_or_said_to_be_missing(database: Database, grants: Any) -> None:
    expected = expected_signals("mariadb", grants)
    assert sorted(expected) == SIGNALS, "every signal has its line in the matrix"
    granted = [grant for grant in ALL_GRANTS if grants == "full"]
    with database.user(*granted) as dsn, database.probe(dsn, table="n") as probe:
        for _ in range(2):
            assert found_signals(probe.look()) == expected
    with database.probe() as probe:
        assert found_signals(probe.look()) == expected_signals("mariadb", "full")


@pytest.mark.parametrize("version", ["8.0.21", "8.4.0"])
def test_what_mysql_is_asked_in_its_own_way(watched: Database, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """Against MariaDB, which knows MySQL's views where it has the performance schema, all but the one of sessions."""
    monkeypatch.setattr(templates, "VERSION", f"SELECT '{version}'")
    expected = expected_signals("mariadb", "full")
    with watched.probe(table="n") as probe, watched.window():
        for _ in range(2):
            time.sleep(LISTED_ANEW_S)
            seen = probe.look()
            assert found_signals(seen) == expected
        # MariaDB's copy of MySQL's counters does not count who is running, so only one of the two is right here.
        assert values(seen, vitals.OWN_SESSIONS) == [1]
    with watched.user() as dsn, watched.probe(dsn) as probe:
        assert probe.look().unseen[vitals.REPLICA_LAG] == "REPLICATION CLIENT"


def test_a_look_costs_few_round_trips(plain: Database) -> None:
    with TcpProxy(plain.server.port) as proxy:
        dsn = plain.dsn.replace(f":{plain.server.port}/", f":{proxy.port}/")
        with plain.probe(dsn, table="n") as probe:
            probe.look()
            for _ in range(3):
                before = proxy.turns
                probe.look()
                assert proxy.turns - before == ROUND_TRIPS
            assert proxy.connections == 1


# ----------------------------------------------------------------------------------------------------- sessions


ACTIVITY = (vitals.ACTIVE_SESSIONS, vitals.OWN_SESSIONS)


def test_sessions_of_others_are_counted_also_of_the_same_user(database: Database) -> None:
    with database.probe() as probe, ExitStack() as stack:
        assert values(probe.look(), *ACTIVITY) == [0, 0]
        for _ in range(3):
            stack.enter_context(database.running("SELECT sleep(600)"))
        settled(probe, ACTIVITY, [3, 0])
        stack.enter_context(database.window())
        stack.enter_context(database.window())
        settled(probe, ACTIVITY, [3, 2])
        stack.close()
        settled(probe, ACTIVITY, [0, 0])


def test_between_the_statements_of_a_transaction_a_session_is_at_work(database: Database) -> None:
    with database.probe() as probe, database.holding("SELECT * FROM n FOR UPDATE") as holder, holder.cursor() as cursor:
        seen = set()
        for _ in range(10):
            cursor.execute("SELECT 1")
            seen.add(probe.look().values[vitals.ACTIVE_SESSIONS])
        assert 1 in seen
        time.sleep(0.2)
        settled(probe, ACTIVITY, [0, 0])


def test_our_own_running_statements_are_not_the_load_of_others(database: Database) -> None:
    """A page whose rows nobody takes: with the rights of a superuser, and with none."""
    database.sql("CREATE TABLE wide (id int PRIMARY KEY, v longtext)")
    database.sql("INSERT INTO wide SELECT seq, repeat('v', 100000) FROM seq_1_to_200", "GRANT SELECT ON wide TO PUBLIC")
    page = f"SELECT /* rivet_dagster */ id, v FROM {database.name}.wide AS t ORDER BY id"
    with database.user() as dsn:
        for address in (database.dsn, dsn):
            with session_of(address) as session, database.probe(address) as probe:
                Statements(session._connection).execute(page, [])  # as readers do
                settled(probe, ACTIVITY, [0, 1])
                sends = "SELECT count(*) FROM information_schema.processlist WHERE state LIKE 'Writing to net%'"
                assert database.sql(sends) == [(1,)], "the server waits for its rows to be taken"
                session.close()
                settled(probe, ACTIVITY, [0, 0])
    database.sql("REVOKE SELECT ON wide FROM PUBLIC")


AGES = (vitals.OLDEST_TRANSACTION, vitals.OWN_TRANSACTION)


def test_ages_of_transactions_whatever_the_server_s_time_zone(database: Database) -> None:
    with database.probe() as probe:
        assert values(probe.look(), *AGES) == [0, 0]
        with database.holding("UPDATE n SET v = 'w' WHERE id = 1"):
            time.sleep(1.2)  # they begin in whole seconds
            with database.window():
                seen = look_until(probe, lambda seen: seen.values[vitals.OWN_TRANSACTION] > 0, "it is listed")
                oldest, own = values(seen, *AGES)
        assert 0 < own < 10
        assert 1.2 <= oldest < 20
        settled(probe, AGES, [0, 0])


def test_the_watched_server_has_another_time_zone(watched: Database) -> None:
    assert watched.sql("SELECT timestampdiff(MINUTE, utc_timestamp(), now())") == [(345,)]


# -------------------------------------------------------------------------------------------------------- locks


BLOCKED = (vitals.BLOCKED_SESSIONS, vitals.BLOCKED_BY_US)


def test_sessions_that_wait_for_rows(database: Database) -> None:
    update = "UPDATE n SET v = 'w' WHERE id = 1"
    names = (*BLOCKED, vitals.ROW_LOCK_WAITS)
    with database.probe() as probe:
        before = probe.look()
        assert values(before, *names) == [0, 0, 0]
        with database.window(), database.holding(update), database.running(update), database.running(update):
            settled(probe, names, [2, 0, 2])
            time.sleep(0.2)
        settled(probe, names, [0, 0, 0])
        after = probe.look()
        assert after.epoch == before.epoch
        assert 0.2 <= after.counters[vitals.LOCK_TIME] - before.counters[vitals.LOCK_TIME] < 60


WAITING = "Waiting for table metadata lock"


def test_sessions_that_a_window_blocks_with_those_behind_them(database: Database) -> None:
    with database.probe() as probe, database.window():
        with database.running("ALTER TABLE n ADD w int, ALGORITHM=COPY", WAITING):
            settled(probe, BLOCKED, [1, 1])
            with database.running("SELECT count(*) FROM n", WAITING):
                settled(probe, BLOCKED, [2, 2])
        settled(probe, BLOCKED, [0, 0])


@pytest.mark.parametrize(("server", "by_us"), [("plain", 1), ("watched", 0)])
def test_sessions_that_others_block_on_a_table(server: str, by_us: int, request: pytest.FixtureRequest) -> None:
    """Without the performance schema nobody knows who holds a table: it is a window's fault as long as one is open."""
    database: Database = request.getfixturevalue(server)
    database.sql("CREATE TABLE other (id int PRIMARY KEY)")
    alter = "ALTER TABLE other ADD w int, ALGORITHM=COPY"
    with database.probe() as probe, database.holding("SELECT * FROM other"), database.running(alter, WAITING):
        settled(probe, BLOCKED, [1, 0])
        with database.window():
            settled(probe, BLOCKED, [1, by_us])
        settled(probe, BLOCKED, [1, 0])


def test_locks_that_applications_make_up_are_their_own_business(plain: Database) -> None:
    take = "SELECT get_lock('job', 600)"
    with plain.probe() as probe, plain.holding(take), plain.running(take, "User lock"):
        assert values(probe.look(), *BLOCKED) == [0, 0]


# --------------------------------------------------------------------------------------------- room and counters


def room(dsn: str) -> float:
    with closing(open_source(dsn).probe()) as probe:
        return probe.look().values[vitals.CONNECTION_ROOM]


def test_room_is_what_the_narrowest_limit_leaves(plain: Database) -> None:
    def left() -> int:
        ((most,),) = plain.sql("SELECT @@global.max_connections")
        ((_, taken),) = plain.sql("SHOW GLOBAL STATUS LIKE 'Threads_connected'")
        return int(most) - int(taken)  # this connection has gone when the probe's is there

    until(lambda: room(plain.dsn) == left(), "connections of other tests have ended")
    with plain.user() as dsn:
        until(lambda: room(dsn) == left(), "connections have ended")
        url = {"host": "127.0.0.1", "port": plain.server.port, "user": "probe_reader", "password": "narrow"}
        plain.sql("ALTER USER probe_reader@'%' WITH MAX_USER_CONNECTIONS 3")
        until(lambda: room(dsn) == 2, "the user's limit shows")
        with pymysql.connect(**url), pymysql.connect(**url):  # type: ignore[call-overload]
            assert room(dsn) == 0


def test_undo_that_a_snapshot_keeps_from_being_purged(plain: Database) -> None:
    length = vitals.HISTORY_LIST
    with plain.probe() as probe:
        with plain.window():
            plain.sql(*("UPDATE n SET v = 'w'", "UPDATE n SET v = 'v'") * 10)
            assert probe.look().values[length] >= 20
            time.sleep(0.5)
            assert probe.look().values[length] >= 20
        look_until(probe, lambda seen: seen.values[length] < 20, "it is purged")


def test_counters_begin_a_new_epoch_where_somebody_flushes_them(plain: Database) -> None:
    with plain.probe() as probe:
        before = probe.look()
        time.sleep(1.1)  # the server counts whole seconds
        assert probe.look().epoch == before.epoch
        plain.sql("FLUSH STATUS")
        assert probe.look().epoch != before.epoch


def test_waits_for_the_log_s_buffer_are_the_server_s_own_number(plain: Database) -> None:
    with plain.probe() as probe:
        seen = probe.look()
    status = dict(plain.sql("SHOW GLOBAL STATUS LIKE 'Innodb%'"))
    assert seen.counters[vitals.LOG_WAITS] == float(status["Innodb_log_waits"])
    assert seen.counters[vitals.LOCK_TIME] == float(status["Innodb_row_lock_time"]) / 1000


# -------------------------------------------------------------------------------------------------- connections


def test_a_look_that_fails_says_so_and_the_next_connects_anew(plain: Database) -> None:
    sessions = "SELECT id, command FROM information_schema.processlist WHERE db = database() AND id <> connection_id()"
    with plain.probe(table="n") as probe:
        until(lambda: plain.sql(sessions) == [], "nothing connects before the first look")
        probe.look()
        ((number, command),) = plain.sql(sessions)
        assert command == "Sleep"
        assert plain.sql("SELECT count(*) FROM information_schema.innodb_trx") == [(0,)]
        plain.sql(f"KILL {number}")
        with pytest.raises(SourceError) as caught:
            probe.look()
        assert (caught.value.code, caught.value.retryable) == ("RIVET_SOURCE_LOST", True)
        assert vitals.ACTIVE_SESSIONS in probe.look().values
        assert probe.facts().version.startswith("MariaDB")
        probe.close()
        until(lambda: plain.sql(sessions) == [], "the connection is closed")
        probe.close()


def test_a_server_that_is_not_there(plain: Database) -> None:
    with plain.probe(plain.dsn.replace(f":{plain.server.port}/", ":1/")) as probe:
        for _ in range(2):
            with pytest.raises(SourceError) as caught:
                probe.look()
            assert caught.value.code == "RIVET_SOURCE_UNREACHABLE"


# ------------------------------------------------------------------------------------------------------- canary


def canary(probe: MysqlProbe) -> float:
    return probe.look().values[vitals.CANARY]


def test_the_canary_is_quick_with_and_without_a_table(plain: Database) -> None:
    with plain.probe() as bare, plain.probe(table="n") as looking:
        for probe in (bare, looking):
            assert all(0 < canary(probe) < QUICK_S for _ in range(3))


def test_the_canary_takes_as_long_as_its_row(plain: Database) -> None:
    """A row that takes 50 ms: the clock is not read before it is there."""
    slow = "(SELECT 1 AS id, sleep(0.05) AS slept)"
    statement = probe_templates.CANARY.format(table=slow, hint="", equal=" WHERE t.id = 1 AND t.slept = 0")
    ((microseconds, found),) = plain.sql(statement)
    assert found == 1
    assert 50_000 <= microseconds < 2_000_000


def test_a_canary_whose_table_is_locked_empty_or_gone(plain: Database) -> None:
    with plain.probe(table="n") as probe:
        assert 0 < canary(probe) < QUICK_S
        with plain.server.connect(plain.name) as locking:
            ask(locking, "LOCK TABLES n WRITE")
            began = time.monotonic()
            assert 0 < canary(probe) < QUICK_S, "somebody's lock does not make the server slow"
            assert 0.9 <= time.monotonic() - began < 5
        for statement in ("TRUNCATE n", "DROP TABLE n"):
            plain.sql(statement)
            assert [0 < canary(probe) < QUICK_S for _ in range(2)] == [True, True]


# ----------------------------------------------------------------------------------------------------- replicas


@pytest.fixture(scope="module")
def replica_server(watched_server: MariaServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaServer]:
    """It replays everything from the beginning of the other one's log."""
    settings = {"server-id": "2", "innodb-flush-log-at-trx-commit": "0", "replicate-ignore-db": "mysql"}
    folder: Path = tmp_path_factory.mktemp("replica") / "server"
    server = MariaServer(folder, password=PASSWORD, settings=settings)
    with server:
        with server.connect() as admin, watched_server.connect() as primary:
            ((log, position, *_),) = ask(primary, "SHOW MASTER STATUS")
            ask(
                admin,
                "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = %s, MASTER_USER = %s, MASTER_PASSWORD = %s,"
                " MASTER_LOG_FILE = %s, MASTER_LOG_POS = %s, MASTER_CONNECT_RETRY = 1",
                *(watched_server.port, "rivet_admin", PASSWORD, log, position),
            )
            ask(admin, "START SLAVE")
        yield server
    server.destroy()


@pytest.fixture
def replica(replica_server: MariaServer, watched: Database) -> Database:
    """The other server's database, on its replica."""
    found = Database(replica_server, watched.name)

    def there() -> bool:
        with suppress(pymysql.MySQLError):
            return found.sql("SELECT count(*) FROM n") == [(1000,)]
        return False

    until(there, "the table is replayed")
    return found


def test_lag_of_a_replica(replica: Database, watched: Database) -> None:
    lag = vitals.REPLICA_LAG
    with replica.probe() as probe:
        look_until(probe, lambda seen: seen.values[lag] == 0, "the replica is level")
        time.sleep(1.5)
        assert probe.look().values[lag] == 0, "where nothing happens, nothing is late"
        with replica.holding("SELECT * FROM n FOR UPDATE"):
            watched.sql("UPDATE n SET v = 'late' WHERE id = 1")
            first = look_until(probe, lambda seen: seen.values[lag] > 0, "the replica is behind")
            time.sleep(1.5)
            later = probe.look()
            assert later.values[lag] > first.values[lag]
            assert later.values[lag] < 30
        look_until(probe, lambda seen: seen.values[lag] == 0, "the replica is level again")


def test_a_replica_that_does_not_replay_falls_behind_with_the_time(replica: Database) -> None:
    lag = vitals.REPLICA_LAG
    with replica.probe() as probe:
        look_until(probe, lambda seen: seen.values[lag] == 0, "the replica is level")
        replica.sql("STOP SLAVE SQL_THREAD")
        first = probe.look()
        time.sleep(0.5)
        later = probe.look()
        assert later.values[lag] - first.values[lag] == pytest.approx(later.at - first.at, abs=0.01)
        assert later.values[lag] >= 0.5
        replica.sql("STOP SLAVE")
        assert lag not in {**probe.look().values, **probe.look().unseen}, "that is how somebody wants it"
        replica.sql("START SLAVE")
        look_until(probe, lambda seen: seen.values.get(lag) == 0, "the replica is level again")


@pytest.mark.parametrize("grants", ["full", "minimal"])
def test_lag_with_and_without_rights(replica: Database, grants: Any) -> None:
    granted = [grant for grant in ALL_GRANTS if grants == "full"]
    with replica.user(*granted) as dsn, replica.probe(dsn) as probe:
        expected = expected_signals("mariadb", grants) | expected_signals("mariadb replica", grants)
        assert found_signals(probe.look()) == expected
