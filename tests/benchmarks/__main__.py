"""`python -m tests.benchmarks`: measure, print, compare with the limits."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

import psycopg
import pymysql
from rich.console import Console

from demo import DemoError
from tests.benchmarks.conditions import Start
from tests.benchmarks.contender import Contender
from tests.benchmarks.contenders import CONTENDERS
from tests.benchmarks.insight import Insight
from tests.benchmarks.limits import unmeasured
from tests.benchmarks.mariadb import MARIADB_TABLES, UUID_KEYS, UUID_ROWS, MariaStage, open_mariadb
from tests.benchmarks.measure import ContenderError
from tests.benchmarks.overhead import Overhead
from tests.benchmarks.planning import MARIADB_PART, PLANNED_ROWS, Planning
from tests.benchmarks.report import Report, markdown, print_report, to_json
from tests.benchmarks.stage import TABLES, PostgresStage, Stage, Table, open_stage
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
    "rivals": "every contender on every table of PostgreSQL",
    "flatness": "memory against size",
    "first-use": "exports around an empty cache of kernels",
    "fingerprint": "the row fingerprint's share of CPU",
    "start-up": "CPU by step of the start-up",
    "mariadb": "every contender on every table of MariaDB",
    "decoding": "what decoding adds to reading from MariaDB",
    "uuid-keys": "a table of MariaDB under random binary keys",
    "dagster": "what Dagster adds to a window, and this package to a start",
    "planning": "what planning takes of PostgreSQL and MariaDB",
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
        with ExitStack() as stack:
            stage = stack.enter_context(open_stage())
            status = stack.enter_context(errors.status("starting"))
            measuring = _Measuring(report, options, stage, stack, status.update)
            measuring.run()
            report.conditions = start.conditions(measuring.servers(), options.runs, report.results())
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


class _Measuring:
    """Adds the sections that were asked for to `report`; one that fails leaves the others as they are.

    MariaDB is started when a section needs it, and runs for as long as `stack`.
    """

    def __init__(
        self,
        report: Report,
        options: argparse.Namespace,
        stage: PostgresStage,
        stack: ExitStack,
        say: Callable[[str], None],
    ) -> None:
        self._report = report
        self._options = options
        self._stage = stage
        self._stack = stack
        self._say = say
        self._suite = self._suite_on(stage)
        self._insight = self._insight_on(stage, self._suite)

    def run(self) -> None:
        """Measure."""
        asked = {*self._options.sections, *([_WIDE_SECTION] if self._options.wide else [])}
        for name in _SECTIONS:
            if name in asked:
                try:
                    getattr(self, f"_{name.replace('-', '_')}")()
                except (ContenderError, DemoError, psycopg.Error, pymysql.MySQLError) as error:
                    self._report.problems.append(f"{name}: {str(error).strip()}")

    def servers(self) -> dict[str, str]:
        """Versions of the servers that run, by name."""
        stages = [self._stage, *([self._maria] if "_maria" in vars(self) else [])]
        return {stage.product: stage.server_version() for stage in stages}

    @cached_property
    def _maria(self) -> MariaStage:
        return self._stack.enter_context(open_mariadb(self._stage))

    def _suite_on(self, stage: Stage) -> Suite:
        return Suite(stage, self._options.overlays.absolute(), self._options.runs, self._say)

    def _insight_on(self, stage: Stage, suite: Suite) -> Insight:
        return Insight(stage, suite.bench, self._options.runs, self._say)

    def _sized(self, tables: Mapping[str, Table]) -> list[tuple[Table, int]]:
        """Those of `tables` that were asked for, and how many rows of them."""
        return [(tables[name], self._options.rows.get(name, tables[name].rows)) for name in self._options.tables]

    def _rivals(self) -> None:
        contenders = self._contenders(self._stage)
        self._report.tables.extend(self._suite.table(table, rows, contenders) for table, rows in self._sized(TABLES))

    def _contenders(self, stage: Stage) -> list[Contender]:
        return [
            each for name, each in CONTENDERS.items() if name in self._options.only and stage.product in each.servers
        ]

    def _flatness(self) -> None:
        self._report.flatness = self._suite.flatness(TABLES[_FLATNESS_TABLE], self._options.flatness_rows)

    def _first_use(self) -> None:
        self._report.first_use = self._insight.first_use(TABLES[_SMALL_TABLE])

    def _fingerprint(self) -> None:
        self._report.hashing.extend(self._insight.hashing(table, rows) for table, rows in self._sized(TABLES))

    def _start_up(self) -> None:
        self._report.start_up = self._insight.start_up(TABLES[_SMALL_TABLE])

    def _mariadb(self) -> None:
        suite, contenders = self._suite_on(self._maria), self._contenders(self._maria)
        self._report.mariadb.extend(suite.table(table, rows, contenders) for table, rows in self._sized(MARIADB_TABLES))

    def _decoding(self) -> None:
        insight = self._insight_on(self._maria, self._suite_on(self._maria))
        self._report.decoding.extend(insight.decoding(table, rows) for table, rows in self._sized(MARIADB_TABLES))

    def _uuid_keys(self) -> None:
        self._report.uuid_keys = self._suite_on(self._maria).alone(UUID_KEYS, self._options.uuid_rows)

    def _dagster(self) -> None:
        overhead = Overhead(self._stage, self._suite.bench, self._options.runs, self._say)
        self._report.window_cost = overhead.windows(TABLES[_SMALL_TABLE])
        self._report.load_cost = overhead.loading()

    def _planning(self) -> None:
        rows = self._options.planning_rows
        self._report.planning.append(self._planning_on(self._stage).cost(rows))
        self._report.planning.append(self._planning_on(self._maria).cost(rows // MARIADB_PART))

    def _planning_on(self, stage: Stage) -> Planning:
        return Planning(stage, self._suite_on(stage).bench, self._options.runs, self._say)

    def _wide(self) -> None:
        self._report.wide.extend(self._suite.alone(table, self._options.wide_rows) for table in WIDE)


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
    text = f"contenders of the sections rivals and mariadb, of {', '.join(CONTENDERS)}; default: all"
    parser.add_argument("--only", type=_names(CONTENDERS), default=list(CONTENDERS), metavar="NAME,...", help=text)
    text = f"tables of the sections rivals, fingerprint, mariadb and decoding, of {', '.join(TABLES)}; default: all"
    parser.add_argument("--tables", type=_names(TABLES), default=list(TABLES), metavar="NAME,...", help=text)
    usual_rows = ", ".join(f"{table.name}={table.rows}" for table in TABLES.values())
    text = f"rows of these tables; default: {usual_rows}"
    parser.add_argument("--rows", type=_sizes, default={}, metavar="TABLE=N,...", help=text)
    text = f"rows of the section flatness, which compares them with a tenth; default: {_FLATNESS_ROWS}"
    parser.add_argument("--flatness-rows", type=_rows(10 * _LEAST_ROWS), default=_FLATNESS_ROWS, metavar="N", help=text)
    text = f"rows of each table of the section wide; default: {WIDE_ROWS}"
    parser.add_argument("--wide-rows", type=_rows(_LEAST_ROWS), default=WIDE_ROWS, metavar="N", help=text)
    text = f"rows of the section uuid-keys; default: {UUID_ROWS}"
    parser.add_argument("--uuid-rows", type=_rows(_LEAST_ROWS), default=UUID_ROWS, metavar="N", help=text)
    text = f"rows of the section planning, of which MariaDB has a tenth; default: {PLANNED_ROWS}"
    parser.add_argument("--planning-rows", type=_rows(10 * _LEAST_ROWS), default=PLANNED_ROWS, metavar="N", help=text)
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
