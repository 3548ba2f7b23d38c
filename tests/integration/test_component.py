"""Exports declared in YAML: the real `dg` commands in a project of their own, and what the declarations make."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.remote_representation.external_data import RepositorySnap
from jsonschema import Draft202012Validator

from rivet_dagster import ExportConfig, KeysetWindows, RivetError, RivetExportComponent, RivetResource
from rivet_dagster.component import TranslatedExport
from rivet_dagster.translator import RivetTranslatorData
from tests.support.dg_project import Project
from tests.support.readers import exported_rows, sealed, source_rows

Sql = Callable[[str], list[tuple[Any, ...]]]

# Dagster's own call, where a component has checks.
pytestmark = pytest.mark.filterwarnings("ignore:Parameter .execution_type. of function .AssetsDefinition.__init__")

TYPE = "rivet_dagster.RivetExportComponent"
PAGE = (Path(__file__).parents[2] / "docs/how-to/declare-in-yaml.md").read_text()
DECLARATIONS = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = Project(tmp_path / "project")
    monkeypatch.syspath_prepend(str(project.root / "src"))
    monkeypatch.setenv("PG_DSN", "postgresql://reader:h1dden@db.invalid/shop")
    monkeypatch.setenv("LAKE", str(tmp_path / "lake"))
    return project


def declaration(exports: str = "[{table: public.orders}]", more: str = "", source: str = "{{ env.PG_DSN }}") -> str:
    return (
        f'type: {TYPE}\nattributes:\n  source: "{source}"\n  destination: "{{{{ env.LAKE }}}}"\n'
        f"  exports: {exports}\n{more}"
    )


def reason(project: Project) -> Exception:
    """What loading the project fails with; Dagster wraps it into the tree of components."""
    with pytest.raises(Exception, match=r"Error while (loading component|building definitions)") as caught:
        project.load()
    cause = caught.value.__cause__
    assert isinstance(cause, Exception)
    return cause


# With dg


def test_the_commands_of_the_docs_in_a_fresh_project(project: Project) -> None:
    listed = json.loads(project.dg("list", "components", "--json"))
    assert TYPE in {each["key"] for each in listed["items"]}
    project.dg("scaffold", "defs", TYPE, "more/plain", "--source-env", "MYSQL_DSN")
    tables = ["public.items", '"My S".things']
    project.declare(
        (project.defs / "more/plain/defs.yaml").read_text().replace("public.orders", "public.goods"), "more/plain"
    )

    commands = re.findall(r"^dg (.*)$", PAGE, re.MULTILINE)
    assert [command.split()[:2] for command in commands] == [
        ["scaffold", "defs"],
        ["check", "yaml"],
        ["check", "defs"],
        ["list", "defs"],
    ]
    project.dg(*shlex.split(commands[0].replace('["public.orders"]', json.dumps(tables))))
    (written,) = yaml.safe_load_all((project.defs / "shop/defs.yaml").read_text())
    assert written["attributes"]["exports"] == [{"table": "public.items"}, {"table": '"My S".things'}]
    assert "validated successfully" in project.dg(*shlex.split(commands[1]), "--validate-requirements")

    (project.root / ".env").write_text("PG_DSN=postgresql://u:h1dden@db/shop\nLAKE=lake\n")
    secret = {"MYSQL_DSN": "mysql://u:h1dden@db/shop"}
    assert "All definitions loaded" in project.dg(*shlex.split(commands[2]), **secret)

    text = project.dg(*shlex.split(commands[3]), "--json", **secret)
    assert "h1dden" not in text
    found = json.loads(text[text.index("{") :])
    assert {each["asset_key"] for each in found["assets"]} == {
        key
        for table in ("public/goods", "public/items", "My_x0020_S/things")
        for key in (table, f"{table}/plan", f"{table}/complete")
    }
    places = {each["source"].partition("/defs/")[2] for each in found["assets"]}
    assert places == {"shop/defs.yaml:1", "more/plain/defs.yaml:1"}
    shop, plain = sorted((each["name"] for each in found["resources"]), reverse=True)
    assert shop == "rivet_shop", "as the page says"
    assert plain.startswith("rivet_more_plain_")


def test_scaffolding_refuses_what_is_no_table(project: Project) -> None:
    told = project.dg("scaffold", "defs", TYPE, "shop", "--tables", "public.orders", "--tables", "orders", fails=True)
    assert "'orders' is no table name" in told
    assert not (project.defs / "shop").exists()


def test_check_yaml_names_line_and_field_of_every_mistake(project: Project) -> None:
    path = project.declare(
        """\
