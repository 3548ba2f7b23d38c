"""A table, its export, and a model of what every history of the two must have left in the destination."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from datetime import datetime, timedelta, timezone
from itertools import islice, pairwise
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import psycopg
import pytest
from psycopg import sql

from rivet_dagster import open_export
from rivet_dagster.errors import RivetError
from rivet_dagster.export import commit
from rivet_dagster.export import window as exporting
from rivet_dagster.export.clean import GRACE, clean_export
from rivet_dagster.export.operations import TableExport
from rivet_dagster.export.plan import Plan, Window
from rivet_dagster.export.planning import Wish
from rivet_dagster.export.reader import Export
from rivet_dagster.export.workers import WindowOutcome
from rivet_dagster.sources.base import KeyRange
from tests.support.history_parts import Committed, Interlude, Place, Rows, Sealed, Shape, decoded, fault
from tests.support.planners.trial import random_pages
from tests.support.readers import tree

_PUTS = ("before_part_put", "after_part_put")
_LATE = GRACE + timedelta(hours=1)


class World:
    """A table in the source, its export, and the model.

    Attributes:
        state: asks the source for its rows at this moment.
        plans: the newest plan of each generation, and older ones that somebody may still hold.
        committed: by generation and window.
        sealed: what readers must see; None before the first seal.
        damaged: paths of parts that were damaged and not written again since.
    """

    def __init__(self, dsn: str, connection: psycopg.Connection[Any], lake: Path, table: str, shape: Shape) -> None:
        self.shape = shape
        self._connection = connection
        self._table = sql.Identifier(table)
        self.ask("CREATE TABLE {t} (id int PRIMARY KEY, at int NOT NULL, note text NOT NULL)")
        self.ask("CREATE INDEX ON {t} (at, id)")
        self._addresses = shape.config(table), dsn, str(lake)
        self.export = self._make()
        self.folder = lake / f"public.{table}"
        self.plans: dict[int, Plan] = {}
        self.held: list[Plan] = []
        self.committed: dict[Place, Committed] = {}
        self.sealed: Sealed | None = None
        self.readers: list[tuple[Export, Sealed]] = []
        self.damaged: set[str] = set()
        self._bytes: dict[str, bytes] = {}

    def _make(self) -> TableExport:
        """The export, as another process has it."""
        return TableExport(*self._addresses)

    def ask(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows of a statement; `{t}` stands for the table."""
        cursor = self._connection.execute(sql.SQL(statement).format(t=self._table), values or None)
        return cursor.fetchall() if cursor.description else []

    def state(self) -> Rows:
        """The source's rows at this moment."""
        return tuple(self.ask("SELECT id, at, note FROM {t}"))

    @property
    def newest(self) -> Plan:
        """The plan that a new run takes."""
        return self.plans[max(self.plans)]

    # Planning

    def plan(self, replan: str | None, *, fails: bool = False, rival: str | None = None) -> None:
        """Plan; the process may fail when the segment is written, and somebody else may plan a moment before."""
        before = self.state()

        def create(path: str, data: bytes) -> bool:
            if rival is not None and not planned:
                planned.append(True)
                other, _ = self._make().plan(Wish(replan=rival or None))
                self._planned(other, before)
            return written(path, data)

        planned: list[bool] = []
        written = self.export.store.create
        begins = not self.plans or (replan is not None and self.newest.head.work_id != replan)
        expected = max(self.plans, default=0) + begins
        with mock.patch.object(self.export.store, "create", create), ExitStack() as stack:
            if fails:
                stack.enter_context(fault("after_plan_segment"))
                caught = stack.enter_context(pytest.raises(RivetError))
            plan, _ = self.export.plan(Wish(replan=replan))
        if fails:
            assert caught.value.code == "RIVET_FAULT"
            plan = self.export.planned(expected)
        assert plan.generation == expected
        self._planned(plan, before)
        assert self.export.planned() == self.newest

    def _planned(self, plan: Plan, rows: Rows) -> None:
        """Hold a plan against the one before and against the rows that it was made of; remember it."""
        old = self.plans.get(plan.generation)
        known = old.windows if old else ()
        assert plan.windows[: len(known)] == known, "planned windows changed"
        if old is None:
            assert plan.generation == max(self.plans, default=0) + 1
        spans = [window.span for window in plan.windows]
        assert all(left.hi == right.lo for left, right in pairwise(spans))
        assert not spans or spans[0].lo is None
        fresh = [self.shape.within(rows, window.span) for window in plan.windows[len(known) :]]
        assert [len(found) for found in fresh[:-1]] == [self.shape.rows] * (len(fresh) - 1)
        assert not fresh or 0 < len(fresh[-1]) <= self.shape.rows
        self._check_frontier(plan, old, rows)
        self.plans[plan.generation] = plan
        self.held.append(plan)

    def _check_frontier(self, plan: Plan, old: Plan | None, rows: Rows) -> None:
        """What is behind the frontier: nothing, or what the lag left out."""
        covered = self.shape.within(rows, KeyRange(None, plan.frontier)) if plan.frontier else ()
        left = set(rows) - set(covered)
        before = self.shape.within(rows, KeyRange(None, old.frontier)) if old and old.frontier else ()
        until = max((row[1] for row in rows), default=0) - self.shape.lag
        late = self.shape.mode == "cursor" and self.shape.lag
        assert left == ({row for row in set(rows) - set(before) if row[1] > until} if late else set())

    # Runs

    def run(
        self,
        plan: Plan,
        windows: Sequence[Window],
        work: str,
        *,
        workers: int = 2,
        failing: tuple[str, str] | None = None,
        pages: int = 0,
    ) -> None:
        """Export windows to the end; one of them may fail."""
        rows = self.state()
        reused = {window.key for window in windows if self._is_of(window, work)}
        with random_pages(Random(pages)), fault(*failing) if failing else nullcontext():
            found = self._outcomes(plan, windows, work, workers)
        for window in windows:
            self._ended(found[window.key], work, rows, failing, reused=window.key in reused)

    def _outcomes(self, plan: Plan, windows: Sequence[Window], work: str, workers: int) -> dict[str, WindowOutcome]:
        with self.export.run(plan, windows, work, workers) as run:
            outcomes = list(run)
        assert sorted(outcome.window.key for outcome in outcomes) == [window.key for window in windows]
        return {outcome.window.key: outcome for outcome in outcomes}

    def run_disturbed(self, plan: Plan, windows: Sequence[Window], work: str, interlude: Interlude) -> None:
        """Export windows one after another; while one of them is on its way, something else happens."""
        place = [window.key for window in windows].index(interlude.key)
        rows, action = self.state(), interlude.action
        after, before = rows, self.committed
        reused = {window.key for window in windows if self._is_of(window, work)}
        assert not reused, "disturbed runs are new work"

        def prepared() -> None:
            nonlocal after, before
            for window in windows[:place]:
                self._settle(window, work, rows, commits=True)
            before = dict(self.committed)
            action()
            after = self.state()
            reused.update(window.key for window in windows[place + 1 :] if self._is_of(window, work))

        interlude.action = prepared
        with (
            mock.patch.object(exporting, "fault_point", interlude),
            mock.patch.object(commit, "fault_point", interlude),
        ):
            found = self._outcomes(plan, windows, work, 1)
        if interlude.failed:
            raise interlude.failed[0]
        if not interlude.happened:
            place = 0  # it has no part, so no such point
        for window in windows[:place]:
            assert found[window.key].error is None
        if interlude.happened:
            self._end_of_interlude(found[interlude.key], work, rows, before)
        for window in windows[place + interlude.happened :]:
            self._ended(found[window.key], work, after, None, reused=window.key in reused)

    def _is_of(self, window: Window, work: str) -> bool:
        found = self.committed.get((window.generation, window.key))
        return found is not None and found.work == work

    def _ended(
        self, outcome: WindowOutcome, work: str, rows: Rows, failing: tuple[str, str] | None, *, reused: bool
    ) -> None:
        """Hold the end of one window against the model."""
        window = outcome.window
        assert outcome.reused == (reused and outcome.error is None)
        fails = failing is not None and failing[1] == window.key and not reused
        if fails and failing and failing[0] in _PUTS and not self.shape.within(rows, window.span):
            fails = False  # no part, so no such point
        if not fails:
            assert outcome.error is None, outcome.error
        else:
            assert isinstance(outcome.error, RivetError)
            assert outcome.error.code == "RIVET_FAULT"
        late = fails and failing is not None and failing[0] == "after_manifest_put"
        self._settle(window, work, rows, commits=not reused and (not fails or late))

    def _end_of_interlude(self, outcome: WindowOutcome, work: str, rows: Rows, before: dict[Place, Committed]) -> None:
        """The window during which something happened: if somebody else committed it meanwhile, that stands."""
        place = outcome.window.generation, outcome.window.key
        now = self.committed.get(place)
        if now == before.get(place):
            assert outcome.error is None, outcome.error
            self._settle(outcome.window, work, rows, commits=True)
            return
        assert now is not None
        if now.work == work:
            assert outcome.error is None
        else:
            assert isinstance(outcome.error, RivetError)
            assert outcome.error.code == "RIVET_WINDOW_CONFLICT"
        self._settle(outcome.window, work, rows, commits=False)

    def leave(self, plan: Plan, windows: Sequence[Window], work: str, taken: int, workers: int) -> None:
        """Export windows and leave after a few outcomes: the others are committed as a whole, or not at all."""
        rows = self.state()
        reused = {window.key for window in windows if self._is_of(window, work)}
        with self.export.run(plan, windows, work, workers) as run:
            outcomes = list(islice(run, taken))
        known = {outcome.window.key for outcome in outcomes + run.stop() if outcome.error is None}
        assert all(outcome.error is None for outcome in outcomes)
        for window in windows:
            commits = False if window.key in reused else True if window.key in known else None
            self._settle(window, work, rows, commits=commits)

    def race(self, plan: Plan, windows: Sequence[Window], works: tuple[str, str], meet: Callable[..., None]) -> None:
        """Two runs over the same windows, which meet before each of their commits: of each window one wins."""
        from threading import Thread

        rows = self.state()
        found: dict[str, dict[str, WindowOutcome]] = {}

        def work(name: str) -> None:
            with self._make().run(plan, windows, name, 1) as run:
                found[name] = {outcome.window.key: outcome for outcome in run}

        with mock.patch.object(exporting, "fault_point", meet):
            threads = [Thread(target=work, args=(name,)) for name in works]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        for window in windows:
            ends = {name: found[name][window.key] for name in works}
            (winner,) = [name for name, outcome in ends.items() if outcome.error is None]
            (loser,) = [outcome.error for outcome in ends.values() if outcome.error is not None]
            assert isinstance(loser, RivetError)
            assert loser.code == "RIVET_WINDOW_CONFLICT"
            self._settle(window, winner, rows, commits=True)

    def _settle(self, window: Window, work: str, rows: Rows, *, commits: bool | None) -> None:
        """Hold a window's manifest against what the run must have done; None where it may have committed or not."""
        place = window.generation, window.key
        old = self.committed.get(place)
        path = self.folder / f"g{window.generation}/windows/{window.key.partition('-')[2]}.json"
        raw = path.read_bytes() if path.exists() else None
        changed = raw != (old.raw if old else None)
        if commits is not None:
            assert changed == commits, f"{place} was {'' if changed else 'not '}committed"
        if not changed:
            return
        assert raw is not None
        manifest = json.loads(raw)
        expected = self.shape.within(rows, window.span)
        assert manifest["work_id"] == work
        bounds = [list(bound) if bound else None for bound in (window.span.lo, window.span.hi)]
        assert [manifest["lo"], manifest["hi"]] == bounds
        assert manifest["rows"] == sum(part["rows"] for part in manifest["parts"]) == len(expected)
        parts = tuple(part["path"] for part in manifest["parts"])
        for part in parts:
            data = (self.folder / part).read_bytes()
            assert self._bytes.setdefault(part, data) == data, "a name stands for other bytes"
            self.damaged.discard(part)
        found = Committed(work, raw, parts, expected)
        self.committed[place] = found
        assert self._rows_of(found) == expected

    def _rows_of(self, window: Committed) -> Rows:
        return tuple(row for part in window.parts for row in decoded((self.folder / part).read_bytes()))

    # Seals, readers, damage

    def seal(self, plan: Plan, *, fails: bool = False) -> str:
        """Seal a plan, or be refused; gives the code of the refusal, or nothing."""
        found = [self.committed.get((plan.generation, window.key)) for window in plan.windows]
        windows = tuple(
            (window.key, each) for window, each in zip(plan.windows, found, strict=True) if each is not None
        )
        lost = {path for path in self.damaged if self._size(path) != len(self._bytes[path])}
        refusal = "RIVET_EXPORT_INCOMPLETE" if len(windows) < len(found) else ""
        if not refusal and lost.intersection(path for _, each in windows for path in each.parts):
            refusal = "RIVET_PART_MISSING"
        sealed = Sealed(plan.generation, windows)
        same = self.sealed is not None and self._shown(self.sealed) == self._shown(sealed)
        with ExitStack() as stack:
            if fails:
                stack.enter_context(fault("during_seal"))
            try:
                self.export.seal(plan)
                code = ""
            except RivetError as exc:
                code = exc.code
        if refusal:
            assert code == refusal
            return refusal
        # Equal seals are not written again, unless the last writing was not finished.
        assert code in (("RIVET_FAULT", "") if same and fails else ("RIVET_FAULT",) if fails else ("",))
        seal_id = json.loads((self.folder / "manifest.json").read_bytes())["seal_id"]
        if same and self.sealed is not None:
            assert seal_id == self.sealed.seal_id
        self.sealed = Sealed(plan.generation, windows, seal_id)
        return ""

    @staticmethod
    def _shown(sealed: Sealed) -> tuple[int, list[tuple[str, tuple[str, ...]]]]:
        return sealed.generation, [(key, window.parts) for key, window in sealed.windows]

    def _size(self, path: str) -> int | None:
        file = self.folder / path
        return file.stat().st_size if file.exists() else None

    def damage(self, path: str, kind: str) -> None:
        """Delete a part, cut it short or change a byte of it."""
        file = self.folder / path
        if kind == "delete":
            file.unlink(missing_ok=True)
        elif file.exists():
            data = bytearray(self._bytes[path])
            data[len(data) // 2] ^= 1
            file.write_bytes(data[:-1] if kind == "cut" else data)
        self.damaged.add(path)

    def age(self) -> None:
        """Everything in the destination was written long ago."""
        long_ago = (datetime.now(timezone.utc) - _LATE).timestamp()
        for path in self.folder.rglob("*"):
            if path.is_file():
                os.utime(path, (long_ago, long_ago))

    def clean(self, *, late: bool, dry_run: bool) -> None:
        """Clean up, long after everything was written or right now."""
        now = datetime.now(timezone.utc) + late * _LATE
        if self.sealed is None:
            with pytest.raises(RivetError) as caught:
                clean_export(self.export.store, dry_run=dry_run)
            assert caught.value.code == "RIVET_EXPORT_UNSEALED"
            return
        before = tree(self.folder)
        found = clean_export(self.export.store, dry_run=dry_run, now=now)
        removed = {each.path for each in found.removals}
        left = {path: data for path, data in before.items() if dry_run or path not in removed}
        assert tree(self.folder) == left
        assert removed == (before.keys() - self._needed(self.sealed) if late else set())
        if late and not dry_run:
            self._forget(self.sealed)

    def clean_midway(self) -> None:
        """Clean up what is old, while a run has published what it has not committed yet."""
        if self.sealed is not None:
            found = clean_export(self.export.store)
            assert self._needed(self.sealed).isdisjoint(each.path for each in found.removals)
            self._forget(self.sealed)

    def _forget(self, sealed: Sealed) -> None:
        """Nobody asks any more for what was superseded by a seal."""
        oldest = sealed.generation
        self.plans = {number: plan for number, plan in self.plans.items() if number >= oldest}
        self.held = [plan for plan in self.held if plan.generation >= oldest]
        self.committed = {place: each for place, each in self.committed.items() if place[0] >= oldest}
        self.readers = [each for each in self.readers if each[1].seal_id == sealed.seal_id]

    def _needed(self, sealed: Sealed) -> set[str]:
        """What must be left of a destination: the seal, and plans, manifests and parts since its generation."""
        found = {"manifest.json", "_SUCCESS", f"g{sealed.generation}/seals/{sealed.seal_id}.json", *sealed.parts}
        for number, plan in self.plans.items():
            if number >= sealed.generation:
                found |= {f"g{number}/plan/{segment.number:06d}.json" for segment in plan.segments}
        for (number, key), window in self.committed.items():
            if number >= sealed.generation:
                found |= {f"g{number}/windows/{key.partition('-')[2]}.json", *window.parts}
        return found

    def open_reader(self) -> None:
        """Somebody opens the export and keeps it."""
        if self.sealed is not None:
            self.readers.append((open_export(self.folder), self.sealed))

    def refresh_reader(self, number: int) -> None:
        """One of those who have it open goes on to the seal in force."""
        if self.readers and self.sealed is not None:
            reader, seen = self.readers.pop(number % len(self.readers))
            assert reader.refresh() == (seen.seal_id != self.sealed.seal_id)
            self.readers.append((reader, self.sealed))

    # What holds after every step

    def check(self) -> None:
        """Hold all that is in the destination against the model."""
        files = {str(path.relative_to(self.folder)) for path in self.folder.glob("g*/windows/*.json")}
        assert files == {f"g{number}/windows/{key.partition('-')[2]}.json" for number, key in self.committed}
        for (number, key), window in self.committed.items():
            path = self.folder / f"g{number}/windows/{key.partition('-')[2]}.json"
            assert path.read_bytes() == window.raw, f"{key} was committed by nobody"
            if self.damaged.isdisjoint(window.parts):
                assert self._rows_of(window) == window.rows
        if self.plans:
            assert self.export.planned() == self.newest
        for reader, seen in self.readers:
            self._check_reader(reader, seen)
        if self.sealed is None:
            with pytest.raises(RivetError) as caught:
                open_export(self.folder)
            assert caught.value.code == "RIVET_EXPORT_UNSEALED"
        else:
            self._check_reader(open_export(self.folder), self.sealed)

    def _check_reader(self, reader: Export, sealed: Sealed) -> None:
        assert (reader.generation, reader.seal_id) == (sealed.generation, sealed.seal_id)
        assert list(reader.parts) == [str(self.folder / path) for path in sealed.parts]
        assert [window.key for window in reader.windows] == [key for key, _ in sealed.windows]
        for _, window in sealed.windows:
            if self.damaged.isdisjoint(window.parts):
                assert self._rows_of(window) == window.rows
        if self.damaged.isdisjoint(sealed.parts):
            rows = [tuple(row.values()) for row in reader.dataset().to_table(use_threads=False).to_pylist()]
            assert tuple(rows) == sealed.rows
