"""The commands that look before an export: doctor and check."""

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from rivet_dagster.cli import (
    FileFormat,
    Governor,
    JsonFlag,
    KeyColumns,
    Profile,
    ProfileOption,
    Query,
    Rows,
    Source,
    Table,
    Whole,
    WindowsJson,
    app,
    config_of,
    governor_of,
    orderly_stop,
    print_out,
)

if TYPE_CHECKING:
    from rivet_dagster.export.load import LoadReport
    from rivet_dagster.export.predictions import Figure
    from rivet_dagster.export.preflight import ExportReport, SourceReport
    from rivet_dagster.export.verdicts import Reason

Workers = Annotated[int, typer.Option(min=1, max=64, help="Connections that are to read at the same time.")]
Format = Annotated[FileFormat, typer.Option("--format", help="Format of the files.")]

_STOPPED = ("The look was stopped.", "Nothing was exported.")
_COLORS = {"EFFICIENT": "green", "ACCEPTABLE": "green", "DEGRADED": "yellow", "UNSAFE": "red"}
_BASES = {
    "measured": "measured in windows that are committed",
    "catalog": "by the server's statistics",
    "plan": "as planned",
    "ends": "by the ends of the key's index",
    "calendar": "by the calendar",
    "model": "by stated rates",
    "assumed": "assumed",
    "exact": "",
    "unknown": "",
}


@app.command()
def doctor(
    *,
    source: Source,
    to: Annotated[
        str | None, typer.Option(help="Folder or address to export to; an object is put there and deleted.")
    ] = None,
    workers: Workers = 2,
    file_format: Format = FileFormat.PARQUET,
    governor: Governor = None,
    as_json: JsonFlag = False,
) -> None:
    """Look at a source, a destination and this machine: rights, load, gates, room, what an export would lack."""
    from rivet_dagster.export.preflight import examine_source  # noqa: PLC0415 (help pages stay quick)
    from rivet_dagster.sources import SourceLimits, open_source  # noqa: PLC0415

    config = governor_of(governor)
    opened = open_source(source, SourceLimits(slots=config.slots))
    with orderly_stop(*_STOPPED):
        found = examine_source(opened, config, workers=workers, destination=to, parts_format=file_format.value)
    if as_json:
        print_out(json.dumps(found.to_json()))
    else:
        _print_source(found)
    raise typer.Exit(found.exit_code)


@app.command()
def check(
    *,
    source: Source,
    table: Table,
    to: Annotated[
        str | None, typer.Option(help="Where the table is exported to, if it is already: widths are measured there.")
    ] = None,
    query: Query = None,
    key: KeyColumns = None,
    whole: Whole = False,
    rows_per_window: Rows = None,
    windows: WindowsJson = None,
    file_format: Format = FileFormat.PARQUET,
    workers: Workers = 2,
    profile: ProfileOption = Profile.BALANCED,
    governor: Governor = None,
    as_json: JsonFlag = False,
) -> None:
    """Say what an export of a table would ask of its source, and whether it should. No row is read or written."""
    import tempfile  # noqa: PLC0415

    from rivet_dagster.export.operations import TableExport  # noqa: PLC0415
    from rivet_dagster.export.preflight import check_export  # noqa: PLC0415

    config = config_of(
        table,
        query,
        key,
        windows,
        rows_per_window,
        whole=whole,
        format={"type": file_format.value},
        limits={"profile": profile.value},
    )
    with orderly_stop(*_STOPPED), tempfile.TemporaryDirectory(prefix="rivet-check-") as nowhere:
        found = check_export(TableExport(config, source, to or nowhere, governor=governor_of(governor)), workers)
    if as_json:
        print_out(json.dumps(found.to_json()))
    else:
        _print_export(found)
    raise typer.Exit(found.exit_code)


