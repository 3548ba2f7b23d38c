"""Compiled loops that decode numeric: sign and base-10000 digits to decimals. Conventions as in `_pgcopy_kernels`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rivet_dagster._jit import Bytes, kernel, load_big_endian
from rivet_dagster.wire._pgcopy_forms import INFINITE, NOT_A_NUMBER, NULL, NUMERIC_HEADER, NUMERIC_NEGATIVE
from rivet_dagster.wire._pgcopy_kernels import Positions

Words = npt.NDArray[np.uint64]
Target = tuple[int, int, Words, Words]

_NAN, _INFINITY, _MINUS_INFINITY = 0xC000, 0xD000, 0xF000
_DIGITS_IN_64_BITS = 18
_DIGITS_IN_256_BITS = 77
_POWERS_OF_TEN = np.array([10**n for n in range(_DIGITS_IN_64_BITS + 1)], np.int64)
_LIMB_BITS = np.uint64(32)
_LIMB_MASK = np.uint64(0xFFFFFFFF)


@kernel
def decode_numeric(
    page: Bytes, pos: Positions, values: Words, nulls: Bytes, replaced: Positions, target: Target
) -> int:
    """Sign and base-10000 digits, as an unscaled two's complement integer of two or four 64-bit words.

    Args:
        values: the words of each value end to end, the lowest first.
        target: the decimal's scale; 10 ** precision as far as 63 bits hold it; 10 ** precision in as many 32-bit
            limbs as a value has, the lowest first; room for as many limbs.
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
            _clear(values, words * row, words)
            nulls[row] = 1
            count += 1
        elif length < NUMERIC_HEADER or not _decode_one(page, at, length, values, words * row, target):
            return -1 - row
        pos[row] = at + 4 + max(length, 0)
    return count


@kernel
def _clear(words: Words, start: int, count: int) -> None:
    """Zeros; a slice would take several times as long to compile."""
    for word in range(start, start + count):
        words[word] = 0


@kernel
def _special_reason(sign: int) -> int:
    if sign == _NAN:
        return NOT_A_NUMBER
    return INFINITE if sign in (_INFINITY, _MINUS_INFINITY) else -1


@kernel
def _decode_one(page: Bytes, at: int, length: int, values: Words, start: int, target: Target) -> bool:
    """Decode the numeric of `length` bytes to the words from `start` on; False if it is refused."""
    scale, small_limit, limit, limbs = target
    digits = load_big_endian(page, at + 4, np.uint16)
    sign = load_big_endian(page, at + 8, np.uint16)
    if length != NUMERIC_HEADER + 2 * digits or sign not in (0, NUMERIC_NEGATIVE):
        return False
    # Power of ten that the last digit counts, in units of the decimal's last place.
    exponent = 4 * (load_big_endian(page, at + 6, np.int16) - digits + 1) + scale
    if exponent > -4 and 4 * digits + exponent <= _DIGITS_IN_64_BITS:
        small = _small_numeric(page, at + 12, digits, exponent)
        if small < 0 or small >= small_limit:
            return False
        if sign != 0:
            small = -small
        values[start] = np.uint64(small)
        for word in range(1, limit.size // 2):
            values[start + word] = np.uint64(small >> 63)
        return True
    if not _wide_numeric(page, at + 12, digits, exponent, limbs) or not _below(limbs, limit):
        return False
    _store_limbs(limbs, sign != 0, values, start)
    return True


@kernel
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
        return int((value * 10_000 + digit) * _POWERS_OF_TEN[exponent])
    unit = _POWERS_OF_TEN[-exponent]
    if digit % unit != 0:
        return -1
    return int(value * _POWERS_OF_TEN[4 + exponent] + digit // unit)


@kernel
def _wide_numeric(page: Bytes, at: int, digits: int, exponent: int, limbs: Words) -> bool:
    """Magnitude of any value, into `limbs`; False where it has digits beyond the scale or overflows."""
    _clear(limbs, 0, limbs.size)
    while digits > 0 and load_big_endian(page, at, np.uint16) == 0:
        at += 2
        digits -= 1
    while digits > 0 and load_big_endian(page, at + 2 * (digits - 1), np.uint16) == 0:
        digits -= 1
        exponent += 4
    if digits == 0:
        return True
    if exponent <= -4 or 4 * (digits - 1) + exponent >= _DIGITS_IN_256_BITS:
        return False
    fits = True
    for place in range(digits):
        digit = load_big_endian(page, at + 2 * place, np.uint16)
        factor = 10_000
        if digit > 9999:
            return False
        if exponent < 0 and place == digits - 1:
            unit = _POWERS_OF_TEN[-exponent]
            if digit % unit != 0:
                return False
            digit //= unit
            factor = _POWERS_OF_TEN[4 + exponent]
        fits &= _multiply_add(limbs, factor, digit)
    while exponent > 0:
        step = min(exponent, 9)
        fits &= _multiply_add(limbs, _POWERS_OF_TEN[step], 0)
        exponent -= step
    return fits


@kernel
def _multiply_add(limbs: Words, factor: int, summand: int) -> bool:
    """`limbs = limbs * factor + summand` for a factor and a summand below 2**32; False on overflow."""
    carry = np.uint64(summand)
    for limb in range(limbs.size):
        product = limbs[limb] * np.uint64(factor) + carry
        limbs[limb] = product & _LIMB_MASK
        carry = product >> _LIMB_BITS
    return bool(carry == 0)


@kernel
def _below(limbs: Words, limit: Words) -> bool:
    for limb in range(limbs.size - 1, -1, -1):
        if limbs[limb] != limit[limb]:
            return bool(limbs[limb] < limit[limb])
    return False


@kernel
def _store_limbs(limbs: Words, negative: bool, values: Words, start: int) -> None:
    """Join the limbs to 64-bit words, and negate them if asked to."""
    borrow = negative
    for word in range(limbs.size // 2):
        value = limbs[2 * word + 1] << _LIMB_BITS | limbs[2 * word]
        if negative:
            value = ~value
            if borrow:
                value += np.uint64(1)
                borrow = value == 0
        values[start + word] = value
