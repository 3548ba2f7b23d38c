"""`make demo`: export five tables as production would, through backfills that Dagster's daemon runs."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from demo import DemoError
from demo.data import TABLES
from demo.engines import chosen_engine
from demo.graphql import Backfill, DagsterClient, Materialization, Run
from demo.services import DagsterServices
from demo.stage import Stage, open_stage, run_to_exit

_EXPORT_SECONDS = 900.0
_LEFTOVER_SECONDS = 120.0


@dataclass(frozen=True)
class Export:
    """One table on its way: the backfill over all of its windows.

    Attributes:
        table: its name.
        asset: the name of its asset.
        windows: partition keys, in the plan's order.
        backfill_id: of the backfill over these.
        launched: when, in seconds since 1970.
    """

    table: str
    asset: str
    windows: tuple[str, ...]
    backfill_id: str
    launched: float

    def committed(self, client: DagsterClient) -> dict[str | None, Materialization]:
        """The windows exported since the launch; the state of partitions would count earlier exports too."""
        events = client.materializations(self.asset, after=self.launched)
        return {event.partition: event for event in events}


def main(console: Console) -> None:
    """Run the demo, over an empty folder or over what an earlier run left."""
    engine = chosen_engine()
    assets = {table.name: f"{engine.schema}/{table.name}" for table in TABLES}
    with ExitStack() as stack:
        with _step(console, f"Start {engine.title} and load five tables"):
            stage = stack.enter_context(open_stage())
        with _step(console, "Start Dagster's webserver and daemon"):
            services = stack.enter_context(stage.services())
        _call_off_leftovers(console, services)
        with _step(console, "Plan the tables' windows"):
            _materialize(services, [f"{asset}/plan" for asset in assets.values()])
        exports = [_launch_backfill(services.client, *each) for each in assets.items()]
        console.print(f"  {len(exports)} backfills are launched; the daemon looks for them every 30 seconds.")
        _follow(console, services, exports)
        with _step(console, "Verify and seal the tables"):
            _materialize(services, [f"{asset}/complete" for asset in assets.values()])
        with _step(console, "Wait for the daemon to close the backfills"):
            _close(services, exports)
        report = _report(stage, services.client, exports)
        with _step(console, "Stop everything"):
            stack.close()
    console.print(report)
    console.print(_hints(stage), markup=False, soft_wrap=True)


@contextmanager
def _step(console: Console, what: str) -> Iterator[None]:
    """Show what is under way, then that it is done and how long it took."""
    started = time.monotonic()
    with console.status(f"{what} ..."):
        yield
    console.print(f"[green]✓[/] {what} [dim]{time.monotonic() - started:.1f} s[/]")


def _call_off_leftovers(console: Console, services: DagsterServices) -> None:
    """End what an interrupted demo left to the daemon, which would otherwise export the windows beside us."""
    client = services.client
    runs, backfills = client.pending_runs(), client.pending_backfills()
    if not runs and not backfills:
        return
    with _step(console, "Call off what an earlier demo left"):
        for backfill in backfills:
            client.cancel_backfill(backfill)
        for _ in services.poll(_LEFTOVER_SECONDS):
            for run in client.pending_runs():
                client.terminate_run(run, at_once=True)
            if not client.pending_backfills():
                return
    raise DemoError(f"Work of an earlier demo did not end within {_LEFTOVER_SECONDS:.0f} seconds.")


def _materialize(services: DagsterServices, assets: Sequence[str]) -> None:
    """Materialize unpartitioned assets in one run; DemoError where it fails."""
    run = services.wait_for_run(services.client.launch_run(assets))
    if run.status != "SUCCESS":
        raise _failure(services.client, [run])


def _launch_backfill(client: DagsterClient, table: str, asset: str) -> Export:
    windows = tuple(client.partition_keys(asset))
    launched = time.time()
    backfill_id = client.launch_backfill(asset, windows, title=f"Demo: all of {table}")
    return Export(table, asset, windows, backfill_id, launched)


def _follow(console: Console, services: DagsterServices, exports: Sequence[Export]) -> None:
    """Show the windows of each table as they are committed, until all are; DemoError if a run fails."""
    columns = (TextColumn("  {task.description:<10}"), BarColumn(), MofNCompleteColumn(), TextColumn("windows"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        bars = {each: progress.add_task(each.table, total=len(each.windows)) for each in exports}
        for _ in services.poll(_EXPORT_SECONDS):
            for export, bar in bars.items():
                if not progress.tasks[bar].finished:
                    progress.update(bar, completed=_committed(services.client, export))
            if progress.finished:
                return
    raise DemoError(f"The exports did not end within {_EXPORT_SECONDS:.0f} seconds.")


def _committed(client: DagsterClient, export: Export) -> int:
    """How many windows are committed; DemoError if the backfill cannot commit the others any more."""
    committed = len(export.committed(client))
    if committed < len(export.windows):
        _refuse_failure(client, client.backfill(export.backfill_id))
    return committed


def _close(services: DagsterServices, exports: Sequence[Export]) -> None:
    """Wait until the daemon has looked at the finished runs; DemoError if it finds that something is missing."""
    for export in exports:
        _refuse_failure(services.client, services.wait_for_backfill(export.backfill_id))


def _refuse_failure(client: DagsterClient, backfill: Backfill) -> None:
    failed = [run for run in backfill.runs if run.status in ("FAILURE", "CANCELED")]
    if failed:
        raise _failure(client, failed)
    if backfill.ended and backfill.status != "COMPLETED_SUCCESS":
        raise DemoError(f"Backfill {backfill.backfill_id} ended as {backfill.status}. {backfill.error}")


def _failure(client: DagsterClient, runs: Sequence[Run]) -> DemoError:
    """An error that tells what runs died of."""
    reasons = dict.fromkeys(reason for run in runs for reason in client.run_errors(run.run_id))
    return DemoError("\n".join([f"Run {run.run_id} ended as {run.status}." for run in runs] + list(reasons)))


def _report(stage: Stage, client: DagsterClient, exports: Sequence[Export]) -> Table:
    """One line a table: what its seal says, and how its windows were read."""
    report = Table(box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    report.add_column("table", no_wrap=True)
    for heading in ("rows", "windows", "parts", "MB", "rows/s", "longest\nstatement"):
        report.add_column(heading, justify="right", no_wrap=True)
    report.add_column("row\nfingerprint", no_wrap=True)
    for export in exports:
        seal = json.loads((_sealed(stage, export.table) / "manifest.json").read_bytes())
        parts = [part for window in seal["windows"] for part in window["parts"]]
        windows = [event.metadata for event in export.committed(client).values()]
        seconds = sum(each["rivet/duration_s"] for each in windows)
        report.add_row(
            export.table,
            f"{seal['rows']:,}",
            f"{len(seal['windows'])}",
            f"{len(parts)}",
            f"{sum(part['bytes'] for part in parts) / 1e6:.3f}",
            f"{seal['rows'] / max(seconds, 0.001):,.0f}",
            f"{max(each['rivet/longest_statement_s'] for each in windows) * 1000:.0f} ms",
            seal["row_fingerprint"].rpartition(":")[2][:12],
        )
    return report


def _sealed(stage: Stage, table: str) -> Path:
    """Folder of a table's export."""
    return stage.lake / f"{stage.engine.schema}.{table}"


def _hints(stage: Stage) -> str:
    """How to look at the result, with paths as seen from here."""
    query = _QUERY.format(export=os.path.relpath(_sealed(stage, "flights")))
    return f"""
See it in Dagster:  make ui{stage.engine.options}
Ask DuckDB:         {os.path.relpath(sys.executable)} -c "import duckdb; duckdb.sql('''{query}''').show()"
"""


# The seal names the parts that make up the table; a glob would also find those that it no longer names.
_QUERY = """
SET VARIABLE parts = (
    SELECT list('{export}/' || part.path)
    FROM (SELECT unnest(flatten(list_transform(windows, lambda w: w.parts))) AS part
          FROM '{export}/manifest.json'));
SELECT origin, count(*) AS flights, avg(dep_delay) AS delay FROM read_parquet(getvariable('parts')) GROUP BY ALL"""


if __name__ == "__main__":
    run_to_exit(main)
