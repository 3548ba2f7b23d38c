"""Sensors: what they ask Dagster for, tick by tick, and what the runs that they ask for export."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from rivet_dagster import (
    CursorWindows,
    ExportConfig,
    FullWindows,
    IntRangeWindows,
    KeysetWindows,
    RivetError,
    TimeWindows,
    build_rivet_cursor_sensor,
    build_rivet_plan_sensor,
)
from tests.support.orchestrating import Place, asked
from tests.support.readers import source_rows, tree

Sql = Callable[[str], list[tuple[Any, ...]]]

ORDERS = ExportConfig(table="public.orders", windows=KeysetWindows(rows=500))
OTHERS = ExportConfig(table="public.others", windows=KeysetWindows(rows=500))


@pytest.fixture
def instance(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("TEST_DSN", dsn)
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def fill(sql: Sql, first: int, last: int, table: str = "orders") -> None:
    sql(f"CREATE TABLE IF NOT EXISTS public.{table} (id int PRIMARY KEY, note text)")
    sql(f"INSERT INTO public.{table} SELECT n, 'order ' || n FROM generate_series({first}, {last}) AS n")


def windows(first: int, last: int, generation: int = 1) -> list[str]:
    return [f"g{generation}-w{number:06d}" for number in range(first, last + 1)]


# New keys


@pytest.fixture
def sensor() -> dg.SensorDefinition:
    return build_rivet_plan_sensor(ORDERS, windows_a_run=3)


@pytest.fixture
def place(instance: dg.DagsterInstance, sql: Sql, lake: Path, sensor: dg.SensorDefinition) -> Place:
    fill(sql, 1, 3250)
    return Place(instance, lake, ORDERS, sensors=[sensor])


def test_a_table_is_planned_exported_and_extended_by_ticks_alone(
    place: Place, sensor: dg.SensorDefinition, sql: Sql, dsn: str
) -> None:
    (first,) = place.tick(sensor).run_requests
    assert first.asset_selection == [place.key("plan")]
    assert place.tick(sensor).run_requests[0].run_key == first.run_key, "Dagster runs it once"
    place.execute([first])
    found = place.tick(sensor)
    assert asked(found.run_requests) == [
        ("g1-w000000", "g1-w000002"),
        ("g1-w000003", "g1-w000005"),
        ("g1-w000006", "g1-w000006"),
    ]
    assert all(request.asset_selection == [place.key()] for request in found.run_requests)
    assert not found.dynamic_partitions_requests, "the plan asset has made them"
    assert not found.asset_events
    idle = place.tick(sensor)
    assert not idle.run_requests
    assert "public.orders has no new rows" in idle.skip_message
    place.execute(found.run_requests)

    before = tree(place.lake)
    fill(sql, 5000, 5999)
    grown = place.tick(sensor)
    (added,) = grown.dynamic_partitions_requests
    assert list(added.partition_keys) == windows(7, 8)
    assert place.partitions() == windows(0, 8)
    assert asked(grown.run_requests) == [("g1-w000007", "g1-w000008")]
    (event,) = grown.asset_events
    assert event.asset_key == place.key("plan")
    assert event.metadata["rivet/windows"].value == 9
    assert event.metadata["rivet/windows_appended"].value == 2
    assert event.metadata["rivet/server"].value.startswith("PostgreSQL")
    assert event.tags["dagster/data_version"] == event.metadata["rivet/plan"].value
    assert not place.tick(sensor).run_requests
    place.execute(grown.run_requests)
    after = tree(place.lake)
    assert {name: after[name] for name in before} == before, "windows that are there never change"
    assert sorted(str(event.partition) for event in place.events()) == windows(0, 8), "each was read once"
    assert place.complete().success
    assert place.rows() == source_rows(dsn, "public.orders", "id")


def test_what_runs_export_is_not_asked_for_again(place: Place, sensor: dg.SensorDefinition) -> None:
    place.plan()
    place.export("g1-w000002", "g1-w000003")
    assert asked(place.tick(sensor).run_requests) == [("g1-w000000", "g1-w000001"), ("g1-w000004", "g1-w000006")]


def test_a_tick_whose_answer_was_lost_asks_for_the_same_runs(
    place: Place, sensor: dg.SensorDefinition, sql: Sql
) -> None:
    place.plan()
    lost = place.tick(sensor, lost=True)
    found = place.tick(sensor)
    assert [request.run_key for request in found.run_requests] == [request.run_key for request in lost.run_requests]
    fill(sql, 5000, 5999)
    lost = place.tick(sensor, lost=True)
    assert place.partitions() == windows(0, 6)
    again = place.tick(sensor, lost=True)
    assert again.run_requests == lost.run_requests
    assert again.dynamic_partitions_requests == lost.dynamic_partitions_requests
    # The daemon may die between the two things that it does.
    place.instance.add_dynamic_partitions("public/orders", windows(7, 8))
    found = place.tick(sensor)
    assert found.run_requests == lost.run_requests
    assert not found.dynamic_partitions_requests
    assert asked(found.run_requests) == [("g1-w000007", "g1-w000008")]


def test_few_rows_wait_for_more(instance: dg.DagsterInstance, sql: Sql, lake: Path) -> None:
    sensor = build_rivet_plan_sensor(ORDERS, minimum_rows=100)
    place = Place(instance, lake, ORDERS, sensors=[sensor])
    fill(sql, 1, 1000)
    place.plan()
    place.tick(sensor)
    before = tree(lake)
    fill(sql, 2001, 2099)
    assert not place.tick(sensor).run_requests
    assert tree(lake) == before, "nothing is planned yet"
    fill(sql, 2100, 2100)
    assert asked(place.tick(sensor).run_requests) == [("g1-w000002", "g1-w000002")]
    fill(sql, 2201, 2701)
    assert asked(place.tick(sensor).run_requests) == [("g1-w000003", "g1-w000003")], "a full window need not wait"


def test_integer_ranges_grow(instance: dg.DagsterInstance, sql: Sql, lake: Path, dsn: str) -> None:
    config = ExportConfig(table="public.orders", windows=IntRangeWindows(column="id", size=1000))
    sensor = build_rivet_plan_sensor(config)
    place = Place(instance, lake, config, sensors=[sensor])
    fill(sql, 1, 2500)
    for expected in ([], [("g1-w000000", "g1-w000002")]):
        requests = place.tick(sensor).run_requests
        assert expected in ([], asked(requests) if expected else None)
        place.execute(requests)
    fill(sql, 2501, 3500)
    requests = place.tick(sensor).run_requests
    assert asked(requests) == [("g1-w000003", "g1-w000004")], "the rest of a range, and the next one"
    place.execute(requests)
    assert place.complete().success
    assert place.rows() == source_rows(dsn, "public.orders", "id")


def test_a_new_generation_takes_the_place_of_the_old_one(place: Place, sensor: dg.SensorDefinition) -> None:
    place.plan()
    place.tick(sensor)
    # Somebody plans anew where this instance does not see it, such as on the command line.
    with dg.DagsterInstance.ephemeral() as elsewhere:
        Place(elsewhere, place.lake, ORDERS).plan(replan=True)
    assert (place.folder() / "g2/plan/000001.json").is_file()
    assert place.partitions() == windows(0, 6)
    found = place.tick(sensor)
    added, deleted = found.dynamic_partitions_requests
    assert isinstance(added, dg.AddDynamicPartitionsRequest)
    assert list(added.partition_keys) == windows(0, 6, generation=2)
    assert isinstance(deleted, dg.DeleteDynamicPartitionsRequest)
    assert list(deleted.partition_keys) == windows(0, 6)
    assert place.partitions() == windows(0, 6, generation=2)
    assert asked(found.run_requests)[0] == ("g2-w000000", "g2-w000002")
    place.execute(found.run_requests)
    assert place.complete().success
    assert place.seal()["generation"] == 2


def test_a_table_that_fails_does_not_keep_others_waiting(instance: dg.DagsterInstance, sql: Sql, lake: Path) -> None:
    sensor = build_rivet_plan_sensor(ORDERS, OTHERS)
    place = Place(instance, lake, ORDERS, OTHERS, sensors=[sensor])
    fill(sql, 1, 1000)
    fill(sql, 1, 1000, "others")
    place.plan()
    place.plan(table=1)
    assert len(place.tick(sensor).run_requests) == 2
    sql("ALTER TABLE public.orders ADD more int")
    fill(sql, 2001, 2100, "others")
    found = place.tick(sensor)
    assert [request.asset_selection for request in found.run_requests] == [[place.key(None, 1)]]
    skipped = place.tick(sensor)
    assert not skipped.run_requests
    assert "RIVET_SCHEMA_DRIFT" in skipped.skip_message, "the page of ticks tells of it"
    sql("DROP TABLE public.others")
    with pytest.raises(RivetError, match="RIVET_SCHEMA_DRIFT"):
        place.tick(sensor)  # nothing is left that could go on
    sql("ALTER TABLE public.orders DROP more")
    sql("INSERT INTO public.orders VALUES (5000, 'new')")
    found = place.tick(sensor)
    assert asked(found.run_requests) == [("g1-w000002", "g1-w000002")]


def test_a_first_planning_that_failed_is_asked_for_again(place: Place, sensor: dg.SensorDefinition) -> None:
    keys = [place.tick(sensor).run_requests[0].run_key for _ in range(30)]
    assert len(set(keys)) == 4
    assert len(set(keys[:9])) == 1


@pytest.mark.parametrize(
    ("build", "kind"),
    [
        (build_rivet_plan_sensor, TimeWindows(column="at", start="2026-01-01")),
        (build_rivet_plan_sensor, FullWindows()),
        (build_rivet_plan_sensor, CursorWindows(column="at")),
        (build_rivet_cursor_sensor, KeysetWindows()),
        (build_rivet_cursor_sensor, IntRangeWindows(column="id")),
        (build_rivet_cursor_sensor, TimeWindows(column="at", start="2026-01-01")),
    ],
)
def test_sensors_refuse_windows_that_they_do_not_extend(build: Any, kind: Any) -> None:
    with pytest.raises(RivetError, match=f"RIVET_CONFIG_WINDOWS.*windows of type {kind.type}"):
        build(ExportConfig(table="public.orders", windows=kind))


# A growing column

SOON = ExportConfig(table="public.orders", windows=CursorWindows(column="updated_at", rows=500, lag=0))


def latest(place: Place) -> list[tuple[Any, ...]]:
    """What a reader makes of an export by cursor: of each row the version that was read last."""
    found = {row[0]: row for row in place.rows()}
    return [found[key] for key in sorted(found)]


@pytest.fixture
def growing(sql: Sql) -> Sql:
    sql("CREATE TABLE public.orders (id int PRIMARY KEY, note text, updated_at timestamptz(3) NOT NULL)")
    sql("CREATE INDEX ON public.orders (updated_at, id)")
    sql(
        "INSERT INTO public.orders SELECT n, 'order ' || n, now() - interval '2 days' + n * interval '1 second'"
        " FROM generate_series(1, 1200) AS n"
    )
    return sql


def test_rows_that_change_come_again(instance: dg.DagsterInstance, growing: Sql, lake: Path, dsn: str) -> None:
    sensor = build_rivet_cursor_sensor(SOON)
    place = Place(instance, lake, SOON, sensors=[sensor])
    place.execute(place.tick(sensor).run_requests)
    place.execute(place.tick(sensor).run_requests)
    assert place.partitions() == windows(0, 2)
    # A thousand rows of one millisecond: windows end between them.
    growing("UPDATE public.orders SET note = 'changed', updated_at = now() - interval '1 hour' WHERE id <= 1000")
    found = place.tick(sensor)
    assert asked(found.run_requests) == [("g1-w000003", "g1-w000004")]
    place.execute(found.run_requests)
    assert not place.tick(sensor).run_requests
    assert place.complete().success
    rows = place.rows()
    assert len(rows) == 2200, "old versions stay"
    assert len(set(rows[1200:])) == 1000
    assert latest(place) == source_rows(dsn, "public.orders", "id")


def test_a_window_ends_at_the_lag(instance: dg.DagsterInstance, growing: Sql, lake: Path) -> None:
    config = ExportConfig(table="public.orders", windows=CursorWindows(column="updated_at", rows=500, lag=3600))
    sensor = build_rivet_cursor_sensor(config)
    place = Place(instance, lake, config, sensors=[sensor])
    place.execute(place.tick(sensor).run_requests)
    place.execute(place.tick(sensor).run_requests)
    growing("UPDATE public.orders SET updated_at = now() - interval '30 minutes' WHERE id = 7")
    assert not place.tick(sensor).run_requests
    growing("UPDATE public.orders SET updated_at = now() - interval '61 minutes' WHERE id = 8")
    place.execute(place.tick(sensor).run_requests)
    assert place.complete().success
    assert [row[0] for row in place.rows()[1200:]] == [8]


def at(sql: Sql, ago: str, *numbers: int) -> None:
    """Rows that are written now, with a time that is some time ago."""
    for number in numbers:
        sql(f"INSERT INTO public.orders VALUES ({number}, 'late', date_trunc('ms', now() - interval '{ago}'))")


def read_at(place: Place, sql: Sql, window: str, moment: str) -> None:
    """Make a window's manifest say that it was read at a moment, which the server computes."""
    path = place.folder() / f"g1/windows/{window}.json"
    document = json.loads(path.read_text())
    ((text,),) = sql(f"SELECT to_char(({moment}) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS')")
    document["read_at"] = f"{text}+00:00"
    path.write_text(json.dumps(document))


