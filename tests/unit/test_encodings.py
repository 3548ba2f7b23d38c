"""Which encodings, codecs and statistics are chosen, and that the file has them and the same rows."""

from __future__ import annotations

import datetime as dt
import decimal
import hashlib
import random
import uuid
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rivet_dagster.formats._encodings import Codec, Encodings, choose_encodings
from rivet_dagster.formats.parquet import ParquetPartWriter

ROWS = 20_000
ZSTD = Codec("zstd", 1)
DRAW = random.Random(7)
WORDS = [hashlib.md5(str(n).encode()).hexdigest() for n in range(ROWS)]

MONTHS = pa.struct([("months", pa.int32()), ("days", pa.int32()), ("microseconds", pa.int64())])


def lists(values: pa.Array[Any], length: int = 2) -> pa.Array[Any]:
    """Lists of `length` elements each."""
    return pa.ListArray.from_arrays(pa.array(range(0, len(values) + 1, length), pa.int32()), values)


def extension(kind: pa.DataType, values: list[Any], storage: pa.DataType) -> pa.Array[Any]:
    return pa.ExtensionArray.from_storage(kind, pa.array(values, storage))


COLUMNS: dict[str, pa.Array[Any]] = {
    "id": pa.array(range(ROWS), pa.int64()),
    "kind": pa.array([f"kind {DRAW.randrange(5)}" for _ in range(ROWS)]),
    "phrase": pa.array([WORDS[DRAW.randrange(900)][:20] for _ in range(ROWS)]),
    "random": pa.array([DRAW.randrange(2**31) for _ in range(ROWS)], pa.uint32()),
    "day": pa.array([dt.date(2024, 1, 1) + dt.timedelta(DRAW.randrange(9)) for _ in range(ROWS)]),
    "time": pa.array([1000 * n for n in range(ROWS)], pa.time64("us")),
    "at": pa.array(range(ROWS), pa.timestamp("us", "UTC")),
    "price": pa.array([decimal.Decimal(n) / 100 for n in range(ROWS)], pa.decimal128(18, 2)),
    "wide": pa.array([decimal.Decimal(n) for n in range(ROWS)], pa.decimal256(60, 0)),
    "ratio": pa.array([n / 7 for n in range(ROWS)]),
    "score": pa.array([DRAW.randrange(500) / 3 for _ in range(ROWS)], pa.float32()),
    "flag": pa.array([DRAW.random() < 0.5 for _ in range(ROWS)]),
    "nothing": pa.nulls(ROWS, pa.int32()),
    "key": extension(pa.uuid(), [uuid.uuid5(uuid.NAMESPACE_OID, str(n)).bytes for n in range(ROWS)], pa.binary(16)),
    "raw": pa.array([DRAW.randbytes(16 + n % 3) for n in range(ROWS)], pa.binary()),
    "json": extension(pa.json_(), [f'{{"n": {n}, "w": "{WORDS[n]}"}}' for n in range(ROWS)], pa.string()),
    "sorted": pa.array([f"customer-{n:09d}" for n in range(ROWS)]),
    "note": pa.array([WORDS[n] * 3 for n in range(ROWS)]),
    'ü "x" y': pa.array([DRAW.randrange(2**20) for _ in range(ROWS)], pa.int32()),
    "a.b": pa.array([DRAW.randrange(3) for _ in range(ROWS)], pa.int16()),
    "span": pa.StructArray.from_arrays(
        [
            pa.array([n % 12 for n in range(ROWS)], pa.int32()),
            pa.array(range(ROWS), pa.int32()),
            pa.array([DRAW.randrange(2**40) for _ in range(ROWS)], pa.int64()),
        ],
        fields=list(MONTHS),
    ),
    "tags": lists(pa.array([f"tag {DRAW.randrange(5)}" if n % 7 else None for n in range(2 * ROWS)])),
    "numbers": lists(pa.array([DRAW.randrange(2**20) for _ in range(2 * ROWS)], pa.int32())),
    "keys": lists(
        extension(pa.uuid(), [uuid.uuid5(uuid.NAMESPACE_OID, str(n)).bytes for n in range(2 * ROWS)], pa.binary(16))
    ),
}
BATCH = pa.RecordBatch.from_arrays(list(COLUMNS.values()), list(COLUMNS))


