"""Wire forms of MySQL's binary rows, and which Arrow types they give. Light: nothing is compiled here."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from rivet_dagster.wire._storage import DECIMALS, storage_type

REASONS: Final = ("zero date", "invalid date", "out of range")
"""Why a value cannot be held by the column's Arrow type; counters stand in this order."""
ZERO_DATE, INVALID_DATE, OUT_OF_RANGE = range(3)

ROW: Final = 0x00
"""The byte that a row begins with."""
HEADER: Final = 4
"""Bytes of a packet before its payload: the payload's length (3) and the packet's number."""
LARGEST_PAYLOAD: Final = 0xFFFFFF
"""A payload of this size goes on in the next packet."""


class Form(str, enum.Enum):
    """How a value is written on the wire.

    BOOL and INT1 to FLOAT8 are little-endian numbers, signed or not. DATE and DATETIME are a length and as many bytes
    of year, month, day, hour, minute, second and microsecond as are not zero; TIME alike of sign, days, hour, minute,
    second and microsecond. The others have a length-encoded integer before them: BIT is a big-endian number, UUID
    sixteen bytes, DECIMAL text, BYTES everything that Arrow takes as it comes.
    """

    BOOL = "bool"
    INT1 = "int1"
    INT2 = "int2"
    INT4 = "int4"
    INT8 = "int8"
    FLOAT4 = "float4"
    FLOAT8 = "float8"
    DECIMAL = "decimal"
    DATE = "date"
    DATETIME = "datetime"
    TIME = "time"
    BIT = "bit"
    UUID = "uuid"
    BYTES = "bytes"


@dataclass(frozen=True)
class WireColumn:
    """One column of the rows.

    Attributes:
        field: its name, Arrow type and nullability in the batches.
        form: how its values come.
        replace: whether NULL replaces a value that the Arrow type cannot hold, and is counted; else it is refused.
    """

    field: pa.Field[Any]
    form: Form
    replace: bool = False


_STORAGE: dict[Form, list[pa.DataType]] = {
    Form.BOOL: [pa.bool_()],
    Form.INT1: [pa.int8(), pa.uint8()],
    Form.INT2: [pa.int16(), pa.uint16()],
    Form.INT4: [pa.int32(), pa.uint32()],
    Form.INT8: [pa.int64(), pa.uint64()],
    Form.FLOAT4: [pa.float32()],
    Form.FLOAT8: [pa.float64()],
    Form.DATE: [pa.date32()],
    Form.TIME: [pa.time64("us")],
    Form.BIT: [pa.uint64(), pa.bool_()],
    Form.UUID: [pa.binary(16)],
    Form.BYTES: [pa.string(), pa.binary()],
}
"""The Arrow storage types that a form gives, where they have no parameters."""


def gives(column: WireColumn) -> bool:
    """Whether the column's form gives its Arrow type."""
    storage = storage_type(column.field.type)
    if column.form is Form.DECIMAL:
        return isinstance(storage, DECIMALS) and storage.scale >= 0
    if column.form is Form.DATETIME:
        return isinstance(storage, pa.TimestampType) and storage.unit == "us"
    return storage in _STORAGE[column.form]


def bitmap_bytes(columns: int) -> int:
    """Bytes of a row's NULL bitmap: its first two bits are of no column."""
    return (columns + 9) // 8
