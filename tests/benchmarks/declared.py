"""The Arrow types that a table's declaration asks for, worked out apart from the code that is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pymysql

_POSTGRESQL_TYPES: dict[str, pa.DataType] = {
    "bool": pa.bool_(),
    "int2": pa.int16(),
    "int4": pa.int32(),
    "int8": pa.int64(),
    "float4": pa.float32(),
    "float8": pa.float64(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", "UTC"),
    "uuid": pa.binary(16),
    "bpchar": pa.string(),
    "varchar": pa.string(),
    "text": pa.string(),
    "jsonb": pa.string(),
    "bytea": pa.binary(),
}

_MARIADB_TYPES: dict[str, pa.DataType] = {
    "tinyint": pa.int8(),
    "smallint": pa.int16(),
    "int": pa.int32(),
    "bigint": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "date": pa.date32(),
    "datetime": pa.timestamp("us"),
    "timestamp": pa.timestamp("us", "UTC"),
    "char": pa.string(),
    "varchar": pa.string(),
    "text": pa.string(),
    "longtext": pa.string(),
    "binary": pa.binary(),
    "varbinary": pa.binary(),
    "blob": pa.binary(),
}

_MARIADB_COLUMNS = """
SELECT column_name, data_type, numeric_precision, numeric_scale FROM information_schema.columns
 WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position
"""

# Other names of the zone.
_UTC = ("+00:00", "Etc/UTC")


def declared_schema(connection: psycopg.Connection[Any], relation: str) -> pa.Schema:
    """Names and Arrow storage types of the columns of a table in PostgreSQL."""
    cursor = connection.execute(f"SELECT * FROM {relation} LIMIT 0")
    return pa.schema([(column.name, _arrow_type(column)) for column in cursor.description or ()])


def _arrow_type(column: psycopg.Column) -> pa.DataType:
    if column.type_display.startswith("numeric"):
        assert column.precision is not None
        return pa.decimal128(column.precision, column.scale or 0)
    info = psycopg.adapters.types[column.type_code]
    return _POSTGRESQL_TYPES[info.name]


def mariadb_schema(connection: pymysql.Connection[Any], database: str, table: str) -> pa.Schema:
    """Names and Arrow storage types of the columns of a table in MariaDB."""
    with connection.cursor() as cursor:
        cursor.execute(_MARIADB_COLUMNS, [database, table])
        return pa.schema(
            [
                (name, pa.decimal128(precision, scale) if kind == "decimal" else _MARIADB_TYPES[kind])
                for name, kind, precision, scale in cursor.fetchall()
            ]
        )


def types_lost(declared: pa.Schema, file: Path) -> dict[str, str]:
    """What a Parquet file has instead of the types that the table declares, as `declared as found`, by column."""
    found = pq.read_schema(file)
    lost = {}
    for field in declared:
        known = found.get_field_index(field.name) >= 0
        arrow_type = _storage(found.field(field.name).type) if known else "nothing"
        if arrow_type != field.type:
            lost[field.name] = f"{field.type} as {arrow_type}"
    return lost


def _storage(arrow_type: pa.DataType) -> pa.DataType:
    """The type without what makes no difference to the values: extension, how offsets are kept, the name of UTC."""
    if isinstance(arrow_type, pa.BaseExtensionType):
        return _storage(arrow_type.storage_type)
    if pa.types.is_large_string(arrow_type) or pa.types.is_string_view(arrow_type):
        return pa.string()
    if pa.types.is_large_binary(arrow_type) or pa.types.is_binary_view(arrow_type):
        return pa.binary()
    if isinstance(arrow_type, pa.TimestampType) and arrow_type.tz in _UTC:
        return pa.timestamp(arrow_type.unit, "UTC")
    return arrow_type