type: rivet_dagster.RivetExportComponent
attributes:
  source: "{{ env.PG_DSN }}"
  colour: red
  workers: many
  op: {poool: x}
  checks: {integrity: deep, windows_a_run: 0, reconcile: null, sums: true}
  translation: {group: lake}
  exports:
    - table: public.orders
      windows: {type: hourly}
      format:
        compression: brotli
      limits: {page_bytes: small}
    - table: public.items
      format: {type: csv, compression: snappy}
      colums: {}
      windows: {columns: id, rows: "{{ env.ROWS }}"}
      columns: {price: {unrepresentable: zero}}
      translation: {owner: team}
    - windows: {rows: 0}
"""
    )
    told = project.dg("check", "yaml", fails=True)
    shown = {line.replace(f"{TYPE} ", "") for line in told.splitlines() if line.startswith(str(path))}
    unexpected = "Additional properties are not allowed ('{}' was unexpected)"
    wanted = {
        (2, "attributes", "'destination' is a required property"),
        (4, "attributes.colour", unexpected.format("colour")),
        (5, "attributes.workers", "'many' is not of type 'integer'"),
        (6, "attributes.op.poool", unexpected.format("poool")),
        (7, "attributes.checks.integrity", "'deep' is not one of ['light', 'sample', 'full']"),
        (7, "attributes.checks.windows_a_run", "0 is less than the minimum of 1"),
        (7, "attributes.checks.sums", unexpected.format("sums")),
        (8, "attributes.translation.group", unexpected.format("group")),
        (
            11,
            "attributes.exports.0.windows.type",
            "'hourly' is not one of ['keyset', 'int_range', 'time', 'cursor', 'full']",
        ),
        (
            13,
            "attributes.exports.0.format.compression",
            "'brotli' is not one of ['zstd', 'snappy', 'lz4', 'gzip', 'none']",
        ),
        (14, "attributes.exports.0.limits.page_bytes", "'small' is not of type 'integer'"),
        (16, "attributes.exports.1.format.compression", "'snappy' is not one of ['gzip', 'zstd', 'none']"),
        (17, "attributes.exports.1.colums", unexpected.format("colums")),
        (18, "attributes.exports.1.windows.columns", "'id' is not of type 'array'"),
        (19, "attributes.exports.1.columns.price.unrepresentable", "'zero' is not one of ['error', 'null', 'text']"),
        (20, "attributes.exports.1.translation.owner", unexpected.format("owner")),
        (21, "attributes.exports.2", "'table' is a required property"),
        (21, "attributes.exports.2.windows.rows", "0 is less than the minimum of 1"),
    }
    assert shown == {f"{path}:{line} - {field} {what}" for line, field, what in wanted}


def test_check_yaml_looks_at_one_component_of_a_type(project: Project) -> None:
    """Which the docs warn of; what it passes over is found when it loads."""
    wrong = declaration("[{table: s.a, windows: {type: hourly}}]")
    project.declare(f"{wrong}---\n{declaration()}")
    assert "validated successfully" in project.dg("check", "yaml")
    assert "its type must be keyset, int_range, time, cursor or full" in str(reason(project))


def test_check_defs_names_a_missing_variable(project: Project) -> None:
    path = project.declare(declaration())
    told = project.dg("check", "defs", fails=True, LAKE="lake")
    assert (
        f"RIVET_CONFIG_INVALID: {path}:3 - attributes.source: the environment variable PG_DSN is not set. Set PG_DSN."
        in told
    )


def test_check_defs_refuses_a_password_and_does_not_show_it(project: Project) -> None:
    path = project.declare(declaration(source="postgresql://reader:h1dden@db/shop"))
    told = project.dg("check", "defs", fails=True, LAKE="lake")
    assert f"RIVET_CONFIG_SECRET: {path}:3 - attributes.source: the address holds a password" in told
    assert "h1dden" not in told


# Loading


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("postgresql://reader:{{ env.PG_DSN }}@db/shop", "RIVET_CONFIG_SECRET"),
        ("{{ env('PG_DSN', 'none') }}", "RIVET_CONFIG_SECRET"),
        ("{{ [1] }}", "RIVET_CONFIG_INVALID"),
        ("{{ env('NOT_THERE') }}", "RIVET_CONFIG_INVALID"),
    ],
)
def test_a_source_that_holds_a_secret_or_nothing_is_refused(project: Project, source: str, code: str) -> None:
    path = project.declare(declaration(source=source))
    error = reason(project)
    assert isinstance(error, RivetError)
    assert error.code == code
    assert f"{path}:3 - attributes.source: " in str(error)
    assert "h1dden" not in str(error)


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("[{table: orders}]", "5 - attributes.exports.0.table", "'orders' is no table name"),
        ("[{table: s.a}, {}]", "5 - attributes.exports.1.table", "Field required"),
        ("[{table: s.a, windows: {type: hourly}}]", "5 - attributes.exports.0.windows", "cursor or full"),
        (
            "\n    - table: s.a\n      format:\n        type: csv\n        compression: lz4",
            "9 - attributes.exports.0.format.compression",
            "Input should be 'gzip', 'zstd' or 'none'",
        ),
        ("[{table: s.a, windows: {rows: '{{ env.NOT_THERE or 0 }}'}}]", "5 - attributes.exports.0.windows.rows", "1"),
        ("[{table: s.a, translation: {group: x}}]", "5 - attributes.exports.0.translation.group", "Extra inputs"),
        ("[]\n  workers: 65", "6 - attributes.workers", "less than or equal to 64"),
        ("[]\n  workers: '{{ 13 * 5 }}'", "6 - attributes.workers", "less than or equal to 64"),
        ("[public.orders]", "5 - attributes.exports.0", "a mapping with a table"),
        ("'{{ env.LAKE }}'", "5 - attributes.exports", "no list of exports"),
        ("[]\n  op: {name: mine}", "6 - attributes.op", "names and descriptions"),
        ("[]\n  spool_dir: '{{ env.NOT_THERE }}'", "6 - attributes.spool_dir", "NOT_THERE is not set"),
    ],
)
def test_loading_names_line_and_field(project: Project, text: str, place: str, what: str) -> None:
    path = project.declare(declaration(text))
    error = reason(project)
    assert isinstance(error, RivetError)
    assert error.code == "RIVET_CONFIG_INVALID"
    assert f"{path}:{place}: " in str(error)
    assert what in str(error)


def test_translations_that_cannot_be_are_refused(project: Project) -> None:
    path = project.declare(declaration("[{table: s.a, translation: {group_name: '{{ schemas }}'}}]"))
    assert f"{path}:5 - attributes.exports.0.translation.group_name" in str(reason(project))
    project.declare(declaration(more="  translation: {partitions_def: {type: static, partition_keys: [a]}}\n"))
    assert "A translation gives partitions to public/orders/plan" in str(reason(project))


def test_declarations_of_the_docs_are_sound(project: Project) -> None:
    assert len(DECLARATIONS) == 2
    schema = RivetExportComponent.get_model_cls().model_json_schema()
    for text in DECLARATIONS:
        faults = [
            fault.message for fault in Draft202012Validator(schema).iter_errors(yaml.safe_load(text)["attributes"])
        ]
        assert faults == []
    project.declare(DECLARATIONS[0])
    declared = project.load()
    table = declared.resolve_assets_def(dg.AssetKey(["public", "payments"]))
    assert table.backfill_policy is not None
    assert table.backfill_policy.max_partitions_per_run == 100
    assert table.op.pool == "shop_db"
    assert list(declared.resources or {}) == ["rivet_lake"], "the page says how it is called"
    project.declare(DECLARATIONS[1])
    specs = project.specs()
    automated = {key for key, spec in specs.items() if spec.automation_condition}
    assert automated == {f"shop/{table}/{role}" for table in ("orders", "payments") for role in ("plan", "complete")}
    assert specs["shop/orders/complete"].description == "complete of public.orders"
    assert "0 6 * * *" in str(specs["shop/orders/complete"].automation_condition)
    (whole,) = specs["shop/orders/complete"].deps
    assert isinstance(whole.partition_mapping, dg.AllPartitionMapping)


def test_a_governor_is_declared_beside_the_assets(project: Project) -> None:
    project.declare(declaration(more="  governor: {cores: 8, quiet_hours: [{begin: '08:00', end: '09:00'}]}\n"))
    (resource,) = (each for name, each in (project.load().resources or {}).items() if name.startswith("rivet_"))
    assert resource.governor == {"cores": 8, "quiet_hours": [{"begin": "08:00", "end": "09:00"}]}
    project.declare(declaration(more="  governor: {cores: none, width: 3}\n"))
    what = str(reason(project))
    assert "- attributes.governor.cores: Input should be a valid integer" in what
    assert "- attributes.governor.width: Extra inputs are not permitted" in what


def test_checks_are_declared_beside_the_assets(project: Project) -> None:
    more = "  checks: {integrity: full, reconcile: null, severity: WARN}\n  op: {pool: shop_db}\n"
    project.declare(declaration("[{table: public.orders, translation: {key: raw/orders}}]", more))
    checks = {key.name: check for check in project.load().asset_checks or () for key in check.check_keys}
    assert sorted(checks) == ["rivet_integrity", "rivet_schema_drift"]
    drift = checks["rivet_schema_drift"]
    assert [key.asset_key.to_user_string() for key in drift.check_keys] == ["raw/orders/complete"]
    assert drift.op.pool == "shop_db"
    assert "rivet_lake" in drift.required_resource_keys
    project.declare(declaration(more="  checks: {reconcile: everything}\n"))
    what = str(reason(project))
    assert "- attributes.checks.reconcile: Input should be 'count', 'keys' or 'rows'" in what
    project.declare(declaration())
    assert not project.load().asset_checks


def test_translations_follow_one_another(project: Project) -> None:
    project.declare(
        declaration(
            """
    - table: public.orders
      translation:
        group_name: "g_{{ role }}"
        key_prefix: raw
        tags: {tier: 1}
        kinds: [postgresql]
        metadata: {was: "{{ spec.key.to_user_string() }}"}
    - table: '"My S".items'""",
            "  translation: {group_name: lake, owners: ['team:data'], tags: {tier: 2, site: \"{{ schema }}\"}}\n",
        )
    )
    specs = project.specs()
    orders = {role: specs[f"raw/public/orders{role}"] for role in ("", "/plan", "/complete")}
    assert [spec.group_name for spec in orders.values()] == ["g_table", "g_plan", "g_complete"]
    assert [spec.metadata["was"] for spec in orders.values()] == [
        "public/orders",
        "public/orders/plan",
        "public/orders/complete",
    ]
    for spec in orders.values():
        assert spec.owners == ["team:data"]
        assert spec.kinds == {"postgresql"}
        assert (spec.tags["tier"], spec.tags["site"]) == ("1", "public")
    items = specs["My_x0020_S/items"]
    assert (items.group_name, items.tags["tier"], items.tags["site"]) == ("lake", "2", "My_x0020_S")


def test_names_of_columns_are_taken_as_they_are_written(project: Project) -> None:
    """Dagster itself would read them as Python."""
    project.declare(declaration("""[{table: s.a, windows: {columns: ["1", '"a"', 'None']}, columns: {"2": {}}}]"""))
    (export,) = project.component().exports
    assert export == ExportConfig(table="s.a", windows=KeysetWindows(columns=("1", '"a"', "None")), columns={"2": {}})


def test_templates_reach_every_field(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWS", "700")
    monkeypatch.setenv("SITE", "north")
    project.declare(
        declaration(
            '[{table: "{{ env.SITE }}.orders", windows: {rows: "{{ env.ROWS }}"}}]',
            '  workers: "{{ env.ROWS | int // 100 }}"\n  spool_dir: "/spool/{{ env.SITE }}"\n',
        )
    )
    declared = project.component()
    assert declared.exports == [ExportConfig(table="north.orders", windows=KeysetWindows(rows=700))]
    assert (declared.workers, declared.spool_dir) == (7, "/spool/north")
    assert isinstance(declared.source, dg.EnvVar)
    assert isinstance(declared.destination, dg.EnvVar)


def test_exports_may_come_out_of_python(project: Project) -> None:
    folder = project.declare(declaration("'{{ tables }}'") + "template_vars_module: .names\n").parent
    (folder / "names.py").write_text(
        "import dagster as dg\n\nfrom rivet_dagster import ExportConfig\n\n\n"
        "@dg.template_var\ndef tables():\n"
        '    return [ExportConfig(table="public.orders"), {"table": "public.items", "windows": {"rows": 7}}]\n'
    )
    assert project.component().exports == [
        ExportConfig(table="public.orders"),
        ExportConfig(table="public.items", windows=KeysetWindows(rows=7)),
    ]


def test_two_declarations_in_a_file_have_two_resources(project: Project) -> None:
    project.declare(declaration() + "---\n" + declaration("[{table: public.items}]", "  workers: 9\n"))
    definitions = project.load()
    workers = {}
    for key in (dg.AssetKey(["public", "orders"]), dg.AssetKey(["public", "items"])):
        (name,) = definitions.resolve_assets_def(key).required_resource_keys - {"io_manager"}
        resource = (definitions.resources or {})[name]
        assert isinstance(resource, RivetResource)
        workers[key.path[-1]] = resource.workers
    assert workers == {"orders": 2, "items": 9}


def test_a_translation_is_no_part_of_the_code_version() -> None:
    plain = ExportConfig(table="s.a")
    assert (
        TranslatedExport(table="s.a", translation=lambda spec, data: spec).model_dump_json() == plain.model_dump_json()
    )


class Prefixed(RivetExportComponent):
    """A user's subclass."""

    def get_asset_spec(self, data: RivetTranslatorData) -> dg.AssetSpec:
        spec = super().get_asset_spec(data)
        return spec.replace_attributes(key=spec.key.with_prefix("mine"))


