"""How much of what a server can bear is in use: one number out of many signals. Pure: no clock, no I/O.

A signal's share is its value by the value that is full load: 0 is idle, 1 is full. The pressure is the greatest share,
smoothed. Only signals are taken that an export can hardly move by itself: what others run, wait for and write. The
canary is the exception. It sees this export too, so it has a floor and a tolerance, and only ever speaks gradually.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean, median
from typing import Final

from rivet_dagster.export.governing import GovernorConfig
from rivet_dagster.sources import vitals
from rivet_dagster.sources.vitals import Vitals

SMOOTHING: Final = 0.3
"""Weight of the newest sample: three ticks take a step to two thirds of its height."""
LOOKS_A_TICK: Final = 4
"""Sessions are counted so often between two decisions: a short statement of others is seldom seen by one look."""
STALE_TICKS: Final = 3
"""Looks that must fail before what was seen last is not believed any more."""
STALE_PRESSURE: Final = 0.55
"""What is reported without a signal: it lies in the dead band, so that nothing moves."""
MOST: Final = 2.0
"""A share counts no more than this, so that relief is noticed soon after the worst load."""
GENTLE: Final = 0.9
"""What only hints at load counts no more than this: it takes workers away one by one, and never halves them."""

CANARY_FLOOR_S: Final = 0.002
"""Delays below this are noise, also on a busy machine: a look-up takes a fraction of a millisecond."""
CANARY_TOLERANCE: Final = 1.0
"""Twice the time of an idle server (beyond the floor) is full load."""

# Full load where the user does not say more. Sessions are those of others; of counters, the rate a second.
USUAL_LIMITS: Final[Mapping[str, float]] = {
    vitals.ACTIVE_SESSIONS: 32.0,
    vitals.WAITING_SESSIONS: 8.0,
    vitals.BLOCKED_SESSIONS: 4.0,
    vitals.ROW_LOCK_WAITS: 4.0,
    vitals.HISTORY_LIST: 1_000_000.0,
    vitals.CHECKPOINTS_REQUESTED: 0.2,
    vitals.LOG_WAITS: 5.0,
    vitals.CONFLICTS: 0.5,
    vitals.LOCK_TIME: 1.0,
}
# Hints: one tick of them says little, and some come in bursts.
_GENTLE = frozenset(
    {
        vitals.CANARY,
        vitals.CHECKPOINTS_REQUESTED,
        vitals.LOG_WAITS,
        vitals.CONFLICTS,
        vitals.LOCK_TIME,
        vitals.HISTORY_LIST,
        vitals.REPLICA_LAG,
    }
)


# What changes from moment to moment: one look at it says little.
_COUNTED_NOW = (
    vitals.ACTIVE_SESSIONS,
    vitals.WAITING_SESSIONS,
    vitals.BLOCKED_SESSIONS,
    vitals.ROW_LOCK_WAITS,
    vitals.OWN_SESSIONS,
)


def together(looks: Sequence[Vitals]) -> Vitals:
    """What several looks of one tick say together: means of what is counted at a moment, the median of the canary's.

    Everything else is as the last look has it; so is what another look lacks.
    """
    last = looks[-1]
    values = dict(last.values)
    for name in _COUNTED_NOW:
        if name in values:
            values[name] = mean(look.values[name] for look in looks if name in look.values)
    if vitals.CANARY in values:
        values[vitals.CANARY] = median(look.values[vitals.CANARY] for look in looks if vitals.CANARY in look.values)
    return replace(last, values=values)


@dataclass(frozen=True)
class Pressure:
    """What the signals say of one moment.

    Attributes:
        u: smoothed: 0 idle, 1 full load.
        raw: the greatest share of this moment alone.
        by: the signal that it is of; empty where nothing presses or nothing is known.
        shares: each signal's share.
        readings: what was read, with rates of counters.
        stale: nothing was read for so long that `u` is only a place holder.
        unseen: signals that the user may not see, each with the right that is missing.
    """

    u: float
    raw: float
    by: str = ""
    shares: Mapping[str, float] = field(default_factory=dict)
    readings: Mapping[str, float] = field(default_factory=dict)
    stale: bool = False
    unseen: Mapping[str, str] = field(default_factory=dict)


class PressureModel:
    """Takes one look after the other, and says what they mean together.

    Args:
        config: what is full load.
    """

    def __init__(self, config: GovernorConfig) -> None:
        limits = dict(USUAL_LIMITS)
        if config.cores is not None:
            limits[vitals.ACTIVE_SESSIONS] = float(config.cores)
            limits[vitals.WAITING_SESSIONS] = max(2.0, config.cores / 2)
        if config.max_replica_lag_s is not None:
            limits[vitals.REPLICA_LAG] = config.max_replica_lag_s
        self._limits: Mapping[str, float] = {**limits, **config.limits}
        self._before: Vitals | None = None
        self._baseline: float | None = None
        self._missed = 0
        self._u: float | None = None
        self._last = Pressure(STALE_PRESSURE, STALE_PRESSURE, stale=True)

    @property
    def last(self) -> Pressure:
        """What was said last."""
        return self._last

    def limit_of(self, name: str) -> float | None:
        """What is full load by a signal, as far as is known now; None for one that says nothing of load."""
        if name == vitals.CANARY and name not in self._limits:
            baseline = self._baseline
            return None if baseline is None else baseline + CANARY_FLOOR_S + _canary_span(baseline)
        return self._limits.get(name)

    def observe(self, seen: Vitals | None) -> Pressure:
        """Take a look's readings; None for one that failed."""
        if seen is None:
            self._missed += 1
            if self._missed >= STALE_TICKS:
                self._last = Pressure(STALE_PRESSURE, STALE_PRESSURE, stale=True)
            return self._last
        self._missed = 0
        readings = {**seen.values, **self._rates(seen)}
        self._before = seen
        shares = {name: share for name, value in readings.items() if (share := self._share(name, value)) is not None}
        by = max(shares, key=lambda name: shares[name], default="")
        raw = shares.get(by, 0.0)
        # A first look is all there is to go by.
        self._u = raw if self._u is None else self._u + SMOOTHING * (raw - self._u)
        self._last = Pressure(self._u, raw, by if raw > 0 else "", shares, readings, unseen=seen.unseen)
        return self._last

    def _rates(self, seen: Vitals) -> dict[str, float]:
        """Counters by the second, since the look before. What began anew meanwhile gives no rate: not even 0."""
        before = self._before
        if before is None or before.epoch != seen.epoch or seen.at <= before.at:
            return {}
        rates = {}
        for name, value in seen.counters.items():
            earlier = before.counters.get(name)
            if earlier is not None and value >= earlier:
                rates[name] = (value - earlier) / (seen.at - before.at)
        return rates

    def _share(self, name: str, value: float) -> float | None:
        """A reading's share of full load; None for one that says nothing of load."""
        if name == vitals.CANARY and name not in self._limits:
            share = self._canary_share(value)
        elif name in self._limits:
            share = value / self._limits[name]
        else:
            return None
        return max(0.0, min(share, GENTLE if name in _GENTLE else MOST))

    def _canary_share(self, seconds: float) -> float:
        """The first look, before this export reads, is what an idle server takes; a quicker one later is, too."""
        baseline = self._baseline = min(seconds, self._baseline if self._baseline is not None else seconds)
        return (seconds - baseline - CANARY_FLOOR_S) / _canary_span(baseline)


def _canary_span(baseline: float) -> float:
    """Seconds from the canary's first sign of load to full load."""
    return CANARY_TOLERANCE * max(baseline, CANARY_FLOOR_S)
