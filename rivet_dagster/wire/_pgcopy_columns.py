"""Buffers that columns of PostgreSQL's binary COPY format are decoded into. Importing this module imports numba."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from rivet_dagster._memory import mapped
from rivet_dagster.errors import SourceError
from rivet_dagster.wire import _pgcopy_kernels as kernels
from rivet_dagster.wire._columns import (
    FIRST_ROWS,
    Bytes,
    BytesBuffers,
    ColumnBuffers,
    FixedBuffers,
    Layout,
    Positions,
    Rows,
    Target,
    grown,
)
from rivet_dagster.wire._decimals import decimal_target
from rivet_dagster.wire._pgcopy_forms import EPOCH_DAYS, EPOCH_MICROSECONDS, REASONS, Form, WireColumn, gives
from rivet_dagster.wire._pgcopy_nested import decode_interval, measure_lists, place_elements
from rivet_dagster.wire._pgcopy_numeric import decode_numeric
from rivet_dagster.wire._pgcopy_refusals import refusal, split_fields
from rivet_dagster.wire._storage import DAY_MICROSECONDS, DECIMALS, Decimal, storage_type


class _IntervalBuffers(ColumnBuffers):
    """Intervals, as three numbers each."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._parts = [mapped(FIRST_ROWS, item) for item in (np.int32, np.int32, np.int64)]

    def _decode(self, page: Bytes, rows: Rows, at: int) -> int:
        (pos,) = rows
        end = at + pos.size
        self._parts = [grown(part, at, end) for part in self._parts]
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

    def __init__(self, target: Target, column: WireColumn) -> None:
        super().__init__(target)
        list_type = storage_type(column.field.type)
        assert isinstance(list_type, pa.ListType)
        assert column.elements is not None
        self._type_id = column.elements.type_id
        # Errors name the table's column, so its elements go by its name.
        field = pa.field(column.field.name, list_type.value_type, list_type.value_field.nullable)
        self._elements = column_buffers(
            WireColumn(field, column.elements.form, replace=column.replace), target.replaced
        )
        self._offsets = mapped(FIRST_ROWS + 1, np.int32)
        self._starts = np.empty(0, np.int64)

    def _decode(self, page: Bytes, rows: Rows, at: int) -> int:
        (pos,) = rows
        end = at + pos.size
        self._offsets = grown(self._offsets, at + 1, end + 1)
        offsets = self._offsets[at : end + 1]
        outcome = measure_lists(page, pos, offsets, self._nulls[at:end], self._replaced, self._type_id)
        if outcome >= 0:
            starts = np.empty(int(offsets[-1] - offsets[0]), np.int64)
            place_elements(page, pos, offsets, starts)
            self._elements.append(page, (starts,), int(offsets[0]))
        return outcome

    def _take_buffers(self, rows: int) -> tuple[list[pa.Buffer], list[pa.Array[Any]]]:
        offsets = self._offsets[: rows + 1]
        return [pa.py_buffer(offsets.data)], [self._elements.take(int(offsets[-1]))]


def _bounds(shift: int, bits: int) -> tuple[tuple[int, int, int, int]]:
    """What `decode_moment` must know; the least and the greatest number of `bits` are the infinities."""
    return ((shift, 1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1 - max(shift, 1), 2 ** (bits - 1) - 1),)


_TIME_OF_DAY = ((0, 0, DAY_MICROSECONDS - 1, 2**63 - 1),)

_LAYOUTS = {
    Form.BOOL: Layout(kernels.decode_bool, np.uint8),
    Form.INT2: Layout(kernels.decode_number, np.int16),
    Form.INT4: Layout(kernels.decode_number, np.int32),
    Form.INT8: Layout(kernels.decode_number, np.int64),
    Form.UINT4: Layout(kernels.decode_number, np.int32),
    Form.UINT8: Layout(kernels.decode_number, np.int64),
    Form.FLOAT4: Layout(kernels.decode_number, np.int32),
    Form.FLOAT8: Layout(kernels.decode_number, np.int64),
    Form.DATE: Layout(kernels.decode_moment, np.int32, replaces=True, target=_bounds(EPOCH_DAYS, 32)),
    Form.TIME: Layout(kernels.decode_moment, np.int64, replaces=True, target=_TIME_OF_DAY),
    Form.TIMESTAMP: Layout(kernels.decode_moment, np.int64, replaces=True, target=_bounds(EPOCH_MICROSECONDS, 64)),
    Form.UUID: Layout(kernels.decode_uuid, np.uint8, items=16),
}


def _numeric_layout(decimal: Decimal) -> Layout:
    target = (decimal_target(decimal),)
    return Layout(decode_numeric, np.uint64, items=decimal.byte_width // 8, replaces=True, target=target)


def column_buffers(column: WireColumn, replaced: Positions | None = None) -> ColumnBuffers:
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

    def explain(page: Bytes, rows: Rows, row: int) -> SourceError:
        return refusal(column, next(split_fields(page[rows[0][row] :].data)))

    target = Target(column.field, replaced, explain, "bytea")
    storage = storage_type(column.field.type)
    if isinstance(storage, DECIMALS):
        return FixedBuffers(target, _numeric_layout(storage))
    if column.form in _LAYOUTS:
        return FixedBuffers(target, _LAYOUTS[column.form])
    if column.form is Form.INTERVAL:
        return _IntervalBuffers(target)
    if column.form is Form.LIST:
        return _ListBuffers(target, column)
    prefix = 1 if column.form is Form.JSONB else 0
    return BytesBuffers(target, kernels.measure_bytes, kernels.copy_bytes, (prefix,))


def replacement_counters(column: WireColumn) -> Positions:
    """A counter for each of `REASONS`; none where a value that Arrow cannot hold is refused."""
    return np.zeros(len(REASONS) if column.replace else 0, np.int64)
