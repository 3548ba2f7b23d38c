"""What Dagster adds to an export: to each window of a ranged run, to an import, to the commands of `dg`."""

from __future__ import annotations

import json
import os
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.measure import Bench, Clock, ContenderError, plain_task
from tests.benchmarks.stage import Stage, Table

WINDOWS = 200
_ROWS_A_WINDOW = 50

ALONE, IN_MEMORY, IN_SQLITE = "without Dagster", "Dagster, instance in memory", "Dagster, instance in SQLite"
WAYS = (ALONE, IN_MEMORY, IN_SQLITE)

DAGSTER, PACKAGE, DEMO = "`import dagster`", "and `import rivet_dagster`", "and the demo's definitions"
_IMPORTS = {
    DAGSTER: "import dagster",
    PACKAGE: "import dagster, rivet_dagster",
    DEMO: "import dagster, rivet_dagster, definitions",
}

_COMMANDS = ("list defs", "check defs")
EMPTY, DECLARED = "empty project", "five tables"
# Everything that a project has to have for `dg` to load it.
_PROJECT = """[project]
name = "shop"
version = "1"

[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "shop"
"""
_DEFINITIONS = """from pathlib import Path

import dagster as dg


@dg.definitions
def defs():
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
"""
_DECLARATION = {
    "type": "rivet_dagster.RivetExportComponent",
    "attributes": {
        "source": "{{ env.PG_DSN }}",
        "destination": "lake",
        "exports": [{"table": f"public.table_{number}"} for number in range(5)],
    },
}

Seconds = tuple[float, float]
"""CPU and wall seconds."""


@dataclass(frozen=True)
class WindowCost:
    """The same small windows exported in one process, in turns, each time to a folder of its own.

    Attributes:
        windows: how many.
        rows: of each.
        runs: CPU and wall seconds for all windows, by way, for every run.
    """

    windows: int
    rows: int
    runs: tuple[dict[str, Seconds], ...]

    def cpu_ms(self, way: str) -> float:
        """Median of the CPU milliseconds a window."""
        return median(run[way][0] for run in self.runs) / self.windows * 1e3

    def wall_ms(self, way: str) -> float:
        """Median of the wall milliseconds a window."""
        return median(run[way][1] for run in self.runs) / self.windows * 1e3

    def added_cpu_ms(self, way: str) -> float:
        """Median of the CPU milliseconds a window that a way takes more than without Dagster."""
        return median(run[way][0] - run[ALONE][0] for run in self.runs) / self.windows * 1e3

    def added_ms(self, way: str) -> float:
        """Median of the wall milliseconds a window that a way takes longer than without Dagster."""
        return median(run[way][1] - run[ALONE][1] for run in self.runs) / self.windows * 1e3


@dataclass(frozen=True)
class LoadCost:
    """Processes that load Dagster with and without this package, in turns.

    Attributes:
        imports: CPU and wall seconds by what is imported, for every run.
        commands: the same of each command of `dg`, by project.
    """

    imports: tuple[dict[str, Seconds], ...]
    commands: dict[str, tuple[dict[str, Seconds], ...]]

    def added_ms(self, imported: str) -> float:
        """Median of the CPU milliseconds that an import takes more than Dagster's alone."""
        return _more(self.imports, imported, DAGSTER)

    def added_to_command_ms(self, command: str) -> float:
        """Median of the CPU milliseconds that a command takes more in a project with exports."""
        return _more(self.commands[command], DECLARED, EMPTY)


def _more(runs: tuple[dict[str, Seconds], ...], way: str, base: str) -> float:
    return median(run[way][0] - run[base][0] for run in runs) * 1e3


class Overhead:
    """Measures Dagster's share.

    Args:
        stage: the server with its tables.
        bench: starts processes.
        runs: how often each is measured.
        say: told what is under way.
    """

    def __init__(self, stage: Stage, bench: Bench, runs: int, say: Callable[[str], None]) -> None:
        self._stage = stage
        self._bench = bench
        self._runs = runs
        self._say = say

    def windows(self, table: Table) -> WindowCost:
        """Export small windows with and without Dagster; ContenderError where it fails."""
        self._say("small windows with and without Dagster")
        with tempfile.TemporaryDirectory(dir=self._stage.folder) as folder:
            task = self._stage.task(table, WINDOWS * _ROWS_A_WINDOW, Path(folder))
            request = {"task": plain_task(task), "rows": _ROWS_A_WINDOW, "runs": self._runs}
            found = self._bench.ask("tests.benchmarks.overhead", request)
        if found["windows"] != WINDOWS:
            raise ContenderError(f"{found['windows']} windows rather than {WINDOWS}")
        runs = [{way: (cpu, wall) for way, (cpu, wall) in run.items()} for run in found["runs"]]
        return WindowCost(WINDOWS, _ROWS_A_WINDOW, tuple(runs))

    def loading(self) -> LoadCost:
        """Import and run `dg` with and without exports; ContenderError where a process fails."""
        self._say("imports with and without this package")
        demo = {"RIVET_DEMO_DSN": "postgresql://reader@localhost/demo", "RIVET_DEMO_LAKE": "lake"}
        imports = self._turns({what: (["-c", code], demo) for what, code in _IMPORTS.items()})
        commands = {}
        with tempfile.TemporaryDirectory(dir=self._stage.folder) as name:
            projects = {
                EMPTY: _project(Path(name) / "empty", {}),
                DECLARED: _project(Path(name) / "five", _DECLARATION),
            }
            for command in _COMMANDS:
                self._say(f"dg {command} with and without exports")
                commands[command] = self._turns(
                    {which: _dg(folder, command) for which, folder in projects.items()},
                )
        return LoadCost(imports, commands)

    def _turns(self, processes: Mapping[str, tuple[list[str], dict[str, str]]]) -> tuple[dict[str, Seconds], ...]:
        """CPU and wall seconds of each process, again and again; the first time fills caches and does not count."""
        runs = []
        for _ in range(self._runs + 1):
            taken = {}
            for what, (arguments, environment) in processes.items():
                clock = Clock()
                self._bench.run(arguments, environment)
                taken[what] = clock.spent()
            runs.append(taken)
        return tuple(runs[1:])


