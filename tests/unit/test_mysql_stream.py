"""Results of prepared statements as bytes: taken whole, by every road; and statements with the values bound to them."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rivet_dagster.errors import SourceError
from rivet_dagster.sources.base import NO_KEY, BatchLimits
from rivet_dagster.sources.mysql import stream as stream_module
from rivet_dagster.sources.mysql.statements import Statements
from tests.support.exports import export_all, prepared
from tests.support.mysql_auth import certificates
from tests.support.mysql_packets import (
    AUTOCOMMIT,
    CAPABILITIES,
    COM_STMT_EXECUTE,
    COM_STMT_PREPARE,
    LARGEST,
    NOT_NULL,
    UNSIGNED,
    Column,
    Result,
    Type,
    eof_packet,
    err_packet,
)
from tests.support.mysql_results import (
    ID,
    PAGE,
    ROWS,
    SMALL,
    TERMS,
    TEXT,
    as_dicts,
    deprecate_eof,
    framed,
    is_protocol_error,
    refused,
    rows_by,
    scripted,
    server_answers,
    session_of,
    streamed,
)
from tests.support.mysql_wire import Fault, ScriptedServer
from tests.support.readers import exported_rows, sealed


@pytest.fixture(autouse=True)
def small_first_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A buffer that results of some megabytes outgrow."""
    monkeypatch.setattr(stream_module, "_FIRST_BYTES", 1 << 17)


# ------------------------------------------------------------------------------------------ whole results


@pytest.mark.parametrize("deprecated", [False, True])
@pytest.mark.parametrize("rows", [[], ROWS[:1], ROWS])
@pytest.mark.parametrize(("status", "warnings"), [(AUTOCOMMIT, 0), (0x0022, 3), (0xFFFF & ~0x0008, 0xFFFF)])
def test_rows_arrive_as_they_were_sent(deprecated: bool, rows: list[list[Any]], status: int, warnings: int) -> None:
    """Whether EOF packets end columns and rows, or an OK packet the rows alone."""
    result = Result([ID, TEXT], rows, status=status, warnings=warnings)
    with scripted(result) as server, streamed(server) as (stream, connection):
        if deprecated:
            deprecate_eof(server, connection)
        packets = framed(result, CAPABILITIES if deprecated else TERMS)
        before = 3 if deprecated else 4
        for _ in range(3):
            columns = stream.execute("SELECT rivet_dagster ?", ["a"])
            assert [(each.name, each.type_code, each.flags) for each in columns] == [("id", 3, 1), ("v", 253, 0)]
            assert (stream.is_open, stream.take(), stream.is_open) == (True, len(rows), False)
            expected = b"".join(packets[before:-1])
            assert stream.buffer[: stream.end].tobytes() == expected
            assert stream.size == len(expected)


def test_a_result_may_be_taken_piece_by_piece() -> None:
    rows = [[number, "x" * (number * 37 % 900)] for number in range(1000)]
    result = Result([ID, TEXT], rows)
    whole = framed(result)[4:-1]
    with scripted(Fault(result, segment=1500)) as server, streamed(server) as (stream, _):
        for step in (1, 7, 499, 500, 999, 1000, 1001):
            stream.execute("SELECT rivet_dagster", [])
            taken, pieces = 0, []
            while stream.is_open:
                count = stream.take(step)
                assert count == min(step, 1000 - taken)
                assert stream.size == stream.end == len(b"".join(whole[taken : taken + count]))
                pieces.append(stream.buffer[: stream.end].tobytes())
                taken += count
            assert b"".join(pieces) == b"".join(whole)
            assert taken == 1000


