"""Buffers that columns of PostgreSQL's binary COPY format are decoded into. Importing this module imports numba.

Buffers belong to the decoder and are used again for every batch: memory that has been touched once costs nothing
more. The arrays that `take` gives are views of them, good until the next batch begins.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rivet_dagster._memory import mapped
from rivet_dagster.wire import _pgcopy_kernels as kernels
from rivet_dagster.wire._pgcopy_forms import (
    DAY_MICROSECONDS,
    DECIMALS,
    EPOCH_DAYS,
    EPOCH_MICROSECONDS,
    REASONS,
    Decimal,
    Form,
    WireColumn,
    gives,
    storage_type,
)
from rivet_dagster.wire._pgcopy_nested import decode_interval, measure_lists, place_elements
from rivet_dagster.wire._pgcopy_numeric import decode_numeric
from rivet_dagster.wire._pgcopy_refusals import invalid_text, refusal, split_fields

_FIRST_ROWS = 1024

_Bytes = npt.NDArray[np.uint8]
_Positions = npt.NDArray[np.int64]


class ColumnBuffers(ABC):
    """Buffers of one column of the batch being filled.

    Args:
        column: what is decoded.
        replaced: counters of the values that NULL replaces; empty where such values are refused.
    """

    def __init__(self, column: WireColumn, replaced: _Positions) -> None:
        self._column = column
        self._null_count = 0
        self._replaced = replaced
        # One byte a value, 1 for NULL. Zeros cost nothing until touched, and most columns have no NULL.
        self._nulls = mapped(_FIRST_ROWS if column.field.nullable else 0, np.uint8)

    def append(self, page: _Bytes, pos: _Positions, at: int) -> None:
        """Decode the fields at `pos` to the values from number `at` on, and move `pos` behind them."""
        if self._nulls.size:
            self._nulls = _grown(self._nulls, at, at + pos.size)
        outcome = self._decode(page, pos, at)
        if outcome < 0:
            raise refusal(self._column, next(split_fields(page[pos[-1 - outcome] :].data)))
        self._null_count += outcome

    def take(self, rows: int) -> pa.Array[Any]:
        """The first `rows` values as an Arrow array, good until the next `append`."""
        validity = None
        if self._null_count:
            validity = pa.py_buffer(np.packbits(self._nulls[:rows] == 0, bitorder="little").data)
            self._nulls[:rows] = 0
        arrow_type = self._column.field.type
        storage = storage_type(arrow_type)
        buffers, children = self._take_buffers(rows)
        array = pa.Array.from_buffers(storage, rows, [validity, *buffers], self._null_count, children=children)
        self._null_count = 0
        return array if storage == arrow_type else pa.ExtensionArray.from_storage(arrow_type, array)

    @abstractmethod
    def _decode(self, page: _Bytes, pos: _Positions, at: int) -> int:
        """Make room and call the kernel; gives what the kernel returns."""

    @abstractmethod
    def _take_buffers(self, rows: int) -> tuple[list[pa.Buffer], list[pa.Array[Any]]]:
        """Arrow's buffers of `rows` values, the validity left out, and the arrays inside of a nested one."""


@dataclass(frozen=True)
class _Layout:
    """How values of one width are decoded.

    Attributes:
        kernel: takes page, pos, values, nulls and what follows here.
        item: what values are made of.
        items: how many of them a value has.
        replaces: whether the kernel takes counters of replaced values.
        target: what else the kernel must know.
    """

    kernel: Callable[..., int]
    item: type[np.generic]
    items: int = 1
    replaces: bool = False
    target: tuple[object, ...] = ()


class _FixedBuffers(ColumnBuffers):
    """Values that all have the same width."""

    def __init__(self, column: WireColumn, replaced: _Positions, layout: _Layout) -> None:
        super().__init__(column, replaced)
        self._layout = layout
        self._values = mapped(_FIRST_ROWS * layout.items, layout.item)

    def _decode(self, page: _Bytes, pos: _Positions, at: int) -> int:
        layout = self._layout
        begin, end = at * layout.items, (at + pos.size) * layout.items
        self._values = _grown(self._values, begin, end)
        nulls = self._nulls[at : at + pos.size]
        counters = (self._replaced,) if layout.replaces else ()
        return layout.kernel(page, pos, self._values[begin:end], nulls, *counters, *layout.target)

    def _take_buffers(self, rows: int) -> tuple[list[pa.Buffer], list[pa.Array[Any]]]:
        values = self._values[: rows * self._layout.items]
        if self._column.form is Form.BOOL:
            values = np.packbits(values, bitorder="little")
        return [pa.py_buffer(values.data)], []


