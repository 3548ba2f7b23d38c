"""The source: makes a case's table, and asks the server itself for what an export of it must hold."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any, TypeAlias

import psycopg
from psycopg import sql

from tests.support.universe.cases import Case, CaseColumn, Facts
from tests.support.universe.kinds import ANY_ARRAY, DECLARED_TYPES, MATRIX

Connection: TypeAlias = "psycopg.Connection[tuple[Any, ...]]"
Value: TypeAlias = "str | list[Value] | None"

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
_EXACT = Context(prec=5000, Emax=10**6, Emin=-(10**6))


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


@dataclass(frozen=True)
class Reading:
    """What an export makes of one column.

    Attributes:
        canonical: name of the type.
        question: how the server is asked, one of `QUESTIONS` or `list` and one of them.
        replaces: whether NULL replaces what the type cannot hold.
    """

    canonical: str
    question: str
    replaces: bool = False


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


@dataclass(frozen=True)
class Unheld:
    """A value that the column's type cannot hold.

    Attributes:
        reason: as manifests count it; empty where NULL never replaces it.
    """

    reason: str


Cell: TypeAlias = "str | list[Any] | Unheld | None"


@dataclass
class Expectation:
    """What an export of a table must hold.

    Attributes:
        readings: of its columns.
        native_types: of its columns, as the server prints them.
        nullable: whether a part's column may hold NULL.
        rows: in key order; each cell in the words of `QUESTIONS`, what is replaced being None.
        replaced: for each row, how many values NULL replaced, by column and reason.
        refused: for each row, the columns with a value that is refused.
    """

    readings: list[Reading]
    native_types: list[str]
    nullable: list[bool]
    rows: list[tuple[Value, ...]]
    replaced: list[Counter[tuple[str, str]]]
    refused: list[set[str]]


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
        [],
        [],
        [],
    )
    for row in found:
        _add_row(expected, [column.name for column in case.columns], row)
    return expected


def _asked(column: str, question: str) -> str:
    """The SQL of one column's question."""
    if not question.startswith("list "):
        return _ANSWER.format(column, QUESTIONS[question].format(column))
    element = f"({column})[g.i]"
    inner = _ANSWER.format(element, QUESTIONS[question.removeprefix("list ")].format(element))
    return _ANSWER.format(column, _LIST.format(column, inner))


def _add_row(expected: Expectation, names: list[str], row: tuple[Any, ...]) -> None:
    cells: list[Value] = []
    replaced: Counter[tuple[str, str]] = Counter()
    refused: set[str] = set()
    for name, each, text in zip(names, expected.readings, row, strict=True):
        reasons: list[str] = []
        cells.append(_held(answer(each.canonical, text), reasons))
        if reasons and not (each.replaces and all(reasons)):
            refused.add(name)
        replaced.update((name, reason) for reason in reasons)
    expected.rows.append(tuple(cells))
    expected.replaced.append(replaced)
    expected.refused.append(refused)


def _held(cell: Cell, reasons: list[str]) -> Value:
    """The cell with None for what the type cannot hold; the reasons are appended."""
    if isinstance(cell, Unheld):
        reasons.append(cell.reason)
        return None
    if isinstance(cell, list):
        return [_held(element, reasons) for element in cell]
    return cell


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
        return _decimal(canonical, text)
    if canonical.startswith(("timestamp(", "time(")):
        limit = _DAY if canonical.startswith("time(") else 2**63
        if text == "infinity":
            return Unheld("infinity")
        count = int(_EXACT.create_decimal(text).to_integral_exact(context=_EXACT))
        return str(count) if count < limit else Unheld("out of range")
    if canonical == "interval" and text in _INFINITE_INTERVALS:
        return Unheld("infinity")
    if canonical == "date" and text == "infinity":
        return Unheld("infinity")
    return text


def _decimal(canonical: str, text: str) -> Cell:
    """The unscaled number, if the type holds it."""
    precision, scale = map(int, re.findall(r"\d+", canonical))
    number = Decimal(text)
    if number.is_nan():
        return Unheld("NaN")
    if number.is_infinite():
        return Unheld("infinity")
    unscaled = number.scaleb(scale, _EXACT)
    whole = int(unscaled)
    return str(whole) if whole == unscaled and abs(whole) < 10**precision else Unheld("")
