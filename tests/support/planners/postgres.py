"""What PostgreSQL does for a session of the source: the plan of every statement, and rows of windows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from psycopg import errors

from rivet_dagster.sources.base import BatchLimits, Key, KeyRange, SourceLimits, Table, TypeChoices
from rivet_dagster.sources.postgres.session import PostgresSession
from rivet_dagster.sources.postgres.source import PostgresSource

_TOLD = {
    "session_preload_libraries": "auto_explain",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_level": "notice",
    "auto_explain.log_format": "json",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_timing": "off",
}

_ABOUT_TABLES = re.compile(r"\bpg_(class|stats|type|attribute|collation)\b|\bset_config\b")


@contextmanager
def session_of(
    dsn: str, limits: SourceLimits | None = None, types: TypeChoices | None = None
) -> Iterator[PostgresSession]:
    """A session of the source."""
    with closing(PostgresSource(dsn, limits or SourceLimits(), types or TypeChoices()).connect()) as session:
        yield session


class Plans:
    """Plans of the statements that a session runs on tables, as they ran; not of those on catalogs and settings."""

    def __init__(self, session: PostgresSession) -> None:
        self._found: list[dict[str, Any]] = []
        session._connection.add_notice_handler(self._take)

    def _take(self, notice: errors.Diagnostic) -> None:
        found = re.search(r"plan:\s*(\{.*\})\s*$", notice.message_primary or "", re.DOTALL)
        if found and not _ABOUT_TABLES.search(json.loads(found[1])["Query Text"]):
            self._found.append(json.loads(found[1])["Plan"])

    def taken(self) -> list[list[dict[str, Any]]]:
        """The nodes of each plan since the last time, from the top down."""
        found, self._found = self._found, []
        return [list(_nodes(plan)) for plan in found]


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from _nodes(below)


@contextmanager
def explained(dsn: str) -> Iterator[tuple[PostgresSession, Plans]]:
    """A session that is told the plan of every statement."""
    options = quote(" ".join(f"-c {name}={value}" for name, value in _TOLD.items()), safe="")
    with session_of(f"{dsn}{'&' if '?' in dsn else '?'}options={options}") as session:
        yield session, Plans(session)


def passed(node: dict[str, Any]) -> int:
    """Rows or entries of an index that a node looked at."""
    return int((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"])


def pages(
    session: PostgresSession, table: Table, key: Key, span: KeyRange, limit: int, batch_bytes: int = 1 << 20
) -> Iterator[list[tuple[Any, ...]]]:
    """Rows of one window, as they become complete: page by page, or piece by piece."""
    with session.open_window(table, key, BatchLimits(wire_bytes=batch_bytes)) as reader:
        while True:
            page = reader.read_page(span, limit)
            yield [row for batch in reader.decode_page() for row in _rows(batch)]
            if page.ended:
                break
            span = replace(span, after=reader.last_key())
        yield [row for batch in reader.finish() for row in _rows(batch)]


def rows_of(session: PostgresSession, table: Table, key: Key, span: KeyRange, limit: int) -> list[tuple[Any, ...]]:
    """All rows of one window."""
    return [row for page in pages(session, table, key, span, limit) for row in page]


def _rows(batch: Any) -> Iterator[tuple[Any, ...]]:
    return zip(*(column.to_pylist() for column in batch.columns), strict=True)
