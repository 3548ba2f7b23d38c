"""What the catalogs of MySQL and MariaDB say of a table: columns, usable keys, estimates."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby, takewhile
from typing import Any

import pymysql
from pymysql import err
from pymysql.cursors import DictCursor

from rivet_dagster.errors import SourceError
from rivet_dagster.sources.base import Column, Index, Key, Table
from rivet_dagster.sources.mysql import templates
from rivet_dagster.sources.mysql.keys import MAY_BE_NULL, quoted
from rivet_dagster.sources.mysql.rules import rule_of
from rivet_dagster.sources.mysql.typemap import UNBOUNDED

_JSON_CHECK = re.compile(r"json_valid\(`((?:[^`]|``)+)`\)", re.IGNORECASE)

# What InnoDB adds to a row of the clustered index, with the smallest value.
_LEAST_ROW_BYTES = 19

_Parts = Sequence[Mapping[str, Any]]


def describe_table(connection: pymysql.Connection[Any], schema: str, name: str) -> Table:
    """Describe a table or view.

    Raises:
        SourceError: RIVET_SOURCE_TABLE_MISSING.
        pymysql.err.MySQLError: what the server says, also where the user may not read every column.
    """
    with connection.cursor() as cursor:
        cursor.execute(templates.TABLE, (schema, name))
        found = cursor.fetchone()
        if found is None:
            raise SourceError(
                "RIVET_SOURCE_TABLE_MISSING",
                f"There is no table {schema}.{name}.",
                "Check the database and the table's name, in the case it was made with, and the user's rights.",
                fatal=True,
            )
        kind, engine, transactions, rows, row_bytes = found
        cursor.execute(templates.READABLE.format(table=f"{quoted(schema)}.{quoted(name)}"))
        cursor.execute(templates.COLUMNS, (schema, name))
        described = cursor.fetchall()
        json_columns = _json_columns(cursor, schema, name)
    columns = tuple(
        _column(column, "json" if column in json_columns else data_type, native, bool(nullable), collation)
        for column, data_type, native, nullable, collation in described
    )
    found_indexes = _described_indexes(connection, schema, name)
    keys, rejected = _keys(found_indexes, columns)
    return Table(
        schema=schema,
        name=name,
        columns=columns,
        keys=keys,
        rejected_keys=rejected,
        estimated_rows=None if rows is None else int(rows),
        # InnoDB counts rows at once and pages later: just after a bulk load, millions of rows seem to share one page.
        average_row_bytes=0 if row_bytes < _LEAST_ROW_BYTES and engine == "InnoDB" else int(row_bytes),
        snapshots=transactions == "YES" or kind == "VIEW",
        indexes=_ranges(found_indexes, columns, keys),
        kind="view" if "VIEW" in kind else "table",
    )


def _column(name: str, data_type: str, native: str, nullable: bool, collation: str) -> Column:
    kind = data_type.lower()
    return Column(
        name=name,
        native_type=native,
        nullable=nullable,
        unbounded=kind in UNBOUNDED,
        kind=kind,
        collation=collation,
    )


def _json_columns(cursor: Any, schema: str, name: str) -> set[str]:
    """Columns that MariaDB was told to be JSON; MySQL has a type for it, and checks without tables."""
    try:
        cursor.execute(templates.JSON_CHECKS, (schema, name))
    except err.OperationalError:
        return set()
    checks = (_JSON_CHECK.fullmatch(clause) for (clause,) in cursor.fetchall())
    return {found[1].replace("``", "`") for found in checks if found}


def _described_indexes(connection: pymysql.Connection[Any], schema: str, name: str) -> dict[str, _Parts]:
    """The columns of every index, the primary key's first."""
    with connection.cursor(DictCursor) as cursor:
        cursor.execute(templates.INDEXES, (schema, name))
        rows = [{key.upper(): value for key, value in row.items()} for row in cursor.fetchall()]
    return {index: list(parts) for index, parts in groupby(rows, key=lambda row: row["INDEX_NAME"])}


