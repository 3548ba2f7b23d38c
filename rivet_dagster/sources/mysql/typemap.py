"""MySQL's and MariaDB's types, as data: how each is read, and what it becomes. The reference page is made from this.

A type without a rule is read as the server's own text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PLAIN: Final = "{}"
AS_TEXT: Final = "CAST({} AS CHAR)"
AS_HEX: Final = "LOWER(HEX({}))"


@dataclass(frozen=True)
class TypeRule:
    """How one native type is read.

    Attributes:
        name: the type's name in the catalog; with `unsigned`, where that is another type.
        declared: a declaration of it.
        type: canonical name of the type in the parts.
        form: its form on the wire.
        sample: a value, as a literal of the server's.
        csv: that value in a CSV part.
        select: how a query asks for it, `{}` being the column.
        beyond: values that the Arrow type cannot hold, for which the column's option `unrepresentable` is.
        choices: other types that the column's option `type` may ask for.
        remark: what else to know.
        key: how a key of this type is bound, `?` being its text; empty where rows cannot be walked by it.
        key_text: how the server writes such a key as text; None as in a cast to text.
    """

    name: str
    declared: str
    type: str
    form: str
    sample: str
    csv: str
    select: str = PLAIN
    beyond: tuple[str, ...] = ()
    choices: tuple[str, ...] = ("text",)
    remark: str = ""
    key: str = ""
    key_text: str = AS_TEXT


_SIGNED = "CAST(? AS SIGNED)"
_UNSIGNED = "CAST(? AS UNSIGNED)"
_FLOATING = "CAST(? AS DOUBLE)"
# With a size: MariaDB takes these numbers' texts for shorter than they are, and cuts those that it sorts or counts.
_NUMBER_TEXT = "CAST({} AS CHAR(1024))"
_DOUBLE_TEXT = "CAST(CAST({} AS DOUBLE) AS CHAR(1024))"
_DECIMAL = "decimal(P, S)"
_DATES = ("zero and partial dates", "days that do not exist")
# The form in which keys of these types are compared is completed with the column's own size or collation.
DECIMAL_KEY: Final = "CAST(? AS DECIMAL({precision},{scale}))"
TEXT_KEY: Final = "CONVERT(? USING {charset}) COLLATE {collation}"
_BINARY_KEY = "UNHEX(?)"


def _integers(name: str, bits: int, form: str, *choices: str, remark: str = "") -> tuple[TypeRule, TypeRule]:
    least, most = str(-(2 ** (bits - 1))), str(2**bits - 1)
    width = int(form.removeprefix("int")) * 8
    return (
        TypeRule(name, name, f"int{width}", form, least, least, choices=(*choices, "text"), remark=remark, key=_SIGNED),
        TypeRule(f"{name} unsigned", f"{name} unsigned", f"uint{width}", form, most, most, key=_UNSIGNED),
    )


RULES: Final[tuple[TypeRule, ...]] = (
    *_integers("tinyint", 8, "int1", "bool", remark="also `tinyint(1)`, which may hold any such number"),
    *_integers("smallint", 16, "int2"),
    *_integers("mediumint", 24, "int4"),
    *_integers("int", 32, "int4"),
    *_integers("bigint", 64, "int8"),
    TypeRule(
        "decimal",
        "decimal(12,2)",
        "decimal(12, 2)",
        "decimal",
        "-1234.50",
        "-1234.50",
        choices=("text", _DECIMAL),
        remark="also unsigned; all 65 digits",
        key=DECIMAL_KEY,
        key_text=_NUMBER_TEXT,
    ),
    TypeRule(
        "float",
        "float",
        "float32",
        "float4",
        "0.1",
        "0.1",
        remark="to the bit; as text, the digits of the double that is equal to it",
        key=_FLOATING,
        key_text=_DOUBLE_TEXT,
    ),
    TypeRule(
        "double", "double", "float64", "float8", "0.1", "0.1", remark="to the bit", key=_FLOATING, key_text=_NUMBER_TEXT
    ),
    TypeRule(
        "bit",
        "bit(8)",
        "uint64",
        "bit",
        "b'10100101'",
        "165",
        choices=(),
        remark="as the number that the bits are; `bit(1)` is a `bool`, or by choice `uint64`",
        key=_UNSIGNED,
        key_text="CAST({} + 0 AS CHAR)",
    ),
    TypeRule("year", "year", "int16", "int2", "2024", "2024", remark="0000 is the year 0", key=_SIGNED),
    TypeRule(
        "date",
        "date",
        "date",
        "date",
        "2024-02-29",
        "2024-02-29",
        beyond=_DATES,
        remark="0000-01-01 to 9999-12-31, in the proleptic Gregorian calendar",
        key="CAST(? AS DATE)",
    ),
    TypeRule(
        "datetime",
        "datetime(6)",
        "timestamp(us)",
        "datetime",
        "2024-02-29 12:34:56.789",
        "2024-02-29 12:34:56.789000",
        beyond=_DATES,
        key="CAST(? AS DATETIME(6))",
    ),
    TypeRule(
        "timestamp",
        "timestamp(6)",
        "timestamp(us, UTC)",
        "datetime",
        "2024-02-29 12:34:56.789",
        "2024-02-29 12:34:56.789000Z",
        beyond=_DATES,
        remark="as the moment in UTC",
        key="CAST(? AS DATETIME(6))",
    ),
    TypeRule(
        "time",
        "time(6)",
        "time(us)",
        "time",
        "12:34:56.789",
        "12:34:56.789000",
        beyond=("negative times", "24:00:00 and more"),
        key="CAST(? AS TIME(6))",
    ),
    *(
        TypeRule(
            name,
            declared,
            "text",
            "bytes",
            "grüße",
            "grüße",
            choices=("json", "binary"),
            remark=remark,
            key=TEXT_KEY,
            key_text=PLAIN,
        )
        for name, declared, remark in (
            ("char", "char(6)", "without trailing blanks, as the server gives it"),
            ("varchar", "varchar(20)", "of any character set; `binary` is its bytes in that character set"),
        )
    ),
    *(
        TypeRule(name, name, "text", "bytes", "grüße", "grüße", choices=("json", "binary"))
        for name in ("tinytext", "text", "mediumtext", "longtext")
    ),
    TypeRule("enum", "enum('a','ß')", "text", "bytes", "ß", "ß", choices=()),
    TypeRule("set", "set('a','ß')", "text", "bytes", "a,ß", "a,ß", choices=(), remark="commas between the members"),
    TypeRule(
        "json",
        "json",
        "json",
        "bytes",
        '{"a": 1}',
        '{"a": 1}',
        remark="byte for byte in MariaDB, where it is a `longtext` with a check; as the server prints it in MySQL",
    ),
    *(
        TypeRule(
            name,
            declared,
            "binary",
            "bytes",
            "x'00ff'",
            csv,
            choices=choices,
            remark=remark,
            key=_BINARY_KEY,
            key_text="HEX({})",
        )
        for name, declared, csv, choices, remark in (
            (
                "binary",
                "binary(4)",
                "00ff0000",
                ("text", "uuid"),
                "with the zeros that fill it; as text, hexadecimal; `uuid` only for 16 bytes",
            ),
            ("varbinary", "varbinary(20)", "00ff", ("text",), "as text, hexadecimal"),
        )
    ),
    *(
        TypeRule(name, name, "binary", "bytes", "x'00ff'", "00ff", remark="as text, hexadecimal")
        for name in ("tinyblob", "blob", "mediumblob", "longblob")
    ),
    TypeRule(
        "geometry",
        "geometry",
        "binary",
        "bytes",
        "ST_GeomFromText('POINT(1 2)', 4326)",
        "e61000000101000000000000000000f03f0000000000000040",
        remark="and all other spatial types, as the server stores them: the SRID in four bytes, then WKB; as text, "
        "WKT, without the SRID",
    ),
    TypeRule(
        "uuid",
        "uuid",
        "uuid",
        "uuid",
        "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
        "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
        select="CAST({} AS BINARY(16))",
        remark="MariaDB",
        key="CAST(? AS UUID)",
    ),
    *(
        TypeRule(
            name,
            name,
            "text",
            "bytes",
            sample,
            sample,
            select=AS_TEXT,
            choices=(),
            remark="MariaDB",
            key=f"CAST(? AS {name.upper()})",
        )
        for name, sample in (("inet6", "2001:db8::ff00:42:8329"), ("inet4", "10.1.2.3"))
    ),
)

BY_NAME: Final = {rule.name: rule for rule in RULES}

SPATIAL: Final = frozenset(
    (
        *("geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon"),
        *("geometrycollection", "geomcollection"),
    )
)
BINARY: Final = frozenset(("binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"))
# Types whose values may be much wider than an average says, which is an old one where rows have just been loaded.
UNBOUNDED: Final = (
    SPATIAL | {"varchar", "tinytext", "text", "mediumtext", "longtext", "json", "vector"} | (BINARY - {"binary"})
)


def text_rule(name: str, select: str = AS_TEXT) -> TypeRule:
    """A type that is read as text."""
    return TypeRule(name, name, "text", "bytes", "", "", select=select, choices=())