class _BytesBuffers(ColumnBuffers):
    """Values of any length: offsets, and the bytes end to end."""

    def __init__(self, column: WireColumn, replaced: _Positions) -> None:
        super().__init__(column, replaced)
        self._is_text = pa.types.is_string(storage_type(column.field.type))
        self._prefix = 1 if column.form is Form.JSONB else 0
        self._offsets = mapped(_FIRST_ROWS + 1, np.int32)
        self._data = mapped(16 * _FIRST_ROWS, np.uint8)

    def _decode(self, page: _Bytes, pos: _Positions, at: int) -> int:
        end = at + pos.size
        self._offsets = _grown(self._offsets, at + 1, end + 1)
        offsets = self._offsets[at : end + 1]
        outcome = kernels.measure_bytes(page, pos, offsets, self._nulls[at:end], self._prefix)
        if outcome >= 0:
            self._data = _grown(self._data, int(offsets[0]), int(offsets[-1]))
            kernels.copy_bytes(page, pos, offsets, self._data, self._prefix)
        return outcome

    def _take_buffers(self, rows: int) -> tuple[list[pa.Buffer], list[pa.Array[Any]]]:
        offsets = self._offsets[: rows + 1]
        data = self._data[: offsets[-1]]
        buffers = [pa.py_buffer(offsets.data), pa.py_buffer(data.data)]
        # "char" and databases without an encoding may hold any byte. ASCII, told at next to no cost, is UTF-8.
        if self._is_text and data.max(initial=0) >= 0x80:
            try:
                pa.Array.from_buffers(pa.string(), rows, [None, *buffers]).validate(full=True)
            except pa.ArrowInvalid:
                raise invalid_text(self._column) from None
        return buffers, []


class _IntervalBuffers(ColumnBuffers):
    """Intervals, as three numbers each."""

    def __init__(self, column: WireColumn, replaced: _Positions) -> None:
        super().__init__(column, replaced)
        self._parts = [mapped(_FIRST_ROWS, item) for item in (np.int32, np.int32, np.int64)]

    def _decode(self, page: _Bytes, pos: _Positions, at: int) -> int:
        end = at + pos.size
        self._parts = [_grown(part, at, end) for part in self._parts]
        months, days, microseconds = (part[at:end] for part in self._parts)
        return decode_interval(page, pos, months, days, microseconds, self._nulls[at:end], self._replaced)

    def _take_buffers(self, rows: int) -> tuple[list[pa.Buffer], list[pa.Array[Any]]]:
        types = (pa.int32(), pa.int32(), pa.int64())
        return [], [
            pa.Array.from_buffers(kind, rows, [None, pa.py_buffer(part[:rows].data)], 0)
            for kind, part in zip(types, self._parts, strict=True)
        ]


class _ListBuffers(ColumnBuffers):
    """Arrays: offsets, and the column that their elements make."""

    def __init__(self, column: WireColumn, replaced: _Positions) -> None:
        super().__init__(column, replaced)
        list_type = storage_type(column.field.type)
        assert isinstance(list_type, pa.ListType)
        assert column.elements is not None
        self._type_id = column.elements.type_id
        # Errors name the table's column, so its elements go by its name.
        field = pa.field(column.field.name, list_type.value_type, list_type.value_field.nullable)
        self._elements = column_buffers(WireColumn(field, column.elements.form, replace=column.replace), replaced)
        self._offsets = mapped(_FIRST_ROWS + 1, np.int32)
        self._starts = np.empty(0, np.int64)

    def _decode(self, page: _Bytes, pos: _Positions, at: int) -> int:
        end = at + pos.size
        self._offsets = _grown(self._offsets, at + 1, end + 1)
        offsets = self._offsets[at : end + 1]
        outcome = measure_lists(page, pos, offsets, self._nulls[at:end], self._replaced, self._type_id)
        if outcome >= 0:
            starts = np.empty(int(offsets[-1] - offsets[0]), np.int64)
            place_elements(page, pos, offsets, starts)
            self._elements.append(page, starts, int(offsets[0]))
        return outcome

    def _take_buffers(self, rows: int) -> tuple[list[pa.Buffer], list[pa.Array[Any]]]:
        offsets = self._offsets[: rows + 1]
        return [pa.py_buffer(offsets.data)], [self._elements.take(int(offsets[-1]))]


