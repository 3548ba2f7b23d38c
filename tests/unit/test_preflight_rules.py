"""Verdicts by their rules, and predictions by their models: every rule at its edge, without a server."""

from __future__ import annotations

import os
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from rivet_dagster._jit_cache import is_compiled
from rivet_dagster.errors import DriftError, SourceError
from rivet_dagster.export.config import TimeWindows
from rivet_dagster.export.governing import parse_governor
from rivet_dagster.export.load import LONGEST_S, LoadReport, Signal, look_at
from rivet_dagster.export.machine import KERNELS, PACKAGE, cold_kernels
from rivet_dagster.export.plan import USUAL_LIMIT
from rivet_dagster.export.predictions import (
    GROUPS_A_WORKER,
    PROCESS_BYTES,
    Ends,
    Figure,
    Measured,
    MiB,
    Pages,
    memory_needed,
    row_width,
    slice_count,
    statement_time,
)
from rivet_dagster.export.pressure import GENTLE, SMOOTHING
from rivet_dagster.export.verdicts import RULES, Facts, Reason, Verdict, exit_code, failed, judge, worst
from rivet_dagster.export.width import HIGH
from rivet_dagster.sources import vitals
from rivet_dagster.sources.base import ASSUMED_ROW_BYTES, Table
from rivet_dagster.sources.mysql.identity import rights_in
from rivet_dagster.sources.ordering import USUAL_BYTES_A_SECOND
from rivet_dagster.sources.vitals import Vitals

# Of each rule: its verdict, facts that it just holds of, and the facts next to them that it does not hold of.
EDGES: dict[str, tuple[Verdict, Facts, Facts]] = {
    "statement_endless": (
        Verdict.UNSAFE,
        Facts(statement_s=60.1, statement_limit_s=900),
        Facts(statement_s=60, statement_limit_s=900),
    ),
    "statement_ended": (
        Verdict.UNSAFE,
        Facts(statement_s=10.1, statement_limit_s=10),
        Facts(statement_s=10, statement_limit_s=10),
    ),
    "no_room": (Verdict.UNSAFE, Facts(workers=4, room=4), Facts(workers=4, room=5)),
    "too_much_memory": (
        Verdict.UNSAFE,
        Facts(memory_bytes=100 * MiB + 1, memory_limit=100 * MiB),
        Facts(memory_bytes=100 * MiB, memory_limit=100 * MiB),
    ),
    "too_many_windows": (
        Verdict.UNSAFE,
        Facts(windows=20_001, max_windows=20_000),
        Facts(windows=20_000, max_windows=20_000),
    ),
    "critical_load": (Verdict.UNSAFE, Facts(critical="active_sessions is at 300"), Facts()),
    "statement_long": (
        Verdict.DEGRADED,
        Facts(statement_s=2.1, statement_limit_s=30),
        Facts(statement_s=2, statement_limit_s=30),
    ),
    "statement_unknown": (
        Verdict.DEGRADED,
        Facts(kind="view", statement_limit_s=30),
        Facts(kind="view", statement_limit_s=30, statement_s=0),
    ),
    "no_key": (Verdict.DEGRADED, Facts(kind="table", has_key=False), Facts(kind="table")),
    "many_windows": (
        Verdict.DEGRADED,
        Facts(windows=USUAL_LIMIT + 1, max_windows=20_000),
        Facts(windows=USUAL_LIMIT, max_windows=20_000),
    ),
    "gate_closed": (Verdict.DEGRADED, Facts(gates=("quiet hours until 18:00 (UTC)",)), Facts()),
    "loaded": (Verdict.DEGRADED, Facts(pressure=HIGH), Facts(pressure=HIGH - 0.01)),
    "little_room": (
        Verdict.DEGRADED,
        Facts(workers=4, room=7, min_connections=3),
        Facts(workers=4, room=8, min_connections=3),
    ),
    "load_unseen": (Verdict.DEGRADED, Facts(unseen_load="RIVET_SOURCE_TIMEOUT: it took too long."), Facts()),
    "little_spool": (Verdict.DEGRADED, Facts(spool_free=99, spool_needed=100), Facts(spool_free=100, spool_needed=100)),
    "never_analysed": (Verdict.ACCEPTABLE, Facts(kind="table", is_analysed=False), Facts(kind="table")),
    "width_unmeasured": (Verdict.ACCEPTABLE, Facts(kind="table", wide_columns=("note",)), Facts(kind="table")),
    "signals_unseen": (Verdict.ACCEPTABLE, Facts(unseen={"active_sessions": "pg_read_all_stats"}), Facts()),
    "boundaries_estimated": (Verdict.ACCEPTABLE, Facts(kind="table", is_estimated=True), Facts(kind="table")),
    "one_statement_a_window": (
        Verdict.ACCEPTABLE,
        Facts(kind="table", in_pieces=True, statement_s=1, statement_limit_s=900),
        Facts(kind="table", statement_s=1, statement_limit_s=900),
    ),
    "key_declared": (Verdict.ACCEPTABLE, Facts(kind="view", is_declared=True), Facts(kind="view")),
    "no_snapshots": (Verdict.ACCEPTABLE, Facts(kind="table", has_snapshots=False), Facts(kind="table")),
    "kernels_cold": (Verdict.ACCEPTABLE, Facts(cold_kernels=("wire/_decimals.py",)), Facts()),
    "connection_exposed": (Verdict.ACCEPTABLE, Facts(is_exposed=True), Facts()),
    "rights_excessive": (Verdict.ACCEPTABLE, Facts(excessive_rights=("superuser",)), Facts()),
}


