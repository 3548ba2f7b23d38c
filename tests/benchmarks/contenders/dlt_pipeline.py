"""dlt's source of SQL databases to its file system destination, by each of its two backends that make Arrow tables.

Nothing of a pipeline stays: its working folder is temporary, and it reports to nobody.
"""

from __future__ import annotations

import os
import tempfile
from functools import partial
from typing import Any

from tests.benchmarks.contender import MARIADB, MOST_ROWS_OF_OBJECTS, ROW_GROUP_ROWS, Contender, Facts, Task, Work

_SETTINGS = {
    "RUNTIME__DLTHUB_TELEMETRY": "false",
    "RUNTIME__LOG_LEVEL": "ERROR",
    # Arrow's own level of zstd is the one that all the others are told.
    "DATA_WRITER__COMPRESSION": "zstd",
    "DATA_WRITER__ROW_GROUP_SIZE": str(ROW_GROUP_ROWS),
    "DATA_WRITER__BUFFER_MAX_ITEMS": str(ROW_GROUP_ROWS),
}

# Arguments of connectorx: its stream, as it is measured by itself.
_STREAM = {"return_type": "arrow_stream"}


def _load(backend: str, task: Task) -> Work:
    os.environ.update(_SETTINGS)
    import dlt
    import pyarrow.parquet  # noqa: F401
    import pymysql  # noqa: F401
    from dlt.sources.sql_database import sql_table

    def work() -> Facts:
        arguments: dict[str, Any] = {"conn": task.dsn, **_STREAM} if backend == "connectorx" else {}
        table = sql_table(
            credentials=task.dsn.replace("mysql://", "mysql+pymysql://"),
            schema=task.schema,
            table=task.table,
            backend=backend,
            chunk_size=ROW_GROUP_ROWS,
            backend_kwargs=arguments,
        )
        with tempfile.TemporaryDirectory() as folder:
            pipeline = dlt.pipeline(
                "benchmark",
                pipelines_dir=folder,
                destination=dlt.destinations.filesystem(task.folder.as_uri()),
                dataset_name="lake",
            )
            pipeline.run(table, loader_file_format="parquet").raise_on_failed_jobs()
        return {}

    return work


CONTENDERS = (
    Contender(
        "dlt-connectorx",
        "dlt, connectorx",
        ("dlt", "sqlalchemy", "pymysql", "pyarrow", "connectorx"),
        partial(_load, "connectorx"),
        overlay="dlt",
        servers=(MARIADB,),
    ),
    Contender(
        "dlt-pyarrow",
        "dlt, pyarrow",
        ("dlt", "sqlalchemy", "pymysql", "pyarrow"),
        partial(_load, "pyarrow"),
        overlay="dlt",
        servers=(MARIADB,),
        most_rows=MOST_ROWS_OF_OBJECTS,
    ),
)
