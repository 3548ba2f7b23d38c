"""Walks along a key's index, in statements that return one row."""

from __future__ import annotations

from typing import Any

import pymysql

from rivet_dagster.sources.base import Key, KeyRange, KeyText, Step, Table
from rivet_dagster.sources.mysql import templates
from rivet_dagster.sources.mysql.keys import KeyShape, key_text


class Walker:
    """What one connection finds along a key of a table. Its methods raise what the server says."""

    def __init__(self, connection: pymysql.Connection[Any], table: Table, key: Key) -> None:
        self._connection = connection
        self._shape = KeyShape(table, key)

    def walk(self, after: KeyText | None, rows: int, until: KeyText | None) -> Step | None:
        """`rows` rows on from `after`, no farther than `until`; None where no row is left."""
        span = KeyRange(after, until)
        found = self._fetch(templates.WALK, span, skip=rows - 1)
        if found:
            return Step(key_text(found), rows)
        last = self._fetch(templates.LAST, span)
        return Step(key_text(last), min(self._counted(span), rows)) if last else None

    def last(self) -> KeyText | None:
        """The greatest key."""
        found = self._fetch(templates.LAST, KeyRange(None, None))
        return key_text(found) if found else None

    def count(self, span: KeyRange, limit: int) -> int:
        """Rows of `span`, at most `limit`. Without a row at the limit, those that there are can be counted."""
        if limit < 1 or self._fetch(templates.NTH, span, skip=limit - 1):
            return limit
        return min(self._counted(span), limit)

    def is_repeated(self, key: KeyText, *, nulls: bool) -> bool:
        """Whether several rows have the key of a row, as `KeyRange.after` has it."""
        where = self._shape.equals(key, self._connection.escape, nulls=nulls)
        return self._row(templates.NTH.format(**self._parts(where), skip=1)) is not None

    def _counted(self, span: KeyRange) -> int:
        found = self._fetch(templates.COUNT, span)
        return int(found[0]) if found else 0

    def _fetch(self, template: str, span: KeyRange, skip: int = 0) -> tuple[Any, ...] | None:
        within = self._shape.where(span, self._connection.escape)
        return self._row(template.format(**self._parts(within), skip=skip))

    def _parts(self, within: str) -> dict[str, str]:
        shape = self._shape
        return {
            "key_texts": shape.texts,
            "table": shape.table,
            "hint": shape.hint,
            "within": within,
            "key": shape.columns,
            "key_descending": shape.descending,
        }

    def _row(self, statement: str) -> tuple[Any, ...] | None:
        with self._connection.cursor() as cursor:
            cursor.execute(statement)
            found: tuple[Any, ...] | None = cursor.fetchone()
            return found
