"""Tables of MariaDB for tests: keys of every type, filled by the server itself, and what other readers say of them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, time, timedelta, timezone
from typing import Any
from urllib.parse import unquote, urlsplit

import pymysql
from pymysql.connections import Connection

from rivet_dagster.sources.base import SourceLimits, Table, TypeChoices
from rivet_dagster.sources.mysql.session import MysqlSession
from rivet_dagster.sources.mysql.source import MysqlSource

Sql = Callable[[str], list[tuple[Any, ...]]]
Row = tuple[Any, ...]

# A word for every number, so that letters of all kinds stand first and the words still differ.
_LETTERS = "elt(1 + seq % 6, 'a', 'B', 'é', 'ß', 'Z', '_')"
_WORD = f"concat({_LETTERS}, lpad(seq * 7919 % 100000, 5, '0'))"
_ASCII_WORD = "concat(elt(1 + seq % 4, 'a', 'B', 'z', '_'), lpad(seq * 7919 % 100000, 5, '0'))"
_KANJI_WORD = "concat(elt(1 + seq % 3, '日本', 'ア', 'a'), lpad(seq * 7919 % 100000, 5, '0'))"
_SECONDS = "interval seq * 1000001 microsecond"


@dataclass(frozen=True)
class KeyCase:
    """A kind of key.

    Attributes:
        kinds: types of its columns, which are called a, b, c and d.
        values: their values for the number `seq`, all different.
        index: how it is declared; the primary key where nothing is said.
    """

    kinds: tuple[str, ...]
    values: str
    index: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the key's columns, in its order."""
        return tuple("abcd"[: len(self.kinds)])


def _single(kind: str, values: str, index: str = "") -> KeyCase:
    return KeyCase((kind,), values, index)


KEYS = {
    "int": _single("int", "CAST(seq AS int) * 3 - 4000"),
    "unsigned bigint to its end": _single("bigint unsigned", "18446744073709551615 - 3000 + seq"),
    "bigint": _single("bigint", "CAST(seq AS int) * 6148914691236 - 9223372036854775807"),
    "two columns": KeyCase(("int", "int"), "seq div 7, seq % 7"),
    "three columns": KeyCase(
        ("int", "varchar(5)", "smallint unsigned"),
        "seq div 50, elt(1 + seq div 5 % 10, 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j'), seq % 5",
    ),
    "four columns": KeyCase(
        ("date", "decimal(9,3)", "varbinary(8)", "bigint unsigned"),
        "'2024-01-01' + interval seq div 300 day, seq div 60 % 5 / 8, char(seq div 12 % 5), "
        "18446744073709551615 - seq % 12",
    ),
    "utf8mb4_general_ci": _single("varchar(20) COLLATE utf8mb4_general_ci", _WORD),
    "utf8mb4_unicode_nopad_ci": _single("varchar(20) COLLATE utf8mb4_unicode_nopad_ci", _WORD),
    "utf8mb4_uca1400_as_cs": _single("varchar(20) COLLATE utf8mb4_uca1400_as_cs", _WORD),
    "utf8mb4_bin": _single("varchar(20) COLLATE utf8mb4_bin", _WORD),
    "char": _single("char(20) COLLATE utf8mb4_unicode_ci", _WORD),
    "latin1_swedish_ci": _single("varchar(20) COLLATE latin1_swedish_ci", _WORD),
    "latin1_bin": _single("varchar(20) COLLATE latin1_bin", _WORD),
    "cp1250_general_ci": _single("varchar(20) COLLATE cp1250_general_ci", _WORD),
    "ascii_general_ci": _single("varchar(20) COLLATE ascii_general_ci", _ASCII_WORD),
    "sjis_japanese_ci": _single("varchar(20) COLLATE sjis_japanese_ci", _KANJI_WORD),
    "ucs2_general_ci": _single("varchar(20) COLLATE ucs2_general_ci", _WORD),
    "utf16le_bin": _single("varchar(20) COLLATE utf16le_bin", _WORD),
    "binary": _single("binary(16)", "unhex(md5(seq))"),
    "varbinary": _single("varbinary(16)", "unhex(left(md5(seq), 8 + 2 * (seq % 12)))"),
    "uuid": _single("uuid", "insert(insert(md5(seq), 13, 1, elt(1 + seq % 2, '1', '4')), 17, 1, 'a')"),
    "decimal": _single("decimal(30,10)", "seq * 1234567.0123456789 - 1000000000"),
    "datetime": _single("datetime(6)", f"'2024-01-01' + {_SECONDS}"),
    "datetime of seconds": _single("datetime", "'2024-01-01' + interval seq second"),
    "timestamp": _single("timestamp(6)", f"'2024-01-01' + {_SECONDS}"),
    "date": _single("date", "'1890-01-01' + interval seq day"),
    "time": _single("time(3)", "sec_to_time(seq * 1.007)"),
    "year and int": KeyCase(("year", "int"), "1990 + seq div 100, seq % 100"),
    "bit": _single("bit(40)", "seq * 100000007"),
    "float": _single("float", "seq / 7"),
    "double": _single("double", "seq / 7 - 100"),
    "inet4": _single("inet4", "inet_ntoa(seq * 1000003)"),
    "inet6": _single("inet6", "concat('2001:db8::', lower(hex(seq * 7)), ':1')"),
    "descending": _single("int", "seq", "UNIQUE down (a DESC)"),
    "two columns descending": KeyCase(("int", "varchar(9)"), "seq div 11, seq % 11", "PRIMARY KEY (a DESC, b DESC)"),
    "secondary": _single("varchar(20) COLLATE utf8mb4_general_ci", _WORD, "PRIMARY KEY (n), UNIQUE word (a)"),
    "secondary of two": KeyCase(
        ("int unsigned", "datetime(3)"),
        "seq % 40, '2024-01-01' + interval seq div 40 * 10 minute",
        "PRIMARY KEY (n), UNIQUE two (a, b)",
    ),
}