def _keys(
    indexes: Mapping[str, _Parts], columns: Sequence[Column]
) -> tuple[tuple[Key, ...], tuple[tuple[str, str], ...]]:
    """Usable keys, the best one first, and unique indexes that are none."""
    by_name = {column.name: column for column in columns}
    keys: list[Key] = []
    rejected: list[tuple[str, str]] = []
    for index, parts in indexes.items():
        if int(parts[0]["NON_UNIQUE"]):
            continue
        reason = _why_unusable(parts, by_name)
        if reason:
            rejected.append((index, reason))
        else:
            keys.append(Key(tuple(part["COLUMN_NAME"] for part in parts), index, index == "PRIMARY"))
    # InnoDB keeps the rows in the primary key's order; of the others, the shorter one is cheaper to compare.
    keys.sort(key=lambda key: (not key.primary, len(key.columns)))
    return tuple(keys), tuple(rejected)


def _ranges(indexes: Mapping[str, _Parts], columns: Sequence[Column], keys: Sequence[Key]) -> tuple[Index, ...]:
    """Indexes whose ranges can be read, cut at the first column that cannot."""
    by_name = {column.name: column for column in columns}
    found: list[Index] = []
    cut: list[Index] = []
    for name, parts in indexes.items():
        names = _ordered_columns(parts, by_name)
        # Behind its columns an index carries the key's, in the key's own direction.
        behind = [] if not keys or set(keys[0].columns) <= set(names) else indexes[keys[0].index]
        if names and all(part["COLLATION"] == parts[0]["COLLATION"] for part in behind):
            (found if len(names) == len(parts) else cut).append(Index(name, names))
    # What stands behind the cut disturbs the order of equal values.
    whole = {index.columns[:size] for index in found for size in range(len(index.columns) + 1)}
    return (*found, *(index for index in cut if index.columns not in whole))


def _ordered_columns(parts: _Parts, columns: Mapping[str, Column]) -> tuple[str, ...]:
    """The first columns of an index that it keeps whole, in one direction, as their values are compared."""
    if parts[0]["INDEX_TYPE"] != "BTREE" or any(_is_ignored(part) for part in parts):
        return ()

    def is_ordered(part: Mapping[str, Any]) -> bool:
        column = columns.get(part["COLUMN_NAME"])
        ordered = column is not None and bool(rule_of(column).key)
        return ordered and not part["SUB_PART"] and part["COLLATION"] == parts[0]["COLLATION"]

    return tuple(part["COLUMN_NAME"] for part in takewhile(is_ordered, parts))


def _why_unusable(parts: _Parts, columns: Mapping[str, Column]) -> str:
    """Why rows cannot be walked by a unique index; empty if they can. MAY_BE_NULL where that is all."""
    reasons = (
        (any(part["INDEX_TYPE"] != "BTREE" for part in parts), f"its type {parts[0]['INDEX_TYPE']} keeps no order"),
        (any(part["COLUMN_NAME"] not in columns for part in parts), "it is on an expression"),
        (any(part["SUB_PART"] for part in parts), "it is on a prefix of a column"),
        (any(_is_ignored(part) for part in parts), "the optimizer does not use it: it is invisible or ignored"),
        (len({part["COLLATION"] for part in parts}) > 1, "its columns are sorted in opposite directions"),
    )
    found = next((reason for holds, reason in reasons if holds), "")
    if found:
        return found
    unordered = [part["COLUMN_NAME"] for part in parts if not rule_of(columns[part["COLUMN_NAME"]]).key]
    if unordered:
        return f"values of {', '.join(unordered)} are not compared in the order that it keeps"
    return MAY_BE_NULL if any(part["NULLABLE"] == "YES" for part in parts) else ""


def _is_ignored(part: Mapping[str, Any]) -> bool:
    return part.get("IS_VISIBLE") == "NO" or part.get("IGNORED") == "YES"
