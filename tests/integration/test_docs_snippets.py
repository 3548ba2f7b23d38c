"""Every snippet of the docs runs, in the order of its page, against a database with the tables that they name."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
import yaml
from dagster_graphql.schema import create_schema
from graphql import GraphQLError, parse, validate
from graphql.execution.values import get_variable_values

from demo.mariadb import MariaServer
from rivet_dagster import ExportConfig, RivetExportComponent, TimeWindows, build_rivet_assets
from rivet_dagster._compat import latest_evaluation
from rivet_dagster.checks import FAILING_WINDOWS, NAMING_WINDOWS
from tests.support.cli import rivet
from tests.support.orchestrating import RANGE_END, RANGE_START, asked, between
from tests.support.readers import exported_rows, sealed, source_rows

ROOT = Path(__file__).parents[2]
SNIPPET = re.compile(r"^```(python|sh|sql|yaml|graphql|json)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Their own tests load them and run them.
ELSEWHERE = {"declare-in-python.md", "declare-in-yaml.md"}
PAGES = [
    page
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if SNIPPET.search(page.read_text()) and page.name not in ELSEWHERE
]

TABLES = """
CREATE TABLE public.orders (id int PRIMARY KEY, note text);
INSERT INTO public.orders SELECT n, 'order ' || n FROM generate_series(1, 3000) AS n;
CREATE TABLE public.customers (id int PRIMARY KEY, name text, updated_at timestamptz);
INSERT INTO public.customers
    SELECT n, 'customer ' || n, now() - INTERVAL '30 days' - n * INTERVAL '1 hour' FROM generate_series(1, 1500) AS n;
INSERT INTO public.customers VALUES (0, 'nobody', NULL);
CREATE INDEX ON public.customers (updated_at);
CREATE TABLE public.events (id bigint PRIMARY KEY, happened_at timestamptz NOT NULL, kind text);
INSERT INTO public.events
    SELECT n, TIMESTAMPTZ '2025-01-01' + n * INTERVAL '1 hour', 'kind ' || n % 3 FROM generate_series(0, 4999) AS n;
INSERT INTO public.events SELECT 10000 + n, now() - n * INTERVAL '1 hour', 'late' FROM generate_series(0, 99) AS n;
CREATE INDEX ON public.events (happened_at, id);
CREATE TABLE public.payments (id bigint PRIMARY KEY, amount numeric(12, 2));
INSERT INTO public.payments SELECT n, n / 4.0 FROM generate_series(1, 700) AS n;
CREATE TABLE public.settings (name text, value text);
INSERT INTO public.settings SELECT 'name ' || n, 'value ' || n FROM generate_series(1, 50) AS n;
ANALYZE;
"""


@pytest.fixture
def shop(
    dsn: str, sql: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Any]]:
    for statement in TABLES.split(";"):
        sql(statement)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PG_DSN", dsn)
    monkeypatch.setenv("LAKE", str(tmp_path / "lake"))
    yield sql
    sql("DROP OWNED BY rivet_reader") if sql("SELECT 1 FROM pg_roles WHERE rolname = 'rivet_reader'") else None
    sql("DROP ROLE IF EXISTS rivet_reader")


@pytest.fixture
def mysql_shop(mariadb: MariaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """A database called `shop`, as grants need to name it."""
    with mariadb.connect() as connection:

        def run(statement: str) -> Any:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall()

        run("CREATE DATABASE shop")
        run("USE shop")
        run("CREATE TABLE shop.orders (id int PRIMARY KEY, note text, shipped date)")
        run("INSERT INTO shop.orders SELECT seq, concat('order ', seq), '2024-02-29' FROM seq_1_to_3000")
        run("CREATE TABLE shop.visits (page varchar(20), at datetime(6))")
        run("INSERT INTO shop.visits SELECT concat('page ', seq MOD 7), now(6) FROM seq_1_to_3000")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("MYSQL_DSN", mariadb.dsn("shop"))
        yield run
        run("DROP DATABASE shop")
        run("DROP USER IF EXISTS rivet_reader@'%'")


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """One that commands of the docs find, too."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\nnux: {enabled: false}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with dg.DagsterInstance.from_config(str(home)) as found:
        yield found


@contextmanager
def quietly() -> Iterator[None]:
    """Without the warnings that Dagster gives of its own code."""
    with warnings.catch_warnings():
        for category in (dg.BetaWarning, dg.PreviewWarning, DeprecationWarning):
            warnings.simplefilter("ignore", category)
        yield


