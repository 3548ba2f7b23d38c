"""`rivet-dagster journal`: what real exports recorded, as text, JSON and a picture."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from rivet_dagster.export.journal import read_journal
from rivet_dagster.export.journal_entries import GateEntry, RunEntry, VerdictEntry, WindowEntry
from rivet_dagster.export.validate import validate_export
from rivet_dagster.stores import open_store
from tests.conftest import PASSWORD
from tests.support.cli import rivet
from tests.support.exports import export_all, prepared
from tests.support.readers import sealed

Sql = Callable[[str], list[tuple[Any, ...]]]
SAMPLE = Path(__file__).parents[1] / "unit/samples/journal"


@pytest.fixture
def folder(dsn: str, sql: Sql, tmp_path: Path) -> Path:
    """An export of two runs: the second one has a row more."""
    sql("CREATE TABLE public.orders (id int PRIMARY KEY, amount numeric)")
    sql("INSERT INTO public.orders SELECT n, n FROM generate_series(1, 3000) AS n")
    export = prepared(dsn, tmp_path / "lake", "public.orders", rows=1000)
    export_all(export)
    sql("INSERT INTO public.orders VALUES (4000, 4000)")
    export_all(export, work_id="second")
    return tmp_path / "lake/public.orders"


def test_runs_are_listed_and_shown(folder: Path, sql: Sql, tmp_path: Path) -> None:
    listed = rivet("journal", str(folder), "--list", "--json").json["runs"]
    assert len(listed) == 2
    newest, first = (run["run_id"] for run in listed)
    shown = rivet("journal", str(folder), "--json").json
    assert (shown["run_id"], shown["table"], shown["outcome"]) == (newest, "public.orders", "done")
    assert (shown["rows"],) == sql("SELECT count(*)::int FROM public.orders")[0]
    shown = rivet("journal", str(folder), "--run", first, "--json").json
    assert (shown["rows"], shown["windows"], shown["committed"], shown["failed"]) == (3000, 3, 3, 0)
    assert shown["bytes"] > 0
    assert 0 < shown["longest_statement_s"] <= shown["longest_transaction_s"] <= shown["seconds"]
    picture = tmp_path / "run.svg"
    done = rivet("journal", str(folder), "--run", first, "--svg", str(picture), env={"COLUMNS": "90"})
    assert done.code == 0, done.err
    for text in (
        "public.orders from postgresql://",
        "done after",
        "3 committed of 3",
        "workers",
        "rows/s",
        str(picture),
    ):
        assert text in done.out
    assert max(map(len, done.out.splitlines()[-5:-1])) <= 90
    texts = {text.text for text in ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}text")}
    assert {"workers that may read", "rows/s", "0 s"} <= texts
    assert first in rivet("journal", str(folder), "--list").out


def test_a_journal_says_what_manifests_say_and_no_secret(folder: Path) -> None:
    entries = read_journal(open_store(str(folder)))
    (run,) = [entry for entry in entries if isinstance(entry, RunEntry)]
    (verdict,) = [entry for entry in entries if isinstance(entry, VerdictEntry)]
    assert entries[-1] == verdict
    windows = {entry.key: entry for entry in entries if isinstance(entry, WindowEntry)}
    seal = sealed(folder)
    assert run.windows == len(windows) == len(seal["windows"])
    for window in seal["windows"]:
        entry = windows[window["key"]]
        manifest = json.loads((folder / f"g1/windows/{window['key'][3:]}.json").read_text())
        assert (entry.rows, entry.bytes) == (window["rows"], sum(part["bytes"] for part in window["parts"]))
        read = manifest["statistics"]
        assert (entry.pages, entry.wire_bytes, entry.attempts) == (read["pages"], read["wire_bytes"], read["attempts"])
    for path in (folder / "journal").iterdir():
        text = path.read_text()
        assert PASSWORD not in text
        assert "s3cr3t" not in text
    assert validate_export(open_store(str(folder))).ok


def test_decisions_are_shown_with_their_reasons() -> None:
    done = rivet("journal", str(SAMPLE), env={"COLUMNS": "110"})
    assert done.code == 0, done.err
    held = next(entry for entry in read_journal(open_store(str(SAMPLE))) if isinstance(entry, GateEntry))
    for text in ("windows held", "windows released after", held.reasons[0], "NULL in place of 200 values", "held"):
        assert text in done.out


def test_what_cannot_be_shown_is_said(tmp_path: Path) -> None:
    began = time.monotonic()
    done = rivet("journal", str(tmp_path), "--json")
    assert (done.code, done.json["error"]["code"]) == (1, "RIVET_JOURNAL_MISSING")
    assert time.monotonic() - began < 30
    done = rivet("journal", str(SAMPLE), "--run", "other")
    assert done.code == 1
    assert "has no journal of run other" in done.err
    assert "no journals" in rivet("journal", str(tmp_path), "--list").out
    done = rivet("journal", str(SAMPLE), "--list", "--run", "other")
    assert "RIVET_CONFIG_INVALID" in done.err
    done = rivet("journal", str(SAMPLE), "--svg", str(tmp_path / "nowhere/run.svg"))
    assert done.code == 1
    assert "RIVET_CONFIG_INVALID" in done.err
    assert list(tmp_path.iterdir()) == []
