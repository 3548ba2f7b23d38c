"""Strategies of literals that every engine has. Each shrinks to a short, plain one."""

from __future__ import annotations

import json
import math
import struct
from decimal import Context, Decimal
from typing import Any

from hypothesis import strategies as st

Literals = st.SearchStrategy[str]

# PostgreSQL takes no NUL, and no server takes surrogates.
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
    return edged((0, 1, -1, bound, -bound, 10 ** (precision - 1)), some_digits(precision)).map(
        lambda number: decimal_text(number, scale)
    )


@st.composite
def some_digits(draw: st.DrawFn, precision: int) -> int:
    """Numbers of up to so many digits, some of them trailing zeros."""
    digits = draw(st.integers(1, precision))
    number = draw(st.integers(-(10**digits) + 1, 10**digits - 1))
    zeros: int = 10 ** draw(st.integers(0, precision - digits))
    return number * zeros


def decimal_text(number: int, scale: int) -> str:
    """`number` times ten to the power of minus `scale`."""
    return f"{Decimal(number).scaleb(-scale, Context(prec=2000, Emax=10**6, Emin=-(10**6))):f}"


def clock(fraction: bool = True) -> Literals:
    """Times of day before 24:00."""
    last = 86_400_000_000 - 1 if fraction else 86_399 * 10**6
    return edged((0, 1, last, 43_200_000_000), st.integers(0, last)).map(clock_text)


def clock_text(microseconds: int) -> str:
    """`hh:mm:ss.ffffff`."""
    seconds, fraction = divmod(microseconds, 10**6)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{fraction:06}"


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
