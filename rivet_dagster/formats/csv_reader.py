"""CSV parts back to Arrow columns: the types come from the caller, since CSV keeps none.

Every value is read as its text first and converted by whole columns. So NULL, which is nothing, and `""` stay apart,
and years, decimals and floats come back as they were, whatever Arrow's own reader of CSV takes. No kernels: reading
an export does not import numba.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json

from rivet_dagster.errors import IntegrityError

_READ_BYTES = 4 << 20
_QUOTE, _NEWLINE = 0x22, 0x0A
_DAY = 86_400_000_000
_INTERVAL = r'\{"months": (?P<months>-?\d+), "days": (?P<days>-?\d+), "microseconds": "(?P<microseconds>-?\d+)"\}'
_NO_INTERVAL = '{"months": 0, "days": 0, "microseconds": "0"}'
# Written without quotes inside of lists; the writer has the same set.
_JSON_AS_IS = {pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16(), pa.uint32()}

# What each byte is worth as a hexadecimal digit.
_NIBBLES = np.full(256, 0xFF, np.uint8)
_NIBBLES[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)

_Numbers = npt.NDArray[np.int64]
_Array: TypeAlias = "pa.Array[Any]"
# pyarrow's stubs do not know every option of these.
_compute: Any = pc
_csv: Any = pyarrow.csv
_json: Any = pyarrow.json
_list_from_arrays: Any = pa.ListArray.from_arrays


def read_csv(stream: pa.NativeFile, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows of a part, some megabytes of text at a time.

    Args:
        stream: the part's bytes, decompressed.
        schema: the columns; their types are those that exports have.

    Raises:
        IntegrityError: RIVET_PART_DAMAGED for a part that does not have these columns, or ends within a row.
        pyarrow.ArrowInvalid: a value is none of its column's type.
    """
    header = True
    for block in _whole_records(stream):
        texts = _texts(block, len(schema))
        if header and [column[0].as_py() for column in texts] != schema.names:
            raise _damaged("its header does not name the columns of the seal")
        rows = [column.slice(1) for column in texts] if header else texts
        header = False
        if len(rows[0]):
            columns = [_values(text, field.type) for text, field in zip(rows, schema, strict=True)]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)
    if header:
        raise _damaged("it has no header")


def _damaged(why: str) -> IntegrityError:
    return IntegrityError(
        "RIVET_PART_DAMAGED",
        f"A CSV part cannot be read: {why}.",
        "Validate the export, then export the window again.",
    )


def _whole_records(stream: pa.NativeFile) -> Iterator[bytes]:
    """The part in blocks that end with a line end outside of quotes."""
    inside = np.uint8(0)
    pending: list[bytes] = []
    while block := stream.read(_READ_BYTES):
        data = np.frombuffer(block, np.uint8)
        within = np.bitwise_xor.accumulate(np.concatenate([[inside], (data == _QUOTE).view(np.uint8)]))[1:]
        inside = within[-1]
        ends = np.flatnonzero((data == _NEWLINE) & (within == 0))
        end = int(ends[-1]) + 1 if ends.size else 0
        if end:
            yield b"".join([*pending, block[:end]])
            pending = []
        pending.append(block[end:])
    if any(pending):
        raise _damaged("it ends within a row")


def _texts(block: bytes, columns: int) -> list[_Array]:
    """The fields of whole records, column by column."""
    names = [str(number) for number in range(columns)]
    try:
        table = _csv.read_csv(
            pa.BufferReader(block),
            _csv.ReadOptions(use_threads=False, column_names=names, block_size=len(block) + 1),
            # A NULL in the only column of a table is an empty line.
            _csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
            _csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as exc:
        raise _damaged(str(exc).rstrip(".")) from None
    # The block is one block to the reader, too, so each column is one chunk.
    return [column.chunk(0) for column in table.columns]


def _values(text: _Array, kind: pa.DataType) -> _Array:
    """Texts as a CSV part shows them, to values of a type."""
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, _values(text, kind.storage_type))
    for covers, convert in _CONVERTERS:
        if covers(kind):
            return convert(text, kind)
    return text.cast(kind)  # booleans, numbers, texts


