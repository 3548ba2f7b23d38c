"""What tests of `max_value_bytes` share on every server: errors of windows, and exports measured in a process apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from rivet_dagster.errors import SourceError
from rivet_dagster.export.workers import WindowOutcome

LIMIT = 2 << 20

# What a worker may take beyond what an idle process has: much less than any value that is refused.
BUDGET = 64 << 20

# A small table first, so that everything is loaded and every buffer is there.
_MEASURED = """
import json, sys
from pathlib import Path
from tests.benchmarks.memory import forget_peak, peak
from tests.support.exports import prepared, run_all

dsn, lake, small, large, limit = sys.argv[1:]
limits = {"max_value_bytes": int(limit)}
for name in (small, large):
    export = prepared(dsn, Path(lake), name, rows=3, limits=limits)
    plan, _ = export.plan()
    idle = forget_peak()
    outcomes = run_all(export, plan, workers=1)
outcomes.sort(key=lambda outcome: plan.windows.index(outcome.window))
said = [None if outcome.error is None else str(outcome.error) for outcome in outcomes]
print(json.dumps({"said": said, "idle": idle, "peak": peak()}))
"""


def refusals(outcomes: Sequence[WindowOutcome]) -> list[str]:
    """What is said of the values that are too large; the other windows are committed, and nobody tried again."""
    found = []
    for outcome in outcomes:
        if outcome.manifest is not None:
            assert outcome.manifest.statistics.attempts == 1
            continue
        error = outcome.error
        assert isinstance(error, SourceError), error
        assert (error.code, error.retryable, error.fatal) == ("RIVET_VALUE_TOO_LARGE", False, False), error
        found.append(error.what)
    return found


def what(label: str, column: str, size: int, row: str, most: int = LIMIT) -> str:
    """The sentence about one value."""
    return (
        f"Column {column} of {label} holds a value of {size} bytes, more than max_value_bytes ({most}), "
        f"in the row with {row}."
    )


def measured(dsn: str, lake: str, small: str, large: str, most: int) -> dict[str, Any]:
    """Export two tables in a process of their own: errors of the second one's windows, and memory in bytes."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, dsn, lake, small, large, str(most)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
