"""Results of a scripted MySQL server, and sessions of the source that read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import pyarrow as pa
import pytest

from rivet_dagster.errors import RivetError
from rivet_dagster.sources import SourceLimits, open_source
from rivet_dagster.sources.base import BatchLimits, Key, KeyRange, Table
from rivet_dagster.sources.base import Column as TableColumn
from rivet_dagster.sources.mysql.connect import connect, parse_dsn
from rivet_dagster.sources.mysql.session import MysqlSession
from rivet_dagster.sources.mysql.statements import Statements
from rivet_dagster.sources.mysql.stream import ResultStream
from tests.support.mysql_packets import (
    CAPABILITIES,
    DEPRECATE_EOF,
    NOT_NULL,
    Column,
    Result,
    Type,
    frames,
    ok_packet,
    payloads_of,
    prepared_payloads,
)
from tests.support.mysql_wire import Answer, Handler, ScriptedServer

ID = Column("id", Type.LONG, flags=NOT_NULL)
TEXT = Column("v", Type.VAR_STRING)
ROWS: list[list[Any]] = [[1, "one"], [2, None], [-3, "drei €"]]
SMALL = Result([ID, TEXT], ROWS)
TABLE = Table(
    "shop",
    "t",
    (
        TableColumn("id", "int(11)", nullable=False, kind="int"),
        TableColumn("v", "varchar(20)", nullable=True, kind="varchar", collation="utf8mb4_general_ci"),
    ),
    (Key(("id",), "PRIMARY", primary=True),),
)
TERMS = CAPABILITIES & ~DEPRECATE_EOF
PAGE = "rivet_dagster"


def framed(result: Result, capabilities: int = TERMS) -> list[bytes]:
    """The packets of a result in the binary protocol."""
    return list(frames(payloads_of(result, capabilities=capabilities, binary=True)))


ANSWER_BYTES = len(b"".join(framed(SMALL)))
PREPARED_BYTES = len(b"".join(frames(prepared_payloads(1, 1, SMALL.columns, capabilities=TERMS))))


def scripted(page: Answer | None = None, **options: Any) -> ScriptedServer:
    """A server that answers what a new session asks, and its pages with `page`."""
    server = ScriptedServer(**options)
    server.on(r"^SELECT VERSION\(\)$", Result([Column("VERSION()", Type.VAR_STRING)], [["8.0.36"]]))
    server.on("^KILL QUERY", ok_packet())
    if page is not None:
        server.on(PAGE, page)
    return server


@contextmanager
def streamed(server: ScriptedServer) -> Iterator[tuple[ResultStream, Any]]:
    connection: Any = connect(parse_dsn(server.dsn()), SourceLimits())
    try:
        yield ResultStream(Statements(connection)), connection
    finally:
        if connection.open:
            connection.close()


@contextmanager
def session_of(server: ScriptedServer, dsn: str = "", **limits: float) -> Iterator[MysqlSession]:
    with closing(open_source(dsn or server.dsn(), SourceLimits(**limits)).connect()) as session:
        assert isinstance(session, MysqlSession)
        yield session


def rows_by(
    session: MysqlSession, table: Table = TABLE, key: Key | None = None, limits: BatchLimits | None = None
) -> list[dict[str, Any]]:
    """The rows of one page of a window, or of its pieces of two rows where there is no key."""
    found: list[pa.RecordBatch] = []
    chosen = table.keys[0] if key is None else key
    with session.open_window(table, chosen, limits or BatchLimits()) as reader:
        while True:
            page = reader.read_page(KeyRange(None, None), 2 if not chosen.columns else 1_000_000)
            found += [pa.RecordBatch.from_pylist(batch.to_pylist(), batch.schema) for batch in reader.decode_page()]
            if chosen.columns or page.rows < 2:
                break
        found += [pa.RecordBatch.from_pylist(batch.to_pylist(), batch.schema) for batch in reader.finish()]
    return [row for batch in found for row in batch.to_pylist()]


def as_dicts(rows: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    return [{"id": number, "v": text} for number, text in rows]


def refused(session: MysqlSession, **options: Any) -> RivetError:
    with pytest.raises(RivetError) as caught:
        rows_by(session, **options)
    return caught.value


def is_protocol_error(error: RivetError) -> bool:
    return (error.code, error.retryable, error.fatal) == ("RIVET_PROTOCOL_ERROR", True, False)


def is_lost(error: RivetError) -> bool:
    return (error.code, error.retryable, error.fatal) == ("RIVET_SOURCE_LOST", True, False)


def server_answers(server: ScriptedServer, code: int, answer: Answer | Handler) -> None:
    """Pages are answered like this, by a rule before all others."""
    rules = vars(server)["_rules"]
    server.on(PAGE, answer, at=[code])
    rules.insert(0, rules.pop())


def deprecate_eof(server: ScriptedServer, connection: Any) -> None:
    """Let both sides of the first connection agree that no EOF packets are sent, which the driver never asks for."""
    vars(vars(server)["_sessions"][0])["_terms"]["capabilities"] |= DEPRECATE_EOF
    connection.client_flag |= DEPRECATE_EOF
