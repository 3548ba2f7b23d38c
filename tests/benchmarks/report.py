"""What was measured, for the terminal, as Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from tests.benchmarks import limits, sections
from tests.benchmarks.contender import MARIADB, POSTGRESQL
from tests.benchmarks.insight import Decoding, FirstUse, Hashing, StartUp
from tests.benchmarks.overhead import LoadCost, WindowCost
from tests.benchmarks.planning import PlanningCost
from tests.benchmarks.sections import Section
from tests.benchmarks.suite import Flatness, Result, TableResults


@dataclass
class Report:
    """Everything that one run of the benchmarks found; what was not asked for is empty.

    Attributes:
        conditions: what figures depend on.
        tables: the contenders beside each other, on PostgreSQL.
        flatness: memory against size.
        wide: tables of long rows.
        first_use: exports around an empty cache of kernels.
        hashing: the row fingerprint's share.
        start_up: by its steps.
        mariadb: the contenders beside each other, on MariaDB.
        decoding: what decoding adds to reading, on MariaDB.
        uuid_keys: a table under random binary keys, on MariaDB.
        window_cost: what Dagster adds to a window.
        load_cost: what this package adds to a start.
        planning: what planning takes, by server.
        problems: sections that failed, with the reason.
    """

    conditions: Mapping[str, str] = field(default_factory=dict)
    tables: list[TableResults] = field(default_factory=list)
    flatness: Flatness | None = None
    wide: list[TableResults] = field(default_factory=list)
    first_use: FirstUse | None = None
    hashing: list[Hashing] = field(default_factory=list)
    start_up: StartUp | None = None
    mariadb: list[TableResults] = field(default_factory=list)
    decoding: list[Decoding] = field(default_factory=list)
    uuid_keys: TableResults | None = None
    window_cost: WindowCost | None = None
    load_cost: LoadCost | None = None
    planning: list[PlanningCost] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def results(self) -> Iterator[Result]:
        """What came of every contender, in every section that compares or measures contenders."""
        alone = () if self.uuid_keys is None else (self.uuid_keys,)
        for table in (*self.tables, *self.wide, *self.mariadb, *alone):
            yield from table.results
        if self.flatness is not None:
            yield from (result for _, result in self.flatness.sizes)

    @property
    def verdicts(self) -> tuple[limits.Verdict, ...]:
        """How every limit fared."""
        return tuple(
            chain(
                chain.from_iterable(map(limits.of_table, self.tables)),
                limits.of_flatness(self.flatness) if self.flatness else (),
                chain.from_iterable(map(limits.of_wide, self.wide)),
                limits.of_first_use(self.first_use) if self.first_use else (),
                chain.from_iterable(map(limits.of_hashing, self.hashing)),
                chain.from_iterable(map(limits.of_table, self.mariadb)),
                chain.from_iterable(map(limits.of_decoding, self.decoding)),
                limits.of_alone(self.uuid_keys) if self.uuid_keys else (),
                limits.of_windows(self.window_cost) if self.window_cost else (),
                limits.of_loading(self.load_cost) if self.load_cost else (),
                chain.from_iterable(map(limits.of_planning, self.planning)),
            )
        )

    def chapters(self) -> Iterator[tuple[str, list[Section]]]:
        """The tables, in the order of the report; one chapter an engine that was measured, and Dagster's."""
        chapters = {
            POSTGRESQL: self._postgresql(),
            "MySQL and MariaDB": self._mariadb(),
            "Dagster": self._dagster(),
        }
        for title, found in chapters.items():
            if chapter := list(found):
                yield title, chapter

    def _postgresql(self) -> Iterator[Section]:
        yield from map(sections.of_table, self.tables)
        if self.flatness is not None:
            yield sections.of_flatness(self.flatness)
        if self.wide:
            yield sections.of_wide(self.wide)
        if self.first_use is not None:
            yield sections.of_first_use(self.first_use)
        if self.hashing:
            yield sections.of_hashing(self.hashing)
        if self.start_up is not None:
            yield sections.of_start_up(self.start_up)
        yield from self._planning(POSTGRESQL)

    def _mariadb(self) -> Iterator[Section]:
        yield from map(sections.of_table, self.mariadb)
        if self.decoding:
            yield sections.of_decoding(self.decoding)
        if self.uuid_keys is not None:
            yield sections.of_uuid_keys(self.uuid_keys)
        yield from self._planning(MARIADB)

    def _planning(self, server: str) -> Iterator[Section]:
        return (sections.of_planning(each) for each in self.planning if each.server == server)

    def _dagster(self) -> Iterator[Section]:
        if self.window_cost is not None:
            yield sections.of_windows(self.window_cost)
        if self.load_cost is not None:
            yield sections.of_loading(self.load_cost)


