"""Decoder of PostgreSQL's binary COPY format: `COPY ... TO STDOUT (FORMAT binary)` to Arrow batches.

A page is one complete stream: signature, flags and header extension, tuples, trailer. A tuple is the number of
its fields (int16) and then, for each field, its length (int32, -1 for NULL) and that many bytes; all numbers
are big-endian. Rows are taken in blocks that fit the processor's cache: scanned once, for their bounds, then
decoded column by column by the compiled loops of `_pgcopy_kernels`, straight into the buffers of the Arrow
batch that is being filled. Importing this module imports numba.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from rivet_dagster.wire import _pgcopy_kernels as kernels
from rivet_dagster.wire._columns import Bytes, Rows
from rivet_dagster.wire._decoder import BLOCK_ROWS, PageDecoder
from rivet_dagster.wire._pgcopy_columns import column_buffers, replacement_counters
from rivet_dagster.wire._pgcopy_forms import REASONS, Elements, Form, WireColumn
from rivet_dagster.wire._pgcopy_refusals import split_fields
from rivet_dagster.wire._refusals import malformed

__all__ = ["SIGNATURE", "CopyDecoder", "Elements", "Form", "WireColumn"]

SIGNATURE = b"PGCOPY\n\xff\r\n\x00"
_HEADER = struct.Struct(">11sii")
_CRITICAL_FLAGS = 0xFFFF0000
_TRAILER_BYTES = 2


class CopyDecoder(PageDecoder):
    """Turns pages of one result, each a complete stream, into Arrow batches.

    Batches end where the rows say, errors last: see `PageDecoder`.

    Args:
        columns: the columns in the order of the stream.
        batch_bytes: bytes of tuples, with their field counts and lengths, at which a batch ends.
        batch_rows: rows at which a batch ends.

    Raises:
        ValueError: a form that does not give the column's Arrow type, or a limit below 1.
    """

    def __init__(self, columns: Sequence[WireColumn], *, batch_bytes: int, batch_rows: int) -> None:
        counters = [replacement_counters(column) for column in columns]
        super().__init__(
            pa.schema([column.field for column in columns]),
            [column_buffers(column, replaced) for column, replaced in zip(columns, counters, strict=True)],
            counters,
            REASONS,
            batch_bytes=batch_bytes,
            batch_rows=batch_rows,
        )
        self._starts = np.empty(BLOCK_ROWS, np.int64)

    def _blocks(self, stream: Bytes) -> Iterator[tuple[Rows, int]]:
        at = _after_header(stream[: _HEADER.size].tobytes(), stream.size)
        last, end, state = at, at, kernels.MORE
        while state == kernels.MORE:
            room, enough = self._room()
            starts = self._starts[:room]
            rows, end, state = kernels.scan_rows(stream, at, len(self._columns), enough, starts)
            if state not in (kernels.MORE, kernels.END):
                raise malformed(_SCAN_FAULTS[state])
            if rows:
                last = int(starts[rows - 1])
                yield (starts[:rows],), end - at
            at = end
        if at + _TRAILER_BYTES != stream.size:
            raise malformed("bytes follow its trailer")
        self._last_row = stream[last:at].tobytes()

    def _fields(self, row: memoryview) -> Iterator[memoryview | None]:
        return split_fields(row)


def _after_header(head: bytes, size: int) -> int:
    """Where the first tuple of a stream of `size` bytes that begins with `head` stands."""
    if len(head) < _HEADER.size:
        raise malformed("it ends within its header")
    signature, flags, extension = _HEADER.unpack(head)
    if signature != SIGNATURE:
        raise malformed("it does not begin with the signature of the binary format")
    if flags & _CRITICAL_FLAGS:
        raise malformed(f"it has flags that change its layout (0x{flags & 0xFFFFFFFF:08x})")
    if extension < 0 or _HEADER.size + extension > size:
        raise malformed("it ends within its header")
    return _HEADER.size + int(extension)


_SCAN_FAULTS = {
    kernels.TRUNCATED: "it ends before its trailer",
    kernels.FIELD_COUNT: "a row has another number of fields than the table has columns",
    kernels.FIELD_LENGTH: "a field has a negative length",
}
