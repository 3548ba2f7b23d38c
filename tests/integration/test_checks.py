"""Asset checks: what they find in real exports, what they say of it, and how windows that they name are read again."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest

from rivet_dagster import (
    Checks,
    ExportConfig,
    KeysetWindows,
    ReloadChecks,
    RivetError,
    TimeWindows,
    build_rivet_checks,
    build_rivet_reload_sensor,
)
from rivet_dagster.checks import INTEGRITY, RECONCILE, SCHEMA_DRIFT
from rivet_dagster.export.operations import TableExport
from rivet_dagster.export.plan import check_drift, column_changes
from tests.support.orchestrating import Place, asked
from tests.support.readers import source_rows

Sql = Callable[[str], list[tuple[Any, ...]]]

ORDERS = ExportConfig(table="public.orders", windows=KeysetWindows(rows=100))


class Checked(Place):
    """A place whose exports have checks."""

    def __init__(
        self, instance: dg.DagsterInstance, lake: Path, config: ExportConfig, sensor: bool = True, **options: Any
    ) -> None:
        looks = ReloadChecks(missing_parts=False, failed_checks=True)
        self.sensor = build_rivet_reload_sensor(config, checks=looks)
        super().__init__(instance, lake, config, sensors=[self.sensor] if sensor else [])
        self.checks = build_rivet_checks(config, **options)

    def check(self, name: str) -> dg.AssetCheckEvaluation:
        """Run one check by itself."""
        run = self.check_run(name)
        assert run.success
        (found,) = run.get_asset_check_evaluations()
        return found

    def check_run(self, name: str) -> dg.ExecuteInProcessResult:
        """A run of one check, which may fail without a word."""
        key = dg.AssetCheckKey(self.key("complete"), name)
        defs = dg.Definitions(assets=self.assets, asset_checks=self.checks, resources={"rivet": self.rivet})
        job = dg.define_asset_job("one_check", selection=dg.AssetSelection.checks(key))
        resolved = dg.Definitions.merge(defs, dg.Definitions(jobs=[job])).resolve_job_def("one_check")
        return resolved.execute_in_process(instance=self.instance, raise_on_error=False)

    def seal_and_check(self, **tags: str) -> dg.ExecuteInProcessResult:
        """A run of complete with its checks, as it is launched in the UI or by its condition."""
        (complete,) = [asset for asset in self.assets if self.key("complete") in asset.keys]
        return dg.materialize(
            [complete, *self.checks],
            instance=self.instance,
            resources={"rivet": self.rivet},
            tags=tags,
            raise_on_error=False,
        )


@pytest.fixture
def instance(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("TEST_DSN", dsn)
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def make(instance: dg.DagsterInstance, sql: Sql, lake: Path) -> Callable[..., Checked]:
    """Six windows of a hundred orders, sealed."""
    sql("CREATE TABLE public.orders (id int PRIMARY KEY, note text, total numeric(12, 2))")
    sql("INSERT INTO public.orders SELECT n, 'order ' || n, n / 4.0 FROM generate_series(1, 600) AS n")

    def made(**options: Any) -> Checked:
        place = Checked(instance, lake, ORDERS, **options)
        place.plan()
        place.export()
        assert place.complete().success
        return place

    return made


Make = Callable[..., Checked]


def windows(*numbers: int) -> list[str]:
    return [f"g1-w{number:06d}" for number in numbers]


def failing(found: dg.AssetCheckEvaluation) -> list[str]:
    keys = found.metadata["rivet/failing_windows"].value
    assert isinstance(keys, list)
    return keys


def findings(found: dg.AssetCheckEvaluation) -> list[dict[str, Any]]:
    if "rivet/findings" not in found.metadata:
        return []
    table = found.metadata["rivet/findings"]
    assert isinstance(table, dg.TableMetadataValue)
    assert [column.name for column in table.schema.columns] == ["window", "code", "path", "columns", "what"]
    return [dict(record.data) for record in table.records]


def part_of(place: Place, number: int) -> Path:
    (part,) = (place.folder() / f"g1/data/w{number:06d}").iterdir()
    return part


def flip_a_byte_of(part: Path, column: int) -> None:
    """Change the first value of a column, behind the header of its first data page."""
    chunk = pq.ParquetFile(part).metadata.row_group(0).column(column)
    content = bytearray(part.read_bytes())
    content[chunk.data_page_offset + chunk.total_compressed_size - 5] ^= 1
    part.write_bytes(content)


# What checks say


def test_sound_exports_pass_and_say_what_was_looked_at(make: Make) -> None:
    place = make(reconcile="rows", windows_a_run=None)
    run = place.seal_and_check()
    assert run.success
    found = {each.check_name: each for each in run.get_asset_check_evaluations()}
    assert found.keys() == {INTEGRITY, RECONCILE, SCHEMA_DRIFT}
    assert all(each.passed and each.asset_key == place.key("complete") for each in found.values())
    values = {name: {key: value.value for key, value in each.metadata.items()} for name, each in found.items()}
    seal = place.seal()["seal_id"]
    shared = {"rivet/seal": seal, "rivet/generation": 1, "rivet/findings_count": 0, "rivet/failing_windows": []}
    stored = {"rivet/depth": "sample", "rivet/windows": 6, "rivet/parts": 6, "rivet/rows": 600, "rivet/parts_read": 1}
    compared = {"rivet/depth": "rows", "rivet/windows": 6, "rivet/windows_compared": 6, "rivet/rows": 600}
    assert {**shared, **stored}.items() <= values[INTEGRITY].items()
    assert {**shared, **compared, "rivet/snapshot": True}.items() <= values[RECONCILE].items()
    assert values[SCHEMA_DRIFT]["rivet/columns"] == 3
    assert "rivet/findings" not in values[INTEGRITY]


def test_a_failed_check_is_repaired_by_the_sensor(make: Make, dsn: str) -> None:
    """One flipped byte: found with window, part and column, read again, sealed, sound."""
    place = make(integrity="full")
    assert place.check(INTEGRITY).passed
    part = part_of(place, 3)
    flip_a_byte_of(part, column=2)
    found = place.check(INTEGRITY)
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert failing(found) == windows(3)
    (finding,) = findings(found)
    where = str(part.relative_to(place.folder()))
    assert (finding["window"], finding["code"], finding["path"]) == (windows(3)[0], "RIVET_PART_DAMAGED", where)
    assert finding["columns"] == "total"
    assert found.description is not None
    assert where in found.description

    tick = place.tick(place.sensor)
    assert asked(tick.run_requests) == [(windows(3)[0], windows(3)[0])]
    assert place.tick(place.sensor).run_requests == tick.run_requests, "equal keys: Dagster runs them once"
    place.execute(tick.run_requests)
    assert not place.tick(place.sensor).run_requests, "it was read since the check"
    run = place.seal_and_check()
    assert run.success
    assert all(each.passed for each in run.get_asset_check_evaluations())
    assert not place.tick(place.sensor).run_requests
    assert place.rows() == source_rows(dsn, "public.orders", "id")


def test_the_sensor_looks_at_checks_only_if_it_is_told_to(make: Make, instance: dg.DagsterInstance, lake: Path) -> None:
    place = make(integrity="full")
    flip_a_byte_of(part_of(place, 3), column=2)
    assert not place.check(INTEGRITY).passed
    plain = build_rivet_reload_sensor(ORDERS, name="plain")
    assert not Place(instance, lake, ORDERS, sensors=[plain]).tick(plain).run_requests


def test_windows_of_an_older_generation_are_not_asked_for(make: Make) -> None:
    place = make(integrity="full")
    flip_a_byte_of(part_of(place, 3), column=2)
    assert not place.check(INTEGRITY).passed
    place.plan(replan=True)
    assert not place.tick(place.sensor).run_requests
    assert failing(place.check(INTEGRITY)) == windows(3), "its seal is in force still"


def test_a_window_without_a_manifest_is_asked_for(make: Make) -> None:
    place = make()
    (place.folder() / "g1/windows/w000002.json").unlink()
    found = place.check(INTEGRITY)
    assert [finding["code"] for finding in findings(found)] == ["RIVET_WINDOW_MISSING"]
    assert asked(place.tick(place.sensor).run_requests) == [(windows(2)[0], windows(2)[0])]


# Comparing in turn


def compared(place: Checked) -> tuple[list[str], int]:
    """Windows that fail, and how many were compared."""
    found = place.check(RECONCILE)
    number = found.metadata["rivet/windows_compared"].value
    assert isinstance(number, int)
    assert found.passed == (failing(found) == [])
    return failing(found), number


def test_windows_are_compared_in_turn_and_wrong_ones_stay_wrong(make: Make, sql: Sql, dsn: str) -> None:
    place = make(reconcile="keys", windows_a_run=2)
    assert compared(place) == ([], 2)
    sql("DELETE FROM public.orders WHERE id IN (250, 450)")
    assert compared(place) == (windows(2), 2)
    assert compared(place) == (windows(2, 4), 3), "what was wrong is looked at beside the next two"
    assert compared(place) == (windows(2, 4), 4), "the round begins anew, and nothing was mended"
    tick = place.tick(place.sensor)
    assert asked(tick.run_requests) == [(windows(2)[0],) * 2, (windows(4)[0],) * 2]
    place.execute(tick.run_requests)
    assert not place.tick(place.sensor).run_requests
    assert compared(place) == ([], 3), "one of the two has its turn anyway"
    assert place.complete().success
    assert place.rows() == source_rows(dsn, "public.orders", "id")


def test_more_wrong_windows_than_a_run_takes_wait(make: Make, sql: Sql) -> None:
    place = make(reconcile="rows", windows_a_run=1)
    sql("UPDATE public.orders SET total = 0")
    for number in range(6):
        found, looked_at = compared(place)
        assert sorted(found) == windows(*range(number + 1))
        assert looked_at == min(number, 1) + 1
    looked_at_again = set()
    for _ in range(4):
        said = {finding["window"]: finding for finding in findings(place.check(RECONCILE))}
        assert sorted(said) == windows(0, 1, 2, 3, 4, 5)
        assert {finding["code"] for finding in said.values()} == {"RIVET_RECONCILE_ROWS"}
        compared_now = {key for key, finding in said.items() if "earlier run" not in finding["what"]}
        assert {said[key]["columns"] for key in compared_now} == {"total"}
        looked_at_again |= compared_now
    assert len(looked_at_again) == 6, "one in its turn, and the one that has waited longest"
    # Windows that were read again come first: they are right by now.
    place.execute(place.tick(place.sensor).run_requests)
    found, looked_at = compared(place)
    assert (found, looked_at) == ([], 2)


def test_all_windows_are_compared_if_it_is_asked_for(make: Make, sql: Sql) -> None:
    place = make(windows_a_run=None)
    sql("DELETE FROM public.orders WHERE id IN (50, 550)")
    assert compared(place) == (windows(0, 5), 6)


def test_the_turn_survives_runs_that_say_nothing(make: Make, sql: Sql) -> None:
    place = make(windows_a_run=4)
    assert compared(place) == ([], 4)
    sql("ALTER TABLE public.orders RENAME TO hidden")
    run = place.check_run(RECONCILE)
    (event,) = [event for event in run.all_events if event.is_step_failure]
    failed = event.step_failure_data.user_failure_data
    assert failed is not None
    assert failed.metadata["rivet/code"].value == "RIVET_SOURCE_TABLE_MISSING"
    assert not list(run.get_asset_check_evaluations())
    sql("ALTER TABLE public.hidden RENAME TO orders")
    sql("DELETE FROM public.orders WHERE id = 450")
    assert compared(place) == (windows(4), 4), "the round goes on with window 4"


def test_slices_of_time_are_compared_too(instance: dg.DagsterInstance, sql: Sql, lake: Path, dsn: str) -> None:
    daily = TimeWindows(column="at", every="day", start="2024-01-01", end="2024-01-06", timezone="Europe/Paris")
    sql("CREATE TABLE public.events (id int PRIMARY KEY, at timestamptz NOT NULL)")
    sql("CREATE INDEX ON public.events (at, id)")
    sql(
        "INSERT INTO public.events SELECT n, timestamptz '2023-12-31 23:00+00' + n * interval '1 hour'"
        " FROM generate_series(0, 119) AS n"
    )
    place = Checked(instance, lake, ExportConfig(table="public.events", windows=daily), windows_a_run=3)
    assert place.export("2024-01-01", "2024-01-05").success
    assert place.complete().success
    sql("DELETE FROM public.events WHERE id IN (30, 100)")
    assert compared(place) == (["2024-01-02"], 3)
    assert compared(place) == (["2024-01-02", "2024-01-05"], 4)
    place.execute(place.tick(place.sensor).run_requests)
    assert place.complete().success
    assert place.rows() == source_rows(dsn, "public.events", "at,id")


# Columns


def test_columns_that_came_went_and_changed_are_named(make: Make, sql: Sql) -> None:
    place = make()
    assert place.check(SCHEMA_DRIFT).passed
    sql("ALTER TABLE public.orders ADD COLUMN note2 text, DROP COLUMN note, ALTER COLUMN total TYPE numeric(14, 2)")
    found = place.check(SCHEMA_DRIFT)
    assert not found.passed
    named = {name: found.metadata[f"rivet/columns_{name}"].value for name in ("came", "went", "changed", "moved")}
    assert named == {"came": ["note2"], "went": ["note"], "changed": ["total"], "moved": []}
    assert found.description == (
        "Since it was planned: note was dropped; note2 (text) was added; total was numeric(12,2) and is numeric(14,2)."
    )
    place.plan(replan=True)
    assert place.check(SCHEMA_DRIFT).passed, "the next run reads by the newest plan"


def test_another_order_of_columns_is_a_change(make: Make, dsn: str) -> None:
    """As MariaDB's ALTER TABLE ... MODIFY ... FIRST makes it."""
    plan = TableExport(ORDERS, dsn, str(make().lake)).planned()
    first, second, third = plan.head.columns
    changes = column_changes(plan, (second, first, third))
    assert [(change.name, change.kind) for change in changes] == [("note", "moved"), ("id", "moved")]
    with pytest.raises(RivetError, match="changed since it was planned: their order"):
        check_drift(plan, (second, first, third))


