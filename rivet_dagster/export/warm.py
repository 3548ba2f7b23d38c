"""Filling the cache of compiled kernels, so that the first export need not wait for their compilation."""

from __future__ import annotations

import struct
from functools import cache

from rivet_dagster._memory import loading_for_good
from rivet_dagster.formats import FORMATS
from rivet_dagster.sources import Source, warm_engines


def warm_everything() -> None:
    """Load the kernels of every engine whose driver is installed, of every format, and of the row fingerprint.

    What is not in numba's cache is compiled into it: beside the modules or, where they cannot be written, in the
    user's cache folder, in NUMBA_CACHE_DIR, or below the temporary folder.
    """
    with loading_for_good():
        warm_engines()
        for parts_format in FORMATS.values():
            parts_format.warm()
        warm_hashing()


def warm_kernels(source: Source, parts_format: str = "parquet") -> None:
    """Load the kernels that exporting from `source` to parts of this format needs."""
    with loading_for_good():
        source.warm()
        FORMATS[parts_format].warm()
        warm_hashing()


@cache
def warm_hashing() -> None:
    """Load the kernels of the row fingerprint; once in a process."""
    import pyarrow as pa  # noqa: PLC0415 (all of this is what warming is for)

    from rivet_dagster.export.rowhash import RowHasher  # noqa: PLC0415

    # From buffers: a list of Python values would make pyarrow import pandas.
    valid, offsets = pa.py_buffer(b"\x01"), pa.py_buffer(struct.pack("=3i", 0, 1, 1))
    number = pa.Array.from_buffers(pa.int64(), 1, [None, pa.py_buffer(bytes(8))])
    columns = [
        pa.Array.from_buffers(pa.string(), 2, [valid, offsets, pa.py_buffer(b"a")]),
        pa.Array.from_buffers(pa.list_(pa.int64()), 2, [valid, offsets], children=[number]),
    ]
    sample = pa.RecordBatch.from_arrays(columns, ["text", "list"])
    RowHasher(sample.schema).update(sample)
