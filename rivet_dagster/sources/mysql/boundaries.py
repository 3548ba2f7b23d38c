"""Bounds of windows out of the server's statistics: what it expects of a range of an index, by two looks at it."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, Final

import pymysql
from pymysql.cursors import DictCursor

from rivet_dagster.sources.base import Key, KeyRange, KeyText, Table
from rivet_dagster.sources.mysql import templates
from rivet_dagster.sources.mysql.keys import KeyShape, key_text
from rivet_dagster.sources.mysql.ordinals import Ordinals, ordinals_of

# A split asks twice. Few windows may need as many splits as values have bits, to find where the rows are.
_SPLITS_A_WINDOW: Final = 2
_FEWEST_SPLITS: Final = 200
_MOST_SPLITS: Final = 1000
# A range with no more than this part of a window's rows is fine enough.
_FINE: Final = 4

Leaf = tuple[int, int, int]
"""Numbers `lo` < … <= `hi`, and the rows expected of them."""


def boundaries(
    connection: pymysql.Connection[Any], table: Table, key: Key, span: KeyRange, windows: int
) -> tuple[KeyText, ...] | None:
    """Bounds on the key's first column that cut `span` into about `windows` windows of as many rows.

    At most four short statements a window, or four hundred for few windows, and two thousand in all. None of them reads
    more of the index than the way to two of its entries.

    Args:
        connection: where its settings are those of a session.
        table: the table.
        key: the key; its index gives the statistics.
        span: what to cut. An end that is open is where the index ends.
        windows: how many are wanted.

    Returns:
        None for a key without an index, and for a first column whose values are no whole numbers.

    Raises:
        pymysql.err.MySQLError: what the server says.
    """
    if not key.index or span.nulls:
        return None
    index = _FirstColumn(connection, table, key)
    ordinals = ordinals_of(table.column(key.columns[0]))
    if ordinals is None:
        return None
    ends = _ends(index, ordinals, span)
    if ends is None:
        return ()
    lo, hi = ends

    def expected(lo: int, hi: int) -> int | None:
        return index.expected(KeyRange((ordinals.text(lo),), (ordinals.text(hi),)))

    leaves = refined(expected, lo, hi, windows)
    if leaves is None:
        return None
    # Without its lower end the span begins with its first row, whose number the first range leaves out.
    return tuple((ordinals.text(bound),) for bound in cut(leaves, windows))


def _ends(index: _FirstColumn, ordinals: Ordinals, span: KeyRange) -> tuple[int, int] | None:
    """Numbers of both ends; None where there is nothing between them, or an end is no value of the column."""
    texts = [
        span.after[0] if span.after else span.lo[0] if span.lo else index.end(""),
        span.hi[0] if span.hi else index.end(" DESC"),
    ]
    try:
        lo, hi = (ordinals.number(text) for text in texts if text is not None)
    except (ValueError, OverflowError):
        return None
    return (lo, hi) if lo < hi else None


class _FirstColumn:
    """The first column of a key's index."""

    def __init__(self, connection: pymysql.Connection[Any], table: Table, key: Key) -> None:
        self._connection = connection
        first = Key(key.columns[:1], key.index, unique=False, nullable=key.nullable)
        self._shape = KeyShape(table, first)

    def end(self, direction: str) -> str | None:
        """The text of the least value, or of the greatest one; None without rows."""
        with self._connection.cursor() as cursor:
            cursor.execute(self._filled(templates.END, KeyRange(None, None), direction))
            found = cursor.fetchone()
        return key_text(found)[0] if found else None

    def expected(self, span: KeyRange) -> int | None:
        """How many rows the server expects of a range; None where it does not say."""
        with self._connection.cursor(DictCursor) as cursor:
            cursor.execute(self._filled(templates.ESTIMATE, span))
            found = cursor.fetchone() or {}
        if "rows" not in found:
            return None
        # Nothing is said of what cannot be.
        return int(found["rows"] or 0)

    def _filled(self, template: str, span: KeyRange, direction: str = "") -> str:
        shape = self._shape
        return template.format(
            text=shape.texts,
            table=shape.table,
            hint=shape.hint,
            within=shape.where(span, self._connection.escape),
            name=shape.columns,
            direction=direction,
        )


def refined(expected: Callable[[int, int], int | None], lo: int, hi: int, windows: int) -> list[Leaf] | None:
    """Ranges that make up lo < … <= hi, the fuller the finer: always the fullest one is split in its middle.

    Args:
        expected: how many rows are expected between two numbers; None where nobody knows.
        lo: the number below the first one.
        hi: the last number.
        windows: how many windows are wanted.

    Returns:
        The ranges in order; None where `expected` does not know.
    """
    rows = expected(lo, hi)
    if rows is None:
        return None
    total, done = rows, []
    heap = [(-rows, lo, hi)]
    for _ in range(min(max(_SPLITS_A_WINDOW * windows, _FEWEST_SPLITS), _MOST_SPLITS)):
        while heap and heap[0][2] - heap[0][1] == 1:
            done.append(heapq.heappop(heap))
        if not heap or -heap[0][0] * _FINE * windows <= total:
            break
        rows, lo, hi = heapq.heappop(heap)
        middle = (lo + hi) // 2
        for ends in ((lo, middle), (middle, hi)):
            half = expected(*ends)
            if half is None:
                return None
            heapq.heappush(heap, (-half, *ends))
            total += half
        total += rows
    return sorted((lo, hi, -rows) for rows, lo, hi in (*done, *heap))


def cut(leaves: list[Leaf], windows: int) -> list[int]:
    """Numbers that cut ranges into windows of as many rows, as if the rows of a range stood in even distances.

    Returns:
        Ascending numbers between the first range's lower end and the last one's upper end, at most `windows` - 1.
    """
    total = sum(rows for _, _, rows in leaves)
    end = leaves[-1][1]
    found: list[int] = []
    before = 0
    for lo, hi, rows in leaves:
        # The bounds whose share of the rows is reached within this range.
        first = before * windows // total + 1 if total else windows
        for number in range(first, windows):
            if number * total > (before + rows) * windows:
                break
            bound = lo - (before * windows - number * total) * (hi - lo) // (rows * windows)
            bound = min(max(bound, lo + 1), hi)
            if bound < end and (not found or bound > found[-1]):
                found.append(bound)
        before += rows
    return found
