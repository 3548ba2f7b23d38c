"""`make demo`, and what it leaves: five sealed tables that hold exactly the rows of the source, on either database."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pymysql
import pytest

from demo.data import TABLES
from tests.support.cli import rivet
from tests.support.readers import Row, assert_same, exported_rows, sealed, source_rows

pytestmark = pytest.mark.timeout(420)

ROOT = Path(__file__).parents[2]

KEYS = {
    "airlines": "carrier",
    "airports": "faa",
    "planes": "tailnum",
    "weather": "origin,time_hour",
    "flights": "time_hour,carrier,flight",
}

STAGE = """
from demo.stage import open_stage
with open_stage() as stage:
    print(stage.environment["RIVET_DEMO_DSN"], flush=True)
    input()
"""


@dataclass(frozen=True)
class Demo:
    """The demo on one database, run from a folder that both databases share."""

    engine: str
    schema: str
    folder: Path

    @property
    def lake(self) -> Path:
        own = self.folder if self.engine == "postgres" else self.folder / self.engine
        return own / "lake"

    @property
    def environment(self) -> dict[str, str]:
        own = {"RIVET_DEMO_FOLDER": str(self.folder), "DEMO_ENGINE": self.engine, "COLUMNS": "100"}
        return {**os.environ, **own}

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "demo.run"],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @contextmanager
    def stage(self) -> Iterator[str]:
        """The running database with its tables; gives the address under which the demo exports."""
        stage = subprocess.Popen(
            [sys.executable, "-c", STAGE],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert stage.stdin is not None
        assert stage.stdout is not None
        try:
            yield stage.stdout.readline().strip()
        finally:
            stage.communicate("\n", timeout=60)

    def rows(self, dsn: str, table: str) -> list[Row]:
        """All rows of a table in key order, by the database's own driver."""
        if self.engine == "postgres":
            return source_rows(dsn, f"{self.schema}.{table}", KEYS[table])
        return mariadb_rows(dsn, table, KEYS[table])


def mariadb_rows(dsn: str, table: str, key: str) -> list[Row]:
    """All rows of a table in key order, by PyMySQL; times with the zone that PyMySQL leaves out."""
    url = urlsplit(dsn)
    with (
        pymysql.connect(
            host=url.hostname,
            port=url.port or 0,
            user=url.username,
            password=unquote(url.password or ""),
            database=url.path[1:],
            init_command="SET time_zone = '+00:00'",
        ) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(f"SELECT * FROM {table} ORDER BY {key}")
        return [
            tuple(cell.replace(tzinfo=timezone.utc) if isinstance(cell, datetime) else cell for cell in row)
            for row in cursor.fetchall()
        ]


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Demo]]:
    folder = tmp_path_factory.mktemp("demos") / "demo"
    yield {
        "postgres": Demo("postgres", "public", folder),
        "mariadb": Demo("mariadb", "nycflights", folder),
        "oracle": Demo("oracle", "", folder),
    }
    for server in (folder / "postgres", folder / "mariadb" / "mariadb"):
        shutil.rmtree(server.resolve(), ignore_errors=True)  # root's servers live behind links, elsewhere


@pytest.fixture(scope="module")
def runs(demos: dict[str, Demo]) -> dict[str, tuple[int, str, str]]:
    """Exit code, output and errors of the demos, which run side by side."""
    started = {name: demo.start() for name, demo in demos.items()}
    printed = {name: process.communicate() for name, process in started.items()}
    return {name: (process.returncode, *printed[name]) for name, process in started.items()}


def test_both_databases_hold_the_same_rows(demos: dict[str, Demo]) -> None:
    postgres, mariadb = demos["postgres"], demos["mariadb"]
    with postgres.stage() as first, mariadb.stage() as second:
        for table in TABLES:
            rows = mariadb.rows(second, table.name)
            assert len(rows) == table.rows
            assert_same(rows, postgres.rows(first, table.name))
            # MariaDB takes such blanks away from char(n), so the databases would differ where the data had any.
            assert not any(isinstance(cell, str) and cell.endswith(" ") for row in rows for cell in row)


@pytest.mark.parametrize(
    ("engine", "title", "ui"),
    [("postgres", "PostgreSQL", "make ui"), ("mariadb", "MariaDB", "make ui DEMO_ENGINE=mariadb")],
)
def test_the_demo_exports_exactly_the_rows_of_its_tables(
    demos: dict[str, Demo], runs: dict[str, tuple[int, str, str]], engine: str, title: str, ui: str
) -> None:
    code, printed, errors = runs[engine]
    assert code == 0, printed + errors
    assert errors == ""
    demo = demos[engine]
    for text in (f"Start {title} and load five tables", "336,776", f"{ui}\n", os.path.relpath(demo.lake, ROOT)):
        assert text in printed
    with demo.stage() as dsn:
        for table in TABLES:
            export = demo.lake / f"{demo.schema}.{table.name}"
            assert ",".join(sealed(export)["key"]) == KEYS[table.name]
            assert_same(exported_rows(export), demo.rows(dsn, table.name))
            assert rivet("validate", str(export)).code == 0


def test_the_row_fingerprints_are_the_same_on_both_databases(
    demos: dict[str, Demo], runs: dict[str, tuple[int, str, str]]
) -> None:
    """Those of all five tables: their rows are equal, and so are their Arrow types; both read char(n) as text."""
    assert [runs[engine][0] for engine in ("postgres", "mariadb")] == [0, 0]
    for table in TABLES:
        ours, theirs = (
            sealed(demo.lake / f"{demo.schema}.{table.name}") for demo in (demos["mariadb"], demos["postgres"])
        )
        assert ours["rows"] == table.rows
        assert ours["row_fingerprint"] == theirs["row_fingerprint"], table.name


def test_an_unknown_database_is_refused(runs: dict[str, tuple[int, str, str]]) -> None:
    code, printed, errors = runs["oracle"]
    assert code == 1
    assert "DEMO_ENGINE is 'oracle', and the demo runs on one of: postgres, mariadb." in printed
    assert errors == ""
