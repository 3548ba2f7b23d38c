"""Looking before an export: how a source and this machine are, and what an export of a table would ask of both.

Nothing is scanned: what is sent are questions to the catalog, the two ends of an index, and looks at the server's load.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from rivet_dagster.errors import PlanError, RivetError, SourceError
from rivet_dagster.export.config import (
    ExportConfig,
    IntRangeWindows,
    KeysetWindows,
    ParquetFormat,
    ReadLimits,
    TimeWindows,
)
from rivet_dagster.export.documents import PlannedColumn
from rivet_dagster.export.gates import utc_now
from rivet_dagster.export.governing import GovernorConfig
from rivet_dagster.export.load import LoadReport, look_at
from rivet_dagster.export.machine import MachineReport, examine_machine
from rivet_dagster.export.memory import usual_limit
from rivet_dagster.export.operations import TableExport
from rivet_dagster.export.plan import Plan, check_drift
from rivet_dagster.export.planners import Ground, planner_of
from rivet_dagster.export.planning import current_plan, describe, resumed_key
from rivet_dagster.export.predictions import (
    UNKNOWN,
    Ends,
    Figure,
    Measured,
    Pages,
    measured_windows,
    memory_needed,
    row_width,
    slice_count,
    statement_time,
)
from rivet_dagster.export.retry import with_session
from rivet_dagster.export.schema import planned_columns
from rivet_dagster.export.verdicts import Facts, Judged, Reason, failed, judge
from rivet_dagster.export.walking import WINDOW_BYTES, window_rows
from rivet_dagster.sources.addresses import is_local
from rivet_dagster.sources.base import NO_KEY, Key, ServerFacts, Session, Source, Table
from rivet_dagster.sources.vitals import Identity

_USUAL_PAGES: Final = Pages(ReadLimits().page_bytes, ReadLimits().page_seconds, None)

# ------------------------------------------------------------------------------------------------------- a source


@dataclass(frozen=True)
class SourceReport(Judged):
    """How a source, a destination and this machine are, before anything is exported.

    Attributes:
        source: where it is, without secrets.
        server: what it is; None where it cannot be reached.
        identity: as whom it is read; None as above.
        workers: how many were asked for.
        load: how busy it is; None as above.
        machine: this machine and the destination.
        reasons: what is not as it should be, the worst first.
    """

    source: str
    server: ServerFacts | None
    identity: Identity | None
    workers: int
    load: LoadReport | None
    machine: MachineReport
    reasons: tuple[Reason, ...]

    def to_json(self) -> dict[str, Any]:
        """As the command line prints it with `--json`."""
        machine = asdict(self.machine)
        del machine["errors"]
        return {
            "source": self.source,
            "server": asdict(self.server) if self.server else None,
            "identity": asdict(self.identity) if self.identity else None,
            "workers": self.workers,
            "load": _load_json(self.load),
            "machine": machine,
            "verdict": self.verdict.name,
            "reasons": [reason.to_json() for reason in self.reasons],
        }


def examine_source(
    source: Source,
    governor: GovernorConfig | None = None,
    *,
    workers: int = 2,
    destination: str | None = None,
    parts_format: str = "parquet",
) -> SourceReport:
    """Look at a source, a destination and this machine. What cannot be looked at is a reason, not an error.

    Args:
        source: where to look, over three connections, one after the other.
        governor: how the source would be taken care of; None for the usual way.
        workers: how many are to read.
        destination: an object is put there and deleted; None does not look at it.
        parts_format: of the parts.
    """
    config = governor or GovernorConfig()
    server = identity = load = None
    errors: list[RivetError] = []
    try:
        with closing(source.connect()) as session:
            server = session.facts()
        identity = source.identity()
        load = look_at(source, config, workers)
    except RivetError as exc:
        errors.append(exc)
    machine = examine_machine(source.engine, parts_format, destination, config.memory_bytes)
    facts = Facts(
        workers=workers,
        **_load_facts(load, config),
        memory_bytes=_whole(memory_needed(ParquetFormat().row_group_bytes, _USUAL_PAGES, 0.0, workers, None)),
        memory_limit=machine.memory_limit,
        spool_free=machine.spool_free,
        spool_needed=workers * WINDOW_BYTES,
        cold_kernels=machine.cold_kernels,
        is_exposed=identity is not None and not identity.encrypted and not is_local(_host(source.label)),
        excessive_rights=identity.excessive if identity else (),
    )
    reasons = (*(failed(error) for error in (*errors, *machine.errors)), *judge(facts))
    return SourceReport(source.label, server, identity, workers, load, machine, reasons)


def _host(label: str) -> str:
    return urlsplit(label).hostname or ""


def _load_facts(load: LoadReport | None, config: GovernorConfig) -> dict[str, Any]:
    """What rules go by of a look."""
    if load is None:
        return {}
    return {
        "pressure": load.pressure,
        "pressed_by": load.pressed_by,
        "unseen_load": str(load.error) if load.error else "",
        "unseen": load.unseen,
        "gates": load.gates,
        "critical": load.critical,
        "room": load.room,
        "min_connections": config.min_connections,
    }


def _load_json(load: LoadReport | None) -> dict[str, Any] | None:
    if load is None:
        return None
    values = {name: value for name, value in vars(load).items() if name not in ("signals", "error")}
    signals = {each.name: {k: v for k, v in asdict(each).items() if k != "name"} for each in load.signals}
    return {**values, "signals": signals, "error": load.error.to_json() if load.error else None}


# ------------------------------------------------------------------------------------------------------- an export


@dataclass(frozen=True)
class ExportReport(Judged):
    """What an export of a table would ask of its source and of this machine. Sizes are bytes, times seconds.

    Attributes:
        table: as it is called.
        source: where it is, without secrets.
        server: what its server is.
        kind: `table`, `view` or `query`.
        mode: type of the windows.
        key: the order in which rows are read; without columns they are read as a whole.
        rejected_indexes: unique indexes that are no keys, each with the reason.
        columns: with the types that they would have in the parts.
        policies: what becomes of values that a column's type cannot hold, by column.
        rows, row_bytes: of the table.
        windows, window_rows, page_rows: how the table is cut.
        statement_s: the longest statement.
        memory_bytes: the most that the process takes.
        memory_limit: what it may take.
        measured: what windows took that are committed; None without any.
        workers: how many would read at most: as many as were asked for, but no more than there are windows.
        load: how busy the source is.
        reasons: why the verdict is no better, the worst first.
    """

    table: str
    source: str
    server: ServerFacts
    kind: str
    mode: str
    key: Key
    rejected_indexes: tuple[tuple[str, str], ...]
    columns: tuple[PlannedColumn, ...]
    policies: dict[str, str]
    rows: Figure
    row_bytes: Figure
    windows: Figure
    window_rows: Figure
    page_rows: int
    statement_s: Figure
    memory_bytes: Figure
    memory_limit: int
    measured: Measured | None
    workers: int
    load: LoadReport
    reasons: tuple[Reason, ...]

    def to_json(self) -> dict[str, Any]:
        """As the command line prints it with `--json`."""
        figures = ("rows", "row_bytes", "windows", "window_rows", "statement_s", "memory_bytes")
        return {
            "table": self.table,
            "source": self.source,
            "server": asdict(self.server),
            "verdict": self.verdict.name,
            "reasons": [reason.to_json() for reason in self.reasons],
            "kind": self.kind,
            "mode": self.mode,
            "key": asdict(self.key) if self.key.columns else None,
            "rejected_indexes": [{"index": name, "reason": reason} for name, reason in self.rejected_indexes],
            "columns": [
                {**column.model_dump(), "unrepresentable": self.policies[column.name]} for column in self.columns
            ],
            **{name: asdict(getattr(self, name)) for name in figures},
            "page_rows": self.page_rows,
            "memory_limit": self.memory_limit,
            "measured": asdict(self.measured) if self.measured else None,
            "workers": self.workers,
            "load": _load_json(self.load),
        }


@dataclass(frozen=True)
class _Found:
    """What the catalog, the plan in the destination and an index's ends say."""

    server: ServerFacts
    table: Table
    columns: tuple[PlannedColumn, ...]
    plan: Plan | None
    key: Key
    size: int | None
    ends: Ends
    refusal: RivetError | None


