"""The reference pages of types are what the code does: every type on them is exported and looked at."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet as pq
import pytest
from pymysql.connections import Connection

from docs import typespage
from rivet_dagster.export.config import parse_config
from rivet_dagster.export.operations import TableExport
from rivet_dagster.sources.mysql import typemap as mysql
from rivet_dagster.sources.postgres.typemap import INTERVAL_PARTS, RULES, TEXT_RULES, TypeRule
from rivet_dagster.sources.typenames import arrow_type
from tests.support.exports import export_all
from tests.support.readers import part_files, sealed

EVERY_RULE = (*RULES, *TEXT_RULES, INTERVAL_PARTS)
# The server of the wheel is built without libxml.
RULES_OF = {"dsn": [rule for rule in EVERY_RULE if rule.declared != "xml"], "debian_dsn": list(EVERY_RULE)}
# What lists of these types hold is JSON's own; everything else is a string.
JSON_TYPES = {"bool", "int16", "int32", "uint32", "float32", "float64", "interval"}
# A sample of MySQL that the server must evaluate is no plain text.
_EXPRESSION = re.compile(r"[xb]'|ST_")
OTHERS = {
    "public.mood": ("text", "'so \"so\"'", 'so "so"'),
    "public.price": ("decimal(9, 2)", "'1.5'", "1.50"),
    "public.pair": ("text", "ROW(1, 'a b')", '(1,"a b")'),
}
TYPES = """
CREATE TYPE public.mood AS ENUM ('so "so"', 'well');
CREATE DOMAIN public.price AS numeric(9,2) CHECK (VALUE > 0);
CREATE TYPE public.pair AS (a int, b text)
"""


def expected(rules: list[TypeRule]) -> dict[str, tuple[str, str, str]]:
    """Declared type, type in the parts and text in a CSV part, for every column."""
    columns = {}
    for number, rule in enumerate(rules):
        columns[f"c{number}"] = (rule.declared, rule.type, rule.csv)
        element = json.loads(rule.csv) if rule.type in JSON_TYPES else rule.csv
        in_list = json.dumps([element, None], ensure_ascii=False)
        columns[f"a{number}"] = (f"{rule.declared}[]", f"list({rule.type})", in_list)
    for number, (declared, (kind, _, text)) in enumerate(OTHERS.items()):
        columns[f"o{number}"] = (declared, kind, text)
    return columns


def make_table(dsn: str, rules: list[TypeRule]) -> None:
    columns = {name: declared for name, (declared, _, _) in expected(rules).items()}
    values = [f"(%s::text)::{rule.declared}, ARRAY[(%s::text)::{rule.declared}, NULL]" for rule in rules]
    samples = [sample for rule in rules for sample in (rule.sample, rule.sample)]
    others = [f"{value}::{declared}" for declared, (_, value, _) in OTHERS.items()]
    listed = ", ".join(f"{name} {declared}" for name, declared in columns.items())
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in TYPES.split(";"):
            connection.execute(statement)  # type: ignore[call-overload]
        connection.execute(f"CREATE TABLE public.types (id int PRIMARY KEY, {listed})")  # type: ignore[call-overload]
        row = ", ".join(["1", *values, *others])
        connection.execute(f"INSERT INTO public.types VALUES ({row})", samples)  # type: ignore[call-overload]


@pytest.mark.parametrize("server", ["dsn", "debian_dsn"])
def test_every_type_of_the_page_is_as_it_says(server: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    dsn = request.getfixturevalue(server)
    rules = RULES_OF[server]
    columns = expected(rules)
    make_table(dsn, rules)
    options = {name: {"type": kind} for name, (_, kind, _) in columns.items() if "interval" in kind}
    for kind in ("parquet", "csv"):
        config = parse_config({"table": "public.types", "format": {"type": kind}, "columns": options})
        export_all(TableExport(config, dsn, str(tmp_path / kind)))
    found = {
        column["name"]: (column["native_type"], column["type"])
        for column in sealed(tmp_path / "csv/public.types")["columns"]
    }
    assert found == {"id": ("integer", "int32")} | {
        name: (declared, kind) for name, (declared, kind, _) in columns.items()
    }
    (parquet,) = part_files(tmp_path / "parquet/public.types")
    schema = pq.read_schema(parquet)
    assert {name: schema.field(name).type for name in columns} == {
        name: arrow_type(kind) for name, (_, kind, _) in columns.items()
    }
    assert csv_row(tmp_path / "csv/public.types") == {"id": "1"} | {
        name: text for name, (_, _, text) in columns.items()
    }


def csv_row(folder: Path) -> dict[str, Any]:
    (part,) = part_files(folder)
    with gzip.open(part, "rt", encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file, strict=True)
    return row


def test_the_page_lists_every_rule() -> None:
    declared = re.findall(r"^\| `([^`]+)` \| `", typespage.PAGE.read_text(), re.MULTILINE)
    assert declared == [rule.declared for rule in (*RULES, INTERVAL_PARTS, *TEXT_RULES)]


def make_mysql_table(connection: Connection[Any]) -> dict[str, str]:
    """Makes a table with a column for each rule, and a row of samples; gives the types as the server prints them."""
    columns = ", ".join(f"c{number} {rule.declared}" for number, rule in enumerate(mysql.RULES))
    samples = [
        rule.sample if _EXPRESSION.match(rule.sample) else connection.escape(rule.sample) for rule in mysql.RULES
    ]
    with connection.cursor() as cursor:
        cursor.execute("SET time_zone = '+00:00'")
        cursor.execute(f"CREATE TABLE types (id int PRIMARY KEY, {columns}, sixteen binary(16), one bit(1))")
        cursor.execute(f"INSERT INTO types VALUES (1, {', '.join(samples)}, repeat('a', 16), b'1')")
        cursor.execute("SHOW COLUMNS FROM types")
        return {name: native for name, native, *_ in cursor.fetchall()}


def mysql_export(dsn: str, folder: Path, kind: str, options: dict[str, Any] | None = None) -> Path:
    """Exports the table; gives the export's folder."""
    table = f"{dsn.rpartition('/')[2]}.types"
    config = parse_config({"table": table, "format": {"type": kind}, "columns": options or {}})
    export_all(TableExport(config, dsn, str(folder)))
    return folder / table


