"""A private MariaDB server out of the distribution's programs, or out of another build's.

The server asks for passwords; it has one superuser, `rivet_admin`, and no `root`. Its Unix socket lies in its own
folder, where only its account and root come. No option file of the machine is read, no service is touched.

    data/cluster/       MariaDB's own data folder, with the Unix socket `server.sock`
    data/server.log     what the server says
    data/server.pid     the server's process id
    data/scratch/       temporary files of the server
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import psutil
import pymysql
from pymysql.connections import Connection
from pymysql.constants import CR, ER

from demo.server import HOST, PrivateServer, ServerError, tail

ADMIN = "rivet_admin"

_START_SECONDS = 60.0
_STOP_SECONDS = 60.0
_LOOK_SECONDS = 0.02

# Small, so that a new server is there in a second; `settings` may say otherwise.
_SETTINGS = {
    "innodb-buffer-pool-size": "64M",
    "innodb-log-file-size": "32M",
    "performance-schema": "off",
    "character-set-server": "utf8mb4",
    "collation-server": "utf8mb4_general_ci",
}

# `root` has no password after the installation, so it goes; nobody else may enter.
_USERS = """
DELETE FROM mysql.global_priv WHERE User IN ('root', '', '{admin}');
FLUSH PRIVILEGES;
CREATE USER '{admin}'@'{host}' IDENTIFIED VIA mysql_native_password USING PASSWORD({password});
GRANT ALL PRIVILEGES ON *.* TO '{admin}'@'{host}' WITH GRANT OPTION;
CREATE USER '{admin}'@'localhost' IDENTIFIED VIA mysql_native_password USING PASSWORD({password});
GRANT ALL PRIVILEGES ON *.* TO '{admin}'@'localhost' WITH GRANT OPTION;
"""


class MariaError(ServerError):
    """The server or one of MariaDB's programs failed; the message ends with what it printed."""


