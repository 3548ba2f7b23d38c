"""What people and Dagster's own machinery do with exports: seal by automation, repair a backfill, stop a run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from demo.graphql import Backfill, DagsterClient, Materialization
from demo.postgres import EmbeddedPostgres
from demo.services import DagsterServices
from tests.support.readers import exported_rows, source_rows

pytestmark = pytest.mark.timeout(420)

DEFINITIONS = """
import dagster as dg
from rivet_dagster import ExportConfig, KeysetWindows, RivetResource, build_rivet_assets

def exported(table):
    return build_rivet_assets(
        ExportConfig(table=f"public.{table}", windows=KeysetWindows(rows=10)),
        backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=40),
    )

defs = dg.Definitions(
    assets=[*exported("steady"), *exported("faulty"), *exported("stopped")],
    resources={"rivet": RivetResource(source=dg.EnvVar("E2E_DSN"), destination=dg.EnvVar("E2E_LAKE"), workers=2)},
    # The sensor that Dagster makes by itself, but for the pause between its looks: the more looks, the harder.
    sensors=[
        dg.AutomationConditionSensorDefinition(
            "default_automation_condition_sensor", target=dg.AssetSelection.all(), minimum_interval_seconds=1
        )
    ],
    executor=dg.in_process_executor,
)
"""

# The runs of a backfill go one after the other, so that it is long under way.
INSTANCE = """
run_coordinator:
  module: dagster.core.run_coordinator
  class: QueuedRunCoordinator
  config:
    dequeue_interval_seconds: 1
    tag_concurrency_limits: [{key: dagster/backfill, value: {applyLimitPerUniqueValue: true}, limit: 1}]
run_monitoring: {enabled: true, start_timeout_seconds: 300, poll_interval_seconds: 5}
telemetry: {enabled: false}
nux: {enabled: false}
"""

SENSOR = "default_automation_condition_sensor"
WINDOWS = {"steady": 120, "faulty": 40, "stopped": 200}
ROWS_A_WINDOW = 10
FAULTY_WINDOWS = ("g1-w000003", "g1-w000004", "g1-w000017")
WAIT_SECONDS = 120.0


@dataclass(frozen=True)
class Place:
    """The running services, where they export to and spool, and the database that they export."""

    services: DagsterServices
    lake: Path
    spool: Path
    dsn: str

    @property
    def client(self) -> DagsterClient:
        return self.services.client

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Look again and again until `condition` holds."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            self.services.check()
            if condition():
                return
            time.sleep(0.1)
        raise AssertionError(f"not within {WAIT_SECONDS:.0f} s: {what}")

    def backfill(self, *tables: str) -> dict[str, Backfill]:
        """Export tables by a backfill each, side by side, up to their ends."""
        launched = {
            table: self.client.launch_backfill(asset, self.client.partition_keys(asset))
            for table in tables
            for asset in [f"public/{table}"]
        }
        return {table: self.services.wait_for_backfill(backfill) for table, backfill in launched.items()}

    def events(self, table: str, backfill: Backfill) -> dict[str, Materialization]:
        """What the runs of a backfill reported, by partition; no partition twice."""
        runs = {run.run_id for run in backfill.runs}
        events = [event for event in self.client.materializations(f"public/{table}") if event.run_id in runs]
        by_partition = {str(event.partition): event for event in events}
        assert len(by_partition) == len(events)
        return by_partition

    def seals(self, table: str) -> list[Materialization]:
        """Materializations of a table's complete asset, the oldest first."""
        return self.client.materializations(f"public/{table}/complete")[::-1]

    def wait_for_seals(self, table: str, number: int) -> None:
        self.wait(lambda: len(self.seals(table)) >= number, f"seal {number} of {table}")

    def wait_for_look(self) -> None:
        """Wait until the sensor has looked once more, and what it asked for is done."""
        ended = {"SKIPPED", "SUCCESS"}
        began = max(tick.time for tick in self.client.sensor_ticks(SENSOR))
        self.wait(
            lambda: (
                any(tick.status in ended for tick in self.client.sensor_ticks(SENSOR, after=began))
                and not self.client.pending_runs()
            ),
            "the sensor's next look",
        )

    def sealed_versions(self, table: str, seal: Materialization) -> dict[str, str]:
        """Row fingerprints of the windows in a seal, also in one that is not in force any more."""
        document = json.loads((self.lake / f"public.{table}/g1/seals/{seal.metadata['rivet/seal']}.json").read_text())
        return {window["key"]: window["row_fingerprint"] for window in document["windows"]}


