"""Whatever the types, the values, the names and the limits: an export holds what MariaDB itself says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from demo.mariadb import MariaServer
from rivet_dagster.errors import SourceError
from rivet_dagster.sources.mysql.typemap import RULES
from tests.support.universe.cases import Case, CaseColumn
from tests.support.universe.mysql.kinds import KINDS, MATRIX
from tests.support.universe.mysql.server import Mysql
from tests.support.universe.roundtrip import Workbench, check, export_of
from tests.support.universe.tier import check_random_tables

FIXTURES = sorted((Path(__file__).parent / "fixtures/mysql").glob("*.json"))


@pytest.fixture(scope="session")
def bench(mariadb: MariaServer) -> Iterator[Workbench]:
    with (
        mariadb.connect() as connection,
        Mysql.opened(mariadb.dsn(), connection) as engine,
        Workbench.opened(engine) as found,
    ):
        yield found


def test_every_rule_is_in_the_matrix() -> None:
    """A type that gets a rule gets values too, and is a key where it can be one."""
    assert {rule.name for rule in RULES} <= set(MATRIX)
    assert set(MATRIX) == set(KINDS)
    assert {rule.name for rule in RULES if rule.key} == {rule.name for rule in RULES if MATRIX[rule.name].key}


def test_the_matrix_says_where_a_reader_sees_less() -> None:
    """What `reading` does by type: every other value is compared exactly, through both readers."""
    assert {row.pyarrow for row in MATRIX.values()} == {"same"}
    less = {(row.duckdb, row.canonical) for row in MATRIX.values() if row.duckdb != "same"}
    assert less == {("same to 38 digits; a double beyond them", "decimal(P, S)")}


@pytest.mark.timeout(3600)
def test_random_tables(bench: Workbench) -> None:
    check_random_tables(bench, "tests/property/fixtures/mysql")


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.stem)
def test_kept_tables(bench: Workbench, fixture: Path) -> None:
    check(bench, Case.from_json(fixture.read_text()))


def test_char_that_is_not_padded_is_no_key(bench: Workbench, lake: Path) -> None:
    """Its index is sorted by the blanks that fill it: a tab, which is less than a blank, comes before an empty text."""
    declared = "char(2) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin"
    column = CaseColumn("k", "char", declared, False, False, ("", "\t", "a"))
    case = Case(bench.engine.plain_schema, "not_padded", (column,), ("k",), 3)
    bench.engine.make_table(case)
    try:
        with pytest.raises(SourceError) as refused:
            export_of(bench.engine.dsn, case, lake).plan()
        assert refused.value.code == "RIVET_KEY_MISSING"
        check(bench, replace(case, key=(), table="without_key"))
    finally:
        bench.engine.drop_table(case)
