"""Choosing a part's Parquet encodings, codecs and statistics by a look at its first rows.

A sample of the first batch is written to memory in every encoding that may suit, and the sizes decide. They depend on
the rows alone; time is part of the choice only as fixed weights. All readers must read what is chosen, so two encodings
are left out: BYTE_STREAM_SPLIT, which the vectorised reader of Spark refuses, and DELTA_BYTE_ARRAY for values of fixed
length, which Polars refuses.

Columns are chosen by leaf, under Parquet's paths: `tags.list.element`, `span.months`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

# The sample: runs of rows, evenly spread, so that it shows both neighbours and how values change along the key.
_RUNS = 4
_RUN_ROWS = 1024
_RUN_BYTES = 192 << 10
# With fewer values nothing is known about those to come.
_LEAST_VALUES = 64

_PLAIN, _DICTIONARY = "PLAIN", "DICTIONARY"
# Other encodings that are tried, by physical type.
_TRIALS: tuple[dict[str, str], ...] = (
    {"INT32": "DELTA_BINARY_PACKED", "INT64": "DELTA_BINARY_PACKED", "BYTE_ARRAY": "DELTA_LENGTH_BYTE_ARRAY"},
    {"BYTE_ARRAY": "DELTA_BYTE_ARRAY"},
)
# Sizes are multiplied by these: what costs more time, here and for readers, must save that much to be taken.
_WEIGHTS = {"DELTA_LENGTH_BYTE_ARRAY": 1.03, "DELTA_BYTE_ARRAY": 1.10}
_CODEC_WEIGHT = 1.08
# A dictionary of texts is written and read faster than the texts.
_TEXT_DICTIONARY_WEIGHT = 0.7

# A dictionary that outgrows Arrow's limit of 1 MiB is built for nothing: the rest of the row group is written plain.
_DICTIONARY_BYTES = 512 << 10
_ROWS_A_DISTINCT_VALUE = 4

# Mean length in bytes up to which the least and the greatest text of a row group are worth keeping.
_SHORT_TEXT = 64


@dataclass(frozen=True)
class Codec:
    """How pages are compressed.

    Attributes:
        name: as Arrow calls it, `none` for none.
        level: None for the codec's default, and where it has no levels.
    """

    name: str
    level: int | None = None


@dataclass(frozen=True)
class Encodings:
    """What was chosen for the leaves of a part, by their paths.

    Attributes:
        codec: the codec of those that are compressed.
        paths: every leaf.
        dictionary: leaves whose values repeat.
        encoding: encodings of other leaves, where it is not PLAIN.
        compressed: leaves that the codec makes smaller; the others are stored as they are.
        statistics: leaves whose least and greatest values are kept.
    """

    codec: Codec
    paths: list[str]
    dictionary: list[str]
    encoding: dict[str, str]
    compressed: list[str]
    statistics: list[str]

    def options(self) -> dict[str, Any]:
        """The choice as arguments of `pyarrow.parquet.ParquetWriter`."""
        names = dict.fromkeys(self.paths, "none") | dict.fromkeys(self.compressed, self.codec.name)
        # A level for a column without codec is an error, so the levels are given by column too.
        levels = {} if self.codec.level is None else dict.fromkeys(self.compressed, self.codec.level)
        return {
            "use_dictionary": self.dictionary,
            "column_encoding": self.encoding,
            "compression": names,
            "compression_level": levels,
            "write_statistics": self.statistics,
        }


@dataclass
class _Size:
    """Bytes of the sample's values in one encoding, without and with the codec."""

    encoded: float
    compressed: float


@dataclass
class _Leaf:
    """One leaf of the sample.

    Attributes:
        column: number of the column that it belongs to.
        values: its values in the sample.
        repeated: it is inside a list.
        opaque: it is the storage of an extension type, such as JSON.
        path: Parquet's path.
        physical: Parquet's type.
        sizes: by encoding.
    """

    column: int
    values: pa.Array[Any]
    repeated: bool
    opaque: bool
    path: str = ""
    physical: str = ""
    sizes: dict[str, _Size] = field(default_factory=dict)

    @property
    def known(self) -> int:
        """Number of values that are not NULL."""
        return len(self.values) - self.values.null_count

    @property
    def width(self) -> float:
        """Mean bytes of a value, stored plain."""
        return self.sizes[_PLAIN].encoded / self.known


