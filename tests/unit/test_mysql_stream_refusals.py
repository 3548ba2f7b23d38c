"""Results of prepared statements that are none, or end too early: refused and read again, never taken in part."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import pymysql
import pytest

from rivet_dagster.errors import DriftError, RivetError, SourceError
from rivet_dagster.sources.base import NO_KEY, BatchLimits, Key, KeyRange
from rivet_dagster.sources.mysql import connect as connect_module
from rivet_dagster.sources.mysql.session import MysqlSession
from tests.support.mysql_packets import (
    AUTOCOMMIT,
    COM_STMT_EXECUTE,
    COM_STMT_PREPARE,
    LARGEST,
    NOT_NULL,
    UNSIGNED,
    Column,
    Result,
    Type,
    column_definition,
    eof_packet,
    err_packet,
    lenenc,
    ok_packet,
    payloads_of,
)
from tests.support.mysql_results import (
    ANSWER_BYTES,
    ID,
    PAGE,
    PREPARED_BYTES,
    ROWS,
    SMALL,
    TABLE,
    TERMS,
    TEXT,
    as_dicts,
    deprecate_eof,
    framed,
    is_lost,
    is_protocol_error,
    refused,
    rows_by,
    scripted,
    server_answers,
    session_of,
    streamed,
)
from tests.support.mysql_wire import Fault

Action: TypeAlias = Literal["fin", "rst"]


# ------------------------------------------------------------------------------------------ errors of the server


@pytest.mark.parametrize("code", [COM_STMT_PREPARE, COM_STMT_EXECUTE])
@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (1146, ("RIVET_SOURCE_TABLE_MISSING", False)),
        (1054, ("RIVET_SOURCE_COLUMN_MISSING", False)),
        (1142, ("RIVET_SOURCE_FORBIDDEN", False)),
        (1317, ("RIVET_SOURCE_TIMEOUT", True)),
        (1969, ("RIVET_SOURCE_TIMEOUT", True)),
        (3024, ("RIVET_SOURCE_TIMEOUT", True)),
        (1205, ("RIVET_SOURCE_LOCKED", True)),
        (1412, ("RIVET_SOURCE_LOST", True)),
        (1213, ("RIVET_SOURCE_LOST", True)),
        (1064, ("RIVET_SOURCE_FAILED", False)),
    ],
)
def test_an_error_instead_of_a_result(code: int, number: int, expected: tuple[str, bool]) -> None:
    with scripted(SMALL) as server:
        server_answers(server, code, err_packet(number, "HY000", f"the words of {number}"))
        with session_of(server) as session:
            for _ in range(2):
                error = refused(session)
                assert (error.code, error.retryable) == expected
                assert f"the words of {number} (error {number})" in error.what
                assert "shop.t" in error.what
            assert session._connection.open
    assert not [text for text in server.texts() if text.startswith("KILL")]
    assert server.texts().count("ROLLBACK") == 2


@pytest.mark.parametrize("rows", [[], ROWS])
def test_an_error_where_rows_would_end(rows: list[list[Any]]) -> None:
    """The rows before it are not an answer; the connection goes on."""
    answers = [Result([ID, TEXT], rows, error=err_packet(3024, "HY000", "interrupted")), SMALL]
    with scripted() as server:
        server.on(PAGE, lambda asked: answers.pop(0) if asked.code == COM_STMT_EXECUTE else SMALL, at=None)
        with session_of(server) as session:
            error = refused(session)
            assert (error.code, error.retryable) == ("RIVET_SOURCE_TIMEOUT", True)
            assert rows_by(session) == as_dicts(ROWS)
    assert len(server.logins) == 1
    assert len(server.texts(COM_STMT_PREPARE)) == 1


def test_an_error_within_the_descriptions_of_columns() -> None:
    broken = [lenenc(2), column_definition(ID), err_packet(1317, "70100", "interrupted")]
    with scripted(SMALL) as server:
        server_answers(server, COM_STMT_EXECUTE, broken)
        with session_of(server) as session:
            assert refused(session).code == "RIVET_SOURCE_TIMEOUT"


@pytest.mark.parametrize("packet", [b"\xff", b"\xff\x10", b"\xff\x10\x04", b"\xff\x10\x04#\xff\xff\xff\xff\xffwhat"])
@pytest.mark.parametrize("at_once", [True, False])
def test_an_error_that_cannot_be_read(packet: bytes, at_once: bool) -> None:
    with scripted(SMALL) as server:
        server_answers(server, COM_STMT_EXECUTE, packet if at_once else Result([ID, TEXT], ROWS, error=packet))
        with session_of(server) as session:
            error = refused(session)
    assert is_protocol_error(error)


# ------------------------------------------------------------------------------------------ what is no result


NO_RESULTS: dict[str, Sequence[bytes]] = {
    "OK": [ok_packet()],
    "no columns": [b"\0"],
    "nothing": [b""],
    "NULL": [b"\xfb"],
    "two columns in three bytes": [b"\2\0\0"],
    "half a number": [b"\xfc\2"],
    "EOF": [eof_packet()],
    "no end of the columns": [
        lenenc(2),
        column_definition(ID),
        column_definition(TEXT),
        b"\0\0\1\0\0\0\0",
        eof_packet(),
    ],
    "one column more": [lenenc(3), *map(column_definition, (ID, TEXT, TEXT)), eof_packet(), eof_packet()],
    "one column less": [lenenc(1), column_definition(ID), eof_packet(), eof_packet()],
    "fewer columns than announced": [lenenc(3), *map(column_definition, (ID, TEXT)), eof_packet(), eof_packet()],
    "a column that is a row": [lenenc(2), column_definition(ID), b"\0\0\1\0\0\0\0", eof_packet(), eof_packet()],
}


@pytest.mark.parametrize("kind", NO_RESULTS)
def test_what_is_no_result_is_refused(kind: str) -> None:
    with scripted(SMALL) as server:
        server_answers(server, COM_STMT_EXECUTE, NO_RESULTS[kind])
        with session_of(server) as session:
            error = refused(session)
            assert is_protocol_error(error)
            # Nobody knows where the next packet would begin.
            assert not session._connection.open or kind.startswith("one column")


@pytest.mark.parametrize("size", range(len(column_definition(TEXT))))
def test_a_description_of_a_column_that_ends_too_early(size: int) -> None:
    garbled = [lenenc(2), column_definition(ID), column_definition(TEXT)[:size], eof_packet(), eof_packet()]
    with scripted(SMALL) as server:
        server_answers(server, COM_STMT_EXECUTE, garbled)
        with session_of(server) as session:
            assert is_protocol_error(refused(session))


@pytest.mark.parametrize("mask", [0xFF, 0x80, 0x01])
def test_a_description_of_a_column_that_is_garbled(mask: int) -> None:
    """Every byte of it: it is refused, or it says the same of the type."""
    whole = column_definition(TEXT)
    answers = [whole[:at] + bytes([whole[at] ^ mask]) + whole[at + 1 :] for at in range(len(whole))]
    ended = 0
    with scripted() as server:
        server.on(PAGE, SMALL, at=[COM_STMT_PREPARE])
        server.on(PAGE, lambda asked: [lenenc(2), column_definition(ID), answers[ended], *framed_rows()])
        for _ in answers:
            with session_of(server) as session:
                found = rows_or_code(session)
                assert found in (as_dicts(ROWS), "RIVET_PROTOCOL_ERROR", "RIVET_SCHEMA_DRIFT")
            ended += 1
    assert ended == len(whole)


def rows_or_code(session: MysqlSession) -> list[dict[str, Any]] | str:
    try:
        return rows_by(session)
    except RivetError as error:
        return error.code


def framed_rows() -> list[bytes]:
    """The payloads behind the descriptions of the columns."""
    return list(payloads_of(SMALL, capabilities=TERMS, binary=True))[3:]


@pytest.mark.parametrize(
    "columns",
    [
        (Column("id", Type.LONGLONG, flags=NOT_NULL), TEXT),
        (Column("id", Type.LONG, flags=NOT_NULL | UNSIGNED), TEXT),
        (Column("id", Type.VAR_STRING), TEXT),
        (ID, Column("v", Type.LONG)),
        (ID, Column("v", Type.NEWDECIMAL)),
        (ID, Column("v", Type.NULL)),
        (ID, Column("v", Type.DATETIME)),
    ],
)
def test_a_column_of_another_type_than_the_catalog_says(columns: tuple[Column, Column]) -> None:
    result = Result(columns, [])
    with scripted(result) as server, session_of(server) as session:
        error = refused(session)
    assert isinstance(error, DriftError)
    assert (error.code, error.retryable, error.fatal) == ("RIVET_SCHEMA_DRIFT", False, True)
    assert "shop.t" in error.what
    assert f"Column {'id' if columns[0] != ID else 'v'} " in error.what


@pytest.mark.parametrize(
    "packet", [b"", b"\1\0\1\0\0\0\0", b"\0", b"\0\0", b"\0\0\1\0\0", b"\0\0\1\0\0\0\5four", b"\xfb"]
)
@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_packet_among_the_rows_that_is_none(packet: bytes, at: int) -> None:
    rows: list[Any] = list(ROWS)
    rows.insert(at, packet)
    with scripted(Result([ID, TEXT], rows)) as server, session_of(server) as session:
        assert is_protocol_error(refused(session))


@pytest.mark.parametrize("end", [b"\xfe", b"\xfe\0", b"\xfe\0\0\2", b"\xfe\0\0\2\0\0", b"\xfe" + bytes(9)])
@pytest.mark.parametrize("deprecated", [False, True])
def test_an_end_that_cannot_be_read(end: bytes, deprecated: bool) -> None:
    rows: list[Any] = [*ROWS, end]
    with scripted(Result([ID, TEXT], rows)) as server, streamed(server) as (stream, connection):
        if deprecated:
            deprecate_eof(server, connection)
        stream.execute("SELECT rivet_dagster", [])
        with pytest.raises(SourceError) as caught:
            stream.take()
    assert is_protocol_error(caught.value)
    assert stream.is_open


def test_what_follows_the_end_is_refused() -> None:
    packets = [*payloads_of(SMALL, capabilities=TERMS, binary=True), b"\0\0\1\0\0\0\0"]
    with scripted(SMALL) as server, streamed(server) as (stream, _):
        server_answers(server, COM_STMT_EXECUTE, packets)
        stream.execute("SELECT rivet_dagster", [])
        with pytest.raises(SourceError) as caught:
            stream.take()
    assert is_protocol_error(caught.value)


@pytest.mark.parametrize("deprecated", [False, True])
def test_another_result_behind_the_first_is_refused(deprecated: bool) -> None:
    result = Result([ID, TEXT], ROWS, status=AUTOCOMMIT | 0x0008)
    with scripted(result) as server, streamed(server) as (stream, connection):
        if deprecated:
            deprecate_eof(server, connection)
        stream.execute("SELECT rivet_dagster", [])
        with pytest.raises(SourceError, match="another result follows"):
            stream.take()
        assert stream.is_open


@pytest.mark.parametrize("index", range(len(framed(SMALL))))
def test_a_packet_of_a_result_with_another_number(index: int) -> None:
    with scripted(SMALL) as server:
        server_answers(server, COM_STMT_EXECUTE, Fault(SMALL, wrong_sequence=index))
        with session_of(server) as session:
            assert is_protocol_error(refused(session))
            assert not session._connection.open


@pytest.mark.parametrize("index", range(6))
def test_a_packet_of_a_preparation_with_another_number(index: int) -> None:
    with scripted(SMALL) as server:
        server_answers(server, COM_STMT_PREPARE, Fault(SMALL, wrong_sequence=index))
        with session_of(server) as session:
            assert is_protocol_error(refused(session))
            assert not session._connection.open


def test_a_packet_with_another_number_behind_the_descriptions() -> None:
    """Sixteen megabytes are no description of a column either."""
    with scripted(SMALL) as server:
        server_answers(server, COM_STMT_EXECUTE, [lenenc(2), bytes(LARGEST)])
        with session_of(server) as session:
            assert is_protocol_error(refused(session))


# ------------------------------------------------------------------------------------------ lost connections


@pytest.mark.parametrize("action", ["fin", "rst"])
def test_a_result_that_is_cut_at_any_byte_is_lost(action: Action) -> None:
    """Also by the whole table, whose first pieces are good."""
    after = 0
    with scripted() as server:
        server.on(PAGE, SMALL, at=[COM_STMT_PREPARE])
        server.on(PAGE, lambda asked: Fault(SMALL, after=after, action=action))
        for after in range(ANSWER_BYTES):
            for key in (TABLE.keys[0], NO_KEY):
                with session_of(server) as session:
                    error = refused(session, key=key)
                    assert is_lost(error), (after, error)
                    assert not session._connection.open
        if action == "fin":
            after = ANSWER_BYTES
            with session_of(server) as session:
                assert rows_by(session) == as_dicts(ROWS)
                assert is_lost(refused(session))  # the next statement finds nobody


@pytest.mark.parametrize("action", ["fin", "rst"])
def test_a_preparation_that_is_cut_at_any_byte_is_lost(action: Action) -> None:
    after = 0
    with scripted(SMALL) as server:
        server_answers(server, COM_STMT_PREPARE, lambda asked: Fault(SMALL, after=after, action=action))
        for after in range(PREPARED_BYTES):
            with session_of(server) as session:
                error = refused(session)
                assert is_lost(error), (after, error)
    assert server.texts(COM_STMT_EXECUTE) == []


@pytest.mark.parametrize("key", [TABLE.keys[0], NO_KEY])
@pytest.mark.parametrize("after", [0, 3, 90, ANSWER_BYTES - 1])
def test_a_result_that_stops_is_given_up(monkeypatch: pytest.MonkeyPatch, key: Key, after: int) -> None:
    monkeypatch.setattr(connect_module, "_GRACE_SECONDS", 0.1)
    with (
        scripted(Fault(SMALL, after=after, action="stall")) as server,
        session_of(server, statement_timeout_s=0.1, snapshot_s=0.1) as session,
    ):
        error = refused(session, key=key)
        assert is_lost(error)
        assert "timed out" in error.what
        assert not session._connection.open
    assert server.texts()[-1] == f"KILL QUERY {server.logins[0].connection_id}"


def test_a_result_that_stops_for_a_while_is_whole() -> None:
    resume = threading.Event()
    with (
        scripted(Fault(SMALL, after=100, action="stall", resume=resume)) as server,
        session_of(server) as session,
    ):
        timer = threading.Timer(0.1, resume.set)
        timer.start()
        assert rows_by(session) == as_dicts(ROWS)
        timer.join()


def test_a_result_that_is_left_is_ended_on_the_server() -> None:
    with scripted(Result([ID, TEXT], ROWS * 50)) as server, session_of(server) as session:
        with session.open_window(TABLE, NO_KEY, BatchLimits()) as reader:
            assert reader.read_page(KeyRange(None, None), 2).rows == 2
        assert not session._connection.open
        assert is_lost(refused(session))
    assert [text for text in server.texts() if text.startswith("KILL")] == ["KILL QUERY 1"]
    assert len(server.logins) == 2


def test_a_closed_connection_is_refused() -> None:
    with scripted(SMALL) as server, streamed(server) as (stream, connection):
        connection.close()
        with pytest.raises(pymysql.InterfaceError):
            stream.execute("SELECT rivet_dagster", [])
    assert server.texts(COM_STMT_PREPARE) == []
