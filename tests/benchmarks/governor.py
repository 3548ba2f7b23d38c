"""`python -m tests.benchmarks.governor`: what the governor saves others, and what it costs."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from tests.benchmarks.conditions import Start
from tests.benchmarks.foreground import Load
from tests.benchmarks.governed import Phases, Rides, Source, mariadb_source, postgres_source
from tests.benchmarks.governor_findings import Finding
from tests.benchmarks.governor_report import markdown, write

_ROWS = 18_000_000
_WORKERS = 4
# On two cores a single worker is half of the server, so all of them may pause.
_GOVERNOR = {"cores": 2, "min_workers": 0, "tick_s": 0.5}
_LOADS = {"postgresql": Load(rate=1000), "mariadb": Load(rate=1000)}
# The first transactions find nothing in memory, and are nobody's to compare with.
_WARM_S = 20.0
_SOURCES = {"postgresql": postgres_source, "mariadb": mariadb_source}


def measure(source: Source, load: Load, folder: Path, phases: Phases, runs: int, say: Callable[[str], None]) -> Finding:
    """Everything about one server."""
    rides = Rides(source, folder, _WORKERS, _GOVERNOR)
    say(f"{source.product}: idle exports")
    rides.idle(governed=True)  # kernels are compiled, and what is read is in memory
    idle, sheds, looks = [], 0, 0
    for _ in range(runs):
        free, _ = rides.idle(governed=False)
        governed, entries = rides.idle(governed=True)
        idle.append((free, governed))
        sheds += sum(entry["event"] == "governor" and entry["width_to"] < entry["width_from"] for entry in entries)
        looks += sum(entry["event"] == "pressure" and not entry["stale"] for entry in entries)
    say(f"{source.product}: the foreground alone")
    rides.alone(_WARM_S)
    before = rides.alone(phases.alone)
    say(f"{source.product}: beside an export that is not governed")
    free_ride = rides.ride(phases, governed=False)
    say(f"{source.product}: beside one that is")
    held = rides.ride(phases, governed=True)
    say(f"{source.product}: the foreground alone, once more")
    alone = (before, rides.alone(phases.alone))
    return Finding(source.product, source.version, load, phases, alone, free_ride, held, idle, sheds, looks)


def main() -> int:
    """Measure, print, write; the exit code is 0 unless something could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.governor", description=__doc__)
    parser.add_argument("--servers", default=",".join(_SOURCES), help="of postgresql and mariadb; default: both")
    parser.add_argument("--runs", type=int, default=5, help="pairs of exports of an idle source")
    parser.add_argument("--rows", type=int, default=_ROWS, help="rows of the exported table")
    parser.add_argument("--rate", type=int, help="transactions of the foreground a second")
    parser.add_argument(
        "--loaded", type=float, default=Phases.loaded, help="seconds of load; alone, half of that, twice"
    )
    parser.add_argument("--report", type=Path, help="write the page there, with its pictures beside it in ../images")
    options = parser.parse_args()
    console, start, findings = Console(stderr=True), Start(), []
    for name in options.servers.split(","):
        load = _LOADS[name] if options.rate is None else Load(rate=options.rate)
        with _folder() as folder, _SOURCES[name](folder, load, options.rows) as source:
            findings.append(measure(source, load, folder, Phases(loaded=options.loaded), options.runs, console.print))
    versions = {found.product: found.version for found in findings}
    conditions = start.conditions(versions, options.runs, [])
    conditions["export"] = f"{_WORKERS} workers, governor {_GOVERNOR}"
    print(markdown(findings, conditions))  # noqa: T201
    if options.report is not None:
        write(findings, conditions, options.report)
    return 0


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rivet-governor-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


if __name__ == "__main__":
    sys.exit(main())
