"""Slices of time in Dagster: its own partitions, their rows, seals, new generations and schedules."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from dagster._core.test_utils import freeze_time

from rivet_dagster import (
    CursorWindows,
    ExportConfig,
    FullWindows,
    IntRangeWindows,
    KeysetWindows,
    RivetError,
    RivetResource,
    TimeWindows,
    build_rivet_assets,
    build_rivet_schedule,
)
from rivet_dagster.partitions import time_partitions
from tests.support.orchestrating import Place, failure_of
from tests.support.readers import source_rows, tree

Sql = Callable[[str], list[tuple[Any, ...]]]
UTC = timezone.utc


@pytest.fixture
def instance(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("TEST_DSN", dsn)
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture(autouse=True)
def later() -> Iterator[None]:
    """Dagster's clock: the days of these tests are over, on whichever day they run."""
    with freeze_time(datetime(2027, 1, 1, tzinfo=UTC)):
        yield


def sliced(**windows: Any) -> ExportConfig:
    return ExportConfig(table="public.events", windows=TimeWindows(column="at", **windows))


def fill(sql: Sql, kind: str, first: str, last: str, step: str = "30 minutes") -> None:
    """Events at a steady pace from one moment of UTC to another, a few of them at the same moment."""
    sql(f"CREATE TABLE public.events (id int PRIMARY KEY, at {kind} NOT NULL, note text)")
    sql("CREATE INDEX ON public.events (at)")
    sql("SET TimeZone = 'UTC'")
    sql(
        "INSERT INTO public.events SELECT row_number() OVER (), moment, 'note' FROM generate_series("
        f"timestamptz '{first} UTC', timestamptz '{last} UTC', interval '{step}') AS moment, generate_series(1, 2)"
    )


def counted(sql: Sql, label: str, first: str, last: str) -> dict[str, int]:
    """How many events the server counts for each label that it gives them, from the first to the last one."""
    rows = sql(f"SELECT {label} AS label, count(*) FROM public.events GROUP BY 1 ORDER BY 1")
    return {found: rows for found, rows in rows if first <= found <= last}


def reported(place: Place) -> dict[str, int]:
    """Rows of each partition by its event: one event each, none without a partition."""
    events = place.events()
    found = {str(event.partition): int(str(event.metadata["dagster/partition_row_count"].value)) for event in events}
    assert len(found) == len(events)
    return found


def code_of(run: dg.ExecuteInProcessResult) -> object:
    """The code of the error that failed a run's one step."""
    (event,) = [event for event in run.all_events if event.is_step_failure]
    data = event.step_failure_data.user_failure_data
    assert data is not None
    return data.metadata["rivet/code"].value


# Partitions


@pytest.mark.parametrize("zone", ["UTC", "Europe/Paris", "America/New_York", "Australia/Lord_Howe"])
def test_partitions_are_those_that_dagster_has(zone: str) -> None:
    # The first of March is a Sunday, and so is that of November.
    days: dict[str, Any] = {"start_date": "2026-03-01", "end_date": "2026-11-01", "timezone": zone}
    hours = {name: f"{days[name]}-00:00" for name in ("start_date", "end_date")}
    theirs: dict[str, dg.TimeWindowPartitionsDefinition] = {
        "hour": dg.HourlyPartitionsDefinition(**{**days, **hours}),
        "day": dg.DailyPartitionsDefinition(**days),
        "week": dg.WeeklyPartitionsDefinition(**days),
        "month": dg.MonthlyPartitionsDefinition(**days),
    }
    for every, definition in theirs.items():
        windows = TimeWindows(column="at", every=every, start="2026-03-01", end="2026-11-01", timezone=zone)  # type: ignore[arg-type]
        ours = time_partitions(windows)
        keys = ours.get_partition_keys()
        assert keys == definition.get_partition_keys()
        assert keys
        for key in keys:
            assert ours.time_window_for_partition_key(key) == definition.time_window_for_partition_key(key)