def make_keyed(sql: Sql, case: KeyCase, rows: int, engine: str = "InnoDB") -> None:
    """Create the table `t`: the key's columns, `n` from 1 to `rows` and a payload."""
    index = case.index or f"PRIMARY KEY ({', '.join(case.names)})"
    columns = ", ".join(f"{name} {kind} NOT NULL" for name, kind in zip(case.names, case.kinds, strict=True))
    sql(f"CREATE TABLE t ({columns}, n int NOT NULL, v varchar(40) NOT NULL, {index}) ENGINE = {engine}")
    # Not in the key's order.
    sql(f"INSERT INTO t SELECT {case.values}, seq, repeat('v', 30) FROM seq_1_to_{rows} ORDER BY seq * 7919 % 10007")


def database_of(dsn: str) -> str:
    """Name of the database in an address."""
    return dsn.rpartition("/")[2].partition("?")[0]


@contextmanager
def client(dsn: str, **options: Any) -> Iterator[Connection[Any]]:
    """PyMySQL, in autocommit and in UTC: the independent reader."""
    url = urlsplit(dsn)
    told = {"user": unquote(url.username or ""), "password": unquote(url.password or ""), "database": url.path[1:]}
    connection = pymysql.connect(
        host=str(url.hostname), port=url.port or 3306, charset="utf8mb4", autocommit=True, **{**told, **options}
    )
    try:
        with connection.cursor() as cursor:
            cursor.execute("SET time_zone = '+00:00', sql_mode = 'ALLOW_INVALID_DATES'")
        yield connection
    finally:
        # The server may have ended it.
        if connection.open:
            connection.close()


def ask(connection: Connection[Any], statement: str, *values: Any) -> list[Row]:
    """Rows of a statement, if any."""
    with connection.cursor() as cursor:
        cursor.execute(statement, values or None)
        return list(cursor.fetchall())


