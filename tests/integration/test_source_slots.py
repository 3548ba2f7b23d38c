"""Source slots: never more windows are open than there are slots, and nothing dead holds one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from rivet_dagster.errors import SourceError
from rivet_dagster.sources import open_source
from rivet_dagster.sources.base import BatchLimits, KeyRange, Session, SourceLimits
from rivet_dagster.sources.mysql.slots import SLOT
from rivet_dagster.sources.postgres.slots import SLOT_CLASS
from tests.support.debian import DebianPostgres, PgBouncer, runner_of, until
from tests.support.mysql_tables import ask, client, database_of

FREE_AT_ONCE_S = 3.0  # no time-out is as short


@dataclass(frozen=True)
class Place:
    """A source with the table `n`.

    Attributes:
        dsn: its address.
        schema: the table's.
        held: numbers of the slots that are held, as the server says.
        take: takes one of the slots on a connection of its own, until the context ends.
    """

    dsn: str
    schema: str
    held: Callable[[], list[int]]
    take: Callable[[int], Any]

    @contextmanager
    def session(self, slots: int | None) -> Iterator[Session]:
        with closing(open_source(self.dsn, SourceLimits(slots=slots)).connect()) as session:
            yield session

    @contextmanager
    def window(self, session: Session, rows: int = 10) -> Iterator[None]:
        """A window of which a page is read."""
        table = session.describe(self.schema, "n")
        with session.open_window(table, table.keys[0], BatchLimits()) as reader:
            assert reader.read_page(KeyRange(None, None), rows).rows == rows
            list(reader.decode_page())
            yield


@contextmanager
def postgres_place(direct: str, dsn: str) -> Iterator[Place]:
    with runner_of(direct) as sql:
        sql("CREATE TABLE public.n (id int PRIMARY KEY)")
        sql("INSERT INTO public.n SELECT generate_series(1, 1000)")

        def held() -> list[int]:
            found = sql(
                f"SELECT objid::int FROM pg_locks WHERE locktype = 'advisory' AND classid = {SLOT_CLASS} AND granted"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
            return sorted(number for (number,) in found)

        @contextmanager
        def take(number: int) -> Iterator[None]:
            with runner_of(direct) as other:
                assert other(f"SELECT pg_try_advisory_lock({SLOT_CLASS}, {number})") == [(True,)]
                yield

        yield Place(dsn, "public", held, take)


@contextmanager
def mysql_place(dsn: str) -> Iterator[Place]:
    with client(dsn) as connection:
        ask(connection, "CREATE TABLE n (id int PRIMARY KEY)")
        ask(connection, "INSERT INTO n SELECT seq FROM seq_1_to_1000")

        def held() -> list[int]:
            looked = ", ".join(f"IS_USED_LOCK('{SLOT.format(number=number)}')" for number in range(64))
            return [number for number, by in enumerate(ask(connection, f"SELECT {looked}")[0]) if by is not None]

        @contextmanager
        def take(number: int) -> Iterator[None]:
            with client(dsn) as other:
                assert ask(other, f"SELECT GET_LOCK('{SLOT.format(number=number)}', 0)") == [(1,)]
                yield

        yield Place(dsn, database_of(dsn), held, take)


@pytest.fixture(params=["postgres", "pooled", "mariadb"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with ExitStack() as stack:
        if request.param == "mariadb":
            yield stack.enter_context(mysql_place(request.getfixturevalue("mysql_dsn")))
        elif request.param == "postgres":
            dsn = request.getfixturevalue("dsn")
            yield stack.enter_context(postgres_place(dsn, dsn))
        else:
            server: DebianPostgres = request.getfixturevalue("debian_postgres")
            direct = request.getfixturevalue("debian_dsn")
            pooler = stack.enter_context(PgBouncer(server, pool_size=20))
            yield stack.enter_context(postgres_place(direct, pooler.dsn(direct.rpartition("/")[2])))


def refused(place: Place, session: Session) -> SourceError:
    with pytest.raises(SourceError) as caught, place.window(session):
        pass
    return caught.value


def test_a_window_holds_one_slot_while_it_is_open(place: Place) -> None:
    with place.session(slots=50) as session:
        for _ in range(3):
            with place.window(session):
                assert len(place.held()) == 1
            assert place.held() == []


def test_without_slots_nothing_is_held(place: Place) -> None:
    with place.session(slots=None) as session, place.window(session):
        assert place.held() == []


def test_the_one_that_is_free_is_found_and_no_other_is_taken(place: Place) -> None:
    others = [number for number in range(12) if number != 7]
    with ExitStack() as stack:
        for number in others:
            stack.enter_context(place.take(number))
        with place.session(slots=12) as session:
            with place.window(session):
                assert place.held() == list(range(12))
            assert place.held() == others


def test_a_window_without_a_slot_reads_nothing_and_leaves_its_session_usable(place: Place) -> None:
    with place.session(slots=1) as first, place.session(slots=1) as second, place.session(slots=2) as third:
        with place.window(first):
            for _ in range(3):
                error = refused(place, second)
                assert (error.code, error.retryable, error.fatal) == ("RIVET_SOURCE_SLOTS", True, False)
                assert place.held() == [0]
            assert second.tables(place.schema) == ("n",)
            with place.window(third):
                assert place.held() == [0, 1], "who is told of more slots shares the first ones"
        with place.window(second):
            assert place.held() == [0]


def test_a_window_that_fails_gives_its_slot_back(place: Place) -> None:
    with place.session(slots=1) as session:
        with pytest.raises(ZeroDivisionError), place.window(session):
            raise ZeroDivisionError
        assert place.held() == []
        with place.window(session):
            assert place.held() == [0]


def test_never_more_windows_are_open_than_there_are_slots(place: Place) -> None:
    """Ten sessions that each open five windows, with four slots. The counting is the test's own.

    The first windows stay open until there are four of them.
    """
    lock, open_now, most, done = threading.Lock(), [0], [0], [0]
    turned_away: list[str] = []
    full = threading.Event()

    def read() -> None:
        with place.session(slots=4) as session:
            left = 5
            while left:
                try:
                    with place.window(session):
                        with lock:
                            open_now[0] += 1
                            most[0] = max(most[0], open_now[0])
                            if open_now[0] == 4:
                                full.set()
                        assert full.wait(30)
                        time.sleep(0.01)
                        with lock:
                            open_now[0] -= 1
                            done[0] += 1
                    left -= 1
                except SourceError as exc:
                    turned_away.append(exc.code)
                    time.sleep(0.005)

    threads = [threading.Thread(target=read) for _ in range(10)]
    for thread in threads:
        thread.start()
    seen = 0
    while any(thread.is_alive() for thread in threads):
        seen = max(seen, len(place.held()))
    for thread in threads:
        thread.join()
    assert (most[0], done[0]) == (4, 50)
    assert 0 < seen <= 4
    assert set(turned_away) == {"RIVET_SOURCE_SLOTS"}
    assert place.held() == []


READER = """
import sys
from rivet_dagster.sources import SourceLimits, open_source
from rivet_dagster.sources.base import BatchLimits, KeyRange
dsn, schema = sys.argv[1:]
session = open_source(dsn, SourceLimits(slots=1)).connect()
table = session.describe(schema, "n")
with session.open_window(table, table.keys[0], BatchLimits()) as reader:
    reader.read_page(KeyRange(None, None), 10)
    print("open", flush=True)
    sys.stdin.read()
