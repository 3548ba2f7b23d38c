"""Reading sealed exports while others write them: held against psycopg, DuckDB and the row fingerprints."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import xxhash
from jsonschema import Draft202012Validator

from rivet_dagster import open_export
from rivet_dagster.errors import ConfigError, IntegrityError, PlanError
from rivet_dagster.export.config import parse_config
from rivet_dagster.export.operations import TableExport, begin_work
from rivet_dagster.export.planning import Wish
from rivet_dagster.export.rowhash import RowHasher
from rivet_dagster.export.seal import success_bytes
from tests.support.exports import export_all, prepared, run_all
from tests.support.readers import Row, assert_same, source_rows, tree
from tests.support.tables import EVENTS, make_table

SCHEMAS = Path(__file__).parents[2] / "docs/reference/schemas"
Sql = Callable[[str], list[tuple[Any, ...]]]
FORMATS = [{"type": "parquet"}, {"type": "csv"}, {"type": "csv", "compression": "none"}]

# Values at the ends of their types, one after the other; the last row has none.
SHAPES = """
CREATE TABLE public.shapes (id int PRIMARY KEY, flag boolean, small smallint, big bigint, unsigned oid, wide xid8,
    single real, ratio double precision, amount numeric(12,2) NOT NULL, great numeric(60,10), born date, clock time,
    local timestamp, at timestamptz, gap interval, key uuid, "a ""note"", really" text, raw bytea, doc jsonb,
    flags boolean[], numbers bigint[], smalls smallint[], ratios double precision[], amounts numeric(12,2)[],
    days date[], moments timestamptz[], gaps interval[], keys uuid[], notes text[], raws bytea[], docs jsonb[]);
INSERT INTO public.shapes VALUES
(1, true, -32768, -9223372036854775808, 0, '0', '-0', 'NaN', -9999999999.99, -0.0000000001, '4714-11-24 BC', '00:00',
    '4714-11-24 00:00:00 BC', '4714-11-24 00:00:00 BC', '-14 months 3 days -0.000001 s',
    '00000000-0000-0000-0000-000000000000', '', '', 'null', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}',
    '{}', '{}'),
(2, false, 32767, 9223372036854775807, 4294967295, '18446744073709551615', 'Infinity', 5e-324, 0.01,
    12345678901234567890123456789012345678901234567890.0123456789, '5874897-12-31', '23:59:59.999999',
    '294246-12-31 23:59:59.999999', '0001-01-01 00:00:00 BC', '178956970 years 1 day',
    'ffffffff-ffff-ffff-ffff-ffffffffffff', E'a "quoted",\r\n\tnote\\\n', '\\x00ff', '{"a": ["\\"", 1.50, null]}',
    '{t,NULL,f}', '{9223372036854775807,NULL,-1}', '{1,NULL}', '{NaN,Infinity,-Infinity,-0,0.1,NULL}', '{1.5,NULL}',
    '{2024-02-29,0044-03-15 BC,10000-01-01,NULL}', '{2024-01-01 00:00:00+00,NULL}', '{1 day,NULL,-1 us}',
    '{6ba7b810-9dad-11d1-80b4-00c04fd430c8,NULL}', E'{"a \\\\" b",NULL,"","NULL","é,"}', E'{"\\\\\\\\x00ff",NULL,""}',
    ARRAY['{"a": "\\u00e9"}'::jsonb, NULL]);
