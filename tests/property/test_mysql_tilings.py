"""Tilings on MariaDB: whatever the keys, the bounds and the pages, the union is the table, and no row is read twice."""

from __future__ import annotations

import random
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demo.mariadb import MariaServer
from rivet_dagster.sources import TypeChoices
from rivet_dagster.sources.base import BatchLimits, ColumnChoice, Key, KeyRange, KeyText, Table
from rivet_dagster.sources.mysql.keys import KeyShape, key_text, spelled
from rivet_dagster.sources.mysql.rules import rule_of
from rivet_dagster.sources.mysql.session import MysqlSession, MysqlWindowReader
from tests.support.exports import export_all, prepared, run_all
from tests.support.mysql_tables import Sql, ask, client, database_of, described, session_of
from tests.support.readers import exported_rows

# Letters that collations take for others, or for nothing; blanks that padding adds; and emoji.
_LETTERS = st.sampled_from(
    [*"aAbBäÄeEéÉßsSzZ09_% \t'\"\\?`", "æ", "ø", "İ", "\u0131", "ñ", "e\u0301", "日", "ﬀ", "😀", "👍🏽"]
)
TEXT = st.one_of(
    st.lists(_LETTERS, max_size=6).map("".join),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=5),
)
# What latin1 of the server (Windows' code page 1252) has.
_LATIN = st.text(st.sampled_from("aAbBzZäÄöÖßéÉÿŸ€ ~\0\x7f'\\?%"), max_size=6)
_KANJI = st.text(st.sampled_from("aAzZ09 日本語アｱソ"), max_size=6)
_BYTES = st.one_of(
    st.binary(max_size=6), st.lists(st.sampled_from([b"\0", b" ", b"\xff", b"a"]), max_size=5).map(b"".join)
)


def decimals(digits: int, places: int) -> st.SearchStrategy[Any]:
    end = 10 ** (digits - places) - 1
    return st.decimals(min_value=-end, max_value=end, places=places)


def integers(bits: int, *, signed: bool) -> st.SearchStrategy[int]:
    least, most = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return st.one_of(st.integers(least, most), st.integers(max(least, -5), 5), st.integers(most - 4, most))


_HEX = st.text("0123456789abcdef", min_size=16, max_size=16)
_MOMENTS = st.one_of(
    st.datetimes().map(lambda value: value.isoformat(" ", "microseconds")),
    st.sampled_from(
        ["0000-00-00 00:00:00", "2024-00-00 00:00:00", "2023-02-31 10:00:00.5", "9999-12-31 23:59:59.999999"]
    ),
)
_TIMES = st.integers(-(838 * 3600 + 59 * 60 + 59) * 10**6, (838 * 3600 + 59 * 60 + 59) * 10**6).map(
    lambda value: (
        f"{'-' * (value < 0)}{abs(value) // 3_600_000_000}:{abs(value) // 60_000_000 % 60:02d}:"
        f"{abs(value) // 10**6 % 60:02d}.{abs(value) % 10**6:06d}"
    )
)

KEYS: dict[str, st.SearchStrategy[Any]] = {
    "tinyint": integers(8, signed=True),
    "smallint unsigned": integers(16, signed=False),
    "mediumint": integers(24, signed=True),
    "int": integers(32, signed=True),
    "int(8) unsigned zerofill": integers(32, signed=False),
    "bigint": integers(64, signed=True),
    "bigint unsigned": integers(64, signed=False),
    "decimal(12,3)": decimals(12, 3),
    "decimal(65,30)": decimals(65, 30),
    "decimal(20,0) unsigned": st.integers(0, 10**20 - 1),
    "float": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "double": st.floats(allow_nan=False, allow_infinity=False),
    "bit(1)": st.integers(0, 1),
    "bit(64)": integers(64, signed=False),
    "year": st.one_of(st.just(0), st.integers(1901, 2155)),
    "date": _MOMENTS.map(lambda value: value[:10]),
    "datetime": _MOMENTS,
    "datetime(6)": _MOMENTS,
    "timestamp(6)": st.integers(10**6, 2**31 * 10**6 - 1),
    "time": _TIMES,
    "time(6)": _TIMES,
    "varchar(20) COLLATE utf8mb4_general_ci": TEXT,
    "varchar(20) COLLATE utf8mb4_unicode_520_nopad_ci": TEXT,
    "varchar(20) COLLATE utf8mb4_uca1400_ai_ci": TEXT,
    "varchar(20) COLLATE utf8mb4_uca1400_as_cs": TEXT,
    "varchar(20) COLLATE utf8mb4_swedish_ci": TEXT,
    "varchar(20) COLLATE utf8mb4_bin": TEXT,
    "varchar(20) COLLATE utf8mb4_nopad_bin": TEXT,
    "char(12) COLLATE utf8mb4_unicode_ci": TEXT,
    "varchar(20) COLLATE latin1_swedish_ci": _LATIN,
    "varchar(20) COLLATE latin1_german2_ci": _LATIN,
    "varchar(20) COLLATE latin1_bin": _LATIN,
    "varchar(20) COLLATE sjis_japanese_ci": _KANJI,
    "varchar(20) COLLATE utf16_general_ci": TEXT,
    "binary(16)": st.one_of(_BYTES, st.binary(min_size=16, max_size=16)),
    "varbinary(16)": _BYTES,
    "uuid": st.uuids(version=4).map(str),
    "inet4": st.ip_addresses(v=4).map(str),
    "inet6": st.ip_addresses(v=6).map(str),
}


