"""Whatever the types, the values, the names and the limits: an export holds what the server itself says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.postgres import EmbeddedPostgres
from rivet_dagster.sources.postgres.typemap import RULES, TEXT_RULES
from tests.conftest import empty_database
from tests.support.debian import DebianPostgres
from tests.support.universe.cases import Case
from tests.support.universe.postgres.kinds import ANY_ARRAY, KINDS, MATRIX
from tests.support.universe.postgres.server import Postgres
from tests.support.universe.roundtrip import Workbench, check
from tests.support.universe.tier import check_random_tables

FIXTURES = sorted((Path(__file__).parent / "fixtures/postgres").glob("*.json"))


@pytest.fixture(scope="session")
def newest(postgres: EmbeddedPostgres) -> Iterator[Workbench]:
    with (
        empty_database(postgres) as name,
        Postgres.opened(postgres.dsn(name)) as engine,
        Workbench.opened(engine) as bench,
    ):
        yield bench


@pytest.fixture(scope="session")
def debian(debian_postgres: DebianPostgres) -> Iterator[Workbench]:
    with (
        empty_database(debian_postgres) as name,
        Postgres.opened(debian_postgres.dsn(name)) as engine,
        Workbench.opened(engine) as bench,
    ):
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
    check_random_tables(bench, "tests/property/fixtures/postgres")


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.stem)
def test_kept_tables(bench: Workbench, fixture: Path) -> None:
    case = Case.from_json(fixture.read_text())
    check(bench, case)
