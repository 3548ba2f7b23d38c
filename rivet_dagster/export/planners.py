"""How tables are cut into windows: a planner for each type of windows.

A planner says in which order rows are read, and gives the windows beyond the frontier. Whatever its bounds are, the
windows tile the table: the server compares, and each window begins where the one before it ends.
"""

from __future__ import annotations

import random
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from rivet_dagster.errors import ConfigError, PlanError
from rivet_dagster.export.config import (
    CursorWindows,
    ExportConfig,
    FullWindows,
    IntRangeWindows,
    KeysetWindows,
    TimeWindows,
)
from rivet_dagster.export.documents import PlannedColumn, PlannedWindow
from rivet_dagster.export.moments import has_whole_hours, moment_text
from rivet_dagster.export.walking import walk_windows, window_rows
from rivet_dagster.sources.base import NO_KEY, Key, KeyRange, KeyText, Session, Table
from rivet_dagster.sources.ordering import choose_key, order_by

_INTEGER = re.compile(r"u?int(8|16|32|64)")
TIME_TYPES = ("date", "timestamp(us)", "timestamp(us, UTC)")

# A range is sparse where statistics say that it has far more windows than its rows need, and a look at some of them
# proves it: most are empty.
_FEW_WINDOWS = 100
_SPARSE_FACTOR = 2
_LOOKS = 48

# Time zones are foreseen to this year.
_FORESEEN = datetime(2037, 12, 31)


@dataclass(frozen=True)
class Ground:
    """What a planner plans on.

    Attributes:
        session: a connection to the source.
        table: the table.
        columns: its columns, with their types in the parts.
        key: the planner's own order of the table.
        lo: the frontier; None where nothing is planned yet.
        begun: whether windows are planned already.
        size: of the windows planned before, for planners that keep one.
    """

    session: Session
    table: Table
    columns: tuple[PlannedColumn, ...]
    key: Key
    lo: KeyText | None = None
    begun: bool = False
    size: int | None = None

    def type_of(self, column: str) -> str:
        """Type of a column in the parts."""
        return next(each.type for each in self.columns if each.name == column)


class Planner(ABC):
    """Cuts a table into windows."""

    @abstractmethod
    def order(self, table: Table) -> Key:
        """The order in which rows are read; SourceError where the table cannot be read in it."""

    def check(self, ground: Ground) -> None:  # noqa: B027 (most take any table)
        """Whether windows of this type can be had of the table; ConfigError, SourceError if not."""

    def size(self, ground: Ground) -> int | None:
        """What the plan's first segment keeps for later ones; None for most planners."""
        return ground.size

    @abstractmethod
    def windows(self, ground: Ground) -> Iterator[PlannedWindow]:
        """Windows beyond the frontier, in order."""


@dataclass(frozen=True)
class KeysetPlanner(Planner):
    """Windows of about equally many rows."""

    options: KeysetWindows

    def order(self, table: Table) -> Key:
        """The key that is asked for, or the table's best."""
        return choose_key(table, self.options.columns)

    def windows(self, ground: Ground) -> Iterator[PlannedWindow]:
        """By a walk of the index, or by statistics."""
        yield from _null_window(ground)
        rows = self.options.rows or window_rows(ground.table)
        last = ground.session.last(ground.table, ground.key)
        estimated = None
        if self.options.boundaries == "estimated" and ground.lo is None and last is not None:
            estimated = _estimated(ground, rows, last)
        yield from _walked(ground, rows, last) if estimated is None else estimated


def _walked(ground: Ground, rows: int, until: KeyText | None) -> Iterator[PlannedWindow]:
    """Windows up to a bound that is known beforehand: rows that come meanwhile are not run after."""
    if until is not None:
        yield from walk_windows(ground.session, ground.table, ground.key, ground.lo, rows, until)


