"""The laws of the row fingerprint, and its definition once more in plain Python."""

from __future__ import annotations

import datetime as dt
import io
import itertools
import math
import struct
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from rivet_dagster.export.fingerprint import Fingerprint
from rivet_dagster.export.rowhash import RowHasher

P1, P2, P3, P4, P5 = (
    0x9E3779B185EBCA87,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
)
SEEDS = (0, 0x9E3779B97F4A7C15)
MASK = 2**64 - 1


def rot(word: int, bits: int) -> int:
    word &= MASK
    return (word << bits | word >> (64 - bits)) & MASK


def reference(families: list[str], rows: list[list[list[int] | int]]) -> Fingerprint:
    """Fingerprint of rows of cells; a cell is its words, or for NULL the number of words it would have had."""
    sums = [0, 0]
    for lane, seed in enumerate(SEEDS):
        keys = [xxhash.xxh64_intdigest(f"{n}:{family}".encode(), seed) for n, family in enumerate(families)]
        for row in rows:
            running = (seed + P5) & MASK
            for key, cell in zip(keys, row, strict=True):
                if isinstance(cell, int):
                    for _ in range(cell):
                        running = rot(running ^ (key * P5 & MASK), 11) * P1 & MASK
                else:
                    for word in cell:
                        mixed = rot((word + key) * P2, 31) * P1 & MASK
                        running = (rot(running ^ mixed, 27) * P1 + P4) & MASK
            running = (running ^ running >> 33) * P2 & MASK
            running = (running ^ running >> 29) * P3 & MASK
            sums[lane] = (sums[lane] + (running ^ running >> 32)) & MASK
    return Fingerprint(len(rows), *sums)


def _integer(value: int) -> list[int]:
    return [value & MASK]


def _float(value: float) -> list[int]:
    return [0x7FF8000000000000 if math.isnan(value) else struct.unpack("<Q", struct.pack("<d", value))[0]]


def _unscaled(scale: int, words: int) -> Callable[[Decimal], list[int]]:
    def split(value: Decimal) -> list[int]:
        sign, digits, exponent = value.as_tuple()
        assert isinstance(exponent, int)
        number = int("".join(map(str, digits))) * 10 ** (exponent + scale) * (-1 if sign else 1)
        return [number >> 64 * word & MASK for word in range(words)]

    return split


def _days(value: dt.date) -> list[int]:
    return _integer((value - dt.date(1970, 1, 1)).days)


def _microseconds(value: dt.datetime) -> list[int]:
    epoch = dt.datetime(1970, 1, 1, tzinfo=value.tzinfo)
    return _integer((value - epoch) // dt.timedelta(microseconds=1))


def _halves(value: bytes) -> list[int]:
    return list(struct.unpack("<QQ", value))


def _text(value: str) -> list[int]:
    return _binary(value.encode())


def _binary(value: bytes) -> list[int]:
    return [xxhash.xxh64_intdigest(value, 0), len(value)]


def _scaled(precision: int, scale: int) -> st.SearchStrategy[Decimal]:
    bound = 10**precision - 1
    numbers = st.integers(-bound, bound) | st.integers(-3, 3)
    return numbers.map(lambda number: Decimal((int(number < 0), tuple(map(int, str(abs(number)))), -scale)))


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=70)
# Arrow type: family, strategy of values, words of a value, number of words.
KINDS: dict[pa.DataType, tuple[str, st.SearchStrategy[Any], Callable[[Any], list[int]], int]] = {
    pa.bool_(): ("bool", st.booleans(), _integer, 1),
    pa.int16(): ("int", st.integers(-(2**15), 2**15 - 1), _integer, 1),
    pa.int32(): ("int", st.integers(-3, 3), _integer, 1),
    pa.int64(): ("int", st.integers(-(2**63), 2**63 - 1), _integer, 1),
    pa.uint64(): ("int", st.integers(0, 2**64 - 1), _integer, 1),
    pa.float32(): ("float", st.floats(width=32), _float, 1),
    pa.float64(): ("float", st.floats(), _float, 1),
    pa.decimal128(20, 3): ("decimal(3)", _scaled(20, 3), _unscaled(3, 2), 2),
    pa.decimal256(60, 30): ("decimal(30)", _scaled(60, 30), _unscaled(30, 4), 4),
    pa.date32(): ("date", st.dates(), _days, 1),
    pa.timestamp("us"): ("timestamp", st.datetimes(), _microseconds, 1),
    pa.timestamp("us", "UTC"): ("timestamptz", st.datetimes(timezones=st.just(dt.timezone.utc)), _microseconds, 1),
    pa.uuid(): ("uuid", st.binary(min_size=16, max_size=16), _halves, 2),
    pa.string(): ("text", TEXT, _text, 2),
    pa.json_(): ("text", TEXT, _text, 2),
    pa.binary(): ("binary", st.binary(max_size=70), _binary, 2),
}
Rows = list[tuple[Any, ...]]


@st.composite
def tables(draw: st.DrawFn, min_rows: int = 0, max_columns: int = 6) -> tuple[list[pa.DataType], Rows]:
    kinds = draw(st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=max_columns))
    cells = [st.one_of(st.none(), KINDS[kind][1]) for kind in kinds]
    return kinds, draw(st.lists(st.tuples(*cells), min_size=min_rows, max_size=20))


def arrow(kinds: list[pa.DataType], rows: Rows) -> pa.RecordBatch:
    arrays: list[pa.Array[Any]] = []
    for number, kind in enumerate(kinds):
        column = [row[number] for row in rows]
        if isinstance(kind, pa.BaseExtensionType):
            arrays.append(pa.ExtensionArray.from_storage(kind, pa.array(column, kind.storage_type)))
        else:
            arrays.append(pa.array(column, kind))
    return pa.RecordBatch.from_arrays(arrays, names=[f"c{number}" for number in range(len(kinds))])


