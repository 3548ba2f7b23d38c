"""The MariaDB stage: the rows of the PostgreSQL stage's tables, and a table under random binary keys."""

from __future__ import annotations

import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pyarrow as pa
from pymysql.cursors import Cursor

from demo import DemoError
from demo.mariadb import MariaServer
from tests.benchmarks.contender import MARIADB
from tests.benchmarks.declared import mariadb_schema
from tests.benchmarks.stage import TABLES, Durations, Looks, Stage, Table

_SLOW_LOG = "slow.log"

# Nothing but the contender makes work for the server, and what it reads is in memory.
SETTINGS = {
    "innodb-buffer-pool-size": "4G",
    "innodb-log-file-size": "1G",
    "innodb-flush-log-at-trx-commit": "0",
    "innodb-doublewrite": "0",
    "innodb-stats-persistent-sample-pages": "64",
    "default-time-zone": "+00:00",
    "slow-query-log": "1",
    "slow-query-log-file": _SLOW_LOG,
    "long-query-time": "0.005",
}


# Steps to an entry of an index, however it was found.
_ENTRIES = tuple(f"Handler_read_{step}" for step in ("first", "key", "last", "next", "prev"))
_BLOCKS = "Innodb_buffer_pool_read_requests"


@dataclass(frozen=True)
class MariaTable(Table):
    """A table of MariaDB.

    Attributes:
        origin: the rows as PostgreSQL's table of the same name and size gives them, in the order of this table's key;
            `%(file)s` in the script is then their file. Empty where the script makes the rows itself.
    """

    origin: str = ""


_LINEITEM = """
CREATE TABLE lineitem (
    id bigint NOT NULL PRIMARY KEY,
    l_orderkey bigint NOT NULL,
    l_partkey int NOT NULL,
    l_suppkey int NOT NULL,
    l_linenumber int NOT NULL,
    l_quantity decimal(15,2) NOT NULL,
    l_extendedprice decimal(15,2) NOT NULL,
    l_discount decimal(15,2) NOT NULL,
    l_tax decimal(15,2) NOT NULL,
    l_returnflag char(1) NOT NULL,
    l_linestatus char(1) NOT NULL,
    l_shipdate date NOT NULL,
    l_commitdate date NOT NULL,
    l_receiptdate date NOT NULL,
    l_shipinstruct char(25) NOT NULL,
    l_shipmode char(10) NOT NULL,
    l_comment varchar(44) NOT NULL
);
LOAD DATA LOCAL INFILE '%(file)s' INTO TABLE lineitem CHARACTER SET utf8mb4;
"""

# BINARY(16) rather than MariaDB's UUID: MySQL has it too.
_EVENTS = """
CREATE TABLE events (
    id binary(16) NOT NULL PRIMARY KEY,
    at timestamp(6) NOT NULL,
    local datetime(6),
    kind varchar(16) NOT NULL,
    payload json,
    note text,
    amount decimal(38,10),
    ratio double,
    score float,
    flag boolean,
    raw blob,
    small smallint
);
LOAD DATA LOCAL INFILE '%(file)s' INTO TABLE events CHARACTER SET utf8mb4
(@id, at, local, kind, payload, note, amount, ratio, score, flag, @raw, small)
SET id = unhex(@id), raw = unhex(@raw);
"""

_EVENTS_ORIGIN = """
SELECT replace(id::text, '-', ''), at AT TIME ZONE 'UTC', local, kind, payload, note, amount, ratio, score, flag::int,
       encode(raw, 'hex'), small
  FROM public.events ORDER BY id
"""

# Digests in place of random numbers: the same rows in every run.
_UUID_KEYS = """
CREATE TABLE uuid_keys (
    id binary(16) NOT NULL PRIMARY KEY,
    account bigint NOT NULL,
    at datetime(6) NOT NULL,
    kind varchar(16) NOT NULL,
    amount decimal(18,4),
    path varchar(64) NOT NULL
);
INSERT INTO uuid_keys
SELECT unhex(md5(seq)), seq %% 100000, '2024-01-01' + INTERVAL seq * 1.000001 SECOND,
       elt(seq %% 4 + 1, 'click', 'view', 'purchase', 'refund'), if(seq %% 5, seq * 1.2345, NULL),
       concat('/p/', md5(seq + 1))
  FROM seq_1_to_%(rows)s;
"""

MARIADB_TABLES = {
    table.name: table
    for table in (
        MariaTable(
            "lineitem",
            _LINEITEM,
            "id",
            TABLES["lineitem"].rows,
            "17 columns: integers, decimal(15,2), dates, short texts",
            origin="SELECT * FROM public.lineitem ORDER BY id",
        ),
        MariaTable(
            "events",
            _EVENTS,
            "id",
            TABLES["events"].rows,
            "12 columns: binary(16), json, blob, timestamps, decimal(38,10), NULLs",
            origin=_EVENTS_ORIGIN,
        ),
    )
}

