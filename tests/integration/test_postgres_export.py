"""Exports from a real server, read back with an independent reader and compared value by value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rivet_dagster.errors import DriftError, PlanError, RivetError, SourceError
from tests.support.exports import export_all, prepared, run_all
from tests.support.readers import arrow_rows, assert_same, exported_rows, part_files, sealed, source_rows, tree
from tests.support.tables import EVENTS, LINEITEM, make_table

Sql = Callable[[str], list[tuple[Any, ...]]]

EVERY_TYPE = """
CREATE TABLE public.things (
    a integer, b bigint, c smallint, flag boolean, f4 real, f8 double precision,
    n9 numeric(9,4), n18 numeric(18,0), n38 numeric(38,10), n76 numeric(76,30), nn numeric(5,5),
    d date, ts timestamp, tz timestamptz, ts3 timestamp(3), u uuid, t text, v varchar(20), ch char(6), by bytea,
    j json, jb jsonb, PRIMARY KEY (a)
)
"""

EDGES = (
    "(1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,"
    " NULL, NULL, NULL)",
    "(2, 9223372036854775807, 32767, true, 'infinity', '-infinity', 99999.9999, 999999999999999999,"
    " 9999999999999999999999999999.9999999999,"
    " 9999999999999999999999999999999999999999999999.999999999999999999999999999999, 0.99999,"
    " '9999-12-31', '9999-12-31 23:59:59.999999', '9999-12-31 23:59:59.999999+00', '2024-02-29 12:34:56.789',"
    " 'ffffffff-ffff-ffff-ffff-ffffffffffff', 'é\U0001f600\n\"''', '', 'ab', '\\x00ff', '{\"a\" : 1.0}', '{\"b\":[]}')",
    "(3, -9223372036854775808, -32768, false, 1.1, 4.9e-324, -99999.9999, -999999999999999999,"
    " -0.0000000001, -0.000000000000000000000000000001, -0.00001, '0001-01-01', '0001-01-01 00:00:00',"
    " '1969-12-31 23:59:59.999999+00', '1970-01-01', '00000000-0000-0000-0000-000000000000', '', 'x', '', '',"
    " 'null', 'null')",
    "(-2147483648, 0, 0, NULL, '-0', 1.7976931348623157e308, 0, 10000, 10000, 1e20, 0.1, '1970-01-01',"
    " '2000-01-01', '2000-01-01+00', NULL, NULL, repeat('ü', 70000), NULL, NULL, decode(repeat('ab', 50000), 'hex'),"
    " '1', to_jsonb(repeat('z', 3000)))",
)


def assert_equal_rows(
    dsn: str, lake: Path, table: str, key: str, read: Callable[[Path], list[Any]] = exported_rows
) -> None:
    assert_same(read(lake / table), source_rows(dsn, table, key))


@pytest.mark.parametrize("rows", [1, 2, 1000])
def test_every_type_and_its_edges(dsn: str, sql: Sql, lake: Path, rows: int) -> None:
    sql(EVERY_TYPE)
    sql(f"INSERT INTO public.things VALUES {', '.join(EDGES)}")
    export_all(prepared(dsn, lake, "public.things", rows=rows))
    assert_equal_rows(dsn, lake, "public.things", "a", arrow_rows)


@pytest.mark.parametrize("rows", [1, 1000])
def test_duckdb_reads_the_same(dsn: str, sql: Sql, lake: Path, rows: int) -> None:
    sql(EVERY_TYPE)
    sql("ALTER TABLE public.things DROP n76")  # DuckDB has no decimals beyond 38 digits
    shorter = [
        edge.replace("9999999999999999999999999999999999999999999999.999999999999999999999999999999, ", "")
        .replace("-0.000000000000000000000000000001, ", "")
        .replace("1e20, ", "")
        for edge in EDGES[1:]
    ]
    sql(f"INSERT INTO public.things VALUES {', '.join(shorter)}")
    sql("INSERT INTO public.things (a) VALUES (1)")
    export_all(prepared(dsn, lake, "public.things", rows=rows))
    assert_equal_rows(dsn, lake, "public.things", "a")


def test_events_with_gaps_under_a_uuid_key(dsn: str, database: Any, lake: Path) -> None:
    make_table(database, EVENTS, 20_000)
    export_all(prepared(dsn, lake, "public.events", rows=3000, limits={"page_bytes": 65536}), workers=3)
    assert_equal_rows(dsn, lake, "public.events", "id")


def test_parts_carry_types_nullability_and_native_types(dsn: str, sql: Sql, lake: Path) -> None:
    sql(EVERY_TYPE)
    sql(f"INSERT INTO public.things VALUES {EDGES[1]}")
    export_all(prepared(dsn, lake, "public.things"))
    schema = pq.read_schema(part_files(lake / "public.things")[0])
    assert str(schema.field("n76").type) == "decimal256(76, 30)"
    assert str(schema.field("tz").type) == "timestamp[us, tz=UTC]"
    assert schema.field("u").type.extension_name == "arrow.uuid"
    assert schema.field("jb").type.extension_name == "arrow.json"
    assert not schema.field("a").nullable
    assert schema.field("b").nullable
    assert schema.field("v").metadata[b"rivet.native_type"] == b"character varying(20)"


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("n9", "'NaN'", "NaN"),
        ("d", "'infinity'", "infinity"),
        ("ts", "'-infinity'", "infinity"),
        ("tz", "'294276-12-31 23:59:59+00'", "timestamp"),
    ],
)
def test_values_that_arrow_cannot_hold_are_refused_by_name(
    dsn: str, sql: Sql, lake: Path, column: str, value: str, words: str
) -> None:
    sql(EVERY_TYPE)
    sql(f"INSERT INTO public.things (a, {column}) VALUES (1, NULL), (2, {value}), (3, NULL)")
    export = prepared(dsn, lake, "public.things", rows=1)
    plan, _ = export.plan()
    outcomes = {outcome.window.key: outcome for outcome in run_all(export, plan)}
    error = outcomes["g1-w000001"].error
    assert isinstance(error, RivetError)
    assert error.code == "RIVET_VALUE_UNSUPPORTED"
    assert column in error.what
    assert words.lower() in error.what.lower()
    assert outcomes["g1-w000000"].manifest is not None, "the other windows go on"
    assert outcomes["g1-w000002"].manifest is not None
    with pytest.raises(PlanError, match="g1-w000001"):
        export.seal(plan)


def test_types_without_a_counterpart_are_the_servers_text(dsn: str, sql: Sql, lake: Path) -> None:
    sql("CREATE TABLE public.odd (id int PRIMARY KEY, p point, r int4range, n numeric, arr int[])")
    sql("INSERT INTO public.odd VALUES (1, '(1,2.5)', '(1,5)', 1.00, '{1,NULL}'), (2, NULL, 'empty', 'NaN', '{}')")
    export_all(prepared(dsn, lake, "public.odd"))
    assert exported_rows(lake / "public.odd") == [
        (1, "(1,2.5)", "[2,5)", "1.00", [1, None]),
        (2, None, "empty", "NaN", []),
    ]


def test_an_empty_table_is_sealed_with_its_columns(dsn: str, sql: Sql, lake: Path) -> None:
    sql("CREATE TABLE public.empty (id int PRIMARY KEY, t text)")
    export_all(prepared(dsn, lake, "public.empty"))
    seal = sealed(lake / "public.empty")
    assert (seal["rows"], seal["windows"]) == (0, [])
    assert [column["type"] for column in seal["columns"]] == ["int32", "text"]


def test_odd_names_are_quoted(dsn: str, sql: Sql, lake: Path) -> None:
    sql('CREATE SCHEMA "S p"')
    sql('CREATE TABLE "S p"."T.""1""; --" ("K %s" int, "{v}" text, PRIMARY KEY ("K %s"))')
    sql("""INSERT INTO "S p"."T.""1""; --" VALUES (1, 'a'), (2, NULL)""")
    export_all(prepared(dsn, lake, '"S p"."T.""1""; --"', rows=1))
    (folder,) = lake.iterdir()
    assert exported_rows(folder) == [(1, "a"), (2, None)]


def test_partitioned_parents_are_read_in_key_order(dsn: str, sql: Sql, lake: Path) -> None:
    sql("CREATE TABLE public.log (day date, id int, t text, PRIMARY KEY (day, id)) PARTITION BY RANGE (day)")
    for month in (1, 2, 3):
        sql(
            f"CREATE TABLE public.log_{month} PARTITION OF public.log"
            f" FOR VALUES FROM ('2024-0{month}-01') TO ('2024-0{month + 1}-01')"
        )
    sql("INSERT INTO public.log SELECT DATE '2024-01-01' + n % 90, n, 'row ' || n FROM generate_series(1, 2000) AS n")
    export_all(prepared(dsn, lake, "public.log", rows=300))
    assert_equal_rows(dsn, lake, "public.log", "day,id")


def test_the_same_rows_give_the_same_bytes_whatever_the_pages_and_workers(
    dsn: str, database: Any, tmp_path: Path
) -> None:
    make_table(database, LINEITEM, 30_000)
    trees = []
    for number, (page_bytes, workers) in enumerate([(65536, 1), (1 << 20, 3)]):
        lake = tmp_path / f"lake{number}"
        limits = {"page_bytes": page_bytes}
        export_all(prepared(dsn, lake, "public.lineitem", rows=11_000, limits=limits), workers=workers)
        trees.append({name: data for name, data in tree(lake).items() if "/windows/" not in name})
    assert trees[0] == trees[1]
    assert_equal_rows(dsn, tmp_path / "lake0", "public.lineitem", "id")


def test_many_row_groups_and_parts(dsn: str, database: Any, lake: Path) -> None:
    make_table(database, LINEITEM, 120_000)
    small = {"type": "parquet", "row_group_bytes": 1 << 20, "part_bytes": 1 << 20}
    export_all(prepared(dsn, lake, "public.lineitem", format=small))
    files = part_files(lake / "public.lineitem")
    assert len(files) > 2
    assert sum(pq.ParquetFile(file).num_row_groups for file in files) > 5
    assert_equal_rows(dsn, lake, "public.lineitem", "id")


def test_columns_that_changed_are_noticed_before_anything_is_read(dsn: str, sql: Sql, lake: Path) -> None:
    sql("CREATE TABLE public.t (id int PRIMARY KEY, a int, b text)")
    sql("INSERT INTO public.t SELECT n, n, 'x' FROM generate_series(1, 10) AS n")
    export = prepared(dsn, lake, "public.t", rows=5)
    export_all(export)
    sql("ALTER TABLE public.t ALTER a TYPE bigint, DROP b, ADD c text")
    before = tree(lake)
    with pytest.raises(DriftError) as caught:
        run_all(export, export.planned(), "later")
    assert caught.value.process_exit_code == 4
    for word in ("a was integer and is bigint", "b was dropped", "c (text) was added"):
        assert word in caught.value.what
    with pytest.raises(DriftError):
        export.plan()
    assert tree(lake) == before


def test_rows_hidden_by_row_security_are_an_error_not_a_loss(dsn: str, postgres: Any, sql: Sql, lake: Path) -> None:
    database_name = dsn.rpartition("/")[2]
    sql("CREATE TABLE public.t (id int PRIMARY KEY)")
    sql("INSERT INTO public.t VALUES (1), (2)")
    sql("ALTER TABLE public.t ENABLE ROW LEVEL SECURITY")
    sql("CREATE POLICY half ON public.t USING (id = 1)")
    role = "limited_" + database_name
    sql(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    sql(f"GRANT SELECT ON public.t TO {role}")
    try:
        with pytest.raises(SourceError) as caught:
            prepared(postgres.dsn(database_name, user=role, password="x"), lake, "public.t").plan()
        assert caught.value.code == "RIVET_SOURCE_FORBIDDEN"
        assert "BYPASSRLS" in caught.value.advice
    finally:
        sql(f"DROP OWNED BY {role}")
        sql(f"DROP ROLE {role}")
