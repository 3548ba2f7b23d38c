"""What exports windows one after another: a connection of this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from rivet_dagster.export.commit import load_window
from rivet_dagster.export.documents import WindowManifest
from rivet_dagster.export.memory import MemoryGate
from rivet_dagster.export.plan import Window
from rivet_dagster.export.reading import Control, PatientSession
from rivet_dagster.export.window import ExportJob, export_window
from rivet_dagster.formats import FORMATS, format_of
from rivet_dagster.sources.base import Session, Source


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
    """Reads over a connection of this process."""

    def __init__(self, source: Source, job: ExportJob, control: Control) -> None:
        self._job = job
        self._control = control
        self._session = PatientSession(source, job, control)
        self._memory = MemoryGate(job.memory_bytes)

    def export(self, window: Window) -> WindowOutcome:
        """Export one window, trying again after failures that may pass."""
        done = load_window(self._job.store, window.generation, window.key)
        if done is not None and is_same_work(done, self._job, window):
            return WindowOutcome(window, done, reused=True)

        def once(session: Session, attempt: int) -> WindowManifest:
            return export_window(
                session,
                self._job,
                window,
                self._session.servo,
                attempt=attempt,
                stopped=self._control.stopped,
                memory=self._memory,
            )

        manifest = self._session.read(window, once)
        return WindowOutcome(window, manifest, conflicts=self._session.conflicts)

    def rest(self) -> None:
        """Hold no connection while nothing is to be read."""
        self._session.close()

    def disconnect(self) -> None:
        """Close the connection, if there is one."""
        self._session.close()


def is_same_work(manifest: WindowManifest, job: ExportJob, window: Window) -> bool:
    """Whether a committed window is the very one that this work would read."""
    return (
        manifest.work_id == job.work_id
        and window.has_bounds_of(manifest)
        and manifest.table == job.table.label
        and all(format_of(part.path) is FORMATS[job.config.format.type] for part in manifest.parts)
    )
