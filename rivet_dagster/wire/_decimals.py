"""Compiled arithmetic on the unscaled integers of wide decimals. Importing this module imports numba.

A magnitude is an array of 32-bit limbs in 64-bit words, the lowest first; a value is two or four 64-bit words in
two's complement.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rivet_dagster._jit import helper
from rivet_dagster.wire._storage import Decimal

Words = npt.NDArray[np.uint64]
Target = tuple[int, int, Words, Words]

DIGITS_IN_64_BITS = 18
DIGITS_IN_256_BITS = 77
POWERS_OF_TEN = np.array([10**n for n in range(DIGITS_IN_64_BITS + 1)], np.int64)
_LIMB_BITS = np.uint64(32)
_LIMB_MASK = np.uint64(0xFFFFFFFF)


def decimal_target(decimal: Decimal) -> Target:
    """What a kernel must know of a decimal type.

    Returns:
        The scale; 10 ** precision as far as 63 bits hold it; 10 ** precision in as many limbs as a value has; room for
        as many limbs.
    """
    bound = 10**decimal.precision
    limit = np.frombuffer(bound.to_bytes(decimal.byte_width, "little"), "<u4").astype(np.uint64)
    return decimal.scale, min(bound, 2**63 - 1), limit, np.zeros_like(limit)


@helper
def clear(words: Words, start: int, count: int) -> None:
    """Zeros; a slice would take several times as long to compile."""
    for word in range(start, start + count):
        words[word] = 0


@helper
def multiply_add(limbs: Words, factor: int, summand: int) -> bool:
    """`limbs = limbs * factor + summand` for a factor and a summand below 2**32; False on overflow."""
    carry = np.uint64(summand)
    for limb in range(limbs.size):
        product = limbs[limb] * np.uint64(factor) + carry
        limbs[limb] = product & _LIMB_MASK
        carry = product >> _LIMB_BITS
    return bool(carry == 0)


@helper
def scale_up(limbs: Words, exponent: int) -> bool:
    """`limbs = limbs * 10 ** exponent`; False on overflow."""
    fits = True
    while exponent > 0:
        step = min(exponent, 9)
        fits &= multiply_add(limbs, POWERS_OF_TEN[step], 0)
        exponent -= step
    return fits


@helper
def below(limbs: Words, limit: Words) -> bool:
    """Whether one magnitude is less than another one of as many limbs."""
    for limb in range(limbs.size - 1, -1, -1):
        if limbs[limb] != limit[limb]:
            return bool(limbs[limb] < limit[limb])
    return False


@helper
def store_limbs(limbs: Words, negative: bool, values: Words, start: int) -> None:
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


@helper
def store_small(small: int, negative: bool, values: Words, start: int, words: int) -> None:
    """A magnitude below 2**63 as a value of `words` words."""
    if negative:
        small = -small
    values[start] = np.uint64(small)
    for word in range(1, words):
        values[start + word] = np.uint64(small >> 63)
