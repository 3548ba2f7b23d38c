"""Wire forms of PostgreSQL's binary format, and which Arrow types they give. Light: nothing is compiled here."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from rivet_dagster.wire._storage import DAY_MICROSECONDS, DECIMALS, storage_type

NULL: Final = -1
"""Length of a field that is NULL."""

REASONS: Final = ("NaN", "infinity", "out of range", "array shape")
"""Why a value cannot be held by the column's Arrow type; counters stand in this order."""
NOT_A_NUMBER, INFINITE, OUT_OF_RANGE, SHAPE = range(4)

NUMERIC_HEADER: Final = 8
NUMERIC_NEGATIVE: Final = 0x4000
NUMERIC_SPECIAL: Final = {0xC000: "NaN", 0xD000: "Infinity", 0xF000: "-Infinity"}
ARRAY_HEADER: Final = 12

# PostgreSQL counts from 2000-01-01, Arrow from 1970-01-01.
EPOCH_DAYS: Final = 10_957
EPOCH_MICROSECONDS: Final = EPOCH_DAYS * DAY_MICROSECONDS

INTERVAL: Final = pa.struct(
    [
        pa.field("months", pa.int32(), nullable=False),
        pa.field("days", pa.int32(), nullable=False),
        pa.field("microseconds", pa.int64(), nullable=False),
    ]
)
"""Arrow's own interval counts nanoseconds, too few for PostgreSQL's, and Parquet has no type for it."""


class Form(str, enum.Enum):
    """How a value is written on the wire.

    INT2 to FLOAT8 are big-endian numbers; DATE and TIMESTAMP (with or without time zone) count days and
    microseconds from 2000-01-01, TIME microseconds from midnight; INTERVAL is microseconds, days and months;
    NUMERIC is base-10000 digits; JSONB is a version byte before the text; LIST is an array; BYTES is everything
    that Arrow takes as it comes: text, varchar, char, bytea, json.
    """

    BOOL = "bool"
    INT2 = "int2"
    INT4 = "int4"
    INT8 = "int8"
    UINT4 = "uint4"
    UINT8 = "uint8"
    FLOAT4 = "float4"
    FLOAT8 = "float8"
    NUMERIC = "numeric"
    DATE = "date"
    TIME = "time"
    TIMESTAMP = "timestamp"
    INTERVAL = "interval"
    UUID = "uuid"
    BYTES = "bytes"
    JSONB = "jsonb"
    LIST = "list"


@dataclass(frozen=True)
class Elements:
    """What the arrays of a column hold.

    Attributes:
        form: how an element comes.
        type_id: oid of the elements' type, which every array carries.
    """

    form: Form
    type_id: int


@dataclass(frozen=True)
class WireColumn:
    """One column of the stream.

    Attributes:
        field: its name, Arrow type and nullability in the batches.
        form: how its values come.
        elements: what its arrays hold, where the form is LIST.
        replace: whether NULL replaces a value that the Arrow type cannot hold, and is counted; else it is refused.
    """

    field: pa.Field[Any]
    form: Form
    elements: Elements | None = None
    replace: bool = False


_STORAGE: dict[Form, list[pa.DataType]] = {
    Form.BOOL: [pa.bool_()],
    Form.INT2: [pa.int16()],
    Form.INT4: [pa.int32()],
    Form.INT8: [pa.int64()],
    Form.UINT4: [pa.uint32()],
    Form.UINT8: [pa.uint64()],
    Form.FLOAT4: [pa.float32()],
    Form.FLOAT8: [pa.float64()],
    Form.DATE: [pa.date32()],
    Form.TIME: [pa.time64("us")],
    Form.INTERVAL: [INTERVAL],
    Form.UUID: [pa.binary(16)],
    Form.BYTES: [pa.string(), pa.binary()],
    Form.JSONB: [pa.string()],
}
"""The Arrow storage types that a form gives, where they have no parameters."""


def gives(column: WireColumn) -> bool:
    """Whether the column's form gives its Arrow type; for a LIST, what its elements give is not asked."""
    storage = storage_type(column.field.type)
    if column.form is Form.NUMERIC:
        return isinstance(storage, DECIMALS)
    if column.form is Form.TIMESTAMP:
        return isinstance(storage, pa.TimestampType) and storage.unit == "us"
    if column.form is Form.LIST:
        return isinstance(storage, pa.ListType) and column.elements is not None
    return storage in _STORAGE[column.form]
