"""Parquet parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from rivet_dagster.formats._encodings import Codec, choose_encodings
from rivet_dagster.formats._footer import set_created_by

Compression = Literal["zstd", "snappy", "lz4", "gzip", "none"]
SUFFIX = "parquet"
_BYTES_AT_A_TIME = 128 << 10
_VALUES_AT_A_TIME = 1024
# What files say of their writer. No version of this package: equal rows shall give equal bytes in every one of them.
CREATED_BY = "rivet-dagster version 1.0.0 (build rivet-parquet-1)"


class ParquetPartWriter:
    """One Parquet file; every batch becomes one row group.

    The bytes depend on the batches and on pyarrow's version alone: one writer, one thread, no clock, no host.

    Args:
        path: local file to create.
        first: the first batch, which decides the encodings; it is not written yet.
        compression: codec of the columns that it makes smaller, `none` for none.
        level: the codec's level; None for its default.
    """

    def __init__(self, path: Path, first: pa.RecordBatch, *, compression: Compression, level: int | None) -> None:
        self.rows = 0
        codec = Codec(compression, level if compression in ("zstd", "gzip") else None)
        encodings = choose_encodings(first, codec)
        self._path = path
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pq.ParquetWriter(
            self._sink,
            first.schema,
            store_decimal_as_integer=True,
            # Minima and maxima of pages of 20,000 rows: a few hundred bytes a row group, no time to speak of.
            write_page_index=True,
            write_batch_size=_values_at_a_time(first),
            **encodings.options(),
        )

    @property
    def bytes_written(self) -> int:
        """Bytes in the file so far."""
        return int(self._sink.tell())

    def write(self, batch: pa.RecordBatch) -> None:
        """Append a batch as one row group."""
        # The row group's size is given: pyarrow would cut at its own default otherwise.
        self._writer.write_batch(batch, row_group_size=max(batch.num_rows, 1))
        self.rows += batch.num_rows
        # What the encoders took goes back to the system: with several workers it would add up from window to window.
        pa.default_memory_pool().release_unused()

    def close(self) -> None:
        """Write the footer and close the file.

        Raises:
            OSError: the file cannot be written.
        """
        self._writer.close()
        self._sink.close()
        set_created_by(self._path, CREATED_BY)

    def abandon(self) -> None:
        """Close the file without a footer of use."""
        with suppress(OSError, pa.ArrowException):
            self._writer.close()
        with suppress(OSError):
            self._sink.close()


def _values_at_a_time(first: pa.RecordBatch) -> int:
    """How many values the encoders take before they look whether a page is full.

    A thousand values of 40 kB would make one page of 40 MB, which is held several times while it is encoded.
    """
    widest = max((column.nbytes for column in first.columns), default=0) // max(first.num_rows, 1)
    return max(1, min(_VALUES_AT_A_TIME, _BYTES_AT_A_TIME // max(widest, 1)))


def read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """The rows of a part, a row group at a time.

    Raises:
        pyarrow.ArrowException, OSError: the file is no whole Parquet file.
    """
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield from file.read_row_group(group, use_threads=False).to_batches()
