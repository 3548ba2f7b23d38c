"""One PostgreSQL session: index walks and windows of COPY pages."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import pq, sql

from rivet_dagster.sources.base import (
    BatchLimits,
    Key,
    KeyRange,
    KeyText,
    Page,
    ServerFacts,
    SourceLimits,
    Step,
    Table,
    TypeChoices,
    check_page_rows,
    null_key,
)
from rivet_dagster.sources.postgres import templates
from rivet_dagster.sources.postgres.catalog import describe_table
from rivet_dagster.sources.postgres.connect import application_name, server_facts
from rivet_dagster.sources.postgres.failures import last_words, translated
from rivet_dagster.sources.postgres.typemap import TEXT_OID

if TYPE_CHECKING:
    import pyarrow as pa
    from typing_extensions import LiteralString

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

    def walk(self, table: Table, key: Key, after: KeyText | None, rows: int) -> Step | None:
        """Walk the key's index `rows` rows on from `after`; None where no row is beyond it."""
        shape = _KeyShape(table, key)
        parts = {
            "key_texts": shape.texts,
            "table": shape.table,
            "beyond": shape.where(KeyRange(after, None)),
            "key": shape.columns,
        }
        with translated(f"walking the key of {table.label}"), self._snapshot():
            found = self._fetch(templates.WALK, {**parts, "skip": sql.Literal(rows - 1)})
            if found:
                return Step(tuple(found), rows)
            found = self._fetch(
                templates.WALK_TAIL,
                {**parts, "limit": sql.Literal(rows), "key_descending": shape.descending},
            )
            return Step(tuple(found[:-1]), found[-1]) if found else None

    def _fetch(self, template: LiteralString, parts: dict[str, sql.Composable]) -> tuple[Any, ...] | None:
        return self._connection.execute(sql.SQL(template).format(**parts)).fetchone()

    @contextmanager
    def open_window(self, table: Table, key: Key, limits: BatchLimits) -> Iterator[PostgresWindowReader]:
        """One consistent snapshot, held until the context ends."""
        from rivet_dagster.sources.postgres.stream import CopyStream  # noqa: PLC0415 (numpy is paid for here)

        # One buffer for all windows of the session: it has grown to the size of a page once.
        self._stream = self._stream or CopyStream(self._connection.pgconn)
        reader = PostgresWindowReader(self._connection, self._stream, table, key, limits, self._types)
        with translated(f"reading {table.label}"), self._snapshot():
            yield reader

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
        _begin(connection, begin)
        if steered:
            connection.execute(templates.STEER)
        yield
    except psycopg.Error as exc:
        raise last_words(exc, connection.pgconn) from None
    finally:
        _end(connection)


def _begin(connection: psycopg.Connection[tuple[Any, ...]], begin: sql.Composed) -> None:
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


class _KeyShape:
    """The SQL of one table's key. Bounds are literals that the driver quotes and the server casts and compares."""

    def __init__(self, table: Table, key: Key) -> None:
        identifiers = [sql.Identifier("t", name) for name in key.columns]
        self._key = key
        columns = [table.column(name) for name in key.columns]
        self._types = [column.compared_as or column.native_type for column in columns]
        self._compared = sql.SQL(", ").join(
            sql.SQL("{}::{}").format(name, sql.SQL(column.compared_as)) if column.compared_as else name
            for name, column in zip(identifiers, columns, strict=True)
        )
        self.table = sql.Identifier(table.schema, table.name)
        self.columns = sql.SQL(", ").join(identifiers)
        self.texts = sql.SQL(", ").join(sql.SQL("{}::text").format(name) for name in identifiers)
        self.descending = sql.SQL(", ").join(sql.SQL("{} DESC").format(name) for name in identifiers)

    def where(self, span: KeyRange) -> sql.Composable:
        """` WHERE` over the rows of `span`, in the row-value form that an index range scan serves."""
        conditions = [
            sql.SQL("({}) {} ({})").format(self._compared, sql.SQL(operator), self._literals(bound))
            for operator, bound in ((">", span.lo), ("<=", span.hi))
            if bound is not None
        ]
        return sql.SQL(" WHERE ") + sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("")

    def _literals(self, bound: KeyText) -> sql.Composable:
        if len(bound) != len(self._types):
            raise ValueError(f"a bound of {len(bound)} values for a key of {len(self._types)} columns")
        return sql.SQL(", ").join(
            # The type's name comes from the server's own format_type, quoted as it must be.
            sql.SQL("{}::{}").format(sql.Literal(value), sql.SQL(native))
            for value, native in zip(bound, self._types, strict=True)
        )


