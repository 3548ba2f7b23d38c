"""Strategies of cases for PostgreSQL, which shrink to a small one."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import strategies as st

from tests.support.universe import values as common
from tests.support.universe.cases import Case, CaseColumn, named
from tests.support.universe.postgres import values as v
from tests.support.universe.postgres.kinds import KINDS, MATRIX, literals

_WIDEST = 60
_LONGEST_KEY = 300


@dataclass(frozen=True)
class Facts:
    """What a server can do.

    Attributes:
        version: its major version.
        xml: whether it has the type xml.
    """

    version: int
    xml: bool


_SYSTEM_NAMES = ("tableoid", "xmin", "cmin", "xmax", "cmax", "ctid")
_ODD_NAMES = (
    "a",
    "A",
    "id",
    "a.b",
    'a"b',
    "a b",
    "'",
    "ä Ö",
    "select",
    "order",
    "t",
    "x" * 63,
    "%s",
    "{}",
    "{0}",
    ":a",
    "$1",
    "element",
    "list",
    "key_value",
    "rows",
    "\n",
    "\U0001f600",
    "\\",
    "`",
    "*",
)


def _fits(name: str) -> bool:
    return 0 < len(name.encode()) <= 63 and name not in _SYSTEM_NAMES


_NAMES = st.sampled_from(_ODD_NAMES) | st.text(common.CHARACTERS, min_size=1, max_size=20).filter(_fits)
_TABLE_NAMES = st.just("t") | _NAMES


def _unique(names: list[str]) -> list[str]:
    """The names; one that stood before gets a number instead of its end."""
    found: list[str] = []
    for number, name in enumerate(names):
        found.append(name if name not in found else f"{name[:10]}_{number}")
    return found


# The types with the most edges; they come more often.
_OFTEN = (*["numeric(12,2)"] * 8, *["numeric", "interval", "date", "timestamp with time zone", "text"] * 2)


@st.composite
def _columns(draw: st.DrawFn, facts: Facts, strict: bool) -> CaseColumn:
    """One column, its name aside."""
    name = draw(st.sampled_from([kind for kind in (*KINDS, *_OFTEN) if facts.xml or not KINDS[kind].xml]))
    kind = KINDS[name]
    array = draw(st.sampled_from((False, False, True)))
    nullable = draw(st.booleans())
    declared = draw(kind.declared)
    found = literals(name, declared)
    beyond = () if "interval" in name and facts.version < 17 else kind.beyond
    if beyond and not draw(st.sampled_from((True, True, False))):
        found |= st.sampled_from(beyond)
    else:
        beyond = ()
    if array:
        found = _arrays(found, kind.delimiter, shapes=draw(st.sampled_from((False, False, True))))
    choice = draw(st.sampled_from((None, None, None, None, None, "other")))
    wanted = None if choice is None else draw(st.sampled_from(_choices(name, declared, array, strict)))
    return CaseColumn(
        name="",
        kind=name,
        declared=declared,
        array=array,
        nullable=nullable,
        values=tuple(draw(st.lists(st.none() | found if nullable else found, min_size=1, max_size=6))),
        type=wanted,
        # A value that is refused ends the comparison, so few cases may have one.
        unrepresentable=draw(
            st.sampled_from((None, "error", "null", "text") if strict else ("null",) if wanted else ("null", "text"))
        ),
    )


def _arrays(elements: common.Literals, delimiter: str, *, shapes: bool) -> common.Literals:
    """Arrays of one dimension, and of other shapes if allowed."""
    inner = st.lists(st.none() | elements, max_size=4)
    found = inner.map(lambda each: v.array_of(each, delimiter))
    if not shapes:
        return found
    squares = st.lists(elements, min_size=2, max_size=2).map(
        lambda each: "{" + delimiter.join(v.array_of([one], delimiter) for one in each) + "}"
    )
    shifted = st.builds(lambda each, at: f"[{at}:{at}]={v.array_of([each], delimiter)}", elements, st.integers(-3, 3))
    return found | squares | shifted


def _choices(name: str, declared: str, array: bool, strict: bool) -> list[str | None]:
    """Types that the option `type` may ask for."""
    canonical = MATRIX[name].canonical
    found: list[str | None] = ["text"]
    if name == "interval":
        found.append("interval")
    if name == "money":
        found.append("decimal(40, 5)")
    if name == "numeric" and strict:
        found += ["decimal(38, 10)", "decimal(76, 38)"]
    if not array:
        return found
    if canonical.startswith("list("):
        return ["text", "list(text)"]
    return ["text", *(f"list({each})" for each in found)]


# Keys by the hundred, in no order; a number that comes again gives the same key.
_MANY_KEYS: dict[str, Callable[[random.Random], str]] = {
    "bigint": lambda r: str(r.choice((r.randrange(-100, 400), r.randrange(-(2**63), 2**63)))),
    "uuid": lambda r: f"{r.getrandbits(128):032x}",
    "text": lambda r: "".join(r.choice("aA\u00e4 'zZ\\\"\n,\U0001f600%{}") for _ in range(r.randrange(9))),
    "timestamp with time zone": lambda r: (
        f"J{r.randrange(2, 109_000_000)} {common.clock_text(r.randrange(86_400 * 10**6))}+00"
    ),
    "date": lambda r: f"J{r.randrange(2_147_483_493)}",
    "numeric": lambda r: common.decimal_text(r.randrange(-(10**30), 10**30), r.randrange(40)),
    "inet": lambda r: f"10.{r.randrange(256)}.{r.randrange(256)}.1/{r.randrange(33)}",
    "domain over integer": lambda r: str(r.randrange(14, 9999)),
    "bytea": lambda r: "\\x" + r.randbytes(r.randrange(6)).hex(),
    "double precision": lambda r: repr(r.uniform(-1, 1) * 10.0 ** r.randrange(-300, 300)),
    "character(6)": lambda r: "".join(r.choice("aA\u00e4 z") for _ in range(6)),
    "integer": lambda r: str(r.randrange(-(2**31), 2**31)),
}


@st.composite
def _many_keys(draw: st.DrawFn) -> tuple[int, list[CaseColumn]]:
    """Up to two hundred rows' keys of one column, or of two."""
    rows = draw(st.integers(0, 200))
    last = draw(st.sampled_from(sorted(_MANY_KEYS)))
    r = random.Random(draw(st.integers(0, 2**32)))
    keys = [_key(last, [_MANY_KEYS[last](r) for _ in range(rows)])]
    if draw(st.booleans()):
        keys.insert(0, _key("integer", [str(r.randrange(4)) for _ in range(rows)]))
    return rows, keys


