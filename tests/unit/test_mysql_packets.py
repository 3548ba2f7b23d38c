"""The packets of the scripted MySQL server are those of the protocol: of its documentation, and of a real server."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import pytest
from pymysql.connections import Connection
from pymysql.protocol import FieldDescriptorPacket

from tests.support.mysql_auth import NATIVE
from tests.support.mysql_packets import (
    BINARY_FLAG,
    CAPABILITIES,
    COM_QUERY,
    COM_STMT_EXECUTE,
    COM_STMT_PREPARE,
    DEPRECATE_EOF,
    LONG_PASSWORD,
    MARIADB_EXTENDED_METADATA,
    UNSIGNED,
    Column,
    Raw,
    Result,
    Type,
    auth_switch_packet,
    binary_row,
    eof_packet,
    err_packet,
    frames,
    handshake,
    lenenc,
    ok_packet,
    payloads_of,
    prepared_payloads,
)
from tests.support.mysql_raw import RawClient
from tests.support.mysql_wire import ScriptedServer

CLASSIC = CAPABILITIES & ~DEPRECATE_EOF

# ---- the documentation's examples

CONCAT = Result([Column("col1", Type.VAR_STRING, charset=63, flags=BINARY_FLAG, length=0, decimals=0x1F)], [["foobar"]])
LATIN = Result([Column("col1", Type.VAR_STRING, charset=8, length=6, decimals=0x1F)], [["foobar"]])
VERSION = Result(
    [Column("@@version_comment", Type.VAR_STRING, charset=8, length=0x1C, decimals=0x1F)],
    [["MySQL Community Server (GPL)"]],
)
PREPARED = """
    0c 00 00 01 00 01 00 00 00 01 00 02 00 00 00 00 17 00 00 02 03 64 65 66 00 00 00 01 3f 00 0c 3f
    00 00 00 00 00 fd 80 00 00 00 00 17 00 00 03 03 64 65 66 00 00 00 01 3f 00 0c 3f 00 00 00 00 00
    fd 80 00 00 00 00 05 00 00 04 fe 00 00 02 00 1a 00 00 05 03 64 65 66 00 00 00 04 63 6f 6c 31 00
    0c 3f 00 00 00 00 00 fd 80 00 1f 00 00 05 00 00 06 fe 00 00 02 00
