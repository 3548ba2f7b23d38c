"""Exports from tests, through the same operations that the command line and Dagster use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rivet_dagster.export.config import parse_config
from rivet_dagster.export.operations import TableExport
from rivet_dagster.export.plan import Plan
from rivet_dagster.export.workers import WindowOutcome


def prepared(dsn: str, lake: Path, table: str, **config: Any) -> TableExport:
    """One table's export; `config` as a user writes it, with `rows` and `columns` of the windows for short."""
    windows = {name: config.pop(name) for name in ("rows", "columns", "max_windows") if name in config}
    return TableExport(parse_config({"table": table, "windows": windows, **config}), dsn, str(lake))


def run_all(export: TableExport, plan: Plan, work_id: str = "work", workers: int = 2) -> list[WindowOutcome]:
    """Export every window of a plan; gives the outcomes, failed ones too."""
    with export.run(plan, plan.windows, work_id, workers) as run:
        return list(run)


def export_all(export: TableExport, *, work_id: str = "work", workers: int = 2) -> list[WindowOutcome]:
    """Plan, export every window and seal; fails with the first window's error."""
    plan, _ = export.plan()
    outcomes = run_all(export, plan, work_id, workers)
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
    export.seal(plan)
    return outcomes