def test_late_rows_are_waited_for_until_the_lookback_is_over(
    instance: dg.DagsterInstance, growing: Sql, lake: Path, dsn: str
) -> None:
    config = ExportConfig(
        table="public.orders", windows=CursorWindows(column="updated_at", rows=500, lag=0, lookback=3600)
    )
    sensor = build_rivet_cursor_sensor(config)
    place = Place(instance, lake, config, sensors=[sensor])
    place.execute(place.tick(sensor).run_requests)
    place.execute(place.tick(sensor).run_requests)
    assert not place.tick(sensor).run_requests, "they were read two days later, so that no row can be missing"

    at(growing, "20 minutes", 2001)
    place.execute(place.tick(sensor).run_requests)
    at(growing, "30 minutes", 2002)
    late = place.tick(sensor)
    assert asked(late.run_requests) == [("g1-w000003", "g1-w000003")]
    assert late.run_requests[0].tags["rivet/reason"] == "rows may have come late"
    again = place.tick(sensor)
    assert asked(again.run_requests) == asked(late.run_requests)
    assert again.run_requests[0].run_key != late.run_requests[0].run_key
    place.execute(late.run_requests)
    assert place.complete().success
    assert [row[0] for row in place.rows()[1200:]] == [2002, 2001]

    # The next rows come so much later that the old window is beyond the lookback, but it was read before that was over.
    growing("UPDATE public.orders SET updated_at = updated_at - interval '90 minutes' WHERE id > 2000")
    growing("DELETE FROM public.orders WHERE id = 2002")
    folder = place.folder() / "g1"
    for path in (folder / "plan/000002.json", folder / "windows/w000003.json"):
        document = json.loads(path.read_text())
        ((moment,),) = growing("SELECT updated_at::text FROM public.orders WHERE id = 2001")
        target = document["windows"][0] if "windows" in document else document
        target["hi"][0] = moment
        path.write_text(json.dumps(document))
    read_at(place, growing, "w000003", "now() - interval '100 minutes'")
    at(growing, "115 minutes", 2003)
    at(growing, "1 second", 2004)
    found = place.tick(sensor)
    assert asked(found.run_requests) == [("g1-w000004", "g1-w000004"), ("g1-w000003", "g1-w000003")]
    place.execute(found.run_requests)
    assert place.complete().success
    assert latest(place) == source_rows(dsn, "public.orders", "id")
    settled = place.tick(sensor)
    assert asked(settled.run_requests) == [("g1-w000004", "g1-w000004")]
    # As after a run that has read the newer window alone, because another one failed.
    read_at(place, growing, "w000004", "now() + interval '2 hours'")
    read_at(place, growing, "w000003", "now() - interval '100 minutes'")
    assert asked(place.tick(sensor).run_requests) == [("g1-w000003", "g1-w000003")]


