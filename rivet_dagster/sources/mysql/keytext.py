"""Keys as text, from the bytes that a row brought: the text that the server itself would write for them."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from typing import Final

from rivet_dagster.sources.base import Column

_DAY_HOURS: Final = 24


def key_writer(column: Column, form: str, *, text: bool) -> Callable[[bytes], str]:
    """What writes a key column's wire bytes as text.

    Args:
        column: the column.
        form: its form on the wire, as its reading has it.
        text: whether it is read as text.
    """
    if form in ("int1", "int2", "int4", "int8", "bool"):
        signed = " unsigned" not in column.native_type and column.kind != "year"
        return lambda value: str(int.from_bytes(value, "little", signed=signed))
    if column.kind in ("binary", "varbinary"):
        # As text it is written in hexadecimal already.
        return bytes.decode if text else bytes.hex
    if form == "uuid":
        return lambda value: str(uuid.UUID(bytes=value))
    return _WRITERS[form]


def _floating(code: str) -> Callable[[bytes], str]:
    return lambda value: repr(struct.unpack(code, value)[0])


def _date(value: bytes) -> str:
    return _moment(value)[:10]


def _moment(value: bytes) -> str:
    """Year to day, hour to second, microsecond; what is left out is zero."""
    year, month, day, hour, minute, second, microsecond = struct.unpack("<HBBBBBI", value.ljust(11, b"\0"))
    return f"{year:04d}-{month:02d}-{day:02d} {hour:02d}:{minute:02d}:{second:02d}.{microsecond:06d}"


def _time(value: bytes) -> str:
    negative, days, hour, minute, second, microsecond = struct.unpack("<BIBBBI", value.ljust(12, b"\0"))
    return f"{'-' * negative}{days * _DAY_HOURS + hour:02d}:{minute:02d}:{second:02d}.{microsecond:06d}"


_WRITERS: Final[dict[str, Callable[[bytes], str]]] = {
    "float4": _floating("<f"),
    "float8": _floating("<d"),
    "decimal": bytes.decode,
    "date": _date,
    "datetime": _moment,
    "time": _time,
    "bit": lambda value: str(int.from_bytes(value, "big")),
    "bytes": bytes.decode,
}
