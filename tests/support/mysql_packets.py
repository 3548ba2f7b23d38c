"""The packets of MySQL's client/server protocol, written from its documentation, for a server of a test's own."""

from __future__ import annotations

import datetime as dt
import enum
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

COM_QUIT, COM_INIT_DB, COM_QUERY, COM_PING = 0x01, 0x02, 0x03, 0x0E
COM_STMT_PREPARE, COM_STMT_EXECUTE, COM_STMT_SEND_LONG_DATA = 0x16, 0x17, 0x18
COM_STMT_CLOSE, COM_STMT_RESET, COM_RESET_CONNECTION = 0x19, 0x1A, 0x1F

LONG_PASSWORD, LONG_FLAG, CONNECT_WITH_DB, PROTOCOL_41, SSL = 1 << 0, 1 << 2, 1 << 3, 1 << 9, 1 << 11
TRANSACTIONS, SECURE_CONNECTION, MULTI_RESULTS, PS_MULTI_RESULTS = 1 << 13, 1 << 15, 1 << 17, 1 << 18
PLUGIN_AUTH, CONNECT_ATTRS, PLUGIN_AUTH_LENENC, DEPRECATE_EOF = 1 << 19, 1 << 20, 1 << 21, 1 << 24
CAPABILITIES = (
    LONG_PASSWORD | LONG_FLAG | CONNECT_WITH_DB | PROTOCOL_41 | TRANSACTIONS | SECURE_CONNECTION | MULTI_RESULTS
) | (PS_MULTI_RESULTS | PLUGIN_AUTH | CONNECT_ATTRS | PLUGIN_AUTH_LENENC | DEPRECATE_EOF)
MARIADB_EXTENDED_METADATA = 1 << 3  # of MariaDB's own capabilities, which have 32 bits of their own

AUTOCOMMIT = 2  # a status flag
NOT_NULL, UNSIGNED, BINARY_FLAG = 1, 32, 128
BINARY, UTF8MB4 = 63, 255
LARGEST = 0xFFFFFF  # bytes of one packet; longer ones go on in the next


class Type(enum.IntEnum):
    """Type codes of columns and parameters."""

    DECIMAL, TINY, SHORT, LONG, FLOAT, DOUBLE, NULL, TIMESTAMP, LONGLONG, INT24, DATE, TIME, DATETIME, YEAR = range(14)
    VARCHAR, BIT = 15, 16
    JSON, NEWDECIMAL, ENUM, SET, TINY_BLOB, MEDIUM_BLOB, LONG_BLOB, BLOB, VAR_STRING, STRING, GEOMETRY = range(245, 256)


INTEGER_BYTES = {Type.TINY: 1, Type.SHORT: 2, Type.YEAR: 2, Type.LONG: 4, Type.INT24: 4, Type.LONGLONG: 8}
FLOATS = {Type.FLOAT: "<f", Type.DOUBLE: "<d"}
MOMENTS = {Type.DATE, Type.DATETIME, Type.TIMESTAMP}
_TEXTS = {Type.VARCHAR, Type.VAR_STRING, Type.STRING, Type.ENUM, Type.SET}


class Raw(bytes):
    """A field as it stands on the wire, for what no server would send."""


@dataclass(frozen=True)
class Column:
    """A column of a result; `length` in bytes. Texts are utf8mb4 unless told, all else is binary."""

    name: str
    type_code: int
    charset: int | None = None
    flags: int = 0
    length: int = 1024
    decimals: int = 0
    schema: str = ""
    table: str = ""
    extended: bytes = b""  # MariaDB's extended metadata, sent to clients that asked for it


@dataclass(frozen=True)
class Result:
    """A result set, in the text or the binary protocol, whichever the client asked for.

    A row that is given as bytes is a packet as it stands. `error`, an ERR packet, comes where the rows would end.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Any] | bytes] = ()
    error: bytes | None = None
    status: int = AUTOCOMMIT
    warnings: int = 0


def lenenc(value: int) -> bytes:
    """A length-encoded integer."""
    if value < 251:
        return bytes([value])
    for marker, size in ((0xFC, 2), (0xFD, 3), (0xFE, 8)):
        if value < 1 << 8 * size:
            return bytes([marker]) + value.to_bytes(size, "little")
    raise OverflowError(value)


def lenenc_bytes(value: bytes | str) -> bytes:
    """Bytes, or a text as UTF-8, behind their length."""
    data = value.encode() if isinstance(value, str) else value
    return lenenc(len(data)) + data


def ok_packet(
    *, affected: int = 0, insert_id: int = 0, status: int = AUTOCOMMIT, warnings: int = 0, header: int = 0
) -> bytes:
    """OK; with 0xFE as its header it ends rows where EOF packets are deprecated."""
    return bytes([header]) + lenenc(affected) + lenenc(insert_id) + struct.pack("<HH", status, warnings)


def eof_packet(*, status: int = AUTOCOMMIT, warnings: int = 0) -> bytes:
    return b"\xfe" + struct.pack("<HH", warnings, status)


def err_packet(code: int, state: str | None, message: str) -> bytes:
    """An error; without a state as it is before a client has said what it understands."""
    return b"\xff" + struct.pack("<H", code) + (b"#" + state.encode() if state else b"") + message.encode()


def auth_switch_packet(plugin: str, data: bytes) -> bytes:
    return b"\xfe" + plugin.encode() + b"\0" + data + b"\0"


def handshake(
    version: str,
    connection_id: int,
    nonce: bytes,
    plugin: str,
    *,
    capabilities: int,
    extended: int = 0,
    charset: int = 8,
) -> bytes:
    """The server's first packet, of version 10; `nonce` has 20 bytes, `extended` is MariaDB's part of the filler."""
    return (
        b"\x0a" + version.encode() + b"\0" + struct.pack("<I", connection_id) + nonce[:8] + b"\0"
        + struct.pack("<HBHHB", capabilities & 0xFFFF, charset & 0xFF, AUTOCOMMIT, capabilities >> 16, len(nonce) + 1)
        + struct.pack("<6xI", extended) + nonce[8:] + b"\0" + plugin.encode() + b"\0"
    )  # fmt: skip


def column_definition(column: Column, *, extended: bool = False) -> bytes:
    """`extended`: with MariaDB's extended metadata."""
    name, owner = column.name, column.name if column.table else ""
    charset = column.charset if column.charset is not None else UTF8MB4 if column.type_code in _TEXTS else BINARY
    texts = b"".join(map(lenenc_bytes, ["def", column.schema, column.table, column.table, name, owner]))
    more = lenenc_bytes(column.extended) if extended else b""
    fixed = struct.pack("<BHIBHBxx", 12, charset, column.length, column.type_code, column.flags, column.decimals)
    return texts + more + fixed


