"""Windows of every kind on MariaDB: ranges of an index without a sort, bounds by statistics, views and queries."""

from __future__ import annotations

from datetime import timezone
from itertools import pairwise
from typing import Any

import pytest

from rivet_dagster.errors import RivetError, SourceError
from rivet_dagster.sources.base import BatchLimits, Key, KeyRange, KeyText, SourceLimits, Table, TypeChoices
from rivet_dagster.sources.mysql.session import MysqlSession
from rivet_dagster.sources.ordering import choose_key, order_by
from tests.support.mysql_tables import Sql, Watched, ask, client, database_of, session_of

ROWS = 4000
DAY = "2024-01-01 00:"
# A column's order with what stands behind it, and bounds of windows on its first column alone.
ORDERS: dict[str, tuple[str, str, str]] = {
    "time": ("at", f"{DAY}02:00.000", f"{DAY}05:00.000"),
    "integer": ("bucket", "2", "5"),
    "nullable integer": ("maybe", "100", "2500"),
    "unique and nullable": ("once", "1000", "3000"),
    "word": ("word", "a", "é"),
    "two columns": ("pair, at", "3", "7"),
}


@pytest.fixture
def orders(mysql_dsn: str, mysql_sql: Sql) -> str:
    """Address of a database with a table whose secondary indexes have ties and NULL."""
    mysql_sql(
        "CREATE TABLE t (id int PRIMARY KEY, at datetime(3) NULL, bucket tinyint NOT NULL, maybe int NULL,"
        " once int NULL, word varchar(9) NULL, pair int NULL, v varchar(40), KEY (at), KEY (bucket, id), KEY (maybe),"
        " UNIQUE (once), KEY (word), KEY (pair, at))"
    )
    mysql_sql(
        "INSERT INTO t SELECT seq, if(seq % 10, '2024-01-01' + interval seq div 7 second, NULL), seq % 8,"
        " if(seq % 4, seq div 3, NULL), if(seq % 9, seq, NULL), elt(1 + seq % 5, 'a', 'B', 'é', 'z', NULL),"
        f" if(seq % 11, seq % 9, NULL), repeat('v', 30) FROM seq_1_to_{ROWS} ORDER BY seq * 7919 % 10007"
    )
    mysql_sql("ANALYZE TABLE t")
    return mysql_dsn


def opened(session: MysqlSession, dsn: str, columns: str, name: str = "t") -> tuple[Table, Key]:
    table = session.describe(database_of(dsn), name)
    return table, order_by(table, tuple(columns.split(", ")))


def ids(batches: Any) -> list[int]:
    return [n for batch in batches for n in batch.column("id").to_pylist()]


def window(session: MysqlSession, table: Table, key: Key, span: KeyRange, asked: int = 300) -> list[int]:
    """Ids of a span's rows, in pages that cost their rows and a few looks into the index."""
    found: list[int] = []
    rows = 0
    with session.open_window(table, key, BatchLimits()) as reader:
        watched = Watched(session)
        after: KeyText | None = None
        ended = False
        while not ended:
            page = reader.read_page(KeyRange(span.lo, span.hi, span.half_open, span.nulls, after), asked)
            ended = page.ended
            in_pieces = page.running_s > 0
            rows = rows + page.rows if in_pieces else page.rows
            if ended or not in_pieces:
                # While rows of a statement are coming, the server cannot be asked.
                work = watched.since()
                assert work.passed <= rows + 2
                assert work.looked_up <= 8
                assert (work.scanned, work.sorts, work.temporary) == (0, 0, 0), work
            found += ids(reader.decode_page())
            if not ended:
                after = reader.last_key()
                assert (after is None) == in_pieces
        found += ids(reader.finish())
    return found


# ------------------------------------------------------------------------------------------ ranges of an index


