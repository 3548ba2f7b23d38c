"""Columns of PostgreSQL's binary COPY format: what each wire form becomes, the buffers it is decoded into, and why a
value is refused. Importing this module imports numba.
"""

from __future__ import annotations

import enum
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rivet_dagster.errors import SourceError
from rivet_dagster.wire import _pgcopy_kernels as kernels

_FIRST_ROWS = 1024

# PostgreSQL counts from 2000-01-01, Arrow from 1970-01-01.
_EPOCH_DAYS = 10_957
_EPOCH_MICROSECONDS = _EPOCH_DAYS * 86_400_000_000

_Decimal: TypeAlias = "pa.Decimal128Type[Any, Any] | pa.Decimal256Type[Any, Any]"
_DECIMALS = (pa.Decimal128Type, pa.Decimal256Type)


class Form(str, enum.Enum):
    """How a value is written on the wire.

    INT2 to FLOAT8 are big-endian numbers; DATE and TIMESTAMP (with or without time zone) count days and
    microseconds from 2000-01-01; NUMERIC is base-10000 digits; JSONB is a version byte before the text; BYTES
    is everything that Arrow takes as it comes: text, varchar, char, bytea, json.
    """

    BOOL = "bool"
    INT2 = "int2"
    INT4 = "int4"
    INT8 = "int8"
    FLOAT4 = "float4"
    FLOAT8 = "float8"
    NUMERIC = "numeric"
    DATE = "date"
    TIMESTAMP = "timestamp"
    UUID = "uuid"
    BYTES = "bytes"
    JSONB = "jsonb"


@dataclass(frozen=True)
class WireColumn:
    """One column of the stream.

    Attributes:
        field: its name, Arrow type and nullability in the batches.
        form: how its values come.
    """

    field: pa.Field[Any]
    form: Form


class ColumnBuffers(ABC):
    """Buffers of one column of the batch being filled; the next batch starts with about the room that this one took.

    Buffers are made when the first value comes, so that a batch that was cut can be freed before the next one grows.
    """

    def __init__(self, column: WireColumn) -> None:
        self._column = column
        self._null_count = 0
        # One byte a value, 1 for NULL. Zeros cost nothing until touched, and most columns have no NULL.
        self._nulls = np.zeros(_FIRST_ROWS if column.field.nullable else 0, np.uint8)

    def append(self, page: npt.NDArray[np.uint8], pos: npt.NDArray[np.int64], at: int) -> None:
        """Decode the fields at `pos` to the values from number `at` on, and move `pos` behind them."""
        if self._nulls.size:
            self._nulls = _grown(self._nulls, at, at + pos.size, np.zeros)
        outcome = self._decode(page, pos, at)
        if outcome < 0:
            raise _refusal(self._column, next(split_fields(page[pos[-1 - outcome] :].data)))
        self._null_count += outcome

    def take(self, rows: int) -> pa.Array[Any]:
        """The first `rows` values as an Arrow array that owns the buffers, which are replaced by new ones."""
        validity = None
        if self._null_count:
            validity = pa.py_buffer(np.packbits(self._nulls[:rows] == 0, bitorder="little").data)
        arrow_type = self._column.field.type
        storage_type = _storage_type(arrow_type)
        array = pa.Array.from_buffers(storage_type, rows, [validity, *self._take_buffers(rows)], self._null_count)
        self._null_count = 0
        self._nulls = np.zeros_like(self._nulls)
        return array if storage_type == arrow_type else pa.ExtensionArray.from_storage(arrow_type, array)

    @abstractmethod
    def _decode(self, page: npt.NDArray[np.uint8], pos: npt.NDArray[np.int64], at: int) -> int:
        """Make room and call the kernel; gives what the kernel returns."""

    @abstractmethod
    def _take_buffers(self, rows: int) -> list[pa.Buffer]:
        """Arrow's buffers of `rows` values, the validity left out; new ones take their place."""


