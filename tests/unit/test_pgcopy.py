"""The decoder of PostgreSQL's binary COPY format, case by case."""

from __future__ import annotations

import datetime as dt
import math
import threading
import uuid
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rivet_dagster.errors import SourceError
from rivet_dagster.wire import _pgcopy_kernels as kernels
from rivet_dagster.wire.pgcopy import Form, WireColumn
from tests.support.collecting import CollectingDecoder
from tests.support.pgcopy_encoder import TRAILER, Raw, encode_header, encode_stream, encode_tuple

# COPY ... TO STDOUT (FORMAT binary) of three rows, as PostgreSQL 18 sent it.
RECORDED = bytes.fromhex(
    "5047434f50590aff0d0a0000000000000000000011000000010100000002fffe000000040001117000000008ffdfffffffffffff0000"
    "00043fc0000000000008bfb999999999999a0000000e0003000140000002007b11d722c40000001c000a00040000001404d2162e2334"
    "0d801ed200000000000000000001000000040000227900000008ffffffffffffffff000000080002b581944b3e08000000106ba7b810"
    "9dad11d180b400c04fd430c80000000f6772c3bcc39f652c20e4b896e7958c00000004616220200000000300ff10000000087b226122"
    "3a20317d00000011017b2261223a205b312c20322e35305d7d00110000000100000000027fff00000004ffffffff0000000800000000"
    "00000000000000047fc0000000000008fff00000000000000000000a0001ffff0000000201f40000000a0001fffc4000001400010000"
    "0004fff4da8b00000008fd0f7fbdaf17e000000000087ffca2323ccc0000000000100000000000000000000000000000000000000000"
    "000000042020202000000000000000046e756c6c00000004012278220011ffffffffffffffffffffffffffffffffffffffffffffffff"
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
)
RECORDED_COLUMNS: list[tuple[str, pa.DataType, Form]] = [
    ("b", pa.bool_(), Form.BOOL),
    ("i2", pa.int16(), Form.INT2),
    ("i4", pa.int32(), Form.INT4),
    ("i8", pa.int64(), Form.INT8),
    ("f4", pa.float32(), Form.FLOAT4),
    ("f8", pa.float64(), Form.FLOAT8),
    ("n", pa.decimal128(12, 2), Form.NUMERIC),
    ("w", pa.decimal256(50, 20), Form.NUMERIC),
    ("d", pa.date32(), Form.DATE),
    ("t", pa.timestamp("us"), Form.TIMESTAMP),
    ("tz", pa.timestamp("us", "UTC"), Form.TIMESTAMP),
    ("u", pa.uuid(), Form.UUID),
    ("s", pa.string(), Form.BYTES),
    ("ch", pa.string(), Form.BYTES),
    ("by", pa.binary(), Form.BYTES),
    ("j", pa.json_(), Form.BYTES),
    ("jb", pa.json_(), Form.JSONB),
]


def decoder(
    *columns: tuple[str, pa.DataType, Form],
    nullable: bool = True,
    batch_bytes: int = 1 << 20,
    batch_rows: int = 1 << 20,
) -> CollectingDecoder:
    wire = [WireColumn(pa.field(name, kind, nullable=nullable), form) for name, kind, form in columns]
    return CollectingDecoder(wire, batch_bytes=batch_bytes, batch_rows=batch_rows)


def feed(target: CollectingDecoder, stream: bytes) -> int:
    """Feed from the middle of a page that goes on after the stream."""
    page = np.frombuffer(bytearray(stream + b"\x7f" * 64), np.uint8)
    return target.feed(page, len(stream))


def decode_one(kind: pa.DataType, form: Form, values: Sequence[Any], *, nullable: bool = True) -> pa.Array[Any]:
    """The values as the Arrow array of a single column."""
    target = decoder(("c", kind, form), nullable=nullable)
    assert feed(target, encode_stream([form.value], [[value] for value in values])) == len(values)
    (batch,) = target.finish()
    batch.validate(full=True)
    return batch.column(0)


