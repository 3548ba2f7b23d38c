"""The three assets in Dagster, in this process: events, metadata, data versions, failures, retries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from rivet_dagster import ExportConfig, KeysetWindows, RivetError, RivetResource, build_rivet_assets
from rivet_dagster.export import faults
from tests.support.readers import exported_rows, sealed, source_rows

Sql = Callable[[str], list[tuple[Any, ...]]]
KEY = dg.AssetKey(["public", "orders"])


@pytest.fixture(autouse=True)
def fresh_fault_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "_passed", {})


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


class Location:
    """A user's definitions with one table, and what a user does with them."""

    def __init__(self, instance: dg.DagsterInstance, lake: Path, rows: int = 500) -> None:
        self.instance = instance
        self.assets = build_rivet_assets(
            ExportConfig(table="public.orders", windows=KeysetWindows(rows=rows)), group_name="lake"
        )
        self.resources = {"rivet": RivetResource(source=dg.EnvVar("TEST_DSN"), destination=str(lake), workers=2)}

    def materialize(self, role: str | None = None, **options: Any) -> dg.ExecuteInProcessResult:
        key = dg.AssetKey([*KEY.path, role]) if role else KEY
        asset = next(asset for asset in self.assets if key in asset.keys)
        return dg.materialize(
            [asset], instance=self.instance, resources=self.resources, raise_on_error=False, **options
        )

    def export(self, tags: dict[str, str] | None = None) -> dg.ExecuteInProcessResult:
        """All partitions in one ranged run, as a backfill would launch it."""
        keys = self.keys()
        ends = {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}
        return self.materialize(tags={**ends, **(tags or {})})

    def keys(self) -> list[str]:
        return list(self.instance.get_dynamic_partitions("public/orders"))

    def events(self) -> list[dg.AssetMaterialization]:
        records = self.instance.fetch_materializations(KEY, limit=1000).records
        return [record.asset_materialization for record in reversed(records) if record.asset_materialization]


