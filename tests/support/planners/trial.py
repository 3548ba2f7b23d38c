"""One trial: a random table is planned, changed, planned on and exported, and the parts are held against the server."""

from __future__ import annotations

import csv
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import dagster as dg
import psycopg
import pyarrow.parquet as pq
from pymysql.connections import Connection

from rivet_dagster.export.config import TimeWindows, parse_config
from rivet_dagster.export.moments import time_window
from rivet_dagster.export.names import table_folder
from rivet_dagster.export.operations import TableExport
from rivet_dagster.export.plan import Plan, Window
from rivet_dagster.export.servo import PageServo
from tests.support.mysql_tables import ask, client, database_of
from tests.support.planners.kinds import END, KINDS, LABELS, START, Kind
from tests.support.readers import tree

Row = tuple[Any, ...]

MODES = ("keyset", "estimated", "int_range", "time", "cursor", "full")
ENGINES = ("postgresql", "mysql")
MATRIX = Path(__file__).with_name("matrix.csv")


def matrix() -> dict[tuple[str, str, str], str]:
    """What becomes of windows of a type, on an engine, by a kind of key: `tested`, or the error's code."""
    with MATRIX.open(newline="") as file:
        return {(row["windows"], row["engine"], row["key"]): row["outcome"] for row in csv.DictReader(file)}


class Bench(ABC):
    """A server with a database for trials.

    Attributes:
        engine: its name.
        dsn: the database's address.
        schema: where tables are.
        insert: how a statement begins and ends that leaves out rows whose key is there already.
    """

    engine: str
    insert: tuple[str, str]

    def __init__(self, dsn: str, schema: str) -> None:
        self.dsn = dsn
        self.schema = schema

    @abstractmethod
    def run(self, statement: str, *values: Any) -> list[Row]:
        """Run a statement; gives the rows, if any."""

    @abstractmethod
    def many(self, statement: str, rows: Sequence[Row]) -> None:
        """Run a statement for each of some rows."""

    def make(self, kind: Kind, random: Random) -> None:
        """An empty table `b` with the key, and the view `t` of it; where it is read itself, it is called `t`."""
        for what in ("VIEW IF EXISTS t", "TABLE IF EXISTS b", "TABLE IF EXISTS t"):
            self.drop(what)
        null = "" if kind.nulls else " NOT NULL"
        columns = [f"{name} {declared}{null}" for name, declared in zip(kind.names, self.types(kind), strict=True)]
        columns += ["n int NOT NULL", "v varchar(30) NOT NULL"]
        if kind.layout in ("primary", "behind"):
            columns.append(f"PRIMARY KEY ({', '.join(kind.names if kind.layout == 'primary' else ['n'])})")
        name = self.base(kind)
        self.run(f"CREATE TABLE {name} ({', '.join(columns)}){self.partitions(kind)}")
        if kind.layout in ("behind", "keyless"):
            self.run(f"CREATE INDEX i ON {name} (k0{random.choice(['', ', n'])})")
        if kind.place == "view":
            self.run(f"CREATE VIEW t AS SELECT * FROM {name} WHERE n >= 0")

    def drop(self, what: str) -> None:
        """Drop a view or table, if there is one."""
        self.run(f"DROP {what}")

    def base(self, kind: Kind) -> str:
        """The table that rows are in."""
        return "t" if kind.place in ("table", "partitions") else "b"

    def types(self, kind: Kind) -> tuple[str, ...]:
        """Types of the key's columns."""
        return kind.types[self.engine]

    @abstractmethod
    def partitions(self, kind: Kind) -> str:
        """How a table is partitioned; nothing where it is not."""

    @abstractmethod
    def analyze(self, table: str) -> None:
        """Have the statistics counted anew."""

    def add(self, kind: Kind, rows: Sequence[Row]) -> None:
        """Insert rows, but for those whose key another row has."""
        first, last = self.insert
        places = ", ".join(["%s"] * (len(kind.names) + 2))
        self.many(f"{first} INTO {self.base(kind)} VALUES ({places}){last}", rows)


