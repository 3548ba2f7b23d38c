"""Windows of every type by every kind of key on every engine: each row is in one of them, whatever comes and goes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from random import Random

import psycopg
import pytest

from demo.mariadb import MariaServer
from rivet_dagster.errors import RivetError
from tests.conftest import empty_database
from tests.support.debian import DebianPostgres
from tests.support.planners.kinds import KINDS
from tests.support.planners.trial import ENGINES, MODES, Bench, PostgresBench, Trial, matrix, mysql_bench

# Random tables a combination, and where they come from.
PLANS = int(os.environ.get("RIVET_TEST_PLANS", "1"))
SEED = os.environ.get("RIVET_TEST_SEED", "1")

MATRIX = matrix()


def test_the_matrix_has_every_combination() -> None:
    assert set(MATRIX) == set(product(MODES, ENGINES, KINDS))
    assert all(outcome == "tested" or outcome.startswith("RIVET_") for outcome in MATRIX.values())


@pytest.fixture(scope="module")
def postgresql_bench(debian_postgres: DebianPostgres) -> Iterator[Bench]:
    with empty_database(debian_postgres) as name:
        dsn = debian_postgres.dsn(name)
        with psycopg.connect(dsn, autocommit=True, options="-c timezone=UTC") as connection:
            yield PostgresBench(dsn, connection)


@pytest.fixture(scope="module")
def mariadb_bench(mariadb: MariaServer) -> Iterator[Bench]:
    with mariadb.connect() as admin, admin.cursor() as cursor:
        cursor.execute("CREATE DATABASE planners")
        with mysql_bench(mariadb.dsn("planners")) as bench:
            yield bench
        cursor.execute("DROP DATABASE planners")


@pytest.fixture
def bench(request: pytest.FixtureRequest, engine: str) -> Bench:
    found: Bench = request.getfixturevalue("mariadb_bench" if engine == "mysql" else f"{engine}_bench")
    return found


@pytest.mark.parametrize(("mode", "engine", "kind"), MATRIX)
def test_windows_have_every_row_once(bench: Bench, mode: str, engine: str, kind: str, tmp_path: Path) -> None:
    outcome = MATRIX[mode, engine, kind]
    seed = SEED if SEED != "random" else os.urandom(4).hex()
    print(f"RIVET_TEST_SEED={seed}")  # noqa: T201 (shown where the test fails)
    for number in range(PLANS):
        random = Random(f"{seed} {mode} {engine} {kind} {number}")
        trial = Trial(bench, mode, kind, random, tmp_path / str(number))
        if outcome == "tested":
            trial.run()
            continue
        with pytest.raises(RivetError) as caught:
            trial.export.plan()
        assert caught.value.code == outcome
        assert not (tmp_path / str(number)).exists()
