"""A run's journal as metadata of Dagster."""

from __future__ import annotations

import base64
from pathlib import Path
from xml.etree import ElementTree

import dagster as dg

from rivet_dagster.export.journal import list_journals, read_journal
from rivet_dagster.export.journal_entries import GovernorEntry, JournalEntry, PressureEntry, RunEntry, VerdictEntry
from rivet_dagster.export.timeline import text_chart
from rivet_dagster.metadata import journal_metadata
from rivet_dagster.stores import open_store

ROOT = Path(__file__).parents[2]
SAMPLE = Path(__file__).parent / "samples/journal"
SHOWN_AT_ONCE = 1000
"""Characters of Markdown from which on Dagster's UI shows it only on a click."""


def picture_of(markdown: object) -> str:
    """The SVG document in a Markdown image."""
    head, _, encoded = str(markdown).partition("](data:image/svg+xml;base64,")
    assert head.startswith("![")
    assert encoded.endswith(")")
    return base64.b64decode(encoded[:-1]).decode()


def test_a_run_has_its_figures_and_its_picture() -> None:
    store = open_store(str(SAMPLE))
    found = journal_metadata(store, read_journal(store))
    event = dg.AssetMaterialization("orders", metadata=found)
    values = {name: value.value for name, value in event.metadata.items()}
    assert values["rivet/run_outcome"] == "done"
    assert (values["rivet/run_rows"], values["rivet/run_retries"], values["rivet/run_sheds"]) == (200_000, 0, 0)
    assert values["rivet/run_held_s"] > 2
    (journal,) = list_journals(store)
    assert values["rivet/run_journal"] == store.url(journal.segments[0])
    picture = picture_of(values["rivet/run_timeline"])
    assert ElementTree.fromstring(picture).tag.endswith("svg")
    assert len(str(values["rivet/run_timeline"])) < 20_000
    for name in ("chart", "summary", "decisions"):
        assert len(str(values[f"rivet/run_{name}"])) < SHOWN_AT_ONCE
    assert "| rows | 200,000 (" in str(values["rivet/run_summary"])


def test_text_of_others_is_no_markdown() -> None:
    run = RunEntry(run_id="one", table="public.a|b](x)![y", engine="mysql", workers_max=9, windows=1)
    moves: list[JournalEntry] = [
        GovernorEntry(t=index, width_from=2, width_to=1, reason=f"<b> | {index}\nreason") for index in range(99)
    ]
    found = journal_metadata(open_store(str(SAMPLE)), [run, PressureEntry(width=9, u=0.25), *moves])
    table = str(found["rivet/run_decisions"].value).splitlines()
    rows = [line for line in table if line.startswith("|")]
    assert len(rows) == 2 + 30
    assert rows[-1] == "| 98.0 s | workers 2 to 1 | \\<b\\> \\| 98 reason |"
    assert "69 between" in table[-1]
    assert str(found["rivet/run_timeline"].value).startswith("![public.a\\|b\\](x)\\!\\[y: unfinished")
    assert found["rivet/run_pressure_max"].value == 0.25


def test_the_page_on_journals_names_everything_and_shows_the_sample() -> None:
    page = (ROOT / "docs/how-to/read-a-journal.md").read_text()
    store = open_store(str(SAMPLE))
    entries = read_journal(store)
    assert [name for name in journal_metadata(store, entries) if f"`{name}`" not in page] == []
    assert f"```\n{text_chart(entries, 100)}\n```" in page


def test_what_was_not_looked_at_is_left_out() -> None:
    run = RunEntry(run_id="one", table="public.orders", engine="mysql", workers_max=2, windows=1)
    found = journal_metadata(open_store(str(SAMPLE)), [run, VerdictEntry(outcome="done")])
    assert not {"rivet/run_pressure_max", "rivet/run_decisions"} & found.keys()
