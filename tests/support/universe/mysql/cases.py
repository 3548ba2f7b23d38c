"""Strategies of cases for MySQL and MariaDB, which shrink to a small one."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable
from dataclasses import replace

from hypothesis import strategies as st

from tests.support.universe.cases import Case, CaseColumn, named
from tests.support.universe.mysql import values as v
from tests.support.universe.mysql.kinds import KINDS, MATRIX, charset_of
from tests.support.universe.values import clock_text, decimal_text

PLAIN_DATABASE = "universe"
DESCENDING = "DESC"
GENERATED = ("VIRTUAL", "STORED")

_WIDEST = 60
_ODD_NAMES = (
    *("a", "A", "id", "a.b", "a`b", "``", 'a"b', "a b", " a", "'", "ä Ö", "select", "order", "t", "x" * 64, "%s", "%"),
    *("?", "{}", "{0}", "{columns}", ":a", "@a", "$1", "--", "/*", "#", "element", "list", "key", "rows", "*", "\\"),
    *("\x01", "\ufeff", "表", ";", "0", "1e1", "/", "..", "ß"),
)
# Names have no characters beyond the basic plane, and end with no blank.
_CHARACTERS = st.characters(exclude_characters="\0", exclude_categories=["Cs"], max_codepoint=0xFFFF)


def _fits(name: str) -> bool:
    return 0 < len(name) <= 64 and not name[-1].isspace() and name[-1] not in "\x1c\x1d\x1e\x1f\x85"


_NAMES = st.sampled_from(_ODD_NAMES) | st.text(_CHARACTERS, min_size=1, max_size=16).filter(_fits)
_TABLE_NAMES = st.just("t") | _NAMES
_TABLE_OPTIONS = (
    "",
    "",
    "",
    "",
    "ENGINE=MyISAM",
    "ENGINE=Aria",
    "ROW_FORMAT=COMPRESSED",
    "PARTITION BY KEY() PARTITIONS 3",
)


def _unique(names: list[str]) -> list[str]:
    """The names; one that the server may take for one that stood before gets a number instead of its end."""
    found: dict[str, str] = {}
    for number, name in enumerate(names):
        kept = name if _folded(name) not in found else f"{name[:10]}_{number}"
        found[_folded(kept)] = kept
    return list(found.values())


def _folded(name: str) -> str:
    """The name without case and accents."""
    plain = unicodedata.normalize("NFKD", name.casefold())
    return "".join(character for character in plain if not unicodedata.combining(character)).casefold()


# The types with the most edges; they come more often.
_OFTEN = (*["decimal", "varchar", "datetime", "time", "char"] * 3, *["date", "timestamp", "text", "enum"] * 2)
_OFTEN_KEYS = ("char", "varchar", "varchar", "datetime", "time", "decimal", "float", "double", "binary(16)", "bit")


@st.composite
def _column(draw: st.DrawFn, r: random.Random, strict: bool, most: int) -> CaseColumn:
    """One column, its name aside. What it is comes from `r`, because hypothesis would take the same again and again."""
    name = r.choice((*KINDS, *_OFTEN, *_OFTEN_KEYS * strict))
    kind = KINDS[name]
    nullable = r.random() < 0.6
    declared = kind.declared(r)
    found = kind.values(declared)
    choices = [each for each in kind.choices if strict or not each.startswith("decimal")]
    wanted = r.choice(choices) if choices and r.random() < 0.2 else None
    if wanted == "json" and name != "json":
        # Readers refuse a file with a column of JSON that is none.
        declared, found = name, KINDS["json"].values(name)
    if kind.beyond and r.random() < 0.4:
        found |= st.sampled_from(kind.beyond)
    if not strict and MATRIX[name].server == "characters" and wanted != "binary":
        # A text that its character set does not give back is refused, which ends the comparison.
        found = found.filter(lambda text: not text.startswith(v.RAW))
    size = r.choice((1, 2, 3, most))
    return CaseColumn(
        name="",
        kind=name,
        declared=declared,
        array=False,
        nullable=nullable,
        values=tuple(draw(st.lists(st.none() | found if nullable else found, min_size=size, max_size=size))),
        type=wanted,
        # A value that is refused ends the comparison, so few cases may have one.
        unrepresentable=r.choice(
            (None, "error", "null", "text") if strict else ("null",) if wanted else ("null", "text")
        ),
        extra=r.choice(("", "", "", "INVISIBLE")) if nullable else "",
    )


def _with_copies(r: random.Random, columns: list[CaseColumn]) -> list[CaseColumn]:
    """The columns, and generated copies of some of them."""
    copied = [column for column in columns if not column.extra and r.random() < 0.1]
    return [*columns, *(replace(column, nullable=True, extra=r.choice(GENERATED)) for column in copied)]


def _clock(r: random.Random) -> str:
    return clock_text(r.randrange(86_400 * 10**6))


# Keys by the hundred, in no order; a number that comes again gives the same key.
_MANY_KEYS: dict[str, tuple[str, Callable[[random.Random], str]]] = {
    "bigint": ("bigint", lambda r: str(r.choice((r.randrange(-100, 400), r.randrange(-(2**63), 2**63))))),
    "bigint unsigned": ("bigint unsigned", lambda r: str(r.choice((r.randrange(400), r.randrange(2**64))))),
    "int": ("int", lambda r: str(r.randrange(-(2**31), 2**31))),
    "uuid": ("uuid", lambda r: f"{r.getrandbits(128):032x}"),
    "varchar": (
        "varchar(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci",
        lambda r: "".join(r.choice("aAäÄeé 'zZ\\\"\n,\U0001f600%{}?") for _ in range(r.randrange(9))),
    ),
    "char": (
        "char(9) CHARACTER SET latin1 COLLATE latin1_bin",
        lambda r: "".join(r.choice("aAäÄ z\t") for _ in range(r.randrange(7))),
    ),
    "datetime": (
        "datetime(6)",
        lambda r: f"{r.randrange(10_000):04}-{r.randrange(13):02}-{r.randrange(32):02} {_clock(r)}",
    ),
    "date": ("date", lambda r: f"{r.randrange(10_000):04}-{r.randrange(1, 13):02}-{r.randrange(1, 32):02}"),
    "time": ("time(6)", lambda r: r.choice(("", "-")) + clock_text(r.randrange(838 * 3600 * 10**6))),
    "decimal": ("decimal(65,30)", lambda r: decimal_text(r.randrange(-(10 ** r.randrange(1, 65)), 10**64), 30)),
    "double": ("double", lambda r: repr(r.uniform(-1, 1) * 10.0 ** r.randrange(-300, 300))),
    "float": ("float", lambda r: repr(r.uniform(-1, 1) * 10.0 ** r.randrange(-40, 38))),
    "varbinary": ("varbinary(9)", lambda r: r.randbytes(r.randrange(6)).hex()),
    "binary(16)": ("binary(16)", lambda r: r.randbytes(16).hex()),
    "inet6": ("inet6", lambda r: f"2001:db8::{r.randrange(65536):x}:{r.randrange(65536):x}"),
}


def _many_keys(r: random.Random) -> tuple[int, list[CaseColumn]]:
    """Up to two hundred rows' keys of one column, or of two."""
    rows = r.choice((0, 1, r.randrange(20), r.randrange(200), 200))
    last = r.choice(sorted(_MANY_KEYS))
    declared, made = _MANY_KEYS[last]
    keys = [CaseColumn("", last, declared, False, False, tuple(made(r) for _ in range(rows)), unrepresentable="null")]
    if r.random() < 0.5:
        keys.insert(0, CaseColumn("", "int", "int", False, False, tuple(str(r.randrange(4)) for _ in range(rows))))
    return rows, keys


