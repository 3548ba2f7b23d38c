"""Backfills as in production: Dagster's webserver and daemon over a user's code location, asked through GraphQL."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import psycopg
import pytest

from demo.graphql import Materialization
from demo.postgres import EmbeddedPostgres
from demo.services import DagsterServices
from tests.support.cli import rivet
from tests.support.readers import exported_rows, sealed, source_rows, tree

pytestmark = pytest.mark.timeout(420)

DEFINITIONS = """
import dagster as dg
from rivet_dagster import ExportConfig, KeysetWindows, RivetResource, build_rivet_assets

defs = dg.Definitions(
    assets=build_rivet_assets(
        ExportConfig(table="public.orders", windows=KeysetWindows(rows=20)),
        ExportConfig(table="public.killed", windows=KeysetWindows(rows=20)),
    ),
    resources={"rivet": RivetResource(source=dg.EnvVar("E2E_DSN"), destination=dg.EnvVar("E2E_LAKE"), workers=2)},
    executor=dg.in_process_executor,
)
"""

INSTANCE = """
run_coordinator:
  module: dagster.core.run_coordinator
  class: QueuedRunCoordinator
  config: {dequeue_interval_seconds: 1}
run_monitoring: {enabled: true, start_timeout_seconds: 300, poll_interval_seconds: 5}
run_retries: {enabled: true, max_retries: 1, retry_on_asset_or_op_failure: false}
telemetry: {enabled: false}
nux: {enabled: false}
"""


@dataclass(frozen=True)
class Place:
    """The running services, where they export to, and the database that they export."""

    services: DagsterServices
    home: Path
    lake: Path
    dsn: str

    def plan(self, table: str) -> list[str]:
        """Materialize a table's plan; gives its partitions."""
        run = self.services.wait_for_run(self.services.client.launch_run([f"public/{table}/plan"]))
        assert run.status == "SUCCESS", self.services.client.run_errors(run.run_id)
        return self.services.client.partition_keys(f"public/{table}")

    def complete(self, table: str) -> None:
        """Materialize a table's seal."""
        run = self.services.wait_for_run(self.services.client.launch_run([f"public/{table}/complete"]))
        assert run.status == "SUCCESS", self.services.client.run_errors(run.run_id)

    def stale_states(self, table: str) -> set[str]:
        """States of a table's partitions towards what is upstream of them."""
        query = "query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {" + (
            " staleStatusByPartition } } }"
        )
        answer = self.services.client.execute(query, {"key": {"path": ["public", table]}})
        return set(answer["assetNodeOrError"]["staleStatusByPartition"])

    def events(self, table: str) -> list[Materialization]:
        """A table's materializations by the webserver, oldest first."""
        return self.services.client.materializations(f"public/{table}")[::-1]


