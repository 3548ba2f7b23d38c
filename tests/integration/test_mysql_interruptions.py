"""Exports from MariaDB whose connections, statements, locks and tables somebody else ends, holds or changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rivet_dagster.errors import DriftError, InterruptedExport, RivetError, SourceError
from rivet_dagster.export.config import parse_config
from rivet_dagster.export.operations import TableExport
from rivet_dagster.sources.base import NO_KEY, BatchLimits, KeyRange
from rivet_dagster.sources.mysql.session import MysqlWindowReader
from tests.support.exports import export_all, prepared, run_all
from tests.support.mysql_tables import Sql, ask, client, database_of, session_of, source_rows
from tests.support.readers import assert_same, exported_rows


def named(dsn: str) -> str:
    return f"{database_of(dsn)}.t"


@pytest.fixture
def numbers(mysql_sql: Sql) -> Sql:
    mysql_sql("CREATE TABLE t (id int PRIMARY KEY, v varchar(100))")
    mysql_sql("INSERT INTO t SELECT seq, repeat(char(65 + seq % 26), 90) FROM seq_1_to_5000")
    return mysql_sql


# Pages of about seven hundred rows; no pause between tries.
QUICK = {"page_bytes": 65536, "retry_seconds": 0}


# ------------------------------------------------------------------------------------------ sessions that are ended


class Pages:
    """What happens around the pages of readers: `before` runs before the page of that number, once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read = 0
        self.asked: list[int] = []
        self._before: dict[int, Callable[[MysqlWindowReader], object]] = {}
        read_page = MysqlWindowReader.read_page

        def reading(reader: MysqlWindowReader, span: KeyRange, limit: int) -> Any:
            self.read += 1
            self.asked.append(limit)
            self._before.pop(self.read, lambda _: None)(reader)
            return read_page(reader, span, limit)

        monkeypatch.setattr(MysqlWindowReader, "read_page", reading)

    def before(self, number: int, action: Callable[[MysqlWindowReader], object]) -> None:
        self._before[number] = action


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Pages:
    return Pages(monkeypatch)


def thread_of(reader: MysqlWindowReader) -> int:
    connection: Any = reader._stream._statements._connection
    return int(connection.thread_id())


def check_whole(dsn: str, lake: Path) -> None:
    assert_same(exported_rows(lake / named(dsn)), source_rows(dsn, "t", "id"))


@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_window_whose_connection_is_killed_is_read_again(
    mysql_dsn: str, numbers: Sql, lake: Path, pages: Pages, number: int
) -> None:
    pages.before(number, lambda reader: numbers(f"KILL {thread_of(reader)}"))
    (outcome,) = export_all(prepared(mysql_dsn, lake, named(mysql_dsn), limits=QUICK))
    assert outcome.manifest is not None
    assert outcome.manifest.statistics.attempts == 2
    check_whole(mysql_dsn, lake)


def test_a_connection_that_is_killed_each_time_is_lost_in_the_end(
    mysql_dsn: str, numbers: Sql, lake: Path, pages: Pages
) -> None:
    for number in range(1, 4):
        pages.before(number, lambda reader: numbers(f"KILL {thread_of(reader)}"))
    export = prepared(mysql_dsn, lake, named(mysql_dsn), limits={**QUICK, "attempts": 3})
    plan, _ = export.plan()
    (outcome,) = run_all(export, plan)
    assert isinstance(outcome.error, SourceError)
    assert (outcome.error.code, outcome.error.retryable) == ("RIVET_SOURCE_LOST", True)
    assert not list(lake.rglob("*.parquet"))


@contextmanager
def locked(dsn: str) -> Iterator[Any]:
    """The table, locked by somebody else until the context ends."""
    with client(dsn) as other:
        ask(other, "LOCK TABLES t WRITE")
        yield other
        ask(other, "UNLOCK TABLES")


def waiting(dsn: str, like: str = "SELECT /* rivet_dagster */%") -> list[int]:
    """Connections that execute such a statement."""
    with client(dsn) as other:
        found = ask(
            other,
            "SELECT id FROM information_schema.processlist"
            " WHERE db = database() AND info LIKE %s AND command <> 'Sleep'",
            like,
        )
    return [number for (number,) in found]


