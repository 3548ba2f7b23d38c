"""The command that shows what happened in a run: journal."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rivet_dagster.cli import JsonFlag, app, contradiction, print_out, print_table
from rivet_dagster.errors import ConfigError

if TYPE_CHECKING:
    from rivet_dagster.export.journal_entries import JournalEntry
    from rivet_dagster.export.journal_summary import JournalDecision, JournalSummary
    from rivet_dagster.stores import Store

_NARROWEST, _WIDEST, _USUAL = 80, 120, 100
_MOST_DECISIONS = 40


@app.command()
def journal(
    uri: Annotated[str, typer.Argument(help="The export's folder: URI/schema.table.")],
    *,
    run: Annotated[str | None, typer.Option("--run", help="Which run; default: the newest.")] = None,
    list_runs: Annotated[bool, typer.Option("--list", help="Only list the runs that have a journal.")] = False,
    svg: Annotated[Path | None, typer.Option("--svg", help="Write the run's timeline to this file, too.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what happened in a run: its windows, workers, pressure on the source, and every decision's reason."""
    from rivet_dagster.export.journal import read_journal  # noqa: PLC0415 (help pages stay quick)
    from rivet_dagster.export.journal_summary import summarize  # noqa: PLC0415
    from rivet_dagster.export.timeline import text_chart  # noqa: PLC0415
    from rivet_dagster.stores import open_store  # noqa: PLC0415

    store = open_store(uri)
    if list_runs:
        if run is not None or svg is not None:
            raise contradiction("--list shows all runs, so --run and --svg do not go with it")
        _print_runs(store, as_json=as_json)
        return
    entries = read_journal(store, run)
    found = summarize(entries)
    if svg is not None:
        _write_svg(svg, entries, found)
    if as_json:
        print_out(json.dumps(found.to_json()))
        return
    _print_summary(found)
    columns = max(_NARROWEST, min(shutil.get_terminal_size((_USUAL, 24)).columns, _WIDEST))
    print_out(text_chart(entries, columns))
    _print_decisions(found.decisions, columns)
    if svg is not None:
        print_out(f"The timeline is in {svg}.")


def _print_runs(store: "Store", *, as_json: bool) -> None:
    from rivet_dagster.export.journal import list_journals  # noqa: PLC0415

    found = list_journals(store)
    if as_json:
        runs = [
            {"run_id": each.run_id, "bytes": each.bytes, "written": each.modified.isoformat(timespec="seconds")}
            for each in found
        ]
        print_out(json.dumps({"runs": runs}))
        return
    if not found:
        print_out(f"{store.uri} has no journals.")
        return
    print_table(
        f"Journals in {store.uri}, the newest first",
        {each.run_id: f"{each.modified:%Y-%m-%d %H:%M:%S} UTC, {each.bytes / 1e3:,.1f} kB" for each in found},
    )


def _write_svg(path: Path, entries: "Sequence[JournalEntry]", found: "JournalSummary") -> None:
    from rivet_dagster.export.timeline_svg import svg_document  # noqa: PLC0415

    try:
        path.write_text(svg_document(entries, found.title), encoding="utf-8")
    except OSError as exc:
        raise ConfigError(
            "RIVET_CONFIG_INVALID",
            f"The timeline cannot be written to {path}: {exc.strerror}.",
            "Name a file in a folder that exists and that you may write to.",
        ) from None


def _print_summary(found: "JournalSummary") -> None:
    from rich.markup import escape  # noqa: PLC0415

    print_table(escape(found.title), {name: escape(value) for name, value in found.lines().items()})


def _print_decisions(decisions: "Sequence[JournalDecision]", columns: int) -> None:
    """The first and the last of them where there are many."""
    if not decisions:
        print_out("Nothing had to be decided.")
        return
    shown = list(decisions)
    title = "What was decided, and why"
    if len(shown) > _MOST_DECISIONS:
        half = _MOST_DECISIONS // 2
        title += f" (the first and the last {half} of {len(shown):,})"
        shown = [*shown[:half], *shown[-half:]]
    from rich.console import Console  # noqa: PLC0415
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(title=title, title_justify="left", show_header=False)
    for each in shown:
        table.add_row(f"{each.t:,.1f} s", escape(each.what), escape(each.why))
    Console(width=columns).print(table)