class Location:
    """Definitions of a page, of which everything is run as Dagster's daemon would run it."""

    def __init__(self, defs: dg.Definitions, instance: dg.DagsterInstance) -> None:
        dg.Definitions.validate_loadable(defs)
        self.defs = defs
        self.instance = instance
        self.assets = [asset for asset in defs.assets or () if isinstance(asset, dg.AssetsDefinition)]
        self._cursors: dict[str, str | None] = {}
        self._automated: Any = None

    def run(self, key: dg.AssetKey, **options: Any) -> None:
        """A run of one asset, which succeeds."""
        (asset,) = [asset for asset in self.assets if key in asset.keys]
        run = dg.materialize([asset], instance=self.instance, resources=dict(self.defs.resources or {}), **options)
        assert run.success

    def partitions(self, key: dg.AssetKey) -> list[str]:
        return list(self.instance.get_dynamic_partitions(key.to_user_string()))

    def run_all(self) -> None:
        """Plan and export all tables, first what sensors and schedules ask for; seal them; then what is downstream."""
        self.requested()
        self._run_plans()
        for sensor in self.defs.sensors or ():
            assert isinstance(sensor, dg.SensorDefinition)
            self.execute(self.tick(sensor).run_requests)
        for schedule in self.defs.schedules or ():
            self.run_schedule(schedule)
        for key in self._keys():
            if self.partitions(key) and not self.instance.get_materialized_partitions(key):
                self.run_partitions(key)
        for key in self._keys("complete"):
            if self.partitions(dg.AssetKey(key.path[:-1])):
                self.run(key)
        for key in self.requested():
            if key.path[0] != "public":
                self.run(key)

    def _run_plans(self) -> None:
        for key in self._keys("plan"):
            self.run(key)

    def _keys(self, role: str = "") -> list[dg.AssetKey]:
        return [key for asset in self.assets for key in asset.keys if not role or key.path[-1] == role]

    def requested(self) -> set[dg.AssetKey]:
        """What automation conditions ask for since they were evaluated before."""
        with quietly():
            found = dg.evaluate_automation_conditions(self.defs, self.instance, cursor=self._automated)
        self._automated = found.cursor
        return {result.key for result in found.results if not result.true_subset.is_empty}

    def run_partitions(self, key: dg.AssetKey, **options: Any) -> None:
        """One run over all dynamic partitions."""
        found = self.partitions(key)
        self.run(key, tags=between(found[0], found[-1]), **options)

    def tick(self, sensor: dg.SensorDefinition) -> Any:
        with dg.build_sensor_context(
            instance=self.instance,
            definitions=self.defs,
            resources=dict(self.defs.resources or {}),
            cursor=self._cursors.get(sensor.name),
        ) as context:
            found = sensor.evaluate_tick(context)
        self._cursors[sensor.name] = found.cursor
        for request in found.dynamic_partitions_requests or ():
            self.instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
        return found

    def execute(self, requests: Any) -> None:
        """Run what a sensor has asked for."""
        for request in requests:
            (key,) = request.asset_selection
            self.run(key, tags=dict(request.tags))

    def run_schedule(self, schedule: Any) -> None:
        """The slice that has ended last, by the schedule's own job."""
        repository = self.defs.get_repository_def()
        (found,) = [each for each in repository.schedule_defs if each.name == schedule.name]
        with quietly(), dg.build_schedule_context(instance=self.instance, repository_def=repository) as context:
            (request,) = found.evaluate_tick(context).run_requests or ()
        job = repository.get_job(found.job_name)
        assert job.execute_in_process(instance=self.instance, partition_key=request.partition_key).success

    def configure(self, values: dict[str, Any]) -> None:
        """Runs with a configuration that a page shows, of the ops that it names."""
        for op in values["ops"]:
            (asset,) = [asset for asset in self.assets if asset.op.name == op]
            if asset.partitions_def is None:
                self.run(asset.key, run_config=values)
            else:
                self.run_partitions(asset.key, run_config=values)


