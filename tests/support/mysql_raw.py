"""Clients of MySQL's protocol for tests of servers: PyMySQL, and one that shows the bytes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import unquote, urlsplit

import pymysql
from pymysql.connections import Connection

from tests.support.mysql_auth import NATIVE, native_scramble
from tests.support.mysql_commands import Reader
from tests.support.mysql_packets import COM_QUIT, frames, lenenc


def connected(port: int, **options: Any) -> Connection[Any]:
    """PyMySQL; by default without TLS, which it would use wherever the server has it."""
    told = {"user": "rivet", "ssl_disabled": True, **options}
    return pymysql.connect(host="127.0.0.1", port=port, **told)


@contextmanager
def session(port: int, **options: Any) -> Iterator[Connection[Any]]:
    """The same, closed in the end."""
    connection = connected(port, **options)
    try:
        yield connection
    finally:
        if connection.open:
            connection.close()


def rows_of(connection: Connection[Any], statement: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall())


class RawClient:
    """A client that shows bytes: it logs in with a native password and the capabilities that it is given.

    Its context ends with COM_QUIT, and fails where the server said more than was taken.

    Args:
        port: the server's, on 127.0.0.1.
        capabilities: the client's.
        extended: of those that MariaDB has besides.
        dsn: where user, password and database are taken from.
    """

    def __init__(self, port: int, capabilities: int, *, extended: int = 0, dsn: str = "//rivet@") -> None:
        address = urlsplit(dsn)
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        greeting = Reader(self.packet())
        greeting.take(1)
        greeting.terminated()
        greeting.take(4)
        nonce = greeting.take(8)
        greeting.take(19)
        proof = native_scramble(unquote(address.password or "").encode(), nonce + greeting.take(12))
        head = capabilities.to_bytes(4, "little") + (1 << 24).to_bytes(4, "little") + bytes([45]) + bytes(19)
        texts = [str(address.username).encode() + b"\0", lenenc(len(proof)), proof]
        texts += [address.path[1:].encode() + b"\0", NATIVE.encode() + b"\0", b"\0"]  # no attributes
        self.send(head + extended.to_bytes(4, "little") + b"".join(texts), sequence=1)
        assert self.packet()[:1] == b"\0"

    def send(self, payload: bytes, sequence: int = 0) -> None:
        self.socket.sendall(b"".join(frames([payload], sequence)))

    def frame(self) -> bytes:
        head = self.take(4)
        return head + self.take(int.from_bytes(head[:3], "little"))

    def packet(self) -> bytes:
        return self.frame()[4:]

    def take(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            assert more, f"{len(data)} of {size} bytes came"
            data += more
        return data

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self.socket:
            if kind is None:
                with suppress(ConnectionError):  # it may have gone before
                    self.send(bytes([COM_QUIT]))
                    assert self.socket.recv(1) == b"", "the server had more to say"
