"""Histories: whatever is planned, run, disturbed, damaged, sealed and cleaned, nothing is lost and nothing is twice."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any
from zlib import crc32

import psycopg
import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rivet_dagster.export.plan import Plan, Window
from tests.support.histories import World
from tests.support.history_parts import Interlude, Shape

# Histories a mode, and where they come from.
HISTORIES = int(os.environ.get("RIVET_TEST_HISTORIES", "6"))
SEED = os.environ.get("RIVET_TEST_SEED", "1")
STEPS = 20

_MOST_ROWS = 60
# Few different ones, so that tables come back to what they were, and parts to their names.
NOTES = st.sampled_from(["a", "b", "c"])
RANGES = st.builds(
    lambda start, size, step: set(range(start, start + size * step, step)),
    st.integers(1, 100),
    st.integers(1, 15),
    st.integers(1, 3),
)
CHANGES = st.tuples(st.sampled_from(["update in place", "insert", "update", "delete", "insert late"]), RANGES, NOTES)
# Rows of a table that there is, and windows of a plan, by numbers that are taken modulo how many there are.
PICKS = st.sets(st.integers(0, 11), min_size=1, max_size=8)
ONE = st.integers(0, 11)
# Mostly the newest plan, sometimes one that somebody still holds.
BACK = st.sampled_from([0, 0, 0, 0, 1, 2])
OFTEN_ALL = st.one_of(st.none(), st.none(), PICKS)
POINTS = [
    "after_page",
    "after_spool_close",
    "before_part_put",
    "after_part_put",
    "before_manifest_put",
    "after_manifest_put",
]
MIDST = st.sampled_from(["after_spool_close", "before_part_put", "after_part_put", "before_manifest_put"])


Change = tuple[str, set[int], str]


class Histories(RuleBasedStateMachine):
    """One table and its export."""

    mode: str
    make: Callable[[Shape], World]

    def __init__(self) -> None:
        super().__init__()
        self.clock = 0
        self.works = count(1)
        self.work = "none"
        # Rows that a cursor does not follow: changed in place, or inserted below the frontier.
        self.unfollowed: set[int] = set()

    @initialize(
        rows=st.integers(5, 10),
        lag=st.sampled_from([0, 0, 2]),
        many_parts=st.booleans(),
        first=st.sampled_from([30, 40, 45, 12, 0]),
        exported=st.sampled_from([True, True, False]),
    )
    def begin(self, rows: int, lag: int, many_parts: bool, first: int, exported: bool) -> None:
        """An empty table, or one that may have been exported already."""
        self.shape = Shape(self.mode, rows, lag if self.mode == "cursor" else 0, many_parts)
        self.world = self.make(self.shape)
        self._insert(range(1, 2 * first, 2), "a", ties=3)
        if exported:
            self.export_all([])

    # The source

    def _insert(self, ids: Any, note: str, ties: int) -> None:
        present = {row[0] for row in self.world.state()}
        for number, new in enumerate(sorted(set(ids) - present)[: _MOST_ROWS - len(present)]):
            self.clock += number % ties == 0
            self.world.ask("INSERT INTO {t} VALUES (%s, %s, %s)", new, self.clock, note)

    def _change(self, what: str, ids: set[int], note: str) -> None:
        """One statement on the source. The clock is what a cursor follows; what does not advance it is not seen."""
        ask, rows = self.world.ask, list(ids)
        if what == "insert":
            self.clock += 1
            self._insert(ids, note, ties=1 + len(ids) % 4)
        elif what == "update":
            self.clock += 1
            ask("UPDATE {t} SET note = %s, at = %s WHERE id = ANY(%s)", note, self.clock, rows)
        elif what == "delete":
            ask("DELETE FROM {t} WHERE id = ANY(%s)", rows)
        elif what == "insert late":
            self.unfollowed |= ids
            late = "SELECT n, %s, %s FROM unnest(%s) AS n LIMIT 5 ON CONFLICT DO NOTHING"
            ask("INSERT INTO {t} " + late, self.clock // 2, note, rows)
        else:
            self.unfollowed |= ids
            ask("UPDATE {t} SET note = %s WHERE id = ANY(%s)", note, rows)

    @rule(changes=st.lists(CHANGES, min_size=1, max_size=3))
    def change(self, changes: list[Change]) -> None:
        """Other rules change one thing first; this one does more."""
        for each in changes:
            self._change(*each)

    # Plans

    def _new_work(self) -> str:
        self.work = f"work-{next(self.works)}"
        return self.work

    @rule(change=CHANGES, fails=st.booleans(), rival=st.sampled_from([None, None, "", "rival"]))
    def plan(self, change: Change, fails: bool, rival: str | None) -> None:
        self._change(*change)
        self.world.plan(None, fails=fails, rival=None if fails else rival)

    @precondition(lambda self: self.world.plans)
    @rule(again=st.booleans(), rival=st.sampled_from([None, None, "", "rival"]))
    def replan(self, again: bool, rival: str | None) -> None:
        """A new generation; a retry of the work that began the newest one goes on with it."""
        begun = self.world.newest.head.work_id
        self.world.plan(begun if again and begun else self._new_work(), rival=rival)

    # Runs

    def _plan(self, back: int) -> Plan:
        held = self.world.held
        return held[-1 - back % len(held)]

    @staticmethod
    def _windows(plan: Plan, picks: set[int] | None) -> list[Window]:
        chosen = None if picks is None else {pick % max(len(plan.windows), 1) for pick in picks}
        return [window for window in plan.windows if chosen is None or window.index in chosen]

    @precondition(lambda self: self.world.held)
    @rule(change=CHANGES, back=BACK, picks=OFTEN_ALL, retry=st.booleans(), workers=st.integers(1, 3), pages=ONE)
    def run(self, change: Change, back: int, picks: set[int] | None, retry: bool, workers: int, pages: int) -> None:
        """New work, or a retry of the last one; with few picks, a reload."""
        self._change(*change)
        plan = self._plan(back)
        work = self.work if retry else self._new_work()
        self.world.run(plan, self._windows(plan, picks), work, workers=workers, pages=pages)

    @precondition(lambda self: self.world.held)
    @rule(picks=OFTEN_ALL, retry=st.booleans(), point=st.sampled_from(POINTS), at=ONE, workers=st.integers(1, 2))
    def run_that_fails(self, picks: set[int] | None, retry: bool, point: str, at: int, workers: int) -> None:
        plan = self.world.newest
        windows = self._windows(plan, picks)
        if windows:
            work = self.work if retry else self._new_work()
            failing = (point, windows[at % len(windows)].key)
            self.world.run(plan, windows, work, workers=workers, failing=failing)

    @precondition(lambda self: self.world.held)
    @rule(picks=OFTEN_ALL, retry=st.booleans(), taken=st.integers(0, 3), workers=st.integers(1, 3))
    def run_that_is_left(self, picks: set[int] | None, retry: bool, taken: int, workers: int) -> None:
        plan = self.world.newest
        work = self.work if retry else self._new_work()
        self.world.leave(plan, self._windows(plan, picks), work, taken, workers)

    @precondition(lambda self: self.world.held)
    @rule(back=BACK, picks=OFTEN_ALL)
    def race(self, back: int, picks: set[int] | None) -> None:
        """Two runs read the same windows, and each has read before the other one commits."""
        plan = self._plan(back)
        both = threading.Barrier(2)

        def meet(point: str, key: str = "") -> None:
            if point == "after_spool_close":
                both.wait(60)

        self.world.race(plan, self._windows(plan, picks), (self._new_work(), self._new_work()), meet)

    @precondition(lambda self: self.world.held and self.world.newest.windows)
    @rule(
        picks=OFTEN_ALL,
        at=ONE,
        point=MIDST,
        what=st.sampled_from(["run", "retry", "change", "seal", "clean", "plan", "replan"]),
        ids=RANGES,
    )
    def run_with_company(self, picks: set[int] | None, at: int, point: str, what: str, ids: set[int]) -> None:
        """While a run has read a window and not committed it, the source changes and something else is done."""
        world, plan = self.world, self.world.newest
        windows = self._windows(plan, picks)
        work = self._new_work()

        def company() -> None:
            self._change("update in place", ids, "c")
            if what in ("run", "retry"):
                world.run(plan, windows, work if what == "retry" else self._new_work())
            elif what == "plan":
                world.plan(None)
            elif what == "replan":
                world.plan(self._new_work())
            elif what == "seal":
                world.seal(plan)
            elif what == "clean":
                world.clean(late=False, dry_run=False)

        world.run_disturbed(plan, windows, work, Interlude(point, windows[at % len(windows)].key, company))

    @rule(ids=RANGES, at=ONE, point=st.sampled_from(["before_manifest_put", "after_part_put", "before_part_put"]))
    def come_back(self, ids: set[int], at: int, point: str) -> None:
        """Rows change and change back, so parts of long ago have the right bytes, while somebody cleans up."""
        world = self.world
        self.export_all([])
        rows = world.state()
        self._change("update in place", ids, "elsewhere")
        self.export_all([])
        self.unfollowed |= ids
        for row in rows:
            world.ask("UPDATE {t} SET note = %s WHERE id = %s AND note = 'elsewhere'", row[2], row[0])
        world.age()
        windows = world.newest.windows
        hit = [each.key for each in windows if ids.intersection(row[0] for row in self.shape.within(rows, each.span))]
        if hit:
            midway = Interlude(point, hit[at % len(hit)], world.clean_midway)
            world.run_disturbed(world.newest, windows, self._new_work(), midway)

    # Seals, readers, damage

    @precondition(lambda self: self.world.held)
    @rule(back=BACK, fails=st.sampled_from([False, False, True]))
    def seal(self, back: int, fails: bool) -> None:
        self.world.seal(self._plan(back), fails=fails)

    @precondition(lambda self: self.world.held)
    @rule(back=BACK)
    def complete(self, back: int) -> None:
        """Whatever is not committed is run, and the plan sealed."""
        plan, world = self._plan(back), self.world
        missing = [window for window in plan.windows if (plan.generation, window.key) not in world.committed]
        world.run(plan, missing, self._new_work())
        world.seal(plan)

    @rule(
        reloads=st.one_of(st.none(), CHANGES),
        late=st.sampled_from([True, True, False]),
        dry_run=st.sampled_from([False, False, True]),
    )
    def clean(self, reloads: Change | None, late: bool, dry_run: bool) -> None:
        """Perhaps with windows that were just read again, and are not sealed."""
        if reloads is not None and self.world.plans:
            self._change(*reloads)
            self.world.run(self.world.newest, self.world.newest.windows, self._new_work())
        self.world.clean(late=late, dry_run=dry_run)

    @precondition(lambda self: self.world.sealed)
    @rule()
    def open_reader(self) -> None:
        self.world.open_reader()

    @precondition(lambda self: self.world.readers)
    @rule(number=ONE)
    def refresh_reader(self, number: int) -> None:
        self.world.refresh_reader(number)

    @precondition(lambda self: self.world.committed)
    @rule(at=st.integers(0, 100), kind=st.sampled_from(["delete", "cut", "flip"]), repairs=st.booleans())
    def damage(self, at: int, kind: str, repairs: bool) -> None:
        """A part is damaged; its window is exported again at once, or somebody seals it."""
        world = self.world
        parts = [(place, path) for place, window in world.committed.items() for path in window.parts]
        if not parts:
            return
        (generation, key), path = parts[at % len(parts)]
        world.damage(path, kind)
        if repairs:
            plan = world.plans[generation]
            world.run(plan, plan.select([key]), self._new_work())
            assert world.damaged.isdisjoint(world.committed[generation, key].parts)
        else:
            world.seal(world.plans[generation])

    # What an undisturbed work ends with

    @rule(changes=st.lists(CHANGES, max_size=2))
    def export_all(self, changes: list[Change]) -> None:
        world = self.world
        for each in changes:
            self._change(*each)
        world.plan(None)
        world.run(world.newest, world.newest.windows, self._new_work())
        assert world.seal(world.newest) == ""
        self.unfollowed.clear()
        assert world.sealed is not None
        source = sorted(world.state(), key=self.shape.key)
        if not self.shape.lag:
            assert list(world.sealed.rows) == source
        else:
            assert list(world.sealed.rows) == source[: len(world.sealed.rows)]

    @precondition(lambda self: self.mode == "cursor")
    @rule()
    def follow(self) -> None:
        """Only new windows are run: the newest version of each row is that of the source."""
        world = self.world
        world.plan(None)
        self.complete(0)
        if world.sealed is None or world.sealed.generation != world.newest.generation:
            return
        newest: dict[int, tuple[int, int, str]] = {}
        for row in world.sealed.rows:
            newest[row[0]] = max(row, newest.get(row[0], row), key=lambda row: row[1])
        frontier = world.newest.windows[-1].span.hi if world.newest.windows else None
        bound = tuple(map(int, frontier)) if frontier else ()
        for row in world.state():
            if row[0] not in self.unfollowed and bound and self.shape.key(row)[: len(bound)] <= bound:
                assert newest[row[0]] == row

    @invariant()
    def holds(self) -> None:
        self.world.check()


@pytest.mark.parametrize("mode", ["keyset", "cursor"])
def test_no_history_loses_or_doubles_a_row(dsn: str, tmp_path: Path, mode: str) -> None:
    chosen = SEED if SEED != "random" else os.urandom(4).hex()
    print(f"RIVET_TEST_SEED={chosen}")  # noqa: T201 (shown where the test fails)
    numbers = count()
    with psycopg.connect(dsn, autocommit=True) as connection:

        def make(shape: Shape) -> World:
            number = next(numbers)
            return World(dsn, connection, tmp_path / "lake", f"history_{number}", shape)

        @seed(crc32(f"{chosen} {mode}".encode()))
        def machine() -> Histories:
            found = Histories()
            found.mode, found.make = mode, make
            return found

        run_state_machine_as_test(
            machine,  # type: ignore[arg-type]
            settings=settings(
                max_examples=HISTORIES,
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
            ),
        )
