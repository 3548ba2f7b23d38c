"""Where and when the benchmarks ran."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from tests.benchmarks.suite import TableResults


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


@dataclass(frozen=True)
class Conditions:
    """What figures depend on.

    Attributes:
        server: PostgreSQL's version.
        runs: measured runs of each contender on each table.
        began: when, in UTC.
        load: what the machine did before: its load average over one minute.
        packages: versions by package.
    """

    server: str
    runs: int
    began: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    load: float = field(default_factory=lambda: os.getloadavg()[0])
    packages: dict[str, str] = field(default_factory=dict)

    def note_versions(self, tables: Iterable[TableResults]) -> None:
        """Take over what contenders say they are made of."""
        for table in tables:
            for result in table.results:
                self.packages.update(result.versions)

    def lines(self) -> Iterator[tuple[str, str]]:
        """Each as a name and a text."""
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        yield "date", self.began.date().isoformat()
        yield "machine", f"{_processor()}, {len(os.sched_getaffinity(0))} CPUs, {memory / 1e9:.0f} GB, Linux"
        yield "load average before", f"{self.load:.1f}"
        yield "PostgreSQL", self.server
        yield "Python", platform.python_version()
        yield "packages", ", ".join(f"{name} {version}" for name, version in sorted(self.packages.items()))
        yield "runs", str(self.runs)
