"""One case through the real pipeline, held against the server's own words."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow.parquet as pq

from rivet_dagster.errors import SourceError
from rivet_dagster.export import reading
from rivet_dagster.export.config import parse_config
from rivet_dagster.export.names import table_folder
from rivet_dagster.export.operations import TableExport
from rivet_dagster.export.servo import PageServo
from rivet_dagster.export.validate import validate_export
from rivet_dagster.export.workers import WindowOutcome
from rivet_dagster.sources.typenames import type_name
from tests.support.exports import run_all
from tests.support.readers import part_files, sealed
from tests.support.universe.cases import Case
from tests.support.universe.csvparts import csv_rows
from tests.support.universe.engine import Engine
from tests.support.universe.expected import Expectation, Value
from tests.support.universe.parquet import node, parquet_schema
from tests.support.universe.reading import DuckDB, arrow_rows, same_cells


@dataclass
class Workbench:
    """A server and the readers.

    Attributes:
        engine: the server.
        duckdb: reads parts.
    """

    engine: Engine
    duckdb: DuckDB

    @classmethod
    @contextmanager
    def opened(cls, engine: Engine) -> Iterator[Workbench]:
        """The bench of a server."""
        duckdb = DuckDB()
        try:
            yield cls(engine, duckdb)
        finally:
            duckdb.close()


def check(bench: Workbench, case: Case) -> None:
    """Make the case's table, export it in several ways and compare everything; AssertionError where it differs."""
    try:
        bench.engine.make_table(case)
        with tempfile.TemporaryDirectory(prefix="rivet-universe-") as folder:
            _check(bench, case, bench.engine.expectation(case), Path(folder))
    finally:
        bench.engine.drop_table(case)


def _check(bench: Workbench, case: Case, expected: Expectation, folder: Path) -> None:
    if any(expected.refused):
        check_refusals(export_of(bench.engine.dsn, case, folder / "first"), case, expected)
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
    second = sealed_export(bench, other, folder / "second", servo=FewRows)
    assert sealed(second)["row_fingerprint"] == sealed(first)["row_fingerprint"]
    check_csv(bench, case, expected, folder / "csv", sealed(first)["row_fingerprint"])
    check_change(bench, case, expected, folder, sealed(first)["row_fingerprint"])


def export_of(dsn: str, case: Case, lake: Path, kind: str = "parquet") -> TableExport:
    """The case's export, in a format."""
    name = ".".join('"' + part.replace('"', '""') + '"' for part in (case.schema, case.table))
    options = {
        column.name: {"type": column.type, "unrepresentable": column.unrepresentable}
        for column in case.columns
        if column.type or column.unrepresentable
    }
    config = parse_config(
        {
            "table": name,
            "windows": {"rows": case.window_rows} if case.key else {"type": "full"},
            "limits": {"page_bytes": case.page_bytes},
            "format": {"type": kind, "row_group_bytes": case.row_group_bytes},
            "columns": options,
            "unrepresentable": case.unrepresentable,
        }
    )
    return TableExport(config, dsn, str(lake))


class FewRows(PageServo):
    """Pages of three rows, so that keys of every type bound pages."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._rows = 3

    def observe(self, asked: int, rows: int, wire_bytes: int, seconds: float) -> None:
        """Learn nothing."""


def sealed_export(
    bench: Workbench, case: Case, lake: Path, kind: str = "parquet", servo: type[PageServo] = PageServo
) -> Path:
    """Export everything; gives the export's folder."""
    export = export_of(bench.engine.dsn, case, lake, kind)
    plan, _ = export.plan()
    with mock.patch.object(reading, "PageServo", servo):
        outcomes = run_all(export, plan, workers=case.workers)
    for outcome in outcomes:
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
    rows = case.window_rows if case.key else len(expected.rows)
    assert len(outcomes) == -(-len(expected.rows) // rows)
    for index, outcome in outcomes.items():
        span = slice(index * rows, (index + 1) * rows)
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
    found = arrow_rows(files, types)
    # Without a key rows have no order, except that both readers see the same one.
    rows = found if not case.key and same_multiset(found, expected.rows) else expected.rows
    _compare("pyarrow", names, types, found, rows, exact=True)
    _compare("DuckDB", names, types, bench.duckdb.rows(files, types), rows, exact=False)


def same_multiset(found: Sequence[tuple[Value, ...]], expected: Sequence[tuple[Value, ...]]) -> bool:
    """Whether they are the same rows, in any order."""
    return Counter(map(repr, found)) == Counter(map(repr, expected))


def check_csv(bench: Workbench, case: Case, expected: Expectation, lake: Path, fingerprint: str) -> None:
    """CSV parts hold the same rows, and say so."""
    folder = sealed_export(bench, case, lake, "csv")
    assert sealed(folder)["row_fingerprint"] == fingerprint
    check_seal(case, expected, sealed(folder))
    types = [each.canonical for each in expected.readings]
    names = [column.name for column in case.columns]
    found = csv_rows(part_files(folder), names, types)
    rows = found if not case.key and same_multiset(found, expected.rows) else expected.rows
    _compare("a reader of CSV", names, types, found, rows, exact=True)


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
    if not bench.engine.change(case):
        return
    after = bench.engine.expectation(case)
    if any(after.refused):
        return
    again = sealed_export(bench, case, folder / "third")
    same = same_multiset(after.rows, expected.rows)
    assert (sealed(again)["row_fingerprint"] == fingerprint) == same
