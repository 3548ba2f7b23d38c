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
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from rivet_dagster.export.fingerprint import Fingerprint
from rivet_dagster.export.rowhash import RowHasher, add_columns

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


# A cell is its words, or for NULL the number of words it would have had, or for a list the cells of its elements.
Cell: TypeAlias = "list[int] | int | tuple[Cell, ...]"


def reference(families: list[str], rows: list[list[Cell]]) -> Fingerprint:
    """Fingerprint of rows of cells."""
    columns = [f"{number}:{family}" for number, family in enumerate(families)]
    return Fingerprint(len(rows), *(sum(row_hash(seed, columns, row) for row in rows) & MASK for seed in SEEDS))


def row_hash(seed: int, columns: list[str], row: list[Cell]) -> int:
    running = (seed + P5) & MASK
    for column, cell in zip(columns, row, strict=True):
        key = xxhash.xxh64_intdigest(column.encode(), seed)
        if isinstance(cell, int):
            for _ in range(cell):
                running = rot(running ^ (key * P5 & MASK), 11) * P1 & MASK
        else:
            for word in list_words(column, cell) if isinstance(cell, tuple) else cell:
                running = step(running, word + key)
    running = (running ^ running >> 33) * P2 & MASK
    running = (running ^ running >> 29) * P3 & MASK
    return running ^ running >> 32


def list_words(column: str, elements: tuple[Cell, ...]) -> list[int]:
    words = []
    for seed in SEEDS:
        folded = (seed + P5) & MASK
        for element in elements:
            folded = step(folded, row_hash(seed, [column], [element]))
        words.append(folded)
    return [*words, len(elements)]


def step(running: int, word: int) -> int:
    return (rot(running ^ (rot(word * P2, 31) * P1 & MASK), 27) * P1 + P4) & MASK


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


def _three(value: dict[str, int]) -> list[int]:
    return [value[name] & MASK for name in ("months", "days", "microseconds")]


def _scaled(precision: int, scale: int) -> st.SearchStrategy[Decimal]:
    bound = 10**precision - 1
    numbers = st.integers(-bound, bound) | st.integers(-3, 3)
    return numbers.map(lambda number: Decimal((int(number < 0), tuple(map(int, str(abs(number)))), -scale)))


def _signed(bits: int) -> st.SearchStrategy[int]:
    return st.integers(-3, 3) | st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _interval(*, nullable: bool) -> pa.StructType:
    numbers = {"months": pa.int32(), "days": pa.int32(), "microseconds": pa.int64()}
    return pa.struct([pa.field(name, kind, nullable=nullable) for name, kind in numbers.items()])


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
    # PostgreSQL has 24:00:00 too, Python has not.
    pa.time64("us"): ("time", st.integers(0, 86_400_000_000), _integer, 1),
    pa.timestamp("us"): ("timestamp", st.datetimes(), _microseconds, 1),
    pa.timestamp("us", "UTC"): ("timestamptz", st.datetimes(timezones=st.just(dt.timezone.utc)), _microseconds, 1),
    pa.uuid(): ("uuid", st.binary(min_size=16, max_size=16), _halves, 2),
    pa.string(): ("text", TEXT, _text, 2),
    pa.json_(): ("text", TEXT, _text, 2),
    pa.binary(): ("binary", st.binary(max_size=70), _binary, 2),
    _interval(nullable=False): (
        "interval",
        st.fixed_dictionaries({"months": _signed(32), "days": _signed(32), "microseconds": _signed(64)}),
        _three,
        3,
    ),
}
LISTS: list[pa.DataType] = [
    *map(pa.list_, KINDS),
    *(pa.list_(pa.list_(kind)) for kind in (pa.int32(), pa.bool_(), pa.string(), pa.uuid(), _interval(nullable=False))),
    pa.list_(pa.list_(pa.list_(pa.int32()))),
]
# Types of the same family that hold the same values.
OTHERS: dict[pa.DataType, list[pa.DataType]] = {
    pa.string(): [pa.large_string(), pa.string_view(), pa.json_()],
    pa.json_(): [pa.string(), pa.string_view()],
    pa.binary(): [pa.large_binary(), pa.binary_view()],
    pa.int16(): [pa.int32(), pa.int64()],
    pa.float32(): [pa.float64()],
    pa.decimal128(20, 3): [pa.decimal128(38, 3)],
    pa.timestamp("us", "UTC"): [pa.timestamp("us", "Asia/Tokyo")],
    pa.uuid(): [pa.binary(16)],
    _interval(nullable=False): [_interval(nullable=True)],
}
Rows = list[tuple[Any, ...]]
Table = tuple[list[pa.DataType], Rows]
Draw = Callable[[st.SearchStrategy[Any]], Any]


