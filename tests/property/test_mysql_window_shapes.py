"""Spans of every shape on MariaDB: what is read page by page is what plain SQL gives for the same condition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rivet_dagster.sources.base import BatchLimits, Key, KeyRange, KeyText, Table, TypeChoices
from rivet_dagster.sources.mysql.session import MysqlSession
from rivet_dagster.sources.ordering import choose_key, order_by
from tests.support.mysql_tables import ask, client, database_of, session_of

# Few different values, so that many rows share one.
KINDS: dict[str, list[Any]] = {
    "int": [-(2**31), -1, 0, 1, 2**31 - 1],
    "bigint": [-(2**63), -(2**63) + 1, -1, 0, 2**63 - 1],
    "bigint unsigned": [0, 1, 2**63, 2**64 - 2, 2**64 - 1],
    "decimal(20,3)": ["-99999999999999999.999", "-0.001", "0", "0.001", "99999999999999999.999"],
    "datetime(3)": ["2024-01-01 00:00:00", "2024-01-01 00:00:00.001", "0000-00-00 00:00:00", "9999-12-31 23:59:59.999"],
    "date": ["0000-00-00", "2024-00-00", "2024-02-29", "2023-02-31", "9999-12-31"],
    "varchar(9) COLLATE utf8mb4_general_ci": ["a", "A ", "á", "b", "", "ß", "S"],
    "varchar(9) COLLATE utf8mb4_unicode_nopad_ci": ["a", "a ", "Á", "b", "", "z"],
    "varchar(9) COLLATE latin1_swedish_ci": ["a", "A", "z", "Ü", "Y"],
    "varbinary(4)": [b"", b"\0", b"\0\0", b"a", b"\xff\xff"],
    "binary(3)": [b"", b"a", b"\xff\xff\xff"],
    "time(2)": ["-838:59:59", "-00:00:00.01", "00:00:00", "838:59:59.99"],
    "uuid": [
        "00000000-0000-0000-0000-000000000001",
        "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
        "ff" * 4 + "-0000" * 3 + "-" + "0" * 12,
    ],
}
# Dates that there are not and negative times become NULL in the batches, never in the keys.
NULLS = TypeChoices(unrepresentable="null")
NAMES = ("a", "b", "c")
TIES = ("p", "q")


@dataclass(frozen=True)
class Made:
    """A table to be.

    Attributes:
        kinds: types of the columns `a`, `b`, `c`, as many as there are; `a` may be NULL.
        rows: their values.
        composite: whether the primary key has two columns, `p` and `q`, instead of one.
        unique: whether the index over `a` is a unique one, over `a` alone.
        engine: of the table.
    """

    kinds: list[str]
    rows: list[tuple[Any, ...]]
    composite: bool
    unique: bool
    engine: str

    @property
    def names(self) -> tuple[str, ...]:
        return NAMES[: len(self.kinds)]


@st.composite
def tables(draw: st.DrawFn) -> Made:
    kinds = draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=3))
    values = [st.sampled_from(KINDS[kind]) for kind in kinds]
    rows = draw(st.lists(st.tuples(st.one_of(st.none(), values[0]), *values[1:]), max_size=20))
    unique = draw(st.booleans())
    return Made(
        kinds[: 1 if unique else 3],
        [row[: 1 if unique else 3] for row in rows],
        draw(st.booleans()),
        unique,
        draw(st.sampled_from(["InnoDB", "InnoDB", "InnoDB", "MyISAM"])),
    )


def make(connection: Any, made: Made) -> None:
    """The table `t`, and a view `v` of it; `n` numbers the rows."""
    columns = [
        f"{name} {kind} {'NULL' if name == 'a' else 'NOT NULL'}"
        for name, kind in zip(made.names, made.kinds, strict=True)
    ]
    ties = TIES if made.composite else TIES[:1]
    names = ", ".join(made.names)
    index = f"UNIQUE i (a), KEY j ({names})" if made.unique else f"KEY i ({names})"
    ask(connection, "DROP VIEW IF EXISTS v")
    ask(connection, "DROP TABLE IF EXISTS t")
    ask(
        connection,
        f"CREATE TABLE t ({', '.join(columns)}, p int NOT NULL, q int NOT NULL, n int NOT NULL,"
        f" PRIMARY KEY ({', '.join(ties)}), {index}) ENGINE = {made.engine}",
    )
    ask(connection, "CREATE VIEW v AS SELECT * FROM t")
    for number, row in enumerate(made.rows):
        # Keys that ascend in another order than the rows were made in.
        place = number * 7 % 23 if not made.composite else number * 7 % 23 // 4
        values = (*row, place, number * 7 % 23 % 4, number)
        ask(connection, f"INSERT IGNORE INTO t VALUES ({', '.join(['%s'] * len(values))})", *values)


class Spans:
    """A table's rows in the order of a key, by plain SQL, and the spans that they make."""

    def __init__(self, connection: Any, session: MysqlSession, table: Table, key: Key) -> None:
        self.session, self.table, self.key = session, table, key
        self._connection = connection
        order = ", ".join(key.columns)
        self.rows = [
            n for (n,) in ask(connection, f"SELECT n FROM t WHERE {key.columns[0]} IS NOT NULL ORDER BY {order}")
        ]
        later = ", ".join(key.columns[1:]) or "1"
        self.nulls = [n for (n,) in ask(connection, f"SELECT n FROM t WHERE {key.columns[0]} IS NULL ORDER BY {later}")]

    def prefix(self, number: int, size: int) -> list[int]:
        """Rows that are equal to one of them in the first columns, as the server compares columns."""
        equal = " AND ".join(f"x.{name} = y.{name}" for name in self.key.columns[:size])
        return [n for (n,) in ask(self._connection, f"SELECT x.n FROM t x JOIN t y ON {equal} WHERE y.n = {number}")]

    def expected(self, lo: tuple[int, int] | None, hi: tuple[int, int] | None, *, half_open: bool) -> list[int]:
        """Rows between two bounds, each of them a row's number and how many of its values count."""
        places = {number: place for place, number in enumerate(self.rows)}
        start, end = 0, len(self.rows)
        if lo:
            equal = [places[n] for n in self.prefix(*lo)]
            start = min(equal) if half_open else max(equal) + 1
        if hi:
            equal = [places[n] for n in self.prefix(*hi)]
            end = min(equal) if half_open else max(equal) + 1
        return self.rows[start:end]

    def keys(self, nulls: bool) -> dict[int, KeyText]:
        """The keys of all rows, as pages of one row give them."""
        found: dict[int, KeyText] = {}
        after: KeyText | None = None
        with self.session.open_window(self.table, self.key, BatchLimits(rows=1)) as reader:
            while not (page := reader.read_page(KeyRange(None, None, nulls=nulls, after=after), 1)).ended:
                numbers = numbers_of(reader.decode_page())
                after = reader.last_key()
                assert after is not None
                assert len(after) == len(self.key.columns) - nulls
                numbers += numbers_of(reader.finish())
                assert page.rows == 1
                (number,) = numbers
                assert number not in found
                found[number] = after
            assert page.rows == 0
        return found

    def read(self, span: KeyRange, sizes: list[int]) -> list[int]:
        """Rows of a span, page by page or piece by piece."""
        found: list[int] = []
        with self.session.open_window(self.table, self.key, BatchLimits()) as reader:
            after = span.after
            for at in range(10_000):
                asked = sizes[at] if at < len(sizes) else 100
                now = KeyRange(span.lo, span.hi, span.half_open, span.nulls, after)
                page = reader.read_page(now, asked)
                found += numbers_of(reader.decode_page())
                if page.ended:
                    break
                after = reader.last_key()
            assert page.ended
            assert page.rows < asked
            found += numbers_of(reader.finish())
        return found


