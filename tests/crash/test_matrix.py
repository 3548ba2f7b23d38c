"""Every boundary of an export, an error or a death there, and what is seen then and after the same command again.

`matrix.csv` lists all cells, and why some cannot be. `make test` takes one of each boundary, action and engine; with
RIVET_TEST_CRASHES=all, as every night, all of them are taken.
"""

from __future__ import annotations

import csv
import os
import random
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest

from rivet_dagster import open_export
from rivet_dagster.export.faults import POINTS
from tests.conftest import empty_database
from tests.crash.forking import Forking
from tests.crash.ground import WINDOWS, Source, Trial, mariadb_source, postgresql_source, rows_of
from tests.support.cli import Result
from tests.support.readers import part_files, sealed

ACTIONS = ("raise", "kill")
ENGINES = ("threads", "processes")
OCCASIONS = ("first", "reexport", "retry")
DATABASES = ("postgresql", "mariadb")
# What happens in the process that the user started, whatever its workers are.
OF_THE_PARENT = {"before_plan_segment", "after_plan_segment", "during_seal"}
# What happens once an export; all else happens in every window.
ONCE = OF_THE_PARENT
KILLED = -9
ALL = os.environ.get("RIVET_TEST_CRASHES") == "all"
# Such that the few cells have every occasion with every type of windows and on every server.
SEED = 0


class Cell(NamedTuple):
    boundary: str
    action: str
    engine: str
    occasion: str
    windows: str
    database: str
    outcome: str

    def __str__(self) -> str:
        return "-".join(self[:6])

    @property
    def fault(self) -> str:
        """As RIVET_FAULT has it: at a place that follows from the cell."""
        places = 1 if self.boundary in ONCE else 2 if self.occasion == "retry" else 5
        return f"{self.boundary}:{random.Random(str(self)).randint(1, places)}:{self.action}"

    @property
    def options(self) -> list[str]:
        """Of the command line. One process sees every window, however quick others are."""
        return ["--engine", self.engine, "--workers", "2" if self.engine == "threads" else "1"]

    @property
    def going_on(self) -> list[str]:
        """The same command; but the few cells of `make test` do not wait for more processes to start."""
        return self.options if ALL else ["--workers", "2"]

    @property
    def anew(self) -> list[str]:
        return ["--fresh"] if self.occasion == "reexport" else []


def cells() -> list[Cell]:
    with (Path(__file__).parent / "matrix.csv").open(newline="") as file:
        return [Cell(*row) for row in csv.reader(file)][1:]


def chosen(*, tested: bool) -> list[Cell]:
    """All cells of a kind, or of each boundary, action and engine one."""
    kind = [cell for cell in cells() if (cell.outcome == "tested") is tested]
    if ALL:
        return kind
    by_place: dict[tuple[str, ...], list[Cell]] = {}
    for cell in kind:
        if tested or cell.engine == "threads" or cell.outcome == "cleaning has no workers":
            by_place.setdefault(cell[:3] if tested else (cell.boundary, cell.outcome), []).append(cell)
    return [random.Random(f"{SEED}-{place}").choice(found) for place, found in by_place.items()]


class Ground:
    """The sources, and exports to begin from and to compare with, each made once."""

    def __init__(self, folder: Path, sources: dict[str, Source], forking: Forking) -> None:
        self._folder = folder
        self._sources = sources
        self._forking = forking
        self._made: dict[tuple[str, str, str], Trial] = {}

    def get(self, cell: Cell, name: str) -> Trial:
        """One of the exports below, of the cell's source and windows; leaves the table in the state it was read in."""
        source = self._sources[cell.database]
        source.switch("new" if name in ("reexported", "cleaned", "new") else "old")
        key = (cell.database, cell.windows, name)
        if key not in self._made:
            lake = self._folder / "-".join(key)
            self._made[key] = getattr(self, f"_{name}")(cell, Trial(self._forking, source, cell.windows, lake), lake)
        return self._made[key]

    def begin(self, cell: Cell, lake: Path) -> Trial:
        """What the cell's export finds; the table may be in any state."""
        if cell.occasion == "first":
            return Trial(self._forking, self._sources[cell.database], cell.windows, lake)
        return self.get(cell, "old" if cell.occasion == "reexport" else "interrupted").copy(lake)

    def end(self, cell: Cell) -> Trial:
        """What it comes to undisturbed; the table is in its state."""
        return self.get(cell, "reexported" if cell.occasion == "reexport" else "old")

    def _old(self, _: Cell, trial: Trial, __: Path) -> Trial:
        return done(trial.export(), trial)

    _new = _old

    def _interrupted(self, _: Cell, trial: Trial, __: Path) -> Trial:
        assert trial.export(fault="after_manifest_put:2:kill").code == KILLED
        return trial

    def _reexported(self, cell: Cell, _: Trial, lake: Path) -> Trial:
        trial = self.get(cell, "old").copy(lake)
        trial.source.switch("new")
        return done(trial.export("--fresh"), trial)

    def _cleaned(self, cell: Cell, _: Trial, lake: Path) -> Trial:
        trial = self.get(cell, "reexported").copy(lake)
        done(trial.clean(), trial)
        assert set(trial.folder.rglob("part-*")) == set(part_files(trial.folder)), "only the seal's parts"
        return trial


