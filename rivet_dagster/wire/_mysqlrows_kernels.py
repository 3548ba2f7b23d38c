"""Compiled loops over MySQL's packets and over the rows of a block: numbers, texts, bytes. Imports numba.

Every `decode_` kernel, here and in `_mysqlrows_values` and `_mysqlrows_decimal`, reads one column. It takes

    page      uint8[:]   the bytes of the rows
    pos       int64[:]   where each row's next value begins; moved to where it ends
    starts    int64[:]   where each row's payload begins
    ends      int64[:]   where it ends
    ...                  slices of the batch's buffers, to be filled from index 0 on
    nulls     uint8[:]   1 is written for each NULL; empty where the column does not allow NULL
    replaced  int64[:]   a counter a reason (`REASONS`), for values that Arrow cannot hold and NULL replaces;
                         empty where such a value is refused
    number               the column's

and returns how many NULLs it wrote, or `-1 - row` for the first row that it refuses: a value that is not wholly
within its row or that the form does not have, a value that Arrow cannot hold, or NULL where none may be. `pos[row]`
then still points to that value. Zeros are written under a NULL, so that equal rows give equal buffers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rivet_dagster._jit import Bytes, copy, helper, kernel, load_little_endian
from rivet_dagster.wire._mysqlrows_forms import HEADER, LARGEST_PAYLOAD, ROW

Positions = npt.NDArray[np.int64]
Offsets = npt.NDArray[np.int32]

# Why `scan_packets` and `scan_rows` stopped.
MORE = 0
FULL = 1
END = 2
ERROR = 3
OUT_OF_ORDER = 4
UNEXPECTED = 5
TRUNCATED = 6
NO_ROW = 7
LARGE = 8

ANY_SIZE = LARGEST_PAYLOAD
"""For `scan_packets`, of a first packet: no row is too large."""

_LARGEST_OFFSET = 2**31 - 1
_END_PACKET = 0xFE
_ERROR_PACKET = 0xFF
_TWO_BYTES, _THREE_BYTES, _EIGHT_BYTES = 0xFC, 0xFD, 0xFE


@kernel
def scan_packets(
    buffer: Bytes, at: int, used: int, sequence: int, rows_wanted: int, largest: int
) -> tuple[int, int, int, int]:
    """Walk the packets of whole rows from `at`, where a packet begins, within the first `used` bytes of `buffer`.

    A row counts once all of its packets are there. What follows the last row is looked at, not passed.

    Args:
        sequence: the number that the next packet must have.
        rows_wanted: the most rows to pass.
        largest: bytes of payload that the first packet of a row may have. Only its header need be there.

    Returns:
        Rows passed, the byte behind them, the number of the packet there, and why the walk stopped: MORE (the next
        packet or row is not wholly there), FULL (all rows that were wanted), END or ERROR (such a packet is wholly
        there), LARGE (the first packet of the next row is larger than `largest`), OUT_OF_ORDER (it has another
        number), UNEXPECTED (it is none of these, or empty).
    """
    used = min(used, buffer.size)
    sequence &= 255
    rows = 0
    while rows < rows_wanted:
        state = _first_packet(buffer, at, used, sequence)
        if state == FULL and _payload_length(buffer, at) > largest:
            state = LARGE
        end = at
        following = sequence
        length = LARGEST_PAYLOAD
        while state == FULL and length == LARGEST_PAYLOAD:
            if end + HEADER > used:
                state = MORE
            elif buffer[end + 3] != following:
                state = OUT_OF_ORDER
            else:
                length = _payload_length(buffer, end)
                end += HEADER + length
                following = (following + 1) & 255
        if state != FULL or end > used:
            return rows, at, sequence, MORE if state == FULL else state
        at, sequence = end, following
        rows += 1
    return rows, at, sequence, FULL


@helper
def _first_packet(buffer: Bytes, at: int, used: int, sequence: int) -> int:
    """FULL where a row begins; else what is there, as `scan_packets` has it."""
    begin = at + HEADER
    if begin > used:
        return MORE
    length = _payload_length(buffer, at)
    first = buffer[begin] if length > 0 and begin < used else np.uint8(ROW)
    if buffer[at + 3] != sequence:
        state = OUT_OF_ORDER
    elif length == 0:
        state = UNEXPECTED
    elif begin == used:
        state = MORE
    elif first == ROW:
        state = FULL
    elif first == _ERROR_PACKET or (first == _END_PACKET and length < LARGEST_PAYLOAD):
        end_state = END if first == _END_PACKET else ERROR
        state = end_state if begin + length <= used else MORE
    else:
        state = UNEXPECTED
    return state


@helper
def _payload_length(page: Bytes, at: int) -> int:
    """Length of the payload of the packet whose header stands at `at`."""
    return int(load_little_endian(page, at, np.int32) & LARGEST_PAYLOAD)


@kernel
def scan_rows(
    page: Bytes, at: int, least: int, enough: int, starts: Positions, ends: Positions
) -> tuple[int, int, int, int]:
    """Walk rows from byte `at` on, until one of them makes `enough` bytes of payload or fills `starts`.

    The packets of a row that has several are closed up to one payload, within `page`.

    Args:
        least: bytes of a row that holds only NULL.

    Returns:
        Rows found, the byte behind them, their payloads' bytes, and why the walk stopped: MORE, END (all is walked),
        or what is wrong with the next row.
    """
    rows = size = 0
    while rows < starts.size and size < enough:
        if at == page.size:
            return rows, at, size, END
        begin = at + HEADER
        if begin > page.size:
            return rows, at, size, TRUNCATED
        following = end = begin + _payload_length(page, at)
        if end - begin == LARGEST_PAYLOAD:
            end, following = _join_packets(page, end)
        if following > page.size:
            return rows, at, size, TRUNCATED
        if end - begin < least or page[begin] != ROW:
            return rows, at, size, NO_ROW
        starts[rows], ends[rows] = begin, end
        size += end - begin
        rows += 1
        at = following
    return rows, at, size, MORE


@helper
def _join_packets(page: Bytes, end: int) -> tuple[int, int]:
    """Move the payloads of a row's further packets to `end`, where that of its first one ends.

    Returns:
        Where the row's payload ends then, and where the packet behind it begins: beyond `page` if that ends before.
    """
    at = end
    length = LARGEST_PAYLOAD
    while length == LARGEST_PAYLOAD:
        if at + HEADER > page.size:
            return end, page.size + 1
        length = _payload_length(page, at)
        at += HEADER
        if at + length > page.size:
            return end, page.size + 1
        for byte in range(length):  # the two may overlap
            page[end + byte] = page[at + byte]
        end += length
        at += length
    return end, at


@kernel
def is_null(page: Bytes, start: int, number: int) -> bool:
    """Whether the NULL bitmap of the row at `start` has the column."""
    return bool(page[start + 1 + (number + 2 >> 3)] >> (number + 2 & 7) & 1)


@kernel
def text_bounds(page: Bytes, at: int, end: int) -> tuple[int, int]:
    """Where the bytes behind the length-encoded integer at `at` begin, and how many they are.

    The number is negative if no such integer is there, or they would reach beyond `end`.
    """
    if at >= end:
        return at, -1
    size = np.int64(page[at])
    begin = at + 1
    if size >= _TWO_BYTES - 1:
        width = 2 if size == _TWO_BYTES else 3 if size == _THREE_BYTES else 8
        begin += width
        if begin > end or size < _TWO_BYTES or size > _EIGHT_BYTES:
            return at, -1
        if width == 8:
            size = np.int64(load_little_endian(page, at + 1, np.int64))
        else:
            size = np.int64(load_little_endian(page, at + 1, np.uint16))
            if width == 3:
                size |= np.int64(page[at + 3]) << 16
    return begin, size if size <= end - begin else -1


@kernel
def decode_number(
    page: Bytes,
    pos: Positions,
    starts: Positions,
    ends: Positions,
    values: npt.NDArray[Any],
    nulls: Bytes,
    number: int,
) -> int:
    """The integers of `values`' type, and the bits of a float or of an unsigned integer that is as wide."""
    count = 0
    for row in range(pos.size):
        at = pos[row]
        if is_null(page, starts[row], number):
            if nulls.size == 0:
                return -1 - row
            values[row] = 0
            nulls[row] = 1
            count += 1
        elif at + values.itemsize <= ends[row]:
            values[row] = load_little_endian(page, at, values)
            pos[row] = at + values.itemsize
        else:
            return -1 - row
    return count


