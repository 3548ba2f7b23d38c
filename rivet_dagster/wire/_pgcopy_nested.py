"""Compiled loops for values that are made of others: arrays and intervals. Conventions as in `_pgcopy_kernels`.

An array is, behind its length: dimensions, whether it holds NULL, the elements' type (int32 each); a size and a
lower bound for each dimension; then every element like a field of a row. The elements of all arrays of a block
are one column more, so the kernels of their own form decode them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rivet_dagster._jit import Bytes, helper, kernel, load_big_endian
from rivet_dagster.wire._pgcopy_forms import ARRAY_HEADER, INFINITE, NULL, SHAPE
from rivet_dagster.wire._pgcopy_kernels import Offsets, Positions

_GREATEST_32 = 2**31 - 1
_GREATEST_64 = 2**63 - 1

# What `_list_size` says of arrays that are no lists.
_OTHER_SHAPE = -1
_MALFORMED = -2


@kernel
def measure_lists(
    page: Bytes, pos: Positions, offsets: Offsets, nulls: Bytes, replaced: Positions, element_type: int
) -> int:
    """Offsets of the arrays' elements; `pos` stays. An array that is no list is refused or replaced.

    Args:
        offsets: one more than rows; the first one is the number of elements before the block.
        element_type: oid that the elements must have.
    """
    count = 0
    end = offsets[0]
    for row in range(pos.size):
        at = pos[row]
        length = load_big_endian(page, at, np.int32)
        if length == NULL and nulls.size > 0:
            nulls[row] = 1
            count += 1
        else:
            elements = _list_size(page, at + 4, length, element_type)
            if elements == _OTHER_SHAPE and replaced.size > 0:
                replaced[SHAPE] += 1
                nulls[row] = 1
                count += 1
            elif elements < 0:
                return -1 - row
            else:
                # Four bytes an element at least: no batch has 2**31 of them.
                end += elements
        offsets[row + 1] = end
    return count


@helper
def _list_size(page: Bytes, at: int, length: int, element_type: int) -> int:
    """Elements of the array at `at`; negative if it is no list that begins at 1, or no array at all."""
    if length < ARRAY_HEADER or load_big_endian(page, at + 8, np.uint32) != element_type:
        return _MALFORMED
    dimensions = load_big_endian(page, at, np.int32)
    end = at + length
    at += ARRAY_HEADER + 8 * dimensions
    if dimensions < 0 or at > end:
        return _MALFORMED
    size = 0
    if dimensions > 0:
        size = load_big_endian(page, at - 8, np.int32)
        if dimensions > 1 or load_big_endian(page, at - 4, np.int32) != 1:
            return _OTHER_SHAPE
    for _ in range(size):
        element = load_big_endian(page, at, np.int32) if at + 4 <= end else NULL - 1
        if element < NULL:
            return _MALFORMED
        at += 4 + max(element, 0)
    return size if at == end and size >= 0 else _MALFORMED


@kernel
def place_elements(page: Bytes, pos: Positions, offsets: Offsets, starts: Positions) -> None:
    """Where the elements that `measure_lists` has counted begin; moves `pos` behind the arrays."""
    first = offsets[0]
    for row in range(pos.size):
        at = pos[row] + 4
        length = max(load_big_endian(page, at - 4, np.int32), 0)
        pos[row] = at + length
        at += ARRAY_HEADER + 8
        for element in range(offsets[row] - first, offsets[row + 1] - first):
            starts[element] = at
            at += 4 + max(load_big_endian(page, at, np.int32), 0)


@kernel
def decode_interval(
    page: Bytes,
    pos: Positions,
    months: npt.NDArray[np.int32],
    days: npt.NDArray[np.int32],
    microseconds: npt.NDArray[np.int64],
    nulls: Bytes,
    replaced: Positions,
) -> int:
    """Microseconds, days and months, which PostgreSQL keeps apart; all of them at their limits are an infinity."""
    count = 0
    for row in range(pos.size):
        at = pos[row]
        length = load_big_endian(page, at, np.int32)
        if length == 16:
            micros = load_big_endian(page, at + 4, np.int64)
            day = load_big_endian(page, at + 12, np.int32)
            month = load_big_endian(page, at + 16, np.int32)
            later = month == _GREATEST_32 and day == _GREATEST_32 and micros == _GREATEST_64
            earlier = month == ~_GREATEST_32 and day == ~_GREATEST_32 and micros == ~_GREATEST_64
            if not (later or earlier):
                months[row], days[row], microseconds[row] = month, day, micros
                pos[row] = at + 20
                continue
            if replaced.size == 0:
                return -1 - row
            replaced[INFINITE] += 1
        elif length != NULL or nulls.size == 0:
            return -1 - row
        months[row], days[row], microseconds[row] = 0, 0, 0
        nulls[row] = 1
        count += 1
        pos[row] = at + 4 + max(length, 0)
    return count
