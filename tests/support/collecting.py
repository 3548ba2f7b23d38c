"""A decoder that keeps its batches until they are asked for, as tests like to have them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rivet_dagster.wire.pgcopy import CopyDecoder


class CollectingDecoder(CopyDecoder):
    """`CopyDecoder` with a list of complete batches."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._complete: list[pa.RecordBatch] = []

    def feed(self, page: npt.NDArray[np.uint8], length: int) -> int:
        """Decode a page; gives its rows."""
        self._complete += map(_copied, self.decode(page, length))
        return self.page_rows

    def take_batches(self) -> Iterator[pa.RecordBatch]:
        """Batches that are complete and were not taken yet."""
        complete, self._complete = self._complete, []
        return iter(complete)

    def finish(self) -> Iterator[pa.RecordBatch]:
        """Every batch that was not taken yet, and the rest."""
        rest = list(map(_copied, super().finish()))
        return iter([*self.take_batches(), *rest])


def _copied(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same batch in memory of its own: the decoder uses its memory again."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return pa.ipc.open_stream(sink.getvalue()).read_next_batch()
