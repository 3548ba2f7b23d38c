"""Publishing a window: its parts, then its manifest. The one seam through which every window becomes visible."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rivet_dagster.errors import StoreError
from rivet_dagster.export.documents import Part, WindowManifest, fingerprint_blocks
from rivet_dagster.export.faults import fault_point
from rivet_dagster.export.names import part_path, window_path
from rivet_dagster.stores.base import Store

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class SpooledPart:
    """A complete part in the local spool."""

    path: Path
    rows: int
    bytes: int
    content_fingerprint: str
    columns: tuple[str, ...] = ()


def spooled(path: Path, rows: int, columns: tuple[str, ...] = ()) -> SpooledPart:
    """Describe a complete spool file; `columns` are the checksums of its columns."""
    with path.open("rb") as file:
        fingerprint = fingerprint_blocks(iter(lambda: file.read(_BLOCK_BYTES), b""))
    return SpooledPart(path, rows, path.stat().st_size, fingerprint, columns)


def commit_window(
    store: Store,
    manifest: WindowManifest,
    parts: Iterable[SpooledPart],
    suffix: str,
    before: bytes | None = None,
) -> WindowManifest:
    """Publish `parts` and then `manifest`, whose write is the commit.

    A death at any moment leaves the window as it was, plus at most parts that no manifest names; doing it again
    gives the same names and bytes. A part that the manifest before names is not written again, if it is there byte for
    byte.

    Args:
        store: the export's folder.
        manifest: the window's manifest, still without parts.
        parts: complete spool files, in key order.
        suffix: of part names.
        before: the window's manifest when reading it began; None for none. It is not written over any other.

    Returns:
        The manifest as committed, also where an earlier try of the same work did so in the meantime.

    Raises:
        StoreError: the window is not committed; RIVET_WINDOW_CONFLICT where another run has committed it meanwhile.
    """
    published = []
    for number, part in enumerate(parts):
        path = part_path(manifest.generation, manifest.key, number, part.content_fingerprint, suffix)
        fault_point("before_part_put", manifest.key)
        # A part that no manifest names may be old: a cleaning could remove it before this commit, unless it is new.
        named = before is not None and path.encode() in before
        if not (named and is_stored(store, path, part.bytes, part.content_fingerprint)):
            store.put_file(path, part.path)
        fault_point("after_part_put", manifest.key)
        published.append(
            Part(
                path=path,
                rows=part.rows,
                bytes=part.bytes,
                content_fingerprint=part.content_fingerprint,
                columns=part.columns,
            )
        )
    committed = manifest.model_copy(update={"parts": tuple(published)})
    fault_point("before_manifest_put", manifest.key)
    if not store.replace(window_path(manifest.generation, manifest.key), committed.to_bytes(), before):
        committed = _committed_meanwhile(store, manifest)
    fault_point("after_manifest_put", manifest.key)
    return committed


def _committed_meanwhile(store: Store, manifest: WindowManifest) -> WindowManifest:
    """What stands in place of a manifest that came too late, if the same work has put it there."""
    found = load_window(store, manifest.generation, manifest.key)
    if found is not None and found.work_id == manifest.work_id and found.lo == manifest.lo and found.hi == manifest.hi:
        return found
    raise StoreError(
        "RIVET_WINDOW_CONFLICT",
        f"Another run committed window {manifest.key} of {manifest.table} while this one was reading it.",
        "What it committed is whole, and is kept. Let one run at a time export a window.",
    )


def is_stored(store: Store, path: str, size: int, content_fingerprint: str) -> bool:
    """Whether the object at `path` has exactly these bytes: read again, because damage may hide behind its name."""
    return store.size(path) == size and stored_fingerprint(store, path) == content_fingerprint


def stored_fingerprint(store: Store, path: str) -> str:
    """Content fingerprint of an object, read block by block."""
    return fingerprint_blocks(store.read(path))


def load_window(store: Store, generation: int, key: str) -> WindowManifest | None:
    """A window's manifest; None if it is not committed."""
    path = window_path(generation, key)
    data = store.get(path)
    return None if data is None else WindowManifest.from_bytes(data, store.url(path))
