"""The rows of one result, collected from the connection's socket into a reused buffer."""

from __future__ import annotations

import ssl
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pymysql import err
from pymysql.protocol import FieldDescriptorPacket

from rivet_dagster._memory import mapped
from rivet_dagster.errors import SourceError
from rivet_dagster.sources.base import PageTooLarge
from rivet_dagster.sources.mysql.statements import Statements
from rivet_dagster.wire import mysqlrows

if TYPE_CHECKING:
    import numpy.typing as npt

    from rivet_dagster.sources.mysql.ceiling import ValueCeiling

# Room for a few usual pages. Only what a page fills is memory.
_FIRST_BYTES = 64 << 20
_SPARE_BYTES = 64 << 10
_HURRIED_BYTES = 32 << 10
# The server sends 16 KiB at a time. Unless there is time for more to arrive, each costs both sides a switch of context.
_PAUSE_SECONDS = 0.0002
_WORTHWHILE_BYTES = 1 << 20
_HEADER_BYTES = 4
_LARGEST_PAYLOAD = 0xFFFFFF
_ALL_ROWS = 2**62
_MORE_RESULTS = 0x0008
_SERVER_LOST = 2013
_FIRST_SEQUENCE = 1
_EOF_BYTES = 5
_OK_BYTES = 7


@dataclass(frozen=True)
class ResultColumn:
    """What the server says of a result's column: its type's number in the protocol, and its flags."""

    name: str
    type_code: int
    flags: int


