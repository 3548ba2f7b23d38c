"""Compiled loops for values that have to be looked at: dates, times, bits. Conventions as in `_mysqlrows_kernels`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rivet_dagster._jit import Bytes, helper, kernel, load_little_endian
from rivet_dagster.wire._mysqlrows_forms import INVALID_DATE, OUT_OF_RANGE, ZERO_DATE
from rivet_dagster.wire._mysqlrows_kernels import Positions, is_null, text_bounds
from rivet_dagster.wire._storage import DAY_MICROSECONDS

# What is said of a value, beside the number of a reason.
_FINE = -1
_MALFORMED = -2

_BYTE, _ONE = np.uint64(8), np.uint64(1)
_SECOND = 1_000_000
_LAST_YEAR = 9999
_YEARS_OF_ERA, _DAYS_OF_ERA = 400, 146_097
# From the March that the years of `_days` begin with, 400 years before year 0, to 1970-01-01.
_DAYS_TO_EPOCH = 719_468 + _DAYS_OF_ERA


@kernel
def decode_date(
    page: Bytes,
    pos: Positions,
    starts: Positions,
    ends: Positions,
    values: npt.NDArray[Any],
    nulls: Bytes,
    replaced: Positions,
    number: int,
    daily: bool,
) -> int:
    """Dates with or without a clock, as microseconds since 1970-01-01, or as days if `daily`."""
    count = 0
    for row in range(pos.size):
        if is_null(page, starts[row], number):
            if nulls.size == 0:
                return -1 - row
        else:
            at = pos[row]
            size = _moment_size(page, at, ends[row])
            value, reason = _read_date(page, at + 1, size, daily)
            if reason == _MALFORMED or (reason != _FINE and replaced.size == 0):
                return -1 - row
            pos[row] = at + 1 + size
            if reason == _FINE:
                values[row] = value
                continue
            replaced[reason] += 1
        values[row] = 0
        nulls[row] = 1
        count += 1
    return count


@kernel
def decode_time(
    page: Bytes,
    pos: Positions,
    starts: Positions,
    ends: Positions,
    values: npt.NDArray[np.int64],
    nulls: Bytes,
    replaced: Positions,
    number: int,
) -> int:
    """Spans of time that are a time of a day, as microseconds since midnight."""
    count = 0
    for row in range(pos.size):
        if is_null(page, starts[row], number):
            if nulls.size == 0:
                return -1 - row
        else:
            at = pos[row]
            size = _moment_size(page, at, ends[row])
            value, reason = _read_time(page, at + 1, size)
            if reason == _MALFORMED or (reason != _FINE and replaced.size == 0):
                return -1 - row
            pos[row] = at + 1 + size
            if reason == _FINE:
                values[row] = value
                continue
            replaced[reason] += 1
        values[row] = 0
        nulls[row] = 1
        count += 1
    return count


@kernel
def decode_bits(
    page: Bytes,
    pos: Positions,
    starts: Positions,
    ends: Positions,
    values: npt.NDArray[Any],
    nulls: Bytes,
    replaced: Positions,
    number: int,
    plain: bool,
) -> int:
    """Big-endian numbers of one to eight bytes, or a byte without a length if `plain`.

    Values of one byte are booleans: they must be 0 or 1.
    """
    count = 0
    for row in range(pos.size):
        if is_null(page, starts[row], number):
            if nulls.size == 0:
                return -1 - row
        else:
            begin, size = pos[row], 1
            if not plain:
                begin, size = text_bounds(page, begin, ends[row])
            if size < 1 or size > 8 or begin + size > ends[row]:
                return -1 - row
            value = np.uint64(0)
            for byte in range(begin, begin + size):
                value = value << _BYTE | np.uint64(page[byte])
            fits = values.itemsize > 1 or value <= _ONE
            if not fits and replaced.size == 0:
                return -1 - row
            pos[row] = begin + size
            if fits:
                values[row] = value
                continue
            replaced[OUT_OF_RANGE] += 1
        values[row] = 0
        nulls[row] = 1
        count += 1
    return count


@helper
def _moment_size(page: Bytes, at: int, end: int) -> int:
    """What the length byte at `at` says; -1 if that many bytes are not in the row."""
    size = np.int64(page[at]) if at < end else np.int64(-1)
    return int(size) if at + 1 + size <= end else np.int64(-1)


@helper
def _read_date(page: Bytes, at: int, size: int, daily: bool) -> tuple[int, int]:
    """Days or microseconds since 1970-01-01."""
    if size == 0:
        return 0, ZERO_DATE
    if size not in (4, 7, 11):
        return 0, _MALFORMED
    clock = _clock(page, at + 4, size - 4)
    year = np.int64(load_little_endian(page, at, np.uint16))
    month = np.int64(page[at + 2])
    day = np.int64(page[at + 3])
    if clock < 0 or year > _LAST_YEAR or (daily and clock > 0):
        return 0, _MALFORMED
    if month == 0 or day == 0:
        return 0, ZERO_DATE
    if month > 12 or (day > 28 and day > _days_in_month(year, month)):
        return 0, INVALID_DATE
    days = _days(year, month, day)
    return days if daily else days * DAY_MICROSECONDS + clock, _FINE


@helper
def _read_time(page: Bytes, at: int, size: int) -> tuple[int, int]:
    """Microseconds since midnight."""
    if size == 0:
        return 0, _FINE
    if size not in (8, 12):
        return 0, _MALFORMED
    clock = _clock(page, at + 5, size - 5)
    days = np.int64(load_little_endian(page, at + 1, np.uint32))
    if page[at] > 1 or clock < 0:
        return 0, _MALFORMED
    if days > 0 or (page[at] == 1 and clock > 0):
        return 0, OUT_OF_RANGE
    return clock, _FINE


@helper
def _clock(page: Bytes, at: int, size: int) -> int:
    """Microseconds of hour, minute, second and microsecond in 0, 3 or 7 bytes; -1 if they are none."""
    if size == 0:
        return 0
    hour, minute, second = np.int64(page[at]), np.int64(page[at + 1]), np.int64(page[at + 2])
    fraction = np.int64(load_little_endian(page, at + 3, np.uint32)) if size == 7 else 0
    if hour > 23 or minute > 59 or second > 59 or fraction >= _SECOND:
        return -1
    return int(((hour * 60 + minute) * 60 + second) * _SECOND + fraction)


@helper
def _days_in_month(year: int, month: int) -> int:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 + ((month + (month >> 3)) & 1)


@helper
def _days(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01, in years that begin with March: the leap day is the last one."""
    year += _YEARS_OF_ERA
    month -= 3
    if month < 0:
        month += 12
        year -= 1
    return 365 * year + year // 4 - year // 100 + year // 400 + (153 * month + 2) // 5 + day - 1 - _DAYS_TO_EPOCH
