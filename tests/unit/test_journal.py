"""The journal of a run: whole lines in the destination, whatever fails, and a prefix of them after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from docs import schemas
from rivet_dagster.errors import IntegrityError, StoreError
from rivet_dagster.export.clean import clean_export
from rivet_dagster.export.journal import Journal, list_journals, new_run_id, read_journal, rotate, segment_path
from rivet_dagster.export.journal_entries import (
    ENTRIES,
    DriftEntry,
    GateEntry,
    GovernorEntry,
    JournalEntry,
    PlanEntry,
    PolicyEntry,
    PressureEntry,
    RetryEntry,
    RunEntry,
    VerdictEntry,
    WindowEntry,
    parse_lines,
)
from rivet_dagster.export.journal_summary import summarize
from rivet_dagster.stores import open_store
from rivet_dagster.stores.local import LocalStore

SAMPLES = Path(__file__).parent / "samples"
NEVER = 3600.0  # seconds: entries are written when a test says so
ONE_OF_EACH: list[JournalEntry] = [
    RunEntry(table="public.orders", engine="postgresql", workers_max=4, windows=2, unseen={"log_waits": "PROCESS"}),
    PlanEntry(generation=1, windows=2, appended=2, seconds=0.5),
    PressureEntry(width=4, busy=2, u=0.25, by="canary_s", signals={"canary_s": 0.001234567, "conflicts": 0.0}),
    GovernorEntry(width_from=4, width_to=2, u=1.2, reason="active_sessions is at 1.20 of full load"),
    GateEntry(state="held", reasons=("quiet hours until 06:00 (UTC)",)),
    GateEntry(state="released", reasons=("quiet hours until 06:00 (UTC)",), held_s=3.5),
    RetryEntry(window="g1-w000000", attempt=1, code="RIVET_SOURCE_LOST", pause_s=0.5),
    WindowEntry(key="g1-w000000", outcome="committed", rows=10, bytes=100, pages=1, duration_s=0.5, attempts=2),
    PolicyEntry(window="g1-w000000", column='größe "\n\ud800', reason="NaN", values=3),
    WindowEntry(key="g1-w000001", outcome="failed", code="RIVET_VALUE_TOO_LARGE"),
    DriftEntry(what="column note is gone"),
    VerdictEntry(outcome="failed", committed=1, failed=1, rows=10, bytes=100),
]


class FailingStore(LocalStore):
    """A folder whose writes fail as `fails` says: `before` they write, or `after`, when only the answer is lost."""

    fails = ""

    def put(self, path: str, data: bytes) -> None:
        self._write(lambda: super(FailingStore, self).put(path, data))

    def create(self, path: str, data: bytes) -> bool:
        return bool(self._write(lambda: super(FailingStore, self).create(path, data)))

    def _write(self, write: Callable[[], Any]) -> Any:
        if self.fails == "before":
            raise StoreError("RIVET_STORE_FAILED", "The destination failed.", "Wait.", retryable=True)
        done = write()
        if self.fails:
            raise StoreError("RIVET_STORE_FAILED", "The answer was lost.", "Wait.", retryable=True)
        return done


def number(index: int, size: int = 0) -> RetryEntry:
    """An entry that is told from others, of a size."""
    return RetryEntry(window="w" * size, attempt=index, code="")


def numbers(entries: list[JournalEntry]) -> list[int]:
    return [entry.attempt for entry in entries if isinstance(entry, RetryEntry)]


def bare(entry: JournalEntry) -> JournalEntry:
    """An entry without what the journal fills in."""
    return entry.model_copy(update={"at": "", "t": 0.0, **({"run_id": ""} if isinstance(entry, RunEntry) else {})})


# Writing and reading


def test_entries_are_read_as_they_were_recorded(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "export"))
    ticks = iter(range(100, 200))
    now = datetime(2026, 1, 31, 5, 59, 59, 250_000, tzinfo=timezone.utc)
    with Journal(store, "one", clock=lambda: float(next(ticks)), now=lambda: now) as journal:
        for entry in ONE_OF_EACH:
            journal.record(entry)
    found = read_journal(store)
    assert {type(entry) for entry in found} == set(ENTRIES)
    assert [entry.t for entry in found] == [float(t) for t in range(1, len(ONE_OF_EACH) + 1)]
    assert {entry.at for entry in found} == {"2026-01-31T05:59:59.250+00:00"}
    assert [bare(entry) for entry in found] == ONE_OF_EACH
    assert isinstance(found[0], RunEntry)
    assert found[0].run_id == "one"
    lines = [json.loads(line) for line in (tmp_path / "export/journal/one.jsonl").read_text().splitlines()]
    assert [list(line)[:4] for line in lines] == [["format", "at", "t", "event"]] * len(lines)
    assert lines[2]["signals"] == {"canary_s": 0.00123457, "conflicts": 0.0}


def test_entries_are_written_while_the_run_goes_on(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with Journal(store, "one", flush_seconds=0.05) as journal:
        for index in range(3):
            journal.record(number(index))
            deadline = time.monotonic() + 10
            while not list_journals(store) or numbers(read_journal(store)) != list(range(index + 1)):
                assert time.monotonic() < deadline
                time.sleep(0.01)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("record"), st.integers(0, 400)),
        st.tuples(st.just("flush"), st.just(0)),
        st.tuples(st.sampled_from(["well", "before", "after"]), st.just(0)),
        st.tuples(st.just("again"), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(ACTIONS, st.booleans())
def test_a_kill_leaves_a_prefix_as_whole_lines(actions: list[tuple[str, int]], closed: bool) -> None:
    """Whatever is recorded, written, refused or answered in vain, and also where the run's step is tried again."""
    with tempfile.TemporaryDirectory() as folder:
        store = FailingStore(folder)

        def begin() -> Journal:
            return Journal(store, "one", flush_seconds=NEVER, segment_bytes=1000)

        journal, tries, safe = begin(), [[]], [0]  # type: ignore[var-annotated]
        count = 0
        for action, size in actions:
            if action == "record":
                journal.record(number(count, size))
                tries[-1].append(count)
                count += 1
            elif action == "flush":
                journal.flush()
                safe[-1] = len(tries[-1]) if not store.fails else safe[-1]
            elif action == "again":
                journal = begin()  # the one before was killed
                tries.append([])
                safe.append(0)
            else:
                store.fails = "" if action == "well" else action
        if closed:
            journal.close()
            safe[-1] = len(tries[-1]) if not store.fails else safe[-1]
            assert journal.lost >= 0 if store.fails else journal.lost == 0
        data = b"".join(store.get(path) or b"" for each in list_journals(store) for path in each.segments)
        found = numbers(list(parse_lines(data, "here")))
        assert data == b"" or data.endswith(b"\n")
        for recorded, least in zip(tries, safe, strict=True):
            of_try = [index for index in found if index in recorded]
            assert of_try == recorded[: len(of_try)]
            assert len(of_try) >= least
        assert found == sorted(set(found)), "nothing twice"
        lines = data.splitlines(keepends=True)
        for each in list_journals(store):
            for path in each.segments:
                written = store.get(path) or b""
                assert len(written) <= 1000 or written in lines