class Visit:
    """A reader who does what a page says."""

    def __init__(self, page: Path, shop: Callable[[str], Any], instance: dg.DagsterInstance, database: str) -> None:
        self.page = page
        self.shop = shop
        self.instance = instance
        self.database = database
        self.location: Location | None = None
        self.names: dict[str, Any] = {}
        self._document = ""

    def follow(self, language: str, text: str) -> None:
        {
            "python": self._python,
            "sql": self._sql,
            "sh": self._shell,
            "yaml": self._yaml,
            "graphql": self._graphql,
            "json": self._variables,
        }[language](text)

    def _python(self, text: str) -> None:
        if text.startswith("# definitions.py"):
            Path("definitions.py").write_text(text)
        self.names = {"__name__": "snippet"}
        exec(compile(text, str(self.page), "exec", dont_inherit=True), self.names)
        if "defs" in self.names:
            self.location = Location(self.names["defs"], self.instance)
            self.location.run_all()

    def _sql(self, text: str) -> None:
        for statement in text.replace("DATABASE shop", f"DATABASE {self.database}").split(";"):
            if statement.strip():
                self.shop(statement)

    def _shell(self, text: str) -> None:
        for line in text.splitlines():
            program, *arguments = shlex.split(os.path.expandvars(line))
            assert program in {"rivet-dagster", "dagster"}, line
            if program == "rivet-dagster":
                done = rivet(*arguments)
                assert done.code == 0, (line, done.err)
            else:
                command = [sys.executable, "-m", "dagster", *arguments]
                ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
                assert ended.returncode == 0, (line, ended.stderr)

    def _yaml(self, text: str) -> None:
        values = yaml.safe_load(text)
        if "type" in values:
            declared = self._component(values)
            table = values["attributes"]["exports"][0]["table"].replace(".", "/")
            assert dg.AssetKey([*table.split("/"), "complete"]) in declared.resolve_asset_graph().get_all_asset_keys()
            automation = values["attributes"].get("automation", {})
            found = {sensor.name for sensor in declared.sensors or ()} | {
                each.name for each in declared.schedules or ()
            }
            assert len(found) == len(automation.keys() - {"running"})
        elif "ops" in values:
            self._configured(values)
        elif "sources" in values:
            assert self.location
            known = self.location.defs.resolve_asset_graph().get_all_asset_keys()
            wanted = [table["meta"]["dagster"]["asset_key"] for table in values["sources"][0]["tables"]]
            assert {dg.AssetKey(key) for key in wanted} <= known
        else:
            folder = Path("other-instance")
            folder.mkdir()
            (folder / "dagster.yaml").write_text(text)
            with dg.DagsterInstance.from_config(str(folder)) as instance:
                shown = instance.get_settings("run_monitoring")
                assert shown == values["run_monitoring"]

    def _configured(self, values: dict[str, Any]) -> None:
        """Operate what the page has defined, or else check the configuration against what its ops take."""
        assert self.location
        if {asset.op.name for asset in self.location.assets} >= values["ops"].keys():
            self.location.configure(values)
            return
        windows = TimeWindows(column="happened_at", every="month", start="2025-01-01", end="2025-04-01")
        table = next(iter(values["ops"])).removeprefix("rivet__").replace("__", ".")
        assets = build_rivet_assets(ExportConfig(table=table, windows=windows))
        resources = dict(self.location.defs.resources or {})
        slices = Location(dg.Definitions(assets=assets, resources=resources), self.instance)
        tags = {**between("2025-01-01", "2025-03-01"), "dagster/backfill": "one"}
        for _ in range(2):
            slices.run(assets[0].key, run_config=values, tags=tags)
        slices.run(assets[1].key)

    def _component(self, values: dict[str, Any]) -> dg.Definitions:
        component = RivetExportComponent.resolve_from_yaml(yaml.safe_dump(values["attributes"]))
        return component.build_defs(dg.ComponentTree.for_test().load_context)

    def _graphql(self, text: str) -> None:
        assert validate(create_schema().graphql_schema, parse(text)) == []
        self._document = text

    def _variables(self, text: str) -> None:
        """Variables of the operation before it."""
        (operation,) = parse(self._document).definitions
        found = get_variable_values(
            create_schema().graphql_schema,
            operation.variable_definitions,  # type: ignore[attr-defined]
            json.loads(text),
        )
        assert not any(isinstance(each, GraphQLError) for each in found), found


def engine_of(page: Path) -> str:
    return "MYSQL" if "MYSQL_DSN" in page.read_text() else "PG"


@pytest.mark.filterwarnings("ignore:.parse_obj_as. is deprecated:DeprecationWarning")  # Dagster's own call
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_snippets_run(page: Path, instance: dg.DagsterInstance, request: pytest.FixtureRequest) -> None:
    text = page.read_text()
    engine = engine_of(page)
    shop = request.getfixturevalue("mysql_shop" if engine == "MYSQL" else "shop")
    visit = Visit(page, shop, instance, database=os.environ[f"{engine}_DSN"].rpartition("/")[2])
    if "rivet-dagster export" not in text and "defs = " not in text:
        schema = "shop" if engine == "MYSQL" else "public"
        visit.follow("sh", f'rivet-dagster export --source "${engine}_DSN" --table {schema}.orders --to lake')
    for language, snippet in SNIPPET.findall(text):
        visit.follow(language, snippet)
    AFTERWARDS.get(page.name, lambda _: None)(visit)