INSERT INTO public.shapes (id, amount) VALUES (3, 0)
"""
INTERVALS = {"gap": {"type": "interval"}, "gaps": {"type": "list(interval)"}}


def fingerprint(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> str:
    """Row fingerprint of batches that all have this schema."""
    hasher = RowHasher(schema)
    for batch in batches:
        assert batch.schema.equals(schema, check_metadata=True)
        hasher.update(batch)
    return str(hasher.fingerprint)


def plain(table: pa.Table) -> list[Row]:
    """Its rows as Python values."""
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: "-".join(form.values()))
def test_every_value_comes_back_from_every_format(form: dict[str, str], dsn: str, sql: Sql, lake: Path) -> None:
    for statement in SHAPES.split(";\n"):
        sql(statement)
    config = {"table": "public.shapes", "format": form, "columns": INTERVALS}
    export_all(TableExport(parse_config(config), dsn, str(lake)))
    export = open_export(lake / "public.shapes")
    table = export.dataset().to_table()
    table.validate(full=True)
    assert table.schema.equals(export.schema, check_metadata=True)
    assert {field.name for field in export.schema if not field.nullable} == {"id", "amount"}
    assert fingerprint(export.schema, export.batches()) == export.manifest.row_fingerprint
    assert fingerprint(export.schema, table.to_batches()) == export.manifest.row_fingerprint


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: "-".join(form.values()))
def test_rows_are_those_of_the_table_in_key_order(
    form: dict[str, str], dsn: str, database: psycopg.Connection[Any], lake: Path
) -> None:
    make_table(database, EVENTS, 12_000)
    export_all(prepared(dsn, lake, "public.events", rows=5_000, format=form))
    export = open_export(f"{lake.as_uri()}/public.events/")
    expected = source_rows(dsn, "public.events", "id")
    assert_same(plain(export.dataset().to_table()), expected)
    assert_same(plain(pa.Table.from_batches(export.batches())), expected)
    assert export.dataset().count_rows() == export.rows == len(expected)
    assert [sum(part.rows for part in window.parts) for window in export.windows] == [5_000, 5_000, 2_000]
    chosen = export.dataset().to_table(columns=["id"], filter=pc.field("small") == 7)
    assert sorted(plain(chosen)) == sorted((row[0],) for row in expected if row[-1] == 7)


def test_a_row_longer_than_a_block_comes_back(dsn: str, sql: Sql, lake: Path) -> None:
    sql("CREATE TABLE public.long (id int PRIMARY KEY, note text)")
    sql("""INSERT INTO public.long SELECT n, repeat('",' || chr(10), n * 700000) FROM generate_series(1, 5) AS n""")
    export_all(prepared(dsn, lake, "public.long", format={"type": "csv"}))
    assert plain(open_export(lake / "public.long").dataset().to_table()) == sql("SELECT * FROM public.long ORDER BY id")


def test_a_column_of_nulls_alone_in_csv(dsn: str, sql: Sql, lake: Path) -> None:
    """Such rows are empty lines."""
    sql("CREATE TABLE public.nulls (note text)")
    sql("INSERT INTO public.nulls VALUES (NULL), (''), (NULL), ('x'), (NULL)")
    config = {"table": "public.nulls", "windows": {"type": "full"}, "format": {"type": "csv"}}
    export_all(TableExport(parse_config(config), dsn, str(lake)))
    assert plain(open_export(lake / "public.nulls").dataset().to_table()) == [(None,), ("",), (None,), ("x",), (None,)]


@pytest.mark.parametrize("form", FORMATS[:2], ids=lambda form: form["type"])
def test_an_export_without_rows_has_a_schema(form: dict[str, str], dsn: str, sql: Sql, lake: Path) -> None:
    sql("CREATE TABLE public.n (id int PRIMARY KEY, price numeric(9,2), doc jsonb)")
    export_all(prepared(dsn, lake, "public.n", format=form))
    export = open_export(lake / "public.n")
    assert (export.rows, export.windows, export.parts, export.part_uris) == (0, (), (), ())
    for table in (export.dataset().to_table(), pa.Table.from_batches(export.batches(), export.schema)):
        assert table.num_rows == 0
        assert table.schema.equals(export.schema, check_metadata=True)
    assert [str(kind) for kind in export.schema.types] == ["int32", "decimal128(9, 2)", "extension<arrow.json>"]


def test_parts_are_named_as_other_tools_open_them(dsn: str, sql: Sql, tmp_path: Path) -> None:
    lake = tmp_path / "a lake, 100 % ü#1"
    sql("CREATE TABLE public.n (id int PRIMARY KEY)")
    sql("INSERT INTO public.n SELECT generate_series(1, 3000)")
    export_all(prepared(dsn, lake, "public.n", rows=1000))
    export = open_export(lake / "public.n")
    assert [Path(part).as_uri() for part in export.parts] == list(export.part_uris)
    assert [part for window in export.windows for part in export.parts_of(window)] == list(export.parts)
    query = "SELECT count(*), sum(id) FROM read_parquet(?, hive_partitioning = false)"
    assert duckdb.execute(query, [list(export.parts)]).fetchone() == (3000, 4501500)
    assert export.dataset().files == list(export.parts)
    assert export.dataset().to_table().column("id").to_pylist() == list(range(1, 3001))


def test_opening_imports_nothing_heavy(dsn: str, sql: Sql, lake: Path) -> None:
    sql("CREATE TABLE public.n (id int PRIMARY KEY)")
    export_all(prepared(dsn, lake, "public.n"))
    code = (
        "import sys; from rivet_dagster import open_export; export = open_export(sys.argv[1]);"
        "print(export.rows, export.generation, export.seal_id, export.parts, export.refresh());"
        "print(*sorted({'pyarrow', 'numpy', 'numba', 'dagster', 'psycopg', 'duckdb'} & set(sys.modules)));"
        "export.dataset().to_table(); list(export.batches());"
        "print(*sorted({'numba', 'dagster', 'psycopg'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(lake / "public.n")], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[1:] == ["", ""]


class Numbers:
    """A table whose rows change from state to state, its exports, and what each of its seals must hold."""

    def __init__(self, dsn: str, sql: Sql, lake: Path, form: dict[str, str]) -> None:
        self.dsn, self.sql = dsn, sql
        self.export = prepared(dsn, lake, "public.n", rows=500, format=form)
        self.folder = lake / "public.n"
        self.states: dict[str, list[Row]] = {}
        sql("CREATE TABLE public.n (id int PRIMARY KEY, state int NOT NULL, note text)")
        sql("INSERT INTO public.n SELECT n, 0, 'note' FROM generate_series(1, 2000) AS n")

    def change(self, state: int) -> None:
        """Change every row, remove some of one window, and put rows behind the frontier."""
        self.sql(f"UPDATE public.n SET state = {state}, note = repeat('{state},', id % 40)")
        self.sql(f"DELETE FROM public.n WHERE id % 7 = 0 AND id / 500 = {state} % 4")
        self.sql(f"INSERT INTO public.n SELECT 2000 + {state} * 50 + n, {state} FROM generate_series(1, 50) AS n")

    def seal(self, state: int) -> str:
        """Export all as it is now, every third time by a new plan; nothing else changes the table meanwhile."""
        plan, _ = self.export.plan(Wish(replan=f"replan {state}" if state % 3 == 2 else None))
        assert [outcome.error for outcome in run_all(self.export, plan, f"work {state}")] == [None] * len(plan.windows)
        seal_id = self.export.seal(plan).seal_id
        self.states[seal_id] = source_rows(self.dsn, "public.n", "id")
        return seal_id


class Readers:
    """Threads that read an export over and over, each in its own way.

    Attributes:
        found: what was read under each seal: more than one table for any of them would be a mix.
    """

    def __init__(self, folder: Path) -> None:
        self.found: defaultdict[str, set[tuple[Row, ...]]] = defaultdict(set)
        self._folder = folder
        self._read = threading.Condition()
        self._latest: dict[int, str] = {}
        self._stopped = False

    @contextmanager
    def running(self) -> Iterator[None]:
        with ThreadPoolExecutor(3) as pool:
            ways = (self._opening(), self._refreshing(), self._in_batches())
            futures = [pool.submit(self._loop, number, way) for number, way in enumerate(ways)]
            try:
                yield
            finally:
                self._stopped = True
        for future in futures:
            future.result()

    def wait_for(self, seal_id: str) -> None:
        """Until every thread has read this seal's table."""
        with self._read:
            assert self._read.wait_for(lambda: set(self._latest.values()) == {seal_id} and len(self._latest) == 3, 120)

    def _loop(self, number: int, way: Iterator[tuple[str, pa.Table]]) -> None:
        for seal_id, table in way:
            rows = tuple(plain(table))
            with self._read:
                self.found[seal_id].add(rows)
                self._latest[number] = seal_id
                self._read.notify_all()
            if self._stopped:
                return

    def _opening(self) -> Iterator[tuple[str, pa.Table]]:
        while True:
            export = open_export(self._folder)
            yield export.seal_id, export.dataset().to_table()

    def _refreshing(self) -> Iterator[tuple[str, pa.Table]]:
        export = open_export(self._folder)
        while True:
            before, dataset = export.seal_id, export.dataset()
            assert export.refresh() == (export.seal_id != before)
            yield before, dataset.to_table()

    def _in_batches(self) -> Iterator[tuple[str, pa.Table]]:
        while True:
            export = open_export(self._folder)
            yield export.seal_id, pa.Table.from_batches(export.batches(), export.schema)


