"""Where and when the benchmarks ran."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path

from rivet_dagster.export.config import ReadLimits
from tests.benchmarks.contenders.ours import DEFAULT
from tests.benchmarks.suite import Result


class Start:
    """The moment before anything ran."""

    def __init__(self) -> None:
        self._began = datetime.now(timezone.utc)
        self._load = os.getloadavg()[0]

    def conditions(self, servers: Mapping[str, str], runs: int, results: Iterable[Result]) -> dict[str, str]:
        """What figures depend on, as texts by name; `servers` are versions."""
        packages = {name: version for result in results for name, version in result.versions.items()}
        pages = ReadLimits().page_bytes / 2**20
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return {
            "date": self._began.date().isoformat(),
            "machine": f"{_processor()}, {len(os.sched_getaffinity(0))} CPUs, {memory / 1e9:.0f} GB, Linux",
            "load average before": f"{self._load:.1f}",
            **servers,
            "Python": platform.python_version(),
            "packages": ", ".join(f"{name} {version}" for name, version in sorted(packages.items())),
            "rivet-dagster": f"pages of {pages:.0f} MiB, {DEFAULT.workers} workers by default",
            "runs": f"{runs} of each",
        }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
