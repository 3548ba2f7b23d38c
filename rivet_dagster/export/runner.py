"""Worker threads that export windows, and nothing else: what a window is, and how it commits, is below."""

from __future__ import annotations

import queue
import random
import threading
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

from rivet_dagster.errors import InterruptedExport, RivetError
from rivet_dagster.export.commit import load_window
from rivet_dagster.export.documents import WindowManifest
from rivet_dagster.export.plan import Window
from rivet_dagster.export.servo import PageServo
from rivet_dagster.export.window import ExportJob, export_window
from rivet_dagster.sources.base import Session, Source

_JOIN_SECONDS = 20.0
_LONGEST_PAUSE_S = 30.0


@dataclass(frozen=True)
class WindowOutcome:
    """How a window ended: with its manifest, or with an error.

    Attributes:
        window: which one.
        manifest: as committed; None if it failed.
        error: why it failed; None if it did not.
        reused: it was found committed by an earlier try of the same work and not read again.
    """

    window: Window
    manifest: WindowManifest | None = None
    error: Exception | None = None
    reused: bool = False


def run_windows(
    source: Source, job: ExportJob, windows: Sequence[Window], workers: int
) -> Generator[WindowOutcome, None, None]:
    """Export windows with up to `workers` connections; gives each outcome as soon as it is known.

    A window that fails does not stop the others, unless its error says that none can succeed. Closing the
    generator stops: no new window begins, running statements are cancelled on the server, threads are joined.
    """
    pool = _Pool(source, job, windows)
    with closing(pool):
        pool.start(min(workers, len(windows)))
        for _ in windows:
            outcome = pool.outcomes.get()
            if outcome is None:
                return
            yield outcome


class _Pool:
    def __init__(self, source: Source, job: ExportJob, windows: Sequence[Window]) -> None:
        self.outcomes: queue.SimpleQueue[WindowOutcome | None] = queue.SimpleQueue()
        self._source = source
        self._job = job
        self._waiting = deque(windows)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._sessions: set[Session] = set()
        self._threads: list[threading.Thread] = []
        self._fatal: RivetError | None = None

    def start(self, workers: int) -> None:
        """Start the worker threads."""
        for number in range(workers):
            thread = threading.Thread(target=self._work, name=f"rivet-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """Stop and join; connections are closed by the threads that own them."""
        self._stop.set()
        with self._lock:
            running = list(self._sessions)
        for session in running:
            session.cancel()
        for thread in self._threads:
            thread.join(_JOIN_SECONDS)

    def _work(self) -> None:
        worker = _Worker(self._source, self._job, self)
        try:
            while not self._stop.is_set() and (window := self._next()) is not None:
                self.outcomes.put(self._outcome(worker, window))
        finally:
            worker.disconnect()

    def _next(self) -> Window | None:
        try:
            return self._waiting.popleft()
        except IndexError:
            return None

    def _outcome(self, worker: _Worker, window: Window) -> WindowOutcome:
        if self._fatal is not None:
            return WindowOutcome(window, error=self._fatal)
        try:
            return worker.export(window)
        except RivetError as exc:
            if exc.fatal:
                self._fatal = exc
            return WindowOutcome(window, error=exc)
        except Exception as exc:  # noqa: BLE001 (a defect in one window must be reported, not hang the others)
            return WindowOutcome(window, error=exc)

    def stopped(self) -> bool:
        """Whether a stop was asked for, or no window can succeed."""
        return self._stop.is_set() or self._fatal is not None

    def pause(self, seconds: float) -> None:
        """Wait between tries, but not longer than until a stop."""
        self._stop.wait(seconds)

    def register(self, session: Session) -> None:
        """Make a session known, so that a stop can cancel its statement."""
        with self._lock:
            self._sessions.add(session)

    def forget(self, session: Session) -> None:
        """The session is about to be closed."""
        with self._lock:
            self._sessions.discard(session)


class _Worker:
    """One thread's connection, and the page size that it has learnt."""

    def __init__(self, source: Source, job: ExportJob, pool: _Pool) -> None:
        self._source = source
        self._job = job
        self._pool = pool
        self._session: Session | None = None
        limits = job.config.limits
        self._servo = PageServo(limits.page_bytes, limits.page_seconds, job.table.average_row_bytes)

    def export(self, window: Window) -> WindowOutcome:
        """Export one window, trying again after failures that may pass."""
        done = load_window(self._job.store, window.generation, window.index)
        if done is not None and is_same_work(done, self._job, window):
            return WindowOutcome(window, done, reused=True)
        limits = self._job.config.limits
        for attempt in range(1, limits.attempts + 1):
            try:
                manifest = export_window(
                    self._connected(),
                    self._job,
                    window,
                    self._servo,
                    attempt=attempt,
                    stopped=self._pool.stopped,
                )
                return WindowOutcome(window, manifest)
            except InterruptedExport:
                self.disconnect()
                raise
            except RivetError as exc:
                # Whatever state the connection is in, the next try begins with a new one.
                self.disconnect()
                if not exc.retryable or attempt == limits.attempts or self._pool.stopped():
                    raise
                if exc.code == "RIVET_SOURCE_TIMEOUT":
                    self._servo.shrink()
                self._pool.pause(_pause(limits.retry_seconds, attempt))
        raise AssertionError("the last attempt returns or raises")

    def _connected(self) -> Session:
        if self._session is None:
            self._session = self._source.connect()
            self._pool.register(self._session)
        return self._session

    def disconnect(self) -> None:
        """Close the connection, if there is one."""
        if self._session is not None:
            self._pool.forget(self._session)
            self._session.close()
            self._session = None


def is_same_work(manifest: WindowManifest, job: ExportJob, window: Window) -> bool:
    """Whether a committed window is the very one that this work would read."""
    return (
        manifest.work_id == job.work_id
        and manifest.lo == window.span.lo
        and manifest.hi == window.span.hi
        and manifest.table == job.table.label
    )


def _pause(first: float, attempt: int) -> float:
    """Seconds before the next try: doubling, with jitter so that workers do not come back together."""
    return min(first * 2.0 ** (attempt - 1), _LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)  # noqa: S311