def refusal(kind: pa.DataType, form: Form, value: Any, *, nullable: bool = True) -> SourceError:
    """The error that a row with `value`, between two rows that are fine, gives."""
    with pytest.raises(SourceError) as caught:
        decode_one(kind, form, [None, value, None] if nullable else [value], nullable=nullable)
    return caught.value


def test_a_recorded_stream_decodes_to_the_values_of_its_table() -> None:
    target = decoder(*RECORDED_COLUMNS)
    assert feed(target, RECORDED) == 3
    (batch,) = target.finish()
    batch.validate(full=True)
    assert batch.schema == target.schema
    plain = [name for name in batch.schema.names if name not in ("f4", "d", "t", "tz")]
    values = [{name: batch.column(name)[row].as_py() for name in plain} for row in range(3)]
    assert values[0] == {
        "b": True,
        "i2": -2,
        "i4": 70000,
        "i8": -9007199254740993,
        "f8": -0.1,
        "n": Decimal("-1234567.89"),
        "w": Decimal("12345678901234567890.00000000000000000001"),
        "u": uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
        "s": "grüße, 世界",
        "ch": "ab  ",
        "by": b"\x00\xff\x10",
        "j": '{"a": 1}',
        "jb": '{"a": [1, 2.50]}',
    }
    assert values[1] == {
        "b": False,
        "i2": 32767,
        "i4": -1,
        "i8": 0,
        "f8": -math.inf,
        "n": Decimal("0.05"),
        "w": Decimal("-0.0000000000000001"),
        "u": uuid.UUID(int=0),
        "s": "",
        "ch": "    ",
        "by": b"",
        "j": "null",
        "jb": '"x"',
    }
    assert all(value is None for value in values[2].values())
    assert batch.column("f4")[0].as_py() == 1.5
    assert math.isnan(batch.column("f4")[1].as_py())
    assert batch.column("d")[0].as_py() == dt.date(2024, 2, 29)
    assert batch.column("t")[0].as_py() == dt.datetime(1999, 12, 31, 23, 59, 59, 999999)
    assert batch.column("tz")[0].as_py() == dt.datetime(2024, 2, 29, 10, 34, 56, 789000, tzinfo=dt.timezone.utc)
    # Beyond Python's calendar: 0001-01-01 BC, 4713-01-01 BC, 294246-12-31, by the server's own arithmetic.
    assert batch.column("d").cast(pa.int32())[1].as_py() == -719528
    assert batch.column("t").cast(pa.int64())[1].as_py() == -210863520000 * 10**6
    assert batch.column("tz").cast(pa.int64())[1].as_py() == 9223371158400 * 10**6


@pytest.mark.parametrize(
    ("precision", "scale", "text"),
    [
        (5, 2, "999.99"),
        (5, 2, "-999.99"),
        (5, 5, "0.00001"),
        (3, 0, "0"),
        (4, 4, "0.1000"),
        (9, 0, "100000000"),
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
        (76, 0, "-" + "9" * 76),
        (76, 76, "0." + "9" * 76),
        (76, 38, "1" + "0" * 37 + "." + "0" * 37 + "1"),
        (76, 70, "0." + "0" * 69 + "7"),
        (5, -3, "12345000"),
    ],
)
def test_numerics_are_exact(precision: int, scale: int, text: str) -> None:
    kind = pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)
    value = Decimal(text)
    column = decode_one(kind, Form.NUMERIC, [value, None, value.copy_negate()])
    assert column.to_pylist() == [value, None, value.copy_negate()]


def test_numerics_with_needless_zero_digits_are_taken() -> None:
    one = Raw(bytes.fromhex("0004 0001 0000 0002 0000 0001 0000 0000".replace(" ", "")))
    zero = Raw(bytes.fromhex("0002 0005 4000 0000 0000 0000".replace(" ", "")))
    assert decode_one(pa.decimal128(5, 2), Form.NUMERIC, [one, zero]).to_pylist() == [Decimal(1), Decimal(0)]


