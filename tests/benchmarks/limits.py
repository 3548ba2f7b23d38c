"""What should hold. Nothing here fails a run: a verdict is printed as `pass` or `MISS`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tests.benchmarks.contender import MARIADB, POSTGRESQL
from tests.benchmarks.contenders import CONTENDERS, rivet_cli
from tests.benchmarks.contenders.ours import CONTENDERS as OURS
from tests.benchmarks.contenders.ours import DEFAULT
from tests.benchmarks.insight import Decoding, FirstUse, Hashing
from tests.benchmarks.measure import Measurement
from tests.benchmarks.overhead import DAGSTER, DEMO, IN_MEMORY, IN_SQLITE, PACKAGE, LoadCost, WindowCost
from tests.benchmarks.planning import HUGE, PlanningCost, PlanningRun
from tests.benchmarks.suite import Flatness, Result, TableResults

_CPU_OF_RIVALS = {POSTGRESQL: {"connectorx": 0.75, "adbc": 0.75}, MARIADB: {"connectorx": 0.80}}
# Where the export must be done before rivet-cli is.
_RACES = (POSTGRESQL,)
_MB_A_WORKER = 64.0
_STATEMENT_S = 2.0
_GROWTH = 1.10
_PAGES = 2.0
_COMPILING_S = 6.0
_HASHING_SHARE = 0.10
_DECODING = 1.25
_WINDOW_MS = 20.0
_LOADING_MS = 300.0
_PASSES = 1.1
_ESTIMATING_S = 5.0


@dataclass(frozen=True)
class Verdict:
    """How a limit fared.

    Attributes:
        what: is limited, and on which table.
        value: the measured value; None where there is none, because something failed or is not installed.
        limit: the upper bound.
        unit: of both.
        strict: whether the value must be less than the bound.
    """

    what: str
    value: float | None
    limit: float
    unit: str = ""
    strict: bool = False

    @property
    def passed(self) -> bool:
        """Whether the limit holds."""
        if self.value is None:
            return False
        return self.value < self.limit if self.strict else self.value <= self.limit

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        value = "not measured" if self.value is None else f"{self.value:,.2f}{unit}"
        return f"{self.what}: {value} ({'below' if self.strict else 'at most'} {self.limit:g}{unit})"


def above_idle(run: Measurement) -> float | None:
    """Peak memory above idle, in MB."""
    return run.above_idle_mb


def longest_statement(run: Measurement) -> float:
    """Seconds by the server's log and by the window manifests, whichever is longer."""
    return max(run.statement_s, float(run.facts["longest_statement_s"]))


def _cpu(run: Measurement) -> float:
    return run.cpu_s


def _wall(run: Measurement) -> float:
    return run.wall_s


def _pages(run: Measurement) -> float:
    """The largest page, in pages as they should be."""
    return float(run.facts["largest_page_bytes"] / run.facts["page_bytes"])


def of_table(table: TableResults) -> Iterator[Verdict]:
    """Limits beside rivals, and of every own contender's memory and statements."""
    default = table.of(DEFAULT)
    if default is not None:
        yield from _beside_rivals(table, default)
    for contender in OURS:
        result = table.of(contender)
        if result is not None:
            yield from _of_result(f"{table.label}, {table.rows:,} rows, {contender.title}", result)


def _beside_rivals(table: TableResults, default: Result) -> Iterator[Verdict]:
    for name, limit in _CPU_OF_RIVALS[table.server].items():
        theirs = table.of(CONTENDERS[name])
        if theirs is not None:
            ratio = _ratio(_median(default, _cpu), _median(theirs, _cpu))
            yield Verdict(f"{table.label}: CPU of {DEFAULT.title} / {theirs.contender.title}, medians", ratio, limit)
    rivals = [found for contender in rivet_cli.CONTENDERS if (found := table.of(contender)) is not None]
    if rivals and table.server in _RACES:
        best = min((wall for each in rivals if (wall := _best(each, _wall)) is not None), default=None)
        ratio = _ratio(_best(default, _wall), best)
        what = f"{table.label}: wall of {DEFAULT.title} / fastest of rivet-cli, best runs"
        yield Verdict(what, ratio, 1.0, strict=True)


def of_alone(table: TableResults) -> Iterator[Verdict]:
    """Limits of a table that the default contender alone reads."""
    for result in table.results:
        yield from _of_result(f"{table.label}, {table.rows:,} rows, {result.contender.title}", result)


