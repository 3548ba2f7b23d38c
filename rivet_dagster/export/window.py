"""Exporting one window: pages from one snapshot into spooled parts, then the commit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rivet_dagster.errors import InterruptedExport, SourceError, StoreError
from rivet_dagster.export.commit import SpooledPart, commit_window, spooled
from rivet_dagster.export.config import ExportConfig
from rivet_dagster.export.documents import ReadStatistics, Replacement, WindowManifest, schema_fingerprint
from rivet_dagster.export.faults import fault_point
from rivet_dagster.export.memory import MemoryGate
from rivet_dagster.export.names import window_path, window_stem
from rivet_dagster.export.plan import Window
from rivet_dagster.export.schema import planned_columns
from rivet_dagster.export.servo import PageServo
from rivet_dagster.formats import FORMATS, PartWriter
from rivet_dagster.sources.base import BatchLimits, Key, Page, Session, Table, WindowReader
from rivet_dagster.stores.base import Store

if TYPE_CHECKING:
    import pyarrow as pa

    from rivet_dagster.export.rowhash import RowHasher


@dataclass(frozen=True)
class ExportJob:
    """What all windows of one export share.

    Attributes:
        config: what the user asked for.
        table: the table, as described when the work began.
        key: the planned key.
        store: the export's folder.
        spool: local folder for growing parts.
        work_id: what several tries of the same work share.
        memory_bytes: resident memory of a process above which pages wait a moment; None for the usual share.
        slot_wait_s: how long a window waits for one of the source's slots.
    """

    config: ExportConfig
    table: Table
    key: Key
    store: Store
    spool: Path
    work_id: str
    memory_bytes: int | None = None
    slot_wait_s: float = 3600.0


class RowSink(Protocol):
    """Where the rows of a window go."""

    job: ExportJob

    def extend(self, batches: Iterator[pa.RecordBatch]) -> None:
        """Take these batches, and let go of each before the next."""
        ...


@dataclass
class Tally:
    """What reading a window asked of the source, and took here, so far.

    Attributes:
        memory: of this process; None where nobody looks at it.
    """

    pages: int = 0
    wire_bytes: int = 0
    largest: int = 0
    longest: float = 0.0
    peak_memory: int = 0
    memory: MemoryGate | None = None

    def add(self, page: Page) -> None:
        """Count a page."""
        self.pages += page.rows > 0 or page.running_s > 0
        self.wire_bytes += page.wire_bytes
        self.largest = max(self.largest, page.wire_bytes)
        self.longest = max(self.longest, page.seconds, page.running_s)

    def between_pages(self) -> None:
        """Look at this process's memory, and give some back where it is short."""
        if self.memory is not None:
            self.peak_memory = max(self.peak_memory, self.memory.between_pages())


@dataclass
class PartFiles:
    """The parts of one window, growing in the spool. A part is closed by the row group that reaches its size."""

    job: ExportJob
    stem: str
    hasher: RowHasher
    closed: list[SpooledPart] = field(default_factory=list)

    def __post_init__(self) -> None:
        chosen = self.job.config.format
        self.suffix = FORMATS[chosen.type].suffix_of(chosen.compression)
        self._open: PartWriter | None = None

    def extend(self, batches: Iterator[pa.RecordBatch]) -> None:
        """Append batches, each as a row group, and hash their rows.

        Raises:
            StoreError: RIVET_SPOOL_FULL.
        """
        with _spool_errors(self.job):
            for batch in batches:
                self._write(batch)
                del batch  # the next one is decoded only after this one is freed

    def _write(self, batch: pa.RecordBatch) -> None:
        chosen = self.job.config.format
        if self._open is None:
            self._open = FORMATS[chosen.type].open(self._path, batch, **chosen.options)
        self._open.write(batch)
        self.hasher.update(batch)
        if self._open.bytes_written >= chosen.part_bytes:
            self._close()

    @property
    def _path(self) -> Path:
        return self.job.spool / f"{self.stem}-{len(self.closed):05d}.{self.suffix}"

    def close(self) -> None:
        """Complete the part that is open, if any; errors as in `extend`."""
        with _spool_errors(self.job):
            self._close()

    def _close(self) -> None:
        if self._open is not None:
            self._open.close()
            self.closed.append(spooled(self._path, self._open.rows, self.hasher.take_columns()))
            self._open = None

    def discard(self) -> None:
        """Remove every spool file of the window."""
        if self._open is not None:
            self._open.abandon()
            self._open = None
        for path in self.job.spool.glob(f"{self.stem}-*"):
            path.unlink(missing_ok=True)


