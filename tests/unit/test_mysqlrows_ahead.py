"""Rows that are decoded while others are on their way: what comes of them is what comes of a page as a whole."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rivet_dagster.errors import SourceError
from rivet_dagster.wire.mysqlrows import ANY_SIZE, FULL, MORE, Form, RowDecoder, scan_packets
from tests.support.mysqlrows_decoding import RECORDED, RECORDED_COLUMNS, Columns, copied, decoder
from tests.support.mysqlrows_encoder import LARGEST, Raw, encode_packets, encode_page, encode_row

COLUMNS: Columns = [("a", pa.int32(), Form.INT4), ("t", pa.string(), Form.BYTES), ("d", pa.date32(), Form.DATE)]
FORMS = ["int4", "bytes", "date"]
ZERO_DATE = Raw(b"\x00")
KEY = [0, 1]


@dataclass
class Outcome:
    """All that a decoder gives: its batches, and after each page its rows and its last row's fields; or its error."""

    batches: list[pa.RecordBatch] = field(default_factory=list)
    pages: list[tuple[int, list[bytes | None] | None]] = field(default_factory=list)
    replaced: dict[tuple[str, str], int] = field(default_factory=dict)
    error: tuple[str, str, bool] | None = None


def last_row(target: RowDecoder) -> list[bytes | None] | None:
    try:
        return target.last_row(KEY)
    except LookupError:
        return None


def decoded(target: RowDecoder, pages: Iterable[tuple[bytes, Sequence[int]]]) -> Outcome:
    """Decode pages, the first bytes of each ahead, up to each of its splits.

    What is used ahead makes room at the front of the buffer, as it does while a socket is drained.
    """
    found = Outcome()
    try:
        for page, splits in pages:
            buffer = np.frombuffer(bytearray(page + b"\x7f" * 16), np.uint8)
            gone = 0
            for split in splits:
                used = target.decode_ahead(buffer, split - gone)
                assert 0 <= used <= split - gone
                buffer[: buffer.size - used] = buffer[used:].copy()
                gone += used
            for batch in target.decode(buffer, len(page) - gone):
                found.batches += copied([batch])
            found.pages.append((target.page_rows, last_row(target)))
        found.batches += copied(target.finish())
    except SourceError as error:
        found.error = (error.code, error.what, error.retryable)
        check_that_it_lasts(target, error)
    found.replaced = target.replaced
    return found


def check_that_it_lasts(target: RowDecoder, error: SourceError) -> None:
    for later in (lambda: target.decode_ahead(np.empty(0, np.uint8), 0), lambda: list(target.finish())):
        with pytest.raises(SourceError) as again:
            later()
        assert again.value is error


def assert_same(found: Outcome, expected: Outcome) -> None:
    assert [batch.num_rows for batch in found.batches] == [batch.num_rows for batch in expected.batches]
    for ours, theirs in zip(found.batches, expected.batches, strict=True):
        ours.validate(full=True)
        assert ours.equals(theirs)
    assert (found.pages, found.replaced, found.error) == (expected.pages, expected.replaced, expected.error)


def edges_of(page: bytes) -> list[int]:
    """Where each row of a page ends, and 0."""
    buffer, edges, sequence = np.frombuffer(bytearray(page), np.uint8), [0], page[3] if page else 0
    while True:
        rows, at, sequence, state = scan_packets(buffer, edges[-1], len(page), sequence, 1, ANY_SIZE)
        if state == MORE:
            return edges
        assert (rows, state) == (1, FULL)
        edges.append(at)


rows_of_a_page = st.lists(
    st.tuples(
        st.none() | st.integers(-(2**31), 2**31 - 1),
        st.none() | st.text(max_size=60),
        st.none() | st.dates() | st.just(ZERO_DATE),
    ),
    max_size=25,
)


@settings(deadline=None)  # the first one may compile
@given(
    pages=st.lists(rows_of_a_page, min_size=1, max_size=4),
    batch_rows=st.integers(1, 30),
    batch_bytes=st.integers(1, 600),
    data=st.data(),
)
def test_wherever_pages_are_split_the_batches_are_the_same(
    pages: list[list[tuple[Any, ...]]], batch_rows: int, batch_bytes: int, data: st.DataObject
) -> None:
    limits: Any = {"batch_rows": batch_rows, "batch_bytes": batch_bytes}
    encoded = [encode_page(FORMS, rows) for rows in pages]
    splits = [sorted(data.draw(st.sets(st.sampled_from(edges_of(page))))) for page in encoded]
    found = decoded(decoder(*COLUMNS, replace=True, **limits), zip(encoded, splits, strict=True))
    expected = decoded(decoder(*COLUMNS, replace=True, **limits), ((page, ()) for page in encoded))
    assert_same(found, expected)
    assert [rows for rows, _ in found.pages] == [len(rows) for rows in pages]
    taken = [tuple(row.values()) for batch in found.batches for row in batch.to_pylist()]
    assert taken == [(a, t, None if d == ZERO_DATE else d) for a, t, d in itertools.chain(*pages)]
    # The last row is that of the page, also where all of its rows were taken ahead.
    for rows, (_, key) in zip(pages, found.pages, strict=True):
        assert key == ([wire_int(rows[-1][0]), wire_text(rows[-1][1])] if rows else None)


def wire_int(value: int | None) -> bytes | None:
    return None if value is None else value.to_bytes(4, "little", signed=True)


def wire_text(value: str | None) -> bytes | None:
    return None if value is None else value.encode()


