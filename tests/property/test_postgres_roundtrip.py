"""Whatever the types, the values, the names and the limits: an export holds what the server itself says."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from demo.postgres import EmbeddedPostgres
from rivet_dagster.sources.postgres.typemap import RULES, TEXT_RULES
from tests.conftest import empty_database
from tests.support.debian import DebianPostgres
from tests.support.universe.cases import Case, cases
from tests.support.universe.kinds import ANY_ARRAY, KINDS, MATRIX
from tests.support.universe.reduce import smallest
from tests.support.universe.roundtrip import Workbench, check

FIXTURES = sorted((Path(__file__).parent / "fixtures").glob("*.json"))
# How many random tables for each server, and from where: a small number of the same ones, unless asked otherwise.
SCHEMAS = int(os.environ.get("RIVET_TEST_SCHEMAS", "12"))
SEED = os.environ.get("RIVET_TEST_SEED", "1")


@pytest.fixture(scope="session")
def newest(postgres: EmbeddedPostgres) -> Iterator[Workbench]:
    with empty_database(postgres) as name, Workbench.opened(postgres.dsn(name)) as bench:
        yield bench


@pytest.fixture(scope="session")
def debian(debian_postgres: DebianPostgres) -> Iterator[Workbench]:
    with empty_database(debian_postgres) as name, Workbench.opened(debian_postgres.dsn(name)) as bench:
        yield bench


@pytest.fixture(scope="session", params=["newest", "debian"])
def bench(request: pytest.FixtureRequest) -> Workbench:
    found: Workbench = request.getfixturevalue(request.param)
    return found


def test_every_rule_is_in_the_matrix() -> None:
    """A type that gets a rule gets values too."""
    assert {rule.declared for rule in (*RULES, *TEXT_RULES)} <= set(MATRIX)
    assert set(MATRIX) == {*KINDS, ANY_ARRAY}


def test_the_matrix_says_where_a_reader_sees_less() -> None:
    """What `reading` does by type: every other value is compared exactly, through both readers."""
    less: dict[str, set[str]] = {}
    for row in MATRIX.values():
        assert row.pyarrow == "same"
        less.setdefault(row.duckdb, set()).add(row.canonical)
    del less["same"]
    assert less == {
        "same to 38 digits; a double beyond them": {"decimal(P, S)"},
        "same but for its own infinities": {"timestamp(us)", "timestamp(us, UTC)"},
    }


@pytest.mark.timeout(3600)
def test_random_tables(bench: Workbench) -> None:
    number = int(SEED) if SEED != "random" else int.from_bytes(os.urandom(4), "big")
    print(f"RIVET_TEST_SEED={number} for PostgreSQL {bench.facts.version}")  # noqa: T201 (shown where the test fails)

    @seed(number)
    @settings(
        max_examples=SCHEMAS,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        # A table of many columns takes long to make up; that is what it is for.
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )
    @given(case=cases(bench.facts))
    def run(case: Case) -> None:
        latest[:] = [case]
        check(bench, case)

    latest: list[Case] = []
    try:
        run()
    except Exception as error:  # noqa: BLE001 (it is raised again, with a smaller case)
        found = _place(error)
        case = smallest(latest[-1], lambda smaller: _failure(bench, smaller) == found)
        raise AssertionError(f"To keep it, put this into tests/property/fixtures:\n{case.to_json()}{error!r}") from None


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


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.stem)
def test_kept_tables(bench: Workbench, fixture: Path) -> None:
    case = Case.from_json(fixture.read_text())
    check(bench, case)
