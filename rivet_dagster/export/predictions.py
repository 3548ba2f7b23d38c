"""What an export will ask of its source and of this machine, by the catalog or by what earlier windows took.

Sizes are bytes on the wire, times seconds. Everything but `measured_windows` is pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Final, Literal

from rivet_dagster.errors import RivetError
from rivet_dagster.export.config import TimeWindows
from rivet_dagster.export.documents import WindowManifest
from rivet_dagster.export.journal import list_journals
from rivet_dagster.export.journal_entries import RunEntry, parse_lines
from rivet_dagster.export.names import window_folder
from rivet_dagster.sources.base import ASSUMED_ROW_BYTES, Table
from rivet_dagster.sources.ordering import USUAL_BYTES_A_SECOND
from rivet_dagster.stores.base import Store

MiB: Final = 1 << 20

RECENT: Final = 5
"""So many windows are looked at, those that were committed last."""
_LOOKS: Final = 4
PROCESS_BYTES: Final = 215 * MiB
"""What a process takes before it reads: interpreter, libraries, compiled code (docs/reference/benchmarks.md)."""
GROUPS_A_WORKER: Final = 3
"""What a worker holds beside its page, in row groups: a batch, what its encoder takes, and what comes out of it."""

_SECONDS: Final = {"hour": 3600.0, "day": 86_400.0, "week": 604_800.0, "month": 2_629_746.0}

Basis = Literal["measured", "catalog", "plan", "ends", "calendar", "model", "assumed", "exact", "unknown"]


@dataclass(frozen=True)
class Figure:
    """A number that is known, measured or predicted.

    Attributes:
        value: None where nothing tells.
        basis: what it goes by: `measured` in windows that are committed, the server's `catalog`, the `plan` in the
            destination, the two `ends` of the key's index, the `calendar`, a `model` with stated rates; it is
            `assumed`, or `exact`.
    """

    value: float | None
    basis: Basis


UNKNOWN: Final = Figure(None, "unknown")


@dataclass(frozen=True)
class Measured:
    """What the last few windows of an export took.

    Attributes:
        windows: how many they are.
        rows, wire_bytes: of all of them.
        largest_window: bytes of the largest one.
        largest_page: bytes of the largest page.
        longest_statement_s: seconds of the longest statement.
        peak_memory: the most that the process took; 0 where it was not noted.
        workers: how many read in one process then; None where it was not noted.
    """

    windows: int
    rows: int
    wire_bytes: int
    largest_window: int
    largest_page: int
    longest_statement_s: float
    peak_memory: int
    workers: int | None


def measured_windows(store: Store, generation: int | None) -> Measured | None:
    """What the windows took that were committed last: a listing, and a handful of manifests. None without any."""
    if generation is None:
        return None
    manifests = list(_recent(store, generation)) or list(_recent(store, generation - 1))
    if not manifests:
        return None
    taken = [manifest.statistics for manifest in manifests]
    return Measured(
        windows=len(manifests),
        rows=sum(manifest.rows for manifest in manifests),
        wire_bytes=sum(each.wire_bytes for each in taken),
        largest_window=max(each.wire_bytes for each in taken),
        largest_page=max(each.largest_page_bytes for each in taken),
        longest_statement_s=max(each.longest_statement_s for each in taken),
        peak_memory=max(each.peak_memory_bytes for each in taken),
        workers=_workers_then(store),
    )


def _recent(store: Store, generation: int) -> Iterator[WindowManifest]:
    """The manifests of windows with rows that were written last; not farther back than a few empty ones."""
    found = 0
    listed = sorted(store.list(window_folder(generation)), key=lambda each: each.modified, reverse=True)
    for stored in listed[: _LOOKS * RECENT]:
        with suppress(RivetError):  # a broken one is for `validate` to tell
            data = store.get(stored.path)
            manifest = WindowManifest.from_bytes(data, store.url(stored.path)) if data is not None else None
            if manifest is not None and manifest.rows:
                yield manifest
                found += 1
        if found == RECENT:
            return


def _workers_then(store: Store) -> int | None:
    """How many workers shared the memory of the newest run's process."""
    with suppress(RivetError, IndexError):
        path = list_journals(store)[0].segments[0]
        for entry in parse_lines(store.get(path) or b"", store.url(path)):
            if isinstance(entry, RunEntry):
                return entry.workers_max if entry.workers == "threads" else 1
    return None


