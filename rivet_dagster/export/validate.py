"""Validation: is what is stored what the seal says?"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rivet_dagster.errors import PlanError, RivetError
from rivet_dagster.export.commit import load_window, stored_fingerprint
from rivet_dagster.export.damage import describe
from rivet_dagster.export.documents import ExportManifest, Part, SealedWindow, WindowManifest, fingerprint_blocks
from rivet_dagster.export.fingerprint import Fingerprint
from rivet_dagster.export.names import MANIFEST, SUCCESS, data_folder, part_path, plan_folder, seal_path, window_path
from rivet_dagster.export.plan import Plan, load_plan
from rivet_dagster.export.seal import settled_seal
from rivet_dagster.formats import format_of
from rivet_dagster.stores.base import Store

Depth = Literal["light", "sample", "full"]
"""How much is read: documents and a listing of the parts; every tenth part, too; or every part."""

SAMPLED = 10
_PART = re.compile(r"g[1-9][0-9]*/data/[wt][^/]+/part-[0-9]{5,}-([0-9a-f]{16})\.[a-z.]+")


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        code: stable identifier.
        window: key of the window; empty for the export as a whole.
        path: the object at fault.
        what: what is wrong with it.
        columns: columns that are known to be at fault; empty where it is none or nobody can tell.
    """

    code: str
    window: str
    path: str
    what: str
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """What validation found.

    Attributes:
        table: `schema.table`.
        seal_id: the seal in force.
        depth: how much was read.
        windows, parts, rows, bytes: as sealed.
        parts_read: parts whose bytes and rows were read.
        leftovers: parts that no manifest names: of interrupted work, or of windows that were exported again. They do
            no harm, and readers of the seal do not see them.
        findings: what is wrong; empty for a sound export.
    """

    table: str
    seal_id: str
    depth: Depth
    windows: int
    parts: int
    rows: int
    bytes: int
    parts_read: int
    leftovers: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def to_json(self) -> dict[str, object]:
        """The report as the command line prints it with `--json`."""
        return {**asdict(self), "ok": self.ok}


def validate_export(store: Store, progress: Callable[[int], None] = lambda _: None, *, depth: Depth = "full") -> Report:
    """Hold the stored export against its seal: plan, window manifests, the parts' names and sizes, bytes and rows.

    Of a part that was damaged the columns are named, as far as its rows can still be read. CSV does not keep types, so
    of the rows of CSV parts only the number is checked, not the fingerprint.

    Args:
        store: the export's folder.
        progress: called with the bytes of every sealed part that was read.
        depth: how much is read.

    Raises:
        PlanError: RIVET_EXPORT_UNSEALED where there is no seal to hold it against.
        IntegrityError: the seal itself cannot be trusted, so that there is nothing to hold the export against.
    """
    sealed = settled_seal(store)
    if sealed is None:
        raise PlanError(
            "RIVET_EXPORT_UNSEALED",
            f"{store.uri} holds no sealed export.",
            "Check the address; export every window and seal it first.",
        )
    seal, settled = sealed
    findings = [] if settled else [unsettled_finding()]
    findings += [*_plan_findings(store, seal), *_total_findings(seal)]
    manifests, faults = _manifests(store, seal)
    findings += faults
    findings += _bounds_findings(store, seal, manifests)
    # After the manifests: whatever they name was there before.
    sizes = {stored.path: stored.size for stored in store.list(data_folder(seal.generation))}
    chosen = chosen_parts(seal, depth)
    names = [column.name for column in seal.columns]
    with tempfile.TemporaryDirectory(prefix="rivet-validate-") as folder:
        for window in seal.windows:
            files = _Files(store, sizes, names, Path(folder), chosen)
            findings += files.findings(window, progress)
            newer = manifests.get(window.key)
            if newer is not None and newer.parts != window.parts:
                files = _Files(store, sizes, names, Path(folder), None if depth == "full" else set())
                findings += files.findings(_as_sealed(newer), lambda _: None)
    leftovers, foreign = _unnamed(store, seal, manifests, sizes, depth)
    return Report(
        table=seal.table,
        seal_id=seal.seal_id,
        depth=depth,
        windows=len(seal.windows),
        parts=sum(len(window.parts) for window in seal.windows),
        rows=seal.rows,
        bytes=seal.bytes,
        parts_read=len(chosen),
        leftovers=leftovers,
        findings=tuple(dict.fromkeys([*findings, *foreign])),
    )


def unsettled_finding() -> Finding:
    """`_SUCCESS` does not belong to a seal that is whole by itself: readers go by it, but its writer did not end."""
    return Finding("RIVET_SEAL_BROKEN", "", SUCCESS, "it does not belong to manifest.json: seal the export again")


