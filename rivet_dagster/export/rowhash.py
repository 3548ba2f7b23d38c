"""Computing row fingerprints of Arrow batches, and checksums of their columns on the way.

Importing this module imports numba. Row fingerprints are defined in `rivet_dagster.export.fingerprint`. The checksum of
column number `n` is the sum of lane 0 that the fingerprint would have if rows had nothing but this column, with the key
of number `n`: free of order like the fingerprint, counting each value as often as it is there, NULL among them, and
another one for the same values in another column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from rivet_dagster.errors import ConfigError
from rivet_dagster.export import _rowhash_kernels as kernels
from rivet_dagster.export.fingerprint import Fingerprint

_SEEDS = (np.uint64(0), np.uint64(0x9E3779B97F4A7C15))
_NAN = np.uint64(0x7FF8000000000000)
# Rows whose running hashes stay in the processor's cache while every column passes over them.
_BLOCK_ROWS = 32 << 10
_MASK = 2**64 - 1

_Words = npt.NDArray[np.uint64]
_Items = npt.NDArray[Any]
_Keys = tuple[np.uint64, np.uint64]


class RowHasher:
    """Adds up the fingerprint and the columns' checksums of the batches that it is shown.

    Args:
        schema: the columns. Their names and nullability leave no trace in the fingerprint.
        numbers: number of each column, from 0 on, where the batches have only some of a table's columns: then the
            columns' checksums are those of the whole table, and the fingerprint is none.

    Raises:
        ConfigError: RIVET_FINGERPRINT_TYPE for a type that the algorithm does not cover.
    """

    def __init__(self, schema: pa.Schema, numbers: Sequence[int] | None = None) -> None:
        self._types = schema.types
        self._families = [_family(field.name, field.type) for field in schema]
        numbered = zip(range(len(schema)) if numbers is None else numbers, schema.types, strict=True)
        self._keys = [_keys(number, _full_family(kind)) for number, kind in numbered]
        self._lanes = _new_lanes(_BLOCK_ROWS)
        self._total = Fingerprint.zero()
        self._columns = [0] * len(schema)

    @property
    def fingerprint(self) -> Fingerprint:
        """Fingerprint of the rows so far."""
        return self._total

    def take_columns(self) -> tuple[str, ...]:
        """Checksums of the columns over the rows since they were last taken: 16 hexadecimal digits a column."""
        taken = tuple(f"{total:016x}" for total in self._columns)
        self._columns = [0] * len(self._columns)
        return taken

    def update(self, batch: pa.RecordBatch) -> None:
        """Add the rows of `batch`.

        Raises:
            ValueError: its types are not those of the schema, or an interval lacks one of its numbers.
        """
        if batch.schema.types != self._types:
            raise ValueError("the batch's types are not those of the schema")
        rows = _block_rows(batch)
        for start in range(0, batch.num_rows, rows):
            self._add(batch.slice(start, rows))

    def _add(self, block: pa.RecordBatch) -> None:
        """Add a block, whose words are few enough to stay in the processor's cache."""
        lanes = (self._lanes[0][: block.num_rows], self._lanes[1][: block.num_rows])
        kernels.begin(lanes, _SEEDS)
        for number, column in enumerate(block.columns):
            own = _mix(lanes, self._keys[number], self._families[number], _plain(column))
            self._columns[number] = (self._columns[number] + own) & _MASK
        first, second = kernels.finish(lanes)
        self._total += Fingerprint(block.num_rows, int(first), int(second))


