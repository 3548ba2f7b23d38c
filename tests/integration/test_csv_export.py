"""Exports as CSV from a real server, read back with DuckDB and compared with what psycopg reads from the source."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest

from rivet_dagster.errors import IntegrityError
from rivet_dagster.export.documents import ExportManifest, Part
from rivet_dagster.export.names import MANIFEST, SUCCESS, table_folder
from rivet_dagster.export.operations import TableExport
from rivet_dagster.export.seal import seal_in_force, success_bytes
from rivet_dagster.export.validate import validate_export
from rivet_dagster.formats import csv as csv_format
from rivet_dagster.sources.postgres.reader import PostgresWindowReader
from rivet_dagster.sources.postgres.session import PostgresSession
from tests.support.cli import rivet
from tests.support.exports import export_all, prepared, run_all
from tests.support.readers import Row, assert_same, part_files, sealed, source_rows, tree
from tests.support.tables import EVENTS, make_table

Sql = Callable[[str], list[tuple[Any, ...]]]

# Each type's type in DuckDB, and what the query then makes of it.
DUCKDB = {
    "bool": "BOOLEAN",
    "int16": "SMALLINT",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "float32": "FLOAT",
    "float64": "DOUBLE",
    "decimal(38, 10)": "DECIMAL(38, 10)",
    "timestamp(us)": "TIMESTAMP",
    "timestamp(us, UTC)": "TIMESTAMPTZ",
    "uuid": "UUID",
    "text": "VARCHAR",
    "json": "VARCHAR",
    "binary": "VARCHAR",
    "list(text)": "JSON",
    "list(int64)": "JSON",
}
SELECTED = {
    "binary": "unhex({})",
    "list(text)": "from_json({}, '[\"VARCHAR\"]')",
    "list(int64)": "from_json({}, '[\"BIGINT\"]')",
}


def csv_rows(folder: Path) -> list[Row]:
    """All rows of a sealed export in the order of its parts, by the options that the how-to page gives."""
    columns = sealed(folder)["columns"]
    types = {column["name"]: DUCKDB[column["type"]] for column in columns}
    quoted = ['"' + name.replace('"', '""') + '"' for name in types]
    selected = ", ".join(
        SELECTED.get(column["type"], "{}").format(name) for column, name in zip(columns, quoted, strict=True)
    )
    rows: list[Row] = []
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for file in part_files(folder):
            rows += connection.execute(
                f"SELECT {selected} FROM read_csv(?, columns = ?, auto_detect = false, header = true, delim = ',',"
                " quote = '\"', escape = '\"', nullstr = '', allow_quoted_nulls = false, hive_partitioning = false)",
                [str(file), types],
            ).fetchall()
    return rows


def csv_export(dsn: str, lake: Path, table: str, compression: str = "gzip", **config: Any) -> TableExport:
    return prepared(dsn, lake, table, format={"type": "csv", "compression": compression}, **config)


@pytest.mark.parametrize(("compression", "suffix"), [("none", "csv"), ("gzip", "csv.gz"), ("zstd", "csv.zst")])
def test_csv_parts_hold_the_rows_of_the_table(
    dsn: str, database: psycopg.Connection[Any], lake: Path, compression: str, suffix: str
) -> None:
    make_table(database, EVENTS, 12_000)
    export = csv_export(dsn, lake, "public.events", compression, rows=5_000)
    export_all(export)
    folder = lake / "public.events"
    assert [path.name.partition(".")[2] for path in part_files(folder)] == [suffix] * 3
    assert_same(csv_rows(folder), source_rows(dsn, "public.events", "id"))
    report = validate_export(export.store)
    assert (report.ok, report.rows, report.parts) == (True, 12_000, 3)


def test_lists_come_back_element_by_element(dsn: str, sql: Sql, lake: Path) -> None:
    sql("CREATE TABLE public.lists (id int PRIMARY KEY, words text[], numbers bigint[])")
    sql(
        "INSERT INTO public.lists VALUES (1, NULL, NULL), (2, '{}', '{}'), (3, '{NULL}', '{NULL}'),"
        " (4, ARRAY['', 'NULL', 'a\"b', E'c\\\\d', E'e\\nf\\t\\x01', 'ü,', ']'], '{9223372036854775807,-1,NULL}')"
    )
    export_all(csv_export(dsn, lake, "public.lists"))
    assert csv_rows(lake / "public.lists") == sql("SELECT * FROM public.lists ORDER BY id")


def test_the_row_fingerprint_does_not_depend_on_the_format(
    dsn: str, database: psycopg.Connection[Any], lake: Path
) -> None:
    make_table(database, EVENTS, 2_000)
    export_all(csv_export(dsn, lake / "csv", "public.events"))
    export_all(prepared(dsn, lake / "parquet", "public.events"))
    as_csv, as_parquet = (sealed(lake / kind / "public.events") for kind in ("csv", "parquet"))
    assert as_csv["row_fingerprint"] == as_parquet["row_fingerprint"]
    assert as_csv["columns"] == as_parquet["columns"]


def test_exporting_again_gives_the_same_files(dsn: str, database: psycopg.Connection[Any], lake: Path) -> None:
    make_table(database, EVENTS, 3_000)
    for number, workers in enumerate((1, 2)):
        export = csv_export(dsn, lake / str(number), "public.events", rows=700)
        export_all(export, workers=workers)
    first, second = (tree(lake / str(number) / "public.events") for number in (0, 1))
    assert first["manifest.json"] == second["manifest.json"]
    assert {path for path in first if ".csv.gz" in path} == {path for path in second if ".csv.gz" in path}


def test_parts_end_at_their_size(dsn: str, database: psycopg.Connection[Any], lake: Path) -> None:
    make_table(database, EVENTS, 30_000)
    small = {"type": "csv", "compression": "none", "row_group_bytes": 64 << 10, "part_bytes": 1 << 20}
    export_all(prepared(dsn, lake, "public.events", format=small))
    sizes = [path.stat().st_size for path in part_files(lake / "public.events")]
    assert len(sizes) > 3
    assert all(1 << 20 <= size < (1 << 20) + (256 << 10) for size in sizes[:-1])
    assert_same(csv_rows(lake / "public.events"), source_rows(dsn, "public.events", "id"))


def test_validation_finds_a_damaged_part(dsn: str, database: psycopg.Connection[Any], lake: Path) -> None:
    make_table(database, EVENTS, 500)
    export = csv_export(dsn, lake, "public.events", "none")
    export_all(export)
    (part,) = part_files(lake / "public.events")
    data = part.read_bytes()
    part.write_bytes(data.replace(b"click", b"clock", 1))
    assert [finding.code for finding in validate_export(export.store).findings] == ["RIVET_PART_DAMAGED"]


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_validation_counts_the_rows_of_a_part(
    dsn: str, database: psycopg.Connection[Any], lake: Path, compression: str
) -> None:
    make_table(database, EVENTS, 500)
    export = csv_export(dsn, lake, "public.events", compression)
    export_all(export)
    claim_rows(lake / "public.events", 501)
    findings = validate_export(export.store).findings
    assert [(finding.code, finding.what) for finding in findings if finding.code != "RIVET_SEAL_BROKEN"] == [
        ("RIVET_WINDOW_MISMATCH", "it names the same parts as the seal, but says something else of them"),
        ("RIVET_PART_ROWS", "it has 500 rows, not 501"),
        ("RIVET_WINDOW_ROWS", "the rows of its parts do not give its row fingerprint"),
    ]


def claim_rows(folder: Path, rows: int) -> None:
    """Let the seal of an export with one part say that it has so many rows."""
    seal = ExportManifest.from_bytes((folder / MANIFEST).read_bytes(), "")
    (window,) = seal.windows
    parts = tuple(Part(**{**part.model_dump(), "rows": rows}) for part in window.parts)
    claimed = seal.model_copy(update={"windows": (window.model_copy(update={"rows": rows, "parts": parts}),)})
    data = claimed.identified().to_bytes()
    (folder / MANIFEST).write_bytes(data)
    (folder / SUCCESS).write_bytes(success_bytes(data))


def test_the_command_line_exports_and_validates_csv(dsn: str, database: psycopg.Connection[Any], lake: Path) -> None:
    make_table(database, EVENTS, 1_500)
    arguments = ("export", "--source", dsn, "--table", "public.events", "--to", str(lake), "--format", "csv", "--json")
    done = rivet(*arguments)
    assert done.code == 0, done.err
    assert done.json["rows"] == 1_500
    assert_same(csv_rows(lake / "public.events"), source_rows(dsn, "public.events", "id"))
    checked = rivet("validate", str(lake / "public.events"), "--json")
    assert (checked.code, checked.json["ok"]) == (0, True)


def test_values_that_look_like_csv_stay_values(dsn: str, sql: Sql, lake: Path) -> None:
    sql('CREATE TABLE public.tricky ("the ""key"", really" text PRIMARY KEY, "a,b" text, doc json)')
    texts = ["", '"', '""', ",", "\n", "\r\n", "a\rb", "\\", "NULL", " x ", "#", "'", "=1+1", "\ufeff"]
    for number, text in enumerate(texts):
        quoted = text.replace("'", "''")
        sql(f"INSERT INTO public.tricky VALUES ('{quoted}', NULLIF('{quoted}', ' x '), '{json.dumps([number])}')")
    export_all(csv_export(dsn, lake, "public.tricky"))
    expected = sql('SELECT "the ""key"", really", "a,b", doc::text FROM public.tricky')
    assert sorted(csv_rows(lake / "public.tricky"), key=str) == sorted(expected, key=str)


def test_a_seal_has_parts_of_one_format(dsn: str, sql: Sql, lake: Path) -> None:
    """The plan does not say what parts are; a mix comes about when some windows are exported again."""
    sql("CREATE TABLE public.n (id int PRIMARY KEY)")
    sql("INSERT INTO public.n SELECT generate_series(1, 3000)")
    as_parquet = prepared(dsn, lake, "public.n", rows=1000)
    export_all(as_parquet)
    sealed_before = seal_in_force(as_parquet.store)
    plan = as_parquet.planned()
    as_csv = csv_export(dsn, lake, "public.n", rows=1000)
    with as_csv.run(plan, plan.windows[1:2], "again", 1) as run:
        assert [outcome.error for outcome in run] == [None]
    with pytest.raises(IntegrityError) as caught:
        as_csv.seal(plan)
    assert (caught.value.code, caught.value.process_exit_code) == ("RIVET_SEAL_FORMATS", 3)
    assert "parquet in 2 (g1-w000000, g1-w000002); csv in 1 (g1-w000001)" in caught.value.what
    assert seal_in_force(as_csv.store) == sealed_before
    assert [outcome.error for outcome in run_all(as_csv, plan, "all of it")] == [None, None, None]
    as_csv.seal(plan)
    assert csv_rows(lake / "public.n") == [(number,) for number in range(1, 3001)]


def test_a_window_without_rows_has_no_format(dsn: str, sql: Sql, lake: Path) -> None:
    sql("CREATE TABLE public.n (id int PRIMARY KEY)")
    sql("INSERT INTO public.n SELECT generate_series(1, 3000)")
    export_all(prepared(dsn, lake, "public.n", rows=1000))
    sql("DELETE FROM public.n WHERE id <= 1000")
    export = csv_export(dsn, lake, "public.n", rows=1000)
    export_all(export, work_id="again")
    assert [len(window["parts"]) for window in sealed(lake / "public.n")["windows"]] == [0, 1, 1]
    assert csv_rows(lake / "public.n") == [(number,) for number in range(1001, 3001)]


def test_no_snapshot_waits_for_the_compilation_of_the_format(
    dsn: str, sql: Sql, lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql("CREATE TABLE public.n (id int PRIMARY KEY)")
    sql("INSERT INTO public.n SELECT generate_series(1, 3000)")
    events: list[str] = []
    warm, open_window = csv_format.warm, PostgresSession.open_window

    def warmed() -> None:
        warm()
        events.append("warm")

    @contextmanager
    def opened(self: PostgresSession, *arguments: Any) -> Iterator[PostgresWindowReader]:
        events.append("snapshot")
        window: AbstractContextManager[PostgresWindowReader] = open_window(self, *arguments)
        with window as reader:
            yield reader

    monkeypatch.setattr(csv_format, "warm", warmed)
    monkeypatch.setattr(PostgresSession, "open_window", opened)
    export_all(prepared(dsn, lake / "parquet", "public.n", rows=2000))
    export_all(csv_export(dsn, lake / "csv", "public.n", rows=2000))
    assert events == ["snapshot", "snapshot", "warm", "snapshot", "snapshot"]


def test_a_table_whose_name_is_too_long_for_a_folder(dsn: str, sql: Sql, lake: Path) -> None:
    schema, name = "ä" * 31, "." * 63
    sql(f'CREATE SCHEMA "{schema}"')
    sql(f'CREATE TABLE "{schema}"."{name}" (id int PRIMARY KEY)')
    sql(f'INSERT INTO "{schema}"."{name}" SELECT generate_series(1, 10)')
    export = csv_export(dsn, lake, f'"{schema}"."{name}"')
    export_all(export)
    (folder,) = lake.iterdir()
    assert folder.name == table_folder(schema, name)
    assert csv_rows(folder) == [(number,) for number in range(1, 11)]
    assert validate_export(export.store).ok
