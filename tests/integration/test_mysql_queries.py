"""Queries in the place of tables on MariaDB: how their columns are described, their rows, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest

from rivet_dagster.errors import ConfigError, SourceError
from rivet_dagster.sources.base import BatchLimits, KeyRange, KeyText
from rivet_dagster.sources.ordering import choose_key
from tests.support.mysql_tables import Sql, ask, client, described, session_of, source_rows

EVERY_TYPE = """
CREATE TABLE t (id int NOT NULL, bu bigint unsigned, ti tinyint(1), si smallint, mi mediumint(7) unsigned zerofill,
    de decimal(12,2) unsigned, d0 decimal(9,0), dl decimal(65,30) NOT NULL, f float, d double, b1 bit(1), b40 bit(40),
    y year, da date NOT NULL, dt datetime, dt3 datetime(3), ts timestamp(6) NULL, tm time(2), ch char(5),
    vc varchar(7) COLLATE latin1_bin, vu varchar(9) COLLATE utf8mb4_unicode_nopad_ci, sj varchar(5) COLLATE
    sjis_japanese_ci, u2 char(3) CHARACTER SET ucs2, tt tinytext, tx text CHARACTER SET latin1, mt mediumtext,
    lt longtext, bi binary(16), vb varbinary(20), tb tinyblob, bl blob, mb mediumblob, lb longblob, g geometry,
    u uuid, i6 inet6, i4 inet4, `ti``ck %s {}` int)
"""


def test_a_query_s_columns_are_described_as_the_table_s(mysql_dsn: str, mysql_sql: Sql) -> None:
    with client(mysql_dsn) as connection:
        ask(connection, EVERY_TYPE)
    expected = described(mysql_dsn)
    with session_of(mysql_dsn) as session:
        table = session.describe_query("sales", "orders", "SELECT * FROM t")
        assert (table.label, table.kind, table.query) == ("sales.orders", "query", "SELECT * FROM t")
        assert (table.keys, table.indexes, table.estimated_rows) == ((), (), None)
        assert table.columns == expected.columns
        assert ask(session._connection, "SELECT @@character_set_results") == [("utf8mb4",)]


def test_a_query_s_rows_are_those_of_a_table_made_of_it(mysql_dsn: str, mysql_sql: Sql) -> None:
    """Of expressions, too: the server says what a table of them would be."""
    mysql_sql("CREATE TABLE base (id int PRIMARY KEY, e enum('b', 'a'), w varchar(9) COLLATE latin1_swedish_ci)")
    mysql_sql("INSERT INTO base SELECT seq, elt(1 + seq % 2, 'a', 'b'), char(64 + seq % 60) FROM seq_1_to_300")
    query = (
        "WITH x AS (SELECT * FROM base) SELECT id, id * 1.50 AS product, id / 7 AS ratio, count(*) OVER () AS total,"
        " concat(w, '€ %s') AS text, e, w, NULL AS nothing, date '2024-01-01' + interval id day AS day,"
        " now(3) > 0 AS later, sqrt(id) AS root, unhex(md5(id)) AS digest, 18446744073709551615 - id AS large,"
        " json_object('id', id) AS doc, CAST(id AS char(5)) AS word FROM x; -- the end;"
    )
    mysql_sql(f"CREATE TABLE t AS {query.rpartition(';')[0].rpartition(';')[0]}")
    with session_of(mysql_dsn) as session:
        table = session.describe_query("a", "b", query)
        assert [column.name for column in table.columns] == [column.name for column in described(mysql_dsn).columns]
        key = choose_key(table, ("id",))
        rows: list[tuple[Any, ...]] = []
        with session.open_window(table, key, BatchLimits()) as reader:
            after: KeyText | None = None
            while not (page := reader.read_page(KeyRange(None, None, after=after), 70)).ended:
                rows += rows_of(reader.decode_page())
                after = reader.last_key()
            assert page.rows == 20
            rows += [*rows_of(reader.decode_page()), *rows_of(reader.finish())]
    assert rows == source_rows(mysql_dsn, "t", "id")


def rows_of(batches: Any) -> Iterator[tuple[Any, ...]]:
    for batch in batches:
        yield from (tuple(row.values()) for row in batch.to_pylist())


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("select id from base;", ["id"]),
        ("\n select id from base -- x ; ", ["id"]),
        ("select 'a; -- b' as x ;; /* foo; */ \n# z", ["x"]),
        ('select 1 as `a``;`, "x;" as b #', ["a`;", "b"]),
        ("values (1, 2)", ["1", "2"]),
        ("select 'it''s \\' ;' as x union select 5;", ["x"]),
        ("(select id from base) -- it's", ["id"]),
    ],
)
def test_queries_are_taken_as_people_end_them(mysql_dsn: str, mysql_sql: Sql, query: str, names: list[str]) -> None:
    mysql_sql("CREATE TABLE base (id int PRIMARY KEY)")
    with session_of(mysql_dsn) as session:
        assert [column.name for column in session.describe_query("a", "b", query).columns] == names


@pytest.mark.parametrize("query", ["SELECT id, v AS id FROM base", "SELECT id, v AS ID FROM base", "SELECT ''"])
def test_columns_of_a_query_need_names_of_their_own(mysql_dsn: str, mysql_sql: Sql, query: str) -> None:
    mysql_sql("CREATE TABLE base (id int PRIMARY KEY, v int)")
    with session_of(mysql_dsn) as session:
        with pytest.raises(ConfigError, match=r"query of a\.b") as caught:
            session.describe_query("a", "b", query)
        assert (caught.value.code, caught.value.fatal) == ("RIVET_CONFIG_QUERY", True)
        assert session.now().year >= datetime.now(timezone.utc).year - 1


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("SELEC 1", "RIVET_SOURCE_FAILED"),
        ("SELECT 1 AS a; SELECT 2", "RIVET_SOURCE_FAILED"),
        ("SELECT ?", "RIVET_SOURCE_FAILED"),
        ("DELETE FROM base", "RIVET_SOURCE_FAILED"),
        ("", "RIVET_SOURCE_FAILED"),
        ("SELECT x FROM base", "RIVET_SOURCE_COLUMN_MISSING"),
        ("SELECT x FROM nowhere", "RIVET_SOURCE_TABLE_MISSING"),
    ],
)
def test_what_is_no_query_is_refused_by_the_server(mysql_dsn: str, mysql_sql: Sql, query: str, code: str) -> None:
    mysql_sql("CREATE TABLE base (id int PRIMARY KEY)")
    mysql_sql("INSERT INTO base VALUES (1)")
    with session_of(mysql_dsn) as session:
        with pytest.raises(SourceError) as caught:
            session.describe_query("a", "b", query)
        assert caught.value.code == code
        assert ask(session._connection, "SELECT @@character_set_results") == [("utf8mb4",)]
    assert mysql_sql("SELECT * FROM base") == [(1,)]