@pytest.mark.parametrize(
    ("kind", "form", "value", "words"),
    [
        (pa.date32(), Form.DATE, "infinity", "the date 'infinity'"),
        (pa.date32(), Form.DATE, "-infinity", "the date '-infinity'"),
        (pa.date32(), Form.DATE, 2**31, "a date too late"),
        (pa.timestamp("us"), Form.TIMESTAMP, "infinity", "the timestamp 'infinity'"),
        (pa.timestamp("us", "UTC"), Form.TIMESTAMP, "-infinity", "the timestamp '-infinity'"),
        (pa.timestamp("us"), Form.TIMESTAMP, 2**63, "a timestamp too late"),
        (pa.decimal128(38, 10), Form.NUMERIC, Decimal("NaN"), "the numeric 'NaN'"),
        (pa.decimal256(76, 10), Form.NUMERIC, Decimal("Infinity"), "the numeric 'Infinity'"),
        (pa.decimal128(5, 2), Form.NUMERIC, Decimal("-Infinity"), "the numeric '-Infinity'"),
        (pa.decimal128(5, 2), Form.NUMERIC, Decimal(1000), "more than 3 digits before the point"),
        (pa.decimal128(5, 2), Form.NUMERIC, Decimal("-1000"), "more than 3 digits before the point"),
        (pa.decimal128(5, 2), Form.NUMERIC, Decimal("0.001"), "with 3 digits after the point"),
        (pa.decimal128(5, 2), Form.NUMERIC, Decimal("1e-9"), "with 9 digits after the point"),
        (pa.decimal128(18, 0), Form.NUMERIC, Decimal(10**18), "more than 18 digits before the point"),
        (pa.decimal128(38, 0), Form.NUMERIC, Decimal(10**38), "more than 38 digits before the point"),
        (pa.decimal128(38, 0), Form.NUMERIC, Decimal(2**128), "more than 38 digits before the point"),
        (pa.decimal128(38, 10), Form.NUMERIC, Decimal("1" * 20 + "." + "1" * 11), "with 11 digits after the point"),
        (pa.decimal256(76, 0), Form.NUMERIC, Decimal(10**76), "more than 76 digits before the point"),
        (pa.decimal256(76, 0), Form.NUMERIC, Decimal(2**256), "more than 76 digits before the point"),
        (pa.decimal256(76, 0), Form.NUMERIC, Decimal("1e100000"), "more than 76 digits before the point"),
        (pa.string(), Form.BYTES, b"caf\xe9", "text that is not valid UTF-8"),
        (pa.json_(), Form.BYTES, b'"\xff"', "text that is not valid UTF-8"),
    ],
)
def test_values_that_arrow_cannot_hold_are_refused_by_name(
    kind: pa.DataType, form: Form, value: Any, words: str
) -> None:
    error = refusal(kind, form, value)
    assert error.code == "RIVET_VALUE_UNSUPPORTED"
    assert error.what.startswith("Column c holds ")
    assert words in error.what
    assert not error.retryable
    assert not error.fatal


def test_an_error_at_the_end_ends_the_decoder_too() -> None:
    target = decoder(("a", pa.int32(), Form.INT4), ("c", pa.string(), Form.BYTES))
    assert feed(target, encode_stream(["int4", "bytes"], [[1, b"\xff"]])) == 1
    for _ in range(2):
        with pytest.raises(SourceError, match="Column c holds text that is not valid UTF-8"):
            target.finish()


def test_the_last_moments_that_fit_are_kept() -> None:
    last = [-(2**31) + 10958, 2**31 - 1]
    assert decode_one(pa.date32(), Form.DATE, last).cast(pa.int32()).to_pylist() == last
    shift = 946684800 * 10**6
    last = [-(2**63) + shift + 1, 2**63 - 1]
    assert decode_one(pa.timestamp("us"), Form.TIMESTAMP, last).cast(pa.int64()).to_pylist() == last


@pytest.mark.parametrize(("name", "kind", "form"), RECORDED_COLUMNS, ids=[column[0] for column in RECORDED_COLUMNS])
def test_null_in_a_column_that_is_never_null_is_refused(name: str, kind: pa.DataType, form: Form) -> None:
    error = refusal(kind, form, None, nullable=False)
    assert error.code == "RIVET_VALUE_UNSUPPORTED"
    assert "Column c holds NULL" in error.what