@dataclass(frozen=True)
class Ends:
    """The two ends of an index's first column.

    Attributes:
        first, last: as integers; None for values that are none.
        is_empty: nothing is between them.
    """

    first: int | None = None
    last: int | None = None
    is_empty: bool = False

    @property
    def span(self) -> int | None:
        """How many integers lie between them, with both."""
        if self.is_empty:
            return 0
        return None if self.first is None or self.last is None else self.last - self.first + 1


def row_width(table: Table, measured: Measured | None) -> Figure:
    """Bytes of a row."""
    if measured is not None and measured.wire_bytes:
        return Figure(max(1, round(measured.wire_bytes / measured.rows)), "measured")
    if table.average_row_bytes:
        return Figure(table.average_row_bytes, "catalog")
    return Figure(ASSUMED_ROW_BYTES, "assumed")


def slice_count(options: TimeWindows, now: datetime) -> int:
    """How many slices of time have ended, about: months are of one length here, and clocks are never changed."""
    start, end = datetime.fromisoformat(options.start), now.astimezone(timezone.utc).replace(tzinfo=None)
    if options.end is not None:
        end = min(end, datetime.fromisoformat(options.end))
    return max(0, round((end - start).total_seconds() / _SECONDS[options.every]))


@dataclass(frozen=True)
class Pages:
    """How a window is read.

    Attributes:
        page_bytes: what a page is meant to be.
        page_seconds: what a page may take before the next ones are smaller; None where a window is one statement.
        window_bytes: bytes of a window; None where nothing tells.
    """

    page_bytes: int
    page_seconds: float | None
    window_bytes: float | None

    @property
    def statement_bytes(self) -> float | None:
        """What one statement returns."""
        if self.page_seconds is None:
            return self.window_bytes
        return self.page_bytes if self.window_bytes is None else min(self.page_bytes, self.window_bytes)


def statement_time(pages: Pages, measured: Measured | None, *, is_ordered: bool) -> Figure:
    """How long the longest statement runs: as long as the longest did, and by a stated rate for what is more than then.

    Args:
        pages: how a window is read.
        measured: what earlier windows took.
        is_ordered: whether an index gives the rows in the order of the pages. Where none does, nobody knows what a
            page costs that was never read.
    """
    size = pages.statement_bytes
    longest = measured.longest_statement_s if measured is not None else 0.0
    if size is None or (measured is None and not is_ordered):
        return UNKNOWN
    before = 0 if measured is None else measured.largest_window if pages.page_seconds is None else measured.largest_page
    seconds = longest + max(0.0, size - before) / USUAL_BYTES_A_SECOND
    if pages.page_seconds is not None:
        seconds = min(seconds, max(pages.page_seconds, longest))
    return Figure(round(seconds, 3), "model" if measured is None else "measured")


def memory_needed(group: int, pages: Pages, width: float, workers: int, measured: Measured | None) -> Figure:
    """What the process takes at most: as much as it did, and more for more workers or larger pages and row groups.

    A single value may be much larger than the others; then up to `max_value_bytes` a worker come to it.

    Args:
        group: bytes of a row group.
        pages: how a window is read.
        width: bytes of a row; a row is whole, however small a page or a row group is asked for.
        workers: how many are to read.
        measured: what earlier windows took.
    """
    largest = pages.window_bytes if pages.window_bytes is not None else float("inf")
    held = workers * _worker_bytes(min(pages.page_bytes, largest), min(group, largest), width)
    if measured is None or not measured.peak_memory:
        return Figure(round(PROCESS_BYTES + held), "model")
    before = (measured.workers or workers) * _worker_bytes(
        measured.largest_page, min(group, measured.largest_window), width
    )
    return Figure(round(measured.peak_memory + max(0.0, held - before)), "measured")


def _worker_bytes(page: float, group: float, width: float) -> float:
    return max(page, width) + GROUPS_A_WORKER * max(group, width)
