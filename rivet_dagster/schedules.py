"""Schedules of slices of time: each is exported when it is over."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import dagster as dg

from rivet_dagster.errors import ConfigError
from rivet_dagster.export.config import ExportConfig, TimeWindows
from rivet_dagster.translator import DagsterRivetTranslator, export_keys

if TYPE_CHECKING:
    from dagster._core.definitions.partitions.partitioned_schedule import UnresolvedPartitionedAssetScheduleDefinition


def build_rivet_schedule(
    config: ExportConfig,
    *,
    name: str | None = None,
    translator: DagsterRivetTranslator | None = None,
    minute_of_hour: int | None = None,
    hour_of_day: int | None = None,
    day_of_week: int | None = None,
    day_of_month: int | None = None,
    tags: Mapping[str, str] | None = None,
    default_status: dg.DefaultScheduleStatus = dg.DefaultScheduleStatus.STOPPED,
) -> "dg.ScheduleDefinition | UnresolvedPartitionedAssetScheduleDefinition":
    """A schedule that exports each slice of time some time after it has ended, in the windows' own time zone.

    Leave time for rows that come late: a slice is read once.

    Args:
        config: an export with windows of type time.
        name: of the schedule and its job; by default from the asset's key.
        translator: the one that the assets have.
        minute_of_hour: for any windows.
        hour_of_day: for days, weeks and months.
        day_of_week: for weeks; 0 is Sunday.
        day_of_month: for months.
        tags: tags of the runs.
        default_status: whether it runs as soon as it is deployed.

    Raises:
        ConfigError: RIVET_CONFIG_WINDOWS for windows of another type.

    Example:
        .. code-block:: python

            schedule = build_rivet_schedule(events, hour_of_day=2, minute_of_hour=30)
    """
    if not isinstance(config.windows, TimeWindows):
        raise ConfigError(
            "RIVET_CONFIG_WINDOWS",
            f"{config.table} has windows of type {config.windows.type}, which no time ends.",
            "Use a plan sensor or a cursor sensor, or a schedule of your own for its plan asset.",
        )
    key = export_keys(config, translator).table
    plain = name or "rivet__" + re.sub(r"\W", "_", "__".join(key.path), flags=re.ASCII)
    job = dg.define_asset_job(
        f"{plain}_job",
        selection=dg.AssetSelection.assets(key),
        tags=dict(tags or {}),
    )
    return dg.build_schedule_from_partitioned_job(
        job,
        name=plain,
        minute_of_hour=minute_of_hour,
        hour_of_day=hour_of_day,
        day_of_week=day_of_week,
        day_of_month=day_of_month,
        default_status=default_status,
    )
