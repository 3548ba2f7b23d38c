"""Which rule reads a column, with what its declaration adds: digits, size, character set and collation."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from rivet_dagster.sources.base import Column
from rivet_dagster.sources.mysql.typemap import BY_NAME, PLAIN, SPATIAL, TypeRule, text_rule

_DECIMAL = re.compile(r"decimal\((\d+),(\d+)\)")
_SIZE = re.compile(r"\w+\((\d+)\)")
_UUID_BYTES = 16

# Character sets of which every text has one counterpart in Unicode and comes back as the same bytes. Not ASCII: its
# columns take bytes that it does not have.
_FAITHFUL: Final = frozenset(
    ("utf8mb4", "utf8mb3", "utf8", "latin1", "ucs2", "utf16", "utf16le", "utf32"),
)

# Of the others, a text that does not come back as the same bytes is sent as a byte that is no UTF-8, and so refused.
_CHECKED: Final = (
    "CASE WHEN CAST(CONVERT(CONVERT({{}} USING utf8mb4) USING {charset}) AS BINARY) <=> CAST({{}} AS BINARY) "
    "THEN CAST(CONVERT({{}} USING utf8mb4) AS BINARY) ELSE x'FF' END"
)
NOT_FAITHFUL: Final = b"\xff"


def rule_of(column: Column) -> TypeRule:
    """The rule for a column as its type is declared."""
    kind = "geometry" if column.kind in SPATIAL else column.kind
    unsigned = BY_NAME.get(f"{kind} unsigned") if " unsigned" in column.native_type else None
    rule = unsigned or BY_NAME.get(kind) or text_rule(kind)
    if kind == "decimal":
        precision, scale = _numbers(_DECIMAL, column)
        return replace(
            rule, type=f"decimal({precision}, {scale})", key=rule.key.format(precision=precision, scale=scale)
        )
    if kind == "bit" and column.native_type == "bit(1)":
        return replace(rule, type="bool", choices=("uint64",))
    if kind == "binary" and _numbers(_SIZE, column) != (_UUID_BYTES,):
        return replace(rule, choices=("text",))
    if column.collation:
        key = rule.key.format(charset=charset_of(column), collation=column.collation)
        if kind == "char" and "_nopad_" in column.collation:
            # The index keeps the blanks that fill a CHAR and sorts by them; a comparison has not got them.
            key = ""
        select = text_select(column)
        return replace(rule, select=select, key=key, key_text=select)
    return rule


def _numbers(pattern: re.Pattern[str], column: Column) -> tuple[int, ...]:
    found = pattern.match(column.native_type)
    assert found, column.native_type
    return tuple(int(number) for number in found.groups())


def charset_of(column: Column) -> str:
    """Character set of a text column: the first word of its collation's name."""
    return column.collation.partition("_")[0]


def text_select(column: Column) -> str:
    """How a query asks for a text column, `{}` being the column, so that no character is replaced in silence."""
    charset = charset_of(column)
    return PLAIN if charset in _FAITHFUL else _CHECKED.format(charset=charset)
