"""The decoder of MySQL's binary rows: values of every form, case by case."""

from __future__ import annotations

import datetime as dt
import math
import struct
import uuid
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from rivet_dagster.errors import SourceError
from rivet_dagster.wire.mysqlrows import Form
from tests.support.mysqlrows_decoding import (
    RECORDED,
    RECORDED_COLUMNS,
    copied,
    decode_one,
    decoder,
    feed,
    refusal,
)
from tests.support.mysqlrows_encoder import Raw, encode_page, encode_text

UTC = dt.timezone.utc


def test_recorded_rows_decode_to_the_values_of_their_table() -> None:
    target = decoder(*RECORDED_COLUMNS)
    assert feed(target, RECORDED) == []
    assert target.page_rows == 3
    (batch,) = target.finish()
    batch.validate(full=True)
    assert batch.schema == target.schema
    plain = [name for name in batch.schema.names if name != "d"]
    first, second, third = ({name: batch.column(name)[row].as_py() for name in plain} for row in range(3))
    assert first == {
        "i1": -128,
        "u1": 255,
        "i2": -2,
        "u2": 65535,
        "i3": -8388608,
        "i4": -70000,
        "u4": 4294967295,
        "i8": -9007199254740993,
        "u8": 18446744073709551615,
        "y": 2155,
        "f4": 1.5,
        "f8": -0.1,
        "n": Decimal("-1234567.89"),
        "w": Decimal("12345678901234567890123456789012345.000000000000000000000000000001"),
        "t6": dt.datetime(2024, 2, 29, 10, 34, 56, 789000),
        "t0": dt.datetime(2024, 2, 29, 10, 34, 56),
        "tz": dt.datetime(2024, 2, 29, 10, 34, 56, 789000, tzinfo=UTC),
        "ti": dt.time(23, 59, 59, 999999),
        "bt": 0b10000000101,
        "s": "grüße, 世界",
        "ch": "ab",
        "by": b"\x00\xff\x10",
        "j": '{"a": 1}',
        "en": "b",
        "bo": True,
        "id": 1,
    }
    assert second == {
        "i1": 127,
        "u1": 0,
        "i2": 32767,
        "u2": 0,
        "i3": 8388607,
        "i4": 2147483647,
        "u4": 0,
        "i8": 0,
        "u8": 0,
        "y": 1901,
        "f4": struct.unpack("<f", struct.pack("<f", -1e30))[0],
        "f8": 1e300,
        "n": Decimal("0.05"),
        "w": Decimal("-0.000000000000000000000000000001"),
        "t6": dt.datetime(9999, 12, 31, 23, 59, 59, 999999),
        "t0": dt.datetime(1970, 1, 1),
        "tz": dt.datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC),
        "ti": dt.time(0),
        "bt": 0,
        "s": "",
        "ch": "",
        "by": b"",
        "j": "null",
        "en": "a",
        "bo": False,
        "id": 2,
    }
    assert third.pop("id") == 3
    assert all(value is None for value in third.values())
    # 0000-01-01 is before Python's calendar.
    assert batch.column("d").cast(pa.int32()).to_pylist() == [19782, -719528, None]


def test_the_row_of_the_protocols_documentation_is_read() -> None:
    target = decoder(("col1", pa.string(), Form.BYTES))
    assert feed(target, bytes.fromhex("09000004 00 00 06666f6f626172")) == []
    assert next(target.finish()).to_pylist() == [{"col1": "foobar"}]


