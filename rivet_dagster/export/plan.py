"""Plans: append-only lists of windows, frozen in the destination before anything is read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rivet_dagster.errors import DriftError, IntegrityError, PlanError
from rivet_dagster.export.documents import PlannedColumn, PlannedWindow, PlanSegment, WindowManifest, fingerprint_bytes
from rivet_dagster.export.names import plan_folder, segment_path, window_key
from rivet_dagster.sources.base import KeyRange, KeyText
from rivet_dagster.stores.base import Store

# More than these make Dagster's pages slow.
USUAL_LIMIT = 5_000


@dataclass(frozen=True)
class Window:
    """One window of a plan.

    Attributes:
        generation: the plan's number.
        index: its place in the plan, from 0; of a slice of time 0.
        span: its bounds.
        planned_rows: rows that were counted or estimated when it was planned.
        slice: the name of a slice of time; empty for a window that the plan lists.
    """

    generation: int
    index: int
    span: KeyRange
    planned_rows: int
    slice: str = ""

    @property
    def key(self) -> str:
        """Its opaque name, which is its Dagster partition key too."""
        return self.slice or window_key(self.generation, self.index)

    def has_bounds_of(self, manifest: WindowManifest) -> bool:
        """Whether a manifest is of the rows that this window has."""
        span = self.span
        found = (manifest.key, manifest.lo, manifest.hi, manifest.half_open, manifest.nulls)
        return found == (self.key, span.lo, span.hi or (), span.half_open, span.nulls)


@dataclass(frozen=True)
class Plan:
    """The windows of one generation, in key order.

    Attributes:
        segments: what the plannings appended, oldest first; at least one.
    """

    segments: tuple[PlanSegment, ...]

    @property
    def head(self) -> PlanSegment:
        """The first segment, which holds what the whole plan shares."""
        return self.segments[0]

    @property
    def generation(self) -> int:
        """The plan's number."""
        return self.head.generation

    @property
    def mode(self) -> str:
        """The type of its windows."""
        return self.head.mode

    @property
    def frontier(self) -> KeyText | None:
        """The greatest key that the plan covers; None for a plan without windows."""
        return frontier_of(window for segment in self.segments for window in segment.windows)

    @property
    def windows(self) -> tuple[Window, ...]:
        """All windows; each begins where the one before it ends, so there is no gap to lose rows in."""
        found: list[Window] = []
        lo: KeyText | None = None
        for segment in self.segments:
            for planned in segment.windows:
                span = KeyRange(None, None, nulls=True) if planned.nulls else KeyRange(lo, planned.hi)
                found.append(Window(self.generation, len(found), span, planned.rows))
                lo = lo if planned.nulls else planned.hi
        return tuple(found)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of what all windows of the plan share: key, columns, generation. Extending does not change it."""
        shared = self.head.model_copy(update={"windows": (), "work_id": ""})
        return fingerprint_bytes(shared.to_bytes())

    def select(self, keys: Sequence[str]) -> tuple[Window, ...]:
        """The windows with these keys, in the plan's order.

        Raises:
            PlanError: RIVET_WINDOW_UNKNOWN that names the keys the plan does not have.
        """
        wanted = set(keys)
        found = tuple(window for window in self.windows if window.key in wanted)
        unknown = wanted.difference(window.key for window in found)
        if unknown:
            raise PlanError(
                "RIVET_WINDOW_UNKNOWN",
                f"The plan of {self.head.table} has no windows {', '.join(sorted(unknown))}.",
                "Run the plan asset again and choose among its partitions.",
                fatal=True,
            )
        return found


def frontier_of(windows: Iterable[PlannedWindow]) -> KeyText | None:
    """The greatest key of windows that follow one another; None where none has one."""
    found = [window.hi for window in windows if not window.nulls]
    return found[-1] if found else None


def latest_generation(store: Store, since: int = 1) -> int | None:
    """Number of the newest plan in a destination; None if nothing was planned there.

    Args:
        store: the export's folder.
        since: a generation that is known to be there if any is: that of the seal in force, else the first.
    """
    found = None
    while store.size(segment_path(since, 1)) is not None:
        found, since = since, since + 1
    return found


def load_plan(store: Store, generation: int) -> Plan | None:
    """The plan of one generation; None if there is none.

    Raises:
        IntegrityError: RIVET_PLAN_BROKEN where segments are missing or do not follow one another.
    """
    numbers = sorted(
        int(name)
        for name in (
            stored.path.rpartition("/")[2].removesuffix(".json") for stored in store.list(plan_folder(generation))
        )
        if name.isdecimal()
    )
    if not numbers:
        return None
    segments = []
    for number in range(1, numbers[-1] + 1):
        path = segment_path(generation, number)
        data = store.get(path)
        if data is None:
            raise _broken(store.url(path), "it is missing")
        segments.append(PlanSegment.from_bytes(data, store.url(path)))
    plan = Plan(tuple(segments))
    _check_segments(plan, store)
    return plan


def _check_segments(plan: Plan, store: Store) -> None:
    lo: KeyText | None = None
    windows = 0
    for number, segment in enumerate(plan.segments, start=1):
        follows = segment.number == number and segment.first_window == windows and segment.lo == lo
        same = (segment.mode, segment.key, segment.columns) == (plan.mode, plan.head.key, plan.head.columns)
        if not follows or not same:
            raise _broken(store.url(segment_path(plan.generation, number)), "it does not go on from the one before")
        windows += len(segment.windows)
        lo = frontier_of(segment.windows) or lo


def _broken(url: str, why: str) -> IntegrityError:
    return IntegrityError(
        "RIVET_PLAN_BROKEN",
        f"The plan segment {url} cannot be followed: {why}.",
        "Restore the object from a copy, or export the table to a new destination.",
        fatal=True,
    )


@dataclass(frozen=True)
class ColumnChange:
    """One difference between a table's columns and those that its plan froze.

    Attributes:
        name: of the column.
        kind: what became of it; `moved` only where nothing but the order differs.
        what: the same for people.
    """

    name: str
    kind: Literal["dropped", "added", "changed", "moved"]
    what: str


def column_changes(plan: Plan, columns: Sequence[PlannedColumn]) -> tuple[ColumnChange, ...]:
    """How the table's columns differ from those that the plan froze."""
    frozen = {column.name: column for column in plan.head.columns}
    current = {column.name: column for column in columns}
    found = [ColumnChange(name, "dropped", f"{name} was dropped") for name in frozen if name not in current]
    for name, column in current.items():
        if name not in frozen:
            found.append(ColumnChange(name, "added", f"{name} ({column.native_type}) was added"))
    for name, column in current.items():
        if name in frozen and column != frozen[name]:
            what = f"{name} was {_words(frozen[name], column)} and is {_words(column, frozen[name])}"
            found.append(ColumnChange(name, "changed", what))
    if found:
        return tuple(found)
    places = zip(frozen, current, strict=True)
    return tuple(
        ColumnChange(after, "moved", f"{after} has another place") for before, after in places if before != after
    )


def check_drift(plan: Plan, columns: tuple[PlannedColumn, ...]) -> None:
    """Compare the table's columns with those that the plan froze.

    Raises:
        DriftError: RIVET_SCHEMA_DRIFT that names every difference.
    """
    changes = column_changes(plan, columns)
    if not changes:
        return
    shown = "; ".join(change.what for change in changes if change.kind != "moved") or "their order"
    raise DriftError(
        "RIVET_SCHEMA_DRIFT",
        f"The columns of {plan.head.table} changed since it was planned: {shown}.",
        "Plan the table anew (replan), which begins a generation beside this one; the sealed export stays readable.",
        fatal=True,
    )


def _words(column: PlannedColumn, other: PlannedColumn) -> str:
    """A column, with its type in the parts where that is all that differs."""
    declared = column.native_type + ("" if column.nullable else " NOT NULL")
    same = (column.native_type, column.nullable) == (other.native_type, other.nullable)
    return f"{declared} as {column.type}" if same else declared
