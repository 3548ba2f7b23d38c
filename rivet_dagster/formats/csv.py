"""CSV parts, as RFC 4180 has them: a header, commas, quotes that are doubled inside of quotes. UTF-8, lines end in LF.

Texts, bytes, JSON, intervals and lists are always in quotes, everything else never is. So NULL is nothing between two
commas, and a text without characters is `""`. How each type looks is in docs/reference/types.md.
"""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from rivet_dagster.formats import _csv_kernels as kernels
from rivet_dagster.formats._csv_text import Texts, fixed, texts

Compression = Literal["gzip", "zstd", "none"]
# The fastest: the next levels save a tenth of the size for twice the time.
_GZIP_LEVEL = 1
# Rows whose texts stay in the processor's cache until they are joined.
_BLOCK_ROWS = 8 << 10
_READ_BYTES = 1 << 20
_QUOTE, _NEWLINE = 0x22, 0x0A


class CsvPartWriter:
    """One CSV file.

    The bytes depend on the batches and, where they are compressed, on zlib's or pyarrow's version: no clock, no host.

    Args:
        path: local file to create.
        first: the first batch, whose column names become the header; its rows are not written yet.
        compression: of the whole file, `none` for none.
    """

    def __init__(self, path: Path, first: pa.RecordBatch, *, compression: Compression) -> None:
        self.rows = 0
        self._file = pa.OSFile(str(path), "wb")
        self._sink = _compressed(self._file, compression)
        try:
            self._sink.write(csv_header(first.schema))
        except OSError:
            self.abandon()
            raise

    @property
    def bytes_written(self) -> int:
        """Bytes in the file so far, without those that the compressor still holds."""
        return int(self._file.tell())

    def write(self, batch: pa.RecordBatch) -> None:
        """Append the rows of a batch.

        Raises:
            TypeError: a column has a type that exports do not have.
            OSError: the file cannot be written.
        """
        for start in range(0, batch.num_rows, _BLOCK_ROWS):
            self._sink.write(csv_rows(batch.slice(start, _BLOCK_ROWS)))
        self.rows += batch.num_rows

    def close(self) -> None:
        """Complete and close the file.

        Raises:
            OSError: the file cannot be written.
        """
        self._sink.close()
        self._file.close()

    def abandon(self) -> None:
        """Close the file, whatever is in it."""
        with suppress(OSError, pa.ArrowException):
            self._sink.close()
        with suppress(OSError):
            self._file.close()


class _Gzip:
    """Compresses a file, with a header that holds no name and no time."""

    def __init__(self, file: pa.OSFile) -> None:
        self._file = file
        self._compressor = zlib.compressobj(_GZIP_LEVEL, wbits=16 + zlib.MAX_WBITS)
        self._closed = False

    def write(self, data: bytes | memoryview) -> None:
        self._file.write(self._compressor.compress(data))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._file.write(self._compressor.flush())


def _compressed(file: pa.OSFile, compression: Compression) -> Any:
    if compression == "none":
        return file
    return _Gzip(file) if compression == "gzip" else pa.CompressedOutputStream(file, compression)


def csv_header(schema: pa.Schema) -> bytes:
    """The line with the names of the columns, all in quotes."""
    return ",".join('"' + name.replace('"', '""') + '"' for name in schema.names).encode() + b"\n"


def csv_rows(batch: pa.RecordBatch) -> memoryview:
    """The lines of a batch, without a header.

    Raises:
        TypeError: a column has a type that exports do not have.
    """
    columns = [texts(column) for column in batch.columns]
    styles = np.array([_style(column) for column in columns], np.uint8)
    starts = np.cumsum([0, *(column.data.size for column in columns)])
    offsets = np.stack([column.offsets + start for column, start in zip(columns, starts[:-1], strict=True)])
    room = sum(
        column.data.size * (1 + (style == kernels.DOUBLED)) for column, style in zip(columns, styles, strict=True)
    )
    out = np.empty(room + 3 * offsets.size, np.uint8)
    size = kernels.join_rows(
        fixed(np.concatenate([column.data for column in columns])),
        fixed(offsets),
        fixed(np.stack([column.valid for column in columns])),
        fixed(styles),
        out,
    )
    return out[:size].data


def _style(column: Texts) -> int:
    if not column.quoted:
        return kernels.PLAIN
    return kernels.DOUBLED if bool((column.data == _QUOTE).any()) else kernels.QUOTED


def count_rows(path: Path) -> int:
    """Number of rows in a part, by its line ends outside of quotes; its suffix says how it is compressed.

    Raises:
        pyarrow.ArrowException, OSError: the file is not compressed as its suffix says.
    """
    ends, inside = 0, np.uint8(0)
    with pa.input_stream(str(path)) as stream:
        while block := stream.read(_READ_BYTES):
            data = np.frombuffer(block, np.uint8)
            # 1 between quotes. A doubled quote leaves and enters again.
            within = np.bitwise_xor.accumulate(np.concatenate([[inside], (data == _QUOTE).view(np.uint8)]))[1:]
            ends += int(np.count_nonzero((data == _NEWLINE) & (within == 0)))
            inside = within[-1]
    return ends - 1


def warm() -> None:
    """Load every compiled loop, compiling it into numba's cache if it is not there."""
    # From buffers: Python values would make pyarrow import pandas.
    zeros, offsets = pa.py_buffer(bytes(16)), pa.py_buffer(struct.pack("=2i", 0, 1))
    kinds = (pa.decimal128(9, 2), pa.date32(), pa.time64("us"), pa.timestamp("us"))
    columns: list[pa.Array[Any]] = [pa.Array.from_buffers(kind, 1, [None, zeros]) for kind in kinds]
    text = pa.Array.from_buffers(pa.string(), 1, [None, offsets, pa.py_buffer(b"a")])
    columns.append(pa.Array.from_buffers(pa.list_(pa.string()), 1, [None, offsets], children=[text]))
    csv_rows(pa.RecordBatch.from_arrays(columns, [str(number) for number in range(len(columns))]))
