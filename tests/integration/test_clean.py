"""Cleaning: superseded parts go after the grace time, what is needed stays, what is not known is set aside."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from rivet_dagster.errors import PlanError
from rivet_dagster.export import clean
from rivet_dagster.export.clean import GRACE, clean_export
from rivet_dagster.export.documents import ExportManifest
from rivet_dagster.export.operations import TableExport
from rivet_dagster.export.planning import Wish
from rivet_dagster.stores import Store
from tests.support.cli import rivet
from tests.support.exports import export_all, prepared, run_all
from tests.support.readers import assert_same, exported_rows, source_rows, tree

Sql = Callable[[str], list[tuple[Any, ...]]]
LATER = datetime.now(timezone.utc) + GRACE + timedelta(days=1)


@pytest.fixture
def export(dsn: str, sql: Sql, tmp_path: Path) -> TableExport:
    sql("CREATE TABLE public.orders (id int PRIMARY KEY, note text)")
    sql("INSERT INTO public.orders SELECT n, 'order ' || n FROM generate_series(1, 1000) AS n")
    return prepared(dsn, tmp_path / "lake", "public.orders", rows=250)


def files(tmp_path: Path) -> set[str]:
    return set(tree(tmp_path / "lake/public.orders"))


def data(tmp_path: Path) -> set[str]:
    return {name for name in files(tmp_path) if "/data/" in name}


def test_nothing_is_superseded_before_the_first_seal(export: TableExport) -> None:
    plan, _ = export.plan()
    run_all(export, plan)
    with pytest.raises(PlanError) as caught:
        clean_export(export.store, now=LATER)
    assert caught.value.code == "RIVET_EXPORT_UNSEALED"


def test_superseded_parts_go_after_the_next_seal_and_the_grace_time(
    export: TableExport, sql: Sql, dsn: str, tmp_path: Path
) -> None:
    export_all(export)
    first = data(tmp_path)
    sql("UPDATE public.orders SET note = 'changed' WHERE id <= 250")
    plan, _ = export.plan()
    run_all(export, plan, "second")
    # The seal in force still needs them.
    assert clean_export(export.store, now=LATER).removals == ()
    export.seal(plan)
    assert clean_export(export.store).removals == (), "readers of the seal before may be at work"
    second = data(tmp_path)
    assert len(second) == 5

    dry = clean_export(export.store, now=LATER, dry_run=True)
    assert data(tmp_path) == second
    done = clean_export(export.store, now=LATER)
    assert done == dry
    assert data(tmp_path) == second - {part for part in first if "/w000000/" in part}
    assert {each.why for each in done.removals} == {"no manifest names this part", "a later seal is in force"}
    assert_same(exported_rows(tmp_path / "lake/public.orders"), source_rows(dsn, "public.orders", "id"))
    assert clean_export(export.store, now=LATER).removals == ()


def test_parts_of_windows_that_are_committed_and_not_sealed_yet_stay(
    export: TableExport, sql: Sql, tmp_path: Path
) -> None:
    export_all(export)
    sql("UPDATE public.orders SET note = 'changed'")
    plan, _ = export.plan()
    run_all(export, plan, "second")
    before = data(tmp_path)
    assert len(before) == 8
    clean_export(export.store, now=LATER)
    assert data(tmp_path) == before


def test_an_old_generation_goes_as_a_whole(export: TableExport, dsn: str, tmp_path: Path) -> None:
    export_all(export)
    plan, _ = export.plan(Wish("anew"))
    clean_export(export.store, now=LATER)
    assert any(name.startswith("g1/") for name in files(tmp_path)), "the new one is not sealed"
    run_all(export, plan, "second")
    export.seal(plan)
    clean_export(export.store, now=LATER)
    assert not any(name.startswith("g1/") for name in files(tmp_path))
    assert_same(exported_rows(tmp_path / "lake/public.orders"), source_rows(dsn, "public.orders", "id"))
    again, appended = export.plan()
    assert (again.generation, appended) == (2, 0)


def test_what_is_not_known_is_set_aside_and_never_deleted(export: TableExport, tmp_path: Path) -> None:
    export_all(export)
    folder = tmp_path / "lake/public.orders"
    (folder / "g1/data/w000000/notes.txt").write_text("mine")
    (folder / "README.txt").write_text("also mine")
    (folder / "g1/data/w000001/part-00000-0123456789abcdef.parquet").write_text("a part of nobody")
    clean_export(export.store, now=LATER)
    found = files(tmp_path)
    assert "quarantine/g1/data/w000000/notes.txt" in found
    assert (folder / "quarantine/g1/data/w000000/notes.txt").read_text() == "mine"
    assert "README.txt" in found
    assert "g1/data/w000001/part-00000-0123456789abcdef.parquet" not in found


def test_what_is_young_is_kept(export: TableExport, tmp_path: Path) -> None:
    export_all(export)
    part = tmp_path / "lake/public.orders/g1/data/w000001/part-00000-0123456789abcdef.parquet"
    part.write_text("published a moment ago, and about to be committed")
    found = clean_export(export.store)
    assert (found.removals, found.kept) == ((), 1)
    assert part.exists()


def test_a_part_that_is_written_again_meanwhile_stays(
    export: TableExport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run publishes it between the look at what is needed and the removal, and is about to commit it."""
    export_all(export)
    part = tmp_path / "lake/public.orders/g1/data/w000001/part-00000-0123456789abcdef.parquet"
    part.write_text("left behind by a run that died")

    original = clean._needed

    def rewriting(store: Store, seal: ExportManifest) -> set[str]:
        found = original(store, seal)
        part.unlink()
        part.write_text("left behind by a run that died")
        return found

    monkeypatch.setattr(clean, "_needed", rewriting)
    found = clean_export(export.store, now=LATER)
    assert (found.removals, found.kept) == ((), 1)
    assert part.exists()


def test_on_the_command_line(export: TableExport, sql: Sql, tmp_path: Path) -> None:
    export_all(export)
    sql("UPDATE public.orders SET note = 'changed' WHERE id <= 250")
    export_all(export, work_id="second")
    uri = str(tmp_path / "lake/public.orders")
    kept = rivet("clean", uri, "--json")
    assert (kept.code, kept.json) == (0, {"removals": [], "kept": 2})
    dry = rivet("clean", uri, "--grace-hours", "0", "--dry-run")
    assert "no manifest names this part" in dry.out
    assert len(data(tmp_path)) == 5
    done = rivet("clean", uri, "--grace-hours", "0", "--json")
    assert [each["action"] for each in done.json["removals"]] == ["delete", "delete"]
    assert len(data(tmp_path)) == 4
    assert rivet("validate", uri).code == 0