@pytest.mark.parametrize("form", FORMATS[:2], ids=lambda form: form["type"])
def test_readers_see_one_sealed_state_while_the_table_is_exported_again(
    form: dict[str, str], dsn: str, sql: Sql, lake: Path
) -> None:
    numbers = Numbers(dsn, sql, lake, form)
    numbers.seal(0)
    readers = Readers(numbers.folder)
    with readers.running():
        for state in range(1, 9):
            numbers.change(state)
            readers.wait_for(numbers.seal(state))
    assert len(readers.found) == len(numbers.states) == 9
    for seal_id, tables in readers.found.items():
        (rows,) = tables
        assert_same(rows, numbers.states[seal_id])
    assert open_export(numbers.folder).generation == 4


def test_an_export_stays_what_it_was_until_it_is_refreshed(dsn: str, sql: Sql, lake: Path) -> None:
    numbers = Numbers(dsn, sql, lake, {"type": "parquet"})
    first = numbers.seal(0)
    export = open_export(numbers.folder)
    dataset = export.dataset()
    numbers.change(1)
    plan, _ = numbers.export.plan()
    run_all(numbers.export, plan, "not sealed yet")
    assert (export.refresh(), export.seal_id) == (False, first)
    second = numbers.seal(2)
    assert (export.seal_id, export.rows, export.generation) == (first, 2000, 1)
    assert_same(plain(dataset.to_table()), numbers.states[first])
    assert_same(plain(export.dataset().to_table()), numbers.states[first])
    assert (export.refresh(), export.seal_id, export.generation) == (True, second, 2)
    assert_same(plain(export.dataset().to_table()), numbers.states[second])
    assert export.refresh() is False
    # A plan by the same boundaries of the same rows has parts of the same names, in its own folder.
    assert not set(dataset.files) & set(export.parts)


