"""Plans: append-only lists of windows, frozen in the destination before anything is read."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rivet_dagster.errors import ConfigError, DriftError, IntegrityError, PlanError
from rivet_dagster.export.config import ExportConfig, FullWindows
from rivet_dagster.export.documents import (
    PlannedColumn,
    PlannedWindow,
    PlanSegment,
    fingerprint_bytes,
)
from rivet_dagster.export.names import plan_folder, segment_path, window_key
from rivet_dagster.export.schema import planned_columns
from rivet_dagster.sources.base import (
    ASSUMED_ROW_BYTES,
    NO_KEY,
    Key,
    KeyRange,
    KeyText,
    Session,
    Source,
    Table,
    choose_key,
)
from rivet_dagster.stores.base import Store

WINDOW_BYTES = 128 << 20
SMALLEST_WINDOW_ROWS = 10_000
LARGEST_WINDOW_ROWS = 5_000_000
USUAL_WINDOWS = 2_000

# One walk step reads index entries only, some million a second: these keep a step far below the page's second.
_FIRST_STEP_ROWS = 10_000
_LARGEST_STEP_ROWS = 200_000
_STEP_SECONDS = 0.3


@dataclass(frozen=True)
class Window:
    """One window of a plan: rows with `lo` < key <= `hi`.

    Attributes:
        generation: the plan's number.
        index: its place in the plan, from 0.
        span: its bounds.
        planned_rows: rows that the walk counted when it was planned.
    """

    generation: int
    index: int
    span: KeyRange
    planned_rows: int

    @property
    def key(self) -> str:
        """Its opaque name, which is its Dagster partition key too."""
        return window_key(self.generation, self.index)


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
    def frontier(self) -> KeyText | None:
        """The greatest key that the plan covers; None for a plan without windows."""
        for segment in reversed(self.segments):
            if segment.windows:
                return segment.windows[-1].hi
        return None

    @property
    def windows(self) -> tuple[Window, ...]:
        """All windows; each begins where the one before it ends, so there is no gap to lose rows in."""
        found: list[Window] = []
        lo: KeyText | None = None
        for segment in self.segments:
            for planned in segment.windows:
                found.append(Window(self.generation, len(found), KeyRange(lo, planned.hi), planned.rows))
                lo = planned.hi
        return tuple(found)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of what all windows of the plan share: key, columns, generation. Extending does not change it."""
        shared = self.head.model_copy(update={"windows": ()})
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


