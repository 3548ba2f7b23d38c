"""The command line: exports without Dagster, through the same core."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rivet_dagster.errors import ConfigError, InterruptedExport, RivetError
from rivet_dagster.export.config import ExportConfig, TimeWindows, parse_config
from rivet_dagster.export.governing import GovernorConfig, parse_governor

if TYPE_CHECKING:
    from rich.progress import Progress

    from rivet_dagster.export.documents import ExportManifest
    from rivet_dagster.export.operations import TableExport
    from rivet_dagster.export.plan import Plan, Window
    from rivet_dagster.export.workers import WindowOutcome

app = typer.Typer(
    name="rivet-dagster",
    help="Export tables of production databases to Parquet or CSV, window by window.",
    no_args_is_help=True,
    add_completion=False,
    # A traceback with local variables would show the source's password.
    pretty_exceptions_enable=False,
)


class FileFormat(str, Enum):
    """Formats that the command line writes."""

    PARQUET = "parquet"
    CSV = "csv"


class Workers(str, Enum):
    """What reads windows."""

    THREADS = "threads"
    PROCESSES = "processes"


class Profile(str, Enum):
    """Sets of limits for statements."""

    SAFE = "safe"
    BALANCED = "balanced"
    FAST = "fast"


JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output instead of text.")]


@app.callback()
def _root() -> None:
    """Keep the commands' names even while there are few."""


Source = Annotated[
    str,
    typer.Option(
        help="Address of the database: postgresql://user@host/database, mysql://user@host/database.",
        envvar="RIVET_SOURCE",
        show_envvar=True,
    ),
]
Table = Annotated[str, typer.Option(help="schema.table; with --query what the export is called.")]
Query = Annotated[str | None, typer.Option(help="A SELECT whose rows are exported in place of a table's.")]
KeyColumns = Annotated[str | None, typer.Option("--key", help="Key columns, separated by commas; default: the best.")]
Whole = Annotated[bool, typer.Option("--whole", help="Read a table without a usable key as one window.")]
Rows = Annotated[int | None, typer.Option(help="Default: by the width of the rows.")]
WindowsJson = Annotated[
    str | None,
    typer.Option("--windows", help='Windows of any type, as JSON: {"type": "int_range", "column": "id"}.'),
]
ProfileOption = Annotated[Profile, typer.Option("--profile", help="Sizes and time-outs of statements.")]
Governor = Annotated[
    str | None,
    typer.Option("--governor", help='How to take care of the source, as JSON: {"cores": 16, "slots": 4}.'),
]
Replan = Annotated[bool, typer.Option("--replan", help="Begin a new generation of windows beside the sealed one.")]


def config_of(
    table: str,
    query: str | None,
    key: str | None,
    windows: str | None,
    rows_per_window: int | None,
    *,
    whole: bool,
    **fields: Any,
) -> ExportConfig:
    """An export as the options say.

    Raises:
        ConfigError: RIVET_CONFIG_INVALID.
    """
    chosen: Any = {"type": "full"} if whole else {}
    if windows is not None:
        if key is not None or whole or rows_per_window is not None:
            raise contradiction(
                "--windows says all of the windows, so --key, --whole and --rows-per-window do not go with it"
            )
        try:
            chosen = json.loads(windows)
        except ValueError:
            raise contradiction("what --windows says is no JSON") from None
    if rows_per_window is not None:
        chosen["rows"] = rows_per_window
    if key is not None:
        chosen["columns"] = tuple(name.strip() for name in key.split(","))
    return parse_config({"table": table, "query": query, "windows": chosen, **fields})


def governor_of(values: str | None, *, ungoverned: bool = False) -> GovernorConfig:
    """A governor as the options say.

    Raises:
        ConfigError: RIVET_CONFIG_INVALID.
    """
    try:
        given = json.loads(values) if values else {}
    except ValueError:
        raise contradiction("what --governor says is no JSON") from None
    return parse_governor({**given, "enabled": False} if ungoverned and isinstance(given, dict) else given)