UUID_ROWS = 5_000_000
UUID_KEYS = MariaTable("uuid_keys", _UUID_KEYS, "id", UUID_ROWS, "a random binary(16) as primary key, 5 columns more")


class MariaStage(Stage):
    """A MariaDB server, `server`, that runs; `origin` makes the rows of its tables."""

    product = MARIADB

    def __init__(self, folder: Path, server: MariaServer, origin: Stage) -> None:
        super().__init__(folder)
        self.server = server
        self._origin = origin

    def declared(self, table: Table, rows: int) -> pa.Schema:
        """Names and Arrow storage types of the table's columns."""
        task = self.task(table, rows, self.folder)
        with self.server.connect() as connection:
            return mariadb_schema(connection, task.schema, table.name)

    def durations(self) -> Durations:
        """In the log of slow statements, which lies beside the databases."""
        return Durations(self.server.data / "cluster" / _SLOW_LOG, re.compile(rb"# Query_time: ([\d.]+)"), 1.0)

    def looked_at(self, dsn: str) -> Looks:
        """By the server's counters, of all databases."""
        with self.server.connect() as connection, connection.cursor() as cursor:
            cursor.execute("SHOW GLOBAL STATUS WHERE Variable_name IN %s", [(*_ENTRIES, _BLOCKS)])
            found = {name: int(value) for name, value in cursor.fetchall()}
        return Looks(sum(found[name] for name in _ENTRIES), found[_BLOCKS])

    def server_version(self) -> str:
        """MariaDB's version."""
        with self.server.connect() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT version()")
            return str(cursor.fetchall()[0][0]).partition("-")[0]

    def _address(self, database: str) -> str:
        return self.server.dsn(database)

    def _schema(self, database: str) -> str:
        return database

    def _make(self, database: str, table: Table, rows: int) -> None:
        assert isinstance(table, MariaTable)
        with self.server.connect(local_infile=True) as admin, admin.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {database} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
            cursor.execute(f"USE {database}")
            # With these, rows for an empty table are sorted and written in bulk.
            cursor.execute("SET unique_checks = 0, foreign_key_checks = 0")
            with self._rows_of(table, rows) as file:
                for statement in table.script.split(";\n"):
                    if statement.strip():
                        found = cursor.execute(statement % {"rows": rows, "file": file})
                        _refuse_warnings(cursor, table)
            if found != rows:
                raise DemoError(f"MariaDB took {found:,} rows of {table.name} rather than {rows:,}.")
            cursor.execute(f"ANALYZE TABLE {table.name}")
            # Writes what is only in memory, so that it is not written while contenders run.
            cursor.execute(f"FLUSH TABLES {table.name} FOR EXPORT")
            cursor.execute("UNLOCK TABLES")

    @contextmanager
    def _rows_of(self, table: MariaTable, rows: int) -> Iterator[str]:
        """Name of a file with the rows that PostgreSQL has, for as long as the context lasts."""
        if not table.origin:
            yield ""
            return
        dsn = self._origin.dsn(TABLES[table.name], rows)
        with tempfile.NamedTemporaryFile(dir=self.folder) as file:
            # PostgreSQL's own text format is what LOAD DATA reads without further options.
            query = f"COPY ({table.origin}) TO STDOUT"
            with psycopg.connect(dsn) as connection, connection.cursor() as cursor, cursor.copy(query) as copy:
                file.writelines(copy)
            file.flush()
            yield file.name

    def _drop(self, database: str) -> None:
        with self.server.connect() as admin, admin.cursor() as cursor:
            cursor.execute(f"DROP DATABASE {database}")


def _refuse_warnings(cursor: Cursor, table: Table) -> None:
    """LOAD DATA LOCAL bends a value that does not fit, and only warns."""
    if cursor.execute("SHOW WARNINGS"):
        _, _, first = cursor.fetchall()[0]
        raise DemoError(f"MariaDB would change values of {table.name}: {first}.")


@contextmanager
def open_mariadb(origin: Stage) -> Iterator[MariaStage]:
    """A stage in a temporary folder, which is deleted with everything in it.

    Raises:
        MariaError: MariaDB's programs are missing, or the server does not start.
    """
    with tempfile.TemporaryDirectory(prefix="rivet-benchmarks-") as name:
        server = MariaServer(Path(name) / "server", password=secrets.token_hex(16), settings=SETTINGS)
        try:
            with server:
                yield MariaStage(origin.folder, server, origin)
        finally:
            server.destroy()
