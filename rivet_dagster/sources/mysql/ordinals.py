"""Keys as whole numbers, for the types whose values the server compares as those numbers compare."""

from __future__ import annotations

import calendar
import re
from abc import ABC, abstractmethod
from datetime import date, datetime, timedelta

from rivet_dagster.sources.base import Column

_INTEGERS = ("tinyint", "smallint", "mediumint", "int", "bigint")
_MOMENT = re.compile(r"(\d+)-(\d+)-(\d+)(?:[ T](\d+):(\d+)(?::(\d+)(?:\.(\d{1,6}))?)?)?")
_DECIMAL = re.compile(r"([+-]?)(\d*)(?:\.(\d*))?")
_DECLARED = re.compile(r"\w+\((\d+)(?:,(\d+))?\)")
_LAST_SECOND = (23, 59, 59, 999_999)
_EPOCH = datetime(1, 1, 1)
_MICROSECOND = timedelta(microseconds=1)


class Ordinals(ABC):
    """The numbers of one column's values: of two values, the greater one has no smaller number."""

    @abstractmethod
    def number(self, text: str) -> int:
        """The number of a key's text; ValueError for what is none. Values between two numbers have the lower one."""

    @abstractmethod
    def text(self, number: int) -> str:
        """The text that is compared as that number. A value between it and the next one is none of the column's."""


def ordinals_of(column: Column) -> Ordinals | None:
    """The numbers of a column's values; None where its values are no such."""
    sizes = _DECLARED.match(column.native_type)
    if column.kind in _INTEGERS:
        return _Decimals(0)
    if column.kind == "decimal" and sizes:
        return _Decimals(int(sizes[2]))
    if column.kind == "date":
        return _Moments(None)
    if column.kind in ("datetime", "timestamp"):
        return _Moments(int(sizes[1]) if sizes else 0)
    if column.kind == "binary" and sizes:
        return _Bytes(int(sizes[1]))
    return None


class _Decimals(Ordinals):
    """Numbers with a fixed number of digits behind the point."""

    def __init__(self, places: int) -> None:
        self._places = places

    def number(self, text: str) -> int:
        found = _DECIMAL.fullmatch(text)
        if not found or not (found[2] or found[3]):
            raise ValueError(text)
        digits = found[3] or ""
        # Rounded down, also below zero.
        whole, rest = int(f"{found[2]}{digits[: self._places].ljust(self._places, '0')}" or "0"), digits[self._places :]
        return -whole - bool(rest.strip("0")) if found[1] == "-" else whole

    def text(self, number: int) -> str:
        digits = str(abs(number)).zfill(self._places + 1)
        sign = "-" * (number < 0)
        return f"{sign}{digits[: -self._places]}.{digits[-self._places :]}" if self._places else f"{sign}{digits}"


class _Moments(Ordinals):
    """Days, or parts of seconds; dates that there are not lie at the day beside them that keeps their order.

    Args:
        digits: behind the second; None for days.
    """

    def __init__(self, digits: int | None) -> None:
        self._digits = digits
        self._unit = timedelta(days=1) if digits is None else _MICROSECOND * 10 ** (6 - digits)

    def number(self, text: str) -> int:
        found = _MOMENT.fullmatch(text)
        if not found:
            raise ValueError(text)
        year, month, day, hour, minute, second = (int(part or 0) for part in found.groups()[:6])
        return (
            _nearest(year, month, day, (hour, minute, second, int((found[7] or "").ljust(6, "0")))) - _EPOCH
        ) // self._unit

    def text(self, number: int) -> str:
        moment = _EPOCH + number * self._unit
        return date.isoformat(moment) if self._digits is None else moment.isoformat(" ", "microseconds")


def _nearest(year: int, month: int, day: int, time: tuple[int, int, int, int]) -> datetime:
    """The moment itself; of a day that there is not, the first one behind a zero, or the last one of the month."""
    if not year:
        return _EPOCH
    if not (month and day):
        return datetime(year, max(month, 1), 1)
    last = calendar.monthrange(year, month)[1]
    return datetime(year, month, min(day, last), *(time if day <= last else _LAST_SECOND))


class _Bytes(Ordinals):
    """As many bytes in every value, in hexadecimal."""

    def __init__(self, size: int) -> None:
        self._size = size

    def number(self, text: str) -> int:
        return int.from_bytes(bytes.fromhex(text).ljust(self._size, b"\0"), "big")

    def text(self, number: int) -> str:
        return number.to_bytes(self._size, "big").hex().upper()