def choose_encodings(batch: pa.RecordBatch, codec: Codec) -> Encodings:
    """Encodings for a part that begins with `batch`; they depend on its rows alone."""
    sample = _sample(batch)
    leaves = [leaf for number, column in enumerate(sample.columns) for leaf in _leaves(column, number)]
    for leaf, chunk in zip(leaves, _written(sample, codec, {}), strict=True):
        leaf.path, leaf.physical = chunk.path_in_schema, chunk.physical_type
        leaf.sizes[_PLAIN] = _Size(chunk.total_uncompressed_size, chunk.total_compressed_size)
    # A column `a.b` and the field b of a column `a` have the same path, and Arrow would give both what one needs.
    paths = Counter(leaf.path for leaf in leaves)
    free = [leaf for leaf in leaves if paths[leaf.path] == 1 and leaf.known >= _LEAST_VALUES]
    _try_dictionaries(sample, codec, free, batch.num_rows / max(sample.num_rows, 1))
    # Repeating texts are not tried further: a dictionary is nearly always better, and trials of texts take time.
    rest = [leaf for leaf in free if leaf.physical != "BYTE_ARRAY" or _DICTIONARY not in leaf.sizes]
    for trial in _TRIALS:
        _try_encodings(sample, codec, [leaf for leaf in rest if leaf.physical in trial], trial)
    choices = dict.fromkeys(paths, (_PLAIN, codec.name != "none")) | {leaf.path: _best(leaf) for leaf in free}
    return Encodings(
        codec=codec,
        paths=list(paths),
        dictionary=[path for path, (encoding, _) in choices.items() if encoding == _DICTIONARY],
        encoding={path: each for path, (each, _) in choices.items() if each not in {_PLAIN, _DICTIONARY}},
        compressed=[path for path, (_, compressed) in choices.items() if compressed],
        statistics=[leaf.path for leaf in leaves if paths[leaf.path] == 1 and _needs_statistics(leaf)],
    )