@pytest.fixture
def location(dsn: str, sql: Sql, lake: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Location:
    monkeypatch.setenv("TEST_DSN", dsn)
    sql("CREATE TABLE public.orders (id int PRIMARY KEY, note text)")
    sql("INSERT INTO public.orders SELECT n, 'order ' || n FROM generate_series(1, 3250) AS n")
    return Location(instance, lake)


def test_plan_export_complete(location: Location, dsn: str, lake: Path) -> None:
    assert location.materialize("plan").success
    assert location.keys() == [f"g1-w00000{n}" for n in range(7)]
    assert location.export().success
    events = location.events()
    assert sorted(str(event.partition) for event in events) == location.keys(), "one event a window, none blank"
    for event in events:
        assert event.metadata["dagster/partition_row_count"].value == (250 if event.partition == "g1-w000006" else 500)
        assert str(event.metadata["rivet/row_fingerprint"].value) == (event.tags or {})["dagster/data_version"]
        for name in ("dagster/uri", "rivet/bytes", "rivet/parts", "rivet/duration_s", "rivet/rows_per_s"):
            assert event.metadata[name].value
        assert Path(str(event.metadata["rivet/manifest"].value).removeprefix("file://")).is_file()
        assert "rivet/longest_statement_s" in event.metadata
    assert len({(event.tags or {})["dagster/data_version"] for event in events}) == 7
    complete = location.materialize("complete")
    assert complete.success
    (seal,) = complete.asset_materializations_for_node("rivet__public__orders__complete")
    assert seal.metadata["dagster/row_count"].value == 3250
    assert exported_rows(lake / "public.orders") == source_rows(dsn, "public.orders", "id")


def observed(location: Location) -> list[dg.AssetObservation]:
    records = location.instance.fetch_observations(KEY, limit=100).records
    return [record.asset_observation for record in reversed(records) if record.asset_observation]


def test_every_run_is_observed_with_its_journal(
    location: Location, monkeypatch: pytest.MonkeyPatch, lake: Path, dsn: str
) -> None:
    location.materialize("plan")
    monkeypatch.setenv("RIVET_FAULT", "after_page@g1-w000003:1:raise")
    runs = [location.export()]
    monkeypatch.delenv("RIVET_FAULT")
    runs.append(location.export())
    for run, observation, outcome in zip(runs, observed(location), ("failed", "done"), strict=True):
        assert observation.partition is None
        assert observation.metadata["rivet/run_outcome"].value == outcome
        assert "data:image/svg+xml;base64," in str(observation.metadata["rivet/run_timeline"].value)
        journal = Path(str(observation.metadata["rivet/run_journal"].value).removeprefix("file://"))
        assert journal == lake / f"public.orders/journal/{run.run_id}.jsonl"
        assert dsn not in journal.read_text()
        assert '"governed":true' in journal.read_text()
    assert observed(location)[1].metadata["rivet/run_rows"].value == 3250


def test_bounds_and_rows_stay_out_of_events(location: Location) -> None:
    location.materialize("plan")
    location.export()
    told = str([(event.metadata, event.tags, event.partition) for event in location.events()])
    assert "order " not in told
    assert "'500'" not in told


def test_extension_adds_partitions_behind_the_others(location: Location, sql: Sql) -> None:
    location.materialize("plan")
    sql("INSERT INTO public.orders SELECT n, 'late' FROM generate_series(4000, 4599) AS n")
    location.materialize("plan")
    assert location.keys() == [f"g1-w00000{n}" for n in range(9)]


def test_a_failing_window_does_not_stop_the_others(location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    location.materialize("plan")
    monkeypatch.setenv("RIVET_FAULT", "after_page@g1-w000003:1:raise")
    run = location.export()
    assert not run.success
    (failure,) = [event for event in run.all_events if event.is_step_failure]
    assert "1 of 7 windows failed: g1-w000003" in str(failure.step_failure_data.user_failure_data)
    assert {event.partition for event in location.events()} == set(location.keys()) - {"g1-w000003"}
    assert not location.materialize("complete").success, "a seal needs every window"


def test_a_retry_reads_only_the_rest_and_reports_all(location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    location.materialize("plan")
    monkeypatch.setenv("RIVET_FAULT", "after_page@g1-w000003:1:raise")
    first = location.export()
    monkeypatch.delenv("RIVET_FAULT")
    retry = {
        "dagster/root_run_id": first.run_id,
        "dagster/parent_run_id": first.run_id,
        "dagster/is_resume_retry": "true",
    }
    # The run's fields are set from these tags where Dagster launches a retry itself; here they must be given.
    monkeypatch.setattr(dg.DagsterRun, "root_run_id", property(lambda run: run.tags.get("dagster/root_run_id")), False)
    second = location.export(retry)
    assert second.success
    events = location.events()[6:]
    assert {event.partition for event in events} == set(location.keys())
    assert {event.partition for event in events if not event.metadata["rivet/reused"].value} == {"g1-w000003"}


def test_a_new_launch_reads_every_window_afresh(location: Location, sql: Sql, lake: Path) -> None:
    location.materialize("plan")
    location.export()
    location.materialize("complete")
    before = sealed(lake / "public.orders")
    sql("UPDATE public.orders SET note = 'changed' WHERE id = 700")
    location.export()
    location.materialize("complete")
    after = sealed(lake / "public.orders")
    changed = [
        old["key"] for old, new in zip(before["windows"], after["windows"], strict=True) if old["parts"] != new["parts"]
    ]
    assert changed == ["g1-w000001"]
    assert not any(event.metadata["rivet/reused"].value for event in location.events())


def test_errors_show_code_and_advice_but_no_secret(
    location: Location, sql: Sql, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql("ALTER TABLE public.orders DROP CONSTRAINT orders_pkey")
    run = location.materialize("plan")
    (failure,) = [event for event in run.all_events if event.is_step_failure]
    shown = failure.step_failure_data.user_failure_data
    assert shown is not None
    assert shown.metadata["rivet/code"].value == "RIVET_KEY_MISSING"
    monkeypatch.setenv("TEST_DSN", dsn.replace("postgres:s3cr3t", "postgres:wr0ng"))
    run = location.materialize("plan")
    (failure,) = [event for event in run.all_events if event.is_step_failure]
    assert "RIVET_SOURCE_AUTH" in str(failure)
    told = "".join(str(record) for record in location.instance.all_logs(run.run_id))
    assert "wr0ng" not in told
    assert "pass" + "@word" not in told


def test_a_password_in_the_code_is_refused(lake: Path) -> None:
    with pytest.raises(RivetError, match="RIVET_CONFIG_SECRET") as caught:
        dg.Definitions(
            resources={"rivet": RivetResource(source="postgresql://u:h1dden@h/d", destination=str(lake))}
        ).get_repository_def()
    assert "h1dden" not in str(caught.value)
    dg.Definitions(
        resources={"rivet": RivetResource(source="postgresql://u@h/d", destination=str(lake))}
    ).get_repository_def()


def test_op_names_are_legal_and_distinct() -> None:
    assets = build_rivet_assets(
        ExportConfig(table='public."a b"'), ExportConfig(table='public."a-b"'), ExportConfig(table="public.a_b")
    )
    assert len({asset.op.name for asset in assets}) == 9


def test_specs_tell_what_the_assets_are() -> None:
    plan, table, complete = build_rivet_assets(
        ExportConfig(table="public.orders"), group_name="lake", pool="pg", op_tags={"team": "data"}
    )
    assert [sorted(key.to_user_string() for key in asset.keys) for asset in (plan, table, complete)] == [
        ["public/orders/plan"],
        ["public/orders"],
        ["public/orders/complete"],
    ]
    assert table.backfill_policy is not None
    assert table.backfill_policy.max_partitions_per_run == 200
    assert table.op.pool == "pg"
    assert table.op.tags["team"] == "data"
    (spec,) = table.specs
    assert spec.skippable
    assert spec.code_version
    assert spec.group_name == "lake"


def test_automation_does_not_seal_a_re_export_that_stopped_midway(
    location: Location, sql: Sql, lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    location.materialize("plan")
    assert location.export().success
    automated = {"dagster/from_automation_condition": "true"}
    first = location.materialize("complete", tags=automated)
    assert len(first.get_asset_materialization_events()) == 1
    before = sealed(lake / "public.orders")

    sql("UPDATE public.orders SET note = 'changed'")
    monkeypatch.setenv("RIVET_FAULT", "after_page@g1-w000003:1:raise")
    assert not location.export().success
    monkeypatch.delenv("RIVET_FAULT")
    midway = location.materialize("complete", tags=automated)
    assert midway.success
    assert midway.get_asset_materialization_events() == []
    assert sealed(lake / "public.orders") == before

    assert location.materialize(partition_key="g1-w000003").success
    last = location.materialize("complete", tags=automated)
    assert len(last.get_asset_materialization_events()) == 1
    assert sealed(lake / "public.orders") != before


def test_somebody_may_seal_what_is_there(location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    location.materialize("plan")
    assert location.export().success
    monkeypatch.setenv("RIVET_FAULT", "after_page@g1-w000003:1:raise")
    assert not location.export().success
    assert len(location.materialize("complete").get_asset_materialization_events()) == 1
