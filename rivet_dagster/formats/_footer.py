"""Rewriting the name of the writer in a Parquet file's footer.

The footer is one Thrift struct in the compact protocol, `FileMetaData`. Only its own fields are looked at; whatever is
inside them is skipped by the protocol's general rules, so that fields which are unknown here stay as they are.

    file    "PAR1"  row groups, indexes  footer  length of the footer (4 bytes, little-endian)  "PAR1"
    struct  (field header, value)*  0
    field   (step from the last field's id << 4 | kind), or (kind, id as zigzag varint) where the step is not 1 to 15
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

_MAGIC, _ENCRYPTED_MAGIC = b"PAR1", b"PARE"
_TAIL_BYTES = 8
_CREATED_BY, _ENCRYPTION_ALGORITHM = 6, 8

_TRUE, _FALSE, _BYTE, _INT16, _INT32, _INT64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT, _UUID = range(1, 14)
# Booleans stand in a field's header, but take a byte each in lists and maps.
_WIDTHS = {_TRUE: 1, _FALSE: 1, _BYTE: 1, _DOUBLE: 8, _UUID: 16}
_INTEGERS = {_INT16, _INT32, _INT64}
_MAX_DEPTH = 32
_MAX_VARINT_BITS = 63


class FooterError(ValueError):
    """The file does not end with a footer that can be understood."""


def set_created_by(path: Path, created_by: str) -> bool:
    """Change `created_by` in the footer of a complete Parquet file, in place.

    Args:
        path: local file; it gets shorter or longer by the difference of the two names.
        created_by: the new name, `application version x.y.z (build text)`.

    Returns:
        False if the file was left alone, because its footer has no such field, is encrypted or signed.

    Raises:
        FooterError: this is no whole Parquet file.
        OSError: the file cannot be read or written.
    """
    with path.open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(max(size - _TAIL_BYTES, 0))
        tail = file.read(_TAIL_BYTES)
        if tail[4:] == _ENCRYPTED_MAGIC:
            return False
        length = int.from_bytes(tail[:4], "little")
        begin = size - _TAIL_BYTES - length
        if tail[4:] != _MAGIC or begin < len(_MAGIC):
            raise FooterError(f"{path.name} does not end like a Parquet file")
        file.seek(begin)
        footer = with_created_by(file.read(length), created_by.encode())
        if footer is None:
            return False
        file.seek(begin)
        file.write(footer + struct.pack("<I", len(footer)) + _MAGIC)
        file.truncate()
    return True


def with_created_by(footer: bytes, created_by: bytes) -> bytes | None:
    """The footer with another `created_by`; None where it has none, or is signed, so that a change would break it.

    Raises:
        FooterError: these bytes are no Thrift struct.
    """
    try:
        found, end = None, 0
        for field, kind, begin, end in _fields(footer):
            if field == _CREATED_BY and kind == _BINARY:
                found = slice(begin, end)
            elif field == _ENCRYPTION_ALGORITHM:
                return None
    except IndexError:
        raise FooterError("the footer is cut off") from None
    if end + 1 != len(footer):
        raise FooterError("the footer has a wrong length")
    if found is None:
        return None
    return footer[: found.start] + _to_varint(len(created_by)) + created_by + footer[found.stop :]


def _fields(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Id, kind, begin and end of every value in the struct that begins at 0."""
    pos, field = 0, 0
    while header := data[pos]:
        kind, step = header & 15, header >> 4
        pos += 1
        if step:
            field += step
        else:
            number, pos = _from_varint(data, pos)
            field = number >> 1 ^ -(number & 1)
        end = pos if kind in {_TRUE, _FALSE} else _skip(data, pos, kind, 1)
        yield field, kind, pos, end
        pos = end


def _skip(data: bytes, pos: int, kind: int, depth: int) -> int:
    """The position behind the value of this kind that begins at `pos`."""
    if kind in _WIDTHS:
        return pos + _WIDTHS[kind]
    if kind in _INTEGERS:
        return _skip_integer(data, pos)
    if kind == _BINARY:
        length, pos = _from_varint(data, pos)
        return pos + length
    skip = _NESTED.get(kind)
    if skip is None or depth > _MAX_DEPTH:
        raise FooterError(f"the footer holds a value of kind {kind} at a depth of {depth}")
    return skip(data, pos, depth)


def _skip_integer(data: bytes, pos: int) -> int:
    while data[pos] > 127:
        pos += 1
    return pos + 1


def _skip_list(data: bytes, pos: int, depth: int) -> int:
    header = data[pos]
    pos += 1
    count, kind = header >> 4, header & 15
    if count == 15:
        count, pos = _from_varint(data, pos)
    return _skip_values(data, pos, (kind,), count, depth)


def _skip_map(data: bytes, pos: int, depth: int) -> int:
    count, pos = _from_varint(data, pos)
    if not count:
        return pos
    kinds = data[pos]
    return _skip_values(data, pos + 1, (kinds >> 4, kinds & 15), count, depth)


def _skip_values(data: bytes, pos: int, kinds: tuple[int, ...], count: int, depth: int) -> int:
    if all(kind in _WIDTHS for kind in kinds):
        return pos + count * sum(_WIDTHS[kind] for kind in kinds)
    for _ in range(count):
        for kind in kinds:
            pos = _skip(data, pos, kind, depth + 1)
    return pos


def _skip_struct(data: bytes, pos: int, depth: int) -> int:
    # Nearly all of a footer is skipped here: integers and booleans without a call.
    while header := data[pos]:
        pos += 1
        if header < 16:
            pos = _skip_integer(data, pos)
        kind = header & 15
        if kind in _INTEGERS:
            while data[pos] > 127:
                pos += 1
            pos += 1
        elif kind > _FALSE:
            pos = _skip(data, pos, kind, depth + 1)
    return pos + 1


_NESTED: dict[int, Callable[[bytes, int, int], int]] = {
    _LIST: _skip_list,
    _SET: _skip_list,
    _MAP: _skip_map,
    _STRUCT: _skip_struct,
}


def _from_varint(data: bytes, pos: int) -> tuple[int, int]:
    """The number at `pos`, and the position behind it."""
    value, shift = 0, 0
    while True:
        byte = data[pos]
        pos += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, pos
        shift += 7
        if shift > _MAX_VARINT_BITS:
            raise FooterError("the footer holds a number of more than 64 bits")


def _to_varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
