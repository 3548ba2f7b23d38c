"""What a contender is: a way from a table to Parquet files, or to nothing where only the reading is measured."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# About what 16 MiB of the benchmark's rows are. Every writer that can be told gets this size.
ROW_GROUP_ROWS = 100_000
ROW_GROUP_BYTES = 16 << 20
ZSTD_LEVEL = 1

# What makes an object of every value would take minutes for the largest table.
MOST_ROWS_OF_OBJECTS = 1_000_000

# The servers, as the report calls them.
POSTGRESQL = "PostgreSQL"
MARIADB = "MariaDB"


class Unavailable(Exception):
    """A contender cannot run here; the message says why."""


@dataclass(frozen=True)
class Task:
    """What a contender has to do.

    Attributes:
        dsn: address of the database.
        schema, table: the table, without quotes; with MariaDB, `schema` is the database.
        key: its key, a single column.
        folder: empty folder for the files.
    """

    dsn: str
    schema: str
    table: str
    key: str
    folder: Path

    @property
    def relation(self) -> str:
        """`schema.table`."""
        return f"{self.schema}.{self.table}"


Facts = dict[str, Any]
"""What only the contender itself knows of its work. `rows` is expected of those that write no files."""

Work = Callable[[], Facts]


@dataclass(frozen=True)
class Contender:
    """One way to read a table.

    Attributes:
        name: for `--only`.
        title: for the tables.
        packages: distributions that it is made of, as pip names them; where one is missing, it is not installed.
        load: imports and prepares everything, and gives the work. What follows is measured against this moment.
        writes: whether it leaves Parquet files in the task's folder.
        program: another program does the work, which this process starts and waits for.
        workers: connections that it reads with at the same time, where it has a say in that.
        overlay: its packages cannot be installed beside the project's own: they are looked for in a folder of this
            name below the one for overlays as well.
        servers: that it reads from.
        most_rows: it takes so long that it gets at most this many rows, and its figures are scaled; None for no limit.
    """

    name: str
    title: str
    packages: tuple[str, ...]
    load: Callable[[Task], Work] = field(repr=False)
    writes: bool = True
    program: bool = False
    workers: int = 1
    overlay: str | None = None
    servers: tuple[str, ...] = (POSTGRESQL,)
    most_rows: int | None = None

    def versions(self) -> dict[str, str]:
        """Versions of its packages by name; Unavailable where one is missing."""
        found = {}
        for package in self.packages:
            try:
                found[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                raise Unavailable(f"not installed: {package}") from None
        return found
