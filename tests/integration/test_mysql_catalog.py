"""What MariaDB's catalog says of columns, keys, engines and rights decides what may be planned."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.mariadb import MariaServer
from rivet_dagster.errors import SourceError
from rivet_dagster.sources.ordering import choose_key
from tests.support.exports import export_all, prepared
from tests.support.mysql_tables import Sql, ask, client, database_of, described, session_of
from tests.support.readers import exported_rows


def test_columns_as_they_were_declared(mysql_dsn: str, mysql_sql: Sql) -> None:
    mysql_sql(
        "CREATE TABLE t (id int unsigned PRIMARY KEY, n decimal(12,2) unsigned NOT NULL, v varchar(7), ts timestamp(3)"
        " NULL, e enum('a','b'), x longblob, j json, l longtext, u uuid NOT NULL, gone int)"
    )
    mysql_sql("ALTER TABLE t DROP gone")
    table = described(mysql_dsn)
    assert [(c.name, c.native_type, c.kind, c.nullable, c.unbounded) for c in table.columns] == [
        ("id", "int(10) unsigned", "int", False, False),
        ("n", "decimal(12,2) unsigned", "decimal", False, False),
        ("v", "varchar(7)", "varchar", True, True),
        ("ts", "timestamp(3)", "timestamp", True, False),
        ("e", "enum('a','b')", "enum", True, False),
        ("x", "longblob", "longblob", True, True),
        ("j", "longtext", "json", True, True),
        ("l", "longtext", "longtext", True, True),
        ("u", "uuid", "uuid", False, False),
    ]


def test_collations_are_those_of_the_columns(mysql_dsn: str, mysql_sql: Sql) -> None:
    mysql_sql(
        "CREATE TABLE t (a varchar(5) COLLATE utf8mb4_uca1400_as_cs, b char(5) CHARACTER SET latin1, c text, d int,"
        " e varbinary(5)) COLLATE utf8mb4_czech_ci"
    )
    assert [c.collation for c in described(mysql_dsn).columns] == [
        "utf8mb4_uca1400_as_cs",
        "latin1_swedish_ci",
        "utf8mb4_czech_ci",
        "",
        "",
    ]


def test_json_is_a_text_with_a_check_on_itself_alone(mysql_dsn: str, mysql_sql: Sql) -> None:
    mysql_sql(
        "CREATE TABLE t (id int PRIMARY KEY, `a``b` json, c longtext CHECK (json_valid(`c`)),"
        " d longtext CHECK (json_valid(`d`) AND d <> ''), e longtext, CONSTRAINT other CHECK (json_valid(`e`)))"
    )
    # A table of the same name elsewhere, and a neighbour whose checks are others.
    mysql_sql("CREATE TABLE u (id int PRIMARY KEY, d json)")
    assert [c.name for c in described(mysql_dsn).columns if c.kind == "json"] == ["a`b", "c", "e"]


def test_the_primary_key_comes_first_then_the_narrowest(mysql_dsn: str, mysql_sql: Sql) -> None:
    mysql_sql(
        "CREATE TABLE t (a int NOT NULL, b int NOT NULL, c int NOT NULL, UNIQUE aaa (a, b, c), UNIQUE zzz (c),"
        " UNIQUE mmm (a, c), PRIMARY KEY (b, a), KEY plain (c, b))"
    )
    table = described(mysql_dsn)
    assert [(key.index, key.columns, key.primary) for key in table.keys] == [
        ("PRIMARY", ("b", "a"), True),
        ("zzz", ("c",), False),
        ("mmm", ("a", "c"), False),
        ("aaa", ("a", "b", "c"), False),
    ]
    assert choose_key(table, None).index == "PRIMARY"
    assert choose_key(table, ("c",)).index == "zzz"


def test_a_key_that_is_none_is_refused_with_the_usable_ones(mysql_dsn: str, mysql_sql: Sql) -> None:
    mysql_sql("CREATE TABLE t (a int NOT NULL, b int NOT NULL, PRIMARY KEY (a, b))")
    with pytest.raises(SourceError) as caught:
        choose_key(described(mysql_dsn), ("b", "a"))
    assert caught.value.code == "RIVET_KEY_UNUSABLE"
    assert "(a, b) by PRIMARY" in caught.value.advice


def test_estimates_come_from_statistics(mysql_dsn: str, mysql_sql: Sql) -> None:
    mysql_sql("CREATE TABLE t (id int PRIMARY KEY, v varchar(2000)) STATS_AUTO_RECALC = 0")
    assert described(mysql_dsn).average_row_bytes == 0
    mysql_sql("INSERT INTO t SELECT seq, repeat('x', 1000) FROM seq_1_to_5000")
    table = described(mysql_dsn)
    assert table.estimated_rows == pytest.approx(5000, rel=0.2)
    assert table.average_row_bytes == 0, "rows are counted at once, pages are not: one page would hold all of them"
    mysql_sql("ANALYZE TABLE t")
    table = described(mysql_dsn)
    assert table.estimated_rows == pytest.approx(5000, rel=0.2)
    assert 900 <= table.average_row_bytes <= 2500


def test_the_first_page_after_a_bulk_load_is_no_larger_than_others(mysql_dsn: str, mysql_sql: Sql, lake: Path) -> None:
    """By what the server says of the table then, four hundred thousand rows would fit into a page."""
    mysql_sql("CREATE TABLE t (id int PRIMARY KEY, v varchar(2000) CHARACTER SET latin1) STATS_AUTO_RECALC = 0")
    mysql_sql("INSERT INTO t SELECT seq, repeat('x', 1500) FROM seq_1_to_20000")
    export = prepared(mysql_dsn, lake, f"{database_of(mysql_dsn)}.t", limits={"page_bytes": 1 << 20})
    (outcome,) = export_all(export)
    assert outcome.manifest is not None
    assert outcome.manifest.rows == 20_000
    assert outcome.manifest.statistics.largest_page_bytes < 2 << 20


def test_a_view_has_columns_and_no_key(mysql_dsn: str, mysql_sql: Sql, lake: Path) -> None:
    mysql_sql("CREATE TABLE base (id int PRIMARY KEY, v varchar(9), hidden int)")
    mysql_sql("INSERT INTO base VALUES (1, 'a', 5), (2, NULL, 6)")
    mysql_sql("CREATE VIEW t AS SELECT id, upper(v) AS `V w` FROM base")
    table = described(mysql_dsn)
    assert [column.name for column in table.columns] == ["id", "V w"]
    assert (table.keys, table.rejected_keys, table.estimated_rows) == ((), (), None)
    assert table.snapshots
    assert (table.kind, table.indexes) == ("view", ())
    with pytest.raises(SourceError, match="is a view, of which no key is known") as caught:
        choose_key(table, None)
    assert caught.value.code == "RIVET_KEY_MISSING"


def test_a_view_over_a_table_that_is_gone_is_refused(mysql_dsn: str, mysql_sql: Sql) -> None:
    mysql_sql("CREATE TABLE base (id int PRIMARY KEY)")
    mysql_sql("CREATE VIEW t AS SELECT id FROM base")
    mysql_sql("DROP TABLE base")
    with pytest.raises(SourceError) as caught:
        described(mysql_dsn)
    assert not caught.value.retryable


def test_partitioned_tables_are_read_in_key_order(mysql_dsn: str, mysql_sql: Sql, lake: Path) -> None:
    """Every part has an index of its own, and the server merges them."""
    mysql_sql(
        "CREATE TABLE t (day date, id int, v varchar(9), PRIMARY KEY (day, id)) PARTITION BY HASH (id) PARTITIONS 5"
    )
    mysql_sql("INSERT INTO t SELECT '2024-01-01' + interval seq % 50 day, seq, 'x' FROM seq_1_to_3000")
    table = described(mysql_dsn)
    assert table.estimated_rows == pytest.approx(3000, rel=0.2)
    assert table.keys[0].columns == ("day", "id")
    name = f"{database_of(mysql_dsn)}.t"
    export_all(prepared(mysql_dsn, lake, name, rows=400, limits={"page_bytes": 65536}))
    assert exported_rows(lake / name) == mysql_sql("SELECT * FROM t ORDER BY day, id")


def test_generated_columns_are_read_and_invisible_ones_are_not_lost(mysql_dsn: str, mysql_sql: Sql, lake: Path) -> None:
    mysql_sql(
        "CREATE TABLE t (id int PRIMARY KEY, a int, twice int AS (a * 2) STORED, thrice bigint AS (a * 3) VIRTUAL,"
        " secret int INVISIBLE DEFAULT 7)"
    )
    mysql_sql("INSERT INTO t (id, a) VALUES (1, 10), (2, NULL)")
    assert [c.name for c in described(mysql_dsn).columns] == ["id", "a", "twice", "thrice", "secret"]
    name = f"{database_of(mysql_dsn)}.t"
    export_all(prepared(mysql_dsn, lake, name))
    assert exported_rows(lake / name) == [(1, 10, 20, 30, 7), (2, None, None, None, 7)]


def test_a_key_on_a_generated_column_may_be_null(mysql_dsn: str, mysql_sql: Sql) -> None:
    """This server takes no NOT NULL for a generated column."""
    mysql_sql("CREATE TABLE t (a int NOT NULL, k int AS (a * 2) STORED, UNIQUE i (k))")
    assert described(mysql_dsn).rejected_keys == (("i", "a column of it may be NULL"),)


def test_a_table_with_its_history_is_exported_as_it_is_now(mysql_dsn: str, mysql_sql: Sql, lake: Path) -> None:
    mysql_sql("CREATE TABLE t (id int PRIMARY KEY, v int) WITH SYSTEM VERSIONING")
    mysql_sql("INSERT INTO t SELECT seq, 1 FROM seq_1_to_50")
    mysql_sql("UPDATE t SET v = 2 WHERE id <= 30")
    mysql_sql("DELETE FROM t WHERE id <= 10")
    table = described(mysql_dsn)
    assert [c.name for c in table.columns] == ["id", "v"]
    name = f"{database_of(mysql_dsn)}.t"
    export_all(prepared(mysql_dsn, lake, name, rows=7))
    assert exported_rows(lake / name) == [(n, 2 if n <= 30 else 1) for n in range(11, 51)]


@pytest.mark.parametrize(
    ("engine", "snapshots"), [("InnoDB", True), ("MyISAM", False), ("Aria", False), ("MEMORY", False)]
)
def test_engines_say_whether_statements_see_one_moment(
    mysql_dsn: str, mysql_sql: Sql, lake: Path, engine: str, snapshots: bool
) -> None:
    mysql_sql(f"CREATE TABLE t (id int, v varchar(30), PRIMARY KEY (id) USING BTREE) ENGINE = {engine}")
    mysql_sql("INSERT INTO t SELECT seq, repeat('v', seq % 30) FROM seq_1_to_2000")
    table = described(mysql_dsn)
    assert table.snapshots is snapshots
    assert table.estimated_rows == pytest.approx(2000, rel=0.2)
    assert table.average_row_bytes < 200
    name = f"{database_of(mysql_dsn)}.t"
    export_all(prepared(mysql_dsn, lake, name, rows=300))
    assert exported_rows(lake / name) == mysql_sql("SELECT * FROM t ORDER BY id")


def test_a_hash_index_is_none(mysql_dsn: str, mysql_sql: Sql) -> None:
    mysql_sql("CREATE TABLE t (id int, PRIMARY KEY (id) USING HASH) ENGINE = MEMORY")
    assert described(mysql_dsn).rejected_keys == (("PRIMARY", "its type HASH keeps no order"),)


def test_indexes_are_those_whose_ranges_are_in_order(mysql_dsn: str, mysql_sql: Sql) -> None:
    mysql_sql(
        "CREATE TABLE t (p int NOT NULL, q int NOT NULL, a int, b varchar(20), e enum('z', 'a'), x text,"
        " g point NOT NULL, PRIMARY KEY (p, q), KEY one (a), KEY two (a, b), UNIQUE three (b, a),"
        " KEY cut_type (q, e, a), KEY cut_prefix (b, x(5)), KEY none (e, a),"
        " KEY hidden (q, a) IGNORED, SPATIAL KEY place (g),"
        " FULLTEXT KEY words (x), KEY down (a DESC), KEY mixed (q, a DESC), KEY whole_down (a DESC, p DESC, q DESC),"
        " KEY hidden_by_whole (a, e))"
    )
    table = described(mysql_dsn)
    assert {index.name: index.columns for index in table.indexes} == {
        "PRIMARY": ("p", "q"),
        "one": ("a",),
        "two": ("a", "b"),
        "three": ("b", "a"),
        "cut_type": ("q",),
        "mixed": ("q",),
        "whole_down": ("a", "p", "q"),
    }
    assert table.kind == "table"
    assert [key.index for key in table.keys] == ["PRIMARY"]


def test_indexes_of_a_table_without_a_key(mysql_dsn: str, mysql_sql: Sql) -> None:
    """Their rows are read by one statement, in whatever order."""
    mysql_sql("CREATE TABLE t (a int, b int, e enum('x'), KEY up (a), KEY down (b DESC), KEY cut (a DESC, e))")
    table = described(mysql_dsn)
    assert {index.name: index.columns for index in table.indexes} == {"up": ("a",), "down": ("b",)}
    assert table.keys == ()


# ------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    "name",
    ["a b", "ti`ck", "what?", "100%", "%s", "per%%cent", "t.dot", 'quo"te', "äöü日本", "{v}", "select", "-- x", "a'b"],
)
def test_names_are_taken_as_they_are(mysql_dsn: str, mysql_sql: Sql, lake: Path, name: str) -> None:
    database = database_of(mysql_dsn)
    with client(mysql_dsn) as connection:
        quoted = "`" + name.replace("`", "``") + "`"
        ask(
            connection,
            f"CREATE TABLE {quoted} ({quoted} int NOT NULL, v int, UNIQUE {quoted} ({quoted}, v), PRIMARY KEY (v))",
        )
        ask(connection, f"INSERT INTO {quoted} SELECT seq, seq FROM seq_1_to_30")
    table = described(mysql_dsn, name)
    assert table.name == name
    assert [key.columns for key in table.keys] == [("v",), (name, "v")]
    spelled = '"' + name.replace('"', '""') + '"'
    export_all(prepared(mysql_dsn, lake, f"{database}.{spelled}", rows=7, columns=(name, "v")))
    (folder,) = lake.iterdir()
    assert exported_rows(folder) == [(n, n) for n in range(1, 31)]


def test_names_that_differ_by_case_are_two(mysql_dsn: str, mysql_sql: Sql) -> None:
    """On this server, as on every Linux: lower_case_table_names is 0."""
    mysql_sql("CREATE TABLE things (a int PRIMARY KEY)")
    mysql_sql("CREATE TABLE Things (b int PRIMARY KEY, c int)")
    assert [c.name for c in described(mysql_dsn, "things").columns] == ["a"]
    assert [c.name for c in described(mysql_dsn, "Things").columns] == ["b", "c"]
    assert described(mysql_dsn, "Things").keys[0].columns == ("b",)
    with pytest.raises(SourceError) as caught:
        described(mysql_dsn, "THINGS")
    assert caught.value.code == "RIVET_SOURCE_TABLE_MISSING"


def test_columns_keep_their_case(mysql_dsn: str, mysql_sql: Sql, lake: Path) -> None:
    mysql_sql("CREATE TABLE t (`Id` int PRIMARY KEY, `VaLue` int)")
    mysql_sql("INSERT INTO t VALUES (1, 2)")
    table = described(mysql_dsn)
    assert table.keys[0].columns == ("Id",)
    assert [c.name for c in table.columns] == ["Id", "VaLue"]


# ------------------------------------------------------------------------------------------ rights


@pytest.mark.parametrize(("schema", "name"), [("", "nowhere"), ("no_such_database", "t"), ("", "")])
def test_a_missing_table_is_named(mysql_dsn: str, schema: str, name: str) -> None:
    schema = schema or database_of(mysql_dsn)
    with session_of(mysql_dsn) as session, pytest.raises(SourceError) as caught:
        session.describe(schema, name)
    assert caught.value.code == "RIVET_SOURCE_TABLE_MISSING"
    assert f"{schema}.{name}" in caught.value.what
    assert caught.value.fatal


def test_a_missing_database_of_the_address_is_named(mysql_dsn: str) -> None:
    with pytest.raises(SourceError) as caught, session_of(mysql_dsn + "_none"):
        pass
    assert caught.value.code == "RIVET_SOURCE_DATABASE_MISSING"


@pytest.fixture
def limited(mariadb: MariaServer, mysql_dsn: str, mysql_sql: Sql) -> Iterator[tuple[str, str]]:
    """A user without rights, and its address."""
    user = database_of(mysql_dsn).replace("test", "limited")
    mysql_sql(f"CREATE USER '{user}'@'127.0.0.1' IDENTIFIED BY 'x'")
    try:
        yield f"'{user}'@'127.0.0.1'", mariadb.dsn("", user=user, password="x")
    finally:
        mysql_sql(f"DROP USER '{user}'@'127.0.0.1'")


@pytest.fixture
def shop(mysql_sql: Sql) -> Sql:
    mysql_sql("CREATE TABLE t (id int PRIMARY KEY, v int, secret int)")
    mysql_sql("INSERT INTO t SELECT seq, seq, seq FROM seq_1_to_20")
    mysql_sql("CREATE VIEW w AS SELECT id, v FROM t")
    mysql_sql("CREATE TABLE other (id int PRIMARY KEY)")
    return mysql_sql


def outcome(address: str, dsn: str, name: str = "t") -> Any:
    with session_of(address) as session:
        return session.describe(database_of(dsn), name)


def test_without_rights_a_table_is_not_there(mysql_dsn: str, shop: Sql, limited: tuple[str, str]) -> None:
    with pytest.raises(SourceError) as caught:
        outcome(limited[1], mysql_dsn)
    assert caught.value.code == "RIVET_SOURCE_TABLE_MISSING"
    assert "the user's rights" in caught.value.advice


def test_rights_to_one_table_are_enough(mysql_dsn: str, shop: Sql, limited: tuple[str, str], lake: Path) -> None:
    shop(f"GRANT SELECT ON {database_of(mysql_dsn)}.t TO {limited[0]}")
    table = outcome(limited[1], mysql_dsn)
    assert table.keys[0].columns == ("id",)
    assert table.estimated_rows == 20
    name = f"{database_of(mysql_dsn)}.t"
    export_all(prepared(limited[1], lake, name, rows=6))
    assert exported_rows(lake / name) == [(n, n, n) for n in range(1, 21)]
    with pytest.raises(SourceError) as caught:
        outcome(limited[1], mysql_dsn, "other")
    assert caught.value.code == "RIVET_SOURCE_TABLE_MISSING"


def test_rights_to_some_columns_are_too_few(mysql_dsn: str, shop: Sql, limited: tuple[str, str]) -> None:
    """The catalog would list those columns alone, and the others would be missing in silence."""
    shop(f"GRANT SELECT (id, v) ON {database_of(mysql_dsn)}.t TO {limited[0]}")
    with pytest.raises(SourceError) as caught:
        outcome(limited[1], mysql_dsn)
    assert caught.value.code == "RIVET_SOURCE_FORBIDDEN"
    assert "view of the columns" in caught.value.advice
    assert caught.value.fatal


@pytest.mark.parametrize("rights", ["INSERT", "INSERT (v)", "UPDATE", "SHOW VIEW"])
def test_other_rights_than_reading_are_none(mysql_dsn: str, shop: Sql, limited: tuple[str, str], rights: str) -> None:
    shop(f"GRANT {rights} ON {database_of(mysql_dsn)}.t TO {limited[0]}")
    with pytest.raises(SourceError) as caught:
        outcome(limited[1], mysql_dsn)
    assert caught.value.code == "RIVET_SOURCE_FORBIDDEN"


def test_a_view_gives_what_its_definer_may_read(mysql_dsn: str, shop: Sql, limited: tuple[str, str]) -> None:
    shop(f"GRANT SELECT ON {database_of(mysql_dsn)}.w TO {limited[0]}")
    assert [c.name for c in outcome(limited[1], mysql_dsn, "w").columns] == ["id", "v"]


def test_rights_that_come_with_a_role_count(mysql_dsn: str, shop: Sql, limited: tuple[str, str]) -> None:
    role = database_of(mysql_dsn).replace("test", "role")
    shop(f"CREATE ROLE {role}")
    try:
        shop(f"GRANT SELECT ON {database_of(mysql_dsn)}.* TO {role}")
        shop(f"GRANT {role} TO {limited[0]}")
        with pytest.raises(SourceError):
            outcome(limited[1], mysql_dsn)
        shop(f"SET DEFAULT ROLE {role} FOR {limited[0]}")
        assert outcome(limited[1], mysql_dsn).name == "t"
    finally:
        shop(f"DROP ROLE {role}")


def test_rights_that_are_taken_away_after_planning(
    mysql_dsn: str, shop: Sql, limited: tuple[str, str], lake: Path
) -> None:
    """A session keeps what it may do with a database, and not what it may do with a table."""
    database = database_of(mysql_dsn)
    shop(f"GRANT SELECT ON {database}.t TO {limited[0]}")
    export = prepared(limited[1], lake, f"{database}.t", rows=6)
    plan, _ = export.plan()
    with session_of(limited[1]) as session:
        table = session.describe(database, "t")
        shop(f"REVOKE SELECT ON {database}.t FROM {limited[0]}")
        with pytest.raises(SourceError) as caught:
            session.walk(table, table.keys[0], None, 5)
        assert caught.value.code == "RIVET_SOURCE_FORBIDDEN"
        assert caught.value.fatal
    with pytest.raises(SourceError) as caught, export.run(plan, plan.windows, "work", 1):
        pass
    assert caught.value.code == "RIVET_SOURCE_TABLE_MISSING"
