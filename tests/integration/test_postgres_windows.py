"""Windows on PostgreSQL: what the server does for their statements, ranges of storage, pieces, declared keys."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rivet_dagster.errors import ConfigError, SourceError
from rivet_dagster.sources.base import NO_KEY, BatchLimits, Index, Key, KeyRange, SourceLimits
from rivet_dagster.sources.ordering import choose_key, order_by
from rivet_dagster.sources.postgres import reader, stream
from tests.support.debian import until
from tests.support.exports import export_all, prepared
from tests.support.planners.postgres import explained, pages, passed, rows_of, session_of
from tests.support.readers import exported_rows

Sql = Callable[[str], list[tuple[Any, ...]]]
ALL = KeyRange(None, None)
NULLS = KeyRange(None, None, nulls=True)


# ------------------------------------------------------------------------------------------ what the server does

INDEXES = {
    "index of both": "CREATE INDEX i ON t (a, n)",
    "index of one": "CREATE INDEX i ON t (a)",
    "index with more": "CREATE INDEX i ON t (a, n, v)",
    "descending": "CREATE INDEX i ON t (a DESC, n DESC)",
}
SPANS = {
    "all": ALL,
    "of one column": KeyRange(("100",), ("300",)),
    "of both columns": KeyRange(("100", "1003"), ("300", "3003")),
    "to one column": KeyRange(("100", "1003"), ("300",)),
    "half open": KeyRange(("100",), ("300",), half_open=True),
    "open above": KeyRange(("900",), None),
    "after a row": KeyRange(("100",), ("300",), after=("200", "2004")),
    "after a row, half open": KeyRange(("100",), ("300",), half_open=True, after=("100", "1004")),
    "nulls": NULLS,
    "nulls after a row": KeyRange(None, None, nulls=True, after=("5002",)),
}


@pytest.fixture
def ties(sql: Sql) -> Sql:
    """a from 0 to 1000, ten rows each, a fifth of them NULL."""
    sql("CREATE TABLE t (a int, n int PRIMARY KEY, v int NOT NULL)")
    sql("INSERT INTO t SELECT CASE WHEN n % 5 < 4 THEN n / 10 END, n, n % 3 FROM generate_series(0, 9999) AS n")
    return sql


def expected_rows(sql: Sql, span: KeyRange) -> list[int]:
    lower, upper = (">=", "<") if span.half_open else (">", "<=")
    found = []
    for a, n in sql("SELECT a, n FROM t ORDER BY a, n"):
        key = (a, n) if a is not None else None
        if span.nulls:
            if key is None and (span.after is None or n > int(span.after[0])):
                found.append(n)
        elif (
            key is not None
            and _holds(key, lower, span.lo)
            and _holds(key, upper, span.hi)
            and _holds(key, ">", span.after)
        ):
            found.append(n)
    return found


def _holds(key: tuple[int, int], sign: str, bound: tuple[str, ...] | None) -> bool:
    if bound is None:
        return True
    left, right = key[: len(bound)], tuple(map(int, bound))
    return {">": left > right, ">=": left >= right, "<": left < right, "<=": left <= right}[sign]


@pytest.mark.parametrize("index", INDEXES)
def test_every_statement_is_a_range_of_the_index(dsn: str, ties: Sql, index: str) -> None:
    ties(INDEXES[index])
    ties("VACUUM ANALYZE t")
    sorts = {"Incremental Sort"} if index == "index of one" else set()
    with explained(dsn) as (session, plans):
        table = session.describe("public", "t")
        key = order_by(table, ["a"])
        assert key == Key(("a", "n"), "i", nullable=True)

        def check(most: int) -> None:
            for nodes in plans.taken():
                kinds = [node["Node Type"] for node in nodes]
                scans = [node for node in nodes if node["Node Type"].startswith("Index")]
                assert set(kinds) - {"Limit", "Aggregate", "WindowAgg", "Subquery Scan"} <= sorts | {
                    scan["Node Type"] for scan in scans
                }, kinds
                assert [scan["Index Name"] for scan in scans] == ["i"]
                assert scans[0]["Index Cond"]
                assert passed(scans[0]) <= most, scans[0]

        # An index without the key behind it is read to the end of a group of equal values; of NULLs that is all.
        for span in SPANS.values():
            some = 2000 if span.nulls and sorts else 0
            expected = expected_rows(ties, span)
            with session.open_window(table, key, BatchLimits()) as window:
                window.read_page(span, 100)
            check(100 + 32 + some)
            assert session.count(table, key, span, 50) == min(50, len(expected))
            check(50 + 10 + some)
            assert [n for _, n, _ in rows_of(session, table, key, span, 77)] == expected
            plans.taken()
            if not span.nulls and not span.half_open:
                start = span.after or span.lo
                step = session.walk(table, key, start, 60, span.hi)
                assert step is not None
                assert (step.rows, int(step.key[1])) == (60, expected[59])
                check(60 + 32)
        assert session.last(table, key) == ("999", "9998")
        check(1 + 32)


def test_walks_of_fewer_rows_end_at_the_last_one(dsn: str, ties: Sql) -> None:
    ties("CREATE INDEX i ON t (a, n)")
    with session_of(dsn) as session:
        table = session.describe("public", "t")
        key = order_by(table, ["a"])
        for after, limit, end in (
            (("990",), None, "9998"),
            (("100",), ("110",), "1108"),
            (("100", "1002"), ("100",), "1008"),
        ):
            inside = expected_rows(ties, KeyRange(after, limit))
            step = session.walk(table, key, after, len(inside) + 1, limit)
            assert step is not None
            assert (step.rows, step.key[1]) == (len(inside), end)
            assert session.walk(table, key, step.key, 1, limit) is None


# ------------------------------------------------------------------------------------------ ranges of storage

STORED = {
    "table": "CREATE TABLE t (n int, v text)",
    "partitions": "CREATE TABLE t (n int, v text) PARTITION BY RANGE (n);"
    "CREATE TABLE p1 PARTITION OF t FOR VALUES FROM (MINVALUE) TO (700);"
    "CREATE TABLE p2 PARTITION OF t FOR VALUES FROM (700) TO (MAXVALUE) PARTITION BY RANGE (n);"
    "CREATE TABLE p3 PARTITION OF p2 FOR VALUES FROM (700) TO (MAXVALUE)",
    "materialised view": "CREATE TABLE b (n int, v text)",
}
FILL = "INSERT INTO {} SELECT n, repeat('x', 200) FROM generate_series(1, 20000) AS n"


@pytest.mark.parametrize("kind", STORED)
def test_a_table_without_a_key_is_read_by_ranges_of_blocks(dsn: str, sql: Sql, kind: str) -> None:
    sql(STORED[kind])
    sql(FILL.format("b" if kind == "materialised view" else "t"))
    if kind == "materialised view":
        sql("CREATE MATERIALIZED VIEW t AS SELECT * FROM b")
    with explained(dsn) as (session, plans):
        table = session.describe("public", "t")
        found = list(pages(session, table, NO_KEY, ALL, 3000))
        assert sorted(n for page in found for n, _ in page) == list(range(1, 20001))
        taken = plans.taken()
        scans = [node for nodes in taken for node in nodes if node["Node Type"] != "Append"]
        assert {scan["Node Type"] for scan in scans} == {"Tid Range Scan"}
        assert len(taken) > 3
        # Each statement reads its own blocks, not the table.
        assert max(sum(passed(node) for node in nodes if node in scans) for nodes in taken) <= 9000


def test_rows_that_move_meanwhile_are_read_where_the_snapshot_sees_them(dsn: str, sql: Sql) -> None:
    sql(STORED["table"])
    sql(FILL.format("t"))
    with session_of(dsn) as session:
        table = session.describe("public", "t")
        found: list[int] = []
        for number, page in enumerate(pages(session, table, NO_KEY, ALL, 1500)):
            found += [n for n, v in page if len(v) == 200]
            sql(f"UPDATE t SET v = 'moved' WHERE n % 7 = {number % 7}")
            sql(f"DELETE FROM t WHERE n > {19000 - number * 1000}")
            sql("INSERT INTO t SELECT n, 'new' FROM generate_series(30000, 30500) AS n")
            sql("VACUUM t")
        assert number > 5
        assert sorted(found) == list(range(1, 20001))
        assert len(rows_of(session, table, NO_KEY, ALL, 1500)) == sql("SELECT count(*) FROM t")[0][0]


@pytest.mark.parametrize(
    "made",
    [
        STORED["table"],
        f"{STORED['table']}; INSERT INTO t VALUES (1); DELETE FROM t",
        "CREATE TABLE t (n int) PARTITION BY RANGE (n)",
        STORED["partitions"],
        "CREATE VIEW t AS SELECT 1 AS n WHERE false",
    ],
)
def test_nothing_is_read_of_an_empty_table(dsn: str, sql: Sql, lake: Path, made: str) -> None:
    sql(made)
    outcomes = export_all(prepared(dsn, lake, "public.t", windows={"type": "full"}))
    assert [outcome.manifest.rows for outcome in outcomes if outcome.manifest] == [0]
    assert exported_rows(lake / "public.t") == []


def test_rows_of_inheriting_tables_are_neither_lost_nor_in_the_key(dsn: str, sql: Sql, lake: Path) -> None:
    """A query of a table has those of its heirs, which its indexes do not know."""
    sql("CREATE TABLE t (n int PRIMARY KEY, v text); CREATE TABLE heir () INHERITS (t)")
    sql("CREATE TABLE late () INHERITS (heir)")
    sql("INSERT INTO t VALUES (1, 'own')")
    sql(FILL.format("heir"))
    sql("INSERT INTO late VALUES (1, 'late')")
    with session_of(dsn) as session:
        table = session.describe("public", "t")
        assert (table.keys, table.indexes) == ((), ())
        with pytest.raises(SourceError, match="inherit") as caught:
            choose_key(table, None)
        assert caught.value.code == "RIVET_KEY_MISSING"
        found = sorted(n for n, _ in rows_of(session, table, NO_KEY, ALL, 3000))
        assert found == [1, 1, *range(1, 20001)]
        # The heirs have what they have themselves.
        assert not session.describe("public", "late").rejected_keys


# ------------------------------------------------------------------------------------------ pieces of one statement


@pytest.fixture(params=["compiled", "calls"])
def small_pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Pieces of 64 KiB, by both routes."""
    monkeypatch.setattr(reader, "_PIECE_BYTES", 64 << 10)
    monkeypatch.setattr(stream, "_FIRST_BYTES", 256 << 10)
    if request.param == "calls":
        monkeypatch.setattr(stream, "find_libpq", lambda pgconn: None)
    return str(request.param)


