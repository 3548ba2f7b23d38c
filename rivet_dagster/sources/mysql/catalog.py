"""What the catalogs of MySQL and MariaDB say of a table: columns, usable keys, estimates."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import pymysql
from pymysql import err
from pymysql.cursors import DictCursor

from rivet_dagster.errors import SourceError
from rivet_dagster.sources.base import Column, Key, Table
from rivet_dagster.sources.mysql import templates
from rivet_dagster.sources.mysql.keys import quoted
from rivet_dagster.sources.mysql.rules import rule_of
from rivet_dagster.sources.mysql.typemap import UNBOUNDED

_JSON_CHECK = re.compile(r"json_valid\(`((?:[^`]|``)+)`\)", re.IGNORECASE)

# What InnoDB adds to a row of the clustered index, with the smallest value.
_LEAST_ROW_BYTES = 19

_Index = Sequence[Mapping[str, Any]]


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
    keys, rejected = _keys(connection, schema, name, columns)
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


def _keys(
    connection: pymysql.Connection[Any], schema: str, name: str, columns: Sequence[Column]
) -> tuple[tuple[Key, ...], tuple[tuple[str, str], ...]]:
    """Usable keys, the best one first, and unique indexes that are none."""
    with connection.cursor(DictCursor) as cursor:
        cursor.execute(templates.UNIQUE_INDEXES, (schema, name))
        rows = [{key.upper(): value for key, value in row.items()} for row in cursor.fetchall()]
    by_name = {column.name: column for column in columns}
    keys: list[Key] = []
    rejected: list[tuple[str, str]] = []
    for index, group in groupby(rows, key=lambda row: row["INDEX_NAME"]):
        parts = list(group)
        reason = _why_unusable(parts, by_name)
        if reason:
            rejected.append((index, reason))
        else:
            keys.append(Key(tuple(part["COLUMN_NAME"] for part in parts), index, index == "PRIMARY"))
    # InnoDB keeps the rows in the primary key's order; of the others, the shorter one is cheaper to compare.
    keys.sort(key=lambda key: (not key.primary, len(key.columns)))
    return tuple(keys), tuple(rejected)


def _why_unusable(parts: _Index, columns: Mapping[str, Column]) -> str:
    """Why rows cannot be walked by an index; empty if they can."""
    reasons = (
        (any(part["INDEX_TYPE"] != "BTREE" for part in parts), f"its type {parts[0]['INDEX_TYPE']} keeps no order"),
        (any(part["COLUMN_NAME"] not in columns for part in parts), "it is on an expression"),
        (any(part["SUB_PART"] for part in parts), "it is on a prefix of a column"),
        (any(part["NULLABLE"] == "YES" for part in parts), "a column of it may be NULL"),
        (any(_is_ignored(part) for part in parts), "the optimizer does not use it: it is invisible or ignored"),
        (len({part["COLLATION"] for part in parts}) > 1, "its columns are sorted in opposite directions"),
    )
    found = next((reason for holds, reason in reasons if holds), "")
    if found:
        return found
    unordered = [part["COLUMN_NAME"] for part in parts if not rule_of(columns[part["COLUMN_NAME"]]).key]
    return f"values of {', '.join(unordered)} are not compared in the order that it keeps" if unordered else ""


def _is_ignored(part: Mapping[str, Any]) -> bool:
    return part.get("IS_VISIBLE") == "NO" or part.get("IGNORED") == "YES"