@pytest.mark.parametrize("name", ORDERS)
def test_windows_of_a_secondary_index_are_read_without_a_sort(orders: str, mysql_sql: Sql, name: str) -> None:
    columns, low, high = ORDERS[name]
    first = columns.partition(",")[0]
    order = f"{columns}, id"

    def expected(condition: str, by: str = order) -> list[int]:
        return [n for (n,) in mysql_sql(f"SELECT id FROM t WHERE {first} {condition} ORDER BY {by}")]

    with session_of(orders) as session:
        table, key = opened(session, orders, columns)
        assert key.columns == tuple(order.split(", "))
        lo, hi = (low,), (high,)
        spans = {
            f"> '{low}' AND {first} <= '{high}'": KeyRange(lo, hi),
            f">= '{low}' AND {first} < '{high}'": KeyRange(lo, hi, half_open=True),
            f"<= '{high}'": KeyRange(None, hi),
            f"> '{low}'": KeyRange(lo, None),
            "IS NOT NULL": KeyRange(None, None),
        }
        if name == "two columns":
            # Rows with NULL in the second column are none of such an order, which is refused before it is planned.
            spans = {f"{condition} AND at IS NOT NULL": span for condition, span in spans.items()}
            mysql_sql("DELETE FROM t WHERE pair IS NOT NULL AND at IS NULL")
        for condition, span in spans.items():
            assert window(session, table, key, span) == expected(condition), condition
        if key.nullable and name != "two columns":
            found = window(session, table, key, KeyRange(None, None, nulls=True))
            assert found == expected("IS NULL", "id") or name == "unique and nullable"
            assert sorted(found) == expected("IS NULL", "id")


@pytest.mark.parametrize("name", ["time", "integer", "nullable integer", "unique and nullable", "word"])
def test_walks_and_counts_between_bounds_pass_only_their_rows(orders: str, mysql_sql: Sql, name: str) -> None:
    columns, low, high = ORDERS[name]
    between = f"{columns} > '{low}' AND {columns} <= '{high}'"
    expected = mysql_sql(f"SELECT id FROM t WHERE {between} ORDER BY {columns}, id")
    with session_of(orders) as session:
        table, key = opened(session, orders, columns)
        watched = Watched(session)
        position: KeyText | None = (low,)
        walked: list[int] = []
        while step := session.walk(table, key, position, 200, (high,)):
            work = watched.since()
            assert work.passed <= (201 if step.rows == 200 else 600)
            assert (work.scanned, work.sorts, work.temporary) == (0, 0, 0), work
            walked.append(step.rows)
            assert int(step.key[-1]) == expected[sum(walked) - 1][0]
            position = step.key
        assert sum(walked) == len(expected)
        watched.since()
        for limit in (1, 50, len(expected), len(expected) + 1, 10**6):
            assert session.count(table, key, KeyRange((low,), (high,)), limit) == min(limit, len(expected))
            work = watched.since()
            assert work.passed <= 2 * min(limit, len(expected)) + 2
            assert (work.scanned, work.sorts, work.temporary) == (0, 0, 0), work
        ((last,),) = mysql_sql(f"SELECT max({columns}) FROM t")
        found = session.last(table, key)
        assert watched.since().passed <= 1
        assert found is not None
        assert mysql_sql(f"SELECT max(id) FROM t WHERE {columns} = '{last}'") == [(int(found[-1]),)]


def test_an_index_over_nothing_but_null_has_no_last_key(mysql_dsn: str, mysql_sql: Sql) -> None:
    mysql_sql("CREATE TABLE t (id int PRIMARY KEY, a int, KEY (a))")
    mysql_sql("INSERT INTO t SELECT seq, NULL FROM seq_1_to_10")
    with session_of(mysql_dsn) as session:
        table, key = opened(session, mysql_dsn, "a")
        assert session.last(table, key) is None
        assert session.walk(table, key, None, 5) is None
        assert session.count(table, key, KeyRange(None, None), 5) == 0
        assert session.count(table, key, KeyRange(None, None, nulls=True), 50) == 10
        assert session.boundaries(table, key, KeyRange(None, None), 5) == ()
        assert window(session, table, key, KeyRange(None, None)) == []
        assert window(session, table, key, KeyRange(None, None, nulls=True), 3) == list(range(1, 11))


