"""Compiled loops that decode decimals from their text. Conventions as in `_mysqlrows_kernels`."""

from __future__ import annotations

import numpy as np

from rivet_dagster._jit import Bytes, helper, kernel, load_little_endian
from rivet_dagster.wire._decimals import (
    DIGITS_IN_64_BITS,
    POWERS_OF_TEN,
    Target,
    Words,
    below,
    clear,
    multiply_add,
    scale_up,
    store_limbs,
    store_small,
)
from rivet_dagster.wire._mysqlrows_kernels import Positions, is_null, text_bounds

_U = np.uint64
_ZEROS = _U(0x3030303030303030)
_ABOVE_NINE = _U(0x7676767676767676)
_HIGH_BITS = _U(0x8080808080808080)
_ALL, _PAIRS, _FOURS, _EIGHT = _U(2**64 - 1), _U(0x00FF00FF00FF00FF), _U(0x0000FFFF0000FFFF), _U(0xFFFFFFFF)
_TEN, _HUNDRED, _TEN_THOUSAND = _U(10), _U(100), _U(10_000)
_DIGITS_IN_32_BITS = 9
_MINUS, _POINT, _ZERO = ord("-"), ord("."), ord("0")


@kernel
def decode_decimal(
    page: Bytes,
    pos: Positions,
    starts: Positions,
    ends: Positions,
    values: Words,
    nulls: Bytes,
    number: int,
    target: Target,
) -> int:
    """Sign, digits and point, as an unscaled two's complement integer of two or four 64-bit words.

    Args:
        values: the words of each value end to end, the lowest first.
        target: what `decimal_target` gives.
    """
    scale, small_limit, limit, limbs = target
    words = limit.size // 2
    count = 0
    for row in range(pos.size):
        if is_null(page, starts[row], number):
            if nulls.size == 0:
                return -1 - row
            clear(values, words * row, words)
            nulls[row] = 1
            count += 1
            continue
        begin, size = text_bounds(page, pos[row], ends[row])
        if size <= 0:
            return -1 - row
        end = begin + size
        negative = page[begin] == _MINUS
        if negative:
            begin += 1
        small = _usual(page, begin, end, scale)
        if small >= 0:
            if small >= small_limit:
                return -1 - row
            store_small(small, negative, values, words * row, words)
        else:
            if not _any(page, begin, end, scale, limbs) or not below(limbs, limit):
                return -1 - row
            store_limbs(limbs, negative, values, words * row)
        pos[row] = end
    return count


@helper
def _usual(page: Bytes, at: int, end: int, scale: int) -> int:
    """Magnitude of what a server writes: as many digits behind the point as the scale says, and not too many in all.

    -1 for any other text.
    """
    if end - at > DIGITS_IN_64_BITS:
        return -1
    if scale <= 0:
        return _number(page, at, end) if scale == 0 else -1
    point = end - scale - 1
    if point <= at or page[point] != _POINT:
        return -1
    whole = _number(page, at, point)
    fraction = _number(page, point + 1, end)
    return whole * POWERS_OF_TEN[scale] + fraction if whole >= 0 and fraction >= 0 else -1


@helper
def _number(page: Bytes, at: int, end: int) -> int:
    """The number of one to sixteen digits; -1 for more of them, or other bytes."""
    count = end - at
    low = _digits(page, end, min(count, 8))
    if count <= 8 or low < 0:
        return low
    high = _digits(page, end - 8, count - 8) if count <= 16 else -1
    return high * POWERS_OF_TEN[8] + low if high >= 0 else -1


@helper
def _digits(page: Bytes, end: int, count: int) -> int:
    """The number of the `count` digits before `end`, one to eight; -1 for other bytes.

    All are added up at once, as bytes of one word: to pairs, to fours, to eight. The word is eight bytes whatever the
    count: a packet has as many before the last digit of a row's first value.
    """
    eight = load_little_endian(page, end - 8, np.uint64) ^ _ZEROS
    eight &= _ALL << np.uint64(64 - 8 * count)
    wrong = (eight | eight + _ABOVE_NINE) & _HIGH_BITS
    eight = (eight * _TEN + (eight >> np.uint64(8))) & _PAIRS
    eight = (eight * _HUNDRED + (eight >> np.uint64(16))) & _FOURS
    eight = (eight * _TEN_THOUSAND + (eight >> np.uint64(32))) & _EIGHT
    return int(np.int64(eight)) if wrong == 0 else np.int64(-1)


@helper
def _any(page: Bytes, at: int, end: int, scale: int, limbs: Words) -> bool:
    """Magnitude of any text of digits and a point between them, into `limbs`.

    False where it is no such text, has digits beyond the scale that are not zero, or overflows.
    """
    first, last = at, end - 1
    clear(limbs, np.int64(0), limbs.size)
    fits = at < end
    room = -1  # for digits behind the point, which is still to come
    chunk = digits = 0
    for place in range(first, end):
        digit = np.int64(page[place]) - _ZERO
        if room < 0 and page[place] == _POINT and first < place < last:
            room = scale
        elif room == 0 or digit < 0 or digit > 9:
            fits &= digit == 0
        else:
            room -= room > 0
            chunk = chunk * 10 + digit
            digits += 1
            if digits == _DIGITS_IN_32_BITS:
                fits &= multiply_add(limbs, POWERS_OF_TEN[digits], chunk)
                chunk = digits = 0
    fits &= multiply_add(limbs, POWERS_OF_TEN[digits], chunk)
    return scale_up(limbs, scale if room < 0 else room) and fits
