"""Workers that are processes: the same export as by threads, and deaths that stay with one window."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from rivet_dagster.errors import RivetError
from rivet_dagster.export.operations import Engine
from tests.support.cli import command
from tests.support.exports import prepared
from tests.support.readers import assert_same, exported_rows, source_rows, tree

Sql = Callable[[str], list[tuple[Any, ...]]]


@pytest.fixture
def orders(sql: Sql) -> Iterator[None]:
    sql("CREATE TABLE public.orders (id int PRIMARY KEY, note text)")
    sql("INSERT INTO public.orders SELECT n, 'order ' || n FROM generate_series(1, 2000) AS n")
    return iter(())


def children(parent: int) -> list[int]:
    """Processes that `parent` started and that are no zombies."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, owner = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it has just ended
            continue
        if int(owner) == parent and state != "Z":
            found.append(int(stat.parent.name))
    return found


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def eventually(what: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if what():
            return True
        time.sleep(0.05)
    return what()


@pytest.mark.usefixtures("orders")
@pytest.mark.parametrize("parts_format", ["parquet", "csv"])
def test_both_engines_write_the_same(dsn: str, tmp_path: Path, parts_format: str) -> None:
    engines: tuple[Engine, ...] = ("threads", "processes")
    for engine in engines:
        export = prepared(dsn, tmp_path / engine, "public.orders", rows=300, format={"type": parts_format})
        plan, _ = export.plan()
        with export.run(plan, plan.windows, "work", 2, engine) as run:
            assert all(outcome.error is None and outcome.deaths == 0 for outcome in run)
        export.seal(plan)
    threads, processes = (tree(tmp_path / engine / "public.orders") for engine in engines)
    assert threads.keys() == processes.keys()
    assert all(threads[name] == processes[name] for name in threads if "/windows/" not in name)


@pytest.mark.usefixtures("orders")
def test_a_child_that_dies_takes_no_other_window_with_it(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIVET_FAULT", "after_page@g1-w000003:1:kill")
    monkeypatch.setenv("RIVET_FAULT_ONCE", str(tmp_path / "once"))
    export = prepared(dsn, tmp_path / "lake", "public.orders", rows=300, limits={"retry_seconds": 0.05})
    plan, _ = export.plan()
    with export.run(plan, plan.windows, "work", 2, "processes") as run:
        outcomes = {outcome.window.key: outcome for outcome in run}
    assert {key: outcome.deaths for key, outcome in outcomes.items() if outcome.deaths} == {"g1-w000003": 1}
    assert all(outcome.error is None for outcome in outcomes.values())
    export.seal(plan)
    assert_same(exported_rows(tmp_path / "lake/public.orders"), source_rows(dsn, "public.orders", "id"))


@pytest.mark.usefixtures("orders")
def test_a_window_that_kills_every_child_fails_alone(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIVET_FAULT", "before_manifest_put@g1-w000002:1:kill")
    limits = {"retry_seconds": 0.05, "attempts": 2}
    export = prepared(dsn, tmp_path / "lake", "public.orders", rows=500, limits=limits)
    plan, _ = export.plan()
    with export.run(plan, plan.windows, "work", 2, "processes") as run:
        outcomes = {outcome.window.key: outcome for outcome in run}
    failed = {key: outcome.error for key, outcome in outcomes.items() if outcome.error is not None}
    assert list(failed) == ["g1-w000002"]
    error = failed["g1-w000002"]
    assert isinstance(error, RivetError)
    assert error.code == "RIVET_WORKER_DIED"
    assert "2 times, the last time with SIGKILL" in error.what
    assert len(outcomes) == 4


def test_errors_of_a_child_are_the_errors_of_its_window(dsn: str, sql: Sql, tmp_path: Path) -> None:
    sql("CREATE TABLE public.orders (id int PRIMARY KEY, at timestamptz)")
    sql("INSERT INTO public.orders VALUES (1, now()), (2, 'infinity')")
    export = prepared(dsn, tmp_path / "lake", "public.orders", rows=1)
    plan, _ = export.plan()
    with export.run(plan, plan.windows, "work", 1, "processes") as run:
        first, second = sorted(run, key=lambda outcome: outcome.window.key)
    assert first.error is None
    assert isinstance(second.error, RivetError)
    assert second.error.code == "RIVET_VALUE_UNSUPPORTED"


@pytest.fixture
def slow(sql: Sql) -> None:
    """A view whose every row takes a twentieth of a second, in every statement over it."""
    sql("CREATE TABLE public.ids (id int PRIMARY KEY)")
    sql("INSERT INTO public.ids SELECT generate_series(1, 40)")
    sql("CREATE VIEW public.slow AS SELECT id, pg_sleep(0.05)::text AS nothing FROM public.ids")


def exporting(dsn: str, lake: Path) -> subprocess.Popen[bytes]:
    windows = json.dumps({"columns": ["id"], "rows": 10})
    arguments = ("--source", dsn, "--table", "public.slow", "--to", str(lake), "--windows", windows)
    return subprocess.Popen(
        command("export", *arguments, "--engine", "processes", "--json"),
        env={**os.environ, "RIVET_SPOOL_DIR": str(lake.parent / "spool")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def reading(dsn: str) -> int:
    """Statements that exports are running on the server."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND application_name LIKE 'rivet%' AND state <> 'idle'"
        ).fetchone()
    assert found is not None
    return int(found[0])


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_survives_the_parent(dsn: str, tmp_path: Path, number: signal.Signals) -> None:
    with exporting(dsn, tmp_path / "lake") as parent:
        try:
            assert eventually(lambda: len(children(parent.pid)) == 2 and reading(dsn) == 2, 90), parent.poll()
            started = children(parent.pid)
            parent.send_signal(number)
            assert eventually(lambda: not any(map(is_alive, started)), 5)
            assert eventually(lambda: reading(dsn) == 0, 5)
        finally:
            parent.send_signal(number)
        parent.communicate(timeout=30)
    assert parent.returncode == (-9 if number == signal.SIGKILL else 143)


@pytest.mark.usefixtures("orders")
def test_the_address_is_in_no_list_of_processes(dsn: str, tmp_path: Path) -> None:
    export = prepared(dsn, tmp_path / "lake", "public.orders", rows=50)
    plan, _ = export.plan()
    seen = set()
    with export.run(plan, plan.windows, "work", 2, "processes") as run:
        for _ in run:
            for child in children(os.getpid()):
                seen.add(Path(f"/proc/{child}/cmdline").read_bytes())
    ours = [line for line in seen if b"rivet_dagster.export.child" in line]
    assert ours
    assert not any(b"postgresql://" in line for line in ours)
    assert sys.executable.encode() in ours[0]
