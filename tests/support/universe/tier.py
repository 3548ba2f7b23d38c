"""The tier of random tables: a few of the same ones by default, as many as asked for, and those that were kept."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.support.universe.cases import Case
from tests.support.universe.reduce import smallest
from tests.support.universe.roundtrip import Workbench, check

T = TypeVar("T")

# How many random tables for each server, and from where: a small number of the same ones, unless asked otherwise.
SCHEMAS = int(os.environ.get("RIVET_TEST_SCHEMAS", "12"))
SEED = os.environ.get("RIVET_TEST_SEED", "1")


def check_random_tables(bench: Workbench, fixtures: str) -> None:
    """Check random cases; the first that fails is made small.

    Args:
        bench: the server and the readers.
        fixtures: folder that a failing case is to be kept in, for the message.
    """
    number = int(SEED) if SEED != "random" else int.from_bytes(os.urandom(4), "big")
    print(f"RIVET_TEST_SEED={number} for {bench.engine.label}")  # noqa: T201 (shown where the test fails)

    case: Case | None = None
    try:
        for case in random_cases(bench.engine.cases(), number, SCHEMAS):
            check(bench, case)
    except Exception as error:
        if case is None:
            raise
        found = _place(error)
        small = smallest(bench.engine, case, lambda smaller: _failure(bench, smaller) == found)
        raise AssertionError(f"To keep it, put this into {fixtures}:\n{small.to_json()}{error!r}") from None


def random_cases(cases: st.SearchStrategy[T], first: int, count: int) -> Iterator[T]:
    """So many cases, none of them made out of another one, as hypothesis does within a run of its own."""
    return (_random_case(cases, f"{first}-{number}") for number in range(count))


def _random_case(cases: st.SearchStrategy[T], name: str) -> T:
    found: list[T] = []

    @seed(name)
    @settings(
        # The first example is always the plainest one.
        max_examples=2,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        # A table of many columns takes long to make up; that is what it is for.
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def take(case: T) -> None:
        found.append(case)

    take()
    return found[-1]


def _failure(bench: Workbench, case: Case) -> tuple[str, ...] | None:
    """How a case fails, if it does: a smaller one may fail in another way, such as by a value that is none."""
    try:
        check(bench, case)
    except Exception as error:  # noqa: BLE001 (whatever it is, it is held against another one)
        return _place(error)
    return None


def _place(error: Exception) -> tuple[str, ...]:
    """What an error is, and where in the tests it came from."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/tests/support/" in frame.filename]
    return (type(error).__name__, *(str(frame.lineno) for frame in frames[-1:]))
