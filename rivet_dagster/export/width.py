"""The width law: how many workers may read, by the pressure on their source. Pure: no clock, no I/O.

    pressure        what happens
    below 0.4       one worker more, if those there are were all at work
    0.4 to 0.7      nothing: the dead band is wider than what one worker more or less does to the pressure
    0.7 to 1.0      one worker less
    1.0 and more    half of them, at once

After a move in one direction the next one waits for two ticks; a decrease also delays the next increase, but never
the other way round: the first sign of too much load is always followed.

A source may look idle exactly because no worker reads there. So a worker that was let in, and had to be taken away
soon, is tried again only after twice the wait, and so on: a busy source is troubled ever more seldom. A source that is
clearly idler than when it was tried is not made to wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rivet_dagster.export.pressure import Pressure

LOW: Final = 0.4
HIGH: Final = 0.7
FULL: Final = 1.0
COOLDOWN_TICKS: Final = 2
"""Ticks between two moves in one direction: long enough that the first is seen in the smoothed pressure."""
EAGER_WIDTH: Final = 4
"""On an idle source so many workers begin at once; more of them begin with half."""
HOLDS_TICKS: Final = 8
"""A worker who is not taken away within so many ticks did no harm: all workers are let in within them, one by one."""
LONGEST_WAIT_S: Final = 60.0
"""The wait for another worker grows to this, in seconds."""
RELIEF: Final = 0.5
"""Pressure below this part of what it was at the last try is another source, as it were."""
LONGEST_PAUSE_S: Final = 60.0
"""Where all workers may pause, a window goes on after so long, lest a signal that never falls ends the work."""


@dataclass(frozen=True)
class Move:
    """A change of the width.

    Attributes:
        before, after: workers.
        reason: in a few words, for the journal.
    """

    before: int
    after: int
    reason: str


class _Tries:
    """When the next worker may be let in, by what became of those before. Counts ticks.

    Args:
        longest: the wait grows to this.
    """

    def __init__(self, longest: int) -> None:
        self._longest = max(longest, COOLDOWN_TICKS)
        self._wait = COOLDOWN_TICKS
        self._since_move = COOLDOWN_TICKS
        self._since_try = HOLDS_TICKS
        self._tried_at = 0.0

    def tick(self, u: float) -> None:
        """A tick passed; its pressure tells whether what failed before may be forgotten."""
        self._since_move += 1
        self._since_try += 1
        if self._since_try == HOLDS_TICKS or u < RELIEF * self._tried_at:
            self._wait = COOLDOWN_TICKS

    @property
    def may_try(self) -> bool:
        """Whether a worker may be let in."""
        return self._since_move >= self._wait

    def tried(self, u: float) -> None:
        """A worker was let in at this pressure."""
        self._since_move = self._since_try = 0
        self._tried_at = u

    def fell(self) -> None:
        """Workers were taken away."""
        if self._since_try < HOLDS_TICKS:
            self._wait = min(2 * self._wait, self._longest)
            self._since_try = HOLDS_TICKS + 1  # it failed once, whatever follows
        self._since_move = 0


class WidthLaw:
    """Decides tick by tick how many workers may read.

    Args:
        least: as many go on under any load.
        most: no more than these.
        tick_s: seconds between two ticks.
    """

    def __init__(self, least: int, most: int, tick_s: float = 2.0) -> None:
        self._longest_pause = max(1, round(LONGEST_PAUSE_S / tick_s))
        self._least = min(least, most)
        self._most = most
        self.width = most
        self._until_less = 0
        self._tries = _Tries(round(LONGEST_WAIT_S / tick_s))
        self._paused = 0

    def begin(self, pressure: Pressure) -> int:
        """How many begin, by the look before the first of them: none is reading yet."""
        if pressure.stale or pressure.u < LOW:
            eager = self._most if self._most <= EAGER_WIDTH else max(EAGER_WIDTH, -(-self._most // 2))
            # Without a meter, half of them: nothing would take them back.
            self.width = max(self._least, -(-eager // 2) if pressure.stale else eager)
        elif pressure.u < HIGH:
            self.width = max(self._least, -(-self._most // 2))
        else:
            self.width = self._least
        return self.width

    def tick(self, pressure: Pressure, busy: int) -> Move | None:
        """What follows from the pressure of this tick, with so many workers at work; None where nothing changes."""
        self._until_less = max(0, self._until_less - 1)
        self._tries.tick(pressure.u)
        self._paused = 0 if self.width else self._paused + 1
        if self._paused >= self._longest_pause:
            return self._one()
        if pressure.stale:
            return None
        if pressure.u >= FULL and not self._until_less:
            return self._less(-(-self.width // 2), pressure)
        if pressure.u >= HIGH and not self._until_less:
            return self._less(self.width - 1, pressure)
        if pressure.u < LOW and busy >= self.width and self._tries.may_try:
            return self._more(pressure)
        return None

    def _less(self, wanted: int, pressure: Pressure) -> Move | None:
        after = max(self._least, min(wanted, self.width - 1))
        if after >= self.width:
            return None
        move = Move(self.width, after, f"{pressure.by or 'load'} is at {pressure.u:.2f} of full load")
        self.width = after
        self._until_less = COOLDOWN_TICKS
        self._tries.fell()
        return move

    def _one(self) -> Move:
        self.width, self._paused, self._until_less = 1, 0, COOLDOWN_TICKS
        return Move(0, 1, "a window goes on after the longest pause")

    def _more(self, pressure: Pressure) -> Move | None:
        if self.width >= self._most:
            return None
        move = Move(self.width, self.width + 1, f"load is at {pressure.u:.2f}, and every worker is at work")
        self.width += 1
        self._tries.tried(pressure.u)
        return move
