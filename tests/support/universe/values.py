"""Strategies of literals, as the server reads them. Each shrinks to a short, plain one."""

from __future__ import annotations

import ipaddress
import json
import math
import struct
from collections.abc import Callable, Sequence
from decimal import Context, Decimal
from typing import Any

from hypothesis import strategies as st

Literals = st.SearchStrategy[str]

# The server takes neither NUL nor surrogates.
CHARACTERS = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
_ODD_TEXTS = (
    "",
    " ",
    "a b",
    "NULL",
    "null",
    "\\N",
    "\\.",
    "'",
    '"',
    "\\",
    "a,b",
    "a;b",
    "{}",
    "(,)",
    "\t",
    "\n",
    "\r\n",
    "\x01",
    "\x1f\x7f",
    "\ufeffbom",
    "e\u0301",
    "é",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\u202eright to left",
    "\U0010ffff",
    "\ufffe",
    "%s %(x)s %%",
    "$1",
    "0" * 40,
)


def edged(edges: tuple[Any, ...], common: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Values of `common`, and those at the edges as often."""
    return common | st.sampled_from(edges)


def long_texts(kilobytes: int) -> Literals:
    """Texts that are stored out of line."""
    return st.builds(
        lambda piece, size: piece * (size // len(piece.encode()) + 1), TEXT_PIECES, st.integers(1, kilobytes << 10)
    )


TEXT_PIECES: Literals = st.text(CHARACTERS, min_size=1, max_size=12)
TEXTS: Literals = st.text(CHARACTERS, max_size=12) | st.sampled_from(_ODD_TEXTS)
SOME_LONG_TEXTS: Literals = st.one_of(TEXTS, TEXTS, TEXTS, TEXTS, long_texts(2), long_texts(100))


def integers(bits: int) -> st.SearchStrategy[int]:
    """Signed integers."""
    least, greatest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return edged((0, -1, 1, least, greatest), st.integers(least, greatest))


def unsigned(bits: int) -> st.SearchStrategy[int]:
    """Unsigned integers."""
    return edged((0, 1, 2 ** (bits - 1), 2**bits - 1), st.integers(0, 2**bits - 1))


def floats(width: int) -> Literals:
    """Floats of 32 or 64 bits."""
    least = 1.401298464324817e-45 if width == 32 else 5e-324
    most = 3.4028234663852886e38 if width == 32 else 1.7976931348623157e308
    edges = (0.0, -0.0, 0.1, math.inf, -math.inf, math.nan, least, -least, most, -most)
    everything = st.floats(width=32 if width == 32 else 64)
    return edged(edges, everything).map(lambda value: _float_text(value, width))


def _float_text(value: float, width: int) -> str:
    if width == 64 or not math.isfinite(value):
        return repr(value)
    # Nine digits name every float of 32 bits.
    return f"{struct.unpack('f', struct.pack('f', value))[0]:.9g}"


def numerics(precision: int, scale: int) -> Literals:
    """What `numeric(precision, scale)` holds: few and many digits, trailing zeros, the largest number."""
    bound = 10**precision - 1
    return edged((0, 1, -1, bound, -bound, 10 ** (precision - 1)), _digits(precision)).map(
        lambda number: decimal_text(number, scale)
    )


@st.composite
def _digits(draw: st.DrawFn, precision: int) -> int:
    digits = draw(st.integers(1, precision))
    number = draw(st.integers(-(10**digits) + 1, 10**digits - 1))
    zeros: int = 10 ** draw(st.integers(0, precision - digits))
    return number * zeros


def decimal_text(number: int, scale: int) -> str:
    """`number` times ten to the power of minus `scale`."""
    return f"{Decimal(number).scaleb(-scale, Context(prec=2000, Emax=10**6, Emin=-(10**6))):f}"


UNBOUNDED_NUMERICS: Literals = st.one_of(
    st.builds(decimal_text, _digits(20), st.integers(0, 20)),
    st.builds(decimal_text, _digits(200), st.integers(-200, 300)),
    st.sampled_from(("0", "0.00", "-1.50", "1e-30", "1e30", "9" * 60, "1e300", "-1e-1000", "NaN")),
    st.sampled_from(("Infinity", "-Infinity")),
)


def clock(fraction: bool = True) -> Literals:
    """Times of day before 24:00."""
    last = 86_400_000_000 - 1 if fraction else 86_399 * 10**6
    return edged((0, 1, last, 43_200_000_000), st.integers(0, last)).map(clock_text)


def clock_text(microseconds: int) -> str:
    """`hh:mm:ss.ffffff`."""
    seconds, fraction = divmod(microseconds, 10**6)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{fraction:06}"


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
TIMESTAMPS_BEYOND = (*DATES_BEYOND, "294276-12-31 23:59:59.999999", "294247-01-10 04:00:54.775808")


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

_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
_JSON_EDGES = (
    "1",
    "null",
    '""',
    '{"a":1,"a":2}',
    ' {"b" :\n\t1.00, "a":[ ] } ',
    "1234567890123456789012345678901234567890.0123456789",
    "1e-20",
    "-0.0",
    '"\\u00e9\\ud83d\\ude00"',
    "[[[[[[]]]]]]",
)
JSONB: Literals = st.sampled_from(_JSON_EDGES) | st.builds(
    lambda value, plain, indent: json.dumps(value, ensure_ascii=plain, indent=indent),
    _JSON,
    st.booleans(),
    st.sampled_from((None, 1)),
)
JSON: Literals = JSONB | st.just('"\\u0000"')

BYTES: st.SearchStrategy[bytes] = st.one_of(
    st.binary(max_size=20),
    st.sampled_from((b"", b"\x00", bytes(range(256)), b"'\\x")),
    st.builds(lambda data, times: data * times, st.binary(min_size=1, max_size=9), st.integers(1, 2000)),
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
