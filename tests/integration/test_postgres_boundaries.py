"""Windows by PostgreSQL's statistics: as many rows each as these can tell, in the server's order, and none lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from rivet_dagster.export.planning import preview_plan
from rivet_dagster.sources.base import KeyRange, KeyText, SourceLimits, TypeChoices
from rivet_dagster.sources.ordering import choose_key
from rivet_dagster.sources.postgres.source import PostgresSource
from tests.support.debian import runner_of
from tests.support.exports import prepared, run_all
from tests.support.planners.postgres import explained, passed, session_of
from tests.support.readers import exported_rows

Sql = Callable[[str], list[tuple[Any, ...]]]
ESTIMATED = {"type": "keyset", "boundaries": "estimated"}


def bounds_of(dsn: str, wanted: int, columns: tuple[str, ...] | None = None) -> tuple[KeyText, ...] | None:
    with session_of(dsn) as session:
        table = session.describe("public", "t")
        key = choose_key(table, columns)
        return session.boundaries(table, key, KeyRange(None, session.last(table, key)), wanted)


def counts(sql: Sql, column: str, declared: str, bounds: tuple[KeyText, ...]) -> list[int]:
    """Rows between bounds, by the server; windows without rows are left out."""
    edges = ", ".join(f"'{bound}'" for (bound,) in bounds)
    found = sql(f"SELECT count(*) FROM t GROUP BY width_bucket({column}, ARRAY[{edges}]::{declared}[])")
    return [rows for (rows,) in found]


SCALED = {
    "bigint": "n * 1000",
    "smallint": "n / 2 - 15000",
    "date": "DATE '0100-01-01' + n",
    "timestamp": "TIMESTAMP '2024-01-01' + n * INTERVAL '1.5 second'",
    "timestamptz": "TIMESTAMPTZ '2024-01-01' + n * INTERVAL '0.001 second'",
    "uuid": "md5(n::text)::uuid",
}


@pytest.mark.parametrize("declared", SCALED)
def test_ranges_of_the_histogram_are_cut_further(dsn: str, sql: Sql, declared: str) -> None:
    sql(f"CREATE TABLE t (k {declared} NOT NULL, n int NOT NULL, PRIMARY KEY (k, n))")
    sql(f"INSERT INTO t SELECT {SCALED[declared]}, n FROM generate_series(1, 50000) AS n")
    sql("ANALYZE t")
    bounds = bounds_of(dsn, 500)
    assert bounds is not None
    assert len(bounds) == 499
    found = counts(sql, "k", declared, bounds)
    assert len(found) == 500
    # The statistics were made of 30,000 rows.
    assert min(found) > 20
    assert max(found) < 300


@pytest.mark.parametrize(("declared", "value"), [("text", "md5(n::text)"), ("numeric(12,2)", "n / 7.0")])
def test_other_types_have_no_more_windows_than_the_histogram_has_ranges(
    dsn: str, sql: Sql, declared: str, value: str
) -> None:
    sql(f"CREATE TABLE t (k {declared} PRIMARY KEY, n int)")
    sql(f"INSERT INTO t SELECT {value}, min(n) FROM generate_series(1, 20000) AS n GROUP BY 1")
    sql("ANALYZE t")
    for wanted, most in ((7, 6), (100, 99), (500, 99)):
        bounds = bounds_of(dsn, wanted)
        assert bounds is not None
        assert len(bounds) in (most, most - 1)
        found = counts(sql, "k", declared, bounds)
        assert max(found) < 2.0 * 20000 / (most + 1)


@pytest.fixture
def debian_sql(debian_dsn: str) -> Iterator[Sql]:
    with runner_of(debian_dsn) as sql:
        yield sql


@pytest.mark.parametrize(
    "collation",
    ['"C"', "en_us", "by_number", "any_case"],
)
def test_texts_are_in_the_order_of_their_columns_collation(
    debian_dsn: str, debian_sql: Sql, lake: Path, collation: str
) -> None:
    debian_sql("CREATE COLLATION en_us (provider = icu, locale = 'en-US')")
    debian_sql("CREATE COLLATION by_number (provider = icu, locale = 'en-u-kn-true')")
    debian_sql("CREATE COLLATION any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    debian_sql(f"CREATE TABLE t (k text COLLATE {collation} PRIMARY KEY, n int NOT NULL)")
    debian_sql(
        "INSERT INTO t SELECT (ARRAY['a','B','é','Z','_','ß'])[n % 6 + 1] || n, n FROM generate_series(1, 3000) AS n"
    )
    debian_sql("ANALYZE t")
    export = prepared(debian_dsn, lake, "public.t", windows={**ESTIMATED, "rows": 60})
    plan, appended = export.plan()
    assert 40 < appended < 60
    listed = ", ".join(f"({place}, $${(window.span.hi or ('',))[0]}$$)" for place, window in enumerate(plan.windows))
    ordered = debian_sql(
        "SELECT bool_and(above) FROM (SELECT k > lag(k) OVER (ORDER BY place) AS above FROM (SELECT place,"
        f" text COLLATE {collation} AS k FROM (VALUES {listed}) AS v(place, text)) AS b) AS o"
    )
    assert ordered == [(True,)]
    outcomes = run_all(export, plan)
    rows = [outcome.manifest.rows for outcome in outcomes if outcome.manifest]
    assert max(rows) < 200
    export.seal(plan)
    assert exported_rows(lake / "public.t") == debian_sql("SELECT k, n FROM t ORDER BY k")


def test_stale_statistics_cost_balance_and_no_rows(dsn: str, sql: Sql, lake: Path) -> None:
    """Rows were deleted below, and others came beyond the histogram, and between."""
    sql("CREATE TABLE t (k bigint PRIMARY KEY, n int NOT NULL) WITH (autovacuum_enabled = off)")
    sql("INSERT INTO t SELECT n, n FROM generate_series(1, 10000) AS n")
    sql("ANALYZE t")
    sql("DELETE FROM t WHERE k < 4000")
    sql("INSERT INTO t SELECT 100 * n, n FROM generate_series(101, 200) AS n")
    sql("INSERT INTO t VALUES (-9223372036854775808, 1), (9223372036854775807, 2)")
    export = prepared(dsn, lake, "public.t", windows={**ESTIMATED, "rows": 500})
    plan, appended = export.plan()
    assert 1 < appended <= 20
    assert all(a.span.hi == b.span.lo for a, b in pairwise(plan.windows))
    run_all(export, plan)
    export.seal(plan)
    assert exported_rows(lake / "public.t") == sql("SELECT k, n FROM t ORDER BY k")


def test_rows_that_are_all_gone_leave_nothing_to_cut(dsn: str, sql: Sql, lake: Path) -> None:
    sql("CREATE TABLE t (k bigint PRIMARY KEY) WITH (autovacuum_enabled = off)")
    sql("INSERT INTO t SELECT n FROM generate_series(1, 10000) AS n")
    sql("ANALYZE t")
    sql("DELETE FROM t WHERE k > 3")
    plan, appended = prepared(dsn, lake, "public.t", windows={**ESTIMATED, "rows": 100}).plan()
    assert plan.frontier == ("3",)
    assert [window.span.hi for window in plan.windows][-1] == ("3",)
    assert appended <= 3
    sql("DELETE FROM t")
    plan, appended = prepared(dsn, lake / "other", "public.t", windows={**ESTIMATED, "rows": 100}).plan()
    assert appended == 0


def test_statistics_that_cannot_tell_are_replaced_by_a_walk(dsn: str, sql: Sql, lake: Path) -> None:
    """The first column has few values: all of them are in the list of common ones, and there is no histogram."""
    sql("CREATE TABLE t (a int, b int, PRIMARY KEY (a, b))")
    sql("INSERT INTO t SELECT n % 3, n FROM generate_series(1, 3000) AS n")
    assert bounds_of(dsn, 10) is None
    sql("ANALYZE t")
    assert bounds_of(dsn, 10) is None
    plan, _ = prepared(dsn, lake, "public.t", windows={**ESTIMATED, "rows": 300}).plan()
    assert [window.planned_rows for window in plan.windows] == [300] * 10


def test_a_leading_column_bounds_windows_of_a_composite_key(dsn: str, sql: Sql, lake: Path) -> None:
    sql("CREATE TABLE t (a int, b int, PRIMARY KEY (a, b))")
    sql("INSERT INTO t SELECT n / 4, n FROM generate_series(0, 19999) AS n")
    sql("ANALYZE t")
    export = prepared(dsn, lake, "public.t", windows={**ESTIMATED, "rows": 100})
    plan, appended = export.plan()
    assert appended == 200
    assert {len(window.span.hi or ()) for window in plan.windows[:-1]} == {1}
    assert plan.frontier == ("4999", "19999")
    sql("INSERT INTO t VALUES (4999, 30000), (5000, 1)")
    grown, more = export.plan()
    assert (more, grown.frontier) == (1, ("5000", "1"))
    run_all(export, grown)
    export.seal(grown)
    assert exported_rows(lake / "public.t") == sql("SELECT a, b FROM t ORDER BY a, b")


def test_no_bound_is_beyond_the_greatest_key(dsn: str, sql: Sql, lake: Path) -> None:
    """Its first value is a bound of the histogram, since the rows behind it are gone; others with that value come."""
    sql("CREATE TABLE t (a text, b int, PRIMARY KEY (a, b)) WITH (autovacuum_enabled = off)")
    sql("INSERT INTO t SELECT lpad((n / 10)::text, 5, '0'), n FROM generate_series(0, 9999) AS n; ANALYZE t")
    ((top,),) = sql("SELECT (histogram_bounds::text::text[])[51] FROM pg_stats WHERE tablename = 't' AND attname = 'a'")
    sql(f"DELETE FROM t WHERE a > '{top}'")
    export = prepared(dsn, lake, "public.t", windows={**ESTIMATED, "rows": 100})
    plan, appended = export.plan()
    assert 40 < appended <= 51
    assert [window.span.hi[0] for window in plan.windows if window.span.hi].count(top) == 1
    sql(f"INSERT INTO t VALUES ('{top}', 20000)")
    grown, more = export.plan()
    assert (more, grown.frontier) == (1, (top, "20000"))
    run_all(export, grown)
    export.seal(grown)
    assert exported_rows(lake / "public.t") == sql("SELECT a, b FROM t ORDER BY a, b")


def test_statistics_of_partitions_count_together(dsn: str, sql: Sql, lake: Path) -> None:
    sql("CREATE TABLE t (k int PRIMARY KEY) PARTITION BY RANGE (k)")
    sql("CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (5000)")
    sql("CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (5000) TO (MAXVALUE)")
    sql("INSERT INTO t SELECT n FROM generate_series(0, 19999) AS n")
    sql("ANALYZE t1; ANALYZE t2")
    assert bounds_of(dsn, 50) is None, "nobody counted all of it"
    sql("ANALYZE t")
    bounds = bounds_of(dsn, 50)
    assert bounds is not None
    assert len(bounds) == 49
    assert max(counts(sql, "k", "int", bounds)) < 800


def test_a_thousand_million_rows_are_planned_without_reading_them(dsn: str, sql: Sql, lake: Path) -> None:
    """By statistics as ANALYZE would have made them of such a table; there are a few thousand of its rows."""
    sql("CREATE TABLE t (k bigint PRIMARY KEY, n int NOT NULL) WITH (autovacuum_enabled = off)")
    sql("INSERT INTO t SELECT n * 499979, n FROM generate_series(1, 4000) AS n")
    points = ",".join(str(1 + number * 20_000_000) for number in range(101))
    sql(
        "SELECT pg_restore_relation_stats('schemaname', 'public', 'relname', 't', 'relpages', 6000000,"
        " 'reltuples', 1e9::real)"
    )
    sql(
        "SELECT pg_restore_attribute_stats('schemaname', 'public', 'relname', 't', 'attname', 'k', 'inherited', false,"
        f" 'null_frac', 0::real, 'avg_width', 8, 'n_distinct', -1::real, 'histogram_bounds', '{{{points}}}'::text)"
    )
    source = PostgresSource(dsn, SourceLimits(), TypeChoices())
    export = prepared(dsn, lake, "public.t", windows={**ESTIMATED, "rows": 500_000})
    with explained(dsn) as (session, plans):
        plan, appended = preview_plan(source, session, export.config, export.store)
        assert session.describe("public", "t").estimated_rows == 10**9
        taken = plans.taken()
    assert appended == 2000
    ends = [int(window.span.hi[0]) for window in plan.windows if window.span.hi]
    assert all(before < after for before, after in pairwise(ends))
    assert max(after - before for before, after in pairwise(ends)) < 1_050_000
    # The greatest key was looked up, and nothing else was read.
    scans = [node for nodes in taken for node in nodes if "Index Name" in node]
    assert len(scans) == 1
    assert passed(scans[0]) == 1
    coarse = prepared(dsn, lake, "public.t", windows={**ESTIMATED, "rows": 10_000_000})
    plan, appended = coarse.plan()
    assert appended == 100
    run_all(coarse, plan)
    coarse.seal(plan)
    assert exported_rows(lake / "public.t") == sql("SELECT k, n FROM t ORDER BY k")


def test_histograms_with_values_that_have_no_number(dsn: str, sql: Sql) -> None:
    """Infinity, and times before our era: the histogram's own bounds serve."""
    sql("CREATE TABLE t (k timestamp PRIMARY KEY)")
    sql("INSERT INTO t SELECT TIMESTAMP '0100-01-01 BC' + n * INTERVAL '10 days' FROM generate_series(1, 5000) AS n")
    sql("INSERT INTO t VALUES ('infinity'), ('-infinity')")
    sql("ANALYZE t")
    bounds = bounds_of(dsn, 300)
    assert bounds is not None
    assert 90 < len(bounds) <= 100
    found = counts(sql, "k", "timestamp", bounds)
    assert max(found) < 100
