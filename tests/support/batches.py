"""Laws of batches, whatever protocol their rows came by."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa


def rows_of_batches(sizes: Iterable[int], batch_bytes: int, batch_rows: int) -> list[int]:
    """Rows of each batch that rows of these sizes make."""
    found: list[int] = []
    total = count = 0
    for size in sizes:
        total, count = total + size, count + 1
        if total >= batch_bytes or count == batch_rows:
            found.append(count)
            total = count = 0
    return found + [count] * bool(count)


def buffers(batch: pa.RecordBatch) -> list[bytes | None]:
    """Every byte of a batch: equal rows give equal ones."""
    return [None if part is None else part.to_pybytes() for column in batch.columns for part in column.buffers()]
