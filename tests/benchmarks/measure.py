"""Runs a contender in a process of its own and measures it from outside, where that can be done."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.contender import Contender, Facts, Task, Unavailable
from tests.benchmarks.declared import types_lost
from tests.benchmarks.stage import Durations

MB = 1e6

_LONGEST_SECONDS = 1800.0


class ContenderError(Exception):
    """A contender failed; the message ends with the last thing it said."""


@dataclass(frozen=True)
class Measurement:
    """One run of one contender.

    Attributes:
        cpu_s: user and system seconds of its process and what it started, from the interpreter's start to its end.
        startup_cpu_s: how much of that until everything was imported and compiled code was loaded.
        wall_s: from the process's start to its end.
        peak_mb: the most memory that it had resident.
        above_idle_mb: how much that is above what it had resident before its work; None for another program.
        file_mb: size of its files; None if it writes none.
        statement_s: the longest that the server was busy with one statement, by the server's own log.
        types_lost: columns without the declared type, with what became of it; None if it writes no files.
        facts: what the contender says itself.
    """

    cpu_s: float
    startup_cpu_s: float
    wall_s: float
    peak_mb: float
    above_idle_mb: float | None
    file_mb: float | None
    statement_s: float
    types_lost: dict[str, str] | None
    facts: Facts

    def scaled(self, factor: float) -> Measurement:
        """What it would be with `factor` times the rows; memory and the start-up stay."""
        start = self.startup_cpu_s
        return replace(
            self,
            cpu_s=start + (self.cpu_s - start) * factor,
            wall_s=start + (self.wall_s - start) * factor,
            file_mb=None if self.file_mb is None else self.file_mb * factor,
            statement_s=self.statement_s * factor,
        )


class StatementLog:
    """The server's log of how long statements ran, from now on."""

    def __init__(self, durations: Durations) -> None:
        self._durations = durations
        self._begin = durations.path.stat().st_size

    def longest(self) -> float:
        """Seconds of the longest statement since; 0 if none was long enough to be logged."""
        with self._durations.path.open("rb") as log:
            log.seek(self._begin)
            found = max(map(float, self._durations.pattern.findall(log.read())), default=0.0)
            return found * self._durations.unit_s


@dataclass(frozen=True)
class Bench:
    """What all measurements share.

    Attributes:
        folder: for temporary files, on the file system that the tasks' folders are on.
        durations: where the server writes how long statements ran.
        overlays: folder with the packages of contenders that cannot be installed beside the project.
    """

    folder: Path
    durations: Durations
    overlays: Path

    def measure(
        self, contender: Contender, task: Task, declared: pa.Schema, rows: int
    ) -> tuple[Measurement, dict[str, str]]:
        """Run a contender once.

        Args:
            contender: which.
            task: what it reads, and where it writes.
            declared: what the table declares.
            rows: that it must find.

        Returns:
            The measurement, and the versions of the contender's packages.

        Raises:
            Unavailable: it is not installed.
            ContenderError: it failed, or it did not export every row.
        """
        log = StatementLog(self.durations)
        clock = Clock()
        found = self._answer(contender, task)
        cpu, wall = clock.spent()
        if "unavailable" in found:
            raise Unavailable(found["unavailable"])
        files = sorted(task.folder.rglob("*.parquet")) if contender.writes else []
        exported = sum(pq.read_metadata(file).num_rows for file in files) if files else found["facts"].get("rows", 0)
        if exported != rows:
            raise ContenderError(f"{exported:,} rows rather than {rows:,}")
        idle = found["idle_bytes"]
        return Measurement(
            cpu_s=cpu,
            startup_cpu_s=found["startup_cpu_s"],
            wall_s=wall,
            peak_mb=found["peak_bytes"] / MB,
            above_idle_mb=None if idle is None else (found["peak_bytes"] - idle) / MB,
            file_mb=sum(file.stat().st_size for file in files) / MB if files else None,
            statement_s=log.longest(),
            types_lost=types_lost(declared, files[0]) if files else None,
            facts=found["facts"],
        ), found["versions"]

    def _answer(self, contender: Contender, task: Task) -> dict[str, Any]:
        request = {"contender": contender.name, "task": plain_task(task)}
        return self.ask("tests.benchmarks.child", request, contender.overlay)

    def ask(self, module: str, request: dict[str, Any], overlay: str | None = None) -> dict[str, Any]:
        """Run a module in a process of its own, and give the JSON object that it answers a request with.

        Raises:
            ContenderError: it failed.
        """
        paths = [str(self.overlays / overlay)] if overlay else []
        paths += filter(None, [os.environ.get("PYTHONPATH")])
        environment = {"PYTHONPATH": os.pathsep.join(paths)}
        with tempfile.NamedTemporaryFile(dir=self.folder) as answer:
            self.run(["-m", module], environment, json.dumps(request | {"answer": answer.name}))
            found: dict[str, Any] = json.load(answer)
            return found

    def run(self, arguments: list[str], environment: dict[str, str], said: str = "") -> None:
        """Run this interpreter to its end.

        Args:
            arguments: of the interpreter.
            environment: variables, beside those of this process.
            said: to its standard input.

        Raises:
            ContenderError: it failed.
        """
        # Spooled parts belong on the file system that the others write to.
        _run_child(arguments, said, os.environ | environment | {"TMPDIR": str(self.folder)})


def plain_task(task: Task) -> dict[str, Any]:
    """A task as JSON has it."""
    return asdict(task) | {"folder": str(task.folder)}


def _run_child(arguments: list[str], request: str, environment: dict[str, str]) -> None:
    """Run one process to its end; ContenderError where that is no good one."""
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            _, said = process.communicate(request, timeout=_LONGEST_SECONDS)
        except BaseException as error:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with the programs that it started
            if isinstance(error, subprocess.TimeoutExpired):
                raise ContenderError(f"not done after {_LONGEST_SECONDS:.0f} s") from None
            raise
    if process.returncode:
        lines = said.strip().splitlines() or [f"exit code {process.returncode}"]
        raise ContenderError(lines[-1])


class Clock:
    """CPU and wall seconds of the processes that are started and waited for, from now on."""

    def __init__(self) -> None:
        self._cpu, self._began = _cpu_of_children(), time.monotonic()

    def spent(self) -> tuple[float, float]:
        """CPU seconds and wall seconds so far."""
        return _cpu_of_children() - self._cpu, time.monotonic() - self._began


def _cpu_of_children() -> float:
    """User and system seconds of all processes that were waited for, and of those that they waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
