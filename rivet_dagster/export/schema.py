"""Canonical names of Arrow types. Our own names: a library's may change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rivet_dagster.errors import ConfigError
from rivet_dagster.export.documents import PlannedColumn
from rivet_dagster.sources.base import Table

if TYPE_CHECKING:
    import pyarrow as pa

_NAMES = {
    "bool": "bool",
    "int8": "int8",
    "int16": "int16",
    "int32": "int32",
    "int64": "int64",
    "uint8": "uint8",
    "uint16": "uint16",
    "uint32": "uint32",
    "uint64": "uint64",
    "float": "float32",
    "double": "float64",
    "date32[day]": "date",
    "string": "text",
    "binary": "binary",
    "timestamp[us]": "timestamp(us)",
    "timestamp[us, tz=UTC]": "timestamp(us, UTC)",
}
_EXTENSIONS = {"arrow.uuid": "uuid", "arrow.json": "json"}


def type_name(arrow: pa.DataType) -> str:
    """Canonical name of an Arrow type, as manifests spell it.

    Raises:
        ConfigError: RIVET_TYPE_UNNAMED for a type that no engine of ours gives.
    """
    import pyarrow.types as pt  # noqa: PLC0415 (manifests are read without pyarrow)

    if pt.is_decimal(arrow):
        return f"decimal({arrow.precision}, {arrow.scale})"
    name = _EXTENSIONS.get(getattr(arrow, "extension_name", "")) or _NAMES.get(str(arrow))
    if name is None:
        raise ConfigError("RIVET_TYPE_UNNAMED", f"Arrow type {arrow} has no name in manifests.", "Cast the column.")
    return name


def planned_columns(table: Table, schema: pa.Schema) -> tuple[PlannedColumn, ...]:
    """The columns of `table` with the types that they have in the parts."""
    return tuple(
        PlannedColumn(
            name=column.name,
            native_type=column.native_type,
            type=type_name(field.type),
            nullable=column.nullable,
        )
        for column, field in zip(table.columns, schema, strict=True)
    )