def test_what_is_used_meanwhile_is_gone_from_the_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole rows are offered, and those that are not used are offered again."""
    monkeypatch.setattr(stream_module, "_WORTHWHILE_BYTES", 1)
    rows = [[number, "y" * (number % 40)] for number in range(500)]
    result = Result([ID, TEXT], rows)
    packets = framed(result)[4:-1]
    edges = [0]
    for packet in packets:
        edges.append(edges[-1] + len(packet))
    used: list[bytes] = []

    def use(end: int) -> int:
        gone = sum(map(len, used))
        assert gone + end in edges
        # Every row but one of those that are there; now and then none.
        at = edges.index(gone + end)
        size = max(0, edges[max(at - 1, 0)] - gone) if at % 3 else 0
        used.append(stream.buffer[:size].tobytes())
        return size

    class Narrow:
        """Gives little at a time, also where the network had time to bring all of it."""

        def __init__(self, peer: socket.socket) -> None:
            self._peer = peer

        def recv_into(self, room: memoryview) -> int:
            return self._peer.recv_into(room[:300])

    of_connection = Statements.socket.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(Statements, "socket", property(lambda statements: Narrow(of_connection(statements))))
    with scripted(Fault(result, segment=97)) as server, streamed(server) as (stream, _):
        stream.execute("SELECT rivet_dagster", [])
        assert stream.take(meanwhile=use) == 500
        assert stream.size == edges[-1]
        assert b"".join(used) + stream.buffer[: stream.end].tobytes() == b"".join(packets)
        assert len([piece for piece in used if piece]) > 1


@pytest.mark.parametrize("limits", [BatchLimits(), BatchLimits(rows=77), BatchLimits(wire_bytes=2000)])
def test_rows_are_decoded_while_others_are_on_their_way(monkeypatch: pytest.MonkeyPatch, limits: BatchLimits) -> None:
    monkeypatch.setattr(stream_module, "_WORTHWHILE_BYTES", 1)
    rows = [[number, "z" * (number % 60)] for number in range(2000)]
    with scripted(Fault(Result([ID, TEXT], rows), segment=800)) as server, session_of(server) as session:
        for _ in range(2):
            assert rows_by(session, limits=limits) == as_dicts(rows)


def test_a_table_without_a_key_is_read_piece_by_piece() -> None:
    rows = [[number, "z" * (number % 60)] for number in range(101)]
    with scripted(Result([ID, TEXT], rows)) as server, session_of(server, snapshot_s=77) as session:
        for _ in range(2):
            assert rows_by(session, key=NO_KEY) == as_dicts(rows)
    sets = [text for text in server.texts() if text.startswith("SET SESSION max_execution_time")]
    assert sets == ["SET SESSION max_execution_time = 77000", "SET SESSION max_execution_time = 30000"] * 2


@pytest.mark.parametrize("more", [0, 1, LARGEST])
def test_rows_of_more_than_sixteen_megabytes(more: int) -> None:
    """A text of LARGEST - 10 bytes makes a packet of exactly LARGEST, which an empty one has to follow."""
    rows: list[list[Any]] = [
        [1, "a" * (LARGEST - 11 + more)],
        [2, "b" * (LARGEST - 10 + more)],
        [3, "c" * 5],
        [4, None],
    ]
    blob = Column("v", Type.LONG_BLOB)
    with scripted(Result([ID, blob], rows)) as server, session_of(server) as session:
        assert rows_by(session) == as_dicts(rows)
        server.on("another", SMALL)
        assert rows_by(session, key=NO_KEY) == as_dicts(rows)


def test_packets_are_numbered_round_and_round() -> None:
    rows = [[number, None] for number in range(1000)]
    with scripted(Result([ID, TEXT], rows)) as server, session_of(server) as session:
        assert rows_by(session) == as_dicts(rows)


# ------------------------------------------------------------------------------------------ statements


def test_bound_values_arrive_as_they_were_sent() -> None:
    texts = ["", "a", "ä€😀", "x" * 250, "x" * 251, "y" * 65535, "y" * 65536, "é" * 100_000, "'\\\0\n\""]
    numbers = [0, 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1]
    with scripted(SMALL) as server, streamed(server) as (stream, _):
        for text, number in zip(texts, [*numbers, *numbers], strict=False):
            stream.execute("SELECT rivet_dagster ?, ?, ?", [text, number, "end"])
            assert stream.take() == 3
        stream.execute("SELECT rivet_dagster " + ", ".join("?" * 17), list(range(17)))
        assert stream.take() == 3
        too_few_or_many: list[Any] = [[], ["a", 1], ["a", 1, 2, 3]]
        for wrong in too_few_or_many:
            with pytest.raises(ValueError, match="placeholders"):
                stream.execute("SELECT rivet_dagster ?, ?, ?", wrong)
    executed = [command for command in server.commands if command.code == COM_STMT_EXECUTE]
    for command, text, number in zip(executed, texts, [*numbers, *numbers], strict=False):
        assert command.values == (text.encode(), number, b"end")
        kinds = [(each.type_code, each.unsigned) for each in command.parameters]
        assert kinds == [(Type.VAR_STRING, False), (Type.LONGLONG, True), (Type.VAR_STRING, False)]
        assert command.flags == 0  # no cursor
    assert executed[-1].values == tuple(range(17))
    assert len(executed) == len(texts) + 1


def test_a_statement_is_prepared_once_a_connection() -> None:
    with scripted(SMALL) as server:
        for _ in range(2):
            with streamed(server) as (stream, _):
                for _ in range(3):
                    for statement in ("SELECT rivet_dagster 1", "SELECT rivet_dagster 2"):
                        stream.execute(statement, [])
                        stream.take()
    assert server.texts(COM_STMT_PREPARE) == ["SELECT rivet_dagster 1", "SELECT rivet_dagster 2"] * 2
    assert len(server.texts(COM_STMT_EXECUTE)) == 12


@pytest.mark.parametrize("answer", [b"", b"\0", b"\0" * 11, b"\1" + bytes(11), b"\xfe" + bytes(11), eof_packet()])
def test_an_answer_to_a_preparation_that_is_none(answer: bytes) -> None:
    with scripted(SMALL) as server:
        server_answers(server, COM_STMT_PREPARE, answer)
        with session_of(server) as session:
            error = refused(session)
    assert is_protocol_error(error)


# ------------------------------------------------------------------------------------------ ways to read


def test_more_is_waited_for_where_little_came(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not with TLS, which gives a record at a time. The server goes on when somebody waits for it."""
    resume = threading.Event()
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        resume.set()

    monkeypatch.setattr(time, "sleep", wait)
    rows = [[number, "w" * 100] for number in range(2000)]
    fault = Fault(Result([ID, TEXT], rows), after=5000, action="stall", resume=resume)
    files = certificates(tmp_path)
    with scripted(fault, tls=files) as server:
        with session_of(server) as session:
            assert rows_by(session) == as_dicts(rows)
        assert set(waits) == {stream_module._PAUSE_SECONDS}
        waits.clear()
        resume.clear()
        timer = threading.Timer(0.1, resume.set)
        timer.start()
        with session_of(server, f"{server.dsn()}?ssl-mode=VERIFY_IDENTITY&ssl-ca={files.ca}") as session:
            assert rows_by(session) == as_dicts(rows)
        timer.join()
    assert waits == []
    assert [login.tls for login in server.logins] == [None, "TLSv1.3"]


