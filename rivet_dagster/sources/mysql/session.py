"""One MySQL or MariaDB session: index walks, and windows of pages or of one statement's pieces."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pymysql
from pymysql import err

from rivet_dagster.errors import DriftError, SourceError
from rivet_dagster.sources.base import (
    BatchLimits,
    Column,
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
    not_unique,
    null_key,
)
from rivet_dagster.sources.choices import refuse_type
from rivet_dagster.sources.mysql import templates
from rivet_dagster.sources.mysql.boundaries import boundaries
from rivet_dagster.sources.mysql.catalog import describe_table
from rivet_dagster.sources.mysql.connect import (
    Address,
    assignments,
    connect,
    limit_statements,
    patience,
    server_facts,
    whole_seconds,
)
from rivet_dagster.sources.mysql.failures import translated
from rivet_dagster.sources.mysql.keys import KeyShape, quoted, spelled
from rivet_dagster.sources.mysql.keytext import key_writer
from rivet_dagster.sources.mysql.queries import describe_query
from rivet_dagster.sources.mysql.slots import slot_held
from rivet_dagster.sources.mysql.statements import Statements, wait_at_most
from rivet_dagster.sources.mysql.walks import Walker

if TYPE_CHECKING:
    import pyarrow as pa

    from rivet_dagster.sources.mysql.stream import ResultColumn, ResultStream

_CANCEL_SECONDS = 5.0
# Rows come with hardly any lengths in them, so a byte of theirs makes more memory than the limits of a batch are
# meant for, which are those of rows with four bytes a value.
_DENSITY = 2 / 3


class MysqlSession:
    """A connection with its snapshot. Not thread-safe, except for `cancel`."""

    def __init__(
        self, address: Address, connection: pymysql.Connection[Any], limits: SourceLimits, types: TypeChoices
    ) -> None:
        self._address = address
        self._connection = connection
        self._limits = limits
        self._types = types
        self._stream: ResultStream | None = None
        self._is_patient = False

    def facts(self) -> ServerFacts:
        """What the session is connected to, as the server itself sees it."""
        with translated("asking for its version"):
            return server_facts(self._connection)

    def describe(self, schema: str, name: str) -> Table:
        """Columns, keys and estimates of a table."""
        with translated(f"describing {schema}.{name}"):
            return describe_table(self._connection, schema, name)

    def tables(self, schema: str) -> tuple[str, ...]:
        """Names of the tables of a schema that the user may read, in order; a short statement a table."""
        with translated(f"listing the tables of {schema}"), self._connection.cursor() as cursor:
            cursor.execute(templates.TABLES, (schema,))
            names = sorted(name for (name,) in cursor.fetchall())
        return tuple(name for name in names if self._may_read(schema, name))

    def _may_read(self, schema: str, name: str) -> bool:
        """Whether the user may read every column of a table; the catalog also lists those that he may only write."""
        try:
            with translated(f"looking at {schema}.{name}"):
                self._execute(templates.READABLE.format(table=f"{quoted(schema)}.{quoted(name)}"))
        except SourceError as exc:
            if exc.code in ("RIVET_SOURCE_FORBIDDEN", "RIVET_SOURCE_TABLE_MISSING"):
                return False
            raise
        return True

    def describe_query(self, schema: str, name: str, query: str) -> Table:
        """Columns of what a query returns; it has no keys."""
        with translated(f"describing the query of {schema}.{name}"):
            return describe_query(self._connection, schema, name, query)

    def walk(
        self, table: Table, key: Key, after: KeyText | None, rows: int, until: KeyText | None = None
    ) -> Step | None:
        """Walk the key's index `rows` rows on from `after`, at most to `until`; None where no row is beyond it."""
        with translated(f"walking the key of {table.label}"):
            return Walker(self._connection, table, key).walk(after, rows, until)

    def last(self, table: Table, key: Key) -> KeyText | None:
        """The greatest key; None where the table has no row, or only such with NULL."""
        with translated(f"looking for the last key of {table.label}"):
            return Walker(self._connection, table, key).last()

    def count(self, table: Table, key: Key, span: KeyRange, limit: int) -> int:
        """How many rows `span` has; no more than `limit` are looked at."""
        with translated(f"counting rows of {table.label}"):
            return Walker(self._connection, table, key).count(span, limit)

    def boundaries(self, table: Table, key: Key, span: KeyRange, windows: int) -> tuple[KeyText, ...] | None:
        """Bounds that cut `span` into about `windows` windows of as many rows by the server's statistics alone."""
        with translated(f"asking for statistics of {table.label}"):
            return boundaries(self._connection, table, key, span, windows)

    def now(self) -> datetime:
        """The server's time, in UTC."""
        with translated("asking for the time"), self._connection.cursor() as cursor:
            cursor.execute(templates.NOW)
            (found,) = cursor.fetchone() or (None,)
        assert isinstance(found, datetime)
        return found.replace(tzinfo=timezone.utc)

    @contextmanager
    def open_window(self, table: Table, key: Key, limits: BatchLimits) -> Iterator[MysqlWindowReader]:
        """One consistent snapshot, held until the context ends, and with it one of the source's slots."""
        from rivet_dagster.sources.mysql.stream import ResultStream  # noqa: PLC0415 (numpy is paid for here)

        # One buffer for all windows of the session: it has grown to the size of a page once.
        self._stream = self._stream or ResultStream(Statements(self._connection))
        with translated(f"reading {table.label}"):
            walker = Walker(self._connection, table, key)
            reader = MysqlWindowReader(
                self._stream, walker, table, key, limits, self._types, self._limits, self._be_patient
            )
            with slot_held(self._connection, self._limits.slots), self._snapshot(self._stream):
                yield reader

    @contextmanager
    def _snapshot(self, stream: ResultStream) -> Iterator[None]:
        """A read-only transaction."""
        idle = str(whole_seconds(self._limits.idle_in_transaction_timeout_s))
        settings = {"wait_timeout": idle, "net_write_timeout": idle}
        try:
            self._execute(assignments(settings))
            self._execute(templates.BEGIN)
            yield
        finally:
            if stream.is_open:
                # Rows are still coming. The server notices the closed connection with the next one.
                self.cancel()
                self.close()
            else:
                # Nothing was written: a rollback ends the snapshot as well as a commit, and also after an error.
                with suppress(err.MySQLError, OSError):
                    self._connection.rollback()
                    self._execute(assignments(dict.fromkeys(settings, "DEFAULT")))
                    if self._is_patient:
                        self._limit_statements(self._limits.statement_timeout_s)
                        self._is_patient = False

    def _be_patient(self) -> None:
        """Let one statement take as long as a snapshot may last."""
        self._is_patient = True
        self._limit_statements(self._limits.snapshot_s)

    def _limit_statements(self, seconds: float) -> None:
        limit_statements(self._connection, seconds)
        wait_at_most(self._connection, patience(seconds))

    def _execute(self, statement: str) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(statement)

    def cancel(self) -> None:
        """Ask the server to end the running statement; callable from another thread."""
        if not self._connection.open:
            return
        limits = SourceLimits(statement_timeout_s=_CANCEL_SECONDS, connect_timeout_s=_CANCEL_SECONDS)
        own: Any = self._connection
        with suppress(SourceError, err.MySQLError, OSError):
            other = connect(self._address, limits)
            with other, other.cursor() as cursor:
                cursor.execute(templates.KILL, (own.thread_id(),))

    def close(self) -> None:
        """Close the connection."""
        with suppress(err.MySQLError, OSError):
            self._connection.close()


