"""Buffers that columns of MySQL's binary rows are decoded into. Importing this module imports numba."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from rivet_dagster.errors import SourceError
from rivet_dagster.wire import _mysqlrows_kernels as kernels
from rivet_dagster.wire import _mysqlrows_values as values
from rivet_dagster.wire._columns import (
    Bytes,
    BytesBuffers,
    ColumnBuffers,
    FixedBuffers,
    Layout,
    Positions,
    Rows,
    Target,
)
from rivet_dagster.wire._decimals import decimal_target
from rivet_dagster.wire._mysqlrows_decimal import decode_decimal
from rivet_dagster.wire._mysqlrows_forms import REASONS, Form, WireColumn, gives
from rivet_dagster.wire._mysqlrows_refusals import refusal
from rivet_dagster.wire._storage import DECIMALS, storage_type

_NUMBERS: dict[Form, type[np.generic]] = {
    Form.INT1: np.int8,
    Form.INT2: np.int16,
    Form.INT4: np.int32,
    Form.INT8: np.int64,
    Form.FLOAT4: np.int32,
    Form.FLOAT8: np.int64,
}

_CHECKED: dict[Form, Layout] = {
    Form.BOOL: Layout(values.decode_bits, np.uint8, replaces=True, target=(True,)),
    Form.DATE: Layout(values.decode_date, np.int32, replaces=True, target=(True,)),
    Form.DATETIME: Layout(values.decode_date, np.int64, replaces=True, target=(False,)),
    Form.TIME: Layout(values.decode_time, np.int64, replaces=True),
    Form.BIT: Layout(values.decode_bits, np.uint64, replaces=True, target=(False,)),
}


def column_buffers(column: WireColumn, number: int, replaced: Positions) -> ColumnBuffers:
    """Empty buffers for `column`, which is the rows' column `number`; `replaced` are its counters.

    Raises:
        ValueError: the form does not give the Arrow type, or NULL shall replace values where none may be.
    """
    if not gives(column) or (column.replace and not column.field.nullable):
        raise ValueError(f"wire form {column.form.value} does not give {column.field.type}")

    def explain(page: Bytes, rows: Rows, row: int) -> SourceError:
        pos, starts, ends = (int(positions[row]) for positions in rows)
        missing = kernels.is_null(page, starts, number)
        return refusal(column, None if missing else page[pos:ends].tobytes())

    target = Target(column.field, replaced, explain, "a binary type")
    if column.form is Form.BYTES:
        return BytesBuffers(target, kernels.measure_bytes, kernels.copy_bytes, (number,))
    return FixedBuffers(target, _layout(column, number))


def _layout(column: WireColumn, number: int) -> Layout:
    storage = storage_type(column.field.type)
    if isinstance(storage, DECIMALS):
        target = (number, decimal_target(storage))
        return Layout(decode_decimal, np.uint64, items=storage.byte_width // 8, target=target)
    if column.form is Form.UUID:
        return Layout(kernels.decode_uuid, np.uint8, items=16, target=(number,))
    if column.form in _NUMBERS:
        return Layout(kernels.decode_number, _NUMBERS[column.form], target=(number,))
    layout = _CHECKED[column.form]
    item = np.uint8 if pa.types.is_boolean(storage) else layout.item
    return replace(layout, item=item, target=(number, *layout.target))


def replacement_counters(column: WireColumn) -> Positions:
    """A counter for each of `REASONS`; none where a value that Arrow cannot hold is refused."""
    return np.zeros(len(REASONS) if column.replace else 0, np.int64)
