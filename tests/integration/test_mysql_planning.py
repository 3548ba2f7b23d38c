"""Plans on MariaDB: walks and pages are ranges of the key's index, and tables without a key are read as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rivet_dagster.cli import app
from rivet_dagster.errors import ConfigError, PlanError, SourceError
from rivet_dagster.export.config import ExportConfig, parse_config
from rivet_dagster.export.operations import TableExport
from rivet_dagster.export.validate import validate_export
from rivet_dagster.sources.base import NO_KEY, BatchLimits, Column, Key, KeyRange, KeyText, Table
from rivet_dagster.sources.mysql.catalog import _why_unusable
from rivet_dagster.sources.mysql.session import MysqlSession, MysqlWindowReader
from rivet_dagster.sources.ordering import choose_key
from tests.support.exports import export_all, prepared
from tests.support.mysql_tables import (
    KEYS,
    KeyCase,
    Sql,
    Watched,
    ask,
    client,
    database_of,
    described,
    make_keyed,
    session_of,
    source_rows,
)
from tests.support.readers import assert_same, exported_rows, sealed, tree

ROWS = 3000
# What a range may cost beyond its rows: each of its up to eight intervals is searched for once.
_SEARCHES = {1: 2, 2: 4, 3: 6, 4: 8}


def opened(session: MysqlSession, dsn: str, case: KeyCase) -> tuple[Table, Key]:
    table = session.describe(database_of(dsn), "t")
    return table, choose_key(table, case.names)


def reached(session: MysqlSession, table: Table, key: Key, rows: int) -> KeyText:
    step = session.walk(table, key, None, rows)
    assert step is not None
    return step.key


# ------------------------------------------------------------------------------------------ ranges of the index


@pytest.mark.parametrize("name", KEYS)
def test_a_walk_reads_the_entries_that_it_passes(mysql_dsn: str, mysql_sql: Sql, name: str) -> None:
    case = KEYS[name]
    make_keyed(mysql_sql, case, ROWS)
    with session_of(mysql_dsn) as session:
        table, key = opened(session, mysql_dsn, case)
        watched = Watched(session)
        position: KeyText | None = None
        for _ in range(4):
            step = session.walk(table, key, position, 700)
            work = watched.since()
            assert step is not None
            assert step.rows == 700
            assert work.passed <= 701
            assert work.looked_up <= _SEARCHES[len(key.columns)]
            assert (work.scanned, work.sorts, work.temporary) == (0, 0, 0), work
            position = step.key

        # The end is found by counting what is left, which is walked once more for that.
        step = session.walk(table, key, position, 700)
        assert step is not None
        assert step.rows == 200
        assert watched.since().passed <= 2 * 200 + 2
        assert session.walk(table, key, step.key, 700) is None
        assert watched.since().passed == 0


@pytest.mark.parametrize("name", KEYS)
def test_a_page_reads_its_rows_and_one_more(mysql_dsn: str, mysql_sql: Sql, name: str) -> None:
    case = KEYS[name]
    make_keyed(mysql_sql, case, ROWS)
    expected = [n for (n,) in mysql_sql(f"SELECT n FROM t ORDER BY {', '.join(case.names)}")]
    with session_of(mysql_dsn) as session:
        table, key = opened(session, mysql_dsn, case)
        lo, hi = (reached(session, table, key, rows) for rows in (1000, 1750))
        with session.open_window(table, key, BatchLimits()) as reader:
            watched = Watched(session)
            found: list[int] = []
            after, asked = lo, 100
            while True:
                page = reader.read_page(KeyRange(after, hi), asked)
                check_page(watched, page.rows, key)
                found += numbers(reader.decode_page())
                if page.rows < asked:
                    break
                after = reader.last_key()
            for span in (KeyRange(None, lo), KeyRange(None, hi), KeyRange(hi, None), KeyRange(None, None)):
                page = reader.read_page(span, asked)
                assert page.rows == asked
                check_page(watched, page.rows, key)
                rest = numbers(reader.decode_page())
            found += numbers(reader.finish())
    assert page.rows == 100
    assert not rest
    assert found == expected[1000:1750] + expected[:100] * 2 + expected[1750:1850] + expected[:100]


def check_page(watched: Watched, rows: int, key: Key) -> None:
    work = watched.since()
    assert work.passed <= rows + 2
    assert work.looked_up <= _SEARCHES[len(key.columns)] + 1
    assert (work.scanned, work.sorts, work.temporary) == (0, 0, 0), work


def numbers(batches: Any) -> list[int]:
    return [n for batch in batches for n in batch.column("n").to_pylist()]


@pytest.mark.parametrize("name", KEYS)
def test_the_server_explains_pages_as_ranges(mysql_dsn: str, mysql_sql: Sql, name: str) -> None:
    """The very statements, prepared with the very values, as the server means to run them."""
    case = KEYS[name]
    make_keyed(mysql_sql, case, ROWS)
    with session_of(mysql_dsn) as session:
        table, key = opened(session, mysql_dsn, case)
        lo, hi = (reached(session, table, key, rows) for rows in (1000, 1750))
        with session.open_window(table, key, BatchLimits()) as reader:
            sent = recorded(reader)
            for span in (KeyRange(None, hi), KeyRange(lo, hi), KeyRange(lo, None)):
                reader.read_page(span, 100)
                list(reader.decode_page())
    assert len(sent) == 3
    with client(mysql_dsn) as other:
        for statement, values in sent:
            (plan,) = explained(other, statement, values)
            assert (plan["type"], plan["key"]) == ("range", key.index)
            assert not set(plan["Extra"].split("; ")) & {"Using filesort", "Using temporary"}


def recorded(reader: MysqlWindowReader) -> list[tuple[str, Sequence[str | int]]]:
    """The statements that a reader sends from now on."""
    sent: list[tuple[str, Sequence[str | int]]] = []
    execute = reader._stream.execute

    def recording(statement: str, values: Sequence[str | int]) -> Any:
        sent.append((statement, values))
        return execute(statement, values)

    reader._stream.execute = recording  # type: ignore[method-assign, assignment]
    return sent


def explained(connection: Any, statement: str, values: Sequence[str | int]) -> list[dict[str, Any]]:
    ask(connection, "PREPARE page FROM %s", f"EXPLAIN {statement}")
    for number, value in enumerate(values):
        ask(connection, f"SET @p{number} = %s", value)
    with connection.cursor() as cursor:
        cursor.execute(f"EXECUTE page USING {', '.join(f'@p{number}' for number in range(len(values)))}")
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def test_statistics_that_say_otherwise_do_not_matter(mysql_dsn: str, mysql_sql: Sql) -> None:
    """A table that seems to have three rows is one that the optimizer would rather scan and sort."""
    make_keyed(mysql_sql, KEYS["secondary of two"], ROWS)
    mysql_sql("ALTER TABLE t STATS_AUTO_RECALC = 0")
    mysql_sql("ANALYZE TABLE t")
    mysql_sql(f"UPDATE mysql.innodb_table_stats SET n_rows = 3 WHERE database_name = '{database_of(mysql_dsn)}'")
    # Whatever is renamed has its statistics read again.
    mysql_sql("RENAME TABLE t TO u, u TO t")
    with session_of(mysql_dsn) as session:
        table, key = opened(session, mysql_dsn, KEYS["secondary of two"])
        assert table.estimated_rows is not None
        assert table.estimated_rows < 10
        hi = reached(session, table, key, 2900)
        with session.open_window(table, key, BatchLimits()) as reader:
            watched = Watched(session)
            page = reader.read_page(KeyRange(None, hi), 5000)
            assert page.rows == 2900
            check_page(watched, 2900, key)


# ------------------------------------------------------------------------------------------ keys that are none


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ("UNIQUE i (s(5))", "it is on a prefix of a column"),
        ("UNIQUE i (a, s(5))", "it is on a prefix of a column"),
        ("UNIQUE i (n)", "a column of it may be NULL"),
        ("UNIQUE i (e)", "values of e are not compared in the order that it keeps"),
        ("UNIQUE i (a, m)", "values of m are not compared in the order that it keeps"),
        ("UNIQUE i (x)", "its type HASH keeps no order"),
        ("UNIQUE i (a, s DESC)", "its columns are sorted in opposite directions"),
    ],
)
def test_indexes_that_cannot_carry_windows_are_rejected_with_a_reason(
    mysql_dsn: str, mysql_sql: Sql, lake: Path, index: str, reason: str
) -> None:
    mysql_sql(
        "CREATE TABLE t (a int NOT NULL, s varchar(20) NOT NULL, n int, e enum('b','a') NOT NULL,"
        f" m set('b','a') NOT NULL, x longblob NOT NULL, {index})"
    )
    table = described(mysql_dsn)
    assert table.keys == ()
    assert table.rejected_keys == (("i", reason),)
    with pytest.raises(SourceError) as caught:
        prepared(mysql_dsn, lake, f"{table.schema}.t").plan()
    assert caught.value.code == "RIVET_KEY_MISSING"
    assert f"Index i: {reason}." in caught.value.what
    assert caught.value.fatal


def test_an_index_that_is_ignored_is_none(mysql_dsn: str, mysql_sql: Sql) -> None:
    mysql_sql("CREATE TABLE t (p int PRIMARY KEY, a int NOT NULL, b int NOT NULL, UNIQUE i (a), UNIQUE j (b))")
    assert [key.index for key in described(mysql_dsn).keys] == ["PRIMARY", "i", "j"]
    mysql_sql("ALTER TABLE t ALTER INDEX i IGNORED")
    table = described(mysql_dsn)
    assert [key.index for key in table.keys] == ["PRIMARY", "j"]
    assert table.rejected_keys == (("i", "the optimizer does not use it: it is invisible or ignored"),)
    with pytest.raises(SourceError, match=r"no usable key of .*\. Index i: the optimizer") as caught:
        choose_key(table, ("a",))
    assert caught.value.code == "RIVET_KEY_UNUSABLE"
    assert "(p) by PRIMARY; (b) by j" in caught.value.advice


def test_an_index_on_an_expression_is_rejected() -> None:
    """MySQL alone has them: its catalog gives no column, and all its columns in capitals."""
    part = {"INDEX_TYPE": "BTREE", "SUB_PART": None, "NULLABLE": "", "COLLATION": "A", "IS_VISIBLE": "YES"}
    columns = {"a": Column("a", "int", nullable=False, kind="int")}
    assert _why_unusable([{**part, "COLUMN_NAME": "a"}], columns) == ""
    found = _why_unusable(
        [{**part, "COLUMN_NAME": "a"}, {**part, "COLUMN_NAME": None, "EXPRESSION": "f(`a`)"}], columns
    )
    assert found == "it is on an expression"
    hidden = {**part, "COLUMN_NAME": "a", "IS_VISIBLE": "NO"}
    assert _why_unusable([hidden], columns) == "the optimizer does not use it: it is invisible or ignored"


# ------------------------------------------------------------------------------------------ reading as a whole


WHOLE = {"type": "full"}


def whole(dsn: str, lake: Path, table: str, **config: Any) -> TableExport:
    return TableExport(parse_config({"table": table, "windows": WHOLE, **config}), dsn, str(lake))


@pytest.fixture
def keyless(mysql_sql: Sql) -> Sql:
    mysql_sql("CREATE TABLE t (a int, b varchar(300))")
    mysql_sql("INSERT INTO t SELECT nullif(seq % 500, 0), repeat(char(65 + seq % 26), 290) FROM seq_1_to_50000")
    mysql_sql("ANALYZE TABLE t")
    return mysql_sql


def test_a_table_without_a_key_is_refused_with_what_reading_it_would_cost(
    mysql_dsn: str, keyless: Sql, lake: Path
) -> None:
    with pytest.raises(SourceError) as caught:
        prepared(mysql_dsn, lake, f"{database_of(mysql_dsn)}.t").plan()
    error = caught.value
    assert error.code == "RIVET_KEY_MISSING"
    assert "As a whole it would hold one query open for about 1 s;" in error.what
    assert "windows of type full" in error.advice
    assert not lake.exists()


def test_the_cost_follows_the_estimates() -> None:
    """Some 50 MiB a second: ten billion bytes are three minutes."""
    table = Table("s", "t", (), (), estimated_rows=100_000_000, average_row_bytes=100)
    with pytest.raises(SourceError, match="for about 191 s"):
        choose_key(table, None)
    with pytest.raises(SourceError, match="for an unknown time"):
        choose_key(Table("s", "v", (), ()), None)


def test_a_whole_table_is_one_window_of_one_statement_in_pieces(mysql_dsn: str, keyless: Sql, lake: Path) -> None:
    export = whole(mysql_dsn, lake, f"{database_of(mysql_dsn)}.t", limits={"page_bytes": 1 << 20})
    (outcome,) = export_all(export)
    assert outcome.manifest is not None
    assert outcome.manifest.rows == 50_000
    statistics = outcome.manifest.statistics
    assert statistics.pages >= 12
    assert statistics.largest_page_bytes < 2 << 20
    assert statistics.wire_bytes > 14 << 20
    folder = lake / export.planned().head.table
    # Without a key there is no order, and rows may be equal.
    found = sorted(exported_rows(folder), key=str)
    assert_same(found, sorted(source_rows(mysql_dsn, "t", "1"), key=str))
    report = validate_export(export.store)
    assert (report.ok, report.rows) == (True, 50_000)


def test_the_one_statement_is_read_as_it_comes(mysql_dsn: str, keyless: Sql) -> None:
    """While pieces are taken, the server has not sent the rest, and no memory holds it."""
    database = database_of(mysql_dsn)
    keyless("INSERT INTO t SELECT a, b FROM t UNION ALL SELECT a, b FROM t")
    with session_of(mysql_dsn) as session:
        table = session.describe(database, "t")
        with session.open_window(table, NO_KEY, BatchLimits()) as reader:
            sent = recorded(reader)
            size = len(reader._stream.buffer)
            rows = batches = 0
            while True:
                page = reader.read_page(KeyRange(None, None), 2000)
                rows += page.rows
                if rows == 2000:
                    running = "SELECT count(*) FROM information_schema.processlist WHERE db = %s AND info LIKE %s"
                    with client(mysql_dsn) as other:
                        assert ask(other, running, database, "SELECT /* rivet_dagster */%") == [(1,)]
                assert len(reader._stream.buffer) == size
                assert page.wire_bytes < 1 << 20
                batches += sum(1 for _ in reader.decode_page())
                if page.rows < 2000:
                    break
            batches += sum(1 for _ in reader.finish())
            assert page.ended
            assert reader.last_key() is None
    assert rows == 150_000
    assert len(sent) == 1
    assert 3 <= batches <= 6, "they end by the rows' bytes, not with the pieces"


def test_planning_a_whole_table_again_changes_nothing(mysql_dsn: str, keyless: Sql, lake: Path) -> None:
    export = whole(mysql_dsn, lake, f"{database_of(mysql_dsn)}.t")
    plan, appended = export.plan()
    assert (len(plan.windows), appended, plan.head.key) == (1, 1, ())
    assert plan.windows[0].span == KeyRange(None, ())
    assert plan.windows[0].planned_rows == pytest.approx(50_000, rel=0.2)
    before = tree(lake)
    keyless("INSERT INTO t VALUES (1, 'late')")
    plan, appended = export.plan()
    assert (len(plan.windows), appended) == (1, 0)
    assert tree(lake) == before
    export_all(export)
    assert sealed(lake / plan.head.table)["rows"] == 50_001, "the window is the table, whatever came to it"


def test_an_empty_table_is_a_window_too(mysql_dsn: str, mysql_sql: Sql, lake: Path) -> None:
    mysql_sql("CREATE TABLE t (a int, b text)")
    export = whole(mysql_dsn, lake, f"{database_of(mysql_dsn)}.t")
    (outcome,) = export_all(export)
    assert outcome.manifest is not None
    assert (outcome.manifest.rows, outcome.manifest.parts) == (0, ())
    assert validate_export(export.store).ok


def test_a_plan_is_by_a_key_or_of_the_whole(mysql_dsn: str, mysql_sql: Sql, lake: Path) -> None:
    mysql_sql("CREATE TABLE t (a int PRIMARY KEY)")
    mysql_sql("INSERT INTO t VALUES (1), (2)")
    name = f"{database_of(mysql_dsn)}.t"
    by_key, as_a_whole = prepared(mysql_dsn, lake, name), whole(mysql_dsn, lake, name)
    by_key.plan()
    with pytest.raises(PlanError, match=r"by \(a\), not as a whole") as caught:
        as_a_whole.plan()
    assert caught.value.code == "RIVET_PLAN_MISMATCH"
    other = whole(mysql_dsn, lake / "other", name)
    other.plan()
    with pytest.raises(PlanError, match=r"planned as a whole, not .*by \(a\)"):
        prepared(mysql_dsn, lake / "other", name, columns=("a",)).plan()


def test_a_table_whose_statements_see_different_moments_can_be_read_as_a_whole(
    mysql_dsn: str, mysql_sql: Sql, lake: Path
) -> None:
    mysql_sql("CREATE TABLE t (a int, b varchar(10)) ENGINE = MyISAM")
    mysql_sql("INSERT INTO t SELECT seq, 'x' FROM seq_1_to_5000")
    (outcome,) = export_all(whole(mysql_dsn, lake, f"{database_of(mysql_dsn)}.t"))
    assert outcome.manifest is not None
    assert outcome.manifest.rows == 5000


@pytest.mark.parametrize(
    ("windows", "fault"),
    [
        ({"type": "whole"}, "windows: its type must be "),
        ({"type": "full", "rows": 5}, "windows.rows: Extra inputs are not permitted"),
        ({"type": "keyset", "rows": 0}, "windows.rows: Input should be greater than or equal to 1"),
        ({"columns": []}, "windows.columns: name each key column once, or leave columns out"),
        ({"columns": ["a", "a"]}, "windows.columns: name each key column once, or leave columns out"),
        (7, "windows: its type must be "),
    ],
)
def test_windows_that_are_none_are_named(windows: Any, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"table": "s.t", "windows": windows})
    assert caught.value.code == "RIVET_CONFIG_INVALID"
    assert fault in caught.value.what


def test_the_command_line_names_the_way_out(mysql_dsn: str, keyless: Sql, lake: Path) -> None:
    told = ["export", "--source", mysql_dsn, "--table", f"{database_of(mysql_dsn)}.t", "--to", str(lake)]
    result = CliRunner().invoke(app, told)
    assert isinstance(result.exception, SourceError)
    assert result.exception.code == "RIVET_KEY_MISSING"


def test_windows_of_a_config_are_what_they_say() -> None:
    assert ExportConfig(table="s.t").windows.type == "keyset"
    assert parse_config({"table": "s.t", "windows": {"rows": 5}}).windows.type == "keyset"
    assert parse_config({"table": "s.t", "windows": {"type": "full"}}).windows.type == "full"
