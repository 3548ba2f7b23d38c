"""A run over time: columns of equal length, a chart of blocks, and a picture that stays small."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rivet_dagster.export.journal_entries import (
    DriftEntry,
    GateEntry,
    GovernorEntry,
    JournalEntry,
    PolicyEntry,
    PressureEntry,
    RetryEntry,
    RunEntry,
    VerdictEntry,
    WindowEntry,
)
from rivet_dagster.export.journal_summary import summarize
from rivet_dagster.export.timeline import Held, Mark, duration_text, last_try, text_chart, time_marks, timeline_of
from rivet_dagster.export.timeline_svg import svg_document

SVG = "{http://www.w3.org/2000/svg}"
MOST_BYTES = 60_000


def begun(**fields: object) -> RunEntry:
    usual = {"table": "public.orders", "engine": "postgresql", "workers_max": 4, "windows": 6, "governed": True}
    return RunEntry.model_validate({**usual, **fields})


def committed(t: float, rows: int, seconds: float) -> WindowEntry:
    return WindowEntry(t=t, key="g1-w000000", outcome="committed", rows=rows, duration_s=seconds)


# Ten seconds: quiet, loaded so that windows are held, relieved.
STORY: list[JournalEntry] = [
    begun(),
    PressureEntry(t=0, width=4, u=0.1),
    committed(t=2, rows=2000, seconds=2),
    PressureEntry(t=2.5, width=4, u=1.5, by="active_sessions"),
    GovernorEntry(t=2.5, width_from=4, width_to=2, u=1.5, reason="active_sessions is at 1.50 of full load"),
    committed(t=3, rows=2000, seconds=1),
    RetryEntry(t=3.1, window="g1-w000002", attempt=1, code="RIVET_SOURCE_LOST"),
    GateEntry(t=4, state="held", reasons=("a replica is 75 s behind",)),
    PressureEntry(t=4, width=1, u=0.9),
    PressureEntry(t=5, width=1, u=0.55, stale=True),
    GateEntry(t=6, state="released", reasons=("a replica is 75 s behind",), held_s=2),
    PressureEntry(t=6, width=2, u=0.3),
    PressureEntry(t=7, width=4, u=0.0),
    PolicyEntry(t=8, window="g1-w000003", column="amount", reason="NaN", values=2),
    committed(t=8, rows=6000, seconds=2),
    PolicyEntry(t=9, window="g1-w000004", column="amount", reason="NaN", values=3),
    WindowEntry(t=9.5, key="g1-w000005", outcome="failed", code="RIVET_VALUE_TOO_LARGE"),
    VerdictEntry(t=10, outcome="failed", committed=3, failed=1, seconds=10, lost_entries=7),
]


# Columns


def test_columns_have_the_least_width_the_most_pressure_and_rates() -> None:
    found = timeline_of(STORY, 10)
    assert (found.seconds, found.step, found.workers) == (10, 1, 4)
    assert found.width == (4, 4, 2, 2, 1, 1, 1, 2, 4, 4)
    assert found.pressure == (0.1, 0.1, 1.5, 1.5, 1.5, 0.9, 0.3, 0.3, 0.0, 0.0)
    assert found.rows == pytest.approx((1000, 1000, 2000, 0, 0, 0, 3000, 3000, 0, 0))
    assert found.held == (Held(4, 6, ("a replica is 75 s behind",)),)
    assert found.marks == (Mark(3.1, "retry"), Mark(9.5, "failed"))


def test_what_is_stale_is_not_known() -> None:
    looks = [PressureEntry(t=t, width=1, u=0.55, stale=3 <= t < 6) for t in range(11)]
    found = timeline_of([begun(), *looks], 10)
    assert found.pressure == (0.55, 0.55, 0.55, 0.55, None, None, 0.55, 0.55, 0.55, 0.55)


def test_without_a_governor_all_workers_read() -> None:
    found = timeline_of([begun(governed=False), committed(t=4, rows=4, seconds=4)], 4)
    assert found.width == (4, 4, 4, 4)
    assert found.pressure == (None,) * 4
    assert found.rows == pytest.approx((1, 1, 1, 1))


def test_windows_of_an_earlier_try_were_not_read_now() -> None:
    reused = WindowEntry(t=2, key="g1-w000000", outcome="reused", rows=1000, duration_s=2)
    assert timeline_of([begun(), reused], 4).rows == (0.0,) * 4


def test_the_last_try_counts() -> None:
    again = [begun(windows=1), committed(t=1, rows=10, seconds=1)]
    assert last_try([*STORY, *again]) == again
    assert last_try(again) == again
    assert timeline_of([*STORY, *again], 4) == timeline_of(again, 4)
    assert summarize([*STORY, *again]).tries == 2


times = st.floats(0, 1e6, allow_nan=False)
ENTRY = st.one_of(
    st.builds(PressureEntry, t=times, width=st.integers(0, 64), u=st.floats(0, 2), stale=st.booleans()),
    st.builds(GovernorEntry, t=times, width_from=st.integers(0, 64), width_to=st.integers(0, 64)),
    st.builds(GateEntry, t=times, state=st.sampled_from(["held", "released", "aborted"]), reasons=st.tuples(st.text())),
    st.builds(
        WindowEntry,
        t=times,
        key=st.just("w"),
        outcome=st.sampled_from(["committed", "failed", "reused"]),
        rows=st.integers(0, 10**9),
        duration_s=times,
    ),
    st.builds(RetryEntry, t=times, window=st.text(), attempt=st.just(1), code=st.text()),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(ENTRY, max_size=30), st.integers(1, 60), st.text(max_size=200))
def test_any_journal_has_a_chart_and_a_picture(entries: list[JournalEntry], columns: int, title: str) -> None:
    ordered = [begun(), *sorted(entries, key=lambda entry: entry.t)]
    found = timeline_of(ordered, columns)
    assert len(found.width) == len(found.pressure) == len(found.rows) == columns
    read = [each for each in ordered if isinstance(each, WindowEntry) and each.outcome == "committed"]
    assert sum(found.rows) * found.step == pytest.approx(sum(each.rows for each in read), rel=1e-6)
    for width in (80, 120):
        assert max(map(len, text_chart(ordered, width).splitlines())) <= width
    document = svg_document(ordered, title, columns=columns)
    assert ElementTree.fromstring(document).tag == f"{SVG}svg"


# The chart


CHART = """\
workers   ████████████▄▄▄▄▄▄▄▂▂▂▂▂▂▂▂▂▂▄▄▄▄▄██████████████ 1 to 4 of 4
pressure  ▁▁▁▁▁▁▁▁▁▁▁▁█████████████···▃▃▃▃▃▃               at most 1.50
rows/s    ▃▃▃▃▃▃▃▃▃▄▆▆▆▆▃             ▂█████████▄          at most 3,000
held                         ▒▒▒▒▒▒▒▒▒▒                    2 s
events                  r                              x   r retry, x failure
          0 s                                         10 s"""


def test_the_chart_of_blocks() -> None:
    assert text_chart(STORY, 80) == CHART


def test_the_chart_of_a_journal_with_nothing_in_it() -> None:
    chart = text_chart([], 80).splitlines()
    assert [line.split()[0] for line in chart] == ["workers", "pressure", "rows/s", "0"]
    assert chart[0].endswith("· not known")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.5, "0.5 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h"), (360_000, "100 h")],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@given(st.floats(0, 1e9), st.integers(2, 20))
def test_moments_on_the_axis_are_round_and_few(seconds: float, most: int) -> None:
    found = time_marks(seconds, most)
    assert found[0] == 0
    assert len(found) <= most
    assert found[-1] <= seconds


# The picture


def points(path: str) -> int:
    return len(re.findall(r"[MLHV]", path))


def long_run(looks: int) -> list[JournalEntry]:
    """A run whose width, pressure and gates change at every look, over days."""
    entries: list[JournalEntry] = [begun(workers_max=64)]
    for index in range(looks):
        t = index * 20.0
        entries.append(PressureEntry(t=t, width=index * 7 % 65, u=index % 11 / 7, stale=index % 13 == 0))
        state = "held" if index % 2 else "released"
        entries.append(GateEntry(t=t, state=state, reasons=(f"a reason of many words & letters <{index}> " * 5,)))
        entries.append(committed(t=t, rows=index % 17 * 100_000, seconds=20))
        entries.append(RetryEntry(t=t, window="w", attempt=1, code="RIVET_SOURCE_LOST"))
        entries.append(WindowEntry(t=t, key="w", outcome="failed"))
    return entries


def test_the_picture_has_three_panels_with_zones_units_and_gates() -> None:
    root = ElementTree.fromstring(svg_document(STORY, 'orders <&> \x00 "items"'))
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert texts[0] == 'orders <&> � "items"'
    names = ["workers that may read", "pressure on the source (1 is full load)", "rows/s"]
    assert [text for text in texts if text in names] == names
    assert {"0.4", "0.7", "1", "4", "3,000", "0 s", "10 s"} <= set(texts)
    paths: dict[str, list[str]] = {}
    for path in root.iter(f"{SVG}path"):
        paths.setdefault(path.attrib["class"], []).append(path.attrib["d"])
    assert {name: len(found) for name, found in paths.items() if name != "r"} == {**dict.fromkeys("wusft", 1), "z": 3}
    (gate,) = [rect for rect in root.iter(f"{SVG}rect") if rect.attrib["class"] == "g"]
    (title,) = list(gate)
    assert title.text == "held for 2 s: a replica is 75 s behind"
    whole = next(iter(root.iter(f"{SVG}rect")))
    assert float(gate.attrib["x"]) + float(gate.attrib["width"]) < float(whole.attrib["width"])
    # The width falls from 4 to 1 and rises again: levels from the panel's top to its bottom and back.
    levels = [float(level) for level in re.findall(r"(?:V|M\S+ )([\d.]+)", paths["w"][0])]
    assert levels[0] == levels[-1] == min(levels)
    assert max(levels) > levels[0]


def test_the_picture_needs_nothing_else_and_follows_the_viewers_mode() -> None:
    document = svg_document(STORY, "orders")
    assert "prefers-color-scheme:dark" in document
    assert not re.search(r"<script|javascript|@import|url\(|href|@font-face|<image|<foreignObject|\son\w+=", document)
    assert re.findall(r"https?://[^\"]*", document) == ["http://www.w3.org/2000/svg"]


def test_the_picture_does_not_grow_with_the_run() -> None:
    for looks, columns in ((200, 360), (10_000, 400)):
        document = svg_document(long_run(looks), "a title of many words " * 50, columns=columns)
        assert len(document.encode()) < MOST_BYTES
        paths = [path.attrib for path in ElementTree.fromstring(document).iter(f"{SVG}path")]
        lines = {path["class"]: points(path["d"]) for path in paths if path["class"] in {"w", "u", "s"}}
        assert max(lines.values()) <= 2 * columns + 4, "a level and a step for each column"


def test_gaps_are_where_the_pressure_is_not_known() -> None:
    looks = [PressureEntry(t=t, width=2, u=0.5, stale=30 <= t < 60) for t in range(100)]
    root = ElementTree.fromstring(svg_document([begun(), *looks]))
    (line,) = [path.attrib["d"] for path in root.iter(f"{SVG}path") if path.attrib["class"] == "u"]
    assert line.count("M") == 2
    empty = ElementTree.fromstring(svg_document([begun(governed=False), committed(t=4, rows=4, seconds=4)]))
    assert "not looked at" in [text.text for text in empty.iter(f"{SVG}text")]


# The summary


def test_the_summary_counts_what_the_verdict_says() -> None:
    found = summarize(STORY)
    assert (found.outcome, found.committed, found.failed, found.rows) == ("failed", 3, 1, 10_000)
    assert (found.width_min, found.width_max, found.sheds, found.held_s) == (1, 4, 1, 2)
    assert (found.pressure_max, found.looks, found.stale_looks) == (1.5, 6, 1)
    assert (found.retries, found.replaced, found.lost_entries) == (1, 5, 7)
    assert [(each.t, each.what, each.why) for each in found.decisions] == [
        (2.5, "workers 4 to 2", "active_sessions is at 1.50 of full load"),
        (3.1, "g1-w000002 tried again", "RIVET_SOURCE_LOST in try 1"),
        (4, "windows held", "a replica is 75 s behind"),
        (6, "windows released after 2 s", "a replica is 75 s behind"),
        (8, "NULL in place of 5 values", "column amount: NaN, in 2 windows"),
        (9.5, "g1-w000005 failed", "RIVET_VALUE_TOO_LARGE"),
    ]
    assert json.loads(json.dumps(found.to_json()))["decisions"][0]["what"] == "workers 4 to 2"


def test_a_killed_run_has_a_summary_too() -> None:
    found = summarize([*STORY[:8], DriftEntry(t=4.5, what="column note is gone")])
    assert (found.outcome, found.seconds, found.committed) == ("unfinished", 4.5, 2)
    assert found.held_s == pytest.approx(0.5)
    assert found.lines()["outcome"] == "unfinished: the run goes on, or it was killed"
    assert found.decisions[-1].what == "drift, fail"
    assert summarize([]).outcome == "unfinished"
