"""Removing what no reader needs any more. Nothing is deleted that is not known to be superseded.

A file goes if it is a part, a manifest, a plan or a seal of this export by its name and fingerprint, if neither the
seal in force nor a window's present manifest needs it, and if it has been of no use for longer than a grace time,
within which readers of an earlier seal finish. What is not known is moved to quarantine.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone

from rivet_dagster.errors import PlanError
from rivet_dagster.export.documents import ExportManifest, WindowManifest
from rivet_dagster.export.faults import fault_point
from rivet_dagster.export.names import MANIFEST, QUARANTINE, SUCCESS, data_folder, seal_path, window_folder
from rivet_dagster.export.plan import latest_generation
from rivet_dagster.export.seal import seal_in_force
from rivet_dagster.stores.base import Store, StoredObject

GRACE = timedelta(days=1)

_GENERATION = re.compile(r"g([1-9][0-9]*)/")
_OURS = re.compile(
    r"g[1-9][0-9]*/(?:plan/[0-9]{6,}\.json|windows/[wt][^/]+\.json|seals/[0-9a-f]{16}\.json"
    r"|data/[wt][^/]+/part-[0-9]{5,}-[0-9a-f]{16}\.[a-z.]+)"
)


@dataclass(frozen=True)
class Removal:
    """One object that is of no use any more.

    Attributes:
        path: below the export's folder.
        bytes: its size.
        action: `delete`, or `quarantine` for what is none of this export's.
        why: in a few words.
    """

    path: str
    bytes: int
    action: str
    why: str


@dataclass(frozen=True)
class Cleaning:
    """What a cleaning did, or would do.

    Attributes:
        removals: in the order of their paths.
        kept: objects that were too young.
    """

    removals: tuple[Removal, ...]
    kept: int

    def to_json(self) -> dict[str, object]:
        """As the command line prints it with `--json`."""
        return {"removals": [asdict(each) for each in self.removals], "kept": self.kept}


def clean_export(
    store: Store, *, grace: timedelta = GRACE, dry_run: bool = False, now: datetime | None = None
) -> Cleaning:
    """Remove what the seal in force and the windows' manifests do not need, once it is older than the grace time.

    The age of a superseded part is that of the seal that superseded it: readers of the one before have the whole
    grace time, however old the part is.

    Args:
        store: the export's folder.
        grace: how long readers of an earlier seal may take, and runs to commit what they have published.
        dry_run: remove nothing.
        now: the present; None for the clock's.

    Raises:
        PlanError: RIVET_EXPORT_UNSEALED, because before the first seal nothing is superseded.
        IntegrityError: RIVET_SEAL_BROKEN; a window's manifest that cannot be read.
    """
    seal = seal_in_force(store)
    if seal is None:
        raise PlanError(
            "RIVET_EXPORT_UNSEALED",
            f"{store.uri} holds no sealed export, so nothing in it is superseded.",
            "Check the address; export every window and seal it first.",
        )
    listed = sorted(store.list(""), key=lambda stored: stored.path)
    since = (now or datetime.now(timezone.utc)) - grace
    sealed_at = max(stored.modified for stored in listed if stored.path in (MANIFEST, SUCCESS))
    needed = _needed(store, seal)
    removals: list[Removal] = []
    kept = 0
    for stored in listed:
        found = _removal(stored, seal, needed)
        if found is None:
            continue
        # What the seal before had in it became of no use when the present one was written.
        if max(stored.modified, sealed_at if found.action == "delete" else stored.modified) > since:
            kept += 1
            continue
        if not dry_run and not _remove(store, found, stored):
            kept += 1
            continue
        removals.append(found)
    return Cleaning(tuple(removals), kept)


def _remove(store: Store, removal: Removal, seen: StoredObject) -> bool:
    """Remove an object, unless it was written again since it was seen: a run may be about to commit it."""
    folder = removal.path.rpartition("/")[0]
    if seen not in store.list(folder):
        return False
    fault_point("before_removal")
    if removal.action == "delete":
        store.delete(removal.path)
    else:
        store.move(removal.path, f"{QUARANTINE}/{removal.path}")
    fault_point("after_removal")
    return True


def _needed(store: Store, seal: ExportManifest) -> set[str]:
    """Paths of everything that readers, and runs to come, need."""
    needed = {seal_path(seal.generation, seal.seal_id)}
    needed.update(part.path for window in seal.windows for part in window.parts)
    newest = latest_generation(store, seal.generation) or seal.generation
    for generation in range(seal.generation, newest + 1):
        for stored in store.list(window_folder(generation)):
            data = store.get(stored.path)
            if data is not None:
                manifest = WindowManifest.from_bytes(data, store.url(stored.path))
                needed.update(part.path for part in manifest.parts)
    return needed


def _removal(stored: StoredObject, seal: ExportManifest, needed: set[str]) -> Removal | None:
    """What is to become of an object; None for one that stays."""
    path = stored.path
    found = _GENERATION.match(path)
    if found is None or path in needed:
        return None
    if not _OURS.fullmatch(path):
        return Removal(path, stored.size, "quarantine", "no export makes a file of this name")
    generation = int(found[1])
    if generation < seal.generation:
        return Removal(path, stored.size, "delete", f"generation {seal.generation} is sealed")
    if path.startswith(f"{data_folder(generation)}/"):
        return Removal(path, stored.size, "delete", "no manifest names this part")
    if path.startswith(f"g{generation}/seals/"):
        return Removal(path, stored.size, "delete", "a later seal is in force")
    return None