def numbers_of(batches: Any) -> list[int]:
    return [n for batch in batches for n in batch.column("n").to_pylist()]


def check_spans(spans: Spans, data: st.DataObject, sizes: list[int]) -> None:
    session, table, key = spans.session, spans.table, spans.key
    keys = spans.keys(nulls=False)
    assert list(keys) == spans.rows
    ordered_nulls = list(keys_of_nulls) if (keys_of_nulls := null_keys(spans)) else []
    assert spans.read(KeyRange(None, None, nulls=True), sizes) == spans.nulls or not ordered_nulls
    assert sorted(spans.read(KeyRange(None, None, nulls=True), sizes)) == sorted(spans.nulls)
    for place, number in enumerate(ordered_nulls):
        span = KeyRange(None, None, nulls=True, after=keys_of_nulls[number])
        assert spans.read(span, sizes) == spans.nulls[place + 1 :]
    for place, number in enumerate(spans.rows):
        assert spans.read(KeyRange(None, None, after=keys[number]), sizes) == spans.rows[place + 1 :]
    if not spans.rows:
        assert session.last(table, key) is None
        return
    last = session.last(table, key)
    assert last is not None
    assert spans.read(KeyRange(last, None), sizes) == []
    assert spans.read(KeyRange(None, last), sizes) == spans.rows
    bound = st.one_of(st.none(), st.tuples(st.sampled_from(spans.rows), st.integers(1, len(key.columns))))
    for _ in range(6):
        lo, hi, half_open = data.draw(bound), data.draw(bound), data.draw(st.booleans())
        expected = spans.expected(lo, hi, half_open=half_open)
        ends = [keys[end[0]][: end[1]] if end else None for end in (lo, hi)]
        span = KeyRange(ends[0], ends[1], half_open)
        assert spans.read(span, sizes) == expected
        limit = data.draw(st.integers(1, 25))
        assert session.count(table, key, span, limit) == min(limit, len(expected))
        if expected:
            after = data.draw(st.sampled_from(expected))
            beyond = KeyRange(span.lo, span.hi, half_open, after=keys[after])
            assert spans.read(beyond, sizes) == expected[expected.index(after) + 1 :]
        if not half_open:
            step = session.walk(table, key, ends[0], limit, ends[1])
            assert (step.rows if step else 0) == min(limit, len(expected))
            if step:
                assert spans.read(KeyRange(ends[0], step.key), sizes) == expected[: step.rows]


