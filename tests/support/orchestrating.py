"""A code location in this process: its assets are run as Dagster's daemon would run them, its sensors are asked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as sa

from rivet_dagster import ExportConfig, RivetPlanConfig, RivetResource, RivetRunConfig, build_rivet_assets
from tests.support.readers import Row, exported_rows, sealed

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"


def between(first: str, last: str) -> dict[str, str]:
    """Tags of a run over the partitions from the first to the last one."""
    return {RANGE_START: first, RANGE_END: last}


class Place:
    """Exports of the database at TEST_DSN, and an instance that their assets are run in.

    Args:
        instance: of Dagster.
        lake: the destination.
        configs: the exports.
        sensors: made for them.
    """

    def __init__(
        self,
        instance: dg.DagsterInstance,
        lake: Path,
        *configs: ExportConfig,
        sensors: Sequence[dg.SensorDefinition] = (),
    ) -> None:
        self.instance = instance
        self.lake = lake
        self.configs = configs
        self.rivet = RivetResource(source=dg.EnvVar("TEST_DSN"), destination=str(lake), workers=2)
        self.assets = build_rivet_assets(*configs)
        self.definitions = dg.Definitions(assets=self.assets, sensors=sensors, resources={"rivet": self.rivet})
        self._cursors: dict[str, str | None] = {}

    def key(self, role: str | None = None, table: int = 0) -> dg.AssetKey:
        """Key of one export's table asset, or of its plan or complete."""
        path = self.configs[table].table.split(".")
        return dg.AssetKey([*path, role] if role else path)

    def run(self, key: dg.AssetKey, **options: Any) -> dg.ExecuteInProcessResult:
        """A run of one asset."""
        (asset,) = [asset for asset in self.assets if key in asset.keys]
        return dg.materialize(
            [asset], instance=self.instance, resources={"rivet": self.rivet}, raise_on_error=False, **options
        )

    def plan(self, *, replan: bool = False, table: int = 0, **options: Any) -> dg.ExecuteInProcessResult:
        """A run of a plan asset."""
        key = self.key("plan", table)
        config = dg.RunConfig(ops={f"rivet__{'__'.join(key.path)}": RivetPlanConfig(replan=replan)})
        return self.run(key, run_config=config, **options)

    def export(
        self,
        first: str | None = None,
        last: str | None = None,
        tags: dict[str, str] | None = None,
        table: int = 0,
        **config: Any,
    ) -> dg.ExecuteInProcessResult:
        """One run over all partitions, one, or those from the first to the last; `config` is a `RivetRunConfig`'s."""
        if first is None:
            first, last = self.partitions(table)[0], self.partitions(table)[-1]
        key = self.key(None, table)
        run_config = dg.RunConfig(ops={f"rivet__{'__'.join(key.path)}": RivetRunConfig(**config)})
        return self.run(key, tags={**between(first, last or first), **(tags or {})}, run_config=run_config)

    def complete(self, table: int = 0) -> dg.ExecuteInProcessResult:
        """A run of a complete asset."""
        return self.run(self.key("complete", table))

    def partitions(self, table: int = 0) -> list[str]:
        """Keys of a table's dynamic partitions, in Dagster's order."""
        return list(self.instance.get_dynamic_partitions(self.key(None, table).to_user_string()))

    def events(self, key: dg.AssetKey | None = None) -> list[dg.AssetMaterialization]:
        """Materializations of an asset, by default of the first table, the oldest first."""
        records = self.instance.fetch_materializations(key or self.key(), limit=1000).records
        return [record.asset_materialization for record in reversed(records) if record.asset_materialization]

    def rows(self, table: int = 0) -> list[Row]:
        """Sealed rows, in the order of the windows."""
        return exported_rows(self.folder(table))

    def seal(self, table: int = 0) -> dict[str, Any]:
        """The seal in force."""
        return sealed(self.folder(table))

    def folder(self, table: int = 0) -> Path:
        """Folder of an export."""
        return self.lake / self.configs[table].table

    def manifest(self, window: str, generation: int = 1) -> dict[str, Any]:
        """The manifest of a window, by the name of its file."""
        found = json.loads((self.folder() / f"g{generation}/windows/{window}.json").read_text())
        assert isinstance(found, dict)
        return found

    def tick(self, sensor: dg.SensorDefinition, *, lost: bool = False) -> Any:
        """Ask a sensor, and do what the daemon does with the answer, but for the runs; nothing if it is lost."""
        with dg.build_sensor_context(
            instance=self.instance,
            definitions=self.definitions,
            resources={"rivet": self.rivet},
            cursor=self._cursors.get(sensor.name),
        ) as context:
            found = sensor.evaluate_tick(context)
        if lost:
            return found
        self._cursors[sensor.name] = found.cursor
        for request in found.dynamic_partitions_requests or ():
            if isinstance(request, dg.AddDynamicPartitionsRequest):
                self.instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
            else:
                for key in request.partition_keys:
                    self.instance.delete_dynamic_partition(request.partitions_def_name, key)
        for event in found.asset_events:
            self.instance.report_runless_asset_event(event)
        return found

    def execute(self, requests: Iterable[dg.RunRequest]) -> None:
        """Run what a sensor has asked for."""
        for request in requests:
            (key,) = request.asset_selection or ()
            run = self.run(key, tags=dict(request.tags))
            assert run.success, failure_of(run)


def asked(requests: Iterable[dg.RunRequest]) -> list[tuple[str, str]]:
    """First and last partition of each requested run."""
    return [(request.tags[RANGE_START], request.tags[RANGE_END]) for request in requests]


def failure_of(run: dg.ExecuteInProcessResult) -> str:
    """What the one failed step of a run says."""
    (event,) = [event for event in run.all_events if event.is_step_failure]
    return str(event.step_failure_data)


@contextmanager
def statements() -> Iterator[list[str]]:
    """Every statement that any engine of SQLAlchemy executes."""
    found: list[str] = []

    def executed(_: Any, __: Any, statement: str, *___: Any) -> None:
        found.append(" ".join(statement.split()))

    sa.event.listen(sa.engine.Engine, "before_cursor_execute", executed)
    try:
        yield found
    finally:
        sa.event.remove(sa.engine.Engine, "before_cursor_execute", executed)
