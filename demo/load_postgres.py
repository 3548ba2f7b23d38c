"""The demo's tables in PostgreSQL: COPY reads the package's files as they are."""

from __future__ import annotations

import psycopg
from psycopg import sql

from demo.data import DATABASE, READER, TABLES, DemoTable, open_file, refuse_incomplete
from demo.postgres import EmbeddedPostgres

_CHUNK_BYTES = 1 << 20


def load(server: EmbeddedPostgres, reader_password: str) -> str:
    """Create the database, fill the tables that are not complete, and let `READER` read them.

    Args:
        server: a running server; the superuser's password is its own.
        reader_password: the role's password from now on.

    Returns:
        URL under which the demo exports.

    Raises:
        DataError: the package holds other data than it should.
        psycopg.Error: the server refuses.
    """
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        if not admin.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE]).rowcount:
            admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
    with psycopg.connect(server.dsn(DATABASE)) as connection:
        for table in TABLES:
            if _row_count(connection, table) != table.rows:
                _fill(connection, table)
        _grant(connection, reader_password)
    return server.dsn(DATABASE, user=READER, password=reader_password)


def _row_count(connection: psycopg.Connection, table: DemoTable) -> int | None:
    """Rows in the table; None where it does not exist."""
    found = connection.execute("SELECT to_regclass(%s)", [f"public.{table.name}"]).fetchone()
    if found is None or found[0] is None:
        return None
    name = sql.Identifier("public", table.name)
    count = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(name)).fetchone()
    assert count is not None
    return int(count[0])


def _fill(connection: psycopg.Connection, table: DemoTable) -> None:
    """Create the table and copy its file into it; what was there before goes."""
    name = sql.Identifier("public", table.name)
    connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(name))
    connection.execute(sql.SQL("CREATE TABLE {} ({})").format(name, sql.SQL(table.columns)))
    statement = sql.SQL("COPY {} FROM STDIN (FORMAT csv, HEADER match, NULL 'NA')").format(name)
    cursor = connection.cursor()
    with cursor.copy(statement) as copy, open_file(table) as file:
        while chunk := file.read(_CHUNK_BYTES):
            copy.write(chunk)
    refuse_incomplete(table, cursor.rowcount)
    connection.execute(sql.SQL("ANALYZE {}").format(name))


def _grant(connection: psycopg.Connection, reader_password: str) -> None:
    """Let `READER` log in and read the tables and do nothing else; nobody but it may enter the database."""
    role, database = sql.Identifier(READER), sql.Identifier(DATABASE)
    if not connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [READER]).rowcount:
        connection.execute(sql.SQL("CREATE ROLE {}").format(role))
    connection.execute(sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(reader_password)))
    connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
    connection.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database, role))
    connection.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}").format(role))
