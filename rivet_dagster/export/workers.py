"""What exports windows one after another: a connection of this process."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from rivet_dagster.errors import RivetError
from rivet_dagster.export.commit import load_window
from rivet_dagster.export.documents import WindowManifest
from rivet_dagster.export.memory import MemoryGate
from rivet_dagster.export.plan import Window
from rivet_dagster.export.retry import pause_seconds
from rivet_dagster.export.servo import PageServo
from rivet_dagster.export.window import ExportJob, export_window
from rivet_dagster.formats import FORMATS, format_of
from rivet_dagster.sources.base import PageTooLarge, Session, Source

_CONFLICT = "RIVET_SOURCE_CONFLICT"
SLOTS = "RIVET_SOURCE_SLOTS"
# Seconds between two looks for a free slot: each costs the server a connection.
_SLOT_PAUSES = (0.3, 1.2)


@dataclass(frozen=True)
class WindowOutcome:
    """How a window ended: with its manifest, or with an error.

    Attributes:
        window: which one.
        manifest: as committed; None if it failed.
        error: why it failed; None if it did not.
        reused: it was found committed by an earlier try of the same work and not read again.
        conflicts: tries that a standby ended because it had changes to replay.
        deaths: worker processes that died over it.
    """

    window: Window
    manifest: WindowManifest | None = None
    error: Exception | None = None
    reused: bool = False
    conflicts: int = 0
    deaths: int = 0


@dataclass(frozen=True)
class Retry:
    """A window that is tried again.

    Attributes:
        window: its key.
        attempt: the try that failed.
        code: of the failure.
        pause_s: seconds until the next try.
    """

    window: str
    attempt: int
    code: str
    pause_s: float


class Cancellable(Protocol):
    """Something whose running statement another thread may end."""

    def cancel(self) -> None:
        """Ask the server to end it."""
        ...


class Control(Protocol):
    """What a worker hears from whoever runs it."""

    def stopped(self) -> bool:
        """Whether a stop was asked for, or no window can succeed."""
        ...

    def pause(self, seconds: float) -> None:
        """Wait between tries, but not longer than until a stop."""
        ...

    def register(self, running: Cancellable) -> None:
        """Make something known, so that a stop can cancel its statement."""
        ...

    def forget(self, running: Cancellable) -> None:
        """It is about to be closed."""
        ...

    def retried(self, retry: Retry) -> None:
        """A window failed, or found no slot, and is about to be tried again."""
        ...


class Worker(Protocol):
    """Exports windows, one at a time."""

    def export(self, window: Window) -> WindowOutcome:
        """Export one window, trying again after failures that may pass; raises what ended the last try."""
        ...

    def rest(self) -> None:
        """Hold no connection while nothing is to be read; another window may follow."""
        ...

    def disconnect(self) -> None:
        """Give up what it holds."""
        ...


MakeWorker = Callable[[Control], Worker]


class SessionWorker:
    """A connection of this process, and the page size that it has learnt."""

    def __init__(self, source: Source, job: ExportJob, control: Control) -> None:
        self._source = source
        self._job = job
        self._control = control
        self._session: Session | None = None
        limits = job.config.limits
        self._servo = PageServo(
            limits.page_bytes,
            limits.page_seconds,
            job.table.average_row_bytes,
            unbounded=any(column.unbounded for column in job.table.columns),
        )
        self._memory = MemoryGate(job.memory_bytes)

    def export(self, window: Window) -> WindowOutcome:
        """Export one window, trying again after failures that may pass."""
        done = load_window(self._job.store, window.generation, window.key)
        if done is not None and is_same_work(done, self._job, window):
            return WindowOutcome(window, done, reused=True)
        limits = self._job.config.limits
        conflicts, attempt = 0, 1
        waiting_since: float | None = None
        while True:
            try:
                manifest = export_window(
                    self._connected(),
                    self._job,
                    window,
                    self._servo,
                    attempt=attempt,
                    stopped=self._control.stopped,
                    memory=self._memory,
                )
                self._servo.relax()
                return WindowOutcome(window, manifest, conflicts=conflicts)
            except Exception as exc:
                # Whatever state the connection is in, the next try begins with a new one.
                self.disconnect()
                code = exc.code if isinstance(exc, RivetError) else ""
                if isinstance(exc, PageTooLarge) and not self._control.stopped():
                    # Each time the page is smaller, and nothing is wrong with the source: at once, and no attempt.
                    self._servo.overflow(exc.rows)
                    self._pause(Retry(window.key, attempt, code, 0.0))
                    continue
                if code == SLOTS:
                    # Whoever waits for a slot has not tried anything yet.
                    waiting_since = self._wait_for_slot(exc, window, attempt, waiting_since)
                    continue
                retryable = isinstance(exc, RivetError) and exc.retryable
                if not retryable or attempt == limits.attempts or self._control.stopped():
                    raise
                if code in ("RIVET_SOURCE_TIMEOUT", _CONFLICT):
                    self._servo.shrink()
                    conflicts += code == _CONFLICT
                self._pause(Retry(window.key, attempt, code, pause_seconds(limits, attempt)))
                attempt += 1

    def _wait_for_slot(self, exc: Exception, window: Window, attempt: int, since: float | None) -> float:
        """Wait a moment without a connection; says since when. Raises `exc` once it is too long."""
        now = time.monotonic()
        if self._control.stopped() or (since is not None and now - since > self._job.slot_wait_s):
            raise exc
        pause = slot_pause_seconds()
        if since is None:
            self._control.retried(Retry(window.key, attempt, SLOTS, pause))
        self._control.pause(pause)
        return now if since is None else since

    def _pause(self, retry: Retry) -> None:
        self._control.retried(retry)
        self._control.pause(retry.pause_s)

    def rest(self) -> None:
        """Hold no connection while nothing is to be read."""
        self.disconnect()

    def _connected(self) -> Session:
        if self._session is None:
            self._session = self._source.connect()
            self._control.register(self._session)
        return self._session

    def disconnect(self) -> None:
        """Close the connection, if there is one."""
        if self._session is not None:
            self._control.forget(self._session)
            self._session.close()
            self._session = None


def slot_pause_seconds() -> float:
    """Seconds until the next look for a free slot; with jitter, so that those who wait do not come together."""
    return random.uniform(*_SLOT_PAUSES)  # noqa: S311


def is_same_work(manifest: WindowManifest, job: ExportJob, window: Window) -> bool:
    """Whether a committed window is the very one that this work would read."""
    return (
        manifest.work_id == job.work_id
        and window.has_bounds_of(manifest)
        and manifest.table == job.table.label
        and all(format_of(part.path) is FORMATS[job.config.format.type] for part in manifest.parts)
    )