@dataclass(frozen=True)
class _Layout:
    """How values of one width are decoded.

    Attributes:
        kernel: takes page, pos, values, nulls and `target`.
        item: what values are made of.
        items: how many of them a value has.
        target: what else the kernel must know.
    """

    kernel: Callable[..., int]
    item: type[np.generic]
    items: int = 1
    target: tuple[object, ...] = ()


class _FixedBuffers(ColumnBuffers):
    """Values that all have the same width."""

    def __init__(self, column: WireColumn, layout: _Layout) -> None:
        super().__init__(column)
        self._layout = layout
        self._room = _FIRST_ROWS * layout.items
        self._values: npt.NDArray[Any] | None = None

    def _decode(self, page: npt.NDArray[np.uint8], pos: npt.NDArray[np.int64], at: int) -> int:
        layout = self._layout
        begin, end = at * layout.items, (at + pos.size) * layout.items
        values = _empty(self._room, layout.item) if self._values is None else self._values
        self._values = _grown(values, begin, end)
        nulls = self._nulls[at : at + pos.size]
        return layout.kernel(page, pos, self._values[begin:end], nulls, *layout.target)

    def _take_buffers(self, rows: int) -> list[pa.Buffer]:
        assert self._values is not None
        values = self._values[: rows * self._layout.items]
        self._values, self._room = None, _with_slack(values.size)
        if self._column.form is Form.BOOL:
            values = np.packbits(values, bitorder="little")
        return [pa.py_buffer(values.data)]


class _BytesBuffers(ColumnBuffers):
    """Values of any length: offsets, and the bytes end to end."""

    def __init__(self, column: WireColumn) -> None:
        super().__init__(column)
        self._is_text = pa.types.is_string(_storage_type(column.field.type))
        self._prefix = 1 if column.form is Form.JSONB else 0
        self._rooms = (_FIRST_ROWS, 16 * _FIRST_ROWS)
        self._offsets: npt.NDArray[Any] | None = None
        self._data = _empty(0, np.uint8)

    def _begun(self) -> npt.NDArray[Any]:
        """The batch's offsets; made, with the data's buffer, for its first values."""
        if self._offsets is None:
            offsets, data = self._rooms
            self._offsets = _empty(offsets, np.int32)
            self._offsets[0] = 0
            self._data = _empty(data, np.uint8)
        return self._offsets

    def _decode(self, page: npt.NDArray[np.uint8], pos: npt.NDArray[np.int64], at: int) -> int:
        end = at + pos.size
        self._offsets = _grown(self._begun(), at + 1, end + 1)
        offsets = self._offsets[at : end + 1]
        outcome = kernels.measure_bytes(page, pos, offsets, self._nulls[at:end], self._prefix)
        if outcome >= 0:
            self._data = _grown(self._data, int(offsets[0]), int(offsets[-1]))
            kernels.copy_bytes(page, pos, offsets, self._data, self._prefix)
        return outcome

    def _take_buffers(self, rows: int) -> list[pa.Buffer]:
        assert self._offsets is not None
        offsets = self._offsets[: rows + 1]
        data = self._data[: offsets[-1]]
        buffers = [pa.py_buffer(offsets.data), pa.py_buffer(data.data)]
        self._rooms = (_with_slack(offsets.size), _with_slack(data.size))
        self._offsets, self._data = None, _empty(0, np.uint8)
        # "char" and databases without an encoding may hold any byte. ASCII, told at next to no cost, is UTF-8.
        if self._is_text and data.max(initial=0) >= 0x80:
            try:
                pa.Array.from_buffers(pa.string(), rows, [None, *buffers]).validate(full=True)
            except pa.ArrowInvalid:
                raise _unsupported(self._column, "text that is not valid UTF-8") from None
        return buffers