@pytest.mark.parametrize("name", EDGES)
def test_a_rule_holds_at_its_edge_and_not_before(name: str) -> None:
    verdict, holds, holds_not = EDGES[name]
    (found,) = judge(holds)
    assert (found.rule, found.verdict) == (name, verdict)
    assert re.match(r"[A-Z0-9]", found.what)
    assert found.advice.endswith(".")
    assert "None" not in found.what
    assert name not in {reason.rule for reason in judge(holds_not)}


def test_every_rule_is_tried_and_nothing_holds_of_nothing() -> None:
    assert [rule.name for rule in RULES] == list(EDGES)
    assert [rule.verdict for rule in RULES] == sorted((rule.verdict for rule in RULES), reverse=True)
    assert judge(Facts()) == ()
    assert worst(()) is Verdict.EFFICIENT


def test_of_one_thing_only_the_worst_rule_holds() -> None:
    for facts, name in (
        (Facts(statement_s=100, statement_limit_s=30), "statement_endless"),
        (Facts(statement_s=40, statement_limit_s=30), "statement_ended"),
        (Facts(windows=30_000, max_windows=20_000), "too_many_windows"),
        (Facts(workers=4, room=2, min_connections=3), "no_room"),
    ):
        assert [reason.rule for reason in judge(facts)] == [name]


def test_what_is_said_names_what_it_is_of() -> None:
    missing = {"replica_lag_s": "SLAVE MONITOR", "blocked_sessions": "PROCESS", "blocked_by_us": "PROCESS"}
    for facts, words in (
        (Facts(unseen=missing), "blocked_by_us, blocked_sessions without PROCESS; replica_lag_s without SLAVE MONITOR"),
        (Facts(pressure=0.8, pressed_by="active_sessions"), "active_sessions is at 0.80"),
        (Facts(kind="table", has_key=False), "by one statement"),
        (Facts(kind="table", has_key=False, by_blocks=True), "by ranges of its storage"),
        (Facts(kind="table", has_key=False, statement_limit_s=900), "nobody counted those of this table"),
        (Facts(kind="query", is_declared=True, statement_limit_s=30), "of a query every page may run all of it"),
        (Facts(wide_columns=tuple("abcdefg")), "a, b, c, d, e and 2 more"),
        (Facts(workers=2, room=1), "3 connections are needed, one of them to look, and 1 could be opened"),
    ):
        assert any(words in reason.what for reason in judge(facts)), words