def element(kind: pa.DataType) -> pa.DataType | None:
    """The elements' type of a type of lists."""
    return kind.value_type if isinstance(kind, pa.ListType | pa.LargeListType) else None


def family(kind: pa.DataType) -> str:
    inner = element(kind)
    return KINDS[kind][0] if inner is None else f"list({family(inner)})"


def values(kind: pa.DataType) -> st.SearchStrategy[Any]:
    inner = element(kind)
    return KINDS[kind][1] if inner is None else st.lists(st.none() | values(inner), max_size=4)


def cell(kind: pa.DataType, value: Any) -> Cell:
    inner = element(kind)
    if inner is None:
        return KINDS[kind][3] if value is None else KINDS[kind][2](value)
    return 3 if value is None else tuple(cell(inner, each) for each in value)


@st.composite
def tables(draw: st.DrawFn, min_rows: int = 0, max_columns: int = 6) -> Table:
    kind = st.sampled_from(list(KINDS)) | st.sampled_from(LISTS)
    kinds = draw(st.lists(kind, min_size=1, max_size=max_columns))
    row = st.tuples(*(st.none() | values(kind) for kind in kinds))
    return kinds, draw(st.lists(row, min_size=min_rows, max_size=20))


@st.composite
def tables_of_lists(draw: st.DrawFn) -> Table:
    """One type of lists, in one column or in two next to each other."""
    kinds = [draw(st.sampled_from(LISTS))] * draw(st.integers(1, 2))
    row = st.tuples(*(st.none() | values(kind) for kind in kinds))
    return kinds, draw(st.lists(row, min_size=1, max_size=6))


def build(kind: pa.DataType, column: list[Any], before: int = 0) -> pa.Array[Any]:
    """The values as an array of `kind`; each array in it starts `before` values after its buffers do.

    Other values of the column stand there, and under NULL lists.
    """
    others = (column[::-1] * before)[:before]
    return _build(kind, [*others, *column], before).slice(len(others))


def _build(kind: pa.DataType, column: list[Any], before: int) -> pa.Array[Any]:
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, build(kind.storage_type, column, before))
    nulls = pa.array([value is None for value in column], pa.bool_())
    if isinstance(kind, pa.StructType):
        numbers = [
            build(field.type, [0 if value is None else value[field.name] for value in column], before) for field in kind
        ]
        return pa.StructArray.from_arrays(numbers, fields=list(kind), mask=nulls)
    if not isinstance(kind, pa.ListType | pa.LargeListType):
        return pa.array(column, kind)
    hidden: list[Any] = next((value for value in column if value), []) if before else []
    lists = [hidden if value is None else value for value in column]
    elements = build(kind.value_type, list(itertools.chain.from_iterable(lists)), before)
    ends = [0, *itertools.accumulate(map(len, lists))]
    if isinstance(kind, pa.ListType):
        return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), elements, type=kind, mask=nulls)
    return pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), elements, type=kind, mask=nulls)


def arrow(kinds: list[pa.DataType], rows: Rows, before: int = 0) -> pa.RecordBatch:
    arrays = [build(kind, [row[number] for row in rows], before) for number, kind in enumerate(kinds)]
    return pa.RecordBatch.from_arrays(arrays, names=[f"c{number}" for number in range(len(kinds))])


def fingerprint(*batches: pa.RecordBatch) -> Fingerprint:
    hasher = RowHasher(batches[0].schema)
    for batch in batches:
        hasher.update(batch)
    return hasher.fingerprint


def cells(kinds: list[pa.DataType], row: tuple[Any, ...]) -> list[Cell]:
    return [cell(kind, value) for kind, value in zip(kinds, row, strict=True)]


def multiset(kinds: list[pa.DataType], rows: Rows) -> Counter[str]:
    """The rows as the definition sees them: NaN is NaN."""
    return Counter(repr(cells(kinds, row)) for row in rows)


@settings(max_examples=200, deadline=None)
@given(table=tables())
def test_it_is_what_its_definition_says(table: Table) -> None:
    kinds, rows = table
    assert fingerprint(arrow(kinds, rows)) == reference(list(map(family, kinds)), [cells(kinds, row) for row in rows])


