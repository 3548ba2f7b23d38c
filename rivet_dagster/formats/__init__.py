"""File formats of parts; each format is one module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rivet_dagster.formats.base import PartWriter

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FORMATS", "PartFormat", "PartWriter", "format_of"]


@dataclass(frozen=True)
class PartFormat:
    """One format. What it names is imported when it is first used: a code location that only loads never pays.

    Attributes:
        module: where its writer and readers are.
        writer: class of its writers.
        suffix: of part names.
        suffixes: of those that a compression names too.
        reader: function that gives a part's batches; None for a format that does not keep types.
        counter: function that gives a part's number of rows, where there is no reader.
        warmer: function that loads compiled loops, where there are any.
    """

    module: str
    writer: str
    suffix: str
    suffixes: dict[str, str] = field(default_factory=dict)
    reader: str | None = None
    counter: str | None = None
    warmer: str | None = None

    def suffix_of(self, compression: str) -> str:
        """The suffix of parts with this compression."""
        return self.suffixes.get(compression, self.suffix)

    def open(self, path: Path, first: pa.RecordBatch, **options: Any) -> PartWriter:
        """Create a part that begins with `first`, which is not written yet.

        Args:
            path: local file to create.
            first: the first batch.
            options: compression and whatever else the writer takes.

        Raises:
            OSError: the file cannot be created.
        """
        return cast("PartWriter", self._named(self.writer)(path, first, **options))

    def read(self, path: Path) -> Iterator[pa.RecordBatch]:
        """The rows of a part of a format with a reader.

        Raises:
            pyarrow.ArrowException, OSError: the file is no whole part.
        """
        assert self.reader is not None
        return cast("Iterator[pa.RecordBatch]", self._named(self.reader)(path))

    def count(self, path: Path) -> int:
        """Number of rows in a part of a format without a reader; the file needs its suffix. Errors as in `read`."""
        assert self.counter is not None
        return cast("int", self._named(self.counter)(path))

    def warm(self) -> None:
        """Load the writer's compiled loops, compiling them into numba's cache if they are not there."""
        if self.warmer is not None:
            self._named(self.warmer)()

    def _named(self, name: str) -> Any:
        return getattr(import_module(self.module), name)


FORMATS = {
    "parquet": PartFormat(
        "rivet_dagster.formats.parquet", "ParquetPartWriter", suffix="parquet", reader="read_batches"
    ),
    "csv": PartFormat(
        "rivet_dagster.formats.csv",
        "CsvPartWriter",
        suffix="csv",
        suffixes={"gzip": "csv.gz", "zstd": "csv.zst"},
        counter="count_rows",
        warmer="warm",
    ),
}


def format_of(path: str) -> PartFormat:
    """The format of a part, by its suffix."""
    first = path.rpartition("/")[2].split(".")[1:2]
    return FORMATS["csv" if first == ["csv"] else "parquet"]