def test_a_day_is_not_over_when_it_begins(instance: dg.DagsterInstance, sql: Sql, lake: Path) -> None:
    config = ExportConfig(table="public.orders", windows=CursorWindows(column="day", rows=10, lag=1, lookback=7200))
    sensor = build_rivet_cursor_sensor(config)
    place = Place(instance, lake, config, sensors=[sensor])
    sql("CREATE TABLE public.orders (id int PRIMARY KEY, day date NOT NULL)")
    sql("CREATE INDEX ON public.orders (day, id)")
    today = "(now() AT TIME ZONE 'UTC')::date"
    sql(f"INSERT INTO public.orders SELECT n, {today} - 5 FROM generate_series(1, 10) AS n")
    sql(f"INSERT INTO public.orders SELECT n, {today} + 1 FROM generate_series(11, 20) AS n")
    place.execute(place.tick(sensor).run_requests)
    place.execute(place.tick(sensor).run_requests)
    assert place.partitions() == windows(0, 0), "days that are not over have rows to come"
    day = "SELECT min(day)::timestamp AT TIME ZONE 'UTC' FROM public.orders"
    read_at(place, sql, "w000000", f"({day}) + interval '25 hours'")
    assert asked(place.tick(sensor).run_requests) == [("g1-w000000", "g1-w000000")]
    read_at(place, sql, "w000000", f"({day}) + interval '26 hours'")
    assert not place.tick(sensor).run_requests


