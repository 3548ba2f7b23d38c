"""The process of one contender: reads what to do from standard input, writes what it found to a file.

What it finds is JSON: `versions`, `startup_cpu_s` (CPU seconds until everything was loaded), `idle_bytes` (resident
then; null where another program did the work), `peak_bytes` and the contender's own `facts`; or just `unavailable`.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

from tests.benchmarks import memory
from tests.benchmarks.contender import Contender, Task, Unavailable
from tests.benchmarks.contenders import CONTENDERS


def main() -> None:
    """Do what standard input asks for."""
    request = json.load(sys.stdin)
    task = Task(**request["task"] | {"folder": Path(request["task"]["folder"])})
    try:
        found = _run(CONTENDERS[request["contender"]], task)
    except Unavailable as reason:
        found = {"unavailable": str(reason)}
    Path(request["answer"]).write_text(json.dumps(found))


def _run(contender: Contender, task: Task) -> dict[str, Any]:
    versions = contender.versions()
    work = contender.load(task)
    gc.collect()
    startup = time.process_time()
    idle = memory.forget_peak()
    facts = work()
    return {
        "versions": versions,
        "startup_cpu_s": startup,
        "idle_bytes": None if contender.program else idle,
        "peak_bytes": memory.peak_of_children() if contender.program else memory.peak(),
        "facts": facts,
    }


if __name__ == "__main__":
    main()
