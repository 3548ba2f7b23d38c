"""Columns as plans and manifests spell them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rivet_dagster.export.documents import PlannedColumn
from rivet_dagster.sources.base import Table
from rivet_dagster.sources.typenames import type_name

if TYPE_CHECKING:
    import pyarrow as pa


def planned_columns(table: Table, schema: pa.Schema) -> tuple[PlannedColumn, ...]:
    """The columns of `table` with the types that they have in the parts."""
    return tuple(
        PlannedColumn(
            name=column.name,
            native_type=column.native_type,
            type=type_name(field.type),
            nullable=field.nullable,
        )
        for column, field in zip(table.columns, schema, strict=True)
    )