def text_row(values: Sequence[Any]) -> bytes:
    """A row of the text protocol."""
    return b"".join(b"\xfb" if value is None else _text_field(value) for value in values)


def binary_row(columns: Sequence[Column], values: Sequence[Any]) -> bytes:
    """A row of the binary protocol.

    Dates and moments may also be tuples (year, month, day[, hour, minute, second, microsecond]), which can hold zero
    and partial dates; times are timedeltas.
    """
    nulls = bytearray((len(columns) + 9) // 8)
    fields = [b"\0", b""]
    for index, (column, value) in enumerate(zip(columns, values, strict=True), start=2):
        if value is None:
            nulls[index // 8] |= 1 << index % 8
        else:
            fields.append(_binary_field(column, value))
    fields[1] = bytes(nulls)
    return b"".join(fields)


def _text_field(value: Any) -> bytes:
    return bytes(value) if isinstance(value, Raw) else lenenc_bytes(_as_text(value))


def _binary_field(column: Column, value: Any) -> bytes:
    code = Type(column.type_code)
    if isinstance(value, Raw):
        return bytes(value)
    if code in INTEGER_BYTES:
        return int(value).to_bytes(INTEGER_BYTES[code], "little", signed=not column.flags & UNSIGNED)
    if code in FLOATS:
        return struct.pack(FLOATS[code], value)
    if code in MOMENTS:
        return _moment(value)
    if code == Type.TIME:
        return _time(value)
    return lenenc_bytes(_as_text(value))


def _as_text(value: Any) -> bytes:
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    if isinstance(value, (str, int, Decimal, dt.date)):
        return str(int(value) if isinstance(value, bool) else value).encode()
    if isinstance(value, float):
        return repr(value).encode()
    raise TypeError(f"no field is made of {value!r}: give its text, or Raw bytes")


def _moment(value: dt.date | tuple[int, ...]) -> bytes:
    if isinstance(value, dt.datetime):
        value = (*value.timetuple()[:6], value.microsecond)
    elif isinstance(value, dt.date):
        value = value.timetuple()[:3]
    parts = (*value, *(0,) * (7 - len(value)))
    size = 11 if parts[6] else 7 if any(parts[3:]) else 4 if any(parts) else 0
    return bytes([size]) + struct.pack("<HBBBBBI", *parts)[:size]


def _time(value: dt.timedelta) -> bytes:
    size = abs(value)
    hours, seconds = divmod(size.seconds, 3600)
    data = struct.pack("<BIBBBI", value < size, size.days, hours, *divmod(seconds, 60), size.microseconds)
    used = 12 if size.microseconds else 8 if size else 0
    return bytes([used]) + data[:used]


def payloads_of(
    answer: Result | bytes | Sequence[bytes], *, capabilities: int, binary: bool, extended: int = 0
) -> Iterator[bytes]:
    """The packets of an answer, without their headers, as these capabilities want them."""
    if not isinstance(answer, Result):
        yield from [answer] if isinstance(answer, bytes) else answer
        return
    yield lenenc(len(answer.columns))
    for column in answer.columns:
        yield column_definition(column, extended=bool(extended & MARIADB_EXTENDED_METADATA))
    eof = eof_packet(status=answer.status, warnings=answer.warnings)
    if not capabilities & DEPRECATE_EOF:
        yield eof
    for row in answer.rows:
        if isinstance(row, bytes):
            yield row
        else:
            yield binary_row(answer.columns, row) if binary else text_row(row)
    end = ok_packet(status=answer.status, warnings=answer.warnings, header=0xFE)
    yield answer.error or (end if capabilities & DEPRECATE_EOF else eof)


def prepared_payloads(
    statement_id: int, parameters: int, columns: Sequence[Column], *, capabilities: int, extended: int = 0
) -> Iterator[bytes]:
    """The packets of the answer to COM_STMT_PREPARE."""
    yield struct.pack("<BIHHxH", 0, statement_id, len(columns), parameters, 0)
    unknown = Column("?", Type.VAR_STRING, charset=BINARY, flags=BINARY_FLAG, length=0)
    for block in ([unknown] * parameters, columns):
        for column in block:
            yield column_definition(column, extended=bool(extended & MARIADB_EXTENDED_METADATA))
        if block and not capabilities & DEPRECATE_EOF:
            yield eof_packet()


def frames(payloads: Iterable[bytes], sequence: int = 1) -> Iterator[bytes]:
    """Packets with their headers, numbered from `sequence`; what is 16 MiB - 1 or longer goes on in the next one."""
    for payload in payloads:
        for start in range(0, len(payload) + 1, LARGEST):
            part = payload[start : start + LARGEST]
            yield len(part).to_bytes(3, "little") + bytes([sequence % 256]) + part
            sequence += 1
