"""Buffers outside of the heap, Arrow's allocator, and loading out of the garbage collector's way."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import numpy as np
import pytest

from rivet_dagster._memory import mapped


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(("items", "dtype"), [(0, np.int64), (1, np.uint8), (1000, np.int32), (1 << 20, np.uint64)])
def test_buffers_are_zeros_that_can_be_written(items: int, dtype: type) -> None:
    buffer = mapped(items, dtype)
    assert (buffer.dtype, buffer.size) == (np.dtype(dtype), items)
    assert not buffer.any()
    buffer[:] = 7
    assert buffer.sum() == 7 * items


def test_memory_is_taken_when_touched_and_given_back_at_once() -> None:
    size = 256 << 20
    before = resident_bytes()
    buffer = mapped(size, np.uint8)
    assert resident_bytes() - before < size // 10
    buffer[: size // 2] = 1
    assert size * 0.45 < resident_bytes() - before < size * 0.6
    del buffer
    assert resident_bytes() - before < size // 10


def said(program: str, **env: str) -> str:
    """What a program of its own prints."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ARROW_")}
    command = [sys.executable, "-W", "error", "-c", program]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env={**inherited, **env}, timeout=120
    ).stdout.strip()


IMPORT = "from rivet_dagster._memory import import_arrow; import_arrow(); import os, pyarrow as pa; "
TELL = "print(pa.default_memory_pool().backend_name, os.environ.get('ARROW_DEFAULT_MEMORY_POOL'))"


def test_arrow_takes_the_systems_allocator_and_the_environment_stays_as_it_is() -> None:
    assert said(IMPORT + TELL) == "system None"


def test_what_somebody_has_chosen_stays() -> None:
    usual = said("import pyarrow as pa; print(pa.default_memory_pool().backend_name)")
    assert said("import pyarrow; " + IMPORT + TELL) == f"{usual} None"
    assert said(IMPORT + TELL, ARROW_DEFAULT_MEMORY_POOL="mimalloc") == "mimalloc mimalloc"


def test_what_is_loaded_for_good_is_left_alone_by_the_collector() -> None:
    program = """
import gc
from rivet_dagster._memory import loading_for_good
with loading_for_good():
    import numba
    assert not gc.isenabled()
first = gc.get_freeze_count()
with loading_for_good():
    assert gc.isenabled()
print(gc.isenabled(), first > 10_000, gc.get_freeze_count() == first)
"""
    assert said(program) == "True True True"
    assert gc.isenabled()