@pytest.mark.parametrize(
    ("kind", "form", "wire", "value"),
    [
        (pa.binary(), Form.BYTES, "03 66 6f 6f", b"foo"),
        (pa.int64(), Form.INT8, "01 00 00 00 00 00 00 00", 1),
        (pa.int32(), Form.INT4, "01 00 00 00", 1),
        (pa.int16(), Form.INT2, "01 00", 1),
        (pa.int8(), Form.INT1, "01", 1),
        (pa.int8(), Form.INT1, "80", -128),
        (pa.uint8(), Form.INT1, "80", 128),
        (pa.uint64(), Form.INT8, "ff ff ff ff ff ff ff ff", 2**64 - 1),
        (pa.float64(), Form.FLOAT8, "66 66 66 66 66 66 24 40", 10.2),
        (pa.float32(), Form.FLOAT4, "33 33 23 41", struct.unpack("<f", struct.pack("<f", 10.2))[0]),
        (pa.float64(), Form.FLOAT8, "00 00 00 00 00 00 f0 ff", -math.inf),
        (pa.date32(), Form.DATE, "04 da 07 0a 11", dt.date(2010, 10, 17)),
        (pa.date32(), Form.DATE, "07 da 07 0a 11 00 00 00", dt.date(2010, 10, 17)),
        (pa.date32(), Form.DATE, "0b da 07 0a 11 00 00 00 00 00 00 00", dt.date(2010, 10, 17)),
        (pa.timestamp("us"), Form.DATETIME, "04 da 07 0a 11", dt.datetime(2010, 10, 17)),
        (pa.timestamp("us"), Form.DATETIME, "07 da 07 0a 11 13 1b 1e", dt.datetime(2010, 10, 17, 19, 27, 30)),
        (
            pa.timestamp("us"),
            Form.DATETIME,
            "0b da 07 0a 11 13 1b 1e 01 00 00 00",
            dt.datetime(2010, 10, 17, 19, 27, 30, 1),
        ),
        (pa.time64("us"), Form.TIME, "00", dt.time(0)),
        (pa.time64("us"), Form.TIME, "08 00 00 00 00 00 13 1b 1e", dt.time(19, 27, 30)),
        (pa.time64("us"), Form.TIME, "0c 00 00 00 00 00 13 1b 1e 01 00 00 00", dt.time(19, 27, 30, 1)),
        (pa.time64("us"), Form.TIME, "08 01 00 00 00 00 00 00 00", dt.time(0)),
        (pa.uint64(), Form.BIT, "01 00", 0),
        (pa.uint64(), Form.BIT, "02 01 00", 256),
        (pa.uint64(), Form.BIT, "08 ff 00 00 00 00 00 00 01", 0xFF00000000000001),
        (pa.bool_(), Form.BIT, "01 01", True),
        (pa.bool_(), Form.BIT, "08 00 00 00 00 00 00 00 00", False),
        (pa.bool_(), Form.BOOL, "01", True),
        (pa.bool_(), Form.BOOL, "00", False),
        (
            pa.uuid(),
            Form.UUID,
            "10 6b a7 b8 10 9d ad 11 d1 80 b4 00 c0 4f d4 30 c8",
            uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
        ),
        (pa.uuid(), Form.UUID, "fc 10 00" + "00" * 16, uuid.UUID(int=0)),
        (pa.decimal128(10, 2), Form.DECIMAL, "06 2d 31 35 2e 35 30", Decimal("-15.50")),
        (pa.decimal128(10, 2), Form.DECIMAL, "fc 04 00 31 2e 35 30", Decimal("1.50")),
        (pa.string(), Form.BYTES, "00", ""),
    ],
)
def test_values_of_every_form(kind: pa.DataType, form: Form, wire: str, value: Any) -> None:
    field = Raw(bytes.fromhex(wire))
    assert decode_one(kind, form, [field, None, field]).to_pylist() == [value, None, value]
    assert decode_one(kind, form, [field], nullable=False).to_pylist() == [value]
    for length in range(len(field)):
        error = refusal(kind, form, Raw(field[:length]), nullable=False)
        assert (error.code, error.retryable) == ("RIVET_PROTOCOL_ERROR", True)


@pytest.mark.parametrize("width", [0, 2, 3, 8])
@pytest.mark.parametrize("size", [0, 1, 250, 251, 65535, 65536])
def test_texts_behind_lengths_of_every_width(width: int, size: int) -> None:
    size = min(size, {0: 249, 2: 2**16 - 2}.get(width, size))
    text = ("a.b-" * size)[:size]
    field = Raw(encode_text(text.encode(), width))
    assert decode_one(pa.string(), Form.BYTES, [field, None, field]).to_pylist() == [text, None, text]
    # One byte more than the row has.
    longer = Raw(encode_text(text.encode() + b"!", width)[:-1])
    assert refusal(pa.string(), Form.BYTES, longer).code == "RIVET_PROTOCOL_ERROR"


