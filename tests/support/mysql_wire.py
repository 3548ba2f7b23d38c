"""A MySQL server that says what a test tells it to, byte by byte.

    with ScriptedServer(server_version="8.0.36", password="secret") as server:
        server.on(r"FROM orders", Result([Column("id", Type.LONGLONG)], [[1], [2]]))
        ...  # a client connects to server.dsn()
    assert server.texts(COM_STMT_EXECUTE) == ["SELECT id FROM orders WHERE id > ?"]

`SET`, `START TRANSACTION`, `BEGIN`, `COMMIT` and `ROLLBACK` get OK, statements that nobody foresaw error 1064.
Nothing waits longer than the server's `timeout`. What goes wrong inside, and what a client sends that is no packet or
not the next one, is raised when the context ends.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import secrets
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import quote

from tests.support.mysql_auth import CLEAR, NATIVE, SHA2, Certificates, decrypted, native_scramble, public_key
from tests.support.mysql_auth import sha2_scramble as sha2
from tests.support.mysql_commands import Command, Login, Statements, read_login
from tests.support.mysql_packets import (
    CAPABILITIES,
    COM_INIT_DB,
    COM_PING,
    COM_QUERY,
    COM_QUIT,
    COM_RESET_CONNECTION,
    COM_STMT_CLOSE,
    COM_STMT_EXECUTE,
    COM_STMT_PREPARE,
    COM_STMT_RESET,
    COM_STMT_SEND_LONG_DATA,
    LARGEST,
    LONG_PASSWORD,
    SSL,
    UTF8MB4,
    Result,
    auth_switch_packet,
    err_packet,
    frames,
    handshake,
    ok_packet,
    payloads_of,
    prepared_payloads,
)

HOST = "127.0.0.1"

_HARMLESS = re.compile(r"\s*(SET|START\s+TRANSACTION|BEGIN|COMMIT|ROLLBACK)\b", re.IGNORECASE)
_BATCH = 1 << 16


@dataclass(frozen=True)
class Fault:
    """An answer that goes wrong.

    Args:
        after: so many bytes of the answer, with the packets' headers, are sent; then comes `action`. An answer that
            is shorter is a mistake of the test.
        action: "fin" and "rst" end the connection. "stall" waits until the client leaves, or until `resume` is set
            and then goes on.
        wrong_sequence: index of the packet of the answer whose number is one too great.
        segment: bytes that are written at a time.
    """

    answer: Result | bytes | Sequence[bytes]
    after: int | None = None
    action: Literal["fin", "rst", "stall"] = "fin"
    resume: threading.Event | None = None
    wrong_sequence: int | None = None
    segment: int | None = None


Answer: TypeAlias = "Result | Fault | bytes | Sequence[bytes]"
Handler: TypeAlias = "Callable[[Command], Answer | None]"


class ScriptedServer:
    """The server, on a TCP port of 127.0.0.1 or on a Unix socket; a context manager, a thread for each connection.

    Args:
        server_version: as the greeting shows it. "MariaDB" in it means that the greeting lacks MySQL's own flag.
        capabilities: of the server; SSL is added where there is `tls`.
        extended: MariaDB's own capabilities.
        connection_id: of the first connection; each further one has the next.
        auth_plugin: what the greeting names.
        account_plugin: what the account needs: another one than the client chose is asked for by a switch request.
            Of plugins other than native, caching SHA-2 and clear ones the answer is read and refused.
        user: the only name that may come in; None lets all in.
        cached: the hash of the password is in the cache of caching_sha2_password, as it is after a full one.
        nonce: the greeting's 20 bytes; random ones if None.
        tls: certificates; without them there is no TLS.
        require_tls: refuse those who come without, with error 3159.
        refusal: an ERR packet instead of the greeting.
        unix_socket: path of a socket to listen on, instead of TCP.
        handler: is asked first about every command; None as its answer leaves the command to the rules.
        timeout: seconds that a connection waits for its client.
    """

    def __init__(
        self,
        *,
        server_version: str = "8.0.36",
        capabilities: int = CAPABILITIES,
        extended: int = 0,
        connection_id: int = 1,
        charset: int = UTF8MB4,
        auth_plugin: str = SHA2,
        account_plugin: str | None = None,
        user: str | None = None,
        password: str = "",
        cached: bool = False,
        nonce: bytes | None = None,
        tls: Certificates | None = None,
        require_tls: bool = False,
        refusal: bytes | None = None,
        unix_socket: Path | None = None,
        handler: Handler | None = None,
        timeout: float = 20.0,
    ) -> None:
        self.server_version = server_version
        self.capabilities = capabilities | (SSL if tls else 0)
        if "MariaDB" in server_version:
            self.capabilities &= ~LONG_PASSWORD
        self.extended = extended
        self.charset = charset
        self.auth_plugin = auth_plugin
        self.account_plugin = account_plugin or auth_plugin
        self.user = user
        self.password = password.encode()
        self.cached = cached
        self.nonce = nonce
        self.require_tls = require_tls
        self.refusal = refusal
        self.unix_socket = unix_socket
        self.timeout = timeout
        self.context: ssl.SSLContext | None = None
        if tls:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(tls.certificate, tls.key)
        self.commands: list[Command] = []
        self.logins: list[Login] = []
        self.failures: list[Exception] = []
        self.port = 0
        self._handler = handler
        self._rules: list[tuple[re.Pattern[str], Answer | Handler, Collection[int] | None]] = []
        self._ids = itertools.count(connection_id)
        self._sessions: list[_Session] = []

    def on(self, pattern: str, answer: Answer | Handler, at: Collection[int] | None = None) -> None:
        """Answer statements in which the regular expression is found; the first rule that fits counts.

        Args:
            pattern: matched without regard to case.
            answer: a result, packets, a fault of one of them, or a function of the command; None from it leaves the
                command to the next rule.
            at: codes of the commands. By default statements that are queried or executed: preparing one then goes
                well, and takes the columns from its result (for that, a function is called with the preparation).
        """
        self._rules.append((re.compile(pattern, re.IGNORECASE | re.DOTALL), answer, at))

    def texts(self, *codes: int) -> list[str]:
        """The statements of these commands, in their order; by default those that were queried or executed."""
        return [command.text for command in self.commands if command.code in (codes or (COM_QUERY, COM_STMT_EXECUTE))]

    def dsn(self, database: str = "shop", *, user: str = "rivet", scheme: str = "mysql") -> str:
        return f"{scheme}://{user}:{quote(self.password.decode(), safe='')}@{HOST}:{self.port}/{database}"

    def __enter__(self) -> ScriptedServer:
        if self.unix_socket:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(self.unix_socket))
        else:
            self._listener = socket.socket()
            self._listener.bind((HOST, 0))
            self.port = self._listener.getsockname()[1]
        self._listener.listen(64)
        self._acceptor = threading.Thread(target=self._accept, name="scripted-server")
        self._acceptor.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._acceptor.join(self.timeout)
        self._listener.close()
        for session in self._sessions:
            session.end()
        still = [session.thread.name for session in self._sessions if session.thread.is_alive()]
        if kind is None:
            assert not still, f"connections that do not end: {still}"
            if self.failures:
                raise AssertionError(f"the scripted server failed: {self.failures!r}") from self.failures[0]

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            accepted.settimeout(self.timeout)
            if not self.unix_socket:
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            session = _Session(self, accepted, next(self._ids))
            self._sessions.append(session)
            session.thread.start()

    def answer_to(self, command: Command) -> Answer:
        """What is said to a command. A preparation that only borrows the answer of its execution cannot go wrong."""
        answer = self._handler(command) if self._handler else None
        if answer is not None:
            return answer
        for pattern, made, at in self._rules:
            preparing = command.code == COM_STMT_PREPARE and at is None
            if (preparing or command.code in (at or (COM_QUERY, COM_STMT_EXECUTE))) and pattern.search(command.text):
                answer = made(command) if callable(made) else made
                if answer is not None:
                    return _columns_alone(answer) if preparing else answer
        return _default(command)


def _columns_alone(answer: Answer) -> Result:
    inner = answer.answer if isinstance(answer, Fault) else answer
    return inner if isinstance(inner, Result) else Result(())


def _default(command: Command) -> Answer:
    if command.code in (COM_PING, COM_INIT_DB, COM_STMT_RESET, COM_RESET_CONNECTION):
        return ok_packet()
    if command.code in (COM_QUERY, COM_STMT_PREPARE, COM_STMT_EXECUTE):
        if _HARMLESS.match(command.text):
            return Result(()) if command.code == COM_STMT_PREPARE else ok_packet()
        return err_packet(1064, "42000", f"The script has no answer to: {command.text[:300]}")
    return err_packet(1047, "08S01", f"Unknown command {command.code}")


class _LeftError(Exception):
    """The connection is over, as it was meant to be or because the client left."""


class _Wire:
    """Packets on a socket, numbered."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sequence = 0

    def read(self) -> bytes:
        parts = []
        while True:
            head = self._take(4)
            if head[3] != self.sequence:
                raise ValueError(f"the client's packet has the number {head[3]}, not {self.sequence}")
            self.sequence = (self.sequence + 1) % 256
            parts.append(self._take(int.from_bytes(head[:3], "little")))
            if len(parts[-1]) < LARGEST:
                return b"".join(parts)

    def _take(self, size: int) -> bytes:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            got = self.sock.recv_into(view)
            if not got:
                raise _LeftError
            view = view[got:]
        return bytes(data)

    def send(self, payloads: Iterable[bytes], fault: Fault | None = None) -> None:
        plan = fault or Fault(b"")
        left = plan.after
        for batch in self._batches(payloads, plan.wrong_sequence):
            data = batch
            if left is not None and left <= len(data):
                self._write(data[:left], plan.segment)
                self._act(plan)
                data, left = data[left:], None
            elif left is not None:
                left -= len(data)
            self._write(data, plan.segment)
        if left is not None:
            raise ValueError(f"the answer is {left} bytes shorter than {plan.after} bytes")

    def _batches(self, payloads: Iterable[bytes], wrong: int | None) -> Iterator[bytes]:
        batch = bytearray()
        for index, frame in enumerate(frames(payloads, self.sequence)):
            self.sequence = (self.sequence + 1) % 256
            batch += frame if index != wrong else frame[:3] + bytes([(frame[3] + 1) % 256]) + frame[4:]
            if len(batch) >= _BATCH:
                yield bytes(batch)
                batch.clear()
        yield bytes(batch)

    def _write(self, data: bytes, segment: int | None) -> None:
        step = segment or len(data) or 1
        for start in range(0, len(data), step):
            self.sock.sendall(data[start : start + step])

    def _act(self, fault: Fault) -> None:
        if fault.action == "stall":
            if fault.resume is None:
                self._drain()
            elif fault.resume.wait(self.sock.gettimeout()):
                return
        elif fault.action == "rst":
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.sock.close()
        else:
            # Closing at once would reset a connection on which the client's bytes are still unread. Nor is TLS ended.
            socket.socket.shutdown(self.sock, socket.SHUT_WR)
            self._drain()
        raise _LeftError

    def _drain(self) -> None:
        while socket.socket.recv(self.sock, _BATCH):
            pass

    def secure(self, context: ssl.SSLContext) -> str:
        """Go on over TLS; gives its version."""
        self.sock = secured = context.wrap_socket(self.sock, server_side=True, do_handshake_on_connect=False)
        secured.do_handshake()
        return secured.version() or "unknown"


