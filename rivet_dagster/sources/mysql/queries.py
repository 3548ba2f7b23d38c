"""Queries in the place of tables: their text, and their columns as the catalog would spell those of a table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import pymysql
from pymysql import err
from pymysql.constants import ER, FIELD_TYPE, FLAG

from rivet_dagster.errors import ConfigError
from rivet_dagster.sources.base import Column, Table
from rivet_dagster.sources.choices import check_names
from rivet_dagster.sources.mysql import templates
from rivet_dagster.sources.mysql.failures import describe, number_of
from rivet_dagster.sources.mysql.statements import fields_of
from rivet_dagster.sources.mysql.typemap import UNBOUNDED

# Texts, names, comments but those that the servers execute, the end of a statement, and everything else.
_TOKENS = re.compile(
    r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|`[^`]*`|(?P<idle>\#[^\n]*|--(?=\s|$)[^\n]*|/\*(?!M?!).*?\*/|;|\s+)|[^'"`#/;\s-]+|.""",
    re.DOTALL,
)

_BINARY_CHARSET = 63
_VECTOR = 242
_NAMES: Final = {
    FIELD_TYPE.TINY: "tinyint",
    FIELD_TYPE.SHORT: "smallint",
    FIELD_TYPE.INT24: "mediumint",
    FIELD_TYPE.LONG: "int",
    FIELD_TYPE.LONGLONG: "bigint",
    FIELD_TYPE.FLOAT: "float",
    FIELD_TYPE.DOUBLE: "double",
    FIELD_TYPE.DECIMAL: "decimal",
    FIELD_TYPE.NEWDECIMAL: "decimal",
    FIELD_TYPE.BIT: "bit",
    FIELD_TYPE.YEAR: "year",
    FIELD_TYPE.DATE: "date",
    FIELD_TYPE.NEWDATE: "date",
    FIELD_TYPE.DATETIME: "datetime",
    FIELD_TYPE.TIMESTAMP: "timestamp",
    FIELD_TYPE.TIME: "time",
    FIELD_TYPE.JSON: "json",
    FIELD_TYPE.GEOMETRY: "geometry",
    FIELD_TYPE.NULL: "null",
    _VECTOR: "vector",
}
_STRINGS: Final = frozenset((FIELD_TYPE.STRING, FIELD_TYPE.ENUM, FIELD_TYPE.SET))
_VARIABLE: Final = frozenset((FIELD_TYPE.VARCHAR, FIELD_TYPE.VAR_STRING))
_BLOBS: Final = frozenset((FIELD_TYPE.TINY_BLOB, FIELD_TYPE.BLOB, FIELD_TYPE.MEDIUM_BLOB, FIELD_TYPE.LONG_BLOB))
_BLOB_SIZES: Final = ((255, "tiny"), (65_535, ""), (16_777_215, "medium"))
_NUMBERS: Final = frozenset(("tinyint", "smallint", "mediumint", "int", "bigint", "float", "double", "decimal"))
_WIDE: Final = frozenset(("tinyint", "smallint", "mediumint", "int", "bigint", "bit", "year"))
# MariaDB's own types come as texts of these widths, which it calls unsigned, as no text is.
_FIXED: Final = {36: "uuid", 39: "inet6", 15: "inet4"}
_LARGEST_PRECISION = 65
_LARGEST_FRACTION = 6


def trimmed(query: str) -> str:
    """A query without the comments, blanks and semicolons behind it."""
    end = 0
    for token in _TOKENS.finditer(query):
        if token["idle"] is None:
            end = token.end()
    return query[:end].lstrip()


@dataclass(frozen=True)
class _Collation:
    name: str
    bytes_a_character: int


