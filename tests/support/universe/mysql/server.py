"""The source: makes a case's table, and asks the server itself for what an export of it must hold.

Every question is answered in the text protocol, which the export does not use.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from pymysql.connections import Connection

from tests.support.universe.cases import Case, CaseColumn
from tests.support.universe.expected import Cell, Expectation, Reading, Unheld, days, decimal_cell
from tests.support.universe.mysql.cases import DESCENDING, GENERATED, PLAIN_DATABASE, cases
from tests.support.universe.mysql.kinds import MATRIX, charset_of, numbers
from tests.support.universe.mysql.values import RAW
from tests.support.universe.reading import bits

# How the server is asked for a value.
QUESTIONS = {
    "text": "CAST({0} AS CHAR)",
    "number": "CAST({0} + 0 AS CHAR)",
    # A zero has no sign in either protocol, also where it is stored with one.
    "float": "CAST(CAST({0} AS DOUBLE) AS CHAR)",
    # The text, its bytes, and the bytes that the text would have.
    "characters": "CONCAT(HEX(CONVERT({0} USING utf8mb4)), ' ', HEX({0}), ' ',"
    " HEX(CONVERT(CONVERT({0} USING utf8mb4) USING {1})))",
    "hex": "LOWER(HEX({0}))",
    "shape": "ST_AsText({0})",
}
_SETTINGS = "SET SESSION sql_mode = 'ALLOW_INVALID_DATES', time_zone = '+00:00', innodb_strict_mode = 0"
_DAY = 86_400 * 10**6
_MONTH_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def quoted(name: str) -> str:
    """An identifier."""
    return "`" + name.replace("`", "``") + "`"


def _table(case: Case) -> str:
    return f"{quoted(case.schema)}.{quoted(case.table)}"


def _literal(column: CaseColumn, text: str | None) -> str:
    """The SQL of a value."""
    if text is None:
        return "NULL"
    sql = "'" + text.replace("\\", "\\\\").replace("'", "''").replace("\0", "\\0") + "'"
    question = MATRIX[column.kind].server
    if question == "hex" and column.kind != "geometry":
        return f"UNHEX({sql})"
    if column.kind == "geometry":
        return f"ST_GeomFromText(SUBSTRING_INDEX({sql}, ';', -1), SUBSTRING_INDEX({sql}, ';', 1))"
    if column.kind.startswith("bit"):
        return f"CAST({sql} AS UNSIGNED)"
    if column.kind == "float" and text == "-0.0":
        return "-1e-40 * 1e-10"
    if question == "characters" and text.startswith(RAW):
        return f"CONVERT(UNHEX('{text[2:]}') USING {charset_of(column.declared)})"
    return sql


def _source(case: Case, column: CaseColumn) -> CaseColumn | None:
    """The column that a generated one is a copy of; None for one that has values of its own."""
    if column.extra not in GENERATED:
        return None
    return next((each for each in case.columns if each.declared == column.declared and each.extra == ""), None)


def _definition(case: Case, column: CaseColumn) -> str:
    source = _source(case, column)
    if source is not None:
        return f"{quoted(column.name)} {column.declared} AS ({quoted(source.name)}) {column.extra}"
    extra = column.extra if column.extra == "INVISIBLE" else ""
    return f"{quoted(column.name)} {column.declared} {'NULL' if column.nullable else 'NOT NULL'} {extra}"


def reading(case: Case, column: CaseColumn) -> Reading:
    """What the documentation promises for a column of a case."""
    row = MATRIX[column.kind]
    canonical = row.canonical
    if canonical == "decimal(P, S)":
        canonical = "decimal({}, {})".format(*numbers(column.declared))
    policy = column.unrepresentable or case.unrepresentable
    beyond, wanted = row.beyond, column.type
    if wanted is None:
        if policy == "text" and beyond:
            return Reading("text", "text")
    elif wanted != canonical:
        beyond = ("out of range",) if wanted == "bool" else ()
        return Reading(wanted, _question(column, wanted), policy == "null" and bool(beyond))
    return Reading(canonical, row.server, policy == "null" and bool(beyond))


def _question(column: CaseColumn, wanted: str) -> str:
    """How to ask for a value in another type than the usual one."""
    usual = MATRIX[column.kind].server
    if wanted == "binary":
        return "hex"
    if wanted != "text":
        return usual
    if column.kind == "geometry":
        return "shape"
    return "text" if usual == "number" or column.kind == "double" else usual


def _asked(column: CaseColumn, question: str) -> str:
    return QUESTIONS[question].format(f"t.{quoted(column.name)}", charset_of(column.declared))


def _cell(canonical: str, question: str, text: str | None) -> Cell:
    """The server's answer as a cell of a type."""
    if text is None:
        return None
    if question == "characters":
        return _characters(text)
    if canonical.startswith("decimal("):
        return decimal_cell(canonical, text)
    if canonical == "uuid":
        return str(uuid.UUID(text))
    if canonical in ("float32", "float64"):
        return bits(float(text), ">f" if canonical == "float32" else ">d")
    if canonical == "bool":
        return {"0": "false", "1": "true"}.get(text, Unheld("out of range"))
    if canonical in ("date", "timestamp(us)", "timestamp(us, UTC)"):
        return _moment(canonical, text)
    if canonical == "time(us)":
        count = _microseconds(text.removeprefix("-"))
        return str(count) if count < _DAY and not text.startswith("-") else Unheld("out of range")
    return text


