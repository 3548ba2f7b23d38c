"""Planning: appending windows to a plan, beginning one, or showing what would be appended."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from rivet_dagster.errors import PlanError
from rivet_dagster.export.config import ExportConfig, TimeWindows
from rivet_dagster.export.documents import PlannedColumn, PlannedWindow, PlanSegment
from rivet_dagster.export.faults import fault_point
from rivet_dagster.export.names import segment_path
from rivet_dagster.export.plan import Plan, check_drift, latest_generation, load_plan
from rivet_dagster.export.planners import Ground, Planner, planner_of
from rivet_dagster.export.schema import planned_columns
from rivet_dagster.export.seal import seal_in_force
from rivet_dagster.sources.base import Key, Session, Source, Table
from rivet_dagster.sources.ordering import order_by, planned_order
from rivet_dagster.stores.base import Store


@dataclass(frozen=True)
class Wish:
    """What is asked of one planning beside its configuration.

    Attributes:
        replan: begin a new generation, unless the work called so has begun the newest one; None extends.
        minimum_rows: leave out a last window that has fewer rows: they wait for more.
        seconds: go on for about so long at most, and leave the rest to the next planning; None for no limit.
    """

    replan: str | None = None
    minimum_rows: int = 1
    seconds: float | None = None


EXTEND = Wish()

_BY_ONE_COLUMN = ("int_range", "time")


def describe(session: Session, config: ExportConfig) -> Table:
    """The table or query of an export, as the server describes it."""
    if config.query is not None:
        return session.describe_query(*config.relation, config.query)
    return session.describe(*config.relation)


def current_plan(store: Store) -> Plan | None:
    """The newest plan in a destination; None if nothing was planned there.

    Raises:
        IntegrityError: RIVET_PLAN_BROKEN; RIVET_SEAL_BROKEN.
    """
    generation = _newest(store)
    return None if generation is None else load_plan(store, generation)


def _newest(store: Store) -> int | None:
    first = latest_generation(store)
    if first is not None:
        return first
    # The first generations may be gone.
    seal = seal_in_force(store)
    return latest_generation(store, seal.generation) if seal else None


def extend_plan(
    source: Source, session: Session, config: ExportConfig, store: Store, wish: Wish = EXTEND
) -> tuple[Plan, int]:
    """Plan the rows beyond the frontier: all of them the first time, or in a new generation.

    Several may plan at the same time: a segment is written by one of them only, and the others go on behind it.

    Returns:
        The plan, and how many windows were appended.

    Raises:
        SourceError: no such table, no usable key, columns whose types cannot be read.
        PlanError: RIVET_PLAN_MISMATCH where something else is asked for than was planned; RIVET_PLAN_TOO_MANY_WINDOWS,
            RIVET_KEY_SPARSE.
        ConfigError: RIVET_CONFIG_WINDOWS, RIVET_CONFIG_COLUMN.
        DriftError: RIVET_SCHEMA_DRIFT.
    """

    def create(path: str, data: bytes) -> bool:
        fault_point("before_plan_segment")
        return store.create(path, data)

    return _planned(source, session, config, store, wish, create)


def preview_plan(
    source: Source, session: Session, config: ExportConfig, store: Store, wish: Wish = EXTEND
) -> tuple[Plan, int]:
    """What `extend_plan` would give, without writing anything; errors as there."""
    return _planned(source, session, config, store, wish, lambda _path, _data: True)


def _planned(
    source: Source,
    session: Session,
    config: ExportConfig,
    store: Store,
    wish: Wish,
    create: Callable[[str, bytes], bool],
) -> tuple[Plan, int]:
    table = describe(session, config)
    columns = planned_columns(table, source.schema_of(table))
    planner = planner_of(config)
    while True:
        plan = current_plan(store)
        begins = plan is None or (wish.replan is not None and plan.head.work_id != wish.replan)
        generation = (plan.generation if plan else 0) + begins
        segment = (
            _first(source, session, table, columns, planner, config, wish, generation)
            if begins
            else _next(session, table, columns, planner, config, wish, plan)  # type: ignore[arg-type]
        )
        if not begins and not segment.windows:
            assert plan is not None
            return plan, 0
        if create(segment_path(generation, segment.number), segment.to_bytes()):
            before = () if begins or plan is None else plan.segments
            return Plan((*before, segment)), len(segment.windows)
        # Another planner appended this segment first: go on from its frontier.
        wish = replace(wish, replan=None)


def _first(
    source: Source,
    session: Session,
    table: Table,
    columns: tuple[PlannedColumn, ...],
    planner: Planner,
    config: ExportConfig,
    wish: Wish,
    generation: int,
) -> PlanSegment:
    ground = Ground(session, table, columns, planner.order(table))
    planner.check(ground)
    ground = replace(ground, size=planner.size(ground))
    head = PlanSegment(
        table=table.label,
        engine=source.engine,
        generation=generation,
        number=1,
        mode=config.windows.type,
        key=ground.key.columns,
        columns=columns,
        first_window=0,
        lo=None,
        windows=(),
        size=ground.size,
        work_id=wish.replan or "",
    )
    return _with_windows(head, planner, ground, config, wish)


def _next(
    session: Session,
    table: Table,
    columns: tuple[PlannedColumn, ...],
    planner: Planner,
    config: ExportConfig,
    wish: Wish,
    plan: Plan,
) -> PlanSegment:
    key = resumed_key(plan, table, planner, config)
    check_drift(plan, columns)
    windows = len(plan.windows)
    head = plan.head.model_copy(
        update={
            "number": len(plan.segments) + 1,
            "first_window": windows,
            "lo": plan.frontier,
            "windows": (),
            "work_id": "",
        }
    )
    ground = Ground(session, table, columns, key, plan.frontier, windows > 0, plan.head.size)
    return _with_windows(head, planner, ground, config, wish)


def resumed_key(plan: Plan, table: Table, planner: Planner, config: ExportConfig) -> Key:
    """The planned order, if it is the one that is asked for; whatever is best now, where nothing is asked for.

    Raises:
        PlanError: RIVET_PLAN_MISMATCH.
        SourceError: as in `planned_key`.
    """
    windows = config.windows
    asks = windows.type != "keyset" or windows.columns is not None
    asked = planner.order(table).columns if asks else plan.head.key
    if windows.type != plan.mode or _bounding(plan.mode, asked) != _bounding(plan.mode, plan.head.key):
        raise PlanError(
            "RIVET_PLAN_MISMATCH",
            f"{plan.head.table} is planned {_by(plan.mode, plan.head.key)}, not {_by(windows.type, asked)}.",
            "Ask for what was planned, or plan the table anew (replan), which begins a generation beside this one.",
            fatal=True,
        )
    return planned_key(table, plan)


def planned_key(table: Table, plan: Plan) -> Key:
    """The order that a plan goes by, as the table has it now; errors as in `planned_order` and `order_by`."""
    if plan.mode in _BY_ONE_COLUMN:
        return order_by(table, plan.head.key[:1])
    return planned_order(table, plan.head.key)


def _bounding(mode: str, key: tuple[str, ...]) -> tuple[str, ...]:
    """The columns that windows are bounded by: what is behind them may change from run to run."""
    return key[:1] if mode in _BY_ONE_COLUMN else key


def _by(mode: str, key: tuple[str, ...]) -> str:
    return f"in {mode} windows by ({', '.join(key)})" if key else "as a whole"


def _with_windows(head: PlanSegment, planner: Planner, ground: Ground, config: ExportConfig, wish: Wish) -> PlanSegment:
    """The segment with every window beyond its lower bound."""
    limit = 0 if isinstance(config.windows, TimeWindows) else getattr(config.windows, "max_windows", 1)
    windows: list[PlannedWindow] = []
    began = time.monotonic()
    for window in planner.windows(ground):
        windows.append(window)
        if head.first_window + len(windows) > limit:
            raise PlanError(
                "RIVET_PLAN_TOO_MANY_WINDOWS",
                f"{head.table} would have more than {limit:,} windows.",
                "Ask for more rows a window (or a larger size), or raise max_windows.",
                fatal=True,
            )
        if wish.seconds is not None and time.monotonic() - began > wish.seconds:
            break
    # A window without bounds, of NULLs or of a whole table, has what comes later, too.
    if windows and windows[-1].hi and windows[-1].rows < wish.minimum_rows:
        windows.pop()
    return head.model_copy(update={"windows": tuple(windows)})