class PostgresWindowReader:
    """Reads the pages of one window from the snapshot that its session holds."""

    def __init__(
        self,
        connection: psycopg.Connection[tuple[Any, ...]],
        stream: CopyStream,
        table: Table,
        key: Key,
        limits: BatchLimits,
        types: TypeChoices,
    ) -> None:
        # numba and pyarrow are paid for when reading begins, not when definitions load.
        from rivet_dagster.sources.postgres.types import readings  # noqa: PLC0415
        from rivet_dagster.wire.pgcopy import CopyDecoder  # noqa: PLC0415

        self._connection = connection
        self._table = table
        self._shape = _KeyShape(table, key)
        found = readings(table, types)
        columns = [reading.wire_column() for reading in found]
        self._decoder = CopyDecoder(columns, batch_bytes=limits.wire_bytes, batch_rows=limits.rows)
        self._stream = stream
        self._received = self._announced = 0
        names = [column.name for column in table.columns]
        self._columns = sql.SQL(", ").join(
            # Rules are constants of this package, `{}` in them is the column.
            sql.SQL(reading.select).format(sql.Identifier("t", name))
            for name, reading in zip(names, found, strict=True)
        )
        self._key_indices = [names.index(name) for name in key.columns]
        self._key_wire_types = [found[index].wire_type for index in self._key_indices]
        # What comes as text is what the server writes. A cast from text to regclass and its like takes less than that.
        self._key_natives = [
            "text" if found[index].wire_type == TEXT_OID else table.columns[index].native_type
            for index in self._key_indices
        ]
        self.schema: pa.Schema = self._decoder.schema

    def read_page(self, span: KeyRange, limit: int) -> Page:
        """One COPY of at most `limit` rows of `span`, in key order."""
        statement = sql.SQL(templates.PAGE).format(
            columns=self._columns,
            table=self._shape.table,
            within=self._shape.where(span),
            key=self._shape.columns,
            limit=sql.Literal(limit),
        )
        began = time.monotonic()
        self._received, self._announced = self._stream.drain(statement.as_bytes(self._connection))
        return Page(self._announced, self._received, time.monotonic() - began)

    def decode_page(self) -> Iterator[pa.RecordBatch]:
        """Decode the page; gives batches as they become complete."""
        yield from self._decoder.decode(self._stream.buffer, self._received)
        check_page_rows(self._table, self._decoder.page_rows, self._announced)

    def last_key(self) -> KeyText:
        """Key of the page's last row. The server renders the very bytes it sent, so no type is guessed at here."""
        values = self._decoder.last_row(self._key_indices)
        rendered = (f"${number}::{native}::text" for number, native in enumerate(self._key_natives, start=1))
        result = self._connection.pgconn.exec_params(
            f"SELECT {', '.join(rendered)}".encode(),
            values,
            param_types=self._key_wire_types,
            param_formats=[pq.Format.BINARY] * len(values),
        )
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise psycopg.errors.error_from_result(result)
        return _texts([result.get_value(0, n) for n in range(len(values))])

    def finish(self) -> Iterator[pa.RecordBatch]:
        """The rows that are left, once the window's last page is decoded."""
        return self._decoder.finish()

    def replaced(self) -> Mapping[tuple[str, str], int]:
        """How many values NULL replaced so far, by column and reason."""
        return self._decoder.replaced


def _texts(values: Sequence[bytes | None]) -> KeyText:
    if any(value is None for value in values):
        raise null_key()
    return tuple(value.decode() for value in values if value is not None)
