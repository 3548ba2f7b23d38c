"""Plans: walked along real indexes, frozen, append-only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rivet_dagster.errors import IntegrityError, PlanError
from rivet_dagster.export.plan import load_plan
from tests.support.exports import export_all, prepared
from tests.support.readers import exported_rows, tree

Sql = Callable[[str], list[tuple[Any, ...]]]


@pytest.fixture
def numbers(sql: Sql) -> Sql:
    sql("CREATE TABLE public.n (a int, b text, v text, PRIMARY KEY (a, b))")
    sql("INSERT INTO public.n SELECT n / 3, 'k' || n % 3, 'v' FROM generate_series(0, 999) AS n")
    return sql


def test_windows_hold_the_rows_asked_for(dsn: str, numbers: Sql, lake: Path) -> None:
    plan, appended = prepared(dsn, lake, "public.n", rows=300).plan()
    assert appended == 4
    assert [window.planned_rows for window in plan.windows] == [300, 300, 300, 100]
    assert [window.key for window in plan.windows] == [f"g1-w00000{n}" for n in range(4)]
    assert plan.windows[0].span.lo is None
    assert plan.windows[0].span.hi == ("99", "k2")
    assert plan.frontier == ("333", "k0")


def test_planning_again_without_new_rows_writes_nothing(dsn: str, numbers: Sql, lake: Path) -> None:
    export = prepared(dsn, lake, "public.n", rows=300)
    export.plan()
    before = tree(lake)
    plan, appended = export.plan()
    assert (len(plan.windows), appended) == (4, 0)
    assert tree(lake) == before


def test_extension_appends_and_never_changes_a_window(dsn: str, numbers: Sql, lake: Path) -> None:
    export = prepared(dsn, lake, "public.n", rows=300)
    first, _ = export.plan()
    numbers("INSERT INTO public.n SELECT n, 'late', 'w' FROM generate_series(1000, 1399) AS n")
    numbers("INSERT INTO public.n VALUES (5, 'between', 'w')")
    second, appended = export.plan()
    assert appended == 2
    assert second.windows[:4] == first.windows
    assert second.windows[4].span.lo == first.frontier
    assert len(second.segments) == 2
    export_all(export)
    assert len(exported_rows(lake / "public.n")) == 1401


def test_two_planners_at_once_append_each_row_once(dsn: str, numbers: Sql, lake: Path) -> None:
    """The second planner's segment exists when it comes to write it: it must go on from there."""
    export, other = (prepared(dsn, lake, "public.n", rows=300) for _ in range(2))
    export.plan()
    numbers("INSERT INTO public.n SELECT n, 'late', 'w' FROM generate_series(1000, 1399) AS n")
    create = export.store.create
    raced = []

    def racing(path: str, data: bytes) -> bool:
        if not raced:
            raced.append(other.plan())
        return create(path, data)

    export.store.create = racing  # type: ignore[method-assign]
    plan, appended = export.plan()
    assert appended == 0
    assert plan == raced[0][0] == load_plan(export.store, 1)


def test_another_key_than_the_planned_one_is_refused(dsn: str, numbers: Sql, lake: Path) -> None:
    numbers("ALTER TABLE public.n ADD serial int GENERATED ALWAYS AS IDENTITY UNIQUE")
    prepared(dsn, lake, "public.n").plan()
    with pytest.raises(PlanError) as caught:
        prepared(dsn, lake, "public.n", columns=("serial",)).plan()
    assert caught.value.code == "RIVET_PLAN_MISMATCH"


def test_too_many_windows_are_refused(dsn: str, numbers: Sql, lake: Path) -> None:
    with pytest.raises(PlanError) as caught:
        prepared(dsn, lake, "public.n", rows=10, max_windows=99).plan()
    assert caught.value.code == "RIVET_PLAN_TOO_MANY_WINDOWS"
    assert not lake.exists()


def test_a_segment_that_was_lost_or_edited_stops_everything(dsn: str, numbers: Sql, lake: Path) -> None:
    export = prepared(dsn, lake, "public.n", rows=300)
    export.plan()
    numbers("INSERT INTO public.n VALUES (5000, 'x', 'y')")
    export.plan()
    first = lake / "public.n/g1/plan/000001.json"
    content = first.read_bytes()
    first.write_bytes(content.replace(b'"99"', b'"98"', 1).replace(b'"333"', b'"332"'))
    with pytest.raises(IntegrityError, match="does not go on"):
        load_plan(export.store, 1)
    first.unlink()
    with pytest.raises(IntegrityError, match="missing"):
        load_plan(export.store, 1)
    first.write_bytes(content.replace(b"rivet.plan/1", b"rivet.plan/9"))
    with pytest.raises(IntegrityError, match="RIVET_DOCUMENT_INVALID"):
        load_plan(export.store, 1)


def test_window_sizes_follow_the_width_of_rows(dsn: str, sql: Sql, lake: Path) -> None:
    sql("CREATE TABLE public.wide (id int PRIMARY KEY, t text)")
    sql("ALTER TABLE public.wide ALTER t SET STORAGE EXTERNAL")
    sql("INSERT INTO public.wide SELECT n, repeat('x', 8000) FROM generate_series(1, 21000) AS n")
    sql("ANALYZE public.wide")
    plan, _ = prepared(dsn, lake, "public.wide").plan()
    assert plan.windows[0].planned_rows == pytest.approx((128 << 20) / 8240, rel=0.05)
    assert len(plan.windows) == 2
