"""Repair: windows whose files are damaged, or whose rows changed, are exported again; then the export is sealed."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from rivet_dagster.errors import IntegrityError, RivetError
from rivet_dagster.export.commit import load_window
from rivet_dagster.export.documents import ExportManifest
from rivet_dagster.export.names import MANIFEST, QUARANTINE, data_folder, window_path
from rivet_dagster.export.operations import TableExport
from rivet_dagster.export.plan import Plan, Window
from rivet_dagster.export.reconcile import Comparison, plan_in_force, reconcile
from rivet_dagster.export.seal import seal_in_force, settled_seal
from rivet_dagster.export.validate import Depth, Finding, chosen_parts, unsettled_finding, validate_export
from rivet_dagster.stores.base import Store

Stage = Callable[[str, int | None], Callable[[int], None]]
"""Begins a stage of the work: its name and its size, if it is known. Gives what to call with what was done of it."""

# What exporting a window again does not mend.
_LASTING = ("RIVET_PART_FOREIGN", "RIVET_PLAN_BROKEN", "RIVET_DOCUMENT_INVALID")


@dataclass(frozen=True)
class Repair:
    """What repair found and did.

    Attributes:
        table: `schema.table`.
        findings: what was wrong.
        windows: keys of the windows that were exported again.
        left: what is wrong still: files that are not of this export, and what only a person can decide.
        seal_before: id of the seal before; empty where it could not be read.
        seal_id: id of the seal now; the same where nothing was wrong, or the source gave equal rows again.
    """

    table: str
    findings: tuple[Finding, ...]
    windows: tuple[str, ...]
    left: tuple[Finding, ...]
    seal_before: str
    seal_id: str

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong now."""
        return not self.left

    def to_json(self) -> dict[str, object]:
        """The report as the command line prints it with `--json`."""
        return {**asdict(self), "ok": self.ok}


def _silent(_name: str, _size: int | None) -> Callable[[int], None]:
    return lambda _: None


def repair(
    export: TableExport,
    *,
    slices: Sequence[Window] = (),
    validation: Depth = "full",
    comparison: Comparison | None = None,
    workers: int = 2,
    stage: Stage = _silent,
) -> Repair:
    """Validate a sealed export, compare it with the source if asked to, and export exactly the failing windows again.

    A window that is exported again supersedes the old one: nothing is added beside it, and readers see it when the
    export is sealed, at the end. Files that are not of this export stay where they are.

    Args:
        export: the table, and where it was exported to.
        slices: the windows of a plan that lists none, in the order of time.
        validation: how much of the stored parts is read.
        comparison: what is compared with the source; None compares nothing.
        workers: how many connections read at the same time.
        stage: is told of the progress.

    Raises:
        PlanError: RIVET_EXPORT_UNSEALED, RIVET_PLAN_MISSING; RIVET_EXPORT_INCOMPLETE where a broken seal does not
            tell that some windows were never exported.
        RivetError: a window could not be exported. Nothing is sealed then; windows that could are kept.
    """
    plan = plan_in_force(export)
    old, broken = _seal_of(export.store)
    if old is not None and old.generation == plan.generation:
        plan, slices = _as_far_as(old, plan, slices)
    windows = plan.windows or tuple(slices)
    findings, again = broken, []
    if broken:
        # What manifests and sizes tell is enough to write a seal, which the rest can be held against.
        findings += _stored_findings(export.store, plan, windows)
        again += _export_again(export, plan, windows, findings, workers, stage)
        export.seal(plan, slices)
    found = list(_validation(export.store, validation, stage))
    if comparison is not None:
        failing = {finding.window for finding in found}
        sound = [window for window in windows if window.key not in failing]
        advance = stage("comparing", len(sound))
        found += reconcile(
            export, comparison, plan=plan, windows=sound, workers=workers, progress=lambda _: advance(1)
        ).findings
    findings += found
    again += _export_again(export, plan, windows, found, workers, stage)
    sealed = export.seal(plan, slices)
    lasting = [finding for finding in findings if not finding.window and finding.code in _LASTING]
    left = dict.fromkeys([*lasting, *validate_export(export.store, depth="light").findings])
    return Repair(
        table=plan.head.table,
        findings=tuple(findings),
        windows=tuple(again),
        left=tuple(left),
        seal_before=old.seal_id if old else "",
        seal_id=sealed.seal_id,
    )


