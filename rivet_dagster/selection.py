"""Whole schemas: an export for every table that a pattern names."""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from rivet_dagster.errors import SourceError
from rivet_dagster.export.config import ExportConfig, parse_config
from rivet_dagster.export.names import parse_table
from rivet_dagster.export.retry import with_session
from rivet_dagster.sources import open_source

_NEEDS_QUOTES = re.compile(r'[".\s]')


def select_tables(
    source: str,
    pattern: str,
    *,
    include: Iterable[str] | None = None,
    exclude: Iterable[str] = (),
    **options: Any,
) -> list[ExportConfig]:
    """Exports of the tables of a schema, as they are now. Connects to the source: see the costs below.

    Taken are ordinary and partitioned tables of which the user may read every column; no views, no foreign tables, no
    partitions, which come with their table. Whether a table has a usable key shows when it is planned.

    Every call opens a connection. In a module of definitions that is one whenever the module is loaded: at every
    start of the code server and of a run's process, none of which starts while the database is away. Call it in a
    script or in a `StateBackedComponent`, and build the assets from what was kept.

    Args:
        source: address of the database, as `RivetResource` takes it; not an `EnvVar`, whose value is not known here.
        pattern: `schema.*`, or `schema.` and a pattern of names with `*`, `?` and `[...]`; case matters.
        include: patterns of names, of which one must match; None for all.
        exclude: patterns of names, of which none may match.
        options: any other field of `ExportConfig`, such as `windows` or `format`, for all of the exports.

    Returns:
        An export a table, in the order of the names' code points.

    Raises:
        ConfigError: RIVET_CONFIG_TABLE, RIVET_CONFIG_INVALID, and an address that cannot be used.
        SourceError: RIVET_SOURCE_TABLE_MISSING where nothing is left to export; failures to connect.

    Example:
        .. code-block:: python

            exports = select_tables(os.environ["PG_DSN"], "public.*", exclude=["tmp_*"], format=CsvFormat())
    """
    schema, wanted = parse_table(pattern)
    included, excluded = _patterns(include), _patterns(exclude) or []
    shared = parse_config({**options, "table": pattern})
    names = with_session(open_source(source), shared.limits, lambda session: session.tables(schema))
    chosen = [
        name
        for name in names
        if fnmatchcase(name, wanted) and (included is None or _matches(name, included)) and not _matches(name, excluded)
    ]
    if not chosen:
        raise SourceError(
            "RIVET_SOURCE_TABLE_MISSING",
            f"Of the {len(names)} tables of {schema} that the user may read, none is chosen by {pattern}.",
            "Check the schema, the patterns, in the case of the tables' names, and the user's rights.",
            fatal=True,
        )
    return [shared.model_copy(update={"table": f"{_spelled(schema)}.{_spelled(name)}"}) for name in chosen]


def _patterns(given: Iterable[str] | None) -> list[str] | None:
    """The patterns as a list; a text by itself is one pattern, not one a letter."""
    return [given] if isinstance(given, str) else None if given is None else list(given)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _spelled(part: str) -> str:
    """A schema's or table's name as `parse_table` reads it."""
    return '"' + part.replace('"', '""') + '"' if _NEEDS_QUOTES.search(part) else part
