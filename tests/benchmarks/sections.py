"""What was measured, as sections: a title, a table, remarks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from tests.benchmarks.contenders.ours import CONTENDERS as OURS
from tests.benchmarks.contenders.ours import DEFAULT
from tests.benchmarks.insight import FIRST, SECOND, WARM, WARMED, Decoding, FirstUse, Hashing, StartUp
from tests.benchmarks.limits import above_idle, longest_statement
from tests.benchmarks.measure import MB, Measurement
from tests.benchmarks.overhead import ALONE, DAGSTER, DECLARED, EMPTY, WAYS, LoadCost, WindowCost
from tests.benchmarks.planning import HUGE, WINDOW_ROWS, PlanningCost, WayCost
from tests.benchmarks.suite import Flatness, Result, TableResults

NONE = "-"


@dataclass(frozen=True)
class Section:
    """One table of the report.

    Attributes:
        title: its heading.
        headings: of the columns.
        rows: texts by column. A row of two texts says what went wrong instead.
        remarks: sentences below it.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    remarks: Sequence[str] = ()


@dataclass(frozen=True)
class _Column:
    """A figure of the tables: its heading, where it comes from, and how it is printed."""

    heading: str
    value: Callable[[Measurement], float | None]
    style: str

    def of(self, result: Result) -> str:
        """The median of a result's runs."""
        return figure(result.median(self.value), self.style)


def figure(value: float | None, style: str) -> str:
    """A number as text; a dash if there is none."""
    return NONE if value is None else format(value, style)


def _failed(title: str, result: Result) -> tuple[str, str] | None:
    """The row of a contender that has no figures."""
    if result.problem is None and result.runs:
        return None
    return title, result.problem or "not measured"


# --------------------------------------------------------------------------------------------------------- rivals

_CPU = _Column("CPU s", lambda run: run.cpu_s, ",.2f")
_COLUMNS = (
    _Column("start-up CPU s", lambda run: run.startup_cpu_s, ",.2f"),
    _Column("CPU s after start-up", lambda run: run.cpu_s - run.startup_cpu_s, ",.2f"),
    _Column("wall s", lambda run: run.wall_s, ",.2f"),
    _Column("peak MB", lambda run: run.peak_mb, ",.0f"),
    _Column("above idle MB", above_idle, ",.0f"),
    _Column("files MB", lambda run: run.file_mb, ",.1f"),
    _Column("longest statement s", lambda run: run.statement_s, ",.2f"),
)


def of_table(table: TableResults) -> Section:
    """All contenders on one table."""
    return Section(
        title=f"{table.table.name}: {table.rows:,} rows, {table.table.columns}",
        headings=("", _CPU.heading, "CPU / ours", *(column.heading for column in _COLUMNS), "types kept"),
        rows=tuple(_contenders(table)),
        remarks=(*_scaled(table), *_lost(table), *_pages(table)),
    )


def _contenders(table: TableResults) -> Iterator[tuple[str, ...]]:
    ours = table.of(DEFAULT)
    reference = ours.median(_CPU.value) if ours else None
    for result in table.results:
        title = result.contender.title
        failed = _failed(title, result)
        if failed is not None:
            yield failed
            continue
        cpu, lost = result.median(_CPU.value), result.runs[-1].types_lost
        yield (
            title,
            _CPU.of(result),
            figure(cpu / reference if cpu is not None and reference else None, ".2f"),
            *(column.of(result) for column in _COLUMNS),
            NONE if lost is None else f"{table.columns - len(lost)} of {table.columns}",
        )


def _scaled(table: TableResults) -> Iterator[str]:
    """A sentence on those that were measured on fewer rows."""
    for result in table.results:
        if result.scaled_from is not None and result.runs:
            yield (
                f"{result.contender.title} was measured on {result.scaled_from:,} rows. Its seconds after the start-up"
                " and its files are scaled to the table's, its memory is not."
            )


def _lost(table: TableResults) -> Iterator[str]:
    """A sentence a contender on the types that its files do not have."""
    for result in table.results:
        lost = result.runs[-1].types_lost if result.runs else None
        if lost:
            yield f"{result.contender.title} does not keep {'; '.join(_by_type(lost))}."


def _by_type(lost: Mapping[str, str]) -> Iterator[str]:
    for how in dict.fromkeys(lost.values()):
        columns = [column for column, each in lost.items() if each == how]
        declared, _, found = how.partition(" as ")
        yield f"{declared} ({', '.join(columns)}), which becomes {found}"