def test_a_subclass_changes_how_assets_look(project: Project) -> None:
    made = Prefixed.from_attributes_dict(
        attributes={"source": "{{ env.PG_DSN }}", "destination": "lake", "exports": [{"table": "public.orders"}]}
    )
    keys = {
        made.get_asset_spec(RivetTranslatorData(made.exports[0], role)).key for role in ("plan", "table", "complete")
    }
    assert {key.to_user_string() for key in keys} == {
        "mine/public/orders",
        "mine/public/orders/plan",
        "mine/public/orders/complete",
    }


# Running


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def test_a_declared_export_runs(
    project: Project, dsn: str, sql: Sql, lake: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql("CREATE TABLE public.orders (id int PRIMARY KEY, note text)")
    sql("INSERT INTO public.orders SELECT n, 'order ' || n FROM generate_series(1, 3250) AS n")
    project.declare(DECLARATIONS[0])
    monkeypatch.setenv("PG_DSN", dsn)
    definitions = project.load()
    stored = dg.serialize_value(RepositorySnap.from_def(definitions.get_repository_def()))
    assert '"PG_DSN"' in stored
    assert dsn not in stored, "what a code location tells Dagster"

    def run(*key: str, **tags: str) -> None:
        done = dg.materialize(
            [definitions.resolve_assets_def(dg.AssetKey(["public", "orders", *key]))],
            instance=instance,
            tags=tags,
        )
        assert done.success

    run("plan")
    windows = list(instance.get_dynamic_partitions("public/orders"))
    assert len(windows) == 4, "the page's declaration says 1000 rows a window"
    ends = {"dagster/asset_partition_range_start": windows[0], "dagster/asset_partition_range_end": windows[-1]}
    run(**ends)
    run("complete")
    assert sealed(lake / "public.orders")["rows"] == 3250
    assert exported_rows(lake / "public.orders") == source_rows(dsn, "public.orders", "id")


@pytest.mark.parametrize(
    ("code", "unloaded"),
    [
        ("import rivet_dagster", {"dagster", "pydantic", "yaml", "numba", "pyarrow"}),
        ("from rivet_dagster import RivetResource", {"rivet_dagster.component", "numba", "pyarrow"}),
        (
            "from rivet_dagster import RivetExportComponent as c; c.get_model_cls().model_json_schema()",
            {"numba", "numpy", "pyarrow", "psycopg", "pymysql", "obstore", "dagster_dg_core"},
        ),
    ],
)
def test_only_what_is_used_is_loaded(code: str, unloaded: set[str]) -> None:
    check = f"{code}; import sys; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=60, check=True)
    assert not unloaded & set(eval(done.stdout))
