"""The pages of one window: keyset pages, ranges of a table's storage, or pieces of one long statement."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import pq, sql

from rivet_dagster.sources.base import (
    BatchLimits,
    Key,
    KeyRange,
    KeyText,
    Page,
    SourceLimits,
    Table,
    TypeChoices,
    check_page_rows,
    not_unique,
)
from rivet_dagster.sources.postgres import templates
from rivet_dagster.sources.postgres.ceiling import ValueCeiling
from rivet_dagster.sources.postgres.keys import KeyShape, key_text
from rivet_dagster.sources.postgres.stream import CopyStream
from rivet_dagster.sources.postgres.typemap import TEXT_OID
from rivet_dagster.sources.postgres.types import readings
from rivet_dagster.wire.pgcopy import CopyDecoder

if TYPE_CHECKING:
    import pyarrow as pa

_PIECE_BYTES = 4 << 20
_ASSUMED_BLOCK_ROWS = 50.0
_MOST_BLOCKS = 4096
_LAST_BLOCK = (1 << 32) - 1


class PostgresWindowReader:
    """Reads the pages of one window from the snapshot that its session holds.

    Rows that no key tells apart cannot be read page by page in an order. A whole table is then read by ranges of the
    blocks that it is stored in, a short statement each; anything else by one statement, piece by piece.
    """

    def __init__(
        self,
        connection: psycopg.Connection[tuple[Any, ...]],
        stream: CopyStream,
        table: Table,
        key: Key,
        limits: BatchLimits,
        types: TypeChoices,
        bounds: SourceLimits,
    ) -> None:
        self._connection = connection
        self._table = table
        self._key = key
        self._shape = KeyShape(table, key)
        self._limits = bounds
        self._stream = stream
        utf8 = connection.info.parameter_status("server_encoding") == "UTF8"
        self._ceiling = ValueCeiling(table, key, bounds.max_value_bytes, utf8=utf8)
        found = [
            self._ceiling.reading(column, reading)
            for column, reading in zip(table.columns, readings(table, types), strict=True)
        ]
        columns = [reading.wire_column() for reading in found]
        self._decoder = CopyDecoder(columns, batch_bytes=limits.wire_bytes, batch_rows=limits.rows)
        names = [column.name for column in table.columns]
        self._readings = found
        self._columns = self._ceiling.selected(found)
        self._key_indices = [names.index(name) for name in key.columns]
        self._key_wire_types = [found[index].wire_type for index in self._key_indices]
        # What comes as text is what the server writes. A cast from text to regclass and its like takes less than that.
        self._key_natives = [
            "text" if found[index].wire_type == TEXT_OID else table.columns[index].native_type
            for index in self._key_indices
        ]
        self._received = self._decoded = self._block = self._passed = 0
        self._announced: int | None = None
        self._span: KeyRange | None = None
        self._blocks: int | None = None
        self._places: list[tuple[int, int]] = []
        self._upto = (0, 0)
        self._began = 0.0
        self.schema: pa.Schema = self._decoder.schema

    def read_page(self, span: KeyRange, limit: int) -> Page:
        """One COPY of at most `limit` rows of `span` in key order, or the next part of all of it."""
        first, self._span = self._span is None, span
        if self._is_ordered(span):
            return self._keyset_page(span, limit)
        if first:
            self._begin(span)
        return self._piece() if self._blocks is None else self._block_page(limit)

    def _is_ordered(self, span: KeyRange) -> bool:
        return self._key.unique and len(self._key.columns) > span.nulls

    def _keyset_page(self, span: KeyRange, limit: int) -> Page:
        page = self._copy(
            templates.PAGE,
            most=self._most(limit),
            within=self._shape.where(span),
            order=self._shape.order(span),
            limit=sql.Literal(limit),
        )
        return replace(page, ended=page.rows < limit)

    def _begin(self, span: KeyRange) -> None:
        """Find out how the rows can be read, and begin."""
        table = self._table
        if not self._key.columns and table.kind == "table":
            place = {"schema": table.schema, "name": table.name}
            (self._blocks,) = self._connection.execute(templates.STORED_BLOCKS, place).fetchone() or (None,)
        if self._blocks is not None:
            self._columns = self._ceiling.selected(self._readings, placed=True)
        else:
            self._began = time.monotonic()
            timeout = sql.Literal(round(self._limits.snapshot_s * 1000))
            self._connection.execute(sql.SQL(templates.LONG).format(snapshot_ms=timeout))
            self._stream.begin(self._statement(templates.WHOLE, within=self._shape.where(span)))

    def _most(self, limit: int) -> int | None:
        """Bytes that a page of `limit` rows may have; a single row has what its values may have."""
        return None if limit == 1 else self._limits.page_bytes

    def _block_page(self, limit: int) -> Page:
        self._places = self._places or self._next_places(limit)
        first, self._places = self._places[0], self._places[limit:]
        upto = self._places[0] if self._places else self._upto
        page = self._copy(templates.BLOCKS, most=self._most(limit), first=_tid(*first), end=_tid(*upto))
        self._passed += page.rows
        return replace(page, ended=upto[0] == _LAST_BLOCK)

    def _next_places(self, limit: int) -> list[tuple[int, int]]:
        """Where the next range begins; or where each of its rows is, if a page has to be smaller than a block.

        Rows whose values are stored elsewhere may be hundreds in a block, however wide they are.
        """
        assert self._blocks is not None
        density = self._passed / self._block if self._passed and self._block else _ASSUMED_BLOCK_ROWS
        blocks = min(int(limit / density), _MOST_BLOCKS)
        first = (self._block, 0)
        self._block += max(1, blocks)
        # The last range is open: a table that was rewritten meanwhile may have more blocks.
        self._upto = (_LAST_BLOCK if self._block >= self._blocks else self._block, 0)
        return [first] if blocks and limit > 1 else self._places_within(first, self._upto)

    def _places_within(self, first: tuple[int, int], end: tuple[int, int]) -> list[tuple[int, int]]:
        """Blocks and numbers of a range's rows; of `first`, where there are none. Partitions share places."""
        statement = sql.SQL(templates.PLACES).format(table=self._shape.table, first=_tid(*first), end=_tid(*end))
        found = {text for (text,) in self._connection.execute(statement)}
        return sorted(_place(text) for text in found) or [first]

    def _piece(self) -> Page:
        began = time.monotonic()
        if self._stream.is_open:
            with self._ceiling.refusing():
                self._received, self._announced = self._stream.take(_PIECE_BYTES)
        now = time.monotonic()
        return Page(0, self._received, now - began, running_s=now - self._began, ended=not self._stream.is_open)

    def _copy(self, template: Any, *, most: int | None, **parts: sql.Composable) -> Page:
        began = time.monotonic()
        with self._ceiling.refusing():
            self._received, self._announced = self._stream.drain(self._statement(template, **parts), most)
        self._decoded = 0
        return Page(self._announced, self._received, time.monotonic() - began)

    def _statement(self, template: Any, **parts: sql.Composable) -> bytes:
        statement = sql.SQL(template).format(columns=self._columns, table=self._shape.table, **parts)
        return statement.as_bytes(self._connection)

    def decode_page(self) -> Iterator[pa.RecordBatch]:
        """Decode the page; gives batches as they become complete."""
        yield from self._decoder.decode(self._stream.buffer, self._received)
        self._decoded += self._decoder.page_rows
        if self._announced is not None:
            check_page_rows(self._table, self._decoded, self._announced)

    def last_key(self) -> KeyText | None:
        """Key of the page's last row. The server renders the very bytes it sent, so no type is guessed at here."""
        if self._span is None or not self._is_ordered(self._span):
            return None
        skipped = int(self._span.nulls)
        values = self._decoder.last_row(self._key_indices)[skipped:]
        rendered = (f"${number}::{native}::text" for number, native in enumerate(self._key_natives[skipped:], start=1))
        result = self._connection.pgconn.exec_params(
            f"SELECT {', '.join(rendered)}".encode(),
            values,
            param_types=self._key_wire_types[skipped:],
            param_formats=[pq.Format.BINARY] * len(values),
        )
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise psycopg.errors.error_from_result(result)
        key = key_text([result.get_value(0, n) for n in range(len(values))])
        if self._key.declared:
            self._check_declared(key, nulls=bool(skipped))
        return key

    def _check_declared(self, key: KeyText, *, nulls: bool) -> None:
        """Rows with the key of a page's last row would be missing from the next page."""
        equal = self._shape.equal(key, nulls=nulls)
        twice = sql.SQL(templates.TWICE).format(table=self._shape.table, equal=equal)
        if self._connection.execute(twice).fetchone():
            raise not_unique(self._table, self._key)

    def finish(self) -> Iterator[pa.RecordBatch]:
        """The rows that are left, once the window's last page is decoded."""
        return self._decoder.finish()

    def replaced(self) -> Mapping[tuple[str, str], int]:
        """How many values NULL replaced so far, by column and reason."""
        return self._decoder.replaced


def _tid(block: int, number: int) -> sql.Composable:
    """The place of a block's row; number 0 is before its first one."""
    return sql.SQL("'({},{})'::tid").format(sql.SQL(str(block)), sql.SQL(str(number)))  # numbers


def _place(tid: str) -> tuple[int, int]:
    """Block and number in the server's text of a row's place."""
    block, _, number = tid.strip("()").partition(",")
    return int(block), int(number)
