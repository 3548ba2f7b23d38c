"""Permits to read a window: as many as the width says, which may change while they are in use."""

from __future__ import annotations

import threading
from collections.abc import Callable

# How often whoever waits for a permit looks whether a stop was asked for.
_LOOK_SECONDS = 0.2


class Permits:
    """A semaphore whose size changes. Fewer permits take effect as those in use come back."""

    def __init__(self, width: int) -> None:
        self._changed = threading.Condition()
        self._width = width
        self._busy = 0
        self._most_busy = 0
        self._held = False

    def take(self, *, wait: bool, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Take a permit; says whether there was one. With `wait`, only a stop ends the waiting."""
        with self._changed:
            while self._held or self._busy >= self._width:
                if not wait or stopped():
                    return False
                self._changed.wait(_LOOK_SECONDS)
            self._busy += 1
            self._most_busy = max(self._most_busy, self._busy)
            return True

    def give_back(self) -> None:
        """Return a permit."""
        with self._changed:
            self._busy -= 1
            self._changed.notify_all()

    def resize(self, width: int) -> None:
        """Let there be so many permits."""
        with self._changed:
            self._width = width
            self._changed.notify_all()

    def hold(self, held: bool) -> None:
        """Give out no permit, or again."""
        with self._changed:
            self._held = held
            self._changed.notify_all()

    def most_busy(self) -> int:
        """The most permits that were in use at one moment since this was asked last."""
        with self._changed:
            most, self._most_busy = self._most_busy, self._busy
            return most