"""
EXAMPLES = {
    "greeting": (
        [handshake("5.6.4-m7-log", 2646, b"RB3vz&Gr+yD&/ZZ305ZG", NATIVE, capabilities=0xC00FFFFF, charset=8)],
        0,
        """50 00 00 00 0a 35 2e 36 2e 34 2d 6d 37 2d 6c 6f 67 00 56 0a 00 00 52 42 33 76 7a 26 47 72 00 ff
           ff 08 02 00 0f c0 15 00 00 00 00 00 00 00 00 00 00 2b 79 44 26 2f 5a 5a 33 30 35 5a 47 00 6d 79
           73 71 6c 5f 6e 61 74 69 76 65 5f 70 61 73 73 77 6f 72 64 00""",
    ),
    "auth switch": (
        [auth_switch_packet(NATIVE, b"zQg4i6oNy6=rHN/>-b)A")],
        2,
        """2c 00 00 02 fe 6d 79 73 71 6c 5f 6e 61 74 69 76 65 5f 70 61 73 73 77 6f 72 64 00 7a 51 67 34 69
           36 6f 4e 79 36 3d 72 48 4e 2f 3e 2d 62 29 41 00""",
    ),
    "ok": ([ok_packet()], 2, "07 00 00 02 00 00 00 02 00 00 00"),
    "eof": ([eof_packet()], 5, "05 00 00 05 fe 00 00 02 00"),
    "error": (
        [err_packet(1096, "HY000", "No tables used")],
        1,
        "17 00 00 01 ff 48 04 23 48 59 30 30 30 4e 6f 20 74 61 62 6c 65 73 20 75 73 65 64",
    ),
    "text rows": (
        [*payloads_of(VERSION, capabilities=CLASSIC, binary=False)],
        1,
        """01 00 00 01 01 27 00 00 02 03 64 65 66 00 00 00 11 40 40 76 65 72 73 69 6f 6e 5f 63 6f 6d 6d 65
           6e 74 00 0c 08 00 1c 00 00 00 fd 00 00 1f 00 00 05 00 00 03 fe 00 00 02 00 1d 00 00 04 1c 4d 79
           53 51 4c 20 43 6f 6d 6d 75 6e 69 74 79 20 53 65 72 76 65 72 20 28 47 50 4c 29 05 00 00 05 fe 00
           00 02 00""",
    ),
    "binary rows": (
        [*payloads_of(LATIN, capabilities=CLASSIC, binary=True)],
        1,
        """01 00 00 01 01 1a 00 00 02 03 64 65 66 00 00 00 04 63 6f 6c 31 00 0c 08 00 06 00 00 00 fd 00 00
           1f 00 00 05 00 00 03 fe 00 00 02 00 09 00 00 04 00 00 06 66 6f 6f 62 61 72 05 00 00 05 fe 00 00
           02 00""",
    ),
    "preparation": ([*prepared_payloads(1, 2, CONCAT.columns, capabilities=CLASSIC)], 1, PREPARED),
    "preparation of no rows": (
        [*prepared_payloads(1, 0, (), capabilities=CLASSIC)],
        1,
        "0c 00 00 01 00 01 00 00 00 00 00 00 00 00 00 00",
    ),
}


@pytest.mark.parametrize(("payloads", "sequence", "expected"), EXAMPLES.values(), ids=EXAMPLES)
def test_packets_are_those_of_the_documentation(payloads: list[bytes], sequence: int, expected: str) -> None:
    assert b"".join(frames(payloads, sequence)).hex(" ") == " ".join(expected.split())


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        (Column("c", Type.VAR_STRING), "foo", "03 66 6f 6f"),
        (Column("c", Type.LONGLONG), 1, "01 00 00 00 00 00 00 00"),
        (Column("c", Type.LONGLONG), -2, "fe ff ff ff ff ff ff ff"),
        (Column("c", Type.LONGLONG, flags=UNSIGNED), 2**64 - 1, "ff ff ff ff ff ff ff ff"),
        (Column("c", Type.INT24), 1, "01 00 00 00"),
        (Column("c", Type.YEAR), 1, "01 00"),
        (Column("c", Type.TINY), 1, "01"),
        (Column("c", Type.DOUBLE), 10.2, "66 66 66 66 66 66 24 40"),
        (Column("c", Type.FLOAT), 10.2, "33 33 23 41"),
        (Column("c", Type.DATE), dt.date(2010, 10, 17), "04 da 07 0a 11"),
        (Column("c", Type.DATETIME), dt.datetime(2010, 10, 17, 19, 27, 30, 1), "0b da 07 0a 11 13 1b 1e 01 00 00 00"),
        (Column("c", Type.DATETIME), (2010, 10, 17, 19, 27, 30), "07 da 07 0a 11 13 1b 1e"),
        (Column("c", Type.TIMESTAMP), (0, 0, 0), "00"),
        (Column("c", Type.DATE), (2010, 0, 0), "04 da 07 00 00"),
        (
            Column("c", Type.TIME),
            -dt.timedelta(days=120, hours=19, minutes=27, seconds=30, microseconds=1),
            "0c 01 78 00 00 00 13 1b 1e 01 00 00 00",
        ),
        (
            Column("c", Type.TIME),
            -dt.timedelta(days=120, hours=19, minutes=27, seconds=30),
            "08 01 78 00 00 00 13 1b 1e",
        ),
        (Column("c", Type.TIME), dt.timedelta(), "00"),
        (Column("c", Type.JSON), '{"a": 1}', "08 7b 22 61 22 3a 20 31 7d"),
        (Column("c", Type.NEWDECIMAL), Decimal("-1.50"), "05 2d 31 2e 35 30"),
        (Column("c", Type.DATE), Raw(b"\x05\x01"), "05 01"),
    ],
)
def test_binary_values_are_those_of_the_documentation(column: Column, value: Any, expected: str) -> None:
    assert binary_row([column], [value]).hex(" ") == f"00 00 {expected}"


def test_the_bitmap_of_a_binary_row_begins_at_its_third_bit() -> None:
    nine = [Column(f"c{index}", Type.TINY) for index in range(9)]
    assert binary_row(nine, [*[1] * 8, None]) == b"\0" + b"\x00\x04" + b"\1" * 8  # the documentation's example
    assert binary_row(nine[:6], [None] * 6) == b"\0\xfc"
    assert binary_row(nine[:7], [None] * 7) == b"\0\xfc\x01"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (250, "fa"),
        (251, "fc fb 00"),
        (65535, "fc ff ff"),
        (65536, "fd 00 00 01"),
        (1 << 24, "fe 00 00 00 01 00 00 00 00"),
    ],
)
def test_lengths_are_encoded_as_documented(value: int, expected: str) -> None:
    assert lenenc(value).hex(" ") == expected


# ---- the bytes of a real server

TABLE = """
    CREATE TABLE everything (
        id BIGINT UNSIGNED PRIMARY KEY, a TINYINT, b SMALLINT UNSIGNED, c MEDIUMINT, d INT, e FLOAT, f DOUBLE,
        g DECIMAL(30, 5), h DATE, i DATETIME(6), j TIMESTAMP(3) NULL, k TIME(6), l YEAR, m BIT(12), n CHAR(5),
        o VARCHAR(300), p TEXT, q LONGBLOB, r BINARY(4), s ENUM('x', 'y'), t SET('u', 'v'), u JSON
    ) DEFAULT CHARACTER SET utf8mb4