def fingerprint(*batches: pa.RecordBatch) -> Fingerprint:
    hasher = RowHasher(batches[0].schema)
    for batch in batches:
        hasher.update(batch)
    return hasher.fingerprint


def cells(kinds: list[pa.DataType], row: tuple[Any, ...]) -> list[list[int] | int]:
    return [KINDS[kind][3] if value is None else KINDS[kind][2](value) for kind, value in zip(kinds, row, strict=True)]


def multiset(kinds: list[pa.DataType], rows: Rows) -> Counter[str]:
    """The rows as the definition sees them: NaN is NaN."""
    return Counter(repr(cells(kinds, row)) for row in rows)


@settings(max_examples=200, deadline=None)
@given(table=tables())
def test_it_is_what_its_definition_says(table: tuple[list[pa.DataType], Rows]) -> None:
    kinds, rows = table
    families = [KINDS[kind][0] for kind in kinds]
    assert fingerprint(arrow(kinds, rows)) == reference(families, [cells(kinds, row) for row in rows])


@settings(max_examples=100, deadline=None)
@given(table=tables(), data=st.data())
def test_the_order_of_rows_does_not_matter(table: tuple[list[pa.DataType], Rows], data: st.DataObject) -> None:
    kinds, rows = table
    assert fingerprint(arrow(kinds, data.draw(st.permutations(rows)))) == fingerprint(arrow(kinds, rows))


@settings(max_examples=100, deadline=None)
@given(table=tables(), data=st.data())
def test_batches_and_slices_do_not_matter(table: tuple[list[pa.DataType], Rows], data: st.DataObject) -> None:
    kinds, rows = table
    batch = arrow(kinds, rows)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=4)))
    edges = [0, *cuts, len(rows)]
    slices = [batch.slice(start, stop - start) for start, stop in itertools.pairwise(edges)]
    whole = fingerprint(batch)
    assert fingerprint(*slices) == whole
    assert sum(map(fingerprint, slices), Fingerprint.zero()) == whole


@settings(max_examples=100, deadline=None)
@given(table=tables(), data=st.data())
def test_large_and_view_types_do_not_matter(table: tuple[list[pa.DataType], Rows], data: st.DataObject) -> None:
    others: dict[pa.DataType, list[pa.DataType]] = {
        pa.string(): [pa.large_string(), pa.string_view()],
        pa.binary(): [pa.large_binary(), pa.binary_view()],
        pa.int16(): [pa.int32(), pa.int64()],
        pa.float32(): [pa.float64()],
    }
    kinds, rows = table
    batch = arrow(kinds, rows)
    chosen = [data.draw(st.sampled_from(others[kind])) if kind in others else kind for kind in kinds]
    columns = [
        column if column.type == kind else column.cast(kind) for column, kind in zip(batch.columns, chosen, strict=True)
    ]
    assert fingerprint(pa.RecordBatch.from_arrays(columns, names=batch.schema.names)) == fingerprint(batch)


@settings(max_examples=100, deadline=None)
@given(
    table=tables(min_rows=1),
    group=st.integers(1, 7),
    dictionary=st.booleans(),
    integers=st.booleans(),
    schema=st.booleans(),
)
def test_parquet_does_not_matter(
    table: tuple[list[pa.DataType], Rows], group: int, dictionary: bool, integers: bool, schema: bool
) -> None:
    batch = arrow(*table)
    file = io.BytesIO()
    pq.write_table(
        pa.Table.from_batches([batch]),
        file,
        row_group_size=group,
        use_dictionary=dictionary,
        store_decimal_as_integer=integers,
        store_schema=schema,
    )
    batches = list(pq.ParquetFile(io.BytesIO(file.getvalue())).iter_batches(batch_size=5))
    assert fingerprint(*batches) == fingerprint(batch)


def _changed(draw: Callable[[st.SearchStrategy[Any]], Any], kinds: list[pa.DataType], rows: Rows) -> Rows:
    """The rows with one thing done to them that somebody might wish to go unseen."""
    row, other = (draw(st.integers(0, len(rows) - 1)) for _ in range(2))
    column, second = (draw(st.integers(0, len(kinds) - 1)) for _ in range(2))
    changed = [list(cells) for cells in rows]
    deed = draw(st.sampled_from(["change", "clear", "swap in a row", "swap in a column", "double", "lose"]))
    if deed == "change":
        changed[row][column] = draw(KINDS[kinds[column]][1])
    elif deed == "clear":
        changed[row][column] = None
    elif deed == "swap in a row" and kinds[column] == kinds[second]:
        changed[row][column], changed[row][second] = changed[row][second], changed[row][column]
    elif deed == "swap in a column":
        changed[row][column], changed[other][column] = changed[other][column], changed[row][column]
    elif deed == "double":
        changed.append(changed[row])
    elif deed == "lose":
        del changed[row]
    return [tuple(cells) for cells in changed]


@settings(max_examples=300, deadline=None)
@given(table=tables(min_rows=1), data=st.data())
def test_other_rows_have_another_fingerprint(table: tuple[list[pa.DataType], Rows], data: st.DataObject) -> None:
    kinds, rows = table
    changed = _changed(data.draw, kinds, rows)
    before, after = fingerprint(arrow(kinds, rows)), fingerprint(arrow(kinds, changed))
    same = multiset(kinds, rows) == multiset(kinds, changed)
    assert (before == after) == same
    assert (before.lane0 == after.lane0) == (before.lane1 == after.lane1) == same