def test_a_long_run_writes_each_segment_only_while_it_grows(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with Journal(store, "one", flush_seconds=NEVER, segment_bytes=2000) as journal:
        for index in range(200):
            journal.record(number(index, 100))
            if index % 7 == 0:
                journal.flush()
                (now,) = list_journals(store)
                for path in now.segments[:-1]:
                    os.utime(tmp_path / path, (1.0, 1.0))
    assert numbers(read_journal(store)) == list(range(200))
    (found,) = list_journals(store)
    assert found.segments == tuple(segment_path("one", n) for n in range(1, len(found.segments) + 1))
    assert len(found.segments) > 10
    untouched = [path for path in found.segments if (tmp_path / path).stat().st_mtime == 1.0]
    assert len(untouched) >= len(found.segments) - 2


KILLED = """
import sys, time
from rivet_dagster.export.journal import Journal
from rivet_dagster.export.journal_entries import RetryEntry
from rivet_dagster.stores import open_store
journal = Journal(open_store(sys.argv[1]), "one", flush_seconds=0.02, segment_bytes=20_000)
index = 0
while True:
    journal.record(RetryEntry(window="g1-w000001", attempt=index, code="RIVET_SOURCE_LOST"))
    index += 1
    time.sleep(0.0005)
"""


def test_a_killed_process_loses_only_the_last_seconds(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)])
    try:
        deadline = time.monotonic() + 60
        while not list_journals(store) or len(list_journals(store)[0].segments) < 3:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    found = numbers(read_journal(store))
    assert found == list(range(len(found)))
    assert len(found) > 200


