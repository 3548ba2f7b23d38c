"""Tilings: whatever the keys and the windows, the union is the table, and no row is in two windows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.exports import export_all, prepared
from tests.support.readers import exported_rows

# Text without NUL (PostgreSQL has none) and without lone surrogates (UTF-8 has none).
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=5)

KEYS: dict[str, st.SearchStrategy[Any]] = {
    "integer": st.integers(-(2**31), 2**31 - 1),
    "bigint": st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-5, 5)),
    "text": TEXT,
    'text COLLATE "C"': TEXT,
    "char(4)": st.text("aB 9é", max_size=4),
    "uuid": st.uuids(),
    "numeric(12,3)": st.decimals(min_value=-(10**8), max_value=10**8, places=3),
    "timestamptz": st.datetimes(),
    "date": st.dates(),
    "bytea": st.binary(max_size=6),
    "boolean": st.booleans(),
    "double precision": st.floats(allow_nan=True, allow_infinity=True),
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], list[tuple[Any, ...]]]:
    kinds = draw(st.lists(st.sampled_from(sorted(KEYS)), min_size=1, max_size=3))
    rows = draw(st.lists(st.tuples(*(KEYS[kind] for kind in kinds)), max_size=25))
    return kinds, rows


@pytest.fixture
def run(dsn: str) -> Callable[[Any], None]:
    def check(case: tuple[tuple[list[str], list[tuple[Any, ...]]], int, int]) -> None:
        (kinds, rows), window_rows, workers = case
        names = [f"k{n}" for n in range(len(kinds))]
        with psycopg.connect(dsn, autocommit=True) as connection, tempfile.TemporaryDirectory() as folder:
            columns = ", ".join(f"{name} {kind} NOT NULL" for name, kind in zip(names, kinds, strict=True))
            connection.execute("DROP TABLE IF EXISTS public.t")
            connection.execute(f"CREATE TABLE public.t ({columns}, PRIMARY KEY ({', '.join(names)}))")  # type: ignore[call-overload]
            holders = ", ".join(["%s"] * len(names))
            for row in rows:
                connection.execute(f"INSERT INTO public.t VALUES ({holders}) ON CONFLICT DO NOTHING", row)  # type: ignore[call-overload]
            keys = (
                connection.cursor(binary=True)
                .execute(
                    f"SELECT * FROM public.t ORDER BY {', '.join(names)}"  # type: ignore[call-overload]
                )
                .fetchall()
            )
            connection.execute("SET timezone = 'UTC'")
            export = prepared(dsn, Path(folder), "public.t", rows=window_rows)
            outcomes = export_all(export, workers=workers)
            found = exported_rows(Path(folder) / "public.t")
        assert [repr(row) for row in found] == [repr(_utc(row)) for row in keys]
        assert all(outcome.manifest is not None and outcome.manifest.rows for outcome in outcomes)

    return check


def _utc(row: tuple[Any, ...]) -> tuple[Any, ...]:
    import datetime as dt

    return tuple(
        value.astimezone(dt.timezone.utc) if isinstance(value, dt.datetime) and value.tzinfo else value for value in row
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=st.tuples(tables(), st.integers(1, 9), st.integers(1, 3)))
def test_windows_tile_the_key_space(run: Callable[[Any], None], case: Any) -> None:
    run(case)