def _sample(batch: pa.RecordBatch) -> pa.RecordBatch:
    rows = min(_RUN_ROWS, _RUN_BYTES * batch.num_rows // max(batch.nbytes, 1) + 1)
    if batch.num_rows <= _RUNS * rows:
        return batch
    starts = [(batch.num_rows - rows) * run // (_RUNS - 1) for run in range(_RUNS)]
    return pa.Table.from_batches([batch.slice(start, rows) for start in starts]).combine_chunks().to_batches()[0]


def _leaves(array: pa.Array[Any], column: int, repeated: bool = False, opaque: bool = False) -> Iterator[_Leaf]:
    """The leaves of a column, in Parquet's order."""
    if isinstance(array, pa.ExtensionArray):
        yield from _leaves(array.storage, column, repeated, opaque=True)
    elif isinstance(array, pa.StructArray):
        for child in array.flatten():
            yield from _leaves(child, column, repeated, opaque)
    elif isinstance(array, pa.ListArray | pa.LargeListArray):
        yield from _leaves(array.flatten(), column, True, opaque)
    else:
        yield _Leaf(column, array, repeated, opaque)


def _written(sample: pa.RecordBatch, codec: Codec, encodings: dict[str, str]) -> list[pq.ColumnChunkMetaData]:
    """What becomes of each leaf when the sample is written with these encodings, by path, and PLAIN for the rest."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        sample.schema,
        compression=codec.name,  # type: ignore[arg-type]
        compression_level=codec.level,
        use_dictionary=[path for path, each in encodings.items() if each == _DICTIONARY],  # type: ignore[arg-type]
        column_encoding={path: each for path, each in encodings.items() if each != _DICTIONARY},
        write_statistics=False,
        store_schema=False,
        store_decimal_as_integer=True,
    ) as writer:
        writer.write_batch(sample, row_group_size=max(sample.num_rows, 1))
    group = pq.read_metadata(pa.BufferReader(sink.getvalue())).row_group(0)
    return [group.column(number) for number in range(group.num_columns)]


def _chunks(
    sample: pa.RecordBatch, codec: Codec, encodings: list[tuple[_Leaf, str]]
) -> Iterator[tuple[_Leaf, pq.ColumnChunkMetaData]]:
    """Write the columns of these leaves in these encodings; gives each leaf and what became of it."""
    if not encodings:
        return
    columns = sorted({leaf.column for leaf, _ in encodings})
    chunks = _written(sample.select(columns), codec, {leaf.path: encoding for leaf, encoding in encodings})
    by_path = {chunk.path_in_schema: chunk for chunk in chunks}
    yield from ((leaf, by_path[leaf.path]) for leaf, _ in encodings)


def _try_encodings(sample: pa.RecordBatch, codec: Codec, leaves: list[_Leaf], trial: dict[str, str]) -> None:
    for leaf, chunk in _chunks(sample, codec, [(leaf, trial[leaf.physical]) for leaf in leaves]):
        leaf.sizes[trial[leaf.physical]] = _Size(chunk.total_uncompressed_size, chunk.total_compressed_size)


def _try_dictionaries(sample: pa.RecordBatch, codec: Codec, leaves: list[_Leaf], scale: float) -> None:
    """Try a dictionary where it may pay in a row group that is `scale` times the sample."""
    found: dict[str, tuple[int, float]] = {}
    for leaf in leaves:
        distinct = pc.count_distinct(leaf.values).as_py()
        growth = _dictionary_growth(leaf, distinct, scale)
        if growth is not None and leaf.physical != "BOOLEAN":
            found[leaf.path] = distinct, growth
    for leaf, chunk in _chunks(sample, codec, [(leaf, _DICTIONARY) for leaf in leaves if leaf.path in found]):
        distinct, growth = found[leaf.path]
        # Codes grow with the rows, the dictionary more slowly: this part of its bytes falls away.
        spared = 1 - growth / scale
        encoded = min(distinct * leaf.width, chunk.total_uncompressed_size)
        compressed = chunk.data_page_offset - (chunk.dictionary_page_offset or chunk.data_page_offset)
        leaf.sizes[_DICTIONARY] = _Size(
            chunk.total_uncompressed_size - spared * encoded, chunk.total_compressed_size - spared * compressed
        )


def _dictionary_growth(leaf: _Leaf, distinct: int, scale: float) -> float | None:
    """How many times the sample's dictionary a row group's would be; None where it would be too large to pay.

    Distinct values are taken to go on growing in number as they do from half of the sample to all of it.
    """
    if distinct * 4 > leaf.known * 3:
        return None
    half = pc.count_distinct(leaf.values.slice(0, len(leaf.values) // 2)).as_py()
    growth = float(scale ** min(math.log2(distinct / max(half, 1)), 1))
    expected = distinct * growth
    pays = expected * _ROWS_A_DISTINCT_VALUE <= leaf.known * scale and expected * leaf.width <= _DICTIONARY_BYTES
    return growth if pays else None


def _best(leaf: _Leaf) -> tuple[str, bool]:
    """The encoding to take, and whether with the codec."""
    costs = {}
    for encoding, size in leaf.sizes.items():
        weight = _WEIGHTS.get(encoding, 1.0)
        if encoding == _DICTIONARY and leaf.physical == "BYTE_ARRAY":
            weight = _TEXT_DICTIONARY_WEIGHT
        costs[encoding, False] = size.encoded * weight
        costs[encoding, True] = size.compressed * weight * _CODEC_WEIGHT
    return min(costs, key=costs.__getitem__)


def _needs_statistics(leaf: _Leaf) -> bool:
    """Whether the least and the greatest value of a row group help to skip it.

    They nearly always cost little. Comparing texts does not, so these must be short and follow the key: where the
    sample's first and last runs have a range in common, so have the row groups.
    """
    if leaf.repeated:
        return False
    if leaf.physical != "BYTE_ARRAY":
        return True
    if leaf.opaque or not (pt.is_string(leaf.values.type) or pt.is_large_string(leaf.values.type)):
        return False
    if leaf.known < _LEAST_VALUES:
        return True
    run = -(-len(leaf.values) // _RUNS)
    low, high = _range(leaf.values.slice(0, run)), _range(leaf.values.slice(len(leaf.values) - run))
    if leaf.width > _SHORT_TEXT or low is None or high is None:
        return False
    return low[1] < high[0] or high[1] < low[0] or low[0] == low[1] == high[0] == high[1]


def _range(values: pa.Array[Any]) -> tuple[bytes, bytes] | None:
    """The least and the greatest text, as Parquet orders them; None where all are NULL."""
    least, greatest = pc.min_max(values).values()
    return (least.as_py().encode(), greatest.as_py().encode()) if least.is_valid else None