@pytest.mark.parametrize(
    ("every", "start", "end", "what"),
    [
        ("month", "2026-01-15", None, "start must be where a month begins"),
        ("month", "2026-01-01", "2026-03-20", "end must be where a month begins"),
        ("week", "2026-01-01", None, "start must be where a week (a Sunday) begins"),
        ("day", "2026-01-01T06:00", None, "start must be where a day begins"),
        ("hour", "2026-01-01T06:30", None, "start must be where an hour begins"),
    ],
)
def test_slices_begin_and_end_where_the_calendar_does(every: Any, start: str, end: str | None, what: str) -> None:
    with pytest.raises(ValueError, match=re.escape(what)):
        sliced(start=start, end=end, every=every)


def test_slices_have_no_plan_asset() -> None:
    config = sliced(start="2026-01-01")
    table, complete = build_rivet_assets(config)
    assert [asset.key.to_user_string() for asset in (table, complete)] == ["public/events", "public/events/complete"]
    assert table.partitions_def == time_partitions(config.windows)  # type: ignore[arg-type]
    (spec,) = table.specs
    assert (list(spec.deps), spec.skippable) == ([], True)
    (whole,) = next(iter(complete.specs)).deps
    assert (whole.asset_key, type(whole.partition_mapping)) == (table.key, dg.AllPartitionMapping)


# Rows


@pytest.mark.parametrize(
    ("zone", "start", "end", "hours"),
    [
        ("UTC", "2026-03-01", "2026-03-04", [24, 24, 24]),
        ("Europe/Paris", "2026-03-28", "2026-03-31", [24, 23, 24]),
        ("Europe/Paris", "2026-10-24", "2026-10-27", [24, 25, 24]),
        ("America/New_York", "2026-03-07", "2026-03-10", [24, 23, 24]),
        ("America/New_York", "2026-10-31", "2026-11-03", [24, 25, 24]),
        ("Australia/Lord_Howe", "2026-10-03", "2026-10-06", [24, 23.5, 24]),
        ("Australia/Lord_Howe", "2026-04-04", "2026-04-07", [24, 24.5, 24]),
    ],
)
def test_days_have_the_rows_that_the_server_counts_for_them(
    instance: dg.DagsterInstance, sql: Sql, lake: Path, zone: str, start: str, end: str, hours: list[float]
) -> None:
    day = timedelta(days=1)
    fill(sql, "timestamptz", str(date.fromisoformat(start) - day), str(date.fromisoformat(end) + day))
    config = sliced(start=start, end=end, timezone=zone)
    place = Place(instance, lake, config)
    keys = time_partitions(config.windows).get_partition_keys()  # type: ignore[arg-type]
    run = place.export(keys[0], keys[-1])
    assert run.success, failure_of(run)
    label = f"to_char(at AT TIME ZONE '{zone}', 'YYYY-MM-DD')"
    assert reported(place) == counted(sql, label, keys[0], keys[-1])
    assert [reported(place)[key] / 4 for key in keys] == hours, "four events an hour"
    assert place.complete().success
    expected = sql(f"SELECT id FROM public.events WHERE {label} BETWEEN '{keys[0]}' AND '{keys[-1]}' ORDER BY at, id")
    assert [(row[0],) for row in place.rows()] == expected


@pytest.mark.parametrize(
    ("kind", "every", "label"),
    [
        ("timestamp", "day", "to_char(at, 'YYYY-MM-DD')"),
        ("date", "day", "to_char(at, 'YYYY-MM-DD')"),
        ("timestamptz", "week", "to_char(date_trunc('week', at + interval '1 day') - interval '1 day', 'YYYY-MM-DD')"),
        ("date", "week", "to_char(date_trunc('week', at + 1) - interval '1 day', 'YYYY-MM-DD')"),
        ("timestamp", "month", "to_char(at, 'YYYY-MM-01')"),
        ("date", "month", "to_char(at, 'YYYY-MM-01')"),
    ],
)
def test_slices_of_every_length_of_every_type(
    instance: dg.DagsterInstance, sql: Sql, lake: Path, dsn: str, kind: str, every: str, label: str
) -> None:
    fill(sql, kind, "2026-01-01 00:00", "2026-03-31 23:00", "3 hours")
    start = {"day": "2026-03-01", "week": "2025-12-28", "month": "2026-01-01"}[every]
    end = "2026-04-01" if every == "month" else "2026-04-05"
    config = sliced(start=start, end=end, every=every)
    place = Place(instance, lake, config)
    keys = time_partitions(config.windows).get_partition_keys()  # type: ignore[arg-type]
    assert place.export(keys[0], keys[-1]).success
    found = reported(place)
    assert sorted(found) == keys
    assert {key: rows for key, rows in found.items() if rows} == counted(sql, label, keys[0], keys[-1])
    assert place.complete().success
    if every != "day":
        assert place.rows() == source_rows(dsn, "public.events", "at,id")


