"""The rows of MySQL's binary protocol, written from its documentation and in plain Python: the decoder's counterpart.

Dates may also be given as a tuple of their parts, which need not be a date of any calendar, times of day as a count of
microseconds, and any value as `Raw` bytes.
"""

from __future__ import annotations

import datetime as dt
import struct
import uuid
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any

LARGEST = 2**24 - 1
"""Bytes of a packet's payload that is followed by another packet of the same row."""


class Raw(bytes):
    """A value as it stands on the wire, its length included, for what no server would send."""


def encode_page(forms: Sequence[str], rows: Iterable[Sequence[Any]], *, sequence: int = 0) -> bytes:
    """The packets of the rows, the first one numbered `sequence`."""
    packets = []
    for row in rows:
        packets.append(encode_packets(encode_row(forms, row), sequence))
        sequence += 1 + (len(packets[-1]) - 4) // (LARGEST + 4)
    return b"".join(packets)


def encode_packets(payload: bytes, sequence: int = 0) -> bytes:
    """One packet, or several where the payload is large: the last one is shorter than the others, perhaps empty."""
    packets = []
    for number, start in enumerate(range(0, len(payload) + 1, LARGEST)):
        part = payload[start : start + LARGEST]
        packets.append(len(part).to_bytes(3, "little") + bytes([(sequence + number) % 256]) + part)
    return b"".join(packets)


def encode_row(forms: Sequence[str], row: Sequence[Any]) -> bytes:
    """The payload: a zero, the NULL bitmap, the values that are not NULL."""
    bitmap = sum(1 << number + 2 for number, value in enumerate(row) if value is None)
    values = [encode_value(form, value) for form, value in zip(forms, row, strict=True) if value is not None]
    return b"\x00" + bitmap.to_bytes((len(row) + 9) // 8, "little") + b"".join(values)


def encode_value(form: str, value: Any) -> bytes:
    if isinstance(value, Raw):
        return bytes(value)
    if form in _WIDTHS:
        return int(value).to_bytes(_WIDTHS[form], "little", signed=value < 0)
    encoders: dict[str, Callable[[Any], bytes]] = {
        "float4": lambda number: struct.pack("<f", number),
        "float8": lambda number: struct.pack("<d", number),
        "decimal": _encode_decimal,
        "date": _encode_date,
        "datetime": _encode_date,
        "time": _encode_time,
        "bit": _encode_bits,
        "uuid": _encode_uuid,
        "bytes": _encode_bytes,
    }
    return encoders[form](value)


_WIDTHS = {"bool": 1, "int1": 1, "int2": 2, "int4": 4, "int8": 8}


def encode_text(value: bytes, width: int = 0) -> bytes:
    """The bytes behind their length, which takes `width` bytes behind its mark; 0 for as few as may be."""
    size = len(value)
    if not width:
        width = 0 if size < 251 else 2 if size < 2**16 else 3 if size < 2**24 else 8
    if width == 0:
        return bytes([size]) + value
    return {2: b"\xfc", 3: b"\xfd", 8: b"\xfe"}[width] + size.to_bytes(width, "little") + value


def _encode_decimal(value: Decimal) -> bytes:
    return encode_text(f"{value:f}".encode())


def _encode_date(value: dt.date | tuple[int, ...]) -> bytes:
    """Length, year, month and day, clock, microseconds; zeros at the end are left out in these steps."""
    if isinstance(value, dt.datetime):
        value = (*value.timetuple()[:6], value.microsecond)
    elif isinstance(value, dt.date):
        value = value.timetuple()[:3]
    parts = (*value, 0, 0, 0, 0, 0, 0, 0)[:7]
    steps = (parts[:3], parts[3:6], parts[6:])
    layouts = ("<HBB", "<BBB", "<I")
    used = max((number + 1 for number, step in enumerate(steps) if any(step)), default=0)
    body = b"".join(struct.pack(layout, *step) for layout, step in list(zip(layouts, steps, strict=True))[:used])
    return bytes([len(body)]) + body


def _encode_time(microseconds: int) -> bytes:
    """Length, sign, days, clock, microseconds; the last ones are left out if there are none, all if it is zero."""
    seconds, fraction = divmod(abs(microseconds), 1_000_000)
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    body = struct.pack("<BIBBB", microseconds < 0, days, hour, minute, second)
    if fraction:
        body += struct.pack("<I", fraction)
    return bytes([len(body)]) + body if microseconds else b"\x00"


def _encode_bits(value: int) -> bytes:
    return encode_text(int(value).to_bytes(max(1, (int(value).bit_length() + 7) // 8), "big"))


def _encode_uuid(value: uuid.UUID) -> bytes:
    return encode_text(value.bytes)


def _encode_bytes(value: str | bytes) -> bytes:
    return encode_text(value.encode() if isinstance(value, str) else value)
