"""Which contender runs on which table, and how often."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psycopg

from tests.benchmarks.contender import Contender, Task, Unavailable
from tests.benchmarks.contenders.ours import DEFAULT
from tests.benchmarks.declared import declared_schema
from tests.benchmarks.measure import Bench, ContenderError, Measurement
from tests.benchmarks.stage import SCHEMA, Stage, Table

_WARM_UP_ROWS = 1_000
# Of the two sizes whose peaks are compared, one is this many times the other.
_FLATNESS_FACTOR = 10


@dataclass
class Result:
    """What came of one contender on one table.

    Attributes:
        contender: which.
        runs: its measurements, without the warm-up.
        versions: of its packages.
        problem: why it is not measured, or not any more; None if all went well.
    """

    contender: Contender
    runs: list[Measurement] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    problem: str | None = None

    def median(self, value: Callable[[Measurement], float | None]) -> float | None:
        """Median of what `value` gives over the runs; None if it gives nothing."""
        values = [found for run in self.runs if (found := value(run)) is not None]
        return median(values) if values else None

    def worst(self, value: Callable[[Measurement], float | None]) -> float | None:
        """The greatest of what `value` gives over the runs; None if it gives nothing."""
        return max((found for run in self.runs if (found := value(run)) is not None), default=None)


@dataclass(frozen=True)
class TableResults:
    """All contenders on one table.

    Attributes:
        table: which.
        rows: how many it had.
        columns: how many it has.
        results: by contender, in the registry's order.
    """

    table: Table
    rows: int
    columns: int
    results: tuple[Result, ...]

    def of(self, contender: Contender) -> Result | None:
        """A contender's result; None if it was not asked for."""
        return next((result for result in self.results if result.contender is contender), None)


@dataclass(frozen=True)
class Flatness:
    """Whether memory depends on the table's size: the default contender on two sizes, in windows of the same size.

    Attributes:
        table: which.
        window_rows: rows a window.
        sizes: rows of the table, and the result.
    """

    table: Table
    window_rows: int
    sizes: tuple[tuple[int, Result], ...]


class Suite:
    """Runs contenders on a stage.

    Args:
        stage: the server with its tables.
        overlays: folder of packages that cannot be installed beside the project.
        runs: how often each contender is measured on a table.
        say: told what is under way.
    """

    def __init__(self, stage: Stage, overlays: Path, runs: int, say: Callable[[str], None]) -> None:
        self._stage = stage
        self._bench = Bench(stage.folder, stage.server.data / "server.log", overlays)
        self._runs = runs
        self._say = say

    def table(self, table: Table, rows: int, contenders: Sequence[Contender]) -> TableResults:
        """Measure contenders on one table, in turns, so that what else the machine does hits all alike."""
        results = tuple(Result(contender) for contender in contenders)
        self._rounds(results, table, rows)
        with psycopg.connect(self._stage.dsn(table, rows)) as connection:
            columns = len(declared_schema(connection, f"{SCHEMA}.{table.name}"))
        return TableResults(table, rows, columns, results)

    def flatness(self, table: Table, rows: int) -> Flatness:
        """Measure the default contender on `rows` and on a tenth of them, which still gives both workers a window."""
        few = rows // _FLATNESS_FACTOR
        window_rows = few // 2
        sizes = []
        for size in (few, rows):
            result = Result(DEFAULT)
            self._rounds([result], table, size, window_rows)
            sizes.append((size, result))
        return Flatness(table, window_rows, tuple(sizes))

    def _rounds(self, results: Iterable[Result], table: Table, rows: int, window_rows: int | None = None) -> None:
        for result in results:
            self._say(f"{table.name}: warming up {result.contender.title}")
            self._measure(result, table, _WARM_UP_ROWS, window_rows)
            result.runs.clear()
        for number in range(1, self._runs + 1):
            for result in results:
                if result.problem is None:
                    self._say(f"{table.name}, {rows:,} rows: {result.contender.title}, run {number} of {self._runs}")
                    self._measure(result, table, rows, window_rows)

    def _measure(self, result: Result, table: Table, rows: int, window_rows: int | None) -> None:
        dsn = self._stage.dsn(table, rows)
        with psycopg.connect(dsn) as connection:
            declared = declared_schema(connection, f"{SCHEMA}.{table.name}")
        with tempfile.TemporaryDirectory(dir=self._stage.folder) as folder:
            task = Task(dsn, SCHEMA, table.name, table.key, Path(folder), window_rows)
            try:
                run, result.versions = self._bench.measure(result.contender, task, declared, rows)
                result.runs.append(run)
            except Unavailable as reason:
                result.problem = str(reason)
            except ContenderError as error:
                result.problem = f"failed: {error}"