def check_export(export: TableExport, workers: int = 2) -> ExportReport:
    """Look what an export would ask for, without a scan and without reading a row; nothing is written.

    Width and times are those of windows that are committed, as far as there are any, else the catalog's.

    Raises:
        SourceError: the source cannot be reached; no such table.
        ConfigError: a column, a type or windows that cannot be had.
        IntegrityError: what is in the destination cannot be read.
    """
    config = export.config
    found = with_session(export.source, config.limits, lambda session: _look(export, session))
    measured = measured_windows(export.store, found.plan.generation if found.plan else None)
    rows, width = _rows(found), row_width(found.table, measured)
    windows, window_rows_ = _windows(config, found, rows)
    # A run has no more workers than windows.
    readers = max(1, min(workers, _whole(windows) or workers))
    load = look_at(export.source, export.governor, readers, found.table, found.key)
    in_pieces = not found.key.unique
    by_blocks = not found.key.columns and found.table.kind == "table" and export.source.engine == "postgresql"
    pages = Pages(
        config.limits.page_bytes,
        None if in_pieces and not by_blocks else config.limits.page_seconds,
        None if window_rows_.value is None or width.value is None else window_rows_.value * width.value,
    )
    statement = statement_time(pages, measured, is_ordered=not found.key.declared)
    memory = memory_needed(config.format.row_group_bytes, pages, width.value or 0.0, readers, measured)
    memory_limit = export.governor.memory_bytes or usual_limit()
    facts = Facts(
        workers=readers,
        kind=found.table.kind,
        is_analysed=found.table.estimated_rows is not None or rows.value == 0,
        has_key=bool(found.key.columns),
        by_blocks=by_blocks,
        in_pieces=in_pieces,
        is_declared=found.key.declared,
        has_snapshots=found.table.snapshots,
        is_estimated=isinstance(config.windows, KeysetWindows) and config.windows.boundaries == "estimated",
        statement_s=statement.value,
        statement_limit_s=config.limits.snapshot_s if pages.page_seconds is None else config.limits.statement_timeout_s,
        windows=_whole(windows),
        max_windows=getattr(config.windows, "max_windows", None),
        memory_bytes=_whole(memory),
        memory_limit=memory_limit,
        wide_columns=() if width.basis == "measured" else _wide(found.table),
        **_load_facts(load, export.governor),
    )
    refused = (failed(found.refusal),) if found.refusal else ()
    choices = config.type_choices
    return ExportReport(
        table=found.table.label,
        source=export.source.label,
        server=found.server,
        kind=found.table.kind,
        mode=config.windows.type,
        key=found.key,
        rejected_indexes=found.table.rejected_keys,
        columns=found.columns,
        policies={column.name: choices.of(column.name).unrepresentable for column in found.columns},
        rows=rows,
        row_bytes=width,
        windows=windows,
        window_rows=window_rows_,
        page_rows=_page_rows(pages, width, window_rows_),
        statement_s=statement,
        memory_bytes=memory,
        memory_limit=memory_limit,
        measured=measured,
        workers=readers,
        load=load,
        reasons=(*refused, *judge(facts)),
    )