class MysqlWindowReader:
    """Reads the pages of one window from the snapshot that its session holds.

    Where no key tells its rows apart, the window is one statement, whose rows are taken piece by piece.

    Args:
        stream: takes the rows.
        walker: looks for other rows of a declared key.
        table: what is read.
        key: in whose order.
        limits: where batches end.
        types: what the user wants of the columns' types.
        bounds: how large values and pages may be.
        be_patient: called before a statement that may take as long as the snapshot may last.
    """

    def __init__(
        self,
        stream: ResultStream,
        walker: Walker,
        table: Table,
        key: Key,
        limits: BatchLimits,
        types: TypeChoices,
        bounds: SourceLimits,
        be_patient: Callable[[], None],
    ) -> None:
        # numba and pyarrow are paid for when reading begins, not when definitions load.
        from rivet_dagster.sources.mysql.ceiling import ValueCeiling, wire_order  # noqa: PLC0415
        from rivet_dagster.sources.mysql.types import arrow_schema, readings  # noqa: PLC0415
        from rivet_dagster.wire.mysqlrows import RowDecoder  # noqa: PLC0415

        self._stream = stream
        self._walker = walker
        self._be_patient = be_patient
        self._most = bounds.page_bytes
        self._table = table
        self._key = key
        self._shape = KeyShape(table, key)
        order, found = wire_order(table, key), readings(table, types)
        self._readings = [found[number] for number in order]
        columns = [reading.wire_column() for reading in self._readings]
        batch_bytes = max(1, int(limits.wire_bytes * _DENSITY))
        self._decoder = RowDecoder(columns, batch_bytes=batch_bytes, batch_rows=limits.rows)
        names = [table.columns[number].name for number in order]
        self._columns = ", ".join(
            spelled(reading.select, f"t.{quoted(name)}") for name, reading in zip(names, self._readings, strict=True)
        )
        self._key_indices = [names.index(name) for name in key.columns]
        self._key_writers = [self._writer(table.column(names[index]), index) for index in self._key_indices]
        self._ceiling = ValueCeiling(
            table, columns, key.columns, self._key_indices, self._key_writers, bounds.max_value_bytes
        )
        self._in_table = [names.index(column.name) for column in table.columns]
        self._announced = 0
        self._began = 0.0
        self._nulls = False
        self.schema: pa.Schema = arrow_schema(table, types)

    def _writer(self, column: Column, index: int) -> Any:
        import pyarrow as pa  # noqa: PLC0415

        reading = self._readings[index]
        if column.collation and pa.types.is_binary(reading.field.type):
            refuse_type(self._table, column, "binary", "text")
        return key_writer(column, reading.form, text=pa.types.is_string(reading.field.type))

    def read_page(self, span: KeyRange, limit: int) -> Page:
        """At most `limit` rows of `span`, in key order; without such an order its next rows, in any."""
        began = time.monotonic()
        self._nulls = span.nulls
        if self._in_pieces:
            if not self._began:
                self._be_patient()
                self._began = began
                self._execute(templates.PIECES, span)
            self._announced = self._next_piece(limit)
            ended, running = not self._stream.is_open, time.monotonic() - self._began
        else:
            self._execute(templates.PAGE, span, limit)
            self._announced = self._stream.take(meanwhile=self._decode_ahead, ceiling=self._ceiling, most=self._most)
            ended, running = self._announced < limit, 0.0
        return Page(self._announced, self._stream.size, time.monotonic() - began, running, ended)

    @property
    def _in_pieces(self) -> bool:
        return not self._key.unique or (self._nulls and self._shape.bare_nulls)

    def _next_piece(self, limit: int) -> int:
        if self._stream.is_open:
            return self._stream.take(limit, ceiling=self._ceiling, most=self._most)
        self._stream.end = self._stream.size = 0
        return 0

    def _decode_ahead(self, end: int) -> int:
        return self._decoder.decode_ahead(self._stream.buffer, end)

    def _execute(self, template: str, span: KeyRange, *limit: int) -> None:
        values: list[str | int] = []

        def placeholder(value: str) -> str:
            values.append(value)
            return "?"

        statement = template.format(
            columns=self._columns,
            table=self._shape.table,
            hint=self._shape.hint,
            within=self._shape.where(span, placeholder),
            key=self._shape.order(span),
        )
        self._check(self._stream.execute(statement, (*values, *limit)))

    def _check(self, columns: Sequence[ResultColumn]) -> None:
        """Hold what the server says of the result against what the decoder takes it for.

        Raises:
            DriftError: RIVET_SCHEMA_DRIFT.
            SourceError: RIVET_PROTOCOL_ERROR.
        """
        if len(columns) != len(self._readings):
            raise SourceError(
                "RIVET_PROTOCOL_ERROR",
                f"A result of {self._table.label} has {len(columns)} columns, not {len(self._readings)}.",
                "It is tried again on a new connection.",
                retryable=True,
            )
        for reading, column in zip(self._readings, columns, strict=True):
            if not reading.comes_as(column.type_code, column.flags):
                raise DriftError(
                    "RIVET_SCHEMA_DRIFT",
                    f"Column {reading.field.name} of {self._table.label} comes as another type than it is declared "
                    f"with (number {column.type_code} of the protocol, for {reading.form}).",
                    "If the table was changed just now, export it to a new destination.",
                    fatal=True,
                )

    def decode_page(self) -> Iterator[pa.RecordBatch]:
        """Decode the page; gives batches as they become complete."""
        yield from self._as_declared(self._decoder.decode(self._stream.buffer, self._stream.end))
        check_page_rows(self._table, self._decoder.page_rows, self._announced)

    def _as_declared(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Batches with the table's order of columns."""
        # Not a generator, which would hold a batch for longer than whoever takes it.
        return map(self._in_order, batches)

    def _in_order(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch.select(self._in_table)

    def last_key(self) -> KeyText | None:
        """Key of the page's last row, of one with NULL without its first column; None for a piece."""
        if self._in_pieces:
            return None
        first = int(self._nulls)
        values = self._decoder.last_row(self._key_indices[first:])
        if any(value is None for value in values):
            raise null_key()
        writers = self._key_writers[first:]
        key = tuple(write(value) for write, value in zip(writers, values, strict=True) if value is not None)
        if self._key.declared and self._walker.is_repeated(key, nulls=self._nulls):
            raise not_unique(self._table, self._key)
        return key

    def finish(self) -> Iterator[pa.RecordBatch]:
        """The rows that are left, once the window's last page is decoded."""
        yield from self._as_declared(self._decoder.finish())

    def replaced(self) -> Mapping[tuple[str, str], int]:
        """How many values NULL replaced so far, by column and reason."""
        return self._decoder.replaced