def test_exit_codes_are_those_of_what_is_unsafe() -> None:
    lost = SourceError("RIVET_SOURCE_UNREACHABLE", "It is away.", "Wait.", retryable=True)
    drift = DriftError("RIVET_SCHEMA_DRIFT", "A column is gone.", "Plan anew.")
    (slow,) = judge(Facts(statement_s=100, statement_limit_s=900))
    (loaded,) = judge(Facts(pressure=1))
    for reasons, code in (
        ((), 0),
        ((loaded,), 0),
        ((slow, loaded), 1),
        ((failed(lost),), 2),
        ((failed(drift), loaded), 4),
        ((failed(lost), slow), 1),
    ):
        assert exit_code(reasons) == code, reasons
    assert failed(lost) == Reason("RIVET_SOURCE_UNREACHABLE", Verdict.UNSAFE, "It is away.", "Wait.", 2)


# ---------------------------------------------------------------------------------------------------- predictions


def measured(**values: float) -> Measured:
    usual = {
        "windows": 2,
        "rows": 1000,
        "wire_bytes": 40 * MiB,
        "largest_window": 20 * MiB,
        "largest_page": 8 * MiB,
        "longest_statement_s": 0.1,
        "peak_memory": 300 * MiB,
        "workers": 2,
    }
    return Measured(**{**usual, **values})  # type: ignore[arg-type]


def test_the_width_is_measured_then_the_catalogs_then_assumed() -> None:
    known = Table("public", "t", (), (), average_row_bytes=70)
    assert row_width(known, measured(rows=1000, wire_bytes=500_000)) == Figure(500, "measured")
    assert row_width(known, None) == Figure(70, "catalog")
    assert row_width(Table("public", "t", (), ()), None) == Figure(ASSUMED_ROW_BYTES, "assumed")


def test_a_page_takes_what_its_bytes_take_and_no_longer_than_the_servo_lets_it() -> None:
    page = Pages(8 * MiB, 1.0, 128 * MiB)
    assert statement_time(page, None, is_ordered=True) == Figure(round(8 * MiB / USUAL_BYTES_A_SECOND, 3), "model")
    assert statement_time(Pages(256 * MiB, 1.0, None), None, is_ordered=True).value == 1.0
    small = statement_time(Pages(8 * MiB, 1.0, MiB), None, is_ordered=True).value
    assert small == round(MiB / USUAL_BYTES_A_SECOND, 3)


def test_one_statement_for_a_window_takes_what_the_window_takes() -> None:
    whole = Pages(8 * MiB, None, 5000 * MiB)
    assert statement_time(whole, None, is_ordered=True).value == 100.0
    assert statement_time(Pages(8 * MiB, None, None), None, is_ordered=True) == Figure(None, "unknown")


def test_where_no_index_gives_the_order_only_measuring_tells() -> None:
    page = Pages(8 * MiB, 1.0, 20 * MiB)
    assert statement_time(page, None, is_ordered=False).value is None
    assert statement_time(page, measured(longest_statement_s=7.5), is_ordered=False) == Figure(7.5, "measured")


def test_measured_times_grow_with_what_is_more_than_was_measured() -> None:
    grown = Pages(8 * MiB, None, 1020 * MiB)
    assert statement_time(grown, measured(longest_statement_s=0.4), is_ordered=True).value == pytest.approx(20.4)
    # A tiny page that took ten milliseconds does not make a large one take minutes.
    tiny = measured(largest_page=1000, longest_statement_s=0.01)
    found = statement_time(Pages(8 * MiB, 1.0, None), tiny, is_ordered=True)
    assert found.basis == "measured"
    assert found.value is not None
    assert 0.15 < found.value < 0.2


