"""Pages that would be much larger than `page_bytes`: given up, and their windows read again by smaller ones."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from rivet_dagster.export.governing import GovernorConfig
from rivet_dagster.export.journal import read_journal
from rivet_dagster.export.journal_entries import RetryEntry
from rivet_dagster.export.operations import TableExport
from rivet_dagster.export.reconcile import reconcile
from rivet_dagster.export.servo import PageServo
from rivet_dagster.sources import open_source
from rivet_dagster.sources.base import NO_KEY, BatchLimits, Key, KeyRange, PageTooLarge, SourceLimits
from rivet_dagster.sources.postgres import stream
from rivet_dagster.sources.postgres.slots import SLOT_CLASS
from tests.support.exports import export_all, prepared
from tests.support.mysql_tables import database_of
from tests.support.readers import Row, exported_rows

Sql = Callable[[str], list[tuple[Any, ...]]]

PAGE = 64 << 10
CAP = 4 * PAGE
WIDE = 2_000_000
LIMITS = {"page_bytes": PAGE, "attempts": 1}

# 3000 rows of some twenty bytes, but for eight in the middle.
VALUE = f"CASE WHEN n BETWEEN 1501 AND 1508 THEN repeat(chr(64 + n % 26), {WIDE}) ELSE 'narrow ' || n END"
MYSQL_VALUE = f"IF(seq BETWEEN 1501 AND 1508, repeat(char(64 + seq % 26), {WIDE}), concat('narrow ', seq))"


def postgres_table(sql: Sql, key: str = "PRIMARY KEY", value: str = VALUE) -> None:
    # Neither logged nor compressed: both take longer than all the rest.
    sql(f"CREATE UNLOGGED TABLE public.t (id int {key}, v text)")
    sql("ALTER TABLE public.t ALTER v SET STORAGE EXTERNAL")
    sql(f"INSERT INTO public.t SELECT n, {value} FROM generate_series(1, 3000) AS n")


def mysql_table(sql: Sql, key: str = "PRIMARY KEY") -> None:
    sql(f"CREATE TABLE t (id int {key}, v longtext CHARACTER SET ascii)")
    sql(f"INSERT INTO t SELECT seq, {MYSQL_VALUE} FROM seq_1_to_3000")


def capped(dsn: str, lake: Path, table: str, **config: Any) -> TableExport:
    return prepared(dsn, lake, table, **{"rows": 3000, "limits": LIMITS, **config})


def read_again(export: TableExport) -> list[RetryEntry]:
    """Tries of windows that the journal tells of."""
    entries = [entry for entry in read_journal(export.store, export.run_id) if isinstance(entry, RetryEntry)]
    assert {(entry.code, entry.attempt, entry.pause_s) for entry in entries} <= {("RIVET_PAGE_TOO_LARGE", 1, 0.0)}
    return entries


def check(export: TableExport, folder: Path, expected: list[Row], most_pages: int) -> None:
    """It is exported as the server has it, within the budget, and its window needed no second attempt."""
    (outcome,) = export_all(export, workers=1)
    assert exported_rows(folder) == expected
    assert outcome.manifest is not None
    statistics = outcome.manifest.statistics
    assert WIDE <= statistics.largest_page_bytes <= CAP + WIDE
    assert statistics.attempts == 1
    assert statistics.pages <= most_pages
    assert 1 <= len(read_again(export)) <= 6


@pytest.fixture(params=["compiled", "calls"])
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "calls":
        monkeypatch.setattr(stream, "find_libpq", lambda pgconn: None)


@pytest.mark.usefixtures("route")
def test_pages_of_a_key(sql: Sql, dsn: str, lake: Path) -> None:
    postgres_table(sql)
    export = capped(dsn, lake, "public.t")
    check(export, lake / "public.t", sql("SELECT * FROM public.t ORDER BY id"), 50)


@pytest.mark.usefixtures("route")
def test_ranges_of_blocks(sql: Sql, dsn: str, lake: Path) -> None:
    postgres_table(sql, key="")
    export = capped(dsn, lake, "public.t", windows={"type": "full"})
    check(export, lake / "public.t", sql("SELECT * FROM public.t ORDER BY ctid"), 80)


def test_pages_of_a_key_of_mariadb(mysql_sql: Sql, mysql_dsn: str, lake: Path) -> None:
    mysql_table(mysql_sql)
    name = f"{database_of(mysql_dsn)}.t"
    check(capped(mysql_dsn, lake, name), lake / name, mysql_sql("SELECT * FROM t ORDER BY id"), 50)


def test_pieces_of_mariadb_end_early(mysql_sql: Sql, mysql_dsn: str, lake: Path) -> None:
    mysql_table(mysql_sql, key="")
    name = f"{database_of(mysql_dsn)}.t"
    export = capped(mysql_dsn, lake, name, windows={"type": "full"})
    (outcome,) = export_all(export, workers=1)
    assert sorted(exported_rows(lake / name)) == mysql_sql("SELECT * FROM t ORDER BY id")
    assert outcome.manifest is not None
    assert WIDE <= outcome.manifest.statistics.largest_page_bytes <= CAP + WIDE
    assert read_again(export) == []


def test_all_rows_of_a_block_may_be_wide(sql: Sql, dsn: str, lake: Path) -> None:
    """A hundred and more of them are in a block: pages are smaller than that."""
    postgres_table(sql, key="", value="CASE WHEN n % 10 = 0 THEN repeat('x', 100000) ELSE 'narrow' END")
    sql("DELETE FROM public.t WHERE id > 600 AND id < 2990 OR id = 2995")
    export = capped(dsn, lake, "public.t", windows={"type": "full"})
    (outcome,) = export_all(export, workers=1)
    assert exported_rows(lake / "public.t") == sql("SELECT * FROM public.t ORDER BY ctid")
    assert outcome.manifest is not None
    assert 100_000 < outcome.manifest.statistics.largest_page_bytes <= CAP


@pytest.mark.parametrize("key", ["PRIMARY KEY", ""])
def test_a_single_row_may_be_larger(sql: Sql, dsn: str, key: str) -> None:
    """Whatever stands behind it; of one that was asked for, and of the only one that there is."""
    postgres_table(sql, key)
    sql("DELETE FROM public.t WHERE id NOT IN (1500, 1501, 1502)")
    with closing(open_source(dsn, SourceLimits(page_bytes=CAP)).connect()) as session:
        table = session.describe("public", "t")
        chosen: Key = table.keys[0] if key else NO_KEY
        with session.open_window(table, chosen, BatchLimits()) as reader:
            sizes, span = [], KeyRange(None, None)
            while not (page := reader.read_page(span, 1)).ended:
                sizes.append(page.wire_bytes)
                list(reader.decode_page())
                span = KeyRange(None, None, after=reader.last_key())
            sizes.append(page.wire_bytes)
            assert sum(WIDE < size < WIDE + 100 for size in sizes) == 2
    sql("DELETE FROM public.t WHERE id <> 1502")
    with (
        closing(open_source(dsn, SourceLimits(page_bytes=CAP)).connect()) as session,
        session.open_window(table, chosen, BatchLimits()) as reader,
    ):
        assert reader.read_page(KeyRange(None, None), 1000).rows == 1


def test_the_connection_is_dropped(sql: Sql, dsn: str) -> None:
    """Another thread's look at the server finds neither the statement nor the session."""
    postgres_table(sql)
    with closing(open_source(dsn, SourceLimits(page_bytes=CAP)).connect()) as session:
        table = session.describe("public", "t")
        with (
            pytest.raises(PageTooLarge) as refused,
            session.open_window(table, table.keys[0], BatchLimits()) as reader,
        ):
            reader.read_page(KeyRange(None, None), 3000)
        error = refused.value
        assert (error.code, error.retryable, error.rows) == ("RIVET_PAGE_TOO_LARGE", True, 1501)
        assert WIDE < error.wire_bytes < WIDE + CAP
        until = time.monotonic() + 5
        own = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        while sql(own):
            assert time.monotonic() < until
            time.sleep(0.01)


