"""What keeps an export up to date by itself, as one declaration: sensors and schedules."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Annotated, Any

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field

from rivet_dagster.errors import ConfigError
from rivet_dagster.export.config import CursorWindows, ExportConfig, FullWindows, TimeWindows
from rivet_dagster.reload import ReloadChecks, build_rivet_reload_sensor
from rivet_dagster.schedules import build_rivet_schedule
from rivet_dagster.sensors import build_rivet_cursor_sensor, build_rivet_plan_sensor
from rivet_dagster.translator import DagsterRivetTranslator

Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[int, Field(ge=1)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Extension(_Model):
    """Sensors that append windows for new rows, of exports with keyset, integer and cursor windows.

    Attributes:
        minimum_rows: a last window with fewer rows is not planned yet.
        minimum_interval_seconds: between two ticks.
    """

    minimum_rows: Annotated[int, Field(ge=1)] = 1
    minimum_interval_seconds: Seconds = 300


class Reload(_Model):
    """The sensor that has windows read again.

    Attributes:
        missing_parts: whether each part that a manifest names is there.
        damaged_windows: of how many windows a table every byte is read in a tick.
        drifted_windows: of how many windows a table the rows are counted in the source in a tick.
        failed_checks: whether windows that a failed asset check names are read again.
        request_table: a table in the source whose rows are requests.
        minimum_interval_seconds: between two ticks.
    """

    missing_parts: bool = True
    damaged_windows: Count = 0
    drifted_windows: Count = 0
    failed_checks: bool = False
    request_table: str | None = None
    minimum_interval_seconds: Seconds = 300


class Schedule(_Model):
    """When slices of time are exported after they have ended, in the windows' time zone.

    Attributes:
        minute_of_hour: for any windows.
        hour_of_day: for days, weeks and months.
        day_of_week: for weeks; 0 is Sunday.
        day_of_month: for months.
    """

    minute_of_hour: Annotated[int, Field(ge=0, le=59)] | None = None
    hour_of_day: Annotated[int, Field(ge=0, le=23)] | None = None
    day_of_week: Annotated[int, Field(ge=0, le=6)] | None = None
    day_of_month: Annotated[int, Field(ge=1, le=31)] | None = None


class Automation(_Model):
    """What runs by itself. What is left out does not.

    Attributes:
        extend: sensors for new rows.
        reload: the sensor for windows that should be read again.
        schedule: schedules for slices of time.
        running: whether they run as soon as they are deployed; otherwise they are started in the UI.
    """

    extend: Extension | None = None
    reload: Reload | None = None
    schedule: Schedule | None = None
    running: bool = False


def build_rivet_automation(
    exports: Sequence[ExportConfig],
    automation: Automation,
    *,
    name: str = "rivet",
    resource_key: str = "rivet",
    translator: DagsterRivetTranslator | None = None,
) -> dg.Definitions:
    """The sensors and schedules that exports need, each for those whose windows it serves.

    Args:
        exports: the tables.
        automation: what is wanted.
        name: what the names of the sensors begin with.
        resource_key: key of the `RivetResource` in the definitions.
        translator: the one that the assets have.
    """
    shared: dict[str, Any] = {"resource_key": resource_key, "translator": translator}
    sensors = dg.DefaultSensorStatus.RUNNING if automation.running else dg.DefaultSensorStatus.STOPPED
    schedules = dg.DefaultScheduleStatus.RUNNING if automation.running else dg.DefaultScheduleStatus.STOPPED
    made: list[dg.SensorDefinition] = []
    cursors = [config for config in exports if isinstance(config.windows, CursorWindows)]
    others = (CursorWindows, TimeWindows, FullWindows)
    planned = [config for config in exports if not isinstance(config.windows, others)]
    if automation.extend:
        options = {**shared, **automation.extend.model_dump(), "default_status": sensors}
        if planned:
            made.append(build_rivet_plan_sensor(*planned, name=f"{name}_plan", **options))
        if cursors:
            made.append(build_rivet_cursor_sensor(*cursors, name=f"{name}_cursor", **options))
    if automation.reload and exports:
        wanted = automation.reload
        looked_at = {field.name: getattr(wanted, field.name) for field in fields(ReloadChecks)}
        made.append(
            build_rivet_reload_sensor(
                *exports,
                name=f"{name}_reload",
                checks=ReloadChecks(**looked_at),
                request_table=wanted.request_table,
                minimum_interval_seconds=wanted.minimum_interval_seconds,
                default_status=sensors,
                **shared,
            )
        )
    slices = [config for config in exports if isinstance(config.windows, TimeWindows)] if automation.schedule else []
    if exports and ((automation.extend and not planned and not cursors) or (automation.schedule and not slices)):
        idle = "extend" if automation.extend and not planned and not cursors else "schedule"
        raise ConfigError(
            "RIVET_CONFIG_WINDOWS",
            f"No export has windows that {idle} is for.",
            "extend is for keyset, int_range and cursor windows, schedule for slices of time: leave it out.",
        )
    times = automation.schedule.model_dump() if automation.schedule else {}
    return dg.Definitions(
        sensors=made,
        schedules=[
            build_rivet_schedule(config, translator=translator, default_status=schedules, **_fitting(config, times))
            for config in slices
        ],
    )


_TIMES = {
    "hour": ("minute_of_hour",),
    "day": ("minute_of_hour", "hour_of_day"),
    "week": ("minute_of_hour", "hour_of_day", "day_of_week"),
    "month": ("minute_of_hour", "hour_of_day", "day_of_month"),
}


def _fitting(config: ExportConfig, times: dict[str, Any]) -> dict[str, Any]:
    """Of the times of a schedule those that windows of this length have."""
    assert isinstance(config.windows, TimeWindows)
    return {name: times[name] for name in _TIMES[config.windows.every]}
