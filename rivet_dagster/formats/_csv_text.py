"""Arrow columns as texts: those of CSV parts, and those of JSON values inside of lists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rivet_dagster.formats import _csv_kernels as kernels

_Items = npt.NDArray[Any]


def _pairs_of_digits() -> _Items:
    return np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), np.uint16)


def _escapes() -> _Items:
    """What JSON writes for a byte below the space, a quote and a backslash: the number of bytes, and these."""
    lines = np.zeros((256, 7), np.uint8)
    short = {0x08: b"\\b", 0x09: b"\\t", 0x0A: b"\\n", 0x0C: b"\\f", 0x0D: b"\\r", 0x22: b'\\"', 0x5C: b"\\\\"}
    for byte in (*range(0x20), 0x22, 0x5C):
        text = short.get(byte, b"\\u%04x" % byte)
        lines[byte, : len(text) + 1] = [len(text), *text]
    return lines


_HEX = _pairs_of_digits()
_ESCAPES = _escapes()
_ESCAPED_SIZES = np.maximum(_ESCAPES[:, 0], 1)
_UUID_DASHES = (8, 13, 18, 23)
_UUID_DIGITS = np.array([place for place in range(36) if place not in _UUID_DASHES])


@dataclass(frozen=True)
class Texts:
    """A column of texts.

    Attributes:
        data: the bytes of all values.
        offsets: value k is `data[offsets[k]:offsets[k + 1]]`.
        valid: 0 for NULL, else 1; what stands in `data` for a NULL means nothing.
        quoted: whether it is text to a reader of CSV, and a string in JSON.
    """

    data: _Items
    offsets: _Items
    valid: _Items
    quoted: bool = False


def texts(array: pa.Array[Any]) -> Texts:
    """The values of a column of any type that exports have.

    Raises:
        TypeError: another type.
    """
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    for covers, render in _RENDERERS:
        if covers(array.type):
            return render(array) if len(array) else Texts(np.empty(0, np.uint8), np.zeros(1, np.int64), _valid(array))
    raise TypeError(f"{array.type} has no form in CSV")


def _json_texts(array: pa.Array[Any]) -> Texts:
    """The values as JSON: numbers where every reader of JSON keeps them, else strings."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if _is_float(array.type) and len(array):
        return _floats(array, '"')
    found = texts(array)
    if array.type in _JSON_AS_IS or isinstance(array, pa.ListArray | pa.LargeListArray | pa.StructArray):
        return found
    out = np.empty(int(_ESCAPED_SIZES[found.data].sum(dtype=np.int64)) + 2 * len(array), np.uint8)
    ends = np.empty(len(array) + 1, np.int64)
    kernels.put_json_strings(fixed(found.data), fixed(found.offsets), _ESCAPES, out, ends)
    return Texts(out[: ends[-1]], ends, found.valid)


def _is_float(arrow: pa.DataType) -> bool:
    return pa.types.is_float32(arrow) or pa.types.is_float64(arrow)


# Other numbers are rounded by readers that keep every number as a float64.
_JSON_AS_IS = {pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16(), pa.uint32()}


def fixed(array: _Items) -> _Items:
    """Contiguous, aligned and read-only: numba compiles a loop again for each combination that it meets."""
    array = np.require(array, requirements=["C", "A"])
    array.flags.writeable = False
    return array


