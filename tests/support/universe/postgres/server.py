"""The source: makes a case's table, and asks the server itself for what an export of it must hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import psycopg
from hypothesis import strategies as st
from psycopg import sql

from tests.support.universe.cases import Case, CaseColumn
from tests.support.universe.expected import EXACT, Cell, Expectation, Reading, Unheld, decimal_cell
from tests.support.universe.postgres.cases import Facts, cases
from tests.support.universe.postgres.kinds import ANY_ARRAY, DECLARED_TYPES, MATRIX

Connection: TypeAlias = "psycopg.Connection[tuple[Any, ...]]"

# How the server is asked for a value that is not NULL, as text. `format` calls the type's own output function.
QUESTIONS = {
    "text": "({})::text",
    "output": "format('%s', {})",
    "bits4": "encode(float4send({}), 'hex')",
    "bits8": "encode(float8send({}), 'hex')",
    "number": "({})::numeric::text",
    "days": "CASE WHEN isfinite({0}) THEN ({0} - date '1970-01-01')::text ELSE 'infinity' END",
    "clock": "(extract(epoch FROM {}) * 1000000)::text",
    # In two parts: near the end of the calendar the server rounds the epoch of a whole timestamp.
    "moment": "CASE WHEN isfinite({0}) THEN ((({0})::timestamp::date - date '1970-01-01')::numeric * 86400000000"
    " + extract(epoch FROM ({0})::timestamp::time) * 1000000)::text ELSE 'infinity' END",
    "hex": "encode({}, 'hex')",
    "parts": "encode(interval_send({}), 'hex')",
}
_ANSWER = "CASE WHEN num_nulls({0}) = 1 THEN NULL ELSE {1} END"
_LIST = (
    "CASE WHEN array_ndims({0}) > 1 OR array_lower({0}, 1) <> 1 THEN '\"array shape\"'"
    " ELSE to_json(ARRAY(SELECT {1} FROM generate_series(1, cardinality({0})) AS g(i)))::text END"
)
_SETTINGS = {
    "timezone": "UTC",
    "datestyle": "ISO",
    "intervalstyle": "iso_8601",
    "extra_float_digits": "1",
    "search_path": "pg_catalog",
    # A server of the tests needs no durability.
    "synchronous_commit": "off",
}
_DAY = 86_400_000_000
# All three numbers of an interval at their limits, as the server sends them.
_INFINITE_INTERVALS = ("7f" + "ff" * 7 + ("7f" + "ff" * 3) * 2, "80" + "00" * 7 + ("80" + "00" * 3) * 2)


def connect(dsn: str) -> Connection:
    """A connection with the settings that an export documents, in autocommit."""
    options = " ".join(f"-c {name}={value}" for name, value in _SETTINGS.items())
    return psycopg.connect(dsn, autocommit=True, options=options, cursor_factory=psycopg.RawCursor)


def prepare(connection: Connection) -> Facts:
    """Make the types that cases use; gives what the server can do."""
    connection.execute(DECLARED_TYPES.encode())
    try:
        connection.execute("SELECT '<a/>'::xml")
        xml = True
    except psycopg.errors.FeatureNotSupported:
        xml = False
    return Facts(connection.info.server_version // 10_000, xml)


def make_table(connection: Connection, case: Case) -> None:
    """Create and fill the case's table."""
    table = sql.Identifier(case.schema, case.table)
    columns = [
        sql.SQL("{} {} {}").format(
            sql.Identifier(column.name),
            sql.SQL(column.declaration),
            sql.SQL("NULL" if column.nullable else "NOT NULL"),
        )
        for column in case.columns
    ]
    key = sql.SQL(", ").join(map(sql.Identifier, case.key))
    connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(case.schema)))
    connection.execute(
        sql.SQL("CREATE TABLE {} ({}, PRIMARY KEY ({}))").format(table, sql.SQL(", ").join(columns), key)
    )
    casts = ", ".join(f"${number}::{column.declaration}" for number, column in enumerate(case.columns, start=1))
    insert = sql.SQL("INSERT INTO {} VALUES ({}) ON CONFLICT DO NOTHING").format(table, sql.SQL(casts))
    with connection.transaction():
        connection.cursor().executemany(insert, [case.row(number) for number in range(case.rows)])


def drop_table(connection: Connection, case: Case) -> None:
    """Drop the case's table, and its schema where it is the case's own."""
    connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(case.schema, case.table)))
    if case.schema != "public":
        connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {}").format(sql.Identifier(case.schema)))


def reading(case: Case, column: CaseColumn) -> Reading:
    """What the documentation promises for a column of a case."""
    row = MATRIX[column.kind]
    canonical, question = _canonical(row.canonical, column.declared), row.server
    policy = column.unrepresentable or case.unrepresentable
    beyond = row.beyond
    wanted = column.type
    if column.array:
        beyond = MATRIX[ANY_ARRAY].beyond
        element = ("text", "output") if canonical.startswith("list(") else (canonical, question)
        canonical, question = f"list({element[0]})", f"list {element[1]}"
    if wanted is None:
        if policy == "text" and beyond:
            return Reading("text", "text")
    elif wanted != canonical:
        canonical, question = wanted, _question(canonical, question, wanted)
        beyond = () if wanted == "text" else beyond or ("chosen",)
        if column.kind == "money" and not column.array:
            beyond = ()
    return Reading(canonical, question, policy == "null" and bool(beyond))


