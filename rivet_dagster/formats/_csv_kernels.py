"""Compiled loops that write CSV and JSON: from texts in one buffer to texts in another.

A column of texts is its bytes, and where each value begins and ends: value k is `data[offsets[k]:offsets[k + 1]]`.
Every loop that makes such a column fills `out` from its start on, and `ends` with one offset more than there are
values. The caller makes `out` large enough.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rivet_dagster._jit import Bytes, copy, helper, kernel

Offsets = npt.NDArray[np.int64]

PLAIN, QUOTED, DOUBLED = 0, 1, 2
"""How a column's values stand in a row: as they are, in quotes, in quotes with their own quotes doubled."""

_QUOTE, _COMMA, _NEWLINE = 0x22, 0x2C, 0x0A
_MINUS, _PLUS, _POINT, _ZERO, _SPACE, _COLON, _ZONE = 0x2D, 0x2B, 0x2E, 0x30, 0x20, 0x3A, 0x5A
_OPEN, _CLOSE = 0x5B, 0x5D
_NULL = np.frombuffer(b"null", np.uint8)
_DAY = 86_400_000_000


@kernel
def join_rows(
    data: Bytes, offsets: npt.NDArray[np.int64], valid: npt.NDArray[np.uint8], styles: Bytes, out: Bytes
) -> int:
    """Write rows out of columns; gives the number of bytes written.

    Args:
        data: the bytes of every column.
        offsets: where values begin and end in it, a line a column.
        valid: 0 for NULL, else 1, a line a column.
        styles: PLAIN, QUOTED or DOUBLED of each column.
        out: large enough for the rows.
    """
    at = 0
    for row in range(offsets.shape[1] - 1):
        for column in range(styles.size):
            if valid[column, row]:
                begin, end = offsets[column, row], offsets[column, row + 1]
                if styles[column] == PLAIN:
                    at = _put(out, at, data, begin, end)
                else:
                    at = _put_quoted(out, at, data, begin, end, styles[column] == DOUBLED)
            out[at] = _COMMA
            at += 1
        out[at - 1] = _NEWLINE
    return at


@helper
def _put(out: Bytes, at: int, data: Bytes, begin: int, end: int) -> int:
    copy(out, at, data, begin, end - begin)
    return at + end - begin


@helper
def _put_quoted(out: Bytes, at: int, data: Bytes, begin: int, end: int, doubled: bool) -> int:
    out[at] = _QUOTE
    at += 1
    if doubled:
        for place in range(begin, end):
            out[at] = data[place]
            at += 1
            if data[place] == _QUOTE:
                out[at] = _QUOTE
                at += 1
    else:
        at = _put(out, at, data, begin, end)
    out[at] = _QUOTE
    return at + 1


@kernel
def put_points(data: Bytes, offsets: Offsets, scale: int, out: Bytes, ends: Offsets) -> None:
    """Whole numbers to decimals with `scale` digits behind the point. An empty text, which a NULL has, stays empty."""
    at = 0
    for value in range(offsets.size - 1):
        ends[value] = at
        begin, end = offsets[value], offsets[value + 1]
        if begin == end:
            continue
        if data[begin] == _MINUS:
            out[at] = _MINUS
            at += 1
            begin += 1
        whole = end - begin - scale
        if whole > 0:
            at = _put(out, at, data, begin, begin + whole)
        else:
            out[at] = _ZERO
            at += 1
        out[at] = _POINT
        at += 1
        for _ in range(-whole):
            out[at] = _ZERO
            at += 1
        at = _put(out, at, data, begin + max(whole, 0), end)
    ends[offsets.size - 1] = at


@kernel
def put_dates(days: Offsets, out: Bytes, ends: Offsets) -> None:
    """Days since 1970-01-01 to ISO dates; 16 bytes are enough for each."""
    at = 0
    for value in range(days.size):
        ends[value] = at
        at = _put_date(out, at, days[value])
    ends[days.size] = at


@kernel
def put_times(microseconds: Offsets, out: Bytes, ends: Offsets) -> None:
    """Microseconds since midnight to times of 15 bytes."""
    at = 0
    for value in range(microseconds.size):
        ends[value] = at
        at = _put_time(out, at, microseconds[value])
    ends[microseconds.size] = at


