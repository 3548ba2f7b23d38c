"""What clients send to a MySQL server: their packets taken apart, for a server of a test's own."""

from __future__ import annotations

import itertools
import re
import struct
from dataclasses import dataclass, field
from typing import Any

from tests.support.mysql_packets import (
    COM_INIT_DB,
    COM_QUERY,
    COM_STMT_CLOSE,
    COM_STMT_EXECUTE,
    COM_STMT_PREPARE,
    COM_STMT_RESET,
    COM_STMT_SEND_LONG_DATA,
    CONNECT_ATTRS,
    CONNECT_WITH_DB,
    FLOATS,
    INTEGER_BYTES,
    MOMENTS,
    PLUGIN_AUTH,
    PLUGIN_AUTH_LENENC,
    Type,
)

LAST_PREPARED = 0xFFFFFFFF  # MariaDB's number for the statement that was prepared last

_QUOTED = re.compile(r"""'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*"|`[^`]*`|/\*.*?\*/""", re.DOTALL)


@dataclass(frozen=True)
class Parameter:
    """A bound value: an int, a float, bytes, None, or the fields of a date or time as they were sent."""

    type_code: int
    unsigned: bool
    value: Any


@dataclass(frozen=True)
class Command:
    """What a client asked; `text` is the statement's, also where only its number was sent."""

    code: int
    connection_id: int
    payload: bytes
    text: str = ""
    statement_id: int | None = None
    parameters: tuple[Parameter, ...] = ()
    flags: int = 0

    @property
    def values(self) -> tuple[Any, ...]:
        return tuple(parameter.value for parameter in self.parameters)


@dataclass
class Login:
    """How a client came in.

    `steps` are of "switch", "native", "clear", "fast", "full-tls", "full-unix", "key" (it asked for the public key)
    and "full-rsa"; `packets` are its answers, the first one out of its handshake response. `capabilities` are those
    that both sides have, `tls` is the version of TLS.
    """

    connection_id: int
    capabilities: int
    extended: int
    charset: int
    max_packet: int
    user: str
    database: str | None
    plugin: str
    attributes: dict[str, str]
    tls: str | None
    packets: list[bytes]
    steps: list[str] = field(default_factory=list)
    accepted: bool = False


class Reader:
    """The fields of a client's packet, one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        if self._at + size > len(self._data):
            raise ValueError(f"the client's packet ends at {len(self._data)} bytes: {self._data[:200]!r}")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "little", signed=signed)

    def lenenc(self) -> int:
        first = self.number(1)
        return first if first < 251 else self.number({0xFC: 2, 0xFD: 3, 0xFE: 8}[first])

    def lenenc_bytes(self) -> bytes:
        return self.take(self.lenenc())

    def terminated(self) -> bytes:
        found = self.take(self._data.index(b"\0", self._at) - self._at)
        self.take(1)
        return found

    @property
    def left(self) -> int:
        return len(self._data) - self._at


def parameter_of(reader: Reader, type_code: int, unsigned: bool) -> Any:
    """The value of a bound parameter that comes next."""
    if type_code == Type.NULL:
        return None
    if type_code in INTEGER_BYTES:
        return reader.number(INTEGER_BYTES[Type(type_code)], signed=not unsigned)
    if type_code in FLOATS:
        form = FLOATS[Type(type_code)]
        return struct.unpack(form, reader.take(struct.calcsize(form)))[0]
    data = reader.lenenc_bytes()
    if type_code in MOMENTS:
        return struct.unpack({0: "<", 4: "<HBB", 7: "<HBBBBB", 11: "<HBBBBBI"}[len(data)], data)
    if type_code == Type.TIME:
        return struct.unpack({0: "<", 8: "<BIBBB", 12: "<BIBBBI"}[len(data)], data)
    return data


def read_login(payload: bytes, connection_id: int, *, capabilities: int, extended: int, tls: str | None) -> Login:
    """A client's handshake response, to a server with these capabilities."""
    response = Reader(payload)
    has = response.number(4) & capabilities
    max_packet, charset = response.number(4), response.number(1)
    response.take(19)
    both = response.number(4) & extended
    user = response.terminated().decode()
    proof = response.lenenc_bytes() if has & PLUGIN_AUTH_LENENC else response.take(response.number(1))
    database = response.terminated().decode() if has & CONNECT_WITH_DB else None
    plugin = response.terminated().decode() if has & PLUGIN_AUTH else "mysql_native_password"
    attributes = {}
    if has & CONNECT_ATTRS:
        pairs = Reader(response.lenenc_bytes())
        while pairs.left:
            name = pairs.lenenc_bytes().decode()
            attributes[name] = pairs.lenenc_bytes().decode()
    return Login(connection_id, has, both, charset, max_packet, user, database, plugin, attributes, tls, [proof])


@dataclass
class _Statement:
    text: str
    count: int
    types: tuple[tuple[int, bool], ...] = ()
    long_data: dict[int, bytes] = field(default_factory=dict)


class Statements:
    """A connection's prepared statements."""

    def __init__(self) -> None:
        self._open: dict[int, _Statement] = {}
        self._numbers = itertools.count(1)

    def __contains__(self, number: int) -> bool:
        return number in self._open

    def prepare(self, text: str) -> tuple[int, int]:
        """Keep a statement; gives its number and how many parameters it has."""
        number, count = next(self._numbers), _QUOTED.sub("", text).count("?")
        self._open[number] = _Statement(text, count)
        return number, count

    def command(self, payload: bytes, connection_id: int) -> Command:
        """A command's packet taken apart; a statement that it closes is forgotten."""
        reader = Reader(payload)
        code = reader.number(1)
        if code in (COM_QUERY, COM_STMT_PREPARE, COM_INIT_DB):
            return Command(code, connection_id, payload, reader.take(reader.left).decode(errors="surrogateescape"))
        if code not in (COM_STMT_EXECUTE, COM_STMT_CLOSE, COM_STMT_RESET, COM_STMT_SEND_LONG_DATA):
            return Command(code, connection_id, payload)
        number = reader.number(4)
        if number == LAST_PREPARED:
            number = max(self._open, default=number)
        statement = self._open.get(number)
        if statement is None:
            return Command(code, connection_id, payload, statement_id=number)
        flags = 0
        parameters: tuple[Parameter, ...] = ()
        if code == COM_STMT_EXECUTE:
            flags, parameters = reader.number(1), _bound(statement, reader)
        elif code == COM_STMT_SEND_LONG_DATA:
            index = reader.number(2)
            statement.long_data[index] = statement.long_data.get(index, b"") + reader.take(reader.left)
        elif code == COM_STMT_RESET:
            statement.long_data.clear()
        else:
            del self._open[number]
        return Command(code, connection_id, payload, statement.text, number, parameters, flags)


def _bound(statement: _Statement, reader: Reader) -> tuple[Parameter, ...]:
    reader.take(4)  # the number of iterations
    if not statement.count:
        return ()
    nulls = reader.number((statement.count + 7) // 8)
    if reader.number(1):
        statement.types = tuple((reader.number(1), bool(reader.number(1) & 0x80)) for _ in range(statement.count))
    assert statement.types, "parameters without types"
    parameters = []
    for index, (code, unsigned) in enumerate(statement.types):
        value = statement.long_data.get(index)
        if value is None and not nulls >> index & 1:
            value = parameter_of(reader, code, unsigned)
        parameters.append(Parameter(code, unsigned, value))
    statement.long_data.clear()
    assert not reader.left, f"{reader.left} bytes behind the parameters"
    return tuple(parameters)