def test_every_type_of_mysqls_page_is_as_it_says(
    mysql_database: Connection[Any], mysql_dsn: str, tmp_path: Path
) -> None:
    natives = make_mysql_table(mysql_database)
    expected = {f"c{number}": (rule.type, rule.csv) for number, rule in enumerate(mysql.RULES)}
    expected |= {"id": ("int32", "1"), "sixteen": ("binary", "61" * 16), "one": ("bool", "true")}
    as_csv, as_parquet = (mysql_export(mysql_dsn, tmp_path / kind, kind) for kind in ("csv", "parquet"))
    found = {column["name"]: (column["native_type"], column["type"]) for column in sealed(as_csv)["columns"]}
    assert found == {name: (natives[name], kind) for name, (kind, _) in expected.items()}
    (parquet,) = part_files(as_parquet)
    schema = pq.read_schema(parquet)
    assert {field.name: field.type for field in schema} == {
        name: arrow_type(kind) for name, (kind, _) in expected.items()
    }
    assert csv_row(as_csv) == {name: text for name, (_, text) in expected.items()}


def test_every_other_choice_of_mysqls_page_can_be_had(
    mysql_database: Connection[Any], mysql_dsn: str, tmp_path: Path, mysql_sql: Callable[[str], list[tuple[Any, ...]]]
) -> None:
    make_mysql_table(mysql_database)
    # The samples of a few types are no values of what else they may be.
    mysql_sql("UPDATE types SET c0 = 1")
    choices = {f"c{number}": list(rule.choices) for number, rule in enumerate(mysql.RULES)}
    choices["one"], choices["sixteen"] = ["uint64"], ["uuid"]
    choices = {
        name: [each.replace("P, S", "38, 10") for each in offered if each != "uuid" or name == "sixteen"]
        for name, offered in choices.items()
    }
    for turn in range(max(map(len, choices.values()))):
        asked = {name: offered[turn] for name, offered in choices.items() if turn < len(offered)}
        options = {name: {"type": kind} for name, kind in asked.items()}
        folder = mysql_export(mysql_dsn, tmp_path / str(turn), "parquet", options)
        found = {column["name"]: column["type"] for column in sealed(folder)["columns"]}
        assert {name: found[name] for name in asked} == asked


def test_mysqls_page_lists_every_rule() -> None:
    declared = re.findall(r"^\| `([^`]+)` \| `", typespage.MYSQL_PAGE.read_text(), re.MULTILINE)
    assert declared == [rule.declared for rule in mysql.RULES]
