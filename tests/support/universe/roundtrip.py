"""One case through the real pipeline, held against the server's own words."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet as pq

from rivet_dagster.errors import SourceError
from rivet_dagster.export.config import parse_config
from rivet_dagster.export.names import table_folder
from rivet_dagster.export.operations import TableExport
from rivet_dagster.export.runner import WindowOutcome
from rivet_dagster.export.validate import validate_export
from rivet_dagster.sources.typenames import type_name
from tests.support.exports import run_all
from tests.support.readers import part_files, sealed
from tests.support.universe.cases import Case, Facts
from tests.support.universe.parquet import node, parquet_schema
from tests.support.universe.reading import DuckDB, arrow_rows, same_cells
from tests.support.universe.server import (
    Connection,
    Expectation,
    Value,
    connect,
    drop_table,
    expectation,
    make_table,
    prepare,
)


@dataclass
class Workbench:
    """A database with the declared types, and the readers.

    Attributes:
        dsn: address of the database.
        connection: to it.
        facts: what its server can do.
        duckdb: reads parts.
    """

    dsn: str
    connection: Connection
    facts: Facts
    duckdb: DuckDB

    @classmethod
    @contextmanager
    def opened(cls, dsn: str) -> Iterator[Workbench]:
        """The bench on an empty database."""
        with connect(dsn) as connection:
            duckdb = DuckDB()
            try:
                yield cls(dsn, connection, prepare(connection), duckdb)
            finally:
                duckdb.close()


def check(bench: Workbench, case: Case) -> None:
    """Make the case's table, export it in several ways and compare everything; AssertionError where it differs."""
    try:
        make_table(bench.connection, case)
        with tempfile.TemporaryDirectory(prefix="rivet-universe-") as folder:
            _check(bench, case, expectation(bench.connection, case), Path(folder))
    finally:
        drop_table(bench.connection, case)


def _check(bench: Workbench, case: Case, expected: Expectation, folder: Path) -> None:
    if any(expected.refused):
        check_refusals(export_of(bench.dsn, case, folder / "first"), case, expected)
        return
    first = sealed_export(bench, case, folder / "first")
    check_parts(bench, case, expected, first)
    check_seal(case, expected, sealed(first))
    # Other windows, pages, row groups and workers: the same rows.
    other = replace(
        case,
        window_rows=case.window_rows * 2 + 1,
        page_bytes=case.page_bytes * 3,
        row_group_bytes=case.row_group_bytes * 2,
        workers=3 - case.workers,
    )
    second = sealed_export(bench, other, folder / "second")
    assert sealed(second)["row_fingerprint"] == sealed(first)["row_fingerprint"]
    check_change(bench, case, expected, folder, sealed(first)["row_fingerprint"])


def export_of(dsn: str, case: Case, lake: Path) -> TableExport:
    """The case's export."""
    name = ".".join('"' + part.replace('"', '""') + '"' for part in (case.schema, case.table))
    options = {
        column.name: {"type": column.type, "unrepresentable": column.unrepresentable}
        for column in case.columns
        if column.type or column.unrepresentable
    }
    config = parse_config(
        {
            "table": name,
            "windows": {"rows": case.window_rows},
            "limits": {"page_bytes": case.page_bytes},
            "format": {"row_group_bytes": case.row_group_bytes},
            "columns": options,
            "unrepresentable": case.unrepresentable,
        }
    )
    return TableExport(config, dsn, str(lake))


def sealed_export(bench: Workbench, case: Case, lake: Path) -> Path:
    """Export everything; gives the export's folder."""
    export = export_of(bench.dsn, case, lake)
    plan, _ = export.plan()
    for outcome in run_all(export, plan, workers=case.workers):
        if outcome.error is not None:
            raise outcome.error
    export.seal(plan)
    report = validate_export(export.store)
    assert report.ok, report.findings
    return lake / table_folder(case.schema, case.table)


