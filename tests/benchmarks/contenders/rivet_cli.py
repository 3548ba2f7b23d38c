"""The `rivet` program that the package rivet-cli installs: chunks along the key, and its fastest profile."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

from tests.benchmarks.contender import (
    MARIADB,
    POSTGRESQL,
    ROW_GROUP_ROWS,
    ZSTD_LEVEL,
    Contender,
    Facts,
    Task,
    Unavailable,
    Work,
)

# The size that `rivet init` proposes for tables like these.
_CHUNK_ROWS = 250_000

_CONFIG = """\
source:
  type: {type}
  url_env: BENCHMARK_SOURCE
  tls: {{mode: disable}}
  tuning: {{profile: fast}}
exports:
  - name: benchmark
    table: {relation}
    mode: chunked
    chunk_by_key: {key}
    chunk_size: {chunk_rows}
    parallel: {parallel}
    format: parquet
    compression: zstd
    compression_level: {level}
    parquet: {{row_group_strategy: fixed_rows, row_group_rows: {row_group_rows}}}
    destination: {{type: local, path: ./parts}}
"""


def _load(parallel: int, task: Task) -> Work:
    program = shutil.which("rivet", path=str(Path(sys.executable).parent))
    if program is None:
        raise Unavailable("its program is not beside the interpreter's")
    config = task.folder / "rivet.yaml"
    config.write_text(
        _CONFIG.format(
            type="mysql" if task.dsn.startswith("mysql:") else "postgres",
            relation=task.relation,
            key=task.key,
            chunk_rows=_CHUNK_ROWS,
            parallel=parallel,
            level=ZSTD_LEVEL,
            row_group_rows=ROW_GROUP_ROWS,
        )
    )

    def work() -> Facts:
        done = subprocess.run(
            [program, "run", "--config", str(config)],
            env=os.environ | {"BENCHMARK_SOURCE": task.dsn},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        return {}

    return work


def _rivet(parallel: int) -> Contender:
    title = f"rivet-cli, {parallel} worker{'s' if parallel > 1 else ''}"
    return Contender(
        f"rivet-cli-{parallel}",
        title,
        ("rivet-cli",),
        partial(_load, parallel),
        program=True,
        workers=parallel,
        servers=(POSTGRESQL, MARIADB),
    )


CONTENDERS = (_rivet(1), _rivet(2))
