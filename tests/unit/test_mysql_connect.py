"""Connections to MySQL and MariaDB: addresses, settings, and what is said where one cannot be made."""

from __future__ import annotations

import gc
import socket
import ssl
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rivet_dagster.errors import ConfigError
from rivet_dagster.sources import open_source
from rivet_dagster.sources.mysql.connect import parse_dsn
from tests.support.mysql_auth import NATIVE, SHA2, certificates
from tests.support.mysql_commands import Command
from tests.support.mysql_logins import (
    AUTH,
    PASSWORD,
    UNREACHABLE,
    address_of,
    kind,
    log_in,
    refused,
    scripted,
    version,
)
from tests.support.mysql_packets import (
    CAPABILITIES,
    COM_QUERY,
    COM_QUIT,
    UTF8MB4,
    err_packet,
    frames,
    handshake,
)
from tests.support.mysql_proxy import TcpProxy
from tests.support.mysql_wire import Answer, ScriptedServer

GREETING = handshake("8.0.36", 7, b"0123456789abcdefghij", SHA2, capabilities=CAPABILITIES, charset=UTF8MB4)


# ------------------------------------------------------------------------------------------ addresses


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("mysql://u@h", ("h", 3306, "u", "", "", {})),
        ("mysql://u:p@h:3307/shop", ("h", 3307, "u", "p", "shop", {})),
        ("mariadb://u:p@h/shop", ("h", 3306, "u", "p", "shop", {})),
        ("mysql://u:@H.Example:1/", ("h.example", 1, "u", "", "", {})),
        ("mysql://u@h:65535/a%2Fb%20%C3%A4", ("h", 65535, "u", "", "a/b ä", {})),
        ("mysql://a%20b%40c:c%3Ad%2Fe%40f%3F%23%25%2B+%E2%82%AC@h/s", ("h", 3306, "a b@c", "c:d/e@f?#%++€", "s", {})),
        ("mysql://u:p@[::1]:3307/s", ("::1", 3307, "u", "p", "s", {})),
        ("mysql://u:p@[2001:db8::1]/s", ("2001:db8::1", 3306, "u", "p", "s", {})),
        ("mysql://u@/s?socket=/run/my%20sql.sock", ("127.0.0.1", 3306, "u", "", "s", {"socket": "/run/my sql.sock"})),
        ("mysql://u@h?ssl-mode=required", ("h", 3306, "u", "", "", {"ssl-mode": "required"})),
        (
            "mysql://u@h/s?ssl-ca=/a.pem&ssl-cert=/b.pem&ssl-key=/c.pem&ssl-mode=VERIFY_CA",
            ("h", 3306, "u", "", "s", {
                "ssl-ca": "/a.pem", "ssl-cert": "/b.pem", "ssl-key": "/c.pem", "ssl-mode": "VERIFY_CA"
            }),
        ),
    ],
)  # fmt: skip
def test_an_address_is_taken_apart(dsn: str, expected: tuple[Any, ...]) -> None:
    found = parse_dsn(dsn)
    assert (found.host, found.port, found.user, found.password, found.database, dict(found.options)) == expected


@pytest.mark.parametrize(
    ("dsn", "why"),
    [
        ("mysql://h/shop", "names no user"),
        ("mysql://:s3cret@h/shop", "names no user"),
        ("mysql://u:s3cret@h:abc/shop", "its port"),
        ("mysql://u:s3cret@h:0/shop", "port 0"),
        ("mysql://u:s3cret@h:65536/shop", "its port"),
        ("mysql://u:s3cret@h:-1/shop", "its port"),
        ("mysql://u:s3cret@[::1/shop", "cannot be told apart"),
        ("mysql://u:s3cret@" + "h" * 64 + "/shop", "cannot be told apart"),
        ("mysql://u:s3cret@h..example/shop", "cannot be told apart"),
        ("mysql://u:s3@cret@h/shop", "more than one"),
        ("mysql://u:s3/cret@h/shop", "an @ behind the host"),
        ("mysql://u:s3?cret@h/shop", "an @ behind the host"),
        ("mysql://u:s3#cret@h/shop", "an @ behind the host"),
        ("mysql://u:s3cret@h/shop?ssl-ca=a@b", "an @ behind the host"),
        ("mysql://u:s3cret@h/shop?sslmode=require", "options that are not known"),
        ("mysql://u:s3cret@h/shop?ssl-mode=REQUIRED&charset=latin1", "options that are not known"),
        ("mysql://u:s3cret@h/shop?ssl-mode", "cannot be told apart"),
        ("mysql://u:s3cret@h/shop?ssl-mode=PREFERRED", "ssl-mode is none of"),
        ("mysql://u:s3cret@h/shop?ssl-mode=", "ssl-mode is none of"),
    ],
)
def test_an_address_that_cannot_be_used_is_not_quoted(dsn: str, why: str) -> None:
    for attempt in (parse_dsn, open_source):
        with pytest.raises(ConfigError) as caught:
            attempt(dsn)
        assert (caught.value.code, caught.value.fatal) == ("RIVET_CONFIG_DSN", True)
        assert why in caught.value.what
        shown = "".join(traceback.format_exception(caught.value)[-1:])
        assert not any(part in shown for part in ("s3", "cret"))