def _pages(table: TableResults) -> Iterator[str]:
    """What our window manifests say of how the source was read, in the last run."""
    for contender in OURS:
        result = table.of(contender)
        if result is not None and result.runs:
            facts = result.runs[-1].facts
            yield (
                f"{contender.title}, by its window manifests: windows {facts['windows']}, pages {facts['pages']},"
                f" largest page {facts['largest_page_bytes'] / MB:,.1f} MB,"
                f" longest statement {facts['longest_statement_s']:.2f} s,"
                f" longest transaction {facts['longest_transaction_s']:.2f} s."
            )


# ----------------------------------------------------------------------------------------------- the default alone

_SIZE_HEADINGS = ("rows", "windows", "peak MB", "above idle MB, median", "above idle MB, worst")


def of_flatness(flatness: Flatness) -> Section:
    """Memory against size."""
    remarks = []
    if flatness.growth is not None:
        remarks.append(f"The larger table's peak above idle is {flatness.growth:.2f} of the smaller one's.")
    return Section(
        title=f"Memory against size: {flatness.table.name}, {DEFAULT.title}",
        headings=_SIZE_HEADINGS,
        rows=tuple(_size(rows, result) for rows, result in flatness.sizes),
        remarks=remarks,
    )


def _size(rows: int, result: Result) -> tuple[str, ...]:
    return _failed(f"{rows:,}", result) or (
        f"{rows:,}",
        figure(result.runs[-1].facts["windows"], ",d"),
        figure(result.median(lambda run: run.peak_mb), ",.0f"),
        figure(result.median(above_idle), ",.0f"),
        figure(result.worst(above_idle), ",.0f"),
    )


_WIDE_COLUMNS = (
    _Column("wire MB", lambda run: run.facts["wire_bytes"] / MB, ",.0f"),
    _Column("wall s", lambda run: run.wall_s, ",.2f"),
    _CPU,
    _Column("files MB", lambda run: run.file_mb, ",.1f"),
)


def of_wide(tables: Iterable[TableResults]) -> Section:
    """Tables of long rows."""
    tables = tuple(tables)
    return Section(
        title=f"Wide tables: {DEFAULT.title}",
        headings=(
            "",
            "rows",
            *(column.heading for column in _WIDE_COLUMNS),
            "above idle MB, worst",
            "largest page bytes, worst",
            "longest statement s, worst",
        ),
        rows=tuple(_wide(table, result) for table in tables for result in table.results),
        remarks=tuple(f"{table.table.name}: {table.table.columns}." for table in tables),
    )


def _wide(table: TableResults, result: Result) -> tuple[str, ...]:
    return _failed(table.table.name, result) or (
        table.table.name,
        f"{table.rows:,}",
        *(column.of(result) for column in _WIDE_COLUMNS),
        figure(result.worst(above_idle), ",.0f"),
        figure(result.worst(lambda run: run.facts["largest_page_bytes"]), ",d"),
        figure(result.worst(longest_statement), ",.2f"),
    )


def of_decoding(tables: Iterable[Decoding]) -> Section:
    """What decoding adds to reading."""
    return Section(
        title="Reading with and without decoding: one worker, nothing written",
        headings=(
            "",
            "rows",
            "pages",
            "wire MB",
            "passes of each",
            "reading, wall s",
            "reading and decoding, wall s",
            "decoding / reading",
        ),
        rows=tuple(
            (
                each.table.name,
                f"{each.rows:,}",
                f"{each.pages:,}",
                f"{each.wire_bytes / MB:,.0f}",
                f"{len(each.drain_s)}",
                f"{median(each.drain_s):.2f}",
                f"{median(each.decode_s):.2f}",
                f"{each.ratio:.2f}",
            )
            for each in tables
        ),
    )


_UUID_COLUMNS = (
    _Column("wire MB", lambda run: run.facts["wire_bytes"] / MB, ",.0f"),
    _Column("windows", lambda run: run.facts["windows"], ",.0f"),
    _Column("pages", lambda run: run.facts["pages"], ",.0f"),
    _Column("wall s", lambda run: run.wall_s, ",.2f"),
    _CPU,
    _Column("files MB", lambda run: run.file_mb, ",.1f"),
)


def of_uuid_keys(table: TableResults) -> Section:
    """A table under random binary keys."""
    return Section(
        title=f"UUID keys: {DEFAULT.title}",
        headings=(
            "rows",
            *(column.heading for column in _UUID_COLUMNS),
            "above idle MB, worst",
            "longest statement s, worst",
        ),
        rows=tuple(_uuid_keys(table, result) for result in table.results),
        remarks=(f"{table.table.name}: {table.table.columns}.",),
    )


def _uuid_keys(table: TableResults, result: Result) -> tuple[str, ...]:
    return _failed(f"{table.rows:,}", result) or (
        f"{table.rows:,}",
        *(column.of(result) for column in _UUID_COLUMNS),
        figure(result.worst(above_idle), ",.0f"),
        figure(result.worst(longest_statement), ",.2f"),
    )


