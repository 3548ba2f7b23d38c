"""The page servo: how many rows the next statement may ask for. Pure: no clock, no I/O."""

from __future__ import annotations

from collections import deque

_GROWTH = 1.5
_PROBE_ROWS = 200
_PROBE_GROWTH = 16
_PANIC = 5.0
_PANIC_CUT = 10
_REMEMBERED = 10
_ASSUMED_ROW_BYTES = 256
_PACES_REMEMBERED = 2
_QUICKEST = 1e-12
# In so many places of a window pages may turn out too large; then all of its pages are made smaller.
_MOST_OBSTACLES = 64


class PageServo:
    """Sizes pages by bytes, with a guard on time.

    A page aims at `target_bytes`, by the 90th percentile of the last ten pages' row widths, and at no more than
    `target_seconds`, by the slower of the last two pages. One beyond five times either target cuts the next to a
    tenth. Growth is at most half as much again a page.

    Of a table whose rows may be much wider than the catalog says, the first page is a few rows, and growth is faster
    until it comes to what the rows' measured width allows.

    Where a page was given up because it was too large, the window is read again from its beginning. Pages before the
    row that was too much are as large as ever, and end there; the next one has that row alone.

    Args:
        target_bytes: bytes that a page aims to bring.
        target_seconds: seconds that a statement may take.
        row_bytes: width of a row by the catalog; 0 where unknown.
        unbounded: rows may be much wider than that.
    """

    def __init__(
        self, target_bytes: int, target_seconds: float, row_bytes: int = 0, *, unbounded: bool = False
    ) -> None:
        self._target_bytes = target_bytes
        self._target_seconds = target_seconds
        self._widths: deque[float] = deque(maxlen=_REMEMBERED)
        self._paces: deque[float] = deque(maxlen=_PACES_REMEMBERED)
        self._ceiling: int | None = None
        # The first page is a probe: an eighth of the target, because the catalog's width may be far off.
        self._rows = max(1, target_bytes // 8 // (row_bytes or _ASSUMED_ROW_BYTES))
        self._probing = unbounded and self._rows > _PROBE_ROWS
        if self._probing:
            self._rows = _PROBE_ROWS
        self._obstacles = _Obstacles()

    @property
    def rows(self) -> int:
        """How many rows the next page may ask for."""
        return min(self._rows, self._obstacles.ahead or self._rows)

    def begin(self, window: str) -> None:
        """A window is read from its beginning: another one, or the same one again."""
        self._obstacles.begin(window)

    def observe(self, asked: int, rows: int, wire_bytes: int, seconds: float) -> None:
        """Learn from a page of `rows` rows for which `asked` were asked."""
        if rows == 0:
            return
        if asked == self._rows:
            self._learn(rows, wire_bytes, seconds)
        if self._obstacles.advance(rows):
            # From where a page was too large on, rows are of another width.
            self._widths.clear()
            self._rows, self._probing = 1, True

    def _learn(self, rows: int, wire_bytes: int, seconds: float) -> None:
        self._widths.append(wire_bytes / rows)
        self._paces.append(seconds / rows)
        if wire_bytes > _PANIC * self._target_bytes or seconds > _PANIC * self._target_seconds:
            self._rows = max(1, rows // _PANIC_CUT)
            # Bytes are known exactly: once the widest rows are passed and forgotten, pages need not grow slowly.
            self._probing = seconds <= _PANIC * self._target_seconds
            return
        width = sorted(self._widths)[int(0.9 * (len(self._widths) - 1) + 0.5)]
        wanted = self._target_bytes / max(width, 1.0)
        # Before the target is reached, too: growing beyond it and falling back would be a saw.
        wanted = min(wanted, self._target_seconds / max(*self._paces, _QUICKEST))
        allowed = max(self._rows + 1, self._rows * (_PROBE_GROWTH if self._probing else _GROWTH))
        self._probing = self._probing and wanted > allowed
        self._rows = max(1, int(min(wanted, allowed, self._ceiling or wanted)))

    def overflow(self, rows: int) -> None:
        """A page was given up at the last one of its first `rows` rows. Its window is read again from the beginning."""
        asked = self.rows
        if self._obstacles.add(rows) > _MOST_OBSTACLES:
            # Wide rows may be anywhere. This ends, since a single row is never too many.
            self._rows = self._ceiling = max(1, asked // 2)

    def shrink(self) -> None:
        """Ask for half as much after the server ended a statement, and for no more until `relax`."""
        self._rows = self._ceiling = max(1, self._rows // 2)

    def relax(self) -> None:
        """Let pages grow again: what the server ended before has come through."""
        self._ceiling = None
        self._obstacles.clear()


class _Obstacles:
    """Where in a window pages were too large: how many rows stand before those that were too much."""

    def __init__(self) -> None:
        self._window = ""
        self._passed = self._count = 0
        self._places: set[int] = set()

    @property
    def ahead(self) -> int | None:
        """Rows up to the next place; None without one."""
        return min((place - self._passed for place in self._places if place > self._passed), default=None)

    def begin(self, window: str) -> None:
        """A window is read from its beginning: another one, or the same one again."""
        if window != self._window:
            self.clear()
            self._window = window
        self._passed = 0

    def advance(self, rows: int) -> bool:
        """So many rows were passed; says whether a place was come to."""
        before, self._passed = self._passed, self._passed + rows
        return any(before < place <= self._passed for place in self._places)

    def add(self, rows: int) -> int:
        """The page that begins here was too large by the last of its first `rows` rows; says how often that was so."""
        place = self._passed + max(1, rows - 1)
        while place in self._places and place > self._passed + 1:
            # A page that was to end there went on: how many rows a range of storage has is only known in the end.
            place = self._passed + (place - self._passed) // 2
        self._places.add(place)
        self._count += 1
        return self._count

    def clear(self) -> None:
        """Begin without any place."""
        self._places.clear()
        self._count = 0