"""


def test_a_process_that_is_killed_frees_its_slot_at_once(place: Place) -> None:
    command = [sys.executable, "-c", READER, place.dsn, place.schema]
    with place.session(slots=1) as session:
        reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            assert reader.stdout is not None
            assert reader.stdout.readline() == b"open\n"
            assert refused(place, session).code == "RIVET_SOURCE_SLOTS"
            os.kill(reader.pid, signal.SIGKILL)
            began = time.monotonic()
            until(lambda: place.held() == [], "the slot is free")
            assert time.monotonic() - began < FREE_AT_ONCE_S
        finally:
            reader.kill()
            reader.communicate()
        with place.window(session):
            assert place.held() == [0]


def test_a_connection_that_the_server_ends_frees_its_slot(mysql_dsn: str) -> None:
    with mysql_place(mysql_dsn) as place, place.session(slots=1) as first, place.session(slots=1) as second:

        def lose_the_connection() -> None:
            with place.window(first):
                with client(mysql_dsn) as other:
                    (holder,) = ask(other, f"SELECT IS_USED_LOCK('{SLOT.format(number=0)}')")[0]
                    ask(other, f"KILL {holder}")
                until(lambda: place.held() == [], "the slot is free")
                with place.window(second):
                    first.describe(place.schema, "n")

        with pytest.raises(SourceError) as caught:
            lose_the_connection()
        assert caught.value.code == "RIVET_SOURCE_LOST"
        assert place.held() == []
