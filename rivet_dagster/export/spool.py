"""Local spool folders: where parts grow before they are published."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rivet_dagster.errors import StoreError

_PREFIX = "rivet-spool-"
_LOCK = ".lock"


@contextmanager
def spool_folder(parent: str | None = None) -> Iterator[Path]:
    """A private folder for one export, gone when the context ends.

    The folder is locked for as long as its process lives. Folders whose lock is free belonged to processes that
    were killed: they are cleared away first.

    Args:
        parent: where spool folders are made; None for the system's temporary folder.

    Raises:
        StoreError: RIVET_SPOOL_NOT_WRITABLE.
    """
    base = Path(parent or tempfile.gettempdir())
    try:
        base.mkdir(parents=True, exist_ok=True)
        clear_orphans(base)
        made = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=base))
        lock = _locked(made, create=True)
        # Only a folder that is locked already gets the name under which others look for orphans.
        folder = made.rename(base / made.name.removeprefix("."))
    except OSError as exc:
        raise StoreError(
            "RIVET_SPOOL_NOT_WRITABLE",
            f"No spool folder can be made in {base}: {exc.strerror}.",
            "Name a folder with room for a few windows in RIVET_SPOOL_DIR or spool_dir.",
            fatal=True,
        ) from exc
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def clear_orphans(base: Path) -> int:
    """Remove the spool folders of processes that are gone; says how many."""
    removed = 0
    for folder in base.glob(f"{_PREFIX}*"):
        lock = _locked(folder)
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
            removed += 1
    return removed


def _locked(folder: Path, *, create: bool = False) -> int | None:
    """Descriptor that holds the folder's lock; None if another process holds it or it cannot be had."""
    with suppress(OSError):
        descriptor = os.open(folder / _LOCK, os.O_RDWR | (os.O_CREAT if create else 0), 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        return descriptor
    return None
