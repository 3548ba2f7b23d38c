"""One worker's connection: opened when a window is to be read, opened anew after failures that may pass."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from rivet_dagster.errors import RivetError
from rivet_dagster.export.plan import Window
from rivet_dagster.export.retry import pause_seconds
from rivet_dagster.export.servo import PageServo
from rivet_dagster.export.window import ExportJob
from rivet_dagster.sources.base import PageTooLarge, Session, Source

SLOTS: Final = "RIVET_SOURCE_SLOTS"
_CONFLICT = "RIVET_SOURCE_CONFLICT"
_TIMEOUT = "RIVET_SOURCE_TIMEOUT"
# After these, what was to be tried has not been yet.
_NO_TRIES = frozenset({SLOTS, "RIVET_PAGE_TOO_LARGE"})
# Seconds between two looks for a free slot: each costs the server a connection. With jitter, so that those who wait do
# not come together.
_SLOT_PAUSES = (0.3, 1.2)

T = TypeVar("T")


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


class PatientSession:
    """A connection, the page size that it has learnt, and how often a window is tried.

    Args:
        source: where to connect.
        job: what all windows share.
        control: of whoever runs this.

    Attributes:
        servo: sizes the pages.
        conflicts: tries of the window read last that a standby ended because it had changes to replay.
    """

    def __init__(self, source: Source, job: ExportJob, control: Control) -> None:
        self._source = source
        self._job = job
        self._control = control
        self._session: Session | None = None
        self._waiting_since: float | None = None
        limits, table = job.config.limits, job.table
        self.servo = PageServo(
            limits.page_bytes,
            limits.page_seconds,
            table.average_row_bytes,
            unbounded=any(column.unbounded for column in table.columns),
        )
        self.conflicts = 0

    def read(self, window: Window, once: Callable[[Session, int], T]) -> T:
        """What `once` gives of a session and the number of the try; again after failures that may pass.

        A page that is too large, and waiting for a slot, are no tries.

        Raises:
            Exception: what ended the last try.
        """
        self.conflicts, attempt, self._waiting_since = 0, 1, None
        while True:
            try:
                value = once(self._connected(), attempt)
            except Exception as exc:
                # Whatever state the connection is in, the next try begins with a new one.
                self.close()
                has_waited = self._waiting_since is not None
                retry = self._next(exc, window, attempt)
                if retry is None:
                    raise
            else:
                self.servo.relax()
                return value
            if retry.code != SLOTS or not has_waited:
                self._control.retried(retry)
            self._control.pause(retry.pause_s)
            attempt += retry.code not in _NO_TRIES

    def _next(self, exc: Exception, window: Window, attempt: int) -> Retry | None:
        """What follows a failure; None where that try was the last."""
        limits = self._job.config.limits
        if not isinstance(exc, RivetError) or self._control.stopped():
            return None
        if exc.code == SLOTS:
            return self._wait_for_slot(window, attempt)
        self._waiting_since = None
        if isinstance(exc, PageTooLarge):
            # Each time the page is smaller, and nothing is wrong with the source.
            self.servo.overflow(exc.rows)
            return Retry(window.key, attempt, exc.code, 0.0)
        if not exc.retryable or attempt >= limits.attempts:
            return None
        if exc.code in (_TIMEOUT, _CONFLICT):
            self.servo.shrink()
            self.conflicts += exc.code == _CONFLICT
        return Retry(window.key, attempt, exc.code, pause_seconds(limits, attempt))

    def _wait_for_slot(self, window: Window, attempt: int) -> Retry | None:
        """Look again in a moment, for as long as the user has patience."""
        now = time.monotonic()
        if self._waiting_since is None:
            self._waiting_since = now
        elif now - self._waiting_since > self._job.slot_wait_s:
            return None
        return Retry(window.key, attempt, SLOTS, random.uniform(*_SLOT_PAUSES))  # noqa: S311

    def _connected(self) -> Session:
        if self._session is None:
            self._session = self._source.connect()
            self._control.register(self._session)
        return self._session

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._session is not None:
            self._control.forget(self._session)
            self._session.close()
            self._session = None
