"""The sensor that has windows read again: requests of people, parts that are gone or damaged, rows that drifted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from rivet_dagster import (
    ExportConfig,
    KeysetWindows,
    ReloadChecks,
    RivetError,
    TimeWindows,
    build_rivet_reload_sensor,
)
from tests.support.orchestrating import Place, asked
from tests.support.readers import source_rows

Sql = Callable[[str], list[tuple[Any, ...]]]

ORDERS = ExportConfig(table="public.orders", windows=KeysetWindows(rows=100))
OTHERS = ExportConfig(table="public.others", windows=KeysetWindows(rows=100))
NO_CHECKS = ReloadChecks(missing_parts=False)


@pytest.fixture
def instance(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("TEST_DSN", dsn)
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def orders(sql: Sql) -> Sql:
    for table in ("orders", "others"):
        sql(f"CREATE TABLE public.{table} (id int PRIMARY KEY, note text)")
        sql(f"INSERT INTO public.{table} SELECT n, 'order ' || n FROM generate_series(1, 600) AS n")
    return sql


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the time that the sensor sees, which stands still otherwise."""
    now = [1_800_000_000.0]
    monkeypatch.setattr("rivet_dagster.reload.time", SimpleNamespace(time=lambda: now[0]))

    def move(seconds: float) -> None:
        now[0] += seconds

    return move


@pytest.fixture
def make(instance: dg.DagsterInstance, orders: Sql, lake: Path) -> Callable[..., tuple[Place, dg.SensorDefinition]]:
    """A place with exported tables and a reload sensor on them."""

    def made(*configs: ExportConfig, exported: bool = True, **options: Any) -> tuple[Place, dg.SensorDefinition]:
        exports = configs or (ORDERS,)
        sensor = build_rivet_reload_sensor(*exports, **options)
        place = Place(instance, lake, *exports, sensors=[sensor])
        for number in range(len(exports) if exported else 0):
            place.plan(table=number)
            place.export(table=number)
        return place, sensor

    return made


Make = Callable[..., tuple[Place, dg.SensorDefinition]]


def ask_for(lake: Path, name: str, document: Any) -> Path:
    path = lake / "reload" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def window(number: int) -> str:
    return f"g1-w{number:06d}"


def spans(*numbers: tuple[int, int]) -> list[tuple[str, str]]:
    return [(window(first), window(last)) for first, last in numbers]


# Requests of people


def test_files_are_served_and_deleted_in_the_next_tick(make: Make, lake: Path, orders: Sql, dsn: str) -> None:
    place, sensor = make(windows_a_run=2)
    orders("UPDATE public.orders SET note = 'changed'")
    first = ask_for(lake, "a.json", {"table": "public.orders", "windows": [window(5), window(1)]})
    second = ask_for(lake, "deep/b", {"table": "public.orders", "windows": [window(2), window(3), window(1)]})
    found = place.tick(sensor)
    assert asked(found.run_requests) == spans((1, 2), (3, 3), (5, 5))
    assert {request.tags["rivet/reason"] for request in found.run_requests} == {"requested"}
    assert first.is_file(), "the tick's answer may still be lost"
    place.execute(found.run_requests)
    idle = place.tick(sensor)
    assert not idle.run_requests
    assert "public.orders is sound" in idle.skip_message
    assert not first.exists()
    assert not second.exists()
    place.complete()
    changed = {number for number, note in place.rows() if note == "changed"}
    assert changed == {*range(101, 401), *range(501, 601)}
    ask_for(lake, "a.json", {"table": "public.orders"})
    everything = place.tick(sensor)
    assert asked(everything.run_requests) == spans((0, 1), (2, 3), (4, 5))
    place.execute(everything.run_requests)
    place.complete()
    assert place.rows() == source_rows(dsn, "public.orders", "id")


def test_a_tick_whose_answer_was_lost_serves_the_same_files_again(make: Make, lake: Path) -> None:
    place, sensor = make()
    file = ask_for(lake, "a.json", {"table": "public.orders", "windows": [window(1)]})
    lost = place.tick(sensor, lost=True)
    found = place.tick(sensor)
    assert found.run_requests == lost.run_requests
    assert file.is_file()
    # Dagster runs a key once, so an equal request that comes later must have another one.
    place.tick(sensor)
    ask_for(lake, "a.json", {"table": "public.orders", "windows": [window(1)]})
    (again,) = place.tick(sensor).run_requests
    assert again.run_key != found.run_requests[0].run_key


