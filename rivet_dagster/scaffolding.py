"""The first `defs.yaml` of an export: what `dg scaffold defs` writes."""

from typing import Any

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field, field_validator

from rivet_dagster.errors import ConfigError
from rivet_dagster.export.names import parse_table


class RivetScaffoldParams(BaseModel):
    """Options of `dg scaffold defs`, by `--json-params` or one by one.

    Attributes:
        source_env: environment variable that holds the address of the database.
        destination_env: environment variable that holds the folder to export to.
        tables: tables to export, `schema.table`.
    """

    model_config = ConfigDict(extra="forbid")

    source_env: str = Field(
        default="PG_DSN", pattern=r"^\w+$", description="Environment variable with the database's address."
    )
    destination_env: str = Field(
        default="LAKE", pattern=r"^\w+$", description="Environment variable with the folder to export to."
    )
    tables: list[str] = Field(default=["public.orders"], min_length=1, description="Tables to export, schema.table.")

    @field_validator("tables")
    @classmethod
    def _are_tables(cls, value: list[str]) -> list[str]:
        for table in value:
            try:
                parse_table(table)
            except ConfigError as exc:
                raise ValueError(f"{exc.what} {exc.advice}") from None
        return value


class RivetExportScaffolder(dg.Scaffolder[RivetScaffoldParams]):
    """Writes a declaration that loads once its environment variables are set."""

    @classmethod
    def get_scaffold_params(cls) -> type[RivetScaffoldParams]:
        """Model of the options."""
        return RivetScaffoldParams

    def scaffold(self, request: dg.ScaffoldRequest[RivetScaffoldParams]) -> None:
        """Write the declaration, or add it behind the others of a file."""
        params = request.params
        attributes: dict[str, Any] = {
            "source": f"{{{{ env.{params.source_env} }}}}",
            "destination": f"{{{{ env.{params.destination_env} }}}}",
            "exports": [{"table": table} for table in params.tables],
        }
        dg.scaffold_component(request, attributes)
        if request.scaffold_format == "yaml":
            # What `dg list env` and `dg check yaml --validate-requirements` go by.
            lines = ["", "requirements:", "  env:", f"    - {params.source_env}", f"    - {params.destination_env}", ""]
            path = request.target_path if request.append else request.target_path / "defs.yaml"
            with path.open("a", encoding="utf-8") as file:
                file.write("\n".join(lines))
