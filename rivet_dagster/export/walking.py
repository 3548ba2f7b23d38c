"""Walking an index once, in short steps, for bounds of windows of equally many rows."""

from __future__ import annotations

import time
from collections.abc import Iterator

from rivet_dagster.export.documents import PlannedWindow
from rivet_dagster.sources.base import ASSUMED_ROW_BYTES, Key, KeyText, Session, Table

WINDOW_BYTES = 128 << 20
SMALLEST_WINDOW_ROWS = 10_000
LARGEST_WINDOW_ROWS = 5_000_000
USUAL_WINDOWS = 2_000

# One walk step reads index entries only, some million a second: these keep a step far below the page's second.
_FIRST_STEP_ROWS = 10_000
_LARGEST_STEP_ROWS = 200_000
_STEP_SECONDS = 0.3


def window_rows(table: Table) -> int:
    """Rows a window for a table: about 128 MiB of rows, and for huge tables no more than about 2,000 windows."""
    by_bytes = WINDOW_BYTES // max(table.average_row_bytes or ASSUMED_ROW_BYTES, 1)
    by_count = (table.estimated_rows or 0) // USUAL_WINDOWS
    return min(max(by_bytes, by_count, SMALLEST_WINDOW_ROWS), max(LARGEST_WINDOW_ROWS, by_count))


def walk_windows(
    session: Session, table: Table, key: Key, after: KeyText | None, rows: int, until: KeyText | None = None
) -> Iterator[PlannedWindow]:
    """Walk the key's index once from `after` on, to `until` at most; gives windows with the rows counted.

    Every step is a short statement of its own, relative to the key before it, so its cost does not grow with the
    table. Rows that come and go meanwhile change the counts, never the tiling.
    """
    step_rows = _FIRST_STEP_ROWS
    position, counted = after, 0
    while True:
        asked = min(step_rows, rows - counted)
        began = time.monotonic()
        step = session.walk(table, key, position, asked, until)
        seconds = time.monotonic() - began
        if step is None:
            break
        position, counted = step.key, counted + step.rows
        if step.rows < asked:
            break
        if counted >= rows:
            yield PlannedWindow(hi=position, rows=counted)
            counted = 0
        if asked == step_rows:
            step_rows = _next_step(step_rows, seconds)
    if counted and position is not None:
        yield PlannedWindow(hi=position, rows=counted)


def _next_step(rows: int, seconds: float) -> int:
    if seconds > _STEP_SECONDS:
        return max(rows // 2, 100)
    return min(rows * 2, _LARGEST_STEP_ROWS) if seconds < _STEP_SECONDS / 4 else rows
