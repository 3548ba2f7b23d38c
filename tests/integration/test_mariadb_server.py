"""The private MariaDB server: what the demo, the tests and the benchmarks rest on."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import psutil
import pymysql
import pytest
from pymysql.connections import Connection

from demo import load_mariadb
from demo.data import DATABASE, DataError, DemoTable
from demo.mariadb import ADMIN, MariaError, MariaServer
from demo.server import server_account
from tests.conftest import PASSWORD

Rows = tuple[tuple[Any, ...], ...]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MariaServer]:
    """A server of the test's own, not started."""
    server = MariaServer(tmp_path / "server", password='it\'s a \\ "word" %')
    yield server
    server.destroy()


def ask(server: MariaServer, statement: str, **where: Any) -> Rows:
    with server.connect(**where) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        rows: Rows = cursor.fetchall()
        return rows


def test_rows_outlive_a_stop_and_a_crash(server: MariaServer) -> None:
    with server:
        ask(server, "CREATE DATABASE kept")
        ask(server, "CREATE TABLE kept.numbers (n int PRIMARY KEY) ENGINE = InnoDB")
        ask(server, "INSERT INTO kept.numbers VALUES (1)")
        assert server.is_running()
    assert not server.is_running()
    with pytest.raises(MariaError, match="not started"):
        server.port  # noqa: B018
    assert "Shutdown complete" in (server.data / "server.log").read_text()

    server.start()
    ask(server, "INSERT INTO kept.numbers VALUES (2)")
    server.kill()
    assert not server.is_running()
    server.start()
    assert ask(server, "SELECT n FROM numbers ORDER BY n", database="kept") == ((1,), (2,))
    assert "Starting crash recovery" in (server.data / "server.log").read_text()


def test_only_the_superuser_comes_in_and_only_with_the_password(server: MariaServer) -> None:
    server.start()
    users = ask(server, "SELECT user, host, plugin FROM mysql.user ORDER BY user, host")
    assert users == (
        ("mariadb.sys", "localhost", "mysql_native_password"),  # locked: it only owns system views
        (ADMIN, "127.0.0.1", "mysql_native_password"),
        (ADMIN, "localhost", "mysql_native_password"),
    )
    for user, password in ((ADMIN, ""), (ADMIN, "guess"), ("root", ""), ("mariadb.sys", ""), ("anybody", "")):
        with pytest.raises(pymysql.OperationalError, match="denied"):
            server.connect(user=user, password=password)
    assert ask(server, "SHOW DATABASES") == (("information_schema",), ("mysql",), ("performance_schema",), ("sys",))
    assert "WITH GRANT OPTION" in ask(server, "SHOW GRANTS")[0][0]

    inside = pymysql.connect(unix_socket=str(server.socket), user=ADMIN, password=server.password)
    with inside:
        assert inside.get_host_info() == "Localhost via UNIX socket"
    listening = [each for each in psutil.net_connections("inet") if each.laddr and each.laddr.port == server.port]
    assert {each.laddr.ip for each in listening} == {"127.0.0.1"}
    assert stat.S_IMODE((server.data / "cluster").stat().st_mode) == 0o700


def test_it_runs_under_an_unprivileged_account(server: MariaServer) -> None:
    server.start()
    process = psutil.Process(int((server.data / "server.pid").read_text()))
    assert process.uids().real == server_account().owner
    assert process.uids().real != 0
    assert (server.data / "cluster" / "ibdata1").stat().st_uid == server_account().owner


def test_the_address_says_everything(mariadb: MariaServer, mysql_dsn: str) -> None:
    url = urlsplit(mysql_dsn)
    assert (url.scheme, url.hostname, url.port) == ("mysql", "127.0.0.1", mariadb.port)
    assert (url.username, unquote(url.password or "")) == (ADMIN, PASSWORD)
    assert ask(mariadb, "SELECT database()", database=url.path[1:]) == ((url.path[1:],),)
    assert mariadb.dsn(user="a b", password="c:d/e@f") == f"mysql://a%20b:c%3Ad%2Fe%40f@127.0.0.1:{mariadb.port}/"


