"""Where compiled kernels are kept when the installed package cannot be written.

Numba keeps machine code beside the module it is of, but only looks there if it may also write there: code that was
warmed into an image would be compiled again by everyone who runs the image with a read-only file system. Here such
code is copied to a folder that can be written, and used from there.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

_SUFFIXES = (".nbc", ".nbi")  # the index last: it names the code


def kernel_folder(module_file: str, subfolder: str) -> str | None:
    """The folder for compiled code of a module that cannot keep it beside itself; None where it can.

    Args:
        module_file: the module's path.
        subfolder: what numba calls the module's own folder in a shared one.
    """
    beside = Path(module_file).parent / "__pycache__"
    if _is_writable(beside):
        return None
    folder = _shared_folder()
    with suppress(OSError):  # without the warm code it is only slower
        _seed(beside, folder / subfolder)
    return str(folder)


def is_compiled(module_file: Path) -> bool:
    """Whether code of a module is kept anywhere that this interpreter would find it. Nothing is loaded or written.

    Code that is older than the module is of an earlier version of it, and is not counted.
    """
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    folders = [Path(chosen)] if chosen else [module_file.parent / "__pycache__", *_shared_places()]
    pattern = f"{module_file.stem}.*.py{sys.version_info.major}{sys.version_info.minor}.nbi"
    since = module_file.stat().st_mtime
    return any(file.stat().st_mtime >= since for folder in folders for file in folder.rglob(pattern))


def _shared_places() -> tuple[Path, Path]:
    """The user's cache folder, and the one below the temporary folder."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "rivet_dagster", Path(tempfile.gettempdir()) / f"rivet_dagster-{os.getuid()}"


@cache
def _shared_folder() -> Path:
    """The user's cache folder; or one below the temporary folder, if it is certain that nobody else writes to it."""
    shared, temporary = _shared_places()
    if _is_writable(shared):
        return shared
    with suppress(OSError):
        temporary.mkdir(mode=0o700, exist_ok=True)
    # Code is loaded from here: a folder that somebody else made, or may write to, is a way to run theirs.
    with suppress(OSError):
        found = temporary.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
            return temporary
    return Path(tempfile.mkdtemp(prefix="rivet_dagster-"))


@cache
def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


@cache
def _seed(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for suffix in _SUFFIXES:
        for file in sorted(source.glob(f"*{suffix}")):
            place = target / file.name
            if not place.exists():
                growing = target / f"{file.name}.{os.getpid()}"
                shutil.copyfile(file, growing)
                growing.replace(place)
