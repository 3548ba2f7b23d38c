"""Fault points: places where a test can make an export fail or die. Off unless RIVET_FAULT is set.

`RIVET_FAULT=<point>[@<window key>]:<nth>:<raise|kill>`, e.g. `after_part_put:3:kill` kills this process, as the
kernel would, right after its third part was published. Each process counts by itself; with RIVET_FAULT_ONCE, the
name of a file that is made then, it happens once in all of them.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Final, Literal, get_args

from rivet_dagster.errors import RivetError

Point = Literal[
    "before_plan_segment",
    "after_plan_segment",
    "after_page",
    "after_spool_close",
    "before_part_put",
    "after_part_put",
    "before_manifest_put",
    "after_manifest_put",
    "before_event",
    "after_event",
    "during_seal",
    "before_removal",
    "after_removal",
]

POINTS: Final[tuple[str, ...]] = get_args(Point)

_lock = threading.Lock()
_passed: dict[str, int] = {}


def fault_point(point: Point, window_key: str = "") -> None:
    """Fail here if the environment says so."""
    rule = os.environ.get("RIVET_FAULT")
    if not rule:
        return
    where, nth, action = rule.split(":")
    name, _, key = where.partition("@")
    if name != point or (key and key != window_key):
        return
    with _lock:
        _passed[where] = _passed.get(where, 0) + 1
        due = _passed[where] == int(nth)
    due = due and _is_first()
    if due and action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if due:
        raise RivetError("RIVET_FAULT", f"Fault point {point} at {window_key}.", "Unset RIVET_FAULT.")


def _is_first() -> bool:
    """Whether no other process has failed here before."""
    once = os.environ.get("RIVET_FAULT_ONCE")
    if not once:
        return True
    try:
        os.close(os.open(once, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True