def test_the_server_s_time_is_in_utc(mysql_dsn: str) -> None:
    with session_of(mysql_dsn) as session, client(mysql_dsn) as other:
        before, now, after = (
            ask(other, "SELECT UTC_TIMESTAMP(6)")[0][0].replace(tzinfo=timezone.utc),
            session.now(),
            ask(other, "SELECT UTC_TIMESTAMP(6)")[0][0].replace(tzinfo=timezone.utc),
        )
    assert before <= now <= after
    assert now.tzinfo is timezone.utc


# ------------------------------------------------------------------------------------------ pieces


def test_rows_that_no_key_tells_apart_are_one_statement_s(mysql_dsn: str, mysql_sql: Sql) -> None:
    mysql_sql("CREATE TABLE t (a int, id int, KEY (a))")
    mysql_sql("INSERT INTO t SELECT nullif(seq % 10, 0), seq FROM seq_1_to_2000")
    limits = SourceLimits(statement_timeout_s=31, snapshot_s=901)
    with session_of(mysql_dsn, limits) as session:
        table, key = opened(session, mysql_dsn, "a")
        assert not key.unique
        for condition, span in {
            "a > 2 AND a <= 5": KeyRange(("2",), ("5",)),
            "a >= 2 AND a < 5": KeyRange(("2",), ("5",), half_open=True),
            "a IS NULL": KeyRange(None, None, nulls=True),
            "a IS NOT NULL": KeyRange(None, None),
        }.items():
            expected = mysql_sql(f"SELECT id FROM t WHERE {condition}")
            assert sorted(window(session, table, key, span, 70)) == sorted(n for (n,) in expected)
            with session.open_window(table, key, BatchLimits()) as reader:
                page = reader.read_page(span, 10)
                assert (page.rows, page.ended, reader.last_key()) == (10, False, None)
                while not reader.read_page(span, 9999).ended:
                    pass
                again = reader.read_page(span, 9999)
                assert (again.rows, again.wire_bytes, again.ended) == (0, 0, True)
                assert ask(session._connection, "SELECT @@max_statement_time") == [(901,)]
            assert ask(session._connection, "SELECT @@max_statement_time") == [(31,)]


def test_rows_with_null_and_nothing_behind_it_come_in_pieces(mysql_dsn: str, mysql_sql: Sql) -> None:
    mysql_sql("CREATE TABLE t (a int, id int)")
    mysql_sql("INSERT INTO t SELECT if(seq % 2, seq, NULL), seq FROM seq_1_to_100")
    mysql_sql("CREATE VIEW w AS SELECT a, id FROM t")
    with session_of(mysql_dsn, SourceLimits(statement_timeout_s=31, snapshot_s=901)) as session:
        table = session.describe(database_of(mysql_dsn), "w")
        key = choose_key(table, ("a",))
        assert (key.nullable, key.unique) == (True, True)
        with session.open_window(table, key, BatchLimits()) as reader:
            page = reader.read_page(KeyRange(None, None, nulls=True), 30)
            assert (page.rows, page.ended, reader.last_key()) == (30, False, None)
            found = ids(reader.decode_page())
            page = reader.read_page(KeyRange(None, None, nulls=True), 30)
            assert (page.rows, page.ended) == (20, True)
            found += [*ids(reader.decode_page()), *ids(reader.finish())]
            assert ask(session._connection, "SELECT @@max_statement_time") == [(901,)]
        assert sorted(found) == list(range(2, 101, 2))
        with session.open_window(table, key, BatchLimits()) as reader:
            assert reader.read_page(KeyRange(None, None), 30).rows == 30
            assert ask(session._connection, "SELECT @@max_statement_time") == [(31,)]
            list(reader.decode_page())
            assert reader.last_key() == ("59",)


# ------------------------------------------------------------------------------------------ bounds by statistics