@pytest.mark.parametrize(("kind", "rows"), [("timestamptz", [4, 4, 4]), ("timestamp", [4, 8, 0])])
def test_an_hour_that_clocks_show_twice(
    instance: dg.DagsterInstance, sql: Sql, lake: Path, kind: str, rows: list[int]
) -> None:
    """A column without a zone cannot tell both apart: rows of the two are in the first one's slice."""
    fill(sql, "timestamptz", "2026-11-01 03:00", "2026-11-01 09:00")
    if kind == "timestamp":
        sql("ALTER TABLE public.events ALTER at TYPE timestamp USING at AT TIME ZONE 'America/New_York'")
    place = Place(instance, lake, sliced(start="2026-11-01", every="hour", timezone="America/New_York"))
    assert place.export("2026-11-01-00:00", "2026-11-01-02:00").success
    assert reported(place) == {
        "2026-11-01-00:00": 4,
        "2026-11-01-01:00": rows[1],
        "2026-11-01-01:00-0500": rows[2],
        "2026-11-01-02:00": 4,
    }


@pytest.mark.parametrize(
    ("kind", "windows", "words"),
    [
        ("text", {}, "go by a date or timestamp"),
        ("date", {"every": "hour"}, "go by a timestamp"),
        ("timestamptz", {"every": "hour", "timezone": "Australia/Lord_Howe"}, "clocks are not changed by whole hours"),
    ],
)
def test_columns_and_hours_that_no_slice_can_be_made_of(
    instance: dg.DagsterInstance, sql: Sql, lake: Path, kind: str, windows: dict[str, Any], words: str
) -> None:
    fill(sql, kind, "2026-01-01 00:00", "2026-01-01 01:00")
    config = sliced(start="2026-01-01", **windows)
    place = Place(instance, lake, config)
    (first, *_) = time_partitions(config.windows).get_partition_keys()  # type: ignore[arg-type]
    run = place.export(first)
    assert code_of(run) == "RIVET_CONFIG_WINDOWS"
    assert words in failure_of(run)


def test_rows_without_a_time_are_refused_or_left_out(instance: dg.DagsterInstance, sql: Sql, lake: Path) -> None:
    fill(sql, "timestamptz", "2026-01-01 00:00", "2026-01-01 23:00")
    sql("ALTER TABLE public.events ALTER at DROP NOT NULL")
    place = Place(instance, lake, sliced(start="2026-01-01", end="2026-01-02"))
    assert place.export("2026-01-01").success, "there are none yet"
    sql("INSERT INTO public.events VALUES (1000, NULL, 'when?')")
    run = place.export("2026-01-01")
    assert code_of(run) == "RIVET_WINDOW_UNCOVERED"
    assert "public.events has rows whose at is NULL" in failure_of(run)
    lenient = Place(instance, lake, sliced(start="2026-01-01", end="2026-01-02", nulls="ignore"))
    assert lenient.export("2026-01-01").success
    assert lenient.complete().success
    assert len(lenient.rows()) == len(sql("SELECT id FROM public.events WHERE at IS NOT NULL"))


# Seals


def test_a_seal_has_every_slice_that_has_ended(instance: dg.DagsterInstance, sql: Sql, lake: Path, dsn: str) -> None:
    fill(sql, "timestamptz", "2026-01-01 00:00", "2026-01-03 23:30")
    place = Place(instance, lake, sliced(start="2026-01-01", timezone="Europe/Paris"))
    assert code_of(place.complete()) == "RIVET_PLAN_MISSING"
    # In Paris the third day begins an hour earlier than it does here.
    with freeze_time(datetime(2026, 1, 2, 22, 59, 59, tzinfo=UTC)):
        assert place.export("2026-01-01").success
        assert place.complete().success
        assert [window["key"] for window in place.seal()["windows"]] == ["2026-01-01"]
    with freeze_time(datetime(2026, 1, 2, 23, 0, 1, tzinfo=UTC)):
        run = place.complete()
        assert code_of(run) == "RIVET_EXPORT_INCOMPLETE"
        assert "2026-01-02" in failure_of(run)
        assert place.export("2026-01-02").success
        assert place.complete().success
    assert [window["key"] for window in place.seal()["windows"]] == ["2026-01-01", "2026-01-02"]
    zone = ZoneInfo("Europe/Paris")
    start, end = (datetime(2026, 1, day, tzinfo=zone) for day in (1, 3))
    rows = source_rows(dsn, "public.events", "at,id")
    assert place.rows() == [row for row in rows if start <= row[1] < end]


