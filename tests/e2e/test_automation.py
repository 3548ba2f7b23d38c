"""Exports that keep themselves up to date: every sensor and a schedule under Dagster's daemon, nobody clicks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest

from demo.graphql import DagsterClient
from demo.postgres import EmbeddedPostgres
from demo.services import DagsterServices
from rivet_dagster._compat import latest_evaluation
from tests.support.readers import exported_rows, source_rows

pytestmark = pytest.mark.timeout(420)

DEFINITIONS = """
import os

import dagster as dg
from rivet_dagster import (
    CursorWindows, ExportConfig, KeysetWindows, ReloadChecks, RivetResource, TimeWindows, build_rivet_assets,
    build_rivet_checks, build_rivet_cursor_sensor, build_rivet_plan_sensor, build_rivet_reload_sensor,
    build_rivet_schedule,
)

orders = ExportConfig(table="public.orders", windows=KeysetWindows(rows=50))
changes = ExportConfig(table="public.changes", windows=CursorWindows(column="updated_at", rows=50, lag=1))
hours = TimeWindows(column="at", every="hour", start=os.environ["E2E_START"])
slices = ExportConfig(table="public.slices", windows=hours)

running = {"minimum_interval_seconds": 1, "default_status": dg.DefaultSensorStatus.RUNNING}
defs = dg.Definitions(
    assets=build_rivet_assets(orders, changes, slices),
    asset_checks=build_rivet_checks(orders, integrity="full", reconcile=None, schema_drift=False),
    resources={"rivet": RivetResource(source=dg.EnvVar("E2E_DSN"), destination=dg.EnvVar("E2E_LAKE"), workers=2)},
    sensors=[
        build_rivet_plan_sensor(orders, **running),
        build_rivet_cursor_sensor(changes, **running),
        build_rivet_reload_sensor(orders, changes, slices, checks=ReloadChecks(failed_checks=True), **running),
        dg.AutomationConditionSensorDefinition(
            "default_automation_condition_sensor", target=dg.AssetSelection.all(), **running
        ),
    ],
    schedules=[
        build_rivet_schedule(
            slices,
            minute_of_hour=int(os.environ["E2E_MINUTE"]),
            default_status=dg.DefaultScheduleStatus.RUNNING,
        ),
    ],
    executor=dg.in_process_executor,
)
"""

INSTANCE = """
run_coordinator:
  module: dagster.core.run_coordinator
  class: QueuedRunCoordinator
  config: {dequeue_interval_seconds: 1}
