"""An export's pages as one worker reads them, and the same statements with nothing decoded. MySQL and MariaDB only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rivet_dagster.export.servo import PageServo
from rivet_dagster.sources.base import BatchLimits, KeyRange, SourceLimits, Table, WindowReader
from rivet_dagster.sources.mysql.connect import connect, parse_dsn
from rivet_dagster.sources.mysql.statements import Statements
from rivet_dagster.sources.mysql.stream import ResultColumn, ResultStream
from rivet_dagster.sources.ordering import choose_key
from tests.benchmarks.contender import Task

# Somewhat more than the 8 MiB on the wire that an export's pages aim at.
_PIECE_ROWS = 50_000


@dataclass(frozen=True)
class Asked:
    """One page of an export.

    Attributes:
        span, rows: what the reader was asked for.
        statement, values: what it sent.
    """

    span: KeyRange
    rows: int
    statement: str
    values: Sequence[str | int]


class Pages:
    """The pages of one table.

    Args:
        task: the table; nothing is written.
    """

    def __init__(self, task: Task) -> None:
        from tests.support.exports import prepared  # not paid for by what only drains

        export = prepared(task.dsn, task.folder, task.relation)
        self._task = task
        self._config = export.config
        self._source = export.source
        self._source.warm()

    def plan(self) -> list[Asked]:
        """Read the table once, in pages of the size that an export chooses, and remember what was asked for."""
        with _sent_statements() as sent, self._opened() as (table, reader):
            spans = list(self._spans(table, reader))
        return [Asked(*span, *statement) for span, statement in zip(spans, sent, strict=True)]

    def _spans(self, table: Table, reader: WindowReader) -> Iterator[tuple[KeyRange, int]]:
        limits = self._config.limits
        unbounded = any(column.unbounded for column in table.columns)
        servo = PageServo(limits.page_bytes, limits.page_seconds, table.average_row_bytes, unbounded=unbounded)
        span, complete = KeyRange(None, None), False
        while not complete:
            asked = servo.rows
            yield span, asked
            page = reader.read_page(span, asked)
            servo.observe(asked, page.rows, page.wire_bytes, page.seconds)
            for _ in reader.decode_page():
                pass
            complete = page.rows < asked
            if not complete:
                span = KeyRange(reader.last_key(), None)

    def decode(self, pages: Sequence[Asked]) -> int:
        """Read pages and decode them, as an export does; gives the rows."""
        rows = 0
        with self._opened() as (_, reader):
            for page in pages:
                rows += reader.read_page(page.span, page.rows).rows
                for _ in reader.decode_page():
                    pass
        return rows

    @contextmanager
    def _opened(self) -> Iterator[tuple[Table, WindowReader]]:
        """The table, and a reader in a new session and snapshot."""
        session = self._source.connect()
        try:
            table = session.describe(self._task.schema, self._task.table)
            limits = BatchLimits(wire_bytes=self._config.format.row_group_bytes)
            with session.open_window(table, choose_key(table, None), limits) as reader:
                yield table, reader
        finally:
            session.close()


_Statement = tuple[str, Sequence[str | int]]


@contextmanager
def _sent_statements() -> Iterator[list[_Statement]]:
    """The statements that streams send, with their values, for as long as the context lasts."""
    sent: list[_Statement] = []
    execute = ResultStream.execute

    def noted(stream: ResultStream, sql: str, values: Sequence[str | int]) -> tuple[ResultColumn, ...]:
        sent.append((sql, values))
        return execute(stream, sql, values)

    ResultStream.execute = noted  # type: ignore[method-assign, assignment]
    try:
        yield sent
    finally:
        ResultStream.execute = execute  # type: ignore[method-assign]


class Drain:
    """A new connection, from which rows are taken and not looked at."""

    def __init__(self, dsn: str) -> None:
        self._connection = connect(parse_dsn(dsn), SourceLimits(statement_timeout_s=600))
        self._stream = ResultStream(Statements(self._connection))

    def take(self, statement: str, values: Sequence[str | int] = ()) -> tuple[int, int]:
        """Run a statement and take its rows, piece by piece; gives their number and their bytes."""
        self._stream.execute(statement, values)
        rows = taken = 0
        while self._stream.is_open:
            rows += self._stream.take(_PIECE_ROWS)
            taken += self._stream.size
        return rows, taken

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
