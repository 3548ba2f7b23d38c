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
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rivet_dagster.errors import SourceError
from rivet_dagster.wire import _pgcopy_kernels as kernels
from rivet_dagster.wire._pgcopy_columns import column_buffers, replacement_counters
from rivet_dagster.wire._pgcopy_forms import REASONS, Elements, Form, WireColumn
from rivet_dagster.wire._pgcopy_refusals import malformed, split_fields

__all__ = ["SIGNATURE", "CopyDecoder", "Elements", "Form", "WireColumn"]

SIGNATURE = b"PGCOPY\n\xff\r\n\x00"
_HEADER = struct.Struct(">11sii")
_CRITICAL_FLAGS = 0xFFFF0000
_TRAILER_BYTES = 2

# A block and the positions of its rows stay in the processor's cache while every column passes over them.
_BLOCK_BYTES = 1 << 20
_BLOCK_ROWS = 16 << 10


class CopyDecoder:
    """Turns pages of one result into Arrow batches that end where the rows say, never where a page ends.

    A batch ends with the first row at which the bytes of its tuples reach `batch_bytes` or their number
    reaches `batch_rows`; its memory is used again for the next one. After an error the decoder is of no use: every
    later call raises that error again, so that nobody takes the rows before it for a whole answer.

    Args:
        columns: the columns in the order of the stream.
        batch_bytes: bytes of tuples, with their field counts and lengths.
        batch_rows: rows.

    Raises:
        ValueError: a form that does not give the column's Arrow type, or a limit below 1.
    """

    def __init__(self, columns: Sequence[WireColumn], *, batch_bytes: int, batch_rows: int) -> None:
        if batch_bytes < 1 or batch_rows < 1:
            raise ValueError("batch_bytes and batch_rows must be at least 1")
        self.schema = pa.schema([column.field for column in columns])
        self._batch_bytes = batch_bytes
        self._batch_rows = batch_rows
        self._replaced = {column.field.name: replacement_counters(column) for column in columns}
        self._columns = [column_buffers(column, self._replaced[column.field.name]) for column in columns]
        self.page_rows = 0
        self._rows = self._bytes = 0
        self._starts = np.empty(_BLOCK_ROWS, np.int64)
        self._last_row = b""
        self._error: SourceError | None = None

    def decode(self, page: npt.NDArray[np.uint8], length: int) -> Iterator[pa.RecordBatch]:
        """Decode the stream in the first `length` bytes of `page`; gives each batch as soon as it is complete.

        Take every batch, and let go of it before the next, which uses its memory again. Afterwards `page_rows` is
        the number of rows that the page held.

        Raises:
            SourceError: RIVET_PROTOCOL_ERROR for bytes that are no such stream or not all of it;
                RIVET_VALUE_UNSUPPORTED for a value that the column's Arrow type cannot hold exactly;
                RIVET_VALUE_TOO_LARGE for more than 2 GiB in one column of a batch.
        """
        stream = page[:length]
        if not stream.flags.writeable:
            stream = stream.copy()  # numba would compile every kernel once more for read-only arrays
        with self._ending_at_errors():
            yield from self._decode_stream(stream)

    def finish(self) -> Iterator[pa.RecordBatch]:
        """The rows that the limits left, if any."""
        with self._ending_at_errors():
            if self._rows:
                yield self._cut()

    @property
    def replaced(self) -> dict[tuple[str, str], int]:
        """How many values NULL replaced so far, by column and reason; those that nothing befell are left out."""
        return {
            (name, reason): int(count)
            for name, counters in self._replaced.items()
            for reason, count in zip(REASONS, counters, strict=False)
            if count
        }

    def last_row(self, indices: Sequence[int]) -> list[bytes | None]:
        """Wire bytes of the fields at `indices` in the last row of the last page, None for NULL.

        Raises:
            LookupError: the last page held no row.
        """
        with self._ending_at_errors():
            if not self._last_row:
                raise LookupError("the last page held no row")
            fields = [None if field is None else bytes(field) for field in split_fields(memoryview(self._last_row))]
            return [fields[index] for index in indices]

    @contextmanager
    def _ending_at_errors(self) -> Iterator[None]:
        if self._error is not None:
            raise self._error
        try:
            yield
        except SourceError as error:
            self._error = error
            raise

    def _decode_stream(self, stream: npt.NDArray[np.uint8]) -> Iterator[pa.RecordBatch]:
        at = _after_header(stream[: _HEADER.size].tobytes(), stream.size)
        total = last = 0
        state = kernels.MORE
        while state == kernels.MORE:
            starts = self._starts[: min(self._batch_rows - self._rows, _BLOCK_ROWS)]
            enough = min(self._batch_bytes - self._bytes, _BLOCK_BYTES)
            rows, end, state = kernels.scan_rows(stream, at, len(self._columns), enough, starts)
            if state not in (kernels.MORE, kernels.END):
                raise malformed(_SCAN_FAULTS[state])
            if rows:
                last = int(starts[rows - 1])
                self._append(stream, starts[:rows], end - at)
                total += rows
                if self._bytes >= self._batch_bytes or self._rows >= self._batch_rows:
                    yield self._cut()
            at = end
        if at + _TRAILER_BYTES != stream.size:
            raise malformed("bytes follow its trailer")
        self._last_row = stream[last:at].tobytes() if total else b""
        self.page_rows = total

    def _append(self, stream: npt.NDArray[np.uint8], pos: npt.NDArray[np.int64], size: int) -> None:
        """Decode the rows whose first fields stand at `pos`, `size` bytes in all."""
        for column in self._columns:
            column.append(stream, pos, self._rows)
        self._rows += pos.size
        self._bytes += size

    def _cut(self) -> pa.RecordBatch:
        arrays = [column.take(self._rows) for column in self._columns]
        self._rows = self._bytes = 0
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)


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
