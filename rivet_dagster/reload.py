"""The sensor that has windows read again: on request, for missing or damaged parts, for rows that drifted."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
from pydantic import BaseModel, ConfigDict, ValidationError

from rivet_dagster.assets import WINDOWS_A_RUN
from rivet_dagster.checks import NAMING_WINDOWS, Failing, failing_windows
from rivet_dagster.export.config import ExportConfig, TimeWindows
from rivet_dagster.export.documents import fingerprint_bytes
from rivet_dagster.export.operations import TableExport
from rivet_dagster.export.peek import rows_beyond
from rivet_dagster.export.plan import Plan, Window
from rivet_dagster.export.planning import current_plan
from rivet_dagster.export.seal import named
from rivet_dagster.export.upkeep import Ailing, damaged, not_read_since, round_robin, without_parts
from rivet_dagster.partitions import slices_of, window_partitions
from rivet_dagster.requests import is_being_read, run_requests
from rivet_dagster.resources import RivetResource
from rivet_dagster.sensors import Tick, evaluate
from rivet_dagster.stores import open_store
from rivet_dagster.translator import DagsterRivetTranslator, ExportKeys, export_keys

REQUESTS_FOLDER = "reload"
# The same windows are requested again for the same reason after so long: the run may have failed.
_AGAIN_SECONDS = 3600


class ReloadRequest(BaseModel):
    """One object below `<destination>/reload/`: what somebody wants to be read again.

    Attributes:
        table: `schema.table`, as its export spells it.
        windows: keys of partitions; all windows where it is left out.
    """

    model_config = ConfigDict(extra="forbid")

    table: str
    windows: tuple[str, ...] | None = None


@dataclass(frozen=True)
class ReloadChecks:
    """What the sensor looks at besides requests, in every tick.

    Attributes:
        missing_parts: whether each part that a manifest names is there with its size: one listing a table.
        damaged_windows: of how many windows a table every byte is read and held against its fingerprint, in turn.
        drifted_windows: of how many windows a table the rows are counted in the source, in turn.
        failed_checks: whether windows that an asset check names are read again, unless they were since it looked.
    """

    missing_parts: bool = True
    damaged_windows: int = 0
    drifted_windows: int = 0
    failed_checks: bool = False


@dataclass
class _Requested:
    """Requests of one tick.

    Attributes:
        windows: by table, keys of windows, or None for all.
        files: objects that were read, with the fingerprints of their bytes.
        served: tables of which no request is left.
    """

    windows: dict[str, set[str] | None] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    served: set[str] = field(default_factory=set)

    def left(self) -> dict[str, list[str] | None]:
        """Requests of tables that could not be looked at, for the next tick."""
        return {
            table: None if keys is None else sorted(keys)
            for table, keys in self.windows.items()
            if table not in self.served
        }

    def add(self, table: str, keys: Iterable[str] | None) -> None:
        before = self.windows.get(table, set())
        self.windows[table] = None if keys is None or before is None else before | set(keys)


def build_rivet_reload_sensor(
    *exports: ExportConfig,
    name: str = "rivet_reload",
    resource_key: str = "rivet",
    translator: DagsterRivetTranslator | None = None,
    checks: ReloadChecks | None = None,
    request_table: str | None = None,
    windows_a_run: int = WINDOWS_A_RUN,
    minimum_interval_seconds: int = 300,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.STOPPED,
) -> dg.SensorDefinition:
    """A sensor that requests runs for windows which should be read again.

    It serves requests: JSON objects below `<destination>/reload/`, `{"table": "public.orders", "windows":
    ["g1-w000003"]}`, which it deletes once they are served; and rows of a table in the source. It looks for parts
    that are missing, and in turn for parts that are damaged and windows that have another number of rows now.

    Args:
        exports: the tables.
        name: of the sensor.
        resource_key: key of the `RivetResource` in the definitions.
        translator: the one that the assets have.
        checks: what is looked at; missing parts by default.
        request_table: a table in the source, `schema.table`, whose rows are requests: with a unique key that grows, a
            column `table_name` and a column `window_key`, NULL for all windows. Rows that are there when the sensor
            first runs are served, too.
        windows_a_run: windows that a run takes at most.
        minimum_interval_seconds: between two ticks.
        default_status: whether it runs as soon as it is deployed.

    Example:
        .. code-block:: python

            sensor = build_rivet_reload_sensor(orders, checks=ReloadChecks(drifted_windows=5))
    """
    options = checks or ReloadChecks()
    all_keys = {config.table: export_keys(config, translator) for config in exports}

    @dg.sensor(
        name=name,
        asset_selection=dg.AssetSelection.assets(*(keys.table for keys in all_keys.values())),
        required_resource_keys={resource_key},
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        description=f"Requests runs for windows of {', '.join(all_keys)} that should be read again.",
    )
    def reload(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        resource = getattr(context.resources, resource_key)
        assert isinstance(resource, RivetResource)
        cursors = json.loads(context.cursor or "{}")
        requested = _Requested()
        for table, windows in cursors.get(_LEFT, {}).items():
            requested.add(table, windows)
        _forget_files(resource, cursors.get(_FILES, {}))
        _read_files(context, resource, requested, set(all_keys))
        position = cursors.get(_ROWS)
        if request_table:
            position = _read_rows(resource, request_table, requested, set(all_keys), position)
        result = evaluate(
            context,
            exports,
            lambda config, cursor: _looked_at(
                context, resource.open(config), all_keys[config.table], cursor, options, requested, windows_a_run
            ),
        )
        own = {_FILES: requested.files, _ROWS: position, _LEFT: requested.left()}
        remembered = {**json.loads(result.cursor or "{}"), **own}
        return result._replace(cursor=json.dumps(remembered, sort_keys=True))

    return reload


# Keys of the cursor beside those of tables, which have a dot in them.
_FILES = "files"
_ROWS = "rows"
_LEFT = "left"


def _forget_files(resource: RivetResource, files: Mapping[str, str]) -> None:
    """Delete the requests that the last tick has read: its runs are requested for sure by now."""
    store = open_store(f"{resource.destination.rstrip('/')}/{REQUESTS_FOLDER}")
    for name, fingerprint in files.items():
        # Whoever has written another request of the same name meanwhile wants that one, too.
        if fingerprint_bytes(store.get(name) or b"") == fingerprint:
            store.delete(name)


def _read_files(
    context: dg.SensorEvaluationContext, resource: RivetResource, requested: _Requested, tables: set[str]
) -> None:
    """Requests in the destination. One that cannot be understood stays there, and is named in every tick's log."""
    store = open_store(f"{resource.destination.rstrip('/')}/{REQUESTS_FOLDER}")
    for stored in sorted(store.list(""), key=lambda each: each.path):
        data = store.get(stored.path) or b""
        try:
            found = ReloadRequest.model_validate_json(data)
        except ValidationError as exc:
            context.log.warning(f"{store.url(stored.path)} is no request: {exc.errors(include_url=False)[0]['msg']}")
            continue
        if found.table in tables:  # another sensor may serve the others
            requested.add(found.table, found.windows)
            requested.files[stored.path] = fingerprint_bytes(data)