def _canonical(template: str, declared: str) -> str:
    """`decimal(P, S)` with the numbers of a declaration: hundreds need no places, and places are digits too."""
    if template != "decimal(P, S)":
        return template
    precision, scale = map(int, re.findall(r"-?\d+", declared))
    if scale < 0:
        return f"decimal({precision - scale}, 0)"
    return f"decimal({max(precision, scale)}, {scale})"


def _question(canonical: str, question: str, wanted: str) -> str:
    """How to ask for a value in another type than the usual one."""
    inner = re.fullmatch(r"list\((.+)\)", wanted)
    if inner:
        usual = canonical.removeprefix("list(").removesuffix(")")
        own = question.removeprefix("list ")
        return f"list {own if usual == inner[1] else _question(usual, own, inner[1])}"
    if wanted == "interval":
        return "parts"
    if wanted.startswith("decimal"):
        return "number"
    return "output" if canonical == "json" else "text"


def expectation(connection: Connection, case: Case) -> Expectation:
    """Ask the server for every value of the case's table, each by the question that its type has."""
    readings = [reading(case, column) for column in case.columns]
    asked = ", ".join(
        _asked(sql.Identifier("t", column.name).as_string(connection), each.question)
        for column, each in zip(case.columns, readings, strict=True)
    )
    table = sql.Identifier(case.schema, case.table).as_string(connection)
    key = ", ".join(sql.Identifier("t", name).as_string(connection) for name in case.key)
    found = connection.execute(f"SELECT {asked} FROM {table} AS t ORDER BY {key}".encode()).fetchall()
    facts = connection.execute(
        "SELECT format_type(atttypid, atttypmod), attnotnull FROM pg_attribute"
        " WHERE attrelid = $1::text::regclass AND attnum > 0 ORDER BY attnum",
        [table],
    ).fetchall()
    expected = Expectation(
        readings,
        [native for native, _ in facts],
        [not not_null or each.replaces for (_, not_null), each in zip(facts, readings, strict=True)],
    )
    for row in found:
        cells = (answer(each.canonical, text) for each, text in zip(readings, row, strict=True))
        expected.add([column.name for column in case.columns], cells)
    return expected


def _asked(column: str, question: str) -> str:
    """The SQL of one column's question."""
    if not question.startswith("list "):
        return _ANSWER.format(column, QUESTIONS[question].format(column))
    element = f"({column})[g.i]"
    inner = _ANSWER.format(element, QUESTIONS[question.removeprefix("list ")].format(element))
    return _ANSWER.format(column, _LIST.format(column, inner))


def answer(canonical: str, text: str | None) -> Cell:
    """The server's answer as a cell of a type."""
    if text is None:
        return None
    if canonical.startswith("list("):
        found = json.loads(text)
        if isinstance(found, str):
            return Unheld(found)
        return [answer(canonical[len("list(") : -1], element) for element in found]
    if canonical.startswith("decimal("):
        return decimal_cell(canonical, text)
    if canonical.startswith(("timestamp(", "time(")):
        limit = _DAY if canonical.startswith("time(") else 2**63
        if text == "infinity":
            return Unheld("infinity")
        count = int(EXACT.create_decimal(text).to_integral_exact(context=EXACT))
        return str(count) if count < limit else Unheld("out of range")
    if canonical == "interval" and text in _INFINITE_INTERVALS:
        return Unheld("infinity")
    if canonical == "date" and text == "infinity":
        return Unheld("infinity")
    return text


def change(connection: Connection, case: Case) -> bool:
    """Set one column of one row to a value that stands in another row, or to NULL; whether there was such a row."""
    table = sql.Identifier(case.schema, case.table)
    columns = [column for column in case.columns if column.name not in case.key]
    for column in columns[::-1]:
        value = next((value for value in column.values[1:] if value != column.values[0]), None)
        if value is None and not column.nullable:
            continue
        update = sql.SQL("UPDATE {} SET {} = $1::{} WHERE ctid = (SELECT min(ctid) FROM {})").format(
            table, sql.Identifier(column.name), sql.SQL(column.declaration), table
        )
        return connection.execute(update, [value]).rowcount > 0
    return False


@dataclass
class Postgres:
    """A PostgreSQL server: an `Engine`.

    Attributes:
        dsn: address of the database.
        connection: to it.
        facts: what the server can do.
    """

    dsn: str
    connection: Connection
    facts: Facts
    plain_schema: str = "public"

    @classmethod
    @contextmanager
    def opened(cls, dsn: str) -> Iterator[Postgres]:
        """The engine on an empty database."""
        with connect(dsn) as connection:
            yield cls(dsn, connection, prepare(connection))

    @property
    def label(self) -> str:
        """Name and version."""
        return f"PostgreSQL {self.facts.version}"

    def cases(self) -> st.SearchStrategy[Case]:
        """Cases for this server."""
        return cases(self.facts)

    def plain_key(self, rows: int) -> CaseColumn:
        """A key of numbers from 1 on, called id."""
        values = tuple(map(str, range(1, rows + 1))) or (None,)
        return CaseColumn("id", "integer", "integer", False, False, values)

    def make_table(self, case: Case) -> None:
        """Create and fill the case's table."""
        make_table(self.connection, case)

    def drop_table(self, case: Case) -> None:
        """Drop the case's table, and its schema where it is the case's own."""
        drop_table(self.connection, case)

    def expectation(self, case: Case) -> Expectation:
        """What the server says of the case's table."""
        return expectation(self.connection, case)

    def change(self, case: Case) -> bool:
        """Set one column of one row to a value that stands in another row, or to NULL."""
        return change(self.connection, case)