@pytest.fixture(scope="module")
def place(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("e2e")
    home, lake = folder / "home", folder / "lake"
    home.mkdir()
    (home / "dagster.yaml").write_text(INSTANCE)
    (folder / "definitions.py").write_text(DEFINITIONS)
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE e2e")
    with psycopg.connect(postgres.dsn("e2e"), autocommit=True) as owner:
        for table in ("orders", "killed"):
            owner.execute(
                f"CREATE TABLE {table} (id bigint PRIMARY KEY, at timestamptz, note text, total numeric(9,2))"
            )  # type: ignore[call-overload]
            owner.execute(
                f"INSERT INTO {table} SELECT n * 3, TIMESTAMPTZ '2024-01-01' + n * INTERVAL '1 minute',"  # type: ignore[call-overload]
                " 'order ' || n, n / 7.0 FROM generate_series(1, 4000) AS n"
            )
    environment = {"E2E_DSN": postgres.dsn("e2e"), "E2E_LAKE": str(lake)}
    with DagsterServices(
        folder / "definitions.py", home=home, logs=folder / "logs", environment=environment, backfill_seconds=2
    ) as services:
        yield Place(services, home, lake, postgres.dsn("e2e"))


def test_a_backfill_over_200_windows_shows_each_with_its_own_facts(place: Place) -> None:
    keys = place.plan("orders")
    assert len(keys) == 200
    backfill = place.services.wait_for_backfill(place.services.client.launch_backfill("public/orders", keys))
    assert (backfill.status, backfill.materialized, backfill.failed) == ("COMPLETED_SUCCESS", 200, 0)
    assert len(backfill.runs) == 1

    by_webserver = place.events("orders")
    assert sorted(str(event.partition) for event in by_webserver) == keys, "none blank, none doubled"
    assert {event.metadata["dagster/partition_row_count"] for event in by_webserver} == {20}
    assert len({event.data_version for event in by_webserver}) == 200
    assert all(event.data_version == event.metadata["rivet/row_fingerprint"] for event in by_webserver)

    asset = dg.AssetKey(["public", "orders"])
    with dg.DagsterInstance.from_config(str(place.home)) as instance:
        records = instance.fetch_materializations(asset, limit=1000).records
        by_instance = {
            str(r.partition_key): (r.asset_materialization.tags or {}) for r in records if r.asset_materialization
        }
        assert len(records) == len(by_instance) == 200
        assert {key: tags["dagster/data_version"] for key, tags in by_instance.items()} == {
            str(event.partition): event.data_version for event in by_webserver
        }
        assert set(instance.get_materialized_partitions(asset)) == set(keys)

    assert place.stale_states("orders") == {"FRESH"}, "no window is out of step with its plan"
    place.complete("orders")
    assert exported_rows(place.lake / "public.orders") == source_rows(place.dsn, "public.orders", "id")
    windows = {window["key"]: window["row_fingerprint"] for window in sealed(place.lake / "public.orders")["windows"]}
    assert windows == {str(event.partition): event.data_version for event in by_webserver}


def kill_in_the_middle(place: Place, keys: list[str]) -> tuple[str, set[str]]:
    """Launch a backfill and kill the process of its run once a quarter of the windows is reported."""
    backfill = place.services.client.launch_backfill("public/killed", keys)
    deadline = time.monotonic() + 120
    asset = dg.AssetKey(["public", "killed"])
    with dg.DagsterInstance.from_config(str(place.home)) as instance:
        while time.monotonic() < deadline:
            records = instance.fetch_materializations(asset, limit=1000).records
            if len(records) >= 50:
                event = records[0].event_log_entry.dagster_event
                assert event is not None
                assert event.pid is not None
                os.kill(event.pid, signal.SIGKILL)
                records = instance.fetch_materializations(asset, limit=1000).records
                return backfill, {str(record.partition_key) for record in records}
            time.sleep(0.02)
    raise AssertionError("the backfill's run did not get going")


def test_a_killed_run_keeps_its_windows_and_a_retry_exports_the_rest(place: Place, tmp_path: Path) -> None:
    keys = place.plan("killed")
    backfill_id, finished = kill_in_the_middle(place, keys)
    assert 50 <= len(finished) < 200, "the run must die in the middle"
    backfill = place.services.wait_for_backfill(backfill_id)
    assert (backfill.status, backfill.materialized) == ("COMPLETED_SUCCESS", 200)
    assert sorted(run.status for run in backfill.runs) == ["FAILURE", "SUCCESS"]

    retry = next(run.run_id for run in backfill.runs if run.status == "SUCCESS")
    events = [event for event in place.events("killed") if event.run_id == retry]
    assert sorted(str(event.partition) for event in events) == keys, "the retry reports every window"
    reused = {str(event.partition) for event in events if event.metadata["rivet/reused"]}
    # Windows may have been committed whose outcomes the run had not reported yet: a few a worker.
    assert finished <= reused
    assert len(reused) <= len(finished) + 5
    assert reused != set(keys)

    place.complete("killed")
    undisturbed = tmp_path / "lake"
    arguments = ("--table", "public.killed", "--to", str(undisturbed), "--rows-per-window", "20")
    assert rivet("export", "--source", place.dsn, *arguments).code == 0
    ours, theirs = tree(place.lake / "public.killed"), tree(undisturbed / "public.killed")
    assert ours.keys() == theirs.keys()
    assert all(ours[name] == theirs[name] for name in ours if "/windows/" not in name), "equal byte for byte"