# ------------------------------------------------------------------------------------------------------- terminal


def print_report(console: Console, report: Report) -> None:
    """Print conditions, sections and verdicts."""
    for name, value in report.conditions.items():
        console.print(f"[dim]{name}:[/] {escape(value)}")
    for title, chapter in report.chapters():
        console.print(f"\n[bold underline]{escape(title)}[/]")
        for section in chapter:
            _print_section(console, section)
    console.print()
    for problem in report.problems:
        console.print(f"[red]failed[/]  {escape(problem)}")
    for verdict in report.verdicts:
        console.print(f"{'[green]pass[/]' if verdict.passed else '[red]MISS[/]'}  {escape(str(verdict))}")


def _print_section(console: Console, section: Section) -> None:
    printed = RichTable(box=box.SIMPLE, pad_edge=False)
    for number, heading in enumerate(section.headings):
        printed.add_column(heading, justify="right" if number else "left", no_wrap=number == 0)
    problems = []
    for row in section.rows:
        if len(row) < len(section.headings):
            problems.append(row)
        else:
            printed.add_row(*map(escape, row))
    console.print(f"\n[bold]{escape(section.title)}[/]")
    console.print(printed)
    for what, problem in problems:
        console.print(f"  [yellow]{escape(what)}[/]: {escape(problem)}")
    for remark in section.remarks:
        console.print(f"  [dim]{escape(remark)}[/]")


# ------------------------------------------------------------------------------------------------------- Markdown


def markdown(report: Report) -> str:
    """The report as a page of the documentation."""
    return "\n".join(_markdown_lines(report)) + "\n"


def _markdown_lines(report: Report) -> Iterator[str]:
    yield "# Benchmarks\n"
    yield "Printed by `make bench`. What is measured, and how, is described below the figures.\n"
    for name, value in report.conditions.items():
        yield f"- {name}: {value}"
    for title, chapter in report.chapters():
        yield f"\n## {title}"
        for section in chapter:
            yield f"\n### {section.title}\n"
            yield from _markdown_table(section.headings, section.rows)
            if section.remarks:
                yield ""
                yield from (f"- {remark}" for remark in section.remarks)
    yield "\n## Limits\n"
    yield from (f"- **failed**: {problem}" for problem in report.problems)
    yield from (f"- {'pass' if verdict.passed else '**MISS**'}: {verdict}" for verdict in report.verdicts)
    yield _METHOD.rstrip()


def _markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(headings)} |"
    yield f"|{'|'.join(['---', *['---:'] * (len(headings) - 1)])}|"
    for row in rows:
        padding = [""] * (len(headings) - len(row))
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in (*row, *padding))} |"


