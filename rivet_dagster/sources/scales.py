"""Key values on a scale of whole numbers, for guessing bounds between known ones.

Nothing that is counted here decides which rows a window has: bounds only suggest where to cut, and the server
compares. Only types are here whose values the server puts in the order of their numbers.
"""

from __future__ import annotations

import re
import uuid
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Final

_MOMENT = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:[ T](\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?)?(?:\+00)?")
_EPOCH: Final = datetime(1, 1, 1)
_MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(frozen=True)
class Scale:
    """How values of one type are written as whole numbers.

    Attributes:
        number: the number of a value's text; ValueError for values that have none, such as infinity.
        text: the text of a number.
    """

    number: Callable[[str], int]
    text: Callable[[int], str]


def moment_of(text: str) -> datetime:
    """The date or time that a server wrote, without its zone, which is UTC where it has one; ValueError for others."""
    found = _MOMENT.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is on no calendar that is counted here")
    *whole, fraction = found.groups()
    return datetime(*(int(part or 0) for part in whole), int((fraction or "0").ljust(6, "0")))  # type: ignore[call-arg, arg-type]


def _microseconds(text: str) -> int:
    return (moment_of(text) - _EPOCH) // _MICROSECOND


INTEGER: Final = Scale(int, str)
DATE: Final = Scale(lambda text: (moment_of(text) - _EPOCH).days, lambda days: str((_EPOCH + timedelta(days)).date()))
TIMESTAMP: Final = Scale(_microseconds, lambda number: str(_EPOCH + number * _MICROSECOND))
UTC_TIMESTAMP: Final = Scale(_microseconds, lambda number: f"{_EPOCH + number * _MICROSECOND}+00")
UUID: Final = Scale(lambda text: uuid.UUID(text).int, lambda number: str(uuid.UUID(int=number)))


def quantiles(points: Sequence[int], top: int, parts: int) -> list[int]:
    """Numbers that cut what `points` cut into equal shares into `parts` equal shares; straight lines between points.

    Args:
        points: ascending; between any two that follow one another are equally many rows.
        top: the greatest number there is; if it is beyond the last point, rows are taken to go on as densely as
            they are between the points on average.
        parts: how many shares are wanted.

    Returns:
        At most `parts` - 1 ascending numbers without equal ones, below `top`.
    """
    known = [point for point in points if point <= top] or [top]
    weights = [1.0] * (len(known) - 1)
    if top > known[-1] and weights and known[-1] > known[0]:
        weights.append((top - known[-1]) * len(weights) / (known[-1] - known[0]))
        known.append(top)
    reached = [0.0, *accumulate(weights)]
    found: list[int] = []
    for part in range(1, parts):
        wanted = reached[-1] * part / parts
        place = min(max(bisect_left(reached, wanted), 1), len(known) - 1)
        if place < 1:
            break
        share = (wanted - reached[place - 1]) / (reached[place] - reached[place - 1])
        # Whole numbers, also where they are larger than a float is exact for.
        number = known[place - 1] + (known[place] - known[place - 1]) * int(share * (1 << 30)) // (1 << 30)
        if number < top and (not found or number > found[-1]):
            found.append(number)
    return found