@dataclass(frozen=True)
class Made:
    """A table to be: types of its key's columns, rows, and values to bound windows by."""

    kinds: list[str]
    rows: list[tuple[Any, ...]]
    bounds: list[tuple[Any, ...]]


@st.composite
def tables(draw: st.DrawFn, kinds: Sequence[str] = ()) -> Made:
    chosen = list(kinds) or draw(st.lists(st.sampled_from(sorted(KEYS)), min_size=1, max_size=4))
    # Few different values a column, so that keys begin alike.
    pools = [
        draw(st.lists(KEYS[kind], min_size=1, max_size=5 if number + 1 < len(chosen) else 25))
        for number, kind in enumerate(chosen)
    ]
    value = st.tuples(*map(st.sampled_from, pools))
    other = st.tuples(*(KEYS[kind] for kind in chosen))
    rows = draw(st.lists(value, max_size=30))
    return Made(chosen, rows, draw(st.lists(st.one_of(value, other), max_size=6)))


def make(connection: Any, made: Made) -> None:
    """The table `t` with its rows, without those that the server takes for another one; in `b`, the bounds."""
    names = [f"k{number}" for number in range(len(made.kinds))]
    columns = ", ".join(f"{name} {kind} NOT NULL" for name, kind in zip(names, made.kinds, strict=True))
    places = ", ".join(
        "from_unixtime(CAST(%s AS decimal(20,6)) / 1000000)" if kind.startswith("timestamp") else "%s"
        for kind in made.kinds
    )
    ask(connection, "DROP TABLE IF EXISTS t, b")
    ask(connection, f"CREATE TABLE t ({columns}, n int NOT NULL, PRIMARY KEY ({', '.join(names)}))")
    ask(connection, f"CREATE TABLE b ({columns}, n int PRIMARY KEY)")
    for number, row in enumerate(made.rows):
        ask(connection, f"INSERT INTO t VALUES ({places}, %s) ON DUPLICATE KEY UPDATE n = n", *row, number)
    for number, row in enumerate(made.bounds):
        ask(connection, f"INSERT INTO b VALUES ({places}, %s)", *row, number)


class Reading:
    """One table, read by a session in windows of any bounds and pages of any sizes."""

    def __init__(self, dsn: str, session: MysqlSession) -> None:
        self.session = session
        self.table: Table = session.describe(database_of(dsn), "t")
        self.key: Key = self.table.keys[0]
        self.shape = KeyShape(self.table, self.key)

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        return ask(self.session._connection, statement)

    def bounds(self) -> list[KeyText]:
        """The bounds, as the server writes and sorts them."""
        rows = self.ask(f"SELECT {self.shape.texts} FROM b AS t ORDER BY {self.shape.columns}")
        return [key_text(row) for row in rows]

    def named(self, key: KeyText) -> list[int]:
        """Numbers of the rows whose key the server finds equal to a text."""
        literals = map(self.session._connection.escape, key)
        bounds = [spelled(bound, value, "?") for bound, value in zip(self.shape._bounds, literals, strict=True)]
        where = " AND ".join(f"{name} = {bound}" for name, bound in zip(self.shape._names, bounds, strict=True))
        return [n for (n,) in self.ask(f"SELECT n FROM t AS t WHERE {where}")]

    def window(self, span: KeyRange, sizes: list[int]) -> list[int]:
        """Numbers of a window's rows, page by page; checks that every page's last key is that of its last row."""
        found: list[int] = []
        ends: list[tuple[int, KeyText]] = []
        rows, after = 0, span.lo
        with self.session.open_window(self.table, self.key, BatchLimits()) as reader:
            while True:
                asked = sizes[len(ends)] if len(ends) < len(sizes) else 1000
                page = reader.read_page(KeyRange(after, span.hi), asked)
                found += numbers(reader.decode_page())
                rows += page.rows
                if page.rows:
                    ends.append((rows, reader.last_key()))
                if page.rows < asked:
                    break
                after = ends[-1][1]
            found += numbers(reader.finish())
        for position, key in ends:
            assert self.named(key) == [found[position - 1]], key
        return found


