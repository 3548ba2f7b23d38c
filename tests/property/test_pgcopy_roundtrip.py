"""Whatever the values, the pages and the limits: decoding gives the rows back, or says why it does not."""

from __future__ import annotations

import datetime as dt
import itertools
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from rivet_dagster.errors import SourceError
from rivet_dagster.wire.pgcopy import Form, WireColumn
from tests.support.collecting import CollectingDecoder
from tests.support.pgcopy_encoder import encode_stream, encode_tuple

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def _values(array: pa.Array[Any]) -> list[Any]:
    return [value.as_py() for value in array]


@dataclass(frozen=True)
class Kind:
    """A column type: its values as the encoder takes them, and how to read an Arrow array back to such values."""

    form: Form
    arrow: pa.DataType
    values: st.SearchStrategy[Any]
    read: Callable[[pa.Array[Any]], list[Any]] = _values


def _counts(kind: pa.DataType) -> Callable[[pa.Array[Any]], list[Any]]:
    """Dates and timestamps as counts: most of PostgreSQL's are beyond Python's calendar."""
    return lambda array: _values(array.cast(kind))


def _float_bits(array: pa.Array[Any]) -> list[Any]:
    return [None if value is None else Bits(value) for value in _values(array)]


class Bits(float):
    """A float that equals another one by its bits: NaN is NaN, -0.0 is not 0.0."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and struct.pack(">d", self) == struct.pack(">d", other)

    __hash__ = float.__hash__


def _signed(bits: int) -> st.SearchStrategy[int]:
    least, greatest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return st.one_of(st.integers(least, greatest), st.sampled_from([least, -1, 0, 1, greatest]))


@st.composite
def _decimals(draw: st.DrawFn, precision: int, scale: int) -> Decimal:
    """Numbers of any size that fit, those at the edges and those of a few digits anywhere among them."""
    bound = 10**precision - 1
    digits = draw(st.integers(1, precision))
    zeros = draw(st.integers(0, precision - digits))
    unscaled = draw(
        st.one_of(
            st.integers(-bound, bound),
            st.sampled_from([-bound, -1, 0, 1, bound]),
            st.integers(-(10**digits) + 1, 10**digits - 1).map(lambda number: number * 10**zeros),
        )
    )
    sign = int(unscaled < 0)
    return Decimal((sign, tuple(map(int, str(abs(unscaled)))), -scale))


def _numeric(precision: int, scale: int) -> Kind:
    arrow = pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)
    return Kind(Form.NUMERIC, arrow, _decimals(precision, scale))


SHIFT = 946_684_800_000_000
FLOAT4 = st.floats(width=32).map(Bits)
KINDS = [
    Kind(Form.BOOL, pa.bool_(), st.booleans()),
    Kind(Form.INT2, pa.int16(), _signed(16)),
    Kind(Form.INT4, pa.int32(), _signed(32)),
    Kind(Form.INT8, pa.int64(), _signed(64)),
    Kind(Form.FLOAT4, pa.float32(), FLOAT4, _float_bits),
    Kind(Form.FLOAT8, pa.float64(), st.floats().map(Bits), _float_bits),
    *(
        _numeric(precision, scale)
        for precision in (1, 4, 12, 18, 19, 38, 39, 76)
        for scale in {0, precision // 3, precision}
    ),
    Kind(Form.DATE, pa.date32(), st.integers(-(2**31) + 10_958, 2**31 - 1), _counts(pa.int32())),
    Kind(Form.TIMESTAMP, pa.timestamp("us"), st.integers(-(2**63) + SHIFT + 1, 2**63 - 1), _counts(pa.int64())),
    Kind(Form.TIMESTAMP, pa.timestamp("us", "UTC"), st.datetimes(timezones=st.just(dt.timezone.utc))),
    Kind(Form.UUID, pa.uuid(), st.uuids()),
    Kind(Form.BYTES, pa.string(), TEXT),
    Kind(Form.BYTES, pa.binary(), st.binary(max_size=40)),
    Kind(Form.BYTES, pa.json_(), TEXT),
    Kind(Form.JSONB, pa.json_(), TEXT),
]


@dataclass(frozen=True)
class Case:
    """A table, and how it comes."""

    kinds: list[Kind]
    nullable: list[bool]
    rows: list[tuple[Any, ...]]
    pages: list[int]

    def decoder(self, batch_bytes: int, batch_rows: int) -> CollectingDecoder:
        columns = [
            WireColumn(pa.field(f"c{number}", kind.arrow, nullable=nullable), kind.form)
            for number, (kind, nullable) in enumerate(zip(self.kinds, self.nullable, strict=True))
        ]
        return CollectingDecoder(columns, batch_bytes=batch_bytes, batch_rows=batch_rows)

    @property
    def forms(self) -> list[str]:
        return [kind.form.value for kind in self.kinds]

    def streams(self) -> list[bytes]:
        """A stream for each page; pages may be empty."""
        edges = [0, *sorted(self.pages), len(self.rows)]
        return [encode_stream(self.forms, self.rows[start:stop]) for start, stop in itertools.pairwise(edges)]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=6))
    nullable = draw(st.lists(st.booleans(), min_size=len(kinds), max_size=len(kinds)))
    cells = [
        st.one_of(st.none(), kind.values) if allowed else kind.values
        for kind, allowed in zip(kinds, nullable, strict=True)
    ]
    rows = draw(st.lists(st.tuples(*cells), max_size=20))
    pages = draw(st.lists(st.integers(0, len(rows)), max_size=4))
    return Case(kinds, nullable, rows, pages)


def feed(decoder: CollectingDecoder, stream: bytes) -> int:
    return decoder.feed(np.frombuffer(bytearray(stream), np.uint8), len(stream))


def attempt(decoder: CollectingDecoder, stream: bytes) -> list[pa.RecordBatch] | str:
    """The batches, or the code of the error."""
    try:
        feed(decoder, stream)
        return list(decoder.finish())
    except SourceError as error:
        return error.code


def decode(case: Case, streams: Sequence[bytes], batch_bytes: int, batch_rows: int) -> list[pa.RecordBatch]:
    decoder = case.decoder(batch_bytes, batch_rows)
    batches: list[pa.RecordBatch] = []
    for stream in streams:
        feed(decoder, stream)
        batches.extend(decoder.take_batches())
    batches.extend(decoder.finish())
    return batches


LIMITS = {"batch_bytes": st.integers(1, 2000), "batch_rows": st.integers(1, 25)}


@settings(max_examples=200, deadline=None)
@given(case=cases(), **LIMITS)
def test_rows_come_back_as_they_were(case: Case, batch_bytes: int, batch_rows: int) -> None:
    batches = decode(case, case.streams(), batch_bytes, batch_rows)
    for batch in batches:
        batch.validate(full=True)
    for number, kind in enumerate(case.kinds):
        found = [value for batch in batches for value in kind.read(batch.column(number))]
        assert found == [row[number] for row in case.rows]


@settings(max_examples=100, deadline=None)
@given(case=cases(), **LIMITS)
def test_batches_end_where_the_rows_say(case: Case, batch_bytes: int, batch_rows: int) -> None:
    expected: list[int] = []
    size = count = 0
    for row in case.rows:
        size, count = size + len(encode_tuple(case.forms, row)), count + 1
        if size >= batch_bytes or count == batch_rows:
            expected.append(count)
            size = count = 0
    expected += [count] * bool(count)
    paged = decode(case, case.streams(), batch_bytes, batch_rows)
    whole = decode(case, [encode_stream(case.forms, case.rows)], batch_bytes, batch_rows)
    assert [batch.num_rows for batch in paged] == expected
    assert [buffers(batch) for batch in paged] == [buffers(batch) for batch in whole]


def buffers(batch: pa.RecordBatch) -> list[bytes | None]:
    return [None if part is None else part.to_pybytes() for column in batch.columns for part in column.buffers()]


@settings(max_examples=100, deadline=None)
@given(case=cases(), length=st.integers(0), batch_rows=st.integers(1, 25))
def test_a_page_cut_short_is_refused(case: Case, length: int, batch_rows: int) -> None:
    *before, last = case.streams()
    decoder = case.decoder(1 << 20, batch_rows)
    for stream in before:
        feed(decoder, stream)
    assert attempt(decoder, last[: length % len(last)]) == "RIVET_PROTOCOL_ERROR"


@settings(max_examples=200, deadline=None)
@given(case=cases(), damage=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=6))
def test_damaged_pages_are_refused_or_give_sound_batches(case: Case, damage: list[tuple[int, int]]) -> None:
    """Kernels check no bounds, so what they are led to must have been checked before: this ends in no crash."""
    stream = bytearray(encode_stream(case.forms, case.rows))
    for place, value in damage:
        stream[place % len(stream)] = value
    outcome = attempt(case.decoder(1 << 20, 7), bytes(stream))
    if isinstance(outcome, str):
        assert outcome in {"RIVET_PROTOCOL_ERROR", "RIVET_VALUE_UNSUPPORTED"}
    else:
        for batch in outcome:
            batch.validate(full=True)


@settings(max_examples=300, deadline=None)
@given(
    digits=st.integers(1, 90),
    number=st.integers(0, 10**90 - 1),
    negative=st.booleans(),
    exponent=st.integers(-100, 60),
    target=st.tuples(st.integers(1, 76), st.integers(-10, 76)).filter(lambda target: target[1] <= target[0]),
)
def test_numerics_fit_exactly_or_not_at_all(
    digits: int, number: int, negative: bool, exponent: int, target: tuple[int, int]
) -> None:
    precision, scale = target
    number %= 10**digits
    value = Decimal((int(negative), tuple(map(int, str(number))), exponent))
    shift = exponent + scale
    unscaled, lost = (number * 10**shift, 0) if shift >= 0 else divmod(number, 10**-shift)
    arrow = pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)
    case = Case([Kind(Form.NUMERIC, arrow, st.none())], [True], [(value,)], [])
    outcome = attempt(case.decoder(1, 1), *case.streams())
    if lost or unscaled >= 10**precision:
        assert outcome == "RIVET_VALUE_UNSUPPORTED"
    else:
        assert isinstance(outcome, list)
        (_, words) = outcome[0].column(0).buffers()
        assert words is not None
        found = int.from_bytes(words.to_pybytes(), "little", signed=True)
        assert found == (-unscaled if negative else unscaled)