@kernel
def decode_uuid(
    page: Bytes, pos: Positions, starts: Positions, ends: Positions, values: Bytes, nulls: Bytes, number: int
) -> int:
    """Sixteen bytes, as they are; `values` holds them end to end."""
    count = 0
    for row in range(pos.size):
        if is_null(page, starts[row], number):
            if nulls.size == 0:
                return -1 - row
            for place in range(16 * row, 16 * row + 16):
                values[place] = 0
            nulls[row] = 1
            count += 1
            continue
        begin, size = text_bounds(page, pos[row], ends[row])
        if size != 16:
            return -1 - row
        copy(values, 16 * row, page, begin, 16)
        pos[row] = begin + 16
    return count


@kernel
def measure_bytes(
    page: Bytes, pos: Positions, starts: Positions, ends: Positions, offsets: Offsets, nulls: Bytes, number: int
) -> int:
    """Offsets of texts; `pos` moves to where their bytes begin. Refuses what passes 2 GiB.

    Args:
        offsets: one more than rows; the first one is where the block's data begins.
    """
    count = 0
    total = np.int64(offsets[0])
    for row in range(pos.size):
        if is_null(page, starts[row], number):
            if nulls.size == 0:
                return -1 - row
            nulls[row] = 1
            count += 1
        else:
            begin, size = text_bounds(page, pos[row], ends[row])
            if size < 0 or total + size > _LARGEST_OFFSET:
                return -1 - row
            pos[row] = begin
            total += size
        offsets[row + 1] = total
    return count


@kernel
def copy_bytes(
    page: Bytes,
    pos: Positions,
    _starts: Positions,
    _ends: Positions,
    offsets: Offsets,
    data: Bytes,
    _number: int,
) -> None:
    """Copy the texts that `measure_bytes` has measured, and move `pos` behind them."""
    for row in range(pos.size):
        at = pos[row]
        start = offsets[row]
        size = offsets[row + 1] - start
        copy(data, start, page, at, size)
        pos[row] = at + size
