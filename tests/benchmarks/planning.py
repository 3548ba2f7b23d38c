"""What planning takes, and what it asks of the server, by the type of the windows."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import psycopg

from tests.benchmarks.contender import MARIADB, POSTGRESQL
from tests.benchmarks.mariadb import MariaTable
from tests.benchmarks.measure import Bench, ContenderError, StatementLog, plain_task
from tests.benchmarks.stage import SCHEMA, Stage, Table

PLANNED_ROWS = 20_000_000
# MariaDB's table has this part of them.
MARIADB_PART = 10
# More than a walk's largest step. The usual numbers of rows are no multiples of it, so that the last window is shorter.
WINDOW_ROWS = 300_000

_COLUMNS = "(id, at, v): bigint, a timestamp, int"

# Values are those of the row's number, so that the bounds of a window say how many rows it has. The select list gives
# them one by one; FROM would write them to a file first.
_PLANNED = """
SET maintenance_work_mem = '1GB';
CREATE UNLOGGED TABLE public.planned (id bigint NOT NULL, at timestamptz NOT NULL, v integer);
INSERT INTO public.planned
SELECT n, TIMESTAMPTZ '2020-01-01 00:00+00' + n * INTERVAL '0.1 second', n % 1000
  FROM (SELECT generate_series(1, %(rows)s::bigint) AS n) AS numbers;
ALTER TABLE public.planned ADD PRIMARY KEY (id);
CREATE INDEX planned_by_time ON public.planned (at, id);
"""
PLANNED = Table("planned", _PLANNED, "id", PLANNED_ROWS, _COLUMNS)

_MARIADB_PLANNED = """
CREATE TABLE planned (id bigint NOT NULL PRIMARY KEY, at datetime(6) NOT NULL, v int);
INSERT INTO planned
SELECT seq, '2020-01-01' + INTERVAL seq * 0.1 SECOND, seq %% 1000 FROM seq_1_to_%(rows)s;
"""
MARIADB_PLANNED = MariaTable("planned", _MARIADB_PLANNED, "id", PLANNED_ROWS // MARIADB_PART, _COLUMNS)

# A few rows of a table that would have a thousand million.
HUGE_ROWS = 1_000_000_000
_HUGE_WINDOW_ROWS = 500_000
_KEPT_ROWS = 4_000
_KEY_STEP = 499_979
_HUGE = f"""
CREATE UNLOGGED TABLE public.huge (id bigint NOT NULL, at timestamptz NOT NULL, v integer);
INSERT INTO public.huge
SELECT n * {_KEY_STEP}, TIMESTAMPTZ '2020-01-01 00:00+00', n FROM generate_series(1, %(rows)s) AS n;
ALTER TABLE public.huge ADD PRIMARY KEY (id);
"""
HUGE = Table("huge", _HUGE, "id", HUGE_ROWS, _COLUMNS)
# As ANALYZE would have made them.
_STATISTICS = """
SELECT pg_restore_relation_stats('schemaname', %(schema)s::text, 'relname', %(name)s::text,
                                 'relpages', %(pages)s::int, 'reltuples', %(rows)s::real),
       pg_restore_attribute_stats('schemaname', %(schema)s::text, 'relname', %(name)s::text,
                                  'attname', 'id', 'inherited', false, 'null_frac', 0::real, 'avg_width', 8,
                                  'n_distinct', -1::real, 'histogram_bounds', %(points)s::text)
