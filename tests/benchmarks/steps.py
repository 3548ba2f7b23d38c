"""The process that shows what an export's time goes to: its start-up, step by step, row fingerprints, decoding.

Reads from standard input what to do (`what`: `start-up`, `fingerprint` or `decoding`; `task`), writes JSON to a file
(`answer`).
Nothing heavy is imported before its step.
"""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

# How often the same pages are read with and without decoding.
_PASSES = 5

# Modules that a step imports. Later steps find what earlier ones have imported.
IMPORTS = {
    "numpy": ("numpy",),
    "pyarrow": ("pyarrow", "pyarrow.parquet"),
    "numba": ("numba",),
    "psycopg": ("psycopg",),
    "pydantic models, own modules": ("tests.support.exports",),
}


def main() -> None:
    """Do what standard input asks for."""
    request = json.load(sys.stdin)
    found = {"start-up": _start_up, "fingerprint": _fingerprint, "decoding": _decoding}[request["what"]](
        request["task"]
    )
    Path(request["answer"]).write_text(json.dumps(found))


def _start_up(task: dict[str, Any]) -> dict[str, Any]:
    """CPU seconds by step; `interpreter` is what was spent before this module's first line of work."""
    taken = {"interpreter": time.process_time()}
    before = taken["interpreter"]

    def note(step: str) -> None:
        nonlocal before
        now = time.process_time()
        taken[step], before = now - before, now

    from rivet_dagster._memory import import_arrow

    for step, modules in IMPORTS.items():
        if step == "pyarrow":
            import_arrow()
        for module in modules:
            import_module(module)
        note(step)

    from rivet_dagster.export.warm import warm_kernels
    from tests.support.exports import prepared

    warm_kernels(prepared(task["dsn"], Path(task["folder"]), f"{task['schema']}.{task['table']}").source)
    note("kernels from their cache")
    return taken


def _fingerprint(task: dict[str, Any]) -> dict[str, Any]:
    """`hashing_s` of all threads in `RowHasher.update`, `startup_s` and `cpu_s` of the process: CPU seconds."""
    from tests.benchmarks.contender import Task
    from tests.benchmarks.contenders.ours import DEFAULT

    work = DEFAULT.load(Task(**task | {"folder": Path(task["folder"])}))
    startup = time.process_time()
    taken = _watch_hashing()
    work()
    return {"hashing_s": sum(taken), "startup_s": startup, "cpu_s": time.process_time()}


def _watch_hashing() -> list[float]:
    """Seconds of the calling thread's CPU in every call of `RowHasher.update` from now on."""
    from rivet_dagster.export.rowhash import RowHasher

    taken: list[float] = []
    update = RowHasher.update

    def watched(self: RowHasher, batch: Any) -> None:
        began = time.thread_time()
        update(self, batch)
        taken.append(time.thread_time() - began)

    RowHasher.update = watched  # type: ignore[method-assign]
    return taken


def _decoding(task: dict[str, Any]) -> dict[str, Any]:
    """Wall seconds for the same pages, `drain_s` without and `decode_s` with decoding, in turns.

    Each pass has a connection of its own, which it opens. `rows`, `pages` and `wire_bytes` are those of one pass.
    """
    from tests.benchmarks.contender import Task
    from tests.benchmarks.reading import Drain, Pages

    pages = Pages(Task(**task | {"folder": Path(task["folder"])}))
    asked = pages.plan()
    drained, decoded = [], []
    for _ in range(_PASSES):
        began = time.monotonic()
        drain = Drain(task["dsn"])
        found = [drain.take(page.statement, page.values) for page in asked]
        drain.close()
        rows, sizes = map(sum, zip(*found, strict=True))
        drained.append(time.monotonic() - began)
        began = time.monotonic()
        if pages.decode(asked) != rows:
            raise ValueError("reading with and without decoding gave different numbers of rows")
        decoded.append(time.monotonic() - began)
    return {"rows": rows, "pages": len(asked), "wire_bytes": sizes, "drain_s": drained, "decode_s": decoded}


if __name__ == "__main__":
    main()