def test_no_snippet_is_in_a_language_that_nobody_runs() -> None:
    languages = {language for page in PAGES for language in re.findall(r"^```(\w+)$", page.read_text(), re.MULTILINE)}
    assert languages <= {"python", "sh", "sql", "yaml", "graphql", "json", "ini"}


# What pages say beyond their snippets


def each_type_of_windows_has_its_rows(visit: Visit) -> None:
    lake, dsn = Path(os.environ["LAKE"]), os.environ["PG_DSN"]
    for table, key in {"orders": "id", "customers": "updated_at NULLS FIRST,id", "settings": "name"}.items():
        found = exported_rows(lake / f"public.{table}")
        expected = source_rows(dsn, f"public.{table}", key.split(" ")[0])
        assert sorted(found, key=str) == sorted(expected, key=str), table
    assert len(sealed(lake / "public.payments")["windows"]) == 1
    views = [exported_rows(lake / f"public.{name}") for name in ("paid_orders", "short_orders")]
    assert views == [visit.shop("SELECT * FROM public.paid_orders ORDER BY id"), visit.shop(SHORT_ORDERS)]
    assert visit.names["short_orders"].query in SHORT_ORDERS


SHORT_ORDERS = "SELECT o.id, left(o.note, 8) AS note FROM public.orders AS o ORDER BY id"


def the_new_generation_takes_the_place_of_the_old_one(visit: Visit) -> None:
    assert visit.location
    lake, orders = Path(os.environ["LAKE"]), dg.AssetKey(["public", "orders"])
    assert [key[:3] for key in visit.location.partitions(orders)] == ["g2-"] * 3
    assert sealed(lake / "public.orders")["generation"] == 1, "as long as the new one is not sealed"
    visit.location.run_partitions(orders)
    visit.location.run(dg.AssetKey(["public", "orders", "complete"]))
    assert sealed(lake / "public.orders")["generation"] == 2
    events = sealed(lake / "public.events")
    assert events["generation"] == 1, "both runs of a backfill share it"
    assert events["rows"] == visit.shop("SELECT count(*) FROM events WHERE happened_at < '2025-04-01 00:00+00'")[0][0]


def the_day_that_has_ended_is_exported(visit: Visit) -> None:
    assert visit.location
    (day,) = visit.instance.get_materialized_partitions(dg.AssetKey(["public", "events"]))
    manifest = json.loads((Path(os.environ["LAKE"]) / f"public.events/g1/windows/t{day}.json").read_text())
    within = f"(happened_at AT TIME ZONE 'Europe/Paris')::date = '{day}'"
    assert manifest["rows"] == visit.shop(f"SELECT count(*) FROM events WHERE {within}")[0][0] > 0


def the_newest_rows_are_those_of_the_table(visit: Visit) -> None:
    assert visit.location
    newest = [text for language, text in SNIPPET.findall(visit.page.read_text()) if language == "python"][-1]
    customers = "SELECT * FROM public.customers ORDER BY id"
    assert visit.names["customers"] == visit.shop(customers)
    visit.shop("UPDATE customers SET name = 'changed', updated_at = now() - INTERVAL '5 minutes' WHERE id % 10 = 3")
    visit.shop("UPDATE customers SET name = 'unseen', updated_at = now() WHERE id = 3")
    (sensor,) = visit.location.defs.sensors or ()
    visit.location.execute(visit.location.tick(sensor).run_requests)
    visit.location.run(dg.AssetKey(["public", "customers", "complete"]))
    visit.follow("python", newest)
    rows = {row[0]: row for row in visit.names["customers"]}
    expected = {row[0]: row for row in visit.shop(customers)}
    assert (expected.pop(3)[1], rows.pop(3)[1]) == ("unseen", "customer 3"), "what is within the lag waits"
    assert rows == expected


def requests_are_served_and_drift_is_found(visit: Visit) -> None:
    assert visit.location
    (sensor,) = visit.location.defs.sensors or ()
    requests = visit.location.tick(sensor).run_requests
    windows = visit.location.partitions(dg.AssetKey(["public", "customers"]))
    assert asked(requests) == [("g1-w000000", "g1-w000001"), (windows[0], windows[-1])]
    assert {request.tags["rivet/reason"] for request in requests} == {"requested"}
    files = Path(os.environ["LAKE"]) / "reload"
    assert list(files.iterdir()), "until the next tick"
    visit.location.execute(requests)
    visit.shop("DELETE FROM public.orders WHERE id = 2500")
    (request,) = visit.location.tick(sensor).run_requests
    assert (request.tags[RANGE_START], request.tags[RANGE_END]) == ("g1-w000002", "g1-w000002")
    assert not list(files.iterdir())