class MariaServer(PrivateServer):
    """One MariaDB server over one folder; as a context manager it runs for as long as the context does.

    Args:
        data: the server's folder, created where it is missing.
        port: TCP port on 127.0.0.1; None takes a free one at every start.
        password: of the superuser `rivet_admin`; fixed when the server is created.
        settings: server variables by name, as in an option file; they hold for this start, and those of InnoDB's
            files for the creation too.
        programs: folder of another build, with `bin` and `scripts` in it, which every account can run; None takes
            the programs of the distribution.
    """

    product = "MariaDB"
    superuser = ADMIN
    scheme = "mysql"
    error = MariaError

    def __init__(
        self,
        data: Path,
        *,
        port: int | None = None,
        password: str,
        settings: Mapping[str, str] | None = None,
        programs: Path | None = None,
    ) -> None:
        super().__init__(data, port=port, password=password, settings=settings)
        self.programs = programs
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        """The server's Unix socket; `rivet_admin` may come in there too."""
        return self._cluster / "server.sock"

    def dsn(self, database: str = "", *, user: str = ADMIN, password: str | None = None) -> str:
        """URL of `database`, or of none, for `user`; without a `password`, with the superuser's."""
        return self._url(database, user, password)

    def connect(
        self, database: str = "", *, user: str = ADMIN, password: str | None = None, **options: Any
    ) -> Connection[Any]:
        """A PyMySQL connection in autocommit; `options` are PyMySQL's.

        Raises:
            pymysql.Error: the server refuses.
        """
        secret = self.password if password is None else password
        return _connect(self.port, user=user, password=secret, database=database or None, **options)

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop the server, if one runs over the folder, and wait for its end.

        Args:
            mode: `fast` disconnects clients and shuts down in order, `immediate` leaves it to the next start to
                recover.

        Raises:
            MariaError: it did not stop within a minute.
        """
        pid = self._recorded_pid()
        if pid is not None and self._serves(pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                process.kill() if mode == "immediate" else process.terminate()
                self._wait_for_end(process)
        self._forget()

    def kill(self) -> None:
        """End the server like a crash does: SIGKILL, and the next start recovers."""
        self.stop("immediate")

    def _halt(self, *, at_once: bool = False) -> None:
        self.stop("immediate" if at_once else "fast")

    def _wait_for_end(self, process: psutil.Process) -> None:
        try:
            process.wait(_STOP_SECONDS)
        except psutil.TimeoutExpired:
            raise MariaError(
                f"The MariaDB server in {self.data} did not stop within {_STOP_SECONDS:.0f} seconds:\n{tail(self._log)}"
            ) from None

    def _forget(self) -> None:
        """Drop what is known of a server that has ended."""
        if self._process is not None:
            self._process.wait()
            self._process = None
        self._pid_file.unlink(missing_ok=True)
        self._port = None

    # ------------------------------------------------------------------------------------------- programs

    @property
    def _pid_file(self) -> Path:
        # MariaDB writes its own only when it is nearly up.
        return self._home / "server.pid"

    @property
    def _mark(self) -> str:
        return f"--datadir={self._cluster}"

    @property
    def _scratch(self) -> Path:
        return self._home / "scratch"

    def _program(self, name: str) -> Path:
        """Path of one of MariaDB's programs; MariaError where it is missing."""
        if self.programs is not None:
            folders = [self.programs / part for part in ("bin", "sbin", "libexec", "scripts", ".")]
            path = os.pathsep.join(map(str, folders))
        else:
            # Debian has the server where ordinary users do not search.
            path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/bin"))
        found = shutil.which(name, path=path)
        if found is None:
            where = "run `make services`" if self.programs is None else f"{self.programs} has none"
            raise MariaError(f"MariaDB's program {name} is missing: {where}.")
        return Path(found)

    def _options(self, cluster: Path) -> list[str]:
        """Options that hold for the creation and for every start."""
        settings = {name.replace("_", "-"): value for name, value in self.settings.items()}
        base = [] if self.programs is None else [f"--basedir={self.programs}"]
        options = [f"--{name}={value}" for name, value in {**_SETTINGS, **settings}.items()]
        return ["--no-defaults", *base, f"--datadir={cluster}", f"--tmpdir={self._scratch}", *options]

    def _prepare_folder(self) -> None:
        super()._prepare_folder()
        if not self._scratch.exists():
            self._scratch.mkdir(mode=0o700)
            self._account.take(self._scratch)

    def _create_cluster(self) -> None:
        self._program("mariadbd")
        unfinished = self._new_cluster()
        secret = _literal(self.password)
        with tempfile.NamedTemporaryFile("w", dir=self._home, suffix=".sql") as users:
            users.write(_USERS.format(admin=ADMIN, host=HOST, password=secret))
            users.flush()
            self._account.take(Path(users.name))
            self._run_program(
                self._program("mariadb-install-db"),
                *self._options(unfinished),
                *("--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"),
                f"--extra-file={users.name}",
                environment=_environment(),
            )
        unfinished.rename(self._cluster)

    def _start_server(self, port: int) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._program("mariadbd"),
                    *self._options(self._cluster),
                    *(f"--bind-address={HOST}", f"--port={port}", "--skip-name-resolve"),
                    # Relative to the data folder: a socket's path has room for a hundred letters only.
                    *(f"--socket={self.socket.name}", "--pid-file=mariadbd.pid"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._home,
                env={**_environment(), "LC_ALL": "C"},
                user=self._account.uid,
                group=self._account.gid,
                extra_groups=self._account.extra_groups,
                start_new_session=True,  # Ctrl-C is ours alone
            )
        self._pid_file.write_text(f"{self._process.pid}\n")
        try:
            self._wait_until_ready(port)
        except BaseException:
            self.stop("immediate")
            raise

    def _wait_until_ready(self, port: int) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                _connect(port, user=ADMIN, password=self.password).close()
                return
            except pymysql.OperationalError as error:
                if error.args[0] == ER.ACCESS_DENIED_ERROR:
                    raise MariaError(f"The server in {self.data} has another password: {error.args[1]}") from None
                if error.args[0] != CR.CR_CONN_HOST_ERROR:
                    raise MariaError(f"The server in {self.data} answers with an error: {error.args[1]}") from None
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                what = "ended" if ended else f"took no connection within {_START_SECONDS:.0f} seconds"
                raise MariaError(f"The MariaDB server {what}. The end of {self._log}:\n{tail(self._log)}")
            time.sleep(_LOOK_SECONDS)


def _connect(port: int, *, user: str, password: str, **options: Any) -> Connection[Any]:
    given = {"autocommit": True, "charset": "utf8mb4", "connect_timeout": 30, **options}
    return pymysql.connect(host=HOST, port=port, user=user, password=password, **given)


def _literal(text: str) -> str:
    """`text` as a string of SQL."""
    escaped = text.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"


def _environment() -> dict[str, str]:
    """Our variables without those that would steer MariaDB's programs."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MYSQL", "MARIADB"))}
