"""SIGKILL at any moment, again and again: nothing is lost, nothing is twice, and nothing is left behind.

All kills strike one folder, export after export, while the table changes between an export's end and the next one.
RIVET_TEST_KILLS says how many, 8 in `make test` and 200 every night. Then exports by processes are killed as well, of
which the matrix of crashes has some in every test. RIVET_TEST_SEED gives other moments.
"""

from __future__ import annotations

import fcntl
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.postgres import EmbeddedPostgres
from tests.conftest import empty_database
from tests.crash.forking import Forking
from tests.crash.ground import Source, State, Trial, postgresql_source

KILLS = int(os.environ.get("RIVET_TEST_KILLS", "8"))
SEED = os.environ.get("RIVET_TEST_SEED", "1")
KILLED = -9
TRIALS = [("threads", KILLS), *([("processes", KILLS // 8)] if KILLS >= 100 else [])]


@pytest.fixture
def source(postgres: EmbeddedPostgres) -> Iterator[Source]:
    with empty_database(postgres) as database, postgresql_source(postgres, database) as source:
        yield source


# Children take their time to start, and a dead parent's to end.
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("engine", "kills"), TRIALS)
def test_killed_at_any_moment(engine: str, kills: int, source: Source, tmp_path: Path) -> None:
    seed = int(SEED) if SEED != "random" else int.from_bytes(os.urandom(4), "big")
    print(f"RIVET_TEST_SEED={seed}")  # noqa: T201 (shown where the test fails)
    moments = random.Random(seed)
    options = ("--engine", engine)
    with Forking(tmp_path) as forking:
        source.switch("old")
        timed = Trial(forking, source, "keyset", tmp_path / "timed")
        assert timed.export(*options).code == 0
        began = time.monotonic()  # the first one takes longer than any other
        assert timed.export(*options).code == 0
        seconds = time.monotonic() - began

        trial = Trial(forking, source, "keyset", tmp_path / "killed")
        ended: list[State] = []
        sealed: tuple[str, State] | None = None
        while kills:
            result = trial.export(*options, kill_after=moments.uniform(0, seconds))
            seen = trial.seen()
            if seen != sealed:
                assert seen is not None
                assert seen[1] == source.state, "no seal of another state, and no way back"
                sealed = seen
            if result.code == KILLED:
                kills -= 1
                continue
            assert result.code == 0, result.err
            ended.append(ended_in(source))
            source.switch("new" if source.state == "old" else "old")
        wait_until_alone(trial.folder)
        assert trial.export(*options).code == 0
        ended.append(ended_in(source))

        undisturbed = Trial(forking, source, "keyset", tmp_path / "undisturbed")
        for state in as_good_as(ended):
            source.switch(state)
            assert undisturbed.export().code == 0
        assert trial.seen() == undisturbed.seen()
        assert trial.files() == undisturbed.files()
        assert list(trial.spool.iterdir()) == []
        for each in (trial, undisturbed):
            assert each.clean().code == 0
        assert trial.files() == undisturbed.files()


def wait_until_alone(folder: Path) -> None:
    """Until the children of dead parents have ended: whoever is alone with the folder removes unfinished files."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.close(descriptor)


def ended_in(source: Source) -> State:
    assert source.state is not None
    return source.state


def as_good_as(states: list[State]) -> list[State]:
    """The shortest series of changes that comes to the same: the plan grows with the first one only."""
    return states if len(states) < 5 else states[: 4 - len(states) % 2]