def _print_source(found: "SourceReport") -> None:
    machine, identity = found.machine, found.identity
    lines = {"server": str(found.server) if found.server else "cannot be reached"}
    if identity is not None:
        lines["user"] = f"{identity.user}, {'under TLS' if identity.encrypted else 'without TLS'}"
        lines["rights"] = ", ".join(identity.rights) or "none beside those on tables"
    lines |= _load_lines(found.load, found.workers)
    lines |= {
        "compiled code": f"missing for {', '.join(machine.cold_kernels)}" if machine.cold_kernels else "in its cache",
        "memory": f"{_size(machine.memory_limit)} may be taken",
        "spool folder": machine.spool + ("" if machine.spool_free is None else f", {_size(machine.spool_free)} free"),
    }
    if machine.destination:
        lines["destination"] = machine.destination
    _print_rows(found.source, found.verdict.name, lines.items())
    _print_signals(found.load)
    _print_reasons(found.reasons)


def _print_export(found: "ExportReport") -> None:
    key = found.key
    order = f"({', '.join(key.columns)})" + (f" by {key.index}" if key.index else ", as declared")
    lines = {
        "from": f"{found.server}, {found.source}",
        "windows": f"{_about(found.windows)}, of type {found.mode}",
        "key": order if key.columns else f"none: the {found.kind} is read as a whole",
        "rows": _about(found.rows),
        "width of a row": _about(found.row_bytes, " bytes"),
        "rows a window": _about(found.window_rows),
        "rows a page": f"{found.page_rows:,}",
        "longest statement": _about(found.statement_s, " s", digits=2),
        "memory": f"{_memory(found.memory_bytes)}; {_size(found.memory_limit)} may be taken",
        **_load_lines(found.load, found.workers),
        **{f"no key: {index}": reason for index, reason in found.rejected_indexes},
    }
    _print_rows(found.table, found.verdict.name, lines.items())
    _print_reasons(found.reasons)
    rows = [
        (column.name, column.native_type, column.type, "NULL" if column.nullable else "", found.policies[column.name])
        for column in found.columns
    ]
    _print_columns("Columns", ("column", "type", "in the parts", "may be", "what does not fit"), rows)


def _load_lines(load: "LoadReport | None", workers: int) -> dict[str, str]:
    if load is None:
        return {}
    by = f", by {load.pressed_by}" if load.pressed_by else ""
    return {
        "load": "cannot be seen" if load.pressure is None else f"{load.pressure:.2f} of full load{by}",
        "workers": f"{load.begins_with} of {workers} would begin",
        "gates": "; ".join(load.gates) or "open",
        "connections": "room for an unknown number" if load.room is None else f"room for {load.room:,}",
    }


def _print_signals(load: "LoadReport | None") -> None:
    if load is None:
        return
    rows = [
        (
            f"{each.name}{' a second' if each.a_second else ''}",
            f"{each.value:,.4g}",
            "-" if each.limit is None else f"{each.limit:,.4g}",
            "-" if each.share is None else f"{each.share:.2f}",
        )
        for each in load.signals
    ]
    rows += [(name, "not seen", "-", f"without {right}") for name, right in load.unseen.items()]
    _print_columns("Signals of the source's load", ("signal", "now", "full load", "share"), rows)


def _print_reasons(reasons: "Sequence[Reason]") -> None:
    if not reasons:
        print_out("Nothing speaks against it.")
        return
    rows = [(each.verdict.name, f"{each.rule}: {each.what}", each.advice) for each in reasons]
    _print_columns("Why, and what to do", ("verdict", "why", "what to do"), rows)


def _about(figure: "Figure", unit: str = "", digits: int = 0) -> str:
    return "unknown" if figure.value is None else f"{figure.value:,.{digits}f}{unit}{_basis(figure)}"


def _basis(figure: "Figure") -> str:
    return f" ({_BASES[figure.basis]})" if _BASES[figure.basis] else ""


def _memory(figure: "Figure") -> str:
    return "unknown" if figure.value is None else f"{_size(figure.value)}{_basis(figure)}"


def _size(value: float) -> str:
    return f"{value / 1e6:,.0f} MB"


def _print_rows(title: str, verdict: str, rows: Iterable[tuple[str, str]]) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table as RichTable  # noqa: PLC0415

    table = RichTable(
        title=f"{escape(title)}: [{_COLORS[verdict]}]{verdict}[/]", title_justify="left", show_header=False
    )
    for name, value in rows:
        table.add_row(escape(name), escape(value))
    Console(soft_wrap=True).print(table)


def _print_columns(title: str, names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table as RichTable  # noqa: PLC0415

    table = RichTable(*names, title=title, title_justify="left")
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table)