def load_plan(store: Store, generation: int = 1) -> Plan | None:
    """The plan in a destination; None if nothing was planned there.

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
        if not follows or segment.key != plan.head.key or segment.columns != plan.head.columns:
            raise _broken(store.url(segment_path(plan.generation, number)), "it does not go on from the one before")
        windows += len(segment.windows)
        lo = segment.windows[-1].hi if segment.windows else lo


def _broken(url: str, why: str) -> IntegrityError:
    return IntegrityError(
        "RIVET_PLAN_BROKEN",
        f"The plan segment {url} cannot be followed: {why}.",
        "Restore the object from a copy, or export the table to a new destination.",
        fatal=True,
    )


def extend_plan(source: Source, session: Session, config: ExportConfig, store: Store) -> tuple[Plan, int]:
    """Plan the rows beyond the frontier: all of them the first time.

    Returns:
        The plan, and how many windows were appended.

    Raises:
        SourceError: no such table, no usable key, columns whose types cannot be read.
        PlanError: RIVET_PLAN_MISMATCH where another key is asked for than was planned;
            RIVET_PLAN_TOO_MANY_WINDOWS.
        ConfigError: RIVET_CONFIG_WINDOWS.
        DriftError: RIVET_SCHEMA_DRIFT.
    """
    if isinstance(config.windows, FullWindows) and not source.reads_whole:
        raise ConfigError(
            "RIVET_CONFIG_WINDOWS",
            f"Tables of {source.engine} cannot be read as a whole.",
            "Use keyset windows.",
            fatal=True,
        )
    table = session.describe(*config.relation)
    columns = planned_columns(table, source.schema_of(table))
    while True:
        plan = load_plan(store)
        key = _key(table, plan, config)
        if plan is not None:
            check_drift(plan, columns)
        head = _head(plan, source, table, key, columns)
        segment = _with_windows(head, session, table, key, config)
        if plan is not None and not segment.windows:
            return plan, 0
        if store.create(segment_path(segment.generation, segment.number), segment.to_bytes()):
            segments = (*plan.segments, segment) if plan else (segment,)
            return Plan(segments), len(segment.windows)
        # Another planner appended this segment first: go on from its frontier.


def _key(table: Table, plan: Plan | None, config: ExportConfig) -> Key:
    """The key to plan by; NO_KEY for a table that is read as a whole."""
    windows = config.windows
    asked = () if isinstance(windows, FullWindows) else windows.columns
    if plan is None:
        return NO_KEY if asked == () else choose_key(table, asked)
    if asked is not None and asked != plan.head.key:
        raise PlanError(
            "RIVET_PLAN_MISMATCH",
            f"{plan.head.table} is planned {_by(plan.head.key)}, not {_by(asked)}.",
            "Ask for the planned key, or export to another destination.",
            fatal=True,
        )
    return planned_key(table, plan)


def planned_key(table: Table, plan: Plan) -> Key:
    """The key that a plan goes by, as the table has it now; errors as in `choose_key`."""
    return choose_key(table, plan.head.key) if plan.head.key else NO_KEY


def _by(key: tuple[str, ...]) -> str:
    return f"by ({', '.join(key)})" if key else "as a whole"


def check_drift(plan: Plan, columns: tuple[PlannedColumn, ...]) -> None:
    """Compare the table's columns with those that the plan froze.

    Raises:
        DriftError: RIVET_SCHEMA_DRIFT that names every difference.
    """
    frozen = {column.name: column for column in plan.head.columns}
    current = {column.name: column for column in columns}
    if columns == plan.head.columns:
        return
    changes = [f"{name} was dropped" for name in frozen if name not in current]
    changes += [f"{name} ({column.native_type}) was added" for name, column in current.items() if name not in frozen]
    changes += [
        f"{name} was {_words(frozen[name], column)} and is {_words(column, frozen[name])}"
        for name, column in current.items()
        if name in frozen and column != frozen[name]
    ]
    raise DriftError(
        "RIVET_SCHEMA_DRIFT",
        f"The columns of {plan.head.table} changed since it was planned: {'; '.join(changes) or 'their order'}.",
        "Export the table to a new destination; the sealed export stays readable.",
        fatal=True,
    )


def _words(column: PlannedColumn, other: PlannedColumn) -> str:
    """A column, with its type in the parts where that is all that differs."""
    declared = column.native_type + ("" if column.nullable else " NOT NULL")
    same = (column.native_type, column.nullable) == (other.native_type, other.nullable)
    return f"{declared} as {column.type}" if same else declared


def _head(plan: Plan | None, source: Source, table: Table, key: Key, columns: tuple[PlannedColumn, ...]) -> PlanSegment:
    """What the next segment says before windows are added to it."""
    return PlanSegment(
        table=table.label,
        engine=source.engine,
        generation=plan.generation if plan else 1,
        number=len(plan.segments) + 1 if plan else 1,
        key=key.columns,
        columns=columns,
        first_window=len(plan.windows) if plan else 0,
        lo=plan.frontier if plan else None,
        windows=(),
    )


def _with_windows(head: PlanSegment, session: Session, table: Table, key: Key, config: ExportConfig) -> PlanSegment:
    """The segment with a window for every stretch of rows beyond its lower bound."""
    if isinstance(config.windows, FullWindows):
        # No bound: the window is the table, whatever comes to it later.
        whole = PlannedWindow(hi=(), rows=table.estimated_rows or 0)
        return head.model_copy(update={"windows": () if head.first_window else (whole,)})
    rows = config.windows.rows or window_rows(table)
    windows: list[PlannedWindow] = []
    for hi, count in walk_windows(session, table, key, head.lo, rows):
        windows.append(PlannedWindow(hi=hi, rows=count))
        if head.first_window + len(windows) > config.windows.max_windows:
            raise PlanError(
                "RIVET_PLAN_TOO_MANY_WINDOWS",
                f"{table.label} would have more than {config.windows.max_windows} windows of {rows} rows.",
                "Ask for more rows a window, or raise max_windows.",
                fatal=True,
            )
    return head.model_copy(update={"windows": tuple(windows)})


def window_rows(table: Table) -> int:
    """Rows a window for a table: about 128 MiB of rows, and for huge tables no more than about 2,000 windows."""
    by_bytes = WINDOW_BYTES // max(table.average_row_bytes or ASSUMED_ROW_BYTES, 1)
    by_count = (table.estimated_rows or 0) // USUAL_WINDOWS
    return min(max(by_bytes, by_count, SMALLEST_WINDOW_ROWS), max(LARGEST_WINDOW_ROWS, by_count))


def walk_windows(
    session: Session, table: Table, key: Key, after: KeyText | None, rows: int
) -> Iterator[tuple[KeyText, int]]:
    """Walk the key's index once from `after` on; gives each window's upper bound and the rows counted.

    Every step is a short statement of its own, relative to the key before it, so its cost does not grow with the
    table. Rows that come and go meanwhile change the counts, never the tiling.
    """
    step_rows = _FIRST_STEP_ROWS
    position, counted = after, 0
    while True:
        asked = min(step_rows, rows - counted)
        began = time.monotonic()
        step = session.walk(table, key, position, asked)
        seconds = time.monotonic() - began
        if step is None:
            break
        position, counted = step.key, counted + step.rows
        if step.rows < asked:
            break
        if counted >= rows:
            yield position, counted
            counted = 0
        if asked == step_rows:
            step_rows = _next_step(step_rows, seconds)
    if counted and position is not None:
        yield position, counted


def _next_step(rows: int, seconds: float) -> int:
    if seconds > _STEP_SECONDS:
        return max(rows // 2, 100)
    return min(rows * 2, _LARGEST_STEP_ROWS) if seconds < _STEP_SECONDS / 4 else rows
