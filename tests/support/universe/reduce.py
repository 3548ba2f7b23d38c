"""Makes a failing case small: fewer columns first, then fewer rows, then plainer options and values.

Hypothesis would shrink the choices that made the case, which takes hundreds of exports; a document says by itself
what can be left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.support.universe.cases import Case, CaseColumn
from tests.support.universe.engine import Engine

_TRIES = 250


def smallest(engine: Engine, case: Case, fails: Callable[[Case], bool]) -> Case:
    """The smallest case that was found for which `fails` still holds; it holds for `case`."""
    tries = 0
    again = True
    while again:
        again = False
        for candidate in _smaller(engine, case):
            tries += 1
            if tries > _TRIES:
                return case
            if fails(candidate):
                case, again = candidate, True
                break
    return case


def _smaller(engine: Engine, case: Case) -> Iterator[Case]:
    """Cases that are a step smaller, the largest steps first."""
    yield from _fewer_columns(case)
    yield from _fewer_rows(case)
    plain_key = engine.plain_key(case.rows)
    if case.key != ("id",) and all(column.name != "id" for column in case.columns):
        others = tuple(column for column in case.columns if column.name not in case.key)
        yield replace(case, columns=(plain_key, *others), key=("id",))
    plain = Case(engine.plain_schema, "t", case.columns, case.key, case.rows)
    for name in (
        "schema",
        "table",
        "window_rows",
        "page_bytes",
        "row_group_bytes",
        "workers",
        "unrepresentable",
        "options",
    ):
        if getattr(case, name) != getattr(plain, name):
            yield replace(case, **{name: getattr(plain, name)})
    for number, column in enumerate(case.columns):
        for simpler in _simpler(column, f"c{number}", key=column.name in case.key):
            columns = (*case.columns[:number], simpler, *case.columns[number + 1 :])
            key = tuple(simpler.name if name == column.name else name for name in case.key)
            yield replace(case, columns=columns, key=key)


def _fewer_columns(case: Case) -> Iterator[Case]:
    free = [column for column in case.columns if column.name not in case.key]
    size = len(free)
    while size:
        for start in range(0, len(free), size):
            gone = free[start : start + size]
            yield replace(case, columns=tuple(column for column in case.columns if column not in gone))
        size //= 2


def _fewer_rows(case: Case) -> Iterator[Case]:
    """No rows, or some that stand one after the other."""
    size = case.rows // 2
    if case.rows:
        yield replace(case, rows=0)
    while size:
        for start in range(0, case.rows, size):
            rows = range(start, min(start + size, case.rows))
            columns = (
                replace(column, values=tuple(column.values[row % len(column.values)] for row in rows))
                for column in case.columns
            )
            yield replace(case, columns=tuple(columns), rows=len(rows))
        size //= 2


def _simpler(column: CaseColumn, name: str, *, key: bool) -> Iterator[CaseColumn]:
    if column.type is not None:
        yield replace(column, type=None)
    if column.unrepresentable is not None:
        yield replace(column, unrepresentable=None)
    if column.extra:
        yield replace(column, extra="")
    if column.name != name and column.name != "id":
        yield replace(column, name=name)
    if key:
        return
    if len(column.values) > 1:
        yield from (replace(column, values=(value,)) for value in column.values)
    if not column.nullable:
        yield replace(column, nullable=True)