SPREAD = {
    "int": "CAST(seq AS int) - 5000",
    "bigint": "if(seq % 2, -9223372036854775808 + CAST(seq AS int), 9223372036854775807 - CAST(seq AS int))",
    "bigint unsigned": "18446744073709551615 - seq * seq",
    "decimal(30,10)": "seq * seq * 1234567.0123456789 - 1000000000",
    "date": "'2024-01-01' + interval seq div 10 day",
    "datetime": "'2024-01-01' + interval seq second",
    "datetime(6)": "'1000-01-01' + interval seq * 1000001 microsecond",
    "timestamp(3)": "'2024-01-01' + interval seq * 1001000 microsecond",
    "binary(16)": "unhex(md5(seq))",
}


@pytest.mark.parametrize("kind", SPREAD)
@pytest.mark.parametrize("windows", [2, 16])
def test_bounds_by_statistics_make_windows_alike(mysql_dsn: str, mysql_sql: Sql, kind: str, windows: int) -> None:
    mysql_sql(f"CREATE TABLE t (id int PRIMARY KEY, a {kind} NULL, KEY (a))")
    mysql_sql(f"INSERT INTO t SELECT seq, {SPREAD[kind]} FROM seq_1_to_10000")
    mysql_sql("INSERT INTO t SELECT 10000 + seq, NULL FROM seq_1_to_500")
    mysql_sql("ANALYZE TABLE t")
    with session_of(mysql_dsn) as session:
        table, key = opened(session, mysql_dsn, "a")
        watched = Watched(session)
        bounds = session.boundaries(table, key, KeyRange(None, None), windows)
        assert watched.since().passed <= 2, "nothing is counted but by the statistics"
        assert bounds is not None
        counts = check_bounds(session, table, key, KeyRange(None, None), bounds)
        assert sum(counts) == 10_000
        assert len(counts) == windows
        assert max(counts) < 2 * 10_000 / windows
        # Within a window that is bounded already.
        span = KeyRange(bounds[0], None) if windows == 2 else KeyRange(bounds[2], bounds[9])
        within = session.boundaries(table, key, span, 4)
        assert within is not None
        assert len(check_bounds(session, table, key, span, within)) == 4


def check_bounds(
    session: MysqlSession, table: Table, key: Key, span: KeyRange, bounds: tuple[KeyText, ...]
) -> list[int]:
    """Rows between bounds, which the server finds to ascend strictly within the span."""
    edges = [span.lo, *bounds, span.hi]
    return [count for lo, hi in pairwise(edges) if (count := session.count(table, key, KeyRange(lo, hi), 10**6)) >= 0]


def test_bounds_stay_within_the_span_and_ascend(mysql_dsn: str, mysql_sql: Sql) -> None:
    mysql_sql("CREATE TABLE t (a bigint unsigned NOT NULL, id int, PRIMARY KEY (a, id))")
    mysql_sql("INSERT INTO t SELECT 18446744073709551615 - seq % 5, seq FROM seq_1_to_1000")
    with session_of(mysql_dsn) as session:
        table, key = opened(session, mysql_dsn, "a")
        top = 2**64 - 1
        bounds = session.boundaries(table, key, KeyRange(None, None), 50)
        assert bounds == tuple((str(value),) for value in range(top - 3, top))
        assert session.boundaries(table, key, KeyRange((str(top - 1), "7"), (str(top), "9")), 50) == ()
        assert session.boundaries(table, key, KeyRange((str(top),), None), 50) == ()
        assert session.boundaries(table, key, KeyRange(("0",), ("0",)), 50) == ()
        assert session.boundaries(table, key, KeyRange(None, None), 1) == ()
        assert session.boundaries(table, key, KeyRange(None, None, nulls=True), 5) is None


