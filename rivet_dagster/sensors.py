"""Sensors that extend plans: new keys in a table become new windows, partitions and runs."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from rivet_dagster.assets import WINDOWS_A_RUN
from rivet_dagster.errors import ConfigError, RivetError
from rivet_dagster.export.config import CursorWindows, ExportConfig, FullWindows, TimeWindows
from rivet_dagster.export.operations import TableExport
from rivet_dagster.export.plan import Plan, Window
from rivet_dagster.export.planning import Wish, current_plan
from rivet_dagster.export.upkeep import awaiting_late_rows, uncommitted
from rivet_dagster.metadata import DATA_VERSION, IS_USER_PROVIDED, plan_metadata
from rivet_dagster.partitions import missing_keys, old_keys, window_partitions
from rivet_dagster.requests import is_being_read, run_requests
from rivet_dagster.resources import RivetResource
from rivet_dagster.translator import DagsterRivetTranslator, ExportKeys, export_keys

# A tick must end within Dagster's minute, however many rows are new: the next one goes on.
_PLANNING_SECONDS = 15.0
_PATIENCE_TICKS = 10


@dataclass(frozen=True)
class Tick:
    """What one export asks for in one tick."""

    requests: tuple[dg.RunRequest, ...] = ()
    partitions: tuple[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest, ...] = ()
    events: tuple[dg.AssetMaterialization, ...] = ()
    cursor: Any = None
    skipped: str = ""


def build_rivet_plan_sensor(
    *exports: ExportConfig,
    name: str = "rivet_plan",
    resource_key: str = "rivet",
    translator: DagsterRivetTranslator | None = None,
    minimum_rows: int = 1,
    windows_a_run: int = WINDOWS_A_RUN,
    minimum_interval_seconds: int = 300,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.STOPPED,
) -> dg.SensorDefinition:
    """A sensor that extends plans: windows for new keys, partitions for the windows, and runs that read them.

    A table without a plan gets a run of its plan asset first; then the windows that are not committed yet are
    requested, and from then on those that are new.

    Args:
        exports: tables with keyset or integer windows.
        name: of the sensor.
        resource_key: key of the `RivetResource` in the definitions.
        translator: the one that the assets have.
        minimum_rows: a last window with fewer rows is not planned yet: they wait for more.
        windows_a_run: windows that a run takes at most.
        minimum_interval_seconds: between two ticks.
        default_status: whether it runs as soon as it is deployed.

    Raises:
        ConfigError: RIVET_CONFIG_WINDOWS for an export whose windows are not of these types.

    Example:
        .. code-block:: python

            sensor = build_rivet_plan_sensor(orders, minimum_rows=100_000, minimum_interval_seconds=600)
    """
    _refuse(exports, (TimeWindows, FullWindows, CursorWindows), "a plan sensor")
    wish = Wish(minimum_rows=minimum_rows, seconds=_PLANNING_SECONDS)
    return _sensor(
        exports, wish, windows_a_run, name, resource_key, translator, minimum_interval_seconds, default_status
    )


def build_rivet_cursor_sensor(
    *exports: ExportConfig,
    name: str = "rivet_cursor",
    resource_key: str = "rivet",
    translator: DagsterRivetTranslator | None = None,
    minimum_rows: int = 1,
    windows_a_run: int = WINDOWS_A_RUN,
    minimum_interval_seconds: int = 300,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.STOPPED,
) -> dg.SensorDefinition:
    """A sensor that appends windows for rows which are new or have changed, and has late rows read again.

    As `build_rivet_plan_sensor` for exports with cursor windows; besides it requests the windows whose end is within
    the lookback of the frontier once more, until they have been read when it was over.

    Args:
        exports: tables with cursor windows.
        name: as in `build_rivet_plan_sensor`, like all that follow.
        resource_key: key of the `RivetResource` in the definitions.
        translator: the one that the assets have.
        minimum_rows: a last window with fewer rows is not planned yet.
        windows_a_run: windows that a run takes at most.
        minimum_interval_seconds: between two ticks.
        default_status: whether it runs as soon as it is deployed.

    Raises:
        ConfigError: RIVET_CONFIG_WINDOWS for an export whose windows are of another type.
    """
    others = [config for config in exports if not isinstance(config.windows, CursorWindows)]
    _refuse(others, (object,), "a cursor sensor")
    wish = Wish(minimum_rows=minimum_rows, seconds=_PLANNING_SECONDS)
    return _sensor(
        exports, wish, windows_a_run, name, resource_key, translator, minimum_interval_seconds, default_status
    )


def _refuse(exports: Iterable[ExportConfig], kinds: tuple[type, ...], what: str) -> None:
    for config in exports:
        if isinstance(config.windows, kinds):
            raise ConfigError(
                "RIVET_CONFIG_WINDOWS",
                f"{config.table} has windows of type {config.windows.type}, which {what} does not extend.",
                "Use a schedule for slices of time and whole tables, a cursor sensor for cursor windows, and a plan "
                "sensor for keyset and integer windows.",
            )


def _sensor(
    exports: Sequence[ExportConfig],
    wish: Wish,
    windows_a_run: int,
    name: str,
    resource_key: str,
    translator: DagsterRivetTranslator | None,
    minimum_interval_seconds: int,
    default_status: dg.DefaultSensorStatus,
) -> dg.SensorDefinition:
    """A sensor that looks at one export after the other. What fails for one does not keep the others waiting."""
    all_keys = {config.table: export_keys(config, translator) for config in exports}
    targets = [key for keys in all_keys.values() for key in (keys.plan, keys.table) if key]

    @dg.sensor(
        name=name,
        asset_selection=dg.AssetSelection.assets(*targets),
        required_resource_keys={resource_key},
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        description=f"Extends the plans of {', '.join(all_keys)} and requests runs for new windows.",
    )
    def extend(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        resource = getattr(context.resources, resource_key)
        assert isinstance(resource, RivetResource)
        return evaluate(
            context,
            exports,
            lambda config, cursor: _extended(
                context, resource.open(config), all_keys[config.table], cursor, wish, windows_a_run
            ),
        )

    return extend


def evaluate(
    context: dg.SensorEvaluationContext,
    exports: Sequence[ExportConfig],
    look: Callable[[ExportConfig, Any], Tick],
) -> dg.SensorResult:
    """Look at every export, with what its last tick remembered; gives all that they ask for.

    What fails for some is told where ticks are shown, and is tried again in the next tick.

    Raises:
        RivetError: that of the first export, where all failed.
    """
    cursors = json.loads(context.cursor or "{}")
    ticks: list[Tick] = []
    failures: list[RivetError] = []
    for config in exports:
        try:
            tick = look(config, cursors.get(config.table))
        except RivetError as exc:
            failures.append(exc)
            context.log.error(f"{config.table}: {exc}")
            continue
        cursors[config.table] = tick.cursor
        ticks.append(tick)
    if failures and not ticks:
        raise failures[0]
    asked = [request for tick in ticks for request in tick.requests]
    reasons = "; ".join((*map(str, failures), *(tick.skipped for tick in ticks if tick.skipped)))
    return dg.SensorResult(
        run_requests=asked,
        skip_reason=None if asked else reasons or "No table has anything new.",
        dynamic_partitions_requests=[request for tick in ticks for request in tick.partitions],
        asset_events=[event for tick in ticks for event in tick.events],
        cursor=json.dumps(cursors, sort_keys=True),
    )


def _extended(
    context: dg.SensorEvaluationContext,
    export: TableExport,
    keys: ExportKeys,
    cursor: Any,
    wish: Wish,
    windows_a_run: int,
) -> Tick:
    """Extend one plan; request what no earlier tick has."""
    assert keys.plan is not None
    label = export.config.table
    ticks = cursor["ticks"] + 1 if cursor else 1
    if current_plan(export.store) is None:
        # Again after some ticks, in case that the run failed.
        occasion = f"{keys.plan.to_user_string()}:first:{ticks // _PATIENCE_TICKS}"
        first = dg.RunRequest(run_key=occasion, asset_selection=[keys.plan])
        waiting = {"generation": 0, "windows": 0, "ticks": ticks}
        return Tick(requests=(first,), cursor=waiting, skipped=f"{label} is being planned for the first time")
    plan, appended = export.plan(wish)
    partitions = window_partitions(keys.table)
    known = context.instance.get_dynamic_partitions(str(partitions.name))
    missing, old = missing_keys(known, plan), old_keys(known, plan)
    new = _new_windows(export, plan, cursor)
    order = [*known, *missing]
    occasion = f"g{plan.generation}"
    requests = run_requests(keys.table, order, new, windows_a_run, occasion, "new rows")
    again = [] if is_being_read(context.instance, keys.table) else _late(export, plan)
    if again:
        late = f"{occasion} tick {ticks}"
        requests += run_requests(keys.table, order, again, windows_a_run, late, "rows may have come late")
    return Tick(
        requests=tuple(requests),
        partitions=(
            *([partitions.build_add_request(missing)] if missing else []),
            *([partitions.build_delete_request(old)] if old else []),
        ),
        events=(_plan_event(export, keys.plan, plan, appended),) if appended else (),
        cursor={"generation": plan.generation, "windows": len(plan.windows), "ticks": ticks},
        skipped=f"{label} has no new rows",
    )


def _new_windows(export: TableExport, plan: Plan, cursor: Any) -> list[Window]:
    """Windows beyond those that an earlier tick has requested; the first time those that are not committed."""
    if cursor and cursor["generation"] == plan.generation:
        return list(plan.windows[cursor["windows"] :])
    return uncommitted(export.store, plan, plan.windows)


def _late(export: TableExport, plan: Plan) -> list[Window]:
    """Windows that rows may have come to since they were read. None of them is new: they were read."""
    windows = export.config.windows
    return awaiting_late_rows(export.store, plan, windows) if isinstance(windows, CursorWindows) else []


def _plan_event(export: TableExport, key: dg.AssetKey, plan: Plan, appended: int) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(
        key,
        metadata=plan_metadata(export.store, plan, appended, str(export.server)),
        tags={DATA_VERSION: plan.fingerprint, IS_USER_PROVIDED: "true"},
    )