def test_memory_is_a_page_and_row_groups_a_worker() -> None:
    page, group = 8 * MiB, 16 * MiB
    found = memory_needed(group, Pages(page, 1.0, 128 * MiB), 100, 3, None)
    assert found == Figure(PROCESS_BYTES + 3 * (page + GROUPS_A_WORKER * group), "model")
    assert page + GROUPS_A_WORKER * group <= 64_000_000, "what docs and benchmarks hold a worker to"
    small = memory_needed(group, Pages(page, 1.0, MiB), 100, 2, None)
    assert small.value == PROCESS_BYTES + 2 * (1 + GROUPS_A_WORKER) * MiB
    wide = memory_needed(group, Pages(page, 1.0, None), 100 * MiB, 1, None)
    assert wide.value == PROCESS_BYTES + (1 + GROUPS_A_WORKER) * 100 * MiB, "a row is whole"


def test_measured_memory_grows_with_workers_and_pages() -> None:
    page, group = 8 * MiB, 16 * MiB
    pages = Pages(page, 1.0, 128 * MiB)
    taken = measured(largest_window=128 * MiB, peak_memory=400 * MiB)
    each = page + GROUPS_A_WORKER * group
    assert memory_needed(group, pages, 100, 2, taken) == Figure(400 * MiB, "measured")
    assert memory_needed(group, pages, 100, 1, taken).value == 400 * MiB, "never less than was seen"
    assert memory_needed(group, pages, 100, 5, taken).value == 400 * MiB + 3 * each
    larger = Pages(2 * page, 1.0, 128 * MiB)
    assert memory_needed(group, larger, 100, 2, taken).value == 400 * MiB + 2 * page
    unnoted = measured(peak_memory=0)
    assert memory_needed(group, pages, 100, 2, unnoted).basis == "model"


def test_ends_of_integers_tell_how_many_rows_there_are_at_most() -> None:
    assert Ends(5, 104).span == 100
    assert Ends(is_empty=True).span == 0
    assert Ends().span is None


def test_slices_of_time_are_counted_to_their_end_or_to_the_present() -> None:
    now = datetime(2026, 3, 1, tzinfo=timezone.utc)
    for every, start, end, count in (
        ("day", "2026-02-01", None, 28),
        ("day", "2026-02-01", "2026-02-11", 10),
        ("day", "2026-02-01", "2027-01-01", 28),
        ("hour", "2026-02-28", None, 24),
        ("week", "2026-02-01", None, 4),
        ("month", "2024-03-01", None, 24),
        ("day", "2026-04-01", None, 0),
    ):
        options = TimeWindows(column="at", every=every, start=start, end=end)  # type: ignore[arg-type]
        assert slice_count(options, now) == count, (every, start, end)
    east = now.astimezone(timezone(timedelta(hours=9)))
    assert slice_count(TimeWindows(column="at", start="2026-02-01"), east) == 28


# ---------------------------------------------------------------------------------------------------------- load


class Shown:
    """A source that shows these looks, one after the other, and fails then."""

    def __init__(self, *looks: Vitals) -> None:
        self.looks = list(looks)
        self.closed = False

    def probe(self, *_: Any) -> Shown:
        return self

    def look(self) -> Vitals:
        if not self.looks:
            raise SourceError("RIVET_SOURCE_LOST", "It is gone.", "Wait.", retryable=True)
        return self.looks.pop(0)

    def close(self) -> None:
        self.closed = True


def look_of(*looks: Vitals, **config: Any) -> LoadReport:
    shown, waits = Shown(*looks), list[float]()
    found = look_at(shown, parse_governor(config), 4, sleep=waits.append)  # type: ignore[arg-type]
    assert shown.closed
    assert sum(waits) <= LONGEST_S
    return found