class PostgresBench(Bench):
    """PostgreSQL."""

    engine = "postgresql"
    insert = ("INSERT", " ON CONFLICT DO NOTHING")

    def __init__(self, dsn: str, connection: psycopg.Connection[Any]) -> None:
        super().__init__(dsn, "public")
        self._connection = connection
        self.run("SET client_min_messages = error")
        self.run("CREATE COLLATION any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
        self.run(f"CREATE TYPE label AS ENUM ({', '.join(repr(label) for label in LABELS)})")

    def run(self, statement: str, *values: Any) -> list[Row]:
        cursor = self._connection.execute(statement, values or None)  # type: ignore[call-overload]
        return list(cursor.fetchall()) if cursor.description else []

    def many(self, statement: str, rows: Sequence[Row]) -> None:
        self._connection.cursor().executemany(statement, rows)  # type: ignore[arg-type]

    def drop(self, what: str) -> None:
        found = self.run("SELECT relkind FROM pg_class WHERE oid = to_regclass(%s)", what[-1])
        if found and (found[0][0] == "v") == what.startswith("VIEW"):
            super().drop(what)

    def partitions(self, kind: Kind) -> str:
        if not kind.split:
            return ""
        parts = (("MINVALUE", kind.split), (kind.split, "MAXVALUE"))
        made = (
            f"CREATE TABLE t{number} PARTITION OF t FOR VALUES FROM ({lo}) TO ({hi})"
            for number, (lo, hi) in enumerate(parts)
        )
        return f" PARTITION BY RANGE (k0); {'; '.join(made)}"

    def analyze(self, table: str) -> None:
        self.run(f"ANALYZE {table}")


class MysqlBench(Bench):
    """MySQL or MariaDB."""

    engine = "mysql"
    insert = ("INSERT IGNORE", "")

    def __init__(self, dsn: str, connection: Connection[Any]) -> None:
        super().__init__(dsn, database_of(dsn))
        self._connection = connection

    def run(self, statement: str, *values: Any) -> list[Row]:
        return ask(self._connection, statement, *values)

    def many(self, statement: str, rows: Sequence[Row]) -> None:
        with self._connection.cursor() as cursor:
            cursor.executemany(statement, rows)

    def partitions(self, kind: Kind) -> str:
        if not kind.split:
            return ""
        return (
            f" PARTITION BY RANGE COLUMNS (k0) (PARTITION a VALUES LESS THAN ({kind.split}),"
            " PARTITION z VALUES LESS THAN (MAXVALUE))"
        )

    def analyze(self, table: str) -> None:
        self.run(f"ANALYZE TABLE {table} PERSISTENT FOR ALL")


@contextmanager
def mysql_bench(dsn: str) -> Iterator[MysqlBench]:
    """A bench on an empty database of MariaDB."""
    with client(dsn) as connection:
        yield MysqlBench(dsn, connection)


@contextmanager
def random_pages(random: Random) -> Iterator[None]:
    """Pages of any sizes, in this process; whoever makes their servo."""
    begin = PageServo.__init__

    def begun(servo: PageServo, *arguments: Any, **options: Any) -> None:
        begin(servo, *arguments, **options)
        servo._rows = 3

    def observe(servo: PageServo, asked: int, rows: int, wire_bytes: int, seconds: float) -> None:
        servo._rows = random.choice([1, 2, 7, 50, 1000])

    with mock.patch.object(PageServo, "__init__", begun), mock.patch.object(PageServo, "observe", observe):
        yield


class Trial:
    """A random table and its export.

    Args:
        bench: the server.
        mode: type of windows.
        kind: kind of key.
        random: where everything random comes from.
        lake: an empty folder.
    """

    def __init__(self, bench: Bench, mode: str, kind: str, random: Random, lake: Path) -> None:
        self.bench, self.mode, self.kind, self.random, self.lake = bench, mode, KINDS[kind], random, lake
        self._numbers = iter(range(1, 1 << 30))
        self._base = bench.base(self.kind)
        bench.make(self.kind, random)
        values: dict[str, Any] = {
            "table": f"{bench.schema}.t",
            "windows": self.kind.windows(mode, random),
            "limits": {"attempts": 1},
        }
        if self.kind.place == "query":
            values["query"] = f"SELECT * FROM {bench.schema}.b WHERE n >= 0 -- all of them"
        self.config = parse_config(values)
        self.export = TableExport(self.config, bench.dsn, str(lake))
        bench.add(self.kind, self._rows(random.choice([5, 40, 90])))

    def _rows(self, count: int) -> list[Row]:
        return [(*self.kind.draw(self.random), next(self._numbers), "new") for _ in range(count)]

    def _ask(self, statement: str, *values: Any) -> list[Row]:
        return self.bench.run(statement.replace("{b}", self._base), *values)

    def take_later_rows(self) -> list[Row]:
        """Take the last rows in the key's order out of the table, for later."""
        order = ", ".join((*self.kind.names, "n"))
        rows = self._ask(f"SELECT * FROM {{b}} WHERE k0 IS NOT NULL ORDER BY {order}")
        later = rows[len(rows) * self.random.randint(2, 9) // 10 :]
        self._delete([row[-2] for row in later])
        return later

    def _delete(self, numbers: Sequence[int]) -> None:
        if numbers:
            self._ask(f"DELETE FROM {{b}} WHERE n IN ({', '.join(map(str, numbers))})")

    def change(self, later: list[Row]) -> None:
        """Delete some rows, let cursors of others grow, and insert what was kept for later, and more."""
        later = [tuple(value.encode() if isinstance(value, bytearray) else value for value in row) for row in later]
        self.random.shuffle(later)
        numbers = [n for (n,) in self._ask("SELECT n FROM {b} ORDER BY n")]
        self._delete(self.random.sample(numbers, len(numbers) // 5))
        changed = self.random.sample(numbers, min(len(numbers), len(later)) // 4)
        new = ", ".join(f"{name} = %s" for name in self.kind.names)
        for number in changed:
            self._ask(f"UPDATE {{b}} SET {new}, v = 'moved' WHERE n = %s", *later.pop()[:-2], number)
        self.bench.add(self.kind, [*later, *self._rows(self.random.randint(0, 20))])

    def run(self) -> None:
        """The whole trial."""
        later = self.take_later_rows()
        if self.random.randrange(3):
            self.bench.analyze(self._base)
        first, _ = self.export.plan()
        before = tree(self.lake)
        assert self.export.preview()[1] == 0
        self.change(later)
        grown, _ = self.export.plan()
        assert before.items() <= tree(self.lake).items(), "a segment was changed"
        assert grown.windows[: len(first.windows)] == first.windows
        assert self.export.planned() == grown
        windows = self._slices(grown) if self.mode == "time" else list(grown.windows)
        self._check_chain(windows)
        within = self._covered(grown)
        # What comes after the plan is in its windows, or behind them.
        self.bench.add(self.kind, self._rows(self.random.randint(0, 20)))
        expected = self._ask(f"SELECT n, v FROM {{b}} WHERE {within}")
        found = self._exported(grown, windows)
        assert sorted(found) == sorted(expected)
        if windows:
            self.export.seal(grown, windows if self.mode == "time" else ())

    def _covered(self, plan: Plan) -> str:
        """A condition in SQL: the rows that the windows have, up to the greatest one that is there at this moment."""
        if self.mode == "full":
            return "1 = 1"
        if self.mode == "time":
            return f"k0 >= '{START}' AND k0 < '{END}'"
        columns = ", ".join(plan.head.key[:1] if self.mode == "int_range" else plan.head.key)
        descending = ", ".join(f"{name} DESC" for name in (*plan.head.key, "n"))
        last = self._ask(f"SELECT n FROM {{b}} WHERE k0 IS NOT NULL ORDER BY {descending} LIMIT 1")
        if not last:
            return "k0 IS NULL"
        frontier = [
            repr(value) if isinstance(value, int) else value
            for value in self._ask(f"SELECT {columns} FROM {{b}} WHERE n = {last[0][0]}")[0]
        ]
        assert plan.frontier is not None
        assert len(plan.frontier) == len(frontier)
        return f"k0 IS NULL OR ({columns}) <= (SELECT {columns} FROM {self._base} AS o WHERE n = {last[0][0]})"

    def _slices(self, plan: Plan) -> list[Window]:
        options = self.config.windows
        assert isinstance(options, TimeWindows)
        days = dg.DailyPartitionsDefinition(start_date=START, end_date=END, timezone="UTC")
        found = [
            (key, days.time_window_for_partition_key(key))
            for key in days.get_partition_keys(current_time=datetime(2025, 1, 1, tzinfo=timezone.utc))
        ]
        return [time_window(plan, options, key, window.start, window.end) for key, window in found]

    def _check_chain(self, windows: Sequence[Window]) -> None:
        bounded = [window for window in windows if not window.span.nulls]
        assert [window.index for window in windows if window.span.nulls] == ([0] if len(windows) > len(bounded) else [])
        assert all(before.span.hi == after.span.lo for before, after in pairwise(bounded))
        if self.mode not in ("time", "full"):
            assert all(window.span.hi for window in bounded)
            assert not bounded or bounded[0].span.lo is None

    def _exported(self, plan: Plan, windows: Sequence[Window]) -> list[Row]:
        """(n, v) of every row in the parts."""
        folder = self.lake / table_folder(*self.config.relation)
        found: list[Row] = []
        with (
            random_pages(self.random),
            self.export.run(plan, windows, "work", self.random.randint(1, 3)) as run,
        ):
            for outcome in run:
                if outcome.error is not None:
                    raise outcome.error
                assert outcome.manifest is not None
                for part in outcome.manifest.parts:
                    table = pq.ParquetFile(folder / part.path).read(columns=["n", "v"])
                    found += zip(*(column.to_pylist() for column in table.columns), strict=True)
        return found