def _seal_of(store: Store) -> tuple[ExportManifest | None, list[Finding]]:
    """The seal, as far as it can be read, and what is wrong with it."""
    try:
        found = settled_seal(store)
        if found is None:
            return None, []
        return found[0], [] if found[1] else [unsettled_finding()]
    except IntegrityError as exc:
        finding = Finding(exc.code, "", MANIFEST, exc.what)
    try:
        return ExportManifest.from_bytes(store.get(MANIFEST) or b"", store.url(MANIFEST)), [finding]
    except IntegrityError:
        return None, [finding]


def _as_far_as(seal: ExportManifest, plan: Plan, slices: Sequence[Window]) -> tuple[Plan, Sequence[Window]]:
    """The plan and slices that a seal covers, without what was planned since and perhaps never exported."""
    sealed = {window.key for window in seal.windows}
    for number in range(1, len(plan.segments) + 1):
        covered = Plan(plan.segments[:number])
        if len(covered.windows) == len(sealed):
            plan = covered
            break
    return plan, [window for window in slices if window.key in sealed]


def _validation(store: Store, depth: Depth, stage: Stage) -> Sequence[Finding]:
    seal = seal_in_force(store)
    if seal is None:
        return validate_export(store).findings  # which raises
    chosen = chosen_parts(seal, depth)
    size = sum(part.bytes for window in seal.windows for part in window.parts if part.path in chosen)
    return validate_export(store, stage("validating", size), depth=depth).findings


def _stored_findings(store: Store, plan: Plan, windows: Sequence[Window]) -> list[Finding]:
    """What is wrong with windows by their manifests and sizes alone, where no seal says what there should be."""
    findings = []
    sizes = {stored.path: stored.size for stored in store.list(data_folder(plan.generation))}
    for window in windows:
        path = window_path(plan.generation, window.key)
        try:
            manifest = load_window(store, plan.generation, window.key)
        except RivetError as exc:
            findings.append(Finding(exc.code, window.key, path, exc.what))
            continue
        if manifest is None:
            findings.append(Finding("RIVET_WINDOW_MISSING", window.key, path, "the window's manifest is missing"))
        elif not window.has_bounds_of(manifest):
            what = "its bounds are not those that were planned"
            findings.append(Finding("RIVET_WINDOW_MISMATCH", window.key, path, what))
        else:
            findings += [
                Finding("RIVET_PART_MISSING", window.key, part.path, "the part is missing or has another size")
                for part in manifest.parts
                if sizes.get(part.path) != part.bytes
            ]
    return findings


def _export_again(
    export: TableExport,
    plan: Plan,
    windows: Sequence[Window],
    findings: Sequence[Finding],
    workers: int,
    stage: Stage,
) -> list[str]:
    """Export the windows that findings name as new work; gives their keys. Raises what the first failed of."""
    failing = {finding.window for finding in findings}
    again = [window for window in windows if window.key in failing]
    if not again:
        return []
    for finding in findings:
        if finding.code == "RIVET_DOCUMENT_INVALID" and finding.window:
            # Whoever exports a window looks at its manifest first.
            export.store.move(finding.path, f"{QUARANTINE}/{finding.path}")
    advance = stage("exporting again", len(again))
    failed: list[Exception] = []
    with export.run(plan, again, f"repair-{uuid.uuid4().hex}", workers) as run:
        for outcome in run:
            advance(1)
            if outcome.error is not None:
                failed.append(outcome.error)
    if failed:
        raise failed[0]
    return [window.key for window in again]
