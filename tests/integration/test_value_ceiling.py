"""Values of PostgreSQL that are larger than `max_value_bytes`: the server does not send them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import psycopg
import pytest

from rivet_dagster.sources.base import KeyRange
from tests.support.ceilings import BUDGET, LIMIT, measured, refusals, what
from tests.support.exports import prepared
from tests.support.planners.postgres import explained, pages
from tests.support.readers import exported_rows, source_rows

Sql = Callable[[str], list[tuple[Any, ...]]]

# A value of each type that is {n} bytes when it is sent: texts and bytes as they are, an array with 20 bytes for its
# shape and 4 before an element, other types as text.
KINDS = {
    "text": "repeat('x', {n})",
    "text of two bytes a character": "repeat('é', {n} / 2) || repeat('x', {n} % 2)",
    "varchar(4000000)": "repeat('x', {n})",
    "char(4000000)": "repeat('x', 100)",
    "bytea": "decode(repeat('00', {n}), 'hex')",
    "json": "to_json(repeat('x', {n} - 2))",
    "jsonb": "to_jsonb(repeat('x', {n} - 2))",
    "bit varying": "repeat('1', {n})::bit varying",
    "text[]": "ARRAY[repeat('x', {n} - 20 - 4 - 4), NULL]",
    "bytea[]": "ARRAY[decode(repeat('00', {n} - 20 - 4), 'hex')]",
    "pair": "ROW(1, repeat('x', {n} - 4))::public.pair",
    "words": "repeat('x', {n})",
    "hstore": "hstore('k', repeat('x', {n} - 7))",
}


@pytest.fixture
def kinds(sql: Sql) -> Sql:
    sql("CREATE EXTENSION hstore SCHEMA pg_catalog")
    sql("CREATE TYPE public.pair AS (a int, b text); CREATE DOMAIN public.words AS text")
    return sql


def values(sql: Sql, kind: str, name: str = "docs") -> str:
    """A table with ids from 1 to 9 in which 5 has a value of exactly the limit, and 8 one of a byte more."""
    declared = kind.removesuffix(" of two bytes a character")
    declared = f"public.{declared}" if declared in ("pair", "words") else declared
    sql(f"CREATE TABLE public.{name} (id int PRIMARY KEY, v {declared})")
    for number, size in ((5, LIMIT), (8, LIMIT + 1), (2, 40)):
        sql(f"INSERT INTO public.{name} SELECT {number}, {KINDS[kind].format(n=size)}")
    sql(f"INSERT INTO public.{name} SELECT n FROM generate_series(1, 9) AS n ON CONFLICT DO NOTHING")
    return f"public.{name}"


def failures(
    dsn: str, lake: Path, table: str, engine: Literal["threads", "processes"] = "threads", **config: Any
) -> list[str]:
    """What is said of the windows that failed."""
    export = prepared(dsn, lake, table, limits={"max_value_bytes": LIMIT}, **config)
    plan, _ = export.plan()
    with export.run(plan, plan.windows, "work", 2, engine) as run:
        return refusals(sorted(run, key=lambda outcome: plan.windows.index(outcome.window)))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("char")])
def test_a_byte_more_than_the_limit_is_refused(kinds: Sql, dsn: str, lake: Path, kind: str) -> None:
    table = values(kinds, kind)
    assert failures(dsn, lake, table, rows=3) == [what(table, "v", LIMIT + 1, "id = 8")]
    kinds(f"DELETE FROM {table} WHERE id = 8")
    assert failures(dsn, lake, table, rows=3) == []
    export = prepared(dsn, lake, table, rows=3)
    export.seal(export.planned())
    found = exported_rows(lake / table)
    assert [number for number, _ in found] == [1, 2, 3, 4, 5, 6, 7, 9]
    if kind in ("text", "text of two bytes a character", "bytea", "json", "jsonb", "text[]", "bytea[]"):
        assert found == source_rows(dsn, table, "id")


@pytest.mark.parametrize("method", ["pglz", "lz4"])
def test_what_compresses_best_is_noticed(debian_dsn: str, lake: Path, method: str) -> None:
    """A value is stored in so few bytes at least that nothing large looks small."""
    zeros = f"decode(repeat('00', {LIMIT + 1}), 'hex')"
    # Six characters for each byte, and 131072 digits for a number that is stored in a few bytes.
    control = f"to_jsonb(repeat(E'\\x01', {LIMIT} / 6 + 1))"
    numbers = "(SELECT jsonb_agg(1e131071::numeric) FROM generate_series(1, 16))"
    with psycopg.connect(debian_dsn, autocommit=True) as admin:
        admin.execute(f"SET default_toast_compression = {method}")
        admin.execute("CREATE TABLE public.t (id int PRIMARY KEY, v bytea, doc jsonb, page xml)")
        for row in (
            f"1, {zeros}, NULL, NULL",
            f"4, NULL, {control}, NULL",
            f"7, NULL, {numbers}, NULL",
            f"8, NULL, NULL, xmlparse(CONTENT repeat('x', {LIMIT}))",
            f"9, NULL, NULL, xmlparse(CONTENT repeat('x', {LIMIT + 1}))",
        ):
            admin.execute(f"INSERT INTO public.t VALUES ({row})")
        found = admin.execute("SELECT pg_column_size(v), pg_column_compression(v) FROM public.t WHERE id = 1")
        stored, compression = found.fetchone() or (0, "")
    assert compression == method
    assert LIMIT / 256 < stored < LIMIT / 80
    assert failures(debian_dsn, lake, "public.t", rows=1) == [
        what("public.t", "v", LIMIT + 1, "id = 1"),
        what("public.t", "doc", (LIMIT // 6 + 1) * 6 + 2, "id = 4"),
        what("public.t", "doc", 16 * 131072 + 15 * 2 + 2, "id = 7"),
        what("public.t", "page", LIMIT + 1, "id = 9"),
    ]


def test_blanks_behind_a_char_count(sql: Sql, dsn: str, lake: Path) -> None:
    sql("CREATE TABLE public.t (id int PRIMARY KEY, v char(4000000), short char(10))")
    sql("INSERT INTO public.t SELECT n, CASE WHEN n = 2 THEN 'x' END, 'y' FROM generate_series(1, 6) AS n")
    assert failures(dsn, lake, "public.t", rows=3) == [what("public.t", "v", 4_000_000, "id = 2")]


@pytest.mark.parametrize("encoding", ["LATIN1", "EUC_JP", "SQL_ASCII"])
def test_other_encodings_count_as_they_are_sent(sql: Sql, dsn: str, lake: Path, encoding: str) -> None:
    name = f"other_{encoding.lower()}"
    letter = "あ" if encoding == "EUC_JP" else "é"
    size = len(letter.encode())
    sql(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    try:
        other = f"{dsn.rpartition('/')[0]}/{name}"
        with psycopg.connect(other, autocommit=True, client_encoding="UTF8") as admin:
            admin.execute("CREATE TABLE public.t (id int PRIMARY KEY, v text, c char(2000000), j json, x xml)")
            for number, count in ((1, LIMIT // size), (4, LIMIT // size + 1)):
                letters = f"repeat('{letter}', {count})"
                admin.execute(f"INSERT INTO public.t VALUES ({number}, {letters})")
                admin.execute(f"INSERT INTO public.t (id, j) SELECT {number} + 1, to_json({letters})")
        found = failures(other, lake, "public.t", rows=1)
    finally:
        sql(f"DROP DATABASE {name} WITH (FORCE)")
    count = LIMIT // size
    assert found == [
        *[what("public.t", "j", count * size + 2, "id = 2")] * (count * size + 2 > LIMIT),
        what("public.t", "v", (count + 1) * size, "id = 4"),
        what("public.t", "j", (count + 1) * size + 2, "id = 5"),
    ]


def test_processes_refuse_it_too(sql: Sql, dsn: str, lake: Path) -> None:
    table = values(sql, "text")
    assert failures(dsn, lake, table, "processes", rows=3) == [what(table, "v", LIMIT + 1, "id = 8")]


def test_all_of_a_key_is_named_wherever_it_stands(sql: Sql, dsn: str, lake: Path) -> None:
    sql('CREATE TABLE public.t ("a ""large"" one" text, tenant int, "the name" text, PRIMARY KEY (tenant, "the name"))')
    sql("INSERT INTO public.t SELECT 'x', n, E'n \"[\\n' || n FROM generate_series(1, 6) AS n")
    sql(f"""UPDATE public.t SET "a ""large"" one" = repeat('x', {LIMIT + 1}) WHERE tenant = 4""")
    row = 'tenant = 4, the name = n "[\n4'
    assert failures(dsn, lake, "public.t", rows=3) == [what("public.t", 'a "large" one', LIMIT + 1, row)]


def test_rows_without_a_key_are_named_by_their_place(sql: Sql, dsn: str, lake: Path) -> None:
    sql("CREATE TABLE public.parts (n int, v text) PARTITION BY RANGE (n)")
    sql("CREATE TABLE public.first PARTITION OF public.parts FOR VALUES FROM (0) TO (10)")
    sql("CREATE TABLE public.second PARTITION OF public.parts FOR VALUES FROM (10) TO (20)")
    sql("INSERT INTO public.parts SELECT n, 'x' FROM generate_series(0, 19) AS n")
    sql(f"UPDATE public.parts SET v = repeat('x', {LIMIT + 1}) WHERE n = 13")
    ((place,),) = sql("SELECT ctid::text FROM public.parts WHERE n = 13")
    for table, leaf in (("public.parts", "public.second"), ("public.second", "public.second")):
        found = failures(dsn, lake, table, windows={"type": "full"})
        assert found == [what(table, "v", LIMIT + 1, f"tableoid = {leaf}, ctid = {place}")]


def test_views_and_queries(sql: Sql, dsn: str, lake: Path) -> None:
    table = values(sql, "text")
    sql(f"CREATE VIEW public.seen AS SELECT id % 3 AS a, id, v || '' AS v FROM {table}")
    found = failures(dsn, lake, "public.seen", rows=3, columns=["a", "id"])
    assert found == [what("public.seen", "v", LIMIT + 1, "a = 2, id = 8")]
    found = failures(dsn, lake / "full", "public.seen", windows={"type": "full"})
    assert found == [what("public.seen", "v", LIMIT + 1, "no key to name it by")]
    # The server could compute all of this before it runs the statement.
    query = f"SELECT 1 AS id, repeat('x', {LIMIT + 1}) AS v WHERE random() < 2"
    found = failures(dsn, lake, "app.made", query=query, rows=3, columns=["id"])
    assert found == [what("app.made", "v", LIMIT + 1, "id = 1")]
    query = f"SELECT 1 AS id, repeat('x', {LIMIT + 1}) AS v WHERE random() > 2"
    assert failures(dsn, lake, "app.none", query=query, windows={"type": "full"}) == []


def test_statements_are_planned_as_ever(sql: Sql, dsn: str) -> None:
    """A walk of the index, and nothing that is computed for a value that cannot be large."""
    sql("CREATE TABLE public.t (id int PRIMARY KEY, v text, doc jsonb, many int[], p point, s varchar(100), n numeric)")
    sql("INSERT INTO public.t SELECT n, 'x', '{}', '{1}', '(1,2)', 'y', 1 FROM generate_series(1, 1000) AS n")
    with explained(dsn) as (session, plans):
        table = session.describe("public", "t")
        found = [row for page in pages(session, table, table.keys[0], KeyRange(("5",), ("900",)), 100) for row in page]
        taken = [nodes for nodes in plans.taken() if "Limit" in nodes[0]["Node Type"]]
    assert [row[0] for row in found] == list(range(6, 901))
    assert len(taken) >= 9
    for nodes in taken:
        used = [node["Node Type"] for node in nodes if node.get("Parent Relationship") != "SubPlan"]
        assert used[:2] == ["Limit", "Index Scan"]
        below = [node for node in nodes if node["Node Type"] not in ("Limit", "Index Scan")]
        assert below, "there is a plan for documents that are large"
        assert all(node["Actual Loops"] == 0 for node in below)


def test_memory_stays_within_its_budget(sql: Sql, dsn: str, lake: Path) -> None:
    """Values of 300 MB and more, and one of each kind a window; the rows beside them are exported."""
    sql("CREATE TABLE public.small (id int PRIMARY KEY, body text, raw bytea, doc jsonb)")
    sql("INSERT INTO public.small SELECT n, 'x', 'x', '{}' FROM generate_series(1, 12) AS n")
    # Neither logged nor compressed: both take longer than all the rest.
    sql("CREATE UNLOGGED TABLE public.large (LIKE public.small INCLUDING ALL)")
    sql("ALTER TABLE public.large ALTER body SET STORAGE EXTERNAL, ALTER raw SET STORAGE EXTERNAL")
    sql("INSERT INTO public.large TABLE public.small")
    sql("UPDATE public.large SET body = repeat('0123456789', 30000000) WHERE id = 2")
    sql("UPDATE public.large SET raw = convert_to(repeat('0123456789', 30000000), 'UTF8') WHERE id = 5")
    # A jsonb has no more than 256 MB itself; its text may.
    sql("UPDATE public.large SET doc = to_jsonb(repeat(E'\x01', 50000000)) WHERE id = 8")
    found = measured(dsn, str(lake), "public.small", "public.large", 256 << 20)
    expected = [
        what("public.large", "body", 300_000_000, "id = 2", 256 << 20),
        what("public.large", "raw", 300_000_000, "id = 5", 256 << 20),
        what("public.large", "doc", 300_000_002, "id = 8", 256 << 20),
    ]
    assert len(found["said"]) == 4
    for said, sentence in zip(found["said"], [*expected, None], strict=True):
        assert said is None if sentence is None else sentence in said
    assert found["peak"] - found["idle"] < BUDGET
