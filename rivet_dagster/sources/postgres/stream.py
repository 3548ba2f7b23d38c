"""The bytes of one COPY TO STDOUT, collected into a reused buffer."""

from __future__ import annotations

import selectors
import time

import numpy as np
import psycopg
from psycopg import pq

from rivet_dagster._memory import mapped
from rivet_dagster.errors import SourceError
from rivet_dagster.sources.postgres._libpq import PAUSE_SECONDS, RowReader, find_libpq

# Room for a few usual pages. Only what a page fills is memory.
_FIRST_BYTES = 64 << 20
_LOOK_SECONDS = 1.0


class CopyStream:
    """Drains COPY statements of one connection.

    The whole page is taken before anything is decoded: the statement ends as soon as the network allows, however
    busy this process is. The buffer is kept from page to page.
    """

    def __init__(self, pgconn: pq.abc.PGconn) -> None:
        self._pgconn = pgconn
        functions = find_libpq(pgconn)
        self._reader = None if functions is None else RowReader(functions, pgconn)
        self.buffer = mapped(_FIRST_BYTES, np.uint8)

    def drain(self, statement: bytes) -> tuple[int, int]:
        """Run a COPY statement; its bytes are then at the front of `buffer`.

        Other threads run meanwhile, and one of them may cancel the statement.

        Returns:
            Bytes received, and rows by the server's own count.

        Raises:
            psycopg.Error: what the server or the connection said.
            SourceError: RIVET_SOURCE_LOST, the stream ended without the server's word that it was whole.
        """
        result = self._pgconn.exec_(statement)
        if result.status != pq.ExecStatus.COPY_OUT:
            raise psycopg.errors.error_from_result(result)
        used = self._take_calls() if self._reader is None else self._take(self._reader)
        return used, self._finish()

    def _take(self, reader: RowReader) -> int:
        used, needed = 0, 1
        try:
            while needed:
                used, needed = reader.read(self.buffer, used)
                if needed:
                    self._grow(used, used + needed)
        finally:
            reader.drop_row()
        return used

    def _take_calls(self) -> int:
        """The same with a call of the driver a row, for platforms and drivers whose libpq cannot be told for sure."""
        pgconn, lost = self._pgconn, None
        used, capacity, view = 0, len(self.buffer), self.buffer.data
        with selectors.DefaultSelector() as selector:
            selector.register(pgconn.socket, selectors.EVENT_READ)
            while True:
                size, data = pgconn.get_copy_data(1)
                if size < 0:
                    return used
                if size == 0:
                    # What came before the connection was lost counts, and may say why it was.
                    if lost is not None:
                        raise lost
                    lost = _look(pgconn, selector)
                    continue
                end = used + size
                if end > capacity:
                    self._grow(used, end)
                    capacity, view = len(self.buffer), self.buffer.data
                view[used:end] = data
                used = end

    def _grow(self, used: int, needed: int) -> None:
        larger = mapped(max(needed, len(self.buffer) * 2), np.uint8)
        larger[:used] = self.buffer[:used]
        self.buffer = larger

    def _finish(self) -> int:
        """Take the results after the stream. Only the server's own "COPY n" proves that it came whole."""
        rows = -1
        while result := self._pgconn.get_result():
            if result.status == pq.ExecStatus.FATAL_ERROR:
                raise psycopg.errors.error_from_result(result)
            if result.status == pq.ExecStatus.COMMAND_OK:
                rows = result.command_tuples or 0
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