class ResultStream:
    """Takes the results of one connection's prepared statements.

    Attributes:
        buffer: kept from page to page. Its first `end` bytes are the packets of rows.
        end: where those rows end that were taken last and not used meanwhile.
        size: bytes of the packets of all rows that were taken last.
        is_open: a result is not taken to its end yet.
    """

    def __init__(self, statements: Statements) -> None:
        self._statements = statements
        self.buffer: npt.NDArray[np.uint8] = mapped(_FIRST_BYTES, np.uint8)
        self.end = self.size = 0
        self.is_open = False
        self._used = self._sequence = self._latest = 0
        self._is_known = False

    def execute(self, sql: str, values: Sequence[str | int]) -> tuple[ResultColumn, ...]:
        """Run a statement; gives its columns. `take` gives the rows.

        Raises:
            pymysql.err.MySQLError: what the server or the connection said.
            SourceError: RIVET_PROTOCOL_ERROR.
        """
        self._statements.execute(sql, values)
        self.end = self._used = 0
        self._sequence = _FIRST_SEQUENCE
        self.is_open = True
        self._is_known = False
        self._latest = 0
        count = _length(self._packet())
        if not count:
            raise _broken("it has no columns")
        columns = tuple(_described(self._packet()) for _ in range(count))
        if self._statements.eof_packets and self._packet()[:1] != b"\xfe":
            raise _broken("no packet ends the descriptions of its columns")
        return columns

    def take(
        self,
        rows: int = _ALL_ROWS,
        meanwhile: Callable[[int], int] | None = None,
        ceiling: ValueCeiling | None = None,
        most: int | None = None,
    ) -> int:
        """Collect up to `rows` further rows; gives how many came, fewer only at the result's end.

        Other threads run meanwhile, and one of them may have the statement killed.

        Args:
            rows: the most that are wanted.
            meanwhile: called while others are on their way, with the number of bytes at the front of `buffer` that
                are whole rows. Gives the number of those that it has used, which are then no longer there.
            ceiling: refuses rows by the lengths of their values. None takes values of any size.
            most: bytes of rows, with those that `meanwhile` has used, unless they are a single row. Of a result that
                is taken piece by piece the piece ends there; None is no limit.

        Raises:
            pymysql.err.MySQLError: what the server or the connection said.
            SourceError: RIVET_PROTOCOL_ERROR, RIVET_SOURCE_LOST, RIVET_VALUE_TOO_LARGE. RIVET_PAGE_TOO_LARGE, and the
                result is still open.
        """
        self._drop(self.end)
        self.size = found = 0
        while True:
            passed, state = self._scan(rows - found, ceiling)
            found += passed
            if found == rows:
                return found
            if state == mysqlrows.END:
                self._finish()
                return found
            if most is not None and found and self._is_beyond(most):
                if rows != _ALL_ROWS:
                    return found
                raise PageTooLarge(found + 1, self.size + self._next_bytes(), most)
            if state in (mysqlrows.MORE, mysqlrows.LARGE) and meanwhile is not None and self.end >= _WORTHWHILE_BYTES:
                self._drop(meanwhile(self.end))
            if state == mysqlrows.MORE:
                self._receive(most)
            elif state == mysqlrows.LARGE and ceiling is not None:
                self._look_into(ceiling, most)
            elif state != mysqlrows.FULL:
                raise self._refusal(state)

    def _scan(self, wanted: int, ceiling: ValueCeiling | None) -> tuple[int, int]:
        """Pass up to `wanted` rows that have come, or one that was looked into; gives how many, and why not more."""
        before, largest = self.end, mysqlrows.ANY_SIZE
        if self._is_known:
            wanted = 1
        elif ceiling is not None:
            largest = ceiling.packet_bytes
        passed, self.end, self._sequence, state = mysqlrows.scan_packets(
            self.buffer, before, self._used, self._sequence, wanted, largest
        )
        self.size += self.end - before
        self._is_known = self._is_known and not passed
        return passed, state

    def _is_beyond(self, most: int) -> bool:
        """Whether the rows taken and the next one are more, as far as it is known; what ends a result is no row."""
        if self.size + self._used - self.end + _LARGEST_PAYLOAD < most:
            return False
        following = self._next_bytes()
        return following > 0 and self.size + max(following, self._used - self.end) > most

    def _next_bytes(self) -> int:
        """Bytes of the next row's first packet; 0 where no row has begun."""
        begin = self.end + _HEADER_BYTES
        if begin >= self._used or self.buffer[begin]:
            return 0
        return _HEADER_BYTES + int.from_bytes(self.buffer[self.end : self.end + 3].tobytes(), "little")

    def _look_into(self, ceiling: ValueCeiling, most: int | None) -> None:
        """Follow the lengths in the next row as it comes; errors as in `take`."""
        row = ceiling.next_row()
        while not row.walk(self.buffer, self.end, self._used):
            self._receive(most)
        ceiling.check(row, self.buffer, self.end)
        self._is_known = True

    def _refusal(self, state: int) -> Exception:
        """What stands in the place of a row."""
        if state == mysqlrows.ERROR:
            self.is_open = False
            return _server_error(self.buffer[self.end : self._used].tobytes())
        return _broken("a packet is out of order" if state == mysqlrows.OUT_OF_ORDER else "a packet is no row")

    def _drop(self, size: int) -> None:
        """Move what stands behind the first `size` bytes to the front."""
        if size:
            left = self._used - size
            self.buffer[:left] = self.buffer[size : self._used]
            self._used = left
            self.end -= size

    def _finish(self) -> None:
        """The packet at `end` is the server's word that the result is whole."""
        packet = self.buffer[self.end : self._used].tobytes()
        size = int.from_bytes(packet[:3], "little")
        if len(packet) != _HEADER_BYTES + size:
            raise _broken("bytes follow its end")
        if _status(packet[_HEADER_BYTES:], self._statements.eof_packets) & _MORE_RESULTS:
            raise _broken("another result follows it")
        self.is_open = False

    def _packet(self) -> bytes:
        """Payload of the next packet before the rows; the server's error is raised."""
        self._wait_for(_HEADER_BYTES)
        header = self.buffer[self.end : self.end + _HEADER_BYTES].tobytes()
        size = int.from_bytes(header[:3], "little")
        if header[3] != self._sequence % 256 or size == _LARGEST_PAYLOAD:
            raise _broken("a packet is out of order")
        self._wait_for(_HEADER_BYTES + size)
        payload = self.buffer[self.end + _HEADER_BYTES : self.end + _HEADER_BYTES + size].tobytes()
        if payload[:1] == b"\xff":
            self.is_open = False
            raise _server_error(header + payload)
        self._sequence += 1
        self.end += _HEADER_BYTES + size
        return payload

    def _wait_for(self, size: int) -> None:
        while self._used < self.end + size:
            self._receive()

    def _receive(self, most: int | None = None) -> None:
        """Wait for bytes, and take all that are there; hardly any beyond the `most` that rows may have."""
        if len(self.buffer) - self._used < _SPARE_BYTES:
            larger = mapped(2 * len(self.buffer), np.uint8)
            larger[: self._used] = self.buffer[: self._used]
            self.buffer = larger
        peer = self._statements.socket
        # TLS hands out no more than a record at a time, however much has arrived.
        if 0 < self._latest < _HURRIED_BYTES and not isinstance(peer, ssl.SSLSocket):
            time.sleep(_PAUSE_SECONDS)
        room = len(self.buffer) - self._used
        if most is not None:
            room = min(room, max(most - self.size - self._used + self.end, _SPARE_BYTES))
        try:
            count = self._latest = peer.recv_into(self.buffer.data[self._used : self._used + room])
        except OSError as exc:  # also ssl.SSLError, and a time-out
            reason = exc.strerror or str(exc) or type(exc).__name__
            raise err.OperationalError(
                _SERVER_LOST, f"Lost connection to MySQL server during query ({reason})"
            ) from None
        if count == 0:
            raise SourceError(
                "RIVET_SOURCE_LOST",
                "The server closed the connection before a result was complete.",
                "It is tried again.",
                retryable=True,
            )
        self._used += count


