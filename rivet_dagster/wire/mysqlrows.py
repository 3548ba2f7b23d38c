"""Decoder of the rows of MySQL's and MariaDB's binary protocol (prepared statements): packets to Arrow batches.

A packet is the length of its payload (3 bytes), its number (1 byte) and the payload; a payload of 16 MiB - 1 goes on
in the next packet. A row's payload is 0x00, a bitmap in which column n is NULL where bit n + 2 is set, and the values
that are not NULL; all numbers are little-endian. While the socket is drained, `scan_packets` tells rows from what ends
them. A page is whole rows; `RowDecoder` takes them in blocks that fit the processor's cache: scanned once, for their
bounds, then decoded column by column by the compiled loops of `_mysqlrows_kernels`, straight into the buffers of the
Arrow batch that is being filled. Importing this module imports numba.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import pyarrow as pa

from rivet_dagster.wire import _mysqlrows_kernels as kernels
from rivet_dagster.wire._columns import Bytes, Rows
from rivet_dagster.wire._decoder import BLOCK_ROWS, PageDecoder
from rivet_dagster.wire._mysqlrows_columns import column_buffers, replacement_counters
from rivet_dagster.wire._mysqlrows_forms import LARGEST_PAYLOAD, REASONS, Form, WireColumn, bitmap_bytes
from rivet_dagster.wire._mysqlrows_kernels import (
    ANY_SIZE,
    END,
    ERROR,
    FULL,
    LARGE,
    MORE,
    OUT_OF_ORDER,
    UNEXPECTED,
    scan_packets,
)
from rivet_dagster.wire._mysqlrows_large import LargeRow
from rivet_dagster.wire._mysqlrows_refusals import split_fields
from rivet_dagster.wire._refusals import malformed

__all__ = [
    "ANY_SIZE",
    "LARGE",
    "LARGEST_PAYLOAD",
    "LargeRow",
    "REASONS",
    "Form",
    "RowDecoder",
    "WireColumn",
    "warm",
    "scan_packets",
    "MORE",
    "FULL",
    "END",
    "ERROR",
    "OUT_OF_ORDER",
    "UNEXPECTED",
]


class RowDecoder(PageDecoder):
    """Turns pages of one result, each of them the packets of whole rows, into Arrow batches.

    Batches end where the rows say, errors last: see `PageDecoder`. A row of several packets is closed up within the
    page, so a page is decoded only once.

    Args:
        columns: the columns in the order of the rows.
        batch_bytes: bytes of payload at which a batch ends.
        batch_rows: rows at which a batch ends.

    Raises:
        ValueError: a form that does not give the column's Arrow type, or a limit below 1.
    """

    def __init__(self, columns: Sequence[WireColumn], *, batch_bytes: int, batch_rows: int) -> None:
        counters = [replacement_counters(column) for column in columns]
        super().__init__(
            pa.schema([column.field for column in columns]),
            [column_buffers(column, number, counters[number]) for number, column in enumerate(columns)],
            counters,
            REASONS,
            batch_bytes=batch_bytes,
            batch_rows=batch_rows,
        )
        self._wire_columns = tuple(columns)
        self._least = 1 + bitmap_bytes(len(columns))
        self._positions = np.empty((3, BLOCK_ROWS), np.int64)

    def decode_ahead(self, page: Bytes, length: int) -> int:
        """Decode the first rows of a page while the others are still on their way, as far as the batch goes.

        Args:
            page: its first `length` bytes are the packets of whole rows.

        Returns:
            How many of the bytes are used. `decode` takes what is left, and counts the rows before it too.

        Raises:
            SourceError: as `decode`.
        """
        stream, at = page[:length], 0
        with self._ending_at_errors():
            while at < length and not self._is_full:
                rows, size, at, _ = self._block(stream, at)
                self._append(stream, rows, size)
                self._rows_ahead += rows[0].size
        return at

    def _blocks(self, stream: Bytes) -> Iterator[tuple[Rows, int]]:
        if not self._rows_ahead:
            self._last_row = b""
        at, state = 0, kernels.MORE
        while state == kernels.MORE:
            rows, size, at, state = self._block(stream, at)
            if size:
                yield rows, size

    def _block(self, stream: Bytes, at: int) -> tuple[Rows, int, int, int]:
        """The rows from byte `at` on that the batch has room for.

        Returns:
            Where they stand, the bytes of their payloads, the byte behind them, and whether all is walked.
        """
        room, enough = self._room()
        pos, starts, ends = (positions[:room] for positions in self._positions)
        count, at, size, state = kernels.scan_rows(stream, at, self._least, enough, starts, ends)
        if state not in (kernels.MORE, kernels.END):
            raise malformed(_SCAN_FAULTS[state])
        if count:
            np.add(starts[:count], self._least, out=pos[:count])
            self._last_row = stream[int(starts[count - 1]) : int(ends[count - 1])].tobytes()
        return (pos[:count], starts[:count], ends[:count]), size, at, state

    def _append(self, stream: Bytes, rows: Rows, size: int) -> None:
        super()._append(stream, rows, size)
        pos, _, ends = rows
        if (pos != ends).any():
            raise malformed("bytes follow the last value of a row")

    def _fields(self, row: memoryview) -> Iterator[memoryview | None]:
        return split_fields(row, self._wire_columns)


_SCAN_FAULTS = {
    kernels.TRUNCATED: "they end within a packet",
    kernels.NO_ROW: "a packet among them is no row of the table's columns",
}

_SAMPLES: tuple[tuple[Form, pa.DataType, bytes], ...] = (
    (Form.BOOL, pa.bool_(), b"\1"),
    (Form.INT1, pa.int8(), bytes(1)),
    (Form.INT2, pa.int16(), bytes(2)),
    (Form.INT4, pa.int32(), bytes(4)),
    (Form.INT8, pa.int64(), bytes(8)),
    (Form.DECIMAL, pa.decimal128(9, 2), b"\x041.00"),
    (Form.DATE, pa.date32(), b"\4\0\0\1\1"),
    (Form.DATETIME, pa.timestamp("us"), b"\4\0\0\1\1"),
    (Form.TIME, pa.time64("us"), b"\0"),
    (Form.BIT, pa.uint64(), b"\1\1"),
    (Form.UUID, pa.uuid(), b"\x10" + bytes(16)),
    (Form.BYTES, pa.string(), b"\4text"),
)


@cache
def warm() -> None:
    """Load every kernel, compiling it into numba's cache if it is not there; once in a process."""
    columns = [WireColumn(pa.field(form.value, kind), form) for form, kind, _ in _SAMPLES]
    bitmap = bitmap_bytes(len(columns))
    payloads = (bytes(1 + bitmap) + b"".join(value for *_, value in _SAMPLES), b"\0" + b"\xff" * bitmap)
    rows = b"".join(len(payload).to_bytes(3, "little") + b"\0" + payload for payload in payloads)
    page = np.frombuffer(bytearray(rows), np.uint8)
    scan_packets(page, 0, page.size, 0, 1, ANY_SIZE)
    decoder = RowDecoder(columns, batch_bytes=1 << 20, batch_rows=1 << 10)
    for _ in (*decoder.decode(page, page.size), *decoder.finish()):
        pass
