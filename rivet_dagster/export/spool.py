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
        folder, lock = _made(base)
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
        try:
            lock = _locked(folder)
        except OSError:  # in use, somebody else's, or gone
            continue
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
        removed += 1
    return removed


def _made(base: Path) -> tuple[Path, int | None]:
    """A new folder, and the descriptor that holds its lock; None where folders cannot be locked.

    A process may be killed between the two, so a folder without a lock is an orphan as well, and who looks for those
    may take this one away before it is locked. Then the next one is tried.
    """
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
        try:
            lock = _locked(folder)
        except (BlockingIOError, FileNotFoundError):
            continue
        except OSError:  # nor can anybody else lock it, to take it away
            return folder, None
        if _is_in_place(folder, lock):
            return folder, lock
        os.close(lock)


def _locked(folder: Path) -> int:
    """Descriptor that holds the folder's lock, which is a file there. No link is followed to it.

    Raises:
        BlockingIOError: another process holds it.
        OSError: there is no such folder, or it cannot be locked.
    """
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        descriptor = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600, dir_fd=directory)
    finally:
        os.close(directory)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _is_in_place(folder: Path, lock: int) -> bool:
    """Whether what was locked is still the folder's lock: it may have been removed meanwhile."""
    with suppress(OSError):
        return os.path.samestat(os.stat(folder / _LOCK), os.fstat(lock))
    return False
