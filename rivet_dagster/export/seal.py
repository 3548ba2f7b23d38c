"""Sealing: when every window is committed and verified, one manifest says what readers see."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from rivet_dagster.errors import IntegrityError, PlanError
from rivet_dagster.export.commit import load_window
from rivet_dagster.export.documents import (
    ExportManifest,
    Replacement,
    SealedWindow,
    WindowManifest,
    fingerprint_bytes,
    schema_fingerprint,
)
from rivet_dagster.export.faults import fault_point
from rivet_dagster.export.fingerprint import Fingerprint
from rivet_dagster.export.names import MANIFEST, SUCCESS, data_folder, seal_path
from rivet_dagster.export.plan import Plan, Window
from rivet_dagster.formats import format_of
from rivet_dagster.stores.base import Store

SETTLING_S = 1.0
"""How long whoever looks after an export waits for `_SUCCESS` to follow a new `manifest.json`."""

_NAMED = 10
_PATIENCE_S = 0.1
_PAUSE_S = 0.02


def seal_export(store: Store, plan: Plan, slices: Sequence[Window] = ()) -> ExportManifest:
    """Verify every window of a plan and write the seal.

    Args:
        store: the export's folder.
        plan: the plan.
        slices: the windows of a plan that lists none, in the order of time.

    Manifests are trusted, events are not: each window's must be there, with the plan's bounds and schema, and each
    part that it names must be stored with its size. Sealing equal windows again writes nothing.

    Raises:
        PlanError: RIVET_EXPORT_INCOMPLETE that names windows without a commit.
        IntegrityError: RIVET_WINDOW_MISMATCH, RIVET_SEAL_FORMATS, RIVET_PART_MISSING.
    """
    windows = plan.windows or tuple(slices)
    manifests = _committed(store, plan, windows)
    _check_windows(plan, windows, manifests)
    _check_formats(plan, manifests)
    _check_parts(store, plan, manifests)
    manifest = _manifest(plan, manifests).identified()
    data = manifest.to_bytes()
    if store.get(MANIFEST) != data or store.get(SUCCESS) != success_bytes(data):
        store.create(seal_path(plan.generation, manifest.seal_id), data)
        # Readers hold manifest.json against _SUCCESS: between the two puts they see that a seal is being changed.
        store.put(MANIFEST, data)
        fault_point("during_seal")
        store.put(SUCCESS, success_bytes(data))
    return manifest


def success_bytes(manifest: bytes) -> bytes:
    """What `_SUCCESS` holds for a manifest: the fingerprint of its bytes."""
    return fingerprint_bytes(manifest).encode() + b"\n"


def _committed(store: Store, plan: Plan, windows: Sequence[Window]) -> list[WindowManifest]:
    found = [load_window(store, plan.generation, window.key) for window in windows]
    missing = [window.key for window, manifest in zip(windows, found, strict=True) if manifest is None]
    if missing:
        raise PlanError(
            "RIVET_EXPORT_INCOMPLETE",
            f"{len(missing)} of {len(found)} windows of {plan.head.table} are not committed: {named(missing)}.",
            "Export these windows, then seal again.",
        )
    return [manifest for manifest in found if manifest is not None]


def _check_windows(plan: Plan, windows: Sequence[Window], manifests: Sequence[WindowManifest]) -> None:
    """Committed bounds must be the planned ones, which tile the key space, and columns the frozen ones."""
    for before, window in pairwise(each for each in windows if not each.span.nulls):
        assert before.span.hi == window.span.lo, f"windows {before.key} and {window.key} leave a gap"
    columns = schema_fingerprint(plan.head.columns)
    strange = [
        window.key
        for window, manifest in zip(windows, manifests, strict=True)
        if not window.has_bounds_of(manifest)
        or manifest.schema_fingerprint != columns
        or manifest.rows != sum(part.rows for part in manifest.parts)
    ]
    if strange:
        raise IntegrityError(
            "RIVET_WINDOW_MISMATCH",
            f"Windows of {plan.head.table} do not fit the plan, their parts or their columns: {named(strange)}.",
            "Export these windows again, then seal again.",
        )


def _check_formats(plan: Plan, manifests: Sequence[WindowManifest]) -> None:
    """A plan does not freeze the format of parts, but readers of a seal read all of them in one way."""
    windows: dict[str, list[str]] = {}
    for manifest in manifests:
        for suffix in sorted({format_of(part.path).suffix for part in manifest.parts}):
            windows.setdefault(suffix, []).append(manifest.key)
    if len(windows) > 1:
        listed = "; ".join(f"{suffix} in {len(keys)} ({named(keys)})" for suffix, keys in windows.items())
        raise IntegrityError(
            "RIVET_SEAL_FORMATS",
            f"Windows of {plan.head.table} have parts of different formats: {listed}.",
            "Export these windows again in one format (on the command line with --fresh), then seal again.",
        )


def _check_parts(store: Store, plan: Plan, manifests: Sequence[WindowManifest]) -> None:
    sizes = {stored.path: stored.size for stored in store.list(data_folder(plan.generation))}
    absent = [part.path for manifest in manifests for part in manifest.parts if sizes.get(part.path) != part.bytes]
    if absent:
        raise IntegrityError(
            "RIVET_PART_MISSING",
            f"Parts of {plan.head.table} are missing or have another size: {named(absent)}.",
            "Export their windows again, then seal again.",
        )


def named(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _all_replaced(manifests: Sequence[WindowManifest]) -> tuple[Replacement, ...]:
    """What NULL replaced in all windows together, in a fixed order."""
    values: Counter[tuple[str, str]] = Counter()
    for manifest in manifests:
        values.update({(each.column, each.reason): each.values for each in manifest.replaced})
    return tuple(
        Replacement(column=column, reason=reason, values=count) for (column, reason), count in sorted(values.items())
    )


def _manifest(plan: Plan, manifests: Sequence[WindowManifest]) -> ExportManifest:
    total = Fingerprint.zero()
    for manifest in manifests:
        total += Fingerprint.parse(manifest.row_fingerprint, manifest.rows)
    return ExportManifest(
        seal_id="",
        table=plan.head.table,
        engine=plan.head.engine,
        generation=plan.generation,
        key=plan.head.key,
        columns=plan.head.columns,
        schema_fingerprint=schema_fingerprint(plan.head.columns),
        rows=total.rows,
        bytes=sum(part.bytes for manifest in manifests for part in manifest.parts),
        row_fingerprint=str(total),
        replaced=_all_replaced(manifests),
        windows=tuple(
            SealedWindow(
                key=manifest.key,
                rows=manifest.rows,
                row_fingerprint=manifest.row_fingerprint,
                parts=manifest.parts,
            )
            for manifest in manifests
        ),
    )


def seal_in_force(store: Store) -> ExportManifest | None:
    """The seal that `manifest.json` holds, also where its writer has died over it; None if there is none.

    Raises:
        IntegrityError: RIVET_SEAL_BROKEN, RIVET_DOCUMENT_INVALID.
    """
    found = settled_seal(store, _PATIENCE_S)
    return found[0] if found else None


def settled_seal(store: Store, patience_s: float = SETTLING_S) -> tuple[ExportManifest, bool] | None:
    """The seal that `manifest.json` holds, and whether `_SUCCESS` belongs to it; None if there is none.

    Each of its writes is atomic, and `_SUCCESS` follows: for a moment the two do not belong together, and after a
    death between the two they do not until the next seal. Then its own id says whether it is whole.

    Args:
        store: the export's folder.
        patience_s: how long the two are waited for.

    Raises:
        IntegrityError: RIVET_SEAL_BROKEN, RIVET_DOCUMENT_INVALID.
    """
    until = time.monotonic() + patience_s
    while True:
        data, success = store.get(MANIFEST), store.get(SUCCESS)
        if data is None:
            return None
        if success == success_bytes(data):
            return ExportManifest.from_bytes(data, store.url(MANIFEST)), True
        if time.monotonic() >= until:
            break
        time.sleep(_PAUSE_S)
    if not _gives_its_id(data):
        raise IntegrityError(
            "RIVET_SEAL_BROKEN",
            f"{store.url(SUCCESS)} does not belong to {store.url(MANIFEST)}, whose content is not that of its id.",
            "Run the complete asset again, or restore both from a copy.",
        )
    return ExportManifest.from_bytes(data, store.url(MANIFEST)), False


def _gives_its_id(data: bytes) -> bool:
    """Whether a seal's id is that of its content, with fields of any version."""
    try:
        values: Any = json.loads(data)
    except ValueError:
        return False
    if not isinstance(values, dict):
        return False
    # As `Document.to_bytes`, but with the fields that are there: a model would add or drop those of other versions.
    bare = json.dumps({**values, "seal_id": ""}, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"
    return values.get("seal_id") == fingerprint_bytes(bare).rpartition(":")[2][:16]
