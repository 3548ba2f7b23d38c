"""The Parquet schema that a table must have, by the format's own rules; in the words of DuckDB's `parquet_schema`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tests.support.universe.expected import digits


class Node(NamedTuple):
    """A node of the schema.

    Attributes:
        name: its name.
        physical: type of a leaf.
        length: bytes of a value of fixed length.
        repetition: whether it must be there.
        children: nodes in it.
        logical: beginning of its logical type.
        converted: what stood for it before there were logical types.
    """

    name: str
    physical: str | None
    length: str | None
    repetition: str
    children: int | None
    logical: str | None
    converted: str | None = None


_UNIT = "unit=TimeUnit(MILLIS=<null>, MICROS=MicroSeconds(), NANOS=<null>))"
_LEAVES: dict[str, tuple[str, str | None, str | None, str | None]] = {
    "bool": ("BOOLEAN", None, None, None),
    "int8": ("INT32", None, "IntType(bitWidth=\x08, isSigned=1)", "INT_8"),
    "int16": ("INT32", None, "IntType(bitWidth=\x10, isSigned=1)", "INT_16"),
    "int32": ("INT32", None, None, None),
    "int64": ("INT64", None, None, None),
    "uint8": ("INT32", None, "IntType(bitWidth=\x08, isSigned=0)", "UINT_8"),
    "uint16": ("INT32", None, "IntType(bitWidth=\x10, isSigned=0)", "UINT_16"),
    "uint32": ("INT32", None, "IntType(bitWidth=\x20, isSigned=0)", "UINT_32"),
    "uint64": ("INT64", None, "IntType(bitWidth=\x40, isSigned=0)", "UINT_64"),
    "float32": ("FLOAT", None, None, None),
    "float64": ("DOUBLE", None, None, None),
    "date": ("INT32", None, "DateType()", "DATE"),
    "time(us)": ("INT64", None, f"TimeType(isAdjustedToUTC=0, {_UNIT}", None),
    "timestamp(us)": ("INT64", None, f"TimestampType(isAdjustedToUTC=0, {_UNIT}", "TIMESTAMP_MICROS"),
    "timestamp(us, UTC)": ("INT64", None, f"TimestampType(isAdjustedToUTC=1, {_UNIT}", "TIMESTAMP_MICROS"),
    "uuid": ("FIXED_LEN_BYTE_ARRAY", "16", "UUIDType()", None),
    "text": ("BYTE_ARRAY", None, "StringType()", "UTF8"),
    "json": ("BYTE_ARRAY", None, "JsonType()", "JSON"),
    "binary": ("BYTE_ARRAY", None, None, None),
}


def parquet_schema(names: Sequence[str], types: Sequence[str], nullable: Sequence[bool]) -> list[Node]:
    """All nodes below the root, depth first."""
    return [
        node
        for name, canonical, optional in zip(names, types, nullable, strict=True)
        for node in _nodes(name, canonical, "OPTIONAL" if optional else "REQUIRED")
    ]


def _nodes(name: str, canonical: str, repetition: str) -> Iterator[Node]:
    if canonical.startswith("list("):
        yield Node(name, None, None, repetition, 1, "ListType()", "LIST")
        yield Node("list", None, None, "REPEATED", 1, None)
        yield from _nodes("element", canonical[len("list(") : -1], "OPTIONAL")
    elif canonical == "interval":
        yield Node(name, None, None, repetition, 3, None)
        for part, physical in (("months", "INT32"), ("days", "INT32"), ("microseconds", "INT64")):
            yield Node(part, physical, None, "REQUIRED", None, None)
    elif canonical.startswith("decimal("):
        precision, scale = digits(canonical)
        physical, length = _decimal_storage(precision)
        logical = f"DecimalType(scale={scale}, precision={precision})"
        yield Node(name, physical, length, repetition, None, logical, "DECIMAL")
    else:
        physical, length, of, converted = _LEAVES[canonical]
        yield Node(name, physical, length, repetition, None, of, converted)


def _decimal_storage(precision: int) -> tuple[str, str | None]:
    """The shortest storage that Parquet has for so many digits."""
    if precision <= 18:
        return ("INT32" if precision <= 9 else "INT64"), None
    length = next(length for length in range(1, 33) if 2 ** (8 * length - 1) >= 10**precision)
    return "FIXED_LEN_BYTE_ARRAY", str(length)


def node(row: dict[str, Any]) -> Node:
    """A row of DuckDB's `parquet_schema`."""
    return Node(
        row["name"],
        row["type"],
        row["type_length"],
        row["repetition_type"],
        row["num_children"],
        row["logical_type"],
        row["converted_type"],
    )
