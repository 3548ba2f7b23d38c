"""What the default contender's time goes to: the first use, the start-up, the row fingerprint, decoding."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.measure import Bench, Clock, plain_task
from tests.benchmarks.stage import SCHEMA, Stage, Table

FIRST, SECOND, WARM, WARMED = (
    "first export, nothing cached",
    "second export",
    "`rivet-dagster warm`, nothing cached",
    "first export after it",
)

_COMMAND_LINE = "from rivet_dagster.cli import main; main()"
_FIRST_USE_ROWS = 1_000


@dataclass(frozen=True)
class FirstUse:
    """Exports by the command line around an empty cache of kernels.

    Attributes:
        rows: rows of the table.
        runs: CPU and wall seconds by step, for every run.
    """

    rows: int
    runs: tuple[dict[str, tuple[float, float]], ...]

    def cpu_s(self, step: str) -> float:
        """Median of a step's CPU seconds."""
        return median(run[step][0] for run in self.runs)

    def wall_s(self, step: str) -> float:
        """Median of a step's wall seconds."""
        return median(run[step][1] for run in self.runs)

    @property
    def compiling_s(self) -> float:
        """Median of the wall seconds that the first export takes longer than the second."""
        return median(run[FIRST][1] - run[SECOND][1] for run in self.runs)


@dataclass(frozen=True)
class Hashing:
    """CPU seconds of an export, and of the row fingerprint in it; one of each a run.

    Attributes:
        table: which.
        rows: how many it has.
        hashing_s: in the hasher's `update`, over all threads.
        startup_s: of the process, until everything was loaded.
        cpu_s: of the process.
    """

    table: Table
    rows: int
    hashing_s: tuple[float, ...]
    startup_s: tuple[float, ...]
    cpu_s: tuple[float, ...]

    @property
    def share(self) -> float:
        """Median of the fingerprint's share of the process's CPU."""
        return median(hashing / cpu for hashing, cpu in zip(self.hashing_s, self.cpu_s, strict=True))

    @property
    def share_of_work(self) -> float:
        """Median of its share of what the process spends after its start-up."""
        runs = zip(self.hashing_s, self.startup_s, self.cpu_s, strict=True)
        return median(hashing / (cpu - startup) for hashing, startup, cpu in runs)


@dataclass(frozen=True)
class StartUp:
    """CPU seconds by step of the start-up, for every run."""

    runs: tuple[dict[str, float], ...]

    def steps(self) -> dict[str, float]:
        """Medians, in the steps' order."""
        return {step: median(run[step] for run in self.runs) for step in self.runs[0]}


@dataclass(frozen=True)
class Decoding:
    """The same pages read by one worker with and without decoding them, in turns; nothing is written.

    Attributes:
        server: that it reads from.
        table: which.
        rows, pages, wire_bytes: of one pass.
        drain_s: wall seconds of each pass without decoding.
        decode_s: wall seconds of each pass with decoding.
    """

    server: str
    table: Table
    rows: int
    pages: int
    wire_bytes: int
    drain_s: tuple[float, ...]
    decode_s: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Median with decoding over median without."""
        return median(self.decode_s) / median(self.drain_s)


class Insight:
    """Looks into the default contender.

    Args:
        stage: the server with its tables.
        bench: starts processes.
        runs: how often each is measured.
        say: told what is under way.
    """

    def __init__(self, stage: Stage, bench: Bench, runs: int, say: Callable[[str], None]) -> None:
        self._stage = stage
        self._bench = bench
        self._runs = runs
        self._say = say

    def first_use(self, table: Table) -> FirstUse:
        """Export a small table with empty and with filled caches; ContenderError where a command fails."""
        dsn = self._stage.dsn(table, _FIRST_USE_ROWS)
        runs = []
        for number in range(self._runs):
            self._say(f"first use, run {number + 1} of {self._runs}")
            runs.append(self._first_use(dsn, f"{SCHEMA}.{table.name}"))
        return FirstUse(_FIRST_USE_ROWS, tuple(runs))

    def _first_use(self, dsn: str, relation: str) -> dict[str, tuple[float, float]]:
        taken = {}
        for steps in ((FIRST, SECOND), (WARM, WARMED)):
            with tempfile.TemporaryDirectory(dir=self._stage.folder) as name:
                folder = Path(name)
                environment = {"NUMBA_CACHE_DIR": str(folder / "kernels"), "RIVET_SOURCE": dsn}
                for number, step in enumerate(steps):
                    export = ["export", "--table", relation, "--to", str(folder / f"lake-{number}"), "--json"]
                    arguments = ["warm"] if step == WARM else export
                    clock = Clock()
                    self._bench.run(["-c", _COMMAND_LINE, *arguments], environment)
                    taken[step] = clock.spent()
        return taken

    def hashing(self, table: Table, rows: int) -> Hashing:
        """Measure how much of an export is the row fingerprint; ContenderError where it fails."""
        found = []
        for number in range(self._runs + 1):
            self._say(f"{table.name}: row fingerprint, run {number} of {self._runs}")
            found.append(self._step("fingerprint", table, rows if number else _FIRST_USE_ROWS))
        hashing, startup, cpu = (tuple(run[name] for run in found[1:]) for name in ("hashing_s", "startup_s", "cpu_s"))
        return Hashing(table, rows, hashing, startup, cpu)

    def start_up(self, table: Table) -> StartUp:
        """Measure the start-up's steps; ContenderError where it fails."""
        self._say("start-up")
        runs = [self._step("start-up", table, _FIRST_USE_ROWS) for _ in range(self._runs + 1)]
        return StartUp(tuple(runs[1:]))

    def decoding(self, table: Table, rows: int) -> Decoding:
        """Measure what decoding adds to reading; ContenderError where it fails."""
        self._say(f"{table.name}: reading with and without decoding")
        found = self._step("decoding", table, rows)
        return Decoding(
            self._stage.product,
            table,
            found["rows"],
            found["pages"],
            found["wire_bytes"],
            tuple(found["drain_s"]),
            tuple(found["decode_s"]),
        )

    def _step(self, what: str, table: Table, rows: int) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(dir=self._stage.folder) as folder:
            task = self._stage.task(table, rows, Path(folder))
            return self._bench.ask("tests.benchmarks.steps", {"what": what, "task": plain_task(task)})
