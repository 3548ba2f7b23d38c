"""Moments as bounds of columns: bounds of slices never go back, whatever clocks do, and slices are Dagster's."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rivet_dagster.export.config import TimeWindows
from rivet_dagster.export.documents import PlannedColumn, PlanSegment
from rivet_dagster.export.moments import has_whole_hours, moment_text, time_window
from rivet_dagster.export.plan import Plan, Window

UTC = timezone.utc
TYPES = ("date", "timestamp(us)", "timestamp(us, UTC)")
ZONES = sorted(available_timezones() - {"localtime"})

# From before the first standard time to the last year that zones are told of one by one.
MOMENTS = st.datetimes(datetime(1840, 1, 2), datetime(2037, 12, 30), timezones=st.just(UTC))


def bound(zone: str, moment: datetime) -> datetime:
    return datetime.fromisoformat(moment_text("timestamp(us)", moment, zone))


def shown(zone: str, moment: datetime) -> datetime:
    """What a clock shows."""
    return moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None)


def changes(zone: str, first: int = 1840, last: int = 2037) -> list[datetime]:
    """Moments at which a zone's clocks were changed, to the second."""
    found = []
    step = timedelta(days=5)
    before, end = datetime(first, 1, 1, tzinfo=UTC), datetime(last, 12, 31, tzinfo=UTC)
    info = ZoneInfo(zone)
    while before < end:
        after = before + step
        if before.astimezone(info).utcoffset() != after.astimezone(info).utcoffset():
            lo, hi = before, after
            while hi - lo > timedelta(seconds=1):
                middle = lo + (hi - lo) // 2
                middle -= timedelta(microseconds=middle.microsecond)
                middle = max(middle, lo + timedelta(seconds=1))
                same = middle.astimezone(info).utcoffset() == lo.astimezone(info).utcoffset()
                lo, hi = (middle, hi) if same else (lo, middle)
            found.append(hi)
        before = after
    return found


@given(zone=st.sampled_from(ZONES), first=MOMENTS, seconds=st.floats(0, 200_000))
def test_later_moments_never_give_lesser_bounds(zone: str, first: datetime, seconds: float) -> None:
    later = first + timedelta(seconds=seconds)
    for column in TYPES:
        assert moment_text(column, first, zone)[:10] <= moment_text(column, later, zone)[:10]
    for column in TYPES[1:]:
        assert datetime.fromisoformat(moment_text(column, first, zone)) <= datetime.fromisoformat(
            moment_text(column, later, zone)
        )


@given(zone=st.sampled_from(ZONES), data=st.data())
def test_bounds_are_the_latest_time_shown_around_every_change(zone: str, data: st.DataObject) -> None:
    """Where clocks were put back; everywhere else a bound is what the clock shows."""
    found = changes(zone)
    if not found:
        return
    change = data.draw(st.sampled_from(found))
    offsets = st.floats(-100_000, 100_000).map(lambda seconds: timedelta(seconds=seconds))
    moments = sorted(change + data.draw(offsets) for _ in range(12))
    # Clocks show the latest time of all just before they are put back.
    edges = [other for other in found if abs(other - change) < timedelta(days=3)]
    for moment in moments:
        before = [
            edge - timedelta(microseconds=1)
            for edge in edges
            if timedelta(0) < moment - edge + timedelta(microseconds=1) <= timedelta(days=1)
        ]
        latest = max([shown(zone, moment), *(shown(zone, edge) + timedelta(microseconds=1) for edge in before)])
        assert bound(zone, moment) == latest


