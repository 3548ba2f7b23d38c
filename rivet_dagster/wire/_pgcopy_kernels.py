"""Compiled loops over the rows of a block of PostgreSQL's binary COPY format: one for each wire form.

Every `decode_` kernel reads one column. It takes

    page    uint8[:]   the stream's bytes
    pos     int64[:]   where each row's field, its 4-byte length first, begins; moved to where it ends
    ...                slices of the batch's buffers, to be filled from index 0 on
    nulls   uint8[:]   1 is written for each NULL; empty where the column does not allow NULL

and returns how many NULLs it met, or `-1 - row` for the first row that it refuses: a length that the form
does not have, a value that Arrow cannot hold, or NULL where none may be. `pos[row]` then still points to that
field, so that the caller can read it again and say why. Kernels check no bounds: `scan_rows` has seen that
every field lies within the page. Zeros are written under a NULL, so that equal rows give equal buffers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from numba import types
from numba.core.cgutils import raw_memcpy
from numba.extending import intrinsic

Bytes = npt.NDArray[np.uint8]
Positions = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

NULL = -1
TRAILER = -1

# Why `scan_rows` stopped.
MORE = 0
END = 1
TRUNCATED = 2
FIELD_COUNT = 3
FIELD_LENGTH = 4

_LARGEST_OFFSET = 2**31 - 1

NUMERIC_HEADER = 8
NUMERIC_NEGATIVE = 0x4000
_DIGITS_IN_64_BITS = 18
_DIGITS_IN_256_BITS = 77
_POWERS_OF_TEN = np.array([10**n for n in range(_DIGITS_IN_64_BITS + 1)], np.int64)
_LIMB_BITS = np.uint64(32)
_LIMB_MASK = np.uint64(0xFFFFFFFF)

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _kernel(function: _Function) -> _Function:
    """Compile on first use, keep the machine code on disk, and let other threads run meanwhile."""
    return cast("_Function", numba.njit(cache=True, nogil=True)(function))


def _load_big_endian(_typing: Any, page: Any, at: Any, of: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        pointer = context.get_value_type(of.dtype).as_pointer()
        address = builder.bitcast(builder.gep(array.data, [arguments[1]]), pointer)
        return builder.bswap(builder.load(address, align=1))

    return of.dtype(page, at, of), generate


_load = cast("Callable[[Bytes, int, Any], int]", intrinsic(_load_big_endian))
"""`_load(page, at, of)`: the big-endian integer at an unchecked place; `of` is its type or an array of it."""


def _memcpy(_typing: Any, target: Any, to: Any, source: Any, at: Any, size: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def address(array: int, index: int) -> Any:
            struct = context.make_array(signature.args[array])(context, builder, arguments[array])
            return builder.gep(struct.data, [arguments[index]])

        raw_memcpy(builder, address(0, 1), address(2, 3), arguments[4], 1)  # type: ignore[no-untyped-call]
        return context.get_dummy_value()

    return types.void(target, to, source, at, size), generate


_copy = cast("Callable[[Bytes, int, Bytes, int, int], None]", intrinsic(_memcpy))
"""`_copy(target, to, source, at, size)`: one memcpy between unchecked places.

A loop or a slice costs up to ten times as much on the short texts of a table.
"""


@_kernel
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
        count = _load(page, at, np.int16)
        if count != fields:
            return rows, at, END if count == TRAILER else FIELD_COUNT
        end = at + 2
        for _ in range(fields):
            if end + 4 > page.size:
                return rows, at, TRUNCATED
            length = _load(page, end, np.int32)
            if length < NULL:
                return rows, at, FIELD_LENGTH
            end += 4 + max(length, 0)
        if end > page.size:
            return rows, at, TRUNCATED
        starts[rows] = at + 2
        rows += 1
        at = end
    return rows, at, MORE


@_kernel
def decode_bool(page: Bytes, pos: Positions, values: Bytes, nulls: Bytes) -> int:
    """One byte, 0 or 1."""
    count = 0
    for row in range(pos.size):
        at = pos[row]
        length = _load(page, at, np.int32)
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


@_kernel
def decode_number(page: Bytes, pos: Positions, values: npt.NDArray[Any], nulls: Bytes) -> int:
    """The integers of `values`' type, and the bits of a float that is as wide."""
    count = 0
    for row in range(pos.size):
        at = pos[row]
        length = _load(page, at, np.int32)
        if length == values.itemsize:
            values[row] = _load(page, at + 4, values)
            pos[row] = at + 4 + length
        elif length == NULL and nulls.size > 0:
            values[row] = 0
            nulls[row] = 1
            count += 1
            pos[row] = at + 4
        else:
            return -1 - row
    return count


@_kernel
def decode_moment(
    page: Bytes, pos: Positions, values: npt.NDArray[Any], nulls: Bytes, epoch: tuple[int, int, int]
) -> int:
    """Days or microseconds since 2000-01-01, as those since the Unix epoch.

    Args:
        epoch: what is added, and the least and the greatest count on the wire that is taken.
    """
    shift, least, greatest = epoch
    count = 0
    for row in range(pos.size):
        at = pos[row]
        length = _load(page, at, np.int32)
        if length == values.itemsize:
            moment = _load(page, at + 4, values)
            if moment < least or moment > greatest:
                return -1 - row
            values[row] = moment + shift
            pos[row] = at + 4 + length
        elif length == NULL and nulls.size > 0:
            values[row] = 0
            nulls[row] = 1
            count += 1
            pos[row] = at + 4
        else:
            return -1 - row
    return count


