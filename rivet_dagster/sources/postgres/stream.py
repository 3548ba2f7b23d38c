"""The bytes of one COPY TO STDOUT, collected into a reused buffer."""

from __future__ import annotations

import selectors
import time

import numpy as np
import psycopg
from psycopg import pq

from rivet_dagster._memory import mapped
from rivet_dagster.errors import SourceError
from rivet_dagster.sources.base import PageTooLarge
from rivet_dagster.sources.postgres._libpq import PAUSE_SECONDS, RowReader, find_libpq
from rivet_dagster.wire.pgcopy import SIGNATURE

# Room for a few usual pages. Only what a page fills is memory.
_FIRST_BYTES = 64 << 20
_LOOK_SECONDS = 1.0

# What the server sends before the first row and after the last one: pieces between have none of their own.
_HEADER = SIGNATURE + bytes(8)
_TRAILER = b"\xff\xff"


class CopyStream:
    """Takes what COPY statements of one connection send.

    The whole page is taken before anything is decoded: the statement ends as soon as the network allows, however
    busy this process is. The buffer is kept from page to page.

    Attributes:
        buffer: its front holds what was taken last.
        is_open: a statement was begun whose rows are not all taken yet.
    """

    def __init__(self, pgconn: pq.abc.PGconn) -> None:
        self._pgconn = pgconn
        functions = find_libpq(pgconn)
        self._reader = None if functions is None else RowReader(functions, pgconn)
        self._held = b""
        self._pieces = self._rows = self._refused = 0
        self.buffer = mapped(_FIRST_BYTES, np.uint8)
        self.is_open = False

    def drain(self, statement: bytes, most: int | None = None) -> tuple[int, int]:
        """Run a COPY statement; its bytes are then at the front of `buffer`.

        Other threads run meanwhile, and one of them may cancel the statement.

        Args:
            statement: COPY ... TO STDOUT.
            most: bytes that may come, unless they are a single row. None is no limit.

        Returns:
            Bytes received, and rows by the server's own count.

        Raises:
            psycopg.Error: what the server or the connection said.
            SourceError: RIVET_SOURCE_LOST, the stream ended without the server's word that it was whole.
                RIVET_PAGE_TOO_LARGE, and the statement is still open.
        """
        self.begin(statement)
        used, more = self._take(0, None if most is None else most + len(_TRAILER))
        if more and most is not None:
            raise PageTooLarge(self._rows + 1, used + self._refused, most)
        return used, self._finish()

    def begin(self, statement: bytes) -> None:
        """Run a COPY statement, of which `take` gives the rows; errors as in `drain`."""
        result = self._pgconn.exec_(statement)
        if result.status != pq.ExecStatus.COPY_OUT:
            raise psycopg.errors.error_from_result(result)
        self.is_open, self._held = True, b""
        self._pieces = self._rows = 0

    def take(self, size: int) -> tuple[int, int | None]:
        """The next rows of about `size` bytes, as a complete stream at the front of `buffer`.

        Returns:
            Bytes of the piece; and after the last one the rows of all pieces by the server's own count.

        Raises:
            psycopg.Error, SourceError: as in `drain`.
        """
        start = 0
        if self._pieces:
            start = len(_HEADER)
            self.buffer[:start] = np.frombuffer(_HEADER, np.uint8)
        self._pieces += 1
        used, more = self._take(start, start + size)
        if not more:
            return used, self._finish()
        end = used + len(_TRAILER)
        if end > len(self.buffer):
            self._grow(used, end)
        self.buffer[used:end] = np.frombuffer(_TRAILER, np.uint8)
        return end, None

    def drop(self) -> None:
        """Give up what is left of a statement that the server has been told to end."""
        if self._reader is not None:
            self._reader.drop_row()
        self._held = b""
        self.is_open = False

    def _take(self, used: int, enough: int | None) -> tuple[int, bool]:
        """Append rows to the buffer's `used` bytes, up to `enough` bytes or one row; gives bytes, and if more come.

        Then `_rows` is how many were appended, and `_refused` the size of the one that is left over.
        """
        if self._reader is None:
            return self._take_calls(used, enough)
        reader, start, before = self._reader, max(used, len(_HEADER)), self._reader.rows
        try:
            while True:
                room = self.buffer if enough is None else self.buffer[:enough]
                used, needed = reader.read(room, used)
                if not needed:
                    return used, False
                if enough is not None and used > start:
                    self._rows, self._refused = reader.rows - before, needed
                    return used, True
                if enough is not None:
                    # A single row that is larger than that, and what may end the stream behind it.
                    enough = used + needed + len(_TRAILER)
                if used + needed > len(self.buffer):
                    self._grow(used, used + needed)
        except BaseException:
            self.drop()
            raise

    def _take_calls(self, used: int, enough: int | None) -> tuple[int, bool]:
        """The same with a call of the driver a row, for platforms and drivers whose libpq cannot be told for sure."""
        pgconn, lost, start = self._pgconn, None, max(used, len(_HEADER))
        self._rows = 0
        capacity, view = len(self.buffer), self.buffer.data
        with selectors.DefaultSelector() as selector:
            selector.register(pgconn.socket, selectors.EVENT_READ)
            while True:
                data: bytes | memoryview
                data, self._held = self._held, b""
                size = len(data)
                if not size:
                    size, data = pgconn.get_copy_data(1)
                if size < 0:
                    return used, False
                if size == 0:
                    # What came before the connection was lost counts, and may say why it was.
                    if lost is not None:
                        raise lost
                    lost = _look(pgconn, selector)
                    continue
                end = used + size
                if enough is not None and end > enough and used > start:
                    self._held, self._refused = bytes(data), size
                    return used, True
                if enough is not None and used <= start:
                    enough = max(enough, end + len(_TRAILER))
                if end > capacity:
                    self._grow(used, end)
                    capacity, view = len(self.buffer), self.buffer.data
                view[used:end] = data
                used = end
                self._rows += 1

    def _grow(self, used: int, needed: int) -> None:
        larger = mapped(max(needed, len(self.buffer) * 2), np.uint8)
        larger[:used] = self.buffer[:used]
        self.buffer = larger

    def _finish(self) -> int:
        """Take the results after the stream. Only the server's own "COPY n" proves that it came whole."""
        self.is_open = False
        rows, error = -1, None
        # To the last one: the connection is of use again only then.
        while result := self._pgconn.get_result():
            if result.status == pq.ExecStatus.FATAL_ERROR:
                error = error or psycopg.errors.error_from_result(result)
            if result.status == pq.ExecStatus.COMMAND_OK:
                rows = result.command_tuples or 0
        if error is not None:
            raise error
        if rows < 0:
            raise SourceError(
                "RIVET_SOURCE_LOST",
                "The server ended a page without saying that it was complete.",
                "It is tried again.",
                retryable=True,
            )
        return rows


def _look(pgconn: pq.abc.PGconn, selector: selectors.BaseSelector) -> psycopg.Error | None:
    """Wait for input and take it; gives the error of a lost connection. The driver's own waiting stops all threads."""
    # Not for ever: bytes that TLS has decrypted already do not show on the socket.
    if selector.select(_LOOK_SECONDS):
        time.sleep(PAUSE_SECONDS)
    try:
        pgconn.consume_input()
    except psycopg.Error as exc:
        return exc
    return None