class _Session:
    """One connection."""

    def __init__(self, server: ScriptedServer, sock: socket.socket, connection_id: int) -> None:
        self._server = server
        self._wire = _Wire(sock)
        self._id = connection_id
        self._statements = Statements()
        self._nonce = server.nonce or _random_nonce()
        self._terms = {"capabilities": 0, "extended": 0}
        self.thread = threading.Thread(target=self._run, name=f"scripted-server-{connection_id}")

    def end(self) -> None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._wire.sock, socket.SHUT_RDWR)
        self.thread.join(self._server.timeout)

    def _run(self) -> None:
        try:
            self._log_in()
            while True:
                self._wire.sequence = 0
                self._serve(self._wire.read())
        except (_LeftError, OSError):
            pass
        except Exception as error:  # noqa: BLE001 - raised when the server's context ends
            self._server.failures.append(error)
        finally:
            self._wire.sock.close()

    # ---- login

    def _log_in(self) -> None:
        server, wire = self._server, self._wire
        if server.refusal is not None:
            wire.send([server.refusal])
            raise _LeftError
        greeting = handshake(
            server.server_version,
            self._id,
            self._nonce,
            server.auth_plugin,
            capabilities=server.capabilities,
            extended=server.extended,
            charset=server.charset,
        )
        wire.send([greeting])
        response, tls = wire.read(), None
        if len(response) == 32:  # an SSLRequest: what comes before the user's name in the true response
            assert server.context, "the client wants TLS, which was not offered"
            tls = wire.secure(server.context)
            response = wire.read()
        login = read_login(response, self._id, capabilities=server.capabilities, extended=server.extended, tls=tls)
        self._terms = {"capabilities": login.capabilities, "extended": login.extended}
        server.logins.append(login)
        if server.require_tls and not tls:
            wire.send([err_packet(3159, "HY000", "Connections using insecure transport are prohibited")])
            raise _LeftError
        if not (self._proves(login) and server.user in (None, login.user)):
            using = "YES" if login.packets[-1] else "NO"
            denied = f"Access denied for user '{login.user}'@'localhost' (using password: {using})"
            wire.send([err_packet(1045, "28000", denied)])
            raise _LeftError
        login.accepted = True
        wire.send([ok_packet()])

    def _proves(self, login: Login) -> bool:
        """Whether the client has the password, as the account's plugin sees it."""
        plugin, password = self._server.account_plugin, self._server.password
        if plugin != login.plugin:
            login.steps.append("switch")
            self._nonce = _random_nonce()
            self._wire.send([auth_switch_packet(plugin, self._nonce)])
            login.packets.append(self._wire.read())
        if plugin == NATIVE:
            login.steps.append("native")
            return login.packets[-1] == native_scramble(password, self._nonce)
        if plugin == CLEAR:
            login.steps.append("clear")
            return login.packets[-1] == password + b"\0"
        return plugin == SHA2 and self._proves_by_sha2(login)

    def _proves_by_sha2(self, login: Login) -> bool:
        server, proof = self._server, login.packets[-1]
        if not proof:
            return not server.password
        if server.cached and proof == sha2(server.password, self._nonce):
            login.steps.append("fast")
            self._wire.send([b"\x01\x03"])
            return True
        self._wire.send([b"\x01\x04"])
        answer: bytes | None = self._heard(login)
        if login.tls or server.unix_socket:
            login.steps.append("full-tls" if login.tls else "full-unix")
        else:
            if answer == b"\x02":
                login.steps.append("key")
                self._wire.send([b"\x01" + public_key()])
                answer = self._heard(login)
            login.steps.append("full-rsa")
            answer = decrypted(answer or b"", self._nonce)
        proven = answer == server.password + b"\0"
        server.cached |= proven
        return proven

    def _heard(self, login: Login) -> bytes:
        login.packets.append(self._wire.read())
        return login.packets[-1]

    # ---- commands

    def _serve(self, payload: bytes) -> None:
        command = self._statements.command(payload, self._id)
        self._server.commands.append(command)
        if command.code == COM_QUIT:
            raise _LeftError
        if command.code in (COM_STMT_CLOSE, COM_STMT_SEND_LONG_DATA):
            return  # they have no answer
        if command.statement_id is not None and command.statement_id not in self._statements:
            self._wire.send([err_packet(1243, "HY000", f"Unknown prepared statement handler ({command.statement_id})")])
            return
        answer = self._server.answer_to(command)
        fault = answer if isinstance(answer, Fault) else None
        inner = answer.answer if isinstance(answer, Fault) else answer
        if command.code == COM_STMT_PREPARE and isinstance(inner, Result):
            number, count = self._statements.prepare(command.text)
            payloads = prepared_payloads(number, count, inner.columns, **self._terms)
        else:
            payloads = payloads_of(inner, binary=command.code == COM_STMT_EXECUTE, **self._terms)
        self._wire.send(payloads, fault)


def _random_nonce() -> bytes:
    return bytes(secrets.choice(range(33, 127)) for _ in range(20))
