"""New generations of plans in Dagster: partitions, readers, retries, drifted tables, empty ones."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from rivet_dagster import ExportConfig, IntRangeWindows, KeysetWindows
from tests.support.orchestrating import Place, failure_of, statements
from tests.support.readers import source_rows, tree

Sql = Callable[[str], list[tuple[Any, ...]]]

ORDERS = ExportConfig(table="public.orders", windows=KeysetWindows(rows=500))


@pytest.fixture
def instance(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("TEST_DSN", dsn)
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def place(instance: dg.DagsterInstance, sql: Sql, lake: Path) -> Place:
    """A table that is planned, exported and sealed."""
    sql("CREATE TABLE public.orders (id int PRIMARY KEY, note text)")
    sql("INSERT INTO public.orders SELECT n, 'order ' || n FROM generate_series(1, 1250) AS n")
    place = Place(instance, lake, ORDERS)
    for run in (place.plan(), place.export(), place.complete()):
        assert run.success, failure_of(run)
    return place


def windows(generation: int, number: int) -> list[str]:
    return [f"g{generation}-w{index:06d}" for index in range(number)]


def generations(place: Place) -> list[str]:
    return sorted(path.name for path in place.folder().glob("g*") if path.is_dir())


def code_of(run: dg.ExecuteInProcessResult) -> object:
    """The code of the error that failed a run's one step."""
    (event,) = [event for event in run.all_events if event.is_step_failure]
    data = event.step_failure_data.user_failure_data
    assert data is not None
    return data.metadata["rivet/code"].value


def test_a_new_generation_grows_beside_the_sealed_one(place: Place, sql: Sql, dsn: str) -> None:
    old_rows, old_files = place.rows(), tree(place.folder())
    assert len(old_rows) == 1250
    sql("DELETE FROM public.orders WHERE id % 2 = 0")
    sql("INSERT INTO public.orders SELECT -n, 'new' FROM generate_series(1, 600) AS n")
    with statements() as seen:
        run = place.plan(replan=True)
    assert run.success
    changes = [text for text in seen if text.startswith(("INSERT INTO dynamic_p", "DELETE FROM dynamic_p"))]
    assert [text[:6] for text in changes] == ["INSERT", "DELETE"]
    assert place.partitions() == windows(2, 3), "in the plan's order"
    (event,) = run.asset_materializations_for_node("rivet__public__orders__plan")
    assert (event.metadata["rivet/generation"].value, event.metadata["rivet/windows_appended"].value) == (2, 3)
    assert place.rows() == old_rows
    assert code_of(place.complete()) == "RIVET_EXPORT_INCOMPLETE"
    assert place.export("g2-w000000", "g2-w000001").success
    assert code_of(place.complete()) == "RIVET_EXPORT_INCOMPLETE"
    assert place.rows() == old_rows, "readers see the old rows until all of the new ones are there"
    assert place.export("g2-w000002").success
    assert {name: data for name, data in tree(place.folder()).items() if name in old_files} == old_files
    assert place.complete().success
    assert place.seal()["generation"] == 2
    assert place.rows() == source_rows(dsn, "public.orders", "id")
    assert {str(event.partition) for event in place.events()} == {*windows(1, 3), *windows(2, 3)}


def test_planning_again_extends_the_new_generation(place: Place, sql: Sql, dsn: str) -> None:
    place.plan(replan=True)
    sql("INSERT INTO public.orders SELECT n, 'later' FROM generate_series(3001, 3300) AS n")
    assert place.plan().success
    assert place.partitions() == windows(2, 4)
    assert place.export().success
    assert place.complete().success
    assert place.rows() == source_rows(dsn, "public.orders", "id")
    assert generations(place) == ["g1", "g2"]


