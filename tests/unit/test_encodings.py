from __future__ import annotations

import datetime as dt
import decimal
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rivet_dagster.formats._encodings import choose_encodings
from rivet_dagster.formats.parquet import ParquetPartWriter

ROWS = 4000

COLUMNS: dict[str, pa.Array[Any]] = {
    "id": pa.array(range(ROWS), pa.int64()),
    "kind": pa.array([f"kind {n % 5}" for n in range(ROWS)]),
    "note": pa.array([f"note {n}" for n in range(ROWS)]),
    "day": pa.array([dt.date(2024, 1, 1) + dt.timedelta(n % 9) for n in range(ROWS)]),
    "at": pa.array(range(ROWS), pa.timestamp("us", "UTC")),
    "price": pa.array([decimal.Decimal(n) / 100 for n in range(ROWS)], pa.decimal128(9, 2)),
    "wide": pa.array([decimal.Decimal(n) for n in range(ROWS)], pa.decimal128(38, 0)),
    "ratio": pa.array([n / 7 for n in range(ROWS)]),
    "flag": pa.array([n % 2 == 0 for n in range(ROWS)]),
    "nothing": pa.nulls(ROWS, pa.int32()),
    "key": pa.array([uuid.UUID(int=n).bytes for n in range(ROWS)], pa.uuid()),
    "a.b": pa.array([n % 3 for n in range(ROWS)], pa.int16()),
}
BATCH = pa.RecordBatch.from_arrays(list(COLUMNS.values()), list(COLUMNS))


def test_repeating_values_get_a_dictionary_and_the_other_integers_differences() -> None:
    chosen = choose_encodings(BATCH)
    assert chosen.dictionary == ["kind", "day", "nothing", "a.b"]
    assert list(chosen.delta) == ["id", "at", "price"]


def test_the_file_has_them_and_holds_the_same_rows(tmp_path: Path) -> None:
    path = tmp_path / "part"
    writer = ParquetPartWriter(path, BATCH, compression="zstd", level=1)
    writer.write(BATCH)
    writer.write(BATCH.slice(100, 50))
    writer.close()
    group = pq.ParquetFile(path).metadata.row_group(0)
    encodings = {group.column(n).path_in_schema: group.column(n).encodings for n in range(group.num_columns)}
    assert "DELTA_BINARY_PACKED" in encodings["id"]
    assert "RLE_DICTIONARY" in encodings["kind"]
    assert "RLE_DICTIONARY" in encodings["a.b"]
    assert "RLE_DICTIONARY" not in encodings["note"]
    table = pq.read_table(path, partitioning=None)
    assert table.to_pylist() == BATCH.to_pylist() + BATCH.slice(100, 50).to_pylist()


def test_a_batch_without_rows_is_no_trouble(tmp_path: Path) -> None:
    writer = ParquetPartWriter(tmp_path / "part", BATCH.slice(0, 0), compression="snappy", level=None)
    writer.close()
    assert pq.read_table(tmp_path / "part").num_rows == 0
