"""Workers that are processes of their own: one that dies takes no other with it, and its window is tried again.

A child is this package's `export.child` module, with pickles on its standard input and output. Nothing is inherited
but the environment: it opens its own connections and its own store, and is told the source's address on the pipe, so
that it is in no list of processes.
"""

from __future__ import annotations

import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, cast

from rivet_dagster.errors import RivetError
from rivet_dagster.export.config import ExportConfig
from rivet_dagster.export.plan import Window
from rivet_dagster.export.reading import Control, Retry
from rivet_dagster.export.retry import pause_seconds
from rivet_dagster.export.window import ExportJob, dropped
from rivet_dagster.export.workers import WindowOutcome
from rivet_dagster.sources import SourceLimits
from rivet_dagster.sources.base import Key, Table
from rivet_dagster.stores.base import Store

_LENGTH = struct.Struct("<I")
_LEAVE_SECONDS = 5.0
CANCEL = "cancel"
REST = "rest"


@dataclass(frozen=True)
class Setup:
    """What a child must know before its first window.

    Attributes:
        address: of the source, with its password.
        limits: of its sessions.
        folder: address of the export's folder.
        config: what the user asked for.
        table: the table, as described when the work began.
        key: the planned key.
        spool: local folder for growing parts.
        work_id: what several tries of the same work share.
        memory_bytes: resident memory of the child above which its pages wait a moment; None for the usual share.
        slot_wait_s: how long a window waits for one of the source's slots.
    """

    address: str = field(repr=False)
    limits: SourceLimits
    folder: str
    config: ExportConfig
    table: Table
    key: Key
    spool: Path
    work_id: str
    memory_bytes: int | None = None
    slot_wait_s: float = 3600.0

    def job(self, store: Store) -> ExportJob:
        """What the child's windows share."""
        return ExportJob(
            self.config,
            self.table,
            self.key,
            store,
            self.spool,
            self.work_id,
            memory_bytes=self.memory_bytes,
            slot_wait_s=self.slot_wait_s,
        )


def write_frame(stream: IO[bytes], value: object) -> None:
    """Send one value."""
    data = pickle.dumps(value)
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def read_frame(stream: IO[bytes]) -> Any:
    """Receive one value; EOFError where the other side is gone."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (size,) = _LENGTH.unpack(head)
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return pickle.loads(data)  # noqa: S301 (from the other end of a private pipe)


class _Child:
    """A running child process."""

    def __init__(self, setup: Setup) -> None:
        paths = [path for path in sys.path if path]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rivet_dagster.export.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            # A signal for the group of this process is for this process to hand on.
            start_new_session=True,
        )
        self._sending = threading.Lock()
        self._send(setup)

    def _send(self, value: object) -> None:
        with self._sending:
            write_frame(cast("IO[bytes]", self._process.stdin), value)

    def export(self, window: Window, retried: Callable[[Retry], None]) -> WindowOutcome:
        """Have one window exported; OSError or EOFError where the child dies over it, else what it raised."""
        self._send(window)
        found = read_frame(cast("IO[bytes]", self._process.stdout))
        while isinstance(found, Retry):
            retried(found)
            found = read_frame(cast("IO[bytes]", self._process.stdout))
        if isinstance(found, Exception):
            raise found
        assert isinstance(found, WindowOutcome)
        return found

    def rest(self) -> None:
        """Ask it to hold no connection until the next window."""
        with suppress(OSError, ValueError):
            self._send(REST)

    def cancel(self) -> None:
        """Ask it to end its statement and to drop its window."""
        with suppress(OSError, ValueError):
            self._send(CANCEL)

    def leave(self) -> str:
        """Let it end, by force if it does not; says how it ended."""
        with suppress(OSError):
            cast("IO[bytes]", self._process.stdin).close()
        try:
            code = self._process.wait(_LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        cast("IO[bytes]", self._process.stdout).close()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


class ProcessWorker:
    """Exports windows in a child process, and in another one where it dies."""

    def __init__(self, setup: Setup, control: Control) -> None:
        self._setup = setup
        self._control = control
        self._child: _Child | None = None

    def export(self, window: Window) -> WindowOutcome:
        """Export one window; after a child's death again, as often as a window may be tried."""
        limits = self._setup.config.limits
        for attempt in range(1, limits.attempts + 1):
            try:
                outcome = self._started().export(window, self._control.retried)
            except (OSError, EOFError):
                ended = self._leave()
                if self._control.stopped():
                    raise dropped(window) from None
                if attempt == limits.attempts:
                    raise _died(window, ended, attempt) from None
                pause = pause_seconds(limits, attempt)
                self._control.retried(Retry(window.key, attempt, "RIVET_WORKER_DIED", pause))
                self._control.pause(pause)
            else:
                return replace(outcome, deaths=attempt - 1)
        raise AssertionError("the last attempt returns or raises")

    def _started(self) -> _Child:
        if self._child is None:
            self._child = _Child(self._setup)
            self._control.register(self)
        return self._child

    def rest(self) -> None:
        """Let the child hold no connection while nothing is to be read."""
        if self._child is not None:
            self._child.rest()

    def cancel(self) -> None:
        """Ask the child to end its statement."""
        if self._child is not None:
            self._child.cancel()

    def disconnect(self) -> None:
        """End the child, if there is one."""
        self._leave()

    def _leave(self) -> str:
        child, self._child = self._child, None
        if child is None:
            return "no process"
        self._control.forget(self)
        return child.leave()


def _died(window: Window, ended: str, times: int) -> RivetError:
    return RivetError(
        "RIVET_WORKER_DIED",
        f"The process that exported window {window.key} died {times} times, the last time with {ended}.",
        "Look for a lack of memory on this machine (SIGKILL), then export the window again.",
    )
