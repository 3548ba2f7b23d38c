"""Moments as bounds of columns: what a column of dates or timestamps holds when a moment has come."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

from rivet_dagster.export.config import TimeWindows
from rivet_dagster.export.plan import Plan, Window
from rivet_dagster.sources.base import KeyRange

_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)
_HOUR = timedelta(hours=1)


def moment_text(column_type: str, moment: datetime, zone: str) -> str:
    """A moment as a column's text; later moments never give lesser ones.

    Args:
        column_type: `date`, `timestamp(us)` or `timestamp(us, UTC)`, by its canonical name.
        moment: with its zone.
        zone: IANA name of the zone whose time a column without a zone holds.
    """
    if column_type == "timestamp(us, UTC)":
        # Sessions are in UTC, so it is read as such; not every server takes an offset.
        return _written(moment.astimezone(timezone.utc))
    wall = _latest_wall_time(moment.astimezone(ZoneInfo(zone)))
    return wall.date().isoformat() if column_type == "date" else _written(wall)


def _written(moment: datetime) -> str:
    return moment.replace(tzinfo=None).isoformat(" ", "microseconds" if moment.microsecond else "seconds")


def _latest_wall_time(moment: datetime) -> datetime:
    """The latest time that clocks have shown until then.

    Where they are put back an hour is shown twice, and a column without a zone cannot tell which. All its rows belong
    to the first time, so that the bounds of windows never go back.
    """
    if not moment.fold:
        return moment
    # The second time began when the clocks were put back, less than a day ago.
    utc = moment.astimezone(timezone.utc)
    first, second = utc - _DAY, utc
    while second - first > _SECOND:
        middle = first + (second - first) / 2
        if middle.astimezone(moment.tzinfo).fold:
            second = middle
        else:
            first = middle
    shown = first.astimezone(moment.tzinfo).replace(tzinfo=None)
    # To the whole second at which the clocks were put back.
    return (shown + _SECOND).replace(microsecond=0)


def has_whole_hours(zone: str, start: datetime, end: datetime) -> bool:
    """Whether clocks were and will be changed by whole hours only.

    Where they are not, Dagster's hours leave some minutes out, or have them twice.

    Args:
        zone: IANA name of the zone.
        start: the first moment of interest, without a zone.
        end: the last one.
    """
    info = ZoneInfo(zone)
    weeks = range((end - start).days // 7 + 2)
    offsets = (info.utcoffset(start + timedelta(weeks=week)) for week in weeks)
    return len({offset % _HOUR for offset in offsets if offset is not None}) == 1


def time_window(plan: Plan, options: TimeWindows, name: str, start: datetime, end: datetime) -> Window:
    """The window of a slice of time: from `start` on, and before `end`."""
    found = next(column.type for column in plan.head.columns if column.name == options.column)
    lo, hi = (moment_text(found, moment, options.timezone) for moment in (start, end))
    return Window(plan.generation, 0, KeyRange((lo,), (hi,), half_open=True), 0, name)
