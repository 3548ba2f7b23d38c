"""How an export looks in Dagster: keys, groups, descriptions. Subclass it to change any of them."""

from dataclasses import dataclass
from typing import Literal

import dagster as dg

from rivet_dagster.export.config import ExportConfig
from rivet_dagster.export.names import plain_name

Role = Literal["plan", "table", "complete"]

_WORDS: dict[Role, str] = {
    "plan": "Freezes the windows of {table}: each becomes a partition. Run it again to append windows for new rows.",
    "table": "Rows of {table}, a partition a window. Every window is committed, and reported, by itself.",
    "complete": "{table} as a whole: verifies that every window is committed, and seals the export for its readers.",
}


@dataclass(frozen=True)
class ExportKeys:
    """Keys of an export's three assets."""

    plan: dg.AssetKey
    table: dg.AssetKey
    complete: dg.AssetKey


@dataclass(frozen=True)
class RivetTranslatorData:
    """What a translator is given.

    Attributes:
        config: the export.
        role: which of its three assets.
    """

    config: ExportConfig
    role: Role


class DagsterRivetTranslator:
    """Turns an export into the specs of its three assets."""

    def get_asset_spec(self, data: RivetTranslatorData) -> dg.AssetSpec:
        """Spec of one asset, without the dependencies and partitions that the assets need to work."""
        return dg.AssetSpec(
            key=self.get_asset_key(data),
            description=_WORDS[data.role].format(table=data.config.table),
            kinds={data.config.format.type} if data.role == "table" else None,
            metadata={"dagster/table_name": data.config.table, "dagster/storage_kind": data.config.format.type}
            if data.role == "table"
            else None,
        )

    def get_asset_key(self, data: RivetTranslatorData) -> dg.AssetKey:
        """`schema/table`, and below it `plan` and `complete`; with plain names, as Dagster wants them."""
        table = [plain_name(part) for part in data.config.relation]
        return dg.AssetKey(table if data.role == "table" else [*table, data.role])