def describe_query(connection: pymysql.Connection[Any], schema: str, name: str, query: str) -> Table:
    """Columns of what a query returns, without running it for rows.

    Args:
        connection: where its settings are those of a session.
        schema, name: what the query's export is called.
        query: one SELECT, or what else may stand in parentheses behind FROM.

    Raises:
        ConfigError: RIVET_CONFIG_QUERY for columns that have one name.
        pymysql.err.MySQLError: what else the server says.
    """
    with _own_character_sets(connection), connection.cursor() as cursor:
        try:
            cursor.execute(templates.READABLE.format(table=f"({trimmed(query)}\n) AS t"))
        except err.MySQLError as exc:
            if number_of(exc) != ER.DUP_FIELDNAME:
                raise
            raise ConfigError(
                "RIVET_CONFIG_QUERY",
                f"The query of {schema}.{name} returns several columns of one name: {describe(exc)}.",
                "Give every column a name of its own: SELECT a.id, b.id AS other_id ...",
                fatal=True,
            ) from None
        fields = fields_of(cursor)
    check_names(schema, name, [field.name for field in fields])
    collations = _collations(connection, {field.charsetnr for field in fields} - {_BINARY_CHARSET})
    columns = tuple(_column(field, collations) for field in fields)
    return Table(schema=schema, name=name, columns=columns, keys=(), kind="query", query=query)


@contextmanager
def _own_character_sets(connection: pymysql.Connection[Any]) -> Iterator[None]:
    """Let results come in their columns' own character sets, or their descriptions would name the session's."""
    with connection.cursor() as cursor:
        cursor.execute(templates.SET.format(assignments="character_set_results = NULL"))
        try:
            yield
        finally:
            usual = templates.SETTINGS["character_set_results"]
            cursor.execute(templates.SET.format(assignments=f"character_set_results = {usual}"))


def _collations(connection: pymysql.Connection[Any], numbers: set[int]) -> dict[int, _Collation]:
    """The collations of these numbers. MariaDB lists its newest ones elsewhere, once a character set."""
    found: dict[int, _Collation] = {}
    with connection.cursor() as cursor:
        for statement in (templates.COLLATIONS, templates.MARIADB_COLLATIONS):
            if missing := numbers - found.keys():
                cursor.execute(statement.format(numbers=", ".join(map(str, sorted(missing)))))
                found.update({number: _Collation(name, size) for number, name, size in cursor.fetchall()})
    return found


def _column(field: Any, collations: Mapping[int, _Collation]) -> Column:
    collation = collations.get(field.charsetnr, _Collation("", 1))
    kind = _kind(field)
    texts = not (kind in _NAMES.values() or kind in _FIXED.values() or field.charsetnr == _BINARY_CHARSET)
    return Column(
        name=field.name,
        native_type=_native(kind, field, collation.bytes_a_character),
        nullable=not field.flags & FLAG.NOT_NULL,
        unbounded=kind in UNBOUNDED,
        kind=kind,
        collation=collation.name if texts else "",
    )


def _kind(field: Any) -> str:
    """The type's name in the catalog; for what is no text and no bytes it is that of its number in the protocol."""
    if field.flags & (FLAG.ENUM | FLAG.SET):
        return "enum" if field.flags & FLAG.ENUM else "set"
    if field.type_code in _STRINGS and field.flags & FLAG.UNSIGNED and field.length in _FIXED:
        return _FIXED[field.length]
    binary = field.charsetnr == _BINARY_CHARSET
    if field.type_code in _BLOBS:
        size = next((word for most, word in _BLOB_SIZES if field.length <= most), "long")
        return f"{size}{'blob' if binary else 'text'}"
    for numbers, names in ((_STRINGS, ("char", "binary")), (_VARIABLE, ("varchar", "varbinary"))):
        if field.type_code in numbers:
            return names[binary]
    return _NAMES.get(field.type_code, f"type {field.type_code}")


def _native(kind: str, field: Any, bytes_a_character: int) -> str:
    """The declaration of a column, with what the descriptor tells of it."""
    size = ""
    if kind in _WIDE:
        size = f"({field.length})"
    elif kind == "decimal":
        signs = (field.scale > 0) + (not field.flags & FLAG.UNSIGNED)
        size = f"({max(1, min(field.length - signs, _LARGEST_PRECISION))},{field.scale})"
    elif kind in ("datetime", "timestamp", "time") and 0 < field.scale <= _LARGEST_FRACTION:
        size = f"({field.scale})"
    elif kind in ("char", "varchar", "binary", "varbinary"):
        size = f"({field.length // bytes_a_character})"
    words = [kind + size]
    if kind in _NUMBERS:
        words += ["unsigned"] * bool(field.flags & FLAG.UNSIGNED) + ["zerofill"] * bool(field.flags & FLAG.ZEROFILL)
    return " ".join(words)