@pytest.mark.parametrize(
    ("rest", "mode"),
    [
        ("h/s", "VERIFY_IDENTITY"),
        ("h.localhost.example/s", "VERIFY_IDENTITY"),
        ("10.0.0.1/s", "VERIFY_IDENTITY"),
        ("[2001:db8::1]/s", "VERIFY_IDENTITY"),
        ("127.0.0.1/s", "DISABLED"),
        ("127.9.9.9/s", "DISABLED"),
        ("localhost/s", "DISABLED"),
        ("LOCALHOST/s", "DISABLED"),
        ("[::1]/s", "DISABLED"),
        ("/s", "DISABLED"),
        ("h/s?socket=/s", "DISABLED"),
        ("h/s?ssl-ca=/a.pem", "VERIFY_IDENTITY"),
        ("localhost/s?ssl-mode=verify_identity", "VERIFY_IDENTITY"),
        ("h/s?ssl-mode=DISABLED", "DISABLED"),
        ("h/s?ssl-mode=Required", "REQUIRED"),
        ("h/s?socket=/s&ssl-mode=VERIFY_CA", "VERIFY_CA"),
    ],
)
def test_tls_is_verified_unless_the_host_is_this_machine_or_told_otherwise(rest: str, mode: str) -> None:
    address = parse_dsn(f"mysql://u:p@{rest}")
    assert address.tls_mode == mode
    if "ssl-ca" in address.options:
        return
    context = address.tls
    expected = {
        "DISABLED": None,
        "REQUIRED": (ssl.CERT_NONE, False),
        "VERIFY_CA": (ssl.CERT_REQUIRED, False),
        "VERIFY_IDENTITY": (ssl.CERT_REQUIRED, True),
    }[mode]
    assert (context and (context.verify_mode, context.check_hostname)) == expected
    assert address.tls is context  # made once


@pytest.mark.parametrize(
    ("rest", "label"),
    [
        ("h/s", "mysql://h:3306/s"),
        ("[::1]:3307/s", "mysql://[::1]:3307/s"),
        ("h", "mysql://h:3306/"),
        ("h/s?socket=/run/s.sock&ssl-key=/k.pem", "mysql:///run/s.sock/s"),
    ],
)
def test_a_label_shows_no_secret(rest: str, label: str) -> None:
    dsn = f"mysql://reader:s3cret@{rest}"
    assert parse_dsn(dsn).label == open_source(dsn).label == label
    for shown in (repr(parse_dsn(dsn)), str(parse_dsn(dsn)), repr(open_source(dsn)), f"{vars(parse_dsn(dsn)).keys()}"):
        assert "s3cret" not in shown


# ------------------------------------------------------------------------------------------ sessions


def test_a_session_says_who_it_is_and_sets_what_it_needs() -> None:
    with scripted(cached=True) as server:
        log_in(server.dsn(), statement_timeout_s=2.5, lock_timeout_s=0.2)
    (login,) = server.logins
    assert (login.user, login.database, login.charset, login.accepted) == ("rivet", "shop", 45, True)
    assert login.attributes["program_name"] == "rivet_dagster"
    assert [command.code for command in server.commands] == [COM_QUERY] * 4 + [COM_QUIT]
    assert server.texts() == [
        "SET NAMES utf8mb4",
        "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "SELECT VERSION()",
        "SET SESSION time_zone = '+00:00', sql_mode = 'ALLOW_INVALID_DATES', "
        "sql_select_limit = 18446744073709551615, sql_big_selects = 1, sql_auto_is_null = 0, "
        "character_set_results = 'utf8mb4', lock_wait_timeout = 1, innodb_lock_wait_timeout = 1, "
        "max_execution_time = 2500",
    ]


