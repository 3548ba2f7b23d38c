"""Two runs on one window: one wins, the other notices, and what is stored is one run's work."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rivet_dagster.errors import RivetError
from rivet_dagster.export import window as exporting
from rivet_dagster.export.commit import commit_window, load_window
from rivet_dagster.export.documents import WindowManifest
from rivet_dagster.export.workers import WindowOutcome
from rivet_dagster.stores import open_store
from tests.support.exports import prepared
from tests.support.readers import exported_rows, source_rows

Sql = Callable[[str], list[tuple[Any, ...]]]
COMMIT = commit_window


@pytest.fixture
def orders(sql: Sql) -> None:
    sql("CREATE TABLE public.orders (id int PRIMARY KEY, note text)")
    sql("INSERT INTO public.orders SELECT n, 'order ' || n FROM generate_series(1, 100) AS n")


@pytest.mark.usefixtures("orders")
@pytest.mark.parametrize("committed_before", [False, True])
@pytest.mark.parametrize("works", [("one", "another"), ("same", "same")])
def test_the_later_commit_notices_the_earlier_one(
    dsn: str,
    sql: Sql,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    works: tuple[str, str],
    committed_before: bool,
) -> None:
    """The first run reads, and commits only when the second one has read changed rows and committed them."""
    export = prepared(dsn, tmp_path / "lake", "public.orders")
    plan, _ = export.plan()
    if committed_before:
        with export.run(plan, plan.windows, "long ago", 1) as run:
            assert [outcome.error for outcome in run] == [None]
    has_read, may_commit = threading.Event(), threading.Event()

    def waiting(*arguments: Any) -> WindowManifest:
        if threading.current_thread().name == "rivet-0" and not has_read.is_set():
            has_read.set()
            assert may_commit.wait(30)
        return COMMIT(*arguments)

    monkeypatch.setattr(exporting, "commit_window", waiting)
    found: list[WindowOutcome] = []

    def first() -> None:
        with export.run(plan, plan.windows, works[0], 1) as run:
            found.extend(run)

    thread = threading.Thread(target=first)
    thread.start()
    assert has_read.wait(30)
    sql("UPDATE public.orders SET note = 'changed'")
    with export.run(plan, plan.windows, works[1], 1) as run:
        (second,) = run
    assert second.error is None
    may_commit.set()
    thread.join(30)

    (outcome,) = found
    if works[0] == works[1]:
        assert outcome.error is None
        assert outcome.manifest == second.manifest, "its own earlier try has committed the window"
    else:
        assert isinstance(outcome.error, RivetError)
        assert outcome.error.code == "RIVET_WINDOW_CONFLICT"
        assert not outcome.error.retryable
    assert load_window(export.store, 1, "g1-w000000") == second.manifest
    export.seal(plan)
    assert exported_rows(tmp_path / "lake/public.orders") == source_rows(dsn, "public.orders", "id")


def test_replacing_goes_by_what_was_there(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "folder"))
    assert store.replace("g1/x", b"first", None)
    assert not store.replace("g1/x", b"again", None)
    assert not store.replace("g1/x", b"second", b"other")
    assert store.get("g1/x") == b"first"
    assert store.replace("g1/x", b"second", b"first")
    assert store.get("g1/x") == b"second"


def test_of_many_at_once_one_replaces(tmp_path: Path) -> None:
    stores = [open_store(str(tmp_path / "folder")) for _ in range(8)]
    stores[0].put("g1/x", b"before")
    start = threading.Barrier(len(stores))
    won: list[int] = []

    def work(number: int) -> None:
        start.wait()
        if stores[number].replace("g1/x", b"by %d" % number, b"before"):
            won.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(stores))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert stores[0].get("g1/x") == b"by %d" % won[0]
