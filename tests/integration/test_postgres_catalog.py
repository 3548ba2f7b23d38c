"""What the catalog says of keys, types and rights decides what may be planned."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from rivet_dagster.errors import SourceError
from rivet_dagster.sources import open_source
from rivet_dagster.sources.base import Table
from rivet_dagster.sources.ordering import choose_key

Sql = Callable[[str], list[tuple[Any, ...]]]


def describe(dsn: str, name: str, schema: str = "public") -> Table:
    with closing(open_source(dsn).connect()) as session:
        return session.describe(schema, name)


def test_columns_with_their_modifiers(dsn: str, sql: Sql) -> None:
    sql("CREATE TABLE t (id int PRIMARY KEY, n numeric(12,2) NOT NULL, v varchar(7), ts timestamp(3), gone int)")
    sql("ALTER TABLE t DROP gone")
    table = describe(dsn, "t")
    assert [(c.name, c.native_type, c.nullable) for c in table.columns] == [
        ("id", "integer", False),
        ("n", "numeric(12,2)", False),
        ("v", "character varying(7)", True),
        ("ts", "timestamp(3) without time zone", True),
    ]


def test_the_primary_key_comes_first_then_the_narrowest(dsn: str, sql: Sql) -> None:
    sql("CREATE TABLE t (a int NOT NULL, b int NOT NULL, c int NOT NULL, PRIMARY KEY (b, a), UNIQUE (c))")
    sql("CREATE UNIQUE INDEX wide ON t (a, b, c)")
    table = describe(dsn, "t")
    assert [(key.columns, key.primary) for key in table.keys] == [
        (("b", "a"), True),
        (("c",), False),
        (("a", "b", "c"), False),
    ]
    assert choose_key(table, None).columns == ("b", "a")
    assert choose_key(table, ("c",)).index == "t_c_key"


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ("CREATE UNIQUE INDEX i ON t (n)", "NULL"),
        ("CREATE UNIQUE INDEX i ON t (a) WHERE a > 0", "partial"),
        ("CREATE UNIQUE INDEX i ON t (lower(s))", "expression"),
        ('CREATE UNIQUE INDEX i ON t (s COLLATE "POSIX")', "collation"),
        ("CREATE UNIQUE INDEX i ON t (a, s DESC)", "opposite"),
        ("ALTER TABLE t ADD CONSTRAINT i UNIQUE (a) DEFERRABLE", "deferrable"),
    ],
)
def test_indexes_that_cannot_carry_windows_are_rejected_with_a_reason(
    dsn: str, sql: Sql, index: str, reason: str
) -> None:
    sql("CREATE TABLE t (a int NOT NULL, s text NOT NULL, n int)")
    sql(index)
    table = describe(dsn, "t")
    assert table.keys == ()
    with pytest.raises(SourceError) as caught:
        choose_key(table, None)
    assert caught.value.code == "RIVET_KEY_MISSING"
    assert reason in caught.value.what


def test_an_index_that_failed_to_build_is_rejected(dsn: str, sql: Sql) -> None:
    sql("CREATE TABLE t (a int NOT NULL)")
    sql("CREATE UNIQUE INDEX i ON t (a)")
    sql("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'i'::regclass")
    assert describe(dsn, "t").rejected_keys == (("i", "it is not valid: building it failed or still goes on"),)


def test_usable_forms_of_keys(dsn: str, sql: Sql) -> None:
    sql('CREATE TABLE t (a int NOT NULL, s text COLLATE "C" NOT NULL, x int)')
    sql("CREATE UNIQUE INDEX down ON t (a DESC, s DESC)")
    sql("CREATE UNIQUE INDEX covering ON t (s) INCLUDE (x)")
    assert {key.index: key.columns for key in describe(dsn, "t").keys} == {
        "down": ("a", "s"),
        "covering": ("s",),
    }


def test_a_key_that_is_none_is_refused_with_the_usable_ones(dsn: str, sql: Sql) -> None:
    sql("CREATE TABLE t (a int NOT NULL, b int NOT NULL, PRIMARY KEY (a, b))")
    with pytest.raises(SourceError) as caught:
        choose_key(describe(dsn, "t"), ("b", "a"))
    assert caught.value.code == "RIVET_KEY_UNUSABLE"
    assert "(a, b) by t_pkey" in caught.value.advice


def test_estimates_come_from_statistics(dsn: str, sql: Sql) -> None:
    sql("CREATE TABLE t (id int PRIMARY KEY, v text)")
    assert describe(dsn, "t").estimated_rows is None
    sql("INSERT INTO t SELECT n, repeat('x', 100) FROM generate_series(1, 5000) AS n")
    sql("ANALYZE t")
    table = describe(dsn, "t")
    assert table.estimated_rows == 5000
    assert 120 <= table.average_row_bytes <= 160


def test_partitioned_parents_have_the_rows_of_their_leaves(dsn: str, sql: Sql) -> None:
    sql("CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id)")
    sql("CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (1000)")
    sql("CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (1000) TO (2000)")
    sql("INSERT INTO p SELECT generate_series(0, 1999)")
    sql("ANALYZE")
    table = describe(dsn, "p")
    assert table.estimated_rows == 2000
    assert table.keys[0].columns == ("id",)


def test_a_missing_table_is_named(dsn: str) -> None:
    with pytest.raises(SourceError) as caught:
        describe(dsn, "nowhere")
    assert caught.value.code == "RIVET_SOURCE_TABLE_MISSING"
    assert "public.nowhere" in caught.value.what


def test_sessions_leave_no_settings_behind(dsn: str, sql: Sql) -> None:
    """What a pooler's next client would inherit: nothing, because every setting is local to a transaction."""
    sql("CREATE TABLE t (id int PRIMARY KEY)")
    sql("INSERT INTO t VALUES (1)")
    with closing(open_source(dsn).connect()) as session:
        table = session.describe("public", "t")
        session.walk(table, table.keys[0], None, 10)
        settings = session._connection.execute(  # type: ignore[attr-defined]
            "SELECT name FROM pg_settings WHERE source = 'session'"
        ).fetchall()
    assert settings == []


