"""What events carry: of a plan, of a window, of a seal, of a run's journal."""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence

import dagster as dg

from rivet_dagster.export.documents import ExportManifest, PlannedColumn, WindowManifest
from rivet_dagster.export.journal import segment_path
from rivet_dagster.export.journal_entries import JournalEntry
from rivet_dagster.export.journal_summary import JournalDecision, JournalSummary, summarize
from rivet_dagster.export.names import MANIFEST, part_folder, plan_folder, window_path
from rivet_dagster.export.plan import Plan
from rivet_dagster.export.timeline import text_chart
from rivet_dagster.export.timeline_svg import svg_document
from rivet_dagster.export.workers import WindowOutcome
from rivet_dagster.stores import Store

DATA_VERSION = "dagster/data_version"
IS_USER_PROVIDED = "dagster/data_version_is_user_provided"
CODE_VERSION = "dagster/code_version"

Metadata = dict[str, dg.MetadataValue]

# A picture in an event is kept with it for ever, so it has less detail than one that is asked for.
_PICTURE_COLUMNS = 160
_CHART_COLUMNS = 72
_MOST_DECISIONS = 30
_MARKDOWN = re.compile(r"[\\`*_{}\[\]<>#|~!$]")


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


def journal_metadata(store: Store, entries: Sequence[JournalEntry]) -> Metadata:
    """Metadata of a run: its figures, its timeline as a picture, and what was decided.

    Args:
        store: the export's folder.
        entries: of the run's journal, as `read_journal` gives them.
    """
    found = summarize(entries)
    metadata: Metadata = {
        "rivet/run_timeline": dg.MetadataValue.md(_picture(entries, found)),
        # Dagster shows long Markdown, such as a picture, only on a click.
        "rivet/run_chart": dg.MetadataValue.md(f"```\n{text_chart(entries, _CHART_COLUMNS)}\n```"),
        "rivet/run_summary": dg.MetadataValue.md(_markdown_table(("", ""), found.lines().items())),
        "rivet/run_outcome": dg.MetadataValue.text(found.outcome),
        "rivet/run_seconds": dg.MetadataValue.float(round(found.seconds, 3)),
        "rivet/run_rows": dg.MetadataValue.int(found.rows),
        "rivet/run_longest_statement_s": dg.MetadataValue.float(found.longest_statement_s),
        "rivet/run_longest_transaction_s": dg.MetadataValue.float(found.longest_transaction_s),
        "rivet/run_peak_memory_bytes": dg.MetadataValue.int(found.peak_memory_bytes),
        "rivet/run_retries": dg.MetadataValue.int(found.retries),
        "rivet/run_width_min": dg.MetadataValue.int(found.width_min),
        "rivet/run_width_max": dg.MetadataValue.int(found.width_max),
        "rivet/run_sheds": dg.MetadataValue.int(found.sheds),
        "rivet/run_held_s": dg.MetadataValue.float(round(found.held_s, 3)),
        "rivet/run_journal": dg.MetadataValue.url(store.url(segment_path(found.run_id, 1))),
    }
    if found.pressure_max is not None:
        metadata["rivet/run_pressure_max"] = dg.MetadataValue.float(round(found.pressure_max, 3))
    if found.decisions:
        metadata["rivet/run_decisions"] = dg.MetadataValue.md(_decisions_table(found.decisions))
    return metadata


def _picture(entries: Sequence[JournalEntry], found: JournalSummary) -> str:
    """The timeline as Markdown that Dagster shows: an image within its own address."""
    svg = svg_document(entries, found.title, columns=_PICTURE_COLUMNS)
    encoded = base64.b64encode(svg.encode()).decode("ascii")
    return f"![{_markdown(found.title)}](data:image/svg+xml;base64,{encoded})"


def _decisions_table(decisions: Sequence[JournalDecision]) -> str:
    half = _MOST_DECISIONS // 2
    shown = [*decisions] if len(decisions) <= _MOST_DECISIONS else [*decisions[:half], *decisions[-half:]]
    table = _markdown_table(("when", "what", "why"), [(f"{each.t:,.1f} s", each.what, each.why) for each in shown])
    left = len(decisions) - len(shown)
    return table + (f"\n\n{left:,} between the first and the last {half} are in the journal." if left else "")


def _markdown_table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *([_markdown(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _markdown(text: str) -> str:
    """Text as Markdown writes it, in one line."""
    return _MARKDOWN.sub(r"\\\g<0>", " ".join(text.split()))


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
