"""The scripted MySQL server behaves as servers do, and breaks as it is told: PyMySQL is the client that knows nothing
of it. The proxy before a real server changes nothing but what it is told to."""

from __future__ import annotations

import datetime as dt
import ssl
import struct
import threading
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pymysql
import pytest
from pymysql.constants import CR, ER

from tests.support.debian import until
from tests.support.mysql_auth import CLEAR, NATIVE, SHA2, certificates, sha2_scramble
from tests.support.mysql_commands import Command
from tests.support.mysql_packets import (
    CAPABILITIES,
    COM_PING,
    COM_QUIT,
    COM_STMT_CLOSE,
    COM_STMT_EXECUTE,
    COM_STMT_PREPARE,
    COM_STMT_RESET,
    COM_STMT_SEND_LONG_DATA,
    CONNECT_ATTRS,
    DEPRECATE_EOF,
    LARGEST,
    LONG_PASSWORD,
    PLUGIN_AUTH_LENENC,
    SSL,
    UTF8MB4,
    Column,
    Result,
    Type,
    err_packet,
    frames,
    ok_packet,
    payloads_of,
)
from tests.support.mysql_raw import RawClient, connected, rows_of, session
from tests.support.mysql_wire import Answer, Fault, ScriptedServer

PASSWORD = "pä55 w/ord"
SECRET = PASSWORD.encode()
NUMBERS = Result([Column("n", Type.LONGLONG)], [[1], [None], [-3]])
ANSWER_SIZE = len(b"".join(frames(payloads_of(NUMBERS, capabilities=CAPABILITIES & ~DEPRECATE_EOF, binary=False))))
TEXT = Column("t", Type.VAR_STRING)
UNKNOWN = bytes.fromhex("03 64 65 66 00 00 00 01 3f 00 0c 3f 00 00 00 00 00 fd 80 00 00 00 00")  # a parameter


def error_of(caught: pytest.ExceptionInfo[Any]) -> int:
    return int(caught.value.args[0])


# ---- the greeting and the login


@pytest.mark.parametrize(
    ("version", "mysql"), [("8.0.36", True), ("8.0.30 (ProxySQL)", True), ("5.5.5-10.11.6-MariaDB", False)]
)
def test_the_greeting_shows_the_version_the_number_and_the_plugin(version: str, mysql: bool) -> None:
    with (
        ScriptedServer(server_version=version, connection_id=4711, auth_plugin=NATIVE, password=PASSWORD) as server,
        session(server.port, password=SECRET, database="shop", program_name="test") as first,
    ):
        seen = vars(first)
        assert (seen["server_version"], seen["_auth_plugin_name"]) == (version, NATIVE)
        assert bool(seen["server_capabilities"] & LONG_PASSWORD) == mysql
        with session(server.port, password=SECRET) as second:
            assert [vars(each)["server_thread_id"] for each in (first, second)] == [(4711,), (4712,)]
    login = server.logins[0]
    assert (login.user, login.database, login.plugin, login.charset) == ("rivet", "shop", NATIVE, 45)
    assert (login.attributes["program_name"], login.accepted, login.tls) == ("test", True, None)


@pytest.mark.parametrize("lacking", [0, CONNECT_ATTRS, PLUGIN_AUTH_LENENC, CONNECT_ATTRS | PLUGIN_AUTH_LENENC])
def test_a_login_is_read_as_the_common_capabilities_want_it(lacking: int) -> None:
    with (
        ScriptedServer(capabilities=CAPABILITIES & ~lacking, password=PASSWORD, cached=True) as server,
        session(server.port, password=SECRET, database="shop"),
    ):
        pass
    assert (server.logins[0].database, server.logins[0].plugin) == ("shop", SHA2)
    assert not server.logins[0].capabilities & (lacking | DEPRECATE_EOF)