def null_keys(spans: Spans) -> dict[int, KeyText]:
    """Keys of the rows with NULL, where anything orders these."""
    with spans.session.open_window(spans.table, spans.key, BatchLimits()) as reader:
        reader.read_page(KeyRange(None, None, nulls=True), 100)
        rows = numbers_of(reader.decode_page()) + numbers_of(reader.finish())
        if not rows or reader.last_key() is None:
            return {}
    return spans.keys(nulls=True)


quick = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
SIZES = st.lists(st.integers(1, 5), max_size=30)


@settings(quick, max_examples=40)
@given(made=tables(), sizes=SIZES, data=st.data())
def test_spans_of_every_shape_are_read_as_plain_sql_reads_them(
    mysql_dsn: str, made: Made, sizes: list[int], data: st.DataObject
) -> None:
    with client(mysql_dsn) as connection, session_of(mysql_dsn, types=NULLS) as session:
        make(connection, made)
        table = session.describe(database_of(mysql_dsn), "t")
        size = data.draw(st.integers(1, len(made.kinds)))
        key = order_by(table, made.names[:size])
        check_spans(Spans(connection, session, table, key), data, sizes)


@settings(quick, max_examples=15)
@given(made=tables(), sizes=SIZES, data=st.data())
def test_declared_keys_of_views_and_queries_are_read_alike(
    mysql_dsn: str, made: Made, sizes: list[int], data: st.DataObject
) -> None:
    with client(mysql_dsn) as connection, session_of(mysql_dsn, types=NULLS) as session:
        make(connection, made)
        database = database_of(mysql_dsn)
        query = "SELECT * FROM t WHERE n >= 0 -- all of them"
        described = [session.describe(database, "v"), session.describe_query(database, "x", query)]
        table = data.draw(st.sampled_from(described))
        key = choose_key(table, (*made.names, *(TIES if made.composite else TIES[:1])))
        check_spans(Spans(connection, session, table, key), data, sizes)