UNKNOWN = "Unknown system variable"


@pytest.mark.parametrize(
    ("shown", "known"),
    [
        ("8.0.36", "max_execution_time = 30000"),
        ("8.0.36", "max_statement_time = 30.000"),
        ("10.11.6-MariaDB", "max_statement_time = 30.000"),
        ("10.11.6-MariaDB", "max_execution_time = 30000"),
    ],
)
def test_the_time_out_has_the_name_that_the_server_knows(shown: str, known: str) -> None:
    def answer(command: Command) -> Answer | None:
        limits = "max_" in command.text and known not in command.text
        return err_packet(1193, "HY000", UNKNOWN) if limits else None

    server = ScriptedServer(server_version=shown, password=PASSWORD, cached=True, handler=answer)
    server.on(r"^SELECT VERSION\(\)$", version(shown))
    with server:
        log_in(server.dsn())
    sets = [text for text in server.texts() if text.startswith("SET SESSION time_zone")]
    assert known in sets[-1]
    # Only where the version is not that of the server that answers is there a second try.
    assert len(sets) == 1 + (("MariaDB" in shown) != ("max_statement" in known))


def test_a_server_that_knows_neither_time_out_is_not_used() -> None:
    def answer(command: Command) -> Answer | None:
        return err_packet(1193, "HY000", UNKNOWN) if "max_" in command.text else None

    with scripted(cached=True, handler=answer) as server:
        error = refused(server.dsn())
    assert UNKNOWN in error.what
    assert server.commands[-1].code == COM_QUIT  # nothing is left open


def test_another_refusal_of_the_settings_is_not_taken_for_a_missing_one() -> None:
    def answer(command: Command) -> Answer | None:
        return err_packet(1227, "42000", "Access denied; you need SUPER") if "max_" in command.text else None

    with scripted(cached=True, handler=answer) as server:
        error = refused(server.dsn())
    assert kind(error) == ("RIVET_SOURCE_FORBIDDEN", False, True)
    assert len([text for text in server.texts() if "max_" in text]) == 1


# ------------------------------------------------------------------------------------------ who is refused


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (1040, UNREACHABLE),
        (1203, UNREACHABLE),
        (1226, UNREACHABLE),
        (1129, UNREACHABLE),
        (1053, UNREACHABLE),
        (1130, AUTH),
        (1045, AUTH),
        (1044, AUTH),
        (1698, AUTH),
        (1862, AUTH),
        (3118, AUTH),
        (4151, AUTH),
        (1251, AUTH),
        (1049, ("RIVET_SOURCE_DATABASE_MISSING", False, True)),
        (1105, UNREACHABLE),
    ],
)
def test_what_the_server_says_instead_of_a_greeting(number: int, expected: tuple[str, bool, bool]) -> None:
    with ScriptedServer(password=PASSWORD, refusal=err_packet(number, None, f"the words of {number}")) as server:
        error = refused(server.dsn())
    assert kind(error) == expected
    assert f"the words of {number}" in error.what
    assert parse_dsn(server.dsn()).label in error.what


@pytest.mark.parametrize("plugin", [NATIVE, SHA2])
def test_a_wrong_password_or_user(plugin: str) -> None:
    with scripted(auth_plugin=plugin, user="rivet") as server:
        for dsn in (
            f"mysql://rivet:guess@127.0.0.1:{server.port}/shop",
            f"mysql://rivet@127.0.0.1:{server.port}/shop",
            server.dsn(user="nobody"),
        ):
            error = refused(dsn)
            assert kind(error) == AUTH
            assert "Access denied" in error.what
    assert not any(login.accepted for login in server.logins)


def test_a_message_that_quotes_the_password_is_masked() -> None:
    with ScriptedServer(password=PASSWORD, refusal=err_packet(1045, None, f"no {PASSWORD} here")) as server:
        assert "no **** here" in refused(server.dsn()).what


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listened on, so nobody else has it
        error = refused(f"mysql://u:s3cret@127.0.0.1:{taken.getsockname()[1]}/shop")
    assert kind(error) == UNREACHABLE
    assert "refused" in error.what


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_no_unix_socket_is_there(tmp_path: Path) -> None:
    error = refused(f"mysql://u:s3cret@/shop?socket={tmp_path / 'none.sock'}")
    assert kind(error) == UNREACHABLE
    assert "No such file" in error.what
    del error
    gc.collect()  # the driver leaves its socket to the collector


