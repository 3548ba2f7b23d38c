"""Filling the cache of compiled kernels that reading PostgreSQL needs: every wire form decoded once."""

from __future__ import annotations

import struct
from functools import cache

import numpy as np
import pyarrow as pa

from rivet_dagster.sources.postgres import _libpq
from rivet_dagster.sources.typenames import arrow_type
from rivet_dagster.wire.pgcopy import SIGNATURE, CopyDecoder, Elements, Form, WireColumn

_INT4 = 23
_NUMERIC = struct.pack(">HhHHH", 1, 0, 0, 0, 7)
_ARRAY = struct.pack(">6i", 1, 0, _INT4, 1, 1, 4) + bytes(4)
_SAMPLES: tuple[tuple[Form, str, bytes], ...] = (
    (Form.BOOL, "bool", b"\1"),
    (Form.INT2, "int16", b"\0\7"),
    (Form.INT4, "int32", bytes(4)),
    (Form.INT8, "int64", bytes(8)),
    (Form.NUMERIC, "decimal(9, 2)", _NUMERIC),
    (Form.DATE, "date", bytes(4)),
    (Form.TIMESTAMP, "timestamp(us)", bytes(8)),
    (Form.INTERVAL, "interval", bytes(16)),
    (Form.UUID, "uuid", bytes(16)),
    (Form.BYTES, "text", b"text"),
    (Form.LIST, "list(int32)", _ARRAY),
)


@cache
def warm() -> None:
    """Load every kernel, compiling it into numba's cache if it is not there; once in a process."""
    _libpq.warm()
    columns = [
        WireColumn(pa.field(str(n), arrow_type(name)), form, Elements(Form.INT4, _INT4) if form is Form.LIST else None)
        for n, (form, name, _) in enumerate(_SAMPLES)
    ]
    values = b"".join(struct.pack(">i", len(value)) + value for *_, value in _SAMPLES)
    nulls = struct.pack(">i", -1) * len(_SAMPLES)
    count = struct.pack(">h", len(_SAMPLES))
    page = SIGNATURE + bytes(8) + count + values + count + nulls + struct.pack(">h", -1)
    decoder = CopyDecoder(columns, batch_bytes=1 << 20, batch_rows=1 << 10)
    for _ in (*decoder.decode(np.frombuffer(bytearray(page), np.uint8), len(page)), *decoder.finish()):
        pass