@pytest.mark.parametrize(("name", "kind", "form"), RECORDED_COLUMNS, ids=[column[0] for column in RECORDED_COLUMNS])
def test_fields_of_a_wrong_length_are_malformed(name: str, kind: pa.DataType, form: Form) -> None:
    widths = {
        "bool": 1,
        "int2": 2,
        "int4": 4,
        "int8": 8,
        "float4": 4,
        "float8": 8,
        "date": 4,
        "timestamp": 8,
        "uuid": 16,
    }
    for length in range(18):
        field = Raw(b"\x01" * length)
        if form is Form.BYTES or length == widths.get(form.value) or (form is Form.JSONB and length):
            assert decode_one(kind, form, [field]).null_count == 0
            continue
        error = refusal(kind, form, field)
        assert (error.code, error.retryable) == ("RIVET_PROTOCOL_ERROR", True)
        assert f"column c has {length} bytes that are no {form.value}" in error.what


@pytest.mark.parametrize(
    ("kind", "form", "field"),
    [
        (pa.bool_(), Form.BOOL, b"\x02"),
        (pa.json_(), Form.JSONB, b"\x02{}"),
        (pa.decimal128(5, 2), Form.NUMERIC, bytes.fromhex("0001000000000000")),
        (pa.decimal128(5, 2), Form.NUMERIC, bytes.fromhex("0000000012340000")),
        (pa.decimal128(5, 2), Form.NUMERIC, bytes.fromhex("00010000000000002710")),
        (pa.decimal128(38, 0), Form.NUMERIC, bytes.fromhex("0002000600000000000103e9")[:-2] + b"\x27\x10"),
    ],
)
def test_fields_of_a_wrong_content_are_malformed(kind: pa.DataType, form: Form, field: bytes) -> None:
    assert refusal(kind, form, Raw(field)).code == "RIVET_PROTOCOL_ERROR"


SMALL_COLUMNS: list[tuple[str, pa.DataType, Form]] = [("a", pa.int32(), Form.INT4), ("b", pa.string(), Form.BYTES)]
SMALL_STREAM = encode_stream(["int4", "bytes"], [[1, "one"], [2, None], [None, ""]])


@pytest.mark.parametrize("length", range(len(SMALL_STREAM)))
def test_a_stream_cut_anywhere_is_refused_and_gives_no_rows(length: int) -> None:
    target = decoder(*SMALL_COLUMNS, batch_rows=1)
    with pytest.raises(SourceError) as caught:
        feed(target, SMALL_STREAM[:length])
    assert (caught.value.code, caught.value.retryable) == ("RIVET_PROTOCOL_ERROR", True)
    for later in (target.finish, lambda: target.last_row([0]), lambda: feed(target, SMALL_STREAM)):
        with pytest.raises(SourceError) as again:
            later()
        assert again.value is caught.value


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (SMALL_STREAM + b"\x00", "bytes follow its trailer"),
        (SMALL_STREAM + SMALL_STREAM, "bytes follow its trailer"),
        (b"PGCOPX" + SMALL_STREAM[6:], "signature"),
        (encode_header(flags=1 << 16) + TRAILER, "flags that change its layout (0x00010000)"),
        (encode_header(flags=1 << 31) + TRAILER, "flags that change its layout (0x80000000)"),
        (encode_header()[:-4] + b"\xff\xff\xff\xff" + TRAILER, "ends within its header"),
        (encode_header()[:-4] + b"\x00\x00\x01\x00" + TRAILER, "ends within its header"),
        (encode_stream(["int4"], [[1]]), "another number of fields"),
        (encode_stream(["int4"] * 3, [[1, 2, 3]]), "another number of fields"),
        (encode_header() + b"\xff\xfe" + TRAILER, "another number of fields"),
        (encode_header() + b"\x00\x02\xff\xff\xff\xfe" + b"\xff\xff\xff\xff" + TRAILER, "negative length"),
        (encode_header() + b"\x00\x02" + b"\x7f\xff\xff\xff" * 2 + TRAILER, "ends before its trailer"),
    ],
)
def test_malformed_streams_are_refused(stream: bytes, words: str) -> None:
    with pytest.raises(SourceError) as caught:
        feed(decoder(*SMALL_COLUMNS), stream)
    assert caught.value.code == "RIVET_PROTOCOL_ERROR"
    assert words in caught.value.what