def test_a_file_that_was_written_anew_is_served_too(make: Make, lake: Path) -> None:
    place, sensor = make()
    ask_for(lake, "a.json", {"table": "public.orders", "windows": [window(1)]})
    place.tick(sensor)
    ask_for(lake, "a.json", {"table": "public.orders", "windows": [window(4)]})
    assert asked(place.tick(sensor).run_requests) == spans((4, 4))


def test_what_is_no_request_stays_and_is_told(make: Make, lake: Path, capfd: pytest.CaptureFixture[str]) -> None:
    place, sensor = make()
    documents = [
        "",
        "{",
        "[1]",
        '{"table": 7}',
        '{"windows": ["g1-w000001"]}',
        '{"table": "public.orders", "window": ["g1-w000001"]}',
        '{"table": "public.orders", "windows": "g1-w000001"}',
    ]
    files = [ask_for(lake, f"wrong{number}.json", document) for number, document in enumerate(documents)]
    ask_for(lake, "z.json", {"table": "public.orders", "windows": [window(3)]})
    capfd.readouterr()
    assert asked(place.tick(sensor).run_requests) == spans((3, 3)), "the others are served"
    log = capfd.readouterr().err
    assert [f"reload/{file.name} is no request" in log for file in files] == [True] * len(documents)
    assert not place.tick(sensor).run_requests
    assert [file.read_text() for file in files] == documents


def test_requests_for_other_tables_and_unknown_windows(make: Make, lake: Path) -> None:
    place, sensor = make()
    other = ask_for(lake, "other.json", {"table": "public.others", "windows": [window(1)]})
    strange = ask_for(lake, "strange.json", {"table": "public.orders", "windows": [window(2), window(77), "x"]})
    assert asked(place.tick(sensor).run_requests) == spans((2, 2))
    assert not place.tick(sensor).run_requests
    assert other.is_file(), "another sensor may serve it"
    assert not strange.exists()


def test_requests_of_a_table_that_fails_wait(make: Make, lake: Path, orders: Sql) -> None:
    orders("CREATE TABLE public.requests (id int PRIMARY KEY, table_name text, window_key text)")
    checks = ReloadChecks(missing_parts=False, drifted_windows=1)
    place, sensor = make(ORDERS, OTHERS, checks=checks, request_table="public.requests")
    orders("ALTER TABLE public.orders RENAME TO hidden")
    file = ask_for(lake, "a.json", {"table": "public.orders", "windows": [window(1)]})
    orders("INSERT INTO public.requests VALUES (1, 'public.orders', 'g1-w000003'), (2, 'public.others', 'g1-w000000')")
    found = place.tick(sensor)
    assert [request.asset_selection for request in found.run_requests] == [[place.key(None, 1)]]
    skipped = place.tick(sensor)
    assert not skipped.run_requests
    assert "RIVET_SOURCE_TABLE_MISSING" in skipped.skip_message
    assert not file.exists()
    orders("ALTER TABLE public.hidden RENAME TO orders")
    assert asked(place.tick(sensor).run_requests) == spans((1, 1), (3, 3))
    assert not place.tick(sensor).run_requests


def test_a_table_of_requests_is_read_on_from_the_last_row(make: Make, orders: Sql) -> None:
    orders(
        "CREATE TABLE public.requests (id bigserial PRIMARY KEY, table_name text NOT NULL, window_key text, who text)"
    )

    def request(table: str, key: str) -> None:
        orders(f"INSERT INTO public.requests (table_name, window_key) VALUES ('{table}', {key})")

    place, sensor = make(request_table="public.requests", checks=NO_CHECKS)
    assert not place.tick(sensor).run_requests
    request("public.orders", "'g1-w000002'")
    request("public.others", "'g1-w000003'")
    found = place.tick(sensor)
    assert asked(found.run_requests) == spans((2, 2))
    assert not place.tick(sensor).run_requests
    request("public.others", "NULL")
    nothing = place.tick(sensor)
    assert not nothing.run_requests
    assert "public.others" not in nothing.cursor, "what another sensor serves is not remembered"
    request("public.orders", "'g1-w000002'")
    again = place.tick(sensor)
    assert asked(again.run_requests) == spans((2, 2))
    assert again.run_requests[0].run_key != found.run_requests[0].run_key
    request("public.orders", "NULL")
    request("public.orders", "'g1-w000001'")
    assert asked(place.tick(sensor).run_requests) == spans((0, 5))
    orders("DROP TABLE public.requests")
    with pytest.raises(RivetError, match="RIVET_SOURCE_TABLE_MISSING"):
        place.tick(sensor)


