"""Dagster's webserver and daemon over one code location, as processes that end with the context they run in."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil
from dagster import DagsterInstance

from demo import DemoError
from demo.graphql import Backfill, DagsterClient, DefinitionsError, GraphQLError, Run
from demo.server import HOST, free_port, tail

_POLL_SECONDS = 1.0
_STOP_SECONDS = 15.0

_QUICK_DAEMON = """
from dagster._daemon import controller
from dagster._daemon.cli import main
controller.DEFAULT_DAEMON_INTERVAL_SECONDS = {seconds}
main()
"""


class ServiceError(DemoError):
    """A service ended by itself or does not become ready; the message names its log and shows the end of it."""


@dataclass(frozen=True)
class _Service:
    name: str
    process: subprocess.Popen[bytes]
    log: Path


class DagsterServices:
    """The two services; a context manager that starts them, waits until they are ready, and stops them.

    Args:
        definitions: Python file with the code location.
        home: folder with dagster.yaml, the instance's DAGSTER_HOME.
        logs: folder for the services' output, one file each, overwritten at every start.
        environment: variables on top of our own.
        port: the webserver's, on 127.0.0.1; None takes a free one.
        backfill_seconds: how often the daemon looks at backfills; None for Dagster's 30 seconds.
    """

    def __init__(
        self,
        definitions: Path,
        *,
        home: Path,
        logs: Path,
        environment: Mapping[str, str] | None = None,
        port: int | None = None,
        backfill_seconds: int | None = None,
    ) -> None:
        self.definitions = definitions
        self.logs = logs
        self.environment = {**os.environ, **(environment or {}), "DAGSTER_HOME": str(home)}
        self.port = port or free_port()
        self.client = DagsterClient(f"http://{HOST}:{self.port}")
        self._backfill_seconds = backfill_seconds
        self._services: list[_Service] = []

    def __enter__(self) -> DagsterServices:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where the webserver is."""
        return self.client.url

    def start(self, seconds: float = 180.0) -> None:
        """Start both services and wait until the code location is loaded and every daemon is alive.

        Raises:
            ServiceError: one ended, or `seconds` passed.
            DefinitionsError: the code location does not load.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        started = time.time()
        _create_storage(self.environment["DAGSTER_HOME"])
        try:
            self._launch("dagster-webserver", [_script("dagster-webserver")], "--host", HOST, "--port", str(self.port))
            self._launch("dagster-daemon", self._daemon(), "run")
            self._wait_until_ready(started, seconds)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the services and every process that they started: first by asking, at last by force."""
        services = [each.process.pid for each in self._services if each.process.poll() is None]
        family = [process for pid in services for process in _family(pid)]
        _signal([process for process in family if process.pid in services], signal.SIGTERM)
        # A service takes its code server along; what outlives both, such as a run, is asked in turn.
        _, alive = psutil.wait_procs(family, _STOP_SECONDS)
        _signal(alive, signal.SIGTERM)
        _, alive = psutil.wait_procs(alive, _STOP_SECONDS)
        _signal(alive, signal.SIGKILL)
        for each in self._services:
            each.process.wait()
        self._services.clear()

    def check(self) -> None:
        """ServiceError if one of the services has ended."""
        for each in self._services:
            code = each.process.poll()
            if code is not None:
                raise ServiceError(f"{each.name} ended with exit code {code}. {_end_of(each.log)}")

    def poll(self, seconds: float) -> Iterator[None]:
        """Come back at once and then every second, for `seconds` at most.

        Raises:
            ServiceError: a service has ended.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.check()
            yield
            time.sleep(_POLL_SECONDS)

    def wait_for_run(self, run_id: str, seconds: float = 600.0) -> Run:
        """Wait until a run ends, in whatever state.

        Raises:
            ServiceError: a service has ended, or `seconds` passed.
        """
        for _ in self.poll(seconds):
            run = self.client.run(run_id)
            if run.ended:
                return run
        raise ServiceError(f"Run {run_id} did not end within {seconds:.0f} seconds.")

    def wait_for_backfill(self, backfill_id: str, seconds: float = 900.0) -> Backfill:
        """Wait until the daemon closes a backfill, in whatever state.

        Raises:
            ServiceError: a service has ended, or `seconds` passed.
        """
        for _ in self.poll(seconds):
            backfill = self.client.backfill(backfill_id)
            if backfill.ended:
                return backfill
        raise ServiceError(f"Backfill {backfill_id} did not end within {seconds:.0f} seconds.")

    def _daemon(self) -> list[str]:
        """The daemon's program. How often it looks at backfills is no setting, only a constant of one module."""
        if self._backfill_seconds is None:
            return [_script("dagster-daemon")]
        return [sys.executable, "-c", _QUICK_DAEMON.format(seconds=self._backfill_seconds)]

    def _launch(self, name: str, program: Sequence[str], *arguments: str) -> None:
        log = self.logs / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    *program,
                    *arguments,
                    f"--python-file={self.definitions}",
                    f"--working-directory={self.definitions.parent}",
                ],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is ours alone: we stop them in order
            )
        self._services.append(_Service(name, process, log))

    def _wait_until_ready(self, started: float, seconds: float) -> None:
        obstacle = ""
        for _ in self.poll(seconds):
            obstacle = self._obstacle(started)
            if not obstacle:
                return
        ends = "\n".join(_end_of(each.log) for each in self._services)
        raise ServiceError(f"Dagster is not ready after {seconds:.0f} seconds: {obstacle}\n{ends}")

    def _obstacle(self, started: float) -> str:
        """What is not ready yet; empty where everything is."""
        try:
            self.client.repository()
            beats = self.client.daemon_heartbeats()
        except DefinitionsError:
            raise
        except GraphQLError as error:
            return str(error)
        silent = [name for name, last in beats.items() if last < started]
        return f"no sign of life from {', '.join(silent)}." if silent else ""


def _script(name: str) -> str:
    return str(Path(sysconfig.get_path("scripts"), name))


def _create_storage(home: str) -> None:
    """Create the instance's tables: two services that begin with this at the same time stand in each other's way."""
    with DagsterInstance.from_config(home) as instance:
        instance.get_runs_count()
        instance.get_asset_keys()
        instance.all_instigator_state()


def _family(pid: int) -> list[psutil.Process]:
    """A process and all of its descendants; empty where it has ended."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _end_of(log: Path) -> str:
    return f"The end of {log}:\n{tail(log)}"
