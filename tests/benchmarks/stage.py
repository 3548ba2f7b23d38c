"""Private servers with a database for every table and size that is asked for; the PostgreSQL one is here."""

from __future__ import annotations

import re
import secrets
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import psycopg
import pyarrow as pa

from demo import DemoError
from demo.postgres import EmbeddedPostgres
from tests.benchmarks.contender import POSTGRESQL, Task
from tests.benchmarks.declared import declared_schema
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


_END_SECONDS = 10.0

_OTHERS = """
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
_LOOKS = """
SELECT (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes),
       (SELECT sum(heap_blks_read + heap_blks_hit + idx_blks_read + idx_blks_hit) FROM pg_statio_user_tables)
"""


@dataclass(frozen=True)
class Table:
    """A table of the benchmarks.

    Attributes:
        name: without schema or database.
        script: creates and fills it, `%(rows)s` being how many rows.
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


@dataclass(frozen=True)
class Durations:
    """Where a server writes how long statements ran, from 5 ms on.

    Attributes:
        path: its log.
        pattern: finds the number.
        unit_s: seconds that the number counts.
    """

    path: Path
    pattern: re.Pattern[bytes]
    unit_s: float


@dataclass(frozen=True)
class Looks:
    """What a server has looked at since some moment.

    Attributes:
        entries: of indexes.
        blocks: of tables and indexes, in memory or not.
    """

    entries: int
    blocks: int


class Stage(ABC):
    """A server, its tables and a folder to write to.

    Attributes:
        folder: for what contenders write.
    """

    product: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: set[str] = set()

    def dsn(self, table: Table, rows: int) -> str:
        """Address of a database that holds `table` with this many rows; made when first asked for."""
        database = _database(table, rows)
        if database not in self._made:
            self._make(database, table, rows)
            self._made.add(database)
        return self._address(database)

    def task(self, table: Table, rows: int, folder: Path) -> Task:
        """What a contender has to do with such a table."""
        dsn = self.dsn(table, rows)
        return Task(dsn, self._schema(_database(table, rows)), table.name, table.key, folder)

    def drop(self, table: Table, rows: int) -> None:
        """Drop a database that `dsn` made, if it did."""
        database = _database(table, rows)
        if database in self._made:
            self._made.discard(database)
            self._drop(database)

    @abstractmethod
    def declared(self, table: Table, rows: int) -> pa.Schema:
        """Names and Arrow storage types of the table's columns."""

    @abstractmethod
    def durations(self) -> Durations:
        """Where the server writes how long statements ran."""

    @abstractmethod
    def looked_at(self, dsn: str) -> Looks:
        """What the server has looked at until now for others' sessions in the database of `dsn`, all of them over."""

    @abstractmethod
    def server_version(self) -> str:
        """The server's version."""

    @abstractmethod
    def _address(self, database: str) -> str: ...

    @abstractmethod
    def _schema(self, database: str) -> str: ...

    @abstractmethod
    def _make(self, database: str, table: Table, rows: int) -> None: ...

    @abstractmethod
    def _drop(self, database: str) -> None: ...


def _database(table: Table, rows: int) -> str:
    return f"{table.name}_{rows}"


class PostgresStage(Stage):
    """A PostgreSQL server, `server`, that runs."""

    product = POSTGRESQL

    def __init__(self, folder: Path, server: EmbeddedPostgres) -> None:
        super().__init__(folder)
        self.server = server

    def declared(self, table: Table, rows: int) -> pa.Schema:
        """Names and Arrow storage types of the table's columns."""
        with psycopg.connect(self.dsn(table, rows)) as connection:
            return declared_schema(connection, f"{SCHEMA}.{table.name}")

    def durations(self) -> Durations:
        """In the server's log."""
        return Durations(self.server.data / "server.log", re.compile(rb"LOG:  duration: ([\d.]+) ms"), 1e-3)

    def looked_at(self, dsn: str) -> Looks:
        """By the server's statistics, which a session completes when it ends."""
        with psycopg.connect(dsn, autocommit=True) as connection:
            until = time.monotonic() + _END_SECONDS
            while connection.execute(_OTHERS).fetchone() != (0,):
                if time.monotonic() > until:
                    raise DemoError("A session of PostgreSQL did not end.")
                time.sleep(0.01)
            ((entries, blocks),) = connection.execute(_LOOKS).fetchall()
            return Looks(int(entries), int(blocks))

    def server_version(self) -> str:
        """PostgreSQL's version."""
        with psycopg.connect(self.server.dsn()) as connection:
            return str(connection.info.parameter_status("server_version"))

    def _address(self, database: str) -> str:
        return self.server.dsn(database)

    def _schema(self, database: str) -> str:
        return SCHEMA

    def _make(self, database: str, table: Table, rows: int) -> None:
        with psycopg.connect(self.server.dsn(), autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {database}")
        with psycopg.connect(self.server.dsn(database), autocommit=True) as owner:
            make_table(owner, table.script, rows)
            owner.execute("CHECKPOINT")

    def _drop(self, database: str) -> None:
        with psycopg.connect(self.server.dsn(), autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {database} WITH (FORCE)")


@contextmanager
def open_stage() -> Iterator[PostgresStage]:
    """A stage in a temporary folder, which is deleted with everything in it."""
    with tempfile.TemporaryDirectory(prefix="rivet-benchmarks-") as name:
        folder = Path(name)
        server = EmbeddedPostgres(folder / "server", password=secrets.token_hex(16), settings=SETTINGS)
        output = folder / "output"
        output.mkdir()
        try:
            with server:
                yield PostgresStage(output, server)
        finally:
            server.destroy()