def test_settings_reach_the_server(server: MariaServer) -> None:
    server.settings = {"sql_mode": "ANSI", "max-allowed-packet": "2M", "plugin_load_add": "auth_ed25519"}
    server.start()
    found = ask(server, "SELECT @@max_allowed_packet, @@sql_mode LIKE '%ANSI%', @@character_set_server")
    assert found == ((2 << 20, 1, "utf8mb4"),)
    assert ask(server, "SELECT plugin_status FROM information_schema.plugins WHERE plugin_name = 'ed25519'") == (
        ("ACTIVE",),
    )


def test_a_server_that_was_left_behind_is_stopped_first(server: MariaServer) -> None:
    server.start()
    first = server.port
    again = MariaServer(server.data, password=server.password)
    assert again.is_running()
    again.start()
    try:
        assert again.port != first
        assert ask(again, "SELECT 1") == ((1,),)
        with pytest.raises(pymysql.OperationalError):
            server.connect()
    finally:
        again.stop()


def test_a_pid_of_some_other_program_is_left_alone(server: MariaServer) -> None:
    server.start()
    server.kill()
    (server.data / "server.pid").write_text(f"{os.getpid()}\n")
    assert not server.is_running()
    server.start()
    assert ask(server, "SELECT 1") == ((1,),)


def test_starting_twice_does_nothing_and_a_dead_server_is_started_again(server: MariaServer) -> None:
    server.start()
    port, pid = server.port, int((server.data / "server.pid").read_text())
    server.start()
    assert (server.port, int((server.data / "server.pid").read_text())) == (port, pid)

    process = psutil.Process(pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not server.is_running()
    server.start()
    assert ask(server, "SELECT 1") == ((1,),)


def test_a_server_that_does_not_come_up_says_why_and_is_gone(server: MariaServer) -> None:
    server.settings = {"no_such_variable": "1"}
    with pytest.raises(MariaError, match="unknown variable 'no-such-variable=1'"):
        server.start()
    assert not server.is_running()
    assert not (server.data / "cluster").exists()  # a half-made one is never taken for one

    server.settings = {}
    server.start()
    server.stop()
    server.settings = {"no_such_variable": "1"}
    with pytest.raises(MariaError, match=r"(?s)ended\. The end of .*unknown variable 'no-such-variable=1'"):
        server.start()
    assert not server.is_running()

    wrong = MariaServer(server.data, password="guess")
    with pytest.raises(MariaError, match="has another password"):
        wrong.start()
    assert not wrong.is_running()


def test_missing_programs_are_named(tmp_path: Path) -> None:
    server = MariaServer(tmp_path / "server", password="x", programs=tmp_path)
    with pytest.raises(MariaError, match=r"program mariadbd is missing: .* has none"):
        server.start()
    server.destroy()
    assert not server.data.exists()


def test_missing_programs_of_the_distribution_are_named(server: MariaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    with pytest.raises(MariaError, match="program mariadbd is missing: run `make services`"):
        server.start()


def test_another_build_may_stand_anywhere(server: MariaServer) -> None:
    server.programs = Path("/usr")  # the same programs, named as another build's are
    server.start()
    assert ask(server, "SELECT trim(TRAILING '/' FROM @@basedir)") == (("/usr",),)


def test_destroying_leaves_nothing(tmp_path: Path) -> None:
    server = MariaServer(tmp_path / "server", password="x")
    server.start()
    home, pid = server.data.resolve(), int((server.data / "server.pid").read_text())
    server.destroy()
    assert not server.data.is_symlink()
    assert not server.data.exists()
    assert not home.exists()
    assert not psutil.pid_exists(pid)


def test_the_shared_fixtures_give_an_empty_database(
    mysql_sql: Callable[[str], list[tuple[Any, ...]]], mysql_database: Connection[Any], mysql_dsn: str
) -> None:
    assert mysql_sql("SHOW TABLES") == []
    assert mysql_sql("CREATE TABLE t (a int) SELECT 7 AS a") == []
    assert mysql_sql("SELECT a, database() FROM t") == [(7, mysql_dsn.rpartition("/")[2])]
    assert mysql_database.get_autocommit()


# --------------------------------------------------------------------------------------------- the demo's loading

THINGS = DemoTable(
    "things", 2, "id smallint PRIMARY KEY, price numeric(4,2), name varchar(5) NOT NULL, at timestamptz NOT NULL"
)
GOOD = "2,NA,\\N,1970-01-01T00:00:01Z\n"


@pytest.fixture
def load(mariadb: MariaServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], str]]:
    """Load a table out of a header and two lines, the second of which is good."""

    def run(header: str, line: str) -> str:
        file = io.BytesIO(f"{header}\n{line}\n{GOOD}".encode())
        monkeypatch.setattr(load_mariadb, "TABLES", (THINGS,))
        monkeypatch.setattr(load_mariadb, "open_file", lambda table: contextlib.nullcontext(file))
        return load_mariadb.load(mariadb, "reader")

    yield run
    ask(mariadb, f"DROP DATABASE {DATABASE}")


