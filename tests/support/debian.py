"""Servers out of the distribution's programs: PostgreSQL, hot standbys and pgBouncer, each in a folder of its own."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from demo.postgres import HOST, SUPERUSER, EmbeddedPostgres, PostgresError, free_port, server_account, tail

_WAIT_SECONDS = 30.0
_LOOK_SECONDS = 0.02

Sql = Callable[[str], list[tuple[Any, ...]]]


def debian_programs() -> Path:
    """Folder of the newest server programs that Debian's packages brought."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    if not found:
        raise PostgresError("PostgreSQL's server programs are missing: run `make services`.")
    return max(found, key=lambda folder: int(folder.parent.name))


class DebianPostgres(EmbeddedPostgres):
    """A private server like `EmbeddedPostgres`, out of Debian's programs."""

    def __init__(self, folder: Path, *, password: str, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(folder, password=password, settings=settings, programs=debian_programs())


class Standby(EmbeddedPostgres):
    """A hot standby that streams from a running `primary`: the same programs, the same users and passwords."""

    def __init__(self, folder: Path, primary: EmbeddedPostgres, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(folder, password=primary.password, settings=settings, programs=primary.programs)
        self.primary = primary

    def _create_cluster(self) -> None:
        self._run(
            *("pg_basebackup", f"--pgdata={self._cluster}", f"--dbname={self.primary.dsn()}", "--write-recovery-conf"),
            *("--wal-method=stream", "--checkpoint=fast", "--no-sync"),
        )

    def _prepare_folder(self) -> None:
        super()._prepare_folder()
        # pg_basebackup makes the cluster's folder, as the account that owns this one.
        self._account.take(self._home)

    def catch_up(self) -> None:
        """Wait until everything that the primary has written is replayed."""
        with psycopg.connect(self.primary.dsn(), autocommit=True) as primary:
            # The end of a VACUUM is not flushed by itself, and only what is flushed is sent.
            primary.execute("SELECT pg_logical_emit_message(true, 'catch up', '')")
            row = primary.execute("SELECT pg_current_wal_flush_lsn()").fetchone()
        with psycopg.connect(self.dsn(), autocommit=True) as standby:
            deadline = time.monotonic() + _WAIT_SECONDS
            while standby.execute("SELECT pg_last_wal_replay_lsn() < %s", row).fetchone() != (False,):
                if time.monotonic() > deadline:
                    raise PostgresError(f"The standby is behind:\n{tail(self.data / 'server.log')}")
                time.sleep(_LOOK_SECONDS)


def standby_of(primary: EmbeddedPostgres, folder: Path, settings: Mapping[str, str] | None = None) -> Standby:
    """A standby of `primary`, not started yet."""
    return Standby(folder, primary, settings)


class PgBouncer:
    """A pooler in transaction mode before a running server, for the superuser and for `users`; a context manager.

    Nothing in its configuration smooths the way: no startup parameter is ignored, no prepared statement is kept.

    Args:
        target: the server.
        pool_size: connections to the server for each pair of database and user.
        users: passwords of further users by name.
    """

    def __init__(self, target: EmbeddedPostgres, pool_size: int = 2, users: Mapping[str, str] | None = None) -> None:
        self._target = target
        self._pool_size = pool_size
        self._users = {SUPERUSER: target.password, **(users or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        # In the server's own folder, which the server's account can reach.
        self._folder = target.data.resolve() / f"pgbouncer-{self.port}"

    def __enter__(self) -> PgBouncer:
        account = server_account()
        self._folder.mkdir()
        self._write_configuration()
        account.take(self._folder)
        self._process = subprocess.Popen(
            [_pgbouncer(), "--quiet", str(self._folder / "pgbouncer.ini")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._folder,
            user=account.uid,
            group=account.gid,
            extra_groups=account.extra_groups,
        )
        self._wait()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder)

    def dsn(self, database: str, *, user: str = SUPERUSER) -> str:
        """URL of `database` through the pooler."""
        direct = self._target.dsn(database, user=user, password=self._users[user])
        return direct.replace(f":{self._target.port}/", f":{self.port}/")

    def _write_configuration(self) -> None:
        quoted = [f'"{name}" "{password}"' for name, password in self._users.items()]
        (self._folder / "users.txt").write_text("\n".join(quoted) + "\n")
        options = {
            "listen_addr": HOST,
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": self._folder / "users.txt",
            "pool_mode": "transaction",
            "default_pool_size": self._pool_size,
            "logfile": self._folder / "pgbouncer.log",
        }
        if _pgbouncer_version() >= (1, 21):  # older ones never keep any
            options["max_prepared_statements"] = 0
        lines = "\n".join(f"{name} = {value}" for name, value in options.items())
        (self._folder / "pgbouncer.ini").write_text(
            f"[databases]\n* = host={HOST} port={self._target.port}\n\n[pgbouncer]\n{lines}\n"
        )

    def _wait(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _WAIT_SECONDS
        while True:
            try:
                with psycopg.connect(self.dsn("postgres"), connect_timeout=5):
                    return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise PostgresError(f"pgBouncer does not start:\n{tail(self._folder / 'pgbouncer.log')}") from None
                time.sleep(_LOOK_SECONDS)


def _pgbouncer() -> str:
    # Debian has it where ordinary users do not search.
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        raise PostgresError("pgBouncer is missing: run `make services`.")
    return program


def _pgbouncer_version() -> tuple[int, int]:
    said = subprocess.run([_pgbouncer(), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"(\d+)\.(\d+)", said)
    assert found, said
    return int(found[1]), int(found[2])


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait until `holds`; fails with `what` where that takes too long."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(_LOOK_SECONDS)


@contextmanager
def runner_of(dsn: str) -> Iterator[Sql]:
    """Run SQL on a connection of its own, in autocommit; gives the rows, if any."""
    with psycopg.connect(dsn, autocommit=True) as connection:

        def run(statement: str) -> list[tuple[Any, ...]]:
            cursor = connection.execute(statement)  # type: ignore[call-overload]
            return list(cursor.fetchall()) if cursor.description else []

        yield run


def version_of(dsn: str) -> str:
    """`PostgreSQL 15.18`, by the number that the driver was told, which no distribution decorates."""
    with psycopg.connect(dsn) as connection:
        number = connection.info.server_version
    return f"PostgreSQL {number // 10000}.{number % 10000}"