@st.composite
def _odd_keys(draw: st.DrawFn, facts: Facts) -> tuple[int, list[CaseColumn]]:
    """A few rows' keys of any type that has an order."""
    usable = [kind for kind in KINDS if MATRIX[kind].key]
    columns = []
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(usable))
        declared = draw(KINDS[name].declared)
        found = literals(name, declared)
        if not ("interval" in name and facts.version < 17) and KINDS[name].beyond:
            found |= st.sampled_from(KINDS[name].beyond)
        array = draw(st.sampled_from((False, False, True)))
        if array:
            found = _arrays(found, KINDS[name].delimiter, shapes=True)
        found = found.filter(lambda text: len(text.encode()) <= _LONGEST_KEY)
        pool = draw(st.lists(found, max_size=12, unique=True))
        columns.append(
            CaseColumn("", name, declared, array, False, tuple(pool), None, draw(st.sampled_from(("null", "text"))))
        )
    rows = max(len(column.values) for column in columns) if all(column.values for column in columns) else 0
    return rows, columns


def _key(kind: str, pool: list[str]) -> CaseColumn:
    declared = {"domain over integer": '"U.x"."d int"', "character(6)": "character(6)"}.get(kind, kind)
    return CaseColumn("", kind, declared, False, False, tuple(pool))


@st.composite
def cases(draw: st.DrawFn, facts: Facts) -> Case:
    """Cases for a server; shrinks to fewer columns, then fewer rows, then simpler values."""
    strict = draw(st.sampled_from((False,) * 5 + (True,)))
    columns = draw(st.lists(_columns(facts, strict), max_size=20))
    columns *= draw(st.sampled_from((1, 1, 1, 1, 1, 1, 3, 12)))
    rows, keys = draw(_many_keys() | _odd_keys(facts))
    place = draw(st.integers(0, min(len(columns), 3)))
    columns = [*columns[:place], *keys, *columns[place:]][:_WIDEST]
    names = _unique(draw(st.lists(_NAMES, min_size=len(columns), max_size=len(columns))))
    return Case(
        schema=draw(st.just("public") | _TABLE_NAMES),
        table=draw(_TABLE_NAMES),
        columns=named(columns, names),
        key=tuple(names[place : place + len(keys)]),
        rows=rows,
        window_rows=-(-rows // draw(st.integers(1, 5))) or 1,
        page_bytes=draw(st.sampled_from((65536, 1 << 20))),
        row_group_bytes=draw(st.sampled_from((1 << 20, 65536))),
        workers=draw(st.integers(1, 2)),
        unrepresentable="error" if strict else "null",
    )