def _with_nulls(values: _Array, text: _Array) -> _Array:
    """NULL where the text is NULL."""
    if not text.null_count:
        return values
    found: _Array = _compute.if_else(text.is_valid(), values, pa.scalar(None, values.type))
    return found


def _from_numbers(numbers: _Numbers, text: _Array, kind: Any) -> _Array:
    storage = numbers.astype(np.int32 if kind.bit_width == 32 else np.int64)
    return _with_nulls(pa.array(storage).view(kind), text)


def _number(text: _Array, start: int, stop: int | None = None) -> _Numbers:
    """The whole numbers between two places, counted from the end of the texts if negative; no text is NULL."""
    digits = _compute.utf8_ltrim(_compute.utf8_slice_codeunits(text, start, stop), characters="+")
    found: _Numbers = digits.cast(pa.int64()).to_numpy(zero_copy_only=False)
    return found


def _days(text: _Array) -> _Numbers:
    """Days since 1970-01-01 of ISO dates, whose years may have any number of digits and a sign."""
    year, month, day = _number(text, 0, -6), _number(text, -5, -3), _number(text, -2)
    # Years begin in March, so that the day which leap years have comes last; the calendar repeats every 400 years.
    year = year - (month <= 2)
    cycle = year // 400
    of_cycle = year - cycle * 400
    of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    days: _Numbers = cycle * 146_097 + of_cycle * 365 + of_cycle // 4 - of_cycle // 100 + of_year - 719_468
    return days


