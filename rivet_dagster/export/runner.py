"""Threads that hand windows to workers, and nothing else: what a window is, and how it commits, is below.

When a window may begin is for a `Pace` to say.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from rivet_dagster.errors import InterruptedExport, RivetError
from rivet_dagster.export.plan import Window
from rivet_dagster.export.reading import Cancellable, Retry
from rivet_dagster.export.window import dropped
from rivet_dagster.export.workers import MakeWorker, WindowOutcome, Worker

_JOIN_SECONDS = 20.0
# How often a worker that waits for its outcome to be taken looks whether a stop was asked for.
_LOOK_SECONDS = 0.2


class Pace(Protocol):
    """Says when a window may begin."""

    def lease(self, rest: Callable[[], None], stopped: Callable[[], bool]) -> bool:
        """Wait for leave to begin a window, after `rest` where it takes time; false once `stopped` says so."""
        ...

    def release(self) -> None:
        """The window has ended."""
        ...


class Watcher(Protocol):
    """Who is told of every window: the journal. Called by the workers' threads."""

    def ended(self, outcome: WindowOutcome) -> None:
        """A window ended."""
        ...

    def retried(self, retry: Retry) -> None:
        """A window is tried again."""
        ...


class WindowRun:
    """Windows being exported by up to `workers` connections; iterating gives each outcome as soon as it is known.

    A context manager: leaving it stops what still runs. A window that fails does not stop the others, unless its
    error says that none can succeed. Workers wait until their outcomes are taken, so that what is committed is
    reported before more is read.
    """

    def __init__(
        self,
        make_worker: MakeWorker,
        windows: Sequence[Window],
        workers: int,
        pace: Pace | None = None,
        watcher: Watcher | None = None,
    ) -> None:
        self._make_worker = make_worker
        self._pace = pace
        self._watcher = watcher
        self._expected = len(windows)
        self._waiting = deque(windows)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._running: set[Cancellable] = set()
        self._fatal: RivetError | None = None
        workers = min(workers, len(windows))
        self._outcomes = _Outcomes(max(workers, 1))
        self._threads = [
            threading.Thread(target=self._work, name=f"rivet-{number}", daemon=True) for number in range(workers)
        ]

    def __enter__(self) -> WindowRun:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __iter__(self) -> Iterator[WindowOutcome]:
        for _ in range(self._expected):
            yield self._outcomes.first()
            self._outcomes.drop_first()

    def stop(self) -> list[WindowOutcome]:
        """No new window begins, running statements are cancelled on the server, threads are joined.

        Returns:
            Outcomes that nobody took, and the one that was being looked at when the iteration was left: windows
            among them may be committed and should be reported still.
        """
        self._stop.set()
        self._cancel()
        for thread in self._threads:
            thread.join(_JOIN_SECONDS)
        return self._outcomes.left()

    def abort(self, error: RivetError) -> None:
        """Nothing may be read any more: running statements are cancelled, and every window left fails with `error`."""
        self._fatal = self._fatal or error
        self._cancel()

    def _cancel(self) -> None:
        with self._lock:
            running = list(self._running)
        for each in running:
            each.cancel()

    def _work(self) -> None:
        try:
            self._export_windows()
        except Exception as exc:  # noqa: BLE001 (a defect: perhaps nobody is left who would export the other windows)
            while (window := self._next()) is not None:
                self._outcomes.add(WindowOutcome(window, error=exc), self._stop)

    def _export_windows(self) -> None:
        worker = self._make_worker(self)
        try:
            while self._waiting and not self._stop.is_set():
                outcome = self._led(worker)
                if outcome is None:
                    return
                self._outcomes.add(outcome, self._stop)
                if self._watcher is not None:
                    self._watcher.ended(outcome)
        finally:
            worker.disconnect()

    def _led(self, worker: Worker) -> WindowOutcome | None:
        """The next window's outcome, once it may begin; None where none is left, or a stop was asked for."""
        leave = self._pace is None or self._pace.lease(worker.rest, self.stopped)
        try:
            # Without leave, the windows that are left are only told why they fail.
            window = None if self._stop.is_set() else self._next()
            return None if window is None else self._outcome(worker, window)
        finally:
            if leave and self._pace is not None:
                self._pace.release()

    def _next(self) -> Window | None:
        try:
            return self._waiting.popleft()
        except IndexError:
            return None

    def _outcome(self, worker: Worker, window: Window) -> WindowOutcome:
        if self._fatal is not None:
            return WindowOutcome(window, error=self._fatal)
        try:
            return worker.export(window)
        except Exception as exc:  # noqa: BLE001 (a defect in one window must be reported, not hang the others)
            return WindowOutcome(window, error=self._cause(window, exc))

    def _cause(self, window: Window, exc: Exception) -> Exception:
        """What to report: a window that was only dropped failed for the reason that it was dropped for."""
        if isinstance(exc, RivetError) and exc.fatal:
            self._fatal = exc
        elif self._fatal is not None and (isinstance(exc, InterruptedExport) or self._is_cancelled(exc)):
            return self._fatal
        elif self._stop.is_set():
            # Also a cancelled statement, which the server reports like one that took too long.
            return dropped(window)
        return exc

    def _is_cancelled(self, exc: Exception) -> bool:
        """Whether it may be what the server says of a statement that was cancelled."""
        return isinstance(exc, RivetError) and exc.retryable

    def stopped(self) -> bool:
        """Whether a stop was asked for, or no window can succeed."""
        return self._stop.is_set() or self._fatal is not None

    def pause(self, seconds: float) -> None:
        """Wait between tries, but not longer than until a stop."""
        self._stop.wait(seconds)

    def retried(self, retry: Retry) -> None:
        """A window is about to be tried again."""
        if self._watcher is not None:
            self._watcher.retried(retry)

    def register(self, running: Cancellable) -> None:
        """Make something known, so that a stop can cancel its statement."""
        with self._lock:
            self._running.add(running)

    def forget(self, running: Cancellable) -> None:
        """It is about to be closed."""
        with self._lock:
            self._running.discard(running)


class _Outcomes:
    """Outcomes on their way from workers to whoever iterates over the run.

    One is dropped only when the next one is asked for: whoever is interrupted while looking at it finds it again.
    """

    def __init__(self, room: int) -> None:
        self._room = room + 1  # one is being looked at
        self._waiting: deque[WindowOutcome] = deque()
        self._changed = threading.Condition()

    def add(self, outcome: WindowOutcome, stopped: threading.Event) -> None:
        """Add one as soon as there is room, or at once after a stop."""
        with self._changed:
            while len(self._waiting) >= self._room and not stopped.is_set():
                self._changed.wait(_LOOK_SECONDS)
            self._waiting.append(outcome)
            self._changed.notify_all()

    def first(self) -> WindowOutcome:
        """The oldest one; waits until there is one."""
        with self._changed:
            while not self._waiting:
                self._changed.wait()
            return self._waiting[0]

    def drop_first(self) -> None:
        """Forget the oldest one."""
        with self._changed:
            self._waiting.popleft()
            self._changed.notify_all()

    def left(self) -> list[WindowOutcome]:
        """All that were not dropped."""
        with self._changed:
            return list(self._waiting)