@pytest.mark.parametrize(
    "mark", ["fb", "ff", "fe ff ff ff ff ff ff ff ff", "fe 00 00 00 00 00 00 00 80", "fd ff ff ff"]
)
@pytest.mark.parametrize(
    ("kind", "form"),
    [
        (pa.string(), Form.BYTES),
        (pa.decimal128(9, 2), Form.DECIMAL),
        (pa.uuid(), Form.UUID),
        (pa.uint64(), Form.BIT),
        (pa.bool_(), Form.BIT),
    ],
)
def test_lengths_that_are_none_are_malformed(kind: pa.DataType, form: Form, mark: str) -> None:
    error = refusal(kind, form, Raw(bytes.fromhex(mark) + b"1" * 300))
    assert error.code == "RIVET_PROTOCOL_ERROR"
    assert f"column c has bytes that are no {form.value}" in error.what


def test_every_day_of_the_calendar_has_its_number() -> None:
    days = [
        dt.date(year, 1, 1) + dt.timedelta(day)
        for year in (1, 4, 100, 400, 1900, 1999, 2000, 2024, 2100, 9998)
        for day in range(366)
    ]
    assert decode_one(pa.date32(), Form.DATE, days).to_pylist() == days
    firsts = [dt.date(year, month, 1) for year in range(1, 10_000) for month in (1, 2, 3, 12)]
    assert decode_one(pa.date32(), Form.DATE, firsts).to_pylist() == firsts


def test_year_zero_is_a_leap_year_before_the_first() -> None:
    edges = [(0, 1, 1), (0, 2, 28), (0, 2, 29), (0, 3, 1), (0, 12, 31)]
    found = decode_one(pa.date32(), Form.DATE, edges).cast(pa.int32()).to_pylist()
    before = dt.date(1, 1, 1).toordinal() - dt.date(1970, 1, 1).toordinal() - 366
    assert found == [before, before + 58, before + 59, before + 60, before + 365]
    moment = decode_one(pa.timestamp("us"), Form.DATETIME, [(0, 1, 1, 23, 59, 59, 999999)]).cast(pa.int64())
    assert moment.to_pylist() == [(before + 1) * 86_400_000_000 - 1]


@pytest.mark.parametrize(
    ("precision", "scale", "text"),
    [
        (5, 2, "999.99"),
        (5, 2, "-999.99"),
        (5, 2, "000999.99"),
        (5, 2, "1"),
        (5, 2, "1.5"),
        (5, 2, "1.5000"),
        (5, 2, "-0.00"),
        (5, 5, "0.00001"),
        (3, 0, "0"),
        (3, 0, "-999"),
        (3, 0, "999.000"),
        (4, 4, "0.1000"),
        (8, 0, "12345678"),
        (9, 0, "100000000"),
        (10, 2, "12345678.90"),
        (11, 2, "123456789.01"),
        (16, 8, "12345678.87654321"),
        (16, 0, "9999999999999999"),
        (17, 0, "12345678901234567"),
        (17, 1, "1234567890123456.7"),
        (17, 16, "1.2345678901234567"),
        (18, 0, "999999999999999999"),
        (18, 18, "-0.999999999999999999"),
        (19, 0, "9999999999999999999"),
        (19, 1, "123456789012345678.9"),
        (38, 0, "9" * 38),
        (38, 38, "-0." + "9" * 38),
        (38, 37, "0." + "0" * 36 + "1"),
        (38, 0, "1" + "0" * 37),
        (38, 10, "-" + "1" * 28 + ".0000000001"),
        (39, 0, "9" * 39),
        (65, 30, "-" + "9" * 35 + "." + "9" * 30),
        (65, 30, "0" * 90 + "7"),
        (76, 0, "-" + "9" * 76),
        (76, 76, "0." + "9" * 76),
        (76, 38, "1" + "0" * 37 + "." + "0" * 37 + "1"),
        (76, 70, "0." + "0" * 69 + "7"),
    ],
)
def test_decimals_are_exact(precision: int, scale: int, text: str) -> None:
    kind = pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)
    fields = [Raw(encode_text(text.encode())), None, Raw(encode_text(text.removeprefix("-").encode()))]
    value = Decimal(text)
    assert decode_one(kind, Form.DECIMAL, fields).to_pylist() == [value, None, value.copy_abs()]