def of_first_use(first_use: FirstUse) -> Section:
    """Exports around an empty cache of kernels."""
    return Section(
        title=f"First use: `rivet-dagster export` of {first_use.rows:,} rows",
        headings=("", "wall s", "CPU s"),
        rows=tuple(
            (step, figure(first_use.wall_s(step), ",.2f"), figure(first_use.cpu_s(step), ",.2f"))
            for step in (FIRST, SECOND, WARM, WARMED)
        ),
    )


def of_hashing(tables: Iterable[Hashing]) -> Section:
    """The row fingerprint's share of the CPU."""
    return Section(
        title=f"Row fingerprint: {DEFAULT.title}",
        headings=("", "rows", "share of CPU", "share of CPU after start-up"),
        rows=tuple(
            (each.table.name, f"{each.rows:,}", f"{each.share:.1%}", f"{each.share_of_work:.1%}") for each in tables
        ),
    )


def of_start_up(start_up: StartUp) -> Section:
    """The start-up by steps."""
    steps = start_up.steps()
    return Section(
        title=f"Start-up: {DEFAULT.title}",
        headings=("", "CPU s"),
        rows=(*((step, f"{seconds:.3f}") for step, seconds in steps.items()), ("all", f"{sum(steps.values()):.3f}")),
    )


def of_planning(cost: PlanningCost) -> Section:
    """What planning takes, and what it asks of the server."""
    return Section(
        title=f"Planning {cost.rows:,} rows, {WINDOW_ROWS:,} a window",
        headings=(
            "",
            "windows",
            "rows by the plan",
            "rows by the table",
            "wall s",
            "CPU s",
            "longest statement s, worst",
            "entries",
            "passes",
            "blocks",
        ),
        rows=tuple(_planning(each, cost.rows) for each in cost.ways),
        remarks=("Rows are those of the smallest and of the largest window.", *_restored(cost)),
    )


def _planning(each: WayCost, usual_rows: int) -> tuple[str, ...]:
    last = each.runs[-1]
    return (
        each.way.title + (f", {each.way.rows:,} rows" if each.way.rows != usual_rows else ""),
        f"{last.windows:,}",
        _extent(last.planned),
        _extent(last.real),
        f"{each.median(lambda run: run.wall_s):,.2f}",
        f"{each.median(lambda run: run.cpu_s):,.2f}",
        f"{each.worst(lambda run: run.statement_s):,.2f}",
        f"{each.median(lambda run: run.entries):,.0f}",
        f"{each.median(each.passes):,.2f}",
        f"{each.median(lambda run: run.blocks):,.0f}",
    )


def _extent(rows: tuple[int, int] | None) -> str:
    return NONE if rows is None else "-".join(f"{each:,}" for each in dict.fromkeys(rows))


def _restored(cost: PlanningCost) -> Iterator[str]:
    for each in cost.ways:
        if each.way.table is HUGE:
            size = each.way.windows["rows"]
            yield f"Restored statistics: keyset, estimated, by those of {each.way.rows:,} rows, {size:,} a window."


# -------------------------------------------------------------------------------------------------------- Dagster


def of_windows(cost: WindowCost) -> Section:
    """What Dagster adds to a window."""
    return Section(
        title=f"A ranged run of {cost.windows} windows of {cost.rows} rows: one worker, one process",
        headings=("", "CPU ms a window", "wall ms a window", "added CPU ms", "added wall ms"),
        rows=tuple(
            (
                way,
                figure(cost.cpu_ms(way), ",.1f"),
                figure(cost.wall_ms(way), ",.1f"),
                figure(None if way == ALONE else cost.added_cpu_ms(way), ",.1f"),
                figure(None if way == ALONE else cost.added_ms(way), ",.1f"),
            )
            for way in WAYS
        ),
    )


def of_loading(cost: LoadCost) -> Section:
    """What this package adds to a start."""
    return Section(
        title="Start of a process that loads definitions",
        headings=("", "CPU s", "wall s", "added CPU ms"),
        rows=(
            *(
                (what, *_seconds(cost.imports, what), NONE if what == DAGSTER else figure(cost.added_ms(what), ",.0f"))
                for what in cost.imports[0]
            ),
            *(
                (
                    f"`dg {command}`, {project}",
                    *_seconds(runs, project),
                    NONE if project == EMPTY else figure(cost.added_to_command_ms(command), ",.0f"),
                )
                for command, runs in cost.commands.items()
                for project in (EMPTY, DECLARED)
            ),
        ),
    )


def _seconds(runs: Sequence[Mapping[str, tuple[float, float]]], what: str) -> tuple[str, str]:
    """Medians of CPU and wall seconds."""
    return figure(median(run[what][0] for run in runs), ".2f"), figure(median(run[what][1] for run in runs), ".2f")
