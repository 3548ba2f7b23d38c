"""Values of MariaDB that are larger than `max_value_bytes`: their lengths are seen before their bytes are taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from demo.mariadb import MariaServer
from tests.support.ceilings import BUDGET, LIMIT, measured, refusals, what
from tests.support.exports import prepared
from tests.support.readers import exported_rows

Sql = Callable[[str], list[tuple[Any, ...]]]

# A value of each type that is {n} bytes when it is sent.
KINDS = {
    "longtext": "repeat('x', {n})",
    "mediumtext of two bytes a character": "concat(repeat('é', {n} DIV 2), repeat('x', {n} % 2))",
    "longblob": "repeat(x'00', {n})",
    "json": "concat('[\"', repeat('x', {n} - 4), '\"]')",
}


@contextmanager
def large_packets(server: MariaServer, size: int) -> Iterator[None]:
    """Let the server take and make values of more than the usual 16 MiB; on new connections."""
    with server.connect() as admin, admin.cursor() as cursor:
        cursor.execute("SELECT @@GLOBAL.max_allowed_packet")
        ((before,),) = cursor.fetchall()
        cursor.execute("SET GLOBAL max_allowed_packet = %s", [size])
        try:
            yield
        finally:
            cursor.execute("SET GLOBAL max_allowed_packet = %s", [before])


def failures(
    dsn: str,
    lake: Path,
    table: str,
    engine: Literal["threads", "processes"] = "threads",
    most: int = LIMIT,
    **config: Any,
) -> list[str]:
    """What is said of the windows that failed."""
    export = prepared(dsn, lake, table, limits={"max_value_bytes": most}, **config)
    plan, _ = export.plan()
    with export.run(plan, plan.windows, "work", 2, engine) as run:
        return refusals(sorted(run, key=lambda outcome: plan.windows.index(outcome.window)))


def values(sql: Sql, dsn: str, kind: str) -> str:
    """A table with ids from 1 to 9 in which 5 has a value of exactly the limit, and 8 one of a byte more."""
    sql(f"CREATE TABLE docs (id int PRIMARY KEY, v {kind.partition(' ')[0]}, n int)")
    sql("INSERT INTO docs SELECT seq, NULL, seq * 2 FROM seq_1_to_9")
    for number, size in ((5, LIMIT), (8, LIMIT + 1), (2, 40)):
        sql(f"UPDATE docs SET v = {KINDS[kind].format(n=size)} WHERE id = {number}")
    return f"{dsn.rpartition('/')[2]}.docs"


@pytest.mark.parametrize("kind", KINDS)
def test_a_byte_more_than_the_limit_is_refused(mysql_sql: Sql, mysql_dsn: str, lake: Path, kind: str) -> None:
    table = values(mysql_sql, mysql_dsn, kind)
    assert failures(mysql_dsn, lake, table, rows=3) == [what(table, "v", LIMIT + 1, "id = 8")]
    mysql_sql("DELETE FROM docs WHERE id = 8")
    assert failures(mysql_dsn, lake, table, rows=3) == []
    export = prepared(mysql_dsn, lake, table, rows=3)
    export.seal(export.planned())
    assert exported_rows(lake / table) == mysql_sql("SELECT * FROM docs ORDER BY id")


def test_processes_refuse_it_too(mysql_sql: Sql, mysql_dsn: str, lake: Path) -> None:
    table = values(mysql_sql, mysql_dsn, "longtext")
    assert failures(mysql_dsn, lake, table, "processes", rows=3) == [what(table, "v", LIMIT + 1, "id = 8")]


def test_all_of_a_key_is_named_wherever_it_stands(mysql_sql: Sql, mysql_dsn: str, lake: Path) -> None:
    """The columns of parts have the table's order all the same."""
    mysql_sql(
        "CREATE TABLE t (`a ``large`` one` longtext, day date, n int, name varchar(20), at datetime(3), "
        "PRIMARY KEY (name, day))"
    )
    mysql_sql(
        "INSERT INTO t SELECT 'x', date '2024-02-28' + interval seq day, seq, concat('n ', seq DIV 4), "
        "timestamp('2024-01-01') + interval seq second FROM seq_1_to_12"
    )
    table = f"{mysql_dsn.rpartition('/')[2]}.t"
    mysql_sql(f"UPDATE t SET `a ``large`` one` = repeat('x', {LIMIT + 1}) WHERE n = 5")
    sentence = what(table, "a `large` one", LIMIT + 1, "name = n 1, day = 2024-03-04")
    assert failures(mysql_dsn, lake, table, rows=4) == [sentence]
    mysql_sql("UPDATE t SET `a ``large`` one` = 'short' WHERE n = 5")
    assert failures(mysql_dsn, lake, table, rows=4) == []
    export = prepared(mysql_dsn, lake, table, rows=4)
    seal = export.seal(export.planned())
    assert [column.name for column in seal.columns] == ["a `large` one", "day", "n", "name", "at"]
    assert exported_rows(lake / table) == mysql_sql("SELECT * FROM t ORDER BY name, day")


