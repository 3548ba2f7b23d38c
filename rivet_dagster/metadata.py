"""What events carry: of a plan, of a window, of a seal."""

from collections.abc import Iterable, Mapping

import dagster as dg

from rivet_dagster.export.documents import ExportManifest, PlannedColumn, WindowManifest
from rivet_dagster.export.names import MANIFEST, part_folder, plan_folder, window_path
from rivet_dagster.export.plan import Plan
from rivet_dagster.export.workers import WindowOutcome
from rivet_dagster.stores import Store

DATA_VERSION = "dagster/data_version"
IS_USER_PROVIDED = "dagster/data_version_is_user_provided"
CODE_VERSION = "dagster/code_version"

Metadata = dict[str, dg.MetadataValue]


def plan_metadata(store: Store, plan: Plan, appended: int, server: str) -> Metadata:
    """Metadata of a plan's materialization. Bounds stay in the plan: they can be personal data."""
    return {
        "dagster/uri": dg.MetadataValue.text(store.url(plan_folder(plan.generation))),
        "dagster/column_schema": dg.MetadataValue.table_schema(_column_schema(plan.head.columns)),
        "rivet/windows": dg.MetadataValue.int(len(plan.windows)),
        "rivet/windows_appended": dg.MetadataValue.int(appended),
        "rivet/planned_rows": dg.MetadataValue.int(sum(window.planned_rows for window in plan.windows)),
        "rivet/generation": dg.MetadataValue.int(plan.generation),
        "rivet/key": dg.MetadataValue.text(", ".join(plan.head.key)),
        "rivet/server": dg.MetadataValue.text(server),
        "rivet/plan": dg.MetadataValue.text(plan.fingerprint),
    }


def window_metadata(
    store: Store, manifest: WindowManifest, *, reused: bool, conflicts: int = 0, deaths: int = 0
) -> Metadata:
    """Metadata of one window's materialization."""
    read = manifest.statistics
    seconds = read.duration_s
    return {
        "dagster/partition_row_count": dg.MetadataValue.int(manifest.rows),
        "dagster/uri": dg.MetadataValue.text(store.url(part_folder(manifest.generation, manifest.key))),
        "rivet/bytes": dg.MetadataValue.int(sum(part.bytes for part in manifest.parts)),
        "rivet/parts": dg.MetadataValue.int(len(manifest.parts)),
        "rivet/row_fingerprint": dg.MetadataValue.text(manifest.row_fingerprint),
        "rivet/content_fingerprints": dg.MetadataValue.json([part.content_fingerprint for part in manifest.parts]),
        "rivet/duration_s": dg.MetadataValue.float(seconds),
        "rivet/rows_per_s": dg.MetadataValue.float(round(manifest.rows / seconds, 1) if seconds else 0.0),
        "rivet/longest_statement_s": dg.MetadataValue.float(read.longest_statement_s),
        "rivet/transaction_s": dg.MetadataValue.float(read.transaction_s),
        "rivet/pages": dg.MetadataValue.int(read.pages),
        "rivet/attempts": dg.MetadataValue.int(read.attempts),
        "rivet/conflicts": dg.MetadataValue.int(conflicts),
        "rivet/worker_deaths": dg.MetadataValue.int(deaths),
        "rivet/manifest": dg.MetadataValue.url(store.url(window_path(manifest.generation, manifest.key))),
        "rivet/replaced_values": dg.MetadataValue.int(sum(each.values for each in manifest.replaced)),
        "rivet/reused": dg.MetadataValue.bool(reused),
        "rivet/snapshot": dg.MetadataValue.bool(manifest.snapshot),
    }


def seal_metadata(store: Store, seal: ExportManifest) -> Metadata:
    """Metadata of a seal's materialization."""
    return {
        "dagster/row_count": dg.MetadataValue.int(seal.rows),
        "dagster/uri": dg.MetadataValue.text(store.uri),
        "dagster/column_schema": dg.MetadataValue.table_schema(_column_schema(seal.columns)),
        "rivet/windows": dg.MetadataValue.int(len(seal.windows)),
        "rivet/parts": dg.MetadataValue.int(sum(len(window.parts) for window in seal.windows)),
        "rivet/bytes": dg.MetadataValue.int(seal.bytes),
        "rivet/row_fingerprint": dg.MetadataValue.text(seal.row_fingerprint),
        "rivet/seal": dg.MetadataValue.text(seal.seal_id),
        "rivet/manifest": dg.MetadataValue.url(store.url(MANIFEST)),
    }


def window_event(
    asset_key: dg.AssetKey, store: Store, outcome: WindowOutcome, tags: Mapping[str, str]
) -> dg.AssetMaterialization:
    """The materialization of one committed window, with a data version of its own: the row fingerprint.

    Args:
        asset_key: the table asset.
        store: the export's folder.
        outcome: a window with its manifest.
        tags: what else the event says, such as the code's version.
    """
    assert outcome.manifest is not None
    return dg.AssetMaterialization(
        asset_key,
        partition=outcome.window.key,
        metadata=window_metadata(
            store, outcome.manifest, reused=outcome.reused, conflicts=outcome.conflicts, deaths=outcome.deaths
        ),
        tags={DATA_VERSION: outcome.manifest.row_fingerprint, IS_USER_PROVIDED: "true", **tags},
    )


def _column_schema(columns: Iterable[PlannedColumn]) -> dg.TableSchema:
    """Columns with the types that they have in the parts, as Dagster shows them."""
    return dg.TableSchema(
        [
            dg.TableColumn(
                column.name,
                column.type,
                description=f"declared as {column.native_type}",
                constraints=dg.TableColumnConstraints(nullable=column.nullable),
            )
            for column in columns
        ]
    )