@_kernel
def decode_uuid(page: Bytes, pos: Positions, values: Bytes, nulls: Bytes) -> int:
    """Sixteen bytes, as they are; `values` holds them end to end."""
    count = 0
    for row in range(pos.size):
        at = pos[row]
        length = _load(page, at, np.int32)
        if length == 16:
            _copy(values, 16 * row, page, at + 4, 16)
            pos[row] = at + 20
        elif length == NULL and nulls.size > 0:
            values[16 * row : 16 * row + 16] = 0
            nulls[row] = 1
            count += 1
            pos[row] = at + 4
        else:
            return -1 - row
    return count


@_kernel
def measure_bytes(page: Bytes, pos: Positions, offsets: npt.NDArray[np.int32], nulls: Bytes, prefix: int) -> int:
    """Offsets of values that follow `prefix` bytes which must be 1; `pos` stays. Refuses what passes 2 GiB.

    Args:
        offsets: one more than rows; the first one is where the block's data begins.
        prefix: 0, or 1 for the version byte of jsonb.
    """
    count = 0
    end = np.int64(offsets[0])
    for row in range(pos.size):
        at = pos[row]
        length = _load(page, at, np.int32)
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


@_kernel
def copy_bytes(page: Bytes, pos: Positions, offsets: npt.NDArray[np.int32], data: Bytes, prefix: int) -> None:
    """Copy the values that `measure_bytes` has measured, and move `pos` behind them."""
    for row in range(pos.size):
        at = pos[row] + 4
        length = _load(page, at - 4, np.int32)
        if length == NULL:
            pos[row] = at
            continue
        at += prefix
        start = offsets[row]
        size = offsets[row + 1] - start
        _copy(data, start, page, at, size)
        pos[row] = at + size


@_kernel
def decode_numeric(page: Bytes, pos: Positions, values: Words, nulls: Bytes, target: tuple[int, int, Words]) -> int:
    """Sign and base-10000 digits, as an unscaled two's complement integer of two or four 64-bit words.

    Args:
        values: the words of each value end to end, the lowest first.
        target: the decimal's scale, 10 ** precision as far as 63 bits hold it, and 10 ** precision in as many
            32-bit limbs as a value has, the lowest first.
    """
    scale, small_limit, limit = target
    limbs = np.zeros_like(limit)
    words = limit.size // 2
    count = 0
    for row in range(pos.size):
        at = pos[row]
        length = _load(page, at, np.int32)
        if length == NULL and nulls.size > 0:
            values[words * row : words * row + words] = 0
            nulls[row] = 1
            count += 1
            pos[row] = at + 4
            continue
        if length < NUMERIC_HEADER:
            return -1 - row
        digits = _load(page, at + 4, np.uint16)
        sign = _load(page, at + 8, np.uint16)
        if length != NUMERIC_HEADER + 2 * digits or sign not in (0, NUMERIC_NEGATIVE):
            return -1 - row
        # Power of ten that the last digit counts, in units of the decimal's last place.
        exponent = 4 * (_load(page, at + 6, np.int16) - digits + 1) + scale
        if exponent > -4 and 4 * digits + exponent <= _DIGITS_IN_64_BITS:
            small = _small_numeric(page, at + 12, digits, exponent)
            if small < 0 or small >= small_limit:
                return -1 - row
            if sign != 0:
                small = -small
            values[words * row] = np.uint64(small)
            for word in range(1, words):
                values[words * row + word] = np.uint64(small >> 63)
        elif _wide_numeric(page, at + 12, digits, exponent, limbs) and _below(limbs, limit):
            _store_limbs(limbs, sign != 0, values, words * row)
        else:
            return -1 - row
        pos[row] = at + 4 + length
    return count


@_kernel
def _small_numeric(page: Bytes, at: int, digits: int, exponent: int) -> int:
    """Magnitude of a value below 10**18; -1 where it has digits beyond the scale."""
    if digits == 0:
        return 0
    value = 0
    for _ in range(digits - 1):
        digit = _load(page, at, np.uint16)
        if digit > 9999:
            return -1
        value = value * 10_000 + digit
        at += 2
    digit = _load(page, at, np.uint16)
    if digit > 9999:
        return -1
    if exponent >= 0:
        return int((value * 10_000 + digit) * _POWERS_OF_TEN[exponent])
    unit = _POWERS_OF_TEN[-exponent]
    if digit % unit != 0:
        return -1
    return int(value * _POWERS_OF_TEN[4 + exponent] + digit // unit)


@_kernel
def _wide_numeric(page: Bytes, at: int, digits: int, exponent: int, limbs: Words) -> bool:
    """Magnitude of any value, into `limbs`; False where it has digits beyond the scale or overflows."""
    limbs[:] = 0
    while digits > 0 and _load(page, at, np.uint16) == 0:
        at += 2
        digits -= 1
    while digits > 0 and _load(page, at + 2 * (digits - 1), np.uint16) == 0:
        digits -= 1
        exponent += 4
    if digits == 0:
        return True
    if exponent <= -4 or 4 * (digits - 1) + exponent >= _DIGITS_IN_256_BITS:
        return False
    fits = True
    for place in range(digits):
        digit = _load(page, at + 2 * place, np.uint16)
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


@_kernel
def _multiply_add(limbs: Words, factor: int, summand: int) -> bool:
    """`limbs = limbs * factor + summand` for a factor and a summand below 2**32; False on overflow."""
    carry = np.uint64(summand)
    for limb in range(limbs.size):
        product = limbs[limb] * np.uint64(factor) + carry
        limbs[limb] = product & _LIMB_MASK
        carry = product >> _LIMB_BITS
    return bool(carry == 0)


@_kernel
def _below(limbs: Words, limit: Words) -> bool:
    for limb in range(limbs.size - 1, -1, -1):
        if limbs[limb] != limit[limb]:
            return bool(limbs[limb] < limit[limb])
    return False


@_kernel
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