def test_rows_of_mariadb_that_change_come_again(
    mysql_dsn: str, mysql_sql: Sql, lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_DSN", mysql_dsn)
    mysql_sql("CREATE TABLE orders (id int PRIMARY KEY, note text, updated_at datetime(3) NOT NULL, KEY (updated_at))")
    mysql_sql("INSERT INTO orders SELECT seq, 'new', utc_timestamp(3) - INTERVAL 2 DAY FROM seq_1_to_1200")
    config = ExportConfig(
        table=f"{mysql_dsn.rpartition('/')[2]}.orders",
        windows=CursorWindows(column="updated_at", rows=500, lag=600, lookback=7200),
    )
    sensor = build_rivet_cursor_sensor(config)
    with dg.DagsterInstance.ephemeral() as instance:
        place = Place(instance, lake, config, sensors=[sensor])
        place.execute(place.tick(sensor).run_requests)
        place.execute(place.tick(sensor).run_requests)
        assert place.partitions() == windows(0, 2)
        change = "UPDATE orders SET note = 'changed', updated_at = utc_timestamp(3) - INTERVAL"
        mysql_sql(f"{change} 1 HOUR WHERE id <= 700")
        mysql_sql(f"{change} 5 MINUTE WHERE id = 1200")
        found = place.tick(sensor)
        assert asked(found.run_requests) == [("g1-w000003", "g1-w000004")], "without the row that is too young"
        place.execute(found.run_requests)
        mysql_sql(f"{change} 61 MINUTE WHERE id = 800")
        late = place.tick(sensor)
        assert asked(late.run_requests) == [("g1-w000003", "g1-w000004")]
        place.execute(late.run_requests)
        assert place.complete().success
    latest_notes = {row[0]: row[1] for row in place.rows()}
    assert latest_notes == dict(mysql_sql("SELECT id, if(id = 1200, 'new', note) FROM orders"))


def test_late_rows_are_not_asked_for_while_a_run_is_reading(
    instance: dg.DagsterInstance, growing: Sql, lake: Path
) -> None:
    config = ExportConfig(
        table="public.orders", windows=CursorWindows(column="updated_at", rows=500, lag=0, lookback=3600)
    )
    sensor = build_rivet_cursor_sensor(config)
    place = Place(instance, lake, config, sensors=[sensor])
    place.plan()
    at(growing, "20 minutes", 2001)
    place.execute(place.tick(sensor).run_requests)
    (request,) = place.tick(sensor).run_requests
    run = instance.create_run_for_job(
        place.definitions.resolve_implicit_global_asset_job_def(), tags=dict(request.tags), status=STARTED
    )
    assert not place.tick(sensor).run_requests
    instance.report_run_failed(instance.get_run_by_id(run.run_id))  # type: ignore[arg-type]
    assert len(place.tick(sensor).run_requests) == 1


STARTED = dg.DagsterRunStatus.STARTED


def test_integers_are_read_again_within_the_lookback(
    instance: dg.DagsterInstance, sql: Sql, lake: Path, dsn: str
) -> None:
    config = ExportConfig(
        table="public.orders", windows=CursorWindows(column="version", rows=100, lag=10, lookback=250)
    )
    sensor = build_rivet_cursor_sensor(config)
    place = Place(instance, lake, config, sensors=[sensor])
    sql("CREATE TABLE public.orders (id int PRIMARY KEY, version bigint)")
    sql("CREATE INDEX ON public.orders (version, id)")
    sql("INSERT INTO public.orders SELECT n, n * 2 FROM generate_series(1, 500) AS n")
    place.execute(place.tick(sensor).run_requests)
    place.execute(place.tick(sensor).run_requests)
    assert place.partitions() == windows(0, 5), "one for rows without a version, and five up to 990"
    sql("INSERT INTO public.orders VALUES (1001, 741), (1002, 989)")
    late = place.tick(sensor)
    assert asked(late.run_requests) == [("g1-w000004", "g1-w000005")], "windows that end at 740 or more"
    place.execute(late.run_requests)
    assert place.complete().success
    assert latest(place) == [row for row in source_rows(dsn, "public.orders", "id") if row[1] <= 990]
