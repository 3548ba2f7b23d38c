"""Why a value of PostgreSQL's binary format was refused, in words. Only errors pay for this module."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from rivet_dagster.errors import SourceError
from rivet_dagster.wire._pgcopy_forms import (
    ARRAY_HEADER,
    NULL,
    NUMERIC_HEADER,
    NUMERIC_NEGATIVE,
    NUMERIC_SPECIAL,
    Form,
    WireColumn,
)
from rivet_dagster.wire._refusals import malformed, too_large, unexpected_null, unsupported
from rivet_dagster.wire._storage import DECIMALS, Decimal

_NUMERIC = struct.Struct(">HhHH")


def split_fields(row: memoryview) -> Iterator[memoryview | None]:
    """The fields that stand one after the other in `row`, None for NULL."""
    at = 0
    while at < len(row):
        length = int.from_bytes(row[at : at + 4], "big", signed=True)
        at += 4
        yield None if length == NULL else row[at : at + length]
        at += max(length, 0)


def refusal(column: WireColumn, value: memoryview | None) -> SourceError:
    """Why a kernel refused `value`."""
    if value is None:
        return unexpected_null(column.field)
    if column.form is Form.BYTES or (column.form is Form.JSONB and bytes(value[:1]) == b"\x01"):
        return too_large(column.field)
    reason = _reason(column, bytes(value))
    if reason is None:
        return malformed(f"column {column.field.name} has {len(value)} bytes that are no {column.form.value}")
    what, replaceable = reason
    return unsupported(column.field, what, replaceable=replaceable)


def _reason(column: WireColumn, value: bytes) -> tuple[str, bool] | None:
    """What is special about a value that Arrow cannot hold, and whether NULL could replace it.

    None for bytes that are no value of the form.
    """
    if len(value) == {Form.DATE: 4, Form.TIMESTAMP: 8, Form.TIME: 8}.get(column.form):
        return _moment_reason(column.form, value), True
    if column.form is Form.INTERVAL and len(value) == 16:
        return f"the interval '{'-' if value[-1] == 0 else ''}infinity'", True
    if column.form is Form.LIST:
        return _array_reason(value)
    if isinstance(column.field.type, DECIMALS):
        return _numeric_reason(value, column.field.type)
    return None


def _moment_reason(form: Form, value: bytes) -> str:
    limit = 2 ** (8 * len(value) - 1)
    count = int.from_bytes(value, "big", signed=True)
    if form is Form.TIME:
        return "the time 24:00:00"
    infinity = {limit - 1: "infinity", -limit: "-infinity"}.get(count)
    return f"the {form.value} '{infinity}'" if infinity else f"a {form.value} too late to be counted from 1970 on"


def _array_reason(value: bytes) -> tuple[str, bool] | None:
    if len(value) < ARRAY_HEADER + 8:
        return None
    dimensions, lower_bound = struct.unpack_from(">i", value)[0], struct.unpack_from(">i", value, ARRAY_HEADER + 4)[0]
    if dimensions > 1:
        return f"an array of {dimensions} dimensions", True
    return (f"an array that begins at index {lower_bound}", True) if lower_bound != 1 else None


def _numeric_reason(value: bytes, decimal: Decimal) -> tuple[str, bool] | None:
    if len(value) < NUMERIC_HEADER:
        return None
    count, weight, sign, _ = _NUMERIC.unpack_from(value)
    if sign in NUMERIC_SPECIAL:
        return f"the numeric '{NUMERIC_SPECIAL[sign]}'", True
    if len(value) != NUMERIC_HEADER + 2 * count or sign not in (0, NUMERIC_NEGATIVE):
        return None
    digits = struct.unpack_from(f">{count}H", value, NUMERIC_HEADER)
    if max(digits, default=0) > 9999:
        return None
    text = "".join(f"{digit:04d}" for digit in digits).rstrip("0")
    places = len(text) - 4 * (weight + 1)
    if places > decimal.scale:
        return f"a numeric with {places} digits after the point", False
    return f"a numeric of more than {decimal.precision - decimal.scale} digits before the point", False
