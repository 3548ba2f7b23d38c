"""What planning promises for every type of windows: one chain, new generations, previews, limits, lags."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from rivet_dagster.errors import ConfigError, PlanError, RivetError, SourceError
from rivet_dagster.export.config import TimeWindows
from rivet_dagster.export.moments import time_window
from rivet_dagster.export.operations import TableExport
from rivet_dagster.export.plan import Plan, load_plan
from rivet_dagster.export.planning import Wish
from rivet_dagster.export.seal import seal_in_force
from tests.support.exports import export_all, prepared, run_all
from tests.support.readers import exported_rows, sealed, tree

Sql = Callable[[str], list[tuple[Any, ...]]]
UTC = timezone.utc

MODES: dict[str, dict[str, Any]] = {
    "keyset": {"type": "keyset", "rows": 100},
    "estimated": {"type": "keyset", "rows": 100, "boundaries": "estimated"},
    "int_range": {"type": "int_range", "column": "n", "size": 100},
    "cursor": {"type": "cursor", "column": "n", "rows": 100, "lag": 0},
    "full": {"type": "full"},
}


@pytest.fixture
def numbers(sql: Sql) -> Sql:
    sql("CREATE TABLE t (n int PRIMARY KEY, v text)")
    sql("INSERT INTO t SELECT n, 'first' FROM generate_series(1, 1000) AS n; ANALYZE t")
    return sql


def more(sql: Sql, first: int, last: int) -> None:
    sql(f"INSERT INTO t SELECT n, 'more' FROM generate_series({first}, {last}) AS n")


def planned(dsn: str, lake: Path, windows: dict[str, Any]) -> TableExport:
    return prepared(dsn, lake, "public.t", windows=windows)


def assert_chained(plan: Plan) -> None:
    bounded = [window for window in plan.windows if not window.span.nulls]
    assert all(before.span.hi == after.span.lo for before, after in pairwise(bounded))
    assert len({window.key for window in plan.windows}) == len(plan.windows)


def refused(export: TableExport) -> RivetError:
    with pytest.raises(RivetError) as caught:
        export.plan()
    assert not Path(export.store.uri.removeprefix("file://")).exists()
    return caught.value


# ------------------------------------------------------------------------------------------ one chain


@pytest.mark.parametrize("mode", MODES)
def test_planners_at_the_same_time_make_one_chain(dsn: str, numbers: Sql, lake: Path, mode: str) -> None:
    """Three begin at once, again and again; before each time rows have come."""
    first = iter(range(1001, 10_000, 130))
    start = threading.Barrier(3, lambda: more(numbers, number := next(first), number + 129), timeout=60)

    def plan(export: TableExport) -> int:
        appended = 0
        for _ in range(6):
            start.wait()
            appended += export.plan()[1]
        return appended

    with ThreadPoolExecutor(3) as pool:
        appended = list(pool.map(plan, [planned(dsn, lake, MODES[mode]) for _ in range(3)]))
    export = planned(dsn, lake, MODES[mode])
    found = load_plan(export.store, 1)
    assert found is not None
    assert len(found.windows) == sum(appended)
    assert_chained(found)
    final, _ = export.plan()
    run_all(export, final)
    export.seal(final)
    assert sorted(exported_rows(lake / "public.t")) == numbers("SELECT * FROM t ORDER BY n")


@pytest.mark.parametrize("mode", MODES)
def test_a_preview_writes_nothing_and_says_what_planning_does(dsn: str, numbers: Sql, lake: Path, mode: str) -> None:
    export = planned(dsn, lake, MODES[mode])
    for first in (1001, 1401):
        preview = export.preview()
        before = tree(lake) if lake.exists() else {}
        assert export.plan() == preview
        assert before.items() <= tree(lake).items()
        assert (before == tree(lake)) == (preview[1] == 0)
        assert export.preview() == (preview[0], 0)
        more(numbers, first, first + 399)
    before = tree(lake)
    assert export.preview(Wish(replan="again"))[0].generation == 2
    assert tree(lake) == before


# ------------------------------------------------------------------------------------------ generations


@pytest.mark.parametrize("mode", MODES)
def test_a_new_generation_stands_beside_the_old_until_it_is_sealed(
    dsn: str, numbers: Sql, lake: Path, mode: str
) -> None:
    export = planned(dsn, lake, MODES[mode])
    export_all(export)
    rows = sorted(exported_rows(lake / "public.t"))
    before = tree(lake)
    more(numbers, 1001, 1500)
    plan, appended = export.plan(Wish(replan="run-1"))
    assert (plan.generation, len(plan.segments), plan.windows[0].span.lo) == (2, 1, None)
    assert appended == len(plan.windows) > 0
    assert before.items() <= tree(lake).items()
    # The same work goes on with what it began.
    assert export.plan(Wish(replan="run-1")) == (plan, 0)
    more(numbers, 1501, 1700)
    grown, _ = export.plan(Wish(replan="run-1"))
    assert grown.generation == 2
    run_all(export, grown, "work 2")
    seal = seal_in_force(export.store)
    assert seal is not None
    assert seal.generation == 1
    assert sorted(exported_rows(lake / "public.t")) == rows
    export.seal(grown)
    assert sealed(lake / "public.t")["generation"] == 2
    assert sorted(exported_rows(lake / "public.t")) == numbers("SELECT * FROM t ORDER BY n")
    # What is planned without a wish extends the newest; other work begins another one.
    assert export.plan()[0].generation == 2
    assert export.plan(Wish(replan="run-2"))[0].generation == 3


def test_two_that_replan_for_the_same_work_begin_one_generation(dsn: str, numbers: Sql, lake: Path) -> None:
    export, other = (planned(dsn, lake, MODES["keyset"]) for _ in range(2))
    export.plan()
    create, raced = export.store.create, []

    def racing(path: str, data: bytes) -> bool:
        if not raced:
            raced.append(other.plan(Wish(replan="run")))
        return create(path, data)

    export.store.create = racing  # type: ignore[method-assign]
    plan, appended = export.plan(Wish(replan="run"))
    assert (plan, appended) == (raced[0][0], 0)
    assert load_plan(export.store, 3) is None


def test_another_type_of_windows_needs_a_new_generation(dsn: str, numbers: Sql, lake: Path) -> None:
    planned(dsn, lake, MODES["keyset"]).plan()
    export = planned(dsn, lake, MODES["int_range"])
    with pytest.raises(PlanError) as caught:
        export.plan()
    assert caught.value.code == "RIVET_PLAN_MISMATCH"
    plan, _ = export.plan(Wish(replan="run"))
    assert (plan.generation, plan.mode) == (2, "int_range")


# ------------------------------------------------------------------------------------------ limits


@pytest.mark.parametrize("mode", ["keyset", "estimated", "int_range", "cursor"])
def test_more_windows_than_allowed_are_refused(dsn: str, numbers: Sql, lake: Path, mode: str) -> None:
    assert refused(planned(dsn, lake, {**MODES[mode], "max_windows": 9})).code == "RIVET_PLAN_TOO_MANY_WINDOWS"
    export = planned(dsn, lake, {**MODES[mode], "max_windows": 11})
    before = len(export.plan()[0].windows)
    assert before in (10, 11)
    more(numbers, 1001, 1500)
    with pytest.raises(PlanError) as caught:
        export.plan()
    assert caught.value.code == "RIVET_PLAN_TOO_MANY_WINDOWS"
    assert len(export.planned().windows) == before


@pytest.mark.parametrize("mode", ["keyset", "cursor"])
def test_a_last_window_of_too_few_rows_waits(dsn: str, numbers: Sql, lake: Path, mode: str) -> None:
    export = planned(dsn, lake, MODES[mode])
    more(numbers, 1001, 1040)
    plan, _ = export.plan(Wish(minimum_rows=50))
    assert (len(plan.windows), plan.frontier) == (10, ("1000",))
    assert export.plan(Wish(minimum_rows=50)) == (plan, 0)
    more(numbers, 1041, 1050)
    plan, appended = export.plan(Wish(minimum_rows=50))
    assert (appended, plan.frontier) == (1, ("1050",))


def test_a_table_that_nobody_counted_has_its_one_window(dsn: str, sql: Sql, lake: Path) -> None:
    sql("CREATE TABLE t (n int) WITH (autovacuum_enabled = off); INSERT INTO t VALUES (1), (2)")
    plan, appended = planned(dsn, lake, MODES["full"]).plan(Wish(minimum_rows=1000))
    assert appended == len(plan.windows) == 1


@pytest.mark.parametrize("analyzed", [False, True])
def test_only_ranges_that_are_proven_sparse_are_refused(dsn: str, sql: Sql, lake: Path, analyzed: bool) -> None:
    sql("CREATE TABLE t (n bigint PRIMARY KEY, v text) WITH (autovacuum_enabled = off)")
    sql("INSERT INTO t SELECT n * 1000003, 'far apart' FROM generate_series(1, 400) AS n")
    if analyzed:
        sql("ANALYZE t")
    windows = {"type": "int_range", "column": "n", "size": 1000}
    error = refused(planned(dsn, lake, windows))
    assert error.code == "RIVET_KEY_SPARSE"
    assert "48 have no row" in error.what or "47 have no row" in error.what
    # A larger size has rows in every range.
    assert planned(dsn, lake, {**windows, "size": 10**7}).plan()[1] == 41


def test_dense_ranges_with_stale_statistics_are_not_refused(dsn: str, sql: Sql, lake: Path) -> None:
    """Ten rows were counted, and thousands came later."""
    sql("CREATE TABLE t (n int PRIMARY KEY, v text) WITH (autovacuum_enabled = off)")
    sql("INSERT INTO t SELECT n, 'v' FROM generate_series(1, 10) AS n; ANALYZE t")
    sql("INSERT INTO t SELECT n, 'v' FROM generate_series(11, 30000) AS n")
    plan, appended = planned(dsn, lake, {"type": "int_range", "column": "n", "size": 100}).plan()
    assert appended == 301
    assert plan.windows[1].span.hi == ("199",)


def test_gaps_of_an_int_range_belong_to_the_window_behind_them(dsn: str, sql: Sql, lake: Path) -> None:
    """A row that comes into a gap later is in no hole."""
    sql("CREATE TABLE t (n int PRIMARY KEY, v text)")
    sql("INSERT INTO t VALUES (-250, 'a'), (-1, 'b'), (7, 'c'), (830, 'd'), (899, 'e')")
    export = planned(dsn, lake, {"type": "int_range", "column": "n", "size": 100})
    plan, _ = export.plan()
    assert [window.span.hi for window in plan.windows] == [("-201",), ("-1",), ("99",), ("899",)]
    sql("INSERT INTO t VALUES (-2000, 'below'), (400, 'gap'), (900, 'next'), (2147483647, 'end')")
    plan, appended = export.plan()
    assert appended == 2
    assert [window.span.hi for window in plan.windows[4:]] == [("999",), ("2147483647",)]
    run_all(export, plan)
    export.seal(plan)
    assert exported_rows(lake / "public.t") == sql("SELECT * FROM t ORDER BY n")


# ------------------------------------------------------------------------------------------ lag


@pytest.mark.parametrize("declared", ["timestamptz", "timestamp", "date"])
def test_rows_newer_than_the_lag_wait(dsn: str, sql: Sql, lake: Path, declared: str) -> None:
    """Of a column without a zone, by the zone that is named; of dates, until their day is over there."""
    zone = "Pacific/Kiritimati" if declared != "timestamptz" else "UTC"
    now = f"(now() AT TIME ZONE '{zone}')" if declared != "timestamptz" else "now()"
    sql(f"CREATE TABLE t (n int PRIMARY KEY, at {declared} NOT NULL); CREATE INDEX i ON t (at, n)")
    sql(
        f"INSERT INTO t SELECT n, ({now} + x)::{declared}"
        " FROM unnest(ARRAY['-3 days', '-26 hours', '-2 hours', '2 hours', '2 days']::interval[])"
        " WITH ORDINALITY AS v(x, n)"
    )
    export = planned(dsn, lake, {"type": "cursor", "column": "at", "lag": 3600, "timezone": zone})
    plan, _ = export.plan()
    assert plan.frontier is not None
    moment = datetime.now(ZoneInfo(zone)) - timedelta(hours=1)
    if declared == "date":
        expected = sql(f"SELECT max(n) FROM t WHERE at < '{moment.date()}'")
    else:
        expected = sql(
            f"SELECT max(n) FROM t WHERE at <= '{moment.replace(tzinfo=None)}{'+00' if zone == 'UTC' else ''}'"
        )
    assert plan.frontier[1] == str(expected[0][0])
    assert export.plan()[1] == 0


def test_an_integer_cursor_lags_by_units(dsn: str, numbers: Sql, lake: Path) -> None:
    export = planned(dsn, lake, {"type": "cursor", "column": "n", "lag": 60, "rows": 500})
    plan, _ = export.plan()
    assert plan.frontier == ("940",)
    more(numbers, 1001, 1010)
    plan, appended = export.plan()
    assert (appended, plan.frontier) == (1, ("950",))
    numbers("DELETE FROM t WHERE n > 960")
    assert export.plan()[1] == 0


@pytest.mark.parametrize("declared", ["smallint", "int", "bigint"])
def test_a_lag_that_reaches_below_the_type_leaves_nothing_to_plan(
    dsn: str, sql: Sql, lake: Path, declared: str
) -> None:
    least = {"smallint": -(2**15), "int": -(2**31), "bigint": -(2**63)}[declared]
    sql(f"CREATE TABLE t (n {declared} PRIMARY KEY); INSERT INTO t VALUES ({least}), ({least + 30})")
    export = planned(dsn, lake, {"type": "cursor", "column": "n", "lag": 60})
    assert export.plan()[1] == 0
    sql(f"INSERT INTO t VALUES ({least + 60})")
    plan, appended = export.plan()
    assert (appended, plan.frontier) == (1, (str(least),))


# ------------------------------------------------------------------------------------------ time


def day(export: TableExport, plan: Plan, name: str, days: int = 1) -> Any:
    options = export.config.windows
    assert isinstance(options, TimeWindows)
    start = datetime.fromisoformat(name).replace(tzinfo=ZoneInfo(options.timezone))
    return time_window(plan, options, name, start, start + timedelta(days=days))


@pytest.mark.parametrize("declared", ["timestamptz", "timestamp"])
@pytest.mark.parametrize("zone", ["Europe/Paris", "America/New_York"])
def test_slices_around_a_change_of_clocks_have_each_row_once(
    dsn: str, sql: Sql, lake: Path, declared: str, zone: str
) -> None:
    """A row every quarter of an hour that clocks of the zone show, and all of them."""
    sql(f"CREATE TABLE t (n int PRIMARY KEY, at {declared}); CREATE INDEX i ON t (at)")
    for number, first in enumerate(("2024-03-09", "2024-03-30", "2024-10-26", "2024-11-02")):
        instant = f"('{first}'::timestamp AT TIME ZONE '{zone}') + q * INTERVAL '15 minutes'"
        value = instant if declared == "timestamptz" else f"({instant}) AT TIME ZONE '{zone}'"
        sql(f"INSERT INTO t SELECT {number * 1000} + q, {value} FROM generate_series(0, 300) AS q")
    windows = {"type": "time", "column": "at", "start": "2024-01-01", "timezone": zone}
    export = planned(dsn, lake, windows)
    plan, _ = export.plan()
    assert plan.windows == ()
    days = [datetime(2024, 1, 1) + timedelta(days=number) for number in range(366)]
    slices = [day(export, plan, str(each.date())) for each in days if each.month in (3, 4, 10, 11)]
    with export.run(plan, slices, "work", 2) as run:
        outcomes = {outcome.window.key: outcome for outcome in run}
    assert all(outcome.error is None for outcome in outcomes.values())
    export.seal(plan, [each for each in slices if each.key < "2024-05"])
    local = "at" if declared == "timestamp" else f"at AT TIME ZONE '{zone}'"
    expected = dict(sql(f"SELECT (date_trunc('day', {local}))::date::text, count(*) FROM t GROUP BY 1"))
    found = {key: outcome.manifest.rows for key, outcome in outcomes.items() if outcome.manifest}
    assert {key: rows for key, rows in found.items() if rows} == expected
    assert len(exported_rows(lake / "public.t")) == sum(n for key, n in expected.items() if key < "2024-05")


def test_rows_without_a_time_are_refused_or_left_out(dsn: str, sql: Sql, lake: Path) -> None:
    sql("CREATE TABLE t (n int PRIMARY KEY, at timestamptz); CREATE INDEX i ON t (at)")
    sql("INSERT INTO t VALUES (1, '2024-03-01 12:00+00'), (2, NULL)")
    windows = {"type": "time", "column": "at", "start": "2024-03-01"}
    export = planned(dsn, lake, windows)
    plan, _ = export.plan()
    with pytest.raises(SourceError) as caught, export.run(plan, [day(export, plan, "2024-03-01")], "work", 1):
        pass
    assert caught.value.code == "RIVET_WINDOW_UNCOVERED"
    tolerant = planned(dsn, lake, {**windows, "nulls": "ignore"})
    with tolerant.run(plan, [day(tolerant, plan, "2024-03-01")], "work", 1) as run:
        assert [outcome.manifest.rows for outcome in run if outcome.manifest] == [1]
    sql("DELETE FROM t WHERE n = 2")
    with export.run(plan, [day(export, plan, "2024-03-01")], "again", 1) as run:
        assert [outcome.error for outcome in run] == [None]


def test_hours_that_dagster_cannot_tell_are_refused(dsn: str, sql: Sql, lake: Path) -> None:
    sql("CREATE TABLE t (at timestamptz PRIMARY KEY)")
    windows = {
        "type": "time",
        "column": "at",
        "start": "2024-01-01",
        "every": "hour",
        "timezone": "Australia/Lord_Howe",
    }
    error = refused(planned(dsn, lake, windows))
    assert isinstance(error, ConfigError)
    assert error.code == "RIVET_CONFIG_WINDOWS"
    assert planned(dsn, lake / "days", {**windows, "every": "day"}).plan()[0].mode == "time"
    assert planned(dsn, lake / "utc", {**windows, "timezone": "UTC"}).plan()[0].mode == "time"


def test_hours_of_dates_are_refused(dsn: str, sql: Sql, lake: Path) -> None:
    sql("CREATE TABLE t (at date PRIMARY KEY)")
    windows = {"type": "time", "column": "at", "start": "2024-01-01", "every": "hour"}
    assert refused(planned(dsn, lake, windows)).code == "RIVET_CONFIG_WINDOWS"


def test_segments_are_plain_to_read(dsn: str, numbers: Sql, lake: Path) -> None:
    planned(dsn, lake, MODES["int_range"]).plan(Wish(replan="run-7"))
    segment = json.loads((lake / "public.t/g1/plan/000001.json").read_text())
    assert (segment["mode"], segment["size"], segment["work_id"], segment["key"]) == ("int_range", 100, "run-7", ["n"])