# Declarations


def test_checks_that_cannot_look_say_why(instance: dg.DagsterInstance, sql: Sql, lake: Path) -> None:
    sql("CREATE TABLE public.orders (id int PRIMARY KEY)")
    place = Checked(instance, lake, ORDERS)
    for name, code in ((INTEGRITY, "RIVET_EXPORT_UNSEALED"), (SCHEMA_DRIFT, "RIVET_PLAN_MISSING")):
        run = place.check_run(name)
        (event,) = [event for event in run.all_events if event.is_step_failure]
        failed = event.step_failure_data.user_failure_data
        assert failed is not None
        assert failed.metadata["rivet/code"].value == code
        assert code in str(failed.description)


def test_checks_wait_for_a_seal_that_automation_leaves_for_later(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a re-export that failed half-way, complete gives nothing, and there is nothing new to look at."""
    place = make()
    monkeypatch.setenv("RIVET_FAULT", "after_page@g1-w000002:1:raise")
    assert not place.export().success
    monkeypatch.delenv("RIVET_FAULT")
    run = place.seal_and_check(**{"dagster/from_automation_condition": "a tick"})
    assert run.success
    assert not run.get_asset_materialization_events()
    assert not list(run.get_asset_check_evaluations())
    assert len(list(place.seal_and_check().get_asset_check_evaluations())) == 3, "somebody has launched it"


def test_blocking_checks_hold_back_what_is_downstream(make: Make, instance: dg.DagsterInstance) -> None:
    place = make(integrity="full", blocking=True, reconcile=None, schema_drift=False)

    @dg.asset(deps=[place.key("complete")])
    def loaded() -> None:
        pass

    def load() -> list[dg.AssetKey]:
        (complete,) = [asset for asset in place.assets if place.key("complete") in asset.keys]
        run = dg.materialize(
            [complete, loaded, *place.checks],
            instance=instance,
            resources={"rivet": place.rivet},
            raise_on_error=False,
        )
        return [event.asset_key for event in run.get_asset_materialization_events() if event.asset_key]

    assert loaded.key in load()
    flip_a_byte_of(part_of(place, 0), column=2)
    assert loaded.key not in load()


def test_what_is_left_out_is_not_there_and_only_reading_takes_a_pool() -> None:
    checks = build_rivet_checks(
        ORDERS, ExportConfig(table="public.a-b"), reconcile="keys", severity="WARN", pool="shop", op_tags={"a": "b"}
    )
    names = [(key.asset_key.to_user_string(), key.name) for check in checks for key in check.check_keys]
    assert names == [
        (f"public/{table}/complete", name)
        for table in ("orders", "a-b")
        for name in (INTEGRITY, RECONCILE, SCHEMA_DRIFT)
    ]
    assert [check.op.pool for check in checks] == [None, "shop", "shop"] * 2
    assert [check.op.tags.get("a") for check in checks] == [None, "b", "b"] * 2
    assert build_rivet_checks(ORDERS, integrity=None, reconcile=None, schema_drift=False) == []


def test_the_declaration_has_the_defaults_of_the_function() -> None:
    parameters = inspect.signature(build_rivet_checks).parameters
    defaults = {name: parameters[name].default for name in Checks.model_fields}
    assert {**defaults, "severity": "ERROR"} == Checks().model_dump()
    assert defaults["severity"].value == "ERROR"
    assert json.loads(Checks(reconcile=None).model_dump_json())["reconcile"] is None
