"""Workers that are processes: the same export as by threads, and deaths that stay with one window."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

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


def check_a_death(dsn: str, table: str, lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill a child in the middle of a window: the window is read again, the others go on, and the death is told."""
    monkeypatch.setenv("RIVET_FAULT", "after_page@g1-w000003:1:kill")
    monkeypatch.setenv("RIVET_FAULT_ONCE", str(lake.parent / "once"))
    export = prepared(dsn, lake, table, rows=300, limits={"retry_seconds": 0.05})
    plan, _ = export.plan()
    with export.run(plan, plan.windows, "work", 2, "processes") as run:
        outcomes = {outcome.window.key: outcome for outcome in run}
    assert {key: outcome.deaths for key, outcome in outcomes.items() if outcome.deaths} == {"g1-w000003": 1}
    assert all(outcome.error is None for outcome in outcomes.values())
    export.seal(plan)


@pytest.mark.usefixtures("orders")
def test_a_child_that_dies_takes_no_other_window_with_it(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_a_death(dsn, "public.orders", tmp_path / "lake", monkeypatch)
    assert_same(exported_rows(tmp_path / "lake/public.orders"), source_rows(dsn, "public.orders", "id"))


def test_a_child_that_dies_with_mariadb(
    mysql_dsn: str, mysql_sql: Sql, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mysql_sql("CREATE TABLE orders (id int PRIMARY KEY, note text)")
    mysql_sql("INSERT INTO orders SELECT seq, concat('order ', seq) FROM seq_1_to_2000")
    table = f"{mysql_dsn.rpartition('/')[2]}.orders"
    check_a_death(mysql_dsn, table, tmp_path / "lake", monkeypatch)
    assert_same(exported_rows(tmp_path / "lake" / table), mysql_sql("SELECT * FROM orders ORDER BY id"))


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


@dataclass(frozen=True)
class Slow:
    """A view of which every row takes two seconds, so that reading a window takes twenty.

    Attributes:
        dsn: address of its database.
        table: its name.
        sessions: states of the sessions in its database, but for those that were there before, by their ids.
    """

    dsn: str
    table: str
    sessions: Callable[[], dict[int, str]]


@pytest.fixture
def slow_in_postgres(dsn: str, sql: Sql) -> Slow:
    sql("CREATE TABLE public.ids (id int PRIMARY KEY)")
    sql("INSERT INTO public.ids SELECT generate_series(1, 40)")
    # Planning asks with SELECT, and need not take long.
    pause = "CASE WHEN current_query() LIKE 'COPY%' THEN pg_sleep(2)::text END"
    sql(f"CREATE VIEW public.slow AS SELECT id, {pause} AS nothing FROM public.ids")
    known = "SELECT pid, state FROM pg_stat_activity WHERE datname = current_database()"
    before = dict(sql(known))
    return Slow(dsn, "public.slow", lambda: {pid: state for pid, state in sql(known) if pid not in before})


@pytest.fixture
def slow_in_mariadb(mysql_dsn: str, mysql_sql: Sql) -> Slow:
    mysql_sql("CREATE TABLE ids (id int PRIMARY KEY)")
    mysql_sql("INSERT INTO ids SELECT seq FROM seq_1_to_40")
    mysql_sql("CREATE VIEW slow AS SELECT id, sleep(2) AS nothing FROM ids")
    database = mysql_dsn.rpartition("/")[2]
    known = f"SELECT id, command FROM information_schema.processlist WHERE db = '{database}'"
    before = dict(mysql_sql(known))
    states = {"Query": "active", "Execute": "active"}
    return Slow(
        mysql_dsn,
        f"{database}.slow",
        lambda: {id_: states.get(command, command) for id_, command in mysql_sql(known) if id_ not in before},
    )


def exporting(slow: Slow, lake: Path, engine: str) -> subprocess.Popen[bytes]:
    windows = json.dumps({"columns": ["id"], "rows": 10})
    arguments = ("--source", slow.dsn, "--table", slow.table, "--to", str(lake), "--windows", windows)
    return subprocess.Popen(
        command("export", *arguments, "--engine", engine, "--json"),
        env={**os.environ, "RIVET_SPOOL_DIR": str(lake.parent / "spool")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize(
    ("server", "engine", "number"),
    [
        *product(
            ("slow_in_postgres", "slow_in_mariadb"),
            ("processes", "threads"),
            (signal.SIGTERM,),
        ),
        ("slow_in_postgres", "processes", signal.SIGKILL),
        ("slow_in_mariadb", "processes", signal.SIGKILL),
        # MariaDB only notices when it has something to send.
        ("slow_in_postgres", "threads", signal.SIGKILL),
    ],
)
def test_nothing_survives_the_parent(
    server: str, engine: str, number: signal.Signals, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """No child and no session on the server, so neither statement nor lock, though statements would take 20 s."""
    slow: Slow = request.getfixturevalue(server)
    workers = 2 * (engine == "processes")

    def under_way() -> bool:
        reading = list(slow.sessions().values()).count("active")
        return len(children(parent.pid)) == workers and reading == 2

    with exporting(slow, tmp_path / "lake", engine) as parent:
        try:
            assert eventually(under_way, 30), (parent.poll(), slow.sessions())
            started = children(parent.pid)
            parent.send_signal(number)
            assert eventually(lambda: not any(map(is_alive, started)) and not slow.sessions(), 5), slow.sessions()
            parent.communicate(timeout=30)
        finally:
            parent.kill()
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
