"""Repair: exactly the windows that are wrong are exported again, and readers then see the source's rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rivet_dagster.errors import PlanError, RivetError
from rivet_dagster.export.operations import TableExport
from rivet_dagster.export.planning import Wish
from rivet_dagster.export.reconcile import reconcile
from rivet_dagster.export.repair import Repair, repair
from rivet_dagster.export.validate import validate_export
from tests.support.cli import Result, rivet
from tests.support.exports import export_all, prepared
from tests.support.readers import exported_rows, part_files, sealed, source_rows, tree

Sql = Callable[[str], list[tuple[Any, ...]]]


@pytest.fixture
def folder(lake: Path) -> Path:
    return lake / "public.orders"


@pytest.fixture
def orders(sql: Sql, dsn: str, lake: Path) -> TableExport:
    """Five windows of a thousand rows."""
    sql("CREATE TABLE public.orders (id int PRIMARY KEY, total numeric(9,2), note text)")
    sql("INSERT INTO orders SELECT n, n / 3.0, md5(n::text) FROM generate_series(1, 5000) AS n")
    export = prepared(dsn, lake, "public.orders", rows=1000)
    export_all(export)
    return export


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)


def readers(folder: Path) -> dict[str, str]:
    """Which work read each window."""
    manifests = [json.loads(file.read_text()) for file in sorted((folder / "g1/windows").iterdir())]
    return {manifest["key"]: manifest["work_id"] for manifest in manifests}


def read_again(folder: Path) -> list[str]:
    return [key for key, work in readers(folder).items() if work.startswith("repair-")]


HARMS: dict[str, Callable[[Path], object]] = {
    "a flipped byte": lambda folder: flip(part_files(folder)[2]),
    "a missing part": lambda folder: part_files(folder)[2].unlink(),
    "a part that was cut": lambda folder: part_files(folder)[2].write_bytes(part_files(folder)[2].read_bytes()[:100]),
    "a part of other rows": lambda folder: part_files(folder)[2].write_bytes(part_files(folder)[3].read_bytes()),
    "a missing manifest": lambda folder: (folder / "g1/windows/w000002.json").unlink(),
    "a manifest that is no JSON": lambda folder: (folder / "g1/windows/w000002.json").write_text("{"),
    "a manifest of another window": lambda folder: (folder / "g1/windows/w000002.json").write_bytes(
        (folder / "g1/windows/w000003.json").read_bytes()
    ),
}


@pytest.mark.parametrize("harm", HARMS)
def test_exactly_the_damaged_window_is_exported_again(orders: TableExport, dsn: str, folder: Path, harm: str) -> None:
    before = tree(folder)
    HARMS[harm](folder)
    found = repair(orders)
    assert (found.ok, found.windows, found.left) == (True, ("g1-w000002",), ())
    assert {finding.window for finding in found.findings} == {"g1-w000002"}
    assert read_again(folder) == ["g1-w000002"]
    # The source gave the same rows, so the seal and every part are what they were.
    assert found.seal_before == found.seal_id == sealed(folder)["seal_id"]
    after = {path: data for path, data in tree(folder).items() if not path.startswith("quarantine/")}
    assert before.keys() == after.keys()
    assert [path for path in before if before[path] != after[path]] == ["g1/windows/w000002.json"]
    assert validate_export(orders.store).ok
    assert exported_rows(folder) == source_rows(dsn, "public.orders", "id")


def test_a_sound_export_is_left_alone(orders: TableExport, folder: Path) -> None:
    before = tree(folder)
    found = repair(orders, comparison="rows")
    assert (found.ok, found.windows, found.findings) == (True, (), ())
    assert tree(folder) == before


def test_an_unreadable_manifest_is_kept_aside(orders: TableExport, folder: Path) -> None:
    (folder / "g1/windows/w000002.json").write_text("{ no manifest")
    repair(orders)
    assert (folder / "quarantine/g1/windows/w000002.json").read_text() == "{ no manifest"


def test_windows_that_differ_from_the_source_are_superseded(
    orders: TableExport, sql: Sql, dsn: str, folder: Path
) -> None:
    sql("UPDATE orders SET total = -1 WHERE id = 1500")
    sql("DELETE FROM orders WHERE id = 3500")
    flip(part_files(folder)[0])
    before = sealed(folder)["seal_id"]
    found = repair(orders, comparison="rows", workers=3)
    assert found.windows == ("g1-w000000", "g1-w000001", "g1-w000003")
    assert [(finding.code, finding.window, finding.columns) for finding in found.findings[1:]] == [
        ("RIVET_RECONCILE_ROWS", "g1-w000001", ("total",)),
        ("RIVET_RECONCILE_ROWS", "g1-w000003", ()),
    ]
    assert (found.seal_before, found.ok) == (before, True)
    assert found.seal_id == sealed(folder)["seal_id"] != before
    assert exported_rows(folder) == source_rows(dsn, "public.orders", "id")
    assert len(part_files(folder)) == 5
    assert reconcile(orders, "rows").ok


def test_depths_decide_what_is_found(orders: TableExport, sql: Sql, folder: Path) -> None:
    sql("UPDATE orders SET total = -1 WHERE id = 1500")
    flip(part_files(folder)[0])
    assert repair(orders, validation="light", comparison="keys").windows == ()
    assert repair(orders, validation="light", comparison="rows").windows == ("g1-w000001",)
    assert repair(orders).windows == ("g1-w000000",)


BREAKS: dict[str, Callable[[Path], object]] = {
    "another number": lambda folder: (folder / "manifest.json").write_text(
        (folder / "manifest.json").read_text().replace('"rows": 1000', '"rows": 1001', 1)
    ),
    "no JSON": lambda folder: (folder / "manifest.json").write_text("{"),
    "another success": lambda folder: (folder / "_SUCCESS").write_text("xxh3-128:0\n"),
}


@pytest.mark.parametrize("harm", BREAKS)
def test_a_broken_seal_is_written_again(orders: TableExport, dsn: str, folder: Path, harm: str) -> None:
    before = tree(folder)
    BREAKS[harm](folder)
    found = repair(orders)
    assert [finding.code for finding in found.findings] == ["RIVET_SEAL_BROKEN"]
    assert (found.ok, found.windows) == (True, ())
    assert tree(folder) == before


def test_a_broken_seal_with_damaged_windows(orders: TableExport, dsn: str, folder: Path) -> None:
    before = tree(folder)
    part_files(folder)[1].unlink()
    flip(part_files(folder)[4])
    (folder / "g1/windows/w000003.json").write_text("{")
    (folder / "manifest.json").write_text("{")
    found = repair(orders)
    assert (found.ok, found.windows) == (True, ("g1-w000001", "g1-w000003", "g1-w000004"))
    assert read_again(folder) == list(found.windows)
    assert (found.seal_before, found.seal_id) == ("", json.loads(before["manifest.json"])["seal_id"])
    assert validate_export(orders.store).ok
    assert exported_rows(folder) == source_rows(dsn, "public.orders", "id")


def test_what_was_planned_since_is_not_exported(orders: TableExport, sql: Sql, dsn: str, folder: Path) -> None:
    expected = source_rows(dsn, "public.orders", "id")
    sql("INSERT INTO orders SELECT n, 0, '' FROM generate_series(5001, 7000) AS n")
    orders.plan()
    flip(part_files(folder)[1])
    found = repair(orders)
    assert (found.ok, found.windows, found.seal_id == found.seal_before) == (True, ("g1-w000001",), True)
    assert exported_rows(folder) == expected
    assert len(readers(folder)) == 5


def test_the_sealed_generation_is_repaired(orders: TableExport, folder: Path) -> None:
    orders.plan(Wish("another"))
    flip(part_files(folder)[1])
    assert repair(orders).windows == ("g1-w000001",)
    assert sealed(folder)["generation"] == 1
    assert not (folder / "g2/windows").exists()


def test_foreign_files_stay_and_are_reported(orders: TableExport, folder: Path) -> None:
    (folder / "g1/data/w000001/backup.parquet").write_bytes(b"mine")
    flip(part_files(folder)[1])
    found = repair(orders)
    assert (found.ok, found.windows) == (False, ("g1-w000001",))
    assert [(each.code, each.path) for each in found.left] == [("RIVET_PART_FOREIGN", "g1/data/w000001/backup.parquet")]
    assert (folder / "g1/data/w000001/backup.parquet").read_bytes() == b"mine"


def test_nothing_is_sealed_when_a_window_fails(orders: TableExport, sql: Sql, folder: Path) -> None:
    sql("UPDATE orders SET total = 'NaN' WHERE id = 1500")
    seal = (folder / "manifest.json").read_bytes()
    for number in (1, 2):
        flip(part_files(folder)[number])
    with pytest.raises(RivetError) as caught:
        repair(orders)
    assert caught.value.code == "RIVET_VALUE_UNSUPPORTED"
    assert (folder / "manifest.json").read_bytes() == seal
    assert [(each.code, each.window) for each in validate_export(orders.store).findings] == [
        ("RIVET_PART_DAMAGED", "g1-w000001")
    ]


def test_an_export_that_was_never_sealed_is_refused(dsn: str, sql: Sql, lake: Path) -> None:
    sql("CREATE TABLE public.orders (id int PRIMARY KEY)")
    export = prepared(dsn, lake, "public.orders")
    export.plan()
    with pytest.raises(PlanError) as caught:
        repair(export)
    assert caught.value.code == "RIVET_EXPORT_UNSEALED"


def test_progress_is_told(orders: TableExport, sql: Sql, folder: Path) -> None:
    sql("DELETE FROM orders WHERE id = 1500")
    flip(part_files(folder)[0])
    done: dict[str, list[int]] = {}
    sizes: dict[str, int | None] = {}

    def stage(name: str, size: int | None) -> Callable[[int], None]:
        sizes[name], done[name] = size, []
        return done[name].append

    size = sum(part["bytes"] for window in sealed(folder)["windows"] for part in window["parts"])
    damaged = part_files(folder)[0].stat().st_size
    found: Repair = repair(orders, comparison="count", stage=stage)
    assert sizes == {"validating": size, "comparing": 4, "exporting again": 2}
    assert {name: sum(parts) for name, parts in done.items()} == {
        "validating": size - damaged,
        "comparing": 4,
        "exporting again": 2,
    }
    assert len(found.windows) == 2


# --------------------------------------------------------------------------------------------------- command line


def mend(dsn: str, lake: Path, *more: str) -> Result:
    return rivet("repair", "--source", dsn, "--table", "public.orders", "--to", str(lake), *more)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_the_command_line_repairs_in_the_format_that_there_is(
    dsn: str, sql: Sql, lake: Path, folder: Path, kind: str
) -> None:
    sql("CREATE TABLE public.orders (id int PRIMARY KEY, note text)")
    sql("INSERT INTO orders SELECT n, md5(n::text) FROM generate_series(1, 3000) AS n")
    arguments = ("--source", dsn, "--table", "public.orders", "--to", str(lake), "--rows-per-window", "1000")
    assert rivet("export", *arguments, "--format", kind).code == 0
    before = tree(folder)
    flip(part_files(folder)[1])
    assert rivet("validate", str(folder)).code == 3
    done = mend(dsn, lake, "--json")
    assert (done.code, done.json["windows"], done.json["ok"]) == (0, ["g1-w000001"], True)
    assert [finding["code"] for finding in done.json["findings"]] == ["RIVET_PART_DAMAGED"]
    assert rivet("validate", str(folder)).code == 0
    assert [path for path, data in tree(folder).items() if before.get(path) != data] == ["g1/windows/w000001.json"]


def test_the_command_line_compares_if_it_is_asked_to(orders: TableExport, sql: Sql, dsn: str, lake: Path) -> None:
    sql("DELETE FROM orders WHERE id = 1500")
    assert mend(dsn, lake, "--json").json["windows"] == []
    done = mend(dsn, lake, "--reconcile", "count", "--validate", "light")
    assert done.code == 0, done.err
    assert "RIVET_RECONCILE_COUNT" in done.out
    assert "1 windows of public.orders were exported again" in done.out
    assert exported_rows(lake / "public.orders") == source_rows(dsn, "public.orders", "id")


def test_the_command_line_says_what_is_left(orders: TableExport, dsn: str, lake: Path, folder: Path) -> None:
    (folder / "g1/data/mine.txt").write_text("mine")
    done = mend(dsn, lake)
    assert (done.code, "RIVET_PART_FOREIGN" in done.out, "wrong still" in done.out) == (3, True, True)


def test_the_command_line_repairs_slices_of_time(dsn: str, sql: Sql, lake: Path) -> None:
    sql("CREATE TABLE public.orders (id int PRIMARY KEY, at timestamp NOT NULL)")
    sql("CREATE INDEX ON orders (at, id)")
    sql("INSERT INTO orders SELECT n, TIMESTAMP '2024-01-01' + n * INTERVAL '1 hour' FROM generate_series(0, 71) AS n")
    windows = json.dumps({"type": "time", "column": "at", "start": "2024-01-01", "end": "2024-01-04"})
    arguments = ("--source", dsn, "--table", "public.orders", "--to", str(lake), "--windows", windows)
    assert rivet("export", *arguments).code == 0
    before = tree(lake)
    flip(part_files(lake / "public.orders")[1])
    done = mend(dsn, lake, "--windows", windows, "--json")
    assert (done.code, done.json["windows"]) == (0, ["2024-01-02"])
    after = tree(lake)
    assert [path for path in after if before[path] != after[path]] == ["public.orders/g1/windows/t2024-01-02.json"]
