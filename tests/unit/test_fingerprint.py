"""The row fingerprint, type by type."""

from __future__ import annotations

import datetime as dt
import math
import subprocess
import sys
import uuid
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash

from rivet_dagster.errors import ConfigError, IntegrityError
from rivet_dagster.export import _rowhash_kernels
from rivet_dagster.export.fingerprint import ALGORITHM, Fingerprint
from rivet_dagster.export.rowhash import RowHasher

LONG = "longer than the twelve bytes that a view holds itself"
MINUTE = dt.datetime(2024, 2, 29, 12, 34)
EXAMPLE = pa.table(
    {
        "b": pa.array([True, False, None]),
        "i": pa.array([-1, 2**31, None], pa.int64()),
        "f": pa.array([1.5, -0.0, None]),
        "d": pa.array([Decimal("-1.25"), Decimal("0.00"), None], pa.decimal128(20, 2)),
        "w": pa.array([Decimal("-1.25"), Decimal("1e40"), None], pa.decimal256(60, 2)),
        "day": pa.array([dt.date(2024, 2, 29), dt.date(1969, 12, 31), None]),
        "t": pa.array([MINUTE, dt.datetime(1900, 1, 1), None], pa.timestamp("us")),
        "tz": pa.array([MINUTE, dt.datetime(1900, 1, 1), None], pa.timestamp("us", "UTC")),
        "u": pa.array([uuid.UUID(int=1).bytes, uuid.UUID(int=2**127).bytes, None], pa.uuid()),
        "s": pa.array(["grüße", "", None]),
        "y": pa.array([b"\x00\xff", b"x" * 100, None], pa.binary()),
        "j": pa.array(['{"a": 1}', "null", None], pa.json_()),
    }
)


def fingerprint(data: pa.Table | pa.RecordBatch | pa.Array[Any]) -> Fingerprint:
    if isinstance(data, pa.Array):
        data = pa.table({"c": data})
    hasher = RowHasher(data.schema)
    for batch in data.to_batches() if isinstance(data, pa.Table) else [data]:
        hasher.update(batch)
    return hasher.fingerprint


# Manifests hold fingerprints for ever: whoever changes these digits needs a new name for the algorithm.
EXAMPLE_DIGITS = "f7060ef6aab5ebceed26f40945cd74da"
COLUMN_DIGITS = {
    "b": "a781814a55f264ee68b72c8268ad96b3",
    "i": "bc4db9332262844b6c5f95fe2240a65f",
    "f": "57a1c4a8260dac6cf93ed562d0e9f7f1",
    "d": "ba3b6a2d6b887a45985e73bf6037713c",
    "w": "8c5a1a51609052acd5cc0ac5a868787b",
    "day": "2e7cb2eeee1fbe6cc63542399c3f82d2",
    "t": "0d147584154cf12bd43a6136bd5a2863",
    "tz": "823b7a06fa64f97958d422d938f91491",
    "u": "a5a26197c2e9197b5f35244c8ad643fa",
    "s": "2e016440aa8c48f8c2b9684f864c69ec",
    "y": "e10aec2964f0401ba4d1cc37d81aee4e",
    "j": "5a0a34b50657fddb8da8d5832580e3ab",
}


def test_the_algorithm_never_changes() -> None:
    assert ALGORITHM == "rivet-row-1"
    assert str(fingerprint(EXAMPLE)) == f"rivet-row-1:{EXAMPLE_DIGITS}"


@pytest.mark.parametrize(("name", "digits"), COLUMN_DIGITS.items())
def test_no_type_s_words_ever_change(name: str, digits: str) -> None:
    assert str(fingerprint(EXAMPLE.select([name]))) == f"rivet-row-1:{digits}"


def test_fingerprints_add_up() -> None:
    whole = fingerprint(EXAMPLE)
    parts = [fingerprint(EXAMPLE.slice(row, 1)) for row in range(3)]
    assert sum(parts, Fingerprint.zero()) == whole
    assert whole.rows == 3
    assert Fingerprint(1, 2**64 - 1, 5) + Fingerprint(2, 3, 2**64 - 5) == Fingerprint(3, 2, 0)


