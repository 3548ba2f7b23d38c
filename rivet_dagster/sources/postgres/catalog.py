"""What PostgreSQL's catalog says of a table: columns, usable keys, estimates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import psycopg

from rivet_dagster.errors import SourceError
from rivet_dagster.sources.base import Column, Index, Key, Table
from rivet_dagster.sources.choices import check_names
from rivet_dagster.sources.postgres import templates
from rivet_dagster.sources.postgres.typemap import MONEY_OID

_TUPLE_HEADER_BYTES = 28
_MONEY_DIGITS = 19
_KINDS = {"e": "enum", "c": "composite", "r": "range", "m": "multirange"}


def describe_table(connection: psycopg.Connection[tuple[Any, ...]], schema: str, name: str) -> Table:
    """Describe a table, partitioned table, view or foreign table.

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
    oid, kind, tuples, stored_bytes, has_heirs, readable = found
    if not readable:
        raise SourceError(
            "RIVET_SOURCE_FORBIDDEN",
            f"User {connection.info.user} may not read {schema}.{name}.",
            "Grant SELECT on the table and USAGE on its schema to this user.",
            fatal=True,
        )
    described = connection.execute(templates.COLUMNS, {**place, "oid": oid}).fetchall()
    types = _Types(connection, [type_id for _, type_id, *_ in described])
    columns = tuple(
        types.resolve(Column(column, native, not not_null, type_id, modifier, width, unbounded))
        for column, type_id, modifier, native, not_null, width, unbounded in described
    )
    keys, rejected, indexes = _indexes(connection, oid, has_heirs=has_heirs)
    return Table(
        schema=schema,
        name=name,
        columns=columns,
        keys=keys,
        rejected_keys=rejected,
        # Nothing was counted in a table that was never analysed.
        estimated_rows=int(tuples) if tuples else None,
        average_row_bytes=_row_bytes(columns, tuples, stored_bytes),
        indexes=indexes,
        kind="view" if kind in ("v", "f") else "table",
    )


def describe_query(connection: psycopg.Connection[tuple[Any, ...]], schema: str, name: str, query: str) -> Table:
    """Columns of what a query returns, which is prepared and not run.

    Raises:
        ConfigError: RIVET_CONFIG_QUERY for columns without a name of their own.
        psycopg.Error: what the server says of the query.
    """
    connection.execute("SELECT 1")  # opens the transaction, where none is open
    sql = templates.QUERY.format(query=query).encode(connection.info.encoding)
    for result in (connection.pgconn.prepare(b"", sql), connection.pgconn.describe_prepared(b"")):
        if result.status != psycopg.pq.ExecStatus.COMMAND_OK:
            raise psycopg.errors.error_from_result(result)
    names = [(result.fname(place) or b"").decode() for place in range(result.nfields)]
    check_names(schema, name, names)
    type_ids = [result.ftype(place) for place in range(result.nfields)]
    modifiers = [result.fmod(place) for place in range(result.nfields)]
    declared = connection.execute(templates.QUERY_COLUMNS, {"types": type_ids, "modifiers": modifiers}).fetchall()
    types = _Types(connection, type_ids)
    columns = tuple(
        types.resolve(Column(column, native, True, type_id, modifier, unbounded=unbounded))
        for column, type_id, modifier, (native, unbounded) in zip(names, type_ids, modifiers, declared, strict=True)
    )
    return Table(schema=schema, name=name, columns=columns, keys=(), kind="query", query=query)


class _Types:
    """The types that some columns are made of."""

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]], type_ids: Sequence[int]) -> None:
        self._connection = connection
        found = connection.execute(templates.TYPES, {"types": list(type_ids)})
        self._known = {oid: facts for oid, *facts in found}

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


def _indexes(
    connection: psycopg.Connection[tuple[Any, ...]], oid: int, *, has_heirs: bool
) -> tuple[tuple[Key, ...], tuple[tuple[str, str], ...], tuple[Index, ...]]:
    """Usable keys, unique indexes that are none with the reason, and all indexes whose ranges can be read."""
    keys: list[Key] = []
    rejected: list[tuple[str, str]] = []
    indexes: list[Index] = []
    for name, unique, primary, method, *flags, columns, not_null, collated, one_way, nulls_last in connection.execute(
        templates.INDEXES, {"oid": oid}
    ):
        reason = "rows of tables that inherit from this one are not in it" if has_heirs else ""
        reason = reason or _why_unordered(method, flags, collated, one_way)
        if not reason and (nulls_last or not_null):
            indexes.append(Index(name, tuple(columns)))
        if not unique:
            continue
        reason = reason or _why_no_key(flags, not_null)
        if reason:
            rejected.append((name, reason))
        else:
            keys.append(Key(tuple(columns), name, primary))
    return tuple(keys), tuple(rejected), tuple(indexes)


def _why_unordered(method: str, flags: Sequence[bool], collated: bool, one_way: bool) -> str:
    """Why rows cannot be walked by an index; empty if they can."""
    valid, _, partial, on_expression = flags
    reasons = (
        (method != "btree", f"its method {method} keeps no order"),
        (not valid, "it is not valid: building it failed or still goes on"),
        (partial, "it is partial, so it does not cover every row"),
        (on_expression, "it is on an expression"),
        (not collated, "its collation is not its column's, so it cannot serve the column's order"),
        (not one_way, "its columns are sorted in opposite directions"),
    )
    return next((reason for holds, reason in reasons if holds), "")


def _why_no_key(flags: Sequence[bool], not_null: bool) -> str:
    """Why a unique index is no key all the same; empty if it is one."""
    _, immediate, *_ = flags
    if not immediate:
        return "it is deferrable, so it can hold duplicates for a while"
    return "" if not_null else "a column of it may be NULL"