@contextmanager
def saying(data: bytes, *, silent: bool = False) -> Iterator[str]:
    """Address of what says this to whoever comes, and then nothing more; where it is not silent, it hangs up."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def serve() -> None:
            taken, _ = listener.accept()
            with taken:
                taken.settimeout(10)
                taken.sendall(data)
                if not silent:
                    taken.shutdown(socket.SHUT_WR)
                while taken.recv(1 << 16):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"mysql://rivet:s3cret@127.0.0.1:{listener.getsockname()[1]}/shop"
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"220 mail.example ESMTP\r\n",
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"\x00\x00\x00\x00",
        b"\x01\x00\x00\x00\x0a",
        b"\x01\x00\x00\x00\xff",
        b"\x03\x00\x00\x00\xff\x10\x04",
        b"\x04\x00\x00\x00\x0aabc",
        b"\x10\x00\x00\x00\x0asomething\x00\xff\xff\xff\xff\xff",
        b"".join(frames([b"\x09" + b"3.23.58\0" + bytes(20)], 0)),
        b"".join(frames([GREETING], 3)),
        b"".join(frames([GREETING.replace(b"8.0.36", b"eight!")], 0)),
        b"".join(frames([GREETING.replace(SHA2.encode(), b"\xff" * len(SHA2))], 0)),
        b"".join(frames([GREETING, b"\xfe"], 0)),
        b"".join(frames([GREETING], 0)) + b"\x00\x00\x00\x02",
        b"".join(frames([GREETING], 0)) + b"\x01\x00\x00\x02\x01",
        b"".join(frames([GREETING], 0)) + b"\x02\x00\x00\x02\x01\x09",
        b"".join(frames([GREETING], 0)) + b"\x01\x00\x00\x02\xfe",
        b"".join(frames([GREETING], 0)) + b"\x05\x00\x00\x02\xfe\xff\xff\xff\x00",
    ],
)
def test_a_greeting_that_is_none(data: bytes) -> None:
    with saying(data) as dsn:
        assert kind(refused(dsn)) == UNREACHABLE


@pytest.mark.parametrize("size", range(len(GREETING)))
def test_a_greeting_that_ends_too_early(size: int) -> None:
    """As a packet that is whole, and as one that is cut."""
    for data in (b"".join(frames([GREETING[:size]], 0)), b"".join(frames([GREETING], 0))[:size]):
        with saying(data) as dsn:
            assert kind(refused(dsn)) == UNREACHABLE


def test_a_silent_server_is_given_up() -> None:
    for data in (b"", b"".join(frames([GREETING], 0))):
        with saying(data, silent=True) as dsn:
            error = refused(dsn, connect_timeout_s=0.1)
        assert kind(error) == UNREACHABLE
        assert "timed out" in error.what


@pytest.mark.parametrize("reset", [False, True])
def test_a_login_that_is_cut_anywhere(reset: bool) -> None:
    with scripted() as server, TcpProxy(server.port) as proxy:
        dsn = server.dsn().replace(str(server.port), str(proxy.port))
        log_in(dsn)
        server.cached = False
        whole = proxy.bytes_to_client
        assert whole > 600  # with the public key
        for after in range(1, whole, 3):
            proxy.cut_after(after, reset=reset)
            server.cached = False
            assert kind(refused(dsn)) == UNREACHABLE
        log_in(dsn)


@pytest.mark.parametrize("reset", [False, True])
def test_a_login_over_tls_that_is_cut_anywhere(tmp_path: Path, reset: bool) -> None:
    """A handshake that breaks off says nothing against the certificate: it is tried again."""
    files = certificates(tmp_path)
    with scripted(tls=files) as server, TcpProxy(server.port) as proxy:
        dsn = address_of(server, ssl_mode="VERIFY_IDENTITY", ssl_ca=files.ca)
        dsn = dsn.replace(f":{server.port}/", f":{proxy.port}/")
        log_in(dsn)
        whole = proxy.bytes_to_client
        for after in range(1, whole - 200, 41):
            proxy.cut_after(after, reset=reset)
            assert kind(refused(dsn)) == UNREACHABLE, after
        proxy.resume()
        log_in(dsn)
