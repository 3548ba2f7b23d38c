"""What a user writes in Python: specs, bodies of assets, configuration of runs, whole schemas."""

import asyncio
import re
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from demo.mariadb import MariaServer
from demo.postgres import EmbeddedPostgres
from rivet_dagster import (
    CsvFormat,
    DagsterRivetTranslator,
    ExportConfig,
    FullWindows,
    KeysetWindows,
    ReadLimits,
    RivetError,
    RivetResource,
    RivetRunConfig,
    RivetTranslatorData,
    build_rivet_asset_specs,
    build_rivet_assets,
    rivet_assets,
    select_tables,
)
from rivet_dagster.export import faults
from rivet_dagster.sources import ENGINES, open_source
from rivet_dagster.sources.postgres.source import PostgresSource
from tests.support.readers import exported_rows, source_rows

Sql = Callable[[str], list[tuple[Any, ...]]]
KEY = dg.AssetKey(["public", "orders"])
OP = "rivet__public__orders"
ORDERS = ExportConfig(table="public.orders", windows=KeysetWindows(rows=500))
PAGE = Path(__file__).parents[2] / "docs/how-to/declare-in-python.md"
SNIPPETS = re.findall(r"^```py\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def fresh_fault_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "_passed", {})


class Location:
    """A database with a table of 3,250 rows, and an instance that assets on it are run in."""

    def __init__(self, instance: dg.DagsterInstance, dsn: str, lake: Path) -> None:
        self.instance = instance
        self.dsn = dsn
        self.lake = lake
        self.rivet = RivetResource(source=dg.EnvVar("TEST_DSN"), destination=str(lake), workers=2)

    def run(self, asset: dg.AssetsDefinition, **options: Any) -> dg.ExecuteInProcessResult:
        """Materialize one asset, if it is a table's in one ranged run over all partitions."""
        if asset.partitions_def is not None:
            keys = self.keys()
            ends = {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}
            options["tags"] = {**ends, **options.get("tags", {})}
        return dg.materialize(
            [asset], instance=self.instance, resources={"rivet": self.rivet}, raise_on_error=False, **options
        )

    def keys(self) -> list[str]:
        return list(self.instance.get_dynamic_partitions("public/orders"))

    def events(self) -> list[dg.AssetMaterialization]:
        records = self.instance.fetch_materializations(KEY, limit=1000).records
        return [record.asset_materialization for record in reversed(records) if record.asset_materialization]

    def reused(self) -> set[str]:
        """Partitions that were not read by the run that reported them last."""
        return {str(event.partition) for event in self.events()[-7:] if event.metadata["rivet/reused"].value}


@pytest.fixture
def location(dsn: str, sql: Sql, lake: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Location]:
    monkeypatch.setenv("TEST_DSN", dsn)
    sql("CREATE TABLE public.orders (id int PRIMARY KEY, note text, price numeric(12,2) NOT NULL)")
    sql("INSERT INTO public.orders SELECT n, 'order ' || n, n / 4.0 FROM generate_series(1, 3250) AS n")
    with dg.DagsterInstance.ephemeral() as instance:
        yield Location(instance, dsn, lake)


@pytest.fixture
def planned(location: Location) -> Location:
    assert location.run(build_rivet_assets(ORDERS)[0]).success
    assert len(location.keys()) == 7
    return location


def run_config(**options: Any) -> dg.RunConfig:
    return dg.RunConfig(ops={OP: RivetRunConfig(**options)})


def failure_of(run: dg.ExecuteInProcessResult) -> str:
    """What the one failed step of a run says."""
    (event,) = [event for event in run.all_events if event.is_step_failure]
    return str(event.step_failure_data)


# Bodies of one's own


def test_a_body_of_ones_own_exports_and_learns_what_was_committed(location: Location) -> None:
    told: list[Any] = []

    class Louder(RivetRunConfig):
        loud: bool = False

    @rivet_assets(ORDERS, group_name="lake", pool="pg", op_tags={"team": "data"})
    def orders(context: dg.AssetExecutionContext, rivet: RivetResource, config: Louder) -> Generator[Any, None, None]:
        told.append(len(context.partition_keys))
        exported = yield from rivet.export(context, config)
        told.append((config.loud, exported.windows, exported.reused, exported.rows, exported.bytes))

    plan, table, complete = orders
    assert table.op.name == "orders"
    assert (plan.op.pool, table.op.pool, complete.op.pool) == ("pg", "pg", None)
    assert table.op.tags["team"] == "data"
    assert location.run(plan).success
    config = dg.RunConfig(ops={"orders": Louder(loud=True, workers=1)})
    assert location.run(table, run_config=config).success
    files = sum(path.stat().st_size for path in location.lake.rglob("*.parquet"))
    assert told == [7, (True, 7, 0, 3250, files)]
    assert sorted(str(event.partition) for event in location.events()) == location.keys(), "one a window, none blank"
    assert location.run(complete).success
    assert exported_rows(location.lake / "public.orders") == source_rows(location.dsn, "public.orders", "id")


def test_a_body_without_configuration_and_with_a_name(planned: Location) -> None:
    @rivet_assets(ORDERS, name="all_orders")
    def orders(context: dg.AssetExecutionContext, rivet: RivetResource) -> Generator[Any, None, None]:
        yield from rivet.export(context)

    assert orders[1].op.name == "all_orders"
    assert orders[1].op.config_schema.config_type is not None
    assert planned.run(orders[1]).success
    assert len(planned.events()) == 7


def test_what_a_body_raises_fails_its_step_and_keeps_what_is_committed(planned: Location) -> None:
    @rivet_assets(ORDERS)
    def orders(context: dg.AssetExecutionContext, rivet: RivetResource) -> Generator[Any, None, None]:
        yield from rivet.export(context)
        raise ValueError("nobody was told")

    run = planned.run(orders[1])
    assert "nobody was told" in failure_of(run)
    assert {event.partition for event in planned.events()} == set(planned.keys())


def test_a_body_that_would_export_nothing_is_refused() -> None:
    with pytest.raises(dg.DagsterInvalidDefinitionError, match=r"orders exports nothing.*yield from"):

        @rivet_assets(ORDERS)
        def orders(context: dg.AssetExecutionContext, rivet: RivetResource) -> Any:
            rivet.export(context)


def test_a_module_full_of_assets_is_loaded_with_them() -> None:
    @rivet_assets(ORDERS)
    def orders(context: dg.AssetExecutionContext, rivet: RivetResource) -> Generator[Any, None, None]:
        yield from rivet.export(context)

    module = type(dg)("shop")
    vars(module)["orders"] = orders
    assets = [asset for asset in dg.load_assets_from_modules([module]) if isinstance(asset, dg.AssetsDefinition)]
    assert {key for asset in assets for key in asset.keys} == {
        KEY,
        dg.AssetKey([*KEY.path, "plan"]),
        dg.AssetKey([*KEY.path, "complete"]),
    }


# Specs


def attributes(spec: dg.AssetSpec) -> dict[str, Any]:
    """Everything that a spec says, but for the line that declares it."""
    said: dict[str, Any] = dict(spec._asdict())
    said["metadata"] = {key: value for key, value in spec.metadata.items() if key != "dagster/code_references"}
    return said


def test_the_specs_are_those_of_the_assets(lake: Path) -> None:
    other = ExportConfig(table='public."a b"', format=CsvFormat())
    shared: dict[str, Any] = {
        "translator": Owned(),
        "group_name": "lake",
        "owners": ["team:data"],
        "tags": {"layer": "raw"},
        "resource": RivetResource(source="postgresql://reader@nowhere.invalid/shop", destination=str(lake)),
    }
    specs = build_rivet_asset_specs([ORDERS, other], **shared)
    assets = build_rivet_assets(ORDERS, other, **shared)
    assert [attributes(spec) for spec in specs] == [attributes(spec) for asset in assets for spec in asset.specs]
    graph = dg.Definitions(assets=specs).resolve_asset_graph()
    assert graph.get(dg.AssetKey([*KEY.path, "complete"])).parent_keys == {KEY}
    assert graph.get(KEY).parent_keys == {dg.AssetKey([*KEY.path, "plan"])}


class Owned(DagsterRivetTranslator):
    """Says of some assets what a call says of all."""

    def get_asset_spec(self, data: RivetTranslatorData) -> dg.AssetSpec:
        spec = super().get_asset_spec(data)
        if data.role == "table":
            return spec.replace_attributes(owners=["ann@example.com", "team:data"], code_version="7", group_name="own")
        return spec.merge_attributes(tags={"layer": data.role}, metadata={"dagster/uri": f"s3://own/{data.engine}"})


def test_specs_tell_what_the_assets_are(location: Location) -> None:
    plan, table, complete = build_rivet_asset_specs(
        [ORDERS], group_name="lake", owners=["team:data"], tags={"layer": "raw"}, resource=location.rivet
    )
    for spec, kinds in ((plan, {"postgresql"}), (table, {"postgresql", "parquet"}), (complete, {"parquet"})):
        assert spec.kinds == kinds
        assert list(spec.owners) == ["team:data"]
        assert spec.tags["layer"] == "raw"
        assert spec.group_name == "lake"
        assert spec.description
        assert "public.orders" in spec.description
        assert spec.code_version == plan.code_version
    for spec in (table, complete):
        assert spec.metadata["dagster/table_name"] == "public.orders"
        assert spec.metadata["dagster/storage_kind"] == "parquet"
        assert spec.metadata["dagster/uri"] == (location.lake / "public.orders").as_uri()
    changed = build_rivet_asset_specs([ORDERS.model_copy(update={"windows": KeysetWindows(rows=501)})])
    assert {spec.code_version for spec in changed}.isdisjoint({plan.code_version})


def test_what_a_translator_says_wins_over_the_call() -> None:
    plan, table, complete = build_rivet_asset_specs(
        [ORDERS], Owned(), group_name="lake", owners=["team:data", "bob@example.com"], tags={"layer": "raw", "a": "b"}
    )
    assert (table.code_version, table.group_name, plan.group_name) == ("7", "own", "lake")
    assert list(table.owners) == ["ann@example.com", "team:data", "bob@example.com"]
    assert [{**spec.tags}["layer"] for spec in (plan, table, complete)] == ["plan", "raw", "complete"]
    assert complete.tags["a"] == "b"
    assert complete.metadata["dagster/uri"] == "s3://own/None"


def test_what_is_not_known_yet_is_not_told(monkeypatch: pytest.MonkeyPatch, lake: Path) -> None:
    rivet = RivetResource(source=dg.EnvVar("LATER_DSN"), destination=dg.EnvVar("LATER_LAKE"))
    for _, table, complete in (build_rivet_asset_specs([ORDERS]), build_rivet_asset_specs([ORDERS], resource=rivet)):
        assert table.kinds == {"parquet"}
        assert "dagster/uri" not in table.metadata
        assert "dagster/uri" not in complete.metadata
    monkeypatch.setenv("LATER_DSN", "mariadb://reader@nowhere.invalid/shop")
    monkeypatch.setenv("LATER_LAKE", "s3://bucket/lake/")
    _, table, _ = build_rivet_asset_specs([ExportConfig(table="shop.orders", format=CsvFormat())], resource=rivet)
    assert table.kinds == {"mysql", "csv"}
    assert table.metadata["dagster/uri"] == "s3://bucket/lake/shop.orders"


def test_an_address_with_a_secret_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("s3://key:h1dden@bucket/lake", "az://container/lake?sig=h1dden"):
        monkeypatch.setenv("LATER_LAKE", address)
        rivet = RivetResource(source="mysql://reader@localhost/shop", destination=dg.EnvVar("LATER_LAKE"))
        assert "h1dden" not in str(build_rivet_asset_specs([ORDERS], resource=rivet))


@pytest.mark.parametrize("scheme", ENGINES)
def test_every_engine_has_its_kind(scheme: str, lake: Path) -> None:
    address = f"{scheme}://reader@localhost/shop"
    plan, *_ = build_rivet_asset_specs([ORDERS], resource=RivetResource(source=address, destination=str(lake)))
    assert plan.kinds == {open_source(address).engine}


def test_the_address_of_a_spec_is_that_of_the_seal(planned: Location) -> None:
    _, table, complete = build_rivet_assets(ORDERS, resource=planned.rivet)
    assert planned.run(table).success
    (seal,) = planned.run(complete).asset_materializations_for_node(f"{OP}__complete")
    (spec,) = complete.specs
    assert seal.metadata["dagster/uri"].value == spec.metadata["dagster/uri"]


def test_column_schemas_are_on_plan_and_seal(planned: Location) -> None:
    _, table, complete = build_rivet_assets(ORDERS)
    assert planned.run(table).success
    (seal,) = planned.run(complete).asset_materializations_for_node(f"{OP}__complete")
    record = planned.instance.get_latest_materialization_event(dg.AssetKey([*KEY.path, "plan"]))
    assert record is not None
    assert record.asset_materialization is not None
    for event in (record.asset_materialization, seal):
        schema = event.metadata["dagster/column_schema"].value
        assert isinstance(schema, dg.TableSchema)
        assert [(column.name, column.type, column.constraints.nullable) for column in schema.columns] == [
            ("id", "int32", False),
            ("note", "text", True),
            ("price", "decimal(12, 2)", False),
        ]


# Links to code


def reference_of(spec: dg.AssetSpec) -> tuple[str, int | None]:
    (reference,) = spec.metadata["dagster/code_references"].code_references
    return reference.file_path, reference.line_number


def line_of(text: str) -> int:
    """Number of the only line of this file that ends so."""
    lines = Path(__file__).read_text().splitlines()
    (number,) = [number for number, line in enumerate(lines, start=1) if line.endswith(text)]
    return number


def test_specs_link_to_the_line_that_declares_them() -> None:
    declared = build_rivet_assets(ORDERS)  # here
    listed = [spec for config in (ORDERS,) for spec in build_rivet_asset_specs([config])]  # there

    @rivet_assets(ORDERS)  # yonder
    def orders(context: dg.AssetExecutionContext, rivet: RivetResource) -> Generator[Any, None, None]:
        yield from rivet.export(context)

    for specs, mark in (
        ([spec for asset in declared for spec in asset.specs], "# here"),
        (listed, "# there"),
        ([spec for asset in orders for spec in asset.specs], "# yonder"),
    ):
        assert {reference_of(spec) for spec in specs} == {(__file__, line_of(mark))}


@pytest.mark.parametrize(("file", "module"), [("<string>", "shop"), (__file__, "dagster.components.core")])
def test_code_in_no_file_and_dagster_itself_are_not_linked(file: str, module: str) -> None:
    names: dict[str, Any] = {"__name__": module, "build": build_rivet_asset_specs, "orders": ORDERS}
    exec(compile("specs = build([orders])", file, "exec"), names)
    assert [spec.metadata.get("dagster/code_references") for spec in names["specs"]] == [None] * 3


@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
def test_links_become_links_to_a_repository() -> None:
    (_, table, _) = dg.link_code_references_to_git(
        build_rivet_assets(ORDERS),  # linked
        git_url="https://github.com/shop/lake",
        git_branch="main",
        file_path_mapping=dg.AnchorBasedFilePathMapping(Path(__file__).parent, "assets"),
    )
    assert isinstance(table, dg.AssetsDefinition)
    (spec,) = table.specs
    (reference,) = spec.metadata["dagster/code_references"].code_references
    assert reference.url.endswith(f"/tree/main/assets/{Path(__file__).name}#L{line_of('# linked')}")


# Configuration of runs


def count_workers(monkeypatch: pytest.MonkeyPatch, workers: int) -> list[str]:
    """Make connections of workers wait until there are so many; gives the names of the threads that came."""
    came: list[str] = []
    barrier = threading.Barrier(workers, timeout=20)
    plain = PostgresSource.connect

    def connect(source: PostgresSource) -> Any:
        name = threading.current_thread().name
        if name.startswith("rivet-"):
            came.append(name)
            barrier.wait()
        return plain(source)

    monkeypatch.setattr(PostgresSource, "connect", connect)
    return came


@pytest.mark.parametrize(("given", "workers"), [({}, 2), ({"workers": 1}, 1), ({"workers": 5}, 5)])
def test_workers_of_the_run_replace_those_of_the_resource(
    planned: Location, monkeypatch: pytest.MonkeyPatch, given: dict[str, int], workers: int
) -> None:
    came = count_workers(monkeypatch, workers)
    assert planned.run(build_rivet_assets(ORDERS)[1], run_config=run_config(**given)).success
    assert len(came) == workers
    assert len(planned.events()) == 7


@pytest.mark.parametrize("fresh", [False, True])
def test_a_fresh_retry_reads_what_was_committed_already(
    planned: Location, sql: Sql, monkeypatch: pytest.MonkeyPatch, fresh: bool
) -> None:
    _, table, complete = build_rivet_assets(ORDERS)
    monkeypatch.setenv("RIVET_FAULT", "after_page@g1-w000003:1:raise")
    first = planned.run(table)
    assert not first.success
    monkeypatch.delenv("RIVET_FAULT")
    sql("UPDATE public.orders SET note = 'changed since' WHERE id = 700")
    # The run's fields are set from these tags where Dagster launches a retry itself; here they must be given.
    monkeypatch.setattr(dg.DagsterRun, "root_run_id", property(lambda run: run.tags.get("dagster/root_run_id")), False)
    retry = {
        "dagster/root_run_id": first.run_id,
        "dagster/parent_run_id": first.run_id,
        "dagster/is_resume_retry": "true",
    }
    assert planned.run(table, tags=retry, run_config=run_config(fresh=fresh)).success
    assert planned.reused() == (set() if fresh else set(planned.keys()) - {"g1-w000003"})
    assert planned.run(complete).success
    (row,) = [row for row in exported_rows(planned.lake / "public.orders") if row[0] == 700]
    assert row[1] == ("changed since" if fresh else "order 700")


def test_the_launchpad_shows_what_can_be_said() -> None:
    _, table, _ = build_rivet_assets(ORDERS)
    fields: Any = vars(table.op.config_schema.config_type)["fields"]
    assert {name: (field.is_required, field.default_value) for name, field in fields.items()} == {
        "workers": (False, None),
        "fresh": (False, False),
        "replan": (False, False),
    }
    assert all(len(field.description or "") > 50 for field in fields.values())
    assert set(RivetRunConfig.model_fields) == set(fields)


def test_what_a_run_cannot_be_told_fails_before_anything_is_read(planned: Location) -> None:
    _, table, _ = build_rivet_assets(ORDERS)
    run = planned.run(table, run_config={"ops": {OP: {"config": {"workers": 0}}}})
    assert "greater than or equal to 1" in failure_of(run)
    with pytest.raises(dg.DagsterInvalidConfigError, match="refresh"):
        planned.run(table, run_config={"ops": {OP: {"config": {"refresh": True}}}})
    assert planned.events() == []


def test_a_run_request_brings_its_configuration(planned: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    assets = build_rivet_assets(ORDERS)
    job = dg.define_asset_job("export_orders", selection=[KEY])

    @dg.sensor(job=job)
    def rows_came(context: dg.SensorEvaluationContext) -> dg.RunRequest:
        return dg.RunRequest(
            run_config=run_config(workers=3),
            tags={
                "dagster/asset_partition_range_start": "g1-w000001",
                "dagster/asset_partition_range_end": "g1-w000004",
            },
        )

    defs = dg.Definitions(assets=assets, jobs=[job], sensors=[rows_came], resources={"rivet": planned.rivet})
    with dg.build_sensor_context(instance=planned.instance, definitions=defs) as context:
        request = rows_came(context)
    assert isinstance(request, dg.RunRequest)
    came = count_workers(monkeypatch, 3)
    run = defs.resolve_job_def("export_orders").execute_in_process(
        run_config=request.run_config, tags=dict(request.tags), instance=planned.instance
    )
    assert run.success
    assert len(came) == 3
    assert sorted(str(event.partition) for event in planned.events()) == [f"g1-w00000{n}" for n in range(1, 5)]


# Assets of one's own


@pytest.mark.parametrize(
    "config",
    [
        ORDERS,
        ExportConfig(
            table='public."orders"',
            windows=KeysetWindows(columns=("id",), rows=500),
            format=CsvFormat(compression="zstd"),
            limits=ReadLimits(page_bytes=64 << 10, retry_seconds=0.25),
            columns={"price": {"type": "text"}, "note": {"unrepresentable": "text"}},  # type: ignore[dict-item]
            unrepresentable="null",
        ),
    ],
    ids=["short", "everything said"],
)
def test_an_asset_made_of_the_spec_exports_as_configured(planned: Location, config: ExportConfig) -> None:
    opened: list[ExportConfig] = []

    class Watched(RivetResource):
        def open(self, config: ExportConfig) -> Any:
            opened.append(config)
            raise RivetError("RIVET_INTERRUPTED", "Enough was seen.", "")

    _, spec, _ = build_rivet_asset_specs([config])

    @dg.multi_asset(specs=[spec], name="mine", backfill_policy=dg.BackfillPolicy.single_run())
    def mine(context: dg.AssetExecutionContext, rivet: RivetResource) -> Generator[Any, None, None]:
        yield from rivet.export(context)

    if config is ORDERS:
        assert planned.run(mine).success
        assert len(planned.events()) == 7
    planned.rivet = Watched(source=dg.EnvVar("TEST_DSN"), destination=str(planned.lake))
    assert "RIVET_INTERRUPTED" in failure_of(planned.run(mine))
    assert opened == [config]


def test_an_asset_without_the_spec_cannot_export(planned: Location) -> None:
    @dg.multi_asset(specs=[dg.AssetSpec("other", skippable=True)], name="other")
    def other(context: dg.AssetExecutionContext, rivet: RivetResource) -> Generator[Any, None, None]:
        yield from rivet.export(context)

    assert "other has the specs of 0 table assets" in failure_of(planned.run(other))


# Whole schemas


def names_of(configs: list[ExportConfig]) -> list[tuple[str, str]]:
    return [config.relation for config in configs]


@pytest.fixture
def schema(dsn: str, sql: Sql, postgres: EmbeddedPostgres) -> Iterator[str]:
    """Address of a database for a user who may not read everything in it."""
    for name in ("orders", "Orders", '"order.items"', '"o ""q"" é"', "customers", "tmp_a", "zebra"):
        table = name if name[0] == '"' else f'"{name}"'
        sql(f"CREATE TABLE public.{table} (id int PRIMARY KEY, note text)")
        sql(f"INSERT INTO public.{table} SELECT n, 'note ' || n FROM generate_series(1, 10) AS n")
    sql("CREATE TABLE public.events (id int PRIMARY KEY) PARTITION BY RANGE (id)")
    sql("CREATE TABLE public.events_1 PARTITION OF public.events FOR VALUES FROM (0) TO (9)")
    sql("CREATE TABLE public.events_2 PARTITION OF public.events DEFAULT PARTITION BY RANGE (id)")
    sql("CREATE VIEW public.a_view AS SELECT * FROM public.orders")
    sql("CREATE MATERIALIZED VIEW public.a_copy AS SELECT * FROM public.orders")
    sql("CREATE SEQUENCE public.a_sequence")
    sql("CREATE TYPE public.a_type AS (a int)")
    sql("CREATE SCHEMA other")
    sql("CREATE TABLE other.elsewhere (id int PRIMARY KEY)")
    database = dsn.rpartition("/")[2]
    user = f"reader_{database}"
    sql(f"CREATE ROLE {user} LOGIN PASSWORD 'r'")
    sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA public, other TO {user}")
    sql(f"REVOKE SELECT ON public.zebra, public.customers FROM {user}")
    sql(f"GRANT INSERT ON public.zebra TO {user}")
    sql(f"GRANT SELECT (id) ON public.customers TO {user}")
    yield postgres.dsn(database, user=user, password="r")
    sql(f"DROP OWNED BY {user}")
    sql(f"DROP ROLE {user}")


def test_a_schema_has_the_tables_that_the_user_may_read(schema: str, dsn: str, sql: Sql) -> None:
    readable = ["Orders", "events", 'o "q" é', "order.items", "orders", "tmp_a"]
    assert names_of(select_tables(schema, "public.*")) == [("public", name) for name in readable]
    owners = [("public", name) for name in sorted([*readable, "customers", "zebra"])]
    assert names_of(select_tables(dsn, "public.*")) == owners
    with pytest.raises(RivetError, match=r"RIVET_SOURCE_TABLE_MISSING.*0 tables of other"):
        select_tables(schema, "other.*")  # its tables are granted, the schema is not
    sql(f"GRANT SELECT (note) ON public.customers TO reader_{dsn.rpartition('/')[2]}")
    assert ("public", "customers") in names_of(select_tables(schema, "public.*")), "every column, one by one"


def test_patterns_choose_among_the_tables(schema: str) -> None:
    def chosen(pattern: str, **patterns: Any) -> list[str]:
        return [name for _, name in names_of(select_tables(schema, pattern, **patterns))]

    assert chosen("public.order*") == ["order.items", "orders"]
    assert chosen("public.[Oo]rders") == ["Orders", "orders"]
    assert chosen('public."order.*"') == ["order.items"]
    assert chosen("public.*", include=["*s"], exclude=["O*"]) == ["events", "order.items", "orders"]
    assert chosen("public.*", include="tmp_?") == ["tmp_a"]
    assert chosen("public.*", exclude=["*o*", "*O*"]) == ["events", "tmp_a"]
    assert chosen("public.orders", exclude=iter(["tmp_*"])) == ["orders"]
    for pattern, include in (("public.x*", None), ("publik.*", None), ("public.*", [])):
        with pytest.raises(RivetError, match=r"RIVET_SOURCE_TABLE_MISSING.*none is chosen"):
            chosen(pattern, include=include)


def test_options_are_those_of_every_export(schema: str) -> None:
    options: dict[str, Any] = {"windows": KeysetWindows(rows=4), "format": {"type": "csv"}, "unrepresentable": "null"}
    configs = select_tables(schema, "public.order*", **options)
    assert configs == [ExportConfig(table=table, **options) for table in ('public."order.items"', "public.orders")]
    for wrong in ({"rows": 4}, {"windows": {"rows": 0}}):
        with pytest.raises(RivetError, match="RIVET_CONFIG_INVALID"):
            select_tables("postgresql://reader@nowhere.invalid/shop", "public.*", **wrong)
    with pytest.raises(RivetError, match="RIVET_CONFIG_TABLE"):
        select_tables("postgresql://reader@nowhere.invalid/shop", "public")


def test_every_table_that_is_chosen_can_be_exported(
    schema: str, dsn: str, lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_DSN", schema)
    exports = select_tables(schema, "public.*", exclude=["events"], windows=KeysetWindows(rows=4))
    with dg.DagsterInstance.ephemeral() as instance:
        location = Location(instance, schema, lake)
        for plan, table, complete in zip(*[iter(build_rivet_assets(*exports))] * 3, strict=True):
            assert location.run(plan).success
            keys = instance.get_dynamic_partitions(table.key.to_user_string())
            ends = {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}
            assert dg.materialize([table], instance=instance, resources={"rivet": location.rivet}, tags=ends).success
            assert location.run(complete).success
    folders = {path.parent for path in lake.rglob("_SUCCESS")}
    assert len(folders) == len(exports) == 5
    for folder in folders:
        assert exported_rows(folder) == [(n, f"note {n}") for n in range(1, 11)]


def run_snippet(text: str) -> dict[str, Any]:
    """The names of a page's snippet after it ran. Its annotations are what it says, whatever this file asks for."""
    names: dict[str, Any] = {"__name__": "snippet"}
    exec(compile(text, "snippet", "exec", dont_inherit=True), names)
    return names


def test_the_snippets_of_the_page_run_and_load(
    location: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PG_DSN", location.dsn)
    monkeypatch.setenv("LAKE", str(location.lake))
    monkeypatch.chdir(tmp_path)
    found, automated = [], set()
    for snippet in SNIPPETS:
        names = run_snippet(snippet)
        if "defs" in names:
            dg.Definitions.validate_loadable(names["defs"])
            repository = names["defs"].get_repository_def()
            automated |= {each.name for each in (*repository.sensor_defs, *repository.schedule_defs)}
            found.append({key.to_user_string() for key in names["defs"].resolve_asset_graph().get_all_asset_keys()})
    plain = {"public/orders", "public/orders/plan", "public/orders/complete"}
    customers = {"public/customers", "public/customers/plan", "public/customers/complete"}
    several = plain | customers | {"public/events", "public/events/complete"}
    assert found == [{f"raw/{key}" for key in plain}, plain, several, plain]
    assert automated >= {"rivet_plan", "rivet_cursor", "rivet_reload", "rivet__public__events"}
    assert len(SNIPPETS) == 7


@pytest.mark.filterwarnings("ignore:.parse_obj_as. is deprecated:DeprecationWarning")  # Dagster's own call
def test_the_component_of_the_page_keeps_what_it_found(
    schema: str, lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PG_DSN", schema)
    monkeypatch.setenv("LAKE", str(lake))
    component = run_snippet(SNIPPETS[-1])["ShopTables"].resolve_from_yaml("pattern: public.order*")
    (tmp_path / "dg.toml").write_text('directory_type = "project"\n[project]\nroot_module = "shop_project"\n')
    (tmp_path / "shop_project/defs").mkdir(parents=True)
    (tmp_path / "shop_project/__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    asyncio.run(component.refresh_state(tmp_path))
    (state,) = [path for path in tmp_path.rglob("*") if path.is_file() and path.name == "state"]
    monkeypatch.setenv("PG_DSN", "postgresql://reader@nowhere.invalid/shop")
    context = dg.ComponentTree.for_test().load_context
    keys = component.build_defs_from_state(context, state).resolve_asset_graph().get_all_asset_keys()
    assert {key for key in keys if len(key.path) == 2} == {KEY, dg.AssetKey(["public", "order_x002E_items"])}
    assert not component.build_defs_from_state(context, None).resolve_asset_graph().get_all_asset_keys()


def test_a_database_has_the_tables_that_the_user_may_read(mariadb: MariaServer, mysql_dsn: str, mysql_sql: Sql) -> None:
    for name in ("orders", "Orders", "order.items", "o ``q`` é", "customers", "zebra", "hidden"):
        mysql_sql(f"CREATE TABLE `{name}` (id int PRIMARY KEY, note text)")
    mysql_sql("CREATE TABLE events (id int PRIMARY KEY) PARTITION BY HASH (id) PARTITIONS 3")
    mysql_sql("CREATE TABLE versions (id int PRIMARY KEY) WITH SYSTEM VERSIONING")
    mysql_sql("CREATE VIEW a_view AS SELECT * FROM orders")
    mysql_sql("CREATE SEQUENCE a_sequence")
    database = mysql_dsn.rpartition("/")[2]
    user = f"r_{database}"
    readable = ["Orders", "events", "o `q` é", "order.items", "orders", "versions"]
    everything = sorted([*readable, "customers", "hidden", "zebra"])
    mysql_sql(f"CREATE USER {user}@'%' IDENTIFIED BY 'r'")
    try:
        for name in readable:
            mysql_sql(f"GRANT SELECT ON {database}.`{name.replace('`', '``')}` TO {user}@'%'")
        mysql_sql(f"GRANT SELECT ON {database}.a_view TO {user}@'%'")
        mysql_sql(f"GRANT INSERT ON {database}.zebra TO {user}@'%'")
        mysql_sql(f"GRANT SELECT (id) ON {database}.customers TO {user}@'%'")
        reader = mariadb.dsn(database, user=user, password="r")
        assert names_of(select_tables(reader, f"{database}.*")) == [(database, name) for name in readable]
        assert names_of(select_tables(mysql_dsn, f"{database}.*")) == [(database, name) for name in everything]
        (config,) = select_tables(reader, f'{database}."order.*"', windows=FullWindows())
        assert config == ExportConfig(table=f'{database}."order.items"', windows=FullWindows())
        with pytest.raises(RivetError, match=r"RIVET_SOURCE_TABLE_MISSING.*0 tables of mysql"):
            select_tables(reader, "mysql.*")
    finally:
        mysql_sql(f"DROP USER {user}@'%'")