def contradiction(what: str) -> ConfigError:
    """Options that do not go together: RIVET_CONFIG_INVALID."""
    return ConfigError("RIVET_CONFIG_INVALID", f"The options cannot be used: {what}.", "Correct them.")


@app.command()
def export(
    *,
    source: Source,
    table: Table,
    to: Annotated[str, typer.Option(help="Folder or address; the export gets a folder of its own there.")],
    query: Query = None,
    key: KeyColumns = None,
    whole: Whole = False,
    rows_per_window: Rows = None,
    windows: WindowsJson = None,
    file_format: Annotated[FileFormat, typer.Option("--format", help="Format of the files.")] = FileFormat.PARQUET,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Connections that read at the same time.")] = 2,
    engine: Annotated[Workers, typer.Option(help="Threads, or processes that die alone.")] = Workers.THREADS,
    profile: ProfileOption = Profile.BALANCED,
    governor: Governor = None,
    ungoverned: Annotated[
        bool, typer.Option("--ungoverned", help="All workers read, whatever the load on the source.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Read every window anew after an interruption.")] = False,
    replan: Replan = False,
    as_json: JsonFlag = False,
) -> None:
    """Plan, export and seal one table. Started again after an interruption, it goes on where it stopped."""
    from rivet_dagster.export.operations import TableExport  # noqa: PLC0415 (help pages stay quick)

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
    prepared = TableExport(config, source, to, governor=governor_of(governor, ungoverned=ungoverned))
    with orderly_stop():
        seal, run = _export(prepared, workers, engine.value, fresh=fresh, replan=replan, quiet=as_json)
    _print_sealed(seal, run, prepared, as_json=as_json)


