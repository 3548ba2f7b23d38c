"""What the engines' probes share: groups of signals that may be refused, the canary, how far replicas are behind."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final, Generic, TypeVar

from rivet_dagster.errors import SourceError
from rivet_dagster.sources.base import SourceLimits

LIMITS: Final = SourceLimits(
    statement_timeout_s=2.0, lock_timeout_s=0.5, idle_in_transaction_timeout_s=10.0, connect_timeout_s=3.0
)
"""A server that cannot be looked at within these is not looked at."""

CANARIES: Final = 3

_AGAIN: Final = 60
"""Looks after which what was refused is tried again."""
_MOST_POSITIONS: Final = 10_000

_LOST: Final = frozenset({"RIVET_SOURCE_LOST", "RIVET_SOURCE_UNREACHABLE", "RIVET_PROTOCOL_ERROR"})
_TIMEOUT: Final = "RIVET_SOURCE_TIMEOUT"
_LOCKED: Final = "RIVET_SOURCE_LOCKED"
_FORBIDDEN: Final = frozenset({"RIVET_SOURCE_FORBIDDEN", "RIVET_SOURCE_AUTH"})

_Statement = TypeVar("_Statement")


@dataclass(frozen=True)
class Group:
    """Signals that one statement reads, and that are refused together.

    Attributes:
        name: of the group.
        statement: gives one row of named values.
        signals: names of what cannot be told without it.
        right: what a user lacks to whom it is refused.
        alone: it cannot be part of another statement.
    """

    name: str
    statement: Any
    signals: tuple[str, ...]
    right: str
    alone: bool = False


class Groups:
    """Reads groups by one statement; each by itself at first, so that one that is refused takes no other with it.

    Args:
        groups: all of them.
        ask: reads some of them by one statement; gives its row.
    """

    def __init__(self, groups: Iterable[Group], ask: Callable[[Sequence[Group]], Mapping[str, Any]]) -> None:
        self._ask = ask
        self._untried = list(groups)
        self._usual: list[Group] = []
        self._refused: list[tuple[Group, str]] = []
        self._looks = 0

    def read(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Everything that may be read, and the signals that may not, each with what is missing.

        Raises:
            SourceError: the connection is lost, or what could be read takes too long at the moment.
        """
        if self._looks and self._looks % _AGAIN == 0:
            self._untried += [group for group, _ in self._refused]
            self._refused = []
        self._looks += 1
        row = self._read_usual()
        while self._untried:
            group = self._untried[0]
            try:
                row.update(self._ask([group]))
            except SourceError as exc:
                if exc.code in _LOST:
                    raise
                self._refused.append((group, _missing(exc, group)))
            else:
                self._usual.append(group)
            del self._untried[0]
        return row, {signal: right for group, right in self._refused for signal in group.signals}

    def _read_usual(self) -> dict[str, Any]:
        row: dict[str, Any] = {}
        together = [group for group in self._usual if not group.alone]
        batches = [[group] for group in self._usual if group.alone]
        try:
            for batch in [together, *batches] if together else batches:
                row.update(self._ask(batch))
        except SourceError as exc:
            # Which of them it is shows when they are tried one by one; not now, where each may take as long.
            self._untried, self._usual = self._usual + self._untried, []
            if exc.code in _LOST or exc.code == _TIMEOUT:
                raise
            return {}
        return row


def _missing(exc: SourceError, group: Group) -> str:
    if exc.code in _FORBIDDEN:
        return group.right
    if exc.code in (_TIMEOUT, _LOCKED):
        return f"an answer within {LIMITS.statement_timeout_s:g} s"
    return "a server that has it"


class Canary(Generic[_Statement]):
    """How long the server takes for a look-up of one row, by its own clock.

    It is the same row every time, so that one look compares with the next. It is in the server's memory then: what is
    seen is how busy processors and locks are, not how slow storage is.

    Args:
        find: chooses a row; gives the statement that looks it up, None where there is none.
        plain: the statement in its place, which looks nothing up.
        measure: runs a statement `CANARIES` times; gives the seconds of each.
    """

    def __init__(
        self,
        find: Callable[[], _Statement | None],
        plain: _Statement,
        measure: Callable[[_Statement], Sequence[float]],
    ) -> None:
        self._find = find
        self._plain = plain
        self._measure = measure
        self._chosen: _Statement | None = None
        self._looks = 0

    def seconds(self) -> float:
        """The median; of a look-up that the server ended, the time-out.

        Raises:
            SourceError: not even the plain statement can be run.
        """
        if self._looks % _AGAIN == 0:
            self._chosen = None
        self._looks += 1
        try:
            if self._chosen is None:
                self._chosen = self._find() or self._plain
            return median(self._measure(self._chosen))
        except SourceError as exc:
            if exc.code in _LOST:
                raise
            if exc.code == _TIMEOUT and self._chosen is not None:
                return LIMITS.statement_timeout_s
            # A lock on the table is soon gone; anything else will be so at the next look, too.
            if exc.code != _LOCKED:
                self._chosen = self._plain
        return median(self._measure(self._plain))


class Lag:
    """How far a replica is behind, by what it says and by when it was last seen to be level.

    A replica knows the time of what it replayed last, which is long ago where nothing happens. What comes in after
    such a rest would for a moment be as old: it cannot be older than the last look that saw nothing left to replay.
    """

    def __init__(self) -> None:
        self._level_at: float | None = None
        self._at: float | None = None
        self._lag = 0.0

    def take(self, at: float, *, level: bool, said: float | None) -> float:
        """Seconds behind at a look.

        Args:
            at: when, in seconds.
            level: nothing is left to replay, and what comes would come.
            said: seconds since what it replayed last; None where it does not replay, and falls behind with the time.
        """
        if level:
            self._level_at, lag = at, 0.0
        elif said is None:
            lag = 0.0 if self._at is None else self._lag + at - self._at
        else:
            lag = max(0.0, said)
            if self._level_at is not None:
                lag = min(lag, at - self._level_at)
        self._at, self._lag = at, lag
        return lag


class Positions:
    """How far replicas are behind, as a primary sees it: by when its log passed the place that they have come to.

    What a primary says itself is how long the replay of something took that was replayed. Of a replica that has
    stopped it says the same for ever.
    """

    def __init__(self) -> None:
        self._passed: deque[tuple[float, float]] = deque()

    def take(self, at: float, position: float, replicas: Sequence[tuple[float, float | None]]) -> float:
        """Seconds that the slowest one is behind at a look.

        Args:
            at: when, in seconds.
            position: where the primary's log ends, in bytes.
            replicas: of each one how far it is, and what the primary says of its lag.
        """
        if self._passed and position < self._passed[-1][1]:
            self._passed.clear()  # another server's log
        if len(self._passed) < _MOST_POSITIONS:
            self._passed.append((at, position))
        slowest = min((reached for reached, _ in replicas), default=position)
        while self._passed and self._passed[0][1] <= slowest:
            self._passed.popleft()
        return max((self._behind(at, reached, said) for reached, said in replicas if reached < position), default=0.0)

    def _behind(self, at: float, reached: float, said: float | None) -> float:
        missed = next((when for when, position in self._passed if position > reached), at)
        return max(said or 0.0, at - missed)


def seen_of(row: Mapping[str, Any], names: Iterable[str]) -> dict[str, float]:
    """The values of `row` that are there, of those that have `names`."""
    return {name: float(row[name]) for name in names if row.get(name) is not None}
