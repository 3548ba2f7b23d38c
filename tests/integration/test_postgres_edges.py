"""Values at the edges of PostgreSQL's types, by every policy: what is refused, what is replaced, what is text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pyarrow.parquet as pq
import pytest

from rivet_dagster.errors import ConfigError, SourceError
from rivet_dagster.export.config import parse_config
from rivet_dagster.export.operations import TableExport
from rivet_dagster.sources.typenames import type_name
from tests.support.exports import run_all
from tests.support.readers import part_files, sealed
from tests.support.universe.reading import DuckDB, arrow_rows, same_cells

Sql = Callable[[str], list[tuple[Any, ...]]]


class Edge(NamedTuple):
    """A value that its column's Arrow type cannot hold, between two that it can.

    Attributes:
        declared: the column's type.
        option: the column's option `type`.
        value: literal of the value.
        reason: how it is counted.
        words: what the error says of it.
        before: literal of an ordinary value.
        cell: that one, in the words of `server.QUESTIONS`.
    """

    declared: str
    option: str | None
    value: str
    reason: str
    words: str
    before: str
    cell: Any


_SECOND = 10**6
_FAR_DAY = "2024-02-29"
_DAYS = "19782"
_MOMENT = str(19782 * 86_400 * _SECOND)
_NOT_FINITE = ("infinity", "infinity"), ("-infinity", "-infinity")
_LATE = ("294276-12-31 23:59:59.999999", "too late"), ("294247-01-10 04:00:54.775808", "too late")

EDGES = [
    Edge("numeric(12,2)", None, "NaN", "NaN", "'NaN'", "-1.5", "-150"),
    Edge("numeric(60,30)", None, "NaN", "NaN", "'NaN'", "1", "1" + "0" * 30),
    *(
        Edge("numeric", "decimal(38, 10)", value, reason, f"'{value}'", "-1.5", "-15000000000")
        for value, reason in (("NaN", "NaN"), ("Infinity", "infinity"), ("-Infinity", "infinity"))
    ),
    *(Edge("date", None, value, "infinity", words, _FAR_DAY, _DAYS) for value, words in _NOT_FINITE),
    *(
        Edge(declared, None, value, reason, words, _FAR_DAY, _MOMENT)
        for declared in ("timestamp", "timestamptz", "timestamptz(3)")
        for reason, values in (("infinity", _NOT_FINITE), ("out of range", _LATE[:1]))
        for value, words in values
    ),
    Edge("timestamp", None, *(_LATE[1][0], "out of range", _LATE[1][1]), _FAR_DAY, _MOMENT),
    Edge("time", None, "24:00:00", "out of range", "24:00:00", "23:59:59.999999", "86399999999"),
    *(
        Edge("interval", "interval", value, "infinity", f"'{value}'", "-1 mon 2 days", "0" * 16 + "00000002ffffffff")
        for value in ("infinity", "-infinity")
    ),
    Edge("integer[]", None, "{{1,2},{3,4}}", "array shape", "2 dimensions", "{1,NULL}", ["1", None]),
    Edge("integer[]", None, "[0:1]={1,2}", "array shape", "begins at index 0", "{}", []),
    Edge("numeric[]", "list(text)", "[-2:-2]={7}", "array shape", "begins at index -2", "{1.50}", ["1.50"]),
    Edge("date[]", None, "{2024-02-29,infinity}", "infinity", "'infinity'", "{2024-02-29}", [_DAYS]),
    Edge(
        "box[]", None, "{{(1,1),(0,0)};{(2,2),(0,0)}}", "array shape", "2 dimensions", "{(3,4),(1,2)}", ["(3,4),(1,2)"]
    ),
]
_IDS = [f"{edge.declared}-{edge.value}" for edge in EDGES]


def _table(sql: Sql, edge: Edge) -> None:
    sql(f"CREATE TABLE public.t (id int PRIMARY KEY, v {edge.declared} NOT NULL, w text)")
    for number, literal in enumerate((edge.before, edge.value, edge.before)):
        sql(f"INSERT INTO public.t VALUES ({number}, '{literal}', 'kept')")


def _export(dsn: str, lake: Path, **options: Any) -> TableExport:
    return _export_with(dsn, lake, {"v": options})


def _export_with(dsn: str, lake: Path, options: dict[str, Any]) -> TableExport:
    config = parse_config({"table": "public.t", "windows": {"rows": 1}, "columns": options})
    return TableExport(config, dsn, str(lake))


def _cells(lake: Path) -> tuple[list[str], list[Any]]:
    """Types and rows of the sealed export, by pyarrow and the same by DuckDB."""
    files = part_files(lake / "public.t")
    types = [type_name(kind) for kind in pq.read_schema(files[0]).types]
    rows = arrow_rows(files, types)
    duckdb = DuckDB()
    for ours, theirs in zip(duckdb.rows(files, types), rows, strict=True):
        assert all(map(same_cells, types, ours, theirs)), (ours, theirs)
    duckdb.close()
    return types, rows


def _export_sealed(export: TableExport) -> None:
    plan, _ = export.plan()
    for outcome in run_all(export, plan):
        assert outcome.error is None, outcome.error
    export.seal(plan)


@pytest.mark.parametrize("edge", EDGES, ids=_IDS)
def test_error_names_the_column_and_the_value(dsn: str, sql: Sql, lake: Path, edge: Edge) -> None:
    _table(sql, edge)
    export = _export(dsn, lake, type=edge.option)
    plan, _ = export.plan()
    first, second, third = sorted(run_all(export, plan), key=lambda outcome: outcome.window.index)
    assert first.manifest is not None
    assert third.manifest is not None
    assert isinstance(second.error, SourceError)
    assert second.error.code == "RIVET_VALUE_UNSUPPORTED"
    assert "Column v holds" in second.error.what
    assert edge.words in second.error.what
    assert "unrepresentable" in second.error.advice


@pytest.mark.parametrize("edge", EDGES, ids=_IDS)
def test_null_takes_its_place_and_is_counted(dsn: str, sql: Sql, lake: Path, edge: Edge) -> None:
    _table(sql, edge)
    export = _export(dsn, lake, type=edge.option, unrepresentable="null")
    _export_sealed(export)
    inside = isinstance(edge.cell, list) and edge.reason != "array shape"
    gone = [*edge.cell, None] if inside else None
    _, rows = _cells(lake)
    assert rows == [("0", edge.cell, "kept"), ("1", gone, "kept"), ("2", edge.cell, "kept")]
    seal = sealed(lake / "public.t")
    assert seal["replaced"] == [{"column": "v", "reason": edge.reason, "values": 1}]
    assert seal["columns"][1]["nullable"] is True


@pytest.mark.parametrize("edge", [edge for edge in EDGES if edge.option is None], ids=str)
def test_text_is_what_the_server_prints(dsn: str, sql: Sql, lake: Path, edge: Edge) -> None:
    _table(sql, edge)
    _export_sealed(_export(dsn, lake, unrepresentable="text"))
    with psycopg.connect(dsn, options="-c timezone=UTC") as connection:
        expected = connection.execute("SELECT id::text, v::text, w FROM public.t ORDER BY id").fetchall()
    types, rows = _cells(lake)
    assert types == ["int32", "text", "text"]
    assert rows == expected
    assert sealed(lake / "public.t")["replaced"] == []


# Declaration, option `type`, literals, expected cells: values that are near an edge, or that other tools lose.
HELD = [
    ("numeric(76,30)", None, ["1e30", "9" * 46 + "." + "9" * 30, "-1e-30"], ["1" + "0" * 60, "9" * 76, "-1"]),
    ("numeric(76,0)", None, ["9" * 60, "-" + "9" * 76], ["9" * 60, "-" + "9" * 76]),
    (
        "numeric",
        None,
        ["1e30", "9" * 60, "1.50", "NaN", "-Infinity"],
        ["1" + "0" * 30, "9" * 60, "1.50", "NaN", "-Infinity"],
    ),
    ("numeric(77,0)", None, ["9" * 77], ["9" * 77]),
    ("numeric", "decimal(38, 10)", ["1e27", "0.0000000001", "1.50"], ["1" + "0" * 37, "1", "15000000000"]),
    ("numeric(3,-2)", None, ["99900", "-100", "149"], ["99900", "-100", "100"]),
    ("numeric(2,4)", None, ["0.0099", "-0.0001"], ["99", "-1"]),
    ("numeric(12,2)", "decimal(20, 4)", ["-1234.50"], ["-12345000"]),
    ("numeric(12,2)", "text", ["-1234.50", "NaN"], ["-1234.50", "NaN"]),
    ("money", "decimal(40, 5)", ["-92233720368547758.08"], ["-9223372036854775808000"]),
    ("date", None, ["0044-03-15 BC", "4714-11-24 BC", "5874897-12-31"], ["-735160", "-2440588", "2145042905"]),
    ("timestamp", None, ["4714-11-24 00:00:00 BC"], ["-210866803200000000"]),
    ("timestamptz", None, ["294247-01-10 04:00:54.775806+00"], ["9223372036854775806"]),
    ("timestamptz", None, ["294247-01-10 04:00:54.775807+00"], ["9223372036854775807"]),
    ("timestamptz", "text", ["infinity", "2024-02-29 12:00+05:45"], ["infinity", "2024-02-29 06:15:00+00"]),
    ("timetz", None, ["24:00:00+05:45"], ["24:00:00+05:45"]),
    ("interval", None, ["1 mon -1 day 00:00:00.000001", "infinity"], ["P1M-1DT0.000001S", "infinity"]),
    (
        "interval",
        "interval",
        ["-1 mon 2 days -00:00:00.000001", "-178956970 years -8 mons"],
        ["ffffffffffffffff" + "00000002" + "ffffffff", "0" * 16 + "0" * 8 + "80000000"],
    ),
    ("interval[]", "list(interval)", ["{1 day,NULL}"], [["0" * 16 + "00000001" + "0" * 8, None]]),
    ("numeric[]", "list(decimal(38, 10))", ["{1.5,NULL}"], [["15000000000", None]]),
    ("numeric[]", None, ["{1.50,NaN}", "{}"], [["1.50", "NaN"], []]),
    ("integer[]", "text", ["[0:1]={1,2}", "{{1},{2}}"], ["[0:1]={1,2}", "{{1},{2}}"]),
    ("integer[]", "list(text)", ["{1,NULL}"], [["1", None]]),
    ("text", None, ["", "a,b", 'say "x"', "\r\n", "\\", "\\N", "\t", "\ufeff"], None),
    ("character(3)", None, ["", "a", "ü"], ["   ", "a  ", "ü  "]),
    ("bytea", "text", ["\\x00ff", ""], ["\\x00ff", "\\x"]),
    ("json", "text", ['{"a":1, "a":2}'], ['{"a":1, "a":2}']),
    ("uuid", "text", ["00000000-0000-0000-0000-000000000000"], ["00000000-0000-0000-0000-000000000000"]),
    ("boolean", "text", ["t"], ["true"]),
    ("real", None, ["-0", "NaN", "-infinity", "1e-45"], ["80000000", "7fc00000", "ff800000", "00000001"]),
    ("double precision", None, ["5e-324", "-0"], ["0000000000000001", "8000000000000000"]),
]


@pytest.mark.parametrize(
    ("declared", "option", "literals", "cells"), HELD, ids=[f"{d}-{o}-{n}" for n, (d, o, *_) in enumerate(HELD)]
)
def test_values_near_an_edge_are_held_exactly(
    dsn: str,
    database: psycopg.Connection[Any],
    lake: Path,
    declared: str,
    option: str | None,
    literals: list[str],
    cells: Any,
) -> None:
    database.execute(f"CREATE TABLE public.t (id int PRIMARY KEY, v {declared})".encode())
    for number, literal in enumerate([*literals, None]):
        database.execute(f"INSERT INTO public.t VALUES (%s, %s::{declared})".encode(), [number, literal])
    _export_sealed(_export(dsn, lake, type=option))
    _, rows = _cells(lake)
    expected = [*(literals if cells is None else cells), None]
    assert rows == [(str(number), cell) for number, cell in enumerate(expected)]


@pytest.mark.parametrize(
    ("declared", "option", "value", "words"),
    [
        ("numeric", "decimal(38, 10)", "1e30", "more than 28 digits before the point"),
        ("numeric", "decimal(38, 10)", "0.00000000001", "11 digits after the point"),
        ("numeric(60,0)", "decimal(38, 10)", "9" * 60, "more than 28 digits before the point"),
        ("numeric[]", "list(decimal(38, 10))", "{1,1e30}", "more than 28 digits before the point"),
    ],
)
@pytest.mark.parametrize("policy", ["error", "null", "text"])
def test_digits_that_do_not_fit_are_never_dropped(
    dsn: str, sql: Sql, lake: Path, declared: str, option: str, value: str, words: str, policy: str
) -> None:
    """No policy replaces a finite number: the type was chosen too narrow."""
    sql(f"CREATE TABLE public.t (id int PRIMARY KEY, v {declared})")
    sql(f"INSERT INTO public.t VALUES (1, '{value}')")
    export = _export(dsn, lake, type=option, unrepresentable=policy)
    (outcome,) = run_all(export, export.plan()[0])
    assert isinstance(outcome.error, SourceError)
    assert outcome.error.code == "RIVET_VALUE_UNSUPPORTED"
    assert words in outcome.error.what
    assert "wider decimal" in outcome.error.advice


@pytest.mark.parametrize(
    ("declared", "wanted", "offered"),
    [
        ("integer", "decimal(10, 2)", "int32, text"),
        ("integer", "int64", "int32, text"),
        ("numeric", "decimal(77, 2)", "text, decimal(P, S)"),
        ("numeric", "decimal(5, 6)", "text, decimal(P, S)"),
        ("date", "interval", "date, text"),
        ("interval", "json", "text, interval"),
        ("text", "no such type", "text"),
        ("integer", "list(text)", "int32, text"),
        ("integer[]", "list(date)", "text, list(int32), list(text)"),
        ("integer[]", "int32", "text, list(int32), list(text)"),
        ("integer[]", "list(list(int32))", "text, list(int32), list(text)"),
    ],
)
def test_types_that_a_column_cannot_have(
    dsn: str, sql: Sql, lake: Path, declared: str, wanted: str, offered: str
) -> None:
    sql(f"CREATE TABLE public.t (id int PRIMARY KEY, v {declared})")
    with pytest.raises(ConfigError) as caught:
        _export(dsn, lake, type=wanted).plan()
    assert caught.value.code == "RIVET_CONFIG_TYPE"
    assert f"Column v of public.t ({declared}) cannot have the type {wanted}." in caught.value.what
    assert f"It may be one of: {offered}." in caught.value.advice
    assert not lake.exists()


def test_options_of_columns_that_are_not_there(dsn: str, sql: Sql, lake: Path) -> None:
    sql("CREATE TABLE public.t (id int PRIMARY KEY, a text)")
    options: dict[str, Any] = {"A": {"type": "text"}, "a": {"type": "text"}, "z": {"unrepresentable": "null"}}
    with pytest.raises(ConfigError) as caught:
        _export_with(dsn, lake, options).plan()
    assert caught.value.code == "RIVET_CONFIG_COLUMN"
    assert "no columns A, z," in caught.value.what
    assert "a, id" in caught.value.advice
    assert not lake.exists()


def test_xml_is_stored_text(debian_dsn: str, lake: Path) -> None:
    """The type's own output would drop the declaration."""
    documents = ["<?xml version='1.0'?><a>&amp;</a>", "<a>1</a>\r\n", ""]
    with psycopg.connect(debian_dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE public.t (id int PRIMARY KEY, v xml, w xml[])")
        for number, document in enumerate(documents):
            connection.execute("INSERT INTO public.t VALUES (%s, %s, ARRAY[%s::xml])", [number, document, document])
    _export_sealed(_export(debian_dsn, lake))
    types, rows = _cells(lake)
    assert types == ["int32", "text", "list(text)"]
    assert rows == [(str(number), document, [document]) for number, document in enumerate(documents)]