@pytest.mark.parametrize(("greeted", "needed"), [(NATIVE, NATIVE), (SHA2, NATIVE), (NATIVE, SHA2), (SHA2, CLEAR)])
@pytest.mark.parametrize("right", [True, False])
def test_an_account_gets_the_plugin_it_needs(greeted: str, needed: str, right: bool) -> None:
    with ScriptedServer(auth_plugin=greeted, account_plugin=needed, password=PASSWORD) as server:
        if right:
            with session(server.port, password=SECRET):
                pass
        else:
            with pytest.raises(pymysql.OperationalError, match="using password: YES") as caught:
                connected(server.port, password="other")
            assert error_of(caught) == ER.ACCESS_DENIED_ERROR
    steps = {NATIVE: ["native"], SHA2: ["key", "full-rsa"], CLEAR: ["clear"]}[needed]
    assert server.logins[0].steps == (["switch"] if greeted != needed else []) + steps
    assert server.logins[0].accepted == right


def test_a_plugin_that_nobody_has_is_asked_for_and_refused() -> None:
    with (
        ScriptedServer(account_plugin="sha256_password", password=PASSWORD) as server,
        pytest.raises(pymysql.OperationalError),
    ):
        connected(server.port, password=SECRET)
    assert server.logins[0].steps == ["switch"]


def test_only_the_user_that_was_named_comes_in() -> None:
    with ScriptedServer(user="reader", password=PASSWORD, cached=True) as server:
        with session(server.port, user="reader", password=SECRET):
            pass
        with pytest.raises(pymysql.OperationalError, match="Access denied for user 'rivet'"):
            connected(server.port, password=SECRET)


def test_a_server_may_refuse_before_it_greets() -> None:
    with (
        ScriptedServer(refusal=err_packet(1040, None, "Too many connections")) as server,
        pytest.raises(pymysql.OperationalError, match="Too many connections") as caught,
    ):
        connected(server.port)
    assert error_of(caught) == ER.CON_COUNT_ERROR
    assert server.logins == []


# ---- caching_sha2_password


@pytest.mark.parametrize("road", ["tcp", "tls", "unix"])
def test_a_password_that_is_not_cached_is_sent_whole_and_then_is(tmp_path: Path, road: str) -> None:
    options: dict[str, Any] = {"password": SECRET}
    told: dict[str, Any] = {}
    if road == "unix":
        told["unix_socket"] = tmp_path / "s"
        options["unix_socket"] = str(tmp_path / "s")
    if road == "tls":
        told["tls"] = files = certificates(tmp_path)
        options |= {"ssl_disabled": False, "ssl_ca": str(files.ca), "ssl_verify_identity": True}
    with ScriptedServer(password=PASSWORD, **told) as server:
        with pytest.raises(pymysql.OperationalError, match="Access denied"):
            connected(server.port, **{**options, "password": "other"})
        assert not server.cached
        for _ in range(2):
            with session(server.port, **options):
                pass
        with pytest.raises(pymysql.OperationalError, match="Access denied"):
            connected(server.port, **{**options, "password": "other"})
    full = {"tcp": ["key", "full-rsa"], "tls": ["full-tls"], "unix": ["full-unix"]}[road]
    assert [login.steps for login in server.logins] == [full, full, ["fast"], full]
    assert [login.accepted for login in server.logins] == [False, True, True, False]
    readable = [SECRET in b"".join(login.packets) for login in server.logins]
    assert readable == [False, road != "tcp", False, False]
    assert [login.tls for login in server.logins] == ["TLSv1.3" if road == "tls" else None] * 4


def test_no_password_needs_no_proof() -> None:
    with ScriptedServer() as server, session(server.port):
        pass
    with (
        ScriptedServer(password=PASSWORD) as closed,
        pytest.raises(pymysql.OperationalError, match="using password: NO"),
    ):
        connected(closed.port)
    assert [server.logins[0].packets, server.logins[0].steps] == [[b""], []]


def test_the_scramble_covers_the_nonce_of_the_greeting() -> None:
    nonce = b"0123456789abcdefghij"
    with ScriptedServer(password=PASSWORD, cached=True, nonce=nonce) as server, session(server.port, password=SECRET):
        pass
    assert server.logins[0].packets == [sha2_scramble(SECRET, nonce)]


# ---- TLS