def test_windows_may_come_in_any_order_and_again(instance: dg.DagsterInstance, sql: Sql, lake: Path, dsn: str) -> None:
    fill(sql, "date", "2026-01-01 00:00", "2026-01-04 23:00", "6 hours")
    place = Place(instance, lake, sliced(start="2026-01-01", end="2026-01-05"))
    for first, last in (("2026-01-03", "2026-01-04"), ("2026-01-01", "2026-01-01"), ("2026-01-02", "2026-01-03")):
        assert place.export(first, last).success
    assert place.complete().success
    before = tree(place.folder())
    assert place.rows() == source_rows(dsn, "public.events", "at,id")
    sql("UPDATE public.events SET note = 'changed' WHERE at = '2026-01-02'")
    assert place.export("2026-01-02").success
    assert place.complete().success
    assert place.rows() == source_rows(dsn, "public.events", "at,id")
    after = tree(place.folder())
    assert {name for name in before if "/data/" in name and before[name] != after.get(name)} == set()


def test_a_backfill_begins_one_new_generation(instance: dg.DagsterInstance, sql: Sql, lake: Path, dsn: str) -> None:
    fill(sql, "timestamptz", "2026-01-01 00:00", "2026-01-04 23:30")
    place = Place(instance, lake, sliced(start="2026-01-01", end="2026-01-05"))
    assert place.export("2026-01-01", "2026-01-04").success
    assert place.complete().success
    old_rows, old_seal = place.rows(), place.seal()
    sql("ALTER TABLE public.events ADD source text DEFAULT 'web'")
    run = place.export("2026-01-01", "2026-01-02")
    assert code_of(run) == "RIVET_SCHEMA_DRIFT"
    assert place.seal() == old_seal

    backfill = {"dagster/backfill": "anew"}
    assert place.export("2026-01-01", "2026-01-02", backfill, replan=True).success
    assert code_of(place.complete()) == "RIVET_EXPORT_INCOMPLETE"
    assert (place.rows(), place.seal()) == (old_rows, old_seal)
    assert place.export("2026-01-04", "2026-01-04", backfill, replan=True).success
    assert place.export("2026-01-03").success, "whoever wishes nothing goes on with the newest"
    assert (place.rows(), place.seal()) == (old_rows, old_seal)
    assert place.complete().success
    assert sorted(path.name for path in place.folder().glob("g*")) == ["g1", "g2"]
    assert place.seal()["generation"] == 2
    assert place.rows() == source_rows(dsn, "public.events", "at,id")
    assert {event.partition for event in place.events()} == {f"2026-01-0{day}" for day in range(1, 5)}

    assert place.export("2026-01-01", "2026-01-04", {"dagster/backfill": "once more"}, replan=True).success
    assert (place.folder() / "g3/plan/000001.json").is_file()


# Schedules


