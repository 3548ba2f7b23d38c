"""One MySQL or MariaDB session: index walks and windows of keyset pages."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pymysql
from pymysql import err

from rivet_dagster.errors import DriftError, SourceError
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
from rivet_dagster.sources.choices import refuse_type
from rivet_dagster.sources.mysql import templates
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
from rivet_dagster.sources.mysql.keys import KeyShape, key_text, quoted, spelled
from rivet_dagster.sources.mysql.keytext import key_writer
from rivet_dagster.sources.mysql.statements import Statements, wait_at_most

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

    def walk(self, table: Table, key: Key, after: KeyText | None, rows: int) -> Step | None:
        """Walk the key's index `rows` rows on from `after`; None where no row is beyond it."""
        shape = KeyShape(table, key)
        parts = {
            "key_texts": shape.texts,
            "table": shape.table,
            "index": shape.index,
            "beyond": shape.where(KeyRange(after, None), self._connection.escape),
            "key": shape.columns,
            "key_descending": shape.descending,
        }
        with translated(f"walking the key of {table.label}"):
            found = self._fetch(templates.WALK.format(**parts, skip=rows - 1))
            if found:
                return Step(key_text(found), rows)
            last = self._fetch(templates.WALK_LAST.format(**parts))
            counted = self._fetch(templates.WALK_COUNT.format(**parts, limit=rows)) if last else None
            return Step(key_text(last), counted[0]) if last and counted else None

    def _fetch(self, statement: str) -> tuple[Any, ...] | None:
        with self._connection.cursor() as cursor:
            cursor.execute(statement)
            found: tuple[Any, ...] | None = cursor.fetchone()
            return found

    @contextmanager
    def open_window(self, table: Table, key: Key, limits: BatchLimits) -> Iterator[MysqlWindowReader]:
        """One consistent snapshot, held until the context ends."""
        from rivet_dagster.sources.mysql.stream import ResultStream  # noqa: PLC0415 (numpy is paid for here)

        # One buffer for all windows of the session: it has grown to the size of a page once.
        self._stream = self._stream or ResultStream(Statements(self._connection))
        reader = MysqlWindowReader(self._stream, table, key, limits, self._types)
        with translated(f"reading {table.label}"), self._snapshot(self._stream, long=not key.columns):
            yield reader

    @contextmanager
    def _snapshot(self, stream: ResultStream, *, long: bool) -> Iterator[None]:
        """A read-only transaction; `long` lets one statement take as long as a snapshot may last."""
        idle = str(whole_seconds(self._limits.idle_in_transaction_timeout_s))
        settings = {"wait_timeout": idle, "net_write_timeout": idle}
        try:
            self._execute(assignments(settings))
            if long:
                self._limit_statements(self._limits.snapshot_s)
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
                    if long:
                        self._limit_statements(self._limits.statement_timeout_s)

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

    Without a key the whole table is one statement, whose rows are taken piece by piece.
    """

    def __init__(self, stream: ResultStream, table: Table, key: Key, limits: BatchLimits, types: TypeChoices) -> None:
        # numba and pyarrow are paid for when reading begins, not when definitions load.
        from rivet_dagster.sources.mysql.types import readings  # noqa: PLC0415
        from rivet_dagster.wire.mysqlrows import RowDecoder  # noqa: PLC0415

        self._stream = stream
        self._table = table
        self._key = key
        self._shape = KeyShape(table, key)
        self._readings = readings(table, types)
        columns = [reading.wire_column() for reading in self._readings]
        batch_bytes = max(1, int(limits.wire_bytes * _DENSITY))
        self._decoder = RowDecoder(columns, batch_bytes=batch_bytes, batch_rows=limits.rows)
        names = [column.name for column in table.columns]
        self._columns = ", ".join(
            spelled(reading.select, f"t.{quoted(name)}") for name, reading in zip(names, self._readings, strict=True)
        )
        self._key_indices = [names.index(name) for name in key.columns]
        self._key_writers = [self._writer(index) for index in self._key_indices]
        self._announced = 0
        self._began = 0.0
        self.schema: pa.Schema = self._decoder.schema

    def _writer(self, index: int) -> Any:
        import pyarrow as pa  # noqa: PLC0415

        column, reading = self._table.columns[index], self._readings[index]
        if column.collation and pa.types.is_binary(reading.field.type):
            refuse_type(self._table, column, "binary", "text")
        return key_writer(column, reading.form, text=pa.types.is_string(reading.field.type))

    def read_page(self, span: KeyRange, limit: int) -> Page:
        """At most `limit` rows of `span`, in key order; without a key the table's next rows, in any order."""
        began = time.monotonic()
        if self._key.columns:
            self._execute_page(span, limit)
            self._announced = self._stream.take(meanwhile=self._decode_ahead)
            running = 0.0
        else:
            if not self._began:
                self._began = began
                self._check(self._stream.execute(self._whole(), ()))
            self._announced = self._stream.take(limit) if self._stream.is_open else 0
            running = time.monotonic() - self._began
        return Page(self._announced, self._stream.size, time.monotonic() - began, running)

    def _decode_ahead(self, end: int) -> int:
        return self._decoder.decode_ahead(self._stream.buffer, end)

    def _execute_page(self, span: KeyRange, limit: int) -> None:
        values: list[str | int] = []

        def placeholder(value: str) -> str:
            values.append(value)
            return "?"

        statement = templates.PAGE.format(
            columns=self._columns,
            table=self._shape.table,
            index=self._shape.index,
            within=self._shape.where(span, placeholder),
            key=self._shape.columns,
        )
        self._check(self._stream.execute(statement, (*values, limit)))

    def _whole(self) -> str:
        return templates.WHOLE.format(columns=self._columns, table=self._shape.table)

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
        yield from self._decoder.decode(self._stream.buffer, self._stream.end)
        check_page_rows(self._table, self._decoder.page_rows, self._announced)

    def last_key(self) -> KeyText:
        """Key of the page's last row."""
        if not self._key.columns:
            return ()
        values = self._decoder.last_row(self._key_indices)
        if any(value is None for value in values):
            raise null_key()
        return tuple(write(value) for write, value in zip(self._key_writers, values, strict=True) if value is not None)

    def finish(self) -> Iterator[pa.RecordBatch]:
        """The rows that are left, once the window's last page is decoded."""
        yield from self._decoder.finish()

    def replaced(self) -> Mapping[tuple[str, str], int]:
        """How many values NULL replaced so far, by column and reason."""
        return self._decoder.replaced
