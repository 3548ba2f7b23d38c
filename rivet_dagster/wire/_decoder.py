"""What the decoders of all protocols do alike: batches that end where the rows say, counts, and errors that last."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa

from rivet_dagster.errors import SourceError
from rivet_dagster.wire._columns import Bytes, ColumnBuffers, Positions, Rows

# A block and the positions of its rows stay in the processor's cache while every column passes over them.
BLOCK_BYTES = 1 << 20
BLOCK_ROWS = 16 << 10


class PageDecoder(ABC):
    """Turns pages of one result into Arrow batches that end where the rows say, never where a page ends.

    A batch ends with the first row at which the bytes of its rows reach `batch_bytes` or their number reaches
    `batch_rows`; its memory is used again for the next one. After an error the decoder is of no use: every later
    call raises that error again, so that nobody takes the rows before it for a whole answer.

    Args:
        schema: of the batches.
        columns: the buffers of each column.
        counters: for each column a counter a reason, of values that NULL replaced, or none.
        reasons: the names of the counters.
        batch_bytes: bytes of rows as they come.
        batch_rows: rows.

    Raises:
        ValueError: a limit below 1, or no columns: a batch of none has no number of rows.
    """

    def __init__(
        self,
        schema: pa.Schema,
        columns: Sequence[ColumnBuffers],
        counters: Sequence[Positions],
        reasons: Sequence[str],
        *,
        batch_bytes: int,
        batch_rows: int,
    ) -> None:
        if batch_bytes < 1 or batch_rows < 1:
            raise ValueError("batch_bytes and batch_rows must be at least 1")
        if not columns:
            raise ValueError("a result has at least one column")
        self.schema = schema
        self.page_rows = 0
        self._columns = columns
        self._counters = dict(zip(schema.names, counters, strict=True))
        self._reasons = reasons
        self._batch_bytes = batch_bytes
        self._batch_rows = batch_rows
        self._rows = self._bytes = 0
        self._last_row = b""
        self._rows_ahead = 0
        self._error: SourceError | None = None

    @property
    def _is_full(self) -> bool:
        return self._bytes >= self._batch_bytes or self._rows >= self._batch_rows

    def decode(self, page: Bytes, length: int) -> Iterator[pa.RecordBatch]:
        """Decode the rows in the first `length` bytes of `page`; gives each batch as soon as it is complete.

        Take every batch, and let go of it before the next, which uses its memory again. Afterwards `page_rows` is
        the number of rows that the page held.

        Raises:
            SourceError: RIVET_PROTOCOL_ERROR for bytes that are no such rows or not all of them;
                RIVET_VALUE_UNSUPPORTED for a value that the column's Arrow type cannot hold exactly;
                RIVET_VALUE_TOO_LARGE for more than 2 GiB in one column of a batch.
        """
        stream = page[:length]
        if not stream.flags.writeable:
            stream = stream.copy()  # numba would compile every kernel once more for read-only arrays
        with self._ending_at_errors():
            if self._is_full:
                yield self._cut()
            total = self._rows_ahead
            for rows, size in self._blocks(stream):
                self._append(stream, rows, size)
                total += rows[0].size
                if self._is_full:
                    yield self._cut()
            self.page_rows, self._rows_ahead = total, 0

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
            for name, counters in self._counters.items()
            for reason, count in zip(self._reasons, counters, strict=False)
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
            fields = [None if field is None else bytes(field) for field in self._fields(memoryview(self._last_row))]
            return [fields[index] for index in indices]

    @abstractmethod
    def _blocks(self, stream: Bytes) -> Iterator[tuple[Rows, int]]:
        """The stream's rows in blocks, each within `_room`, with the bytes that they count; at the end `_last_row`."""

    @abstractmethod
    def _fields(self, row: memoryview) -> Iterator[memoryview | None]:
        """The fields of what `_last_row` holds, without their lengths."""

    def _room(self) -> tuple[int, int]:
        """The most rows that the next block may have, and the bytes at which it ends."""
        return min(self._batch_rows - self._rows, BLOCK_ROWS), min(self._batch_bytes - self._bytes, BLOCK_BYTES)

    def _append(self, stream: Bytes, rows: Rows, size: int) -> None:
        """Decode the rows whose first fields stand at `rows[0]`, `size` bytes in all."""
        for column in self._columns:
            column.append(stream, rows, self._rows)
        self._rows += rows[0].size
        self._bytes += size

    def _cut(self) -> pa.RecordBatch:
        arrays = [column.take(self._rows) for column in self._columns]
        self._rows = self._bytes = 0
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    @contextmanager
    def _ending_at_errors(self) -> Iterator[None]:
        if self._error is not None:
            raise self._error
        try:
            yield
        except SourceError as error:
            self._error = error
            raise
