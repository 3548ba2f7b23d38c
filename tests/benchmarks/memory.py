"""Resident memory of this process as Linux counts it, in bytes: exact peaks, without a thread that samples."""

from __future__ import annotations

import resource
from pathlib import Path

_SELF = Path("/proc/self")


def forget_peak() -> int:
    """Let the peak begin anew from what is resident now, which is given."""
    (_SELF / "clear_refs").write_text("5")
    return _status("VmRSS")


def peak() -> int:
    """The most that was resident since `forget_peak`."""
    return _status("VmHWM")


def peak_of_children() -> int:
    """The most that a program had resident which this process started and waited for.

    Linux counts what this process had resident when it started the program as the program's own, if that is more.
    """
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def _status(name: str) -> int:
    for line in (_SELF / "status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"there is no {name} in /proc/self/status")