def test_header_extensions_and_harmless_flags_are_skipped() -> None:
    target = decoder(*SMALL_COLUMNS)
    assert feed(target, encode_stream(["int4", "bytes"], [[7, "x"]], flags=0x00FF, extension=b"\xff\xff extra")) == 1
    (batch,) = target.finish()
    assert batch.to_pylist() == [{"a": 7, "b": "x"}]


def test_pages_without_rows_give_no_batches() -> None:
    target = decoder(*SMALL_COLUMNS)
    assert feed(target, encode_stream([], [])) == 0
    assert list(target.take_batches()) == list(target.finish()) == []
    with pytest.raises(LookupError):
        target.last_row([0])


def test_a_batch_ends_at_the_row_that_reaches_a_limit() -> None:
    rows = [[number, "x" * (number % 50)] for number in range(200)]
    sizes = [len(encode_tuple(["int4", "bytes"], row)) for row in rows]
    target = decoder(*SMALL_COLUMNS, batch_bytes=1000, batch_rows=30)
    expected, size, count = [], 0, 0
    for own in sizes:
        size, count = size + own, count + 1
        if size >= 1000 or count == 30:
            expected.append(count)
            size = count = 0
    feed(target, encode_stream(["int4", "bytes"], rows))
    complete = list(target.take_batches())
    rest = list(target.finish())
    assert [batch.num_rows for batch in complete] == expected
    assert [batch.num_rows for batch in rest] == [count]
    assert pa.Table.from_batches(complete + rest)["a"].to_pylist() == list(range(200))


def test_batches_are_handed_out_once() -> None:
    target = decoder(*SMALL_COLUMNS, batch_rows=2)
    feed(target, SMALL_STREAM)
    assert [batch.num_rows for batch in target.take_batches()] == [2]
    assert list(target.take_batches()) == []
    feed(target, SMALL_STREAM)
    assert [batch.num_rows for batch in target.finish()] == [2, 2]
    assert list(target.finish()) == []


def test_earlier_batches_do_not_change_when_the_decoder_goes_on() -> None:
    target = decoder(*SMALL_COLUMNS, batch_rows=3)
    feed(target, SMALL_STREAM)
    (first,) = target.take_batches()
    before = first.to_pylist()
    for _ in range(5):
        feed(target, encode_stream(["int4", "bytes"], [[9, "nine"]] * 3))
    assert first.to_pylist() == before


def test_buffers_grow_over_blocks_and_batches() -> None:
    rows = [[number if number % 7 else None, f"{number:x}" * (number % 90)] for number in range(60_000)]
    stream = encode_stream(["int4", "bytes"], rows)
    assert len(stream) > 3 << 20  # several blocks
    target = decoder(*SMALL_COLUMNS, batch_bytes=2 << 20)
    feed(target, stream)
    table = pa.Table.from_batches(list(target.finish()))
    table.validate(full=True)
    assert table["a"].to_pylist() == [row[0] for row in rows]
    assert table["b"].to_pylist() == [row[1] for row in rows]


def test_a_value_larger_than_a_batch_is_a_batch_of_its_own() -> None:
    target = decoder(*SMALL_COLUMNS, batch_bytes=100)
    feed(target, encode_stream(["int4", "bytes"], [[1, "y" * 3_000_000], [2, "z"]]))
    assert [len(batch["b"][0].as_py()) for batch in target.finish()] == [3_000_000, 1]


def test_columns_without_null_have_no_validity() -> None:
    column = decode_one(pa.int32(), Form.INT4, [1, 2, 3])
    assert column.null_count == 0
    assert column.buffers()[0] is None
    assert decode_one(pa.int32(), Form.INT4, [1, None]).buffers()[0] is not None