@pytest.fixture
def numbers(dsn: str, sql: Sql, lake: Path) -> Numbers:
    """Sealed twice."""
    made = Numbers(dsn, sql, lake, {"type": "parquet"})
    for state in (0, 1):
        made.change(state)
        made.seal(state)
    return made


@pytest.mark.parametrize("left", ["that of the seal before", "nothing"])
def test_a_seal_that_died_before_success_was_written_is_in_force(numbers: Numbers, left: str) -> None:
    success = numbers.folder / "_SUCCESS"
    if left == "nothing":
        success.unlink()
    else:
        (first,) = (path for path in numbers.folder.glob("g1/seals/*.json") if path.stem == next(iter(numbers.states)))
        success.write_bytes(success_bytes(first.read_bytes()))
    export = open_export(numbers.folder)
    assert export.seal_id == list(numbers.states)[-1]
    assert_same(plain(export.dataset().to_table()), numbers.states[export.seal_id])
    numbers.export.seal(numbers.export.planned())
    assert success.read_bytes() == success_bytes((numbers.folder / "manifest.json").read_bytes())
    assert export.refresh() is False


@pytest.mark.parametrize("change", ["rows", "path", "cut", "list"])
def test_a_manifest_that_is_not_what_was_sealed_is_refused(numbers: Numbers, change: str) -> None:
    manifest = numbers.folder / "manifest.json"
    export = open_export(numbers.folder)
    text = manifest.read_text()
    values = json.loads(text)
    values["rows"] += change == "rows"
    values["windows"][0]["parts"][0]["path"] += "x" * (change == "path")
    manifest.write_text({"cut": text[: len(text) // 2], "list": "[]"}.get(change) or json.dumps(values))
    for action in (lambda: open_export(numbers.folder), export.refresh):
        with pytest.raises(IntegrityError) as caught:
            action()
        assert caught.value.code == "RIVET_SEAL_BROKEN"
    assert_same(plain(export.dataset().to_table()), numbers.states[export.seal_id])


def test_fields_of_later_versions_do_not_stop_readers(numbers: Numbers) -> None:
    manifest = numbers.folder / "manifest.json"
    values = json.loads(manifest.read_text())
    values["windows"][0]["parts"][0]["colour"] = "blue"
    values["zeal"] = {"seal_id": None}

    def written(**more: object) -> bytes:
        text = json.dumps({**values, **more}, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        return text.encode()

    digest = xxhash.xxh3_128_hexdigest(written(seal_id=""))
    manifest.write_bytes(written(seal_id=digest[:16]))
    assert open_export(numbers.folder).seal_id == digest[:16], "its own id vouches for it"
    data = written(seal_id=digest[:16], format="rivet.export/2")
    manifest.write_bytes(data)
    (numbers.folder / "_SUCCESS").write_bytes(success_bytes(data))
    with pytest.raises(IntegrityError) as caught:
        open_export(numbers.folder)
    assert caught.value.code == "RIVET_DOCUMENT_INVALID"


def test_what_is_stored_follows_the_published_schemas(numbers: Numbers) -> None:
    numbers.seal(2)
    begin_work(numbers.export.store, fresh=True)
    found = set()
    lines = [line for path in numbers.folder.rglob("*.jsonl") for line in path.read_text().splitlines()]
    for text in (*(path.read_text() for path in numbers.folder.rglob("*.json")), *lines):
        values = json.loads(text)
        name = values["format"].removeprefix("rivet.").replace("/", "-")
        schema = json.loads((SCHEMAS / f"{name}.json").read_text())
        Draft202012Validator(schema).validate(values)
        described = set(schema["properties"])
        if "event" in values:  # a journal's line: what else it has is its event's
            described |= {field for each in schema["$defs"].values() for field in each["properties"]}
        assert set(values) <= described, "every field is described"
        found.add(name)
    assert found == {path.stem for path in SCHEMAS.iterdir()}


def test_what_is_not_sealed_is_not_opened(dsn: str, sql: Sql, lake: Path) -> None:
    sql("CREATE TABLE public.n (id int PRIMARY KEY)")
    sql("INSERT INTO public.n SELECT generate_series(1, 100)")
    export = prepared(dsn, lake, "public.n")
    folder = lake / "public.n"
    for step in (lambda: None, export.plan, lambda: run_all(export, export.planned())):
        step()
        with pytest.raises(PlanError) as caught:
            open_export(folder)
        assert caught.value.code == "RIVET_EXPORT_UNSEALED"
        assert str(folder) in caught.value.what
    before = tree(lake)
    with pytest.raises(ConfigError) as refused:
        open_export("gopher://lake/public.n")
    assert refused.value.code == "RIVET_CONFIG_DESTINATION"
    assert tree(lake) == before, "reading writes nothing"


@pytest.mark.parametrize("damage", ["cut", "header", "value"])
def test_a_csv_part_that_is_none_is_not_read(dsn: str, sql: Sql, lake: Path, damage: str) -> None:
    sql("CREATE TABLE public.n (id int PRIMARY KEY, note text)")
    sql("INSERT INTO public.n SELECT n, 'a' FROM generate_series(1, 100) AS n")
    export_all(prepared(dsn, lake, "public.n", format={"type": "csv", "compression": "none"}))
    export = open_export(lake / "public.n")
    part = Path(export.parts[0])
    text = part.read_text()
    changed = {"cut": text[:-1], "header": text.replace("note", "nose"), "value": text.replace("50,", "5x0,")}
    part.write_text(changed[damage])
    with pytest.raises(pa.ArrowInvalid if damage == "value" else IntegrityError):
        export.dataset()


def loader() -> Callable[[str, str, str], tuple[int, int]]:
    """The function of the page about loading a warehouse."""
    page = (SCHEMAS.parents[1] / "how-to/idempotent-warehouse-load.md").read_text()
    (code,) = re.findall(r"^```python\n# loader.py\n(.*?)^assert load", page, re.MULTILINE | re.DOTALL)
    assert len(code.splitlines()) < 60
    names: dict[str, Any] = {"__name__": "loader"}
    exec(compile(code, "loader.py", "exec"), names)
    load: Callable[[str, str, str], tuple[int, int]] = names["load"]
    return load


class Warehouse:
    """A table that the documented loader keeps."""

    def __init__(self, folder: Path, database: Path) -> None:
        self._folder, self._database = str(folder), str(database)
        self._load = loader()

    def load(self) -> tuple[int, int]:
        """Load twice: the second time there is nothing to do."""
        done = self._load(self._folder, self._database, "numbers")
        assert self._load(self._folder, self._database, "numbers") == (0, 0)
        return done

    def rows(self) -> list[Row]:
        with duckdb.connect(self._database) as connection:
            return connection.execute("SELECT * EXCLUDE rivet_window FROM numbers ORDER BY id").fetchall()


def test_the_loader_of_the_docs_has_the_sealed_rows_after_whatever_happens(
    dsn: str, sql: Sql, lake: Path, tmp_path: Path
) -> None:
    numbers = Numbers(dsn, sql, lake, {"type": "parquet"})
    warehouse = Warehouse(numbers.folder, tmp_path / "warehouse.duckdb")

    def loaded(state: int) -> tuple[int, int]:
        seal_id = numbers.seal(state)
        done = warehouse.load()
        assert_same(warehouse.rows(), numbers.states[seal_id])
        return done

    assert loaded(0) == (4, 0)
    assert loaded(1) == (0, 0), "the same rows again"
    sql("UPDATE public.n SET note = 'changed' WHERE id = 1200")
    sql("DELETE FROM public.n WHERE id <= 500")
    sql("INSERT INTO public.n SELECT n, 1 FROM generate_series(2001, 2100) AS n")
    assert loaded(3) == (3, 0), "one that changed, one without rows, one that is new"
    before = warehouse.rows()
    assert loaded(5) == (4, 5), "a new plan"
    assert warehouse.rows() == before
    sql("ALTER TABLE public.n ADD price numeric(9,2) DEFAULT 1.50, ADD doc jsonb DEFAULT '[1]', ALTER id TYPE bigint")
    assert loaded(8) == (4, 0), "other columns"
    sql("TRUNCATE public.n")
    assert loaded(11) == (0, 4), "no rows, so no windows"


def test_a_load_that_dies_leaves_the_table_as_it_was(numbers: Numbers, tmp_path: Path) -> None:
    warehouse = Warehouse(numbers.folder, tmp_path / "warehouse.duckdb")
    warehouse.load()
    before = warehouse.rows()
    numbers.change(3)
    seal_id = numbers.seal(3)
    part = Path(open_export(numbers.folder).parts[-1])
    part.rename(part.with_suffix(".gone"))
    with pytest.raises(duckdb.IOException):
        warehouse.load()
    assert warehouse.rows() == before
    part.with_suffix(".gone").rename(part)
    assert warehouse.load()[0] >= 4
    assert_same(warehouse.rows(), numbers.states[seal_id])