_STORAGE: dict[Form, list[pa.DataType]] = {
    Form.BOOL: [pa.bool_()],
    Form.INT2: [pa.int16()],
    Form.INT4: [pa.int32()],
    Form.INT8: [pa.int64()],
    Form.FLOAT4: [pa.float32()],
    Form.FLOAT8: [pa.float64()],
    Form.DATE: [pa.date32()],
    Form.UUID: [pa.binary(16)],
    Form.BYTES: [pa.string(), pa.binary()],
    Form.JSONB: [pa.string()],
}
"""The Arrow storage types that a form gives, where they have no parameters."""


def _gives(form: Form, storage: pa.DataType) -> bool:
    if form is Form.NUMERIC:
        return isinstance(storage, _DECIMALS)
    if form is Form.TIMESTAMP:
        return isinstance(storage, pa.TimestampType) and storage.unit == "us"
    return storage in _STORAGE[form]


def _epoch(shift: int, bits: int) -> tuple[tuple[int, int, int]]:
    """What `decode_moment` must know; the least and the greatest number of `bits` are the infinities."""
    return ((shift, 1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1 - shift),)


_LAYOUTS = {
    Form.BOOL: _Layout(kernels.decode_bool, np.uint8),
    Form.INT2: _Layout(kernels.decode_number, np.int16),
    Form.INT4: _Layout(kernels.decode_number, np.int32),
    Form.INT8: _Layout(kernels.decode_number, np.int64),
    Form.FLOAT4: _Layout(kernels.decode_number, np.int32),
    Form.FLOAT8: _Layout(kernels.decode_number, np.int64),
    Form.DATE: _Layout(kernels.decode_moment, np.int32, target=_epoch(_EPOCH_DAYS, 32)),
    Form.TIMESTAMP: _Layout(kernels.decode_moment, np.int64, target=_epoch(_EPOCH_MICROSECONDS, 64)),
    Form.UUID: _Layout(kernels.decode_uuid, np.uint8, items=16),
}


