"""What simulations of the governor are made of: a clock that is only counted, and sources that follow a law."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

from rivet_dagster.export.gates import Gates, Look
from rivet_dagster.export.governing import GovernorConfig
from rivet_dagster.export.governor import Controller, Decision
from rivet_dagster.sources import vitals
from rivet_dagster.sources.vitals import Vitals

TICK_S = 2.0
BEGAN = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
NOISE = (-0.1, 0.1, 0.05, -0.05)


@dataclass
class Simulation:
    """A controller whose looks are made up, tick by tick.

    Attributes:
        config: of the governor.
        most: workers that there are.
        law: what the source shows, by the tick's number and the workers that are reading.
        gates: in place of those that the configuration makes.
        decisions: all of them; the first one is of before the first window.
    """

    config: GovernorConfig
    most: int
    law: Callable[[int, int], Vitals | None]
    gates: Gates | None = None
    decisions: list[Decision] = field(default_factory=list)

    def run(self, ticks: int) -> list[int]:
        """So many ticks more; gives the widths after each."""
        if not self.decisions:
            self._controller = Controller(self.config, self.most, self.gates)
            self.decisions.append(self._controller.begin(self._look(0, 0)))
        for _ in range(ticks):
            number, width = len(self.decisions), self.decisions[-1].width
            self.decisions.append(self._controller.tick(self._look(number, width), width))
        return self.widths[-ticks:]

    def _look(self, number: int, width: int) -> Look:
        return Look(self.law(number, width), BEGAN + timedelta(seconds=TICK_S * number))

    @property
    def widths(self) -> list[int]:
        """Of all ticks."""
        return [decision.width for decision in self.decisions]


def seen(
    tick: int, values: Mapping[str, float], counters: Mapping[str, float] | None = None, epoch: str = ""
) -> Vitals:
    """A look of a tick."""
    return Vitals(TICK_S * tick, values, counters or {}, epoch)


def active(load: Callable[[int], float]) -> Callable[[int, int], Vitals]:
    """A source that shows sessions of others alone: so much of its full load, which is 8, in each tick."""
    return lambda tick, _: seen(tick, {vitals.ACTIVE_SESSIONS: 8 * load(tick)})


def steps(*parts: tuple[int, float]) -> Callable[[int], float]:
    """A load that is constant for so many ticks each; the last one goes on."""
    values = list(itertools.chain.from_iterable([load] * ticks for ticks, load in parts))
    return lambda tick: values[min(tick, len(values) - 1)]


def noise() -> Iterable[float]:
    """Small, and the same every time."""
    return itertools.cycle(NOISE)