def test_the_error_outlives_a_process() -> None:
    error = pickle.loads(pickle.dumps(PageTooLarge(3, 4_000_000, CAP)))
    assert isinstance(error, PageTooLarge)
    assert (error.rows, error.wire_bytes, error.most, error.retryable) == (3, 4_000_000, CAP, True)


def test_reconciling_reads_again_too(sql: Sql, dsn: str, lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    postgres_table(sql)
    export = capped(dsn, lake, "public.t")
    export_all(export, workers=1)
    seen: list[int] = []
    overflow = PageServo.overflow

    def noted(servo: PageServo, rows: int) -> None:
        seen.append(rows)
        overflow(servo, rows)

    monkeypatch.setattr(PageServo, "overflow", noted)
    report = reconcile(export, "rows", workers=1)
    assert (report.ok, report.rows) == (True, 3000)
    assert 1 <= len(seen) <= 6


def test_reconciling_waits_for_a_slot(sql: Sql, dsn: str, lake: Path) -> None:
    """For longer than the only attempt would last."""
    sql("CREATE TABLE public.t (id int PRIMARY KEY)")
    sql("INSERT INTO public.t SELECT generate_series(1, 10)")
    config = capped(dsn, lake, "public.t").config
    export = TableExport(config, dsn, str(lake), governor=GovernorConfig(slots=1))
    export_all(export, workers=1)
    with psycopg.connect(dsn, autocommit=True) as other:
        assert other.execute(f"SELECT pg_try_advisory_lock({SLOT_CLASS}, 0)").fetchone() == (True,)
        began = time.monotonic()
        timer = threading.Timer(1.0, lambda: other.execute("SELECT pg_advisory_unlock_all()"))
        timer.start()
        report = reconcile(export, "rows", workers=1)
        timer.join()
    assert (report.ok, report.rows) == (True, 10)
    assert time.monotonic() - began > 1.0
