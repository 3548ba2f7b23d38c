"""What the demo's private database servers share: a folder of their own, an unprivileged account, a local port.

A server listens on 127.0.0.1 only and asks for passwords. Database servers refuse to run as root, so root hands
them to the account `nobody`. Where that account cannot reach a folder, the server works in one that it can reach,
behind a link; permissions of folders that are not ours are never changed.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote

import psutil

from demo import DemoError

if TYPE_CHECKING:
    from typing_extensions import Self

HOST = "127.0.0.1"

_LOG_TAIL_LINES = 10


class ServerError(DemoError):
    """A server or one of its programs failed; the message ends with what it printed."""


@dataclass(frozen=True)
class ServerAccount:
    """The account that a server runs under; without numbers, the one that we run under.

    Attributes:
        uid: user id to change to.
        gid: group id to change to.
        extra_groups: the only other groups to keep.
    """

    uid: int | None = None
    gid: int | None = None
    extra_groups: tuple[int, ...] | None = None

    @property
    def owner(self) -> int:
        """User id that the server's files have."""
        return os.geteuid() if self.uid is None else self.uid

    def reaches(self, path: Path) -> bool:
        """Whether the account may enter every folder on the way to `path`, and enter or execute `path`."""
        return self.uid is None or all(step.stat().st_mode & 0o001 for step in (path, *path.parents))

    def take(self, path: Path) -> None:
        """Make `path`, which we created, and all that is in it the account's own."""
        if self.uid is None or self.gid is None:
            return
        for each in (path, *path.rglob("*")):
            os.chown(each, self.uid, self.gid, follow_symlinks=False)


def server_account() -> ServerAccount:
    """The account for servers that refuse to run as root: `nobody` for root, else our own.

    Raises:
        ServerError: we are root, and there is no such account.
    """
    if os.geteuid() != 0:
        return ServerAccount()
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise ServerError(
            "Database servers refuse to run as root, and there is no account `nobody` to run them under. "
            "Run as an ordinary user."
        ) from None
    return ServerAccount(nobody.pw_uid, nobody.pw_gid, ())