_METHOD = """
## How it is measured

The servers and contenders share one machine, over TCP without TLS; no server syncs. Every contender first
exports a thousand rows, which fills caches of compiled code, and is then measured in processes of its own, in turns
with the others. Figures are medians where nothing else is said. A megabyte is 1,000,000 bytes. All write Parquet
with zstd at level 1 in row groups of about 100,000 rows.

- **CPU s**: user and system seconds of the contender's process and of programs that it starts, from the
  interpreter's start to its end. The server's own work is not in it. *CPU / ours* compares it with the export
  with 2 workers, which is the default.
- **start-up CPU s**: the part of it before the work: imports, and loading compiled code. **CPU s after start-up** is
  the rest, which grows with the table. What only reads from a kernel loads numba for that.
- **peak MB**, **above idle MB**: the most memory resident, and how much that is above what was resident before the
  work. A program of its own has no such moment.
- **longest statement s**: the longest that the server was busy with one statement, by its own log (0.00: less than
  5 ms). A cursor's statement is one fetch: its transaction lasts for the whole export all the same.
- **types kept**: how many columns have, in the file, the type that the table declares.
- **First use**: by the command line, each line in a process of its own, with an empty folder for compiled code before
  the first and the third line. Python's own compiled modules are there already.
- **Row fingerprint**: the CPU seconds of every thread inside the hasher, in the CPU seconds of the whole process.
- **Start-up**: each step imports what the steps before it have not; the kernels come from their cache.
- **MariaDB** holds the rows of PostgreSQL's tables. UUIDs are `binary(16)`, which MySQL has too; `jsonb` is `json`,
  `bytea` is `blob`, times with a zone are `timestamp(6)`. Its buffer pool holds all of the tables.
- **only reading, prepared statement**: one statement over the table, in MariaDB's binary protocol; rows are told from
  what ends them, and no value is decoded.
- **Reading with and without decoding**: the pages of an export, the same statements in the same process, in turns, each
  pass in a new session. Decoding goes on while rows are on their way.
- **A ranged run**: the windows of a table on PostgreSQL, without planning and sealing, by the operations that the
  command line calls and by a run of the table's asset in the same process. What Dagster does once a run is in it.
- **Start of a process**: whole processes. The demo's definitions, and the declarations of the larger project, are five
  tables with three assets each. The smaller project has no definitions; the package is installed all the same.
- **Planning**: from the connection to the written plan, in a process that has imported everything before; CPU is that
  of this process. **entries** of indexes and **blocks** are those that the server looked at by its own counters,
  wherever blocks were; **passes** are entries by rows. A walk passes every entry once, and those of a last step that
  finds too few rows twice. The table's rows are numbered, so bounds of windows tell how many rows there are between
  them: these are the rows *by the table*. PostgreSQL's table is vacuumed, so that a walk need not look at rows. Slices
  of time are not listed in a plan. The table of *restored statistics* has a few thousand rows, and the statistics of
  a thousand million.

A contender that is not installed, or fails, is listed with the reason. A limit without a figure counts as missed.
"""


# ----------------------------------------------------------------------------------------------------------- JSON


def to_json(report: Report) -> str:
    """Every measurement of every run."""
    return json.dumps(
        {
            "conditions": dict(report.conditions),
            "tables": [_plain_table(table) for table in report.tables],
            "flatness": [
                {"rows": rows, **_plain(result)} for rows, result in (report.flatness.sizes if report.flatness else ())
            ],
            "wide": [_plain_table(table) for table in report.wide],
            "first_use": report.first_use and asdict(report.first_use),
            "fingerprint": [asdict(each) | {"table": each.table.name} for each in report.hashing],
            "start_up": report.start_up and asdict(report.start_up),
            "mariadb": [_plain_table(table) for table in report.mariadb],
            "decoding": [asdict(each) | {"table": each.table.name} for each in report.decoding],
            "uuid_keys": report.uuid_keys and _plain_table(report.uuid_keys),
            "window_cost": report.window_cost and asdict(report.window_cost),
            "load_cost": report.load_cost and asdict(report.load_cost),
            "planning": [_plain_planning(each) for each in report.planning],
            "problems": report.problems,
            "limits": [{"what": str(verdict), "passed": verdict.passed} for verdict in report.verdicts],
        },
        indent=1,
    )


def _plain_table(table: TableResults) -> dict[str, Any]:
    return {"table": table.table.name, "rows": table.rows, "results": [_plain(each) for each in table.results]}


def _plain_planning(cost: PlanningCost) -> dict[str, Any]:
    ways = [{"way": each.way.title, "rows": each.way.rows, "runs": list(map(asdict, each.runs))} for each in cost.ways]
    return {"server": cost.server, "ways": ways}


def _plain(result: Result) -> dict[str, Any]:
    return {
        "contender": result.contender.name,
        "problem": result.problem,
        "versions": result.versions,
        "scaled_from": result.scaled_from,
        "runs": [asdict(run) for run in result.runs],
    }