def test_dates_that_there_are_not_bound_windows_too(mysql_dsn: str, mysql_sql: Sql) -> None:
    with client(mysql_dsn) as connection:
        ask(connection, "CREATE TABLE t (id int PRIMARY KEY, a datetime NOT NULL, KEY (a))")
        ask(
            connection,
            "INSERT INTO t SELECT seq, if(seq < 500, '0000-00-00', if(seq < 600, '2024-00-00', if(seq < 700,"
            " '2023-02-31 10:00:00', '2023-01-01' + interval seq * 6 hour))) FROM seq_1_to_3000",
        )
    with session_of(mysql_dsn) as session:
        table, key = opened(session, mysql_dsn, "a")
        for lo, hi in ((None, None), ("2023-02-31 10:00:00", "2024-00-00 00:00:00"), ("2024-00-00", None)):
            span = KeyRange((lo,) if lo else None, (hi,) if hi else None)
            bounds = session.boundaries(table, key, span, 9)
            assert bounds
            edges = [*([lo] if lo else []), *(bound for (bound,) in bounds), *([hi] if hi else [])]
            for one, other in pairwise(f"CAST('{edge}' AS datetime(6))" for edge in edges):
                assert ask(session._connection, f"SELECT {one} < {other}") == [(1,)]


@pytest.mark.parametrize("kind", ["varchar(20)", "uuid", "double", "varbinary(16)", "time"])
def test_other_types_have_no_bounds_by_statistics(mysql_dsn: str, mysql_sql: Sql, kind: str) -> None:
    mysql_sql(f"CREATE TABLE t (id int PRIMARY KEY, a {kind}, KEY (a))")
    with session_of(mysql_dsn) as session:
        table, key = opened(session, mysql_dsn, "a")
        assert session.boundaries(table, key, KeyRange(None, None), 5) is None


# ------------------------------------------------------------------------------------------ views and queries


@pytest.fixture
def joined(mysql_dsn: str, mysql_sql: Sql) -> str:
    """Address of a database with a view whose key may be NULL, twice the same, and a date that there is not."""
    mysql_sql("CREATE TABLE one (id int PRIMARY KEY, v varchar(9) NOT NULL)")
    mysql_sql("CREATE TABLE two (id int NOT NULL, day date NOT NULL, KEY (id))")
    mysql_sql("INSERT INTO one SELECT seq, 'x' FROM seq_1_to_1000")
    with client(mysql_dsn) as connection:
        ask(connection, "INSERT INTO two SELECT seq, if(seq % 10, '2024-01-01', '0000-00-00') FROM seq_1_to_900")
    mysql_sql("CREATE VIEW t AS SELECT one.id, two.day, one.v FROM one LEFT JOIN two USING (id)")
    return mysql_dsn


def test_zero_dates_of_a_view_are_not_null(joined: str) -> None:
    """For IS NULL they would be, and be read twice."""
    with session_of(joined, types=TypeChoices(unrepresentable="null")) as session:
        table = session.describe(database_of(joined), "t")
        assert (table.kind, table.indexes) == ("view", ())
        key = choose_key(table, ("day", "id"))
        assert key.nullable
        found = {nulls: pages_of(session, table, key, KeyRange(None, None, nulls=nulls), 60) for nulls in (False, True)}
    days = list(range(10, 901, 10)) + [n for n in range(1, 901) if n % 10]
    assert found == {False: days, True: list(range(901, 1001))}


def pages_of(session: MysqlSession, table: Table, key: Key, span: KeyRange, asked: int) -> list[int]:
    found: list[int] = []
    after: KeyText | None = None
    with session.open_window(table, key, BatchLimits()) as reader:
        while True:
            page = reader.read_page(KeyRange(span.lo, span.hi, span.half_open, span.nulls, after), asked)
            found += ids(reader.decode_page())
            if page.ended:
                break
            after = reader.last_key()
        found += ids(reader.finish())
    return found


def test_a_view_of_one_table_is_read_by_that_table_s_index(mysql_dsn: str, mysql_sql: Sql) -> None:
    mysql_sql("CREATE TABLE base (id int, b int NOT NULL, v varchar(9), PRIMARY KEY (id, b))")
    mysql_sql("INSERT INTO base SELECT seq div 3, seq, 'x' FROM seq_1_to_3000")
    mysql_sql("CREATE VIEW t AS SELECT id, b, v FROM base WHERE b > 0")
    with session_of(mysql_dsn) as session:
        view = session.describe(database_of(mysql_dsn), "t")
        query = session.describe_query(database_of(mysql_dsn), "q", "SELECT id, b, v FROM base")
        for table in (view, query):
            key = choose_key(table, ("id", "b"))
            found = window(session, table, key, KeyRange(("20",), ("900", "2701")), 400)
            assert found == [n for (n,) in mysql_sql("SELECT id FROM base WHERE id > 20 AND b <= 2701 ORDER BY id, b")]


