"""Pages of MySQL's binary rows: what a decoder makes of them and where its batches end."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import threading
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rivet_dagster.errors import SourceError
from rivet_dagster.wire import _mysqlrows_kernels as kernels
from rivet_dagster.wire.mysqlrows import Form, RowDecoder, WireColumn
from tests.support.mysqlrows_decoding import (
    RECORDED,
    RECORDED_COLUMNS,
    Columns,
    copied,
    decoder,
    feed,
    paged,
    refusal,
)
from tests.support.mysqlrows_encoder import encode_packets, encode_page, encode_row

SMALL_COLUMNS: Columns = [("a", pa.int32(), Form.INT4), ("b", pa.string(), Form.BYTES)]
SMALL_FORMS = ["int4", "bytes"]
SMALL_ROWS = [[1, "one"], [2, None], [None, ""]]
SMALL_PAGE = encode_page(SMALL_FORMS, SMALL_ROWS)
ROW_EDGES = [len(encode_page(SMALL_FORMS, SMALL_ROWS[:count])) for count in range(len(SMALL_ROWS) + 1)]


@pytest.mark.parametrize("length", range(len(SMALL_PAGE)))
def test_a_page_cut_within_a_row_is_refused_for_good(length: int) -> None:
    target = decoder(*SMALL_COLUMNS, batch_rows=1)
    if length in ROW_EDGES:
        feed(target, SMALL_PAGE[:length])
        assert target.page_rows == ROW_EDGES.index(length)
        return
    with pytest.raises(SourceError) as caught:
        feed(target, SMALL_PAGE[:length])
    assert (caught.value.code, caught.value.retryable) == ("RIVET_PROTOCOL_ERROR", True)
    assert "they end within a packet" in caught.value.what
    for later in (lambda: list(target.finish()), lambda: target.last_row([0]), lambda: feed(target, SMALL_PAGE)):
        with pytest.raises(SourceError) as again:
            later()
        assert again.value is caught.value


@pytest.mark.parametrize("cut", range(0xE0))
def test_a_row_cut_anywhere_and_sent_as_a_whole_is_refused(cut: int) -> None:
    """The packet says that it is complete, so only the values can tell that it is not."""
    with pytest.raises(SourceError) as caught:
        feed(decoder(*RECORDED_COLUMNS), encode_packets(RECORDED[4 : 4 + cut]) + RECORDED)
    assert caught.value.code == "RIVET_PROTOCOL_ERROR"


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (encode_packets(encode_row(SMALL_FORMS, [1, "one"]) + b"\x00"), "bytes follow the last value of a row"),
        (encode_packets(b"\x00\x0c\x00"), "bytes follow the last value of a row"),
        (encode_packets(b"\x00"), "no row of the table's columns"),
        (encode_packets(b""), "no row of the table's columns"),
        (encode_packets(b"\x01" + encode_row(SMALL_FORMS, [1, "one"])[1:]), "no row of the table's columns"),
        (encode_packets(b"\xfe\x00\x00\x02\x00"), "no row of the table's columns"),
        (encode_packets(b"\xff\x15\x04#28000Access denied"), "no row of the table's columns"),
        (encode_packets(b"\x00\x00"), "column a has bytes that are no int4"),
        (encode_packets(b"\x00\x00\x01\x00\x00\x00"), "column b has bytes that are no bytes"),
        (b"\xff\xff\xff\x00\x00\x00", "they end within a packet"),
    ],
)
def test_malformed_pages_are_refused(page: bytes, words: str) -> None:
    for before in (b"", SMALL_PAGE):
        with pytest.raises(SourceError) as caught:
            feed(decoder(*SMALL_COLUMNS), before + page)
        assert caught.value.code == "RIVET_PROTOCOL_ERROR"
        assert words in caught.value.what


def test_a_value_is_not_taken_from_the_next_row() -> None:
    short = encode_packets(b"\x00\x00\x01\x00\x00\x00\x03on")
    with pytest.raises(SourceError, match="column b has bytes that are no bytes"):
        feed(decoder(*SMALL_COLUMNS), short + SMALL_PAGE)


def test_pages_without_rows_give_no_batches() -> None:
    target = decoder(*SMALL_COLUMNS)
    assert feed(target, b"") == list(target.finish()) == []
    assert target.page_rows == 0
    with pytest.raises(LookupError):
        target.last_row([0])


def test_a_batch_ends_at_the_row_that_reaches_a_limit() -> None:
    rows = [[number, "x" * (number % 50)] for number in range(200)]
    target = decoder(*SMALL_COLUMNS, batch_bytes=1000, batch_rows=30)
    expected, size, count = [], 0, 0
    for row in rows:
        size, count = size + len(encode_row(SMALL_FORMS, row)), count + 1
        if size >= 1000 or count == 30:
            expected.append(count)
            size = count = 0
    complete = feed(target, encode_page(SMALL_FORMS, rows))
    rest = copied(target.finish())
    assert [batch.num_rows for batch in complete] == expected
    assert [batch.num_rows for batch in rest] == [count]
    assert pa.Table.from_batches(complete + rest)["a"].to_pylist() == list(range(200))


def test_buffers_grow_over_blocks_and_batches() -> None:
    rows = [[number if number % 7 else None, f"{number:x}" * (number % 90)] for number in range(60_000)]
    page = encode_page(SMALL_FORMS, rows)
    assert len(page) > 3 << 20  # several blocks
    target = decoder(*SMALL_COLUMNS, batch_bytes=2 << 20)
    table = pa.Table.from_batches([*feed(target, page), *copied(target.finish())])
    table.validate(full=True)
    assert table["a"].to_pylist() == [row[0] for row in rows]
    assert table["b"].to_pylist() == [row[1] for row in rows]


def test_the_memory_of_a_batch_is_used_again() -> None:
    target = decoder(*SMALL_COLUMNS, batch_rows=3)
    addresses = set()
    for _ in range(4):
        page = paged(SMALL_PAGE)
        for batch in target.decode(page, len(SMALL_PAGE)):
            data = batch.column(0).buffers()[1]
            assert data is not None
            addresses.add(data.address)
    assert len(addresses) == 1


def test_text_beyond_two_gigabytes_is_refused_before_its_offset_wraps() -> None:
    payload = encode_row(["bytes"], ["0123456789"])
    page = np.frombuffer(bytearray(payload), np.uint8)
    offsets = np.array([2**31 - 10, 0], np.int32)
    nulls = np.zeros(1, np.uint8)
    start, end = np.array([0]), np.array([len(payload)])
    assert kernels.measure_bytes(page, np.array([2]), start, end, offsets, nulls, 0) == -1
    offsets[0] -= 1
    assert kernels.measure_bytes(page, np.array([2]), start, end, offsets, nulls, 0) == 0
    assert offsets[1] == 2**31 - 1


def test_too_much_text_for_one_batch_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "measure_bytes", lambda *_: -2)
    error = refusal(pa.string(), Form.BYTES, "text")
    assert (error.code, error.fatal) == ("RIVET_VALUE_TOO_LARGE", False)
    assert "Column c holds more than 2 GiB" in error.what


def test_the_last_row_gives_its_wire_bytes() -> None:
    columns = [*RECORDED_COLUMNS, ("uu", pa.uuid(), Form.UUID)]
    forms = [form.value for *_, form in columns]
    target = decoder(*columns, batch_rows=2)
    values: dict[str, Any] = {
        "i1": -2,
        "u2": 258,
        "i4": 1,
        "u8": 2**64 - 2,
        "f8": 10.2,
        "n": Decimal("-15.50"),
        "d": dt.date(2010, 10, 17),
        "t6": dt.datetime(2010, 10, 17, 19, 27, 30, 1),
        "t0": dt.datetime(2010, 10, 17),
        "ti": 0,
        "bt": 258,
        "s": "last",
        "by": b"y" * 300,
        "bo": True,
        "uu": uuid.UUID(int=1),
    }
    last = [values.get(name) for name, *_ in columns]
    feed(target, encode_page(forms, [[None] * len(columns), last]))
    names = [name for name, *_ in columns]
    expected = {
        "uu": bytes(15) + b"\x01",
        "i1": b"\xfe",
        "u2": b"\x02\x01",
        "i4": b"\x01\x00\x00\x00",
        "u8": b"\xfe" + b"\xff" * 7,
        "f8": bytes.fromhex("6666666666662440"),
        "n": b"-15.50",
        "d": bytes.fromhex("da070a11"),
        "t6": bytes.fromhex("da070a11131b1e01000000"),
        "t0": bytes.fromhex("da070a11"),
        "ti": b"",
        "bt": b"\x01\x02",
        "s": b"last",
        "by": b"y" * 300,
        "bo": b"\x01",
        "w": None,
        "j": None,
    }
    assert target.last_row([names.index(name) for name in expected]) == list(expected.values())
    feed(target, encode_page(forms, [[None] * len(columns)]))
    assert target.last_row([0, 27]) == [None, None]


def test_the_last_row_outlives_its_page() -> None:
    target = decoder(*SMALL_COLUMNS)
    rows = encode_page(SMALL_FORMS, [[1, "kept"]])
    page = np.frombuffer(bytearray(rows), np.uint8)
    assert list(target.decode(page, len(rows))) == []
    page[:] = 0
    assert target.last_row([1]) == [b"kept"]


def test_read_only_pages_are_taken() -> None:
    target = decoder(*SMALL_COLUMNS)
    assert list(target.decode(np.frombuffer(SMALL_PAGE, np.uint8), len(SMALL_PAGE))) == []
    assert target.page_rows == 3


def test_the_schema_keeps_nullability_and_metadata() -> None:
    field = pa.field("a", pa.int32(), nullable=False, metadata={"native": "int"})
    target = RowDecoder([WireColumn(field, Form.INT4)], batch_bytes=1, batch_rows=1)
    (batch,) = feed(target, encode_page(["int4"], [[1]]))
    assert target.schema.equals(pa.schema([field]), check_metadata=True)
    assert batch.schema.equals(pa.schema([field]), check_metadata=True)


WARMED = """
from tests.support.mysqlrows_decoding import *
from tests.support.mysqlrows_encoder import encode_page
from rivet_dagster.wire import _mysqlrows_decimal, _mysqlrows_kernels, _mysqlrows_values, mysqlrows