def check_refusals(export: TableExport, case: Case, expected: Expectation) -> None:
    """A window with a refused value fails and names its column; the others are whole."""
    plan, _ = export.plan()
    outcomes = {outcome.window.index: outcome for outcome in run_all(export, plan, workers=case.workers)}
    assert len(outcomes) == -(-len(expected.rows) // case.window_rows)
    for index, outcome in outcomes.items():
        span = slice(index * case.window_rows, (index + 1) * case.window_rows)
        refused = set().union(*expected.refused[span])
        _check_outcome(outcome, refused, len(expected.rows[span]))


def _check_outcome(outcome: WindowOutcome, refused: set[str], rows: int) -> None:
    if not refused:
        assert outcome.error is None, outcome.error
        assert outcome.manifest is not None
        assert outcome.manifest.rows == rows
        return
    assert isinstance(outcome.error, SourceError), outcome.error
    assert outcome.error.code == "RIVET_VALUE_UNSUPPORTED", outcome.error
    assert any(f"Column {name} holds" in outcome.error.what for name in refused), outcome.error
    assert outcome.manifest is None


def check_parts(bench: Workbench, case: Case, expected: Expectation, folder: Path) -> None:
    """Both readers give every row in key order, and the files say what they hold."""
    files = part_files(folder)
    types = [each.canonical for each in expected.readings]
    names = [column.name for column in case.columns]
    for file in files:
        schema = pq.read_schema(file)
        assert schema.names == names
        assert [type_name(kind) for kind in schema.types] == types
        assert [field.nullable for field in schema] == expected.nullable
        assert [(field.metadata or {})[b"rivet.native_type"].decode() for field in schema] == expected.native_types
    for file in files[:1]:
        assert list(map(node, bench.duckdb.schema(file))) == parquet_schema(names, types, expected.nullable)
    _compare("pyarrow", names, types, arrow_rows(files, types), expected.rows, exact=True)
    _compare("DuckDB", names, types, bench.duckdb.rows(files, types), expected.rows, exact=False)


def _compare(
    reader: str,
    names: Sequence[str],
    types: Sequence[str],
    found: Sequence[tuple[Value, ...]],
    expected: Sequence[tuple[Value, ...]],
    *,
    exact: bool,
) -> None:
    assert len(found) == len(expected), f"{reader} reads {len(found)} rows of {len(expected)}"
    if found == expected:
        return
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        for name, kind, cell, wanted in zip(names, types, ours, theirs, strict=True):
            same = cell == wanted if exact else same_cells(kind, cell, wanted)
            assert same, f"{reader} reads {cell!r} for {wanted!r} in row {number} of {name!r} ({kind})"


def check_seal(case: Case, expected: Expectation, seal: dict[str, Any]) -> None:
    """The seal counts rows and replaced values, and names the columns' types."""
    assert seal["rows"] == len(expected.rows)
    assert tuple(seal["key"]) == case.key
    assert [column["type"] for column in seal["columns"]] == [each.canonical for each in expected.readings]
    assert [column["nullable"] for column in seal["columns"]] == expected.nullable
    replaced: Counter[tuple[str, str]] = sum(expected.replaced, Counter())
    assert {(each["column"], each["reason"]): each["values"] for each in seal["replaced"]} == replaced


def check_change(bench: Workbench, case: Case, expected: Expectation, folder: Path, fingerprint: str) -> None:
    """Another value gives another fingerprint, and what reads the same gives the same one."""
    changed = _change(bench, case)
    if not changed:
        return
    after = expectation(bench.connection, case)
    if any(after.refused):
        return
    again = sealed_export(bench, case, folder / "third")
    same = sorted(map(repr, after.rows)) == sorted(map(repr, expected.rows))
    assert (sealed(again)["row_fingerprint"] == fingerprint) == same


def _change(bench: Workbench, case: Case) -> bool:
    """Set one column of one row to a value that stands in another row, or to NULL."""
    table = psycopg.sql.Identifier(case.schema, case.table)
    columns = [column for column in case.columns if column.name not in case.key]
    for column in columns[::-1]:
        value = next((value for value in column.values[1:] if value != column.values[0]), None)
        if value is None and not column.nullable:
            continue
        update = psycopg.sql.SQL("UPDATE {} SET {} = $1::{} WHERE ctid = (SELECT min(ctid) FROM {})").format(
            table,
            psycopg.sql.Identifier(column.name),
            psycopg.sql.SQL(column.declaration),
            table,
        )
        return bench.connection.execute(update, [value]).rowcount > 0
    return False