@app.command()
def plan(
    *,
    source: Source,
    table: Table,
    to: Annotated[str | None, typer.Option(help="Where the export is, if it is planned already.")] = None,
    query: Query = None,
    key: KeyColumns = None,
    whole: Whole = False,
    rows_per_window: Rows = None,
    windows: WindowsJson = None,
    replan: Replan = False,
    bounds: Annotated[bool, typer.Option("--bounds", help="List the windows; bounds can be personal data.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show the windows that a table would be cut into. Nothing is written, and no row is read."""
    from rivet_dagster.export.operations import TableExport  # noqa: PLC0415
    from rivet_dagster.export.planning import Wish  # noqa: PLC0415

    config = config_of(table, query, key, windows, rows_per_window, whole=whole)
    with tempfile.TemporaryDirectory(prefix="rivet-plan-") as nowhere:
        prepared = TableExport(config, source, to or nowhere)
        began = time.monotonic()
        found, appended = prepared.preview(Wish("preview" if replan else None))
    _print_plan(found, appended, str(prepared.server), time.monotonic() - began, bounds=bounds, as_json=as_json)


@app.command()
def warm() -> None:
    """Compile the kernels into their cache, so that no export has to."""
    from rivet_dagster.export.warm import warm_everything  # noqa: PLC0415

    began = time.monotonic()
    warm_everything()
    print_out(f"Kernels are compiled and cached ({time.monotonic() - began:.1f} s).")


def _export(
    prepared: TableExport, workers: int, engine: Any, *, fresh: bool, replan: bool, quiet: bool
) -> tuple[ExportManifest, dict[str, Any]]:
    from rivet_dagster.export.operations import begin_work, end_work  # noqa: PLC0415
    from rivet_dagster.export.planning import Wish  # noqa: PLC0415

    began = time.monotonic()
    with progress_bar(quiet=quiet) as progress:
        task = progress.add_task(f"planning {prepared.config.table}", total=None)
        # A generation is begun once, however often its export is started. Nothing is left where planning fails.
        begun = begin_work(prepared.store, fresh=fresh) if replan else None
        plan, _ = prepared.plan(Wish(begun[0] if begun else None))
        work_id, resumed = begun or begin_work(prepared.store, fresh=fresh)
        windows = plan.windows or slices_in(prepared, plan)
        # Slices of time are not counted beforehand.
        rows = sum(window.planned_rows for window in windows)
        progress.update(task, description=prepared.config.table, total=rows or len(windows))
        outcomes = _run(
            prepared,
            plan,
            windows,
            work_id,
            workers,
            engine,
            lambda w: progress.advance(task, w.planned_rows if rows else 1),
        )
        seal = prepared.seal(plan, windows)
    end_work(prepared.store)
    read = [o.manifest.statistics for o in outcomes if o.manifest is not None and not o.reused]
    return seal, {
        "server": asdict(prepared.server) if prepared.server else None,
        "resumed": resumed,
        "windows_reused": sum(outcome.reused for outcome in outcomes),
        "seconds": round(time.monotonic() - began, 3),
        "longest_statement_s": max((r.longest_statement_s for r in read), default=0.0),
        "longest_transaction_s": max((r.transaction_s for r in read), default=0.0),
        "conflicts": sum(outcome.conflicts for outcome in outcomes),
        "worker_deaths": sum(outcome.deaths for outcome in outcomes),
    }


def slices_in(prepared: TableExport, plan: Plan) -> Sequence[Window]:
    """The slices of time that have ended; none for a plan that lists its windows."""
    options = prepared.config.windows
    if not isinstance(options, TimeWindows):
        return ()
    from rivet_dagster.partitions import slices_of  # noqa: PLC0415 (Dagster's calendar; it takes a second)

    return slices_of(plan, options)


def _run(
    prepared: TableExport,
    plan: Plan,
    windows: Sequence[Window],
    work_id: str,
    workers: int,
    engine: Any,
    advance: Callable[[Window], None],
) -> list[WindowOutcome]:
    done: list[WindowOutcome] = []
    failed: list[WindowOutcome] = []
    with prepared.run(plan, windows, work_id, workers, engine) as run:
        for outcome in run:
            (done if outcome.error is None else failed).append(outcome)
            advance(outcome.window)
    if failed:
        raise _windows_failed(failed, len(windows))
    return done


def _windows_failed(failed: list[WindowOutcome], windows: int) -> BaseException:
    from rivet_dagster.export.seal import named  # noqa: PLC0415

    first = failed[0].error
    if not isinstance(first, RivetError):
        assert first is not None
        return first
    if first.fatal:
        return first
    return type(first)(
        first.code,
        f"{len(failed)} of {windows} windows failed: {named(sorted(o.window.key for o in failed))}. {first.what}",
        f"{first.advice} The other windows are kept: start again to go on.",
        retryable=all(isinstance(o.error, RivetError) and o.error.retryable for o in failed),
    )


def progress_bar(*, quiet: bool) -> Progress:
    """A bar for people who watch; nothing where output goes to a file, or where it is to be quiet."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    # On standard error, and only for people: standard output is for the result.
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=quiet or not sys.stderr.isatty(),
        transient=True,
    )


def _print_sealed(seal: ExportManifest, run: dict[str, Any], prepared: TableExport, *, as_json: bool) -> None:
    parts = sum(len(window.parts) for window in seal.windows)
    facts = {
        "table": seal.table,
        "uri": prepared.store.uri,
        "seal_id": seal.seal_id,
        "rows": seal.rows,
        "windows": len(seal.windows),
        "parts": parts,
        "bytes": seal.bytes,
        "row_fingerprint": seal.row_fingerprint,
        **run,
    }
    if as_json:
        print_out(json.dumps(facts))
        return
    seconds = run["seconds"]
    print_table(
        f"{seal.table} is sealed in {prepared.store.uri}",
        {
            "from": str(prepared.server),
            "rows": f"{seal.rows:,}",
            "windows": f"{len(seal.windows):,}"
            + (f" ({run['windows_reused']:,} from the earlier try)" if run["windows_reused"] else ""),
            "parts": f"{parts:,}",
            "size": f"{seal.bytes / 1e6:,.1f} MB",
            "took": f"{seconds:,.1f} s, {seal.rows / seconds if seconds else 0:,.0f} rows/s",
            "longest statement": f"{run['longest_statement_s']:.2f} s",
            "longest transaction": f"{run['longest_transaction_s']:.2f} s",
            **({"conflicts with the standby's replay": f"{run['conflicts']:,}"} if run["conflicts"] else {}),
            **({"processes that died": f"{run['worker_deaths']:,}"} if run["worker_deaths"] else {}),
            "row fingerprint": seal.row_fingerprint,
        },
    )


def _print_plan(plan: Plan, appended: int, server: str, seconds: float, *, bounds: bool, as_json: bool) -> None:
    from rivet_dagster.export.plan import USUAL_LIMIT  # noqa: PLC0415

    windows = plan.windows
    rows = sorted(window.planned_rows for window in windows)
    facts = {
        "table": plan.head.table,
        "server": server,
        "mode": plan.mode,
        "generation": plan.generation,
        "key": list(plan.head.key),
        "windows": len(windows),
        "windows_appended": appended,
        "planned_rows": sum(rows),
        "seconds": round(seconds, 3),
    }
    if bounds:
        facts["bounds"] = [
            {"window": w.key, "lo": w.span.lo, "hi": w.span.hi, "nulls": w.span.nulls, "rows": w.planned_rows}
            for w in windows
        ]
    if as_json:
        print_out(json.dumps(facts))
        return
    print_table(
        f"{plan.head.table} would be cut like this; nothing was written",
        {
            "from": server,
            "windows": f"{len(windows):,} of type {plan.mode}, {appended:,} of them new"
            + (" (slices of time follow from the calendar)" if plan.mode == "time" else ""),
            "generation": str(plan.generation),
            "key": ", ".join(plan.head.key) or "none",
            "rows": f"{sum(rows):,}",
            **({"rows a window": f"{rows[0]:,} to {rows[-1]:,}, median {rows[len(rows) // 2]:,}"} if rows else {}),
            "took": f"{seconds:.1f} s",
            **({w.key: _bounds(w) for w in windows} if bounds else {}),
        },
    )
    if len(windows) > USUAL_LIMIT:
        print_out(f"{len(windows):,} windows make Dagster's pages slow: ask for more rows a window.")


def _bounds(window: Window) -> str:
    span = window.span
    if span.nulls:
        return "NULL"
    lo, hi = (", ".join(bound) if bound else "-" for bound in (span.lo, span.hi))
    return f"({lo}; {hi}]"


def print_table(title: str, rows: dict[str, str]) -> None:
    """Print names and values for people."""
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    Console(soft_wrap=True).print(table)


def print_out(text: str) -> None:
    """Print a result."""
    typer.echo(text)


def main() -> None:
    """Run the command line; errors become a message and an exit code.

    0 done, 1 error, 2 retryable, 3 integrity, 4 drift, 130 interrupted, 143 terminated.
    """
    as_json = "--json" in sys.argv
    signal.signal(signal.SIGTERM, _terminated)
    try:
        app(standalone_mode=True)
    except RivetError as exc:
        if as_json:
            print_out(json.dumps({"error": exc.to_json()}))
        typer.secho(f"{exc.code}: {exc.what}", err=True, fg="red")
        typer.secho(exc.advice, err=True)
        sys.exit(exc.process_exit_code)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which stops an export in the same orderly way as Ctrl-C."""


def _terminated(_number: int, _frame: object) -> None:
    raise _Terminated


@contextmanager
def orderly_stop(
    what: str = "The export was stopped.", advice: str = "Finished windows are kept: start again to go on."
) -> Iterator[None]:
    """Turn a stop into an error that says what is kept; typer would end without a word."""
    try:
        yield
    except KeyboardInterrupt as exc:
        stopped = InterruptedExport("RIVET_INTERRUPTED", what, advice)
        stopped.exit_code = 143 if isinstance(exc, _Terminated) else 130
        raise stopped from None


from rivet_dagster import cli_journal as _cli_journal  # noqa: E402, F401 (more commands, which need what is above)
from rivet_dagster import cli_preflight as _cli_preflight  # noqa: E402, F401 (as above)
from rivet_dagster import cli_upkeep as _cli_upkeep  # noqa: E402, F401 (more commands, which need what is above)
