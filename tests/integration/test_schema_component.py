"""Whole schemas declared in YAML: the tables come from a state that `dg` refreshes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from rivet_dagster import RivetResource
from tests.support.dg_project import Project

Sql = Callable[[str], list[tuple[Any, ...]]]

# Dagster's own call, where a component has checks.
pytestmark = pytest.mark.filterwarnings("ignore:Parameter .execution_type. of function .AssetsDefinition.__init__")

DECLARATION = """type: rivet_dagster.RivetSchemaComponent
attributes:
  source: "{{ env.PG_DSN }}"
  destination: "{{ env.LAKE }}"
  tables: shop.*
  exclude: [tmp_*]
  translation: {group_name: lake}
  export:
    windows: {rows: 10}
    format: {compression: snappy}
  automation:
    extend: {minimum_rows: 5}
    reload: {drifted_windows: 2, failed_checks: true}
  checks: {reconcile: keys}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dsn: str, sql: Sql) -> Project:
    project = Project(tmp_path / "project")
    monkeypatch.syspath_prepend(str(project.root / "src"))
    monkeypatch.setenv("PG_DSN", dsn)
    monkeypatch.setenv("LAKE", str(tmp_path / "lake"))
    sql("CREATE SCHEMA shop")
    for table in ("orders", "payments", "tmp_x"):
        sql(f"CREATE TABLE shop.{table} (id int PRIMARY KEY)")
    return project


def variables(tmp_path: Path, dsn: str) -> dict[str, str]:
    return {"PG_DSN": dsn, "LAKE": str(tmp_path / "lake")}


def test_the_state_knows_the_tables_and_loading_connects_to_nothing(
    project: Project, tmp_path: Path, dsn: str, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.declare(DECLARATION)
    assert project.specs() == {}, "nothing was refreshed yet"
    project.dg("utils", "refresh-defs-state", **variables(tmp_path, dsn))

    sql("CREATE TABLE shop.later (id int PRIMARY KEY)")
    monkeypatch.setenv("PG_DSN", "postgresql://reader:h1dden@db.invalid/shop")
    specs = project.specs()
    assert sorted(specs) == [
        f"shop/{table}{role}" for table in ("orders", "payments") for role in ("", "/complete", "/plan")
    ]
    assert {spec.group_name for spec in specs.values()} == {"lake"}
    config = specs["shop/orders"].metadata["rivet/export"].value
    assert config["windows"]["rows"] == 10
    assert config["format"]["compression"] == "snappy"
    definitions = project.load()
    repository = definitions.get_repository_def()
    assert {"rivet_lake_plan", "rivet_lake_reload"} <= {sensor.name for sensor in repository.sensor_defs}
    checked = {key.asset_key.to_user_string() for each in definitions.asset_checks or () for key in each.check_keys}
    assert checked == {"shop/orders/complete", "shop/payments/complete"}

    project.dg("utils", "refresh-defs-state", **variables(tmp_path, dsn))
    assert "shop/later" in project.specs()


def test_check_defs_and_list_defs(project: Project, tmp_path: Path, dsn: str) -> None:
    project.declare(DECLARATION)
    project.dg("check", "yaml")
    project.dg("check", "defs", **variables(tmp_path, dsn))
    listed = project.dg("list", "defs", "--json", **variables(tmp_path, dsn))
    assert '"shop/orders/complete"' in listed
    assert "tmp_x" not in listed


def test_mistakes_are_named_where_they_are(project: Project) -> None:
    path = project.declare(DECLARATION.replace("rows: 10", "rowz: 10"))
    printed = project.dg("check", "yaml", fails=True)
    assert "attributes.export.windows" in printed
    assert "rowz" in printed
    path.write_text(DECLARATION.replace("windows: {rows: 10}", "windows: {rows: 0}"))
    with pytest.raises(Exception, match="Error while") as caught:
        project.load()
    assert "attributes.export.windows.rows" in str(caught.value.__cause__)


def test_its_resource_reads_the_address_when_it_runs(project: Project, tmp_path: Path, dsn: str) -> None:
    project.declare(DECLARATION)
    project.dg("utils", "refresh-defs-state", **variables(tmp_path, dsn))
    (resource,) = (
        value
        for definitions in [project.load()]
        for value in (definitions.resources or {}).values()
        if isinstance(value, RivetResource)
    )
    assert isinstance(resource.source, dg.EnvVar)
