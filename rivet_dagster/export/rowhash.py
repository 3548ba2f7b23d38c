"""Computing row fingerprints of Arrow batches. Importing this module imports numba; what is computed is defined in
`rivet_dagster.export.fingerprint`.
"""

from __future__ import annotations

from collections.abc import Callable
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
_BLOCK_ROWS = 16 << 10

_Words = npt.NDArray[np.uint64]
_Items = npt.NDArray[Any]


class RowHasher:
    """Adds up the fingerprint of the batches that it is shown.

    Args:
        schema: the columns. Their names and nullability leave no trace in the fingerprint.

    Raises:
        ConfigError: RIVET_FINGERPRINT_TYPE for a type that the algorithm does not cover.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._types = schema.types
        self._families = [_family(field) for field in schema]
        self._keys = [_keys(number, self._families[number], field.type) for number, field in enumerate(schema)]
        self._lanes = (np.empty(_BLOCK_ROWS, np.uint64), np.empty(_BLOCK_ROWS, np.uint64))
        self._total = Fingerprint.zero()

    @property
    def fingerprint(self) -> Fingerprint:
        """Fingerprint of the rows so far."""
        return self._total

    def update(self, batch: pa.RecordBatch) -> None:
        """Add the rows of `batch`; ValueError if its types are not those of the schema."""
        if batch.schema.types != self._types:
            raise ValueError("the batch's types are not those of the schema")
        for start in range(0, batch.num_rows, _BLOCK_ROWS):
            self._add(batch.slice(start, _BLOCK_ROWS))

    def _add(self, block: pa.RecordBatch) -> None:
        """Add a block, whose words are few enough to stay in the processor's cache."""
        lanes = (self._lanes[0][: block.num_rows], self._lanes[1][: block.num_rows])
        kernels.begin(lanes, _SEEDS)
        for keys, family, column in zip(self._keys, self._families, block.columns, strict=True):
            array = _plain(column)
            valid = _validity(array)
            for word in self._words(family, array):
                kernels.mix(lanes, keys, word, valid)
        first, second = kernels.finish(lanes)
        self._total += Fingerprint(block.num_rows, int(first), int(second))

    def _words(self, family: str, array: pa.Array[Any]) -> list[_Words]:
        """Words of the cells: an array of all first words, one of all second words, and so on."""
        words = self._value_words(array) if family in ("text", "binary") else _READERS[family](array)
        return [_uniform(column) for column in words]

    def _value_words(self, array: pa.Array[Any]) -> list[_Words]:
        large = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
        offsets = _items(array, np.int64 if large else np.int32, extra=1).astype(np.int64, copy=False)
        buffer: Any = array.buffers()[2]
        data = np.frombuffer(buffer or b"", np.uint8)
        hashes = np.empty(len(array), np.uint64)
        kernels.hash_values(_uniform(data), _uniform(offsets), hashes)
        return [hashes, np.diff(offsets).view(np.uint64)]


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
    "timestamp": _is_timestamp,
    "uuid": _is_sixteen_bytes,
    "text": _is_text,
    "binary": _is_binary,
}


def _family(field: pa.Field[Any]) -> str:
    """The family of a column, without the decimals' scale and the timestamps' zone."""
    for family, covers in _FAMILIES.items():
        if covers(_storage_type(field.type)):
            return family
    raise ConfigError(
        "RIVET_FINGERPRINT_TYPE",
        f"Column {field.name} has the type {field.type}, which row fingerprints do not cover.",
        "Export a view that casts this column or leaves it out.",
        fatal=True,
    )


def _keys(number: int, family: str, arrow_type: pa.DataType) -> tuple[np.uint64, np.uint64]:
    """The key of column `number` in each lane."""
    if isinstance(arrow_type, pa.Decimal128Type | pa.Decimal256Type):
        family = f"decimal({arrow_type.scale})"
    elif isinstance(arrow_type, pa.TimestampType) and arrow_type.tz is not None:
        family = "timestamptz"
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


_READERS: dict[str, Callable[[pa.Array[Any]], list[_Words]]] = {
    "bool": _read_bools,
    "int": _read_numbers,
    "float": _read_floats,
    "decimal": _read_words,
    "date": _read_numbers,
    "timestamp": _read_numbers,
    "uuid": _read_words,
}
