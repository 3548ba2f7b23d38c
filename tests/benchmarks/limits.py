"""What must hold, on every table, in the worst of the runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tests.benchmarks.contender import Contender
from tests.benchmarks.contenders.ours import DEFAULT
from tests.benchmarks.measure import Measurement
from tests.benchmarks.suite import TableResults


def _above_idle(run: Measurement) -> float | None:
    return run.above_idle_mb


def _longest_statement(run: Measurement) -> float:
    """By the server's log and by the window manifests, whichever is longer."""
    return max(run.statement_s, float(run.facts["longest_statement_s"]))


@dataclass(frozen=True)
class Limit:
    """An upper bound.

    Attributes:
        what: is bounded.
        contender: whose.
        value: the measured value.
        below: the bound; the value must be less.
        unit: of both.
    """

    what: str
    contender: Contender
    value: Callable[[Measurement], float | None]
    below: float
    unit: str


LIMITS = (
    Limit("peak memory above idle", DEFAULT, _above_idle, 160, "MB"),
    Limit("longest statement", DEFAULT, _longest_statement, 2, "s"),
)


@dataclass(frozen=True)
class Verdict:
    """How a limit fared on one table; without a value, the contender failed."""

    limit: Limit
    table: str
    value: float | None

    @property
    def passed(self) -> bool:
        """Whether the limit holds."""
        return self.value is not None and self.value < self.limit.below

    def __str__(self) -> str:
        limit = self.limit
        value = "not measured" if self.value is None else f"{self.value:,.2f} {limit.unit}"
        return f"{self.table}: {limit.what} of {limit.contender.title}: {value} (limit {limit.below:g} {limit.unit})"


def check(tables: Iterable[TableResults]) -> Iterator[Verdict]:
    """Hold the limits against the contenders that were asked for."""
    for table in tables:
        for limit in LIMITS:
            result = table.of(limit.contender)
            if result is not None:
                value = None if result.problem else result.worst(limit.value)
                yield Verdict(limit, table.table.name, value)
