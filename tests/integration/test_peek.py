"""Rows of small tables, read on from the last one that is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rivet_dagster import ExportConfig, RivetError
from rivet_dagster.export import peek
from rivet_dagster.export.peek import rows_beyond

Sql = Callable[[str], list[tuple[Any, ...]]]


def read_on(dsn: str, table: str, columns: tuple[str, ...], after: list[str] | None) -> tuple[Any, Any]:
    return rows_beyond(dsn, ExportConfig(table=table), after, columns)


@pytest.mark.parametrize("engine", ["postgres", "mariadb"])
def test_rows_are_read_on_a_few_at_a_time(
    request: pytest.FixtureRequest, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn: str = request.getfixturevalue("dsn" if engine == "postgres" else "mysql_dsn")
    sql: Sql = request.getfixturevalue("sql" if engine == "postgres" else "mysql_sql")
    table = "public.t" if engine == "postgres" else f"{dsn.rpartition('/')[2]}.t"
    sql("CREATE TABLE t (b varchar(9), note text, a bigint, PRIMARY KEY (a, b))")
    monkeypatch.setattr(peek, "_MOST_ROWS", 10)
    assert read_on(dsn, table, ("note",), None) == ([], None)
    for number in range(25):
        sql(f"INSERT INTO t VALUES ('k{number % 2}', {'NULL' if number % 3 else repr(str(number))}, {number // 2})")
    expected = [(None if number % 3 else str(number), number // 2) for number in range(25)]
    found: list[tuple[Any, ...]] = []
    last: list[str] | None = None
    for size in (10, 10, 5, 0):
        rows, last = read_on(dsn, table, ("note", "a"), last)
        assert len(rows) == size
        found += rows
    assert found == expected
    assert last == ["12", "k0"]
    sql("INSERT INTO t VALUES ('k1', 'later', 12), ('k0', 'before', -1)")
    assert read_on(dsn, table, ("note", "a"), last) == ([("later", 12)], ["12", "k1"])


def test_a_table_that_cannot_be_read_on(dsn: str, sql: Sql) -> None:
    sql("CREATE TABLE public.t (id int, note text)")
    with pytest.raises(RivetError, match="RIVET_KEY_MISSING"):
        read_on(dsn, "public.t", ("note",), None)
    sql("ALTER TABLE public.t ADD PRIMARY KEY (id)")
    with pytest.raises(RivetError, match="RIVET_CONFIG_COLUMN"):
        read_on(dsn, "public.t", ("notes",), None)
    with pytest.raises(RivetError, match="RIVET_SOURCE_TABLE_MISSING"):
        read_on(dsn, "public.u", ("note",), None)
