"""Pages of MySQL's binary rows: rows of several packets, and how packets are told apart."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rivet_dagster.errors import SourceError
from rivet_dagster.wire import mysqlrows
from rivet_dagster.wire.mysqlrows import Form, scan_packets
from tests.support.mysqlrows_decoding import (
    decoder,
    feed,
)
from tests.support.mysqlrows_encoder import LARGEST, encode_packets, encode_page, encode_row

SMALL_FORMS = ["int4", "bytes"]
SMALL_ROWS = [[1, "one"], [2, None], [None, ""]]


def big_text(size: int) -> bytes:
    """Bytes of which no two parts at a distance of a few are alike."""
    return (bytes(range(32, 127)) * (size // 95 + 1))[:size]


# Bytes of a row of an int4, a text of more than 64 KiB and an int8, beside the text's own.
BIG_ROW_HEAD = 1 + 1 + 4 + 4 + 8
BIG_PAYLOADS = [LARGEST - 1, LARGEST, LARGEST + 1, 2 * LARGEST, 2 * LARGEST + 1]


@pytest.fixture(scope="module")
def big_page() -> bytes:
    """Rows at the edges of packets, with small ones in between."""
    rows: list[list[Any]] = []
    for number, payload in enumerate(BIG_PAYLOADS):
        head = BIG_ROW_HEAD + (5 if payload - BIG_ROW_HEAD >= 2**24 else 0)
        rows += [[number, big_text(payload - head), -number], [number, b"small", number]]
        assert len(encode_row(["int4", "bytes", "int8"], rows[-2])) == payload
    return encode_page(["int4", "bytes", "int8"], rows, sequence=250)


def test_rows_of_several_packets_are_joined(big_page: bytes) -> None:
    columns = (("a", pa.int32(), Form.INT4), ("b", pa.binary(), Form.BYTES), ("c", pa.int64(), Form.INT8))
    target = decoder(*columns, batch_rows=3)
    page = np.frombuffer(bytearray(big_page), np.uint8)
    found: list[tuple[int, int, int]] = []
    for batch in itertools.chain(target.decode(page, page.size), target.finish()):
        for row in batch.to_pylist():
            assert row["b"] in (b"small", big_text(len(row["b"])))
            found.append((row["a"], len(row["b"]), row["c"]))
    expected = []
    for number, payload in enumerate(BIG_PAYLOADS):
        head = BIG_ROW_HEAD + (5 if payload - BIG_ROW_HEAD >= 2**24 else 0)
        expected += [(number, payload - head, -number), (number, 5, number)]
    assert found == expected
    assert target.page_rows == len(expected)
    assert target.last_row([1, 0]) == [b"small", struct.pack("<i", len(BIG_PAYLOADS) - 1)]


@pytest.mark.parametrize("missing", [1, 4, 5, LARGEST, LARGEST + 3])
def test_a_big_row_that_is_not_all_there_is_refused(missing: int) -> None:
    row = encode_packets(encode_row(["bytes"], [big_text(LARGEST + 10)]))
    with pytest.raises(SourceError, match="they end within a packet"):
        feed(decoder(("c", pa.binary(), Form.BYTES)), row[:-missing])


def test_packets_of_big_rows_are_counted_as_one_row(big_page: bytes) -> None:
    buffer = np.frombuffer(bytearray(big_page), np.uint8)
    starts, at = [0], 0
    packets = rows = 0
    while at < len(big_page):
        length = int.from_bytes(big_page[at : at + 3], "little")
        at += 4 + length
        packets += 1
        if length < LARGEST:
            rows += 1
            starts.append(at)
        # Up to the middle of the next packet's header nothing changes but at the end of a row.
        for used in (at - 1, at, at + 2):
            whole = [start for start in starts if start <= used]
            _, stopped, _, state = scan_packets(buffer, 0, min(used, len(big_page)), 250, 100, mysqlrows.ANY_SIZE)
            assert (stopped, state) == (whole[-1], mysqlrows.MORE)
    assert (rows, packets) == (10, 16)
    assert scan_packets(buffer, 0, len(big_page), 250, 100, mysqlrows.ANY_SIZE) == (
        10,
        len(big_page),
        (250 + 16) % 256,
        mysqlrows.MORE,
    )
    assert scan_packets(buffer, 0, len(big_page), 250, 10, mysqlrows.ANY_SIZE)[3] == mysqlrows.FULL


STREAM_ROWS = [encode_row(SMALL_FORMS, row) for row in (*SMALL_ROWS, [7, "x" * 300])]
STREAM_END = b"\xfe\x00\x00\x22\x00"


def stream(*payloads: bytes, sequence: int = 0) -> bytes:
    return b"".join(encode_packets(payload, sequence + number) for number, payload in enumerate(payloads))


@pytest.mark.parametrize("sequence", [0, 3, 253, 255])
@pytest.mark.parametrize(("end", "state"), [(STREAM_END, mysqlrows.END), (b"\xff\x15\x04oops", mysqlrows.ERROR)])
def test_packets_are_scanned_the_same_however_they_arrive(sequence: int, end: bytes, state: int) -> None:
    whole = stream(*STREAM_ROWS, end, sequence=sequence)
    last = len(whole) - len(end) - 4
    for first in range(len(whole) + 1):
        # What is behind `used` may be anything.
        buffer = np.frombuffer(bytearray(whole[:first] + b"\xee" * 600), np.uint8)
        rows, at, number, found = scan_packets(buffer, 0, first, sequence, 100, mysqlrows.ANY_SIZE)
        assert found == (state if first == len(whole) else mysqlrows.MORE)
        assert at <= min(first, last)
        buffer[: len(whole)] = np.frombuffer(whole, np.uint8)
        more, at, number, found = scan_packets(buffer, at, len(whole), number, 100, mysqlrows.ANY_SIZE)
        assert (rows + more, at, number, found) == (4, last, (sequence + 4) % 256, state)


def test_no_more_rows_are_passed_than_were_wanted() -> None:
    whole = np.frombuffer(bytearray(stream(*STREAM_ROWS, STREAM_END)), np.uint8)
    at = 0
    for sequence, row in enumerate(STREAM_ROWS):
        assert scan_packets(whole, at, whole.size, sequence, 0, mysqlrows.ANY_SIZE) == (0, at, sequence, mysqlrows.FULL)
        found = scan_packets(whole, at, whole.size, sequence, 1, mysqlrows.ANY_SIZE)
        at += 4 + len(row)
        assert found == (1, at, sequence + 1, mysqlrows.FULL)
    assert scan_packets(whole, at, whole.size, 4, 1, mysqlrows.ANY_SIZE) == (0, at, 4, mysqlrows.END)


@pytest.mark.parametrize(
    ("packet", "state"),
    [
        (stream(STREAM_ROWS[0], sequence=2), mysqlrows.OUT_OF_ORDER),
        (stream(STREAM_END, sequence=0), mysqlrows.OUT_OF_ORDER),
        (stream(b"\xff\x01", sequence=255), mysqlrows.OUT_OF_ORDER),
        (stream(b"", sequence=1), mysqlrows.UNEXPECTED),
        (stream(b"\x01\x00", sequence=1), mysqlrows.UNEXPECTED),
        (stream(b"\xfb\x00", sequence=1), mysqlrows.UNEXPECTED),
        (b"\xff\xff\xff\x01\xfe", mysqlrows.UNEXPECTED),
        (b"\xff\xff\xff\x01\x00", mysqlrows.MORE),
        (b"\xff\xff\xff\x01\xff", mysqlrows.MORE),
        (b"\x05\x00\x00\x01\xfe", mysqlrows.MORE),
        (b"\x05\x00\x00\x01", mysqlrows.MORE),
    ],
)
def test_packets_that_are_no_rows_are_told_apart(packet: bytes, state: int) -> None:
    first = stream(STREAM_ROWS[0])
    buffer = np.frombuffer(bytearray(first + packet), np.uint8)
    assert scan_packets(buffer, 0, buffer.size, 0, 100, mysqlrows.ANY_SIZE) == (1, len(first), 1, state)


def test_the_second_packet_of_a_row_must_have_the_next_number() -> None:
    row = bytearray(encode_packets(encode_row(["bytes"], [big_text(LARGEST)]), 9))
    second = 4 + LARGEST
    assert row[second + 3] == 10
    buffer = np.frombuffer(row, np.uint8)
    assert scan_packets(buffer, 0, buffer.size, 9, 1, mysqlrows.ANY_SIZE) == (1, buffer.size, 11, mysqlrows.FULL)
    row[second + 3] = 9
    assert scan_packets(buffer, 0, buffer.size, 9, 1, mysqlrows.ANY_SIZE) == (0, 0, 9, mysqlrows.OUT_OF_ORDER)
