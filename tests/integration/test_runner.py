"""The runner against a real server that misbehaves: lost connections, locks, concurrent writers, stops."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from rivet_dagster.errors import SourceError
from rivet_dagster.export.operations import TableExport
from rivet_dagster.export.runner import WindowRun
from tests.support.exports import export_all, prepared, run_all
from tests.support.readers import exported_rows

Sql = Callable[[str], list[tuple[Any, ...]]]

READERS = "FROM pg_stat_activity WHERE application_name = 'rivet_dagster' AND datname = current_database()"


@contextmanager
def meanwhile(dsn: str, step: Callable[[psycopg.Connection[Any], int], None]) -> Iterator[None]:
    """Repeat `step` on a connection of its own for as long as the context lasts."""
    stop = threading.Event()

    def loop() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            turn = 0
            while not stop.is_set():
                step(connection, turn)
                turn += 1

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def numbers(sql: Sql) -> Sql:
    sql("CREATE TABLE public.n (id int PRIMARY KEY, v text)")
    sql("INSERT INTO public.n SELECT n * 2, repeat('v', 200) FROM generate_series(1, 60000) AS n")
    return sql


def test_lost_connections_are_tried_again(dsn: str, numbers: Sql, lake: Path) -> None:
    killed = []

    def kill_some(connection: psycopg.Connection[Any], turn: int) -> None:
        if len(killed) < 3:
            query = f"SELECT pg_terminate_backend(pid) {READERS} AND query LIKE 'COPY%' LIMIT 1"
            killed.extend(connection.execute(query).fetchall())  # type: ignore[call-overload]

    export = prepared(
        dsn, lake, "public.n", rows=20_000, limits={"page_bytes": 65536, "retry_seconds": 0, "attempts": 10}
    )
    plan, _ = export.plan()
    with meanwhile(dsn, kill_some):
        outcomes = run_all(export, plan)
    assert [str(outcome.error) for outcome in outcomes if outcome.error] == []
    export.seal(plan)
    assert len(killed) == 3
    assert sum(outcome.manifest.statistics.attempts - 1 for outcome in outcomes if outcome.manifest) >= 1
    assert [row[0] for row in exported_rows(lake / "public.n")] == list(range(2, 120_001, 2))


def test_concurrent_writers_cost_no_row_that_was_there_all_the_time(dsn: str, numbers: Sql, lake: Path) -> None:
    def write(connection: psycopg.Connection[Any], turn: int) -> None:
        odd = turn * 7919 % 120_000 | 1
        connection.execute("INSERT INTO public.n VALUES (%s, 'new') ON CONFLICT DO NOTHING", (odd,))
        connection.execute("DELETE FROM public.n WHERE id = %s", ((turn - 50) * 7919 % 120_000 | 1,))

    with meanwhile(dsn, write):
        for work in ("first", "second"):
            export_all(
                prepared(dsn, lake, "public.n", rows=3000, limits={"page_bytes": 65536}), work_id=work, workers=3
            )
            keys = [row[0] for row in exported_rows(lake / "public.n")]
            assert keys == sorted(set(keys)), "no key twice, all in order"
            assert [key for key in keys if key % 2 == 0] == list(range(2, 120_001, 2))


def test_a_lock_that_is_not_granted_in_time_is_an_error_that_may_pass(dsn: str, numbers: Sql, lake: Path) -> None:
    limits = {"lock_timeout_s": 0.1, "attempts": 2, "retry_seconds": 0}
    export = prepared(dsn, lake, "public.n", limits=limits)
    plan, _ = export.plan()
    numbers("BEGIN")
    numbers("LOCK TABLE public.n IN ACCESS EXCLUSIVE MODE")
    with pytest.raises(SourceError) as caught:
        run_all(export, plan)
    numbers("ROLLBACK")
    assert (caught.value.code, caught.value.process_exit_code) == ("RIVET_SOURCE_LOCKED", 2)


def test_a_stop_cancels_statements_and_keeps_what_is_committed(dsn: str, numbers: Sql, lake: Path) -> None:
    export = prepared(dsn, lake, "public.n", rows=500, limits={"page_bytes": 65536})
    plan, _ = export.plan()
    with export.run(plan, plan.windows, "work", 2) as run:
        taken = [outcome for _, outcome in zip(range(3), run, strict=False)]
        left = run.stop()
    committed = {outcome.window.key for outcome in [*taken, *left] if outcome.manifest}
    manifests = {f"g1-{path.stem}" for path in (lake / "public.n/g1/windows").iterdir()}
    assert committed == manifests, "what is committed can be reported, even after a stop"
    assert 3 <= len(manifests) < len(plan.windows)
    deadline = time.monotonic() + 5
    while (rows := numbers(f"SELECT pid {READERS}")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert rows == [], "no connection is left on the source"
    assert [path.name for path in (lake / "public.n").rglob("*.parquet")] != []


def test_an_error_that_no_window_escapes_is_not_repeated_for_each(
    dsn: str, numbers: Sql, lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export: TableExport = prepared(dsn, lake, "public.n", rows=1000)
    plan, _ = export.plan()
    connect, calls = export.source.connect, []

    def refuse() -> Any:
        calls.append(1)
        if len(calls) == 1:  # the look at the table before the windows
            return connect()
        raise SourceError("RIVET_SOURCE_AUTH", "No.", "No.", fatal=True)

    monkeypatch.setattr(export.source, "connect", refuse)
    outcomes = run_all(export, plan, workers=2)
    assert len(outcomes) == 60
    assert {str(outcome.error) for outcome in outcomes} == {"RIVET_SOURCE_AUTH: No. No."}
    assert len(calls) <= 3, "a wrong password is not tried once a window"


def test_a_worker_that_cannot_be_made_fails_its_windows(dsn: str, sql: Sql, lake: Path) -> None:
    sql("CREATE TABLE public.n (id int PRIMARY KEY)")
    sql("INSERT INTO public.n SELECT generate_series(1, 100)")
    export = prepared(dsn, lake, "public.n", rows=10)
    plan, _ = export.plan()

    def broken(_: object) -> Any:
        raise LookupError("no worker")

    with WindowRun(broken, plan.windows, 2) as run:
        outcomes = list(run)
    assert [type(outcome.error) for outcome in outcomes] == [LookupError] * len(plan.windows)
