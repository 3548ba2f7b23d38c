"""This project: plan, export and seal through the operations that Dagster's assets and the command line call."""

from __future__ import annotations

from functools import partial

from tests.benchmarks.contender import Contender, Facts, Task, Work


def _load(workers: int, task: Task) -> Work:
    import pyarrow.parquet  # noqa: F401 (belongs to what is loaded before the work)

    from rivet_dagster.export.warm import warm_kernels
    from tests.support.exports import export_all, prepared

    windows = {} if task.window_rows is None else {"rows": task.window_rows}
    export = prepared(task.dsn, task.folder, task.relation, **windows)
    warm_kernels(export.source)

    def work() -> Facts:
        manifests = [outcome.manifest for outcome in export_all(export, workers=workers)]
        statistics = [manifest.statistics for manifest in manifests if manifest is not None]
        return {
            "windows": len(statistics),
            "pages": sum(each.pages for each in statistics),
            "longest_statement_s": max(each.longest_statement_s for each in statistics),
            "longest_transaction_s": max(each.transaction_s for each in statistics),
        }

    return work


def _ours(workers: int) -> Contender:
    title = f"rivet-dagster, {workers} worker{'s' if workers > 1 else ''}"
    return Contender(f"ours-{workers}", title, ("rivet-dagster", "psycopg", "pyarrow"), partial(_load, workers))


CONTENDERS = (_ours(1), _ours(2))

# The default, which the others are compared with and which the limits are for.
DEFAULT = CONTENDERS[1]