def of_wide(table: TableResults) -> Iterator[Verdict]:
    """Limits of a table of long rows."""
    yield from of_alone(table)
    for result in table.results:
        where = f"{table.label}, {table.rows:,} rows, {result.contender.title}"
        yield Verdict(f"{where}: largest page / page size", _worst(result, _pages), _PAGES)


def of_flatness(flatness: Flatness) -> Iterator[Verdict]:
    """Limits of memory against size."""
    (few, _), (many, large) = flatness.sizes
    where = f"{POSTGRESQL}, {flatness.table.name}, {many:,} rows, {DEFAULT.title}"
    yield from _of_result(where, large)
    yield Verdict(f"{where}: peak memory above idle / that of {few:,} rows, medians", flatness.growth, _GROWTH)


def of_first_use(first_use: FirstUse) -> Iterator[Verdict]:
    """Limit of what compiling may take."""
    yield Verdict(
        f"{POSTGRESQL}, first use: first export minus second, wall, median", first_use.compiling_s, _COMPILING_S, "s"
    )


def of_hashing(each: Hashing) -> Iterator[Verdict]:
    """Limit of the fingerprint's share."""
    what = f"{POSTGRESQL}, {each.table.name}: row fingerprint's share of CPU, median"
    yield Verdict(what, each.share * 100, _HASHING_SHARE * 100, "%")


def of_decoding(each: Decoding) -> Iterator[Verdict]:
    """Limit of what decoding may add to reading."""
    what = f"{each.server}, {each.table.name}: wall of reading and decoding / reading, one worker, medians"
    yield Verdict(what, each.ratio, _DECODING)


def of_windows(cost: WindowCost) -> Iterator[Verdict]:
    """Limit of what Dagster may add to a window of a ranged run."""
    for way in (IN_MEMORY, IN_SQLITE):
        yield Verdict(f"{way}: added to a window, wall, median", cost.added_ms(way), _WINDOW_MS, "ms")


def of_loading(cost: LoadCost) -> Iterator[Verdict]:
    """Limits of what this package may add to a start."""
    for what in (PACKAGE, DEMO):
        yield Verdict(f"{DAGSTER} {what}: added, CPU, median", cost.added_ms(what), _LOADING_MS, "ms")
    for command in cost.commands:
        what = f"`dg {command}`: added by five tables, CPU, median"
        yield Verdict(what, cost.added_to_command_ms(command), _LOADING_MS, "ms")


def of_planning(cost: PlanningCost) -> Iterator[Verdict]:
    """Limits of what a walk asks of the server, and of how long a huge table takes by statistics."""
    for each in cost.ways:
        where = f"{cost.server}, planning {each.way.rows:,} rows, {each.way.title}"
        if each.way.walks:
            yield Verdict(f"{where}: longest statement, worst", each.worst(_planning_statement), _STATEMENT_S, "s")
            yield Verdict(f"{where}: passes over the index, worst", each.worst(each.passes), _PASSES)
        if each.way.table is HUGE:
            yield Verdict(f"{where}: wall, worst", each.worst(_planning_wall), _ESTIMATING_S, "s")


def _planning_statement(run: PlanningRun) -> float:
    return run.statement_s


def _planning_wall(run: PlanningRun) -> float:
    return run.wall_s


def _of_result(where: str, result: Result) -> Iterator[Verdict]:
    memory = _MB_A_WORKER * result.contender.workers
    yield Verdict(f"{where}: peak memory above idle, worst", _worst(result, above_idle), memory, "MB")
    yield Verdict(f"{where}: longest statement, worst", _worst(result, longest_statement), _STATEMENT_S, "s")


_Value = Callable[[Measurement], float | None]


def _median(result: Result, value: _Value) -> float | None:
    return None if result.problem else result.median(value)


def _best(result: Result, value: _Value) -> float | None:
    return None if result.problem else result.best(value)


def _worst(result: Result, value: _Value) -> float | None:
    return None if result.problem else result.worst(value)


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return ours / theirs if ours is not None and theirs else None


def unmeasured(verdicts: Iterable[Verdict]) -> bool:
    """Whether something that has a limit could not be measured."""
    return any(verdict.value is None for verdict in verdicts)
