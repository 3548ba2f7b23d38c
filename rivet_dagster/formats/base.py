"""What the export asks of a file format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import pyarrow as pa


class PartWriter(Protocol):
    """Writes one part to a local file. Equal batches in equal order give equal bytes."""

    rows: int
    """Rows written so far."""

    @property
    def bytes_written(self) -> int:
        """Bytes in the file so far."""
        ...

    def write(self, batch: pa.RecordBatch) -> None:
        """Append a batch, as one row group where the format has any."""
        ...

    def close(self) -> None:
        """Complete the file."""
        ...

    def abandon(self) -> None:
        """Close the file without completing it; harmless after `close`."""
        ...