def test_fingerprints_are_written_and_read() -> None:
    some = Fingerprint(7, 0xAB, 2**64 - 1)
    assert str(some) == "rivet-row-1:00000000000000abffffffffffffffff"
    assert Fingerprint.parse(str(some), 7) == some
    assert Fingerprint.parse(str(Fingerprint.zero()), 0) == Fingerprint.zero()


@pytest.mark.parametrize("text", ["", "rivet-row-2:" + "0" * 32, "rivet-row-1:" + "0" * 31, "rivet-row-1:" + "G" * 32])
def test_other_texts_are_no_fingerprints(text: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        Fingerprint.parse(text, 1)
    assert caught.value.code == "RIVET_FINGERPRINT_UNKNOWN"


def test_values_are_hashed_as_the_xxhash_package_does() -> None:
    data = np.random.default_rng(1).integers(0, 256, 4096, dtype=np.uint8)
    lengths = [*range(200), 1000, 31, 32, 33]
    starts = np.arange(len(lengths)) * 3
    for start, length in zip(starts, lengths, strict=True):
        hashes = np.zeros(1, np.uint64)
        _rowhash_kernels.hash_values(data, np.array([start, start + length]), hashes)
        assert hashes[0] == xxhash.xxh64_intdigest(data[start : start + length].tobytes())


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (pa.array([1, -2, None], pa.int8()), pa.array([1, -2, None], pa.int64())),
        (pa.array([1, 2, None], pa.uint16()), pa.array([1, 2, None], pa.int32())),
        (pa.array([2**64 - 1], pa.uint64()), pa.array([-1], pa.int16())),
        (pa.array([1.5, math.nan, None], pa.float32()), pa.array([1.5, math.nan, None], pa.float64())),
        (pa.array(["a", "", None]), pa.array(["a", "", None], pa.large_string())),
        (pa.array(["a", LONG, None]), pa.array(["a", LONG, None], pa.string_view())),
        (pa.array([b"a", None]), pa.array([b"a", None], pa.large_binary())),
        (pa.array([b"a", None]), pa.array([b"a", None], pa.binary_view())),
        (pa.array(["{}", None]), pa.array(["{}", None], pa.json_())),
        (pa.array([bytes(range(16)), None], pa.binary(16)), pa.array([bytes(range(16)), None], pa.uuid())),
        (pa.array([MINUTE], pa.timestamp("us", "UTC")), pa.array([MINUTE], pa.timestamp("us", "Asia/Tokyo"))),
        (pa.array([Decimal("1.5")], pa.decimal128(5, 1)), pa.array([Decimal("1.5")], pa.decimal128(38, 1))),
    ],
)
def test_types_of_one_family_agree(left: pa.Array[Any], right: pa.Array[Any]) -> None:
    assert fingerprint(left) == fingerprint(right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (pa.array([0]), pa.array([False])),
        (pa.array([0]), pa.array([0.0])),
        (pa.array([0.0]), pa.array([-0.0])),
        (pa.array(["a"]), pa.array([b"a"])),
        (pa.array([MINUTE], pa.timestamp("us")), pa.array([MINUTE], pa.timestamp("us", "UTC"))),
        (pa.array([Decimal(1)], pa.decimal128(5, 0)), pa.array([Decimal(1)], pa.decimal128(5, 1))),
        (pa.array([""]), pa.array([None], pa.string())),
        (pa.array([0]), pa.array([None], pa.int64())),
        (pa.array([False]), pa.array([None], pa.bool_())),
        (pa.array(["ab", "c"]), pa.array(["a", "bc"])),
    ],
)
def test_other_values_differ(left: pa.Array[Any], right: pa.Array[Any]) -> None:
    left_found, right_found = fingerprint(left), fingerprint(right)
    assert left_found.lane0 != right_found.lane0
    assert left_found.lane1 != right_found.lane1


def test_every_nan_is_the_same() -> None:
    bits = np.array([0x7FF8000000000000, 0x7FF0000000000001, 0xFFF8000000001234], np.uint64)
    doubles = pa.array(bits.view(np.float64))
    assert fingerprint(doubles) == fingerprint(pa.array([math.nan] * 3))
    singles = pa.array(np.array([0x7FC00000, 0x7F800001, 0xFFC01234], np.uint32).view(np.float32))
    assert fingerprint(singles) == fingerprint(doubles)