def done(result: Result, trial: Trial) -> Trial:
    assert result.code == 0, result.err
    return trial


@pytest.fixture(scope="module")
def ground(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    folder = tmp_path_factory.mktemp("ground")
    postgres, mariadb = (request.getfixturevalue(name) for name in ("postgres", "mariadb"))
    with ExitStack() as stack:
        sources = {
            "postgresql": stack.enter_context(
                postgresql_source(postgres, stack.enter_context(empty_database(postgres)))
            ),
            "mariadb": stack.enter_context(mariadb_source(mariadb, "crashes")),
        }
        yield Ground(folder, sources, stack.enter_context(Forking(folder)))


def test_the_matrix_is_complete() -> None:
    listed = [cell[:6] for cell in cells()]
    assert listed == list(product(POINTS, ACTIONS, ENGINES, OCCASIONS, WINDOWS, DATABASES))


def test_the_chosen_cells_have_everything() -> None:
    some = chosen(tested=True)
    assert {cell[:3] for cell in some} == {cell[:3] for cell in cells() if cell.outcome == "tested"}
    pairs = {(cell.occasion, cell.windows, cell.database) for cell in some}
    assert {pair[:2] for pair in pairs} == set(product(OCCASIONS, WINDOWS))
    assert {pair[::2] for pair in pairs} == set(product(OCCASIONS, DATABASES))


@pytest.mark.parametrize("cell", [c for c in chosen(tested=True) if not c.boundary.endswith("removal")], ids=str)
def test_an_export_that_crashes_and_goes_on(cell: Cell, ground: Ground, tmp_path: Path) -> None:
    trial = ground.begin(cell, tmp_path / "trial")
    undisturbed = ground.end(cell)
    before = trial.seen()
    reader = open_export(trial.folder) if before else None
    crashed = trial.export(*cell.options, *cell.anew, fault=cell.fault)
    assert trial.faulted
    # Of a child that dies, the parent has the window read again.
    survived = cell.action == "kill" and cell.engine == "processes" and cell.boundary not in OF_THE_PARENT
    assert crashed.code == (0 if survived else KILLED if cell.action == "kill" else 1), crashed.err
    if cell.action == "raise":
        assert crashed.json["error"]["code"] == "RIVET_FAULT"

    is_sealed = survived or cell.boundary == "during_seal"
    assert trial.seen() == (undisturbed.seen() if is_sealed else before)
    if survived:
        assert crashed.json["worker_deaths"] == 1
    else:
        committed = trial.committed()
        resumed = trial.export(*cell.going_on)
        assert resumed.code == 0, resumed.err
        assert resumed.json["resumed"] is (committed is not None)
        assert resumed.json["windows_reused"] == (committed or 0), "what is committed is not read again"

    assert trial.seen() == undisturbed.seen()
    assert trial.files() == undisturbed.files()
    assert list(trial.spool.iterdir()) == [], "no spool of a dead process is left"
    if reader:
        assert rows_of(reader) == trial.source.rows["old"], "who reads an earlier seal goes on with it"
    if cell.occasion == "reexport":
        again = ground.get(cell, "new")
        assert sealed(trial.folder)["row_fingerprint"] == sealed(again.folder)["row_fingerprint"]
        done(trial.clean(), trial)
        assert trial.files() == ground.get(cell, "cleaned").files()


@pytest.mark.parametrize("cell", [c for c in chosen(tested=True) if c.boundary.endswith("removal")], ids=str)
def test_a_cleaning_that_crashes_and_goes_on(cell: Cell, ground: Ground, tmp_path: Path) -> None:
    trial = ground.get(cell, "reexported").copy(tmp_path / "trial")
    (trial.folder / "g1/data/stray").write_bytes(b"of somebody else")
    files, seen = len(trial.files()), trial.seen()
    crashed = trial.clean(cell.fault)
    assert trial.faulted
    assert crashed.code == (KILLED if cell.action == "kill" else 1)
    assert cell.action == "kill" or "RIVET_FAULT" in crashed.err
    assert trial.seen() == seen
    # What is set aside comes first, by its name, and stays a file.
    nth = int(cell.fault.split(":")[1])
    assert len(trial.files()) == files - max(nth - 1 - (cell.boundary == "before_removal"), 0)
    done(trial.clean(), trial)
    cleaned = ground.get(cell, "cleaned").files()
    assert trial.files() == {**cleaned, "quarantine/g1/data/stray": b"of somebody else"}
    assert trial.seen() == seen


@pytest.mark.parametrize("cell", chosen(tested=False), ids=str)
def test_what_cannot_crash_does_not(cell: Cell, ground: Ground, tmp_path: Path) -> None:
    trial = ground.begin(cell, tmp_path / "trial")
    undisturbed = ground.end(cell)
    fault = f"{cell.boundary}:1:{cell.action}"
    done(trial.export(*cell.options, *cell.anew, fault=fault), trial)
    assert not trial.faulted
    if cell.boundary.endswith("removal") and cell.occasion != "reexport":
        done(trial.clean(fault), trial)
        assert not trial.faulted
    assert trial.files() == undisturbed.files()
