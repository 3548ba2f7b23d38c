"""Compiled loops that decode numeric: sign and base-10000 digits to decimals. Conventions as in `_pgcopy_kernels`."""

from __future__ import annotations

import numpy as np

from rivet_dagster._jit import Bytes, helper, kernel, load_big_endian
from rivet_dagster.wire._decimals import (
    DIGITS_IN_64_BITS,
    DIGITS_IN_256_BITS,
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
from rivet_dagster.wire._pgcopy_forms import INFINITE, NOT_A_NUMBER, NULL, NUMERIC_HEADER, NUMERIC_NEGATIVE
from rivet_dagster.wire._pgcopy_kernels import Positions

_NAN, _INFINITY, _MINUS_INFINITY = 0xC000, 0xD000, 0xF000


@kernel
def decode_numeric(
    page: Bytes, pos: Positions, values: Words, nulls: Bytes, replaced: Positions, target: Target
) -> int:
    """Sign and base-10000 digits, as an unscaled two's complement integer of two or four 64-bit words.

    Args:
        values: the words of each value end to end, the lowest first.
        target: what `decimal_target` gives.
    """
    words = target[2].size // 2
    count = 0
    for row in range(pos.size):
        at = pos[row]
        length = load_big_endian(page, at, np.int32)
        missing = length == NULL and nulls.size > 0
        if replaced.size > 0 and length == NUMERIC_HEADER:
            reason = _special_reason(load_big_endian(page, at + 8, np.uint16))
            if reason >= 0:
                replaced[reason] += 1
                missing = True
        if missing:
            clear(values, words * row, words)
            nulls[row] = 1
            count += 1
        elif length < NUMERIC_HEADER or not _decode_one(page, at, length, values, words * row, target):
            return -1 - row
        pos[row] = at + 4 + max(length, 0)
    return count


@helper
def _special_reason(sign: int) -> int:
    if sign == _NAN:
        return NOT_A_NUMBER
    return INFINITE if sign in (_INFINITY, _MINUS_INFINITY) else -1


@helper
def _decode_one(page: Bytes, at: int, length: int, values: Words, start: int, target: Target) -> bool:
    """Decode the numeric of `length` bytes to the words from `start` on; False if it is refused."""
    scale, small_limit, limit, limbs = target
    digits = load_big_endian(page, at + 4, np.uint16)
    sign = load_big_endian(page, at + 8, np.uint16)
    if length != NUMERIC_HEADER + 2 * digits or sign not in (0, NUMERIC_NEGATIVE):
        return False
    # Power of ten that the last digit counts, in units of the decimal's last place.
    exponent = 4 * (load_big_endian(page, at + 6, np.int16) - digits + 1) + scale
    if exponent > -4 and 4 * digits + exponent <= DIGITS_IN_64_BITS:
        small = _small_numeric(page, at + 12, digits, exponent)
        if small < 0 or small >= small_limit:
            return False
        store_small(small, sign != 0, values, start, limit.size // 2)
        return True
    if not _wide_numeric(page, at + 12, digits, exponent, limbs) or not below(limbs, limit):
        return False
    store_limbs(limbs, sign != 0, values, start)
    return True


@helper
def _small_numeric(page: Bytes, at: int, digits: int, exponent: int) -> int:
    """Magnitude of a value below 10**18; -1 where it has digits beyond the scale."""
    if digits == 0:
        return 0
    value = 0
    for _ in range(digits - 1):
        digit = load_big_endian(page, at, np.uint16)
        if digit > 9999:
            return -1
        value = value * 10_000 + digit
        at += 2
    digit = load_big_endian(page, at, np.uint16)
    if digit > 9999:
        return -1
    if exponent >= 0:
        return int((value * 10_000 + digit) * POWERS_OF_TEN[exponent])
    unit = POWERS_OF_TEN[-exponent]
    if digit % unit != 0:
        return -1
    return int(value * POWERS_OF_TEN[4 + exponent] + digit // unit)


@helper
def _wide_numeric(page: Bytes, at: int, digits: int, exponent: int, limbs: Words) -> bool:
    """Magnitude of any value, into `limbs`; False where it has digits beyond the scale or overflows."""
    clear(limbs, np.int64(0), limbs.size)
    while digits > 0 and load_big_endian(page, at, np.uint16) == 0:
        at += 2
        digits -= 1
    while digits > 0 and load_big_endian(page, at + 2 * (digits - 1), np.uint16) == 0:
        digits -= 1
        exponent += 4
    if digits == 0:
        return True
    if exponent <= -4 or 4 * (digits - 1) + exponent >= DIGITS_IN_256_BITS:
        return False
    fits = True
    for place in range(digits):
        digit = load_big_endian(page, at + 2 * place, np.uint16)
        factor = 10_000
        if digit > 9999:
            return False
        if exponent < 0 and place == digits - 1:
            unit = POWERS_OF_TEN[-exponent]
            if digit % unit != 0:
                return False
            digit //= unit
            factor = POWERS_OF_TEN[4 + exponent]
        fits &= multiply_add(limbs, factor, digit)
    return scale_up(limbs, exponent) and fits
