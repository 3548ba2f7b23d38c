"""Memory of this process: how much is resident, how much may be, and giving back what is not in use."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

SHARE: Final = 0.8
"""Of the machine's or the container's memory, where the user gives no limit."""
RESUME: Final = 0.85
"""Of the limit: a gate that closed opens only below this."""
PAUSE_S: Final = 2.0
"""The longest that a page waits for memory: longer, and the wait would harm the source more than it helps here."""
_STEP_S: Final = 0.1
_CGROUP: Final = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Resident memory of this process, in bytes; where the system does not tell, the most that it ever was."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except OSError:
        import resource  # noqa: PLC0415 (Unix without /proc)

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most << 10


def usual_limit() -> int:
    """The most that this process should take: a share of the machine's memory, or of the container's."""
    total = os.sysconf("SC_PHYS_PAGES") * _PAGE
    for path in _CGROUP:
        with suppress(OSError, ValueError):
            total = min(total, int(Path(path).read_text()))
    return int(SHARE * total)


def trim() -> None:
    """Give back memory that is not in use any more."""
    arrow = sys.modules.get("pyarrow")
    if arrow is not None:
        arrow.default_memory_pool().release_unused()
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class MemoryGate:
    """Holds pages and windows while this process takes too much memory.

    Args:
        limit: bytes above which it closes; None takes the usual share.
        resident: what tells how much is taken; given by tests.
        sleep: as above.
    """

    def __init__(
        self,
        limit: int | None = None,
        resident: Callable[[], int] = resident_bytes,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._limit = limit or usual_limit()
        self._resident = resident
        self._sleep = sleep
        self._closed = False
        self.trims = 0

    def look(self) -> int:
        """How much is taken now; closes or opens the gate."""
        taken = self._resident()
        self._closed = taken > (RESUME if self._closed else 1.0) * self._limit
        return taken

    def reason(self) -> str | None:
        """Why no window may begin; None where one may."""
        taken = self.look()
        if not self._closed:
            return None
        self._trim()
        return f"this process holds {taken >> 20:,} MiB of memory, and {self._limit >> 20:,} MiB are allowed"

    def between_pages(self) -> int:
        """Give memory back where it is short, and wait a moment for other workers to do so; gives what is taken.

        The wait is short, because a snapshot is open meanwhile, and a page is small beside what made it short.
        """
        taken = self.look()
        if self._closed:
            self._trim()
            for _ in range(round(PAUSE_S / _STEP_S)):
                if self._opens():
                    break
                self._sleep(_STEP_S)
        return taken

    def _opens(self) -> bool:
        self.look()
        return not self._closed

    def _trim(self) -> None:
        self.trims += 1
        trim()
