"""PostgreSQL's types: which wire form each has in COPY BINARY, and which Arrow type it becomes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from rivet_dagster.errors import unsupported_types
from rivet_dagster.sources.base import Column, Table

if TYPE_CHECKING:
    from rivet_dagster.wire.pgcopy import WireColumn

NATIVE_TYPE_KEY = b"rivet.native_type"
_NUMERIC = 1700
_NUMERIC_MODIFIER_BASE = 4

# Type oid -> (wire form, Arrow type). Oids of built-in types are the same in every database and version.
_FIXED: dict[int, tuple[str, Callable[[], pa.DataType]]] = {
    16: ("bool", pa.bool_),
    17: ("bytes", pa.binary),
    20: ("int8", pa.int64),
    21: ("int2", pa.int16),
    23: ("int4", pa.int32),
    25: ("bytes", pa.string),
    114: ("bytes", pa.json_),
    700: ("float4", pa.float32),
    701: ("float8", pa.float64),
    1042: ("bytes", pa.string),
    1043: ("bytes", pa.string),
    1082: ("date", pa.date32),
    1114: ("timestamp", lambda: pa.timestamp("us")),
    1184: ("timestamp", lambda: pa.timestamp("us", "UTC")),
    2950: ("uuid", pa.uuid),
    3802: ("jsonb", pa.json_),
}


def numeric_shape(modifier: int) -> tuple[int, int] | None:
    """Precision and scale of a declared numeric; None for one without, whose values have no common scale."""
    if modifier < _NUMERIC_MODIFIER_BASE:
        return None
    packed = modifier - _NUMERIC_MODIFIER_BASE
    scale = packed & 0x7FF
    # Eleven bits, signed: numeric(3,-2) is legal since PostgreSQL 15.
    return packed >> 16 & 0xFFFF, scale - 0x800 if scale & 0x400 else scale


def _mapping(column: Column) -> tuple[str, pa.DataType] | None:
    if column.type_id == _NUMERIC:
        shape = numeric_shape(column.type_modifier)
        if shape is None or shape[0] > 76 or not 0 <= shape[1] <= shape[0]:
            return None
        precision, scale = shape
        return "numeric", (pa.decimal128 if precision <= 38 else pa.decimal256)(precision, scale)
    fixed = _FIXED.get(column.type_id)
    return (fixed[0], fixed[1]()) if fixed else None


def arrow_schema(table: Table) -> pa.Schema:
    """Arrow schema that reading `table` gives; each field names its native type.

    Raises:
        SourceError: RIVET_TYPE_UNSUPPORTED that names every column that cannot be read.
    """
    return pa.schema([field for field, _ in _fields(table)])


def wire_columns(table: Table) -> list[WireColumn]:
    """How the decoder reads each column of `table`, in order; errors as in `arrow_schema`."""
    from rivet_dagster.wire.pgcopy import Form, WireColumn  # noqa: PLC0415 (numba is paid for when reading begins)

    return [WireColumn(field, Form(form)) for field, form in _fields(table)]


def _fields(table: Table) -> list[tuple[pa.Field[Any], str]]:
    mapped = [(column, _mapping(column)) for column in table.columns]
    refused = [(column.name, column.native_type) for column, mapping in mapped if mapping is None]
    if refused:
        raise unsupported_types(table.label, refused)
    return [
        (
            pa.field(column.name, mapping[1], column.nullable, {NATIVE_TYPE_KEY: column.native_type.encode()}),
            mapping[0],
        )
        for column, mapping in mapped
        if mapping is not None
    ]