@pytest.fixture(scope="module")
def chosen() -> Encodings:
    return choose_encodings(BATCH, ZSTD)


def test_repeating_values_get_a_dictionary(chosen: Encodings) -> None:
    assert {"kind", "phrase", "day", "score", "a.b", "tags.list.element"} <= set(chosen.dictionary)
    unique = {"id", "random", "at", "wide", "ratio", "key", "raw", "json", "sorted", "note", "keys.list.element"}
    assert not unique & set(chosen.dictionary)
    assert "flag" not in chosen.dictionary  # Arrow knows no dictionary of booleans


def test_other_integers_are_stored_as_differences(chosen: Encodings) -> None:
    leaves = ["id", "time", "at", "price", 'ü "x" y', "span.days", "span.microseconds", "numbers.list.element"]
    assert "random" not in chosen.encoding  # the differences of random numbers are as wide as the numbers
    assert {leaf: chosen.encoding.get(leaf) for leaf in leaves} == dict.fromkeys(leaves, "DELTA_BINARY_PACKED")


def test_texts_get_what_makes_them_smaller(chosen: Encodings) -> None:
    assert chosen.encoding["sorted"] == "DELTA_BYTE_ARRAY"
    assert chosen.encoding["raw"] == "DELTA_LENGTH_BYTE_ARRAY"


def test_what_does_not_compress_is_stored_as_it_is(chosen: Encodings) -> None:
    assert not {"random", "key", "raw", "keys.list.element", "flag", "span.microseconds"} & set(chosen.compressed)
    # Nothing is known of `nothing`: what follows may well compress.
    assert {"id", "ratio", "json", "note", "wide", "nothing"} <= set(chosen.compressed)


def test_statistics_are_left_out_where_they_exclude_no_row_group(chosen: Encodings) -> None:
    left_out = {"kind", "phrase", "raw", "json", "note"}
    repeated = {"tags.list.element", "numbers.list.element", "keys.list.element"}
    assert set(chosen.paths) - set(chosen.statistics) == left_out | repeated


def test_a_constant_text_keeps_its_statistics() -> None:
    batch = pa.RecordBatch.from_pydict({"tenant": ["north"] * ROWS})
    assert choose_encodings(batch, ZSTD).statistics == ["tenant"]


def test_the_file_has_what_was_chosen_and_the_same_rows(tmp_path: Path, chosen: Encodings) -> None:
    path = tmp_path / "part.parquet"
    written(path, [BATCH, BATCH.slice(100, 50)])
    metadata = pq.read_metadata(path)
    group = metadata.row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    assert [column.path_in_schema for column in columns] == chosen.paths
    for column in columns:
        leaf = column.path_in_schema
        encoding = "RLE_DICTIONARY" if leaf in chosen.dictionary else chosen.encoding.get(leaf, "PLAIN")
        # A dictionary's own page is PLAIN; without one, PLAIN would mean that a dictionary was given up.
        assert set(column.encodings) - {"RLE"} == ({"PLAIN", encoding} if leaf in chosen.dictionary else {encoding})
        assert column.compression == ("ZSTD" if leaf in chosen.compressed else "UNCOMPRESSED")
        assert column.is_stats_set == (leaf in chosen.statistics)
        assert column.has_column_index == (leaf in chosen.statistics)
        assert column.has_offset_index
    table = pq.read_table(path, partitioning=None)
    assert table.equals(pa.Table.from_batches([BATCH, BATCH.slice(100, 50)]))


def test_only_encodings_that_every_reader_knows(chosen: Encodings) -> None:
    known = {
        "INT32": {"DELTA_BINARY_PACKED"},
        "INT64": {"DELTA_BINARY_PACKED"},
        "BYTE_ARRAY": {"DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"},
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_batches([BATCH]), sink, store_decimal_as_integer=True)
    schema = pq.read_metadata(pa.BufferReader(sink.getvalue())).schema
    physical = {schema.column(n).path: schema.column(n).physical_type for n in range(len(schema))}
    assert chosen.encoding
    for path, encoding in chosen.encoding.items():
        assert encoding in known[physical[path]]