def _numeric_layout(decimal: _Decimal) -> _Layout:
    limbs = decimal.byte_width // 4
    bound = 10**decimal.precision
    limit = np.frombuffer(bound.to_bytes(decimal.byte_width, "little"), "<u4").astype(np.uint64)
    target = (decimal.scale, min(bound, 2**63 - 1), limit)
    return _Layout(kernels.decode_numeric, np.uint64, items=limbs // 2, target=(target,))


def column_buffers(column: WireColumn) -> ColumnBuffers:
    """Empty buffers for `column`; ValueError where its form does not give its Arrow type."""
    storage = _storage_type(column.field.type)
    if not _gives(column.form, storage):
        raise ValueError(f"wire form {column.form.value} does not give {column.field.type}")
    if isinstance(storage, _DECIMALS):
        return _FixedBuffers(column, _numeric_layout(storage))
    if column.form in _LAYOUTS:
        return _FixedBuffers(column, _LAYOUTS[column.form])
    return _BytesBuffers(column)


def _storage_type(arrow_type: pa.DataType) -> pa.DataType:
    return arrow_type.storage_type if isinstance(arrow_type, pa.BaseExtensionType) else arrow_type


def _empty(size: int, item: npt.DTypeLike) -> npt.NDArray[Any]:
    """An array from the system's allocator through Arrow, which unlike numpy's does not clear it first.

    Arrow's default pool keeps what batches give back: with several workers that doubles the memory held.
    """
    memory: Any = pa.allocate_buffer(size * np.dtype(item).itemsize, memory_pool=pa.system_memory_pool())
    return np.frombuffer(memory, item)


def _with_slack(items: int) -> int:
    """Room for a batch that is much like the one that took `items`."""
    return items + items // 8 + 1


def _grown(
    buffer: npt.NDArray[Any], used: int, needed: int, allocate: Callable[..., npt.NDArray[Any]] = _empty
) -> npt.NDArray[Any]:
    """`buffer`, or where it is shorter than `needed` a copy of its first `used` items in one that is not."""
    if needed <= buffer.size:
        return buffer
    larger = allocate(max(needed, 2 * buffer.size), buffer.dtype)
    larger[:used] = buffer[:used]
    return larger


def split_fields(row: memoryview) -> Iterator[memoryview | None]:
    """The fields that stand one after the other in `row`, None for NULL."""
    at = 0
    while at < len(row):
        length = int.from_bytes(row[at : at + 4], "big", signed=True)
        at += 4
        yield None if length == kernels.NULL else row[at : at + length]
        at += max(length, 0)


def malformed(what: str) -> SourceError:
    return SourceError(
        "RIVET_PROTOCOL_ERROR",
        f"The rows that the server sent cannot be read: {what}.",
        "Treat it as a broken connection: the window is read again on a new one.",
        retryable=True,
    )


def _unsupported(column: WireColumn, what: str) -> SourceError:
    field = column.field
    return SourceError(
        "RIVET_VALUE_UNSUPPORTED",
        f"Column {field.name} holds {what}, which {field.type} cannot hold exactly.",
        "Correct the value, or export a view that casts, replaces or leaves it out.",
    )


def _refusal(column: WireColumn, value: memoryview | None) -> SourceError:
    """Why a kernel refused `value`."""
    name = column.field.name
    if value is None:
        return SourceError(
            "RIVET_VALUE_UNSUPPORTED",
            f"Column {name} holds NULL, but the catalog said that it never does.",
            "Plan the export again if the column became nullable.",
        )
    if column.form is Form.BYTES or (column.form is Form.JSONB and bytes(value[:1]) == b"\x01"):
        return SourceError(
            "RIVET_VALUE_TOO_LARGE",
            f"Column {name} holds more than 2 GiB in one batch, which {column.field.type} cannot address.",
            "Use smaller batches, or export a view that leaves such values out.",
        )
    reason = _reason(column, bytes(value))
    if reason is None:
        return malformed(f"column {name} has {len(value)} bytes that are no {column.form.value}")
    return _unsupported(column, reason)


def _reason(column: WireColumn, value: bytes) -> str | None:
    """What is special about a value that Arrow cannot hold; None for bytes that are no value of the form."""
    if len(value) == {Form.DATE: 4, Form.TIMESTAMP: 8}.get(column.form):
        return _moment_reason(column.form.value, value)
    if isinstance(column.field.type, _DECIMALS):
        return _numeric_reason(value, column.field.type)
    return None


def _moment_reason(kind: str, value: bytes) -> str:
    limit = 2 ** (8 * len(value) - 1)
    count = int.from_bytes(value, "big", signed=True)
    infinity = {limit - 1: "infinity", -limit: "-infinity"}.get(count)
    return f"the {kind} '{infinity}'" if infinity else f"a {kind} too late to be counted from 1970 on"


_NUMERIC_HEADER = struct.Struct(">HhHH")
_NUMERIC_SPECIAL = {0xC000: "NaN", 0xD000: "Infinity", 0xF000: "-Infinity"}


def _numeric_reason(value: bytes, decimal: _Decimal) -> str | None:
    if len(value) < _NUMERIC_HEADER.size:
        return None
    count, weight, sign, _ = _NUMERIC_HEADER.unpack_from(value)
    if sign in _NUMERIC_SPECIAL:
        return f"the numeric '{_NUMERIC_SPECIAL[sign]}'"
    if len(value) != _NUMERIC_HEADER.size + 2 * count or sign not in (0, kernels.NUMERIC_NEGATIVE):
        return None
    digits = struct.unpack_from(f">{count}H", value, _NUMERIC_HEADER.size)
    if max(digits, default=0) > 9999:
        return None
    text = "".join(f"{digit:04d}" for digit in digits).rstrip("0")
    places = len(text) - 4 * (weight + 1)
    if places > decimal.scale:
        return f"a numeric with {places} digits after the point"
    return f"a numeric of more than {decimal.precision - decimal.scale} digits before the point"