def wait_for(condition: Callable[[], Any]) -> Any:
    """The first true answer, within half a minute."""
    deadline = time.monotonic() + 30
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def test_a_statement_that_is_killed_is_sent_again_with_smaller_pages(
    mysql_dsn: str, numbers: Sql, lake: Path, pages: Pages
) -> None:
    holding = locked(mysql_dsn)

    def kill() -> None:
        (number,) = wait_for(lambda: waiting(mysql_dsn))
        numbers(f"KILL QUERY {number}")
        holding.__exit__(None, None, None)

    def hold(_: MysqlWindowReader) -> None:
        holding.__enter__()
        killer.start()

    killer = threading.Thread(target=kill, daemon=True)
    pages.before(1, hold)
    (outcome,) = export_all(prepared(mysql_dsn, lake, named(mysql_dsn), limits=QUICK))
    killer.join(30)
    assert outcome.manifest is not None
    assert outcome.manifest.statistics.attempts == 2
    assert pages.asked[1] == pages.asked[0] // 2
    check_whole(mysql_dsn, lake)


def test_statements_that_take_too_long_become_smaller(mysql_dsn: str, mysql_sql: Sql, lake: Path, pages: Pages) -> None:
    """Each row costs the server a millisecond or so: no more than some hundred come within the time-out."""
    mysql_sql(
        "CREATE TABLE t (id int PRIMARY KEY, v char(40), slow char(128) AS (sha2(repeat(v, 20000), 512)) VIRTUAL)"
    )
    mysql_sql("INSERT INTO t (id, v) SELECT seq, md5(seq) FROM seq_1_to_1500")
    limits = {"statement_timeout_s": 0.3, "retry_seconds": 0, "attempts": 14}
    (outcome,) = export_all(prepared(mysql_dsn, lake, named(mysql_dsn), limits=limits))
    assert outcome.manifest is not None
    assert outcome.manifest.statistics.attempts > 1
    assert outcome.manifest.rows == 1500
    tries = outcome.manifest.statistics.attempts
    assert max(pages.asked[tries:]) < pages.asked[0] / 2
    found = exported_rows(lake / named(mysql_dsn))
    assert [row[:2] for row in found] == mysql_sql("SELECT id, v FROM t ORDER BY id")


def test_a_time_out_that_nothing_mends_is_one_in_the_end(
    mysql_dsn: str, numbers: Sql, lake: Path, pages: Pages
) -> None:
    limits = {**QUICK, "statement_timeout_s": 1, "lock_timeout_s": 60, "attempts": 2}
    export = prepared(mysql_dsn, lake, named(mysql_dsn), limits=limits)
    plan, _ = export.plan()
    holding = locked(mysql_dsn)
    pages.before(1, lambda _: holding.__enter__())
    (outcome,) = run_all(export, plan)
    holding.__exit__(None, None, None)
    assert pages.read == 2
    assert isinstance(outcome.error, SourceError)
    assert (outcome.error.code, outcome.error.retryable) == ("RIVET_SOURCE_TIMEOUT", True)


def test_a_table_that_is_locked_is_waited_for_no_longer_than_asked(
    mysql_dsn: str, numbers: Sql, lake: Path, pages: Pages
) -> None:
    limits = {**QUICK, "lock_timeout_s": 1, "attempts": 2}
    export = prepared(mysql_dsn, lake, named(mysql_dsn), limits=limits)
    plan, _ = export.plan()
    holding = locked(mysql_dsn)
    pages.before(1, lambda _: holding.__enter__())
    (outcome,) = run_all(export, plan)
    assert pages.read == 2
    assert isinstance(outcome.error, SourceError)
    assert (outcome.error.code, outcome.error.retryable) == ("RIVET_SOURCE_LOCKED", True)
    with pytest.raises(SourceError) as caught:
        export.plan()
    assert caught.value.code == "RIVET_SOURCE_LOCKED"
    holding.__exit__(None, None, None)
    export_all(export)
    check_whole(mysql_dsn, lake)


