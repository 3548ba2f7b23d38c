"""Connections to MySQL and MariaDB: addresses, TLS, settings of the session."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn
from urllib.parse import parse_qsl, unquote, urlsplit

import pymysql
from pymysql import err

from rivet_dagster.errors import SourceError
from rivet_dagster.sources.addresses import is_local, malformed, place, refuse_ambiguous
from rivet_dagster.sources.base import ServerFacts, SourceLimits
from rivet_dagster.sources.mysql import templates
from rivet_dagster.sources.mysql.failures import connect_failure, number_of, unintelligible
from rivet_dagster.sources.mysql.statements import socket_of, wait_at_most

PROGRAM_NAME = "rivet_dagster"

_DEFAULT_PORT = 3306
_SCHEME = "mysql"
_TLS_MODES = ("DISABLED", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY")
_OPTIONS = ("ssl-mode", "ssl-ca", "ssl-cert", "ssl-key", "socket")
_UNKNOWN_VARIABLE = 1193
# What the server needs beyond a statement's time-out to say that it has ended the statement.
_GRACE_SECONDS = 15.0
_KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))


@dataclass(frozen=True)
class Address:
    """Where a server is, and how to get in.

    Attributes:
        host, port: of a TCP connection.
        user, password: as they are, not percent-encoded.
        database: the default one; may be empty.
        options: `ssl-mode`, `ssl-ca`, `ssl-cert`, `ssl-key` of MySQL's own clients, and `socket`, a Unix socket's path.
    """

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    options: Mapping[str, str]

    @property
    def label(self) -> str:
        """Where it is, without secrets: `mysql://host:3306/database`."""
        where = self.options.get("socket") or place(self.host, self.port)
        return f"mysql://{where}/{self.database}"

    @property
    def tls_mode(self) -> str:
        """One of `_TLS_MODES`: what is asked for, else verified TLS to every host that is not this machine."""
        local = "socket" in self.options or is_local(self.host)
        return self.options.get("ssl-mode", "DISABLED" if local else "VERIFY_IDENTITY").upper()

    @cached_property
    def tls(self) -> ssl.SSLContext | None:
        """What TLS is made with, once for all connections, since reading certificates takes long; None for none.

        Raises:
            SourceError: RIVET_SOURCE_TLS where a file of it cannot be read.
        """
        if self.tls_mode == "DISABLED":
            return None
        try:
            context = ssl.create_default_context(cafile=self.options.get("ssl-ca"))
            if "ssl-cert" in self.options:
                # Without a password to try, OpenSSL would ask for one on the terminal and wait.
                context.load_cert_chain(self.options["ssl-cert"], self.options.get("ssl-key"), password="")
        except OSError as exc:
            raise SourceError(
                "RIVET_SOURCE_TLS",
                f"The certificates for {self.label} cannot be read: {exc.strerror or exc}.",
                "Check the files that ssl-ca, ssl-cert and ssl-key name.",
                fatal=True,
            ) from None
        # MySQL's own certificate authorities lack extensions that RFC 5280 wants and no client but Python's asks for.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.check_hostname = self.tls_mode == "VERIFY_IDENTITY"
        if self.tls_mode == "REQUIRED":
            context.verify_mode = ssl.CERT_NONE
        return context


def parse_dsn(dsn: str) -> Address:
    """The address that a URL names.

    Raises:
        ConfigError: RIVET_CONFIG_DSN; the message never quotes the address, which may hold a password.
    """
    try:
        refuse_ambiguous(_SCHEME, dsn)
        parts = urlsplit(dsn)
        port = _DEFAULT_PORT if parts.port is None else parts.port
        (parts.hostname or "").encode("idna")  # as it is looked up, with labels of 63 letters at most
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        raise malformed(_SCHEME, "its port is not a number, or its parts cannot be told apart") from None
    if not port:
        raise malformed(_SCHEME, "there is no port 0")
    if not parts.username:
        raise malformed(_SCHEME, "it names no user")
    unknown = sorted(set(options).difference(_OPTIONS))
    if unknown:
        raise malformed(_SCHEME, f"it has options that are not known; known are {', '.join(_OPTIONS)}")
    address = Address(
        host=parts.hostname or "127.0.0.1",
        port=port,
        user=unquote(parts.username),
        password=unquote(parts.password or ""),
        database=unquote(parts.path.removeprefix("/")),
        options=options,
    )
    if address.tls_mode not in _TLS_MODES:
        raise malformed(_SCHEME, f"its ssl-mode is none of {', '.join(_TLS_MODES)}")
    return address


class _NoClearText:
    """Refuses to send the password as it is, which a server may ask for, over a connection that is not verified."""

    def __init__(self, connection: object) -> None:
        """The driver makes one a connection."""

    def authenticate(self, _packet: object) -> NoReturn:
        """Refuse."""
        raise err.OperationalError(2059, "The server asks for the password in clear text, without verified TLS")


def connect(address: Address, limits: SourceLimits) -> pymysql.Connection[Any]:
    """Open one connection in autocommit, with the session's settings.

    Raises:
        SourceError: RIVET_SOURCE_UNREACHABLE, RIVET_SOURCE_AUTH, RIVET_SOURCE_DATABASE_MISSING, RIVET_SOURCE_TLS.
    """
    tls = address.tls
    try:
        connection = _open(address, tls, limits)
        try:
            _keep_alive(connection)
            _configure(connection, limits)
            wait_at_most(connection, patience(limits.statement_timeout_s))
        except BaseException:
            connection.close()
            raise
    except err.MySQLError as exc:
        raise connect_failure(exc, address.label, address.password) from None
    except Exception as exc:  # noqa: BLE001 (what is no packet fails anywhere in the driver)
        raise unintelligible(exc, address.label) from None
    return connection


def _open(address: Address, tls: ssl.SSLContext | None, limits: SourceLimits) -> pymysql.Connection[Any]:
    guarded = address.tls_mode in ("VERIFY_CA", "VERIFY_IDENTITY") or "socket" in address.options
    refused = {} if guarded else {"mysql_clear_password": _NoClearText, "dialog": _NoClearText}
    wait = whole_seconds(limits.connect_timeout_s)
    return pymysql.connect(
        host=address.host,
        port=address.port,
        user=address.user,
        password=address.password.encode(),  # the driver would take texts for Latin-1
        database=address.database or None,
        unix_socket=address.options.get("socket"),
        ssl=tls,
        ssl_disabled=tls is None,
        connect_timeout=wait,
        read_timeout=wait,
        write_timeout=wait,
        charset="utf8mb4",
        autocommit=True,
        auth_plugin_map={"mysql_old_password": _NoClearText, **refused},
        program_name=PROGRAM_NAME,
    )


def _keep_alive(connection: pymysql.Connection[Any]) -> None:
    """Notice a dead peer within about a minute, also while only waiting for it. The driver's own would take hours."""
    peer = socket_of(connection)
    if peer.family != socket.AF_UNIX:
        for name, value in _KEEPALIVE:
            if hasattr(socket, name):
                peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _configure(connection: pymysql.Connection[Any], limits: SourceLimits) -> None:
    """Settings of the session, which hold for it as long as it lives."""
    seconds = whole_seconds(limits.lock_timeout_s)
    shared = {**templates.SETTINGS, "lock_wait_timeout": str(seconds), "innodb_lock_wait_timeout": str(seconds)}
    with connection.cursor() as cursor:
        cursor.execute(templates.ISOLATION)
    limit_statements(connection, limits.statement_timeout_s, shared)


