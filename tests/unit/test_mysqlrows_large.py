"""Lengths in large rows: told from whatever has come of them, wherever the packets are cut."""

from __future__ import annotations

import datetime as dt
import struct
import uuid
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rivet_dagster.wire import _mysqlrows_large, mysqlrows
from rivet_dagster.wire.mysqlrows import LARGEST_PAYLOAD, Form, LargeRow, WireColumn, scan_packets
from tests.support.mysqlrows_encoder import encode_packets, encode_row

FORMS = ("int4", "bytes", "int8", "decimal", "date", "datetime", "time", "bytes", "uuid", "bytes", "int2")
TYPES: dict[str, Any] = {
    "int4": pa.int32(),
    "int8": pa.int64(),
    "int2": pa.int16(),
    "decimal": pa.decimal128(9, 2),
    "date": pa.date32(),
    "datetime": pa.timestamp("us"),
    "time": pa.time64("us"),
    "uuid": pa.uuid(),
    "bytes": pa.binary(),
}
COLUMNS = [WireColumn(pa.field(f"c{number}", TYPES[form]), Form(form)) for number, form in enumerate(FORMS)]
MOMENT = dt.datetime(2024, 2, 29, 12, 34, 56, 789)
MOST = 300


def row(second: bytes | None, last: bytes | None) -> list[Any]:
    number = None if second is None else 8
    return [-5, second, number, Decimal("1.50"), MOMENT.date(), MOMENT, 0, b"k" * 260, uuid.UUID(int=7), last, 9]


def packets(payload: bytes, largest: int) -> bytes:
    """The payload in packets of at most `largest` bytes, the last of which has fewer."""
    parts = [payload[at : at + largest] for at in range(0, len(payload) + 1, largest)]
    return b"".join(len(part).to_bytes(3, "little") + bytes([number % 256]) + part for number, part in enumerate(parts))


@pytest.mark.parametrize("largest", [3, 7, 64, 255, 256, 1000, LARGEST_PAYLOAD])
@pytest.mark.parametrize("last", [None, b"", b"y" * MOST, b"y" * (MOST + 1), b"y" * 70_000])
def test_a_large_value_is_known_with_its_length(
    monkeypatch: pytest.MonkeyPatch, largest: int, last: bytes | None
) -> None:
    monkeypatch.setattr(_mysqlrows_large, "LARGEST_PAYLOAD", largest)
    payload = encode_row(FORMS, row(None if last == b"" else b"x" * 251, last))
    # Behind it stands the next row, and before it another one.
    whole = packets(payload, largest)
    buffer = np.frombuffer(bytearray(b"before" + whole + packets(payload, largest)), np.uint8)
    one = LargeRow(COLUMNS, MOST)
    came = next(size for size in range(6, len(buffer) + 1) if one.walk(buffer, 6, size))
    at_once = LargeRow(COLUMNS, MOST)
    assert at_once.walk(buffer, 6, len(buffer))
    assert one.too_large == at_once.too_large == ((9, len(last)) if last and len(last) > MOST else None)
    known = one.fields(buffer, 6, [0, 1, 7])
    assert known == [struct.pack("<i", -5), None if last == b"" else b"x" * 251, b"k" * 260]
    if one.too_large:
        # Nothing of the value but its length, and what the packets' headers take.
        begin = payload.index(b"yy")
        assert came <= 6 + begin + 4 * (1 + begin // largest)
    else:
        assert came <= 6 + len(whole)


@pytest.mark.parametrize("payload", [b"\0", bytes(3), bytes(3) + b"\1\0\0", encode_row(FORMS, row(b"x", b"y"))[:-270]])
def test_a_row_that_is_none_is_left_to_its_decoder(payload: bytes) -> None:
    buffer = np.frombuffer(bytearray(encode_packets(payload)), np.uint8)
    found = LargeRow(COLUMNS, MOST)
    assert not any(found.walk(buffer, 0, used) for used in range(4))
    assert any(found.walk(buffer, 0, used) for used in range(4, len(buffer) + 1)), "nobody waits for more"
    assert found.too_large is None


def test_a_length_that_its_row_cannot_have_is_no_large_value() -> None:
    columns = [WireColumn(pa.field("c", pa.binary()), Form.BYTES)]
    buffer = np.frombuffer(bytearray(encode_packets(b"\0\0\xfe" + (1 << 40).to_bytes(8, "little") + b"x")), np.uint8)
    found = LargeRow(columns, MOST)
    assert found.walk(buffer, 0, len(buffer))
    assert found.too_large is None


@pytest.mark.parametrize("size", [10, 11, 12])
def test_packets_stop_at_a_row_that_may_be_large(size: int) -> None:
    """With its first byte; also before it has come to its end."""
    rows = b"".join(encode_packets(b"\0" * length, number) for number, length in enumerate((3, size, 3)))
    buffer = np.frombuffer(bytearray(rows), np.uint8)
    for used in range(7 + 5, len(rows) + 1):
        passed, at, sequence, state = scan_packets(buffer, 0, used, 0, 3, 10)
        if size > 10:
            assert (passed, at, sequence, state) == (1, 7, 1, mysqlrows.LARGE)
        else:
            assert state == (mysqlrows.FULL if used == len(rows) else mysqlrows.MORE)
    assert scan_packets(buffer, 7, len(rows), 1, 1, mysqlrows.ANY_SIZE) == (1, 11 + size, 2, mysqlrows.FULL)
