"""Memory: large buffers outside of the heap, and where Arrow takes its own from."""

from __future__ import annotations

import gc
import mmap
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt

_ARROW_POOL = "ARROW_DEFAULT_MEMORY_POOL"


def import_arrow() -> None:
    """Import pyarrow, with the system's allocator unless the environment or an earlier import has chosen another.

    Arrow's own allocators keep what the encoders of every worker's row groups took: some forty megabytes. The choice
    can only be made before the first import.
    """
    if "pyarrow" in sys.modules or _ARROW_POOL in os.environ:
        return
    os.environ[_ARROW_POOL] = "system"
    try:
        import pyarrow  # noqa: F401, PLC0415
    finally:
        del os.environ[_ARROW_POOL]


@contextmanager
def loading_for_good() -> Iterator[None]:
    """Load what stays as long as the process, here and once, out of the garbage collector's way.

    Numba is a hundred thousand objects: looking through them again and again while they load, and once more when the
    interpreter ends, takes a third of a second.
    """
    if "numba" in sys.modules:
        yield
        return
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def mapped(items: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Zeros that are memory only once they are touched, and are given back at once: a heap would keep them."""
    import numpy as np  # noqa: PLC0415 (definitions load without it)

    if items == 0:
        return np.empty(0, dtype)
    size = items * np.dtype(dtype).itemsize
    if sys.platform != "linux":
        return np.frombuffer(mmap.mmap(-1, size), dtype)
    # Private: pages of a shared mapping cost several times as much when they are touched first.
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without huge pages
        # Some kernels hand out two megabytes at the first touch, however little of a buffer is used.
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype)