def test_tables_without_a_key_views_and_queries(mysql_sql: Sql, mysql_dsn: str, lake: Path) -> None:
    values(mysql_sql, mysql_dsn, "longtext")
    schema = mysql_dsn.rpartition("/")[2]
    mysql_sql("CREATE TABLE bare AS SELECT v, id FROM docs")
    found = failures(mysql_dsn, lake, f"{schema}.bare", windows={"type": "full"})
    assert found == [what(f"{schema}.bare", "v", LIMIT + 1, "no key to name it by")]
    mysql_sql("CREATE VIEW seen AS SELECT v, id % 3 AS a, id FROM docs")
    found = failures(mysql_dsn, lake, f"{schema}.seen", rows=3, columns=["a", "id"])
    assert found == [what(f"{schema}.seen", "v", LIMIT + 1, "a = 2, id = 8")]
    query = "SELECT concat(v, 'x') AS v, id FROM docs"
    found = failures(mysql_dsn, lake, "app.made", query=query, rows=3, columns=["id"])
    assert found == [what("app.made", "v", LIMIT + size, f"id = {number}") for number, size in ((5, 1), (8, 2))]


def test_rows_of_several_packets(mariadb: MariaServer, mysql_dsn: str, lake: Path) -> None:
    """Values that are small enough one by one, however large the row; and a key that the packets cut in two."""
    schema = mysql_dsn.rpartition("/")[2]
    most = 12 << 20
    # Before c there are 2 bytes of the row, 4 of id, and 4 for each length. The first packet ends within that of c.
    widths = [16777215 - most - 2 - 4 - 4 - 4 - cut for cut in range(5)]
    with large_packets(mariadb, 128 << 20), mariadb.connect(schema) as connection, connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE wide (id int PRIMARY KEY, a longblob, b longblob, c longblob, d longblob, z int) "
            "ENGINE = Aria"
        )
        for number, width in enumerate(widths):
            values = (number, most, width, 66_000, most + (number % 3 == 1))
            cursor.execute(
                "INSERT INTO wide VALUES (%s, repeat('a', %s), repeat('b', %s), repeat('c', %s), repeat('d', %s), 7)",
                values,
            )
        found = failures(mysql_dsn, lake, f"{schema}.wide", most=most, rows=1)
        assert found == [what(f"{schema}.wide", "d", most + 1, f"id = {number}", most) for number in (1, 4)]
        cursor.execute("DELETE FROM wide WHERE id IN (1, 4)")
        assert failures(mysql_dsn, lake, f"{schema}.wide", most=most, rows=1) == []
        export = prepared(mysql_dsn, lake, f"{schema}.wide", rows=1)
        export.seal(export.planned())
        cursor.execute("SELECT * FROM wide ORDER BY id")
        assert exported_rows(lake / f"{schema}.wide") == list(cursor.fetchall())


def test_memory_stays_within_its_budget(mariadb: MariaServer, mysql_dsn: str, lake: Path) -> None:
    """Values of 300 MB, one of each kind a window; the rows beside them are exported."""
    schema = mysql_dsn.rpartition("/")[2]
    with large_packets(mariadb, 1 << 30), mariadb.connect(schema) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE small (id int PRIMARY KEY, body longtext, raw longblob, doc json)")
        cursor.execute("INSERT INTO small SELECT seq, 'x', 'x', '{}' FROM seq_1_to_12")
        cursor.execute("CREATE TABLE large LIKE small")
        cursor.execute("ALTER TABLE large ENGINE = Aria TRANSACTIONAL = 0")  # InnoDB takes ten seconds for such a value
        cursor.execute("INSERT INTO large SELECT * FROM small")
        for number, change in (
            (2, "body = repeat('0123456789', 30000000)"),
            (5, "raw = repeat(x'00010203040506070809', 30000000)"),
            (8, "doc = concat('[\"', repeat('0123456789', 30000000), '\"]')"),
        ):
            cursor.execute(f"UPDATE large SET {change} WHERE id = {number}")
        found = measured(mysql_dsn, str(lake), f"{schema}.small", f"{schema}.large", 256 << 20)
        cursor.execute("DROP TABLE large")
    expected = [
        what(f"{schema}.large", "body", 300_000_000, "id = 2", 256 << 20),
        what(f"{schema}.large", "raw", 300_000_000, "id = 5", 256 << 20),
        what(f"{schema}.large", "doc", 300_000_004, "id = 8", 256 << 20),
    ]
    assert len(found["said"]) == 4
    for said, sentence in zip(found["said"], [*expected, None], strict=True):
        assert said is None if sentence is None else sentence in said
    assert found["peak"] - found["idle"] < BUDGET