class PrivateServer(ABC):
    """One server over one folder; as a context manager it runs for as long as the context does.

    Args:
        data: the server's folder, created where it is missing.
        port: TCP port on 127.0.0.1; None takes a free one at every start.
        password: the superuser's; fixed when the cluster is created.
        settings: the server's own parameters by name; they hold for this start.
    """

    product: ClassVar[str]
    superuser: ClassVar[str]
    scheme: ClassVar[str]
    error: ClassVar[type[ServerError]]

    def __init__(
        self, data: Path, *, port: int | None = None, password: str, settings: Mapping[str, str] | None = None
    ) -> None:
        self.data = data.absolute()
        self.password = password
        self.settings = dict(settings or {})
        self._wanted_port = port
        self._port: int | None = None
        self._account = server_account()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._halt()

    @property
    def port(self) -> int:
        """TCP port of the running server; its class's error where it was not started."""
        if self._port is None:
            raise self.error(f"The {self.product} server in {self.data} is not started.")
        return self._port

    def start(self) -> None:
        """Start the server and wait until it takes connections; the first start creates the cluster.

        A server that a killed process left behind is stopped first: its port and settings are not ours.
        Starting the server that this object runs does nothing.

        Raises:
            ServerError: the server does not come up, or the folder belongs to another account.
        """
        if self._port is not None and self.is_running():
            return
        self._prepare_folder()
        self._halt()
        if not self._cluster.exists():
            self._create_cluster()
        port = self._wanted_port or free_port()
        self._start_server(port)
        self._port = port

    def destroy(self) -> None:
        """End the server at once and delete its folder, and the one behind the link where there is one."""
        self._halt(at_once=True)
        home = self._home
        if self.data.is_symlink():
            self.data.unlink()
        shutil.rmtree(home, ignore_errors=True)

    def is_running(self) -> bool:
        """Whether a server runs over the folder, whoever started it."""
        pid = self._recorded_pid()
        return pid is not None and self._serves(pid)

    def _url(self, database: str, user: str | None, password: str | None) -> str:
        """URL of `database` for `user`; without a `password`, with the superuser's."""
        name, secret = user or self.superuser, self.password if password is None else password
        name, secret, database = (quote(part, safe="") for part in (name, secret, database))
        return f"{self.scheme}://{name}:{secret}@{HOST}:{self.port}/{database}"

    @abstractmethod
    def _create_cluster(self) -> None:
        """Make the folder of databases beside its final place, then rename: a half-made one is never taken for one."""

    @abstractmethod
    def _start_server(self, port: int) -> None:
        """Start the server on `port` and wait until it takes connections; leave none behind that does not."""

    @abstractmethod
    def _halt(self, *, at_once: bool = False) -> None:
        """Stop the server in order, or at once, if one runs over the folder, and wait for its end."""

    # ---------------------------------------------------------------------------------------------- folders

    @property
    def _home(self) -> Path:
        return self.data.resolve()

    @property
    def _cluster(self) -> Path:
        return self._home / "cluster"

    @property
    def _log(self) -> Path:
        return self._home / "server.log"

    @property
    @abstractmethod
    def _pid_file(self) -> Path:
        """File whose first line is the server's process id."""

    @property
    def _mark(self) -> str:
        """Word of a server's command line that names our cluster."""
        return str(self._cluster)

    def _prepare_folder(self) -> None:
        """Make the folder, or a link to one within the account's reach, and check whose it is."""
        if self.data.is_symlink() and not self.data.exists():
            self.data.unlink()  # temporary folders are cleaned away
        if not self.data.exists():
            self.data.parent.mkdir(parents=True, exist_ok=True)
            self._make_home()
        if self._cluster.exists() and self._cluster.stat().st_uid != self._account.owner:
            raise self.error(
                f"The cluster in {self._home} belongs to user id {self._cluster.stat().st_uid}, "
                f"but the server would run as {self._account.owner}. "
                "Delete the folder, or run as the user who created it."
            )
        if not self._account.reaches(self._home):
            raise self.error(
                f"The account `nobody`, which root runs {self.product} under, cannot reach {self._home}. "
                "Let TMPDIR name a folder that every account may enter."
            )

    def _make_home(self) -> None:
        if self._account.reaches(self.data.parent):
            self.data.mkdir()
        else:
            self.data.symlink_to(tempfile.mkdtemp(prefix=f"private-{self.product.lower()}-"))
        self._home.chmod(0o711)

    def _new_cluster(self) -> Path:
        """An empty folder of the account's, to be filled and renamed to the cluster's."""
        unfinished = self._cluster.with_suffix(".new")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        self._account.take(unfinished)
        return unfinished

    # ------------------------------------------------------------------------------------------- processes

    def _recorded_pid(self) -> int | None:
        """Process id in the server's pid file; None where there is no such file, or it is not complete."""
        try:
            return int(self._pid_file.read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return None

    def _serves(self, pid: int) -> bool:
        """Whether process `pid` is a server over our cluster, which its command line names."""
        try:
            return self._mark in psutil.Process(pid).cmdline()
        except psutil.Error:
            return False

    def _run_program(self, program: Path, *arguments: str, environment: Mapping[str, str]) -> None:
        """Run a program under the server's account.

        Raises:
            ServerError: it failed; with its output.
        """
        with tempfile.TemporaryFile() as output:
            # A file, because a server may inherit this handle: a pipe would stay open for as long as it runs.
            done = subprocess.run(
                [program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._home,
                env={**environment, "LC_ALL": "C"},
                user=self._account.uid,
                group=self._account.gid,
                extra_groups=self._account.extra_groups,
                check=False,
            )
            output.seek(0)
            text = output.read().decode(errors="replace").strip()
        if done.returncode:
            raise self.error(f"{self.product}'s {program.name} failed with exit code {done.returncode}:\n{text}")


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def tail(log: Path, lines: int = _LOG_TAIL_LINES) -> str:
    """The last `lines` lines of `log`; a note where there is none."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return "(there is no log)"
