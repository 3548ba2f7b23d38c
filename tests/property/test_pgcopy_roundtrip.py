"""Whatever the values, the pages and the limits: decoding gives the rows back, or says why it does not."""

from __future__ import annotations

import datetime as dt
import itertools
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from rivet_dagster.errors import SourceError
from rivet_dagster.sources.typenames import arrow_type
from rivet_dagster.wire.pgcopy import Elements, Form, WireColumn
from tests.support.batches import buffers, rows_of_batches
from tests.support.collecting import CollectingDecoder
from tests.support.pgcopy_encoder import Raw, encode_array, encode_stream, encode_tuple

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
    elements: Elements | None = None

    @property
    def encoded(self) -> str:
        """The form as the encoder spells it."""
        return f"list:{self.elements.form.value}:{self.elements.type_id}" if self.elements else self.form.value

    def column(self, name: str, *, nullable: bool, replace: bool = False) -> WireColumn:
        return WireColumn(pa.field(name, self.arrow, nullable=nullable), self.form, self.elements, replace)


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


def _interval_parts(array: pa.Array[Any]) -> list[Any]:
    return [None if value is None else tuple(value.values()) for value in _values(array)]


def _lists_of(kind: Kind) -> Callable[[pa.Array[Any]], list[Any]]:
    def read(array: pa.Array[Any]) -> list[Any]:
        assert isinstance(array, pa.ListArray)
        return [None if not value.is_valid else kind.read(value.values) if len(value) else [] for value in array]

    return read


INTERVALS = st.tuples(_signed(32), _signed(32), _signed(64)).filter(
    lambda parts: parts not in ((2**31 - 1, 2**31 - 1, 2**63 - 1), (-(2**31), -(2**31), -(2**63)))
)
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
    Kind(Form.UINT4, pa.uint32(), st.integers(0, 2**32 - 1)),
    Kind(Form.UINT8, pa.uint64(), st.integers(0, 2**64 - 1)),
    Kind(Form.TIME, pa.time64("us"), st.integers(0, 86_399_999_999), _counts(pa.int64())),
    Kind(Form.INTERVAL, arrow_type("interval"), INTERVALS, _interval_parts),
]
KINDS += [
    Kind(
        Form.LIST,
        pa.list_(pa.field("element", kind.arrow)),
        st.lists(st.one_of(st.none(), kind.values), max_size=4),
        _lists_of(kind),
        Elements(kind.form, 4_000_000_000 + number),
    )
    for number, kind in enumerate(KINDS)
]

KINDS_BY_FORM = {kind.form: kind for kind in KINDS}


@dataclass(frozen=True)
class Case:
    """A table, and how it comes."""

    kinds: list[Kind]
    nullable: list[bool]
    rows: list[tuple[Any, ...]]
    pages: list[int]

    def decoder(self, batch_bytes: int, batch_rows: int) -> CollectingDecoder:
        columns = [
            kind.column(f"c{number}", nullable=nullable)
            for number, (kind, nullable) in enumerate(zip(self.kinds, self.nullable, strict=True))
        ]
        return CollectingDecoder(columns, batch_bytes=batch_bytes, batch_rows=batch_rows)

    @property
    def forms(self) -> list[str]:
        return [kind.encoded for kind in self.kinds]

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
    sizes = (len(encode_tuple(case.forms, row)) for row in case.rows)
    paged = decode(case, case.streams(), batch_bytes, batch_rows)
    whole = decode(case, [encode_stream(case.forms, case.rows)], batch_bytes, batch_rows)
    assert [batch.num_rows for batch in paged] == rows_of_batches(sizes, batch_bytes, batch_rows)
    assert [buffers(batch) for batch in paged] == [buffers(batch) for batch in whole]


BEYOND: list[tuple[Kind, list[tuple[Any, str]]]] = [
    (_numeric(12, 2), [(Decimal("NaN"), "NaN"), (Decimal("Infinity"), "infinity"), (Decimal("-Infinity"), "infinity")]),
    (_numeric(50, 20), [(Decimal("NaN"), "NaN"), (Decimal("-Infinity"), "infinity")]),
    (KINDS_BY_FORM[Form.DATE], [("infinity", "infinity"), ("-infinity", "infinity"), (2**31, "out of range")]),
    (KINDS_BY_FORM[Form.TIMESTAMP], [("infinity", "infinity"), ("-infinity", "infinity"), (2**63, "out of range")]),
    (KINDS_BY_FORM[Form.TIME], [(86_400_000_000, "out of range")]),
    (
        KINDS_BY_FORM[Form.INTERVAL],
        [((2**31 - 1, 2**31 - 1, 2**63 - 1), "infinity"), ((-(2**31), -(2**31), -(2**63)), "infinity")],
    ),
]
BEYOND += [
    (
        Kind(Form.LIST, pa.list_(pa.field("element", kind.arrow)), st.none(), _lists_of(kind), Elements(kind.form, 7)),
        [([value], reason) for value, reason in beyond]
        + [(Raw(encode_array("int4", 7, [1, 2], bounds=[(2, 0)])), "array shape")]
        + [(Raw(encode_array("int4", 7, [1, 2, 3, 4], bounds=[(2, 1), (2, 1)])), "array shape")],
    )
    for kind, beyond in BEYOND
]


@settings(max_examples=200, deadline=None)
@given(data=st.data(), which=st.sampled_from(BEYOND), pages=st.lists(st.integers(0, 12), max_size=3))
def test_what_arrow_cannot_hold_is_replaced_and_counted_or_refused(
    data: st.DataObject, which: tuple[Kind, list[tuple[Any, str]]], pages: list[int]
) -> None:
    kind, beyond = which
    values = data.draw(st.lists(st.sampled_from([None, *beyond]), max_size=12))
    rows = [(None if value is None else value[0],) for value in values]
    case = Case([kind], [True], rows, [min(page, len(rows)) for page in pages])
    target = CollectingDecoder([kind.column("c", nullable=True, replace=True)], batch_bytes=1 << 20, batch_rows=5)
    for stream in case.streams():
        feed(target, stream)
    found = [cell for batch in target.finish() for cell in kind.read(batch.column(0))]
    # An element that is replaced leaves its array in place.
    expected = [[None] if value is not None and isinstance(value[0], list) else None for value in values]
    assert found == expected
    assert target.replaced == {
        ("c", reason): count for reason, count in Counter(value[1] for value in values if value is not None).items()
    }
    if any(value is not None for value in values):
        assert attempt(case.decoder(1 << 20, 5), encode_stream(case.forms, rows)) == "RIVET_VALUE_UNSUPPORTED"


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