def _project(folder: Path, declaration: Mapping[str, Any]) -> Path:
    """A project for `dg` with one declaration, or with none."""
    defs = folder / "shop" / "defs"
    defs.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(_PROJECT)
    for package in (defs.parent, defs):
        (package / "__init__.py").touch()
    (folder / "shop" / "definitions.py").write_text(_DEFINITIONS)
    if declaration:
        (defs / "exports").mkdir()
        (defs / "exports" / "defs.yaml").write_text(json.dumps(declaration))
    return folder


def _dg(project: Path, command: str) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment of a process that runs a command of `dg` in a project."""
    code = f"import os; os.chdir({str(project)!r}); from dagster_dg_cli.cli import main; main()"
    paths = [str(project), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        "PYTHONPATH": os.pathsep.join(paths),
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]),
        "PG_DSN": "postgresql://reader@localhost/shop",
    }
    return ["-c", code, *command.split()], environment


# -------------------------------------------------------------------------------------- in a process of its own


def main() -> None:
    """Export what standard input asks for in every way, in turns; write seconds as JSON to the file that it names."""
    request = json.load(sys.stdin)
    runs = _runs_of(request["task"], request["rows"], request["runs"])
    Path(request["answer"]).write_text(json.dumps(runs))


def _runs_of(task: Mapping[str, Any], rows: int, runs: int) -> dict[str, Any]:
    import dagster as dg

    folder = Path(task["folder"])
    (folder / "home").mkdir()
    relation = f"{task['schema']}.{task['table']}"
    instances = {
        IN_MEMORY: dg.DagsterInstance.ephemeral(),
        IN_SQLITE: dg.DagsterInstance.local_temp(str(folder / "home")),
    }
    found: list[dict[str, Seconds]] = []
    windows = 0
    for number in range(runs + 1):
        taken = {}
        for way in WAYS:
            lake = folder / f"lake-{number}-{WAYS.index(way)}"
            prepare = _alone if way == ALONE else _in_dagster(instances[way])
            windows, export = prepare(task["dsn"], relation, rows, lake)
            cpu, wall = time.process_time(), time.monotonic()
            export()
            taken[way] = (time.process_time() - cpu, time.monotonic() - wall)
        found.append(taken)
    for instance in instances.values():
        instance.dispose()
    # The first turn compiled kernels and created Dagster's tables.
    return {"windows": windows, "runs": found[1:]}


def _alone(dsn: str, relation: str, rows: int, lake: Path) -> tuple[int, Callable[[], None]]:
    """How many windows there are, and what exports them with one worker."""
    from tests.support.exports import prepared, run_all

    export = prepared(dsn, lake, relation, rows=rows)
    plan, _ = export.plan()

    def work() -> None:
        if any(outcome.error for outcome in run_all(export, plan, workers=1)):
            raise ValueError("a window failed")

    return len(plan.windows), work


def _in_dagster(instance: Any) -> Callable[[str, str, int, Path], tuple[int, Callable[[], None]]]:
    """The same by a ranged run over all partitions."""
    import dagster as dg

    from rivet_dagster import ExportConfig, KeysetWindows, RivetResource, build_rivet_assets

    def prepare(dsn: str, relation: str, rows: int, lake: Path) -> tuple[int, Callable[[], None]]:
        os.environ["RIVET_BENCHMARK_DSN"] = dsn
        config = ExportConfig(table=relation, windows=KeysetWindows(rows=rows))
        plan, table, _ = build_rivet_assets(config)
        resources = {"rivet": RivetResource(source=dg.EnvVar("RIVET_BENCHMARK_DSN"), destination=str(lake), workers=1)}
        dg.materialize([plan], instance=instance, resources=resources)
        keys = list(instance.get_dynamic_partitions(table.key.to_user_string()))
        tags = {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}

        def work() -> None:
            dg.materialize([table], instance=instance, resources=resources, tags=tags)

        return len(keys), work

    return prepare


if __name__ == "__main__":
    main()
