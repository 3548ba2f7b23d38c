"""The command line in a process of its own, without the seconds that loading it takes.

A process that has loaded everything forks a copy for each command: the copy is what a fresh process would be after its
imports, and can be killed like one. Started as `python -m tests.crash.forking`; speaks JSON, a line a command.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from tests.support.cli import Result

ROOT = Path(__file__).parents[2]


class Forking:
    """Runs commands in copies of a process that has everything loaded; a context manager.

    Args:
        scratch: folder for what commands print.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch

    def __enter__(self) -> Forking:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.crash.forking"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, *arguments: str, env: Mapping[str, str], kill_after: float | None = None) -> Result:
        """Run `rivet-dagster`, or `clean <folder>`, to its end.

        Args:
            arguments: of the command line.
            env: variables beside those of this process.
            kill_after: seconds after which it is killed, unless it has ended.
        """
        out, err = self._scratch / "out", self._scratch / "err"
        asked = {"arguments": arguments, "env": dict(env), "out": str(out), "err": str(err), "kill_after": kill_after}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        return Result(code, out.read_text(), err.read_text())


def main() -> None:
    """Serve commands until standard input ends."""
    from rivet_dagster import cli, partitions  # noqa: F401 (slices of time need the second)
    from rivet_dagster.export import clean, operations, planning, seal  # noqa: F401
    from rivet_dagster.export.warm import warm_everything

    warm_everything()
    while line := sys.stdin.readline():
        asked = json.loads(line)
        with warnings.catch_warnings():
            # Newer Pythons warn of threads: those of Arrow do not hold anything that a copy would wait for.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            _serve(asked)
        sys.stdout.write(f"{_code_of(child, asked['kill_after'])}\n")
        sys.stdout.flush()


def _code_of(child: int, kill_after: float | None) -> int:
    if kill_after is not None:
        descriptor = os.pidfd_open(child)
        if not select.select([descriptor], [], [], kill_after)[0]:
            os.kill(child, signal.SIGKILL)
        os.close(descriptor)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _serve(asked: dict[str, Any]) -> None:
    code = 1
    try:
        os.environ.update(asked["env"])
        with open(os.devnull) as nothing, open(asked["out"], "wb") as out, open(asked["err"], "wb") as err:
            for descriptor, file in enumerate((nothing, out, err)):
                os.dup2(file.fileno(), descriptor)
        _command(asked["arguments"])
        code = 0
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    except BaseException:  # noqa: BLE001 (whatever it is, this copy must not go on as the original)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _command(arguments: list[str]) -> None:
    from rivet_dagster.cli import main as command_line
    from rivet_dagster.export.clean import GRACE, clean_export
    from rivet_dagster.stores import open_store

    if arguments[0] == "clean":
        clean_export(open_store(arguments[1]), now=datetime.now(timezone.utc) + GRACE + timedelta(minutes=5))
        return
    sys.argv = ["rivet-dagster", *arguments]
    command_line()


if __name__ == "__main__":
    main()