@kernel
def put_timestamps(microseconds: Offsets, zoned: bool, out: Bytes, ends: Offsets) -> None:
    """Microseconds since 1970-01-01 to date and time, with Z if `zoned`; 32 bytes are enough for each."""
    at = 0
    for value in range(microseconds.size):
        ends[value] = at
        at = _put_date(out, at, microseconds[value] // _DAY)
        out[at] = _SPACE
        at = _put_time(out, at + 1, microseconds[value] % _DAY)
        if zoned:
            out[at] = _ZONE
            at += 1
    ends[microseconds.size] = at


@helper
def _put_date(out: Bytes, at: int, days: int) -> int:
    """The date in the proleptic Gregorian calendar, which repeats every 400 years; years begin in March here."""
    since = days + 719_468  # days since 0000-03-01
    cycle = since // 146_097
    day = since - cycle * 146_097
    year = (day - day // 1_460 + day // 36_524 - day // 146_096) // 365
    day -= 365 * year + year // 4 - year // 100
    month = (5 * day + 2) // 153
    day -= (153 * month + 2) // 5
    month += 3
    year += cycle * 400
    if month > 12:
        month -= 12
        year += 1
    at = _put_year(out, at, year)
    out[at] = _MINUS
    at = _put_digits(out, at + 1, month, 2)
    out[at] = _MINUS
    return _put_digits(out, at + 1, day + 1, 2)


@helper
def _put_year(out: Bytes, at: int, year: int) -> int:
    """Four digits; ISO 8601 wants a sign for years that need more, and for those before the year 0, which is 1 BC."""
    if year < 0 or year > 9999:
        out[at] = _MINUS if year < 0 else _PLUS
        at += 1
        year = abs(year)
    width = 4
    while 10**width <= year:
        width += 1
    return _put_digits(out, at, year, width)


@helper
def _put_time(out: Bytes, at: int, microseconds: int) -> int:
    seconds = microseconds // 1_000_000
    at = _put_digits(out, at, seconds // 3600, 2)
    out[at] = _COLON
    at = _put_digits(out, at + 1, seconds // 60 % 60, 2)
    out[at] = _COLON
    at = _put_digits(out, at + 1, seconds % 60, 2)
    out[at] = _POINT
    return _put_digits(out, at + 1, microseconds % 1_000_000, 6)


@helper
def _put_digits(out: Bytes, at: int, number: int, width: int) -> int:
    for place in range(at + width - 1, at - 1, -1):
        out[place] = _ZERO + number % 10
        number //= 10
    return at + width


@kernel
def put_json_strings(data: Bytes, offsets: Offsets, escapes: npt.NDArray[np.uint8], out: Bytes, ends: Offsets) -> None:
    """Texts to JSON strings with their quotes.

    Args:
        data, offsets: the texts.
        escapes: what stands for each byte, a line a byte: how many bytes, and these; 0 where it stands for itself.
        out, ends: the strings.
    """
    at = 0
    for value in range(offsets.size - 1):
        ends[value] = at
        out[at] = _QUOTE
        at += 1
        for place in range(offsets[value], offsets[value + 1]):
            byte = data[place]
            if escapes[byte, 0] == 0:
                out[at] = byte
                at += 1
            for part in range(escapes[byte, 0]):
                out[at] = escapes[byte, part + 1]
                at += 1
        out[at] = _QUOTE
        at += 1
    ends[offsets.size - 1] = at


@kernel
def put_json_lists(data: Bytes, offsets: Offsets, valid: Bytes, lists: Offsets, out: Bytes, ends: Offsets) -> None:
    """JSON values to JSON arrays: list k has the values from `lists[k]` up to `lists[k + 1]`; 0 in `valid` is null."""
    at = 0
    for value in range(lists.size - 1):
        ends[value] = at
        out[at] = _OPEN
        at += 1
        for element in range(lists[value], lists[value + 1]):
            if element > lists[value]:
                out[at] = _COMMA
                out[at + 1] = _SPACE
                at += 2
            if valid[element]:
                at = _put(out, at, data, offsets[element], offsets[element + 1])
            else:
                at = _put(out, at, _NULL, 0, 4)
        out[at] = _CLOSE
        at += 1
    ends[lists.size - 1] = at