@pytest.mark.parametrize("segment", [1, 1000, 1 << 20])
@pytest.mark.parametrize("road", ["tcp", "tls", "unix"])
def test_every_byte_arrives_by_every_road(tmp_path: Path, road: str, segment: int) -> None:
    count = 100 if segment == 1 else 20_000
    rows = [[number, f"{number} " * (number % 17)] for number in range(count)]
    files = certificates(tmp_path)
    path = tmp_path / "s"
    roads: dict[str, Any] = {"tcp": {}, "tls": {"tls": files}, "unix": {"unix_socket": path}}
    with scripted(Fault(Result([ID, TEXT], rows), segment=segment), **roads[road]) as server:
        dsn = {
            "tcp": server.dsn(),
            "tls": f"{server.dsn()}?ssl-mode=VERIFY_CA&ssl-ca={files.ca}",
            "unix": f"mysql://rivet@/shop?socket={path}",
        }[road]
        with session_of(server, dsn) as session:
            for _ in range(2):
                assert rows_by(session) == as_dicts(rows)


# ------------------------------------------------------------------------------------------ MySQL's own


JSON_TEXTS = ['{"a": "ä"}', "[1, 2.50]", "null", '"text"', None]


def column_of(value: Any) -> Column:
    return Column("c", Type.LONGLONG if isinstance(value, int) else Type.VAR_STRING)


