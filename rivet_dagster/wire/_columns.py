"""Buffers that the columns of a wire protocol are decoded into. Importing this module does not import numba.

Buffers belong to the decoder and are used again for every batch: memory that has been touched once costs nothing
more. The arrays that `take` gives are views of them, good until the next batch begins.

A block of rows is handed over as a page and a tuple of positions, whose first array says where each row's next
field begins; what the others hold, if there are any, is between the protocol's decoder and its kernels. A kernel
decodes the field of every row and moves that position behind it. It gives how many NULLs it wrote, or `-1 - row`
for the first row that it refuses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rivet_dagster._memory import mapped
from rivet_dagster.errors import SourceError
from rivet_dagster.wire._refusals import invalid_text
from rivet_dagster.wire._storage import storage_type

FIRST_ROWS = 1024

Bytes: TypeAlias = "npt.NDArray[np.uint8]"
Positions: TypeAlias = "npt.NDArray[np.int64]"
Rows: TypeAlias = "tuple[Positions, ...]"


@dataclass(frozen=True)
class Target:
    """What the values of a column become.

    Attributes:
        field: the column's name, Arrow type and nullability.
        replaced: a counter a reason, for values that NULL replaces; empty where such values are refused.
        explain: takes page, positions and number of a row that a kernel refused, and says why.
        bytes_type: what the engine calls a type that holds any bytes.
    """

    field: pa.Field[Any]
    replaced: Positions
    explain: Callable[[Bytes, Rows, int], SourceError]
    bytes_type: str


class ColumnBuffers(ABC):
    """Buffers of one column of the batch being filled."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._null_count = 0
        self._replaced = target.replaced
        # One byte a value, 1 for NULL. Zeros cost nothing until touched, and most columns have no NULL.
        self._nulls = mapped(FIRST_ROWS if target.field.nullable else 0, np.uint8)

    def append(self, page: Bytes, rows: Rows, at: int) -> None:
        """Decode the next field of `rows` to the values from number `at` on."""
        if self._nulls.size:
            self._nulls = grown(self._nulls, at, at + rows[0].size)
        outcome = self._decode(page, rows, at)
        if outcome < 0:
            raise self._target.explain(page, rows, -1 - outcome)
        self._null_count += outcome

    def take(self, rows: int) -> pa.Array[Any]:
        """The first `rows` values as an Arrow array, good until the next `append`."""
        validity = None
        if self._null_count:
            validity = pa.py_buffer(np.packbits(self._nulls[:rows] == 0, bitorder="little").data)
            self._nulls[:rows] = 0
        arrow_type = self._target.field.type
        storage = storage_type(arrow_type)
        buffers, children = self._take_buffers(rows)
        array = pa.Array.from_buffers(storage, rows, [validity, *buffers], self._null_count, children=children)
        self._null_count = 0
        return array if storage == arrow_type else pa.ExtensionArray.from_storage(arrow_type, array)

    @abstractmethod
    def _decode(self, page: Bytes, rows: Rows, at: int) -> int:
        """Make room and call the kernel; gives what the kernel returns."""

    @abstractmethod
    def _take_buffers(self, rows: int) -> tuple[list[pa.Buffer], list[pa.Array[Any]]]:
        """Arrow's buffers of `rows` values, the validity left out, and the arrays inside of a nested one."""


@dataclass(frozen=True)
class Layout:
    """How values of one width are decoded.

    Attributes:
        kernel: takes page, positions, values, nulls and what follows here.
        item: what values are made of; whole bytes for booleans.
        items: how many of them a value has.
        replaces: whether the kernel takes counters of replaced values.
        target: what else the kernel must know.
    """

    kernel: Callable[..., int]
    item: type[np.generic]
    items: int = 1
    replaces: bool = False
    target: tuple[object, ...] = ()


class FixedBuffers(ColumnBuffers):
    """Values that all have the same width."""

    def __init__(self, target: Target, layout: Layout) -> None:
        super().__init__(target)
        self._layout = layout
        self._values = mapped(FIRST_ROWS * layout.items, layout.item)

    def _decode(self, page: Bytes, rows: Rows, at: int) -> int:
        layout = self._layout
        size = rows[0].size
        begin, end = at * layout.items, (at + size) * layout.items
        self._values = grown(self._values, begin, end)
        nulls = self._nulls[at : at + size]
        counters = (self._replaced,) if layout.replaces else ()
        return layout.kernel(page, *rows, self._values[begin:end], nulls, *counters, *layout.target)

    def _take_buffers(self, rows: int) -> tuple[list[pa.Buffer], list[pa.Array[Any]]]:
        values = self._values[: rows * self._layout.items]
        if pa.types.is_boolean(self._target.field.type):
            values = np.packbits(values, bitorder="little")
        return [pa.py_buffer(values.data)], []


class BytesBuffers(ColumnBuffers):
    """Values of any length: offsets, and the bytes end to end.

    Args:
        target: what the values become.
        measure: kernel that fills offsets; takes page, positions, offsets (the first one is given), nulls, `extra`.
        fill: kernel that copies the values; takes page, positions, offsets, data, `extra`.
        extra: what else the kernels must know.
    """

    def __init__(
        self, target: Target, measure: Callable[..., int], fill: Callable[..., None], extra: tuple[object, ...] = ()
    ) -> None:
        super().__init__(target)
        self._measure, self._fill, self._extra = measure, fill, extra
        self._is_text = pa.types.is_string(storage_type(target.field.type))
        self._offsets = mapped(FIRST_ROWS + 1, np.int32)
        self._data = mapped(16 * FIRST_ROWS, np.uint8)

    def _decode(self, page: Bytes, rows: Rows, at: int) -> int:
        end = at + rows[0].size
        self._offsets = grown(self._offsets, at + 1, end + 1)
        offsets = self._offsets[at : end + 1]
        outcome = self._measure(page, *rows, offsets, self._nulls[at:end], *self._extra)
        if outcome >= 0:
            self._data = grown(self._data, int(offsets[0]), int(offsets[-1]))
            self._fill(page, *rows, offsets, self._data, *self._extra)
        return outcome

    def _take_buffers(self, rows: int) -> tuple[list[pa.Buffer], list[pa.Array[Any]]]:
        offsets = self._offsets[: rows + 1]
        data = self._data[: offsets[-1]]
        buffers = [pa.py_buffer(offsets.data), pa.py_buffer(data.data)]
        # Columns without an encoding may hold any byte. ASCII, told at next to no cost, is UTF-8.
        if self._is_text and data.max(initial=0) >= 0x80:
            try:
                pa.Array.from_buffers(pa.string(), rows, [None, *buffers]).validate(full=True)
            except pa.ArrowInvalid:
                raise invalid_text(self._target.field, self._target.bytes_type) from None
        return buffers, []


def grown(buffer: npt.NDArray[Any], used: int, needed: int) -> npt.NDArray[Any]:
    """`buffer`, or where it is shorter than `needed` a copy of its first `used` items in one that is not."""
    if needed <= buffer.size:
        return buffer
    larger = mapped(max(needed, 2 * buffer.size), buffer.dtype)
    larger[:used] = buffer[:used]
    return larger
