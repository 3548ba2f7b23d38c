"""`python -m tests.benchmarks`: measure, print, compare with the limits."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection
from pathlib import Path

import psycopg
from rich.console import Console

from demo import DemoError
from tests.benchmarks.conditions import Start
from tests.benchmarks.contenders import CONTENDERS
from tests.benchmarks.insight import Insight
from tests.benchmarks.limits import unmeasured
from tests.benchmarks.measure import ContenderError
from tests.benchmarks.report import Report, markdown, print_report, to_json
from tests.benchmarks.stage import TABLES, Stage, open_stage
from tests.benchmarks.suite import Suite
from tests.benchmarks.wide import WIDE, WIDE_ROWS

_ABOUT = (
    "Measure what an export costs beside its rivals, and print which limits hold. "
    "The exit code is 1 where something that has a limit could not be measured; a limit that is missed is printed."
)

# Where standard output is no terminal, tables are as wide as they need to be.
_WIDTH = 160

# The table whose size is varied to see whether memory grows with it, and that is small enough for all else.
_FLATNESS_TABLE = _SMALL_TABLE = "lineitem"
_FLATNESS_ROWS = 10_000_000
_LEAST_ROWS = 10_000

_WIDE_SECTION = "wide"
_SECTIONS = {
    "rivals": "every contender on every table",
    "flatness": "memory against size",
    "first-use": "exports around an empty cache of kernels",
    "fingerprint": "the row fingerprint's share of CPU",
    "start-up": "CPU by step of the start-up",
    _WIDE_SECTION: "tables of long rows",
}


def main() -> int:
    """Run what the command line asks for; gives the exit code."""
    options = _options().parse_args()
    errors = Console(stderr=True)
    if not sys.platform.startswith("linux"):
        errors.print("The benchmarks measure memory as Linux counts it: run them there.")
        return 2
    start, report = Start(), Report()
    try:
        with open_stage() as stage, errors.status("starting") as status:
            _measure(report, options, stage, status.update)
            report.conditions = start.conditions(stage, options.runs, report.results())
    except DemoError as error:
        errors.print(str(error), markup=False)
        return 1
    print_report(Console(width=None if sys.stdout.isatty() else _WIDTH), report)
    if options.json is not None:
        options.json.write_text(to_json(report))
    if options.report is not None:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        options.report.write_text(markdown(report))
    return int(bool(report.problems) or unmeasured(report.verdicts))


def _measure(report: Report, options: argparse.Namespace, stage: Stage, say: Callable[[str], None]) -> None:
    """Add the sections that were asked for to `report`; one that fails leaves the others as they are."""
    contenders = [contender for name, contender in CONTENDERS.items() if name in options.only]
    tables = [(TABLES[name], options.rows.get(name, TABLES[name].rows)) for name in options.tables]
    suite = Suite(stage, options.overlays.absolute(), options.runs, say)
    insight = Insight(stage, suite.bench, options.runs, say)

    def rivals() -> None:
        report.tables.extend(suite.table(table, rows, contenders) for table, rows in tables)

    def flatness() -> None:
        report.flatness = suite.flatness(TABLES[_FLATNESS_TABLE], options.flatness_rows)

    def first_use() -> None:
        report.first_use = insight.first_use(TABLES[_SMALL_TABLE])

    def fingerprint() -> None:
        report.hashing.extend(insight.hashing(table, rows) for table, rows in tables)

    def start_up() -> None:
        report.start_up = insight.start_up(TABLES[_SMALL_TABLE])

    def wide() -> None:
        report.wide.extend(suite.wide(table, options.wide_rows) for table in WIDE)

    asked = {*options.sections, *([_WIDE_SECTION] if options.wide else [])}
    for name, measure in zip(_SECTIONS, (rivals, flatness, first_use, fingerprint, start_up, wide), strict=True):
        if name in asked:
            try:
                measure()
            except (ContenderError, psycopg.Error) as error:
                report.problems.append(f"{name}: {str(error).strip()}")


def _options() -> argparse.ArgumentParser:
    known_sections = "; ".join(f"{name}: {text}" for name, text in _SECTIONS.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=_ABOUT, epilog=f"Sections are {known_sections}."
    )
    usual = [name for name in _SECTIONS if name != _WIDE_SECTION]
    text = f"of {', '.join(_SECTIONS)}; default: all but {_WIDE_SECTION}"
    parser.add_argument("--sections", type=_names(_SECTIONS), default=usual, metavar="NAME,...", help=text)
    text = "the section of that name too: its texts are 40 GB on the wire, and take as long as all the others"
    parser.add_argument("--wide", action="store_true", help=text)
    text = f"contenders of the section rivals, of {', '.join(CONTENDERS)}; default: all"
    parser.add_argument("--only", type=_names(CONTENDERS), default=list(CONTENDERS), metavar="NAME,...", help=text)
    text = f"tables of the sections rivals and fingerprint, of {', '.join(TABLES)}; default: all"
    parser.add_argument("--tables", type=_names(TABLES), default=list(TABLES), metavar="NAME,...", help=text)
    usual_rows = ", ".join(f"{table.name}={table.rows}" for table in TABLES.values())
    text = f"rows of these tables; default: {usual_rows}"
    parser.add_argument("--rows", type=_sizes, default={}, metavar="TABLE=N,...", help=text)
    text = f"rows of the section flatness, which compares them with a tenth; default: {_FLATNESS_ROWS}"
    parser.add_argument("--flatness-rows", type=_rows(10 * _LEAST_ROWS), default=_FLATNESS_ROWS, metavar="N", help=text)
    text = f"rows of each table of the section wide; default: {WIDE_ROWS}"
    parser.add_argument("--wide-rows", type=_rows(_LEAST_ROWS), default=WIDE_ROWS, metavar="N", help=text)
    parser.add_argument("--runs", type=int, choices=range(1, 100), default=3, metavar="N", help="of each; default: 3")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement as JSON")
    parser.add_argument("--report", type=Path, metavar="FILE.md", help="write the report as Markdown")
    text = "folder of packages that cannot be installed beside the project; default: .bench"
    parser.add_argument("--overlays", type=Path, default=Path(".bench"), metavar="FOLDER", help=text)
    return parser


def _names(known: Collection[str]) -> Callable[[str], list[str]]:
    """A parser of names, separated by commas, that must be known."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not among {', '.join(known)}")
        return names

    return parse


def _rows(least: int) -> Callable[[str], int]:
    """A parser of a number of rows."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text}: write a number of {least:,} or more")
        return int(text)

    return parse


def _sizes(text: str) -> dict[str, int]:
    """Rows by table."""
    sizes = {}
    for each in text.split(","):
        name, _, rows = each.partition("=")
        if name not in TABLES:
            raise argparse.ArgumentTypeError(f"{each}: write TABLE=N with a table of {', '.join(TABLES)}")
        sizes[name] = _rows(_LEAST_ROWS)(rows)
    return sizes


if __name__ == "__main__":
    sys.exit(main())
