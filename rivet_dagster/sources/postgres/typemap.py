"""PostgreSQL's types, as data: how each is read, and what it becomes. The reference page of types is made from this.

A rule stands for one built-in type. A type without a rule (ranges, composites, types of extensions, network and
geometric types …) is read as the server's own text, which loses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

TEXT_OID: Final = 25
NUMERIC_OID: Final = 1700
MONEY_OID: Final = 790
INTERVAL_OID: Final = 1186

PLAIN: Final = "{}"
AS_TEXT: Final = "{}::text"
AS_TEXTS: Final = "{}::text[]"


@dataclass(frozen=True)
class TypeRule:
    """How one native type is read.

    Attributes:
        oid: of the built-in type; the same in every database and version.
        declared: a declaration of it, as the server prints it.
        type: canonical name of the type in the parts.
        form: its form on the wire.
        select: how a query asks for it, `{}` being the column.
        select_array: how it asks for an array of such values; only where `select` is not the plain column.
        wire_oid: type that the query then gives; 0 if it is `oid`.
        beyond: values that the Arrow type cannot hold, for which the column's option `unrepresentable` is.
        choices: other types that the column's option `type` may ask for.
        remark: what else to know.
        sample: a value, as a literal of the server's.
        csv: that value in a CSV part.
    """

    oid: int
    declared: str
    type: str
    form: str
    sample: str
    csv: str
    select: str = PLAIN
    select_array: str = AS_TEXTS
    wire_oid: int = 0
    beyond: tuple[str, ...] = ()
    choices: tuple[str, ...] = ("text",)
    remark: str = ""


_INFINITIES = ("infinity", "-infinity")
_DECIMAL = "decimal(P, S)"

RULES: Final[tuple[TypeRule, ...]] = (
    TypeRule(16, "boolean", "bool", "bool", "t", "true"),
    TypeRule(21, "smallint", "int16", "int2", "-7", "-7"),
    TypeRule(23, "integer", "int32", "int4", "70000", "70000"),
    TypeRule(20, "bigint", "int64", "int8", "-9000000000", "-9000000000"),
    TypeRule(26, "oid", "uint32", "uint4", "4294967295", "4294967295"),
    TypeRule(28, "xid", "uint32", "uint4", "7", "7"),
    TypeRule(29, "cid", "uint32", "uint4", "7", "7"),
    TypeRule(5069, "xid8", "uint64", "uint8", "18446744073709551615", "18446744073709551615"),
    TypeRule(700, "real", "float32", "float4", "0.1", "0.1", remark="to the bit; NaN and infinities pass"),
    TypeRule(701, "double precision", "float64", "float8", "0.1", "0.1", remark="to the bit; NaN and infinities pass"),
    TypeRule(
        1700,
        "numeric(12,2)",
        "decimal(12, 2)",
        "numeric",
        "-1234.50",
        "-1234.50",
        beyond=("NaN",),
        choices=("text", _DECIMAL),
        remark="to 76 digits, beyond them `text`; a negative scale counts as 0, and digits grow to the scale",
    ),
    TypeRule(
        790,
        "money",
        "decimal(19, 2)",
        "numeric",
        "-1234.5",
        "-1234.50",
        select="{}::numeric",
        select_array="{}::numeric[]",
        wire_oid=1700,
        choices=("text", _DECIMAL),
        remark="the scale is that of the session's `lc_monetary`",
    ),
    TypeRule(
        1082,
        "date",
        "date",
        "date",
        "0044-03-15 BC",
        "-0043-03-15",
        beyond=_INFINITIES,
        remark="4714 BC to 5874897 AD, in the proleptic Gregorian calendar",
    ),
    TypeRule(
        1083, "time without time zone", "time(us)", "time", "12:34:56.789", "12:34:56.789000", beyond=("24:00:00",)
    ),
    TypeRule(
        1114,
        "timestamp without time zone",
        "timestamp(us)",
        "timestamp",
        "2024-02-29 12:34:56.789",
        "2024-02-29 12:34:56.789000",
        beyond=(*_INFINITIES, "past 294247-01-10 04:00:54.775807"),
    ),
    TypeRule(
        1184,
        "timestamp with time zone",
        "timestamp(us, UTC)",
        "timestamp",
        "2024-02-29 12:34:56.789+05:45",
        "2024-02-29 06:49:56.789000Z",
        beyond=(*_INFINITIES, "past 294247-01-10 04:00:54.775807"),
        remark="as the moment in UTC",
    ),
    TypeRule(
        2950,
        "uuid",
        "uuid",
        "uuid",
        "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
        "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
        remark="16 bytes",
    ),
    TypeRule(25, "text", "text", "bytes", "grüße", "grüße"),
    TypeRule(1043, "character varying(20)", "text", "bytes", "grüße", "grüße"),
    TypeRule(1042, "character(6)", "text", "bytes", "abc", "abc   ", remark="with its blanks"),
    TypeRule(19, "name", "text", "bytes", "pg_class", "pg_class"),
    TypeRule(17, "bytea", "binary", "bytes", "\\x00ff", "00ff"),
    TypeRule(114, "json", "json", "bytes", '{"a":  1}', '{"a":  1}', remark="byte for byte"),
    TypeRule(3802, "jsonb", "json", "jsonb", '{"a":  1}', '{"a": 1}', remark="as the server prints it"),
)

BY_OID: Final = {rule.oid: rule for rule in RULES}


def text_rule(oid: int, declared: str, sample: str, *, remark: str = "") -> TypeRule:
    """A type that is read as text."""
    return TypeRule(
        oid, declared, "text", "bytes", sample, sample, select=AS_TEXT, wire_oid=TEXT_OID, choices=(), remark=remark
    )


UNBOUNDED_NUMERIC: Final = TypeRule(
    NUMERIC_OID,
    "numeric",
    "text",
    "bytes",
    "1e-30",
    "0.000000000000000000000000000001",
    select=AS_TEXT,
    wire_oid=TEXT_OID,
    choices=(_DECIMAL,),
    remark="its values have no common scale; `decimal(P, S)` refuses a value that does not fit, and NaN and infinities "
    "by `unrepresentable`",
)

INTERVAL: Final = TypeRule(
    INTERVAL_OID,
    "interval",
    "text",
    "bytes",
    "1 year 2 months 3 days 04:05:06.789",
    "P1Y2M3DT4H5M6.789S",
    select=AS_TEXT,
    wire_oid=TEXT_OID,
    choices=("interval",),
    remark="ISO 8601; `interval` is a struct of months, days, microseconds, with infinities by `unrepresentable`",
)

INTERVAL_PARTS: Final = TypeRule(
    INTERVAL_OID,
    "interval",
    "interval",
    "interval",
    INTERVAL.sample,
    '{"months": 14, "days": 3, "microseconds": "14706789000"}',
    beyond=_INFINITIES,
    remark="only with `type: interval`",
)

# inet's cast to text would add /32 to a host, which its output does not.
INET: Final = replace(text_rule(869, "inet", "10.1.2.3"), select="abbrev({})", select_array="{}::text::text[]")

TEXT_RULES: Final[tuple[TypeRule, ...]] = (
    UNBOUNDED_NUMERIC,
    INTERVAL,
    text_rule(1266, "time with time zone", "12:34:56+05:45"),
    text_rule(18, '"char"', "x"),
    text_rule(1560, "bit(8)", "10101010"),
    text_rule(1562, "bit varying(8)", "101"),
    INET,
    text_rule(650, "cidr", "10.1.0.0/16"),
    text_rule(829, "macaddr", "08:00:2b:01:02:03"),
    text_rule(774, "macaddr8", "08:00:2b:01:02:03:04:05"),
    text_rule(142, "xml", "<a>1</a>", remark="byte for byte"),
    text_rule(3614, "tsvector", "'a':1 'b':2"),
    text_rule(3615, "tsquery", "'a' & 'b'"),
    text_rule(600, "point", "(1,2.5)", remark="geometric types print the shortest digits that give the number back"),
    text_rule(628, "line", "{1,2,3}"),
    text_rule(601, "lseg", "[(1,2),(3,4)]"),
    text_rule(603, "box", "(3,4),(1,2)"),
    text_rule(602, "path", "((1,2),(3,4))"),
    text_rule(604, "polygon", "((1,2),(3,4),(5,6))"),
    text_rule(718, "circle", "<(1,2),3>"),
    text_rule(3904, "int4range", "[1,5)"),
    text_rule(3906, "numrange", "[1.5,)"),
    text_rule(3908, "tsrange", '["2024-01-01 00:00:00","2024-02-01 00:00:00")'),
    text_rule(3910, "tstzrange", '["2024-01-01 00:00:00+00","2024-02-01 00:00:00+00")', remark="moments in UTC"),
    text_rule(3912, "daterange", "[2024-01-01,2024-02-01)"),
    text_rule(3926, "int8range", "(,)"),
    text_rule(4451, "int4multirange", "{[1,3),[5,8)}", remark="PostgreSQL 14 and later"),
    text_rule(4072, "jsonpath", '$."a"'),
    text_rule(3220, "pg_lsn", "16/B374D848"),
    text_rule(27, "tid", "(0,1)"),
    text_rule(2205, "regclass", "pg_class", remark="names are qualified unless they are in `pg_catalog`"),
)
"""Types that are read as text and that the reference lists; any other type without a rule is read so too."""
