"""The row fingerprint, type by type."""

from __future__ import annotations

import datetime as dt
import math
import subprocess
import sys
import uuid
from collections import Counter
from decimal import Decimal
from types import FrameType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash

from rivet_dagster.errors import ConfigError, IntegrityError
from rivet_dagster.export import _rowhash_kernels, rowhash
from rivet_dagster.export.fingerprint import ALGORITHM, Fingerprint
from rivet_dagster.export.rowhash import RowHasher, add_columns

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

INTERVAL = pa.struct(
    [
        pa.field("months", pa.int32(), nullable=False),
        pa.field("days", pa.int32(), nullable=False),
        pa.field("microseconds", pa.int64(), nullable=False),
    ]
)
INTS = pa.list_(pa.int64())
DAY = 86_400_000_000
SOME_INTERVALS = [(14, -3, DAY), (-(2**31), 2**31 - 1, -(2**63)), None]
PAIR = pa.array([0, 3, 4, 4], pa.int32())
THIRD_IS_NULL = pa.array([False, False, True])
NESTED = pa.table(
    {
        "time": pa.array([1, DAY, None], pa.time64("us")),
        "interval": pa.array(SOME_INTERVALS, INTERVAL),
        "ints": pa.array([[1, None, -1], [], None], pa.list_(pa.int64())),
        "bools": pa.array([[True, False, None], [None], None], pa.list_(pa.bool_())),
        "floats": pa.array([[1.5, math.nan, None], [-0.0], None], pa.list_(pa.float64())),
        "decimals": pa.array([[Decimal("-1.25"), None], [Decimal("0.00")], None], pa.list_(pa.decimal128(20, 2))),
        "wide": pa.array([[Decimal("1e40"), None], [], None], pa.list_(pa.decimal256(60, 2))),
        "zoned": pa.array([[MINUTE, None], [dt.datetime(1900, 1, 1)], None], pa.list_(pa.timestamp("us", "UTC"))),
        "texts": pa.array([["grüße", LONG, None], [""], None], pa.list_(pa.string())),
        "uuids": pa.ListArray.from_arrays(
            PAIR,
            pa.array([uuid.UUID(int=1).bytes, uuid.UUID(int=2**127).bytes, None, bytes(16)], pa.uuid()),
            mask=THIRD_IS_NULL,
        ),
        "jsons": pa.ListArray.from_arrays(
            PAIR, pa.array(['{"a": 1}', "null", None, "[]"], pa.json_()), mask=THIRD_IS_NULL
        ),
        "times": pa.array([[0, None, DAY], [1], None], pa.list_(pa.time64("us"))),
        "intervals": pa.array([SOME_INTERVALS, [(0, 0, 0)], None], pa.list_(INTERVAL)),
        "lists": pa.array([[[1, None], [], None], [[]], None], pa.list_(pa.list_(pa.int32()))),
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
# Computed by the definition in plain Python (see the laws), not by the code under test.
NESTED_DIGITS = {
    "time": "4c679b2b103f2e3cc27f338fcb75d237",
    "interval": "dbb58069b59a99992cb9e7d22b1a8d69",
    "ints": "f4a95bc10265efd30490ed1b463c4131",
    "bools": "1ddf7f631550703e1e5cddd64b823b05",
    "floats": "d29e191d77510fc6559781e98bbe4010",
    "decimals": "0c293227ef9bff18cea377dbce7f2be0",
    "wide": "c93c0a807462205fe06c8f0ac5de40f3",
    "zoned": "446bc19500d61369be6cbef3b4e33d5a",
    "texts": "443533bcd813bf760d8094869792ccce",
    "uuids": "4eceb6ad0817917faf70ab88d396325f",
    "jsons": "a2d062e58fbc5ba384b986d8af6d5e67",
    "times": "4fba8702b23ab6fbd26761fe6a576ea6",
    "intervals": "54d394c6c670cb4bb8e4b2371dfa0ee9",
    "lists": "c07535ec5bf477e863637032f68ec0b9",
    "uuids ints": "b055f1e9d15c78b9c903317be2409b94",
    "ints uuids": "652076f7a0072de67222cf164876bb39",
    " ".join(NESTED.column_names): "f16dbb15f214df966fe6f5e44dcd1dfa",
}


def test_the_algorithm_never_changes() -> None:
    assert ALGORITHM == "rivet-row-1"
    assert str(fingerprint(EXAMPLE)) == f"rivet-row-1:{EXAMPLE_DIGITS}"


@pytest.mark.parametrize(("name", "digits"), COLUMN_DIGITS.items())
def test_no_type_s_words_ever_change(name: str, digits: str) -> None:
    assert str(fingerprint(EXAMPLE.select([name]))) == f"rivet-row-1:{digits}"


@pytest.mark.parametrize(("names", "digits"), NESTED_DIGITS.items())
def test_no_nested_type_s_words_ever_change(names: str, digits: str) -> None:
    assert str(fingerprint(NESTED.select(names.split()))) == f"rivet-row-1:{digits}"


def checksums(table: pa.Table) -> tuple[str, ...]:
    hasher = RowHasher(table.schema)
    for batch in table.to_batches():
        hasher.update(batch)
    return hasher.take_columns()


@pytest.mark.parametrize(
    ("table", "name", "digits"),
    [
        *((EXAMPLE, name, digits) for name, digits in COLUMN_DIGITS.items()),
        *((NESTED, name, NESTED_DIGITS[name]) for name in NESTED.column_names),
    ],
)
def test_no_checksum_of_a_column_ever_changes(table: pa.Table, name: str, digits: str) -> None:
    """Of a single column it is the first lane of the row fingerprint."""
    assert checksums(table.select([name])) == (digits[:16],)


def test_checksums_depend_on_a_column_s_place_and_type() -> None:
    one, other = checksums(pa.table({"a": [1, 2], "b": [1, 2]}))
    assert one != other
    assert checksums(pa.table({"b": [2, 1]})) == (one,)
    assert checksums(pa.table({"a": [1.0, 2.0]})) != (one,)
    swapped = pa.table({"a": [3, 4], "b": [1, 2]}), pa.table({"a": [1, 2], "b": [3, 4]})
    assert set(checksums(swapped[0])).isdisjoint(checksums(swapped[1]))


def test_checksums_of_columns_count_every_value_and_every_null() -> None:
    columns: list[list[int | None]] = [[1], [1, 1], [1, 1, 1], [None], [None, None], [1, None], [0], []]
    found = {checksums(pa.table({"a": pa.array(column, pa.int64())})) for column in columns}
    assert len(found) == len(columns)
    sums = [[1, 4], [2, 3], [0, 5], [5, 0, 0]]
    assert len({checksums(pa.table({"a": column})) for column in sums}) == len(sums)


def test_checksums_of_columns_begin_anew_when_they_are_taken() -> None:
    hasher = RowHasher(EXAMPLE.schema)
    taken = []
    for start in range(3):
        for batch in EXAMPLE.slice(start, 1).to_batches():
            hasher.update(batch)
        taken.append(hasher.take_columns())
    assert taken == [checksums(EXAMPLE.slice(start, 1)) for start in range(3)]
    assert hasher.take_columns() == ("0" * 16,) * EXAMPLE.num_columns
    assert add_columns(taken) == checksums(EXAMPLE)
    assert add_columns([]) == ()
    assert hasher.fingerprint == fingerprint(EXAMPLE)


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
        (pa.array([[1], [], None], pa.list_(pa.int8())), pa.array([[1], [], None], pa.large_list(pa.int64()))),
        (pa.array([["a", LONG]], pa.list_(pa.string())), pa.array([["a", LONG]], pa.large_list(pa.string_view()))),
        (
            pa.array([[[MINUTE]]], pa.list_(pa.list_(pa.timestamp("us", "UTC")))),
            pa.array([[[MINUTE]]], pa.large_list(pa.large_list(pa.timestamp("us", "Asia/Tokyo")))),
        ),
        (
            pa.array([[1]], pa.list_(pa.field("item", pa.int64(), nullable=False))),
            pa.array([[1]], pa.list_(pa.field("element", pa.int64()))),
        ),
        (
            NESTED["interval"].chunk(0),
            NESTED["interval"].chunk(0).cast(pa.struct([(f.name, f.type) for f in INTERVAL])),
        ),
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
        (pa.array([DAY - 1], pa.time64("us")), pa.array([DAY - 1], pa.int64())),
        (pa.array([0], pa.time64("us")), pa.array([DAY], pa.time64("us"))),
        (pa.array([(1, 0, 0)], INTERVAL), pa.array([(0, 30, 0)], INTERVAL)),
        (pa.array([(0, 1, 0)], INTERVAL), pa.array([(0, 0, DAY)], INTERVAL)),
        (pa.array([(1, 2, 3)], INTERVAL), pa.array([(2, 1, 3)], INTERVAL)),
        (pa.array([(0, 0, 0)], INTERVAL), pa.array([None], INTERVAL)),
        (pa.array([[]], INTS), pa.array([None], INTS)),
        (pa.array([[None]], INTS), pa.array([None], INTS)),
        (pa.array([[None]], INTS), pa.array([[]], INTS)),
        (pa.array([[None]], INTS), pa.array([[None, None]], INTS)),
        (pa.array([[0]], INTS), pa.array([[None]], INTS)),
        (pa.array([[7]], INTS), pa.array([7], pa.int64())),
        (pa.array([[1, 2]], INTS), pa.array([[2, 1]], INTS)),
        (pa.array([[1, 2], [3]], INTS), pa.array([[1], [2, 3]], INTS)),
        (pa.array([[1], []], INTS), pa.array([[], [1, 1]], INTS)),
        (pa.array([["ab", "c"]]), pa.array([["a", "bc"]])),
        (pa.array([[""]]), pa.array([[None]], pa.list_(pa.string()))),
        (pa.array([["1"]]), pa.array([[b"1"]])),
        (
            pa.array([[Decimal(1)]], pa.list_(pa.decimal128(5, 0))),
            pa.array([[Decimal(1)]], pa.list_(pa.decimal128(5, 1))),
        ),
        (pa.array([[MINUTE]], pa.list_(pa.timestamp("us"))), pa.array([[MINUTE]], pa.list_(pa.timestamp("us", "UTC")))),
        (pa.array([[[1], [2]]], pa.list_(INTS)), pa.array([[[1, 2], []]], pa.list_(INTS))),
        (pa.array([[[1], [2]]], pa.list_(INTS)), pa.array([[[1, 2]]], pa.list_(INTS))),
        (pa.array([[[1, 2]]], pa.list_(INTS)), pa.array([[1, 2]], INTS)),
        (pa.array([[[]]], pa.list_(INTS)), pa.array([[None]], pa.list_(INTS))),
        (pa.array([[[]]], pa.list_(INTS)), pa.array([[]], pa.list_(INTS))),
        (pa.array([[[None]]], pa.list_(INTS)), pa.array([[[]]], pa.list_(INTS))),
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


def test_equal_lists_differ_between_columns() -> None:
    table = pa.table({"a": [[1], [1]], "b": [[2], [2]]})
    swapped = pa.table({"a": [[2], [2]], "b": [[1], [1]]})
    moved = pa.table({"a": [[1, 2], [1]], "b": [[], [2]]})
    found = {fingerprint(each) for each in (table, swapped, moved, table.select(["a"]), table.select(["b"]))}
    assert len(found) == 5


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


def test_what_lies_under_a_null_list_or_interval_does_not_count() -> None:
    second_is_null = pa.array([False, True])
    offsets = pa.array([0, 1, 4], pa.int32())
    lists = [
        pa.ListArray.from_arrays(offsets, pa.array(["a", *rest]), mask=second_is_null)
        for rest in (["x", "y", "z"], [None, "", LONG])
    ]
    assert fingerprint(lists[0]) == fingerprint(lists[1]) == fingerprint(pa.array([["a"], None]))
    intervals = [
        pa.StructArray.from_arrays(
            [pa.array([1, rest], field.type) for field in INTERVAL], fields=list(INTERVAL), mask=second_is_null
        )
        for rest in (0, 99, None)
    ]
    assert len({fingerprint(each) for each in intervals}) == 1
    assert fingerprint(intervals[0]) == fingerprint(pa.array([(1, 1, 1), None], INTERVAL))


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
    assert checksums(table.take(order)) == checksums(table)


def test_blocks_do_not_show_in_lists() -> None:
    rows = 40_000
    lists = [None if row % 7 == 0 else [None if row % 11 == 0 else row, -row][: row % 3] for row in range(rows)]
    texts = [None if each is None else [each and str(each), None] for each in lists]
    table = pa.table({"n": pa.array(lists, INTS), "s": pa.array(texts, pa.list_(pa.list_(pa.string())))})
    parts = [fingerprint(table.slice(start, 7_000)) for start in range(0, rows, 7_000)]
    assert sum(parts, Fingerprint.zero()) == fingerprint(table)
    order = np.random.default_rng(3).permutation(rows)
    assert fingerprint(table.take(order)) == fingerprint(table)


@pytest.mark.parametrize("name", [*EXAMPLE.column_names, *NESTED.column_names])
def test_rows_and_elements_take_no_interpreted_steps(name: str) -> None:
    """The work in Python is by column and block: ten thousand rows run as many lines as a dozen."""
    column = (EXAMPLE if name in EXAMPLE.column_names else NESTED)[name]
    few, many = (pa.concat_arrays([column.combine_chunks()] * copies) for copies in (4, 4_000))
    assert _lines_run(few) == _lines_run(many)


def _lines_run(array: pa.Array[Any]) -> Counter[tuple[str, int]]:
    """How often each line of the hasher ran."""
    lines: Counter[tuple[str, int]] = Counter()

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        if frame.f_code.co_filename != rowhash.__file__:
            return None
        lines[frame.f_code.co_name, frame.f_lineno] += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        fingerprint(array)
    finally:
        sys.settrace(before)
    assert lines, "nothing was traced"
    return lines


def test_no_rows_are_zero() -> None:
    hasher = RowHasher(EXAMPLE.schema)
    assert hasher.fingerprint == Fingerprint.zero()
    hasher.update(pa.RecordBatch.from_pylist([], schema=EXAMPLE.schema))
    assert hasher.fingerprint == Fingerprint.zero()


def test_columns_of_nothing_but_nulls_and_empty_texts_are_covered() -> None:
    assert fingerprint(pa.nulls(5, pa.string())) == fingerprint(pa.array([None] * 5, pa.string()))
    assert fingerprint(pa.array(["", ""])).rows == 2


@pytest.mark.parametrize("inner", [*(field.type for field in EXAMPLE.schema), *(field.type for field in NESTED.schema)])
def test_lists_without_any_element_are_covered(inner: Any) -> None:
    """Also where there is no element at all in the batch, and no byte in the elements' buffers."""
    bare = pa.ListArray.from_arrays(pa.array([0, 0, 0], pa.int32()), _without_bytes(inner))
    usual = pa.ListArray.from_arrays(pa.array([0, 1, 1, 1], pa.int32()), pa.nulls(1, inner))
    assert fingerprint(bare) == fingerprint(usual.slice(1))
    assert fingerprint(bare) != fingerprint(usual.slice(0, 2))
    assert fingerprint(pa.nulls(2, pa.list_(inner))) != fingerprint(bare)


def _without_bytes(kind: pa.DataType) -> pa.Array[Any]:
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, _without_bytes(kind.storage_type))
    children = [_without_bytes(kind.field(number).type) for number in range(kind.num_fields)]
    buffers = [None, *[pa.py_buffer(b"")] * (kind.num_buffers - 1)]
    return pa.Array.from_buffers(kind, 0, buffers, children=children)


def test_intervals_must_have_all_their_numbers() -> None:
    numbers = pa.struct([(field.name, field.type) for field in INTERVAL])
    for lacking in [(None, 1, 1), (1, None, 1), (1, 1, None), (None, None, None)]:
        intervals = [(1, 1, 1), lacking, None]
        for column in (pa.array(intervals, numbers), pa.array([[], intervals], pa.list_(numbers))):
            with pytest.raises(ValueError, match="lacks"):
                fingerprint(column)


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.timestamp("ns"), pa.date64(), pa.time64("ns"), pa.time32("ms"), pa.binary(8), pa.float16(), pa.null()),
        *(pa.duration("us"), pa.month_day_nano_interval(), pa.dictionary(pa.int8(), pa.string())),
        *(pa.map_(pa.string(), pa.int64()), pa.list_view(pa.int64()), pa.list_(pa.int64(), 2)),
        *(pa.list_(pa.null()), pa.list_(pa.list_(pa.duration("us"))), pa.large_list(pa.struct([("a", pa.int64())]))),
        pa.struct([("months", pa.int32()), ("days", pa.int32())]),
        pa.struct([("days", pa.int32()), ("months", pa.int32()), ("microseconds", pa.int64())]),
        pa.struct([("months", pa.int32()), ("days", pa.int32()), ("microseconds", pa.string())]),
        pa.struct([("months", pa.int64()), ("days", pa.int64()), ("microseconds", pa.int64())]),
    ],
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