def chosen_parts(seal: ExportManifest, depth: Depth) -> set[str]:
    """Paths of the sealed parts that validation to this depth reads. Which ones are a sample follows from the seal."""
    paths = [part.path for window in seal.windows for part in window.parts]
    if depth == "full" or not paths:
        return set(paths)
    if depth == "light":
        return set()
    return set(paths[int(seal.seal_id, 16) % min(SAMPLED, len(paths)) :: SAMPLED])


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


def _manifests(store: Store, seal: ExportManifest) -> tuple[dict[str, WindowManifest], list[Finding]]:
    """The manifests of the sealed windows, and what is wrong with them.

    A window may have been exported again since; its manifest must still be one of the window.
    """
    manifests: dict[str, WindowManifest] = {}
    findings: list[Finding] = []
    for window in seal.windows:
        path = window_path(seal.generation, window.key)
        try:
            manifest = load_window(store, seal.generation, window.key)
        except RivetError as exc:
            findings.append(Finding(exc.code, window.key, path, exc.what))
            continue
        if manifest is None:
            findings.append(Finding("RIVET_WINDOW_MISSING", window.key, path, "the window's manifest is missing"))
            continue
        manifests[window.key] = manifest
        findings += [
            Finding("RIVET_WINDOW_MISMATCH", window.key, path, what) for what in _mismatches(seal, window, manifest)
        ]
    return manifests, findings


def _mismatches(seal: ExportManifest, window: SealedWindow, manifest: WindowManifest) -> Iterator[str]:
    """What a window's manifest says that cannot be."""
    if manifest.key != window.key:
        yield f"it is the manifest of {manifest.key}"
    if (manifest.table, manifest.generation) != (seal.table, seal.generation):
        yield f"it is of {manifest.table}, generation {manifest.generation}"
    if manifest.schema_fingerprint != seal.schema_fingerprint:
        yield "its columns are not those of the seal"
    if manifest.rows != sum(part.rows for part in manifest.parts):
        yield f"it says {manifest.rows} rows, and its parts have {sum(part.rows for part in manifest.parts)}"
    for number, part in enumerate(manifest.parts):
        suffix = part.path.rpartition("/")[2].partition(".")[2]
        if part.path != part_path(seal.generation, window.key, number, part.content_fingerprint, suffix):
            yield f"{part.path} is not how a part with the content fingerprint {part.content_fingerprint} is called"
    same_files = [part.path for part in manifest.parts] == [part.path for part in window.parts]
    if same_files and _as_sealed(manifest) != window:
        yield "it names the same parts as the seal, but says something else of them"


def _as_sealed(manifest: WindowManifest) -> SealedWindow:
    return SealedWindow(
        key=manifest.key, rows=manifest.rows, row_fingerprint=manifest.row_fingerprint, parts=manifest.parts
    )


def _bounds_findings(store: Store, seal: ExportManifest, manifests: Mapping[str, WindowManifest]) -> Iterator[Finding]:
    """Committed bounds must be the planned ones; those of slices of time must meet."""
    try:
        plan = load_plan(store, seal.generation)
    except RivetError:
        return  # that is a finding already
    windows = {window.key: window for window in plan.windows} if plan else {}
    before: WindowManifest | None = None
    for key, manifest in manifests.items():
        planned = windows.get(key)
        wrong = planned is not None and manifest.key == key and not planned.has_bounds_of(manifest)
        if plan is not None and plan.mode == "time":
            wrong = before is not None and before.hi != manifest.lo
            before = manifest
        if wrong:
            path = window_path(seal.generation, key)
            yield Finding("RIVET_WINDOW_MISMATCH", key, path, "its bounds are not those that were planned")


