"""What users choose of columns' types, held against a table. The same for every engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

from rivet_dagster.errors import ConfigError
from rivet_dagster.sources.base import Column, Table, TypeChoices
from rivet_dagster.sources.typenames import arrow_type

if TYPE_CHECKING:
    import pyarrow as pa

NATIVE_TYPE_KEY: Final = b"rivet.native_type"
"""Metadata of a field: the declared type."""


def field_of(column: Column, type_name: str, *, replaced: bool) -> pa.Field[Any]:
    """Field of a column that is read as the type with this name; it takes NULL where NULL may replace a value."""
    import pyarrow as pa  # noqa: PLC0415 (definitions load without it)

    metadata = {NATIVE_TYPE_KEY: column.native_type.encode()}
    return pa.field(column.name, arrow_type(type_name), column.nullable or replaced, metadata)


def check_choices(table: Table, choices: TypeChoices) -> None:
    """Whether there is every column that something was chosen for.

    Raises:
        ConfigError: RIVET_CONFIG_COLUMN.
    """
    names = {column.name for column in table.columns}
    unknown = sorted(name for name in choices.columns if name not in names)
    if unknown:
        raise ConfigError(
            "RIVET_CONFIG_COLUMN",
            f"{table.label} has no columns {', '.join(unknown)}, for which options are given.",
            f"Give options for columns that are there: {', '.join(sorted(names))}.",
            fatal=True,
        )


def refuse_type(table: Table, column: Column, asked: str, *offered: str) -> NoReturn:
    """`RIVET_CONFIG_TYPE`: a column cannot have the type that is asked for."""
    raise ConfigError(
        "RIVET_CONFIG_TYPE",
        f"Column {column.name} of {table.label} ({column.native_type}) cannot have the type {asked}.",
        f"It may be one of: {', '.join(dict.fromkeys(offered))}.",
        fatal=True,
    )


def check_names(schema: str, name: str, columns: Sequence[str]) -> None:
    """Whether the columns of a query can be told apart.

    Raises:
        ConfigError: RIVET_CONFIG_QUERY.
    """
    doubled = [column for column, times in Counter(columns).items() if times > 1 and column]
    if doubled or "" in columns or not columns:
        found = f"several columns called {', '.join(doubled)}" if doubled else "a column without a name"
        raise ConfigError(
            "RIVET_CONFIG_QUERY",
            f"The query of {schema}.{name} returns {found if columns else 'no column'}.",
            "Give every column a name of its own: SELECT a.id, b.id AS other_id ...",
            fatal=True,
        )
