"""Whatever MySQL's rows, the pages and the limits: decoding gives the rows back, or says why it does not."""

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
from rivet_dagster.wire import mysqlrows
from rivet_dagster.wire.mysqlrows import ANY_SIZE, Form, RowDecoder, WireColumn, scan_packets
from tests.support.batches import buffers, rows_of_batches
from tests.support.mysqlrows_decoding import copied
from tests.support.mysqlrows_encoder import Raw, encode_page, encode_row, encode_text

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
DAY = 86_400_000_000
EPOCH = dt.datetime(1970, 1, 1)
# Python's calendar has no year 0, which is as long as 2000.
YEAR_ZERO_DAYS = 366


class Bits(float):
    """A float that equals another one by its bits: NaN is NaN, -0.0 is not 0.0."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and struct.pack(">d", self) == struct.pack(">d", other)

    __hash__ = float.__hash__


def _values(array: pa.Array[Any]) -> list[Any]:
    return array.to_pylist()


def _float_bits(array: pa.Array[Any]) -> list[Any]:
    return [None if value is None else Bits(value) for value in _values(array)]


@dataclass(frozen=True)
class Kind:
    """A column type: its values as the encoder takes them, and how to read an Arrow array back to such values."""

    form: Form
    arrow: pa.DataType
    values: st.SearchStrategy[Any]
    read: Callable[[pa.Array[Any]], list[Any]] = _values

    def column(self, name: str, *, nullable: bool, replace: bool = False) -> WireColumn:
        return WireColumn(pa.field(name, self.arrow, nullable=nullable), self.form, replace)


def _integers(form: Form, bits: int) -> list[Kind]:
    found = []
    for least, arrow in ((-(2 ** (bits - 1)), f"int{bits}"), (0, f"uint{bits}")):
        greatest = least + 2**bits - 1
        values = st.one_of(st.integers(least, greatest), st.sampled_from([least, 0, 1, greatest]))
        found.append(Kind(form, getattr(pa, arrow)(), values))
    return found


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
    return Decimal((int(unscaled < 0), tuple(map(int, str(abs(unscaled)))), -scale))


def _decimal(precision: int, scale: int) -> Kind:
    arrow = pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)
    return Kind(Form.DECIMAL, arrow, _decimals(precision, scale))


def _years(parts: Callable[[dt.datetime], tuple[int, ...]]) -> st.SearchStrategy[tuple[int, ...]]:
    """Moments as tuples of parts; those of the year 400 stand for the year 0, which has the same days."""
    return st.one_of(st.datetimes(), st.datetimes(dt.datetime(400, 1, 1), dt.datetime(400, 12, 31))).map(
        lambda moment: (0 if moment.year == 400 else moment.year, *parts(moment)[1:])
    )


def _moment_of(count: int) -> tuple[int, ...]:
    """The parts of a moment given in microseconds since 1970-01-01."""
    days, clock = divmod(count, DAY)
    first = (dt.datetime(1, 1, 1) - EPOCH).days
    year = None
    if days < first:
        year, days = 0, days + YEAR_ZERO_DAYS - first + (dt.datetime(400, 1, 1) - EPOCH).days
    moment = EPOCH + dt.timedelta(days, 0, clock)
    return (moment.year if year is None else year, *moment.timetuple()[1:6], moment.microsecond)


def _read_moments(array: pa.Array[Any]) -> list[Any]:
    return [None if count is None else _moment_of(count) for count in _values(array.cast(pa.int64()))]


def _read_dates(array: pa.Array[Any]) -> list[Any]:
    return [None if days is None else _moment_of(days * DAY)[:3] for days in _values(array.cast(pa.int32()))]


def _counts(array: pa.Array[Any]) -> list[Any]:
    return _values(array.cast(pa.int64()))


MOMENTS = _years(lambda moment: (*moment.timetuple()[:6], moment.microsecond))
KINDS = [
    Kind(Form.BOOL, pa.bool_(), st.booleans()),
    *_integers(Form.INT1, 8),
    *_integers(Form.INT2, 16),
    *_integers(Form.INT4, 32),
    *_integers(Form.INT8, 64),
    Kind(Form.FLOAT4, pa.float32(), st.floats(width=32).map(Bits), _float_bits),
    Kind(Form.FLOAT8, pa.float64(), st.floats().map(Bits), _float_bits),
    *(
        _decimal(precision, scale)
        for precision in (1, 4, 9, 12, 16, 17, 18, 19, 38, 39, 65, 76)
        for scale in {0, precision // 3, precision}
    ),
    Kind(Form.DATE, pa.date32(), _years(lambda moment: moment.timetuple()[:3]), _read_dates),
    Kind(Form.DATETIME, pa.timestamp("us"), MOMENTS, _read_moments),
    Kind(Form.DATETIME, pa.timestamp("us", "UTC"), MOMENTS, _read_moments),
    Kind(Form.TIME, pa.time64("us"), st.integers(0, DAY - 1), _counts),
    Kind(Form.BIT, pa.uint64(), st.integers(0, 2**64 - 1)),
    Kind(Form.BIT, pa.bool_(), st.booleans()),
    Kind(Form.UUID, pa.uuid(), st.uuids()),
    Kind(Form.BYTES, pa.string(), TEXT),
    Kind(Form.BYTES, pa.binary(), st.one_of(st.binary(max_size=40), st.binary(min_size=245, max_size=260))),
    Kind(Form.BYTES, pa.json_(), TEXT),
]


@dataclass(frozen=True)
class Case:
    """A table, and how it comes."""

    kinds: list[Kind]
    nullable: list[bool]
    rows: list[tuple[Any, ...]]
    pages: list[int]

    def decoder(self, batch_bytes: int, batch_rows: int) -> RowDecoder:
        columns = [
            kind.column(f"c{number}", nullable=nullable)
            for number, (kind, nullable) in enumerate(zip(self.kinds, self.nullable, strict=True))
        ]
        return RowDecoder(columns, batch_bytes=batch_bytes, batch_rows=batch_rows)

    @property
    def forms(self) -> list[str]:
        return [kind.form.value for kind in self.kinds]

    def encoded(self) -> list[bytes]:
        """The packets of each page; pages may be empty."""
        edges = [0, *sorted(self.pages), len(self.rows)]
        return [encode_page(self.forms, self.rows[start:stop]) for start, stop in itertools.pairwise(edges)]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=9))
    nullable = draw(st.lists(st.booleans(), min_size=len(kinds), max_size=len(kinds)))
    cells = [
        st.one_of(st.none(), kind.values) if allowed else kind.values
        for kind, allowed in zip(kinds, nullable, strict=True)
    ]
    rows = draw(st.lists(st.tuples(*cells), max_size=20))
    pages = draw(st.lists(st.integers(0, len(rows)), max_size=4))
    return Case(kinds, nullable, rows, pages)


def feed(decoder: RowDecoder, rows: bytes) -> list[pa.RecordBatch]:
    return copied(decoder.decode(np.frombuffer(bytearray(rows), np.uint8), len(rows)))


def decode(case: Case, pages: Sequence[bytes], batch_bytes: int, batch_rows: int) -> list[pa.RecordBatch]:
    decoder = case.decoder(batch_bytes, batch_rows)
    batches = [batch for page in pages for batch in feed(decoder, page)]
    return batches + copied(decoder.finish())


def attempt(decoder: RowDecoder, rows: bytes) -> list[pa.RecordBatch] | str:
    """The batches, or the code of the error."""
    try:
        return feed(decoder, rows) + copied(decoder.finish())
    except SourceError as error:
        return error.code


LIMITS = {"batch_bytes": st.integers(1, 2000), "batch_rows": st.integers(1, 25)}


@settings(max_examples=200, deadline=None)
@given(case=cases(), **LIMITS)
def test_rows_come_back_as_they_were(case: Case, batch_bytes: int, batch_rows: int) -> None:
    batches = decode(case, case.encoded(), batch_bytes, batch_rows)
    for batch in batches:
        batch.validate(full=True)
    for number, kind in enumerate(case.kinds):
        found = [value for batch in batches for value in kind.read(batch.column(number))]
        assert found == [row[number] for row in case.rows]


@settings(max_examples=100, deadline=None)
@given(case=cases(), **LIMITS)
def test_batches_end_where_the_rows_say(case: Case, batch_bytes: int, batch_rows: int) -> None:
    sizes = (len(encode_row(case.forms, row)) for row in case.rows)
    paged = decode(case, case.encoded(), batch_bytes, batch_rows)
    whole = decode(case, [encode_page(case.forms, case.rows)], batch_bytes, batch_rows)
    assert [batch.num_rows for batch in paged] == rows_of_batches(sizes, batch_bytes, batch_rows)
    assert [buffers(batch) for batch in paged] == [buffers(batch) for batch in whole]


@settings(max_examples=100, deadline=None)
@given(case=cases())
def test_the_last_row_is_that_of_the_last_page(case: Case) -> None:
    decoder = case.decoder(1 << 20, 7)
    pages = case.encoded()
    for page in pages:
        feed(decoder, page)
    if not pages[-1]:
        return
    # What the encoder wrote before a value is its length, if anything.
    for form, value, wire in zip(case.forms, case.rows[-1], decoder.last_row(range(len(case.kinds))), strict=True):
        whole = None if value is None else encode_row([form], [value])[2:]
        if wire is None or whole is None:
            assert wire is whole
        else:
            assert whole in (wire, encode_text(wire))


# Parts of a date as the wire has them, whether or not they are one.
PARTS = st.tuples(
    st.sampled_from([0, 1, 1900, 2000, 2023, 2024, 9999]),
    st.sampled_from([0, 1, 2, 4, 12, 13, 255]),
    st.sampled_from([0, 1, 28, 29, 30, 31, 32, 255]),
)


def date_reason(parts: tuple[int, ...]) -> str | None:
    """Why the parts are no date that Arrow could hold, by Python's calendar."""
    year, month, day = parts[:3]
    if month == 0 or day == 0:
        return "zero date"
    try:
        dt.date(year or 400, month, day)
    except ValueError:
        return "invalid date"
    return None


