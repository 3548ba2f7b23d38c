"""Exports from MariaDB, read back with independent readers, also where sessions are set oddly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from demo.mariadb import MariaServer
from rivet_dagster.errors import RivetError
from rivet_dagster.export.config import parse_config
from rivet_dagster.export.operations import TableExport
from rivet_dagster.export.validate import validate_export
from tests.support.cli import rivet
from tests.support.exports import export_all, prepared, run_all
from tests.support.mysql_tables import Sql, ask, client, database_of, source_rows
from tests.support.readers import arrow_rows, assert_same, exported_rows, sealed, tree

EVERY_TYPE = """
CREATE TABLE t (
    a int PRIMARY KEY, t1 tinyint, t2 tinyint unsigned, s smallint, m mediumint unsigned, b bigint, bu bigint unsigned,
    d9 decimal(9,4), d38 decimal(38,10), f float, g double, bit1 bit(1), bit20 bit(20), y year, da date, dt datetime(6),
    d0 datetime, ts timestamp(6) NULL, ti time(6), c char(5), v varchar(20), l varchar(9) CHARACTER SET latin1,
    x longtext, bi binary(4), vb varbinary(9), bl longblob, e enum('x','ß'), st set('a','b'), u uuid
) CHARACTER SET utf8mb4
"""

EDGES = [
    "(1" + ", NULL" * 28 + ")",
    "(2, 127, 255, 32767, 16777215, 9223372036854775807, 18446744073709551615, 99999.9999,"
    " 9999999999999999999999999999.9999999999, 3.4028234e38, 1.7976931348623157e308, b'1', b'11111111111111111111',"
    " 2155, '9999-12-31', '9999-12-31 23:59:59.999999', '9999-12-31 23:59:59', '2038-01-19 03:14:07.999999',"
    " '23:59:59.999999', 'ab', 'é\U0001f600\\n\"\\'', 'ÿ€', repeat('ü', 70000), x'00ff', x'', repeat('b', 70000), 'ß',"
    " 'a,b', 'ffffffff-ffff-4fff-bfff-ffffffffffff')",
    "(-2147483648, -128, 0, -32768, 0, -9223372036854775808, 0, -99999.9999, -0.0000000001, 1.1, 4.9e-324, b'0', b'0',"
    " 1901, '0001-01-01', '0001-01-01 00:00:00', '1000-01-01 00:00:00', '1970-01-01 00:00:01', '00:00:00', '', '', '',"
    " '', x'', x'00', '', 'x', '', '00000000-0000-0000-0000-000000000000')",
    "(3, 0, 1, 0, 1, 0, 1, 0, 12345, -0.0, -0.0, b'1', b'101', 2000, '1970-01-01', '1969-12-31 23:59:59.999999',"
    " '2024-02-29 12:00:00', '2024-02-29 12:00:00.5', '00:00:00.000001', ' a', 'a  ', 'a ', NULL, x'61', x'6120', NULL,"
    " NULL, NULL, uuid())",
]


def named(dsn: str) -> str:
    return f"{database_of(dsn)}.t"


@pytest.fixture
def things(mysql_sql: Sql) -> Sql:
    mysql_sql(EVERY_TYPE)
    mysql_sql("SET sql_mode = 'STRICT_ALL_TABLES', time_zone = '+00:00'")
    mysql_sql(f"INSERT INTO t VALUES {', '.join(EDGES)}")
    return mysql_sql


@pytest.fixture
def numbers(mysql_sql: Sql) -> Sql:
    mysql_sql("CREATE TABLE t (id int PRIMARY KEY, v varchar(100))")
    mysql_sql("INSERT INTO t SELECT seq, repeat(char(65 + seq % 26), 90) FROM seq_1_to_5000")
    return mysql_sql


# Pages of about seven hundred rows; no pause between tries.
QUICK = {"page_bytes": 65536, "retry_seconds": 0}


# ------------------------------------------------------------------------------------------ rows


@pytest.mark.parametrize("rows", [1, 2, 1000])
@pytest.mark.parametrize("read", [exported_rows, arrow_rows])
def test_every_type_and_its_edges(
    mysql_dsn: str, things: Sql, lake: Path, rows: int, read: Callable[[Path], list[Any]]
) -> None:
    export_all(prepared(mysql_dsn, lake, named(mysql_dsn), rows=rows))
    assert_same(read(lake / named(mysql_dsn)), source_rows(mysql_dsn, "t", "a"))


def test_many_rows_with_gaps(mysql_dsn: str, mysql_sql: Sql, lake: Path) -> None:
    mysql_sql(
        "CREATE TABLE t (k varchar(30) COLLATE utf8mb4_unicode_ci, d decimal(20,4), at datetime(3), n double, w text,"
        " b blob, PRIMARY KEY (k))"
    )
    mysql_sql(
        "INSERT INTO t SELECT concat(elt(1 + seq % 4, 'a', 'É', 'ß', 'z'), seq), nullif(seq % 5, 0) * seq / 7,"
        " if(seq % 3 = 0, NULL, '2024-01-01' + interval seq * 1003 microsecond * 1000), if(seq % 4, seq / 3, NULL),"
        " if(seq % 7, repeat(md5(seq), seq % 9), NULL), if(seq % 6, unhex(md5(seq)), NULL) FROM seq_1_to_20000".replace(
            "interval seq * 1003 microsecond * 1000", "interval seq * 1003 second"
        )
    )
    export = prepared(mysql_dsn, lake, named(mysql_dsn), rows=3000, limits=QUICK)
    outcomes = export_all(export, workers=3)
    assert_same(exported_rows(lake / named(mysql_dsn)), source_rows(mysql_dsn, "t", "k"))
    assert sum(outcome.manifest.statistics.pages for outcome in outcomes if outcome.manifest) > 20
    assert validate_export(export.store).ok


def test_the_same_rows_give_the_same_bytes_whatever_the_pages_and_workers(
    mysql_dsn: str, numbers: Sql, tmp_path: Path
) -> None:
    trees = []
    for number, (page_bytes, workers) in enumerate([(65536, 1), (8 << 20, 3)]):
        lake = tmp_path / f"lake{number}"
        limits = {"page_bytes": page_bytes}
        export_all(prepared(mysql_dsn, lake, named(mysql_dsn), rows=1900, limits=limits), workers=workers)
        trees.append({name: data for name, data in tree(lake).items() if "/windows/" not in name})
    assert trees[0] == trees[1]


def test_an_empty_table_is_sealed_with_its_columns(mysql_dsn: str, mysql_sql: Sql, lake: Path) -> None:
    mysql_sql("CREATE TABLE t (id int unsigned PRIMARY KEY, x text)")
    export_all(prepared(mysql_dsn, lake, named(mysql_dsn)))
    seal = sealed(lake / named(mysql_dsn))
    assert (seal["rows"], seal["windows"], seal["engine"]) == (0, [], "mysql")
    assert [column["type"] for column in seal["columns"]] == ["uint32", "text"]


def test_the_command_line_exports_goes_on_and_validates(mysql_dsn: str, numbers: Sql, lake: Path) -> None:
    told = [
        "--source",
        mysql_dsn,
        "--table",
        named(mysql_dsn),
        "--to",
        str(lake),
        "--rows-per-window",
        "1200",
        "--json",
    ]
    first = rivet("export", *told)
    assert first.code == 0, first.err
    assert '"rows": 5000' in first.out
    assert "MariaDB" in first.out
    numbers("INSERT INTO t VALUES (9000, 'late')")
    assert '"rows": 5001' in rivet("export", *told).out
    checked = rivet("validate", str(lake / named(mysql_dsn)))
    assert (checked.code, "is sound" in checked.out) == (0, True)
    assert_same(exported_rows(lake / named(mysql_dsn)), source_rows(mysql_dsn, "t", "id"))


# ------------------------------------------------------------------------------------------ values beyond Arrow's types


@pytest.fixture
def impossible(mysql_sql: Sql) -> Sql:
    mysql_sql("SET sql_mode = 'ALLOW_INVALID_DATES'")
    mysql_sql("CREATE TABLE t (id int PRIMARY KEY, d date, ti time)")
    mysql_sql(
        "INSERT INTO t VALUES (1, '2024-01-01', '01:00:00'), (2, '0000-00-00', '-01:00:00'), (3, '2023-02-31',"
        " '25:00:00'), (4, NULL, NULL)"
    )
    return mysql_sql


def test_values_that_arrow_cannot_hold_are_refused_by_name(mysql_dsn: str, impossible: Sql, lake: Path) -> None:
    export = prepared(mysql_dsn, lake, named(mysql_dsn), rows=1)
    plan, _ = export.plan()
    errors = [outcome.error for outcome in run_all(export, plan, workers=1)]
    assert (errors[0], errors[3]) == (None, None), "the other windows go on"
    for error in errors[1:3]:
        assert isinstance(error, RivetError)
        assert error.code == "RIVET_VALUE_UNSUPPORTED"
        assert "Column d" in error.what


def test_null_takes_their_place_and_is_counted(mysql_dsn: str, impossible: Sql, lake: Path) -> None:
    export_all(prepared(mysql_dsn, lake, named(mysql_dsn), unrepresentable="null"))
    found = exported_rows(lake / named(mysql_dsn))
    assert [(row[1] is None, row[2] is None) for row in found] == [
        (False, False),
        (True, True),
        (True, True),
        (True, True),
    ]
    replaced = {
        (each["column"], each["reason"]): each["values"] for each in sealed(lake / named(mysql_dsn))["replaced"]
    }
    assert replaced == {("d", "zero date"): 1, ("d", "invalid date"): 1, ("ti", "out of range"): 2}


def test_or_the_whole_column_is_the_servers_text(mysql_dsn: str, impossible: Sql, lake: Path) -> None:
    columns = {"d": {"unrepresentable": "text"}, "ti": {"type": "text"}}
    export_all(TableExport(parse_config({"table": named(mysql_dsn), "columns": columns}), mysql_dsn, str(lake)))
    assert exported_rows(lake / named(mysql_dsn)) == [
        (1, "2024-01-01", "01:00:00"),
        (2, "0000-00-00", "-01:00:00"),
        (3, "2023-02-31", "25:00:00"),
        (4, None, None),
    ]


# ------------------------------------------------------------------------------------------ sessions that are set oddly

ODD = (
    "SET NAMES latin1",
    "SET sql_mode = 'PAD_CHAR_TO_FULL_LENGTH,ANSI_QUOTES,PIPES_AS_CONCAT,NO_BACKSLASH_ESCAPES,REAL_AS_FLOAT,"
    "HIGH_NOT_PRECEDENCE,ONLY_FULL_GROUP_BY,NO_ZERO_DATE,NO_UNSIGNED_SUBTRACTION'",
    "SET time_zone = '+05:30', sql_select_limit = 3, autocommit = 0, wait_timeout = 7, max_statement_time = 0.001,"
    " sql_big_selects = 0, sql_auto_is_null = 1, sql_safe_updates = 1, div_precision_increment = 0,"
    " group_concat_max_len = 4, lc_time_names = 'de_DE', lock_wait_timeout = 1, sql_quote_show_create = 0,"
    " optimizer_switch = 'mrr=on,mrr_sort_keys=on,mrr_cost_based=off,index_condition_pushdown=off'",
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
)


@pytest.mark.parametrize("as_global", [False, True])
def test_what_the_server_sets_for_its_users_does_not_matter(
    mysql_dsn: str, mariadb: MariaServer, things: Sql, lake: Path, as_global: bool
) -> None:
    things("INSERT INTO t (a, c, v, ts) SELECT 100 + seq, 'x', 'it\\\\s', '2024-03-31 01:30:00' FROM seq_1_to_2000")
    expected = source_rows(mysql_dsn, "t", "a")
    user = database_of(mysql_dsn).replace("test", "odd")
    things(f"CREATE USER '{user}'@'127.0.0.1' IDENTIFIED BY 'x'")
    things(f"GRANT SELECT ON {named(mysql_dsn)} TO '{user}'@'127.0.0.1'")
    with mariadb.connect() as admin:
        old = ask(admin, "SELECT @@global.sql_mode, @@global.time_zone, @@global.tx_isolation, @@global.init_connect")[
            0
        ]
        try:
            ask(admin, "SET GLOBAL init_connect = %s", "; ".join(ODD))
            if as_global:
                ask(admin, "SET GLOBAL sql_mode = 'PAD_CHAR_TO_FULL_LENGTH', time_zone = '-11:00'")
                ask(admin, "SET GLOBAL tx_isolation = 'READ-COMMITTED'")
            address = mariadb.dsn(database_of(mysql_dsn), user=user, password="x")
            with client(address) as odd:
                assert ask(odd, "SELECT @@sql_select_limit") == [(3,)], "it is as odd as it is meant to be"
            export_all(prepared(address, lake, named(mysql_dsn), rows=900, limits=QUICK))
        finally:
            names = ("sql_mode", "time_zone", "tx_isolation", "init_connect")
            for name, value in zip(names, old, strict=True):
                ask(admin, f"SET GLOBAL {name} = %s", value)
            things(f"DROP USER '{user}'@'127.0.0.1'")
    assert_same(exported_rows(lake / named(mysql_dsn)), expected)