@pytest.mark.parametrize(
    "kind", [pa.decimal128(5, 2), pa.decimal128(5, 0), pa.decimal128(38, 2), pa.decimal256(76, 38)]
)
@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "+1",
        ".",
        ".5",
        "1.",
        "-.50",
        "1.-5",
        "--1.50",
        "1..5",
        "1.5.0",
        "1 .50",
        "1,50",
        "1:50",
        "/.50",
        "1.5/",
        "a",
        "1e5",
        "NaN",
        "1.50\0",
        "\xb1.50",
    ],
)
def test_texts_that_are_no_decimals_are_malformed(kind: pa.DataType, text: str) -> None:
    assert refusal(kind, Form.DECIMAL, Raw(encode_text(text.encode("latin-1")))).code == "RIVET_PROTOCOL_ERROR"


@pytest.mark.parametrize("place", range(20))
@pytest.mark.parametrize("byte", [0x00, 0x20, 0x2F, 0x3A, 0x40, 0x80, 0xB0, 0xB9, 0xFF])
def test_a_wrong_byte_anywhere_in_a_decimal_is_malformed(place: int, byte: int) -> None:
    for text in (b"1234567890123456.78", b"12345678.90", b"12345678901234567890123.56"):
        if place < len(text):
            wrong = text[:place] + bytes([byte]) + text[place + 1 :]
            error = refusal(pa.decimal128(38, 2), Form.DECIMAL, Raw(encode_text(wrong)))
            assert error.code == "RIVET_PROTOCOL_ERROR"


BEYOND: list[tuple[pa.DataType, Form, Any, str, str]] = [
    (pa.date32(), Form.DATE, (0, 0, 0), "zero date", "the zero date 0000-00-00"),
    (pa.date32(), Form.DATE, (2024, 0, 10), "zero date", "the zero date 2024-00-10"),
    (pa.date32(), Form.DATE, (2024, 13, 0), "zero date", "the zero date 2024-13-00"),
    (pa.date32(), Form.DATE, (2023, 2, 29), "invalid date", "the date 2023-02-29, which is in no calendar"),
    (pa.date32(), Form.DATE, (1900, 2, 29), "invalid date", "the date 1900-02-29"),
    (pa.date32(), Form.DATE, (2024, 2, 30), "invalid date", "the date 2024-02-30"),
    (pa.date32(), Form.DATE, (2024, 4, 31), "invalid date", "the date 2024-04-31"),
    (pa.date32(), Form.DATE, (2024, 9, 31), "invalid date", "the date 2024-09-31"),
    (pa.date32(), Form.DATE, (2024, 12, 32), "invalid date", "the date 2024-12-32"),
    (pa.date32(), Form.DATE, (2024, 13, 1), "invalid date", "the date 2024-13-01"),
    (pa.timestamp("us"), Form.DATETIME, (0, 0, 0), "zero date", "the zero date 0000-00-00"),
    (pa.timestamp("us", "UTC"), Form.DATETIME, (0, 0, 0, 23, 0, 0), "zero date", "the zero date 0000-00-00"),
    (pa.timestamp("us"), Form.DATETIME, (2024, 6, 31, 0, 0, 0, 1), "invalid date", "the date 2024-06-31"),
    (pa.time64("us"), Form.TIME, 86_400_000_000, "out of range", "the time 24:00:00"),
    (pa.time64("us"), Form.TIME, -1, "out of range", "the time -00:00:00"),
    (pa.time64("us"), Form.TIME, -3_020_399_000_000, "out of range", "the time -838:59:59"),
    (pa.bool_(), Form.BOOL, 2, "out of range", "a number that is neither 0 nor 1"),
    (pa.bool_(), Form.BOOL, -1, "out of range", "a number that is neither 0 nor 1"),
    (pa.bool_(), Form.BIT, 5, "out of range", "the bits 101"),
    (pa.bool_(), Form.BIT, 2**63, "out of range", "the bits 1000"),
]


