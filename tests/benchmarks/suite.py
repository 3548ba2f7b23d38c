"""Which contender runs on which table, and how often."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.benchmarks.contender import Contender, Unavailable
from tests.benchmarks.contenders.ours import DEFAULT
from tests.benchmarks.measure import Bench, ContenderError, Measurement
from tests.benchmarks.stage import Stage, Table

_WARM_UP_ROWS = 1_000
# Of the two sizes whose peaks are compared, one is this many times the other.
_FLATNESS_FACTOR = 10


def _above_idle(run: Measurement) -> float | None:
    return run.above_idle_mb


@dataclass
class Result:
    """What came of one contender on one table.

    Attributes:
        contender: which.
        runs: its measurements, without the warm-up.
        versions: of its packages.
        problem: why it is not measured, or not any more; None if all went well.
        scaled_from: how many rows it was measured on, where that is less than the table has.
    """

    contender: Contender
    runs: list[Measurement] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    problem: str | None = None
    scaled_from: int | None = None

    def median(self, value: Callable[[Measurement], float | None]) -> float | None:
        """Median of what `value` gives over the runs; None if it gives nothing."""
        values = [found for run in self.runs if (found := value(run)) is not None]
        return median(values) if values else None

    def best(self, value: Callable[[Measurement], float | None]) -> float | None:
        """The least of what `value` gives over the runs; None if it gives nothing."""
        return min((found for run in self.runs if (found := value(run)) is not None), default=None)

    def worst(self, value: Callable[[Measurement], float | None]) -> float | None:
        """The greatest of what `value` gives over the runs; None if it gives nothing."""
        return max((found for run in self.runs if (found := value(run)) is not None), default=None)


@dataclass(frozen=True)
class TableResults:
    """All contenders on one table.

    Attributes:
        server: that it is on.
        table: which.
        rows: how many it had.
        columns: how many it has.
        results: by contender, in the registry's order.
    """

    server: str
    table: Table
    rows: int
    columns: int
    results: tuple[Result, ...]

    @property
    def label(self) -> str:
        """Server and table, for the limits."""
        return f"{self.server}, {self.table.name}"

    def of(self, contender: Contender) -> Result | None:
        """A contender's result; None if it was not asked for."""
        return next((result for result in self.results if result.contender is contender), None)


@dataclass(frozen=True)
class Flatness:
    """Whether memory depends on the table's size: the default contender on two sizes.

    Attributes:
        table: which.
        sizes: rows of the table, and the result; the smaller size first.
    """

    table: Table
    sizes: tuple[tuple[int, Result], ...]

    @property
    def growth(self) -> float | None:
        """Median peak above idle of the larger size over that of the smaller one; None where one was not measured."""
        small, large = (None if result.problem else result.median(_above_idle) for _, result in self.sizes)
        return large / small if small and large is not None else None


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
        self.bench = Bench(stage.folder, stage.durations(), overlays)
        self._runs = runs
        self._say = say

    def table(self, table: Table, rows: int, contenders: Sequence[Contender]) -> TableResults:
        """Measure contenders on one table, in turns, so that what else the machine does hits all alike."""
        results = tuple(Result(contender) for contender in contenders)
        self._rounds(results, table, rows)
        return TableResults(self._stage.product, table, rows, len(self._stage.declared(table, rows)), results)

    def flatness(self, table: Table, rows: int) -> Flatness:
        """Measure the default contender on `rows` and on a tenth of them, in windows as it chooses them."""
        sizes = tuple((size, Result(DEFAULT)) for size in (rows // _FLATNESS_FACTOR, rows))
        for size, result in sizes:
            self._rounds([result], table, size)
        return Flatness(table, sizes)

    def alone(self, table: Table, rows: int) -> TableResults:
        """Measure the default contender on a table, which is dropped afterwards."""
        try:
            return self.table(table, rows, [DEFAULT])
        finally:
            for size in (rows, _WARM_UP_ROWS):
                self._stage.drop(table, size)

    def _rounds(self, results: Iterable[Result], table: Table, rows: int) -> None:
        for result in results:
            self._say(f"{table.name}: warming up {result.contender.title}")
            self._measure(result, table, _WARM_UP_ROWS)
            result.runs.clear()
        for number in range(1, self._runs + 1):
            for result in results:
                if result.problem is None:
                    self._say(f"{table.name}, {rows:,} rows: {result.contender.title}, run {number} of {self._runs}")
                    self._measure(result, table, rows)

    def _measure(self, result: Result, table: Table, rows: int) -> None:
        taken = min(rows, result.contender.most_rows or rows)
        result.scaled_from = taken if taken < rows else None
        declared = self._stage.declared(table, taken)
        with tempfile.TemporaryDirectory(dir=self._stage.folder) as folder:
            task = self._stage.task(table, taken, Path(folder))
            try:
                run, result.versions = self.bench.measure(result.contender, task, declared, taken)
                result.runs.append(run.scaled(rows / taken))
            except Unavailable as reason:
                result.problem = str(reason)
            except ContenderError as error:
                result.problem = f"failed: {error}"