def test_duckdb_reads_the_same_rows(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    written(path, [BATCH])
    # DuckDB has no decimal of 60 digits.
    names = [name for name in COLUMNS if name != "wide"]
    columns = ", ".join('"' + name.replace('"', '""') + '"' for name in names)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        found = connection.execute(f"SELECT {columns} FROM read_parquet(?) ORDER BY id", [str(path)]).fetchall()
    for name, values in zip(names, zip(*found, strict=True), strict=True):
        assert [plain(value) for value in values] == [plain(value) for value in COLUMNS[name].to_pylist()], name


def plain(value: Any) -> Any:
    """A value without the type that a reader gives it."""
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.timezone.utc)
    return str(value) if isinstance(value, uuid.UUID) else value


def test_a_name_with_a_dot_is_not_taken_for_a_field(tmp_path: Path) -> None:
    """Column `a.b` and field b of column a have the same path in Parquet."""
    columns = [
        pa.array(range(ROWS), pa.int64()),
        pa.array([f"kind {n % 3}" for n in range(ROWS)]),
        pa.StructArray.from_arrays([COLUMNS["id"], COLUMNS["at"]], ["b", "c"]),
    ]
    batch = pa.RecordBatch.from_arrays(columns, ["id", "a.b", "a"])
    chosen = choose_encodings(batch, ZSTD)
    assert "a.b" not in chosen.dictionary
    assert chosen.encoding == {"id": "DELTA_BINARY_PACKED", "a.c": "DELTA_BINARY_PACKED"}
    written(tmp_path / "part", [batch])
    assert pq.read_table(tmp_path / "part", partitioning=None).equals(pa.Table.from_batches([batch]))


def test_a_dictionary_that_would_outgrow_its_page_is_not_begun() -> None:
    """20,000 long texts, each four times in a row: a dictionary of them would have more than a megabyte."""
    batch = pa.RecordBatch.from_pydict({"note": [WORDS[n // 4] * 10 for n in range(ROWS * 4)]})
    assert choose_encodings(batch, ZSTD).dictionary == []


def test_the_choice_depends_on_rows_alone() -> None:
    """Not on how their buffers came about."""
    shifted = pa.Table.from_batches([BATCH.slice(0, 10), BATCH]).combine_chunks().to_batches()[0].slice(10)
    assert choose_encodings(shifted, ZSTD) == choose_encodings(BATCH, ZSTD)


@pytest.mark.parametrize("rows", [0, 1, 63, 64, 65, 4097])
@pytest.mark.parametrize("codec", ["zstd", "snappy", "lz4", "gzip", "none"])
def test_any_number_of_rows_with_any_codec(tmp_path: Path, rows: int, codec: Any) -> None:
    batch = BATCH.slice(17, rows)
    written(tmp_path / "part", [batch], codec=codec)
    assert pq.read_table(tmp_path / "part", partitioning=None).equals(pa.Table.from_batches([batch]))
    assert choose_encodings(batch, Codec("none")).compressed == []


def test_wide_rows_are_sampled_by_bytes() -> None:
    """Of rows of 100 kB each only a few are looked at, of narrow ones thousands."""
    from rivet_dagster.formats import _encodings

    wide = pa.RecordBatch.from_pydict({"note": [str(n) * 20_000 for n in range(200)]})
    assert _encodings._sample(wide).num_rows < 40
    assert _encodings._sample(BATCH.select(["id"])).num_rows == 4096


def written(path: Path, batches: list[pa.RecordBatch], codec: Any = "zstd") -> None:
    writer = ParquetPartWriter(path, batches[0], compression=codec, level=1)
    for batch in batches:
        writer.write(batch)
    writer.close()
    assert writer.rows == sum(batch.num_rows for batch in batches)