def limit_statements(
    connection: pymysql.Connection[Any], seconds: float, others: Mapping[str, str] | None = None
) -> None:
    """Let the server end every statement that takes longer, in its own words for it; with `others`, set these too.

    Raises:
        pymysql.err.MySQLError: what the server says.
    """
    with connection.cursor() as cursor:
        cursor.execute(templates.VERSION)
        (version,) = cursor.fetchone() or ("",)
        own = [statement_limit(seconds, mariadb=name) for name in (True, False)]
        if "mariadb" not in version.lower():
            own.reverse()
        for settings in own:
            try:
                cursor.execute(assignments({**(others or {}), **settings}))
            except err.OperationalError as exc:
                # A proxy may show another version than that of the server behind it.
                if number_of(exc) != _UNKNOWN_VARIABLE or settings is own[-1]:
                    raise
            else:
                return


def statement_limit(seconds: float, *, mariadb: bool) -> dict[str, str]:
    """The settings by which one of the two servers ends a statement that takes longer."""
    settings = templates.MARIADB_SETTINGS if mariadb else templates.MYSQL_SETTINGS
    values = {"seconds": seconds, "milliseconds": max(1, round(seconds * 1000))}
    return {name: value.format(**values) for name, value in settings.items()}


def assignments(settings: Mapping[str, str]) -> str:
    """One SET statement; names and values are this package's own."""
    return templates.SET.format(assignments=", ".join(f"{name} = {value}" for name, value in settings.items()))


def patience(statement_s: float) -> float:
    """Seconds to wait for the server to say something: it ends the statement before."""
    return statement_s + _GRACE_SECONDS


def whole_seconds(seconds: float) -> int:
    """Seconds for a setting that knows no fraction and takes 0 for something else."""
    return max(1, round(seconds))


def server_facts(connection: Any) -> ServerFacts:
    """What a connection of the driver leads to."""
    with connection.cursor() as cursor:
        cursor.execute(templates.SERVER)
        version, comment, read_only, backend = cursor.fetchone() or ("", "", 0, 0)
    shown = str(connection.get_server_info())
    product = "MariaDB" if "mariadb" in f"{version} {comment}".lower() else "MySQL"
    number = re.search(r"\d+(?:\.\d+)+", version.removeprefix("5.5.5-"))
    notes = ["read-only server"] if str(read_only).upper() not in ("0", "OFF", "") else []
    # A proxy numbers its own connections; the greeting is its own too.
    if backend & 0xFFFFFFFF != connection.thread_id() or re.search(r"proxysql|maxscale", shown, re.IGNORECASE):
        notes.append(f"behind {_proxy_name(connection, f'{shown} {comment}')}")
    return ServerFacts(f"{product} {number[0] if number else version}", tuple(notes))


def _proxy_name(connection: Any, words: str) -> str:
    if "maxscale" in words.lower():
        return "MaxScale"
    if "proxysql" in words.lower():
        return "ProxySQL"
    try:
        with connection.cursor() as cursor:
            cursor.execute(templates.PROXYSQL)
    except err.MySQLError:
        return "a proxy"
    return "ProxySQL"
