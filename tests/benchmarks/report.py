"""What was measured, as tables for the terminal, as Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from tests.benchmarks.contenders.ours import CONTENDERS as OURS
from tests.benchmarks.contenders.ours import DEFAULT
from tests.benchmarks.limits import Verdict
from tests.benchmarks.measure import Measurement
from tests.benchmarks.suite import Flatness, Result, TableResults

_NONE = "-"


@dataclass(frozen=True)
class Report:
    """Everything that one run of the benchmarks found."""

    conditions: Mapping[str, str]
    tables: Sequence[TableResults]
    flatness: Flatness | None
    verdicts: Sequence[Verdict]


@dataclass(frozen=True)
class Column:
    """A figure of the tables: its heading, where it comes from, and how it is printed."""

    heading: str
    value: Callable[[Measurement], float | None]
    style: str


_CPU = Column("CPU s", lambda run: run.cpu_s, ",.2f")
_COLUMNS = (
    Column("start-up CPU s", lambda run: run.startup_cpu_s, ",.2f"),
    Column("wall s", lambda run: run.wall_s, ",.2f"),
    Column("peak MB", lambda run: run.peak_mb, ",.0f"),
    Column("above idle MB", lambda run: run.above_idle_mb, ",.0f"),
    Column("files MB", lambda run: run.file_mb, ",.1f"),
    Column("longest statement s", lambda run: run.statement_s, ",.2f"),
)
_HEADINGS = ("", _CPU.heading, "CPU / ours", *(column.heading for column in _COLUMNS), "types kept")


def _rows(table: TableResults) -> Iterator[tuple[str, ...]]:
    """One row a contender: its title and figures, or its title and what went wrong."""
    ours = table.of(DEFAULT)
    reference = ours.median(_CPU.value) if ours else None
    for result in table.results:
        cpu = result.median(_CPU.value)
        if cpu is None or result.problem is not None:
            yield result.contender.title, result.problem or "not measured"
            continue
        kept = result.median(lambda run: run.types_kept)
        yield (
            result.contender.title,
            format(cpu, _CPU.style),
            f"{cpu / reference:.2f}" if reference else _NONE,
            *(_figure(result, column) for column in _COLUMNS),
            _NONE if kept is None else f"{kept:.0f} of {table.columns}",
        )


def _figure(result: Result, column: Column) -> str:
    value = result.median(column.value)
    return _NONE if value is None else format(value, column.style)


def _remarks(table: TableResults) -> Iterator[str]:
    """What our window manifests say of how the source was read, in the last run."""
    for contender in OURS:
        result = table.of(contender)
        if result is not None and result.runs:
            facts = result.runs[-1].facts
            yield (
                f"{contender.title}, by its window manifests: windows {facts['windows']}, pages {facts['pages']},"
                f" longest statement {facts['longest_statement_s']:.2f} s,"
                f" longest transaction {facts['longest_transaction_s']:.2f} s"
            )


def _title(table: TableResults) -> str:
    return f"{table.table.name}: {table.rows:,} rows, {table.table.columns}"


def _flatness_rows(flatness: Flatness) -> Iterator[tuple[str, ...]]:
    for rows, result in flatness.sizes:
        if result.problem is not None:
            yield f"{rows:,}", result.problem, _NONE
            continue
        peaks = (result.median(lambda run: run.peak_mb), result.median(lambda run: run.above_idle_mb))
        yield f"{rows:,}", *(_NONE if peak is None else f"{peak:,.0f}" for peak in peaks)


_FLATNESS_HEADINGS = ("rows", "peak MB", "above idle MB")


def _flatness_title(flatness: Flatness) -> str:
    return f"Memory against size: {flatness.table.name}, {DEFAULT.title}, windows of {flatness.window_rows:,} rows"


# ------------------------------------------------------------------------------------------------------- terminal


def print_report(console: Console, report: Report) -> None:
    """Print tables, remarks and verdicts."""
    for name, value in report.conditions.items():
        console.print(f"[dim]{name}:[/] {escape(value)}")
    for table in report.tables:
        _print_table(console, _title(table), _HEADINGS, _rows(table))
        for remark in _remarks(table):
            console.print(f"  [dim]{escape(remark)}[/]")
    if report.flatness is not None:
        _print_table(console, _flatness_title(report.flatness), _FLATNESS_HEADINGS, _flatness_rows(report.flatness))
    console.print()
    for verdict in report.verdicts:
        console.print(f"{'[green]pass[/]' if verdict.passed else '[red]FAIL[/]'}  {escape(str(verdict))}")


def _print_table(console: Console, title: str, headings: Sequence[str], rows: Iterable[tuple[str, ...]]) -> None:
    printed = RichTable(box=box.SIMPLE, pad_edge=False)
    for number, heading in enumerate(headings):
        printed.add_column(heading, justify="right" if number else "left", no_wrap=number == 0)
    problems = []
    for row in rows:
        if len(row) < len(headings):
            problems.append(row)
        else:
            printed.add_row(*map(escape, row))
    console.print(f"\n[bold]{escape(title)}[/]")
    console.print(printed)
    for contender, problem in problems:
        console.print(f"  [yellow]{escape(contender)}[/]: {escape(problem)}")


# ------------------------------------------------------------------------------------------------------- Markdown


def markdown(report: Report) -> str:
    """The report as a page of the documentation."""
    return "\n".join(_markdown_lines(report)) + "\n"


def _markdown_lines(report: Report) -> Iterator[str]:
    yield "# Benchmarks\n"
    yield "Printed by `make bench`. What is measured, and how, is described below the figures.\n"
    for name, value in report.conditions.items():
        yield f"- {name}: {value}"
    for table in report.tables:
        yield f"\n## {_title(table)}\n"
        yield from _markdown_table(_HEADINGS, _rows(table))
        yield ""
        yield from (f"- {remark}" for remark in _remarks(table))
    if report.flatness is not None:
        yield f"\n## {_flatness_title(report.flatness)}\n"
        yield from _markdown_table(_FLATNESS_HEADINGS, _flatness_rows(report.flatness))
    yield "\n## Limits\n"
    yield from (f"- {'pass' if verdict.passed else '**fail**'}: {verdict}" for verdict in report.verdicts)
    yield _METHOD


def _markdown_table(headings: Sequence[str], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(headings)} |"
    yield f"|{'|'.join(['---', *['---:'] * (len(headings) - 1)])}|"
    for row in rows:
        padding = [""] * (len(headings) - len(row))
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in (*row, *padding))} |"


_METHOD = """
## How it is measured