@pytest.mark.filterwarnings("ignore:Function `JobDefinition.run_request_for_partition`:DeprecationWarning")
@pytest.mark.parametrize(
    ("windows", "times", "now", "cron", "key"),
    [
        ({}, {}, "2026-01-03 00:00", "0 0 * * *", "2026-01-02"),
        (
            {"timezone": "Europe/Paris"},
            {"hour_of_day": 2, "minute_of_hour": 30},
            "2026-10-26 01:30",
            "30 2 * * *",
            "2026-10-25",
        ),
        ({"timezone": "America/New_York"}, {"hour_of_day": 1}, "2026-03-09 05:00", "0 1 * * *", "2026-03-08"),
        ({"every": "hour"}, {"minute_of_hour": 10}, "2026-01-03 07:10", "10 * * * *", "2026-01-03-06:00"),
        (
            {"every": "hour", "timezone": "America/New_York"},
            {},
            "2026-11-01 07:00",
            "0 * * * *",
            "2026-11-01-01:00-0500",
        ),
        ({"every": "week"}, {"day_of_week": 1, "hour_of_day": 6}, "2026-01-12 06:00", "0 6 * * 1", "2026-01-04"),
        ({"every": "month"}, {"day_of_month": 2}, "2026-03-02 00:00", "0 0 2 * *", "2026-02-01"),
    ],
)
def test_a_schedule_asks_for_the_slice_that_has_ended(
    instance: dg.DagsterInstance, windows: dict[str, Any], times: dict[str, Any], now: str, cron: str, key: str
) -> None:
    config = sliced(start="2026-01-04" if windows.get("every") == "week" else "2026-01-01", **windows)
    schedule = build_rivet_schedule(config, tags={"team": "data"}, **times)
    rivet = RivetResource(source=dg.EnvVar("TEST_DSN"), destination="/lake")
    definitions = dg.Definitions(assets=build_rivet_assets(config), schedules=[schedule], resources={"rivet": rivet})
    found = definitions.get_repository_def().get_schedule_def("rivet__public__events")
    assert (found.cron_schedule, found.execution_timezone) == (cron, windows.get("timezone", "UTC"))
    assert found.default_status == dg.DefaultScheduleStatus.STOPPED
    moment = datetime.fromisoformat(f"{now}+00:00")
    with dg.build_schedule_context(instance=instance, scheduled_execution_time=moment) as context:
        (request,) = found.evaluate_tick(context).run_requests or ()
    assert request.partition_key == key
    job = definitions.resolve_job_def("rivet__public__events_job")
    assert job.tags["team"] == "data"
    assert job.asset_layer.executable_asset_keys == {dg.AssetKey(["public", "events"])}


def test_the_run_of_a_schedule_exports_its_slice(instance: dg.DagsterInstance, sql: Sql, lake: Path) -> None:
    fill(sql, "timestamptz", "2026-01-01 00:00", "2026-01-04 23:30")
    config = sliced(start="2026-01-01", timezone="Europe/Paris")
    place = Place(instance, lake, config)
    definitions = dg.Definitions(
        assets=place.assets, schedules=[build_rivet_schedule(config, name="events")], resources={"rivet": place.rivet}
    )
    job = definitions.resolve_job_def("events_job")
    run = job.execute_in_process(instance=instance, partition_key="2026-01-02")
    assert run.success
    day = "to_char(at AT TIME ZONE 'Europe/Paris', 'YYYY-MM-DD')"
    assert reported(place) == counted(sql, day, "2026-01-02", "2026-01-02")


@pytest.mark.parametrize(
    "windows", [KeysetWindows(), IntRangeWindows(column="id"), CursorWindows(column="at"), FullWindows()]
)
def test_only_slices_of_time_have_a_schedule(windows: Any) -> None:
    with pytest.raises(RivetError, match=f"RIVET_CONFIG_WINDOWS.*type {windows.type}, which no time ends"):
        build_rivet_schedule(ExportConfig(table="public.events", windows=windows))


def test_slices_of_a_table_of_mariadb(
    mysql_dsn: str, mysql_sql: Sql, lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_DSN", mysql_dsn)
    mysql_sql("CREATE TABLE events (id int PRIMARY KEY, at datetime(3) NOT NULL, KEY (at))")
    mysql_sql("INSERT INTO events SELECT seq, '2026-01-01' + INTERVAL seq * 20 MINUTE FROM seq_0_to_359")
    config = ExportConfig(
        table=f"{mysql_dsn.rpartition('/')[2]}.events",
        windows=TimeWindows(column="at", start="2026-01-01", end="2026-01-06", timezone="Europe/Paris"),
    )
    with dg.DagsterInstance.ephemeral() as instance:
        place = Place(instance, lake, config)
        run = place.export("2026-01-01", "2026-01-05")
        assert run.success, failure_of(run)
        assert reported(place) == dict(mysql_sql("SELECT CAST(date(at) AS char), count(*) FROM events GROUP BY 1"))
        assert place.complete().success
    assert [row[0] for row in place.rows()] == list(range(360))