def test_a_snapshot_that_nobody_reads_from_is_ended_and_taken_again(
    mysql_dsn: str, numbers: Sql, lake: Path, pages: Pages
) -> None:
    gone: list[int] = []

    def idle(reader: MysqlWindowReader) -> None:
        number = thread_of(reader)
        wait_for(lambda: not numbers(f"SELECT 1 FROM information_schema.processlist WHERE id = {number}"))
        gone.append(number)

    pages.before(3, idle)
    limits = {**QUICK, "idle_in_transaction_timeout_s": 1}
    (outcome,) = export_all(prepared(mysql_dsn, lake, named(mysql_dsn), limits=limits))
    assert gone
    assert outcome.manifest is not None
    assert outcome.manifest.statistics.attempts == 2
    check_whole(mysql_dsn, lake)


def test_sessions_may_be_idle_between_windows(mysql_dsn: str, numbers: Sql) -> None:
    """What ends an idle snapshot must not end a worker whose outcome waits to be taken."""
    with session_of(mysql_dsn) as session:
        (before,) = ask(session._connection, "SELECT @@wait_timeout, @@net_write_timeout, @@max_statement_time")
        table = session.describe(database_of(mysql_dsn), "t")
        for key in (table.keys[0], NO_KEY):
            with session.open_window(table, key, BatchLimits()) as reader:
                while reader.read_page(KeyRange(None, None), 9999).rows == 9999:
                    pass
                list(reader.decode_page())
                list(reader.finish())
                (within,) = ask(session._connection, "SELECT @@wait_timeout, @@net_write_timeout, @@max_statement_time")
                assert within[:2] == (60, 60)
                assert float(within[2]) == (30 if key.columns else 900)
            (after,) = ask(session._connection, "SELECT @@wait_timeout, @@net_write_timeout, @@max_statement_time")
            assert after == before
            assert ask(session._connection, "SELECT @@in_transaction") == [(0,)]


def test_a_snapshot_that_becomes_too_old_is_given_up(mysql_dsn: str, numbers: Sql, lake: Path) -> None:
    export = prepared(mysql_dsn, lake, named(mysql_dsn), limits={**QUICK, "snapshot_s": 1e-6})
    plan, _ = export.plan()
    (outcome,) = run_all(export, plan)
    assert isinstance(outcome.error, SourceError)
    assert (outcome.error.code, outcome.error.retryable) == ("RIVET_SNAPSHOT_TOO_OLD", False)


# ------------------------------------------------------------------------------------------ tables that are changed


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("ADD w int", ""),
        ("ADD KEY (v)", ""),
        ("FORCE", ""),
        ("MODIFY v varchar(200)", ""),
        ("DROP v", "RIVET_SOURCE_COLUMN_MISSING"),
        ("CHANGE v w varchar(100)", "RIVET_SOURCE_COLUMN_MISSING"),
        ("MODIFY v bigint", "RIVET_SCHEMA_DRIFT"),
        ("MODIFY id bigint", "RIVET_SCHEMA_DRIFT"),
        ("MODIFY id int unsigned", "RIVET_SCHEMA_DRIFT"),
        ("RENAME TO elsewhere", "RIVET_SOURCE_TABLE_MISSING"),
    ],
)
def test_a_table_that_changes_after_its_snapshot_is_read_again_or_refused(
    mysql_dsn: str, numbers: Sql, lake: Path, pages: Pages, change: str, code: str
) -> None:
    numbers("UPDATE t SET v = id")
    expected = numbers("SELECT id, v FROM t ORDER BY id")
    pages.before(1, lambda _: numbers(f"ALTER TABLE t {change}"))
    export = prepared(mysql_dsn, lake, named(mysql_dsn), limits=QUICK)
    plan, _ = export.plan()
    (outcome,) = run_all(export, plan)
    if code:
        assert isinstance(outcome.error, RivetError)
        assert (outcome.error.code, outcome.error.fatal) == (code, True)
    else:
        assert outcome.manifest is not None
        export.seal(plan)
        assert exported_rows(lake / named(mysql_dsn)) == expected


def test_a_change_waits_for_the_window_that_is_being_read(
    mysql_dsn: str, numbers: Sql, lake: Path, pages: Pages
) -> None:
    expected = numbers("SELECT id, v FROM t ORDER BY id")

    def alter() -> None:
        with client(mysql_dsn) as other:
            ask(other, "ALTER TABLE t DROP v")

    altering = threading.Thread(target=alter, daemon=True)

    def change(_: MysqlWindowReader) -> None:
        altering.start()
        wait_for(lambda: waiting(mysql_dsn, "ALTER TABLE%"))

    pages.before(3, change)
    export = prepared(mysql_dsn, lake, named(mysql_dsn), limits=QUICK)
    (outcome,) = export_all(export)
    altering.join(30)
    assert outcome.manifest is not None
    assert outcome.manifest.statistics.attempts == 1
    assert exported_rows(lake / named(mysql_dsn)) == expected
    assert [name for name, *_ in numbers("SHOW COLUMNS FROM t")] == ["id"]
    with pytest.raises(DriftError, match="v was dropped"):
        export.plan()


