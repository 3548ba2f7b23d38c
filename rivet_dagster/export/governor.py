"""The governor: looks how the source is, and decides how many windows are read and whether any may begin.

`Controller` is the pure part: a look goes in, a decision comes out. `Governor` is the I/O around it: a thread with
a connection that looks, and the permits that workers take before each window. Nothing is ever slowed down within a
window: a snapshot that is open should end soon.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Protocol

from rivet_dagster.errors import RivetError, SourceError
from rivet_dagster.export.gates import Gates, Look, gates_of, utc_now
from rivet_dagster.export.governing import GovernorConfig
from rivet_dagster.export.memory import MemoryGate
from rivet_dagster.export.permits import Permits
from rivet_dagster.export.pressure import LOOKS_A_TICK, Pressure, PressureModel, together
from rivet_dagster.export.width import Move, WidthLaw
from rivet_dagster.sources.vitals import Probe, Vitals

logger = logging.getLogger("rivet_dagster")

_JOIN_SECONDS = 10.0


@dataclass(frozen=True)
class Decision:
    """What follows from a look.

    Attributes:
        pressure: how much of what the server can bear is in use.
        width: how many workers may read.
        move: what changed of that; None for nothing.
        reasons: why no window may begin; empty where one may.
        critical: why nothing may be read at all, and the run has to end; None where it may.
    """

    pressure: Pressure
    width: int
    move: Move | None
    reasons: tuple[str, ...]
    critical: str | None


class Controller:
    """Pressure, width law and gates of one export, tick by tick.

    Args:
        config: what is asked for.
        most: workers that there are.
        gates: in place of those that are configured.
        governs: whether the width follows the pressure; otherwise all workers read.
    """

    def __init__(self, config: GovernorConfig, most: int, gates: Gates | None = None, *, governs: bool = True) -> None:
        self._model = PressureModel(config)
        self._law = WidthLaw(config.min_workers, most, config.tick_s)
        self._gates = gates or gates_of(config)
        self._governs = governs
        self._aborts = config.critical is not None and config.critical.action == "abort"

    def begin(self, look: Look) -> Decision:
        """The decision before the first window."""
        pressure = self._model.observe(look.seen)
        if self._governs:
            self._law.begin(pressure)
        return self._decision(look, pressure, None)

    def tick(self, look: Look, busy: int) -> Decision:
        """The decision of a tick, with the most workers that were at work since the one before."""
        pressure = self._model.observe(look.seen)
        move = self._law.tick(pressure, busy) if self._governs else None
        return self._decision(look, pressure, move)

    def _decision(self, look: Look, pressure: Pressure, move: Move | None) -> Decision:
        critical = self._gates.critical(look.seen) if self._aborts else None
        return Decision(pressure, self._law.width, move, self._gates.reasons(look), critical)


class Observer(Protocol):
    """Who is told what the governor sees and does: the journal."""

    def looked(self, decision: Decision, busy: int) -> None:
        """A tick."""
        ...

    def moved(self, move: Move, pressure: Pressure) -> None:
        """The width changed."""
        ...

    def held(self, reasons: tuple[str, ...]) -> None:
        """No window begins from now on."""
        ...

    def released(self, reasons: tuple[str, ...], seconds: float) -> None:
        """Windows begin again, after so many seconds."""
        ...

    def aborted(self, reason: str) -> None:
        """The run has to end."""
        ...


class Governor:
    """Gives workers leave to read windows, as many at a time as the source can bear. A context manager.

    Args:
        config: what is asked for.
        most: workers that there are.
        probe: looks how the source is; None where nothing is to be looked at.
        observer: is told of everything.
        memory: this process's memory, which is a gate too.
        now: the present; given by tests.
    """

    def __init__(
        self,
        config: GovernorConfig,
        most: int,
        probe: Probe | None,
        observer: Observer,
        memory: MemoryGate | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._config = config
        self._probe = probe if config.enabled else None
        self._observer = observer
        self._memory = memory
        self._now = now
        self._controller = Controller(config, most, governs=self._probe is not None)
        self._permits = Permits(most)
        self._stop = threading.Event()
        self._held_since: float | None = None
        self._held_for: tuple[str, ...] = ()
        self._failed_before = False
        self._looks: list[Vitals | None] = []
        self._thread = threading.Thread(target=self._run, name="rivet-governor", daemon=True)
        self.abort: Callable[[RivetError], None] = lambda _: None
        """Ends the run; set by whoever runs it."""

    def __enter__(self) -> Governor:
        self._look_once()
        self._carry_out(self._controller.begin(self._taken_together()), 0)
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(_JOIN_SECONDS)
        if self._held_since is not None:
            self._release()
        if self._probe is not None:
            self._probe.close()

    def lease(self, rest: Callable[[], None], stopped: Callable[[], bool]) -> bool:
        """Wait for leave to begin a window; says whether it was given, which only a stop prevents.

        Args:
            rest: called before waiting, so that whoever waits holds no connection.
            stopped: whether a stop was asked for.
        """
        if self._permits.take(wait=False):
            return True
        rest()
        return self._permits.take(wait=True, stopped=stopped)

    def release(self) -> None:
        """The window has ended."""
        self._permits.give_back()

    def tick(self) -> Decision:
        """Do what follows from the looks since the last tick, with one of now where there were none."""
        if not self._looks:
            self._look_once()
        busy = self._permits.most_busy()
        decision = self._controller.tick(self._taken_together(), busy)
        self._carry_out(decision, busy)
        return decision

    def _run(self) -> None:
        while not self._stop.wait(self._config.tick_s / LOOKS_A_TICK):
            try:
                self._look_once()
                if len(self._looks) == LOOKS_A_TICK:
                    self.tick()
            except Exception:
                # A defect here must not stop an export, nor leave it held for ever.
                logger.exception("The governor failed; windows go on.")
                self._permits.hold(held=False)

    def _look_once(self) -> None:
        self._looks.append(self._seen())

    def _taken_together(self) -> Look:
        """What was seen since the last decision."""
        seen = [each for each in self._looks if each is not None]
        self._looks.clear()
        return Look(together(seen) if seen else None, self._now())

    def _seen(self) -> Vitals | None:
        if self._probe is None:
            return None
        try:
            seen = self._probe.look()
        except RivetError as exc:
            if not self._failed_before:
                logger.warning("The source's load cannot be seen. %s", exc)
            self._failed_before = True
            return None
        self._failed_before = False
        return seen

    def _carry_out(self, decision: Decision, busy: int) -> None:
        self._observer.looked(decision, busy)
        if decision.move is not None:
            logger.info(
                "Workers: %d instead of %d, %s", decision.move.after, decision.move.before, decision.move.reason
            )
            self._observer.moved(decision.move, decision.pressure)
        self._permits.resize(decision.width)
        memory = self._memory.reason() if self._memory is not None else None
        reasons = (*decision.reasons, memory) if memory else decision.reasons
        if reasons and self._held_since is None:
            self._hold(reasons)
        elif not reasons and self._held_since is not None:
            self._release()
        if decision.critical:
            self._observer.aborted(decision.critical)
            self.abort(_critical(decision.critical))

    def _hold(self, reasons: tuple[str, ...]) -> None:
        self._held_since, self._held_for = time.monotonic(), reasons
        self._permits.hold(held=True)
        logger.warning("No window begins for now: %s", "; ".join(reasons))
        self._observer.held(reasons)

    def _release(self) -> None:
        assert self._held_since is not None
        seconds = time.monotonic() - self._held_since
        self._held_since = None
        self._permits.hold(held=False)
        logger.warning("Windows begin again after %.1f s.", seconds)
        self._observer.released(self._held_for, seconds)


def _critical(reason: str) -> SourceError:
    return SourceError(
        "RIVET_LOAD_CRITICAL",
        f"The run was ended because the source is under critical load: {reason}.",
        "Finished windows are kept: start again when the load is over, or raise the limit in critical.above.",
        retryable=True,
        fatal=True,
    )
