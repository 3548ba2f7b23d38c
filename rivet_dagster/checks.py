"""Asset checks on seals: are the files what was sealed, and has the source the same rows and columns?"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Annotated, Any, Literal, NamedTuple

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field

from rivet_dagster._compat import latest_evaluation
from rivet_dagster.assets import op_name
from rivet_dagster.errors import PlanError
from rivet_dagster.export.config import ExportConfig, TimeWindows
from rivet_dagster.export.documents import ExportManifest
from rivet_dagster.export.names import window_path
from rivet_dagster.export.operations import TableExport
from rivet_dagster.export.plan import ColumnChange, Plan, Window
from rivet_dagster.export.reconcile import CODES, Comparison, reconcile, schema_changes
from rivet_dagster.export.seal import named, seal_in_force
from rivet_dagster.export.upkeep import not_read_since, round_robin
from rivet_dagster.export.validate import Depth, Finding, validate_export
from rivet_dagster.partitions import slices_of
from rivet_dagster.resources import RivetResource, explained
from rivet_dagster.translator import DagsterRivetTranslator, ExportKeys, export_keys

INTEGRITY = "rivet_integrity"
RECONCILE = "rivet_reconcile"
SCHEMA_DRIFT = "rivet_schema_drift"
NAMING_WINDOWS = (INTEGRITY, RECONCILE)
"""The checks whose evaluations name windows that reading again would mend."""

FAILING_WINDOWS = "rivet/failing_windows"
CHECKED_AT = "rivet/checked_at"
_GENERATION = "rivet/generation"
_NEXT_TURN = "rivet/next_turn"

WINDOWS_A_CHECK = 5
_SHOWN = 100

_WORDS = {
    INTEGRITY: "Whether the stored files of {table} are what was sealed: {depth}.",
    RECONCILE: "Whether the source still has the rows of {table} that are exported, by {depth}.",
    SCHEMA_DRIFT: "Whether {table} has the columns that its plan froze.",
}
_DEPTHS = {
    "light": "documents, names and sizes",
    "sample": "documents, names and sizes, and the bytes and rows of every tenth part",
    "full": "documents, and the bytes and rows of every part",
}


class Checks(BaseModel):
    """Which asset checks a sealed table has, as a declaration.

    Attributes:
        integrity: how much of what is stored is read; None for no such check.
        reconcile: what of the source is compared; None for no such check.
        windows_a_run: how many windows a run compares with the source, in turn; None for all.
        schema_drift: whether the source's columns are compared.
        blocking: whether what is downstream waits in runs in which a check fails.
        severity: of failures.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    integrity: Depth | None = "sample"
    reconcile: Comparison | None = "count"
    windows_a_run: Annotated[int, Field(ge=1)] | None = WINDOWS_A_CHECK
    schema_drift: bool = True
    blocking: bool = False
    severity: Literal["ERROR", "WARN"] = "ERROR"


@dataclass(frozen=True)
class Failing:
    """Windows that a failed check names.

    Attributes:
        check: its name.
        generation: the plan that they are of.
        checked_at: when it began to look. What was read later, it did not mean.
        windows: keys.
    """

    check: str
    generation: int
    checked_at: datetime
    windows: tuple[str, ...]


def build_rivet_checks(
    *exports: ExportConfig,
    resource_key: str = "rivet",
    translator: DagsterRivetTranslator | None = None,
    integrity: Depth | None = "sample",
    reconcile: Comparison | None = "count",
    windows_a_run: int | None = WINDOWS_A_CHECK,
    schema_drift: bool = True,
    blocking: bool = False,
    severity: dg.AssetCheckSeverity | Literal["ERROR", "WARN"] = dg.AssetCheckSeverity.ERROR,
    pool: str | None = None,
    op_tags: Mapping[str, str] | None = None,
) -> list[dg.AssetChecksDefinition]:
    """Asset checks on the `complete` asset of each export.

    `rivet_integrity` holds the stored files against the seal; `rivet_reconcile` holds the source's rows against what
    is exported, a few windows a run, each in its turn, and again those that it found wrong before;
    `rivet_schema_drift` compares the columns. Each is a step of its own, and runs where `complete` does, or by itself.

    Args:
        exports: the tables.
        resource_key: key of the `RivetResource` in the definitions.
        translator: the one that the assets have.
        integrity: how much of what is stored is read; None for no such check.
        reconcile: what of the source is compared; None for no such check.
        windows_a_run: how many windows a run compares with the source in turn; None for all of them.
        schema_drift: whether there is a check of the columns.
        blocking: whether what is downstream waits in runs in which a check fails.
        severity: of failures.
        pool: concurrency pool of the steps that read from the source.
        op_tags: tags of the steps that read from the source.

    Returns:
        Up to three checks an export, in the order of `exports`.

    Example:
        .. code-block:: python

            checks = build_rivet_checks(orders, integrity="full", reconcile="keys", windows_a_run=20)
    """
    builder = _Builder(resource_key, blocking, dg.AssetCheckSeverity(severity), {"pool": pool, "op_tags": op_tags})
    made = []
    for config in exports:
        keys = export_keys(config, translator)
        if integrity:
            made.append(builder.build(INTEGRITY, config, keys, _integrity(integrity), integrity))
        if reconcile:
            made.append(builder.build(RECONCILE, config, keys, _reconcile(reconcile, windows_a_run), reconcile))
        if schema_drift:
            made.append(builder.build(SCHEMA_DRIFT, config, keys, _schema_drift))
    return made


