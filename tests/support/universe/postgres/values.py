"""Strategies of literals, as PostgreSQL reads them. Each shrinks to a short, plain one."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

from tests.support.universe.values import BYTES, Literals, clock, decimal_text, integers, some_digits

UNBOUNDED_NUMERICS: Literals = st.one_of(
    st.builds(decimal_text, some_digits(20), st.integers(0, 20)),
    st.builds(decimal_text, some_digits(200), st.integers(-200, 300)),
    st.sampled_from(("0", "0.00", "-1.50", "1e-30", "1e30", "9" * 60, "1e300", "-1e-1000", "NaN")),
    st.sampled_from(("Infinity", "-Infinity")),
)


# A date may be written as its Julian day. Day 0 is the first one that PostgreSQL has.
DATES: Literals = st.one_of(
    st.integers(0, 40_000).map(lambda day: f"J{2_440_588 + day}"),
    st.sampled_from(
        ("1970-01-01", "2024-02-29", "0044-03-15 BC", "4714-11-24 BC", "0001-12-31 BC", "5874897-12-31", "1582-10-10")
    ),
    st.integers(0, 2_147_483_493).map(lambda day: f"J{day}"),
)
DATES_BEYOND = ("infinity", "-infinity")
_OFFSETS = st.sampled_from(("+00", "+05:45", "-15:59:59", "+14", " America/New_York"))
_MOMENTS: Literals = st.one_of(
    st.builds(lambda day, time: f"J{2_440_588 + day} {time}", st.integers(0, 40_000), clock()),
    st.builds(lambda day, time: f"J{day} {time}", st.integers(2, 109_192_000), clock()),
)
_MOMENT_EDGES = ("2000-01-01 00:00:00", "1969-12-31 23:59:59.999999", "9999-12-31 23:59:59.999999")
TIMESTAMPS: Literals = _MOMENTS | st.sampled_from(
    (*_MOMENT_EDGES, "4714-11-24 00:00:00 BC", "294247-01-10 04:00:54.775806", "294247-01-10 04:00:54.775807")
)
MOMENTS: Literals = st.builds(lambda moment, offset: moment + offset, _MOMENTS, _OFFSETS) | st.sampled_from(
    (*_MOMENT_EDGES, "4714-11-24 00:00:00+00 BC", "294247-01-10 04:00:54.775807+00", "2024-03-31 02:30+01")
)
# A later fraction of this second is rounded up to a year that the server stores and does not read.
TIMESTAMPS_BEYOND = (*DATES_BEYOND, "294276-12-31 23:59:59", "294247-01-10 04:00:54.775808")


def interval_text(months: int, days: int, microseconds: int) -> str:
    """An interval by its three numbers."""
    return f"{months} mons {days} days {microseconds} microseconds"


INTERVALS: Literals = st.one_of(
    st.builds(interval_text, st.integers(-30, 30), st.integers(-40, 40), st.integers(-(10**12), 10**12)),
    st.builds(interval_text, integers(32), integers(32), st.integers(-(2**63), 2**63 - 1)),
    st.sampled_from(("0", "1 mon -1 day", "-1 mon 1 day -00:00:00.000001", interval_text(2**31 - 1, 0, -(2**63)))),
)
SHORT_INTERVALS: Literals = st.builds(
    interval_text, st.integers(-300, 300), st.integers(-400, 400), st.integers(-(10**12), 10**12)
)

BYTEA: Literals = BYTES.map(lambda data: "\\x" + data.hex())
BITS: Literals = st.text("01", max_size=40)

_ADDRESSES: st.SearchStrategy[Any] = st.one_of(
    st.ip_addresses(v=4), st.ip_addresses(v=6), st.sampled_from([ipaddress.ip_address("::ffff:1.2.3.4")])
)


@st.composite
def addresses(draw: st.DrawFn, network: bool) -> str:
    """Hosts, with or without their network; or networks."""
    address = draw(_ADDRESSES)
    length = draw(st.integers(0, address.max_prefixlen) | st.just(address.max_prefixlen))
    if network:
        return str(ipaddress.ip_network((address, length), strict=False))
    return f"{address}/{length}" if draw(st.booleans()) else str(address)


def hexadecimal(groups: int) -> Literals:
    """So many bytes with colons between them."""
    return st.binary(min_size=groups, max_size=groups).map(lambda data: data.hex(":"))


_COORDINATES = st.sampled_from(("0", "-0", "1", "2.5", "1e300", "-1e-300", "0.1", "123456.789")) | st.integers(
    -1000, 1000
).map(str)
_PLACES: Literals = st.builds(lambda x, y: f"({x},{y})", _COORDINATES, _COORDINATES)


def places(least: int, most: int, around: str = "{}") -> Literals:
    """Points, with commas between them."""
    return st.lists(_PLACES, min_size=least, max_size=most).map(lambda found: around.format(",".join(found)))


LINES: Literals = st.builds(lambda a, b, c: f"{{{a},{b},{c}}}", st.integers(1, 9), _COORDINATES, _COORDINATES)
CIRCLES: Literals = st.builds(lambda place, radius: f"<{place},{radius}>", _PLACES, st.integers(0, 9))

_WORDS = st.text("abcö'\\ :&", min_size=1, max_size=5).map(
    lambda word: "'" + word.replace("\\", "\\\\").replace("'", "''") + "'"
)
TSVECTORS: Literals = st.lists(_WORDS, max_size=4).map(" ".join) | st.just("'fat':2,4A 'cat':3B")
TSQUERIES: Literals = st.lists(_WORDS, min_size=1, max_size=3).map(" & ".join) | st.just("!'a':*AB <3> ('b'|'c')")

Bound = tuple[int, str]


@st.composite
def ranges(draw: st.DrawFn, bounds: Callable[[int], str], least: int, greatest: int) -> str:
    """Ranges over what `bounds` makes of the integers between `least` and `greatest`."""
    low, high = sorted((draw(st.integers(least, greatest)), draw(st.integers(least, greatest))))
    left = draw(st.sampled_from(("[", "(")))
    right = draw(st.sampled_from((")", "]")))
    lower = "" if draw(st.integers(0, 4)) == 4 else f'"{bounds(low)}"'
    upper = "" if draw(st.integers(0, 4)) == 4 else f'"{bounds(high)}"'
    return draw(st.sampled_from(("empty", "(,)"))) if draw(st.integers(0, 9)) == 9 else f"{left}{lower},{upper}{right}"


def multiranges(parts: Literals) -> Literals:
    """Ranges in braces, in any order."""
    return st.lists(parts, max_size=3).map(lambda found: "{" + ",".join(found) + "}")


def array_of(elements: Sequence[str | None], delimiter: str = ",") -> str:
    """The literal of an array of one dimension."""
    return "{" + delimiter.join("NULL" if each is None else quoted(each) for each in elements) + "}"


def quoted(text: str) -> str:
    """An element of an array or a composite."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def composites(*fields: Literals) -> Literals:
    """Composite values; any field may be NULL."""
    return st.tuples(*(st.none() | field for field in fields)).map(
        lambda found: "(" + ",".join("" if each is None else quoted(each) for each in found) + ")"
    )
