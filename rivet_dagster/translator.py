"""How an export looks in Dagster: keys, groups, descriptions. Subclass it to change any of them."""

from dataclasses import dataclass
from typing import Literal

import dagster as dg

from rivet_dagster.export.config import ExportConfig, TimeWindows
from rivet_dagster.export.names import plain_name

Role = Literal["plan", "table", "complete"]

_EXPORT = "rivet/export"
_PLAN = "rivet/plan_asset"

_WORDS: dict[Role, str] = {
    "plan": "Freezes the windows of {table}: each becomes a partition. Run it again to append windows for new rows.",
    "table": "Rows of {table}, a partition a window. Every window is committed, and reported, by itself.",
    "complete": "{table} as a whole: verifies that every window is committed, and seals the export for its readers.",
}


@dataclass(frozen=True)
class ExportKeys:
    """Keys of an export's assets; slices of time have no plan."""

    plan: dg.AssetKey | None
    table: dg.AssetKey
    complete: dg.AssetKey


@dataclass(frozen=True)
class RivetTranslatorData:
    """What a translator is given.

    Attributes:
        config: the export.
        role: which of its three assets.
        engine: the source's engine, `postgresql` or `mysql`; None where it is not known when definitions load.
        uri: address of the export's folder; None where it is not known when definitions load.
    """

    config: ExportConfig
    role: Role
    engine: str | None = None
    uri: str | None = None


class DagsterRivetTranslator:
    """Turns an export into the specs of its three assets.

    Example:
        .. code-block:: python

            class Translator(DagsterRivetTranslator):
                def get_asset_spec(self, data: RivetTranslatorData) -> dg.AssetSpec:
                    return super().get_asset_spec(data).replace_attributes(owners=["team:data"])
    """

    def get_asset_spec(self, data: RivetTranslatorData) -> dg.AssetSpec:
        """Spec of one asset, without the dependencies and partitions that the assets need to work."""
        return dg.AssetSpec(
            key=self.get_asset_key(data),
            description=_WORDS[data.role].format(table=data.config.table),
            kinds=_kinds(data),
            metadata=_metadata(data),
        )

    def get_asset_key(self, data: RivetTranslatorData) -> dg.AssetKey:
        """`schema/table`, and below it `plan` and `complete`; with plain names, as Dagster wants them."""
        table = [plain_name(part) for part in data.config.relation]
        return dg.AssetKey(table if data.role == "table" else [*table, data.role])


def _kinds(data: RivetTranslatorData) -> set[str] | None:
    """What a run of the asset reads from and writes to."""
    reads = {data.engine} if data.engine and data.role != "complete" else set()
    writes = {data.config.format.type} if data.role != "plan" else set()
    return reads | writes or None


def _metadata(data: RivetTranslatorData) -> dict[str, str] | None:
    if data.role == "plan":
        return None
    found = {"dagster/table_name": data.config.table, "dagster/storage_kind": data.config.format.type}
    return {**found, "dagster/uri": data.uri} if data.uri else found


def export_keys(config: ExportConfig, translator: DagsterRivetTranslator | None) -> ExportKeys:
    """Keys of an export's assets."""
    looks = translator or DagsterRivetTranslator()

    def key_of(role: Role) -> dg.AssetKey:
        return looks.get_asset_spec(RivetTranslatorData(config, role)).key

    plan = None if isinstance(config.windows, TimeWindows) else key_of("plan")
    return ExportKeys(plan, key_of("table"), key_of("complete"))


def table_metadata(config: ExportConfig, plan: dg.AssetKey | None) -> dict[str, dg.MetadataValue]:
    """What a table asset must carry so that its runs know what to do: how it is exported, and which asset plans it."""
    found: dict[str, dg.MetadataValue] = {_EXPORT: dg.MetadataValue.json(config.model_dump(mode="json"))}
    return {**found, _PLAN: dg.MetadataValue.asset(plan)} if plan else found


def running_export(context: dg.AssetExecutionContext) -> tuple[ExportConfig, dg.AssetSpec, dg.AssetKey | None]:
    """The export that a run of a table asset is of: its configuration, the table asset and its plan, if it has one.

    Raises:
        dagster.DagsterInvariantViolationError: the run is not that of exactly one table asset.
    """
    specs = [
        spec
        for key, spec in context.assets_def.specs_by_key.items()
        if key in context.selected_asset_keys and _EXPORT in spec.metadata
    ]
    if len(specs) != 1:
        raise dg.DagsterInvariantViolationError(
            f"A run exports one table, and {context.assets_def.op.name} has the specs of {len(specs)} table assets."
        )
    metadata = specs[0].metadata
    plan = metadata[_PLAN].asset_key if _PLAN in metadata else None
    return ExportConfig.model_validate(metadata[_EXPORT].value), specs[0], plan