@pytest.mark.parametrize(
    ("zone", "moment", "expected"),
    [
        ("Europe/Paris", "2024-10-26T23:59:59+00:00", "2024-10-27 01:59:59"),
        ("Europe/Paris", "2024-10-27T00:30:00+00:00", "2024-10-27 02:30:00"),
        ("Europe/Paris", "2024-10-27T01:00:00+00:00", "2024-10-27 03:00:00"),
        ("Europe/Paris", "2024-10-27T01:59:59.5+00:00", "2024-10-27 03:00:00"),
        ("Europe/Paris", "2024-10-27T02:00:01+00:00", "2024-10-27 03:00:01"),
        ("Europe/Paris", "2024-03-31T01:00:00+00:00", "2024-03-31 03:00:00"),
        ("Australia/Lord_Howe", "2024-04-06T15:00:00+00:00", "2024-04-07 02:00:00"),
        ("Australia/Lord_Howe", "2024-04-06T15:29:59.999999+00:00", "2024-04-07 02:00:00"),
        ("Australia/Lord_Howe", "2024-04-06T15:30:00.000001+00:00", "2024-04-07 02:00:00.000001"),
        # Clocks went from midnight back to 23:00, so the day's last hour was over at the first midnight.
        ("America/Sao_Paulo", "2018-02-18T02:30:00+00:00", "2018-02-18 00:00:00"),
        ("America/Sao_Paulo", "2018-02-18T03:00:00+00:00", "2018-02-18 00:00:00"),
        # The day was lived twice when the date line moved.
        ("America/Juneau", "1867-10-19T20:00:00+00:00", "1867-10-19 15:33:32"),
    ],
)
def test_an_hour_that_is_shown_twice_belongs_to_its_first_time(zone: str, moment: str, expected: str) -> None:
    assert moment_text("timestamp(us)", datetime.fromisoformat(moment), zone) == expected
    assert moment_text("date", datetime.fromisoformat(moment), zone) == expected[:10]


def test_columns_with_a_zone_hold_the_moment_itself() -> None:
    moment = datetime(2024, 10, 27, 2, 30, 0, 250, ZoneInfo("Europe/Paris"), fold=1)
    assert moment_text("timestamp(us, UTC)", moment, "America/New_York") == "2024-10-27 01:30:00.000250"


# ------------------------------------------------------------------------------------------ slices, by Dagster


def plan_of(column_type: str) -> Plan:
    column = PlannedColumn(name="at", native_type=column_type, type=column_type, nullable=False)
    segment = PlanSegment(
        table="s.t",
        engine="postgresql",
        generation=3,
        number=1,
        mode="time",
        key=("at",),
        columns=(column,),
        first_window=0,
        lo=None,
        windows=(),
    )
    return Plan((segment,))


def slices(
    column_type: str, definition: dg.TimeWindowPartitionsDefinition, zone: str
) -> list[tuple[dg.TimeWindow, Window]]:
    options = TimeWindows(column="at", start="2000-01-01", timezone=zone)
    windows = [
        (key, definition.time_window_for_partition_key(key))
        for key in definition.get_partition_keys(current_time=datetime(2030, 1, 1, tzinfo=UTC))
    ]
    plan = plan_of(column_type)
    return [(window, time_window(plan, options, key, window.start, window.end)) for key, window in windows]


def check_tiling(zone: str, column_type: str, found: Sequence[tuple[dg.TimeWindow, Window]], step: timedelta) -> None:
    """Every time that clocks showed is in just one slice: in the first one whose hours show it."""
    for (_, before), (_, after) in pairwise(found):
        assert before.span.hi == after.span.lo
    spans = []
    for _, window in found:
        assert window.span.half_open
        assert window.generation == 3
        assert window.span.lo is not None
        assert window.span.hi is not None
        spans.append((datetime.fromisoformat(window.span.lo[0]), datetime.fromisoformat(window.span.hi[0])))
    moment, end = found[0][0].start.astimezone(UTC), found[-1][0].end.astimezone(UTC)
    at, first_at = 0, {}
    while moment < end:
        while moment >= found[at][0].end:
            at += 1
        wall = moment.replace(tzinfo=None) if column_type == "timestamp(us, UTC)" else shown(zone, moment)
        first_at.setdefault(datetime.combine(wall, datetime.min.time()) if column_type == "date" else wall, at)
        moment += step
    for wall, place in first_at.items():
        assert [number for number, (lo, hi) in enumerate(spans) if lo <= wall < hi] == [place], wall