def test_a_declared_key_that_several_rows_have_is_noticed(mysql_dsn: str, mysql_sql: Sql) -> None:
    mysql_sql("CREATE TABLE base (id int NOT NULL, w varchar(5) COLLATE utf8mb4_general_ci)")
    mysql_sql("INSERT INTO base VALUES (1, 'a'), (1, 'b'), (2, 'a'), (2, 'A '), (3, 'z'), (3, NULL), (4, 'q')")
    mysql_sql("CREATE VIEW t AS SELECT * FROM base")
    with session_of(mysql_dsn) as session:
        table = session.describe(database_of(mysql_dsn), "t")
        for columns, after, code in (
            (("id",), None, "RIVET_KEY_NOT_UNIQUE"),
            (("id", "w"), None, ""),
            (("id", "w"), ("1", "b"), "RIVET_KEY_NOT_UNIQUE"),
            (("id", "w"), ("2", "a"), "RIVET_KEY_NULL"),
            (("id", "w"), ("3", "b"), ""),
        ):
            key = choose_key(table, columns)
            with session.open_window(table, key, BatchLimits()) as reader:
                assert reader.read_page(KeyRange(None, None, after=after), 1).rows == 1
                list(reader.decode_page())
                assert outcome(reader.last_key) == code
        with pytest.raises(SourceError) as caught:
            session.walk(table, choose_key(table, ("id", "w")), ("2", "a"), 1)
        assert caught.value.code == "RIVET_KEY_NULL"


def outcome(action: Any) -> str:
    """The code of an action's error, which is fatal; nothing where there is none."""
    try:
        action()
    except RivetError as error:
        return error.code if error.fatal else f"{error.code}, not fatal"
    return ""


def test_rows_whose_declared_key_has_null_are_in_one_window(mysql_dsn: str, mysql_sql: Sql) -> None:
    mysql_sql("CREATE TABLE base (id int NOT NULL, b int, c int)")
    mysql_sql("INSERT INTO base SELECT seq, nullif(seq % 4, 0), nullif(seq % 3, 0) FROM seq_1_to_60")
    mysql_sql("CREATE VIEW t AS SELECT id, id div 9 AS a, b, c FROM base")
    with session_of(mysql_dsn) as session:
        table = session.describe(database_of(mysql_dsn), "t")
        key = choose_key(table, ("a", "b", "c"))
        bounds = [None, ("1",), ("2", "2"), ("2", "3", "1"), ("4", "1", "2"), None]
        windows = [pages_of(session, table, key, KeyRange(lo, hi), 1000) for lo, hi in pairwise(bounds)]
        assert [n for found in windows for n in found] == [
            n for (n,) in mysql_sql("SELECT id FROM t WHERE a IS NOT NULL ORDER BY a, b, c")
        ]
        halves = [pages_of(session, table, key, KeyRange(lo, hi, half_open=True), 1000) for lo, hi in pairwise(bounds)]
        assert sorted(n for found in halves for n in found) == list(range(1, 61))


def test_keys_that_do_not_sort_as_they_compare_are_refused(mysql_dsn: str, mysql_sql: Sql) -> None:
    mysql_sql("CREATE TABLE base (id int NOT NULL, e enum('z', 'a') NOT NULL, x text NOT NULL)")
    with session_of(mysql_dsn) as session:
        table = session.describe_query(database_of(mysql_dsn), "q", "SELECT * FROM base")
        for name in ("e", "x"):
            with pytest.raises(SourceError) as caught:
                session.walk(table, choose_key(table, ("id", name)), None, 1)
            assert (caught.value.code, caught.value.fatal) == ("RIVET_KEY_UNUSABLE", True)
