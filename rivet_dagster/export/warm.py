"""Filling the cache of compiled kernels: every wire form decoded, every family of types hashed, once."""

from __future__ import annotations

import struct
from functools import cache


@cache
def warm_kernels() -> None:
    """Load every kernel, compiling it into numba's cache if it is not there; once in a process.

    The cache is beside the modules or, where they cannot be written, in the user's cache folder or NUMBA_CACHE_DIR.
    """
    import numpy as np  # noqa: PLC0415 (all of this is what warming is for)
    import pyarrow as pa  # noqa: PLC0415

    from rivet_dagster.export.rowhash import RowHasher  # noqa: PLC0415
    from rivet_dagster.wire.pgcopy import SIGNATURE, CopyDecoder, Form, WireColumn  # noqa: PLC0415

    numeric = struct.pack(">HhHHH", 1, 0, 0, 0, 7)
    samples: list[tuple[Form, pa.DataType, bytes]] = [
        (Form.BOOL, pa.bool_(), b"\1"),
        (Form.INT2, pa.int16(), b"\0\7"),
        (Form.INT4, pa.int32(), bytes(4)),
        (Form.INT8, pa.int64(), bytes(8)),
        (Form.FLOAT4, pa.float32(), bytes(4)),
        (Form.FLOAT8, pa.float64(), bytes(8)),
        (Form.NUMERIC, pa.decimal128(9, 2), numeric),
        (Form.NUMERIC, pa.decimal256(50, 2), numeric),
        (Form.DATE, pa.date32(), bytes(4)),
        (Form.TIMESTAMP, pa.timestamp("us"), bytes(8)),
        (Form.UUID, pa.uuid(), bytes(16)),
        (Form.BYTES, pa.string(), b"text"),
        (Form.JSONB, pa.json_(), b"\1{}"),
    ]
    columns = [WireColumn(pa.field(f"c{n}", arrow), form) for n, (form, arrow, _) in enumerate(samples)]
    values = b"".join(struct.pack(">i", len(value)) + value for *_, value in samples)
    nulls = struct.pack(">i", -1) * len(samples)
    count = struct.pack(">h", len(samples))
    page = SIGNATURE + bytes(8) + count + values + count + nulls + struct.pack(">h", -1)
    decoder = CopyDecoder(columns, batch_bytes=1 << 20, batch_rows=1 << 10)
    hasher = RowHasher(decoder.schema)
    for batch in (*decoder.decode(np.frombuffer(page, np.uint8), len(page)), *decoder.finish()):
        hasher.update(batch)
