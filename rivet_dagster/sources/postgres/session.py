"""One PostgreSQL session: descriptions, index walks, and the snapshots that windows are read from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from rivet_dagster.sources.base import (
    BatchLimits,
    Key,
    KeyRange,
    KeyText,
    ServerFacts,
    SourceLimits,
    Step,
    Table,
    TypeChoices,
)
from rivet_dagster.sources.postgres import templates
from rivet_dagster.sources.postgres.catalog import describe_query, describe_table
from rivet_dagster.sources.postgres.connect import application_name, server_facts
from rivet_dagster.sources.postgres.failures import last_words, translated
from rivet_dagster.sources.postgres.keys import KeyShape, key_text
from rivet_dagster.sources.postgres.slots import take_slot
from rivet_dagster.sources.postgres.statistics import boundaries

if TYPE_CHECKING:
    from typing_extensions import LiteralString

    from rivet_dagster.sources.postgres.reader import PostgresWindowReader
    from rivet_dagster.sources.postgres.stream import CopyStream

_CANCEL_SECONDS = 5.0
_BEGIN_TRIES = 5


class PostgresSession:
    """A connection with its snapshot. Not thread-safe, except for `cancel`."""

    def __init__(
        self, connection: psycopg.Connection[tuple[Any, ...]], limits: SourceLimits, types: TypeChoices
    ) -> None:
        self._connection = connection
        self._limits = limits
        self._types = types
        self._stream: CopyStream | None = None

    def facts(self) -> ServerFacts:
        """What the session is connected to, as the server itself sees it."""
        with translated("asking for its version"), self._snapshot(steered=False):
            return server_facts(self._connection)

    def describe(self, schema: str, name: str) -> Table:
        """Columns, keys and estimates of a table."""
        with translated(f"describing {schema}.{name}"), self._snapshot(steered=False):
            return describe_table(self._connection, schema, name)

    def tables(self, schema: str) -> tuple[str, ...]:
        """Names of the tables of a schema that the user may read, in order."""
        with translated(f"listing the tables of {schema}"), self._snapshot(steered=False):
            found = self._connection.execute(templates.TABLES, {"schema": schema}).fetchall()
        return tuple(sorted(name for (name,) in found))

    def describe_query(self, schema: str, name: str, query: str) -> Table:
        """Columns of what a query returns; it is not run."""
        with translated(f"preparing the query of {schema}.{name}"), self._snapshot(steered=False):
            return describe_query(self._connection, schema, name, query)

    def walk(
        self, table: Table, key: Key, after: KeyText | None, rows: int, until: KeyText | None = None
    ) -> Step | None:
        """Walk the key's index `rows` rows on from `after`, to `until` at most; None where no row is beyond it."""
        span = KeyRange(after, until)
        shape, parts = _shaped(table, key, span)
        with self._looking(f"walking the key of {table.label}", table):
            found = self._fetch(templates.WALK, {**parts, "skip": sql.Literal(rows - 1)})
            if found:
                return Step(key_text(found), rows)
            found = self._fetch(
                templates.WALK_TAIL,
                {**parts, "key": shape.columns, "limit": sql.Literal(rows), "key_descending": shape.descending},
            )
            return Step(key_text(found[:-1]), found[-1]) if found else None

    def last(self, table: Table, key: Key) -> KeyText | None:
        """The greatest key; None where the table has no row, or only such with NULL."""
        shape, parts = _shaped(table, key, KeyRange(None, None))
        with self._looking(f"looking for the last key of {table.label}", table):
            found = self._fetch(templates.LAST, {**parts, "key_descending": shape.descending})
        return key_text(found) if found else None

    def count(self, table: Table, key: Key, span: KeyRange, limit: int) -> int:
        """How many rows `span` has; no more than `limit` are looked at."""
        _, parts = _shaped(table, key, span)
        with self._looking(f"counting rows of {table.label}", table):
            found = self._fetch(templates.COUNT, {**parts, "limit": sql.Literal(limit)})
        assert found is not None
        return int(found[0])

    def boundaries(self, table: Table, key: Key, span: KeyRange, windows: int) -> tuple[KeyText, ...] | None:
        """Bounds that cut `span` into about `windows` windows of as many rows by the server's statistics alone."""
        with self._looking(f"estimating windows of {table.label}", table):
            return boundaries(self._connection, table, key, span, windows)

    def now(self) -> datetime:
        """The server's time, in UTC."""
        with self._looking("asking for the time"):
            found = self._fetch(templates.NOW, {})
        moment = found[0] if found else None
        assert isinstance(moment, datetime)
        return moment

    def _fetch(self, template: LiteralString, parts: dict[str, sql.Composable]) -> tuple[Any, ...] | None:
        return self._connection.execute(sql.SQL(template).format(**parts)).fetchone()

    @contextmanager
    def _looking(self, doing: str, table: Table | None = None) -> Iterator[None]:
        with translated(doing), self._snapshot(steered=table is not None and table.kind == "table"):
            yield

    @contextmanager
    def open_window(self, table: Table, key: Key, limits: BatchLimits) -> Iterator[PostgresWindowReader]:
        """One consistent snapshot, held until the context ends, and with it one of the source's slots."""
        from rivet_dagster.sources.postgres.reader import PostgresWindowReader  # noqa: PLC0415 (numba is paid for here)
        from rivet_dagster.sources.postgres.stream import CopyStream  # noqa: PLC0415

        # One buffer for all windows of the session: it has grown to the size of a page once.
        self._stream = self._stream or CopyStream(self._connection.pgconn)
        reader = PostgresWindowReader(self._connection, self._stream, table, key, limits, self._types, self._limits)
        with translated(f"reading {table.label}"), self._snapshot(steered=table.kind == "table"):
            take_slot(self._connection, self._limits.slots)
            try:
                yield reader
            finally:
                if self._stream.is_open:
                    # Rows are still coming: nothing else can be said on this connection.
                    self.cancel()
                    self._stream.drop()
                    self.close()

    def _snapshot(self, *, steered: bool = True) -> AbstractContextManager[None]:
        return _snapshot(self._connection, self._limits, steered=steered)

    def cancel(self) -> None:
        """Ask the server to end the running statement; callable from another thread."""
        with suppress(psycopg.Error):
            self._connection.cancel_safe(timeout=_CANCEL_SECONDS)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@contextmanager