LONG_VIEW = "CREATE VIEW t AS SELECT n, repeat('x', 100) AS v FROM generate_series(1, 100000) AS n"


def test_a_view_without_a_key_comes_in_pieces(small_pieces: str, dsn: str, sql: Sql) -> None:
    sql(LONG_VIEW)
    with explained(dsn) as (session, plans):
        table = session.describe("public", "t")
        found = [len(piece) for piece in pages(session, table, NO_KEY, ALL, 10)]
        assert sum(found) == 100_000
        assert len(found) > 100
        assert len(plans.taken()) == 1
        # All in all it was more than 10 MB.
        assert session._stream is not None
        assert session._stream.buffer.nbytes == 256 << 10
        assert sorted(n for n, _ in rows_of(session, table, NO_KEY, ALL, 10)) == list(range(1, 100_001))


@pytest.mark.parametrize("span", [KeyRange(("20",), ("60",)), KeyRange(("20",), ("60",), half_open=True), NULLS, ALL])
def test_windows_of_a_table_without_a_key_are_one_range_each(
    small_pieces: str, dsn: str, sql: Sql, span: KeyRange
) -> None:
    sql("CREATE TABLE t (a int, v text)")
    sql("INSERT INTO t SELECT nullif(n % 100, 5), repeat('x', n % 300) FROM generate_series(1, 40000) AS n")
    sql("CREATE INDEX i ON t (a)")
    sql("ANALYZE t")
    where = "a IS NULL" if span.nulls else "a IS NOT NULL"
    if span.lo:
        where = "a >= 20 AND a < 60" if span.half_open else "a > 20 AND a <= 60"
    with explained(dsn) as (session, plans):
        table = session.describe("public", "t")
        key = order_by(table, ["a"])
        assert key == Key(("a",), "i", unique=False, nullable=True)
        found = sorted(rows_of(session, table, key, span, 10), key=repr)
        assert found == sorted(sql(f"SELECT a, v FROM t WHERE {where}"), key=repr)
        ((scan,),) = plans.taken()
        assert scan["Node Type"].startswith("Index")
        assert passed(scan) == len(found)


