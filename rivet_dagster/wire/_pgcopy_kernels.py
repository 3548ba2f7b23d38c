"""Compiled loops over the rows of a block of PostgreSQL's binary COPY format: one for each wire form.

Every `decode_` kernel reads one column. It takes

    page      uint8[:]   the stream's bytes
    pos       int64[:]   where each row's field, its 4-byte length first, begins; moved to where it ends
    ...                  slices of the batch's buffers, to be filled from index 0 on
    nulls     uint8[:]   1 is written for each NULL; empty where the column does not allow NULL
    replaced  int64[:]   a counter a reason (`REASONS`), for values that Arrow cannot hold and NULL replaces;
                         empty where such a value is refused

and returns how many NULLs it wrote, or `-1 - row` for the first row that it refuses: a length that the form
does not have, a value that Arrow cannot hold, or NULL where none may be. `pos[row]` then still points to that
field, so that the caller can read it again and say why. Kernels check no bounds: `scan_rows` has seen that
every field lies within the page. Zeros are written under a NULL, so that equal rows give equal buffers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rivet_dagster._jit import Bytes, copy, kernel, load_big_endian
from rivet_dagster.wire._pgcopy_forms import INFINITE, NULL, OUT_OF_RANGE

Positions = npt.NDArray[np.int64]
Offsets = npt.NDArray[np.int32]

TRAILER = -1

# Why `scan_rows` stopped.
MORE = 0
END = 1
TRUNCATED = 2
FIELD_COUNT = 3
FIELD_LENGTH = 4

_LARGEST_OFFSET = 2**31 - 1


@kernel
def scan_rows(page: Bytes, at: int, fields: int, enough: int, starts: Positions) -> tuple[int, int, int]:
    """Walk tuples from byte `at` on, until one of them makes `enough` bytes or fills `starts`.

    Returns:
        rows found, the byte behind them, and why the walk stopped: MORE, END (the trailer stands there), or
        what is wrong with the next row. `starts` holds where each row's first field begins.
    """
    begin = at
    rows = 0
    while rows < starts.size and at - begin < enough:
        if at + 2 > page.size:
            return rows, at, TRUNCATED
        count = load_big_endian(page, at, np.int16)
        if count != fields:
            return rows, at, END if count == TRAILER else FIELD_COUNT
        end = at + 2
        for _ in range(fields):
            if end + 4 > page.size:
                return rows, at, TRUNCATED
            length = load_big_endian(page, end, np.int32)
            if length < NULL:
                return rows, at, FIELD_LENGTH
            end += 4 + max(length, 0)
        if end > page.size:
            return rows, at, TRUNCATED
        starts[rows] = at + 2
        rows += 1
        at = end
    return rows, at, MORE


@kernel
def decode_bool(page: Bytes, pos: Positions, values: Bytes, nulls: Bytes) -> int:
    """One byte, 0 or 1."""
    count = 0
    for row in range(pos.size):
        at = pos[row]
        length = load_big_endian(page, at, np.int32)
        if length == 1 and page[at + 4] <= 1:
            values[row] = page[at + 4]
            pos[row] = at + 5
        elif length == NULL and nulls.size > 0:
            values[row] = 0
            nulls[row] = 1
            count += 1
            pos[row] = at + 4
        else:
            return -1 - row
    return count


@kernel
def decode_number(page: Bytes, pos: Positions, values: npt.NDArray[Any], nulls: Bytes) -> int:
    """The integers of `values`' type, and the bits of a float or of an unsigned integer that is as wide."""
    count = 0
    for row in range(pos.size):
        at = pos[row]
        length = load_big_endian(page, at, np.int32)
        if length == values.itemsize:
            values[row] = load_big_endian(page, at + 4, values)
            pos[row] = at + 4 + length
        elif length == NULL and nulls.size > 0:
            values[row] = 0
            nulls[row] = 1
            count += 1
            pos[row] = at + 4
        else:
            return -1 - row
    return count


@kernel
def decode_moment(
    page: Bytes,
    pos: Positions,
    values: npt.NDArray[Any],
    nulls: Bytes,
    replaced: Positions,
    bounds: tuple[int, int, int, int],
) -> int:
    """Days or microseconds from another origin than Arrow's, or from midnight.

    Args:
        bounds: what to add to a count; the least and the greatest count that Arrow can hold; the count that means
            infinity, whose complement means minus infinity.
    """
    shift, least, greatest, infinity = bounds
    count = 0
    for row in range(pos.size):
        at = pos[row]
        length = load_big_endian(page, at, np.int32)
        if length == values.itemsize:
            moment = load_big_endian(page, at + 4, values)
            if least <= moment <= greatest:
                values[row] = moment + shift
            elif replaced.size > 0:
                replaced[INFINITE if moment in (infinity, ~infinity) else OUT_OF_RANGE] += 1
                values[row] = 0
                nulls[row] = 1
                count += 1
            else:
                return -1 - row
            pos[row] = at + 4 + length
        elif length == NULL and nulls.size > 0:
            values[row] = 0
            nulls[row] = 1
            count += 1
            pos[row] = at + 4
        else:
            return -1 - row
    return count


@kernel
def decode_uuid(page: Bytes, pos: Positions, values: Bytes, nulls: Bytes) -> int:
    """Sixteen bytes, as they are; `values` holds them end to end."""
    count = 0
    for row in range(pos.size):
        at = pos[row]
        length = load_big_endian(page, at, np.int32)
        if length == 16:
            copy(values, 16 * row, page, at + 4, 16)
            pos[row] = at + 20
        elif length == NULL and nulls.size > 0:
            for place in range(16 * row, 16 * row + 16):
                values[place] = 0
            nulls[row] = 1
            count += 1
            pos[row] = at + 4
        else:
            return -1 - row
    return count


@kernel
def measure_bytes(page: Bytes, pos: Positions, offsets: Offsets, nulls: Bytes, prefix: int) -> int:
    """Offsets of values that follow `prefix` bytes which must be 1; `pos` stays. Refuses what passes 2 GiB.

    Args:
        offsets: one more than rows; the first one is where the block's data begins.
        prefix: 0, or 1 for the version byte of jsonb.
    """
    count = 0
    end = np.int64(offsets[0])
    for row in range(pos.size):
        at = pos[row]
        length = load_big_endian(page, at, np.int32)
        if length >= prefix and (prefix == 0 or page[at + 4] == 1):
            end += length - prefix
            if end > _LARGEST_OFFSET:
                return -1 - row
        elif length == NULL and nulls.size > 0:
            nulls[row] = 1
            count += 1
        else:
            return -1 - row
        offsets[row + 1] = end
    return count


@kernel
def copy_bytes(page: Bytes, pos: Positions, offsets: Offsets, data: Bytes, prefix: int) -> None:
    """Copy the values that `measure_bytes` has measured, and move `pos` behind them."""
    for row in range(pos.size):
        at = pos[row] + 4
        length = load_big_endian(page, at - 4, np.int32)
        if length == NULL:
            pos[row] = at
            continue
        at += prefix
        start = offsets[row]
        size = offsets[row + 1] - start
        copy(data, start, page, at, size)
        pos[row] = at + size
