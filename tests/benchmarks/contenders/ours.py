"""This project: plan, export and seal through the operations that Dagster's assets and the command line call."""

from __future__ import annotations

from functools import partial

from tests.benchmarks.contender import MARIADB, POSTGRESQL, Contender, Facts, Task, Work


def _load(workers: int, task: Task) -> Work:
    from rivet_dagster.export.warm import warm_kernels
    from tests.support.exports import export_all, prepared

    export = prepared(task.dsn, task.folder, task.relation)
    # After the export was prepared, which chooses where Arrow takes its memory from.
    import pyarrow.parquet  # noqa: F401 (belongs to what is loaded before the work)

    warm_kernels(export.source)

    def work() -> Facts:
        manifests = [outcome.manifest for outcome in export_all(export, workers=workers)]
        statistics = [manifest.statistics for manifest in manifests if manifest is not None]
        return {
            "windows": len(statistics),
            "pages": sum(each.pages for each in statistics),
            "wire_bytes": sum(each.wire_bytes for each in statistics),
            "page_bytes": export.config.limits.page_bytes,
            "largest_page_bytes": max(each.largest_page_bytes for each in statistics),
            "longest_statement_s": max(each.longest_statement_s for each in statistics),
            "longest_transaction_s": max(each.transaction_s for each in statistics),
        }

    return work


def _ours(workers: int) -> Contender:
    title = f"rivet-dagster, {workers} worker{'s' if workers > 1 else ''}"
    packages = ("rivet-dagster", "psycopg", "pymysql", "pyarrow")
    return Contender(
        f"ours-{workers}", title, packages, partial(_load, workers), workers=workers, servers=(POSTGRESQL, MARIADB)
    )


CONTENDERS = (_ours(1), _ours(2))

# The default, which the others are compared with and which most limits are for.
DEFAULT = CONTENDERS[1]
