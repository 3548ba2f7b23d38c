"""What the governor's benchmark finds on a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median

from tests.benchmarks.foreground import Load, Transaction, percentile
from tests.benchmarks.governed import Phases, Ride

ALLOWED = 1.25
SETTLING_S = 8.0
IDLE_COST = 1.05
TICKS = 3
BACK = 0.8


@dataclass(frozen=True)
class Finding:
    """What one server showed.

    Attributes:
        product: which.
        version: its version.
        load: of the foreground.
        phases: of each ride.
        alone: two runs of the foreground without any export: before the rides, and behind them.
        free, held: beside an export that is not governed, beside one that is.
        idle: seconds of exports of an idle source, free and governed in turn.
        idle_sheds: how often the width fell in the governed ones of them.
        idle_looks: how often the source was looked at.
    """

    product: str
    version: str
    load: Load
    phases: Phases
    alone: tuple[Sequence[Transaction], Sequence[Transaction]]
    free: Ride
    held: Ride
    idle: Sequence[tuple[float, float]]
    idle_sheds: int
    idle_looks: int

    @property
    def baseline(self) -> Sequence[Transaction]:
        """The foreground alone: both runs, for machines change their mind meanwhile."""
        return [each for run in self.alone for each in run]

    def ratio(self, ride: Ride, share: float = 0.99) -> float:
        """A percentile of the foreground beside an export, by that of the foreground alone."""
        return percentile(ride.transactions, share) / percentile(self.baseline, share)

    def settled_ratio(self, ride: Ride, share: float = 0.99) -> float:
        """As `ratio`, without the first seconds of every run, in which the governor notices the load."""
        alone = [each for run in self.alone for each in _late(run)]
        return percentile(_late(ride.transactions), share) / percentile(alone, share)

    @property
    def loaded_s(self) -> float:
        """Seconds of load."""
        return self.phases.loaded

    @property
    def quiet_s(self) -> float:
        """Seconds before it."""
        return self.phases.quiet

    @property
    def relief_s(self) -> float:
        """Seconds after it."""
        return self.phases.relief

    @property
    def is_worse_when_free(self) -> bool:
        """Whether others wait longer beside a free export than beside a governed one, by a tenth of alone and more."""
        return self.settled_ratio(self.free) >= self.settled_ratio(self.held) + 0.1

    @property
    def idle_cost(self) -> float:
        """Median time of a governed export of an idle source by that of a free one."""
        free, governed = (median(each[place] for each in self.idle) for place in (0, 1))
        return governed / free

    def looks(self) -> list[tuple[float, int, float]]:
        """The governor over time: seconds since the load began, width, pressure."""
        return [
            (_moment(entry["at"]) - self.held.began, entry["width"], entry["u"])
            for entry in self.held.entries
            if entry["event"] == "pressure"
        ]

    def ticks_to_fall(self) -> int | None:
        """How many looks after the load began the width first fell; None if it never did."""
        looks = self.looks()
        before = [width for at, width, _ in looks if at < 0][-1]
        loaded = [width for at, width, _ in looks if at >= 0]
        return next((number for number, width in enumerate(loaded, 1) if width < before), None)

    def back_after(self) -> float | None:
        """Seconds after the load's end until the width is back; None if it never was."""
        looks, over = self.looks(), self.held.ended - self.held.began
        before = [width for at, width, _ in looks if at < 0][-1]
        return next((at - over for at, width, _ in looks if at >= over and width >= BACK * before), None)


def _late(run: Sequence[Transaction]) -> list[Transaction]:
    began = min(each.at for each in run)
    return [each for each in run if each.at >= began + SETTLING_S]


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
