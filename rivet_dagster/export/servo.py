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


class PageServo:
    """Sizes pages by bytes, with a guard on time.

    A page aims at `target_bytes`, by the 90th percentile of the last ten pages' row widths, and at no more than
    `target_seconds`, by the slower of the last two pages. One beyond five times either target cuts the next to a
    tenth. Growth is at most half as much again a page.

    Of a table whose rows may be much wider than the catalog says, the first page is a few rows, and growth is faster
    until it comes to what the rows' measured width allows.

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
        self.rows = max(1, target_bytes // 8 // (row_bytes or _ASSUMED_ROW_BYTES))
        self._probing = unbounded and self.rows > _PROBE_ROWS
        if self._probing:
            self.rows = _PROBE_ROWS

    def observe(self, asked: int, rows: int, wire_bytes: int, seconds: float) -> None:
        """Learn from a page of `rows` rows for which `asked` were asked."""
        if rows == 0 or asked != self.rows:
            return
        self._widths.append(wire_bytes / rows)
        self._paces.append(seconds / rows)
        if wire_bytes > _PANIC * self._target_bytes or seconds > _PANIC * self._target_seconds:
            self.rows = max(1, rows // _PANIC_CUT)
            # Bytes are known exactly: once the widest rows are passed and forgotten, pages need not grow slowly.
            self._probing = seconds <= _PANIC * self._target_seconds
            return
        width = sorted(self._widths)[int(0.9 * (len(self._widths) - 1) + 0.5)]
        wanted = self._target_bytes / max(width, 1.0)
        # Before the target is reached, too: growing beyond it and falling back would be a saw.
        wanted = min(wanted, self._target_seconds / max(*self._paces, _QUICKEST))
        allowed = self.rows * (_PROBE_GROWTH if self._probing else _GROWTH)
        self._probing = self._probing and wanted > allowed
        self.rows = max(1, int(min(wanted, allowed, self._ceiling or wanted)))

    def shrink(self) -> None:
        """Ask for half as much after the server ended a statement, and for no more until `relax`."""
        self.rows = self._ceiling = max(1, self.rows // 2)

    def relax(self) -> None:
        """Let pages grow again: what the server ended before has come through."""
        self._ceiling = None