def test_rows_larger_than_a_piece_are_whole(small_pieces: str, dsn: str, sql: Sql) -> None:
    sql("CREATE VIEW t AS SELECT n, repeat(chr(64 + n), CASE WHEN n % 3 = 0 THEN n * 100000 ELSE n END) AS v"
        " FROM generate_series(1, 20) AS n")  # fmt: skip
    with session_of(dsn) as session:
        table = session.describe("public", "t")
        assert rows_of(session, table, NO_KEY, ALL, 10) == sql("SELECT * FROM t ORDER BY n")


def test_a_statement_that_is_cancelled_midway_leaves_a_usable_session(small_pieces: str, dsn: str, sql: Sql) -> None:
    sql("CREATE VIEW t AS SELECT n, repeat('x', 1000) AS v FROM generate_series(1, 1000000) AS n")
    with session_of(dsn) as session:
        table = session.describe("public", "t")
        taken = 0
        pieces = pages(session, table, NO_KEY, ALL, 10, 64 << 10)
        while not taken:
            taken += len(next(pieces))
        session.cancel()
        with pytest.raises(SourceError) as caught:
            taken += sum(map(len, pieces))
        assert caught.value.code == "RIVET_SOURCE_TIMEOUT"
        assert 0 < taken < 1_000_000
        assert session.now().year > 2020
        assert session.describe("public", "t") == table