def test_equal_values_differ_between_columns_and_from_their_sum() -> None:
    table = pa.table({"a": [1, 1], "b": [2, 2]})
    swapped = pa.table({"a": [2, 2], "b": [1, 1]})
    assert fingerprint(table) != fingerprint(swapped)
    assert fingerprint(table) != fingerprint(table.select(["a"]))


def test_names_and_nullability_do_not_count() -> None:
    schema = pa.schema([pa.field("other", pa.int64(), nullable=False, metadata={"native": "bigint"})])
    assert fingerprint(pa.table([pa.array([1, 2])], schema=schema)) == fingerprint(pa.array([1, 2]))


def test_what_lies_under_a_null_does_not_count() -> None:
    validity = pa.py_buffer(b"\x01")
    numbers = [
        pa.Array.from_buffers(pa.int64(), 2, [validity, pa.py_buffer(np.array([1, rest]).data)]) for rest in (0, 99)
    ]
    assert fingerprint(numbers[0]) == fingerprint(numbers[1])
    offsets = pa.py_buffer(np.array([0, 1, 4], np.int32).data)
    texts = [
        pa.Array.from_buffers(pa.string(), 2, [validity, offsets, pa.py_buffer(text)]) for text in (b"axxx", b"ayyy")
    ]
    assert fingerprint(texts[0]) == fingerprint(texts[1]) == fingerprint(pa.array(["a", None]))


@pytest.mark.parametrize("start", range(20))
def test_slices_are_read_from_where_they_start(start: int) -> None:
    long = pa.concat_tables([EXAMPLE] * 12).combine_chunks()
    (sliced,) = long.slice(start, 9).to_batches()
    copied = pa.RecordBatch.from_pylist(
        [{name: _stored(value) for name, value in row.items()} for row in sliced.to_pylist()], schema=long.schema
    )
    assert fingerprint(sliced) == fingerprint(copied)


def _stored(value: Any) -> Any:
    return value.bytes if isinstance(value, uuid.UUID) else value


def test_buffers_may_be_unaligned() -> None:
    values = np.arange(100, dtype=np.int64)
    shifted = pa.py_buffer(b"?" + values.tobytes()).slice(1)
    assert fingerprint(pa.Array.from_buffers(pa.int64(), 100, [None, shifted])) == fingerprint(pa.array(values))


def test_blocks_do_not_show() -> None:
    rows = 40_000
    table = pa.table({"n": range(rows), "s": [str(row) if row % 3 else None for row in range(rows)]})
    parts = [fingerprint(table.slice(start, 7_000)) for start in range(0, rows, 7_000)]
    assert sum(parts, Fingerprint.zero()) == fingerprint(table)
    order = np.random.default_rng(2).permutation(rows)
    assert fingerprint(table.take(order)) == fingerprint(table)


def test_no_rows_are_zero() -> None:
    hasher = RowHasher(EXAMPLE.schema)
    assert hasher.fingerprint == Fingerprint.zero()
    hasher.update(pa.RecordBatch.from_pylist([], schema=EXAMPLE.schema))
    assert hasher.fingerprint == Fingerprint.zero()


def test_columns_of_nothing_but_nulls_and_empty_texts_are_covered() -> None:
    assert fingerprint(pa.nulls(5, pa.string())) == fingerprint(pa.array([None] * 5, pa.string()))
    assert fingerprint(pa.array(["", ""])).rows == 2


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.int64()), pa.timestamp("ns"), pa.date64(), pa.time64("us"), pa.binary(8), pa.float16(), pa.null()],
)
def test_types_beyond_the_definition_are_refused_by_name(kind: pa.DataType) -> None:
    with pytest.raises(ConfigError) as caught:
        RowHasher(pa.schema([("fine", pa.int64()), ("odd", kind)]))
    assert caught.value.code == "RIVET_FINGERPRINT_TYPE"
    assert "Column odd" in caught.value.what


def test_batches_must_have_the_schema_s_types() -> None:
    with pytest.raises(ValueError, match="types"):
        RowHasher(pa.schema([("a", pa.int64())])).update(pa.RecordBatch.from_pydict({"a": ["x"]}))


def test_handling_fingerprints_needs_no_numba() -> None:
    code = (
        "import sys; from rivet_dagster.export.fingerprint import Fingerprint;"
        f"print(Fingerprint.parse('{Fingerprint.zero()}', 0)); assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