def _valid(array: pa.Array[Any]) -> _Items:
    bitmap: Any = array.buffers()[0] if array.null_count else None
    if bitmap is None:
        return np.ones(len(array), np.uint8)
    first = array.offset % 8
    packed = np.frombuffer(bitmap, np.uint8, (first + len(array) + 7) // 8, array.offset // 8)
    return np.unpackbits(packed, bitorder="little")[first : first + len(array)]


def _items(array: pa.Array[Any], dtype: npt.DTypeLike, *, per_value: int = 1, extra: int = 0) -> _Items:
    """What the second buffer holds for the array's values: `per_value` items each, and `extra` more."""
    buffer: Any = array.buffers()[1]
    width = np.dtype(dtype).itemsize
    return np.frombuffer(buffer, dtype, len(array) * per_value + extra, array.offset * per_value * width)


def _offsets(array: pa.Array[Any]) -> _Items:
    kind = array.type
    large = pa.types.is_large_string(kind) or pa.types.is_large_binary(kind) or pa.types.is_large_list(kind)
    return _items(array, np.int64 if large else np.int32, extra=1).astype(np.int64, copy=False)


def _stored(array: pa.Array[Any]) -> Texts:
    """The bytes of texts as they are."""
    offsets = _offsets(array)
    buffer: Any = array.buffers()[2]
    data = np.frombuffer(buffer or b"", np.uint8)[offsets[0] : offsets[-1]]
    return Texts(data, offsets - offsets[0], _valid(array))


def _strings(array: pa.Array[Any]) -> Texts:
    return replace(_stored(array), quoted=True)


def _binary(array: pa.Array[Any]) -> Texts:
    stored = _stored(array)
    return replace(stored, data=_HEX[stored.data].view(np.uint8), offsets=stored.offsets * 2, quoted=True)


def _cast(array: pa.Array[Any]) -> Texts:
    return _stored(array.cast(pa.string()))


def _floats(array: pa.Array[Any], quote: str = "") -> Texts:
    """The fewest digits that give the number back, which are Arrow's, but names that more readers know."""
    shown: Any = array.cast(pa.string())
    if not pc.all(pc.is_finite(array), min_count=0).as_py():
        names = [f"{quote}{name}{quote}" for name in ("NaN", "-Infinity", "Infinity")]
        infinite = pc.if_else(pc.less(array, pa.scalar(0, array.type)), names[1], names[2])
        shown = pc.if_else(pc.is_nan(array), names[0], pc.if_else(pc.is_inf(array), infinite, shown))
    return _stored(shown)


def _decimals(array: pa.Array[Any]) -> Texts:
    """Every digit of the scale; Arrow's own cast writes small numbers with an exponent."""
    kind: Any = array.type
    whole = pa.decimal128(38, 0) if pa.types.is_decimal128(kind) else pa.decimal256(76, 0)
    digits = _cast(pa.Array.from_buffers(whole, len(array), array.buffers(), array.null_count, array.offset))
    if kind.scale == 0:
        return digits
    # A number of n digits grows by a point, or to the scale with a point and the zero before it.
    out = np.empty(digits.data.size + len(array) * (kind.scale + 2), np.uint8)
    ends = np.empty(len(array) + 1, np.int64)
    kernels.put_points(fixed(digits.data), fixed(digits.offsets), kind.scale, out, ends)
    return replace(digits, data=out[: ends[-1]], offsets=ends)


def _dates(array: pa.Array[Any]) -> Texts:
    return _put(array, 16, kernels.put_dates, _items(array, np.int32).astype(np.int64))


def _times(array: pa.Array[Any]) -> Texts:
    return _put(array, 16, kernels.put_times, fixed(_items(array, np.int64)))


def _timestamps(array: pa.Array[Any]) -> Texts:
    kind: Any = array.type
    return _put(array, 32, kernels.put_timestamps, fixed(_items(array, np.int64)), kind.tz is not None)


def _put(array: pa.Array[Any], width: int, put: Callable[..., None], numbers: _Items, *options: object) -> Texts:
    out = np.empty(len(array) * width, np.uint8)
    ends = np.empty(len(array) + 1, np.int64)
    put(fixed(numbers), *options, out, ends)
    return Texts(out[: ends[-1]], ends, _valid(array))


def _uuids(array: pa.Array[Any]) -> Texts:
    out = np.full((len(array), 36), ord("-"), np.uint8)
    digits = _HEX[_items(array, np.uint8, per_value=16)].view(np.uint8)
    out[:, _UUID_DIGITS] = digits.reshape(-1, 32)
    return Texts(out.reshape(-1), np.arange(len(array) + 1, dtype=np.int64) * 36, _valid(array))


def _intervals(array: pa.Array[Any]) -> Texts:
    """A JSON object of the three numbers."""
    assert isinstance(array, pa.StructArray)
    # NULL where the interval is NULL.
    months, days, microseconds = (part.cast(pa.string()) for part in array.flatten())
    pieces = ('{"months": ', months, ', "days": ', days, ', "microseconds": "', microseconds, '"}', "")
    joined: Any = pc.binary_join_element_wise(*pieces)  # type: ignore[call-overload]
    return _strings(joined)


def _lists(array: pa.Array[Any]) -> Texts:
    """A JSON array of the elements."""
    assert isinstance(array, pa.ListArray | pa.LargeListArray)
    offsets = _offsets(array)
    elements = _json_texts(array.values[int(offsets[0]) : int(offsets[-1])])
    out = np.empty(elements.data.size + 6 * elements.valid.size + 2 * len(array), np.uint8)
    ends = np.empty(len(array) + 1, np.int64)
    kernels.put_json_lists(
        fixed(elements.data), fixed(elements.offsets), fixed(elements.valid), fixed(offsets - offsets[0]), out, ends
    )
    return Texts(out[: ends[-1]], ends, _valid(array), quoted=True)


def _is_sixteen_bytes(arrow: pa.DataType) -> bool:
    return pa.types.is_fixed_size_binary(arrow) and arrow.byte_width == 16


_Covers = Callable[[pa.DataType], bool]
_RENDERERS: tuple[tuple[_Covers, Callable[[pa.Array[Any]], Texts]], ...] = (
    (lambda arrow: pa.types.is_boolean(arrow) or pa.types.is_integer(arrow), _cast),
    (_is_float, _floats),
    (lambda arrow: pa.types.is_decimal128(arrow) or pa.types.is_decimal256(arrow), _decimals),
    (pa.types.is_date32, _dates),
    (lambda arrow: arrow == pa.time64("us"), _times),
    (lambda arrow: pa.types.is_timestamp(arrow) and arrow.unit == "us", _timestamps),
    (_is_sixteen_bytes, _uuids),
    (lambda arrow: pa.types.is_string(arrow) or pa.types.is_large_string(arrow), _strings),
    (lambda arrow: pa.types.is_binary(arrow) or pa.types.is_large_binary(arrow), _binary),
    (pa.types.is_struct, _intervals),
    (lambda arrow: pa.types.is_list(arrow) or pa.types.is_large_list(arrow), _lists),
)