def _bounds(shift: int, bits: int) -> tuple[tuple[int, int, int, int]]:
    """What `decode_moment` must know; the least and the greatest number of `bits` are the infinities."""
    return ((shift, 1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1 - max(shift, 1), 2 ** (bits - 1) - 1),)


_TIME_OF_DAY = ((0, 0, DAY_MICROSECONDS - 1, 2**63 - 1),)

_LAYOUTS = {
    Form.BOOL: _Layout(kernels.decode_bool, np.uint8),
    Form.INT2: _Layout(kernels.decode_number, np.int16),
    Form.INT4: _Layout(kernels.decode_number, np.int32),
    Form.INT8: _Layout(kernels.decode_number, np.int64),
    Form.UINT4: _Layout(kernels.decode_number, np.int32),
    Form.UINT8: _Layout(kernels.decode_number, np.int64),
    Form.FLOAT4: _Layout(kernels.decode_number, np.int32),
    Form.FLOAT8: _Layout(kernels.decode_number, np.int64),
    Form.DATE: _Layout(kernels.decode_moment, np.int32, replaces=True, target=_bounds(EPOCH_DAYS, 32)),
    Form.TIME: _Layout(kernels.decode_moment, np.int64, replaces=True, target=_TIME_OF_DAY),
    Form.TIMESTAMP: _Layout(kernels.decode_moment, np.int64, replaces=True, target=_bounds(EPOCH_MICROSECONDS, 64)),
    Form.UUID: _Layout(kernels.decode_uuid, np.uint8, items=16),
}


def _numeric_layout(decimal: Decimal) -> _Layout:
    limbs = decimal.byte_width // 4
    bound = 10**decimal.precision
    limit = np.frombuffer(bound.to_bytes(decimal.byte_width, "little"), "<u4").astype(np.uint64)
    target = (decimal.scale, min(bound, 2**63 - 1), limit, np.zeros_like(limit))
    return _Layout(decode_numeric, np.uint64, items=limbs // 2, replaces=True, target=(target,))


_CLASSES: dict[Form, type[ColumnBuffers]] = {
    Form.BYTES: _BytesBuffers,
    Form.JSONB: _BytesBuffers,
    Form.INTERVAL: _IntervalBuffers,
    Form.LIST: _ListBuffers,
}


def column_buffers(column: WireColumn, replaced: _Positions | None = None) -> ColumnBuffers:
    """Empty buffers for `column`.

    Args:
        column: what will be decoded.
        replaced: counters that it adds to; None for new ones.

    Raises:
        ValueError: the form does not give the Arrow type, or NULL shall replace values where none may be.
    """
    if not gives(column) or (column.replace and not column.field.nullable):
        raise ValueError(f"wire form {column.form.value} does not give {column.field.type}")
    if replaced is None:
        replaced = replacement_counters(column)
    storage = storage_type(column.field.type)
    if isinstance(storage, DECIMALS):
        return _FixedBuffers(column, replaced, _numeric_layout(storage))
    if column.form in _LAYOUTS:
        return _FixedBuffers(column, replaced, _LAYOUTS[column.form])
    return _CLASSES[column.form](column, replaced)


def replacement_counters(column: WireColumn) -> _Positions:
    """A counter for each of `REASONS`; none where a value that Arrow cannot hold is refused."""
    return np.zeros(len(REASONS) if column.replace else 0, np.int64)


def _grown(buffer: npt.NDArray[Any], used: int, needed: int) -> npt.NDArray[Any]:
    """`buffer`, or where it is shorter than `needed` a copy of its first `used` items in one that is not."""
    if needed <= buffer.size:
        return buffer
    larger = mapped(max(needed, 2 * buffer.size), buffer.dtype)
    larger[:used] = buffer[:used]
    return larger