Server and contenders share one machine, over TCP without TLS; the server does not sync, and the tables fit its
cache. Every contender first exports a thousand rows, which fills caches of compiled code, and is then measured in
processes of its own, in turns with the others. Figures are medians; limits are held against the worst run. A
megabyte is 1,000,000 bytes. All write Parquet with zstd at level 1 in row groups of about 100,000 rows.

- **CPU s**: user and system seconds of the contender's process and of programs that it starts, from the
  interpreter's start to its end. The server's own work is not in it. *CPU / ours* compares it with the export
  with 2 workers, which is the default.
- **start-up CPU s**: the part of it before the work: imports, and loading compiled code.
- **peak MB**, **above idle MB**: the most memory resident, and how much that is above what was resident before the
  work. A program of its own has no such moment.
- **longest statement s**: the longest that the server was busy with one statement, by its own log (0.00: less than
  5 ms). A cursor's statement is one fetch: its transaction lasts for the whole export all the same.
- **types kept**: how many columns have, in the file, the type that the table declares.

A contender that is not installed, or fails, is listed with the reason.
"""


# ----------------------------------------------------------------------------------------------------------- JSON


def to_json(report: Report) -> str:
    """Every measurement of every run."""
    return json.dumps(
        {
            "conditions": dict(report.conditions),
            "tables": [
                {"table": table.table.name, "rows": table.rows, "results": [_plain(each) for each in table.results]}
                for table in report.tables
            ],
            "flatness": [
                {"rows": rows, **_plain(result)} for rows, result in (report.flatness.sizes if report.flatness else ())
            ],
            "limits": [{"what": str(verdict), "passed": verdict.passed} for verdict in report.verdicts],
        },
        indent=1,
    )


def _plain(result: Result) -> dict[str, Any]:
    return {
        "contender": result.contender.name,
        "problem": result.problem,
        "versions": result.versions,
        "runs": [asdict(run) for run in result.runs],
    }
