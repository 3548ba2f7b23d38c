"""Queries in the place of tables: what they may be, the types of their columns, and how they are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rivet_dagster.errors import RivetError, SourceError
from tests.support.exports import export_all, prepared
from tests.support.planners.postgres import session_of
from tests.support.readers import exported_rows

Sql = Callable[[str], list[tuple[Any, ...]]]

QUERIES = {
    "a semicolon": "SELECT 1 AS a, 'x'::text AS b ; ",
    "a comment": "SELECT 1 AS a, 'x'::text AS b -- ; the end",
    "braces and percent signs": "SELECT 7 % 3 AS a, '{}%s{columns}'::text AS b",
    "a with": "WITH w AS (SELECT 1 AS a) SELECT a, 'ü'::text AS b FROM w",
    "values": "VALUES (1, 'x'::text), (2, 'y')",
    "an order": "SELECT n AS a, n::text AS b FROM generate_series(1, 30) AS n ORDER BY n DESC LIMIT 20",
}


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_stands_in_a_tables_place(dsn: str, sql: Sql, lake: Path, name: str) -> None:
    query = QUERIES[name]
    export_all(prepared(dsn, lake, "reports.daily", query=query, windows={"type": "full"}))
    assert sorted(exported_rows(lake / "reports.daily")) == sorted(sql(query))


def test_columns_of_a_query_have_their_types(dsn: str, sql: Sql, lake: Path) -> None:
    sql("CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN moods AS mood; CREATE DOMAIN price AS numeric(9,2)")
    query = (
        "SELECT 'ok'::public.mood AS m, 'sad'::public.moods AS d, 1.5::public.price AS p, ARRAY[1,2] AS l,"
        " '2024-02-29'::date AS \"a day\", NULL::uuid AS u, 'x'::varchar(5) AS v, 2.5::numeric(7,3) AS n"
    )
    with session_of(dsn) as session:
        table = session.describe_query("s", "q", query)
        assert [(column.name, column.native_type) for column in table.columns] == [
            ("m", "public.mood"),
            ("d", "public.mood"),
            ("p", "numeric(9,2)"),
            ("l", "integer[]"),
            ("a day", "date"),
            ("u", "uuid"),
            ("v", "character varying(5)"),
            ("n", "numeric(7,3)"),
        ]
        assert (table.keys, table.kind, table.query) == ((), "query", query)
    export_all(prepared(dsn, lake, "s.q", query=query, windows={"columns": ("m", "a day")}))
    assert exported_rows(lake / "s.q") == sql(query)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("SELECT 1 AS a, 2 AS a", "RIVET_CONFIG_QUERY"),
        ("SELECT", "RIVET_CONFIG_QUERY"),
        ("SELECT 1 AS a; SELECT 2 AS a", "RIVET_SOURCE_FAILED"),
        ("SELECT nothing FROM nowhere", "RIVET_SOURCE_TABLE_MISSING"),
        ("WITH gone AS (DELETE FROM public.t RETURNING n) SELECT n FROM gone", "RIVET_SOURCE_FAILED"),
        ("DELETE FROM public.t RETURNING n", "RIVET_SOURCE_FAILED"),
    ],
)
def test_queries_that_are_none_are_refused(dsn: str, sql: Sql, lake: Path, query: str, code: str) -> None:
    sql("CREATE TABLE t (n int); INSERT INTO t VALUES (1)")
    with pytest.raises(RivetError) as caught:
        prepared(dsn, lake, "s.q", query=query, windows={"type": "full"}).plan()
    assert caught.value.code == code
    assert sql("SELECT n FROM t") == [(1,)]
    assert not lake.exists()


def test_a_query_that_fails_while_it_is_read_commits_nothing(dsn: str, sql: Sql, lake: Path) -> None:
    query = "SELECT n, 10 / (n - 5) AS v FROM generate_series(1, 9) AS n"
    with pytest.raises(SourceError, match="division by zero"):
        export_all(prepared(dsn, lake, "s.q", query=query, windows={"type": "full"}, limits={"attempts": 1}))
    assert not list((lake / "s.q").rglob("*.parquet"))