def numbers(batches: Any) -> list[int]:
    return [n for batch in batches for n in batch.column("n").to_pylist()]


SIZES = st.lists(st.integers(1, 7), max_size=40)
# Dates that do not exist and negative times as NULL, or their columns as text; or whatever can be as text: each is
# another way from a row's bytes to its key.
READ_AS = st.sampled_from(["null", "text", "all as text"])


def choices(table: Table, read_as: str) -> TypeChoices:
    if read_as != "all as text":
        return TypeChoices(unrepresentable="text" if read_as == "text" else "null")
    as_text = [column.name for column in table.columns if "text" in rule_of(column).choices and column.name != "n"]
    return TypeChoices({name: ColumnChoice("text") for name in as_text}, "null")


def check_tiling(dsn: str, made: Made, sizes: list[int], read_as: str) -> None:
    with client(dsn) as connection:
        make(connection, made)
    with session_of(dsn, types=choices(described(dsn), read_as)) as session:
        reading = Reading(dsn, session)
        edges: list[KeyText | None] = [None, *reading.bounds(), None]
        found: list[int] = []
        for lo, hi in pairwise(edges):
            found += reading.window(KeyRange(lo, hi), sizes)
        assert found == [n for (n,) in reading.ask(f"SELECT n FROM t AS t ORDER BY {reading.shape.columns}")]
        assert len(found) == len(set(found)) == reading.ask("SELECT count(*) FROM t")[0][0]
        # A walk's keys are the server's own text.
        position: KeyText | None = None
        for number in found:
            step = session.walk(reading.table, reading.key, position, 1)
            assert step is not None
            assert reading.named(step.key) == [number]
            position = step.key
        assert session.walk(reading.table, reading.key, position, 1) is None


quick = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.mark.parametrize("kind", KEYS)
@settings(quick, max_examples=8)
@given(data=st.data(), sizes=SIZES, read_as=READ_AS)
def test_windows_of_any_bounds_tile_keys_of_every_type(
    mysql_dsn: str, kind: str, data: st.DataObject, sizes: list[int], read_as: str
) -> None:
    check_tiling(mysql_dsn, data.draw(tables([kind])), sizes, read_as)


@settings(quick, max_examples=60)
@given(made=tables(), sizes=SIZES, read_as=READ_AS)
def test_windows_of_any_bounds_tile_composite_keys(mysql_dsn: str, made: Made, sizes: list[int], read_as: str) -> None:
    check_tiling(mysql_dsn, made, sizes, read_as)


@settings(quick, max_examples=15)
@given(made=tables(), rows=st.integers(1, 9), workers=st.integers(1, 3))
def test_an_export_tiles_the_key_space(mysql_dsn: str, made: Made, rows: int, workers: int) -> None:
    with client(mysql_dsn) as connection, tempfile.TemporaryDirectory() as lake:
        make(connection, made)
        name = f"{database_of(mysql_dsn)}.t"
        outcomes = export_all(prepared(mysql_dsn, Path(lake), name, rows=rows, unrepresentable="null"), workers=workers)
        found = [row[-1] for row in exported_rows(Path(lake) / name)]
        order = ", ".join(f"k{number}" for number in range(len(made.kinds)))
        assert found == [n for (n,) in ask(connection, f"SELECT n FROM t ORDER BY {order}")]
    assert all(outcome.manifest is not None and outcome.manifest.rows for outcome in outcomes)


# ------------------------------------------------------------------------------------------ while others write


