"""Exports that follow their source's load: width, gates, slots and critical load, by the journals of real runs."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest

from rivet_dagster.errors import RivetError
from rivet_dagster.export.config import parse_config
from rivet_dagster.export.governing import parse_governor
from rivet_dagster.export.journal import read_journal
from rivet_dagster.export.journal_entries import (
    GateEntry,
    GovernorEntry,
    JournalEntry,
    PressureEntry,
    RetryEntry,
    RunEntry,
    VerdictEntry,
    WindowEntry,
)
from rivet_dagster.export.operations import TableExport
from rivet_dagster.export.workers import WindowOutcome
from tests.support.cli import command
from tests.support.readers import assert_same, exported_rows, source_rows

Sql = Callable[[str], list[tuple[Any, ...]]]
TICK_S = 0.1
OTHERS = 6


@pytest.fixture
def numbers(sql: Sql) -> None:
    sql("CREATE TABLE public.numbers (id int PRIMARY KEY, note text)")
    sql("INSERT INTO public.numbers SELECT n, 'number ' || n FROM generate_series(1, 2000) AS n")


@pytest.fixture
def slow(sql: Sql) -> None:
    """A view whose every row takes two milliseconds of the server."""
    sql("CREATE TABLE public.ids (id int PRIMARY KEY)")
    sql("INSERT INTO public.ids SELECT generate_series(1, 2400)")
    # Stable: a walk along the keys does not wait for what it does not read.
    sql("CREATE FUNCTION public.slowly(int) RETURNS text STABLE LANGUAGE sql AS $$ SELECT pg_sleep(0.002)::text $$")
    sql("CREATE VIEW public.slow AS SELECT id, public.slowly(id) AS nothing FROM public.ids")


def export_of(dsn: str, lake: Path, table: str, rows: int, **governor: Any) -> TableExport:
    windows = {"rows": rows, **({"columns": ["id"]} if table.endswith("slow") else {})}
    config = parse_config({"table": table, "windows": windows, "limits": {"retry_seconds": 0.05}})
    return TableExport(config, dsn, str(lake), governor=parse_governor({"tick_s": TICK_S, **governor}))


def run(export: TableExport, workers: int = 4) -> list[WindowOutcome]:
    plan, _ = export.plan()
    with export.run(plan, plan.windows, "work", workers) as running:
        return list(running)


def run_beside_load(export: TableExport, dsn: str, windows: range) -> None:
    """Export everything, with load of others while windows of these numbers come."""
    plan, _ = export.plan()
    with export.run(plan, plan.windows, "work", 4) as running, ExitStack() as load:
        for number, outcome in enumerate(running):
            assert outcome.error is None
            if number == windows.start:
                load.enter_context(load_of_others(dsn))
            if number == windows.stop:
                load.close()


def check_width(looks: list[PressureEntry]) -> None:
    """It fell within three looks that showed the load, to the least, and came back."""
    loaded = next(number for number, look in enumerate(looks) if look.signals["active_sessions"] >= OTHERS / 2)
    assert looks[loaded - 1].width == 4
    assert min(look.width for look in looks[loaded : loaded + 3]) < 4, "within three ticks"
    assert min(look.width for look in looks) == 1
    assert looks[-1].width == 4


def entries(export: TableExport, kind: type[JournalEntry]) -> list[Any]:
    return [entry for entry in read_journal(export.store) if isinstance(entry, kind)]


def verdict(export: TableExport) -> VerdictEntry:
    (found,) = entries(export, VerdictEntry)
    assert isinstance(found, VerdictEntry)
    return found


def eventually(what: Callable[[], bool], seconds: float = 20.0) -> bool:
    until = time.monotonic() + seconds
    while not what():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


@contextmanager
def load_of_others(dsn: str, sessions: int = OTHERS) -> Iterator[None]:
    """So many sessions that are busy all the time."""
    with closing(_Busy(dsn, sessions)):
        yield


class _Busy:
    def __init__(self, dsn: str, sessions: int) -> None:
        self._connections = [_connect(dsn) for _ in range(sessions)]
        self._threads = [threading.Thread(target=self._work, args=(each,)) for each in self._connections]
        for thread in self._threads:
            thread.start()

    def _work(self, connection: Any) -> None:
        try:
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_sleep(600)" if isinstance(connection, psycopg.Connection) else "DO sleep(600)"
                )
        except (psycopg.Error, pymysql.MySQLError):
            pass  # it is over

    def close(self) -> None:
        for connection in self._connections:
            if isinstance(connection, psycopg.Connection):
                connection.cancel()
            else:
                with closing(_connect(self._dsn_of(connection))) as other, other.cursor() as cursor:
                    cursor.execute("KILL %s", [connection.thread_id()])
        for thread, connection in zip(self._threads, self._connections, strict=True):
            thread.join()
            connection.close()

    @staticmethod
    def _dsn_of(connection: Any) -> str:
        return str(connection.rivet_dsn)


def _connect(dsn: str) -> Any:
    if dsn.startswith("postgresql"):
        return psycopg.connect(dsn, autocommit=True)
    from rivet_dagster.sources.mysql.connect import parse_dsn

    address = parse_dsn(dsn)
    connection = pymysql.connect(
        host=address.host, port=address.port, user=address.user, password=address.password, database=address.database
    )
    connection.rivet_dsn = dsn
    return connection


@pytest.mark.usefixtures("numbers")
def test_an_idle_source_sheds_nothing_and_the_journal_proves_that_it_was_looked_at(dsn: str, lake: Path) -> None:
    export = export_of(dsn, lake, "public.numbers", 50, cores=2)
    assert all(outcome.error is None for outcome in run(export))
    (begun,) = entries(export, RunEntry)
    assert begun.governed
    assert {"active_sessions", "canary_s", "connection_room", "blocked_sessions"} <= set(begun.signals)
    assert begun.unseen == {}
    looks = entries(export, PressureEntry)
    assert not any(look.stale for look in looks)
    assert all(look.signals["canary_s"] > 0 for look in looks)
    found = verdict(export)
    assert (found.outcome, found.committed, found.failed) == ("done", 40, 0)
    assert (found.width_min, found.width_max, found.sheds, found.held_s) == (4, 4, 0, 0)
    assert found.peak_memory_bytes > 0
    assert len(entries(export, WindowEntry)) == 40


@pytest.mark.usefixtures("slow")
def test_load_of_others_takes_workers_and_relief_gives_them_back(dsn: str, lake: Path) -> None:
    export = export_of(dsn, lake, "public.slow", 10, cores=4)
    run_beside_load(export, dsn, range(40, 100))
    check_width(entries(export, PressureEntry))
    first, *_ = entries(export, GovernorEntry)
    assert first.reason.startswith("active_sessions is at ")
    assert verdict(export).sheds >= 2
    export.seal(export.planned())
    assert len(exported_rows(lake / "public.slow")) == 2400


@pytest.mark.usefixtures("slow")
def test_without_a_governor_nothing_is_looked_at(dsn: str, lake: Path) -> None:
    export = export_of(dsn, lake, "public.slow", 200, cores=2, enabled=False)
    with load_of_others(dsn):
        assert all(outcome.error is None for outcome in run(export))
    looks = entries(export, PressureEntry)
    assert {look.width for look in looks} == {4}
    assert {tuple(look.signals) for look in looks} == {()}
    assert not entries(export, RunEntry)[0].governed


@pytest.mark.usefixtures("numbers")
@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_a_closed_gate_holds_windows_without_a_connection(
    dsn: str, sql: Sql, lake: Path, tmp_path: Path, engine: Any
) -> None:
    flag = tmp_path / "hold"
    flag.touch()
    export = export_of(dsn, lake, "public.numbers", 100, vetoes=[{"type": "file", "path": str(flag)}])
    plan, _ = export.plan()
    with export.run(plan, plan.windows, "work", 2, engine) as running:
        time.sleep(1.0)
        assert not list(lake.glob("*/g1/windows/*"))
        connected = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert sql(connected) == [(1,)], "the governor's alone"
        flag.unlink()
        assert all(outcome.error is None for outcome in running)
    held, released = entries(export, GateEntry)
    assert (held.state, held.reasons) == ("held", (f"the file {flag} exists",))
    assert released.state == "released"
    assert released.held_s >= 0.9
    export.seal(plan)
    assert_same(exported_rows(lake / "public.numbers"), source_rows(dsn, "public.numbers", "id"))


@pytest.mark.usefixtures("slow")
def test_a_gate_that_closes_lets_windows_end_and_rests_their_connections(
    dsn: str, sql: Sql, lake: Path, tmp_path: Path
) -> None:
    flag = tmp_path / "hold"
    export = export_of(dsn, lake, "public.slow", 50, vetoes=[{"type": "file", "path": str(flag)}])
    plan, _ = export.plan()
    with export.run(plan, plan.windows, "work", 2) as running:
        outcomes = iter(running)
        assert next(outcomes).error is None
        flag.touch()
        connected = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        rest = threading.Thread(target=lambda: [list(outcomes)])
        rest.start()
        assert eventually(lambda: sql(connected) == [(1,)])
        committed = len(list(lake.glob("*/g1/windows/*")))
        time.sleep(0.5)
        assert len(list(lake.glob("*/g1/windows/*"))) == committed, "what was begun has ended, and nothing more begins"
        flag.unlink()
        rest.join()
    assert verdict(export).outcome == "done"


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_critical_load_ends_the_run_and_keeps_what_is_committed(dsn: str, lake: Path, engine: Any) -> None:
    critical = {"above": {"active_sessions": OTHERS - 1}, "action": "abort"}
    export = export_of(dsn, lake, "public.slow", 200, critical=critical)
    plan, _ = export.plan()
    with export.run(plan, plan.windows, "work", 2, engine) as running:
        outcomes = iter(running)
        found = [next(outcomes)]
        with load_of_others(dsn):
            found += list(outcomes)
    failed = [outcome for outcome in found if outcome.error is not None]
    assert found[0].error is None
    assert failed
    assert len(found) == len(plan.windows), "every window is told of"
    for outcome in failed:
        assert isinstance(outcome.error, RivetError)
        assert (outcome.error.code, outcome.error.retryable) == ("RIVET_LOAD_CRITICAL", True)
    assert [gate.state for gate in entries(export, GateEntry)][-1] == "aborted"
    with export.run(plan, plan.windows, "work", 2) as running:
        again = list(running)
    assert sum(outcome.reused for outcome in again) == len(found) - len(failed)
    assert all(outcome.error is None for outcome in again)


@pytest.mark.usefixtures("numbers")
def test_a_user_without_rights_is_told_and_exports_all_the_same(dsn: str, sql: Sql, lake: Path) -> None:
    sql("CREATE ROLE rivet_plain LOGIN PASSWORD 'plain'")
    try:
        sql("GRANT SELECT ON public.numbers TO rivet_plain")
        place = dsn.rpartition("@")[2]
        export = export_of(f"postgresql://rivet_plain:plain@{place}", lake, "public.numbers", 500)
        assert all(outcome.error is None for outcome in run(export, workers=2))
        (begun,) = entries(export, RunEntry)
        assert begun.unseen["active_sessions"] == "pg_read_all_stats"
        assert "canary_s" in begun.signals
    finally:
        sql("DROP OWNED BY rivet_plain")
        sql("DROP ROLE rivet_plain")


def test_mariadb_is_governed_too(mysql_dsn: str, mysql_sql: Sql, lake: Path) -> None:
    mysql_sql("CREATE TABLE ids (id int PRIMARY KEY)")
    mysql_sql("INSERT INTO ids SELECT seq FROM seq_1_to_2400")
    mysql_sql("CREATE VIEW slow AS SELECT id, sleep(0.002) AS nothing FROM ids")
    # The export's own sessions are known by their user, so others are another user.
    mysql_sql("CREATE OR REPLACE USER governed@'%' IDENTIFIED BY 'g'")
    mysql_sql("GRANT ALL ON *.* TO governed@'%'")
    try:
        schema = mysql_dsn.rpartition("/")[2]
        own = f"mysql://governed:g@{mysql_dsn.rpartition('@')[2]}"
        export = export_of(own, lake, f"{schema}.slow", 10, cores=4)
        run_beside_load(export, mysql_dsn, range(40, 100))
        check_width(entries(export, PressureEntry))
        assert verdict(export).outcome == "done"
    finally:
        mysql_sql("DROP USER governed@'%'")


PROCESSES = int(os.environ.get("RIVET_TEST_SLOT_PROCESSES", "5"))


@pytest.mark.usefixtures("slow")
def test_processes_share_the_slots_of_a_source_and_the_killed_free_theirs(
    dsn: str, sql: Sql, lake: Path, tmp_path: Path
) -> None:
    """As many as RIVET_TEST_SLOT_PROCESSES says: 20 with 4 slots every night."""
    slots = 4 if PROCESSES >= 20 else 2
    windows = json.dumps({"columns": ["id"], "rows": 100})
    governor = json.dumps({"slots": slots, "tick_s": 1})
    started = []
    query = "SELECT * FROM public.slow WHERE id <= 600"
    for number in range(PROCESSES):
        options = ["--source", dsn, "--table", f"public.part{number}", "--query", query, "--to", str(lake)]
        options += ["--windows", windows, "--governor", governor, "--workers", "2", "--json"]
        env = {**os.environ, "RIVET_SPOOL_DIR": str(tmp_path / "spool")}
        started.append(subprocess.Popen(command("export", *options), stdout=subprocess.PIPE, env=env))
    reading = (
        "SELECT count(*) FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)"
        " WHERE l.locktype = 'advisory' AND l.granted AND a.datname = current_database()"
    )
    holders = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND query LIKE 'COPY%' AND state = 'active'"
    )
    most = [0, 0]
    killed = False
    try:
        while any(process.poll() is None for process in started):
            ((held,),), ((busy,),) = sql(reading), sql(holders)
            most = [max(most[0], held), max(most[1], busy)]
            assert held <= slots
            assert busy <= slots
            if held == slots and not killed:
                killed = True
                started[0].kill()
            time.sleep(0.05)
    finally:
        for process in started:
            process.kill()
    codes = [process.communicate() and process.returncode for process in started]
    assert most == [slots, slots], "all were in use"
    assert codes[0] in (-9, 0)
    assert codes[1:] == [0] * (PROCESSES - 1)


@pytest.mark.usefixtures("slow")
def test_a_window_waits_for_a_slot_only_so_long(dsn: str, sql: Sql, lake: Path) -> None:
    holder = export_of(dsn, lake / "holder", "public.slow", 2400, slots=1)
    waiting = export_of(dsn, lake / "waiting", "public.slow", 2400, slots=1, slot_wait_s=0.5)
    plan, _ = holder.plan()
    with holder.run(plan, plan.windows, "work", 1) as running:
        assert eventually(
            lambda: sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted") == [(1,)]
        )
        first, *_ = run(waiting, workers=1)
        running.stop()
    assert isinstance(first.error, RivetError)
    assert (first.error.code, first.error.retryable) == ("RIVET_SOURCE_SLOTS", True)
    retry, *_ = entries(waiting, RetryEntry)
    assert (retry.attempt, retry.code) == (1, "RIVET_SOURCE_SLOTS"), "once a window"