def test_a_table_of_requests_in_mariadb(
    mysql_dsn: str, mysql_sql: Sql, lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_DSN", mysql_dsn)
    database = mysql_dsn.rpartition("/")[2]
    mysql_sql("CREATE TABLE orders (id int PRIMARY KEY, note text)")
    mysql_sql("INSERT INTO orders SELECT seq, 'new' FROM seq_1_to_600")
    mysql_sql("CREATE TABLE requests (id int PRIMARY KEY AUTO_INCREMENT, table_name varchar(64), window_key text)")
    config = ExportConfig(table=f"{database}.orders", windows=KeysetWindows(rows=100))
    sensor = build_rivet_reload_sensor(
        config, request_table=f"{database}.requests", checks=ReloadChecks(drifted_windows=6)
    )
    with dg.DagsterInstance.ephemeral() as instance:
        place = Place(instance, lake, config, sensors=[sensor])
        place.plan()
        place.export()
        assert not place.tick(sensor).run_requests
        ask = "INSERT INTO requests (table_name, window_key) VALUES"
        mysql_sql(f"{ask} ('{database}.orders', 'g1-w000001'), ('elsewhere.orders', NULL)")
        mysql_sql("DELETE FROM orders WHERE id = 450")
        found = place.tick(sensor)
        assert asked(found.run_requests) == spans((1, 1), (4, 4))
        place.execute(found.run_requests)
        assert not place.tick(sensor).run_requests
        mysql_sql(f"{ask} ('{database}.orders', NULL)")
        assert asked(place.tick(sensor).run_requests) == spans((0, 5))


def test_a_table_without_a_plan_has_nothing_to_read_again(make: Make, lake: Path) -> None:
    place, sensor = make(exported=False)
    ask_for(lake, "a.json", {"table": "public.orders"})
    found = place.tick(sensor)
    assert not found.run_requests
    assert "public.orders is not planned yet" in found.skip_message


# What the sensor finds by itself


def part_of(place: Place, number: int) -> Path:
    (part,) = (place.folder() / f"g1/data/w{number:06d}").iterdir()
    return part


def test_missing_parts_are_exported_again(make: Make, clock: Callable[[float], None], orders: Sql, dsn: str) -> None:
    place, sensor = make()
    assert not place.tick(sensor).run_requests
    part_of(place, 1).unlink()
    with part_of(place, 2).open("ab") as file:
        file.write(b"more")
    part_of(place, 4).unlink()
    found = place.tick(sensor)
    assert asked(found.run_requests) == spans((1, 2), (4, 4))
    assert {request.tags["rivet/reason"] for request in found.run_requests} == {"missing, damaged or drifted"}
    assert place.tick(sensor).run_requests == found.run_requests, "equal keys: Dagster runs them once"
    clock(3600)
    later = place.tick(sensor)
    assert asked(later.run_requests) == asked(found.run_requests)
    assert not {r.run_key for r in later.run_requests} & {r.run_key for r in found.run_requests}
    place.execute(later.run_requests)
    assert not place.tick(sensor).run_requests
    assert place.complete().success
    assert place.rows() == source_rows(dsn, "public.orders", "id")
    part_of(place, 4).unlink()
    (again,) = place.tick(sensor).run_requests
    assert asked([again]) == spans((4, 4))
    assert again.run_key not in {r.run_key for r in later.run_requests}, "lost once more within the hour"


def test_a_window_is_asked_for_once_though_it_is_requested_and_missing(make: Make, lake: Path) -> None:
    place, sensor = make()
    part_of(place, 1).unlink()
    ask_for(lake, "a.json", {"table": "public.orders", "windows": [window(1)]})
    assert asked(place.tick(sensor).run_requests) == spans((1, 1))


def test_damaged_parts_are_found_in_turn(make: Make) -> None:
    place, sensor = make(checks=ReloadChecks(missing_parts=False, damaged_windows=2))
    for number in (1, 4):
        part = part_of(place, number)
        content = bytearray(part.read_bytes())
        content[len(content) // 2] ^= 1
        part.write_bytes(bytes(content))
    found = [place.tick(sensor).run_requests for _ in range(4)]
    assert [asked(requests) for requests in found] == [spans((1, 1)), [], spans((4, 4)), spans((1, 1))]
    place.execute([*found[0], *found[2]])
    assert [asked(place.tick(sensor).run_requests) for _ in range(3)] == [[], [], []]


def test_windows_with_other_rows_than_exported_are_found_in_turn(make: Make, orders: Sql, dsn: str) -> None:
    place, sensor = make(checks=ReloadChecks(drifted_windows=4))
    orders("DELETE FROM public.orders WHERE id = 150")
    orders("INSERT INTO public.orders VALUES (0, 'below all'), (-1, 'below all')")
    orders("UPDATE public.orders SET note = 'the same number' WHERE id = 250")
    orders("DELETE FROM public.orders WHERE id > 500")
    first, second = (place.tick(sensor).run_requests for _ in range(2))
    assert asked(first) == spans((0, 1))
    assert asked(second) == spans((0, 1), (5, 5)), "the round goes on"
    place.execute(second)
    assert [asked(place.tick(sensor).run_requests) for _ in range(3)] == [[], [], []]
    assert place.complete().success
    expected = [row for row in source_rows(dsn, "public.orders", "id") if row[0] != 250]
    assert [row for row in place.rows() if row[0] != 250] == expected


def test_a_failing_table_does_not_stop_the_round_of_others(make: Make, orders: Sql) -> None:
    checks = ReloadChecks(missing_parts=False, drifted_windows=2)
    place, sensor = make(ORDERS, OTHERS, checks=checks)
    orders("ALTER TABLE public.orders RENAME TO hidden")
    orders("DELETE FROM public.others WHERE id IN (550, 350)")
    found = [asked(place.tick(sensor).run_requests) for _ in range(3)]
    assert found == [[], spans((3, 3)), spans((5, 5))]


def test_nothing_is_looked_at_while_a_requested_run_is_under_way(
    make: Make, instance: dg.DagsterInstance, lake: Path
) -> None:
    place, sensor = make()
    part_of(place, 1).unlink()
    (request,) = place.tick(sensor).run_requests
    run = instance.create_run_for_job(
        place.definitions.resolve_implicit_global_asset_job_def(),
        tags=dict(request.tags),
        status=dg.DagsterRunStatus.STARTED,
    )
    part_of(place, 3).unlink()
    assert not place.tick(sensor).run_requests
    ask_for(lake, "a.json", {"table": "public.orders", "windows": [window(5)]})
    assert asked(place.tick(sensor).run_requests) == spans((5, 5)), "people are served at once"
    instance.report_run_canceled(run)
    assert asked(place.tick(sensor).run_requests) == spans((1, 1), (3, 3))


def test_slices_of_time_are_read_again_too(make: Make, orders: Sql, lake: Path, dsn: str) -> None:
    config = ExportConfig(
        table="public.events",
        windows=TimeWindows(column="at", every="day", start="2024-01-01", end="2024-01-06", timezone="Europe/Paris"),
    )
    orders("CREATE TABLE public.events (id int PRIMARY KEY, at timestamptz NOT NULL)")
    orders("CREATE INDEX ON public.events (at, id)")
    orders(
        "INSERT INTO public.events SELECT n, timestamptz '2023-12-31 23:00+00' + n * interval '1 hour'"
        " FROM generate_series(0, 119) AS n"
    )
    checks = ReloadChecks(damaged_windows=1, drifted_windows=3)
    place, sensor = make(config, exported=False, checks=checks)
    assert "is not planned yet" in place.tick(sensor).skip_message
    assert place.export("2024-01-01", "2024-01-05").success
    (part,) = (place.folder() / "g1/data/t2024-01-04").iterdir()
    part.unlink()
    orders("DELETE FROM public.events WHERE id = 30")
    ask_for(lake, "a.json", {"table": "public.events", "windows": ["2024-01-05", "2024-01-06"]})
    found = place.tick(sensor)
    assert asked(found.run_requests) == [
        ("2024-01-05", "2024-01-05"),
        ("2024-01-02", "2024-01-02"),
        ("2024-01-04", "2024-01-04"),
    ]
    place.execute(found.run_requests)
    assert not place.tick(sensor).run_requests
    assert place.complete().success
    assert place.rows() == source_rows(dsn, "public.events", "at,id")