def test_a_reader_that_stops_midway_closes_its_connection(small_pieces: str, dsn: str, sql: Sql) -> None:
    """Nothing else can be said on it; and the server does not go on."""
    sql("CREATE VIEW t AS SELECT n, repeat('x', 1000) AS v FROM generate_series(1, 1000000) AS n")
    with session_of(dsn) as session:
        table = session.describe("public", "t")
        pid = session._connection.info.backend_pid
        with closing(pages(session, table, NO_KEY, ALL, 10, 64 << 10)) as pieces:
            assert sum(len(next(pieces)) for _ in range(3)) > 0
            assert sql(f"SELECT state FROM pg_stat_activity WHERE pid = {pid}") == [("active",)]
        assert session._connection.closed
        until(lambda: not sql(f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid}"), "the server ends the statement")
        with pytest.raises(SourceError) as caught:
            session.now()
        assert caught.value.retryable


def test_an_error_midway_is_the_servers_and_leaves_a_usable_session(small_pieces: str, dsn: str, sql: Sql) -> None:
    sql("CREATE VIEW t AS SELECT n, 1000 / (n - 90000) AS v FROM generate_series(1, 100000) AS n")
    with session_of(dsn) as session:
        table = session.describe("public", "t")
        with pytest.raises(SourceError, match="division by zero") as caught:
            rows_of(session, table, NO_KEY, ALL, 10)
        assert caught.value.code == "RIVET_SOURCE_FAILED"
        assert session.now().year > 2020


def test_only_the_one_long_statement_may_take_as_long_as_a_snapshot(dsn: str, sql: Sql) -> None:
    sql("CREATE VIEW t AS SELECT n, pg_sleep(0.02) IS NULL AS v FROM generate_series(1, 40) AS n")
    with session_of(dsn, SourceLimits(statement_timeout_s=0.2, snapshot_s=30)) as session:
        table = session.describe("public", "t")
        assert len(rows_of(session, table, NO_KEY, ALL, 10)) == 40
        with pytest.raises(SourceError) as caught:
            session.count(table, Key(("n",), "", declared=True), ALL, 100)
        assert caught.value.code == "RIVET_SOURCE_TIMEOUT"
    with session_of(dsn, SourceLimits(statement_timeout_s=30, snapshot_s=0.2)) as session:
        with pytest.raises(SourceError) as caught:
            rows_of(session, table, NO_KEY, ALL, 10)
        assert caught.value.code == "RIVET_SOURCE_TIMEOUT"


# ------------------------------------------------------------------------------------------ declared keys


def declared(dsn: str, columns: tuple[str, ...], span: KeyRange, limit: int) -> list[tuple[Any, ...]]:
    with session_of(dsn) as session:
        table = session.describe("public", "t")
        return rows_of(session, table, choose_key(table, columns), span, limit)


def test_a_declared_key_that_is_none_never_loses_a_row(dsn: str, sql: Sql) -> None:
    """Whatever the pages: each row is read once; or the key is refused, where a page ends at one that others have."""
    sql(
        "CREATE VIEW t AS SELECT * FROM"
        " (VALUES (1, 1), (2, 1), (2, 2), (2, 2), (2, 2), (3, 0), (4, 1), (4, 1)) AS v(a, b)"
    )
    expected = sql("SELECT * FROM t ORDER BY a, b")
    for limit in range(1, 12):
        # A page of six ends at another key, and longer ones hold all of the table.
        if limit > 8 or limit == 6:
            assert declared(dsn, ("a", "b"), ALL, limit) == expected
            continue
        with pytest.raises(SourceError) as caught:
            declared(dsn, ("a", "b"), ALL, limit)
        assert caught.value.code == "RIVET_KEY_NOT_UNIQUE"
        assert caught.value.fatal


@pytest.mark.parametrize("nulls", [False, True])
def test_nulls_in_a_declared_key_are_read_or_refused(dsn: str, sql: Sql, nulls: bool) -> None:
    sql(
        "CREATE VIEW t AS SELECT nullif(a, 3) AS a, nullif(b, 3) AS b, nullif(c, 3) AS c"
        " FROM generate_series(1, 3) AS a, generate_series(1, 3) AS b, generate_series(1, 3) AS c"
    )
    expected = sql(f"SELECT * FROM t WHERE a IS {'' if nulls else 'NOT'} NULL ORDER BY a, b, c")
    read, span = [], NULLS if nulls else ALL
    for limit in range(1, len(expected) + 3):
        ends = expected[limit - 1 :: limit]
        if not any(value is None for row in ends for value in row[nulls:]):
            assert declared(dsn, ("a", "b", "c"), span, limit) == expected
            read.append(limit)
            continue
        with pytest.raises(SourceError) as caught:
            declared(dsn, ("a", "b", "c"), span, limit)
        assert caught.value.code == "RIVET_KEY_NULL"
    assert len(read) > 2


def test_a_null_at_a_pages_end_is_refused_and_behind_it_is_not_lost(dsn: str, sql: Sql) -> None:
    sql(
        "CREATE VIEW t AS SELECT * FROM"
        " (VALUES (1, 1), (1, 2), (1, NULL), (2, 1), (NULL, 1), (NULL, 2), (NULL, NULL)) AS v(a, b)"
    )
    for limit in (1, 3):
        with pytest.raises(SourceError) as caught:
            declared(dsn, ("a", "b"), ALL, limit)
        assert caught.value.code == "RIVET_KEY_NULL"
    assert declared(dsn, ("a", "b"), ALL, 2) == [(1, 1), (1, 2), (1, None), (2, 1)]
    assert declared(dsn, ("a", "b"), NULLS, 2) == [(None, 1), (None, 2), (None, None)]
    # Bounds between: the row with NULL is in one of the windows.
    lower = declared(dsn, ("a", "b"), KeyRange(None, ("1", "2")), 9)
    assert lower + declared(dsn, ("a", "b"), KeyRange(("1", "2"), ("2",)), 9) == declared(dsn, ("a", "b"), ALL, 9)


def test_duplicates_among_nulls_are_refused_when_they_straddle_a_page(dsn: str, sql: Sql) -> None:
    sql("CREATE VIEW t AS SELECT * FROM (VALUES (NULL::int, 1), (NULL, 2), (NULL, 2), (NULL, 4), (1, 2)) AS v(a, b)")
    for limit in range(1, 4):
        with pytest.raises(SourceError) as caught:
            declared(dsn, ("a", "b"), NULLS, limit)
        assert caught.value.code == "RIVET_KEY_NOT_UNIQUE"
    assert declared(dsn, ("a", "b"), NULLS, 4) == [(None, 1), (None, 2), (None, 2), (None, 4)]


def test_a_declared_key_of_a_view_is_searched_by_the_index_below_it(dsn: str, ties: Sql) -> None:
    ties("INSERT INTO t SELECT n / 10, n, n % 3 FROM generate_series(10000, 150000) AS n")
    ties("CREATE UNIQUE INDEX i ON t (a, n); CREATE VIEW w AS SELECT a, n FROM t WHERE v < 2")
    ties("ANALYZE t")
    with explained(dsn) as (session, plans):
        table = session.describe("public", "w")
        key = choose_key(table, ("a", "n"))
        span = KeyRange(("100", "1003"), ("300",))
        expected = ties("SELECT a, n FROM w WHERE (a, n) > (100, 1003) AND a <= 300 ORDER BY a, n")
        assert rows_of(session, table, key, span, 500) == expected
        for nodes in plans.taken():
            if [node["Node Type"] for node in nodes] == ["Result"]:
                continue  # a row's key as text
            (scan,) = [node for node in nodes if "Index Name" in node]
            assert scan["Index Name"] == "i"
            assert passed(scan) < 1700, "the index is not read from its beginning"


def test_a_declared_column_that_is_none_is_refused(dsn: str, sql: Sql) -> None:
    sql("CREATE VIEW t AS SELECT 1 AS a")
    with pytest.raises(ConfigError) as caught:
        declared(dsn, ("b",), ALL, 1)
    assert caught.value.code == "RIVET_CONFIG_COLUMN"


def test_descending_nulls_and_partial_indexes(dsn: str, sql: Sql) -> None:
    """Which indexes ranges are read by."""
    sql("CREATE TABLE t (n int PRIMARY KEY, a int, b int NOT NULL)")
    for number, what in enumerate(
        ("(a)", "(a DESC)", "(a NULLS FIRST)", "(b NULLS FIRST)", "(a DESC NULLS LAST)", "(a) WHERE b > 0", "((a + 1))")
    ):
        sql(f"CREATE INDEX i{number} ON t {what}")
    with session_of(dsn) as session:
        table = session.describe("public", "t")
    assert set(table.indexes) == {
        Index("t_pkey", ("n",)),
        Index("i0", ("a",)),
        Index("i1", ("a",)),
        Index("i3", ("b",)),
    }