def _estimated(ground: Ground, rows: int, last: KeyText) -> list[PlannedWindow] | None:
    """Windows by statistics, up to the greatest key there is; None where statistics cannot tell."""
    total = ground.table.estimated_rows
    if total is None:
        return None
    wanted = max(1, -(-total // rows))
    bounds = ground.session.boundaries(ground.table, ground.key, KeyRange(None, last), wanted) if wanted > 1 else ()
    if bounds is None:
        return None
    each = total // (len(bounds) + 1)
    return [PlannedWindow(hi=hi, rows=each) for hi in (*bounds, last)]


@dataclass(frozen=True)
class IntRangePlanner(Planner):
    """Aligned ranges of integers, without those that have no row."""

    options: IntRangeWindows

    def order(self, table: Table) -> Key:
        """The column's, with a key behind it."""
        return order_by(table, [self.options.column])

    def check(self, ground: Ground) -> None:
        """It must be a column of integers, and not a sparse one."""
        found = ground.type_of(self.options.column)
        if not _INTEGER.fullmatch(found):
            raise _wrong_type(ground, self.options.column, found, "an integer", "int_range")

    def size(self, ground: Ground) -> int:
        """As asked for, or by the rows that statistics count; a round number."""
        if ground.size or self.options.size:
            return ground.size or self.options.size or 1
        ends = _ends(ground)
        rows = window_rows(ground.table)
        if ends is None:
            return _rounded(rows)
        span = ends[1] - ends[0] + 1
        return _rounded(max(1, span * rows // max(ground.table.estimated_rows or span, 1)))

    def windows(self, ground: Ground) -> Iterator[PlannedWindow]:
        """From one window with rows to the next: a range without rows belongs to the window behind it."""
        yield from _null_window(ground)
        ends = _ends(ground)
        if ends is None:
            return
        first, last = ends
        size = self.size(ground)
        if ground.lo is None:
            self._refuse_sparse(ground, first, last, size)
        density = (ground.table.estimated_rows or 0) / (last - first + 1)
        position = first
        while True:
            hi = min((position // size + 1) * size - 1, last)
            yield PlannedWindow(hi=(str(hi),), rows=min(max(1, int(density * size)), hi - position + 1))
            step = ground.session.walk(ground.table, _leading(ground.key), (str(hi),), 1) if hi < last else None
            if step is None:
                return
            position = int(step.key[0])

    def _refuse_sparse(self, ground: Ground, first: int, last: int, size: int) -> None:
        windows = (last - first) // size + 1
        rows = ground.table.estimated_rows
        needed = max(1, -(-rows // window_rows(ground.table))) if rows else 1
        if windows <= max(_FEW_WINDOWS, _SPARSE_FACTOR * needed):
            return
        chosen = random.Random(windows).sample(range(windows), min(_LOOKS, windows))  # noqa: S311 (nothing is secret)
        starts = [(first // size + place) * size for place in chosen]
        # Below the first value the column's type may end.
        empty = sum(start > first and not self._has_rows(ground, start, size) for start in starts)
        if empty > len(starts) // 2:
            raise PlanError(
                "RIVET_KEY_SPARSE",
                f"Values of {self.options.column} in {ground.table.label} lie in {windows:,} ranges of {size:,}, where "
                f"rows for {needed:,} are known; of {len(starts)} ranges looked at, {empty} have no row.",
                "Use keyset windows, which have as many rows each; or ask for a larger size.",
                fatal=True,
            )

    def _has_rows(self, ground: Ground, start: int, size: int) -> bool:
        step = ground.session.walk(ground.table, _leading(ground.key), (str(start - 1),), 1)
        return step is not None and int(step.key[0]) < start + size


def _leading(key: Key) -> Key:
    """The first column alone, for looks at its values."""
    return Key(key.columns[:1], key.index, unique=True, nullable=key.nullable, declared=key.declared)


def _ends(ground: Ground) -> tuple[int, int] | None:
    """The least integer beyond the frontier, and the greatest; None where there is none."""
    key = _leading(ground.key)
    first = ground.session.walk(ground.table, key, ground.lo, 1)
    last = ground.session.last(ground.table, key) if first else None
    return (int(first.key[0]), int(last[0])) if first and last else None


def _rounded(number: int) -> int:
    """The next of 1, 2, 5, 10, 20, 50 and so on."""
    power = int(10 ** (len(str(number)) - 1))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= number)


@dataclass(frozen=True)
class TimePlanner(Planner):
    """Slices of time. The plan lists none: each follows from its Dagster partition's key."""

    options: TimeWindows

    def order(self, table: Table) -> Key:
        """The column's, with a key behind it."""
        return order_by(table, [self.options.column])

    def check(self, ground: Ground) -> None:
        """It must be a column of dates or timestamps, and hours cannot be told by dates."""
        found = ground.type_of(self.options.column)
        if found not in TIME_TYPES:
            raise _wrong_type(ground, self.options.column, found, "a date or timestamp", "time")
        if found == "date" and self.options.every == "hour":
            raise _wrong_type(ground, self.options.column, found, "a timestamp", "time, an hour each,")
        if self.options.every == "hour":
            self._check_hours()

    def _check_hours(self) -> None:
        start = datetime.fromisoformat(self.options.start)
        end = datetime.fromisoformat(self.options.end) if self.options.end else _FORESEEN
        if not has_whole_hours(self.options.timezone, start, end):
            raise ConfigError(
                "RIVET_CONFIG_WINDOWS",
                f"Hours of {self.options.timezone} cannot be slices: its clocks are not changed by whole hours.",
                "Take UTC for the timezone, slices of a day, or a later start.",
                fatal=True,
            )

    def windows(self, _: Ground) -> Iterator[PlannedWindow]:
        """None."""
        yield from ()


@dataclass(frozen=True)
class CursorPlanner(Planner):
    """Windows in the order of a growing column and a key, up to a little before the present."""

    options: CursorWindows

    def order(self, table: Table) -> Key:
        """The column's, with a key behind it: without one, rows of the same moment could not be told apart."""
        key = order_by(table, [self.options.column])
        if table.kind != "table":
            return Key(key.columns, "", nullable=key.nullable, declared=True)
        if not key.unique:
            choose_key(table, None)  # says why there is none
        return key

    def check(self, ground: Ground) -> None:
        """It must be a column of integers, dates or timestamps."""
        found = ground.type_of(self.options.column)
        if found not in TIME_TYPES and not _INTEGER.fullmatch(found):
            raise _wrong_type(ground, self.options.column, found, "an integer, a date or a timestamp", "cursor")

    def windows(self, ground: Ground) -> Iterator[PlannedWindow]:
        """By a walk of the index that ends at the lag."""
        yield from _null_window(ground)
        rows = self.options.rows or window_rows(ground.table)
        until = self._until(ground) if self.options.lag else ground.session.last(ground.table, ground.key)
        yield from _walked(ground, rows, until)

    def _until(self, ground: Ground) -> KeyText | None:
        """The greatest cursor that may be read now; None where no row beyond the frontier is at the lag."""
        found = ground.type_of(self.options.column)
        if found in TIME_TYPES:
            moment = ground.session.now() - timedelta(seconds=self.options.lag)
            text = moment_text(found, moment, self.options.timezone)
            # Rows of a day may come until it is over.
            return (str(date.fromisoformat(text) - timedelta(days=1)) if found == "date" else text,)
        first = ground.session.walk(ground.table, ground.key, ground.lo, 1)
        last = ground.session.last(ground.table, _leading(ground.key)) if first else None
        if first is None or last is None:
            return None
        until = int(last[0]) - self.options.lag
        # Below the first one the column's type may end.
        return (str(until),) if until >= int(first.key[0]) else None


@dataclass(frozen=True)
class FullPlanner(Planner):
    """One window without bounds: the window is the table, whatever comes to it later."""

    options: FullWindows

    def order(self, _: Table) -> Key:
        """None."""
        return NO_KEY

    def windows(self, ground: Ground) -> Iterator[PlannedWindow]:
        """The one, the first time."""
        if not ground.begun:
            yield PlannedWindow(hi=(), rows=ground.table.estimated_rows or 0)


_PLANNERS: dict[str, Callable[[Any], Planner]] = {
    "keyset": KeysetPlanner,
    "int_range": IntRangePlanner,
    "time": TimePlanner,
    "cursor": CursorPlanner,
    "full": FullPlanner,
}


def planner_of(config: ExportConfig) -> Planner:
    """The planner of an export's windows."""
    return _PLANNERS[config.windows.type](config.windows)


def _null_window(ground: Ground) -> Iterator[PlannedWindow]:
    """A window for rows without a key. It is there from the beginning, for those that come later, too."""
    if ground.key.nullable and not ground.begun:
        yield PlannedWindow(hi=(), rows=0, nulls=True)


def _wrong_type(ground: Ground, column: str, found: str, wanted: str, mode: str) -> ConfigError:
    return ConfigError(
        "RIVET_CONFIG_WINDOWS",
        f"Windows of type {mode} go by {wanted}, and {column} of {ground.table.label} is exported as {found}.",
        "Name another column, or use keyset windows.",
        fatal=True,
    )
