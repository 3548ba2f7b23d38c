"""A private PostgreSQL server, with a database for every table and size that is asked for."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from demo.postgres import EmbeddedPostgres
from tests.support.tables import EVENTS, LINEITEM, make_table

SCHEMA = "public"

# Nothing but the contender makes work for the server, and what it reads is in memory.
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "log_min_duration_statement": "5ms",
}


@dataclass(frozen=True)
class Table:
    """A table of the benchmarks.

    Attributes:
        name: in schema `public`.
        script: creates and fills it.
        key: its primary key, a single column.
        rows: how many it has by default.
        columns: what it is like, for the report.
    """

    name: str
    script: str
    key: str
    rows: int
    columns: str


TABLES = {
    table.name: table
    for table in (
        Table("lineitem", LINEITEM, "id", 2_500_000, "17 columns: integers, numeric(15,2), dates, short texts"),
        Table("events", EVENTS, "id", 1_000_000, "12 columns: uuid, jsonb, bytea, timestamps, numeric(38,10), NULLs"),
    )
}


class Stage:
    """The server, its tables and a folder to write to.

    Attributes:
        folder: for what contenders write.
        server: which runs.
    """

    def __init__(self, folder: Path, server: EmbeddedPostgres) -> None:
        self.folder = folder
        self.server = server
        self._made: set[str] = set()

    def dsn(self, table: Table, rows: int) -> str:
        """Address of a database that holds `table` with this many rows; made when first asked for."""
        database = f"{table.name}_{rows}"
        if database not in self._made:
            with psycopg.connect(self.server.dsn(), autocommit=True) as admin:
                admin.execute(f"CREATE DATABASE {database}")
            with psycopg.connect(self.server.dsn(database), autocommit=True) as owner:
                make_table(owner, table.script, rows)
                owner.execute("CHECKPOINT")
            self._made.add(database)
        return self.server.dsn(database)

    def drop(self, table: Table, rows: int) -> None:
        """Drop a database that `dsn` made, if it did."""
        database = f"{table.name}_{rows}"
        if database in self._made:
            self._made.discard(database)
            with psycopg.connect(self.server.dsn(), autocommit=True) as admin:
                admin.execute(f"DROP DATABASE {database} WITH (FORCE)")

    def server_version(self) -> str:
        """PostgreSQL's version."""
        with psycopg.connect(self.server.dsn()) as connection:
            return str(connection.info.parameter_status("server_version"))


@contextmanager
def open_stage() -> Iterator[Stage]:
    """A stage in a temporary folder, which is deleted with everything in it."""
    with tempfile.TemporaryDirectory(prefix="rivet-benchmarks-") as name:
        folder = Path(name)
        server = EmbeddedPostgres(folder / "server", password=secrets.token_hex(16), settings=SETTINGS)
        output = folder / "output"
        output.mkdir()
        try:
            with server:
                yield Stage(output, server)
        finally:
            server.destroy()
