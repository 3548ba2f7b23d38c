"""Tilings: whatever the keys and the windows, the union is the table, and no row is in two windows."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import psycopg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.exports import export_all, prepared
from tests.support.readers import assert_same, exported_rows, source_rows

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


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=tables(), rows=st.integers(1, 9), workers=st.integers(1, 3))
def test_windows_tile_the_key_space(dsn: str, table: tuple[list[str], list[Any]], rows: int, workers: int) -> None:
    kinds, values = table
    names = [f"k{n}" for n in range(len(kinds))]
    key = ", ".join(names)
    columns = ", ".join(f"{name} {kind} NOT NULL" for name, kind in zip(names, kinds, strict=True))
    with psycopg.connect(dsn, autocommit=True) as connection, tempfile.TemporaryDirectory() as lake:
        connection.execute("DROP TABLE IF EXISTS public.t")
        connection.execute(f"CREATE TABLE public.t ({columns}, PRIMARY KEY ({key}))")  # type: ignore[call-overload]
        insert = f"INSERT INTO public.t VALUES ({', '.join(['%s'] * len(names))}) ON CONFLICT DO NOTHING"
        connection.cursor().executemany(insert, values)  # type: ignore[arg-type]
        outcomes = export_all(prepared(dsn, Path(lake), "public.t", rows=rows), workers=workers)
        assert_same(exported_rows(Path(lake) / "public.t"), source_rows(dsn, "public.t", ",".join(names)))
    assert all(outcome.manifest is not None and outcome.manifest.rows for outcome in outcomes)
