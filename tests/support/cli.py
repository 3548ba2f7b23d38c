"""The command line as a user runs it: a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Standard output, which must be one JSON object."""
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value


def command(*arguments: str) -> list[str]:
    """The command line, run by this interpreter, with warnings as errors."""
    return [sys.executable, "-W", "error", "-c", "from rivet_dagster.cli import main; main()", *arguments]


def rivet(*arguments: str, env: dict[str, str] | None = None, obey_modes: bool = False) -> Result:
    """Run `rivet-dagster` to its end; with `obey_modes`, root too may write only where file modes allow it."""
    dropped = ["setpriv", "--bounding-set=-dac_override", "--"] if obey_modes and os.geteuid() == 0 else []
    done = subprocess.run(
        [*dropped, *command(*arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "NO_COLOR": "1", **(env or {})},
        timeout=120,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)
