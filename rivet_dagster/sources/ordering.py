"""Which order a table is read in: by a unique key, by a column with a key behind it, or by what the user declares."""

from __future__ import annotations

from collections.abc import Sequence

from rivet_dagster.errors import ConfigError, SourceError
from rivet_dagster.sources.base import ASSUMED_ROW_BYTES, NO_KEY, Index, Key, Table

USUAL_BYTES_A_SECOND = 50 << 20
"""What a server sends, this process writes and a network carries without haste."""


def choose_key(table: Table, columns: Sequence[str] | None) -> Key:
    """The key to plan by: the one that `columns` names, else the table's best.

    Raises:
        SourceError: RIVET_KEY_MISSING where the table has none, RIVET_KEY_UNUSABLE where `columns` is none of them.
        ConfigError: RIVET_CONFIG_COLUMN.
    """
    if columns is not None:
        check_columns(table, columns)
    if table.kind != "table":
        return _declared(table, columns)
    rejected = "".join(f" Index {index}: {reason}." for index, reason in table.rejected_keys)
    if not table.keys:
        raise SourceError(
            "RIVET_KEY_MISSING",
            f"Table {table.label} has no usable key: no valid unique index over NOT NULL columns.{rejected} "
            f"As a whole it would hold one query open for {_whole_seconds(table)}; PostgreSQL has many short ones.",
            "Add a primary key, or a unique index over NOT NULL columns, and plan again; or accept that, with windows "
            "of type full.",
            fatal=True,
        )
    if columns is None:
        return table.keys[0]
    for key in table.keys:
        if key.columns == tuple(columns):
            return key
    if _indexes(table, columns) and not _is_nullable(table, columns[1:]):
        return order_by(table, columns)
    usable = "; ".join(f"({', '.join(key.columns)}) by {key.index}" for key in table.keys)
    raise SourceError(
        "RIVET_KEY_UNUSABLE",
        f"Columns ({', '.join(columns)}) are no usable key of {table.label}.{rejected}",
        f"Name the columns of a usable key in its index's order: {usable}; or the first columns of another index.",
        fatal=True,
    )


def planned_order(table: Table, columns: Sequence[str]) -> Key:
    """The order that was planned, as the table has it now; errors as in `choose_key` and `order_by`."""
    if not columns:
        return NO_KEY
    if table.kind == "table" and all(key.columns != tuple(columns) for key in table.keys):
        for size in range(1, len(columns) + 1):
            if _indexes(table, columns[:size]):
                key = order_by(table, columns[:size])
                if key.columns == tuple(columns):
                    return key
        if not table.keys:
            return order_by(table, columns)
    return choose_key(table, columns)


def _declared(table: Table, columns: Sequence[str] | None) -> Key:
    """A key of a view or a query: nobody but the user knows of one."""
    if columns is None:
        raise SourceError(
            "RIVET_KEY_MISSING",
            f"{table.label} is a {table.kind}, of which no key is known.",
            "Name columns that are unique together in the windows' columns; or accept one long query with windows of "
            "type full.",
            fatal=True,
        )
    return Key(tuple(columns), "", nullable=table.column(columns[0]).nullable, declared=True)


def order_by(table: Table, columns: Sequence[str]) -> Key:
    """The order of some columns, mostly one, with a unique key behind them where the table has one.

    Raises:
        SourceError: RIVET_COLUMN_UNINDEXED where every page would scan the table.
        ConfigError: RIVET_CONFIG_COLUMN.
    """
    check_columns(table, columns)
    wanted = tuple(columns)
    nullable = table.column(wanted[0]).nullable
    if table.kind != "table":
        return Key(wanted, "", unique=False, nullable=nullable, declared=True)
    for key in table.keys:
        if key.columns[: len(wanted)] == wanted:
            return key
    found = _indexes(table, wanted)
    if not found:
        raise SourceError(
            "RIVET_COLUMN_UNINDEXED",
            f"No usable index of {table.label} begins with ({', '.join(wanted)}), so that every page would scan the "
            "table.",
            f"Make an index over ({', '.join((*wanted, *_tie(table, wanted)))}), or take keyset windows.",
            fatal=True,
        )
    if not table.keys:
        return Key(wanted, found[0].name, unique=False, nullable=nullable)
    tie = _tie(table, wanted)
    # The best one keeps equal values in the key's order: nothing is left to sort.
    index = next((each for each in found if each.columns[len(wanted) :][: len(tie)] == tie), found[0])
    return Key((*wanted, *tie), index.name, nullable=nullable)


def _indexes(table: Table, columns: Sequence[str]) -> list[Index]:
    """Indexes that begin with these columns, the shortest one first."""
    wanted = tuple(columns)
    found = [index for index in table.indexes if index.columns[: len(wanted)] == wanted]
    return sorted(found, key=lambda index: (len(index.columns), index.name))


def _is_nullable(table: Table, columns: Sequence[str]) -> bool:
    return any(table.column(name).nullable for name in columns)


def _tie(table: Table, columns: Sequence[str]) -> tuple[str, ...]:
    """What tells rows with the same values of these columns apart; nothing where the table has no key."""
    return tuple(name for name in table.keys[0].columns if name not in columns) if table.keys else ()


def check_columns(table: Table, names: Sequence[str]) -> None:
    """Whether the table has columns of these names.

    Raises:
        ConfigError: RIVET_CONFIG_COLUMN.
    """
    known = [column.name for column in table.columns]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(
            "RIVET_CONFIG_COLUMN",
            f"{table.label} has no column {', '.join(unknown)}.",
            f"Its columns are {', '.join(known)}, in the case that they are written in here.",
            fatal=True,
        )


def _whole_seconds(table: Table) -> str:
    """How long reading a table by one statement takes, in words."""
    if table.estimated_rows is None:
        return "an unknown time"
    seconds = table.estimated_rows * (table.average_row_bytes or ASSUMED_ROW_BYTES) / USUAL_BYTES_A_SECOND
    return f"about {max(1, round(seconds))} s"