"""
_ROWS_A_BLOCK = 156
_RANGES = 100


@dataclass(frozen=True)
class Way:
    """How a table is planned.

    Attributes:
        title: for the report.
        table, rows: of which.
        windows: what is asked for, as a user writes it.
        walks: whether all of an index is walked.
        by_number: whether a window's upper bound ends with the number of its last row.
    """

    title: str
    table: Table
    rows: int
    windows: Mapping[str, Any]
    walks: bool = False
    by_number: bool = True


@dataclass(frozen=True)
class PlanningRun:
    """One planning, in a process that has planned before.

    Attributes:
        wall_s, cpu_s: seconds from the connection to the written plan; CPU is that of this side.
        statement_s: the longest that the server was busy with one statement, by its own log.
        entries: index entries that the server passed.
        blocks: blocks of tables and indexes that it looked at, in memory or not.
        windows: how many were planned.
        planned: rows of the smallest and of the largest window by the plan; None without windows.
        real: the same by the table; None where the bounds do not tell.
    """

    wall_s: float
    cpu_s: float
    statement_s: float
    entries: int
    blocks: int
    windows: int
    planned: tuple[int, int] | None
    real: tuple[int, int] | None


@dataclass(frozen=True)
class WayCost:
    """All runs of one way."""

    way: Way
    runs: tuple[PlanningRun, ...]

    def median(self, value: Callable[[PlanningRun], float]) -> float:
        """Median of what `value` gives over the runs."""
        return median(map(value, self.runs))

    def worst(self, value: Callable[[PlanningRun], float]) -> float:
        """The greatest of what `value` gives over the runs."""
        return max(map(value, self.runs))

    def passes(self, run: PlanningRun) -> float:
        """Index entries that were passed, for each row of the table."""
        return run.entries / self.way.rows


@dataclass(frozen=True)
class PlanningCost:
    """The ways to plan one server's table.

    Attributes:
        server: which.
        rows: of its table.
        ways: what each took.
    """

    server: str
    rows: int
    ways: tuple[WayCost, ...]


def _on_postgresql(rows: int) -> tuple[Way, ...]:
    keyset = {"type": "keyset", "rows": WINDOW_ROWS}
    by_time = {"type": "time", "column": "at", "every": "day", "start": "2020-01-01"}
    huge = {"type": "keyset", "rows": _HUGE_WINDOW_ROWS, "boundaries": "estimated"}
    return (
        Way("keyset, exact", PLANNED, rows, keyset, walks=True),
        Way("keyset, estimated", PLANNED, rows, {**keyset, "boundaries": "estimated"}),
        Way("int_range", PLANNED, rows, {"type": "int_range", "column": "id", "size": WINDOW_ROWS}),
        Way("cursor, index on (at, id)", PLANNED, rows, {"type": "cursor", "column": "at", "rows": WINDOW_ROWS}, True),
        Way("time, days", PLANNED, rows, by_time),
        Way("restored statistics", HUGE, HUGE_ROWS, huge, by_number=False),
    )


def _on_mariadb(rows: int) -> tuple[Way, ...]:
    keyset = {"type": "keyset", "rows": WINDOW_ROWS}
    return (
        Way("keyset, exact", MARIADB_PLANNED, rows, keyset, walks=True),
        Way("keyset, estimated", MARIADB_PLANNED, rows, {**keyset, "boundaries": "estimated"}),
    )


_WAYS = {POSTGRESQL: _on_postgresql, MARIADB: _on_mariadb}


class Planning:
    """Measures planning on one server.

    Args:
        stage: the server.
        bench: starts processes.
        runs: how often each way is measured.
        say: told what is under way.
    """

    def __init__(self, stage: Stage, bench: Bench, runs: int, say: Callable[[str], None]) -> None:
        self._stage = stage
        self._bench = bench
        self._runs = runs
        self._say = say

    def cost(self, rows: int) -> PlanningCost:
        """Plan a table in every way, in turns; it is dropped afterwards. ContenderError where a plan is not of it."""
        ways = _WAYS[self._stage.product](rows)
        try:
            self._say(f"planning: making {rows:,} rows")
            for way in ways:
                self._make(way)
            found: list[list[PlanningRun]] = [[] for _ in ways]
            for number in range(1, self._runs + 1):
                for way, runs in zip(ways, found, strict=True):
                    self._say(f"planning, {way.title}, run {number} of {self._runs}")
                    runs.append(self._run(way))
        finally:
            for way in ways:
                self._stage.drop(way.table, _stored(way))
        costs = (WayCost(way, tuple(runs)) for way, runs in zip(ways, found, strict=True))
        return PlanningCost(self._stage.product, rows, tuple(costs))

    def _make(self, way: Way) -> None:
        dsn = self._stage.dsn(way.table, _stored(way))
        if way.table is HUGE:
            _restore_statistics(dsn)

    def _run(self, way: Way) -> PlanningRun:
        stage = self._stage
        with tempfile.TemporaryDirectory(dir=stage.folder) as folder:
            task = stage.task(way.table, _stored(way), Path(folder))
            request = {"task": plain_task(task), "windows": dict(way.windows)}
            before = stage.looked_at(task.dsn)
            log = StatementLog(stage.durations())
            found = self._bench.ask("tests.benchmarks.planning", request)
            after = stage.looked_at(task.dsn)
        real = list(_numbers(found["bounds"])) if way.by_number and found["bounds"] else []
        if real and sum(real) != way.rows:
            raise ContenderError(f"{way.title}: windows of {sum(real):,} rows rather than {way.rows:,}")
        if way.walks and real != found["planned"]:
            raise ContenderError(f"{way.title}: windows do not have the rows that were counted")
        return PlanningRun(
            wall_s=found["wall_s"],
            cpu_s=found["cpu_s"],
            statement_s=log.longest(),
            entries=after.entries - before.entries,
            blocks=after.blocks - before.blocks,
            windows=len(found["planned"]),
            planned=_extent(found["planned"]),
            real=_extent(real),
        )


def _stored(way: Way) -> int:
    """How many rows there are in truth."""
    return _KEPT_ROWS if way.table is HUGE else way.rows


def _restore_statistics(dsn: str) -> None:
    """Have the server believe that the small table is the huge one. Its keys are spread over the same values."""
    last = _KEPT_ROWS * _KEY_STEP
    points = ",".join(str(1 + last * number // _RANGES) for number in range(_RANGES + 1))
    values = {
        "schema": SCHEMA,
        "name": HUGE.name,
        "pages": HUGE_ROWS // _ROWS_A_BLOCK,
        "rows": HUGE_ROWS,
        "points": f"{{{points}}}",
    }
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute(_STATISTICS, values)


def _numbers(bounds: list[list[str]]) -> Iterator[int]:
    """Rows of each window, by the numbers of its first and last row."""
    ends = [0, *(int(bound[-1]) for bound in bounds)]
    return (hi - lo for lo, hi in pairwise(ends))


def _extent(rows: list[int]) -> tuple[int, int] | None:
    return (min(rows), max(rows)) if rows else None


# -------------------------------------------------------------------------------------- in a process of its own


def main() -> None:
    """Plan what standard input asks for; write seconds and windows as JSON to the file that it names."""
    request = json.load(sys.stdin)
    Path(request["answer"]).write_text(json.dumps(_planned(request["task"], request["windows"])))


def _planned(task: Mapping[str, Any], windows: Mapping[str, Any]) -> dict[str, Any]:
    from tests.support.exports import prepared

    folder, relation = Path(task["folder"]), f"{task['schema']}.{task['table']}"
    # One window looks at no index: this imports what is imported late.
    prepared(task["dsn"], folder / "before", relation, windows={"type": "full"}).plan()
    export = prepared(task["dsn"], folder / "lake", relation, windows=windows)
    cpu, wall = time.process_time(), time.monotonic()
    plan, _ = export.plan()
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    return {
        "cpu_s": cpu,
        "wall_s": wall,
        "planned": [window.planned_rows for window in plan.windows],
        "bounds": [window.span.hi for window in plan.windows],
    }


if __name__ == "__main__":
    main()