def _comparable(declared: str) -> str:
    """The declaration with a collation by which an index of its values is sorted as they compare."""
    padded = not declared.startswith("char") or "_nopad_" not in declared
    return declared if padded else declared.partition(" COLLATE")[0]


@st.composite
def _odd_keys(draw: st.DrawFn, r: random.Random) -> tuple[int, list[CaseColumn]]:
    """A few rows' keys of any type that has an order."""
    columns = []
    rows = r.choice((0, 1, 3, 6, 12, 12, 20))
    for _ in range(r.choice((1, 1, 2, 3))):
        name = r.choice((*(kind for kind in KINDS if MATRIX[kind].key), *_OFTEN_KEYS))
        kind = KINDS[name]
        declared = _comparable(kind.declared(r))
        texts = MATRIX[name].server == "characters"
        found = v.key_texts(charset_of(declared)) if texts else kind.values(declared)
        if kind.beyond:
            found |= st.sampled_from(kind.beyond)
        size = max(1, rows - r.randrange(3))
        pool = draw(st.lists(found, min_size=size, max_size=size))
        wanted = r.choice((None, None, *(each for each in kind.choices if each in ("text", "uuid"))))
        policy = r.choice(("null",) if wanted else ("null", "text"))
        columns.append(CaseColumn("", name, declared, False, False, tuple(pool), wanted, policy))
    return rows, columns


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Cases: their structure by chance, their values by hypothesis."""
    # Hypothesis takes small numbers where it may take large ones.
    r = random.Random(repr(draw(st.tuples(*[st.integers(0, 2**20)] * 3))))
    strict = r.random() < 0.2
    size = r.choice((0, 2, 5, 10, r.randrange(20), 20))
    # Hypothesis gives up a case that takes too many choices.
    most = 6 if size <= 10 else 2
    columns = [draw(_column(r, strict, most)) for _ in range(size)]
    options = r.choice(_TABLE_OPTIONS)
    if not options.startswith("ENGINE"):  # Aria cannot open some tables with generated columns that it made
        columns = _with_copies(r, columns)
    columns *= r.choice((1,) * 10 + (3, 12))
    keyed = r.random() < 0.85
    rows, keys = draw(_odd_keys(r)) if r.random() < 0.6 else _many_keys(r)
    if keyed and r.random() < 0.3:
        keys = [replace(column, extra=DESCENDING) for column in keys]
    place = r.randint(0, min(len(columns), 3))
    columns = [*columns[:place], *keys, *columns[place:]][:_WIDEST]
    names = _unique(draw(st.lists(_NAMES, min_size=len(columns), max_size=len(columns))))
    if options.startswith("PARTITION") and (not keyed or any(column.kind == "geometry" for column in columns)):
        options = ""
    return Case(
        schema=draw(st.just(PLAIN_DATABASE) | _TABLE_NAMES),
        table=draw(_TABLE_NAMES),
        columns=named(columns, names),
        key=tuple(names[place : place + len(keys)]) if keyed else (),
        rows=rows,
        window_rows=-(-rows // r.randint(1, 5)) or 1,
        page_bytes=r.choice((65536, 1 << 20)),
        row_group_bytes=r.choice((1 << 20, 65536)),
        workers=r.randint(1, 2),
        unrepresentable="error" if strict else "null",
        options=options,
    )
