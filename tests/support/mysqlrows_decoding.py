"""`RowDecoder` as tests like to have it: pages from bytes, batches that may be kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from rivet_dagster.errors import SourceError
from rivet_dagster.wire.mysqlrows import Form, RowDecoder, WireColumn
from tests.support.mysqlrows_encoder import encode_page

Columns = list[tuple[str, pa.DataType, Form]]

# The rows of a prepared SELECT, as MariaDB 10.11 sent them.
RECORDED = bytes.fromhex(
    "e000001e000000000080fffeffffff000080ff90eefeffffffffffffffffffffffdfffffffffffffffffff6b080000c03f9a9999999999b9"
    "bf0b2d313233343536372e38394231323334353637383930313233343536373839303132333435363738393031323334352e303030303030"
    "30303030303030303030303030303030303030303030303104e807021d0be807021d0a2238080a0c0007e807021d0a22380be807021d0a22"
    "38080a0c000c0000000000173b3b3f420f000204050f6772c3bcc39f652c20e4b896e7958c0261620300ff10087b2261223a20317d016201"
    "010000008d00001f00000000007f00ff7f0000ffff7f00ffffff7f00000000000000000000000000000000000000006d07caf249f19c7500"
    "883ce4377e04302e3035212d302e30303030303030303030303030303030303030303030303030303030303104000001010b0f270c1f173b"
    "3b3f420f0004b207010107b207010100000100020000000000046e756c6c016100020000000900002000fcffff0f03000000"
)
RECORDED_COLUMNS: Columns = [
    ("i1", pa.int8(), Form.INT1),
    ("u1", pa.uint8(), Form.INT1),
    ("i2", pa.int16(), Form.INT2),
    ("u2", pa.uint16(), Form.INT2),
    ("i3", pa.int32(), Form.INT4),
    ("i4", pa.int32(), Form.INT4),
    ("u4", pa.uint32(), Form.INT4),
    ("i8", pa.int64(), Form.INT8),
    ("u8", pa.uint64(), Form.INT8),
    ("y", pa.uint16(), Form.INT2),
    ("f4", pa.float32(), Form.FLOAT4),
    ("f8", pa.float64(), Form.FLOAT8),
    ("n", pa.decimal128(12, 2), Form.DECIMAL),
    ("w", pa.decimal256(65, 30), Form.DECIMAL),
    ("d", pa.date32(), Form.DATE),
    ("t6", pa.timestamp("us"), Form.DATETIME),
    ("t0", pa.timestamp("us"), Form.DATETIME),
    ("tz", pa.timestamp("us", "UTC"), Form.DATETIME),
    ("ti", pa.time64("us"), Form.TIME),
    ("bt", pa.uint64(), Form.BIT),
    ("s", pa.string(), Form.BYTES),
    ("ch", pa.string(), Form.BYTES),
    ("by", pa.binary(), Form.BYTES),
    ("j", pa.json_(), Form.BYTES),
    ("en", pa.string(), Form.BYTES),
    ("bo", pa.bool_(), Form.BOOL),
    ("id", pa.int32(), Form.INT4),
]


def decoder(
    *columns: tuple[str, pa.DataType, Form],
    nullable: bool = True,
    replace: bool = False,
    batch_bytes: int = 1 << 20,
    batch_rows: int = 1 << 20,
) -> RowDecoder:
    wire = [WireColumn(pa.field(name, kind, nullable=nullable), form, replace) for name, kind, form in columns]
    return RowDecoder(wire, batch_bytes=batch_bytes, batch_rows=batch_rows)


def paged(rows: bytes) -> npt.NDArray[np.uint8]:
    """A page that goes on after the rows."""
    return np.frombuffer(bytearray(rows + b"\x7f" * 64), np.uint8)


def feed(target: RowDecoder, rows: bytes) -> list[pa.RecordBatch]:
    """The batches that a page completes."""
    return copied(target.decode(paged(rows), len(rows)))


def copied(batches: Iterable[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """The same batches in memory of their own: the decoder uses its memory again."""
    return [pa.ipc.read_record_batch(batch.serialize(), batch.schema) for batch in batches]


def decode_one(
    kind: pa.DataType, form: Form, values: Sequence[Any], *, nullable: bool = True, replace: bool = False
) -> pa.Array[Any]:
    """The values as the Arrow array of a single column."""
    target = decoder(("c", kind, form), nullable=nullable, replace=replace)
    assert feed(target, encode_page([form.value], [[value] for value in values])) == []
    assert target.page_rows == len(values)
    (batch,) = copied(target.finish())
    batch.validate(full=True)
    return batch.column(0)


def refusal(kind: pa.DataType, form: Form, value: Any, *, nullable: bool = True) -> SourceError:
    """The error that a row with `value`, between two rows that are fine, gives."""
    with pytest.raises(SourceError) as caught:
        decode_one(kind, form, [None, value, None] if nullable else [value], nullable=nullable)
    return caught.value
