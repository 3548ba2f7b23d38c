"""What the values of MySQL's binary rows are, in plain Python: the last row's fields, and why a value was refused."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence

from rivet_dagster.errors import SourceError
from rivet_dagster.wire._mysqlrows_forms import Form, WireColumn, bitmap_bytes
from rivet_dagster.wire._refusals import malformed, too_large, unexpected_null, unsupported
from rivet_dagster.wire._storage import DECIMALS

_WIDTHS = {
    Form.BOOL: 1,
    Form.INT1: 1,
    Form.INT2: 2,
    Form.INT4: 4,
    Form.INT8: 8,
    Form.FLOAT4: 4,
    Form.FLOAT8: 8,
}
_MOMENTS = {Form.DATE: (0, 4, 7, 11), Form.DATETIME: (0, 4, 7, 11), Form.TIME: (0, 8, 12)}
_LENGTH_BYTES = {0xFC: 2, 0xFD: 3, 0xFE: 8}
_DATE = struct.Struct("<HBBBBBI")
_TIME = struct.Struct("<BIBBBI")
_DECIMAL = re.compile(rb"-?([0-9]+)(?:\.([0-9]+))?")


def split_fields(row: memoryview, columns: Sequence[WireColumn]) -> Iterator[memoryview | None]:
    """The values of a row that was decoded, without their lengths; None for NULL."""
    at = 1 + bitmap_bytes(len(columns))
    for number, column in enumerate(columns):
        if row[1 + (number + 2) // 8] >> (number + 2) % 8 & 1:
            yield None
            continue
        begin, size = field_bounds(row[at:], column.form)
        yield row[at + begin : at + begin + size]
        at += begin + size


def field_bounds(rest: memoryview, form: Form) -> tuple[int, int]:
    """Bytes before the value that `rest` begins with, and bytes of it; they may be more than there are."""
    if form in _WIDTHS:
        return 0, _WIDTHS[form]
    first = rest[0] if rest else 0
    if form in _MOMENTS:
        return 1, first
    width = _LENGTH_BYTES.get(first, 0)
    return 1 + width, int.from_bytes(rest[1 : 1 + width], "little") if width else first


def refusal(column: WireColumn, rest: bytes | None) -> SourceError:
    """Why a kernel refused the value that the `rest` of a row begins with; None for NULL."""
    if rest is None:
        return unexpected_null(column.field)
    begin, size = field_bounds(memoryview(rest), column.form)
    value = rest[begin : begin + size]
    is_whole = len(rest) >= max(begin + size, 1) and not (begin == 1 and size in (0xFB, 0xFF))
    if is_whole and column.form is Form.BYTES:
        return too_large(column.field)
    what = _reason(column, value) if is_whole else None
    if what is None:
        return malformed(f"column {column.field.name} has bytes that are no {column.form.value}")
    return unsupported(column.field, what, replaceable=column.form is not Form.DECIMAL)


def _reason(column: WireColumn, value: bytes) -> str | None:
    """What is special about a value that Arrow cannot hold; None for bytes that are no value of the form."""
    if column.form is Form.DECIMAL:
        return _decimal_reason(column, value)
    if column.form is Form.BOOL:
        return "a number that is neither 0 nor 1"
    if column.form is Form.BIT:
        return f"the bits {int.from_bytes(value, 'big'):b}" if 1 <= len(value) <= 8 else None
    if column.form not in _MOMENTS or len(value) not in _MOMENTS[column.form]:
        return None
    return _time_reason(value) if column.form is Form.TIME else _date_reason(column.form, value)


def _date_reason(form: Form, value: bytes) -> str | None:
    year, month, day, *clock = _DATE.unpack(value.ljust(_DATE.size, b"\0"))
    if year > 9999 or not _is_clock(*clock) or (form is Form.DATE and any(clock)):
        return None
    text = f"{year:04d}-{month:02d}-{day:02d}"
    return f"the zero date {text}" if month == 0 or day == 0 else f"the date {text}, which is in no calendar"


def _time_reason(value: bytes) -> str | None:
    negative, days, *clock = _TIME.unpack(value.ljust(_TIME.size, b"\0"))
    if negative > 1 or not _is_clock(*clock):
        return None
    hour, minute, second, _ = clock
    return f"the time {'-' * negative}{24 * days + hour:02d}:{minute:02d}:{second:02d}, which is of no day"


def _is_clock(hour: int, minute: int, second: int, microsecond: int) -> bool:
    return hour < 24 and minute < 60 and second < 60 and microsecond < 1_000_000


def _decimal_reason(column: WireColumn, value: bytes) -> str | None:
    match = _DECIMAL.fullmatch(value)
    decimal = column.field.type
    assert isinstance(decimal, DECIMALS)
    if match is None:
        return None
    places = len((match[2] or b"").rstrip(b"0"))
    if places > decimal.scale:
        return f"a decimal with {places} digits after the point"
    return f"a decimal of more than {decimal.precision - decimal.scale} digits before the point"
