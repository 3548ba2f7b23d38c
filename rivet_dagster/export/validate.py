"""Validation: is what is stored what the seal says? Every part is read again."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rivet_dagster.errors import PlanError, RivetError
from rivet_dagster.export.commit import load_window, stored_fingerprint
from rivet_dagster.export.documents import ExportManifest, Part, SealedWindow
from rivet_dagster.export.fingerprint import Fingerprint
from rivet_dagster.export.names import MANIFEST, plan_folder, window_path
from rivet_dagster.export.plan import Plan, load_plan
from rivet_dagster.export.seal import load_seal
from rivet_dagster.formats import format_of
from rivet_dagster.stores.base import Store


@dataclass(frozen=True)
class Finding:
    """One thing that is not as the seal says.

    Attributes:
        code: stable identifier.
        window: key of the window; empty for the export as a whole.
        path: the object at fault.
        what: what is wrong with it.
    """

    code: str
    window: str
    path: str
    what: str


@dataclass(frozen=True)
class Report:
    """What validation found.

    Attributes:
        table: `schema.table`.
        seal_id: the seal in force.
        windows, parts, rows, bytes: as sealed.
        findings: what is wrong; empty for a sound export.
    """

    table: str
    seal_id: str
    windows: int
    parts: int
    rows: int
    bytes: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def to_json(self) -> dict[str, object]:
        """The report as the command line prints it with `--json`."""
        return {**asdict(self), "ok": self.ok}


def validate_export(store: Store, progress: Callable[[int], None] = lambda _: None) -> Report:
    """Hold the stored export against its seal: plan, window manifests, parts' bytes, and parts' rows.

    CSV does not keep types, so of the rows of CSV parts only the number is checked, not the row fingerprint.

    Args:
        store: the export's folder.
        progress: called with the bytes of every part that was read.

    Raises:
        PlanError: RIVET_EXPORT_UNSEALED where there is no seal to hold it against.
        IntegrityError: the seal itself is broken.
    """
    seal = load_seal(store)
    if seal is None:
        raise PlanError(
            "RIVET_EXPORT_UNSEALED",
            f"{store.uri} holds no sealed export.",
            "Check the address; export every window and seal it first.",
        )
    findings = [*_plan_findings(store, seal), *_total_findings(seal)]
    with tempfile.TemporaryDirectory(prefix="rivet-validate-") as folder:
        for window in seal.windows:
            findings += _manifest_findings(store, seal, window)
            findings += _window_findings(store, window, Path(folder), progress)
    return Report(
        table=seal.table,
        seal_id=seal.seal_id,
        windows=len(seal.windows),
        parts=sum(len(window.parts) for window in seal.windows),
        rows=seal.rows,
        bytes=seal.bytes,
        findings=tuple(findings),
    )


def _plan_findings(store: Store, seal: ExportManifest) -> Iterator[Finding]:
    """The seal must cover the plan's first windows without a gap; a plan extended since may have more."""
    try:
        plan: Plan | None = load_plan(store, seal.generation)
    except RivetError as exc:
        yield Finding(exc.code, "", plan_folder(seal.generation), exc.what)
        return
    if plan is not None and plan.mode == "time":
        return  # its windows follow from their keys
    planned = [window.key for window in plan.windows] if plan else []
    sealed = [window.key for window in seal.windows]
    if planned[: len(sealed)] != sealed:
        yield Finding(
            "RIVET_PLAN_BROKEN",
            "",
            plan_folder(seal.generation),
            "the plan does not begin with the sealed windows",
        )


def _total_findings(seal: ExportManifest) -> Iterator[Finding]:
    if seal.identified().seal_id != seal.seal_id:
        yield Finding("RIVET_SEAL_BROKEN", "", MANIFEST, "its content does not give its seal id")
    total = Fingerprint.zero()
    for window in seal.windows:
        total += Fingerprint.parse(window.row_fingerprint, window.rows)
    if (total.rows, str(total)) != (seal.rows, seal.row_fingerprint):
        yield Finding("RIVET_SEAL_BROKEN", "", MANIFEST, "its windows do not add up to its totals")


def _manifest_findings(store: Store, seal: ExportManifest, window: SealedWindow) -> Iterator[Finding]:
    """A window may have been exported again since; its manifest must still be one of the window."""
    path = window_path(seal.generation, window.key)
    try:
        manifest = load_window(store, seal.generation, window.key)
    except RivetError as exc:
        yield Finding(exc.code, window.key, path, exc.what)
        return
    if manifest is None:
        yield Finding("RIVET_WINDOW_MISSING", window.key, path, "the window's manifest is missing")
    elif manifest.key != window.key:
        yield Finding("RIVET_WINDOW_MISMATCH", window.key, path, f"it is the manifest of {manifest.key}")


def _window_findings(
    store: Store, window: SealedWindow, folder: Path, progress: Callable[[int], None]
) -> Iterator[Finding]:
    total = Fingerprint.zero()
    hashed = True
    for part in window.parts:
        fault = _part_fault(store, window, part)
        if fault is not None:
            yield fault
            return
        found = _rows_of(store, part, folder)
        hashed = hashed and format_of(part.path).reader is not None
        progress(part.bytes)
        if found.rows != part.rows:
            yield Finding("RIVET_PART_ROWS", window.key, part.path, f"it has {found.rows} rows, not {part.rows}")
        total += found
    if total.rows != window.rows or (hashed and str(total) != window.row_fingerprint):
        yield Finding("RIVET_WINDOW_ROWS", window.key, "", "the rows of its parts do not give its row fingerprint")


def _part_fault(store: Store, window: SealedWindow, part: Part) -> Finding | None:
    size = store.size(part.path)
    if size is None:
        return Finding("RIVET_PART_MISSING", window.key, part.path, "the part is missing")
    if size != part.bytes:
        return Finding("RIVET_PART_SIZE", window.key, part.path, f"it has {size} bytes, not {part.bytes}")
    if stored_fingerprint(store, part.path) != part.content_fingerprint:
        return Finding("RIVET_PART_DAMAGED", window.key, part.path, "its bytes are not those that were committed")
    return None


def _rows_of(store: Store, part: Part, folder: Path) -> Fingerprint:
    """The rows of a part, without hashes where they cannot be had."""
    from rivet_dagster.export.rowhash import RowHasher  # noqa: PLC0415 (numba, when parts are read)

    kind = format_of(part.path)
    copy = folder / f"part.{part.path.rpartition('/')[2].partition('.')[2]}"
    with copy.open("wb") as file:
        for block in store.read(part.path):
            file.write(block)
    if kind.reader is None:
        return Fingerprint(kind.count(copy), 0, 0)
    hasher: RowHasher | None = None
    for batch in kind.read(copy):
        hasher = hasher or RowHasher(batch.schema)
        hasher.update(batch)
    return hasher.fingerprint if hasher else Fingerprint.zero()
