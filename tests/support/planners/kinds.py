"""Kinds of keys, and how tables with them are made on each engine."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any, Literal

Draw = Callable[[Random], Any]
Layout = Literal["primary", "behind", "keyless", "bare"]
Place = Literal["table", "partitions", "view", "query"]

START = datetime(2024, 3, 1)
END = datetime(2024, 3, 16)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Kind:
    """A kind of key.

    Attributes:
        types: by engine, types of the key's columns, which are called k0 and k1.
        draws: gives a value of each.
        layout: `primary` key; an index `behind` which the primary key is `n`; an index and no key; or nothing.
        place: what the export reads.
        size: integers a window.
        split: where the second partition begins.
        nulls: every so many rows have NULL.
    """

    types: Mapping[str, tuple[str, ...]]
    draws: tuple[Draw, ...]
    layout: Layout = "primary"
    place: Place = "table"
    size: int = 1
    split: str = ""
    nulls: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the key's columns."""
        return tuple(f"k{number}" for number in range(len(self.draws)))

    def draw(self, random: Random) -> tuple[Any, ...]:
        """Values of the key's columns."""
        values = [draw(random) for draw in self.draws]
        if self.nulls and not random.randrange(self.nulls):
            values[0] = None
        return tuple(values)

    def windows(self, mode: str, random: Random) -> dict[str, Any]:
        """Windows of a type, as a user writes them."""
        columns = None if self.layout == "primary" and self.place in ("table", "partitions") else self.names
        rows = random.choice([random.randint(1, 8), random.randint(2, 30), 1000])
        if mode in ("keyset", "estimated"):
            boundaries = "exact" if mode == "keyset" else mode
            return {"type": "keyset", "rows": rows, "columns": columns, "boundaries": boundaries}
        if mode == "time":
            nulls = "ignore" if self.nulls else "error"
            return {"type": "time", "column": "k0", "start": START.isoformat(), "nulls": nulls}
        options = {"int_range": {"size": self.size}, "cursor": {"rows": rows, "lag": 0}, "full": None}[mode]
        return {"type": mode} if options is None else {"type": mode, "column": "k0", **options}


def _integer(least: int, most: int) -> Draw:
    ends = (least, least + 1, most - 1, most)
    return lambda random: random.choice(ends) if not random.randrange(20) else random.randint(least, most)


def _moment(step: timedelta) -> Draw:
    """Mostly within the slices of time, on a grid; also at their ends, and far before and behind them."""
    odd = (datetime(1971, 1, 2), START - step, START, END - step, END, datetime(2037, 12, 31))
    span = (END - START) // step

    def draw(random: Random) -> datetime:
        return random.choice(odd) if not random.randrange(10) else START + random.randrange(span) * step

    return draw


def _day(random: Random) -> date:
    if random.randrange(2):
        return date(1971, 1, 2) + timedelta(days=random.randrange(24000))
    return START.date() + timedelta(days=random.randrange(-3, 20))


def _some_moment(random: Random) -> datetime:
    return START + random.randrange(-3, 40) * timedelta(hours=9)


def _words(*, most: int) -> Draw:
    return lambda random: "".join(random.choice("aAbBéßzZ_ '\\0") for _ in range(random.randrange(most)))


def _kind(postgres: str, mysql: str, draw: Draw, **options: Any) -> Kind:
    return Kind({"postgresql": (postgres,), "mysql": (mysql,)}, (draw,), **options)


# Not in the alphabet's order.
LABELS = tuple("qwertzuiopasdfghjklyxcvbnm")
_ENUM = f"enum({', '.join(repr(label) for label in LABELS)})"

_FEW = _integer(-40, 40)
_ANY = _integer(-(2**31), 2**31 - 1)
_TIMES = ("timestamp(6)", "datetime(6)", _moment(timedelta(minutes=37)))

KINDS: dict[str, Kind] = {
    "smallint": _kind("smallint", "smallint", _integer(-(2**15), 2**15 - 1), size=3000),
    "int": _kind("integer", "int", _ANY, size=2 * 10**8),
    "bigint": _kind("bigint", "bigint", _integer(-(10**6), 10**6), size=10**5),
    "bigint to its ends": _kind("bigint", "bigint", _integer(-(2**63), 2**63 - 1), size=10**18),
    "negative bigint": _kind("bigint", "bigint", _integer(-(2**63), -(2**62)), size=3 * 10**17),
    "unsigned bigint": _kind(
        "xid8", "bigint unsigned", lambda random: str(_integer(0, 2**64 - 1)(random)), size=10**18
    ),
    "numeric": _kind(
        "numeric(20,4)", "decimal(20,4)", lambda random: Decimal(random.randint(-(10**9), 10**9)) / Decimal(10**4)
    ),
    "date": _kind("date", "date", _day),
    "timestamp": _kind("timestamp(6)", "datetime(6)", _moment(timedelta(minutes=7) + _MICROSECOND)),
    "timestamp with zone": _kind("timestamptz", "timestamp(6)", _moment(timedelta(minutes=7) + _MICROSECOND)),
    "timestamp of seconds": _kind("timestamp(0)", "datetime", _moment(timedelta(seconds=1))),
    "text": _kind("text", "varchar(20) COLLATE utf8mb4_bin", _words(most=7)),
    "text of any case": _kind("text COLLATE any_case", "varchar(20) COLLATE utf8mb4_general_ci", _words(most=7)),
    "uuid": _kind("uuid", "uuid", lambda random: str(uuid.UUID(int=random.getrandbits(128), version=4))),
    "binary(16)": _kind("bytea", "binary(16)", lambda random: random.randbytes(16)),
    "varbinary": _kind("bytea", "varbinary(9)", lambda random: random.randbytes(random.randrange(5)) + b"\1"),
    "enum": _kind("label", _ENUM, lambda random: random.choice(LABELS)),
    "bool": _kind("boolean", "tinyint(1)", lambda random: bool(random.randrange(2))),
    "composite": Kind(
        {"postgresql": ("integer", "text"), "mysql": ("int", "varchar(9)")}, (_FEW, _words(most=3)), size=7
    ),
    "composite of time": Kind(
        {"postgresql": ("timestamptz", "integer"), "mysql": ("timestamp(6)", "int")}, (_some_moment, _FEW)
    ),
    "nullable": _kind("integer", "int", _FEW, layout="behind", nulls=4, size=7),
    "nullable of time": _kind("timestamptz", "timestamp(6) NULL", _some_moment, layout="behind", nulls=4),
    "sparse integers": _kind("bigint", "bigint", _integer(-(10**12), 10**12), size=10),
    "ties": _kind("integer", "int", _FEW, layout="behind", size=7),
    "ties of time": _kind("date", "date", lambda random: _some_moment(random).date(), layout="behind"),
    "partitions": _kind("integer", "int", _ANY, place="partitions", split="1000", size=2 * 10**8),
    "partitions of time": _kind(*_TIMES, place="partitions", split="'2024-03-05 06:00:00'"),
    "view": _kind("integer", "int", _ANY, place="view", size=2 * 10**8),
    "view of time": _kind(*_TIMES, place="view"),
    "query": _kind("integer", "int", _ANY, place="query", size=2 * 10**8),
    "query of time": _kind(*_TIMES, place="query"),
    "without a key": _kind("integer", "int", _FEW, layout="keyless", size=7),
    "without a key, of time": _kind("timestamptz", "timestamp(6)", _some_moment, layout="keyless"),
    "without an index": _kind("integer", "int", _FEW, layout="bare", size=7),
    "without an index, of time": _kind("timestamptz", "timestamp(6)", _some_moment, layout="bare"),
}