def _block_rows(batch: pa.RecordBatch) -> int:
    """Rows whose words, and those of their lists' elements, are about as many as stay in the cache."""
    elements = max((_elements(_plain(column)) for column in batch.columns), default=0)
    return max(_BLOCK_ROWS * batch.num_rows // max(elements, batch.num_rows, 1), 1)


def _elements(array: pa.Array[Any]) -> int:
    if not isinstance(array, pa.ListArray | pa.LargeListArray) or len(array) == 0:
        return 0
    first, last = (int(array.offsets[place].as_py()) for place in (0, -1))
    return last - first


def add_columns(parts: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Checksums of the columns of several parts together; they are given part by part."""
    return tuple(f"{sum(int(one, 16) for one in column) & _MASK:016x}" for column in zip(*parts, strict=True))


def _new_lanes(rows: int) -> tuple[_Words, _Words]:
    return np.empty(rows, np.uint64), np.empty(rows, np.uint64)


def _mix(lanes: tuple[_Words, _Words], keys: _Keys, family: str, array: pa.Array[Any]) -> int:
    """Mix a column's cells into the running hashes of their rows; gives the column's checksum."""
    if len(array) == 0:
        return 0  # no elements at all: Arrow then allows buffers without even a first offset
    valid = _validity(array)
    found = _list_words(keys, family, array) if family.startswith(_LIST) else _READERS[family](array)
    words = [_uniform(word) for word in found]
    if len(words) == 1:
        return int(kernels.mix_one(lanes, keys, words[0], valid))
    if len(words) == 2:
        return int(kernels.mix_two(lanes, keys, (words[0], words[1]), valid))
    own = _new_lanes(len(array))
    kernels.begin(own, _SEEDS)
    for word in words:
        kernels.mix_one(lanes, keys, word, valid)
        kernels.mix_one(own, keys, word, valid)
    return int(kernels.finish(own)[0])


def _list_words(keys: _Keys, family: str, array: pa.Array[Any]) -> list[_Words]:
    """The folded hashes of each list's elements, a lane each, and their number."""
    assert isinstance(array, pa.ListArray | pa.LargeListArray)
    offsets = _offsets(array, large=isinstance(array, pa.LargeListArray))
    elements = _plain(array.values[int(offsets[0]) : int(offsets[-1])])
    lanes = _new_lanes(len(elements))
    kernels.begin(lanes, _SEEDS)
    _mix(lanes, keys, family.removeprefix(_LIST).removesuffix(")"), elements)
    folded = _new_lanes(len(array))
    kernels.fold(lanes, _SEEDS, _uniform(offsets - offsets[0]), folded)
    return [*folded, np.diff(offsets).view(np.uint64)]


def _offsets(array: pa.Array[Any], *, large: bool) -> npt.NDArray[np.int64]:
    return _items(array, np.int64 if large else np.int32, extra=1).astype(np.int64, copy=False)


def _is_interval(storage: pa.DataType) -> bool:
    numbers = [("months", pa.int32()), ("days", pa.int32()), ("microseconds", pa.int64())]
    return isinstance(storage, pa.StructType) and [(field.name, field.type) for field in storage] == numbers


def _is_time(storage: pa.DataType) -> bool:
    return pa.types.is_time64(storage) and storage.unit == "us"


def _is_float(storage: pa.DataType) -> bool:
    return pa.types.is_float32(storage) or pa.types.is_float64(storage)


def _is_decimal(storage: pa.DataType) -> bool:
    return pa.types.is_decimal128(storage) or pa.types.is_decimal256(storage)


def _is_timestamp(storage: pa.DataType) -> bool:
    return pa.types.is_timestamp(storage) and storage.unit == "us"


def _is_sixteen_bytes(storage: pa.DataType) -> bool:
    return pa.types.is_fixed_size_binary(storage) and storage.byte_width == 16


def _is_text(storage: pa.DataType) -> bool:
    return pa.types.is_string(storage) or pa.types.is_large_string(storage) or pa.types.is_string_view(storage)


def _is_binary(storage: pa.DataType) -> bool:
    return pa.types.is_binary(storage) or pa.types.is_large_binary(storage) or pa.types.is_binary_view(storage)


_FAMILIES: dict[str, Callable[[pa.DataType], bool]] = {
    "bool": pa.types.is_boolean,
    "int": pa.types.is_integer,
    "float": _is_float,
    "decimal": _is_decimal,
    "date": pa.types.is_date32,
    "time": _is_time,
    "timestamp": _is_timestamp,
    "uuid": _is_sixteen_bytes,
    "text": _is_text,
    "binary": _is_binary,
    "interval": _is_interval,
}
_LIST = "list("


def _family(name: str, arrow_type: pa.DataType) -> str:
    """The family of a column, without the decimals' scale and the timestamps' zone: what says how to read it."""
    storage = _storage_type(arrow_type)
    if pa.types.is_list(storage) or pa.types.is_large_list(storage):
        return f"{_LIST}{_family(name, storage.value_type)})"
    for family, covers in _FAMILIES.items():
        if covers(storage):
            return family
    raise ConfigError(
        "RIVET_FINGERPRINT_TYPE",
        f"Column {name} has the type {arrow_type}, which row fingerprints do not cover.",
        "Export a view that casts this column or leaves it out.",
        fatal=True,
    )


def _full_family(arrow_type: pa.DataType) -> str:
    """The family of a column as its key spells it."""
    storage = _storage_type(arrow_type)
    if pa.types.is_list(storage) or pa.types.is_large_list(storage):
        return f"{_LIST}{_full_family(storage.value_type)})"
    if isinstance(storage, pa.Decimal128Type | pa.Decimal256Type):
        return f"decimal({storage.scale})"
    if isinstance(storage, pa.TimestampType) and storage.tz is not None:
        return "timestamptz"
    return _family("", storage)


def _keys(number: int, family: str) -> _Keys:
    """The key of column `number` in each lane."""
    text = f"{number}:{family}".encode()
    first, second = (np.uint64(xxhash.xxh64_intdigest(text, int(seed))) for seed in _SEEDS)
    return first, second


def _storage_type(arrow_type: pa.DataType) -> pa.DataType:
    return arrow_type.storage_type if isinstance(arrow_type, pa.BaseExtensionType) else arrow_type


def _plain(array: pa.Array[Any]) -> pa.Array[Any]:
    """The array's storage; a view type as the type that has offsets."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_string_view(array.type):
        return array.cast(pa.large_string())
    if pa.types.is_binary_view(array.type):
        return array.cast(pa.large_binary())
    return array


def _items(array: pa.Array[Any], dtype: npt.DTypeLike, *, per_value: int = 1, extra: int = 0) -> _Items:
    """What the second buffer holds for the array's values: `per_value` items each, and `extra` more."""
    buffer: Any = array.buffers()[1]
    width = np.dtype(dtype).itemsize
    return np.frombuffer(buffer, dtype, len(array) * per_value + extra, array.offset * per_value * width)


def _bits(buffer: Any, array: pa.Array[Any]) -> _Items:
    """The array's bits in a bitmap, a byte each."""
    first = array.offset % 8
    packed = np.frombuffer(buffer, np.uint8, (first + len(array) + 7) // 8, array.offset // 8)
    return np.unpackbits(packed, bitorder="little")[first : first + len(array)]


def _validity(array: pa.Array[Any]) -> _Items:
    """0 for NULL, else 1; empty where nothing is NULL."""
    return _bits(array.buffers()[0], array) if array.null_count else np.empty(0, np.uint8)


def _uniform(array: _Items) -> _Items:
    """Contiguous, aligned and read-only: numba compiles a kernel again for each combination that it meets."""
    array = np.require(array, requirements=["C", "A"])
    array.flags.writeable = False
    return array


def _read_bools(array: pa.Array[Any]) -> list[_Words]:
    return [_bits(array.buffers()[1], array).astype(np.uint64)]


def _read_numbers(array: pa.Array[Any]) -> list[_Words]:
    """Integers of any width, days and microseconds."""
    kind = array.type
    if pa.types.is_unsigned_integer(kind):
        return [_items(array, f"u{kind.bit_width // 8}").astype(np.uint64, copy=False)]
    return [_items(array, f"i{kind.bit_width // 8}").astype(np.int64, copy=False).view(np.uint64)]


def _read_floats(array: pa.Array[Any]) -> list[_Words]:
    with np.errstate(invalid="ignore"):  # widening a signalling NaN is no accident
        values = _items(array, f"f{array.type.bit_width // 8}").astype(np.float64, copy=False)
    return [np.where(np.isnan(values), _NAN, values.view(np.uint64))]


def _read_words(array: pa.Array[Any]) -> list[_Words]:
    """Decimals and UUIDs, which are some words each."""
    per_value = array.type.byte_width // 8
    return list(_items(array, np.uint64, per_value=per_value).reshape(-1, per_value).T)


def _read_values(array: pa.Array[Any]) -> list[_Words]:
    """Texts and bytes."""
    large = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
    offsets = _offsets(array, large=large)
    buffer: Any = array.buffers()[2]
    hashes = np.empty(len(array), np.uint64)
    kernels.hash_values(_uniform(np.frombuffer(buffer or b"", np.uint8)), _uniform(offsets), hashes)
    return [hashes, np.diff(offsets).view(np.uint64)]


def _read_interval(array: pa.Array[Any]) -> list[_Words]:
    """Months, days and microseconds."""
    assert isinstance(array, pa.StructArray)
    numbers = array.flatten()  # NULL where the interval is NULL
    if any(number.null_count > array.null_count for number in numbers):
        raise ValueError("an interval lacks one of its numbers")
    return [word for number in numbers for word in _read_numbers(number)]


_READERS: dict[str, Callable[[pa.Array[Any]], list[_Words]]] = {
    "bool": _read_bools,
    "int": _read_numbers,
    "float": _read_floats,
    "decimal": _read_words,
    "date": _read_numbers,
    "time": _read_numbers,
    "timestamp": _read_numbers,
    "uuid": _read_words,
    "text": _read_values,
    "binary": _read_values,
    "interval": _read_interval,
}
