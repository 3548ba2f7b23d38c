"""`python -m tests.benchmarks`: measure, print, check. Exit code 1 where a limit does not hold."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection
from pathlib import Path

from rich.console import Console

from demo import DemoError
from tests.benchmarks.conditions import Start
from tests.benchmarks.contenders import CONTENDERS
from tests.benchmarks.contenders.ours import DEFAULT
from tests.benchmarks.limits import check
from tests.benchmarks.report import Report, markdown, print_report, to_json
from tests.benchmarks.stage import TABLES, open_stage
from tests.benchmarks.suite import Suite

_ABOUT = "Measure what an export costs beside its rivals. The exit code is 1 where a limit does not hold."

# Where standard output is no terminal, tables are as wide as they need to be.
_WIDTH = 140

# The table whose size is varied to see whether memory grows with it.
_FLATNESS_TABLE = "lineitem"
_LEAST_ROWS = 10_000


def main() -> int:
    """Run what the command line asks for; gives the exit code."""
    options = _options().parse_args()
    errors = Console(stderr=True)
    if not sys.platform.startswith("linux"):
        errors.print("The benchmarks measure memory as Linux counts it: run them there.")
        return 2
    try:
        report = _measured(options, errors)
    except DemoError as error:
        errors.print(str(error), markup=False)
        return 1
    print_report(Console(width=None if sys.stdout.isatty() else _WIDTH), report)
    if options.json is not None:
        options.json.write_text(to_json(report))
    if options.report is not None:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        options.report.write_text(markdown(report))
    return 0 if all(verdict.passed for verdict in report.verdicts) else 1


def _measured(options: argparse.Namespace, errors: Console) -> Report:
    start = Start()
    contenders = [contender for name, contender in CONTENDERS.items() if name in options.only]
    rows = {name: options.rows.get(name, TABLES[name].rows) for name in options.tables}
    with open_stage() as stage, errors.status("starting") as status:
        suite = Suite(stage, options.overlays.absolute(), options.runs, status.update)
        tables = [suite.table(TABLES[name], rows[name], contenders) for name in rows]
        flatness = None
        if DEFAULT in contenders and _FLATNESS_TABLE in rows:
            flatness = suite.flatness(TABLES[_FLATNESS_TABLE], rows[_FLATNESS_TABLE])
        return Report(start.conditions(stage, options.runs, tables), tables, flatness, tuple(check(tables)))


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=_ABOUT)
    parser.add_argument("--rows", type=_sizes, default={}, metavar="TABLE=N,...", help="rows of tables")
    for option, known in (("--only", CONTENDERS), ("--tables", TABLES)):
        text = f"of {', '.join(known)}; default: all"
        parser.add_argument(option, type=_names(known), default=list(known), metavar="NAME,...", help=text)
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


def _sizes(text: str) -> dict[str, int]:
    """Rows by table."""
    sizes = {}
    for each in text.split(","):
        name, _, rows = each.partition("=")
        if name not in TABLES or not rows.isdecimal() or int(rows) < _LEAST_ROWS:
            raise argparse.ArgumentTypeError(f"{each}: write TABLE=N with N of {_LEAST_ROWS:,} or more")
        sizes[name] = int(rows)
    return sizes


if __name__ == "__main__":
    sys.exit(main())
