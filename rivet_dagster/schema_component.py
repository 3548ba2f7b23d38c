"""Whole schemas declared in YAML: a component that knows the tables from a state which `dg` refreshes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import dagster as dg
from dagster.components.utils.defs_state import DefsStateConfig, DefsStateConfigArgs, ResolvedDefsStateConfig
from pydantic import BaseModel

from rivet_dagster.component import (
    AutomationField,
    ChecksField,
    DestinationField,
    GovernorField,
    OpField,
    RivetExportComponent,
    SourceField,
    SpoolField,
    TranslationField,
    WorkersField,
    export_options,
)
from rivet_dagster.component_schema import ExportsSchema, with_exact_schema
from rivet_dagster.export.config import ExportConfig
from rivet_dagster.selection import select_tables


@dataclass
class RivetSchemaComponent(dg.StateBackedComponent, dg.Resolvable):
    """Exports of all tables of a schema that patterns choose, declared in YAML.

    Which tables there are is asked when the state of the definitions is refreshed (`dg utils refresh-defs-state`, and
    `dg` in development), never when definitions load: those come up while the database is away.

    Example:
        .. code-block:: yaml

            type: rivet_dagster.RivetSchemaComponent
            attributes:
              source: "{{ env.PG_DSN }}"
              destination: "{{ env.LAKE }}"
              tables: public.*
              exclude: [tmp_*]
              export:
                format: {compression: snappy}
    """

    source: SourceField
    destination: DestinationField
    tables: str
    include: list[str] | None = None
    exclude: list[str] = field(default_factory=list)
    export: Annotated[
        Mapping[str, Any],
        dg.Resolver(
            export_options,
            model_field_type=Annotated[Any, ExportsSchema(without="table")] | None,
            inject_before_resolve=False,
            description="Windows, format, limits and columns of all exports.",
            examples=[{"windows": {"rows": 500000}}],
        ),
    ] = field(default_factory=dict)
    workers: WorkersField = 2
    engine: Literal["threads", "processes"] = "threads"
    spool_dir: SpoolField = None
    translation: TranslationField | None = None
    op: OpField = None
    automation: AutomationField = None
    checks: ChecksField = None
    governor: GovernorField = None
    defs_state: ResolvedDefsStateConfig = field(default_factory=DefsStateConfigArgs.local_filesystem)

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        """What `dg list components` and Dagster's UI say of the component."""
        return dg.ComponentTypeSpec(
            description=cls.__doc__, tags=["postgres", "mysql", "parquet", "csv"], produces=["asset", "resource"]
        )

    @classmethod
    def model(cls) -> type[BaseModel]:
        """Model of the attributes in YAML."""
        return with_exact_schema(super().model())

    @property
    def defs_state_config(self) -> DefsStateConfig:
        """Where the list of tables is kept."""
        return DefsStateConfig.from_args(self.defs_state, default_key=f"RivetSchemaComponent[{self.tables}]")

    def write_state_to_path(self, state_path: Path) -> None:
        """Ask the database for its tables; errors as in `select_tables`."""
        source = self.source.get_value() if isinstance(self.source, dg.EnvVar) else self.source
        found = select_tables(str(source), self.tables, include=self.include, exclude=self.exclude)
        state_path.parent.mkdir(parents=True, exist_ok=True)
        state_path.write_text(json.dumps([config.table for config in found]), encoding="utf-8")

    def build_defs_from_state(self, context: dg.ComponentLoadContext, state_path: Path | None) -> dg.Definitions:
        """The assets of all tables that the state knows; none before it is refreshed for the first time."""
        tables = json.loads(state_path.read_text(encoding="utf-8")) if state_path else []
        return RivetExportComponent(
            source=self.source,
            destination=self.destination,
            exports=[ExportConfig(table=table, **self.export) for table in tables],
            workers=self.workers,
            engine=self.engine,
            spool_dir=self.spool_dir,
            translation=self.translation,
            op=self.op,
            automation=self.automation,
            checks=self.checks,
            governor=self.governor,
        ).build_defs(context)