def _characters(text: str) -> Cell:
    """The text, if Unicode has it and its character set writes it as it is written."""
    found, given, back = text.split(" ")
    try:
        return bytes.fromhex(found).decode() if given == back else Unheld("")
    except UnicodeDecodeError:
        return Unheld("")  # a half of a surrogate pair


def _moment(canonical: str, text: str) -> Cell:
    date, _, time = text.partition(" ")
    year, month, day = map(int, date.split("-"))
    if month == 0 or day == 0:
        return Unheld("zero date")
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if day > (28 if month == 2 and not leap else _MONTH_DAYS[month - 1]):
        return Unheld("invalid date")
    count = days(year, month, day)
    return str(count if canonical == "date" else count * _DAY + _microseconds(time))


def _microseconds(text: str) -> int:
    match = re.fullmatch(r"(\d+):(\d\d):(\d\d)(?:\.(\d+))?", text)
    assert match, text
    hours, minutes, seconds = map(int, match.groups()[:3])
    return ((hours * 60 + minutes) * 60 + seconds) * 10**6 + int((match[4] or "").ljust(6, "0"))


@dataclass
class Mysql:
    """A MySQL or MariaDB server: an `Engine`.

    Attributes:
        dsn: address of a database.
        connection: to the server.
        label: name and version.
    """

    dsn: str
    connection: Connection[Any]
    label: str
    plain_schema: str = PLAIN_DATABASE

    @classmethod
    @contextmanager
    def opened(cls, dsn: str, connection: Connection[Any]) -> Iterator[Mysql]:
        """The engine on a server, with a database for plain tables."""
        engine = cls(dsn, connection, f"MariaDB or MySQL {connection.get_server_info()}")
        engine._rows(_SETTINGS)
        engine._rows(f"CREATE DATABASE {PLAIN_DATABASE}")
        yield engine
        engine._rows(f"DROP DATABASE {PLAIN_DATABASE}")

    def _rows(self, statement: str) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    def cases(self) -> st.SearchStrategy[Case]:
        """Cases for this server."""
        return cases()

    def plain_key(self, rows: int) -> CaseColumn:
        """A key of numbers from 1 on, called id."""
        values = tuple(map(str, range(1, rows + 1))) or (None,)
        return CaseColumn("id", "int", "int", False, False, values)

    def make_table(self, case: Case) -> None:
        """Create and fill the case's table."""
        self._rows(f"CREATE DATABASE IF NOT EXISTS {quoted(case.schema)}")
        parts = [_definition(case, column) for column in case.columns]
        if case.key:
            places = {column.name: column.extra for column in case.columns}
            key = (quoted(name) + " DESC" * (places[name] == DESCENDING) for name in case.key)
            parts.append(f"PRIMARY KEY ({', '.join(key)})")
        self._rows(f"CREATE TABLE {_table(case)} ({', '.join(parts)}) {case.options}")
        given = [column for column in case.columns if _source(case, column) is None]
        listed = ", ".join(quoted(column.name) for column in given)
        self.connection.begin()
        for number in range(case.rows):
            values = ", ".join(_literal(column, column.values[number % len(column.values)]) for column in given)
            self._rows(f"INSERT IGNORE INTO {_table(case)} ({listed}) VALUES ({values})")
        self.connection.commit()

    def drop_table(self, case: Case) -> None:
        """Drop the case's table, and its database where it is the case's own."""
        self.connection.rollback()
        self._rows(f"DROP TABLE IF EXISTS {_table(case)}")
        if case.schema != PLAIN_DATABASE:
            self._rows(f"DROP DATABASE IF EXISTS {quoted(case.schema)}")

    def expectation(self, case: Case) -> Expectation:
        """Ask the server for every value of the case's table, each by the question that its type has."""
        readings = [reading(case, column) for column in case.columns]
        asked = ", ".join(_asked(column, each.question) for column, each in zip(case.columns, readings, strict=True))
        key = ", ".join(f"t.{quoted(name)}" for name in case.key)
        order = f" ORDER BY {key}" if key else ""
        facts = self._rows(f"SHOW COLUMNS FROM {_table(case)}")
        expected = Expectation(
            readings,
            [native for _, native, *_ in facts],
            [null == "YES" or each.replaces for (_, _, null, *_), each in zip(facts, readings, strict=True)],
        )
        names = [column.name for column in case.columns]
        for row in self._rows(f"SELECT {asked} FROM {_table(case)} AS t{order}"):
            cells = (_cell(each.canonical, each.question, text) for each, text in zip(readings, row, strict=True))
            expected.add(names, cells)
        return expected

    def change(self, case: Case) -> bool:
        """Set one column of one row to a value that stands in another row, or to NULL; whether there was such a row."""
        columns = [column for column in case.columns if column.name not in case.key and _source(case, column) is None]
        for column in columns[::-1]:
            value = next((value for value in column.values[1:] if value != column.values[0]), None)
            if value is None and not column.nullable:
                continue
            with self.connection.cursor() as cursor:
                return bool(
                    cursor.execute(
                        f"UPDATE IGNORE {_table(case)} SET {quoted(column.name)} = {_literal(column, value)} LIMIT 1"
                    )
                )
        return False
