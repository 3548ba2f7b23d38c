"""Windows as Dagster partitions."""

from collections.abc import Sequence
from datetime import datetime

import dagster as dg
from dagster import TimeWindowPartitionsDefinition

from rivet_dagster._compat import delete_partitions
from rivet_dagster.export.config import ExportConfig, TimeWindows
from rivet_dagster.export.moments import time_window
from rivet_dagster.export.names import generation_of
from rivet_dagster.export.plan import Plan, Window

_CRON = {"hour": "0 * * * *", "day": "0 0 * * *", "week": "0 0 * * 0", "month": "0 0 1 * *"}
_FORMAT = {"hour": "%Y-%m-%d-%H:%M"}


def window_partitions(asset_key: dg.AssetKey) -> dg.DynamicPartitionsDefinition:
    """The partitions of a table asset. Named after the asset, whose key is unique in an instance."""
    return dg.DynamicPartitionsDefinition(name=asset_key.to_user_string())


def time_partitions(windows: TimeWindows) -> TimeWindowPartitionsDefinition:
    """Slices of time as Dagster's own partitions, with the keys of its daily, hourly, weekly and monthly ones."""
    return TimeWindowPartitionsDefinition(
        cron_schedule=_CRON[windows.every],
        start=datetime.fromisoformat(windows.start),
        end=None if windows.end is None else datetime.fromisoformat(windows.end),
        timezone=windows.timezone,
        fmt=_FORMAT.get(windows.every, "%Y-%m-%d"),
    )


def partitions_of(config: ExportConfig, asset_key: dg.AssetKey) -> dg.PartitionsDefinition[str]:
    """The partitions of an export's table asset."""
    if isinstance(config.windows, TimeWindows):
        return time_partitions(config.windows)
    return window_partitions(asset_key)


def slices_of(plan: Plan, windows: TimeWindows, keys: Sequence[str] | None = None) -> list[Window]:
    """The windows of slices of time: those with these keys, or all that have ended by now, in the order of time."""
    partitions = time_partitions(windows)
    found = []
    for key in partitions.get_partition_keys() if keys is None else keys:
        slice_ = partitions.time_window_for_partition_key(key)
        found.append(time_window(plan, windows, key, slice_.start, slice_.end))
    return found


def publish_windows(instance: dg.DagsterInstance, asset_key: dg.AssetKey, plan: Plan) -> tuple[int, int]:
    """Make the plan's windows partitions, in place of those of older generations; says how many came and went.

    All keys go in one ordered call: ranges of dynamic partitions follow the order in which keys were added, and
    every addition makes Dagster rebuild what it knows of the asset's status.
    """
    name = str(window_partitions(asset_key).name)
    known = instance.get_dynamic_partitions(name)
    missing = missing_keys(known, plan)
    if missing:
        instance.add_dynamic_partitions(name, missing)
    old = old_keys(known, plan)
    if old:
        delete_partitions(instance, name, old)
    return len(missing), len(old)


def missing_keys(known: Sequence[str], plan: Plan) -> list[str]:
    """Keys of windows that are no partitions yet, in the plan's order."""
    there = set(known)
    return [window.key for window in plan.windows if window.key not in there]


def old_keys(known: Sequence[str], plan: Plan) -> list[str]:
    """Keys of partitions that are windows of an older plan."""
    return [key for key in known if (generation_of(key) or plan.generation) < plan.generation]