def test_null_leaves_zeros_behind() -> None:
    column = decode_one(pa.decimal128(5, 2), Form.NUMERIC, [Decimal("-1"), None])
    (_, words) = column.buffers()
    assert words is not None
    assert words.to_pybytes()[16:32] == bytes(16)


def test_text_beyond_two_gigabytes_is_refused_before_its_offset_wraps() -> None:
    page = np.frombuffer(bytearray(encode_tuple(["bytes"], ["0123456789"])), np.uint8)
    offsets = np.array([2**31 - 10, 0], np.int32)
    nulls = np.zeros(1, np.uint8)
    assert kernels.measure_bytes(page, np.array([2]), offsets, nulls, 0) == -1
    offsets[0] -= 1
    assert kernels.measure_bytes(page, np.array([2]), offsets, nulls, 0) == 0
    assert offsets[1] == 2**31 - 1


def test_too_much_text_for_one_batch_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "measure_bytes", lambda *_: -2)
    error = refusal(pa.string(), Form.BYTES, "text")
    assert (error.code, error.fatal) == ("RIVET_VALUE_TOO_LARGE", False)
    assert "Column c holds more than 2 GiB" in error.what


def test_the_last_row_gives_its_wire_bytes() -> None:
    target = decoder(*SMALL_COLUMNS, batch_rows=2)
    feed(target, encode_stream(["int4", "bytes"], [[1, "one"], [258, "last"]]))
    assert target.last_row([1, 0]) == [b"last", b"\x00\x00\x01\x02"]
    feed(target, encode_stream(["int4", "bytes"], [[3, None]]))
    assert target.last_row([0, 1]) == [b"\x00\x00\x00\x03", None]


def test_the_last_row_outlives_its_page() -> None:
    target = decoder(*SMALL_COLUMNS)
    stream = encode_stream(["int4", "bytes"], [[1, "kept"]])
    page = np.frombuffer(bytearray(stream), np.uint8)
    target.feed(page, len(stream))
    page[:] = 0
    assert target.last_row([1]) == [b"kept"]


def test_read_only_pages_are_taken() -> None:
    target = decoder(*SMALL_COLUMNS)
    assert target.feed(np.frombuffer(SMALL_STREAM, np.uint8), len(SMALL_STREAM)) == 3


def test_the_schema_keeps_nullability_and_metadata() -> None:
    field = pa.field("a", pa.int32(), nullable=False, metadata={"native": "integer"})
    target = CollectingDecoder([WireColumn(field, Form.INT4)], batch_bytes=1, batch_rows=1)
    feed(target, encode_stream(["int4"], [[1]]))
    (batch,) = target.finish()
    assert batch.schema.equals(pa.schema([field]), check_metadata=True)


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        (pa.int64(), Form.INT4),
        (pa.timestamp("ns"), Form.TIMESTAMP),
        (pa.binary(8), Form.UUID),
        (pa.large_string(), Form.BYTES),
        (pa.binary(), Form.JSONB),
        (pa.float64(), Form.NUMERIC),
    ],
)
def test_forms_and_arrow_types_must_agree(kind: pa.DataType, form: Form) -> None:
    with pytest.raises(ValueError, match=f"wire form {form.value} does not give"):
        decoder(("c", kind, form))


@pytest.mark.parametrize("limits", [{"batch_bytes": 0}, {"batch_rows": 0}])
def test_limits_must_let_a_row_pass(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        decoder(*SMALL_COLUMNS, **limits)


def test_decoders_work_side_by_side() -> None:
    columns: list[tuple[str, pa.DataType, Form]] = [
        ("n", pa.decimal128(12, 2), Form.NUMERIC),
        ("s", pa.string(), Form.BYTES),
    ]
    rows = [[Decimal(number).scaleb(-2), str(number)] for number in range(20_000)]
    stream = encode_stream(["numeric", "bytes"], rows)
    results: dict[int, list[pa.RecordBatch]] = {}

    def work(number: int) -> None:
        target = decoder(*columns, batch_rows=1000)
        for _ in range(3):
            feed(target, stream)
        results[number] = list(target.finish())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(result == results[0] for result in results.values())
    assert results[0][0]["n"].to_pylist() == [row[0] for row in rows[:1000]]