def a_failed_check_is_repaired_by_runs(visit: Visit) -> None:
    assert visit.location
    (sensor,) = visit.location.defs.sensors or ()
    (nightly,) = visit.location.defs.schedules or ()
    complete = dg.AssetKey(["public", "orders", "complete"])

    def failing() -> list[tuple[str, Any]]:
        visit.location.run_schedule(nightly)  # type: ignore[union-attr]
        found = [latest_evaluation(visit.instance, complete, check) for check in NAMING_WINDOWS]
        return [(each.check_name, each.metadata[FAILING_WINDOWS].value) for each in found if each and not each.passed]

    assert failing() == []
    (part,) = Path(os.environ["LAKE"], "public.orders/g1/data/w000003").iterdir()
    part.write_bytes(part.read_bytes()[:-1])
    assert failing() == [("rivet_integrity", ["g1-w000003"])]
    requests = visit.location.tick(sensor).run_requests
    assert asked(requests) == [("g1-w000003", "g1-w000003")]
    visit.location.execute(requests)
    assert complete in visit.location.requested(), "by its condition"
    visit.location.run(complete)
    assert failing() == []


def what_is_downstream_is_requested_when_the_table_is_sealed_again(visit: Visit) -> None:
    location = visit.location
    assert location
    view = dg.AssetKey(["duckdb", "orders"])
    assert view not in location.requested()
    visit.shop("INSERT INTO public.orders VALUES (4000, 'one more')")
    location.run(dg.AssetKey(["public", "orders", "plan"]))
    assert view not in location.requested(), "the table is not sealed again yet"
    location.run_partitions(dg.AssetKey(["public", "orders"]))
    location.run(dg.AssetKey(["public", "orders", "complete"]))
    assert view in location.requested()
    location.run(view)
    with duckdb.connect("shop.duckdb", read_only=True) as database:
        assert database.sql("SELECT * FROM orders ORDER BY id").fetchall() == visit.shop(
            "SELECT * FROM public.orders ORDER BY id"
        )


AFTERWARDS: dict[str, Callable[[Visit], None]] = {
    "choose-windows.md": each_type_of_windows_has_its_rows,
    "replan.md": the_new_generation_takes_the_place_of_the_old_one,
    "schedule-a-daily-slice.md": the_day_that_has_ended_is_exported,
    "incremental-by-updated-at.md": the_newest_rows_are_those_of_the_table,
    "validate-and-repair.md": a_failed_check_is_repaired_by_runs,
    "reload-what-changed.md": requests_are_served_and_drift_is_found,
    "hand-over-to-dbt-and-duckdb.md": what_is_downstream_is_requested_when_the_table_is_sealed_again,
}


def test_every_page_that_is_looked_at_afterwards_is_there() -> None:
    assert AFTERWARDS.keys() <= {page.name for page in PAGES}


# Least privilege


def test_the_least_privilege_of_the_docs_is_enough(
    shop: Callable[[str], Any], dsn: str, postgres: Any, tmp_path: Path
) -> None:
    page = (ROOT / "docs/how-to/least-privilege.md").read_text()
    database = dsn.rpartition("/")[2]
    for _, text in SNIPPET.findall(page):
        for statement in text.replace("DATABASE shop", f"DATABASE {database}").split(";"):
            if statement.strip():
                shop(statement)
    shop(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")
    reader = postgres.dsn(database, user="rivet_reader", password="choose one")
    done = rivet("export", "--source", reader, "--table", "public.orders", "--to", str(tmp_path / "other"))
    assert done.code == 0, done.err


def test_the_user_of_the_mysql_page_is_enough(
    mysql_shop: Callable[[str], Any], mariadb: MariaServer, tmp_path: Path
) -> None:
    page = (ROOT / "docs/how-to/mysql-and-mariadb.md").read_text()
    for language, text in SNIPPET.findall(page):
        for statement in text.split(";") if language == "sql" else ():
            if statement.strip():
                mysql_shop(statement)
    reader = mariadb.dsn("shop", user="rivet_reader", password="choose one")
    done = rivet("export", "--source", reader, "--table", "shop.orders", "--to", str(tmp_path / "lake"))
    assert done.code == 0, done.err
    refused = rivet("export", "--source", reader, "--table", "shop.visits", "--to", str(tmp_path / "lake"), "--whole")
    assert refused.code == 1
    assert "RIVET_SOURCE" in refused.err