@pytest.fixture(scope="module")
def place(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("orchestration")
    home, lake, spool = folder / "home", folder / "lake", folder / "spool"
    home.mkdir()
    (home / "dagster.yaml").write_text(INSTANCE)
    (folder / "definitions.py").write_text(DEFINITIONS)
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE orchestration")
    dsn = postgres.dsn("orchestration")
    for table, windows in WINDOWS.items():
        execute(dsn, f"CREATE TABLE {table} (id bigint PRIMARY KEY, at timestamptz, note text)")
        execute(
            dsn,
            f"INSERT INTO {table} SELECT n, TIMESTAMPTZ '2024-01-01' + n * INTERVAL '1 minute', 'note ' || n"
            f" FROM generate_series(0, {windows * ROWS_A_WINDOW - 1}) AS n",
        )
    environment = {"E2E_DSN": dsn, "E2E_LAKE": str(lake), "RIVET_SPOOL_DIR": str(spool)}
    with DagsterServices(
        folder / "definitions.py", home=home, logs=folder / "logs", environment=environment, backfill_seconds=2
    ) as services:
        place = Place(services, lake, spool, dsn)
        services.client.start_sensor(SENSOR)
        run = services.wait_for_run(services.client.launch_run([f"public/{table}/plan" for table in WINDOWS]))
        assert run.status == "SUCCESS", services.client.run_errors(run.run_id)
        for table, windows in WINDOWS.items():
            assert len(services.client.partition_keys(f"public/{table}")) == windows
        yield place


def execute(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    """Run a statement as the owner; gives the rows, if any."""
    with psycopg.connect(dsn, autocommit=True) as owner:
        cursor = owner.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []


@dataclass(frozen=True)
class History:
    """Two full exports of two tables; the second one of `faulty` failed in three windows and was repaired.

    Attributes:
        first: first backfills, by table.
        second: second ones, over rows that had all changed.
        repair: the re-execution of the second one of `faulty`.
        seals_before_repair: how many seals `faulty` had, long after its second backfill had failed.
    """

    first: dict[str, Backfill]
    second: dict[str, Backfill]
    repair: Backfill
    seals_before_repair: int


@pytest.fixture(scope="module")
def history(place: Place) -> History:
    first = place.backfill("steady", "faulty")
    for table in first:
        place.wait_for_seals(table, 1)

    spoilt = ", ".join(str(int(key[-6:]) * ROWS_A_WINDOW + 1) for key in FAULTY_WINDOWS)
    for table in first:
        execute(place.dsn, f"UPDATE {table} SET note = 'changed ' || id")
    execute(place.dsn, f"UPDATE faulty SET at = 'infinity' WHERE id IN ({spoilt})")
    second = place.backfill("steady", "faulty")
    place.wait_for_seals("steady", 2)
    place.wait_for_look()
    before_repair = len(place.seals("faulty"))

    execute(place.dsn, f"UPDATE faulty SET at = '2024-02-29' WHERE id IN ({spoilt})")
    repair = place.services.wait_for_backfill(place.client.reexecute_backfill(second["faulty"].backfill_id))
    place.wait_for_seals("faulty", before_repair + 1)
    place.wait_for_look()
    return History(first, second, repair, before_repair)


def test_each_export_by_several_runs_is_sealed_once_and_as_a_whole(place: Place, history: History) -> None:
    exports = [history.first["steady"], history.second["steady"]]
    assert [(each.status, len(each.runs), each.materialized) for each in exports] == [("COMPLETED_SUCCESS", 3, 120)] * 2
    events = [place.events("steady", each) for each in exports]
    seals = place.seals("steady")
    assert len(seals) == 2
    ticks = [tick.time for tick in place.client.sensor_ticks(SENSOR)]
    for reported, seal in zip(events, seals, strict=True):
        versions = {key: event.data_version for key, event in reported.items()}
        assert len(versions) == 120
        assert place.sealed_versions("steady", seal) == versions, "the rows of this export, and no others"
        times = [event.time for event in reported.values()]
        assert max(times) < seal.time
        assert any(min(times) < tick < max(times) for tick in ticks), "the sensor looked midway"
    assert not {event.data_version for event in events[0].values()} & {
        event.data_version for event in events[1].values()
    }
    assert exported_rows(place.lake / "public.steady") == source_rows(place.dsn, "public.steady", "id")


def test_failed_windows_alone_run_again_and_are_waited_for(place: Place, history: History) -> None:
    first, second, repair = history.first["faulty"], history.second["faulty"], history.repair
    assert (first.status, first.materialized) == ("COMPLETED_SUCCESS", 40)
    assert (second.status, second.materialized, second.failed) == ("COMPLETED_FAILED", 37, 3)
    error = place.client.run_errors(second.runs[0].run_id)[0]
    assert f"3 of 40 windows failed: {', '.join(FAULTY_WINDOWS)}. " in error
    assert "infinity" in error

    assert (repair.status, repair.partitions, repair.materialized) == ("COMPLETED_SUCCESS", 3, 3)
    again = place.events("faulty", repair)
    assert sorted(again) == sorted(FAULTY_WINDOWS)
    assert not any(event.metadata["rivet/reused"] for event in again.values())
    kept = place.events("faulty", second)
    assert sorted([*kept, *again]) == place.client.partition_keys("public/faulty")

    seals = place.seals("faulty")
    assert (history.seals_before_repair, len(seals)) == (1, 2), "not sealed while windows had failed"
    versions = {key: event.data_version for key, event in {**kept, **again}.items()}
    assert place.sealed_versions("faulty", seals[1]) == versions
    assert exported_rows(place.lake / "public.faulty") == source_rows(place.dsn, "public.faulty", "id")


def test_a_terminated_run_reports_what_it_committed_and_leaves_nothing_behind(place: Place) -> None:
    def waiting() -> int:
        return int(execute(place.dsn, f"SELECT count(*) FROM pg_stat_activity WHERE {OURS} AND {BLOCKED}")[0][0])

    keys = place.client.partition_keys("public/stopped")
    with psycopg.connect(place.dsn) as blocker:
        # The first windows can be read, later ones meet a lock: the run is in the middle for as long as we like.
        blocker.execute("UPDATE stopped SET note = note WHERE false")
        run = place.client.launch_run(["public/stopped"], tags=range_tags(keys))
        place.wait(lambda: len(place.client.materializations("public/stopped")) >= 5, "the first windows")
        blocker.execute("LOCK TABLE stopped IN ACCESS EXCLUSIVE MODE")
        place.wait(lambda: waiting() > 0, "a statement that waits for the lock")
        place.client.terminate_run(run)
        assert place.services.wait_for_run(run).status == "CANCELED"
        place.wait(
            lambda: not execute(place.dsn, f"SELECT pid FROM pg_stat_activity WHERE {OURS}"),
            "no connection of the run is left, though the lock is",
        )
    events = place.client.materializations("public/stopped")
    reported = sorted(str(event.partition) for event in events)
    assert 5 <= len(reported) < len(keys)
    assert {event.run_id for event in events} == {run}
    committed = sorted(path.stem for path in (place.lake / "public.stopped/g1/windows").iterdir())
    assert reported == [f"g1-{window}" for window in committed], "committed is reported, and nothing else"
    partitions = place.client.partitions("public/stopped")
    assert sorted(partitions.materialized) == reported
    assert sorted(partitions.missing) == sorted(set(keys) - set(reported))
    assert list(place.spool.iterdir()) == []
    assert place.seals("stopped") == []


OURS = "datname = current_database() AND application_name LIKE 'rivet%'"
BLOCKED = "wait_event_type = 'Lock'"


def range_tags(keys: list[str]) -> dict[str, str]:
    """Tags of a run over all partitions from the first to the last one."""
    return {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}
