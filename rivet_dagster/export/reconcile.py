"""Reconciliation: does the source still have the rows that are committed?"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rivet_dagster.errors import IntegrityError
from rivet_dagster.export.commit import load_window
from rivet_dagster.export.documents import WindowManifest
from rivet_dagster.export.names import window_path
from rivet_dagster.export.operations import TableExport
from rivet_dagster.export.plan import ColumnChange, Plan, Window, check_drift, column_changes
from rivet_dagster.export.planning import describe, planned_key
from rivet_dagster.export.reading import Cancellable, PatientSession, Retry
from rivet_dagster.export.retry import with_session
from rivet_dagster.export.schema import planned_columns
from rivet_dagster.export.seal import seal_in_force
from rivet_dagster.export.validate import Finding
from rivet_dagster.export.warm import warm_kernels
from rivet_dagster.export.window import ExportJob, Tally, dropped, read_pages
from rivet_dagster.sources.base import BatchLimits, Session

if TYPE_CHECKING:
    import pyarrow as pa

    from rivet_dagster.export.rowhash import RowHasher

Comparison = Literal["count", "keys", "rows"]
"""What is compared: numbers of rows; those and the values of the key's columns; or whole rows."""

CODES = {"count": "RIVET_RECONCILE_COUNT", "keys": "RIVET_RECONCILE_KEYS", "rows": "RIVET_RECONCILE_ROWS"}


