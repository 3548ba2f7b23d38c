"""PostgreSQL's binary COPY format, written from its documentation and in plain Python: the decoder's counterpart.

Dates and timestamps may also be given as a count since the Unix epoch (days, microseconds) or as "infinity" and
"-infinity", and any field as `Raw` bytes.
"""

from __future__ import annotations

import datetime as dt
import struct
import uuid
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any

SIGNATURE = b"PGCOPY\n\xff\r\n\x00"
TRAILER = b"\xff\xff"

UNIX_DAY = dt.date(1970, 1, 1)
UNIX_TIME = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
DAYS_TO_2000 = (dt.date(2000, 1, 1) - UNIX_DAY).days
MICROSECONDS_TO_2000 = DAYS_TO_2000 * 24 * 3600 * 1_000_000


class Raw(bytes):
    """A field as it stands on the wire, for what no server would send."""


def encode_stream(
    forms: Sequence[str], rows: Iterable[Sequence[Any]], *, flags: int = 0, extension: bytes = b""
) -> bytes:
    """A whole stream: header, a tuple for each row, trailer."""
    tuples = [encode_tuple(forms, row) for row in rows]
    return b"".join([encode_header(flags, extension), *tuples, TRAILER])


def encode_header(flags: int = 0, extension: bytes = b"") -> bytes:
    return SIGNATURE + struct.pack(">Ii", flags, len(extension)) + extension


def encode_tuple(forms: Sequence[str], row: Sequence[Any]) -> bytes:
    encoded = [struct.pack(">h", len(row))]
    for form, value in zip(forms, row, strict=True):
        if value is None:
            encoded.append(struct.pack(">i", -1))
        else:
            field = encode_field(form, value)
            encoded.append(struct.pack(">i", len(field)) + field)
    return b"".join(encoded)


def encode_field(form: str, value: Any) -> bytes:
    if isinstance(value, Raw):
        return bytes(value)
    if form.startswith("list:"):
        _, element, type_id = form.split(":")
        return encode_array(element, int(type_id), value)
    if form in _NUMBERS:
        return struct.pack(_NUMBERS[form], value)
    encoders: dict[str, Callable[[Any], bytes]] = {
        "numeric": encode_numeric,
        "date": _encode_date,
        "timestamp": _encode_timestamp,
        "uuid": _encode_uuid,
        "bytes": _encode_bytes,
        "jsonb": _encode_jsonb,
        "interval": _encode_interval,
    }
    return encoders[form](value)


_NUMBERS = {
    "bool": ">?",
    "int2": ">h",
    "int4": ">i",
    "int8": ">q",
    "float4": ">f",
    "float8": ">d",
    "uint4": ">I",
    "uint8": ">Q",
    "time": ">q",
}


def encode_numeric(value: Decimal) -> bytes:
    """Number of digits, weight of the first one, sign, decimal places for display; then the base-10000 digits."""
    if not value.is_finite():
        sign = 0xC000 if value.is_nan() else 0xF000 if value.is_signed() else 0xD000
        return struct.pack(">HhHH", 0, 0, sign, 0)
    whole, _, fraction = f"{value.copy_abs():f}".partition(".")
    places = len(fraction)
    whole = whole.zfill(-(-len(whole) // 4) * 4)
    fraction = fraction.ljust(-(-places // 4) * 4, "0")
    weight = len(whole) // 4 - 1
    text = whole + fraction
    digits = [int(text[at : at + 4]) for at in range(0, len(text), 4)]
    while digits and digits[0] == 0:
        digits.pop(0)
        weight -= 1
    while digits and digits[-1] == 0:
        digits.pop()
    if not digits:
        return struct.pack(">HhHH", 0, 0, 0, places)
    sign = 0x4000 if value.is_signed() else 0
    return struct.pack(f">HhHH{len(digits)}H", len(digits), weight, sign, places, *digits)


def encode_array(
    form: str, type_id: int, values: Sequence[Any], *, bounds: Sequence[tuple[int, int]] | None = None
) -> bytes:
    """An array; without `bounds`, which are (size, lower bound) pairs, one dimension that begins at 1, or none."""
    dimensions = [(len(values), 1)] * bool(values) if bounds is None else list(bounds)
    fields = [None if value is None else encode_field(form, value) for value in values]
    head = struct.pack(">iiI", len(dimensions), None in fields, type_id)
    shape = b"".join(struct.pack(">ii", *dimension) for dimension in dimensions)
    body = b"".join(
        struct.pack(">i", -1) if field is None else struct.pack(">i", len(field)) + field for field in fields
    )
    return head + shape + body


def _encode_interval(value: tuple[int, int, int]) -> bytes:
    months, days, microseconds = value
    return struct.pack(">qii", microseconds, days, months)


def _encode_date(value: dt.date | int | str) -> bytes:
    if isinstance(value, str):
        return struct.pack(">i", 2**31 - 1 if value == "infinity" else -(2**31))
    days = value if isinstance(value, int) else (value - UNIX_DAY).days
    return struct.pack(">i", days - DAYS_TO_2000)


def _encode_timestamp(value: dt.datetime | int | str) -> bytes:
    if isinstance(value, str):
        return struct.pack(">q", 2**63 - 1 if value == "infinity" else -(2**63))
    if isinstance(value, dt.datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=dt.timezone.utc)
        value = (aware - UNIX_TIME) // dt.timedelta(microseconds=1)
    return struct.pack(">q", value - MICROSECONDS_TO_2000)


def _encode_uuid(value: uuid.UUID) -> bytes:
    return value.bytes


def _encode_bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def _encode_jsonb(text: str) -> bytes:
    return b"\x01" + text.encode()
