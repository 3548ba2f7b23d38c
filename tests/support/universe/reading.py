"""The destination: what pyarrow and DuckDB read from parts, in the server's words."""

from __future__ import annotations

import math
import struct
import uuid
from collections.abc import Callable, Sequence
from decimal import Context
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.universe.expected import Value, digits

_EXACT = Context(prec=5000)
_DUCKDB_DIGITS = 38


def bits(value: float, form: str) -> str:
    """A float's bits, as the server sends them."""
    return struct.pack(form, value).hex()


def interval_words(value: dict[str, int]) -> str:
    """An interval's three numbers, as PostgreSQL sends them."""
    return struct.pack(">qii", value["microseconds"], value["days"], value["months"]).hex()


def _unscaled(value: Any) -> str:
    return str(int(value.scaleb(-value.as_tuple().exponent, _EXACT)))


_WORDS: dict[str, Callable[[Any], str]] = {
    "bool": lambda value: "true" if value else "false",
    "float32": lambda value: bits(value, ">f"),
    "float64": lambda value: bits(value, ">d"),
    "interval": interval_words,
    "binary": lambda value: bytes(value).hex(),
    "uuid": lambda value: str(uuid.UUID(bytes=value)),
}


def _words(canonical: str) -> Callable[[Any], str]:
    return _unscaled if canonical.startswith("decimal(") else _WORDS.get(canonical, str)


def arrow_rows(files: Sequence[Path], types: Sequence[str]) -> list[tuple[Value, ...]]:
    """All rows of the files, by pyarrow."""
    rows: list[tuple[Value, ...]] = []
    for file in files:
        table = pq.ParquetFile(file).read(use_threads=False)
        columns = [
            [cell for chunk in column.chunks for cell in _arrow_cells(chunk, canonical)]
            for column, canonical in zip(table.columns, types, strict=True)
        ]
        rows += zip(*columns, strict=True)
    return rows


def _arrow_cells(array: Any, canonical: str) -> list[Value]:
    """Cells of an array. Dates and times as their counts: most of them are beyond Python's calendar."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if isinstance(array, pa.ListArray):
        cells = _arrow_cells(array.values, canonical[len("list(") : -1])
        ends = array.offsets.to_pylist()
        return [
            cells[ends[number] : ends[number + 1]] if valid else None
            for number, valid in enumerate(array.is_valid().to_pylist())
        ]
    if pa.types.is_date32(array.type):
        array = array.cast(pa.int32())
    elif pa.types.is_time64(array.type) or pa.types.is_timestamp(array.type):
        array = array.cast(pa.int64())
    words = _words(canonical)
    return [None if value is None else words(value) for value in array.to_pylist()]


# What DuckDB is asked for each type, where its own value would not be told exactly in Python.
_DUCKDB_QUESTIONS = {
    "date": "({} - DATE '1970-01-01')::VARCHAR",
    "time(us)": "epoch_us({})::VARCHAR",
    "timestamp(us)": "CASE WHEN isfinite({0}) THEN epoch_us({0})::VARCHAR ELSE {0}::VARCHAR END",
    "timestamp(us, UTC)": "CASE WHEN isfinite({0}) THEN epoch_us({0})::VARCHAR ELSE {0}::VARCHAR END",
    "uuid": "{}::VARCHAR",
    "json": "{}::VARCHAR",
}
# DuckDB takes the last microsecond that Arrow has for its own infinity.
_DUCKDB_INFINITY = {"infinity": str(2**63 - 1), "-infinity": str(1 - 2**63)}


class DuckDB:
    """Reads parts with DuckDB, by one connection for all of them."""

    def __init__(self) -> None:
        self._connection = duckdb.connect(config={"threads": 1})
        self._connection.execute("SET TimeZone = 'UTC'")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def rows(self, files: Sequence[Path], types: Sequence[str]) -> list[tuple[Value, ...]]:
        """All rows of the files."""
        asked = ", ".join(_duckdb_question(f"c{number}", canonical) for number, canonical in enumerate(types))
        # By place: DuckDB tells names apart without regard to case.
        names = ", ".join(f"c{number}" for number in range(len(types)))
        words = [_duckdb_words(canonical) for canonical in types]
        rows: list[tuple[Value, ...]] = []
        for file in files:
            found = self._connection.execute(
                f"SELECT {asked} FROM read_parquet(?, hive_partitioning = false) AS t({names})", [str(file)]
            ).fetchall()
            rows += (tuple(word(cell) for word, cell in zip(words, row, strict=True)) for row in found)
        return rows

    def schema(self, file: Path) -> list[dict[str, Any]]:
        """The Parquet schema below its root, depth first."""
        cursor = self._connection.execute("SELECT * FROM parquet_schema(?)", [str(file)])
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()][1:]


def _duckdb_question(column: str, canonical: str) -> str:
    if canonical.startswith("list("):
        inner = _duckdb_question("x", canonical[len("list(") : -1])
        return column if inner == "x" else f"list_transform({column}, lambda x: {inner})"
    return _DUCKDB_QUESTIONS.get(canonical, "{}").format(column)


def _duckdb_words(canonical: str) -> Callable[[Any], Value]:
    if canonical.startswith("list("):
        inner = _duckdb_words(canonical[len("list(") : -1])
        return lambda cells: None if cells is None else [inner(cell) for cell in cells]
    if canonical.startswith("timestamp"):
        return lambda value: None if value is None else _DUCKDB_INFINITY.get(value, value)
    words: Callable[[Any], str] = str if canonical == "uuid" else _words(canonical)
    if canonical.startswith("decimal(") and digits(canonical)[0] > _DUCKDB_DIGITS:
        words = float.hex
    return lambda value: None if value is None else words(value)


def same_cells(canonical: str, found: Value, expected: Value) -> bool:
    """Whether DuckDB's cell is the expected one; a double in place of a wide decimal is, to fourteen digits."""
    if isinstance(found, list) and isinstance(expected, list):
        inner = canonical[len("list(") : -1]
        return len(found) == len(expected) and all(map(lambda f, e: same_cells(inner, f, e), found, expected))
    if isinstance(found, str) and isinstance(expected, str) and canonical.startswith("decimal("):
        precision, scale = digits(canonical)
        if precision > _DUCKDB_DIGITS:
            return math.isclose(float.fromhex(found), int(expected) / 10**scale, rel_tol=1e-14)
    return found == expected