def _length(payload: bytes) -> int:
    """The length-encoded integer that a packet is."""
    wide = {0xFC: 3, 0xFD: 4, 0xFE: 9}.get(payload[0], 1) if payload else 1
    if len(payload) != wide or payload[0] in (0xFB, 0xFF):
        raise _broken("it begins with no number of columns")
    return int.from_bytes(payload[1:], "little") if wide > 1 else payload[0]


def _described(payload: bytes) -> ResultColumn:
    try:
        found: Any = FieldDescriptorPacket(payload, "utf8")
        return ResultColumn(found.name, found.type_code, found.flags)
    except Exception:  # noqa: BLE001 (the driver checks nothing that it takes apart)
        raise _broken("the description of a column cannot be read") from None


def _status(payload: bytes, eof_packet: bool) -> int:
    """The server's status in the packet that ends a result: an EOF packet, or an OK packet in its place."""
    if eof_packet:
        if len(payload) != _EOF_BYTES:
            raise _broken("its end cannot be read")
        return int.from_bytes(payload[3:], "little")
    # Two numbers stand before it: of a query they are 0, a byte each.
    if len(payload) < _OK_BYTES or payload[1:3] != b"\0\0":
        raise _broken("its end cannot be read")
    return int.from_bytes(payload[3:5], "little")


def _server_error(packet: bytes) -> Exception:
    """The error that a packet carries."""
    size = int.from_bytes(packet[:3], "little")
    try:
        err.raise_mysql_exception(packet[_HEADER_BYTES : _HEADER_BYTES + size])
    except err.MySQLError as exc:
        return exc
    except (IndexError, ValueError, struct.error):
        return _broken("an error in it has no number or no message")


def _broken(what: str) -> SourceError:
    return SourceError(
        "RIVET_PROTOCOL_ERROR",
        f"The result that the server sent cannot be read: {what}.",
        "It is tried again on a new connection.",
        retryable=True,
    )