def test_looks_count_together_and_bursts_of_counters_hardly() -> None:
    def seen(at: float, active: float, checkpoints: float) -> Vitals:
        return Vitals(at, {vitals.ACTIVE_SESSIONS: active}, {vitals.CHECKPOINTS_REQUESTED: checkpoints})

    quiet = [seen(n / 2, 0, 1 if n == 4 else 0) for n in range(5)]
    found = look_of(*quiet)
    by_name = {each.name: each for each in found.signals}
    assert by_name["checkpoints_requested"] == Signal("checkpoints_requested", 0.5, 0.2, GENTLE, a_second=True)
    assert found.pressure == pytest.approx(SMOOTHING * GENTLE)
    assert (found.begins_with, found.error) == (4, None)
    loaded = look_of(*(seen(n / 2, 8, 0) for n in range(5)), cores=8, tick_s=60)
    assert (loaded.pressure, loaded.pressed_by, loaded.begins_with) == (1.0, "active_sessions", 1)
    spike = look_of(*(seen(n / 2, 40 if n == 0 else 0, 0) for n in range(5)), cores=8)
    assert (spike.pressure or 0) < 1, "one look of five"


def test_a_source_that_cannot_be_looked_at_says_so_and_one_look_is_enough() -> None:
    found = look_of()
    assert (found.pressure, found.room, found.signals, found.begins_with) == (None, None, (), 2)
    assert found.error is not None
    assert found.error.code == "RIVET_SOURCE_LOST"
    once = look_of(Vitals(0, {vitals.ACTIVE_SESSIONS: 16, vitals.CONNECTION_ROOM: 7}))
    assert (once.pressure, once.room, once.error) == (0.5, 8, None)


# ------------------------------------------------------------------------------------------------------- machine


def test_every_module_with_compiled_code_is_looked_at() -> None:
    compiled = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if re.search(r"^@(kernel|helper)$", path.read_text(), re.MULTILINE)
    }
    assert {name for names in KERNELS.values() for name in names} == compiled


def test_code_counts_that_this_interpreter_would_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    module = tmp_path / "loops.py"
    module.write_text("")
    assert not is_compiled(module)
    tag = f"py{sys.version_info.major}{sys.version_info.minor}"
    beside, shared = tmp_path / "__pycache__", tmp_path / "home/rivet_dagster/sub"
    for folder in (beside, shared):
        folder.mkdir(parents=True)
        index = folder / f"loops.count-7.{tag}.nbi"
        index.write_text("")
        assert is_compiled(module)
        os.utime(index, (1, 1))
        assert not is_compiled(module), "of an older version of the module"
        index.rename(index.with_name("loops.count-7.py27.nbi"))
        assert not is_compiled(module), "of another interpreter"
        (folder / f"other.count-7.{tag}.nbi").write_text("")
        assert not is_compiled(module), "of another module"
    (shared / f"loops.count-7.{tag}.nbi").write_text("")
    assert is_compiled(module)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "elsewhere"))
    assert not is_compiled(module), "numba looks in that folder alone"


def test_an_empty_cache_is_cold_for_all_that_the_export_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert set(cold_kernels("postgresql", "csv")) == {*KERNELS["postgresql"], *KERNELS["csv"]}
    assert set(cold_kernels("mysql", "parquet")) == set(KERNELS["mysql"])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("GRANT USAGE ON *.* TO `r`@`%` IDENTIFIED BY PASSWORD '*94BDC'", []),
        ("GRANT SELECT, SHOW VIEW ON `shop`.* TO `r`@`%`", [("SELECT", "`shop`.*"), ("SHOW VIEW", "`shop`.*")]),
        (
            "GRANT SELECT (`a`, `b`), UPDATE (`a`) ON `s`.`t` TO 'r'@'%'",
            [("SELECT (`a`, `b`)", "`s`.`t`"), ("UPDATE (`a`)", "`s`.`t`")],
        ),
        ("GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost` WITH GRANT OPTION", [("ALL PRIVILEGES", "*.*")]),
        ("GRANT `readers` TO `r`@`%`", []),
    ],
)
def test_grants_are_read_up_to_whom_they_are_for(line: str, expected: list[tuple[str, str]]) -> None:
    assert list(rights_in(line)) == expected