@pytest.mark.parametrize(("kind", "form", "value", "reason", "words"), BEYOND)
def test_values_that_arrow_cannot_hold_are_refused_by_name_or_replaced(
    kind: pa.DataType, form: Form, value: Any, reason: str, words: str
) -> None:
    for nullable in (True, False):
        error = refusal(kind, form, value, nullable=nullable)
        assert error.code == "RIVET_VALUE_UNSUPPORTED"
        assert error.what.startswith("Column c holds ")
        assert words in error.what
        assert "unrepresentable to null" in error.advice
        assert not error.retryable
    target = decoder(("c", kind, form), ("after", pa.int32(), Form.INT4), replace=True, batch_rows=2)
    rows = encode_page([form.value, "int4"], [[value, 1], [None, 2], [value, 3]])
    batches = feed(target, rows) + copied(target.finish())
    assert [cell for batch in batches for cell in batch["c"].to_pylist()] == [None, None, None]
    assert [cell for batch in batches for cell in batch["after"].to_pylist()] == [1, 2, 3]
    assert target.replaced == {("c", reason): 2}
    for batch in batches:
        values = batch.column(0).buffers()[1]
        assert values is not None
        assert not any(values.to_pybytes())


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (pa.decimal128(5, 2), "1000.00", "a decimal of more than 3 digits before the point"),
        (pa.decimal128(5, 2), "-1000.00", "a decimal of more than 3 digits before the point"),
        (pa.decimal128(5, 2), "0.001", "a decimal with 3 digits after the point"),
        (pa.decimal128(5, 2), "0.0000000000000000000100", "a decimal with 20 digits after the point"),
        (pa.decimal128(18, 0), "1" + "0" * 18, "a decimal of more than 18 digits before the point"),
        (pa.decimal128(38, 0), "1" + "0" * 38, "a decimal of more than 38 digits before the point"),
        (pa.decimal128(38, 0), str(2**128), "a decimal of more than 38 digits before the point"),
        (pa.decimal128(38, 2), "1" * 37 + ".00", "a decimal of more than 36 digits before the point"),
        (pa.decimal128(38, 38), "1", "a decimal of more than 0 digits before the point"),
        (pa.decimal128(38, 10), "1" * 20 + "." + "1" * 11, "a decimal with 11 digits after the point"),
        (pa.decimal256(76, 0), "1" + "0" * 76, "a decimal of more than 76 digits before the point"),
        (pa.decimal256(76, 0), str(2**256), "a decimal of more than 76 digits before the point"),
        (pa.decimal256(76, 0), "1" * 1000, "a decimal of more than 76 digits before the point"),
    ],
)
def test_decimals_that_do_not_fit_are_refused_with_advice(kind: pa.DataType, value: str, words: str) -> None:
    error = refusal(kind, Form.DECIMAL, Raw(encode_text(value.encode())))
    assert error.code == "RIVET_VALUE_UNSUPPORTED"
    assert words in error.what
    assert "a wider decimal, or text" in error.advice
    with pytest.raises(SourceError):
        decode_one(kind, Form.DECIMAL, [Raw(encode_text(value.encode()))], replace=True)


@pytest.mark.parametrize(
    ("kind", "form", "wire"),
    [
        *((pa.date32(), Form.DATE, f"{size:02x}" + "01" * size) for size in (1, 2, 3, 5, 6, 8, 9, 10, 12, 255)),
        *((pa.timestamp("us"), Form.DATETIME, f"{size:02x}" + "01" * size) for size in (1, 3, 5, 6, 8, 10, 12)),
        *((pa.time64("us"), Form.TIME, f"{size:02x}" + "00" * size) for size in (1, 4, 5, 7, 9, 11, 13)),
        (pa.date32(), Form.DATE, "04 10 27 01 01"),  # the year 10000
        (pa.date32(), Form.DATE, "07 e8 07 01 01 00 00 01"),  # a date with a clock
        (pa.date32(), Form.DATE, "07 00 00 00 00 01 00 00"),
        (pa.date32(), Form.DATE, "0b e8 07 01 01 00 00 00 01 00 00 00"),
        (pa.timestamp("us"), Form.DATETIME, "07 e8 07 01 01 18 00 00"),
        (pa.timestamp("us"), Form.DATETIME, "07 e8 07 01 01 00 3c 00"),
        (pa.timestamp("us"), Form.DATETIME, "07 e8 07 01 01 00 00 3c"),
        (pa.timestamp("us"), Form.DATETIME, "07 00 00 00 00 18 00 00"),
        (pa.timestamp("us"), Form.DATETIME, "0b e8 07 01 01 00 00 00 40 42 0f 00"),
        (pa.timestamp("us"), Form.DATETIME, "0b e8 07 01 01 00 00 00 ff ff ff ff"),
        (pa.time64("us"), Form.TIME, "08 02 00 00 00 00 01 00 00"),
        (pa.time64("us"), Form.TIME, "08 00 00 00 00 00 18 00 00"),
        (pa.time64("us"), Form.TIME, "08 00 01 00 00 00 00 3c 00"),
        (pa.time64("us"), Form.TIME, "08 01 00 00 00 00 00 00 3c"),
        (pa.time64("us"), Form.TIME, "0c 00 00 00 00 00 00 00 00 40 42 0f 00"),
        (pa.uint64(), Form.BIT, "00"),
        (pa.uint64(), Form.BIT, "09" + "00" * 9),
        (pa.bool_(), Form.BIT, "00"),
        (pa.uuid(), Form.UUID, "0f" + "00" * 15),
        (pa.uuid(), Form.UUID, "11" + "00" * 17),
    ],
)
def test_values_that_are_none_are_malformed(kind: pa.DataType, form: Form, wire: str) -> None:
    for replace in (False, True):
        with pytest.raises(SourceError) as caught:
            decode_one(kind, form, [None, Raw(bytes.fromhex(wire))], replace=replace)
        assert (caught.value.code, caught.value.retryable) == ("RIVET_PROTOCOL_ERROR", True)
        assert f"column c has bytes that are no {form.value}" in caught.value.what