def test_threads_record_at_the_same_time(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with Journal(store, "one", flush_seconds=0.001, segment_bytes=10_000) as journal:
        threads = [
            threading.Thread(target=lambda n=n: [journal.record(number(n * 1000 + i)) for i in range(100)])
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = read_journal(store)
    assert sorted(numbers(found)) == sorted(n * 1000 + i for n in range(8) for i in range(100))
    for n in range(8):
        own = [index for index in numbers(found) if index // 1000 == n]
        assert own == sorted(own)
    assert [entry.t for entry in found] == sorted(entry.t for entry in found)


# A destination that fails


def test_a_failing_destination_fails_no_export(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = FailingStore(str(tmp_path))
    store.fails = "before"
    with Journal(store, "one", flush_seconds=NEVER, unwritten_bytes=3000) as journal:
        for index in range(100):
            journal.record(number(index, 50))
            journal.flush()
        assert 50 < journal.lost < 100
        lost = journal.lost
        store.fails = ""
        journal.flush()
        journal.record(VerdictEntry(outcome="done"))
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"], "said once, and in the end"
    assert f"{lost} entries" in caplog.messages[-1]
    found = read_journal(store)
    assert numbers(found) == list(range(100 - lost))
    assert isinstance(found[-1], VerdictEntry)
    assert found[-1].lost_entries == lost


def test_what_was_never_written_is_counted(tmp_path: Path) -> None:
    (tmp_path / "export").write_text("a file where a folder should be")
    journal = Journal(open_store(str(tmp_path / "export")), "one", flush_seconds=NEVER)
    for index in range(5):
        journal.record(number(index))
    journal.close()
    assert journal.lost == 5
    journal.record(number(5))
    journal.close()
    assert journal.lost == 6


def test_an_entry_that_json_cannot_hold_is_lost_alone(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with Journal(store, "one") as journal:
        journal.record(number(0))
        journal.record(PressureEntry(width=1, u=float("nan")))
        journal.record(PressureEntry(width=1, u=0.5, signals={"lag": float("inf"), "rate": 2.0}))
        journal.record(number(1))
        assert journal.lost == 1
    found = read_journal(store)
    assert numbers(found) == [0, 1]
    assert isinstance(found[1], PressureEntry)
    assert found[1].signals == {"rate": 2.0}


# Several journals


def test_the_newest_journal_is_read_unless_another_is_named(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    names = ["a", "with.dot/and slash_x0041_", "ß😀"]
    for age, name in enumerate(names):
        with Journal(store, name, segment_bytes=100) as journal:
            journal.record(number(age))
            journal.record(number(age))
        for path in list_journals(store)[0].segments:
            os.utime(tmp_path / path, (1e9 - age, 1e9 - age))
    (tmp_path / "journal/notes.txt").write_text("none of ours")
    assert [each.run_id for each in list_journals(store)] == names
    assert all(len(each.segments) == 2 and each.bytes > 0 for each in list_journals(store))
    assert numbers(read_journal(store)) == [0, 0]
    for age, name in enumerate(names):
        assert numbers(read_journal(store, name)) == [age, age]
    with pytest.raises(StoreError, match="no journal of run other") as caught:
        read_journal(store, "other")
    assert caught.value.code == "RIVET_JOURNAL_MISSING"


def test_nothing_is_created_by_reading(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="RIVET_JOURNAL_MISSING"):
        read_journal(open_store(str(tmp_path / "export")))
    assert not (tmp_path / "export").exists()


def test_names_of_later_runs_sort_behind(tmp_path: Path) -> None:
    moment = datetime(2026, 1, 31, 23, 59, 59, tzinfo=timezone.utc)
    names = [new_run_id(moment + timedelta(seconds=seconds)) for seconds in (0, 1, 60)]
    assert names == sorted(names)
    assert names[0].startswith("20260131T235959-")
    assert len({new_run_id(moment) for _ in range(20)}) == 20
    assert Journal(open_store(str(tmp_path))).run_id


def aged(store: LocalStore, folder: Path, hours: list[float]) -> list[str]:
    """Journals that were written so many hours ago, of two segments each; their runs."""
    names = [f"run-{index}" for index in range(len(hours))]
    for name, age in zip(names, hours, strict=True):
        for segment in (1, 2):
            store.put(segment_path(name, segment), number(0).to_line())
            moment = time.time() - age * 3600
            os.utime(folder / segment_path(name, segment), (moment, moment))
    return names


def test_rotation_deletes_what_is_neither_new_nor_among_the_newest(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    names = aged(store, tmp_path, [1, 2, 23, 25, 26, 1000])
    assert rotate(store, keep=6) == []
    assert rotate(store, keep=4, but="run-4") == ["run-5"]
    assert rotate(store, keep=1) == ["run-3", "run-4"]
    assert [each.run_id for each in list_journals(store)] == names[:3]
    assert len(list((tmp_path / "journal").iterdir())) == 6
    assert rotate(store, keep=1, now=datetime.now(timezone.utc) + timedelta(hours=22.5)) == ["run-1", "run-2"]


def test_opening_a_journal_rotates(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    names = aged(store, tmp_path, [30 + index for index in range(55)])
    (tmp_path / "journal/notes.txt").write_text("none of ours")
    with Journal(store, "new") as journal:
        journal.record(number(1))
    assert [each.run_id for each in list_journals(store)] == ["new", *names[:49]]
    assert (tmp_path / "journal/notes.txt").exists()


def test_a_step_that_is_tried_again_goes_on_in_the_next_segment(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for index in range(3):
        with Journal(store, "one") as journal:
            journal.record(RunEntry(table="public.orders", engine="mysql", workers_max=2, windows=3 - index))
            journal.record(number(index))
    assert numbers(read_journal(store)) == [0, 1, 2]
    found = summarize(read_journal(store))
    assert (found.tries, found.windows, found.retries) == (3, 1, 1)


def test_cleaning_leaves_journals_alone(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    sealed = SAMPLES / "checksums/keyset"
    for path in sealed.rglob("*"):
        if path.is_file():
            (folder / path.relative_to(sealed)).parent.mkdir(parents=True, exist_ok=True)
            (folder / path.relative_to(sealed)).write_bytes(path.read_bytes())
    store = LocalStore(str(folder))
    aged(store, folder, [1, 1000])
    store.put("g1/notes.txt", b"none of ours")
    later = datetime.now(timezone.utc) + timedelta(days=400)
    removed = {each.path for each in clean_export(store, grace=timedelta(), now=later).removals}
    assert "g1/notes.txt" in removed
    assert not any(path.startswith("journal/") for path in removed)
    assert len(list_journals(store)) == 2


# Documents


@cache
def schema() -> Draft202012Validator:
    return Draft202012Validator(json.loads((schemas.FOLDER / "journal-1.json").read_text()))


def lines_of(store: LocalStore) -> list[dict[str, Any]]:
    (found,) = list_journals(store)
    return [json.loads(line) for path in found.segments for line in (store.get(path) or b"").splitlines()]


def parsed(values: Any) -> list[JournalEntry]:
    return list(parse_lines(json.dumps(values).encode(), "here"))


def test_the_sample_is_read_and_follows_the_schema() -> None:
    store = LocalStore(str(SAMPLES / "journal"))
    found = read_journal(store)
    lines = lines_of(store)
    assert len(found) == len(lines)
    for line, entry in zip(lines, found, strict=True):
        schema().validate(line)
        again = json.loads(entry.to_line())
        assert {name: again[name] for name in line} == line
    summary = summarize(found)
    assert (summary.outcome, summary.committed, summary.rows, summary.replaced) == ("done", 10, 200_000, 200)
    assert summary.held_s == pytest.approx(next(each.held_s for each in found if getattr(each, "held_s", 0)), abs=0.1)


def test_readers_and_schema_refuse_the_same() -> None:
    refused = set()
    for entry in ONE_OF_EACH:
        line = json.loads(entry.to_line())
        schema().validate(line)
        for name in line:
            for change in ("missing", "an object"):
                values = {**line, name: {}} if change == "an object" else {k: v for k, v in line.items() if k != name}
                try:
                    parsed(values)
                    code = ""
                except IntegrityError as exc:
                    code = exc.code
                    refused.add(change)
                if name == "event" and change == "an object":
                    continue  # an event that is not known, or none at all
                if {name, change} & {"signals", "unseen"}:
                    continue  # an object is what they are
                assert code == ("" if schema().is_valid(values) else "RIVET_DOCUMENT_INVALID"), (line, name, change)
    assert refused == {"missing", "an object"}


def test_unknown_fields_and_events_are_ignored() -> None:
    line = json.loads(ONE_OF_EACH[7].to_line())
    assert parsed({**line, "colour": {"blue": [1]}}) == [ONE_OF_EACH[7]]
    unknown = {**line, "event": "eclipse", "rows": "many"}
    schema().validate(unknown)
    assert parsed(unknown) == []


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b'{"format": "rivet.journal/2", "at": "", "t": 0, "event": "run"}'])
def test_a_line_that_cannot_be_read_is_named(line: bytes, tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.put(segment_path("one", 1), number(0).to_line() + line + b"\n")
    with pytest.raises(IntegrityError, match=r"Line 2 of file:.*/journal/one\.jsonl cannot be read"):
        read_journal(store)


def test_every_field_of_the_schema_is_described() -> None:
    found = schemas.journal_schema()
    fields = [field for each in (found, *found["$defs"].values()) for field in each["properties"].values()]
    assert [field for field in fields if not {"description", "const"} & field.keys()] == []
    assert len(found["$defs"]) == len(ENTRIES)