def export_window(
    session: Session,
    job: ExportJob,
    window: Window,
    servo: PageServo,
    *,
    attempt: int = 1,
    stopped: Callable[[], bool] = lambda: False,
    memory: MemoryGate | None = None,
) -> WindowManifest:
    """Read one window and commit it.

    Args:
        session: the connection to read with.
        job: what all windows share.
        window: what to read.
        servo: sizes the pages; keeps what it learns for the next window.
        attempt: which try this is.
        stopped: asked between pages; once true, the window is dropped.
        memory: of this process, looked at between pages.

    Returns:
        The committed manifest.

    Raises:
        InterruptedExport: `stopped` said so; nothing was committed.
        SourceError, StoreError: nothing was committed by this.
    """
    from rivet_dagster.export.rowhash import RowHasher  # noqa: PLC0415 (numba is paid for when reading begins)

    began = time.monotonic()
    read_at = datetime.now(timezone.utc)
    tally = Tally(memory=memory)
    before = job.store.get(window_path(window.generation, window.key))
    with ExitStack() as cleanup:
        limits = BatchLimits(wire_bytes=job.config.format.row_group_bytes)
        with session.open_window(job.table, job.key, limits) as reader:
            opened = time.monotonic()
            parts = PartFiles(job, window_stem(window.key), RowHasher(reader.schema))
            cleanup.callback(parts.discard)
            read_pages(reader, window, servo, parts, tally, stopped)
            held = time.monotonic() - opened
        parts.extend(reader.finish())
        parts.close()
        replaced = tuple(
            Replacement(column=column, reason=reason, values=values)
            for (column, reason), values in reader.replaced().items()
        )
        fault_point("after_spool_close", window.key)
        found = parts.hasher.fingerprint
        manifest = WindowManifest(
            table=job.table.label,
            key=window.key,
            generation=window.generation,
            lo=window.span.lo,
            hi=window.span.hi or (),
            half_open=window.span.half_open,
            nulls=window.span.nulls,
            rows=found.rows,
            row_fingerprint=str(found),
            schema_fingerprint=schema_fingerprint(planned_columns(job.table, reader.schema)),
            parts=(),
            replaced=replaced,
            work_id=job.work_id,
            read_at=read_at.isoformat(timespec="milliseconds"),
            snapshot=job.table.snapshots,
            statistics=ReadStatistics(
                pages=tally.pages,
                wire_bytes=tally.wire_bytes,
                duration_s=round(time.monotonic() - began, 3),
                largest_page_bytes=tally.largest,
                longest_statement_s=round(tally.longest, 3),
                transaction_s=round(held, 3),
                attempts=attempt,
                peak_memory_bytes=tally.peak_memory,
            ),
        )
        return commit_window(job.store, manifest, parts.closed, parts.suffix, before)


def read_pages(
    reader: WindowReader,
    window: Window,
    servo: PageServo,
    sink: RowSink,
    tally: Tally,
    stopped: Callable[[], bool],
) -> None:
    """Read page after page until one says that it ends the window. The reader's `finish` may have rows still.

    Raises:
        InterruptedExport: `stopped` said so.
        SourceError: RIVET_SNAPSHOT_TOO_OLD, and whatever the reader raises.
    """
    span = window.span
    limit_s = sink.job.config.limits.snapshot_s
    opened = time.monotonic()
    servo.begin(window.key)
    while True:
        if stopped():
            raise dropped(window)
        if time.monotonic() - opened > limit_s:
            raise SourceError(
                "RIVET_SNAPSHOT_TOO_OLD",
                f"The snapshot of window {window.key} of {sink.job.table.label} was held for {limit_s:g} s.",
                "Plan fewer rows a window in another destination, or raise snapshot_s.",
            )
        asked = servo.rows
        page = reader.read_page(span, asked)
        tally.add(page)
        servo.observe(asked, page.rows, page.wire_bytes, page.seconds)
        sink.extend(reader.decode_page())
        tally.between_pages()
        fault_point("after_page", window.key)
        if page.ended:
            return
        span = replace(span, after=reader.last_key())


def dropped(window: Window) -> InterruptedExport:
    """The window was not finished because a stop was asked for."""
    return InterruptedExport(
        "RIVET_INTERRUPTED", f"Window {window.key} was dropped.", "Run it again: finished windows are kept."
    )


@contextmanager
def _spool_errors(job: ExportJob) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise StoreError(
            "RIVET_SPOOL_FULL",
            f"A part could not be written in the spool folder {job.spool.parent}: {exc.strerror or exc}.",
            "Free space there, or name a larger folder in spool_dir.",
            fatal=True,
        ) from exc
