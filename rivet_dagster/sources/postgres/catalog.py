"""What PostgreSQL's catalog says of a table: columns, usable keys, estimates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import psycopg

from rivet_dagster.errors import SourceError
from rivet_dagster.sources.base import Column, Key, Table
from rivet_dagster.sources.postgres import templates
from rivet_dagster.sources.postgres.typemap import MONEY_OID

_TUPLE_HEADER_BYTES = 28
_MONEY_DIGITS = 19
_KINDS = {"e": "enum", "c": "composite", "r": "range", "m": "multirange"}


def describe_table(connection: psycopg.Connection[tuple[Any, ...]], schema: str, name: str) -> Table:
    """Describe a table, partitioned table or materialised view.

    Raises:
        SourceError: RIVET_SOURCE_TABLE_MISSING, RIVET_SOURCE_FORBIDDEN.
    """
    place = {"schema": schema, "name": name}
    found = connection.execute(templates.TABLE, place).fetchone()
    if found is None:
        raise SourceError(
            "RIVET_SOURCE_TABLE_MISSING",
            f"There is no table {schema}.{name} in {connection.info.dbname}.",
            "Check the schema and the table's name, in the case it was made with, and the user's rights.",
            fatal=True,
        )
    oid, tuples, stored_bytes, readable = found
    if not readable:
        raise SourceError(
            "RIVET_SOURCE_FORBIDDEN",
            f"User {connection.info.user} may not read {schema}.{name}.",
            "Grant SELECT on the table and USAGE on its schema to this user.",
            fatal=True,
        )
    types = _Types(connection, oid)
    columns = tuple(
        types.resolve(Column(column, native, not not_null, type_id, modifier, width, unbounded))
        for column, type_id, modifier, native, not_null, width, unbounded in connection.execute(
            templates.COLUMNS, {**place, "oid": oid}
        ).fetchall()
    )
    keys, rejected = _keys(connection, oid)
    return Table(
        schema=schema,
        name=name,
        columns=columns,
        keys=keys,
        rejected_keys=rejected,
        # Nothing was counted in a table that was never analysed.
        estimated_rows=int(tuples) if tuples else None,
        average_row_bytes=_row_bytes(columns, tuples, stored_bytes),
    )


class _Types:
    """The types that a table's columns are made of."""

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]], table_oid: int) -> None:
        self._connection = connection
        self._known = {oid: facts for oid, *facts in connection.execute(templates.TYPES, {"oid": table_oid})}

    def resolve(self, column: Column) -> Column:
        """The column with its base type in place of a domain, and with what its arrays hold."""
        declared, type_id, modifier = column.type_id, column.type_id, column.type_modifier
        kind, base, base_modifier, element_id, element_name, name = self._known[type_id]
        while kind == "d":
            type_id, modifier = base, base_modifier
            kind, base, base_modifier, element_id, element_name, name = self._known[type_id]
        element = None
        if element_id:
            # An array's modifier is that of its elements.
            element = self.resolve(Column(column.name, element_name, True, element_id, modifier))
        elif type_id == MONEY_OID:
            modifier = self._money_modifier
        return replace(
            column,
            type_id=type_id,
            type_modifier=modifier,
            kind=_KINDS.get(kind, "base"),
            declared_id=declared,
            # Operators on any enum do not take a domain over one.
            compared_as=name if kind == "e" and type_id != declared else "",
            element=element,
        )

    @cached_property
    def _money_modifier(self) -> int:
        """That of the numeric that holds this session's money: eight bytes are nineteen digits."""
        (scale,) = self._connection.execute(templates.MONEY_SCALE).fetchone() or (0,)
        return (_MONEY_DIGITS << 16 | int(scale)) + 4


def _row_bytes(columns: Sequence[Column], tuples: float | None, stored_bytes: float | None) -> int:
    """Width of a row: by the columns' statistics, or by what is stored, whichever is larger.

    Statistics count a value that is stored out of line as its pointer; bytes on disk count it compressed.
    """
    by_columns = sum(column.average_bytes for column in columns)
    by_storage = int(stored_bytes / tuples) if tuples and stored_bytes else 0
    return max(_TUPLE_HEADER_BYTES + by_columns if by_columns else 0, by_storage)


def _keys(
    connection: psycopg.Connection[tuple[Any, ...]], oid: int
) -> tuple[tuple[Key, ...], tuple[tuple[str, str], ...]]:
    keys: list[Key] = []
    rejected: list[tuple[str, str]] = []
    for name, primary, method, *flags, columns, not_null, collated, one_way in connection.execute(
        templates.UNIQUE_INDEXES, {"oid": oid}
    ):
        reason = _why_unusable(method, flags, not_null, collated, one_way)
        if reason:
            rejected.append((name, reason))
        else:
            keys.append(Key(tuple(columns), name, primary))
    return tuple(keys), tuple(rejected)


def _why_unusable(method: str, flags: Sequence[bool], not_null: bool, collated: bool, one_way: bool) -> str:
    """Why rows cannot be walked by an index; empty if they can."""
    valid, immediate, partial, on_expression = flags
    reasons = (
        (method != "btree", f"its method {method} keeps no order"),
        (not valid, "it is not valid: building it failed or still goes on"),
        (not immediate, "it is deferrable, so it can hold duplicates for a while"),
        (partial, "it is partial, so it does not cover every row"),
        (on_expression, "it is on an expression"),
        (not not_null, "a column of it may be NULL"),
        (not collated, "its collation is not its column's, so it cannot serve the column's order"),
        (not one_way, "its columns are sorted in opposite directions"),
    )
    return next((reason for holds, reason in reasons if holds), "")
