"""How busy a source is now, as the governor sees it before the first window of an export."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Final

from rivet_dagster.errors import RivetError
from rivet_dagster.export.gates import Look, gates_of, utc_now
from rivet_dagster.export.governing import GovernorConfig
from rivet_dagster.export.pressure import LOOKS_A_TICK, Pressure, PressureModel, together
from rivet_dagster.export.width import WidthLaw
from rivet_dagster.sources.base import Key, Source, Table
from rivet_dagster.sources.vitals import CANARY, CONNECTION_ROOM, Vitals

LONGEST_S: Final = 2.0
"""Seconds that looking takes at most: a tick may be a minute, for which nobody wants to wait."""


@dataclass(frozen=True)
class Signal:
    """One signal of a source's health.

    Attributes:
        name: as in `rivet_dagster.sources.vitals`.
        value: now; of a counter the rate a second.
        limit: what is full load by it; None for one that says nothing of load.
        share: of full load; None as above.
        a_second: whether it is the rate of a counter.
    """

    name: str
    value: float
    limit: float | None
    share: float | None
    a_second: bool


@dataclass(frozen=True)
class LoadReport:
    """How busy a source is, and what follows for an export that begins now.

    Attributes:
        pressure: 0 idle, 1 full load; None where it could not be looked at.
        pressed_by: the signal that it is of.
        signals: all that could be read, the greatest share first.
        unseen: those that the user may not see, each with the right that is missing.
        gates: why no window may begin.
        critical: why a run would be ended at once; empty where it would not.
        begins_with: workers that would read at first.
        room: connections that could be opened beside those of others; None where it is not known.
        error: why it could not be looked at; None where it could.
    """

    pressure: float | None
    pressed_by: str
    signals: tuple[Signal, ...]
    unseen: Mapping[str, str]
    gates: tuple[str, ...]
    critical: str
    begins_with: int
    room: int | None
    error: RivetError | None = field(default=None)


def look_at(
    source: Source,
    config: GovernorConfig,
    workers: int,
    table: Table | None = None,
    key: Key | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> LoadReport:
    """Look at a source for a tick, as a run's governor would, over a connection of its own.

    Args:
        source: where to look.
        config: what is full load, and which gates there are. Addresses and functions of its vetoes are asked.
        workers: how many are to read.
        table: of which the canary looks up a row by `key`; None for a canary that looks nothing up.
        key: as above.
        sleep: waits between two looks; given by tests.
    """
    looks: list[Vitals] = []
    error = None
    with closing(source.probe(table, key)) as probe:
        try:
            looks.append(probe.look())
            for _ in range(LOOKS_A_TICK):
                sleep(min(config.tick_s, LONGEST_S) / LOOKS_A_TICK)
                looks.append(probe.look())
        except RivetError as exc:
            error = exc
    return _report(config, workers, looks, error)


def _report(config: GovernorConfig, workers: int, looks: list[Vitals], error: RivetError | None) -> LoadReport:
    model = PressureModel(config)
    seen = together(looks[1:] or looks) if looks else None
    pressure = model.observe(_at_first(looks) if looks else None)
    if len(looks) > 1:
        pressure = model.observe(seen)
    gates = gates_of(config)
    look = Look(seen if config.enabled else None, utc_now())
    aborts = config.critical is not None and config.critical.action == "abort"
    room = seen.values.get(CONNECTION_ROOM) if seen is not None else None
    return LoadReport(
        pressure=None if seen is None else round(pressure.u, 4),
        pressed_by=pressure.by,
        signals=_signals(model, pressure, seen),
        unseen=dict(pressure.unseen),
        gates=gates.reasons(look),
        critical=(gates.critical(look.seen) or "") if aborts else "",
        begins_with=WidthLaw(config.min_workers, workers).begin(pressure) if config.enabled else workers,
        # The connection that looked is closed again.
        room=None if room is None else int(room) + 1,
        error=error if seen is None else None,
    )


def _at_first(looks: list[Vitals]) -> Vitals:
    """What sessions do in all looks, with the canary and the counters of the first.

    So sessions count at once, and a burst in a counter, which one tick says little of, as little as for a governor.
    """
    first, values = looks[0], dict(together(looks).values)
    if CANARY in first.values:
        values[CANARY] = first.values[CANARY]
    return replace(first, values=values)


def _signals(model: PressureModel, pressure: Pressure, seen: Vitals | None) -> tuple[Signal, ...]:
    counters = seen.counters if seen is not None else {}
    found = [
        Signal(name, value, model.limit_of(name), pressure.shares.get(name), name in counters)
        for name, value in pressure.readings.items()
    ]
    return tuple(sorted(found, key=lambda each: (-(-1.0 if each.share is None else each.share), each.name)))