@pytest.mark.parametrize("value", [b"caf\xe9", b"\xed\xa0\x80", b"a\xff"])
@pytest.mark.parametrize("kind", [pa.string(), pa.json_()])
def test_text_that_is_not_utf8_is_refused(kind: pa.DataType, value: bytes) -> None:
    error = refusal(kind, Form.BYTES, value)
    assert error.code == "RIVET_VALUE_UNSUPPORTED"
    assert "Column c holds text that is not valid UTF-8" in error.what
    assert decode_one(pa.binary(), Form.BYTES, [value]).to_pylist() == [value]


@pytest.mark.parametrize(("name", "kind", "form"), RECORDED_COLUMNS, ids=[column[0] for column in RECORDED_COLUMNS])
def test_null_in_a_column_that_is_never_null_is_refused(name: str, kind: pa.DataType, form: Form) -> None:
    error = refusal(kind, form, None, nullable=False)
    assert error.code == "RIVET_VALUE_UNSUPPORTED"
    assert "Column c holds NULL" in error.what


@pytest.mark.parametrize("count", [1, 5, 6, 7, 8, 13, 14, 15, 40])
def test_every_bit_of_the_bitmap_is_of_its_own_column(count: int) -> None:
    target = decoder(*((f"c{number}", pa.int8(), Form.INT1) for number in range(count)))
    rows = [[None if number == row else number for number in range(count)] for row in range(count)]
    feed(target, encode_page(["int1"] * count, rows))
    (batch,) = target.finish()
    assert [list(row.values()) for row in batch.to_pylist()] == rows
    # The bits before and behind those of the columns say nothing.
    page = bytearray(encode_page(["int1"] * count, [[7] * count]))
    page[5] |= 3
    if (count + 2) % 8:
        page[5 + (count + 2) // 8] |= 0xFF << (count + 2) % 8 & 0xFF
    feed(target, bytes(page))
    assert list(next(target.finish()).to_pylist()[0].values()) == [7] * count


def test_null_leaves_zeros_behind() -> None:
    samples: list[tuple[pa.DataType, Form, Any]] = [
        (pa.int64(), Form.INT8, -1),
        (pa.decimal128(5, 2), Form.DECIMAL, Decimal("-1.00")),
        (pa.timestamp("us"), Form.DATETIME, dt.datetime(2024, 1, 1)),
        (pa.time64("us"), Form.TIME, 1),
        (pa.uint64(), Form.BIT, 77),
        (pa.uuid(), Form.UUID, uuid.UUID(int=2**128 - 1)),
    ]
    for kind, form, value in samples:
        target = decoder(("c", kind, form), batch_rows=2)
        feed(target, encode_page([form.value], [[value], [value]]))
        (batch,) = feed(target, encode_page([form.value], [[value], [None]]))
        words = batch.column(0).buffers()[1]
        assert words is not None
        assert words.to_pybytes()[words.size // 2 :] == bytes(words.size // 2)


def test_columns_without_null_have_no_validity() -> None:
    column = decode_one(pa.int32(), Form.INT4, [1, 2, 3])
    assert column.null_count == 0
    assert column.buffers()[0] is None
    assert decode_one(pa.int32(), Form.INT4, [1, None]).buffers()[0] is not None