HEADER = "id,price,name,at"


def test_a_file_is_loaded_as_it_is(mariadb: MariaServer, load: Callable[[str, str], str]) -> None:
    assert load(HEADER, "1,-1.50,é,2013-03-31T02:30:00Z") == (
        f"mysql://rivet_reader:reader@127.0.0.1:{mariadb.port}/nycflights"
    )
    reader = {"user": "rivet_reader", "password": "reader", "database": DATABASE}
    columns = "id, CAST(price AS char), name, unix_timestamp(at)"
    found = ask(mariadb, f"SELECT {columns} FROM things ORDER BY id", **reader)
    assert found == ((1, "-1.50", "é", 1364697000), (2, None, "\\N", 1))
    for refused in ("DELETE FROM things", "CREATE TABLE more (a int)", "SELECT * FROM mysql.user"):
        with pytest.raises(pymysql.OperationalError, match="denied"):
            ask(mariadb, refused, **reader)

    # A complete table is left alone, and the reader gets a new password.
    ask(mariadb, "UPDATE things SET price = 9.99", database=DATABASE)
    load(HEADER, "no line at all")
    assert ask(mariadb, "SELECT DISTINCT CAST(price AS char) FROM things", **reader) == (("9.99",),)


@pytest.mark.parametrize(
    ("header", "line", "why"),
    [
        (HEADER, "1,1.005,a,2013-01-01T00:00:00Z", "would change values of things: .*'price'"),
        (HEADER, "1,100,a,2013-01-01T00:00:00Z", "would change values of things: .*'price'"),
        (HEADER, "1,1,abcdef,2013-01-01T00:00:00Z", "would change values of things: .*'name'"),
        (HEADER, "1,1,NA,2013-01-01T00:00:00Z", "would change values of things: .*'name'"),
        (HEADER, "1,1,a,2013-02-30T00:00:00Z", "would change values of things: "),
        (HEADER, "2,1,a,2013-01-01T00:00:00Z", "would change values of things: Duplicate entry"),
        (HEADER, "1,1,a,2013-01-01T00:00:00Z,more", "would change values of things: .*truncated"),
        (HEADER, "1,1,a", "would change values of things: .*datetime"),
        (HEADER, "1,1,a,NA", "would change values of things: .*datetime"),
        (HEADER, "1,1,a,", "would change values of things: .*datetime"),
        (
            HEADER,
            "1,1,a,2013-01-01T00:00:00Z\n" + GOOD.replace("2", "3", 1).strip(),
            "has 3 rows of things, and 2 were",
        ),
        ("id,name,price,at", "1,1,a,2013-01-01T00:00:00Z", "other columns of things"),
    ],
)
def test_what_the_server_would_bend_is_refused(
    mariadb: MariaServer, load: Callable[[str, str], str], header: str, line: str, why: str
) -> None:
    with pytest.raises(DataError, match=why):
        load(header, line)
    # Whatever is left is not taken for a complete table the next time.
    kept = ask(mariadb, "SHOW TABLES LIKE 'things'", database=DATABASE)
    assert not kept or ask(mariadb, "SELECT count(*) FROM things", database=DATABASE) != ((THINGS.rows,),)
