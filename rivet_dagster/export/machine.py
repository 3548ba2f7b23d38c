"""How this machine and the destination are: compiled code, memory, the spool folder, whether parts can be put."""

from __future__ import annotations

import os
import shutil
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from rivet_dagster._jit_cache import is_compiled
from rivet_dagster.errors import RivetError, StoreError
from rivet_dagster.export.memory import resident_bytes, usual_limit
from rivet_dagster.export.spool import spool_folder
from rivet_dagster.stores import open_store

PACKAGE: Final = Path(__file__).parents[1]
_ALWAYS: Final = ("export/_rowhash_kernels.py",)
KERNELS: Final = {
    "postgresql": (
        "sources/postgres/_libpq.py",
        "wire/_decimals.py",
        "wire/_pgcopy_kernels.py",
        "wire/_pgcopy_nested.py",
        "wire/_pgcopy_numeric.py",
        *_ALWAYS,
    ),
    "mysql": (
        "wire/_decimals.py",
        "wire/_mysqlrows_decimal.py",
        "wire/_mysqlrows_kernels.py",
        "wire/_mysqlrows_values.py",
        *_ALWAYS,
    ),
    "parquet": (),
    "csv": ("formats/_csv_kernels.py",),
}
"""Modules with compiled code that an engine and a format need."""

_PROBE: Final = b"rivet-dagster doctor: this object may be deleted\n"


@dataclass(frozen=True)
class MachineReport:
    """How this machine and the destination are. Sizes are bytes.

    Attributes:
        cold_kernels: modules whose compiled code is in no cache.
        memory_taken: what this process takes now.
        memory_limit: what an exporting process may take.
        spool: the folder that parts grow in.
        spool_free: what is left there; None where no spool folder can be made.
        destination: address that was written to; empty where none was named.
        errors: what failed of all this.
    """

    cold_kernels: tuple[str, ...]
    memory_taken: int
    memory_limit: int
    spool: str
    spool_free: int | None
    destination: str = ""
    errors: tuple[RivetError, ...] = field(default=())


def examine_machine(
    engine: str, parts_format: str, destination: str | None, memory_limit: int | None = None
) -> MachineReport:
    """Look at what an export would need here. An object is put to the destination and deleted.

    Args:
        engine: the source's.
        parts_format: of the parts.
        destination: where tables are exported to; None does not look at it.
        memory_limit: as the governor says; None for the usual share.
    """
    errors: list[RivetError] = []
    base, free = _spool(errors)
    if destination is not None:
        try:
            try_destination(destination)
        except RivetError as exc:
            errors.append(exc)
    return MachineReport(
        cold_kernels=cold_kernels(engine, parts_format),
        memory_taken=resident_bytes(),
        memory_limit=memory_limit or usual_limit(),
        spool=base,
        spool_free=free,
        destination=destination or "",
        errors=tuple(errors),
    )


def cold_kernels(engine: str, parts_format: str) -> tuple[str, ...]:
    """Modules whose code the first export has to compile."""
    names = dict.fromkeys((*KERNELS[engine], *KERNELS[parts_format]))
    return tuple(name for name in names if not is_compiled(PACKAGE / name))


def _spool(errors: list[RivetError]) -> tuple[str, int | None]:
    """The spool's folder, and the bytes that are left there."""
    try:
        with spool_folder(os.environ.get("RIVET_SPOOL_DIR")) as folder:
            return str(folder.parent), shutil.disk_usage(folder).free
    except StoreError as exc:
        errors.append(exc)
        return os.environ.get("RIVET_SPOOL_DIR", ""), None


def try_destination(uri: str) -> None:
    """Put an object into a folder of its own below an address, read it again, and delete it.

    Raises:
        ConfigError, StoreError: what an export would fail with.
    """
    # Not in the address itself: a store clears up what killed writers left in its folder, and others write below it.
    store = open_store(f"{uri.rstrip('/')}/rivet-doctor-{uuid.uuid4().hex[:12]}")
    store.put("probe", _PROBE)
    for _ in store.read("probe"):
        pass
    store.delete("probe")
    parts = urlsplit(store.uri)
    if parts.scheme == "file":
        with suppress(OSError):  # an empty folder does no harm
            Path(unquote(parts.path)).rmdir()