def one_row(*values: Any) -> Result:
    return Result([column_of(value) for value in values], [values])


def shop(page: Result) -> ScriptedServer:
    """A MySQL 8 with the table shop.docs (id bigint unsigned, doc json), of five rows."""
    server = scripted()
    server.on(r"^SELECT VERSION\(\), @@", one_row("8.0.36", "MySQL Community Server - GPL", 1, 1))
    server.on("FROM information_schema.TABLES AS t", one_row("BASE TABLE", "InnoDB", "YES", 5, 40))
    server.on(r"^SELECT \* FROM `shop`.`docs` LIMIT 0", Result([ID]))
    described = [["id", "bigint", "bigint unsigned", 0, ""], ["doc", "json", "json", 1, ""]]
    server.on("FROM information_schema.COLUMNS", Result([column_of(value) for value in described[0]], described))
    server.on("CHECK_CONSTRAINTS", err_packet(1054, "42S22", "Unknown column 'TABLE_NAME' in 'where clause'"))
    names = ("INDEX_NAME", "NON_UNIQUE", "SEQ_IN_INDEX", "COLUMN_NAME", "COLLATION", "SUB_PART", "NULLABLE")
    index = [Column(name, Type.VAR_STRING) for name in (*names, "INDEX_TYPE", "IS_VISIBLE", "EXPRESSION")]
    server.on("STATISTICS", Result(index, [["PRIMARY", "0", "1", "id", "A", None, "", "BTREE", "YES", None]]))
    server.on(r"CAST\(t.`id` AS CHAR\).*OFFSET", Result([TEXT]))
    server.on("DESC LIMIT 1", lambda asked: Result([TEXT]) if ">" in asked.text else one_row("18446744073709551615"))
    server.on(r"SELECT /\* rivet_dagster \*/ count", one_row(5))
    server.on(PAGE, page)
    return server


def test_mysql_s_own_json_is_exported_as_the_server_prints_it(lake: Path) -> None:
    columns = [Column("id", Type.LONGLONG, flags=NOT_NULL | UNSIGNED), Column("doc", Type.JSON, flags=144)]
    numbers = [1, 2, 3, 2**63, 2**64 - 1]
    with shop(Result(columns, [list(row) for row in zip(numbers, JSON_TEXTS, strict=True)])) as server:
        export = prepared(server.dsn(), lake, "shop.docs")
        (outcome,) = export_all(export)
    assert outcome.manifest is not None
    assert outcome.manifest.rows == 5
    assert exported_rows(lake / "shop.docs") == list(zip(numbers, JSON_TEXTS, strict=True))
    assert [column["type"] for column in sealed(lake / "shop.docs")["columns"]] == ["uint64", "json"]
    assert str(export.server) == "MySQL 8.0.36, read-only server"
    (asked,) = [command for command in server.commands if command.code == COM_STMT_EXECUTE]
    assert asked.values[0] == b"18446744073709551615"
    assert "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY" in server.texts()


def test_json_that_is_no_utf_8_is_refused(lake: Path) -> None:
    columns = [Column("id", Type.LONGLONG, flags=NOT_NULL | UNSIGNED), Column("doc", Type.JSON, flags=144)]
    with shop(Result(columns, [[1, b'"\xff"']])) as server, pytest.raises(SourceError) as caught:
        export_all(prepared(server.dsn(), lake, "shop.docs"))
    assert caught.value.code == "RIVET_VALUE_UNSUPPORTED"
    assert not (lake / "shop.docs" / "manifest.json").exists()
