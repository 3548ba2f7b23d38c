"""Every kind of type: how it is declared and the literals of its values. What is expected of it is in matrix.csv."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from tests.support.universe import values as common
from tests.support.universe.expected import matrix
from tests.support.universe.postgres import values as v

ANY_ARRAY = "any of these[]"

# Types that the tests make. Their names need quotes, and one is in a schema with a dot.
DECLARED_TYPES = """
CREATE SCHEMA "U.x";
CREATE TYPE "U.x"."Mood ""q"" x" AS ENUM ('sad', 'ok', 'Ha ppy', 'a,b', 'q"', 'back\\slash', '', 'ü', '''', 'NULL');
CREATE TYPE "U.x".pair AS (a integer, "B b" text);
CREATE TYPE "U.x".nested AS (p "U.x".pair, l integer[], t timestamptz, f float8);
CREATE TYPE "U.x".floatrange AS RANGE (subtype = float8);
CREATE DOMAIN "U.x"."d int" AS integer CHECK (VALUE IS NULL OR VALUE <> 13);
CREATE DOMAIN "U.x".d_domain AS "U.x"."d int";
CREATE DOMAIN "U.x".d_text AS text;
CREATE DOMAIN "U.x".d_char AS character(4);
CREATE DOMAIN "U.x".d_numeric AS numeric(10,3);
CREATE DOMAIN "U.x".d_date AS date;
CREATE DOMAIN "U.x".d_timestamp AS timestamptz;
CREATE DOMAIN "U.x".d_double AS float8;
CREATE DOMAIN "U.x".d_bytea AS bytea;
CREATE DOMAIN "U.x".d_jsonb AS jsonb;
CREATE DOMAIN "U.x".d_uuid AS uuid;
CREATE DOMAIN "U.x".d_enum AS "U.x"."Mood ""q"" x";
CREATE DOMAIN "U.x".d_inet AS inet;
CREATE DOMAIN "U.x".d_interval AS interval;
CREATE DOMAIN "U.x".d_pair AS "U.x".pair;
CREATE DOMAIN "U.x".d_ints AS integer[];
CREATE DOMAIN "U.x".d_texts AS text[];
CREATE DOMAIN "U.x".d_texts_again AS "U.x".d_texts;
"""

_MOODS: common.Literals = st.sampled_from(("sad", "ok", "Ha ppy", "a,b", 'q"', "back\\slash", "", "ü", "'", "NULL"))
_SHORT_TEXTS: common.Literals = st.text("aB ü\t", max_size=30) | common.TEXTS
_INTS: common.Literals = common.integers(32).map(str)
_NO_13: common.Literals = _INTS.filter(lambda text: text != "13")
_CLOCKS: common.Literals = common.clock(False) | common.clock()
_UUIDS: common.Literals = st.uuids().map(str) | st.just("00000000-0000-0000-0000-000000000000")
_PAIRS: common.Literals = v.composites(_INTS, common.TEXTS)
_INT_RANGES: common.Literals = v.ranges(str, -(2**31), 2**31 - 2)
_BIG_RANGES: common.Literals = v.ranges(str, -(2**63), 2**63 - 2)
_NUMBER_RANGES: common.Literals = v.ranges(lambda number: common.decimal_text(number, 5), -(10**20), 10**20)
_DAY_RANGES: common.Literals = v.ranges(lambda day: f"J{day}", 2_000_000, 3_000_000)
_TIME_RANGES: common.Literals = v.ranges(lambda day: f"J{day} 01:02:03.5", 2_000_000, 3_000_000)
_MOMENT_RANGES: common.Literals = v.ranges(lambda day: f"J{day} 01:02:03.5+03", 2_000_000, 3_000_000)
_FLOAT_RANGES: common.Literals = v.ranges(lambda number: f"{number}e-3", -(10**6), 10**6)


@dataclass(frozen=True)
class Kind:
    """A kind of type.

    Attributes:
        declared: declarations of it.
        values: literals; those with a declaration of their own derive theirs from it, see `literals`.
        beyond: literals that its Arrow type cannot hold.
        delimiter: between the elements of its arrays.
        xml: whether the server must have been built with libxml.
    """

    declared: common.Literals
    values: common.Literals
    beyond: tuple[str, ...] = ()
    delimiter: str = ","
    xml: bool = False


def _kind(declared: str, values: common.Literals, beyond: tuple[str, ...] = (), delimiter: str = ",") -> Kind:
    return Kind(st.just(declared), values, beyond, delimiter)


def _typed(template: str, least: int, most: int, values: common.Literals, beyond: tuple[str, ...] = ()) -> Kind:
    """Types with one number in brackets, which may be left out where it is a precision."""
    with_number = st.integers(least, most).map(lambda number: template.format(f"({number})"))
    return Kind(with_number if least else with_number | st.just(template.format("")), values, beyond)


@st.composite
def _numeric_declarations(draw: st.DrawFn, narrow: bool = True) -> str:
    """Precisions and scales of every sort: scales below zero, above the precision, and numbers beyond 38 digits."""
    precision = draw(st.sampled_from((1, 4, 9, 10, 18, 19, 38, 39, 76)) | st.integers(1, 76))
    scale = draw(st.sampled_from((0, precision)) | st.integers(-20, 76))
    digits = max(precision - min(scale, 0), scale)
    if not narrow:
        return f"numeric({1000 - precision},{scale})"
    return f"numeric({precision},{scale if digits <= 76 else 0})"


_FIELDS = st.sampled_from(
    ("year", "year to month", "day", "day to hour", "day to second(3)", "hour to minute", "second", "minute to second")
)

KINDS: dict[str, Kind] = {
    "boolean": _kind("boolean", st.sampled_from(("false", "true"))),
    "smallint": _kind("smallint", common.integers(16).map(str)),
    "integer": _kind("integer", _INTS),
    "bigint": _kind("bigint", common.integers(64).map(str)),
    "oid": _kind("oid", common.unsigned(32).map(str)),
    "xid": _kind("xid", common.unsigned(32).map(str)),
    "cid": _kind("cid", common.unsigned(32).map(str)),
    "xid8": _kind("xid8", common.unsigned(64).map(str)),
    "real": _kind("real", common.floats(32)),
    "double precision": _kind("double precision", common.floats(64)),
    "numeric(12,2)": Kind(_numeric_declarations(), st.nothing(), ("NaN",)),
    "money": _kind("money", common.integers(64).map(lambda cents: common.decimal_text(cents, 2))),
    "date": _kind("date", v.DATES, v.DATES_BEYOND),
    "time without time zone": _typed(
        "time{} without time zone", 0, 6, common.clock(False) | common.clock(), ("24:00:00",)
    ),
    "timestamp without time zone": _typed("timestamp{} without time zone", 0, 6, v.TIMESTAMPS, v.TIMESTAMPS_BEYOND),
    "timestamp with time zone": _typed(
        "timestamp{} with time zone", 0, 6, v.MOMENTS, tuple(f"{moment}+00" for moment in v.TIMESTAMPS_BEYOND[2:])
    ),
    "uuid": _kind("uuid", _UUIDS),
    "text": _kind("text", common.SOME_LONG_TEXTS),
    "character varying(20)": Kind(
        st.integers(1, 40).map(lambda n: f"character varying({n})") | st.just("character varying"), _SHORT_TEXTS
    ),
    "character(6)": _typed("character{}", 1, 40, _SHORT_TEXTS),
    "name": _kind("name", _SHORT_TEXTS),
    "bytea": _kind("bytea", v.BYTEA),
    "json": _kind("json", common.JSON),
    "jsonb": _kind("jsonb", common.JSONB),
    "numeric": Kind(st.just("numeric") | _numeric_declarations(narrow=False), v.UNBOUNDED_NUMERICS),
    "interval": Kind(
        st.just("interval") | _FIELDS.map(lambda fields: f"interval {fields}"),
        v.INTERVALS,
        ("infinity", "-infinity"),
    ),
    "time with time zone": _typed(
        "time{} with time zone",
        0,
        6,
        st.builds(lambda time, east: f"{time}{east:+03}:30", common.clock(), st.integers(-14, 14)),
    ),
    '"char"': _kind('"char"', st.sampled_from(("a", "", "\\", '"', "~"))),
    "bit(8)": _typed("bit{}", 1, 40, v.BITS.map(lambda bits: bits + "1")),
    "bit varying(8)": Kind(st.just("bit varying") | st.integers(1, 40).map(lambda n: f"bit varying({n})"), v.BITS),
    "inet": _kind("inet", v.addresses(network=False)),
    "cidr": _kind("cidr", v.addresses(network=True)),
    "macaddr": _kind("macaddr", v.hexadecimal(6)),
    "macaddr8": _kind("macaddr8", v.hexadecimal(8)),
    "xml": Kind(
        st.just("xml"),
        st.sampled_from(("<a/>", "<a>1</a>", " text <b x='1'>ü</b>\r\n", "<?xml version='1.0'?><a>&amp;</a>", "")),
        xml=True,
    ),
    "tsvector": _kind("tsvector", v.TSVECTORS),
    "tsquery": _kind("tsquery", v.TSQUERIES),
    "point": _kind("point", v.places(1, 1) | st.just("(NaN,Infinity)")),
    "line": _kind("line", v.LINES),
    "lseg": _kind("lseg", v.places(2, 2, "[{}]")),
    "box": _kind("box", v.places(2, 2), delimiter=";"),
    "path": _kind("path", v.places(1, 4, "[{}]") | v.places(1, 4, "({})")),
    "polygon": _kind("polygon", v.places(1, 4, "({})")),
    "circle": _kind("circle", v.CIRCLES),
    "int4range": _kind("int4range", _INT_RANGES),
    "int8range": _kind("int8range", _BIG_RANGES),
    "numrange": _kind("numrange", _NUMBER_RANGES),
    "tsrange": _kind("tsrange", _TIME_RANGES),
    "tstzrange": _kind("tstzrange", _MOMENT_RANGES),
    "daterange": _kind("daterange", _DAY_RANGES),
    "int4multirange": _kind("int4multirange", v.multiranges(_INT_RANGES)),
    "int8multirange": _kind("int8multirange", v.multiranges(_BIG_RANGES)),
    "nummultirange": _kind("nummultirange", v.multiranges(_NUMBER_RANGES)),
    "tsmultirange": _kind("tsmultirange", v.multiranges(_TIME_RANGES)),
    "tstzmultirange": _kind("tstzmultirange", v.multiranges(_MOMENT_RANGES)),
    "datemultirange": _kind("datemultirange", v.multiranges(_DAY_RANGES)),
    "jsonpath": _kind("jsonpath", st.sampled_from(("$", 'strict $."a b"[*] ? (@ > 1.50)', '$.**{2 to 3}."ü\\""'))),
    "pg_lsn": _kind("pg_lsn", common.unsigned(64).map(lambda place: f"{place >> 32:X}/{place & 0xFFFFFFFF:X}")),
    "tid": _kind("tid", st.builds(lambda a, b: f"({a},{b})", common.unsigned(32), common.unsigned(16))),
    "regclass": _kind("regclass", st.sampled_from(("pg_class", "-", '"U.x".pair', "4294967295"))),
    "regtype": _kind(
        "regtype", st.sampled_from(("integer", "-", '"U.x"."Mood ""q"" x"[]', "timestamp with time zone"))
    ),
    "regproc": _kind("regproc", st.sampled_from(("now", "-", "1"))),
    "regnamespace": _kind("regnamespace", st.sampled_from(("pg_catalog", '"U.x"', "-"))),
    "regconfig": _kind("regconfig", st.sampled_from(("simple", "english"))),
    "int2vector": _kind("int2vector", st.lists(common.integers(16).map(str), max_size=4).map(" ".join)),
    "oidvector": _kind("oidvector", st.lists(common.unsigned(32).map(str), max_size=4).map(" ".join)),
    "pg_snapshot": _kind("pg_snapshot", st.sampled_from(("1:1:", "10:20:10,14,15"))),
    "aclitem": _kind("aclitem", st.sampled_from(("=r/postgres", "postgres=arw*/postgres"))),
    "refcursor": _kind("refcursor", common.TEXTS),
    "enum": _kind('"U.x"."Mood ""q"" x"', _MOODS),
    "composite": _kind('"U.x".pair', _PAIRS),
    "composite in composite": _kind(
        '"U.x".nested', v.composites(_PAIRS, st.lists(_INTS, max_size=3).map(v.array_of), v.MOMENTS, common.floats(64))
    ),
    "range of a declared type": _kind('"U.x".floatrange', _FLOAT_RANGES),
    "multirange of a declared type": _kind('"U.x".floatmultirange', v.multiranges(_FLOAT_RANGES)),
    "domain over integer": _kind('"U.x"."d int"', _NO_13),
    "domain over domain": _kind('"U.x".d_domain', _NO_13),
    "domain over text": _kind('"U.x".d_text', common.TEXTS),
    "domain over character": _kind('"U.x".d_char', st.text("aB ü", max_size=4)),
    "domain over numeric": _kind('"U.x".d_numeric', common.numerics(10, 3), ("NaN",)),
    "domain over date": _kind('"U.x".d_date', v.DATES, v.DATES_BEYOND),
    "domain over timestamp": _kind('"U.x".d_timestamp', v.MOMENTS, v.DATES_BEYOND),
    "domain over double precision": _kind('"U.x".d_double', common.floats(64)),
    "domain over bytea": _kind('"U.x".d_bytea', v.BYTEA),
    "domain over jsonb": _kind('"U.x".d_jsonb', common.JSONB),
    "domain over uuid": _kind('"U.x".d_uuid', _UUIDS),
    "domain over enum": _kind('"U.x".d_enum', _MOODS),
    "domain over inet": _kind('"U.x".d_inet', v.addresses(network=False)),
    "domain over interval": _kind('"U.x".d_interval', v.INTERVALS, ("infinity",)),
    "domain over composite": _kind('"U.x".d_pair', _PAIRS),
    "domain over integer[]": _kind(
        '"U.x".d_ints', st.lists(st.none() | _INTS, max_size=4).map(v.array_of), ("{{1,2},{3,4}}", "[0:1]={1,2}")
    ),
    "domain over domain over text[]": _kind(
        '"U.x".d_texts_again', st.lists(st.none() | common.TEXTS, max_size=4).map(v.array_of), ("{{a},{b}}",)
    ),
}


def literals(name: str, declared: str) -> common.Literals:
    """Literals of a kind that suit its declaration."""
    if name == "numeric(12,2)":
        precision, scale = map(int, re.findall(r"-?\d+", declared))
        return common.numerics(precision, scale)
    if name == "numeric" and "(" in declared:
        return common.numerics(*map(int, re.findall(r"-?\d+", declared)))
    if name == "interval" and declared != name:
        return v.SHORT_INTERVALS
    return KINDS[name].values


MATRIX = matrix(Path(__file__).with_name("matrix.csv"))
