"""A TCP proxy before a MySQL or MariaDB server: it cuts, stalls, counts, and shows another greeting, as poolers do.

with TcpProxy(port_of_the_server, connection_id=7) as proxy:
    ...  # a client connects to proxy.port
    proxy.cut_after(100)
    ...  # the next 100 bytes of the server get through, then the connection is gone
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass
from typing import Literal

HOST = "127.0.0.1"

_CHUNK = 1 << 16


@dataclass(frozen=True, eq=False)
class _Break:
    """What happens to a connection `after` more bytes of its server, and whether to one connection or to each."""

    after: int
    action: Literal["fin", "rst", "stall"]
    each: bool


class TcpProxy:
    """Listens on a port of 127.0.0.1 and forwards to another one; a context manager.

    Args:
        target_port: the server's.
        connection_id: what the server's greeting shows instead of its own; it is the same for every connection.
        server_version: likewise.
        cut_after: as the method of that name, from the first byte of the first connection.
        timeout: seconds to wait for the server, and for a stall to end.

    Attributes:
        connections: how many were opened.
        bytes_to_client, bytes_to_server: what was forwarded, of all connections.
        sends: how often bytes came from clients; what is sent in a quick succession may count once.
        turns: how often clients had something to say after the server had: the round trips, whatever their pieces.
    """

    def __init__(
        self,
        target_port: int,
        *,
        connection_id: int | None = None,
        server_version: str | None = None,
        cut_after: int | None = None,
        timeout: float = 20.0,
    ) -> None:
        self.connection_id = connection_id
        self.server_version = server_version
        self.timeout = timeout
        self.port = 0
        self.connections = self.bytes_to_client = self.bytes_to_server = self.sends = self.turns = 0
        self._target_port = target_port
        self._lock = threading.Lock()
        self._break: _Break | None = None
        self._resumed = threading.Event()
        self._links: list[_Link] = []
        if cut_after is not None:
            self.cut_after(cut_after)

    def cut_after(self, count: int, *, reset: bool = False, each: bool = False) -> None:
        """End a connection when `count` more bytes of its server have passed, with a FIN or a RST.

        Counted from now, or from the connection's beginning if that is later. One connection is cut, the first that
        comes so far, and then no more; with `each`, every one.
        """
        self._arm(_Break(count, "rst" if reset else "fin", each))

    def stall_after(self, count: int, *, each: bool = False) -> None:
        """Likewise, but the connection stays and is silent until `resume`; what the client sends still passes."""
        self._resumed.clear()
        self._arm(_Break(count, "stall", each))

    def resume(self) -> None:
        """Let stalled connections go on; nothing is cut or stalled from now."""
        self._arm(None)
        self._resumed.set()

    def drop(self, *, reset: bool = False) -> None:
        """End all open connections now."""
        for link in self._links:
            link.drop(reset=reset)

    def __enter__(self) -> TcpProxy:
        self._listener = socket.socket()
        self._listener.bind((HOST, 0))
        self.port = self._listener.getsockname()[1]
        self._listener.listen(64)
        self._acceptor = threading.Thread(target=self._accept, name="tcp-proxy")
        self._acceptor.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._acceptor.join(self.timeout)
        self._listener.close()
        self.resume()
        self.drop()
        still = [link for link in self._links if not link.join(self.timeout)]
        assert kind is not None or not still, f"{len(still)} connections do not end"

    def _arm(self, planned: _Break | None) -> None:
        with self._lock:
            self._break = planned

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection((HOST, self._target_port), self.timeout)
            except OSError:
                client.close()
                continue
            link = _Link(self, client, server)
            with self._lock:
                self.connections += 1
                self._links.append(link)
            link.start()

    def allowed(self, link: _Link, size: int) -> tuple[int, _Break | None]:
        """How many of the next bytes of a link's server pass before something happens, and what that is."""
        with self._lock:
            planned = self._break
            if planned is not link.planned:
                link.planned, link.passed = planned, 0
            if planned is None or link.passed + size < planned.after:
                link.passed += size
                return size, None
            if not planned.each:
                self._break = None
            return planned.after - link.passed, planned

    def count(self, *, to_client: int = 0, to_server: int = 0, turn: bool = False) -> None:
        with self._lock:
            self.bytes_to_client += to_client
            self.bytes_to_server += to_server
            self.sends += bool(to_server)
            self.turns += turn

    def wait(self) -> None:
        """Until stalled connections may go on."""
        self._resumed.wait(self.timeout)


class _Link:
    """One connection: two sockets, and a thread for each direction."""

    def __init__(self, proxy: TcpProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._server_spoke = False
        self.planned: _Break | None = None
        self.passed = 0
        for end in (client, server):
            end.settimeout(None)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pumps = (self._from_server, self._from_client)
        self._threads = [threading.Thread(target=pump, name="tcp-proxy-link") for pump in pumps]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self, timeout: float) -> bool:
        """Whether it ended in time."""
        for thread in self._threads:
            thread.join(timeout)
        for end in (self._client, self._server):
            end.close()
        return not any(thread.is_alive() for thread in self._threads)

    def drop(self, *, reset: bool) -> None:
        """End both sides, the client's with a FIN or a RST."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            if reset:
                self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._client.shutdown(socket.SHUT_RD)  # while another thread reads, closing does nothing
                self._client.close()
            else:
                # What the client still sends is read on: closed over unread bytes, the connection would be reset.
                self._client.shutdown(socket.SHUT_WR)

    def _from_server(self) -> None:
        try:
            data = self._greeting()
            while data:
                self._server_spoke = True
                passes, happens = self._proxy.allowed(self, len(data))
                self._to_client(data[:passes])
                if happens and happens.action != "stall":
                    self.drop(reset=happens.action == "rst")
                    return
                if happens:
                    self._proxy.wait()
                self._to_client(data[passes:])
                data = self._server.recv(_CHUNK)
        except ConnectionResetError:
            self.drop(reset=True)
        except OSError:
            self.drop(reset=False)
        with contextlib.suppress(OSError):
            self._client.shutdown(socket.SHUT_WR)

    def _to_client(self, data: bytes) -> None:
        # Counted first, so that whoever has received them finds them counted.
        self._proxy.count(to_client=len(data))
        self._client.sendall(data)

    def _from_client(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._client.recv(_CHUNK):
                turn, self._server_spoke = self._server_spoke, False
                self._proxy.count(to_server=len(data), turn=turn)
                with contextlib.suppress(OSError):
                    self._server.sendall(data)
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_WR)

    def _greeting(self) -> bytes:
        """The server's first bytes; its whole first packet, with what the proxy wants to show, if it wants that."""
        if self._proxy.connection_id is None and self._proxy.server_version is None:
            return self._server.recv(_CHUNK)
        head = self._server.recv(4, socket.MSG_WAITALL)
        body = self._server.recv(int.from_bytes(head[:3], "little"), socket.MSG_WAITALL)
        if body[:1] != b"\x0a":  # an error, or nothing
            return head + body
        end = body.index(b"\0", 1)
        version, number = body[1:end], body[end + 1 : end + 5]
        if self._proxy.server_version is not None:
            version = self._proxy.server_version.encode()
        if self._proxy.connection_id is not None:
            number = struct.pack("<I", self._proxy.connection_id)
        shown = b"\x0a" + version + b"\0" + number + body[end + 5 :]
        return len(shown).to_bytes(3, "little") + head[3:] + shown
