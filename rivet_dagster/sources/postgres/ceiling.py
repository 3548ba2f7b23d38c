"""Values that are larger than anybody wants to hold: the server is asked for their size before it sends them.

libpq holds a whole row before anyone sees how long it is, so nothing on this side could refuse one in time. What a
value is stored in says at once whether it can be large at all; only then is its length computed, and one beyond the
limit makes the server fail, in words that name the row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import psycopg
from psycopg import sql

from rivet_dagster.sources.base import Column, Key, Table, value_too_large
from rivet_dagster.sources.postgres import templates
from rivet_dagster.sources.postgres.typemap import AS_TEXT, NUMERIC_OID, PLAIN, TEXT_OID

if TYPE_CHECKING:
    from typing_extensions import LiteralString

    from rivet_dagster.sources.postgres.types import Reading

_MARK: Final = "rivet_dagster: a value is too large"
_LAST_BUILTIN_OID = 16383
_BYTEA, _JSON, _BPCHAR, _VARCHAR, _BIT, _VARBIT = 17, 114, 1042, 1043, 1560, 1562
# A numeric has 147 kB at most, the others far less.
_NEVER_LARGE: Final = frozenset((NUMERIC_OID, 869, 650))
_MODIFIER_BASE = 4
_BYTES_A_CHARACTER = 4

# How many times larger than what it is stored in a value can be, as powers of two. No compression of PostgreSQL's
# makes 256 bytes of one. NULL in an array is a bit, and four bytes when sent. Text that the server renders knows no
# such bound (1e131071 is a few bytes in a jsonb): this one leaves out what only a value made for it could pass.
_COMPRESSION = 8
_ARRAY = _COMPRESSION + 5
_RENDERING = _COMPRESSION + 8
_ENCODING = 2

# The bytes of a value as they are sent where the database has another encoding than the wire's UTF-8.
_SENT: Final[dict[int, LiteralString]] = {_JSON: "json_send", _BPCHAR: "bpcharsend", _VARCHAR: "varcharsend"}


class ValueCeiling:
    """What statements over one table ask for, so that no value of more than `most` bytes is sent.

    Args:
        table: what is read.
        key: names the row in the error.
        most: bytes of a value as it is sent.
        utf8: whether the database's encoding is the wire's.
    """

    def __init__(self, table: Table, key: Key, most: int, *, utf8: bool) -> None:
        self._table = table
        self._key = key
        self._most = most
        self._utf8 = utf8
        # What an index holds is small. A declared key has none.
        self._indexed = frozenset(key.columns) if key.index and not key.declared else frozenset()

    def reading(self, column: Column, reading: Reading) -> Reading:
        """How a column is read. A jsonb that may be large comes as text, which is then made once, and not twice."""
        if reading.form == "jsonb" and self._may_be_large(column):
            return replace(reading, select=AS_TEXT, form="bytes", wire_type=TEXT_OID)
        return reading

    def selected(self, readings: Sequence[Reading], *, placed: bool = False) -> sql.Composable:
        """What the query asks for, in the order of the table's columns.

        Args:
            readings: as `reading` gave them.
            placed: rows are named by their place in the table's storage instead of by their key.
        """
        row = sql.SQL(templates.PLACE) if placed else self._key_texts()
        pairs = zip(self._table.columns, readings, strict=True)
        return sql.SQL(", ").join([self._selected(column, reading, row) for column, reading in pairs])

    def _selected(self, column: Column, reading: Reading, row: sql.Composable) -> sql.Composable:
        name = sql.Identifier("t", column.name)
        # Rules are constants of this package, `{}` in them is the column.
        value = sql.SQL(reading.select).format(name)
        if not self._may_be_large(column):
            return value
        is_rendered = reading.select != PLAIN
        sent = sql.SQL("v.value") if is_rendered else name
        size = self._size(column, reading).format(sent)
        refusal = sql.SQL(templates.REFUSAL).format(
            mark=sql.Literal(_MARK), column=sql.Literal(column.name), size=size, row=row
        )
        return sql.SQL(templates.RENDERED if is_rendered else templates.MEASURED).format(
            column=name,
            value=value,
            stored=sql.Literal(self._least_stored(column, reading)),
            size=size,
            most=sql.Literal(self._most),
            refusal=refusal,
        )

    def _may_be_large(self, column: Column) -> bool:
        if column.name in self._indexed:
            return False
        if column.element is not None:
            return True
        if column.kind == "enum" or column.type_id in _NEVER_LARGE:
            return False
        declared = column.type_modifier
        if declared >= 0 and column.type_id in (_VARCHAR, _BPCHAR):
            return (declared - _MODIFIER_BASE) * _BYTES_A_CHARACTER > self._most
        if declared >= 0 and column.type_id in (_BIT, _VARBIT):
            return declared > self._most  # as text, a digit a bit
        # What the modifiers of other types than the built-in ones mean, nobody knows.
        return column.unbounded or column.type_id > _LAST_BUILTIN_OID

    def _least_stored(self, column: Column, reading: Reading) -> int:
        """Bytes of storage below which a value cannot be too large."""
        power = _COMPRESSION if column.element is None else _ARRAY
        if reading.select != PLAIN:
            power = _RENDERING
        return self._most >> power + (0 if self._utf8 else _ENCODING)

    def _size(self, column: Column, reading: Reading) -> sql.SQL:
        """The bytes of `{}` as it is sent. Of bytes and texts, the server reads it off without fetching them."""
        if reading.element_form:
            return sql.SQL("octet_length(array_send({}))")
        if reading.select == PLAIN and column.type_id == _BYTEA:
            return sql.SQL("octet_length({})")
        sends = _SENT.get(column.type_id, "textsend") if reading.select == PLAIN else "textsend"
        if self._utf8 and sends != "json_send":
            return sql.SQL("octet_length({})")
        return sql.SQL(f"octet_length({sends}({{}}))")

    def _key_texts(self) -> sql.Composable:
        parts = [
            sql.SQL(templates.KEY_PART).format(name=sql.Literal(name), column=sql.Identifier("t", name))
            for name in self._key.columns
        ]
        return sql.SQL("").join(parts)

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Raise the server's refusal of a value as RIVET_VALUE_TOO_LARGE, and its other errors as they are."""
        try:
            yield
        except psycopg.errors.InvalidTextRepresentation as exc:
            found = _refusal(exc.diag.message_primary or "")
            if found is None:
                raise
            column, size, *row = found
            texts = ["NULL" if text is None else str(text) for text in row]
            where = tuple(zip(texts[::2], texts[1::2], strict=True))
            raise value_too_large(self._table, str(column), int(str(size)), self._most, where) from None


def _refusal(message: str) -> list[object] | None:
    """What `templates.REFUSAL` made the server say, behind its mark; None for another error, in any language."""
    begin, end = message.find("["), message.rfind("]")
    if _MARK not in message or not 0 <= begin < end:
        return None
    try:
        mark, *found = json.loads(message[begin : end + 1])
    except ValueError:
        return None
    return found if mark == _MARK else None
