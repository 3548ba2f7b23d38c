"""`make demo`, and what it leaves: five sealed tables that hold exactly the rows of the source."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from demo.data import TABLES
from tests.support.cli import rivet
from tests.support.readers import assert_same, exported_rows, sealed, source_rows

ROOT = Path(__file__).parents[2]

COMPARE = """
from demo.stage import open_stage
with open_stage() as stage:
    print(stage.environment["RIVET_DEMO_DSN"], flush=True)
    input()
"""


@pytest.mark.timeout(420)
def test_the_demo_exports_exactly_the_rows_of_its_tables(tmp_path: Path) -> None:
    environment = {**os.environ, "RIVET_DEMO_FOLDER": str(tmp_path / "demo"), "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-m", "demo.run"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "336,776" in done.stdout
    assert done.stderr == ""

    stage = subprocess.Popen(
        [sys.executable, "-c", COMPARE],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert stage.stdin is not None
    assert stage.stdout is not None
    try:
        dsn = stage.stdout.readline().strip()
        for table in TABLES:
            folder = tmp_path / "demo/lake" / f"public.{table.name}"
            key = ",".join(sealed(folder)["key"])
            assert_same(exported_rows(folder), source_rows(dsn, f"public.{table.name}", key))
            assert rivet("validate", str(folder)).code == 0
    finally:
        stage.communicate("\n", timeout=60)