def test_a_certificate_is_good_for_its_names_and_its_authority_alone(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    files, others = certificates(tmp_path, ["db.example"]), certificates(tmp_path / "other")
    with ScriptedServer(tls=files, password=PASSWORD, cached=True) as server:
        told = {"password": SECRET, "ssl_disabled": False}
        with session(server.port, **told, ssl_ca=str(files.ca), ssl_verify_cert=True):
            pass
        for wrong in ({"ssl_ca": str(others.ca), "ssl_verify_cert": True}, {"ssl_ca": str(files.ca)}):
            with pytest.raises((pymysql.OperationalError, ssl.SSLError), match="certificate verify failed"):
                connected(server.port, **told, **wrong, ssl_verify_identity="ssl_verify_cert" not in wrong)
    assert len(server.logins) == 1


def test_who_requires_tls_says_nothing_to_a_server_without_it(tmp_path: Path) -> None:
    with ScriptedServer(password=PASSWORD) as server, pytest.raises(pymysql.OperationalError, match="SSL is required"):
        connected(server.port, password=SECRET, ssl_disabled=False, ssl={"check_hostname": False})
    assert server.logins == []
    with ScriptedServer(password=PASSWORD, tls=certificates(tmp_path), require_tls=True) as strict:
        with pytest.raises(pymysql.OperationalError, match="insecure transport") as caught:
            connected(strict.port, password=SECRET)
        assert strict.capabilities & SSL
    assert error_of(caught) == 3159


# ---- answers


def test_rows_of_the_text_protocol_are_read_as_they_were_meant() -> None:
    values = [2**63, -1, 1.5, Decimal("-0.10"), "äß€😀", b"\0\xff", dt.date(2024, 2, 29), '{"a": "ä"}', '["ä"]', None]
    columns = [
        Column("a", Type.LONGLONG),
        Column("b", Type.TINY),
        Column("c", Type.DOUBLE),
        Column("d", Type.NEWDECIMAL, decimals=2),
        Column("e", Type.BLOB, UTF8MB4),
        Column("f", Type.BLOB),
        Column("g", Type.DATE),
        Column("h", Type.JSON),  # a column's JSON says it is binary, an expression's says it is a text; both are UTF-8
        Column("i", Type.JSON, UTF8MB4),
        Column("j", Type.LONG),
    ]
    with ScriptedServer() as server:
        server.on("everything", Result(columns, [values, [None] * 10]))
        with session(server.port) as connection:
            assert rows_of(connection, "SELECT everything") == [tuple(values), (None,) * 10]


def test_the_first_rule_that_fits_answers_and_the_rest_is_told_apart() -> None:
    def second(command: Command) -> Answer | None:
        return Result([TEXT], [[command.text]]) if "please" in command.text else None

    with ScriptedServer() as server:
        server.on(r"^select\s+1$", NUMBERS)
        server.on("select", second)
        server.on("select 3", err_packet(1146, "42S02", "Table 'a.b' doesn't exist"))
        with session(server.port) as connection:
            assert rows_of(connection, "SELECT 1") == [(1,), (None,), (-3,)]
            assert rows_of(connection, "SELECT 2 please") == [("SELECT 2 please",)]
            with pytest.raises(pymysql.ProgrammingError, match="doesn't exist"):
                rows_of(connection, "SELECT 3")
            connection.begin()
            connection.rollback()
            with pytest.raises(pymysql.ProgrammingError, match="no answer to: UPDATE t") as caught:
                rows_of(connection, "UPDATE t")
            assert error_of(caught) == ER.PARSE_ERROR
            connection.ping(reconnect=False)
    assert server.texts()[2:] == ["SELECT 1", "SELECT 2 please", "SELECT 3", "BEGIN", "ROLLBACK", "UPDATE t"]
    assert [command.code for command in server.commands[-2:]] == [COM_PING, COM_QUIT]


def test_a_handler_is_asked_first_about_every_command() -> None:
    with (
        ScriptedServer(handler=lambda asked: ok_packet(affected=70000) if "UPDATE" in asked.text else None) as server,
        session(server.port) as connection,
        connection.cursor() as cursor,
    ):
        assert cursor.execute("UPDATE t") == 70000


@pytest.mark.parametrize("terminator", [DEPRECATE_EOF, 0])
def test_statements_are_prepared_executed_and_closed(terminator: int) -> None:
    """The client's bytes are written by hand, those of the documentation's example the first."""
    execute = bytes.fromhex("17 01 00 00 00 00 01 00 00 00 00 01 0f 00 03 66 6f 6f")
    again = bytes.fromhex("17 01 00 00 00 01 01 00 00 00 01 00")  # NULL, of the types as before; read-only cursor
    with ScriptedServer(auth_plugin=NATIVE) as server:
        server.on("greet", Result([TEXT], [["foobar"], [None]]))
        with RawClient(server.port, CAPABILITIES & ~DEPRECATE_EOF | terminator) as client:
            client.send(bytes([COM_STMT_PREPARE]) + b"SELECT greet('?', `?`, \"?\" /* ? */, ?)")
            prepared = [client.frame() for _ in range(3 if terminator else 5)]
            for asked in (execute, again):
                client.send(asked)
                answer = [client.packet() for _ in range(5 if terminator else 6)]
                assert answer[-3:-1] == [b"\0\0\x06foobar", b"\0\x04"]
                assert answer[-1] == (b"\xfe\0\0\2\0\0\0" if terminator else b"\xfe\0\0\2\0")
            client.send(bytes([COM_STMT_RESET]) + b"\1\0\0\0")
            assert client.packet() == ok_packet()
            client.send(bytes([COM_STMT_CLOSE]) + b"\1\0\0\0")
            client.send(execute)
            assert client.packet()[:3] == b"\xff" + struct.pack("<H", 1243)
    assert prepared[0] == bytes.fromhex("0c 00 00 01 00 01 00 00 00 01 00 01 00 00 00 00")
    executed = [command for command in server.commands if command.code == COM_STMT_EXECUTE]
    assert [(command.values, command.flags) for command in executed] == [((b"foo",), 0), ((None,), 1), ((), 0)]
    assert executed[0].parameters[0].type_code == Type.VARCHAR
    assert len(set(server.texts(COM_STMT_PREPARE, COM_STMT_EXECUTE, COM_STMT_CLOSE)) - {""}) == 1


@pytest.mark.parametrize(
    ("kind", "data", "value"),
    [
        ("01 00", "ff", -1),
        ("01 80", "ff", 255),
        ("02 00", "fe ff", -2),
        ("03 80", "01 00 00 80", 2**31 + 1),
        ("08 00", "00 00 00 00 00 00 00 80", -(2**63)),
        ("08 80", "ff ff ff ff ff ff ff ff", 2**64 - 1),
        ("04 00", "00 00 c0 3f", 1.5),
        ("05 00", "66 66 66 66 66 66 24 40", 10.2),
        ("0a 00", "04 da 07 0a 11", (2010, 10, 17)),
        ("0c 00", "0b da 07 0a 11 13 1b 1e 01 00 00 00", (2010, 10, 17, 19, 27, 30, 1)),
        ("07 00", "00", ()),
        ("0b 00", "08 01 78 00 00 00 13 1b 1e", (1, 120, 19, 27, 30)),
        ("f6 00", "04 2d 31 2e 35", b"-1.5"),
        ("06 00", "", None),
        ("fc 00", "fc fb 00" + " 00" * 251, bytes(251)),
    ],
)
def test_bound_values_are_read_by_their_types(kind: str, data: str, value: Any) -> None:
    """Between two others, which shows that each takes its own bytes."""
    types = bytes.fromhex(f"fd 00 {kind} 03 00")
    values = b"\1x" + bytes.fromhex(data) + b"\7\0\0\0"
    with ScriptedServer(auth_plugin=NATIVE) as server, RawClient(server.port, CAPABILITIES) as client:
        server.on("SELECT", ok_packet())
        client.send(bytes([COM_STMT_PREPARE]) + b"SELECT ?, ?, ?")
        assert [client.packet() for _ in range(4)][1:] == 3 * [UNKNOWN]
        client.send(bytes([COM_STMT_EXECUTE]) + b"\xff\xff\xff\xff\0\1\0\0\0" + b"\0\1" + types + values)
        assert client.packet() == ok_packet()
    assert server.commands[1].values == (b"x", value, 7)
    assert server.commands[1].statement_id == 1


def test_long_data_takes_the_place_of_a_bound_value() -> None:
    with ScriptedServer(auth_plugin=NATIVE) as server, RawClient(server.port, CAPABILITIES) as client:
        server.on("SET", ok_packet())
        client.send(bytes([COM_STMT_PREPARE]) + b"SET @a = ?, @b = ?")
        assert len([client.packet() for _ in range(3)]) == 3
        for piece in (b"long ", b"data"):
            client.send(bytes([COM_STMT_SEND_LONG_DATA]) + b"\1\0\0\0\0\0" + piece)
        client.send(bytes([COM_STMT_EXECUTE]) + b"\1\0\0\0\0\1\0\0\0\0\1" + b"\xfc\0\1\0" + b"\5")
        assert client.packet() == ok_packet()
        client.send(bytes([COM_STMT_EXECUTE]) + b"\1\0\0\0\0\1\0\0\0\0\0" + b"\1z\6")
        assert client.packet() == ok_packet()
    assert [command.values for command in server.commands[-3:-1]] == [(b"long data", 5), (b"z", 6)]


def test_a_preparation_may_fail_where_the_execution_would_not() -> None:
    with ScriptedServer(auth_plugin=NATIVE) as server, RawClient(server.port, CAPABILITIES) as client:
        server.on("gone", err_packet(1146, "42S02", "no such table"), at=[COM_STMT_PREPARE])
        server.on("late", Fault(err_packet(1969, "70100", "too slow"), segment=1))
        for statement, answers in ((b"gone", [b"\xff"]), (b"late", [b"\0"]), (b"odd", [b"\xff"])):
            client.send(bytes([COM_STMT_PREPARE]) + statement)
            assert client.packet()[:1] == answers[0]
        client.send(bytes([COM_STMT_EXECUTE]) + b"\1\0\0\0\0\1\0\0\0")
        assert b"too slow" in client.packet()


@pytest.mark.parametrize("size", [LARGEST - 5, LARGEST - 4, LARGEST - 3, 2 * LARGEST - 4, 2 * LARGEST + 1])
def test_rows_of_sixteen_megabytes_go_on_in_further_packets(size: int) -> None:
    """A text of LARGEST - 4 bytes makes a packet of exactly LARGEST, which an empty one has to follow."""
    value = b"0123456789abcdef" * (size // 16) + b"x" * (size % 16)
    with ScriptedServer() as server:
        server.on("big", Result([Column("v", Type.LONG_BLOB)], [[value], ["small"]]))
        with session(server.port) as connection:
            assert rows_of(connection, "SELECT big") == [(value,), (b"small",)]
            statement = "SELECT 'no answer to this' -- " + "x" * LARGEST
            with pytest.raises(pymysql.ProgrammingError, match="no answer"):
                rows_of(connection, statement)
    assert server.texts()[-1] == statement


# ---- faults


def test_an_error_may_come_where_the_rows_would_end() -> None:
    error = err_packet(3024, "HY000", "Query execution was interrupted")
    with ScriptedServer() as server:
        server.on("slow", Result(NUMBERS.columns, NUMBERS.rows, error=error))
        with session(server.port) as connection:
            with pytest.raises(pymysql.OperationalError, match="interrupted") as caught:
                rows_of(connection, "SELECT slow")
            connection.ping(reconnect=False)
    assert error_of(caught) == 3024


@pytest.mark.parametrize("action", ["fin", "rst"])
def test_a_connection_may_be_cut_at_any_byte_of_an_answer(action: Any) -> None:
    with ScriptedServer() as server:
        server.on("cut", lambda asked: Fault(NUMBERS, after=int(asked.text.split()[-1]), action=action))
        for after in range(ANSWER_SIZE + 1):
            with session(server.port) as connection:
                if after == ANSWER_SIZE:
                    assert len(rows_of(connection, f"SELECT cut {after}")) == 3
                with pytest.raises(pymysql.OperationalError) as caught:
                    rows_of(connection, f"SELECT cut {after}")
            gone = (CR.CR_SERVER_LOST, CR.CR_SERVER_GONE_ERROR) if after == ANSWER_SIZE else (CR.CR_SERVER_LOST,)
            assert error_of(caught) in gone
            assert ("reset" in str(caught.value)) == (action == "rst") or after == ANSWER_SIZE


def test_a_cut_without_a_reset_is_a_clean_end_for_a_client_that_has_sent_more() -> None:
    with ScriptedServer(auth_plugin=NATIVE) as server, RawClient(server.port, CAPABILITIES) as client:
        server.on("cut", Fault(NUMBERS, after=3))
        client.socket.sendall(b"".join([*frames([b"\3cut"], 0), *frames([bytes([COM_PING])], 0)]))
        assert client.take(3) == b"\1\0\0"
        assert client.socket.recv(1) == b""


def test_one_packet_may_have_a_wrong_number() -> None:
    with ScriptedServer() as server:
        server.on("wrong", lambda asked: Fault(NUMBERS, wrong_sequence=int(asked.text.split()[-1])))
        for index in range(7):
            refused = pytest.raises(pymysql.InternalError, match=f"got {index + 2} expected {index + 1}")
            with session(server.port) as connection, refused:
                rows_of(connection, f"SELECT wrong {index}")


def test_an_answer_may_come_in_small_pieces() -> None:
    with ScriptedServer() as server, session(server.port) as connection:
        server.on("pieces", Fault(NUMBERS, segment=1))
        assert rows_of(connection, "SELECT pieces") == [(1,), (None,), (-3,)]


def test_an_answer_may_stop_until_it_is_told_to_go_on() -> None:
    resume = threading.Event()
    with ScriptedServer() as server:
        server.on("stall", Fault(NUMBERS, after=10, action="stall", resume=resume))
        server.on("other", NUMBERS)
        with (
            session(server.port, read_timeout=0.2) as hasty,
            pytest.raises(pymysql.OperationalError, match="timed out"),
        ):
            rows_of(hasty, "SELECT stall")
        got: list[Any] = []
        with session(server.port) as patient, session(server.port) as other:
            waiting = threading.Thread(target=lambda: got.extend(rows_of(patient, "SELECT stall")))
            waiting.start()
            assert len(rows_of(other, "SELECT other")) == 3  # one connection's silence is not another's
            assert waiting.is_alive()
            resume.set()
            waiting.join(10)
    assert got == [(1,), (None,), (-3,)]


def test_a_silent_connection_ends_with_its_client_and_with_the_server() -> None:
    server = ScriptedServer()
    server.on("stall", Fault(NUMBERS, after=0, action="stall"))
    with server:
        with session(server.port, read_timeout=0.2) as leaving, pytest.raises(pymysql.OperationalError):
            rows_of(leaving, "SELECT stall")
        staying = connected(server.port)

        def ask() -> None:
            with pytest.raises(pymysql.OperationalError):
                rows_of(staying, "SELECT stall")

        asking = threading.Thread(target=ask)
        asking.start()
        until(lambda: server.texts().count("SELECT stall") == 2, "both have asked")
    asking.join(10)
    assert not asking.is_alive()


def misnumbered() -> None:
    with ScriptedServer(auth_plugin=NATIVE) as server, RawClient(server.port, CAPABILITIES) as client:
        client.send(bytes([COM_PING]), sequence=5)


def cut_behind_the_end() -> None:
    with ScriptedServer() as server, session(server.port) as connection:
        server.on("cut", Fault(NUMBERS, after=ANSWER_SIZE + 1))
        assert len(rows_of(connection, "SELECT cut")) == 3


def cut_short() -> None:
    with ScriptedServer(auth_plugin=NATIVE) as server, RawClient(server.port, CAPABILITIES) as client:
        client.send(bytes([COM_STMT_PREPARE]) + b"SET @a = ?")
        assert [client.packet() for _ in range(2)][1] == UNKNOWN
        client.send(bytes([COM_STMT_EXECUTE]) + b"\1\0\0\0\0\1")


@pytest.mark.parametrize(
    ("mistake", "message"),
    [(misnumbered, "has the number 5, not 0"), (cut_behind_the_end, "1 bytes shorter"), (cut_short, "ends at 7 bytes")],
)
def test_mistakes_of_tests_and_of_clients_are_raised_in_the_end(mistake: Callable[[], None], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        mistake()