def _microseconds(text: _Array) -> _Numbers:
    """Microseconds since midnight of the clock that ends the texts."""
    hours, minutes, seconds = _number(text, -15, -13), _number(text, -12, -10), _number(text, -9, -7)
    return ((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + _number(text, -6)


def _dates(text: _Array, kind: pa.DataType) -> _Array:
    return _from_numbers(_days(_compute.fill_null(text, "1970-01-01")), text, kind)


def _times(text: _Array, kind: pa.DataType) -> _Array:
    return _from_numbers(_microseconds(_compute.fill_null(text, "00:00:00.000000")), text, kind)


def _timestamps(text: _Array, kind: pa.DataType) -> _Array:
    shown = _compute.utf8_rtrim(_compute.fill_null(text, "1970-01-01 00:00:00.000000"), characters="Z")
    # The first day that there is begins before the first microsecond: the sum comes back into range.
    with np.errstate(over="ignore"):
        moments = _days(_compute.utf8_slice_codeunits(shown, 0, -16)) * _DAY + _microseconds(shown)
    return _from_numbers(moments, text, kind)


def _unhex(text: _Array, digits: int | None = None) -> tuple[pa.Buffer, pa.Buffer]:
    """Bytes of texts of hexadecimal digits, so many each if that is given: their offsets, and all bytes together.

    None of the texts is NULL.
    """
    buffers: Any = text.buffers()
    offsets = np.frombuffer(buffers[1], np.int32, len(text) + 1, text.offset * 4)
    nibbles = _NIBBLES[np.frombuffer(buffers[2] or b"", np.uint8)[offsets[0] : offsets[-1]]]
    lengths = np.diff(offsets)
    if (lengths % 2).any() or (nibbles > 0x0F).any() or (digits is not None and (lengths != digits).any()):
        raise pa.ArrowInvalid("bytes are not written as hexadecimal digits")
    buffer: Any = pa.py_buffer
    return buffer((offsets - offsets[0]) // 2), buffer(nibbles[::2] << 4 | nibbles[1::2])


def _binaries(text: _Array, kind: pa.DataType) -> _Array:
    offsets, data = _unhex(_compute.fill_null(text, ""))
    made = pa.Array.from_buffers(kind, len(text), [None, offsets, data])
    return _with_nulls(made, text)


def _uuids(text: _Array, kind: pa.DataType) -> _Array:
    _, data = _unhex(_compute.replace_substring(_compute.fill_null(text, "0" * 32), "-", ""), 32)
    return _with_nulls(pa.Array.from_buffers(kind, len(text), [None, data]), text)


def _intervals(text: _Array, kind: pa.DataType) -> _Array:
    found = _compute.extract_regex(_compute.fill_null(text, _NO_INTERVAL), _INTERVAL)
    if found.null_count:
        raise pa.ArrowInvalid("an interval is not the JSON object that parts have")
    return _interval(found, text, kind)


def _interval(parts: _Array, text: _Array, kind: Any) -> _Array:
    assert isinstance(parts, pa.StructArray)
    columns = [part.cast(field.type) for part, field in zip(parts.flatten(), kind, strict=True)]
    made: _Array = pa.StructArray.from_arrays(columns, fields=list(kind), mask=_compute.is_null(text))
    return made


def _lists(text: _Array, kind: Any) -> _Array:
    inner = kind.value_type
    parsed = _float_lists(text) if pa.types.is_floating(inner) else _json_lists(text, inner)
    offsets = np.concatenate([[0], np.cumsum(_compute.fill_null(_compute.list_value_length(parsed), 0).to_numpy())])
    elements = parsed.flatten()
    if pa.types.is_struct(inner):
        elements = _json_intervals(elements, inner)
    elif elements.type != inner:
        elements = _values(elements, inner)
    found: _Array = _list_from_arrays(pa.array(offsets, pa.int32()), elements, type=kind, mask=_compute.is_null(text))
    return found


def _json_lists(text: _Array, inner: pa.DataType) -> pa.ListArray[Any]:
    """JSON arrays to lists of what JSON has: strings, but for small numbers, booleans and the objects of intervals."""
    kind = inner if inner in _JSON_AS_IS else pa.string()
    if pa.types.is_struct(inner):
        kind = pa.struct([("months", pa.int32()), ("days", pa.int32()), ("microseconds", pa.string())])
    lines = _compute.binary_join_element_wise('{"v":', _compute.fill_null(text, "null"), "}\n", "")
    buffers: Any = lines.buffers()
    found = _json.read_json(
        pa.BufferReader(buffers[2]),
        _json.ReadOptions(use_threads=False, block_size=buffers[2].size + 1),
        _json.ParseOptions(explicit_schema=pa.schema({"v": pa.list_(kind)}), unexpected_field_behavior="error"),
    ).column(0)
    lists: pa.ListArray[Any] = found.chunk(0)
    return lists


def _json_intervals(objects: _Array, kind: pa.DataType) -> _Array:
    assert isinstance(objects, pa.StructArray)
    parts = [_compute.fill_null(part, pa.scalar(0).cast(part.type)) for part in objects.flatten()]
    return _interval(pa.StructArray.from_arrays(parts, names=["months", "days", "microseconds"]), objects, kind)


def _float_lists(text: _Array) -> pa.ListArray[Any]:
    """JSON arrays of numbers and of strings that name what JSON's numbers lack, to lists of texts."""
    inside = _compute.utf8_slice_codeunits(_compute.replace_substring(text, '"', ""), 1, -1)
    # Splitting gives no list without elements.
    split = _compute.split_pattern(inside, ", ")
    lengths = _compute.if_else(_compute.equal(inside, ""), 0, _compute.list_value_length(split))
    elements = split.flatten()
    elements = elements.filter(_compute.not_equal(elements, ""))
    elements = _compute.if_else(_compute.equal(elements, "null"), pa.scalar(None, pa.string()), elements)
    offsets = np.concatenate([[0], np.cumsum(_compute.fill_null(lengths, 0).to_numpy())])
    found: pa.ListArray[Any] = _list_from_arrays(pa.array(offsets, pa.int32()), elements, mask=_compute.is_null(text))
    return found


_Covers = Callable[[pa.DataType], bool]
_CONVERTERS: tuple[tuple[_Covers, Callable[[_Array, Any], _Array]], ...] = (
    (pa.types.is_date32, _dates),
    (pa.types.is_time64, _times),
    (pa.types.is_timestamp, _timestamps),
    (pa.types.is_fixed_size_binary, _uuids),
    (pa.types.is_binary, _binaries),
    (pa.types.is_struct, _intervals),
    (pa.types.is_list, _lists),
)
