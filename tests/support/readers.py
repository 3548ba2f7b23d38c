"""Independent readers: what psycopg reads from the source, and what DuckDB and JSON say of the destination."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pyarrow.parquet as pq
from psycopg import sql

Row = tuple[Any, ...]


def source_rows(dsn: str, table: str, key: str) -> list[Row]:
    """All rows of a table in key order, by psycopg's own decoders; json as the server's text."""
    schema, _, name = table.partition(".")
    with psycopg.connect(dsn, options="-c timezone=UTC") as connection:
        columns = connection.execute(
            "SELECT column_name, data_type FROM information_schema.columns"
            " WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position",
            (schema, name),
        ).fetchall()
        selected = sql.SQL(", ").join(
            sql.SQL("{}::text" if kind in ("json", "jsonb") else "{}").format(sql.Identifier(column))
            for column, kind in columns
        )
        query = sql.SQL("SELECT {} FROM {} ORDER BY {}").format(
            selected,
            sql.Identifier(schema, name),
            sql.SQL(", ").join(sql.Identifier(part) for part in key.split(",")),
        )
        # Binary: a float4 arrives as the bits that the server holds, not as the shortest text for them.
        return connection.cursor(binary=True).execute(query).fetchall()


def sealed(folder: Path) -> dict[str, Any]:
    """The seal of an export's folder, as plain JSON."""
    seal = json.loads((folder / "manifest.json").read_text())
    assert isinstance(seal, dict)
    return seal


def part_files(folder: Path) -> list[Path]:
    """Files of the sealed parts, in the manifest's order."""
    return [folder / part["path"] for window in sealed(folder)["windows"] for part in window["parts"]]


def exported_rows(folder: Path) -> list[Row]:
    """All rows of a sealed export in the order of its parts, read with DuckDB through the manifest."""
    files = [str(path) for path in part_files(folder)]
    if not files:
        return []
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        # One file after the other, so that the order is the manifest's, not that of DuckDB's threads.
        rows: list[Row] = []
        for file in files:
            rows += connection.execute("SELECT * FROM read_parquet(?, hive_partitioning = false)", [file]).fetchall()
        return rows


def arrow_rows(folder: Path) -> list[Row]:
    """All rows of a sealed export, read with pyarrow: it knows decimals that DuckDB turns into doubles."""
    rows: list[Row] = []
    for file in part_files(folder):
        table = pq.read_table(file, partitioning=None)
        rows += zip(*(column.to_pylist() for column in table.columns), strict=True)
    return rows


def assert_same(found: Sequence[Row], expected: Sequence[Row]) -> None:
    """Equal rows in equal order: equal types, floats equal to the bit, NULL where NULL is."""
    assert len(found) == len(expected)
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        differing = [(a, b) for a, b in zip(ours, theirs, strict=True) if not _same(a, b)]
        assert not differing, f"row {number} has (found, expected) {differing}"


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return left.hex() == right.hex()
    return type(left) is type(right) and bool(left == right)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes; but for journals, which tell of runs, each in its own words."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if "journal" not in name.split("/")}
