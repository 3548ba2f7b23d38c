"""The commands that look after exports: validate, reconcile, repair and clean."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from rivet_dagster.cli import (
    JsonFlag,
    Query,
    Source,
    Table,
    WindowsJson,
    app,
    config_of,
    contradiction,
    orderly_stop,
    print_out,
    print_table,
    progress_bar,
    slices_in,
)
from rivet_dagster.errors import RivetError

if TYPE_CHECKING:
    from rivet_dagster.export.operations import TableExport
    from rivet_dagster.export.plan import Plan, Window
    from rivet_dagster.export.reconcile import Reconciliation
    from rivet_dagster.export.repair import Repair
    from rivet_dagster.export.validate import Finding, Report


class ValidationDepth(str, Enum):
    """How much of what is stored is read."""

    LIGHT = "light"
    SAMPLE = "sample"
    FULL = "full"


class ComparisonDepth(str, Enum):
    """What of the source is compared."""

    COUNT = "count"
    KEYS = "keys"
    ROWS = "rows"


To = Annotated[str, typer.Option(help="Folder or address that the table was exported to.")]
Workers = Annotated[int, typer.Option(min=1, max=64, help="Connections that read at the same time.")]


@app.command()
def validate(
    uri: Annotated[str, typer.Argument(help="The export's folder: URI/schema.table.")],
    depth: Annotated[
        ValidationDepth,
        typer.Option(help="light: documents and sizes; sample: every tenth part, too; full: every part."),
    ] = ValidationDepth.FULL,
    as_json: JsonFlag = False,
) -> None:
    """Hold a sealed export against its seal: every document, part, row and window."""
    from rivet_dagster.export.seal import seal_in_force  # noqa: PLC0415 (help pages stay quick)
    from rivet_dagster.export.validate import chosen_parts, validate_export  # noqa: PLC0415
    from rivet_dagster.stores import open_store  # noqa: PLC0415

    store = open_store(uri)
    seal = seal_in_force(store)
    chosen = chosen_parts(seal, depth.value) if seal else set()
    parts = [part for window in seal.windows for part in window.parts if part.path in chosen] if seal else []
    with progress_bar(quiet=as_json) as progress:
        task = progress.add_task("validating", total=sum(part.bytes for part in parts) if parts else None)
        report = validate_export(store, lambda size: progress.advance(task, size), depth=depth.value)
    _print_report(report, as_json=as_json)
    if not report.ok:
        raise typer.Exit(3)


@app.command()
def reconcile(
    *,
    source: Source,
    table: Table,
    to: To,
    depth: Annotated[
        ComparisonDepth,
        typer.Option(help="count: numbers of rows; keys: the key's values, too; rows: every value."),
    ] = ComparisonDepth.KEYS,
    query: Query = None,
    windows: WindowsJson = None,
    workers: Workers = 2,
    as_json: JsonFlag = False,
) -> None:
    """Hold the source's rows against the windows that are committed. Nothing is written."""
    from rivet_dagster.export.reconcile import reconcile as compare  # noqa: PLC0415

    prepared, plan, chosen = _opened(source, table, to, query, windows)
    with orderly_stop("The comparison was stopped.", "Nothing was written."), progress_bar(quiet=as_json) as progress:
        task = progress.add_task(f"comparing {table}", total=len(chosen))
        found = compare(
            prepared,
            depth.value,
            plan=plan,
            windows=chosen,
            workers=workers,
            progress=lambda _: progress.advance(task),
        )
    _print_comparison(found, as_json=as_json)
    if not found.ok:
        raise typer.Exit(3)


@app.command()
def repair(
    *,
    source: Source,
    table: Table,
    to: To,
    validation: Annotated[
        ValidationDepth, typer.Option("--validate", help="How much of what is stored is read.")
    ] = ValidationDepth.FULL,
    comparison: Annotated[
        ComparisonDepth | None, typer.Option("--reconcile", help="Compare with the source, too; default: do not.")
    ] = None,
    query: Query = None,
    windows: WindowsJson = None,
    workers: Workers = 2,
    as_json: JsonFlag = False,
) -> None:
    """Export again exactly the windows that are damaged, or that differ from the source, and seal again."""
    from rivet_dagster.export.repair import repair as mend  # noqa: PLC0415

    prepared, plan, chosen = _opened(source, table, to, query, windows)
    _take_format(prepared, plan, chosen)
    stopped = ("The repair was stopped.", "Windows that were exported again are kept: start again to go on.")
    with orderly_stop(*stopped), progress_bar(quiet=as_json) as progress:

        def stage(name: str, size: int | None) -> Callable[[int], None]:
            task = progress.add_task(f"{name} {table}", total=size)
            return lambda done: progress.advance(task, done)

        found = mend(
            prepared,
            slices=() if plan.windows else chosen,
            validation=validation.value,
            comparison=comparison.value if comparison else None,
            workers=workers,
            stage=stage,
        )
    _print_repair(found, as_json=as_json)
    if not found.ok:
        raise typer.Exit(3)