def time_reason(microseconds: int) -> str | None:
    return None if 0 <= microseconds < DAY else "out of range"


def bit_reason(value: int) -> str | None:
    return None if 0 <= value <= 1 else "out of range"


TIMES = st.one_of(st.integers(-839 * DAY // 24, 839 * DAY // 24), st.sampled_from([-1, 0, DAY - 1, DAY]))
BEYOND: list[tuple[Kind, Callable[[Any], str | None]]] = [
    (Kind(Form.DATE, pa.date32(), PARTS, _read_dates), date_reason),
    (
        Kind(Form.DATETIME, pa.timestamp("us"), PARTS.map(lambda parts: (*parts, 12, 34, 56, 789)), _read_moments),
        date_reason,
    ),
    (Kind(Form.TIME, pa.time64("us"), TIMES, _counts), time_reason),
    (Kind(Form.BIT, pa.bool_(), st.sampled_from([0, 1, 2, 255, 256, 2**64 - 1])), bit_reason),
    (Kind(Form.BOOL, pa.bool_(), st.sampled_from([-128, -1, 0, 1, 2, 127])), bit_reason),
]


@settings(max_examples=300, deadline=None)
@given(data=st.data(), which=st.sampled_from(BEYOND), pages=st.lists(st.integers(0, 12), max_size=3))
def test_what_arrow_cannot_hold_is_replaced_and_counted_or_refused(
    data: st.DataObject, which: tuple[Kind, Callable[[Any], str | None]], pages: list[int]
) -> None:
    kind, reason_of = which
    values = data.draw(st.lists(st.one_of(st.none(), kind.values), max_size=12))
    reasons = [None if value is None else reason_of(value) for value in values]
    case = Case([kind], [True], [(value,) for value in values], [min(page, len(values)) for page in pages])
    target = RowDecoder([kind.column("c", nullable=True, replace=True)], batch_bytes=1 << 20, batch_rows=5)
    batches = [batch for page in case.encoded() for batch in feed(target, page)] + copied(target.finish())
    found = [cell for batch in batches for cell in kind.read(batch.column(0))]
    assert found == [None if reason else value for value, reason in zip(values, reasons, strict=True)]
    assert target.replaced == {("c", reason): count for reason, count in Counter(reasons).items() if reason}
    outcome = attempt(case.decoder(1 << 20, 5), encode_page(case.forms, case.rows))
    assert (outcome == "RIVET_VALUE_UNSUPPORTED") == any(reasons)


@settings(max_examples=100, deadline=None)
@given(case=cases(), length=st.integers(0), batch_rows=st.integers(1, 25))
def test_a_page_cut_short_is_refused_or_ends_with_a_row(case: Case, length: int, batch_rows: int) -> None:
    sizes = [len(encode_row(case.forms, row)) + 4 for row in case.rows]
    edges = [0, *itertools.accumulate(sizes)]
    length %= edges[-1] + 1
    outcome = attempt(case.decoder(1 << 20, batch_rows), encode_page(case.forms, case.rows)[:length])
    if length in edges:
        assert sum(batch.num_rows for batch in outcome if isinstance(batch, pa.RecordBatch)) == edges.index(length)
    else:
        assert outcome == "RIVET_PROTOCOL_ERROR"


@settings(max_examples=100, deadline=None)
@given(case=cases(), cut=st.integers(0), more=st.binary(max_size=3))
def test_a_row_whose_values_do_not_fill_it_is_refused(case: Case, cut: int, more: bytes) -> None:
    """The packet's length is right, so only the values can tell that some of them is cut or that bytes follow."""
    for row in case.rows:
        payload = encode_row(case.forms, row)
        wrong = payload + more if more else payload[: cut % len(payload)]
        page = len(wrong).to_bytes(3, "little") + b"\0" + wrong + encode_page(case.forms, case.rows)
        assert attempt(case.decoder(1 << 20, 7), page) == "RIVET_PROTOCOL_ERROR"


DAMAGE = st.lists(
    st.tuples(st.sampled_from(["set", "cut", "insert"]), st.integers(0), st.binary(min_size=1, max_size=4)),
    min_size=1,
    max_size=6,
)


def damaged(page: bytes, damage: list[tuple[str, int, bytes]]) -> bytes:
    changed = bytearray(page)
    for how, place, what in damage:
        at = place % (len(changed) + 1)
        changed[at : at + (0 if how == "insert" else len(what))] = b"" if how == "cut" else what
    return bytes(changed)


@settings(max_examples=400, deadline=None)
@given(case=cases(), damage=DAMAGE, replace=st.booleans())
def test_damaged_pages_are_refused_or_give_sound_batches(
    case: Case, damage: list[tuple[str, int, bytes]], replace: bool
) -> None:
    """Whatever is read must be within its row: this ends in no crash."""
    columns = [kind.column(f"c{number}", nullable=True, replace=replace) for number, kind in enumerate(case.kinds)]
    decoder = RowDecoder(columns, batch_bytes=1 << 20, batch_rows=7)
    outcome = attempt(decoder, damaged(encode_page(case.forms, case.rows), damage))
    if isinstance(outcome, str):
        assert outcome in {"RIVET_PROTOCOL_ERROR", "RIVET_VALUE_UNSUPPORTED"}
    else:
        for batch in outcome:
            batch.validate(full=True)


@settings(max_examples=200, deadline=None)
@given(
    # A result has a column at least: rows of none could not be counted.
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=9),
    payloads=st.lists(st.binary(max_size=60), max_size=5),
)
def test_payloads_of_any_bytes_are_refused_or_give_sound_batches(kinds: list[Kind], payloads: list[bytes]) -> None:
    page = b"".join(len(payload).to_bytes(3, "little") + b"\0" + payload for payload in payloads)
    outcome = attempt(Case(kinds, [True] * len(kinds), [], []).decoder(1 << 20, 3), page)
    if isinstance(outcome, str):
        assert outcome in {"RIVET_PROTOCOL_ERROR", "RIVET_VALUE_UNSUPPORTED"}
    else:
        assert sum(batch.num_rows for batch in outcome) == len(payloads)


@settings(max_examples=300, deadline=None)
@given(
    digits=st.integers(1, 90),
    number=st.integers(0, 10**90 - 1),
    negative=st.booleans(),
    places=st.integers(0, 95),
    zeros=st.integers(0, 12),
    target=st.tuples(st.integers(1, 76), st.integers(0, 76)).filter(lambda target: target[1] <= target[0]),
)
def test_decimals_fit_exactly_or_not_at_all(
    digits: int, number: int, negative: bool, places: int, zeros: int, target: tuple[int, int]
) -> None:
    precision, scale = target
    number %= 10**digits
    text = str(number).zfill(places + 1)
    whole, fraction = text[: len(text) - places], text[len(text) - places :]
    text = "-" * negative + "0" * zeros + whole + f".{fraction}" * bool(fraction)
    unscaled, lost = divmod(number * 10**scale, 10**places)
    arrow = pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)
    case = Case([Kind(Form.DECIMAL, arrow, st.none())], [True], [(Raw(encode_text(text.encode())),)], [])
    outcome = attempt(case.decoder(1, 1), *case.encoded())
    if lost or unscaled >= 10**precision:
        assert outcome == "RIVET_VALUE_UNSUPPORTED"
    else:
        assert isinstance(outcome, list)
        (_, words) = outcome[0].column(0).buffers()
        assert words is not None
        found = int.from_bytes(words.to_pybytes(), "little", signed=True)
        assert found == (-unscaled if negative else unscaled)


