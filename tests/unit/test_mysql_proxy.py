"""The proxy before a real MariaDB changes nothing but what it is told to: seen by PyMySQL, and by the server itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

import pymysql
import pytest
from pymysql.connections import Connection
from pymysql.constants import CR

from tests.support.debian import until
from tests.support.mysql_auth import NATIVE
from tests.support.mysql_packets import CAPABILITIES, COM_QUERY, Column, Result, Type
from tests.support.mysql_proxy import TcpProxy
from tests.support.mysql_raw import RawClient, connected, rows_of, session
from tests.support.mysql_wire import Fault, ScriptedServer

QUERY = "SELECT seq, REPEAT(CHAR(97 + seq % 26 USING utf8mb4), 300) FROM seq_1_to_2000"
ROWS = [(number, chr(97 + number % 26) * 300) for number in range(1, 2001)]


@pytest.fixture
def port(mysql_dsn: str) -> int:
    return int(urlsplit(mysql_dsn).port or 0)


@pytest.fixture
def user(mysql_dsn: str) -> dict[str, Any]:
    address = urlsplit(mysql_dsn)
    return {"user": address.username, "password": unquote(address.password or ""), "database": address.path[1:]}


def test_it_is_transparent(port: int, mysql_dsn: str, user: dict[str, Any]) -> None:
    answers = []
    with TcpProxy(port) as proxy:
        for entrance in (port, proxy.port):
            with RawClient(entrance, CAPABILITIES, dsn=mysql_dsn) as client:
                client.send(bytes([COM_QUERY]) + QUERY.encode())
                answers.append([client.frame() for _ in range(1 + 2 + 2000 + 1)])
        assert answers[0] == answers[1]
        with session(proxy.port, **user) as connection:
            assert rows_of(connection, QUERY) == ROWS
            assert not proxy_changed(connection, port, user)
        assert proxy.connections == 2


def proxy_changed(connection: Connection[Any], port: int, user: dict[str, Any]) -> bool:
    """Whether the greeting that a client saw is another one than the server's."""
    with session(port, **user) as direct:
        same = vars(connection)["server_version"] == vars(direct)["server_version"]
    return not same or vars(connection)["server_thread_id"] != rows_of(connection, "SELECT CONNECTION_ID()")[0]


@pytest.mark.parametrize("number", [0, 7, 2**32 - 1])
@pytest.mark.parametrize("version", ["8.0.30 (ProxySQL)", "5.5.5-10.6.12-MariaDB-" + "x" * 300])
def test_it_shows_another_greeting(port: int, user: dict[str, Any], number: int, version: str) -> None:
    with (
        TcpProxy(port, connection_id=number, server_version=version) as proxy,
        session(proxy.port, **user) as connection,
    ):
        assert (vars(connection)["server_version"], vars(connection)["server_thread_id"]) == (version, (number,))
        assert rows_of(connection, f"SELECT CONNECTION_ID() = {number}, VERSION() = '{version}'") == [(0, 0)]


def test_it_shows_the_number_alone_or_the_version_alone(port: int, user: dict[str, Any]) -> None:
    with TcpProxy(port, connection_id=3) as proxy, session(proxy.port, **user) as connection:
        assert vars(connection)["server_thread_id"] == (3,)
        assert "MariaDB" in vars(connection)["server_version"]
    with TcpProxy(port, server_version="8.4.0") as proxy, session(proxy.port, **user) as connection:
        assert (vars(connection)["server_thread_id"],) == tuple(rows_of(connection, "SELECT CONNECTION_ID()"))
        assert vars(connection)["server_version"] == "8.4.0"


@pytest.mark.parametrize("reset", [False, True])
def test_one_answer_is_cut_and_the_next_connection_is_not(port: int, user: dict[str, Any], reset: bool) -> None:
    with TcpProxy(port) as proxy:
        for count in (0, 1, 5, 100_000):
            with session(proxy.port, **user) as connection:
                before = proxy.bytes_to_client
                proxy.cut_after(count, reset=reset)
                with pytest.raises(pymysql.OperationalError) as caught:
                    rows_of(connection, QUERY)
            assert caught.value.args[0] == CR.CR_SERVER_LOST
            assert ("reset" in str(caught.value)) == reset
            assert proxy.bytes_to_client - before == count
            with session(proxy.port, **user) as connection:
                assert rows_of(connection, QUERY) == ROWS