# ------------------------------------------------------------------------------------------ ending what runs


def test_cancelling_ends_the_statement_on_the_server(mysql_dsn: str, numbers: Sql) -> None:
    """One that waits for a lock, and would for as long as the session lets it."""
    failed: list[BaseException] = []
    with session_of(mysql_dsn) as session:
        table = session.describe(database_of(mysql_dsn), "t")
        with locked(mysql_dsn):

            def read() -> None:
                try:
                    session.walk(table, table.keys[0], None, 10)
                except SourceError as exc:
                    failed.append(exc)

            reading = threading.Thread(target=read, daemon=True)
            reading.start()
            wait_for(lambda: waiting(mysql_dsn))
            session.cancel()
            reading.join(30)
            assert not reading.is_alive()
            assert not waiting(mysql_dsn)
        assert isinstance(failed[0], SourceError)
        assert failed[0].code == "RIVET_SOURCE_TIMEOUT"
        # The session lives on, and the next statement is not ended by what was meant for another.
        assert session.walk(table, table.keys[0], None, 10) is not None
        session.cancel()
        assert session.walk(table, table.keys[0], None, 10) is not None


@pytest.mark.parametrize("windows", [{"type": "keyset"}, {"type": "full"}])
def test_stopping_a_run_leaves_nothing_running(
    mysql_dsn: str, numbers: Sql, lake: Path, pages: Pages, windows: dict[str, Any]
) -> None:
    config: dict[str, object] = {
        "table": named(mysql_dsn),
        "windows": windows,
        "limits": {**QUICK, "lock_timeout_s": 60},
    }
    export = TableExport(parse_config(config), mysql_dsn, str(lake))
    plan, _ = export.plan()
    holding = locked(mysql_dsn)
    pages.before(1, lambda _: holding.__enter__())
    with export.run(plan, plan.windows, "work", 1) as run:
        wait_for(lambda: waiting(mysql_dsn))
        (left,) = run.stop()
        assert not waiting(mysql_dsn)
    holding.__exit__(None, None, None)
    assert isinstance(left.error, InterruptedExport)
    export_all(export)
    check_whole(mysql_dsn, lake)


def test_a_whole_table_that_is_left_half_read_is_not_sent_on(mysql_dsn: str, numbers: Sql) -> None:
    numbers("INSERT INTO t SELECT 10000 + seq, repeat('x', 100) FROM seq_1_to_300000")
    with session_of(mysql_dsn) as session:
        table = session.describe(database_of(mysql_dsn), "t")
        thread = session._connection.thread_id()
        with session.open_window(table, NO_KEY, BatchLimits()) as reader:
            assert reader.read_page(KeyRange(None, None), 100).rows == 100
            assert waiting(mysql_dsn) == [thread]
        wait_for(lambda: not numbers(f"SELECT 1 FROM information_schema.processlist WHERE id = {thread}"))
        with pytest.raises(SourceError) as caught:
            session.walk(table, table.keys[0], None, 1)
        assert caught.value.code == "RIVET_SOURCE_LOST"


def test_no_prepared_statement_is_left_behind(mysql_dsn: str, numbers: Sql, lake: Path, pages: Pages) -> None:
    def count() -> int:
        ((_, value),) = numbers("SHOW GLOBAL STATUS LIKE 'Prepared_stmt_count'")
        return int(value)

    wait_for(lambda: count() == 0)
    most: list[int] = []
    for number in range(2, 60):
        pages.before(number, lambda _: most.append(count()))
    export_all(prepared(mysql_dsn, lake, named(mysql_dsn), rows=100, limits=QUICK), workers=1)
    assert pages.read >= 50
    # The first window has no lower bound, and a window's later pages have both: one statement each.
    assert max(most) == 2
    wait_for(lambda: count() == 0)
