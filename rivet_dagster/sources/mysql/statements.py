"""Prepared statements, which PyMySQL has not, over its connections: their rows come in the binary protocol.

The one place where attributes of the driver are used that are not its public face: its socket, how it sends a
command and takes a packet, and what it keeps of a result.
tests/unit/test_mysql_stream.py notices a driver that changes them.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import pymysql
from pymysql.constants import COMMAND, FIELD_TYPE

_PREPARED = struct.Struct("<xIHHxH")
_PREPARED_OK: Final = 0
_UNREADABLE: Final = "the answer to a statement's preparation cannot be read"
_EXECUTE = struct.Struct("<IBI")
_DEPRECATE_EOF: Final = 1 << 24
_SHORT, _MEDIUM = 251, 1 << 16


def socket_of(connection: Any) -> socket.socket:
    """What a connection of the driver reads from: an ssl.SSLSocket where there is TLS."""
    peer = connection._sock
    if peer is None:
        raise pymysql.err.InterfaceError(0, "the connection is closed")
    return cast("socket.socket", peer)


def wait_at_most(connection: Any, seconds: float) -> None:
    """How long a connection of the driver waits for the server to take or say something."""
    connection._read_timeout = connection._write_timeout = connection._current_timeout = seconds
    socket_of(connection).settimeout(seconds)


def fields_of(cursor: Any) -> Sequence[Any]:
    """What the server said of the columns of a cursor's result, with the flags and character sets that DB-API lacks."""
    return cast("Sequence[Any]", cursor._result.fields)


@dataclass(frozen=True)
class Prepared:
    """A statement that the server has prepared.

    Attributes:
        number: the server's, in this connection.
        parameters: how many values it takes.
    """

    number: int
    parameters: int


class Statements:
    """The prepared statements of one connection, each prepared once."""

    def __init__(self, connection: pymysql.Connection[Any]) -> None:
        self._connection: Any = connection
        self._prepared: dict[str, Prepared] = {}

    @property
    def socket(self) -> socket.socket:
        """What rows are read from, once a statement is executed."""
        return socket_of(self._connection)

    @property
    def eof_packets(self) -> bool:
        """Whether a packet of its own ends the descriptions of a result's columns."""
        return not self._connection.client_flag & _DEPRECATE_EOF

    def execute(self, sql: str, values: Sequence[str | int]) -> None:
        """Send a statement; its result is then to be read from `socket`.

        Args:
            sql: with a `?` for each value.
            values: texts, or integers of up to 64 bits.

        Raises:
            pymysql.err.MySQLError: what the server or the connection said.
        """
        prepared = self._prepared.get(sql) or self._prepare(sql)
        if prepared.parameters != len(values):
            raise ValueError(f"{len(values)} values for {prepared.parameters} placeholders")
        body = _EXECUTE.pack(prepared.number, 0, 1)
        if values:
            types, data = zip(*map(_bound, values), strict=True)
            body += bytes((len(values) + 7) // 8) + b"\x01" + b"".join(types) + b"".join(data)
        self._connection._execute_command(COMMAND.COM_STMT_EXECUTE, body)

    def _prepare(self, sql: str) -> Prepared:
        self._connection._execute_command(COMMAND.COM_STMT_PREPARE, sql)
        answer = self._packet()
        if len(answer) < _PREPARED.size or answer[0] != _PREPARED_OK:
            raise pymysql.err.InternalError(_UNREADABLE)
        number, columns, parameters, _ = _PREPARED.unpack_from(answer)
        for count in (parameters, columns):
            for _ in range(count + (count > 0 and self.eof_packets)):
                self._packet()
        self._prepared[sql] = Prepared(number, parameters)
        return self._prepared[sql]

    def _packet(self) -> bytes:
        try:
            return cast("bytes", self._connection._read_packet().get_all_data())
        except (IndexError, ValueError, struct.error):
            # The driver looks for an error in a packet that is empty, or for a number in an error that has none.
            raise pymysql.err.InternalError(_UNREADABLE) from None


def _bound(value: str | int) -> tuple[bytes, bytes]:
    """Type and bytes of a value: an unsigned BIGINT, or a text in the connection's character set."""
    if isinstance(value, int):
        return struct.pack("<BB", FIELD_TYPE.LONGLONG, 0x80), struct.pack("<Q", value)
    data = value.encode()
    return struct.pack("<BB", FIELD_TYPE.VAR_STRING, 0), _length(len(data)) + data


def _length(size: int) -> bytes:
    """A length-encoded integer."""
    if size < _SHORT:
        return bytes([size])
    return b"\xfc" + struct.pack("<H", size) if size < _MEDIUM else b"\xfd" + struct.pack("<I", size)[:3]
