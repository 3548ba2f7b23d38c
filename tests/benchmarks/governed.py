"""What an export does to the transactions of others, governed and not.

Three phases, quiet, loaded, quiet, while one table is exported: the foreground comes in the middle one. It is measured
without any export, beside one that is not governed, and beside one that is. The table's rows cost the server time, as
compressed long values would, so that the server is what is short. The exporting process has the lowest priority: it
would run on another machine, and is not what is measured.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from demo.mariadb import MariaServer
from demo.postgres import EmbeddedPostgres
from tests.benchmarks.foreground import Load, MariaForeground, PostgresForeground, Transaction
from tests.benchmarks.measure import ContenderError

_POSTGRES_SETTINGS = {"fsync": "off", "autovacuum": "off", "shared_buffers": "1GB", "max_wal_size": "8GB"}
_MARIADB_SETTINGS = {
    "innodb-buffer-pool-size": "2G",
    "innodb-log-file-size": "1G",
    "innodb-flush-log-at-trx-commit": "2",
}
_DATABASE = "exported"

# Sixteen kilobytes are hashed for a row: some 25 microseconds of the server's time.
_POSTGRES_ROWS = """
CREATE UNLOGGED TABLE public.base (id bigint PRIMARY KEY);
INSERT INTO public.base SELECT generate_series(1, {rows});
CREATE VIEW public.ledger AS SELECT id, md5(repeat(id::text, 2000)) AS digest FROM public.base;
"""
_MARIADB_ROWS = (
    "CREATE TABLE base (id bigint PRIMARY KEY)",
    "INSERT INTO base SELECT seq FROM seq_1_to_{rows}",
    "CREATE VIEW ledger AS SELECT id, md5(repeat(id, 2000)) AS digest FROM base",
)
# What an idle source's export is timed on.
_IDLE_ROWS = 300_000
_WINDOW_ROWS = 20_000


@dataclass(frozen=True)
class Phases:
    """Seconds of each phase of a ride.

    Attributes:
        quiet, loaded, relief: before, under and after the load of others.
    """

    quiet: float = 12.0
    loaded: float = 240.0
    relief: float = 15.0

    @property
    def alone(self) -> float:
        """Seconds of the foreground alone, before all rides and once more behind them: together one loaded phase."""
        return self.loaded / 2


@dataclass(frozen=True)
class Ride:
    """One export with a foreground in its middle.

    Attributes:
        began, ended: of the loaded phase, in seconds of the system's clock.
        transactions: of the foreground.
        entries: of its journal.
    """

    began: float
    ended: float
    transactions: Sequence[Transaction]
    entries: Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Source:
    """A server with a table to export and a foreground."""

    product: str
    version: str
    dsn: str
    table: str
    foreground: PostgresForeground | MariaForeground


@contextmanager
def postgres_source(folder: Path, load: Load, rows: int) -> Iterator[Source]:
    """On PostgreSQL, with pgbench."""
    server = EmbeddedPostgres(folder / "postgres", password=secrets.token_hex(16), settings=_POSTGRES_SETTINGS)
    try:
        with server:
            with psycopg.connect(server.dsn(), autocommit=True) as admin:
                admin.execute(f"CREATE DATABASE {_DATABASE}")
            with psycopg.connect(server.dsn(_DATABASE), autocommit=True) as owner:
                owner.execute(_POSTGRES_ROWS.format(rows=rows).encode())
                owner.execute("VACUUM ANALYZE public.base")
            foreground = PostgresForeground(server, load, folder)
            foreground.prepare()
            with psycopg.connect(server.dsn()) as connection:
                version = str(connection.info.parameter_status("server_version"))
            yield Source("PostgreSQL", version, server.dsn(_DATABASE), "public.ledger", foreground)
    finally:
        server.destroy()


@contextmanager
def mariadb_source(folder: Path, load: Load, rows: int) -> Iterator[Source]:
    """On MariaDB, with the same statements."""
    server = MariaServer(folder / "mariadb", password=secrets.token_hex(16), settings=_MARIADB_SETTINGS)
    try:
        with server:
            with server.connect() as admin, admin.cursor() as cursor:
                cursor.execute(f"CREATE DATABASE {_DATABASE}")
                cursor.execute(f"USE {_DATABASE}")
                for statement in _MARIADB_ROWS:
                    cursor.execute(statement.format(rows=rows))
            foreground = MariaForeground(server, load, folder)
            foreground.prepare()
            with server.connect() as connection:
                version = str(connection.get_server_info())
            yield Source("MariaDB", version, server.dsn(_DATABASE), f"{_DATABASE}.ledger", foreground)
    finally:
        server.destroy()


class Rides:
    """Exports one source again and again."""

    def __init__(self, source: Source, folder: Path, workers: int, governor: dict[str, Any]) -> None:
        self._source = source
        self._folder = folder
        self._workers = workers
        self._governor = governor
        self._count = 0

    def alone(self, seconds: float) -> list[Transaction]:
        """The foreground without any export."""
        with self._source.foreground.running(seconds) as found:
            pass
        return found

    def ride(self, phases: Phases, *, governed: bool) -> Ride:
        """All phases beside one export, which is ended behind them."""
        lake = self._lake()
        with self._exporting(lake, governed=governed) as process:
            self._wait_for_windows(lake, process)
            time.sleep(phases.quiet)
            with self._source.foreground.running(phases.loaded) as found:
                pass
            began = min(each.at for each in found)
            ended = max(each.at + each.seconds for each in found)
            time.sleep(phases.relief)
            if process.poll() is not None:
                raise ContenderError("the export was done before the foreground was: it needs more rows")
            process.terminate()
            process.communicate(timeout=60)
        return Ride(began, ended, found, journal_of(lake))

    def idle(self, *, governed: bool) -> tuple[float, list[dict[str, Any]]]:
        """Seconds of a whole export of a part of the rows on an idle source, by its own clock; and its journal."""
        lake = self._lake()
        with self._exporting(lake, governed=governed, rows=_IDLE_ROWS) as process:
            said, _ = process.communicate(timeout=600)
        if process.returncode:
            raise ContenderError(f"the export failed: {said.decode()[-500:]}")
        return float(json.loads(said)["seconds"]), journal_of(lake)

    def _lake(self) -> Path:
        self._count += 1
        return self._folder / f"lake-{self._count}"

    def _exporting(self, lake: Path, *, governed: bool, rows: int | None = None) -> subprocess.Popen[bytes]:
        table = self._source.table
        windows: dict[str, Any] = {"columns": ["id"], "rows": _WINDOW_ROWS}
        arguments = ["--source", self._source.dsn, "--table", table, "--to", str(lake), "--json"]
        # An idle source has the usual governor: one that looks more often costs more.
        governor = self._governor if rows is None else {}
        arguments += ["--workers", str(self._workers), "--governor", json.dumps(governor)]
        if rows is not None:
            schema = table.partition(".")[0]
            windows = {"columns": ["id"], "rows": _WINDOW_ROWS}
            arguments += ["--query", f"SELECT * FROM {schema}.ledger WHERE id <= {rows}"]
        arguments += ["--windows", json.dumps(windows)] + ([] if governed else ["--ungoverned"])
        program = [sys.executable, "-c", "from rivet_dagster.cli import main; main()"]
        command = ["nice", "-n", "19", *program, "export", *arguments]
        environment = {**os.environ, "TMPDIR": str(self._folder)}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)

    def _wait_for_windows(self, lake: Path, process: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + 300
        while not list(lake.glob("*/g1/windows/*.json")):
            if process.poll() is not None or time.monotonic() > until:
                raise ContenderError("the export did not begin")
            time.sleep(0.1)


def journal_of(lake: Path) -> list[dict[str, Any]]:
    """The lines of the only journal there."""
    lines = [line for path in sorted(lake.glob("*/journal/*.jsonl")) for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines]
