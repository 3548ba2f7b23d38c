"""Equal rows have equal fingerprints under the major version of pyarrow before this one, which `make test` installs."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import strategies as st
from pymysql.connections import Connection

from rivet_dagster.export.names import table_folder
from rivet_dagster.export.validate import validate_export
from rivet_dagster.stores import open_store
from tests.support.exports import export_all
from tests.support.universe.cases import Case, CaseColumn
from tests.support.universe.engine import Engine
from tests.support.universe.mysql import kinds as mysql
from tests.support.universe.mysql.server import Mysql
from tests.support.universe.mysql.values import RAW
from tests.support.universe.postgres import kinds as postgres
from tests.support.universe.postgres.server import Postgres
from tests.support.universe.postgres.values import array_of
from tests.support.universe.roundtrip import export_of
from tests.support.universe.tier import random_cases

ROOT = Path(__file__).parents[2]
PREVIOUS = Path(sys.prefix) / "previous-pyarrow"
ROWS = 40


def drawn(values: st.SearchStrategy[str], number: int) -> tuple[str | None, ...]:
    """The same five values in every run, and NULL."""
    (found,) = random_cases(st.lists(values, min_size=5, max_size=5), number, 1)
    return (*found, None)


def postgres_columns() -> Iterator[CaseColumn]:
    """A column of every kind of type, and one of its arrays."""
    for number, (name, kind) in enumerate(postgres.KINDS.items()):
        if kind.xml:
            continue  # the server of the wheel is built without libxml
        (declared,) = random_cases(kind.declared, number, 1)
        values = drawn(postgres.literals(name, declared), number)
        yield CaseColumn(f"c{number}", name, declared, False, True, values, unrepresentable="null")
        arrays = (array_of(values, kind.delimiter), "{}", None, array_of(values[:1], kind.delimiter))
        yield CaseColumn(f"a{number}", name, declared, True, True, arrays, unrepresentable="null")
    parts = postgres.KINDS["interval"].values
    yield CaseColumn("parts", "interval", "interval", False, True, drawn(parts, 0), "interval", "null")


def mysql_columns() -> Iterator[CaseColumn]:
    """A column of every kind of type."""
    r = random.Random(1)
    for number, (name, kind) in enumerate(mysql.KINDS.items()):
        declared = kind.declared(r)
        values = kind.values(declared).filter(lambda text: not text.startswith(RAW))
        yield CaseColumn(f"c{number}", name, declared, False, True, drawn(values, number), unrepresentable="null")


@pytest.fixture
def newest(dsn: str) -> Iterator[tuple[Engine, tuple[CaseColumn, ...]]]:
    with Postgres.opened(dsn) as engine:
        yield engine, tuple(postgres_columns())


@pytest.fixture
def maria(mysql_dsn: str, mysql_database: Connection[Any]) -> Iterator[tuple[Engine, tuple[CaseColumn, ...]]]:
    with Mysql.opened(mysql_dsn, mysql_database) as engine:
        yield engine, tuple(mysql_columns())


def exported_by_the_previous(engine: Engine, case: Case, folder: Path) -> str:
    """Export in a process with the other pyarrow; gives its version."""
    file = folder / "case.json"
    file.write_text(case.to_json())
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.universe.child", engine.dsn, str(file), str(folder / "previous")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(PREVIOUS)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def said_of_rows(folder: Path) -> list[Any]:
    """What manifests say of the rows of each window, and of each column of each part."""
    manifests = [json.loads(path.read_text()) for path in sorted((folder / "g1/windows").iterdir())]
    return [
        (
            each["key"],
            each["rows"],
            each["row_fingerprint"],
            [(part["rows"], part["columns"]) for part in each["parts"]],
        )
        for each in manifests
    ]


@pytest.mark.parametrize("server", ["newest", "maria"])
def test_rows_of_every_type_have_the_same_fingerprints(
    server: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    assert PREVIOUS.is_dir(), "make test installs it"
    engine, columns = request.getfixturevalue(server)
    key = engine.plain_key(ROWS)
    case = Case(engine.plain_schema, "every_type", (key, *columns), (key.name,), ROWS, 15, workers=2)
    engine.make_table(case)
    present = export_of(engine.dsn, case, tmp_path / "present")
    export_all(present)
    version = exported_by_the_previous(engine, case, tmp_path)
    assert int(version.split(".")[0]) == int(pa.__version__.split(".")[0]) - 1
    folder = table_folder(case.schema, case.table)
    found = said_of_rows(tmp_path / "present" / folder)
    assert found == said_of_rows(tmp_path / "previous" / folder)
    assert [rows for _, rows, *_ in found] == [15, 15, 10]
    for _, _, _, parts in found:
        assert {len(checksums) for _, checksums in parts} == {len(case.columns)}
    # The present one reads the same rows out of the files of the other.
    report = validate_export(open_store(str(tmp_path / "previous" / folder)))
    assert (report.ok, report.parts_read) == (True, 3), report.findings