def _read_rows(
    resource: RivetResource, table: str, requested: _Requested, tables: set[str], position: list[str] | None
) -> list[str] | None:
    """Requests in the source, beyond the last row that was served."""
    rows, last = rows_beyond(resource.source, ExportConfig(table=table), position, ("table_name", "window_key"))
    for name, window in rows:
        if name in tables:
            requested.add(name, None if window is None else [str(window)])
    return last


def _looked_at(
    context: dg.SensorEvaluationContext,
    export: TableExport,
    keys: ExportKeys,
    cursor: Any,
    checks: ReloadChecks,
    requested: _Requested,
    windows_a_run: int,
) -> Tick:
    """What one export needs read again."""
    label = export.config.table
    plan = current_plan(export.store)
    if plan is None:
        if label in requested.windows:
            context.log.warning(f"{label} is not planned yet, so that there is nothing to read again")
        requested.served.add(label)
        return Tick(cursor=cursor, skipped=f"{label} is not planned yet")
    windows, order = _windows(context, export.config, keys, plan)
    rounds = dict(cursor or {"damaged": 0, "drifted": 0, "served": 0})
    asked = _asked(context, label, windows, requested)
    rounds["served"] += bool(asked)
    found = run_requests(keys.table, order, asked, windows_a_run, f"request {rounds['served']}", "requested")
    ailing: list[Ailing] = []
    if not is_being_read(context.instance, keys.table):
        named_by = NAMING_WINDOWS if checks.failed_checks else ()
        failed = [failing for name in named_by if (failing := failing_windows(context.instance, keys.complete, name))]
        ailing = _ailing(export, plan, windows, checks, rounds, failed)
    ailing = [each for each in ailing if each.window not in asked]
    for each in ailing:
        context.log.info(f"{label} {each.window.key}: {each.reason}")
    occasion = "\n".join([str(int(time.time()) // _AGAIN_SECONDS), *(each.read_at for each in ailing)])
    reason = "missing, damaged or drifted"
    found += run_requests(keys.table, order, [each.window for each in ailing], windows_a_run, occasion, reason)
    requested.served.add(label)
    return Tick(requests=tuple(found), cursor=rounds, skipped=f"{label} is sound")


def _windows(
    context: dg.SensorEvaluationContext, config: ExportConfig, keys: ExportKeys, plan: Plan
) -> tuple[Sequence[Window], Sequence[str]]:
    """The export's windows, and its partitions in Dagster's order."""
    if isinstance(config.windows, TimeWindows):
        slices = slices_of(plan, config.windows)
        return slices, [window.key for window in slices]
    return plan.windows, context.instance.get_dynamic_partitions(str(window_partitions(keys.table).name))


def _asked(
    context: dg.SensorEvaluationContext, label: str, windows: Sequence[Window], requested: _Requested
) -> list[Window]:
    """The windows that somebody has asked for."""
    if label not in requested.windows:
        return []
    keys = requested.windows[label]
    if keys is None:
        return list(windows)
    unknown = keys.difference(window.key for window in windows)
    if unknown:
        context.log.warning(f"{label} has no windows {named(sorted(unknown))}, which were requested")
    return [window for window in windows if window.key in keys]


def _ailing(
    export: TableExport,
    plan: Plan,
    windows: Sequence[Window],
    checks: ReloadChecks,
    rounds: dict[str, int],
    failed: Sequence[Failing],
) -> list[Ailing]:
    """Windows with something wrong, each once; `rounds` says whose turn it is, and then whose it is next."""
    found: list[Ailing] = []
    if checks.missing_parts:
        found += without_parts(export.store, plan, windows)
    for failing in failed:
        # A new generation has windows of the same names, but not the files that the check has looked at.
        chosen = [window for window in windows if window.key in failing.windows]
        if failing.generation == plan.generation:
            found += not_read_since(export.store, plan, chosen, failing.checked_at, f"{failing.check} has failed")
    chosen, rounds["damaged"] = round_robin(windows, rounds["damaged"], checks.damaged_windows)
    found += damaged(export.store, plan, chosen)
    chosen, rounds["drifted"] = round_robin(windows, rounds["drifted"], checks.drifted_windows)
    if chosen:
        found += export.drifted(plan, chosen)
    return list({each.window.key: each for each in found}.values())
