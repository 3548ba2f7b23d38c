"""Canonical names of the Arrow types that exports have. Our own names: a library's may change.

bool  int8 … int64  uint8 … uint64  float32  float64  decimal(P, S)  date  time(us)  timestamp(us)
timestamp(us, UTC)  interval  uuid  text  json  binary  list(T)
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

_DECIMAL = re.compile(r"decimal\((\d{1,2}), ?(\d{1,2})\)")
_LIST = re.compile(r"list\((.+)\)")
_PLAIN = {
    "bool": "bool_",
    **{name: name for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")},
    **{name: name for name in ("float32", "float64", "uuid", "binary")},
    "date": "date32",
    "text": "string",
    "json": "json_",
}
_INTERVAL_FIELDS = (("months", "int32"), ("days", "int32"), ("microseconds", "int64"))
ELEMENT = "element"
"""Name of a list's elements, which is Parquet's."""


def decimal_shape(name: str) -> tuple[int, int] | None:
    """Precision and scale of `decimal(P, S)`; None for any other name, and for a decimal that cannot be."""
    match = _DECIMAL.fullmatch(name)
    if match is None:
        return None
    precision, scale = int(match[1]), int(match[2])
    return (precision, scale) if 1 <= precision <= 76 and scale <= precision else None


def element_name(name: str) -> str | None:
    """`T` of `list(T)`; None for any other name."""
    match = _LIST.fullmatch(name)
    return match[1] if match else None


def arrow_type(name: str) -> pa.DataType:
    """The Arrow type with a canonical name; ValueError for what is none."""
    import pyarrow as pa  # noqa: PLC0415 (definitions load without it)

    if name in _PLAIN:
        made: pa.DataType = getattr(pa, _PLAIN[name])()
        return made
    if name == "time(us)":
        return pa.time64("us")
    if name in ("timestamp(us)", "timestamp(us, UTC)"):
        return pa.timestamp("us", "UTC" if name.endswith("UTC)") else None)
    if name == "interval":
        # Arrow's own interval counts nanoseconds, too few for a database's, and Parquet has no type for it.
        return pa.struct([pa.field(part, getattr(pa, kind)(), nullable=False) for part, kind in _INTERVAL_FIELDS])
    shape = decimal_shape(name)
    if shape is not None:
        return pa.decimal128(*shape) if shape[0] <= 38 else pa.decimal256(*shape)
    inner = element_name(name)
    if inner is None:
        raise ValueError(f"no type is called {name}")
    return pa.list_(pa.field(ELEMENT, arrow_type(inner)))


def type_name(arrow: pa.DataType) -> str:
    """Canonical name of an Arrow type; ValueError for one that no source gives."""
    import pyarrow as pa  # noqa: PLC0415

    if isinstance(arrow, pa.Decimal128Type | pa.Decimal256Type):
        return f"decimal({arrow.precision}, {arrow.scale})"
    if isinstance(arrow, pa.ListType):
        return f"list({type_name(arrow.value_type)})"
    name = _known().get(arrow)
    if name is None:
        raise ValueError(f"Arrow type {arrow} has no name in manifests")
    return name


def _known() -> dict[Any, str]:
    names = (*_PLAIN, "time(us)", "timestamp(us)", "timestamp(us, UTC)", "interval")
    return {arrow_type(name): name for name in names}
