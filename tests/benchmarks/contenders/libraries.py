"""Libraries that read PostgreSQL, each the way its documentation would have it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.contender import (
    ROW_GROUP_BYTES,
    ROW_GROUP_ROWS,
    ZSTD_LEVEL,
    Contender,
    Facts,
    Task,
    Unavailable,
    Work,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from psycopg import Cursor


def _write(batches: Iterable[pa.RecordBatch], schema: pa.Schema, folder: Path) -> Facts:
    """Write one file; every batch becomes a row group."""
    import pyarrow.parquet as pq

    with pq.ParquetWriter(
        folder / "part.parquet",
        schema,
        compression="zstd",
        compression_level=ZSTD_LEVEL,
        store_decimal_as_integer=True,
    ) as writer:
        for batch in batches:
            writer.write_batch(batch, row_group_size=max(batch.num_rows, 1))
    return {}


def _load_connectorx(task: Task) -> Work:
    import connectorx
    import pyarrow.parquet  # noqa: F401 (belongs to what is loaded before the work)

    def work() -> Facts:
        query = f"SELECT * FROM {task.relation}"
        stream = connectorx.read_sql(task.dsn, query, return_type="arrow_stream", batch_size=ROW_GROUP_ROWS)
        return _write(stream, stream.schema, task.folder)

    return work


def _load_adbc(task: Task) -> Work:
    import pyarrow.parquet  # noqa: F401
    from adbc_driver_postgresql import StatementOptions, dbapi

    def work() -> Facts:
        with dbapi.connect(task.dsn) as connection, connection.cursor() as cursor:
            cursor.adbc_statement.set_options(**{StatementOptions.BATCH_SIZE_HINT_BYTES.value: str(ROW_GROUP_BYTES)})
            cursor.execute(f"SELECT * FROM {task.relation}")
            reader = cursor.fetch_record_batch()
            return _write(reader, reader.schema, task.folder)

    return work


def _load_duckdb(task: Task) -> Work:
    import duckdb

    connection = duckdb.connect(config={"autoinstall_known_extensions": "false"})
    try:
        connection.execute(f"LOAD '{_scanner()}'")
    except duckdb.Error as error:
        raise Unavailable(f"DuckDB {duckdb.__version__} does not load it: {str(error).splitlines()[0]}") from None

    def work() -> Facts:
        connection.execute(f"ATTACH '{task.dsn}' AS source (TYPE postgres, READ_ONLY)")
        connection.execute(
            f"COPY source.{task.relation} TO '{task.folder / 'part.parquet'}' (FORMAT parquet, COMPRESSION zstd,"
            f" COMPRESSION_LEVEL {ZSTD_LEVEL}, ROW_GROUP_SIZE {ROW_GROUP_ROWS})"
        )
        return {}

    return work


def _scanner() -> Path:
    """The extension's file, which its package carries for the one version of DuckDB that can load it."""
    from importlib.resources import files

    for folder in Path(str(files("duckdb_extension_postgres_scanner"))).glob("extensions/*"):
        return folder / "postgres_scanner.duckdb_extension"
    raise Unavailable("its package carries no extension")


def _load_rows(task: Task) -> Work:
    import psycopg
    from psycopg.types.json import set_json_loads
    from psycopg.types.string import ByteaBinaryLoader

    from tests.benchmarks.declared import declared_schema

    def work() -> Facts:
        with psycopg.connect(task.dsn) as connection:
            set_json_loads(bytes.decode, connection)  # type: ignore[arg-type]  # a text column needs no objects
            connection.adapters.register_loader("uuid", ByteaBinaryLoader)
            schema = declared_schema(connection, task.relation)
            with connection.cursor("rows", binary=True) as cursor:
                cursor.execute(f"SELECT * FROM {task.relation}")
                return _write(map(partial(_batch, schema), _fetched(cursor)), schema, task.folder)

    return work


def _fetched(cursor: Cursor[Any]) -> Iterable[list[tuple[Any, ...]]]:
    while rows := cursor.fetchmany(ROW_GROUP_ROWS):
        yield rows


def _batch(schema: pa.Schema, rows: list[tuple[Any, ...]]) -> pa.RecordBatch:
    import pyarrow as pa

    columns = zip(*rows, strict=True)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
    return pa.record_batch(arrays, schema=schema)


CONTENDERS = (
    Contender("connectorx", "connectorx, pyarrow", ("connectorx", "pyarrow"), _load_connectorx),
    Contender("adbc", "ADBC, pyarrow", ("adbc-driver-postgresql", "pyarrow"), _load_adbc),
    Contender(
        "duckdb",
        "DuckDB's postgres scanner",
        ("duckdb", "duckdb-extension-postgres-scanner"),
        _load_duckdb,
        overlay="duckdb",
    ),
    Contender("psycopg", "psycopg rows, pyarrow", ("psycopg", "pyarrow"), _load_rows),
)
