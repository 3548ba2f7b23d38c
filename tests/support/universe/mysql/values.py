"""Strategies of literals, as MySQL and MariaDB read them. Each shrinks to a short, plain one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from decimal import Decimal

from hypothesis import strategies as st

from tests.support.universe import values as common
from tests.support.universe.values import Literals

# Character sets, some collations of each, and characters that they have beyond ASCII. In some of them a few characters
# have two codes, or Unicode has two for one of them.
_UNICODE = ("general_ci", "bin", "unicode_ci", "general_nopad_ci", "nopad_bin", "uca1400_ai_ci", "uca1400_nopad_as_cs")
CHARSETS: dict[str, tuple[tuple[str, ...], str]] = {
    "utf8mb4": ((*_UNICODE, "german2_ci", "unicode_520_nopad_ci"), "äÄßéе表한\U0001f600\U0010ffff\ufffe"),
    "utf8mb3": ((*_UNICODE, "swedish_ci"), "äÄßéе表한\uffff\U0001f600"),
    "ucs2": (_UNICODE, "äÄßéе表한\uffff"),
    "utf16": (_UNICODE, "äÄßé表\U0001f600\U0010ffff"),
    "utf16le": (("general_ci", "bin", "nopad_bin"), "äÄßé表\U0001f600"),
    "utf32": (_UNICODE, "äÄßé表\U0001f600\U0010ffff"),
    "latin1": (("swedish_ci", "bin", "general_cs", "german1_ci", "nopad_bin"), "äÄßé€ÿ\x81\x9f"),
    "ascii": (("general_ci", "bin", "nopad_bin"), "ä"),
    "latin2": (("general_ci", "bin", "czech_cs"), "čšžĐł"),
    "latin5": (("turkish_ci", "bin"), "ıİğş"),
    "latin7": (("general_ci", "general_cs", "bin"), "āčēģ"),
    "cp1250": (("general_ci", "bin", "czech_cs", "polish_ci"), "čšžĐł€\x81"),
    "cp1251": (("general_ci", "bin", "bulgarian_ci"), "Приветѓ\x98"),
    "cp1256": (("general_ci", "bin"), "سلام"),
    "cp1257": (("general_ci", "lithuanian_ci", "bin"), "āčēģ"),
    "cp850": (("general_ci", "bin"), "äÄß░"),
    "cp852": (("general_ci", "bin"), "čšž░"),
    "cp866": (("general_ci", "bin"), "Привет░"),
    "greek": (("general_ci", "bin"), "Ελληνικάς€"),
    "hebrew": (("general_ci", "bin"), "שלום"),
    "koi8r": (("general_ci", "bin"), "Привет░"),
    "koi8u": (("general_ci", "bin"), "Привітї"),
    "tis620": (("thai_ci", "bin"), "สวัสดี"),
    "armscii8": (("general_ci", "bin"), "Հայ"),
    "geostd8": (("general_ci", "bin"), "საქ"),
    "dec8": (("swedish_ci", "bin"), "äÄß"),
    "hp8": (("english_ci", "bin"), "äÄß"),
    "swe7": (("swedish_ci", "bin"), "äÄ{}\\"),
    "keybcs2": (("general_ci", "bin"), "čšž"),
    "macce": (("general_ci", "bin"), "čšž"),
    "macroman": (("general_ci", "bin"), "äÄß∂"),
    "sjis": (("japanese_ci", "bin", "nopad_bin"), "表ソ十\uff5e\u2212￥‾ｱ\\~"),
    "cp932": (("japanese_ci", "bin"), "表ソ十\uff5e〜\u2212\uff0d∥髙①纊ｱ"),
    "ujis": (("japanese_ci", "bin"), "表ソ\uff5e〜\u2212ｱ\\~"),
    "eucjpms": (("japanese_ci", "bin"), "表ソ\uff5e①髙ｱ"),
    "gbk": (("chinese_ci", "bin"), "汉字·—€"),
    "gb2312": (("chinese_ci", "bin"), "汉字·—"),
    "big5": (("chinese_ci", "bin"), "漢字功兀嗀\uff05"),
    "euckr": (("korean_ci", "bin"), "한글\uff5e똠"),
}
_OFTEN = ("utf8mb4",) * 10 + ("latin1", "utf16", "ucs2", "utf32", "utf8mb3") * 2 + ("sjis", "cp932", "gbk", "big5") * 3
RAW = "0x"


def charset(r: random.Random) -> str:
    """` CHARACTER SET … COLLATE …`."""
    name = r.choice((*_OFTEN, *CHARSETS))
    return f" CHARACTER SET {name} COLLATE {name}_{r.choice(CHARSETS[name][0])}"


def texts(charset: str, *, long: bool = False) -> Literals:
    """Texts for a character set, and bytes of it that begin with `RAW`; the server drops what it cannot keep."""
    plain = common.SOME_LONG_TEXTS if long else common.TEXTS
    # A raw literal is told by how it begins, so no text may begin so.
    plain = plain.filter(lambda text: not text.startswith(RAW)) | st.just("a\0b\0")
    own = st.text(f"aB '{CHARSETS[charset][1]}", max_size=8)
    # Among them a half of a surrogate pair, which is no character.
    coded = st.binary(max_size=6) | st.binary(min_size=1, max_size=2) | st.sampled_from((b"\xd8\0", b"\xed\xa0\x80"))
    return st.one_of(plain, own, own, coded.map(lambda data: RAW + data.hex()))


def key_texts(charset: str) -> Literals:
    """Short texts of characters, for keys."""
    return st.text(f"aAbB z'%?\\{CHARSETS[charset][1]}", max_size=8) | st.text("aä é\t\x01", max_size=4)


def labels(charset: str) -> tuple[str, ...]:
    """Members of an ENUM or a SET; no two of them are the same to any collation."""
    return ("a", "Bb c", "q'\"", "x\\y", "?%{}", "1", *CHARSETS[charset][1][:1])


def floats(width: int) -> Literals:
    """Floats of 32 or 64 bits; the servers know neither infinities nor NaN."""
    return common.floats(width).filter(lambda text: "n" not in text)


def decimals(precision: int, scale: int) -> Literals:
    """What `decimal(precision, scale)` holds."""
    return common.numerics(precision, scale)


def _in_calendar(day: int) -> str:
    """The day so many days after 0000-01-01."""
    year, month, of_month = _civil(day - 719_528)
    return f"{year:04}-{month:02}-{of_month:02}"


def _civil(day: int) -> tuple[int, int, int]:
    """Year, month and day of a number of days since 1970-01-01; the other way round than `expected.days`."""
    shifted = day + 719_468
    era, of_era = divmod(shifted, 146_097)
    year_of_era = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month = (5 * of_year + 2) // 153
    of_month = of_year - (153 * month + 2) // 5 + 1
    month = month + 3 if month < 10 else month - 9
    return era * 400 + year_of_era + (month <= 2), month, of_month


_LAST_DAY = 3_652_424
DATES: Literals = st.one_of(
    st.integers(0, 40_000).map(lambda day: _in_calendar(719_528 + day)),
    st.sampled_from(("1970-01-01", "2024-02-29", "0000-01-01", "9999-12-31", "1582-10-10", "0000-02-28", "0004-02-29")),
    # Day 59 is a leap day of the year 0, which the servers do not have.
    st.integers(0, _LAST_DAY).filter(lambda day: day != 59).map(_in_calendar),
)
DATES_BEYOND = (
    *("0000-00-00", "2024-00-00", "2024-02-00", "2024-00-05", "0000-00-01", "0000-05-00"),
    *("2024-02-30", "2023-02-29", "2024-04-31", "0000-02-29", "1900-02-29", "9999-02-31"),
)
_CLOCK = common.clock()
DATETIMES: Literals = st.builds(lambda day, time: f"{day} {time}", DATES, _CLOCK) | st.sampled_from(
    ("1970-01-01 00:00:00", "1969-12-31 23:59:59.999999", "9999-12-31 23:59:59.999999", "0000-01-01 00:00:00.000001")
)
DATETIMES_BEYOND = tuple(f"{day} {time}" for day in DATES_BEYOND[::2] for time in ("00:00:00", "23:59:59.999999"))
# The last second that all versions have is that of 31 bits.
TIMESTAMPS: Literals = st.builds(
    lambda second, fraction: f"{_in_calendar(719_528 + second // 86_400)} {_clock(second % 86_400)}.{fraction:06}",
    common.edged((1, 2**31 - 1, 86_400, 1_700_000_000), st.integers(1, 2**31 - 1)),
    common.edged((0, 999_999, 500_000), st.integers(0, 999_999)),
)


def _clock(seconds: int) -> str:
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


TIMES_BEYOND = (
    "-00:00:00.000001",
    "-00:00:01",
    "24:00:00",
    "838:59:59",
    "-838:59:59.999999",
    "25:01:02.5",
    "-24:00:00",
)
YEARS: Literals = st.integers(1901, 2155).map(str) | st.sampled_from(("0000", "1901", "2155"))

BYTES: Literals = common.BYTES.map(bytes.hex)

_COORDINATES = st.sampled_from((0, -1, 1, 2.5, 1e300, -1e-300, 0.1, 123456.789)) | st.integers(-1000, 1000)
_POINTS = st.tuples(_COORDINATES, _COORDINATES).map(lambda point: " ".join(format(Decimal(str(n)), "g") for n in point))


def _joined(parts: Sequence[str]) -> str:
    return "(" + ",".join(parts) + ")"


_LINES = st.lists(_POINTS, min_size=2, max_size=5, unique=True).map(_joined)
_RINGS = st.builds(
    lambda x, y, size: _joined([f"{x} {y}", f"{x + size} {y}", f"{x + size} {y + size}", f"{x} {y}"]),
    st.integers(-99, 99),
    st.integers(-99, 99),
    st.integers(1, 50),
)
SHAPES: dict[str, Literals] = {
    "point": _POINTS.map(lambda point: f"POINT({point})"),
    "linestring": _LINES.map(lambda line: f"LINESTRING{line}"),
    "polygon": st.lists(_RINGS, min_size=1, max_size=2).map(lambda rings: f"POLYGON{_joined(rings)}"),
    "multipoint": st.lists(_POINTS, min_size=1, max_size=3).map(lambda points: f"MULTIPOINT{_joined(points)}"),
    "multilinestring": st.lists(_LINES, min_size=1, max_size=3).map(lambda lines: f"MULTILINESTRING{_joined(lines)}"),
    "multipolygon": st.lists(_RINGS.map(lambda ring: f"({ring})"), min_size=1, max_size=2).map(
        lambda parts: f"MULTIPOLYGON{_joined(parts)}"
    ),
}
SHAPES["geometrycollection"] = st.lists(SHAPES["point"] | SHAPES["polygon"], min_size=1, max_size=3).map(
    lambda parts: f"GEOMETRYCOLLECTION{_joined(parts)}"
)
SHAPES["geometry"] = st.one_of(*SHAPES.values())


def shapes(declared: str) -> Literals:
    """A shape's SRID and WKT."""
    return st.builds(lambda srid, text: f"{srid};{text}", st.sampled_from((0, 4326, 1)), SHAPES[declared])
