"""What reading alone costs: bytes of rows are taken from the connection, and nothing is done with them."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from tests.benchmarks.contender import MARIADB, Contender, Facts, Task, Work

_BLOCK_BYTES = 1 << 20

# Heap blocks a page: somewhat less than the 8 MiB on the wire that an export's pages aim at.
_PAGE_BLOCKS = 768

# CopyDone, CommandComplete and ReadyForQuery, which end the answer to one COPY statement.
_END = re.compile(rb"c\0\0\0\x04C.{4}COPY (\d+)\0Z\0\0\0\x05[IT]\Z", re.DOTALL)
_END_BYTES = 64


def _copy(task: Task) -> str:
    return f"COPY {task.relation} TO STDOUT (FORMAT binary)"


def _load_psycopg(task: Task) -> Work:
    import psycopg

    def work() -> Facts:
        with psycopg.connect(task.dsn) as connection:
            pgconn = connection.pgconn
            pgconn.exec_(_copy(task).encode())
            taken = 0
            while (chunk := pgconn.get_copy_data(0))[0] > 0:
                taken += chunk[0]
            rows = 0
            while result := pgconn.get_result():
                rows += result.command_tuples or 0
            return {"rows": rows, "wire_bytes": taken}

    return work


def _load_pg8000(task: Task) -> Work:
    import pg8000.native

    url = urlsplit(task.dsn)

    def work() -> Facts:
        connection = pg8000.native.Connection(
            url.username, url.hostname, url.path[1:], url.port, unquote(url.password or "")
        )
        # Its socket is the only way past its reading of one message at a time.
        connection._send_message(b"Q", _copy(task).encode() + b"\0")
        connection._sock.flush()
        block = bytearray(_BLOCK_BYTES)
        view, tail, taken = memoryview(block), b"", 0
        while not (end := _END.search(tail)):
            size = connection._usock.recv_into(block)
            if not size:
                raise ConnectionError("the server closed the connection")
            tail = (tail + bytes(view[max(size - _END_BYTES, 0) : size]))[-_END_BYTES:]
            taken += size
        connection.close()
        return {"rows": int(end[1]), "wire_bytes": taken}

    return work


def _load_stream(task: Task) -> Work:
    import psycopg

    from rivet_dagster.sources.postgres._libpq import warm
    from rivet_dagster.sources.postgres.stream import CopyStream

    warm()

    def work() -> Facts:
        with psycopg.connect(task.dsn) as connection:
            size = connection.execute("SELECT pg_relation_size(%s::regclass)", [task.relation]).fetchone()
            assert size is not None
            # Page by page, as an export reads: the buffer need not hold the whole table.
            stream, taken, rows = CopyStream(connection.pgconn), 0, 0
            for block in range(0, size[0] // 8192 + 1, _PAGE_BLOCKS):
                within = f"ctid >= '({block},0)' AND ctid < '({block + _PAGE_BLOCKS},0)'"
                query = f"COPY (SELECT * FROM {task.relation} WHERE {within}) TO STDOUT (FORMAT binary)"
                page_bytes, page_rows = stream.drain(query.encode())
                taken += page_bytes
                rows += page_rows
            return {"rows": rows, "wire_bytes": taken}

    return work


def _load_mysql(task: Task) -> Work:
    from rivet_dagster.wire.mysqlrows import warm
    from tests.benchmarks.reading import Drain

    warm()

    def work() -> Facts:
        drain = Drain(task.dsn)
        rows, taken = drain.take(f"SELECT * FROM {task.relation}")
        drain.close()
        return {"rows": rows, "wire_bytes": taken}

    return work


CONTENDERS = (
    Contender("drain-libpq", "only reading, libpq from a kernel", ("psycopg", "numba"), _load_stream, writes=False),
    Contender("drain-psycopg", "only reading, psycopg", ("psycopg",), _load_psycopg, writes=False),
    Contender("drain-pg8000", "only reading, pg8000's socket", ("pg8000",), _load_pg8000, writes=False),
    Contender(
        "drain-mysql",
        "only reading, prepared statement",
        ("pymysql", "numba"),
        _load_mysql,
        writes=False,
        servers=(MARIADB,),
    ),
)