def source_rows(dsn: str, table: str, key: str) -> list[Row]:
    """All rows of a table of the address's database in key order, by PyMySQL, as an export's readers show them."""
    with client(dsn) as connection:
        columns = ask(
            connection,
            "SELECT column_name, data_type, column_type FROM information_schema.columns"
            " WHERE table_schema = database() AND table_name = %s ORDER BY ordinal_position",
            table,
        )
        # In the text protocol a float has six digits.
        selected = ", ".join(f"CAST(`{n}` AS double)" if kind == "float" else f"`{n}`" for n, kind, _ in columns)
        rows = ask(connection, f"SELECT {selected} FROM `{table}` ORDER BY {key}")
    shown = [_SHOWN.get("bool" if full == "bit(1)" else kind, _as_it_is) for _, kind, full in columns]
    return [
        tuple(None if value is None else show(value) for show, value in zip(shown, row, strict=True)) for row in rows
    ]


def _as_it_is(value: Any) -> Any:
    return value


def _time(value: timedelta) -> time:
    return (datetime.min + value).time()


_SHOWN: dict[str, Callable[[Any], Any]] = {
    "bit": lambda value: int.from_bytes(value, "big"),
    "bool": lambda value: value == b"\1",
    "uuid": uuid.UUID,
    "time": _time,
    "timestamp": lambda value: value.replace(tzinfo=timezone.utc),
}


@contextmanager
def session_of(
    dsn: str, limits: SourceLimits | None = None, types: TypeChoices | None = None
) -> Iterator[MysqlSession]:
    """A session of the source."""
    with closing(MysqlSource(dsn, limits or SourceLimits(), types or TypeChoices()).connect()) as session:
        yield session


def described(dsn: str, name: str = "t") -> Table:
    """A table of the address's database, as the source describes it."""
    with session_of(dsn) as session:
        return session.describe(database_of(dsn), name)


_COUNTED = (
    "Handler_read_first",
    "Handler_read_key",
    "Handler_read_last",
    "Handler_read_next",
    "Handler_read_prev",
    "Handler_read_rnd",
    "Handler_read_rnd_next",
    "Sort_range",
    "Sort_scan",
    "Sort_rows",
    "Created_tmp_tables",
)


@dataclass(frozen=True)
class Work:
    """What the server counted while a session's statements ran.

    Attributes:
        looked_up: entries of an index that were searched for, or read from one of its ends.
        passed: entries that were reached from the one beside them.
        scanned: rows of a table, also of a temporary one, that were read without an index.
        sorts: sorts.
        temporary: temporary tables.
    """

    looked_up: int
    passed: int
    scanned: int
    sorts: int
    temporary: int


class Watched:
    """Counts what the server does for one session."""

    def __init__(self, session: MysqlSession) -> None:
        self._connection = session._connection
        self._counts = self._read()
        # Asking counts too, the same each time.
        self._asking = [0] * len(_COUNTED)
        self._asking = self._passed()

    def _read(self) -> list[int]:
        names: Sequence[str] = [f"'{name}'" for name in _COUNTED]
        rows = ask(self._connection, f"SHOW SESSION STATUS WHERE variable_name IN ({', '.join(names)})")
        found = {name: int(value) for name, value in rows}
        return [found[name] for name in _COUNTED]

    def _passed(self) -> list[int]:
        before, self._counts = self._counts, self._read()
        return [now - then - own for now, then, own in zip(self._counts, before, self._asking, strict=True)]

    def since(self) -> Work:
        """What was counted since the last time."""
        found = dict(zip(_COUNTED, self._passed(), strict=True))
        return Work(
            looked_up=found["Handler_read_key"] + found["Handler_read_first"] + found["Handler_read_last"],
            passed=found["Handler_read_next"] + found["Handler_read_prev"],
            scanned=found["Handler_read_rnd"] + found["Handler_read_rnd_next"],
            sorts=found["Sort_range"] + found["Sort_scan"] + found["Sort_rows"],
            temporary=found["Created_tmp_tables"],
        )