@settings(max_examples=100, deadline=None)
@given(table=tables(), data=st.data())
def test_the_order_of_rows_does_not_matter(table: Table, data: st.DataObject) -> None:
    kinds, rows = table
    assert fingerprint(arrow(kinds, data.draw(st.permutations(rows)))) == fingerprint(arrow(kinds, rows))


@settings(max_examples=100, deadline=None)
@given(table=tables(), data=st.data())
def test_batches_and_slices_do_not_matter(table: Table, data: st.DataObject) -> None:
    kinds, rows = table
    batch = arrow(kinds, rows)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=4)))
    edges = [0, *cuts, len(rows)]
    slices = [batch.slice(start, stop - start) for start, stop in itertools.pairwise(edges)]
    whole = fingerprint(batch)
    assert fingerprint(*slices) == whole
    assert sum(map(fingerprint, slices), Fingerprint.zero()) == whole


@settings(max_examples=150, deadline=None)
@given(table=tables(), before=st.integers(1, 9), data=st.data())
def test_where_arrays_start_does_not_matter(table: Table, before: int, data: st.DataObject) -> None:
    kinds, rows = table
    start = data.draw(st.integers(0, len(rows)))
    shifted = arrow(kinds, rows, before).slice(start)
    assert fingerprint(shifted) == fingerprint(arrow(kinds, rows[start:]))


def _other(draw: Draw, kind: pa.DataType) -> Any:
    inner = element(kind)
    if inner is None:
        return draw(st.sampled_from([kind, *OTHERS.get(kind, [])]))
    field = pa.field(draw(st.sampled_from(["item", "element"])), _other(draw, inner))
    return draw(st.sampled_from([pa.list_, pa.large_list]))(field)


@settings(max_examples=150, deadline=None)
@given(table=tables(), data=st.data())
def test_large_and_view_types_do_not_matter(table: Table, data: st.DataObject) -> None:
    kinds, rows = table
    chosen = [_other(data.draw, kind) for kind in kinds]
    assert fingerprint(arrow(chosen, rows)) == fingerprint(arrow(kinds, rows))


@settings(max_examples=100, deadline=None)
@given(
    table=tables(min_rows=1),
    group=st.integers(1, 7),
    dictionary=st.booleans(),
    integers=st.booleans(),
    schema=st.booleans(),
)
def test_parquet_does_not_matter(table: Table, group: int, dictionary: bool, integers: bool, schema: bool) -> None:
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


def _changed(draw: Draw, kinds: list[pa.DataType], rows: Rows) -> Rows:
    """The rows with one thing done to them that somebody might wish to go unseen."""
    row, other = (draw(st.integers(0, len(rows) - 1)) for _ in range(2))
    column, second = (draw(st.integers(0, len(kinds) - 1)) for _ in range(2))
    changed = [list(cells) for cells in rows]
    deed = draw(st.sampled_from(["change", "clear", "swap in a row", "swap in a column", "double", "lose"]))
    if deed == "change":
        changed[row][column] = draw(values(kinds[column]))
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


def _changed_list(draw: Draw, kind: pa.DataType, old: list[Any] | None) -> list[Any] | None:
    """A list with one thing done to it."""
    inner = element(kind)
    assert inner is not None
    deed = draw(st.sampled_from(["null", "empty", "one null", "change", "clear", "swap", "double", "lose", "within"]))
    new = list(old or [])
    first, second = (draw(st.integers(0, max(len(new) - 1, 0))) for _ in range(2))
    if deed in ("null", "empty", "one null"):
        return {"null": None, "empty": [], "one null": [None]}[deed]
    if not new:
        return [draw(st.none() | values(inner))]
    if deed == "change":
        new[first] = draw(values(inner))
    elif deed == "clear":
        new[first] = None
    elif deed == "swap":
        new[first], new[second] = new[second], new[first]
    elif deed == "double":
        new.insert(second, new[first])
    elif deed == "lose":
        del new[first]
    elif deed == "within" and element(inner) is not None:
        new[first] = _changed_list(draw, inner, new[first])
    return new


def _moved(draw: Draw, lists: list[list[Any] | None]) -> list[list[Any] | None]:
    """The lists with an element gone from the end of one to the front of the next."""
    place = draw(st.integers(0, len(lists) - 1))
    giver, taker = lists[place], lists[(place + 1) % len(lists)]
    if not giver or taker is None or giver is taker:
        return lists
    moved = list(lists)
    moved[place], moved[(place + 1) % len(lists)] = giver[:-1], [giver[-1], *taker]
    return moved


