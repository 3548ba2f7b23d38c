"""Libraries that read PostgreSQL or MariaDB, each the way its documentation would have it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

from tests.benchmarks.contender import (
    MARIADB,
    MOST_ROWS_OF_OBJECTS,
    POSTGRESQL,
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


class _Cursor(Protocol):
    """What drivers give rows with."""

    def fetchmany(self, size: int) -> Any:
        """The next rows, at most `size`; none at the end."""
        ...


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


def _load_duckdb(scanner: str, task: Task) -> Work:
    import duckdb

    connection = duckdb.connect(config={"autoinstall_known_extensions": "false"})
    try:
        connection.execute(f"LOAD '{_extension(scanner)}'")
    except duckdb.Error as error:
        raise Unavailable(f"DuckDB {duckdb.__version__} does not load it: {str(error).splitlines()[0]}") from None

    def work() -> Facts:
        address = _words(task.dsn) if scanner == "mysql" else task.dsn
        connection.execute(f"ATTACH '{address}' AS source (TYPE {scanner}, READ_ONLY)")
        connection.execute(
            f"COPY source.{task.relation} TO '{task.folder / 'part.parquet'}' (FORMAT parquet, COMPRESSION zstd,"
            f" COMPRESSION_LEVEL {ZSTD_LEVEL}, ROW_GROUP_SIZE {ROW_GROUP_ROWS})"
        )
        return {}

    return work


def _extension(scanner: str) -> Path:
    """The extension's file, which its package carries for the one version of DuckDB that can load it."""
    from importlib.resources import files

    for folder in Path(str(files(f"duckdb_extension_{scanner}_scanner"))).glob("extensions/*"):
        return folder / f"{scanner}_scanner.duckdb_extension"
    raise Unavailable("its package carries no extension")


def _words(dsn: str) -> str:
    """The address as DuckDB's scanner of MySQL takes it. Without TLS: it would ask for it, the others do not."""
    url = urlsplit(dsn)
    return (
        f"host={url.hostname} port={url.port} user={url.username} password={unquote(url.password or '')}"
        f" database={url.path[1:]} ssl_mode=disabled"
    )


def _load_psycopg(task: Task) -> Work:
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
                return _write(_batches(cursor, schema), schema, task.folder)

    return work


def _load_pymysql(task: Task) -> Work:
    import pyarrow.parquet  # noqa: F401
    import pymysql
    from pymysql.cursors import SSCursor

    from tests.benchmarks.declared import mariadb_schema

    url = urlsplit(task.dsn)

    def work() -> Facts:
        password = unquote(url.password or "")
        assert url.hostname is not None
        assert url.port is not None
        with pymysql.connect(host=url.hostname, port=url.port, user=url.username, password=password) as connection:
            schema = mariadb_schema(connection, task.schema, task.table)
            with connection.cursor(SSCursor) as cursor:
                cursor.execute(f"SELECT * FROM {task.relation}")
                return _write(_batches(cursor, schema), schema, task.folder)

    return work


def _batches(cursor: _Cursor, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    while rows := cursor.fetchmany(ROW_GROUP_ROWS):
        yield _batch(schema, rows)


def _batch(schema: pa.Schema, rows: Sequence[tuple[Any, ...]]) -> pa.RecordBatch:
    import pyarrow as pa

    columns = zip(*rows, strict=True)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
    return pa.record_batch(arrays, schema=schema)


CONTENDERS = (
    Contender(
        "connectorx", "connectorx, pyarrow", ("connectorx", "pyarrow"), _load_connectorx, servers=(POSTGRESQL, MARIADB)
    ),
    Contender("adbc", "ADBC, pyarrow", ("adbc-driver-postgresql", "pyarrow"), _load_adbc),
    Contender(
        "duckdb",
        "DuckDB's postgres scanner",
        ("duckdb", "duckdb-extension-postgres-scanner"),
        partial(_load_duckdb, "postgres"),
        overlay="duckdb",
    ),
    Contender(
        "duckdb-mysql",
        "DuckDB's mysql scanner",
        ("duckdb", "duckdb-extension-mysql-scanner"),
        partial(_load_duckdb, "mysql"),
        overlay="duckdb",
        servers=(MARIADB,),
    ),
    Contender("psycopg", "psycopg rows, pyarrow", ("psycopg", "pyarrow"), _load_psycopg),
    Contender(
        "pymysql",
        "PyMySQL rows, pyarrow",
        ("pymysql", "pyarrow"),
        _load_pymysql,
        servers=(MARIADB,),
        most_rows=MOST_ROWS_OF_OBJECTS,
    ),
)
