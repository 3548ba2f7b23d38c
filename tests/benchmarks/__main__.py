"""`python -m tests.benchmarks`: measure, print, check. Exit code 1 where a limit does not hold."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from demo import DemoError
from tests.benchmarks.conditions import Conditions
from tests.benchmarks.contenders import CONTENDERS
from tests.benchmarks.contenders.ours import DEFAULT
from tests.benchmarks.limits import check
from tests.benchmarks.report import Report, markdown, print_report, to_json
from tests.benchmarks.stage import TABLES, open_stage
from tests.benchmarks.suite import Suite

# Where standard output is no terminal, tables are as wide as they need to be.
_WIDTH = 140


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
    rows = {name: options.rows.get(name, table.rows) for name, table in TABLES.items()}
    with open_stage() as stage, errors.status("starting") as status:
        suite = Suite(stage, options.overlays.absolute(), options.runs, status.update)
        conditions = Conditions(stage.server_version(), options.runs)
        contenders = [CONTENDERS[name] for name in options.only]
        tables = [suite.table(TABLES[name], rows[name], contenders) for name in options.tables]
        conditions.note_versions(tables)
        flat = options.tables[0] if DEFAULT in contenders else None
        flatness = suite.flatness(TABLES[flat], rows[flat]) if flat else None
    return Report(conditions, tables, flatness, tuple(check(tables)))


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rows", type=_sizes, default={}, metavar="TABLE=N,...", help="rows of tables")
    parser.add_argument(
        "--only", type=_names(CONTENDERS), default=list(CONTENDERS), metavar="NAME,...", help=_known(CONTENDERS)
    )
    parser.add_argument("--tables", type=_names(TABLES), default=list(TABLES), metavar="NAME,...", help=_known(TABLES))
    parser.add_argument("--runs", type=_positive, default=3, metavar="N", help="measured runs of each (default 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement")
    parser.add_argument("--report", type=Path, metavar="FILE.md", help="write the report as Markdown")
    parser.add_argument(
        "--overlays",
        type=Path,
        default=Path(".bench"),
        metavar="FOLDER",
        help="packages that cannot be installed beside the project (default .bench)",
    )
    return parser