def _snapshot(
    connection: psycopg.Connection[tuple[Any, ...]], limits: SourceLimits, *, steered: bool
) -> Iterator[None]:
    """A read-only transaction with the session's settings; `steered` rules out scans and sorts."""
    begin = sql.SQL(templates.BEGIN).format(
        application_name=sql.Literal(application_name(connection)),
        statement_timeout_ms=sql.Literal(round(limits.statement_timeout_s * 1000)),
        lock_timeout_ms=sql.Literal(round(limits.lock_timeout_s * 1000)),
        idle_in_transaction_timeout_ms=sql.Literal(round(limits.idle_in_transaction_timeout_s * 1000)),
    )
    try:
        begin_transaction(connection, begin)
        if steered:
            connection.execute(templates.STEER)
        yield
    except psycopg.Error as exc:
        raise last_words(exc, connection.pgconn) from None
    finally:
        _end(connection)


def begin_transaction(connection: psycopg.Connection[tuple[Any, ...]], begin: sql.Composed) -> None:
    """Open the transaction, also for a role whose own statement time-out leaves hardly the time to change it."""
    for tries_left in reversed(range(_BEGIN_TRIES)):
        try:
            connection.execute(begin)
        except psycopg.errors.QueryCanceled:
            # The transaction may be open, and broken.
            _end(connection)
            if not tries_left:
                raise
        else:
            return


def _end(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Nothing was written: a rollback ends the snapshot as well as a commit, and also after an error."""
    with suppress(psycopg.Error):
        connection.rollback()


def _shaped(table: Table, key: Key, span: KeyRange) -> tuple[KeyShape, dict[str, sql.Composable]]:
    """The key's SQL, and the parts that every statement over a range of it has."""
    shape = KeyShape(table, key)
    parts = {
        "key_texts": shape.texts,
        "table": shape.table,
        "within": shape.where(span),
        "order": shape.order(span),
    }
    return shape, parts