@settings(max_examples=300, deadline=None)
@given(table=tables_of_lists(), data=st.data())
def test_other_lists_have_another_fingerprint(table: Table, data: st.DataObject) -> None:
    kinds, rows = table
    inner, lists = element(kinds[0]), [value for row in rows for value in row]
    place = data.draw(st.integers(0, len(lists) - 1))
    deed = data.draw(st.sampled_from(["change", "move", "move within"]))
    if deed == "change":
        lists[place] = _changed_list(data.draw, kinds[0], lists[place])
    elif deed == "move":
        lists = _moved(data.draw, lists)
    elif lists[place] and inner is not None and element(inner) is not None:
        lists[place] = _moved(data.draw, lists[place])
    _compare(kinds, rows, list(zip(*[iter(lists)] * len(kinds), strict=True)))


@settings(max_examples=300, deadline=None)
@given(table=tables(min_rows=1), data=st.data())
def test_other_rows_have_another_fingerprint(table: Table, data: st.DataObject) -> None:
    kinds, rows = table
    _compare(kinds, rows, _changed(data.draw, kinds, rows))


def _compare(kinds: list[pa.DataType], rows: Rows, changed: Rows) -> None:
    """Hold that the fingerprints of the two are equal in each lane just if the rows are."""
    before, after = fingerprint(arrow(kinds, rows)), fingerprint(arrow(kinds, changed))
    same = multiset(kinds, rows) == multiset(kinds, changed)
    assert (before == after) == same
    assert (before.lane0 == after.lane0) == (before.lane1 == after.lane1) == same


# --------------------------------------------------------------------------------------------------- columns


def checksums(*batches: pa.RecordBatch) -> tuple[str, ...]:
    hasher = RowHasher(batches[0].schema)
    for batch in batches:
        hasher.update(batch)
    return hasher.take_columns()


@settings(max_examples=200, deadline=None)
@given(table=tables(), before=st.integers(0, 9))
def test_checksums_of_columns_are_what_they_are_said_to_be(table: Table, before: int) -> None:
    """Lane 0 of rows that have nothing but the column, in its place."""
    kinds, rows = table
    expected = []
    for number, kind in enumerate(kinds):
        column = f"{number}:{family(kind)}"
        hashes = [row_hash(SEEDS[0], [column], [cell(kind, row[number])]) for row in rows]
        expected.append(f"{sum(hashes) & MASK:016x}")
    assert checksums(arrow(kinds, rows, before)) == tuple(expected)


@settings(max_examples=100, deadline=None)
@given(table=tables(), data=st.data())
def test_order_and_parts_do_not_matter_to_columns(table: Table, data: st.DataObject) -> None:
    kinds, rows = table
    whole = checksums(arrow(kinds, rows))
    mixed = arrow(kinds, data.draw(st.permutations(rows)))
    cut = data.draw(st.integers(0, len(rows)))
    parts = [mixed.slice(0, cut), mixed.slice(cut)]
    assert checksums(*parts) == add_columns(map(checksums, parts)) == whole


@settings(max_examples=300, deadline=None)
@given(table=tables(min_rows=1), data=st.data())
def test_exactly_the_columns_with_other_values_have_another_checksum(table: Table, data: st.DataObject) -> None:
    kinds, rows = table
    changed = _changed(data.draw, kinds, rows)
    before, after = checksums(arrow(kinds, rows)), checksums(arrow(kinds, changed))
    for number, kind in enumerate(kinds):
        old, new = ([(row[number],) for row in some] for some in (rows, changed))
        assert (before[number] == after[number]) == (multiset([kind], old) == multiset([kind], new))


@settings(max_examples=100, deadline=None)
@given(table=tables(), data=st.data())
def test_some_columns_have_the_checksums_that_they_have_among_all(table: Table, data: st.DataObject) -> None:
    batch = arrow(*table)
    whole = checksums(batch)
    numbers = sorted(data.draw(st.sets(st.integers(0, batch.num_columns - 1))))
    hasher = RowHasher(batch.select(numbers).schema, numbers)
    hasher.update(batch.select(numbers))
    assert hasher.take_columns() == tuple(whole[number] for number in numbers)