telemetry: {enabled: false}
nux: {enabled: false}
"""

WAIT_SECONDS = 180.0


@dataclass(frozen=True)
class Place:
    """The running services, where they export to, and the database that they export."""

    services: DagsterServices
    home: Path
    lake: Path
    dsn: str

    @property
    def client(self) -> DagsterClient:
        return self.services.client

    def sql(self, statement: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(statement)  # type: ignore[call-overload]

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            self.services.check()
            if condition():
                return
            time.sleep(0.3)
        raise AssertionError(f"not within {WAIT_SECONDS:.0f} s: {what}")

    def sealed(self, table: str) -> list[tuple[Any, ...]] | None:
        folder = self.lake / f"public.{table}"
        return exported_rows(folder) if (folder / "_SUCCESS").exists() else None

    def current(self, table: str, key: str) -> list[tuple[Any, ...]]:
        return source_rows(self.dsn, f"public.{table}", key)


@pytest.fixture(scope="module")
def place(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("automation")
    home, lake = folder / "home", folder / "lake"
    home.mkdir()
    (home / "dagster.yaml").write_text(INSTANCE)
    (folder / "definitions.py").write_text(DEFINITIONS)
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE automation")
    dsn = postgres.dsn("automation")
    now = datetime.now(timezone.utc)
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute("CREATE TABLE orders (id int PRIMARY KEY, note text)")
        owner.execute("INSERT INTO orders SELECT n, 'order ' || n FROM generate_series(1, 300) AS n")
        owner.execute("CREATE TABLE changes (id int PRIMARY KEY, note text, updated_at timestamptz NOT NULL)")
        owner.execute("CREATE INDEX ON changes (updated_at, id)")
        owner.execute(
            "INSERT INTO changes SELECT n, 'first', now() - interval '1 hour' + n * interval '1 second'"
            " FROM generate_series(1, 200) AS n"
        )
        owner.execute("CREATE TABLE slices (id int PRIMARY KEY, at timestamptz NOT NULL)")
        owner.execute("CREATE INDEX ON slices (at, id)")
        owner.execute(
            "INSERT INTO slices SELECT n, date_trunc('hour', now()) - interval '3 hours' + n * interval '1 minute'"
            " FROM generate_series(0, 200) AS n"
        )
    environment = {
        "E2E_DSN": dsn,
        "E2E_LAKE": str(lake),
        "E2E_START": f"{now - timedelta(hours=3):%Y-%m-%dT%H:00}",
        # Soon enough to wait for it, and late enough for the daemon to be there.
        "E2E_MINUTE": str((now + timedelta(seconds=180)).minute),
    }
    services = DagsterServices(
        folder / "definitions.py", home=home, logs=folder / "logs", environment=environment, backfill_seconds=1
    )
    with services:
        yield Place(services, home, lake, dsn)


def test_new_and_changed_rows_are_exported_and_sealed(place: Place) -> None:
    place.wait(lambda: place.sealed("orders") == place.current("orders", "id"), "the first seal of orders")
    windows = place.client.partition_keys("public/orders")
    assert len(windows) == 6
    place.sql("INSERT INTO orders SELECT n, 'late ' || n FROM generate_series(301, 420) AS n")
    place.wait(lambda: place.sealed("orders") == place.current("orders", "id"), "the seal of new orders")
    assert place.client.partition_keys("public/orders")[:6] == windows
    assert len(place.client.materializations("public/orders/plan")) >= 2, "an event for each time that it was extended"

    first = place.current("changes", "updated_at,id")
    place.wait(lambda: place.sealed("changes") == first, "the first seal of changes")
    place.sql("UPDATE changes SET note = 'second', updated_at = now() WHERE id <= 70")
    changed = [row for row in place.current("changes", "updated_at,id") if row[1] == "second"]
    place.wait(lambda: (place.sealed("changes") or [])[200:] == changed, "the seal of what changed")
    assert (place.sealed("changes") or [])[:200] == first, "what a row was before stays where it was exported"


def test_missing_parts_and_requests_are_read_again(place: Place) -> None:
    place.wait(lambda: place.sealed("orders") is not None, "a seal of orders")
    place.wait(lambda: not place.client.pending_runs(), "quiet")
    part = next((place.lake / "public.orders/g1/data/w000002").iterdir())
    part.unlink()
    place.wait(part.exists, "the part that was deleted")

    place.wait(lambda: not place.client.pending_runs(), "quiet")
    before = len(place.client.materializations("public/orders"))
    place.sql("UPDATE orders SET note = 'corrected' WHERE id = 7")
    folder = place.lake / "reload"
    folder.mkdir(exist_ok=True)
    request = folder / "correction.json"
    request.write_text(json.dumps({"table": "public.orders", "windows": ["g1-w000000"]}))
    place.wait(lambda: len(place.client.materializations("public/orders")) > before, "the window that was requested")
    place.wait(lambda: not request.exists(), "the end of the request")
    place.wait(lambda: place.sealed("orders") == place.current("orders", "id"), "the seal of the correction")


def test_a_flipped_byte_is_found_by_a_check_and_read_again(place: Place) -> None:
    """With the seal that follows a request for another window, because checks run where complete does."""
    place.wait(lambda: place.sealed("orders") is not None, "a seal of orders")
    place.wait(lambda: not place.client.pending_runs(), "quiet")
    part = next((place.lake / "public.orders/g1/data/w000003").iterdir())
    sound = part.read_bytes()
    harmed = bytearray(sound)
    harmed[len(harmed) // 2] ^= 1
    part.write_bytes(harmed)
    request = place.lake / "reload/another.json"
    request.parent.mkdir(exist_ok=True)
    request.write_text(json.dumps({"table": "public.orders", "windows": ["g1-w000001"]}))
    words: list[tuple[bool, object]] = []

    def passes_again() -> bool:
        with dg.DagsterInstance.from_config(str(place.home)) as instance:
            said = latest_evaluation(instance, dg.AssetKey(["public", "orders", "complete"]), "rivet_integrity")
        if said is not None:
            words.append((said.passed, said.metadata["rivet/failing_windows"].value))
        return (False, ["g1-w000003"]) in words and words[-1][0]

    place.wait(passes_again, "a check that fails, and one that passes")
    assert part.read_bytes() == sound
    assert place.sealed("orders") == place.current("orders", "id")


def test_the_schedule_exports_the_hour_that_has_ended(place: Place) -> None:
    place.wait(lambda: bool(place.client.materializations("public/slices")), "the schedule's tick")
    (event, *_) = place.client.materializations("public/slices")
    hour = datetime.strptime(str(event.partition), "%Y-%m-%d-%H:%M").replace(tzinfo=timezone.utc)
    assert hour + timedelta(hours=1) <= datetime.now(timezone.utc) < hour + timedelta(hours=2, minutes=5)
    with psycopg.connect(place.dsn, autocommit=True) as connection:
        found = connection.execute(
            "SELECT count(*) FROM slices WHERE at >= %s AND at < %s", (hour, hour + timedelta(hours=1))
        ).fetchone()
    assert found == (event.metadata["dagster/partition_row_count"],)
