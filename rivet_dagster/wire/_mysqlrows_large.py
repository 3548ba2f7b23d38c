"""A large row's values, told by their lengths while the row is still coming. In plain Python: such rows are few."""

from __future__ import annotations

from collections.abc import Sequence

from rivet_dagster.wire._columns import Bytes
from rivet_dagster.wire._mysqlrows_forms import HEADER, LARGEST_PAYLOAD, WireColumn, bitmap_bytes
from rivet_dagster.wire._mysqlrows_refusals import field_bounds

_LONGEST_LENGTH = 9


class LargeRow:
    """The first bytes of a row of the binary protocol, of which more may come.

    Args:
        columns: the columns in the order of the row.
        most: bytes of a value that may be.

    Attributes:
        too_large: number of the first column whose value is larger, and that value's bytes; None if none was met.
    """

    def __init__(self, columns: Sequence[WireColumn], most: int) -> None:
        self._columns = columns
        self._most = most
        self._bitmap = bitmap_bytes(len(columns))
        self._at = 1 + self._bitmap
        self._end: int | None = None
        self._packets = 0
        self._values: list[tuple[int, int] | None] = []
        self.too_large: tuple[int, int] | None = None

    def walk(self, buffer: Bytes, at: int, used: int) -> bool:
        """Walk on along the values of the row.

        Args:
            buffer: its bytes from `at` up to `used` are what has come of the row's packets, and what follows them.

        Returns:
            Whether nothing more is to be found out: a value is too large, or the last value was met, or the row is not
            what it should be, which its decoder will say.
        """
        part = buffer[at:used]
        self._find_end(part)
        if not self._has(part, 0, 1 + self._bitmap):
            return self._end is not None and self._end <= self._bitmap
        while len(self._values) < len(self._columns):
            if self._is_null(part, len(self._values)):
                self._values.append(None)
                continue
            bounds = self._next(part)
            if bounds is None:
                return self._end is not None and self._has(part, 0, self._end)
            begin, size = bounds
            if self._end is not None and begin + size > self._end:
                return True
            if size > self._most:
                self.too_large = len(self._values), size
                return True
            self._values.append(bounds)
            self._at = begin + size
        return True

    def fields(self, buffer: Bytes, at: int, numbers: Sequence[int]) -> list[bytes | None]:
        """The values of these columns, which were walked before the last one; None for NULL."""
        walked = [self._values[number] for number in numbers]
        return [None if bounds is None else self._bytes(buffer[at:], *bounds) for bounds in walked]

    def _find_end(self, part: Bytes) -> None:
        """Read what headers of packets have come: the one of fewer bytes than fit is the row's last."""
        while self._end is None:
            place = self._packets * (HEADER + LARGEST_PAYLOAD)
            if place + HEADER > part.size:
                return
            size = int.from_bytes(part[place : place + 3].tobytes(), "little")
            if size < LARGEST_PAYLOAD:
                self._end = self._packets * LARGEST_PAYLOAD + size
            self._packets += 1

    def _next(self, part: Bytes) -> tuple[int, int] | None:
        """Where the next value begins in the payload, and its bytes; None where its length has not come yet."""
        form = self._columns[len(self._values)].form
        begin, size = field_bounds(memoryview(self._bytes(part, self._at, _LONGEST_LENGTH)), form)
        return (self._at + begin, size) if self._has(part, self._at, max(begin, 1)) else None

    def _is_null(self, part: Bytes, number: int) -> bool:
        (byte,) = self._bytes(part, 1 + (number + 2) // 8, 1)
        return bool(byte >> (number + 2) % 8 & 1)

    def _has(self, part: Bytes, begin: int, size: int) -> bool:
        """Whether all of these bytes of the payload have come."""
        whole = self._end is None or begin + size <= self._end
        return whole and (size == 0 or _place(begin + size - 1) < part.size)

    def _bytes(self, part: Bytes, begin: int, size: int) -> bytes:
        """Bytes of the payload, between the headers of its packets; fewer where they have not come."""
        end = begin + size if self._end is None else min(begin + size, self._end)
        found = b""
        while begin < end:
            until = min(end, (begin // LARGEST_PAYLOAD + 1) * LARGEST_PAYLOAD)
            found += part[_place(begin) : _place(begin) + until - begin].tobytes()
            begin = until
        return found


def _place(offset: int) -> int:
    """Where a byte of the payload stands among the packets."""
    return offset + HEADER * (1 + offset // LARGEST_PAYLOAD)