def failing_windows(instance: dg.DagsterInstance, complete: dg.AssetKey, check: str) -> Failing | None:
    """The windows that a check has named when it last ended; None where it passed, or never ended."""
    said = latest_evaluation(instance, complete, check)
    if said is None or said.passed or CHECKED_AT not in said.metadata:
        return None
    values: dict[str, Any] = {name: value.value for name, value in said.metadata.items()}
    moment = datetime.fromisoformat(values[CHECKED_AT])
    return Failing(check, values[_GENERATION], moment, tuple(values[FAILING_WINDOWS]))


class _Found(NamedTuple):
    """What a check found: a sentence, and what else it says."""

    passed: bool
    description: str
    metadata: dict[str, Any]


class _Looking(NamedTuple):
    """What a check looks at, and when it began to."""

    instance: dg.DagsterInstance
    resource: RivetResource
    export: TableExport
    keys: ExportKeys
    began: datetime


_Look = Callable[[_Looking], _Found]


@dataclass(frozen=True)
class _Builder:
    """Makes checks that share their options."""

    resource_key: str
    blocking: bool
    severity: dg.AssetCheckSeverity
    reads: Mapping[str, Any]

    def build(
        self, name: str, config: ExportConfig, keys: ExportKeys, look: _Look, depth: str = ""
    ) -> dg.AssetChecksDefinition:
        """One check of one export."""
        words = _WORDS[name].format(table=config.table, depth=_DEPTHS.get(depth, depth))
        spec = dg.AssetCheckSpec(name, asset=keys.complete, description=words, blocking=self.blocking)

        @dg.multi_asset_check(
            name=f"{op_name(keys.complete)}__{name}",
            specs=[spec],
            required_resource_keys={self.resource_key},
            # Only the files are looked at without the source.
            **({} if name == INTEGRITY else self.reads),
        )
        def check(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
            resource = getattr(context.resources, self.resource_key)
            assert isinstance(resource, RivetResource)
            with explained():
                looking = _Looking(context.instance, resource, resource.open(config), keys, datetime.now(timezone.utc))
                found = look(looking)
            metadata = {**found.metadata, CHECKED_AT: dg.MetadataValue.text(looking.began.isoformat())}
            yield dg.AssetCheckResult(
                asset_key=keys.complete,
                check_name=name,
                passed=found.passed,
                severity=self.severity,
                description=found.description,
                metadata=metadata,
            )

        return check


def _integrity(depth: Depth) -> _Look:
    def look(looking: _Looking) -> _Found:
        seal = _sealed(looking.export)
        report = validate_export(looking.export.store, depth=depth)
        numbers = {name: getattr(report, name) for name in ("windows", "parts", "rows", "bytes")}
        numbers |= {"parts_read": report.parts_read, "leftovers": report.leftovers}
        sound = (
            f"{report.rows:,} rows in {report.parts:,} parts are as they were sealed; {report.parts_read:,} were read"
        )
        return _with_findings(report.findings, sound, depth, report.seal_id, seal.generation, numbers)

    return look


def _reconcile(depth: Comparison, most: int | None) -> _Look:
    def look(looking: _Looking) -> _Found:
        export = looking.export
        seal = _sealed(export)
        plan = export.planned(seal.generation)
        turn = _Turn.behind(looking, plan, _windows(export.config, plan, seal), most)
        found = reconcile(export, depth, plan=plan, windows=turn.chosen, workers=looking.resource.workers)
        findings = [*found.findings, *(_not_looked_at(window, depth) for window in turn.waiting)]
        numbers = {"windows": len(seal.windows), "windows_compared": found.windows, "rows": found.rows}
        sound = f"The source has the {found.rows:,} rows of the {found.windows:,} windows that were compared"
        said = _with_findings(findings, sound, found.depth, seal.seal_id, seal.generation, numbers)
        more = {
            # Those that wait come first, so that it is their turn next time.
            FAILING_WINDOWS: dg.MetadataValue.json(
                [*(window.key for window in turn.waiting), *(finding.window for finding in found.findings)]
            ),
            _NEXT_TURN: dg.MetadataValue.int(turn.position),
            "rivet/read_until": dg.MetadataValue.text(found.read_until),
            "rivet/snapshot": dg.MetadataValue.bool(found.snapshot),
        }
        return said._replace(metadata={**said.metadata, **more})

    return look


def _schema_drift(looking: _Looking) -> _Found:
    # The newest plan: it is the one that the next run reads by.
    plan = looking.export.planned()
    changes = schema_changes(looking.export, plan)
    words = "; ".join(change.what for change in changes)
    description = (
        f"Since it was planned: {words}." if changes else f"All {len(plan.head.columns):,} columns are as planned."
    )
    return _Found(not changes, description, _change_metadata(plan, changes))


def _change_metadata(plan: Plan, changes: Sequence[ColumnChange]) -> dict[str, Any]:
    kinds = {"came": "added", "went": "dropped", "changed": "changed", "moved": "moved"}
    return {
        _GENERATION: dg.MetadataValue.int(plan.generation),
        "rivet/columns": dg.MetadataValue.int(len(plan.head.columns)),
        **{
            f"rivet/columns_{word}": dg.MetadataValue.json([each.name for each in changes if each.kind == kind])
            for word, kind in kinds.items()
        },
    }


class _Turn(NamedTuple):
    """Which windows a run of the comparison looks at. What the run before has said tells whose turn it is.

    Attributes:
        chosen: the next few windows, and the first of those that were found wrong and may be right by now.
        waiting: windows that were found wrong, were not read since, and are not looked at again this time.
        position: where the round goes on.
    """

    chosen: tuple[Window, ...]
    waiting: tuple[Window, ...]
    position: int

    @classmethod
    def behind(cls, looking: _Looking, plan: Plan, windows: Sequence[Window], most: int | None) -> "_Turn":
        """The turn behind that of the run before."""
        if most is None:
            return cls(tuple(windows), (), 0)
        before = latest_evaluation(looking.instance, looking.keys.complete, RECONCILE)
        position: Any = before.metadata[_NEXT_TURN].value if before and _NEXT_TURN in before.metadata else 0
        chosen, following = round_robin(windows, position, most)
        failing = failing_windows(looking.instance, looking.keys.complete, RECONCILE)
        if failing is None or failing.generation != plan.generation:
            return cls(tuple(chosen), (), following)
        failed = [window for key in failing.windows for window in windows if window.key == key]
        late = not_read_since(looking.export.store, plan, failed, failing.checked_at, "")
        wrong_still = [each.window for each in late]
        read_since = [window for window in failed if window not in wrong_still]
        again = [window for window in (*read_since, *wrong_still) if window not in chosen][:most]
        looked_at = (*again, *chosen)
        return cls(looked_at, tuple(window for window in wrong_still if window not in looked_at), following)


def _sealed(export: TableExport) -> ExportManifest:
    seal = seal_in_force(export.store)
    if seal is None:
        raise PlanError(
            "RIVET_EXPORT_UNSEALED",
            f"{export.store.uri} holds no sealed export.",
            "Export every window and run the complete asset first.",
        )
    return seal


def _windows(config: ExportConfig, plan: Plan, seal: ExportManifest) -> list[Window]:
    """The sealed windows."""
    keys = {window.key for window in seal.windows}
    slices = slices_of(plan, config.windows) if isinstance(config.windows, TimeWindows) else ()
    return [window for window in plan.windows or slices if window.key in keys]


def _not_looked_at(window: Window, depth: Comparison) -> Finding:
    what = "it differed in an earlier run of this check, and was neither read nor compared again since"
    return Finding(CODES[depth], window.key, window_path(window.generation, window.key), what)


def _with_findings(
    findings: Sequence[Finding], sound: str, depth: str, seal_id: str, generation: int, numbers: Mapping[str, int]
) -> _Found:
    """What is said of findings, or of none."""
    failing = list(dict.fromkeys(finding.window for finding in findings if finding.window))
    description = f"{sound}."
    if findings:
        first = findings[0]
        description = f"Wrong: {named(failing) or 'the export as a whole'}. {first.path or first.window}: {first.what}."
    metadata: dict[str, Any] = {
        "rivet/depth": dg.MetadataValue.text(depth),
        "rivet/seal": dg.MetadataValue.text(seal_id),
        _GENERATION: dg.MetadataValue.int(generation),
        **{f"rivet/{name}": dg.MetadataValue.int(number) for name, number in numbers.items()},
        "rivet/findings_count": dg.MetadataValue.int(len(findings)),
        FAILING_WINDOWS: dg.MetadataValue.json(failing),
    }
    if findings:
        metadata["rivet/findings"] = _table(findings[:_SHOWN])
    return _Found(not findings, description, metadata)


def _table(findings: Sequence[Finding]) -> dg.TableMetadataValue:
    rows = [
        {
            "window": finding.window,
            "code": finding.code,
            "path": finding.path,
            "columns": ", ".join(finding.columns),
            "what": finding.what,
        }
        for finding in findings
    ]
    schema = dg.TableSchema([dg.TableColumn(name) for name in rows[0]])
    return dg.MetadataValue.table([dg.TableRecord(row) for row in rows], schema)
