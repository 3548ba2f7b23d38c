"""A run over time, out of its journal: how many workers, how much pressure, how many rows a second. Pure.

Time is cut into columns of equal length. Of the width a column has the least and of the pressure the most, so that
neither a short dip nor a short peak disappears however long the run was; a window's rows are spread evenly over the
time that it took.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from rivet_dagster.export.journal_entries import (
    DriftEntry,
    GateEntry,
    GovernorEntry,
    JournalEntry,
    PressureEntry,
    RetryEntry,
    RunEntry,
    WindowEntry,
)

_LABEL = 10
_SCALE = 22
_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_UNKNOWN: Final = "·"
_SHORTEST_S = 0.001
_MOST_DIGITS = 1e9
_ROUND: Final = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 43200, 86400)
_UNITS: Final = ((7200, 3600, "h"), (120, 60, "min"), (0, 1, "s"))


@dataclass(frozen=True)
class Held:
    """A time in which no window began.

    Attributes:
        begin, end: seconds since the run began.
        reasons: why.
    """

    begin: float
    end: float
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Mark:
    """Something at one moment.

    Attributes:
        t: seconds since the run began.
        kind: `failed` (a window, or all of the run), or `retry`.
    """

    t: float
    kind: str


@dataclass(frozen=True)
class Timeline:
    """A run over time.

    Attributes:
        seconds: how long it was.
        step: length of a column, in seconds.
        width: workers that could read; the least of each column, None where it is not known.
        pressure: 0 is idle, 1 is full load; the most of each column, None where it is not known.
        rows: rows a second, of each column.
        held: when no window began.
        marks: what else happened.
        workers: the most workers that could have read.
    """

    seconds: float
    step: float
    width: tuple[float | None, ...]
    pressure: tuple[float | None, ...]
    rows: tuple[float, ...]
    held: tuple[Held, ...]
    marks: tuple[Mark, ...]
    workers: int


def last_try(entries: Sequence[JournalEntry]) -> Sequence[JournalEntry]:
    """The entries since the last `run`: a run whose step is tried again goes on in the same journal."""
    for index in range(len(entries) - 1, 0, -1):
        if isinstance(entries[index], RunEntry):
            return entries[index:]
    return entries


def timeline_of(entries: Sequence[JournalEntry], columns: int) -> Timeline:
    """The last try of a run in so many columns."""
    entries = last_try(entries)
    seconds = max((entry.t for entry in entries), default=0.0)
    step = max(seconds, _SHORTEST_S) / columns
    moves = list(_widths(entries))
    looks = [(each.t, None if each.stale else each.u) for each in entries if isinstance(each, PressureEntry)]
    return Timeline(
        seconds=seconds,
        step=step,
        width=_steps(moves, columns, step, min),
        pressure=_steps(looks, columns, step, max),
        rows=_rates(entries, columns, step),
        held=tuple(_held(entries, seconds)),
        marks=tuple(_marks(entries)),
        workers=max([0, *(int(width) for _, width in moves if width is not None), *_most(entries)]),
    )


def _most(entries: Sequence[JournalEntry]) -> list[int]:
    return [each.workers_max for each in entries if isinstance(each, RunEntry)]


def _widths(entries: Sequence[JournalEntry]) -> Iterable[tuple[float, float | None]]:
    """Moments and workers from then on."""
    for entry in entries:
        if isinstance(entry, RunEntry) and not entry.governed:
            yield entry.t, entry.workers_max
        elif isinstance(entry, PressureEntry):
            yield entry.t, entry.width
        elif isinstance(entry, GovernorEntry):
            yield entry.t, entry.width_to


def _steps(
    changes: Iterable[tuple[float, float | None]], columns: int, step: float, choose: Callable[[float, float], float]
) -> tuple[float | None, ...]:
    """What a value that changes at some moments, and is kept in between, was in each column."""
    values: list[float | None] = []
    current: float | None = None
    for t, value in changes:
        index = min(int(t / step), columns - 1)
        values.extend([current] * (index + 1 - len(values)))
        found = values[index]
        if value is not None:
            values[index] = value if found is None else choose(found, value)
        current = value
    values.extend([current] * (columns - len(values)))
    return tuple(values)


def _rates(entries: Sequence[JournalEntry], columns: int, step: float) -> tuple[float, ...]:
    """Rows a second, column by column."""
    rows = [0.0] * columns
    for entry in entries:
        if not isinstance(entry, WindowEntry) or entry.outcome != "committed":
            continue
        begin = max(0.0, entry.t - entry.duration_s)
        first, last = (min(int(t / step), columns - 1) for t in (begin, entry.t))
        for index in range(first, last + 1):
            shared = min(entry.t, (index + 1) * step) - max(begin, index * step)
            part = shared / (entry.t - begin) if first < last else 1.0
            rows[index] += entry.rows * max(part, 0.0) / step
    return tuple(rows)


def _held(entries: Sequence[JournalEntry], seconds: float) -> Iterable[Held]:
    since: GateEntry | None = None
    for entry in entries:
        if not isinstance(entry, GateEntry):
            continue
        if entry.state == "held" and since is None:
            since = entry
        elif entry.state == "released" and since is not None:
            yield Held(since.t, entry.t, since.reasons)
            since = None
    if since is not None:
        yield Held(since.t, seconds, since.reasons)


def _marks(entries: Sequence[JournalEntry]) -> Iterable[Mark]:
    for entry in entries:
        if isinstance(entry, RetryEntry):
            yield Mark(entry.t, "retry")
        elif (
            (isinstance(entry, WindowEntry) and entry.outcome == "failed")
            or (isinstance(entry, GateEntry) and entry.state == "aborted")
            or isinstance(entry, DriftEntry)
        ):
            yield Mark(entry.t, "failed")


def duration_text(seconds: float) -> str:
    """Seconds for people: `95 s`, `12 min`, `3.5 h`."""
    unit_seconds, unit = next((size, unit) for least, size, unit in _UNITS if seconds >= least)
    return f"{float(f'{round(seconds, 3) / unit_seconds:.3g}'):g} {unit}"


def time_marks(seconds: float, most: int) -> list[float]:
    """Round moments from 0 to `seconds`, at most so many."""
    step = next((step for step in _ROUND if seconds / step < most), 0) or 86400 * math.ceil(seconds / 86400 / most + 1)
    return [number * float(step) for number in range(int(seconds / step) + 1)]


def text_chart(entries: Sequence[JournalEntry], columns: int = 100) -> str:
    """The last try of a run as lines of blocks, no longer than `columns` characters."""
    room = max(columns, _LABEL + _SCALE + 10) - _LABEL - _SCALE
    found = timeline_of(entries, room)
    rows = [
        ("workers", _bar(found.width, found.workers), _range(found)),
        ("pressure", _bar(found.pressure, 1.0), _peak(found.pressure)),
        ("rows/s", _bar(found.rows, max(found.rows)), f"at most {_rate(max(found.rows))}"),
    ]
    if found.held:
        held = sum(each.end - each.begin for each in found.held)
        spans = [(each.begin, each.end, "▒") for each in found.held]
        rows.append(("held", _line(spans, room, found.step), duration_text(held)))
    if found.marks:
        spans = [(each.t, each.t, "r") for each in found.marks if each.kind == "retry"]
        spans += [(each.t, each.t, "x") for each in found.marks if each.kind == "failed"]
        rows.append(("events", _line(spans, room, found.step), "r retry, x failure"))
    end = duration_text(found.seconds)
    rows.append(("", f"0 s{end:>{room - 3}}", ""))
    return "\n".join(f"{label:<{_LABEL}}{bar} {scale}".rstrip() for label, bar, scale in rows)


def _bar(values: Sequence[float | None], full: float) -> str:
    """A block a value; what is more than nothing is seen, and only what is not known is a point."""
    top = len(_BLOCKS) - 1
    return "".join(
        _UNKNOWN if value is None else _BLOCKS[min(top, math.ceil(value / full * top - 1e-9) if full else 0)]
        for value in values
    )


def _line(spans: Iterable[tuple[float, float, str]], room: int, step: float) -> str:
    """Spans of time, drawn one over the other."""
    line = [" "] * room
    for begin, end, character in spans:
        first, last = (min(int(t / step), room - 1) for t in (begin, end))
        line[first : last + 1] = character * (last + 1 - first)
    return "".join(line)


def _rate(rows: float) -> str:
    return f"{rows:,.0f}" if rows < _MOST_DIGITS else f"{rows:.3g}"


def _range(found: Timeline) -> str:
    known = [int(value) for value in found.width if value is not None]
    if not known:
        return "not known"
    return f"{min(known)} to {max(known)} of {found.workers}"


def _peak(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"at most {max(known):.2f}" if known else "not known"
