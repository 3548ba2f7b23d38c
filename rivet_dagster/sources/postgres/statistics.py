"""Bounds of windows out of the planner's statistics: no index is walked and no row is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import psycopg
from psycopg import sql

from rivet_dagster.sources import scales
from rivet_dagster.sources.base import Key, KeyRange, KeyText, Table
from rivet_dagster.sources.postgres import templates
from rivet_dagster.sources.postgres.keys import KeyShape

_SCALES: Final = {
    20: scales.INTEGER,
    21: scales.INTEGER,
    23: scales.INTEGER,
    1082: scales.DATE,
    1114: scales.TIMESTAMP,
    1184: scales.UTC_TIMESTAMP,
    2950: scales.UUID,
}


def boundaries(
    connection: psycopg.Connection[tuple[Any, ...]], table: Table, key: Key, span: KeyRange, windows: int
) -> tuple[KeyText, ...] | None:
    """Bounds on the key's first column within `span`, by its histogram; None where it has none.

    A histogram has about a hundred ranges. Those of numbers, dates and UUIDs are cut further by straight lines; of
    other types there are no more windows than ranges.
    """
    place = {"schema": table.schema, "name": table.name, "column": key.columns[0]}
    (points,) = connection.execute(templates.HISTOGRAM, place).fetchone() or (None,)
    if not points or span.hi is None:
        return None
    scale = _SCALES.get(table.column(key.columns[0]).type_id)
    values = _picked(points, windows) if scale is None else _cut(scale, points, span.hi[0], windows)
    (collation,) = connection.execute(templates.COLLATION, place).fetchone() or (None,)
    return _sorted(connection, table, key, span, values, collation)


def _picked(points: Sequence[str], windows: int) -> list[str]:
    """So many of the histogram's own bounds, evenly spread."""
    ranges = len(points) - 1
    wanted = min(windows, ranges)
    return [points[ranges * number // wanted] for number in range(1, wanted)]


def _cut(scale: scales.Scale, points: Sequence[str], top: str, windows: int) -> list[str]:
    try:
        numbers = [scale.number(point) for point in points]
        return [scale.text(number) for number in scales.quantiles(numbers, scale.number(top), windows)]
    except (ValueError, OverflowError):  # infinity, and times before our era
        return _picked(points, windows)


def _sorted(
    connection: psycopg.Connection[tuple[Any, ...]],
    table: Table,
    key: Key,
    span: KeyRange,
    values: Sequence[str],
    collation: str | None,
) -> tuple[KeyText, ...]:
    """The values in the server's order, without equal ones and what is not between the ends of `span`."""
    first = replace(key, columns=key.columns[:1])
    shape = KeyShape(table, first)
    # A bound on the first column alone is beyond all keys that begin with it, so it must be below the upper end's.
    within = KeyRange(span.lo and span.lo[:1], span.hi and span.hi[:1], half_open=True)
    statement = sql.SQL(templates.SORTED).format(
        column=sql.Identifier(key.columns[0]),
        values=sql.Literal(list(values)),
        type=sql.SQL(shape.types[0]),  # the server's own word for it
        collation=sql.SQL(f" COLLATE {collation}" if collation else ""),
        within=shape.where(within),
    )
    found = [(value,) for (value,) in connection.execute(statement)]
    return tuple(bound for bound in found if bound != span.lo)
