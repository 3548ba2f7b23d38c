"""What crashes are tried on: a table in two states on each server, its exports, and what may be seen of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psycopg

from demo.mariadb import MariaServer
from demo.postgres import EmbeddedPostgres
from rivet_dagster import open_export
from rivet_dagster.errors import PlanError
from tests.crash.forking import Forking
from tests.support.cli import Result
from tests.support.readers import Row, tree

State = Literal["old", "new"]

WINDOWS: dict[str, dict[str, Any]] = {
    "keyset": {"type": "keyset", "rows": 300},
    "time": {"type": "time", "column": "moment", "start": "2024-01-01", "end": "2024-01-07"},
    "cursor": {"type": "cursor", "column": "moment", "rows": 300},
}
"""Five windows each of the old state, of two pages each; the new one has more, but of `time`."""

# In the new state rows are other rows, are gone, have moved to the end of time, and have come.
_STATEMENTS = (
    "CREATE TABLE orders (id int PRIMARY KEY, moment {timestamp} NOT NULL, note text)",
    "CREATE INDEX orders_moment ON orders (moment)",
    "CREATE TABLE orders_old (id int PRIMARY KEY, moment {timestamp} NOT NULL, note text)",
    "CREATE TABLE orders_new (id int PRIMARY KEY, moment {timestamp} NOT NULL, note text)",
    "INSERT INTO orders_new SELECT n, {moment}, {note} FROM {numbers} WHERE n <= 1700",
    "INSERT INTO orders_old SELECT * FROM orders_new WHERE id <= 1500",
    "UPDATE orders_new SET note = 'changed' WHERE id % 7 = 0",
    "UPDATE orders_new SET moment = {latest} WHERE id % 150 = 0",
    "DELETE FROM orders_new WHERE id BETWEEN 301 AND 340",
)
_DIALECTS = {
    "postgresql": {
        "timestamp": "timestamp",
        "moment": "timestamp '2024-01-01' + n * interval '270 seconds'",
        "note": "'order ' || n",
        "latest": "timestamp '2024-01-06 12:00' + id * interval '1 second'",
        "numbers": "generate_series(1, 1700) AS n",
    },
    "mariadb": {
        "timestamp": "datetime(6)",
        "moment": "timestamp'2024-01-01 00:00:00' + INTERVAL n * 270 SECOND",
        "note": "concat('order ', n)",
        "latest": "timestamp'2024-01-06 12:00:00' + INTERVAL id SECOND",
        "numbers": "(SELECT seq AS n FROM seq_1_to_1700) AS numbers",
    },
}


@dataclass
class Source:
    """The table on one server, in one of its states."""

    name: str
    dsn: str
    table: str
    execute: Callable[[str], list[Row]]
    state: State | None = None
    rows: dict[State, list[Row]] = field(default_factory=dict)

    def prepare(self) -> None:
        """Make the table and both of its states."""
        for statement in _STATEMENTS:
            self.execute(statement.format(**_DIALECTS[self.name]))
        for state in ("old", "new"):
            self.rows[state] = self.execute(f"SELECT * FROM orders_{state} ORDER BY id")
        assert self.rows["old"] != self.rows["new"]

    def switch(self, state: State) -> None:
        """Let the table have the rows of a state."""
        if self.state != state:
            self.execute("DELETE FROM orders")
            self.execute(f"INSERT INTO orders SELECT * FROM orders_{state}")
            self.state = state


@contextmanager
def postgresql_source(server: EmbeddedPostgres, database: str) -> Iterator[Source]:
    """The table on PostgreSQL, read by psycopg."""
    with psycopg.connect(server.dsn(database), autocommit=True) as connection:

        def execute(statement: str) -> list[Row]:
            cursor = connection.execute(statement)  # type: ignore[call-overload]
            return list(cursor.fetchall()) if cursor.description else []

        source = Source("postgresql", server.dsn(database), "public.orders", execute)
        source.prepare()
        yield source


@contextmanager
def mariadb_source(server: MariaServer, database: str) -> Iterator[Source]:
    """The table on MariaDB, read by PyMySQL."""
    with server.connect() as admin, admin.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {database}")
        with server.connect(database) as connection:

            def execute(statement: str) -> list[Row]:
                with connection.cursor() as cursor:
                    cursor.execute(statement)
                    return list(cursor.fetchall())

            source = Source("mariadb", server.dsn(database), f"{database}.orders", execute)
            source.prepare()
            yield source
        cursor.execute(f"DROP DATABASE {database}")


@dataclass
class Trial:
    """An export of the table in a folder of its own, with a spool of its own."""

    forking: Forking
    source: Source
    windows: str
    lake: Path

    @property
    def folder(self) -> Path:
        """The export's folder."""
        return self.lake / "lake" / self.source.table

    @property
    def spool(self) -> Path:
        """Where parts grow."""
        return self.lake / "spool"

    def copy(self, lake: Path) -> Trial:
        """The same export, as far as it is, in another folder."""
        shutil.copytree(self.lake, lake)
        return Trial(self.forking, self.source, self.windows, lake)

    def export(self, *options: str, fault: str = "", kill_after: float | None = None) -> Result:
        """Run the command line once, with a fault that happens once in all of its processes."""
        arguments = ["--source", self.source.dsn, "--table", self.source.table, "--to", str(self.lake / "lake")]
        arguments += ["--windows", json.dumps(WINDOWS[self.windows]), "--json", *options]
        return self._run("export", *arguments, fault=fault, kill_after=kill_after)

    def clean(self, fault: str = "") -> Result:
        """Remove what is superseded, as if the grace time were over."""
        return self._run("clean", str(self.folder), fault=fault)

    def _run(self, *arguments: str, fault: str, kill_after: float | None = None) -> Result:
        self.lake.mkdir(exist_ok=True)
        once = self.lake / "once"
        once.unlink(missing_ok=True)
        env = {"RIVET_FAULT": fault, "RIVET_FAULT_ONCE": str(once), "RIVET_SPOOL_DIR": str(self.spool)}
        return self.forking.run(*arguments, env=env, kill_after=kill_after)

    @property
    def faulted(self) -> bool:
        """Whether the last command came to its fault."""
        return (self.lake / "once").exists()

    def committed(self) -> int | None:
        """How many windows the unfinished export has committed; None if none is unfinished."""
        marker = self.folder / "work.json"
        if not marker.exists():
            return None
        work_id = json.loads(marker.read_text())["work_id"]
        return sum(json.loads(path.read_text())["work_id"] == work_id for path in self.folder.glob("g1/windows/*.json"))

    def seen(self) -> tuple[str, State] | None:
        """What a reader finds: the seal's id, and the state whose rows it holds; None before the first seal."""
        try:
            export = open_export(self.folder)
        except PlanError as exc:
            if exc.code != "RIVET_EXPORT_UNSEALED":
                raise
            return None
        found = rows_of(export)
        assert len(found) == export.rows
        states = [state for state, rows in self.source.rows.items() if rows == found]
        assert len(states) == 1, "the seal's rows are those of no state of the table"
        return export.seal_id, states[0]

    def files(self) -> dict[str, Any]:
        """Every file: its bytes, or of a window's manifest what does not depend on the moment."""
        return {name: (_lasting(data) if "/windows/" in name else data) for name, data in tree(self.folder).items()}


def rows_of(export: Any) -> list[Row]:
    """The rows that an open export shows, by their key."""
    table = export.dataset().to_table().sort_by("id")
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def _lasting(manifest: bytes) -> dict[str, Any]:
    passing = ("work_id", "read_at", "snapshot", "statistics")
    return {name: value for name, value in json.loads(manifest).items() if name not in passing}