@pytest.mark.parametrize("batch_rows", range(1, 5))
def test_every_split_of_a_page_of_every_type(batch_rows: int) -> None:
    edges = edges_of(RECORDED)
    assert len(edges) == 4
    expected = decoded(decoder(*RECORDED_COLUMNS, batch_rows=batch_rows), [(RECORDED, ())])
    assert expected.error is None
    for count in range(len(edges) + 1):
        for splits in itertools.combinations(edges, count):
            found = decoded(decoder(*RECORDED_COLUMNS, batch_rows=batch_rows), [(RECORDED, splits)])
            assert_same(found, expected)


def test_as_much_is_used_as_the_batch_has_room_for() -> None:
    page = encode_page(FORMS, [[number, "x" * 10, None] for number in range(10)])
    edges = edges_of(page)
    target = decoder(*COLUMNS, batch_rows=4)
    buffer = np.frombuffer(bytearray(page), np.uint8)
    assert target.decode_ahead(buffer, edges[3]) == edges[3]
    assert target.decode_ahead(buffer[edges[3] :], edges[9] - edges[3]) == edges[4] - edges[3]
    assert target.decode_ahead(buffer[edges[4] :], edges[9] - edges[4]) == 0
    rest = buffer[edges[4] :]
    assert [batch.num_rows for batch in copied(target.decode(rest, rest.size))] == [4, 4]
    assert target.page_rows == 10
    # The next page's rows go into the batch that is open.
    assert target.decode_ahead(np.frombuffer(bytearray(page), np.uint8), edges[10]) == edges[2]


def test_pages_of_more_rows_than_a_block_has() -> None:
    rows = [[number, f"{number:x}" * (number % 9), None] for number in range(40_000)]
    page = encode_page(FORMS, rows)
    edges = edges_of(page)
    choices: list[Any] = [{}, {"batch_rows": 17_000}, {"batch_bytes": 200_000}]
    for limits in choices:
        expected = decoded(decoder(*COLUMNS, **limits), [(page, ()), (page, ())])
        for splits in ([edges[39_999]], [edges[1], edges[16_384], edges[16_385]], edges[:: len(edges) // 50]):
            assert_same(decoded(decoder(*COLUMNS, **limits), [(page, splits), (page, splits)]), expected)


def test_rows_of_several_packets_are_closed_up_once() -> None:
    """Values that end a byte before, at and behind the end of a packet, and one that fills two."""
    sizes = (LARGEST - 10, LARGEST - 9, LARGEST - 8, 2 * LARGEST - 9, 5)
    forms = ["int4", "bytes"]
    columns = COLUMNS[:2]
    texts = [chr(97 + number) * size for number, size in enumerate(sizes)]
    page = encode_page(forms, [[number, text] for number, text in enumerate(texts)])
    edges = edges_of(page)
    assert len(edges) == len(sizes) + 1
    for splits in ([edges[1]], [edges[2], edges[3]], edges, [edges[-1]]):
        target = decoder(*columns, batch_bytes=1 << 30)
        buffer = np.frombuffer(bytearray(page), np.uint8)
        gone = 0
        for split in splits:
            gone += target.decode_ahead(buffer[gone:], split - gone)
            assert gone == split
        (batch,) = (*target.decode(buffer[gone:], len(page) - gone), *target.finish())
        assert target.page_rows == len(sizes)
        assert batch.column("t").to_pylist() == texts
        assert target.last_row([0, 1]) == [b"\4\0\0\0", b"eeeee"]


BAD_ROWS = {
    "zero date": encode_packets(encode_row(FORMS, [7, "bad", ZERO_DATE])),
    "no UTF-8": encode_packets(encode_row(FORMS, [7, b"\xff\xfe", None])),
    "too short": encode_packets(b"\0\0\1\0\0\0\x09text"),
    "too long": encode_packets(encode_row(FORMS, [7, "bad", None]) + b"\0"),
    "no row": encode_packets(b"\xfe\0\0\2\0"),
    "nothing": encode_packets(b"\0"),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
@pytest.mark.parametrize("limits", [{}, {"batch_rows": 3}, {"batch_bytes": 40}])
def test_a_row_that_is_refused_is_refused_by_the_same_words(kind: str, limits: Any) -> None:
    row = encode_packets(encode_row(FORMS, [1, "good", None]))
    before, after = 8, 3
    page = row * before + BAD_ROWS[kind] + row * after
    edges = [len(row) * count for count in range(before + 1)]
    edges += [edges[-1] + len(BAD_ROWS[kind]) + len(row) * count for count in range(after + 1)]
    expected = decoded(decoder(*COLUMNS, **limits), [(page, ())])
    assert expected.error is not None
    for splits in [[], *([edge] for edge in edges), edges, edges[::2], edges[1::3]]:
        found = decoded(decoder(*COLUMNS, **limits), [(page, splits)])
        assert_same(found, expected)


def test_rows_ahead_belong_to_the_page_that_goes_on_with_them() -> None:
    page = encode_page(FORMS, [[1, "one", None], [2, "two", None]])
    target = decoder(*COLUMNS)
    for _ in range(3):
        assert target.decode_ahead(np.frombuffer(bytearray(page), np.uint8), len(page)) == len(page)
        assert list(target.decode(np.empty(0, np.uint8), 0)) == []
        assert target.page_rows == 2
        assert target.last_row(KEY) == [b"\2\0\0\0", b"two"]
    assert list(target.decode(np.empty(0, np.uint8), 0)) == []
    assert target.page_rows == 0
    with pytest.raises(LookupError):
        target.last_row(KEY)
    (batch,) = target.finish()
    assert batch.column("a").to_pylist() == [1, 2] * 3