def test_pages_walk_the_index_whatever_the_statistics_say(dsn: str, sql: Sql) -> None:
    from psycopg import sql as composition

    from rivet_dagster.sources.base import KeyRange
    from rivet_dagster.sources.postgres import templates
    from rivet_dagster.sources.postgres.keys import KeyShape

    sql("CREATE TABLE t (a int NOT NULL, b text NOT NULL, v text, PRIMARY KEY (a, b))")
    sql("INSERT INTO t SELECT n / 10, (n % 10)::text, repeat('x', 50) FROM generate_series(1, 20000) AS n")
    with closing(open_source(dsn).connect()) as session:
        table = session.describe("public", "t")
        shape = KeyShape(table, table.keys[0])
        span = KeyRange(("5", "1"), ("1800", "9"))
        page = composition.SQL(
            templates.PAGE.removeprefix("COPY (").removesuffix(") TO STDOUT (FORMAT binary)")
        ).format(
            columns=composition.SQL("*"),
            table=shape.table,
            within=shape.where(span),
            order=shape.order(span),
            limit=composition.Literal(15000),
        )
        with session._snapshot():  # type: ignore[attr-defined]
            lines = session._connection.execute(composition.SQL("EXPLAIN ") + page).fetchall()  # type: ignore[attr-defined]
    plan = "\n".join(line for (line,) in lines)
    assert "Index Scan using t_pkey" in plan
    assert "Index Cond: ((ROW(a, b) > ROW(5, '1'::text)) AND (ROW(a, b) <= ROW(1800, '9'::text)))" in plan
    assert "Sort" not in plan
    assert "Seq Scan" not in plan