@settings(max_examples=200, deadline=None)
@given(
    payloads=st.lists(st.binary(min_size=1, max_size=30), max_size=12),
    sequence=st.integers(0, 255),
    steps=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 4)), max_size=20),
)
def test_packets_are_passed_the_same_whatever_comes_at_a_time(
    payloads: list[bytes], sequence: int, steps: list[tuple[int, int]]
) -> None:
    """Bytes come in any pieces, rows are asked for in any numbers: what is passed is what was sent."""
    rows = [b"\0" + payload for payload in payloads] + [b"\xfe\0\0\2\0"]
    whole = b"".join(
        len(row).to_bytes(3, "little") + bytes([(sequence + number) % 256]) + row for number, row in enumerate(rows)
    )
    edges = [0, *itertools.accumulate(len(row) + 4 for row in rows)]
    buffer = np.full(len(whole) + 8, 0xEE, np.uint8)
    used = at = passed = 0
    number = sequence
    for size, wanted in [*steps, (len(whole), len(rows))]:
        come = whole[used : used + size]
        buffer[used : used + len(come)] = np.frombuffer(come, np.uint8)
        used += len(come)
        found, at, number, state = scan_packets(buffer, at, used, number, wanted, ANY_SIZE)
        passed += found
        there = sum(edge <= used for edge in edges[1:-1])
        assert found <= wanted
        assert at == edges[passed]
        assert number == (sequence + passed) % 256
        if found == wanted:
            assert state == mysqlrows.FULL
        else:
            assert passed == there
            assert state == (mysqlrows.END if used == len(whole) else mysqlrows.MORE)
    assert passed == len(payloads)