@dataclass(frozen=True)
class _Files:
    """Holds the parts of one window against what is said of them.

    Attributes:
        store: the export's folder.
        sizes: of all parts that are stored, by path.
        names: of the columns.
        folder: for a local copy of a part.
        chosen: parts to be read; None for all.
    """

    store: Store
    sizes: Mapping[str, int]
    names: Sequence[str]
    folder: Path
    chosen: set[str] | None

    def findings(self, window: SealedWindow, progress: Callable[[int], None]) -> Iterator[Finding]:
        total = Fingerprint.zero()
        whole = hashed = True
        for part in window.parts:
            if self.sizes.get(part.path) == part.bytes and self.chosen is not None and part.path not in self.chosen:
                whole = False
                continue
            fault = self._fault(window, part)
            if fault is not None:
                yield fault
                whole = False
                continue
            found, columns = self._rows(part)
            hashed = hashed and format_of(part.path).reader is not None
            progress(part.bytes)
            if found.rows != part.rows:
                yield Finding("RIVET_PART_ROWS", window.key, part.path, f"it has {found.rows} rows, not {part.rows}")
            if columns and part.columns and columns != part.columns:
                wrong = tuple(
                    name
                    for number, name in enumerate(self.names)
                    if columns[number : number + 1] != part.columns[number : number + 1]
                )
                what = f"its rows do not give the checksums of its columns ({', '.join(wrong)})"
                yield Finding("RIVET_PART_ROWS", window.key, part.path, what, wrong)
            total += found
        if whole and (total.rows != window.rows or (hashed and str(total) != window.row_fingerprint)):
            yield Finding("RIVET_WINDOW_ROWS", window.key, "", "the rows of its parts do not give its row fingerprint")

    def _fault(self, window: SealedWindow, part: Part) -> Finding | None:
        """What is wrong with the part's bytes. Leaves a copy of them in the folder."""
        size = self.sizes.get(part.path)
        if size is None:
            return Finding("RIVET_PART_MISSING", window.key, part.path, "the part is missing")
        intact = self._copy(part) == part.content_fingerprint
        if intact and size == part.bytes:
            return None
        code, what = "RIVET_PART_DAMAGED", "its bytes are not those that were committed"
        if size != part.bytes:
            code, what = "RIVET_PART_SIZE", f"it has {size} bytes, not {part.bytes}"
        more, columns = describe(self._path(part), part, self.names)
        return Finding(code, window.key, part.path, f"{what}: {more}", columns)

    def _path(self, part: Part) -> Path:
        return self.folder / f"part.{part.path.rpartition('/')[2].partition('.')[2]}"

    def _copy(self, part: Part) -> str:
        """Copy the part; gives the content fingerprint of its bytes."""
        with self._path(part).open("wb") as file:

            def written() -> Iterator[bytes]:
                for block in self.store.read(part.path):
                    file.write(block)
                    yield block

            return fingerprint_blocks(written())

    def _rows(self, part: Part) -> tuple[Fingerprint, tuple[str, ...]]:
        """The rows of the part that was copied and checksums of its columns, without hashes where there are none."""
        from rivet_dagster.export.rowhash import RowHasher  # noqa: PLC0415 (numba, when parts are read)

        kind = format_of(part.path)
        if kind.reader is None:
            return Fingerprint(kind.count(self._path(part)), 0, 0), ()
        hasher: RowHasher | None = None
        for batch in kind.read(self._path(part)):
            hasher = hasher or RowHasher(batch.schema)
            hasher.update(batch)
        return (hasher.fingerprint, hasher.take_columns()) if hasher else (Fingerprint.zero(), ())


def _unnamed(
    store: Store,
    seal: ExportManifest,
    manifests: Mapping[str, WindowManifest],
    sizes: Mapping[str, int],
    depth: Depth,
) -> tuple[int, list[Finding]]:
    """How many stored parts no manifest names, and which of these files are no parts at all."""
    named = {part.path for window in seal.windows for part in window.parts}
    named.update(part.path for manifest in manifests.values() for part in manifest.parts)
    unnamed = sorted(sizes.keys() - named)
    leftovers = 0
    findings: list[Finding] = []
    if unnamed:
        older, findings = _older_parts(store, seal)
        unnamed = [path for path in unnamed if path not in older]
    for path in unnamed:
        match = _PART.fullmatch(path)
        if match is None:
            what = "it is no part: no manifest names it, and its name is not one that is given here"
        elif depth == "full" and stored_fingerprint(store, path).rpartition(":")[2][:16] != match[1]:
            what = "no manifest names it, and its bytes are not those that its name stands for"
        else:
            leftovers += 1
            continue
        findings.append(Finding("RIVET_PART_FOREIGN", "", path, what))
    return leftovers, findings


def _older_parts(store: Store, seal: ExportManifest) -> tuple[set[str], list[Finding]]:
    """The parts that any seal of this generation names, and seals that cannot be read."""
    parts: set[str] = set()
    findings = []
    for stored in list(store.list(seal_path(seal.generation, "").rpartition("/")[0])):
        try:
            older = ExportManifest.from_bytes(store.get(stored.path) or b"", store.url(stored.path))
        except RivetError as exc:
            findings.append(Finding(exc.code, "", stored.path, exc.what))
            continue
        parts.update(part.path for window in older.windows for part in window.parts)
    return parts, findings