def loaded():
    modules = (_mysqlrows_decimal, _mysqlrows_kernels, _mysqlrows_values)
    kernels = [made for module in modules for made in vars(module).values() if hasattr(made, "signatures")]
    return {str(made): list(made.signatures) for made in kernels}

mysqlrows.warm()
before = loaded()
columns = [*RECORDED_COLUMNS, ("uu", pa.uuid(), Form.UUID), ("fl", pa.bool_(), Form.BIT)]
target = decoder(*columns, replace=True)
feed(target, encode_page(["bytes"] * len(columns), [[None] * len(columns)]))
assert len(list(target.finish())) == 1
feed(decoder(*RECORDED_COLUMNS), RECORDED)
mysqlrows.scan_packets(paged(RECORDED), 0, len(RECORDED), 30, 100, mysqlrows.ANY_SIZE)
assert sum(map(bool, before.values())) > 5
assert loaded() == before
"""


def test_warming_leaves_nothing_to_compile() -> None:
    """A kernel that is called with other types later would be compiled once more; only a new process can tell."""
    subprocess.run([sys.executable, "-c", WARMED], check=True, cwd=Path(__file__).parents[2])


def test_decoders_work_side_by_side() -> None:
    columns: list[tuple[str, pa.DataType, Form]] = [
        ("n", pa.decimal128(30, 2), Form.DECIMAL),
        ("s", pa.string(), Form.BYTES),
    ]
    rows = [[Decimal(number * 10**18).scaleb(-2), str(number)] for number in range(20_000)]
    page = encode_page(["decimal", "bytes"], rows)
    results: dict[int, list[pa.RecordBatch]] = {}

    def work(number: int) -> None:
        target = decoder(*columns, batch_rows=1000)
        results[number] = [batch for _ in range(3) for batch in feed(target, page)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(result == results[0] for result in results.values())
    assert results[0][0]["n"].to_pylist() == [row[0] for row in rows[:1000]]


@pytest.mark.parametrize("limits", [{"batch_bytes": 0}, {"batch_rows": 0}])
def test_limits_must_let_a_row_pass(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        decoder(*SMALL_COLUMNS, **limits)


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        (pa.int64(), Form.INT4),
        (pa.uint8(), Form.BOOL),
        (pa.int64(), Form.BIT),
        (pa.timestamp("ns"), Form.DATETIME),
        (pa.duration("us"), Form.TIME),
        (pa.date32(), Form.DATETIME),
        (pa.binary(8), Form.UUID),
        (pa.large_string(), Form.BYTES),
        (pa.float64(), Form.DECIMAL),
        (pa.decimal128(5, -2), Form.DECIMAL),
    ],
)
def test_forms_and_arrow_types_must_agree(kind: pa.DataType, form: Form) -> None:
    with pytest.raises(ValueError, match=f"wire form {form.value} does not give"):
        decoder(("c", kind, form))


def test_null_replaces_only_where_null_may_be() -> None:
    with pytest.raises(ValueError, match="wire form date does not give"):
        decoder(("c", pa.date32(), Form.DATE), nullable=False, replace=True)