"""
FULL: dict[str, Any] = {
    "id": 2**64 - 1, "a": -128, "b": 65535, "c": -8388608, "d": 2**31 - 1, "e": 1.5, "f": -1e300,
    "g": Decimal("-1234567890123456789012345.00001"), "h": dt.date(9999, 12, 31),
    "i": dt.datetime(2024, 2, 29, 23, 59, 59, 123456), "j": dt.datetime(2024, 2, 29, 1, 2, 3),
    "k": -dt.timedelta(days=34, hours=22, seconds=1, microseconds=5), "l": 2155, "m": b"\x0a\xbc", "n": "äé",
    "o": "€" * 300, "p": "x" * 251, "q": bytes(range(256)) * 300, "r": b"\0\1\2\3", "s": "y", "t": "u,v",
    "u": '{"a": [1, null]}',
}  # fmt: skip
EMPTY: dict[str, Any] = {
    "id": 2, "a": 0, "b": 0, "c": 0, "d": 0, "e": 0.0, "f": 0.0, "g": Decimal("0.00000"), "h": (0, 0, 0),
    "i": (2024, 0, 0), "j": dt.datetime(2024, 2, 29), "k": dt.timedelta(), "l": 0, "m": b"\0\0", "n": "", "o": "",
    "p": "", "q": b"", "r": b"\0\0\0\0", "s": "x", "t": "", "u": "[]",
}  # fmt: skip
NULLS: dict[str, Any] = {**dict.fromkeys(FULL), "id": 1}


def filled(connection: Connection[Any]) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET sql_mode = '', time_zone = '+00:00'")  # which lets zero dates in
        cursor.execute(TABLE)
        for row in (FULL, EMPTY, NULLS):
            values = [
                "-".join(f"{part:02}" for part in value) if isinstance(value, tuple) else value
                for value in row.values()
            ]
            cursor.execute(f"INSERT INTO everything VALUES ({', '.join(['%s'] * len(row))})", values)


@pytest.mark.parametrize("capabilities", [CAPABILITIES, CLASSIC], ids=["ok-ends-rows", "eof-ends-rows"])
def test_binary_answers_are_byte_for_byte_those_of_a_real_server(
    mysql_database: Connection[Any], mysql_dsn: str, capabilities: int
) -> None:
    filled(mysql_database)
    ends = not capabilities & DEPRECATE_EOF  # an EOF packet behind the columns
    with RawClient(int(urlsplit(mysql_dsn).port or 0), capabilities, dsn=mysql_dsn) as real:
        real.send(bytes([COM_STMT_PREPARE]) + b"SELECT * FROM everything ORDER BY id DESC")
        prepared = [real.frame() for _ in range(1 + 22 + ends)]
        number = prepared[0][5:9]
        real.send(bytes([COM_STMT_EXECUTE]) + number + b"\0\1\0\0\0")
        executed = [real.frame() for _ in range(1 + 22 + ends + 3 + 1)]
    columns = [column_of(frame[4:]) for frame in prepared[1:23]]
    assert [columns[index].type_code for index in (0, 7, 11)] == [Type.LONGLONG, Type.NEWDECIMAL, Type.TIME]
    made = frames(prepared_payloads(int.from_bytes(number, "little"), 0, columns, capabilities=capabilities))
    assert [*made] == prepared
    status = int.from_bytes(executed[-1][-4:-2] if capabilities & DEPRECATE_EOF else executed[-1][-2:], "little")
    answer = Result(columns, [[*row.values()] for row in (FULL, EMPTY, NULLS)], status=status)
    assert [*frames(payloads_of(answer, capabilities=capabilities, binary=True))] == executed


def column_of(payload: bytes) -> Column:
    """What PyMySQL reads out of a column definition."""
    seen: Any = FieldDescriptorPacket(payload, "utf-8")
    kinds = (seen.type_code, seen.charsetnr, seen.flags, seen.length, seen.scale)
    return Column(seen.name, *kinds, schema=seen.db.decode(), table=seen.table_name)


def test_text_answers_are_byte_for_byte_those_of_a_real_server(mysql_dsn: str) -> None:
    """With MariaDB's extended metadata, which a client gets that does not claim to be MySQL's."""
    statement = "SELECT 1 AS n, 'ä' AS t, NULL AS nothing, JSON_COMPACT('{}') AS j"
    capabilities, status = CAPABILITIES & ~LONG_PASSWORD, 2
    port = int(urlsplit(mysql_dsn).port or 0)
    with RawClient(port, capabilities, extended=MARIADB_EXTENDED_METADATA, dsn=mysql_dsn) as real:
        real.send(bytes([COM_QUERY]) + statement.encode())
        answer = b"".join(real.frame() for _ in range(7))
    version = "5.5.5-10.11.6-MariaDB"
    columns = [
        Column("n", Type.LONG, 63, 129, 1),
        Column("t", Type.VAR_STRING, 45, 1, 4, 39),
        Column("nothing", Type.NULL, 63, 128, 0),
        Column("j", Type.VAR_STRING, 45, 0, 8, 0, extended=b"\x01\x04json"),
    ]
    with ScriptedServer(server_version=version, auth_plugin=NATIVE, extended=MARIADB_EXTENDED_METADATA) as server:
        server.on("AS nothing", Result(columns, [[1, "ä", None, "{}"]], status=status))
        with RawClient(server.port, capabilities, extended=MARIADB_EXTENDED_METADATA) as client:
            client.send(bytes([COM_QUERY]) + statement.encode())
            assert b"".join(client.frame() for _ in range(7)) == answer
        with RawClient(server.port, capabilities) as client:  # one that did not ask for them
            client.send(bytes([COM_QUERY]) + statement.encode())
            assert b"json" not in b"".join(client.frame() for _ in range(7))
