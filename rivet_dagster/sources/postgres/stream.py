"""The bytes of one COPY TO STDOUT, collected into a reused buffer."""

from __future__ import annotations

import mmap

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg import pq

from rivet_dagster.errors import SourceError

_FIRST_BYTES = 1 << 20


class CopyStream:
    """Drains COPY statements of one connection.

    The whole page is taken before anything is decoded: the statement ends as soon as the network allows, however
    busy this process is. The buffer is kept from page to page.
    """

    def __init__(self, pgconn: pq.abc.PGconn) -> None:
        self._pgconn = pgconn
        self.buffer = _mapped(_FIRST_BYTES)

    def drain(self, statement: bytes) -> tuple[int, int]:
        """Run a COPY statement; its bytes are then at the front of `buffer`.

        Returns:
            Bytes received, and rows by the server's own count.

        Raises:
            psycopg.Error: what the server or the connection said.
        """
        pgconn = self._pgconn
        result = pgconn.exec_(statement)
        if result.status != pq.ExecStatus.COPY_OUT:
            raise psycopg.errors.error_from_result(result)
        used, capacity, view = 0, len(self.buffer), self.buffer.data
        while True:
            # One call a row, which is all that libpq offers.
            size, data = pgconn.get_copy_data(0)
            if size <= 0:
                break
            end = used + size
            if end > capacity:
                view = self._grown(used, end)
                capacity = len(self.buffer)
            view[used:end] = data
            used = end
        return used, self._finish()

    def _grown(self, used: int, needed: int) -> memoryview:
        larger = _mapped(max(needed, len(self.buffer) * 2))
        larger[:used] = self.buffer[:used]
        self.buffer = larger
        return larger.data

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


def _mapped(size: int) -> npt.NDArray[np.uint8]:
    """Memory that is taken as it is touched and given back at once: malloc would keep what a buffer outgrew."""
    return np.frombuffer(mmap.mmap(-1, size), np.uint8)