def _wide(table: Table) -> tuple[str, ...]:
    return tuple(column.name for column in table.columns if column.unbounded)


def _whole(figure: Figure) -> int | None:
    return None if figure.value is None else round(figure.value)


def _page_rows(pages: Pages, width: Figure, window_rows_: Figure) -> int:
    rows = max(1, int(pages.page_bytes // (width.value or 1)))
    return rows if not window_rows_.value else min(rows, round(window_rows_.value))


def _look(export: TableExport, session: Session) -> _Found:
    """Ask the catalog, the plan and the key's index."""
    config, source = export.config, export.source
    server = session.facts()
    table = describe(session, config)
    columns = planned_columns(table, source.schema_of(table))
    planner, plan = planner_of(config), current_plan(export.store)
    refusal: RivetError | None = None
    size = None
    try:
        if plan is not None:
            check_drift(plan, columns)
        key = planner.order(table) if plan is None else resumed_key(plan, table, planner, config)
        # The ends of what has no index would be looked for in all of it.
        looks = table.kind == "table" and bool(key.index)
        ground = Ground(session, table, columns, key, size=plan.head.size if plan else None)
        planner.check(ground)
        size = planner.size(ground) if looks or ground.size else None
    except (SourceError, PlanError) as exc:
        if exc.retryable:
            raise
        refusal, key = exc, _best(table)
    return _Found(server, table, columns, plan, key, size, _ends(session, table, columns, key), refusal)


def _best(table: Table) -> Key:
    """What is read by where what was asked for cannot be had: predictions are better than none."""
    return table.keys[0] if table.keys else NO_KEY


_INTEGERS: Final = ("int", "uint")


def _ends(session: Session, table: Table, columns: tuple[PlannedColumn, ...], key: Key) -> Ends:
    """The ends of the key's index: two look-ups. Of what has no index nothing is asked."""
    if table.kind != "table" or not key.index:
        return Ends()
    leading = Key(key.columns[:1], key.index, nullable=key.nullable)
    last = session.last(table, leading)
    if last is None:
        return Ends(is_empty=not key.nullable)
    column = next(each for each in columns if each.name == key.columns[0])
    if not column.type.startswith(_INTEGERS):
        return Ends()
    first = session.walk(table, leading, None, 1)
    return Ends(int(first.key[0]), int(last[0])) if first is not None else Ends()


def _rows(found: _Found) -> Figure:
    if found.ends.is_empty:
        return Figure(0, "ends")
    if found.table.estimated_rows is not None:
        return Figure(found.table.estimated_rows, "catalog")
    planned = sum(window.planned_rows for window in found.plan.windows) if found.plan else 0
    if planned:
        return Figure(planned, "plan")
    # No more rows than integers where no two rows have the same.
    is_unique = found.key.unique and len(found.key.columns) == 1
    return Figure(found.ends.span, "ends") if is_unique and found.ends.span is not None else UNKNOWN


def _windows(config: ExportConfig, found: _Found, rows: Figure) -> tuple[Figure, Figure]:
    """How many windows there are, and how many rows the larger ones have."""
    options = config.windows
    if found.plan is not None and found.plan.windows and not found.refusal:
        planned = found.plan.windows
        largest = max(window.planned_rows for window in planned)
        return Figure(len(planned), "plan"), Figure(largest, "plan") if largest else rows
    if not found.key.columns:
        return Figure(1, "exact"), rows
    if isinstance(options, TimeWindows):
        slices = slice_count(options, utc_now())
        return Figure(slices, "calendar"), _divided(rows, slices)
    if isinstance(options, IntRangeWindows):
        span = found.ends.span
        ranges = None if span is None or found.size is None else _ranges(found.ends, found.size)
        return Figure(ranges, "ends") if ranges is not None else UNKNOWN, _divided(rows, ranges)
    each = getattr(options, "rows", None) or window_rows(found.table)
    count = UNKNOWN if rows.value is None else Figure(-(-round(rows.value) // each), rows.basis)
    return count, Figure(each, "model") if rows.value is None else Figure(min(each, rows.value), rows.basis)


def _ranges(ends: Ends, size: int) -> int:
    """Aligned ranges from the first integer to the last."""
    return 0 if ends.first is None or ends.last is None else ends.last // size - ends.first // size + 1


def _divided(rows: Figure, windows: int | None) -> Figure:
    return UNKNOWN if rows.value is None or not windows else Figure(-(-round(rows.value) // windows), rows.basis)