def test_the_greeting_is_cut_and_then_nothing_more(port: int, user: dict[str, Any]) -> None:
    with TcpProxy(port, cut_after=10) as proxy:
        with pytest.raises(pymysql.OperationalError) as caught:
            connected(proxy.port, **user)
        assert (caught.value.args[0], proxy.bytes_to_client) == (CR.CR_SERVER_LOST, 10)
        with session(proxy.port, **user) as connection:
            assert rows_of(connection, QUERY) == ROWS


def test_each_connection_is_cut_until_that_is_taken_back(port: int, user: dict[str, Any]) -> None:
    with TcpProxy(port) as proxy, session(proxy.port, **user) as first, session(proxy.port, **user) as second:
        proxy.cut_after(50_000, each=True)
        for connection in (first, second):
            with pytest.raises(pymysql.OperationalError):
                rows_of(connection, QUERY)
        with session(proxy.port, **user) as third, pytest.raises(pymysql.OperationalError):
            rows_of(third, QUERY)
        proxy.resume()
        with session(proxy.port, **user) as fourth:
            assert rows_of(fourth, QUERY) == ROWS


def test_the_server_is_told_that_a_connection_is_gone(
    port: int, user: dict[str, Any], mysql_sql: Callable[[str], list[tuple[Any, ...]]]
) -> None:
    with TcpProxy(port) as proxy:
        connection = connected(proxy.port, **user)
        ((number,),) = rows_of(connection, "SELECT CONNECTION_ID()")
        there = f"SELECT COUNT(*) FROM information_schema.processlist WHERE id = {number}"
        assert mysql_sql(there) == [(1,)]
        proxy.drop()
        until(lambda: mysql_sql(there) == [(0,)], "the server has noticed")
        with pytest.raises(pymysql.OperationalError):
            rows_of(connection, "SELECT 1")


def test_a_silent_answer_goes_on_when_it_is_told_to(port: int, user: dict[str, Any]) -> None:
    with TcpProxy(port) as proxy:
        with session(proxy.port, **user, read_timeout=0.3) as hasty:
            proxy.stall_after(1000)
            with pytest.raises(pymysql.OperationalError, match="timed out"):
                rows_of(hasty, QUERY)
            proxy.resume()
        with session(proxy.port, **user, cursorclass=pymysql.cursors.SSCursor) as patient:
            proxy.stall_after(20_000)
            with patient.cursor() as cursor:
                cursor.execute(QUERY)
                first = cursor.fetchmany(10)
                proxy.resume()
                assert [*first, *cursor.fetchall()] == ROWS


def test_it_counts_what_passes(port: int, user: dict[str, Any]) -> None:
    with TcpProxy(port) as proxy, session(proxy.port, **user) as connection:
        before = (proxy.turns, proxy.sends, proxy.bytes_to_server, proxy.bytes_to_client)
        for _ in range(5):
            assert rows_of(connection, "SELECT 1") == [(1,)]
        after = (proxy.turns, proxy.sends, proxy.bytes_to_server, proxy.bytes_to_client)
    answer = 4 + 1 + 4 + 23 + 5 + 4 + 5 + 4 + 2
    assert [now - then for now, then in zip(after, before, strict=True)] == [5, 5, 5 * (4 + 1 + 8), 5 * (answer + 4)]


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    with ScriptedServer(auth_plugin=NATIVE) as server:
        server.on("gone", Fault(Result([Column("n", Type.LONG)], [[1]]), after=3, action="rst"))
        yield server


def test_what_a_server_does_to_a_connection_is_done_to_its_client(scripted: ScriptedServer) -> None:
    reset = pytest.raises(pymysql.OperationalError, match="reset")
    with TcpProxy(scripted.port) as proxy, session(proxy.port) as connection, reset:
        rows_of(connection, "SELECT gone")


def test_without_a_server_clients_are_turned_away(scripted: ScriptedServer) -> None:
    with TcpProxy(1) as proxy, pytest.raises(pymysql.OperationalError):
        connected(proxy.port)