@app.command()
def clean(
    uri: Annotated[str, typer.Argument(help="The export's folder: URI/schema.table.")],
    grace_hours: Annotated[
        float, typer.Option(min=0.0, help="How long readers of the seal before may still be at work.")
    ] = 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Remove what no seal and no window needs any more; set aside files that no export makes."""
    from datetime import timedelta  # noqa: PLC0415

    from rivet_dagster.export.clean import clean_export  # noqa: PLC0415
    from rivet_dagster.stores import open_store  # noqa: PLC0415

    found = clean_export(open_store(uri), grace=timedelta(hours=grace_hours), dry_run=dry_run)
    if as_json:
        print_out(json.dumps(found.to_json()))
        return
    size = sum(each.bytes for each in found.removals)
    done = "would be removed or set aside" if dry_run else "removed or set aside"
    kept = f"{found.kept:,} are younger than the grace time"
    print_out(f"{len(found.removals):,} objects ({size / 1e6:,.1f} MB) {done}; {kept}.")
    if found.removals and dry_run:
        print_table("What would go", {each.path: f"{each.action}: {each.why}" for each in found.removals})


def _opened(
    source: str, table: str, to: str, query: str | None, windows: str | None
) -> "tuple[TableExport, Plan, Sequence[Window]]":
    """An export that is there already: with the plan in force and all of its windows."""
    from rivet_dagster.export.operations import TableExport  # noqa: PLC0415
    from rivet_dagster.export.reconcile import plan_in_force  # noqa: PLC0415

    prepared = TableExport(config_of(table, query, None, windows, None, whole=False), source, to)
    plan = plan_in_force(prepared)
    return prepared, plan, plan.windows or _slices(prepared, plan)


def _slices(prepared: "TableExport", plan: "Plan") -> "Sequence[Window]":
    if plan.mode == "time" and prepared.config.windows.type != "time":
        raise contradiction("the table is planned in slices of time, so --windows must say them")
    return slices_in(prepared, plan)


def _take_format(prepared: "TableExport", plan: "Plan", windows: "Sequence[Window]") -> None:
    """Take the format that the parts have: a seal has parts of one."""
    from rivet_dagster.export.commit import load_window  # noqa: PLC0415
    from rivet_dagster.export.config import CsvFormat  # noqa: PLC0415
    from rivet_dagster.formats import FORMATS  # noqa: PLC0415

    for window in windows:
        with suppress(RivetError):  # a broken manifest, which repair is for
            manifest = load_window(prepared.store, plan.generation, window.key)
            if manifest is not None and manifest.parts:
                suffix = manifest.parts[0].path.rpartition("/")[2].partition(".")[2]
                for compression in ("gzip", "zstd", "none"):
                    if suffix == FORMATS["csv"].suffix_of(compression):
                        written = CsvFormat.model_validate({"compression": compression})
                        prepared.config = prepared.config.model_copy(update={"format": written})
                return


def _print_report(report: "Report", *, as_json: bool) -> None:
    if as_json:
        print_out(json.dumps(report.to_json()))
        return
    read = f"{report.rows:,} rows in {report.parts:,} parts of {report.windows:,} windows"
    if report.depth != "full":
        read += f", of which {report.parts_read:,} parts were read"
    if report.ok:
        print_out(f"{report.table} is sound: {read}, seal {report.seal_id}.")
        if report.leftovers:
            print_out(f"{report.leftovers:,} parts are named by no manifest any more; readers do not see them.")
        return
    print_table(f"{report.table} is damaged ({read}); export these windows again", _listed(report.findings))


def _print_comparison(found: "Reconciliation", *, as_json: bool) -> None:
    if as_json:
        print_out(json.dumps(found.to_json()))
        return
    read = f"{found.windows:,} windows with {found.rows:,} rows by {found.depth}, read until {found.read_until}"
    if not found.snapshot:
        read += ", not from snapshots"
    if found.uncommitted:
        read += f"; {found.uncommitted:,} windows are not committed"
    if found.ok:
        print_out(f"{found.table} has what the source has ({read}).")
        return
    print_table(f"{found.table} differs from the source ({read})", _listed(found.findings))


def _print_repair(found: "Repair", *, as_json: bool) -> None:
    if as_json:
        print_out(json.dumps(found.to_json()))
        return
    if found.findings:
        print_table(f"{found.table} was found to be wrong", _listed(found.findings))
    print_out(f"{len(found.windows):,} windows of {found.table} were exported again; its seal is {found.seal_id}.")
    if found.left:
        print_table("This is wrong still", _listed(found.left))


def _listed(findings: "Sequence[Finding]") -> dict[str, str]:
    rows: dict[str, list[str]] = {}
    for finding in findings:
        said = f"{finding.path}: {finding.what}" if finding.path else finding.what
        rows.setdefault(f"{finding.window} {finding.code}".strip(), []).append(said)
    return {name: "\n".join(lines) for name, lines in rows.items()}