CHANGES = [
    ("Europe/Paris", date(2024, 10, 26)),
    ("Europe/Paris", date(2024, 3, 30)),
    ("America/New_York", date(2024, 11, 2)),
    ("America/New_York", date(2024, 3, 9)),
    ("Australia/Lord_Howe", date(2024, 4, 6)),
    ("Australia/Lord_Howe", date(2024, 10, 5)),
    ("America/Sao_Paulo", date(2018, 11, 3)),
    ("America/Sao_Paulo", date(2018, 2, 16)),
    ("Asia/Beirut", date(2022, 3, 26)),
    ("Asia/Beirut", date(2022, 10, 29)),
    ("America/Havana", date(2023, 11, 4)),
    ("Africa/Cairo", date(2023, 4, 27)),
    ("UTC", date(2024, 2, 28)),
]


@pytest.mark.parametrize("column_type", TYPES)
@pytest.mark.parametrize(("zone", "day"), CHANGES)
def test_daily_slices_tile_what_clocks_show(zone: str, day: date, column_type: str) -> None:
    definition = dg.DailyPartitionsDefinition(
        start_date=str(day), end_date=str(day + timedelta(days=4)), timezone=zone, fmt="%Y-%m-%d"
    )
    found = slices(column_type, definition, zone)
    assert [window.key for _, window in found] == [str(day + timedelta(days=number)) for number in range(4)]
    check_tiling(zone, column_type, found, timedelta(minutes=10))


@pytest.mark.parametrize("column_type", TYPES[1:])
@pytest.mark.parametrize(("zone", "day"), [(zone, day) for zone, day in CHANGES if zone != "Australia/Lord_Howe"])
def test_hourly_slices_tile_what_clocks_show(zone: str, day: date, column_type: str) -> None:
    definition = dg.HourlyPartitionsDefinition(
        start_date=f"{day}-00:00", end_date=f"{day + timedelta(days=3)}-00:00", timezone=zone
    )
    found = slices(column_type, definition, zone)
    assert 70 <= len(found) <= 73
    check_tiling(zone, column_type, found, timedelta(minutes=10))


def test_dagsters_hours_have_holes_where_clocks_change_by_half_an_hour() -> None:
    """Why hours of such zones are refused."""
    definition = dg.HourlyPartitionsDefinition(
        start_date="2024-10-05-00:00", end_date="2024-10-07-00:00", timezone="Australia/Lord_Howe"
    )
    found = slices("timestamp(us, UTC)", definition, "Australia/Lord_Howe")
    assert [(a.span.hi, b.span.lo) for (_, a), (_, b) in pairwise(found) if a.span.hi != b.span.lo]


@pytest.mark.parametrize(
    ("zone", "start", "end", "whole"),
    [
        ("Australia/Lord_Howe", "2024-01-01", "2037-12-31", False),
        ("Australia/Lord_Howe", "2024-05-01", "2024-09-01", True),
        ("Europe/Paris", "1970-01-01", "2037-12-31", True),
        ("Asia/Kolkata", "2000-01-01", "2037-12-31", True),
        ("Asia/Pyongyang", "2014-01-01", "2037-12-31", False),
        ("Asia/Pyongyang", "2019-01-01", "2037-12-31", True),
        ("America/Caracas", "2000-01-01", "2008-01-01", False),
        ("Antarctica/Troll", "2006-01-01", "2037-12-31", True),
    ],
)
def test_clocks_that_change_by_less_than_an_hour_are_known(zone: str, start: str, end: str, whole: bool) -> None:
    assert has_whole_hours(zone, datetime.fromisoformat(start), datetime.fromisoformat(end)) == whole


@pytest.mark.parametrize("definition", [dg.WeeklyPartitionsDefinition, dg.MonthlyPartitionsDefinition])
@pytest.mark.parametrize("column_type", TYPES)
def test_weeks_and_months_tile_a_year(definition: type[dg.TimeWindowPartitionsDefinition], column_type: str) -> None:
    found = slices(
        column_type,
        definition(start_date="2023-01-01", end_date="2024-01-01", timezone="Europe/Paris"),  # type: ignore[call-arg]
        "Europe/Paris",
    )
    assert len(found) in (12, 52)
    check_tiling("Europe/Paris", column_type, found, timedelta(hours=1))