def test_a_retry_goes_on_with_the_generation_that_it_has_begun(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    first = place.plan(replan=True)
    retry = {"dagster/root_run_id": first.run_id, "dagster/is_resume_retry": "true"}
    with monkeypatch.context() as patched:
        # Dagster sets the run's field from this tag where it launches a retry itself.
        patched.setattr(dg.DagsterRun, "root_run_id", property(lambda run: run.tags.get("dagster/root_run_id")), False)
        assert place.plan(replan=True, tags=retry).success
    assert place.partitions() == windows(2, 3)
    assert generations(place) == ["g1", "g2"]
    assert place.plan(replan=True).success, "a new launch is a new wish"
    assert place.partitions() == windows(3, 3)
    assert generations(place) == ["g1", "g2", "g3"]


def test_other_windows_need_a_new_generation(place: Place, instance: dg.DagsterInstance, lake: Path, dsn: str) -> None:
    ranges = ExportConfig(table="public.orders", windows=IntRangeWindows(column="id", size=250))
    changed = Place(instance, lake, ranges)
    before = tree(lake)
    assert code_of(changed.plan()) == "RIVET_PLAN_MISMATCH"
    assert tree(lake) == before
    assert changed.partitions() == windows(1, 3)
    assert changed.plan(replan=True).success
    assert changed.partitions() == windows(2, 6)
    assert code_of(place.plan()) == "RIVET_PLAN_MISMATCH", "whoever asks for what was planned before"
    assert changed.export().success
    assert changed.complete().success
    assert changed.rows() == source_rows(dsn, "public.orders", "id")


def test_a_table_that_drifted_is_exported_anew(place: Place, sql: Sql, dsn: str) -> None:
    old_rows = place.rows()
    sql("ALTER TABLE public.orders ADD price numeric(8,2) DEFAULT 9.99, ALTER id TYPE bigint")
    for run in (place.plan(), place.export()):
        assert code_of(run) == "RIVET_SCHEMA_DRIFT"
        assert "replan" in failure_of(run)
    assert place.plan(replan=True).success
    assert place.partitions() == windows(2, 3)
    assert place.rows() == old_rows
    assert place.export().success
    assert place.complete().success
    assert place.rows() == source_rows(dsn, "public.orders", "id")
    assert [column["name"] for column in place.seal()["columns"]] == ["id", "note", "price"]


def test_a_run_that_was_launched_before_reads_its_own_windows(place: Place, lake: Path, sql: Sql) -> None:
    sql("UPDATE public.orders SET note = 'changed' WHERE id = 700")
    with dg.DagsterInstance.ephemeral() as elsewhere:
        other = Place(elsewhere, lake, ExportConfig(table="public.orders", windows=KeysetWindows(rows=100)))
        other.plan(replan=True)
        assert other.partitions() == windows(2, 13)
        before = place.manifest("w000001")["row_fingerprint"]
        assert place.export("g1-w000001").success, "the old plan is still there"
        assert place.manifest("w000001")["row_fingerprint"] != before
        assert not (place.folder() / "g2/windows").exists()
        assert code_of(place.complete()) == "RIVET_EXPORT_INCOMPLETE", "the newest generation is what is sealed"


def test_only_slices_of_time_are_planned_anew_by_their_own_runs(place: Place) -> None:
    before = tree(place.folder())
    run = place.export(replan=True)
    assert code_of(run) == "RIVET_CONFIG_REPLAN"
    assert "plan asset" in failure_of(run)
    assert tree(place.folder()) == before


def test_an_empty_table_is_sealed_by_its_plan(instance: dg.DagsterInstance, sql: Sql, lake: Path, dsn: str) -> None:
    sql("CREATE TABLE public.orders (id int PRIMARY KEY, note text)")
    place = Place(instance, lake, ORDERS)
    assert place.plan().success
    assert place.partitions() == []
    assert place.rows() == []
    (event,) = place.events(place.key("complete"))
    assert event.metadata["dagster/row_count"].value == 0
    assert event.metadata["rivet/seal"].value == place.seal()["seal_id"]
    assert (event.tags or {})["dagster/data_version"] == place.seal()["row_fingerprint"]
    sql("INSERT INTO public.orders SELECT n, 'order ' || n FROM generate_series(1, 1250) AS n")
    for run in (place.plan(), place.export(), place.complete()):
        assert run.success
    assert place.rows() == source_rows(dsn, "public.orders", "id")
    sql("TRUNCATE public.orders")
    assert place.plan(replan=True).success
    assert (place.rows(), place.partitions(), place.seal()["generation"]) == ([], [], 2)
    assert len(place.events(place.key("complete"))) == 3


def test_many_windows_are_warned_of(instance: dg.DagsterInstance, sql: Sql, lake: Path) -> None:
    sql("CREATE TABLE public.orders (id int PRIMARY KEY)")
    sql("INSERT INTO public.orders SELECT generate_series(1, 50010)")
    sql("ANALYZE public.orders")
    for rows, warned in ((11, False), (9, True)):
        config = ExportConfig(table="public.orders", windows=KeysetWindows(rows=rows, boundaries="estimated"))
        place = Place(instance, lake / str(rows), config)
        run = place.plan()
        assert run.success
        assert (len(place.partitions()) > 5000) == warned
        warnings = [entry.user_message for entry in instance.all_logs(run.run_id) if entry.level == logging.WARNING]
        assert [f"{len(place.partitions())} windows make Dagster's pages slow" in text for text in warnings] == [
            True
        ] * warned