@dataclass(frozen=True)
class Reconciliation:
    """What the comparison found.

    Attributes:
        table: `schema.table`.
        generation: the plan whose windows were compared.
        depth: what was compared.
        read_at: when reading began, ISO 8601 in UTC.
        read_until: when it ended. Every window is of a moment between the two, and no two need be of the same one.
        snapshot: whether all of a window was read at one moment; false for MyISAM and its like.
        windows: how many were compared.
        uncommitted: how many planned windows were not, because they are not committed.
        rows: rows of the windows compared, as committed.
        findings: windows that differ; empty where none does.
    """

    table: str
    generation: int
    depth: Comparison
    read_at: str
    read_until: str
    snapshot: bool
    windows: int
    uncommitted: int
    rows: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing differs."""
        return not self.findings

    def to_json(self) -> dict[str, object]:
        """The report as the command line prints it with `--json`."""
        return {**asdict(self), "ok": self.ok}


def plan_in_force(export: TableExport) -> Plan:
    """The plan that the seal in force is of; the newest one where nothing is sealed, or the seal is broken.

    Raises:
        PlanError: RIVET_PLAN_MISSING.
        IntegrityError: RIVET_PLAN_BROKEN.
    """
    try:
        seal = seal_in_force(export.store)
    except IntegrityError:
        seal = None
    return export.planned(seal.generation if seal else None)


def schema_changes(export: TableExport, plan: Plan) -> tuple[ColumnChange, ...]:
    """How the source's columns differ from those that the plan froze: a look at the catalog, no row is read.

    Raises:
        SourceError: the table is gone, or cannot be asked for.
    """

    def look(session: Session) -> tuple[ColumnChange, ...]:
        table = describe(session, export.config)
        return column_changes(plan, planned_columns(table, export.source.schema_of(table)))

    return with_session(export.source, export.config.limits, look)


def reconcile(
    export: TableExport,
    depth: Comparison = "keys",
    *,
    plan: Plan | None = None,
    windows: Sequence[Window] | None = None,
    workers: int = 2,
    progress: Callable[[Window], None] = lambda _: None,
) -> Reconciliation:
    """Hold the rows of the source against the windows that are committed. Nothing is written.

    `count` sees rows that came or went, not changed ones. `keys` also sees keys that were replaced by others, and
    reads the key's columns alone; without a key, and for parts without checksums of columns, it reads whole rows.
    `rows` sees everything.

    Args:
        export: the table, and where it was exported to.
        depth: what is compared.
        plan: the plan; None for the one in force.
        windows: of the plan; None for all that it lists. A plan of slices of time lists none.
        workers: how many connections read at the same time.
        progress: called with each window that was compared, by the thread that compared it.

    Raises:
        DriftError: RIVET_SCHEMA_DRIFT.
        RivetError: a window could not be read, after as many tries as an export makes.
    """
    plan = plan or plan_in_force(export)
    chosen = plan.windows if windows is None else tuple(windows)
    found = [(window, load_window(export.store, plan.generation, window.key)) for window in chosen]
    committed = [(window, manifest) for window, manifest in found if manifest is not None]
    began = _now()
    comparing = _Comparing(export, plan, depth)
    findings = comparing.run(committed, workers, progress)
    return Reconciliation(
        table=plan.head.table,
        generation=plan.generation,
        depth=comparing.depth,
        read_at=began,
        read_until=_now(),
        snapshot=comparing.job.table.snapshots,
        windows=len(committed),
        uncommitted=len(found) - len(committed),
        rows=sum(manifest.rows for _, manifest in committed),
        findings=tuple(findings[window.key] for window in chosen if window.key in findings),
    )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


@dataclass
class _Hashed:
    """Rows of a window that are hashed and forgotten."""

    job: ExportJob
    hasher: RowHasher

    def extend(self, batches: Iterator[pa.RecordBatch]) -> None:
        """Hash the rows of these batches."""
        for batch in batches:
            self.hasher.update(batch)
            del batch  # the next one is decoded only after this one is freed


class _Comparing:
    """One comparison: what is compared, by which workers."""

    def __init__(self, export: TableExport, plan: Plan, depth: Comparison) -> None:
        self.source = export.source

        def job(session: Session) -> ExportJob:
            table = describe(session, export.config)
            check_drift(plan, planned_columns(table, export.source.schema_of(table)))
            wait_s = export.governor.slot_wait_s
            return ExportJob(
                export.config, table, planned_key(table, plan), export.store, Path(), "", slot_wait_s=wait_s
            )

        self.job = with_session(export.source, export.config.limits, job)
        # Without a key, the whole row is what tells rows apart.
        self.depth: Comparison = "rows" if depth == "keys" and not self.job.key.columns else depth
        self.names = [column.name for column in self.job.table.columns]
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._running: set[Cancellable] = set()

    def run(
        self, windows: Sequence[tuple[Window, WindowManifest]], workers: int, progress: Callable[[Window], None]
    ) -> dict[str, Finding]:
        """The windows that differ, by key."""
        if self.depth != "count":
            warm_kernels(self.source)
        waiting = deque(windows)
        found: dict[str, Finding] = {}

        def work() -> None:
            with closing(_Reader(self)) as reader:
                while not self.stopped() and (next_ := _taken(waiting)) is not None:
                    finding = reader.compare(*next_)
                    if finding is not None:
                        found[finding.window] = finding
                    progress(next_[0])

        workers = max(1, min(workers, len(windows)))
        with ThreadPoolExecutor(workers, "rivet-reconcile") as pool:
            try:
                for done in as_completed([pool.submit(work) for _ in range(workers)]):
                    done.result()
            finally:
                self._cancel()
        return found

    def stopped(self) -> bool:
        """Whether the work is over, or given up."""
        return self._stop.is_set()

    def pause(self, seconds: float) -> None:
        """Wait between tries, but not longer than until a stop."""
        self._stop.wait(seconds)

    def register(self, running: Cancellable) -> None:
        """A session whose statement a stop cancels."""
        with self._lock:
            self._running.add(running)

    def forget(self, running: Cancellable) -> None:
        """It is about to be closed."""
        with self._lock:
            self._running.discard(running)

    def retried(self, retry: Retry) -> None:
        """Nobody is told."""

    def _cancel(self) -> None:
        self._stop.set()
        with self._lock:
            running = list(self._running)
        for each in running:
            each.cancel()


def _taken(waiting: deque[tuple[Window, WindowManifest]]) -> tuple[Window, WindowManifest] | None:
    try:
        return waiting.popleft()
    except IndexError:
        return None


class _Reader:
    """One worker."""

    def __init__(self, comparing: _Comparing) -> None:
        self._all = comparing
        self._job = comparing.job
        self._session = PatientSession(comparing.source, comparing.job, comparing)

    def compare(self, window: Window, manifest: WindowManifest) -> Finding | None:
        """What differs between the source and a committed window; tries again after failures that may pass."""
        try:
            return self._session.read(window, lambda session, _: self._compare(session, window, manifest))
        except Exception:
            if self._all.stopped():
                raise dropped(window) from None
            raise

    def close(self) -> None:
        """Close the connection, if there is one."""
        self._session.close()

    def _compare(self, session: Session, window: Window, manifest: WindowManifest) -> Finding | None:
        depth, job = self._all.depth, self._job
        if depth == "count":
            rows = session.count(job.table, job.key, window.span, manifest.rows + 1)
            return None if rows == manifest.rows else self._finding(manifest, rows)
        names = self._all.names
        kept = all(len(part.columns) == len(names) for part in manifest.parts)
        chosen = job.key.columns if depth == "keys" and kept else names
        numbers = [number for number, name in enumerate(names) if name in chosen]
        hasher = self._read(session, window, numbers)
        found, checksums = hasher.fingerprint, hasher.take_columns()
        committed = _checksums(manifest, len(names)) if kept else ()
        differing = tuple(
            names[number]
            for number, checksum in zip(numbers, checksums, strict=True)
            if committed and checksum != committed[number]
        )
        whole = len(numbers) == len(names)
        same = str(found) == manifest.row_fingerprint if whole else not differing
        if found.rows == manifest.rows and same:
            return None
        # Where rows came or went every column differs, which says nothing.
        return self._finding(manifest, found.rows, differing if found.rows == manifest.rows else ())

    def _read(self, session: Session, window: Window, numbers: Sequence[int]) -> RowHasher:
        """The window's rows, of these columns alone."""
        from rivet_dagster.export.rowhash import RowHasher  # noqa: PLC0415 (numba is paid for when reading begins)

        table = self._job.table
        narrow = replace(table, columns=tuple(table.columns[number] for number in numbers))
        limits = BatchLimits(wire_bytes=self._job.config.format.row_group_bytes)
        with session.open_window(narrow, self._job.key, limits) as reader:
            rows = _Hashed(self._job, RowHasher(reader.schema, numbers))
            read_pages(reader, window, self._session.servo, rows, Tally(), self._all.stopped)
            rows.extend(reader.finish())
        return rows.hasher

    def _finding(self, manifest: WindowManifest, rows: int, columns: tuple[str, ...] = ()) -> Finding:
        depth = self._all.depth
        if rows == manifest.rows:
            what = f"other values in {', '.join(columns)}" if columns else "the same values in other rows"
        else:
            # Counting ends where it is certain that there are more.
            what = f"more than {manifest.rows}" if depth == "count" and rows > manifest.rows else str(rows)
            what = f"{what} rows, not {manifest.rows}"
        path = window_path(manifest.generation, manifest.key)
        what = f"the source has {what} (exported as of {manifest.read_at})"
        return Finding(CODES[depth], manifest.key, path, what, columns)


def _checksums(manifest: WindowManifest, columns: int) -> tuple[str, ...]:
    """Checksums of a window's columns."""
    from rivet_dagster.export.rowhash import add_columns  # noqa: PLC0415

    return add_columns(part.columns for part in manifest.parts) or (f"{0:016x}",) * columns