class Writer(threading.Thread):
    """Deletes rows and inserts others, in a connection of its own, until it is stopped.

    Rows whose number is divisible by three stay; those from a million on come and go.
    """

    def __init__(self, dsn: str, seed: int) -> None:
        super().__init__(daemon=True)
        self._dsn = dsn
        self._random = random.Random(seed)
        self._ended = threading.Event()
        self._round = threading.Condition()
        self.rounds = 0
        self.failed: list[Exception] = []

    def run(self) -> None:
        try:
            with client(self._dsn) as connection:
                while not self._ended.is_set():
                    self._write(connection)
                    with self._round:
                        self.rounds += 1
                        self._round.notify_all()
        except Exception as exc:  # noqa: BLE001 (shown by the test)
            with self._round:
                self.failed.append(exc)
                self._round.notify_all()

    def _write(self, connection: Any) -> None:
        lo = self._random.randrange(100_000)
        some = "mod(n, 3) <> 0 AND crc32(n) BETWEEN %s AND %s"
        ask(connection, f"DELETE FROM t WHERE {some}", lo * 40000, lo * 40000 + 10**8)
        first = 1_000_000 + self.rounds * 50
        values = ", ".join(
            f"('{self._random.choice('aAbBéÉzZ0_')}{self._random.randrange(10**6)}', {n})"
            for n in range(first, first + 50)
        )
        ask(connection, f"INSERT IGNORE INTO t VALUES {values}")

    def wait_for_rounds(self, count: int) -> None:
        """Until it has written `count` times more."""
        with self._round:
            wanted = self.rounds + count
            assert self._round.wait_for(lambda: self.rounds >= wanted or self.failed, 60)
            assert not self.failed

    def __enter__(self) -> Writer:
        self.start()
        self.wait_for_rounds(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join(30)


@pytest.mark.parametrize("seed", range(4))
def test_rows_that_stay_are_exported_once_while_others_come_and_go(
    mysql_dsn: str, mysql_sql: Sql, lake: Path, seed: int
) -> None:
    mysql_sql("CREATE TABLE t (a varchar(20) COLLATE utf8mb4_general_ci PRIMARY KEY, n int NOT NULL)")
    mysql_sql(
        "INSERT INTO t SELECT concat(elt(1 + seq % 6, 'a', 'B', 'é', 'ß', 'Z', '_'), seq * 7919 % 1000003), seq"
        " FROM seq_1_to_60000"
    )
    staying = {n for (n,) in mysql_sql("SELECT n FROM t WHERE n % 3 = 0")}
    name = f"{database_of(mysql_dsn)}.t"
    export = prepared(mysql_dsn, lake, name, rows=4000, limits={"page_bytes": 65536})
    with Writer(mysql_dsn, seed) as writer:
        plan, _ = export.plan()
        with export.run(plan, plan.windows, "work", 2) as run:
            for outcome in run:
                assert outcome.error is None
                writer.wait_for_rounds(1)
        # The rows behind the frontier: windows that are committed stay as they are.
        longer, _ = export.plan()
        run_all(export, longer, "work")
    export.seal(longer)
    assert not writer.failed
    assert longer.windows[: len(plan.windows)] == plan.windows
    found = [n for _, n in exported_rows(lake / name)]
    assert len(found) == len(set(found))
    assert staying <= set(found)
    assert set(found) - staying, "rows that came and went were met too"


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "READ UNCOMMITTED", "SERIALIZABLE", "REPEATABLE READ"])
def test_pages_of_a_window_are_of_one_moment(
    mysql_dsn: str, mysql_sql: Sql, mariadb: MariaServer, isolation: str
) -> None:
    """Whatever the server's default for sessions."""
    mysql_sql("CREATE TABLE t (a int PRIMARY KEY, n int NOT NULL) ENGINE = InnoDB")
    mysql_sql("INSERT INTO t SELECT seq, seq FROM seq_1_to_1000")
    with mariadb.connect() as admin:
        ask(admin, f"SET GLOBAL TRANSACTION ISOLATION LEVEL {isolation}")
        try:
            with session_of(mysql_dsn) as session:
                table = session.describe(database_of(mysql_dsn), "t")
                with session.open_window(table, table.keys[0], BatchLimits()) as reader:
                    mysql_sql("UPDATE t SET n = -n WHERE a <= 500")
                    found = page_of(reader, None)
                    mysql_sql("UPDATE t SET n = n + 5000 WHERE a > 300")
                    mysql_sql("DELETE FROM t WHERE a > 900")
                    mysql_sql("INSERT INTO t VALUES (0, 0), (2000, 2000)")
                    while (after := reader.last_key()) != ("1000",):
                        found += page_of(reader, after)
                    found += numbers(reader.finish())
                assert found == list(range(1, 1001))
                with session.open_window(table, table.keys[0], BatchLimits()) as reader:
                    # A new window sees what was committed before it.
                    page = reader.read_page(KeyRange(None, None), 5000)
                    assert page.rows == 902
                    assert sorted([*numbers(reader.decode_page()), *numbers(reader.finish())])[:3] == [-300, -299, -298]
        finally:
            ask(admin, "SET GLOBAL TRANSACTION ISOLATION LEVEL REPEATABLE READ")


def page_of(reader: MysqlWindowReader, after: KeyText | None) -> list[int]:
    reader.read_page(KeyRange(after, ("1000",)), 200)
    return numbers(reader.decode_page())
