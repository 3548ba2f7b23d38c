"""Every statement that is sent to MySQL and MariaDB.

`{names}` are filled with quoted identifiers and with the placeholders of bound values, never with values. Statements
that read a table carry a comment, which is all that the server's list of processes could know them by.
"""

from __future__ import annotations

from typing import Final

# What a user, a role or a server may have set otherwise, and would cut results short, change what values look like
# or how they compare. Zero and invalid dates are read as they are stored.
SETTINGS: Final = {
    "time_zone": "'+00:00'",
    "sql_mode": "'ALLOW_INVALID_DATES'",
    "sql_select_limit": "18446744073709551615",
    "sql_big_selects": "1",
    "sql_auto_is_null": "0",
    "character_set_results": "'utf8mb4'",
}

# The two servers' own names for how long a statement may run: seconds, and milliseconds.
MARIADB_SETTINGS: Final = {"max_statement_time": "{seconds:.3f}"}
MYSQL_SETTINGS: Final = {"max_execution_time": "{milliseconds}"}

SET: Final = "SET SESSION {assignments}"

# Without this isolation the server would take no snapshot, and say so in a warning only.
ISOLATION: Final = "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ"
BEGIN: Final = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"

VERSION: Final = "SELECT VERSION()"
SERVER: Final = "SELECT VERSION(), @@version_comment, @@global.read_only, CONNECTION_ID()"

# Only ProxySQL knows it, and answers it by itself.
PROXYSQL: Final = "PROXYSQL INTERNAL SESSION"

KILL: Final = "KILL QUERY %s"

TABLE: Final = """
SELECT t.TABLE_TYPE, t.ENGINE, coalesce(e.TRANSACTIONS, 'YES'), t.TABLE_ROWS, coalesce(t.AVG_ROW_LENGTH, 0)
  FROM information_schema.TABLES AS t
  LEFT JOIN information_schema.ENGINES AS e ON e.ENGINE = t.ENGINE
 WHERE t.TABLE_SCHEMA = %s AND t.TABLE_NAME = %s
"""

TABLES: Final = """
SELECT TABLE_NAME FROM information_schema.TABLES
 WHERE TABLE_SCHEMA = %s AND TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED')
"""

COLUMNS: Final = """
SELECT COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, IS_NULLABLE = 'YES', coalesce(COLLATION_NAME, '')
  FROM information_schema.COLUMNS
 WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s
 ORDER BY ORDINAL_POSITION
"""

# Fails where the user may not read every column: the catalog does not list those that are hidden.
READABLE: Final = "SELECT * FROM {table} LIMIT 0"

# MariaDB's JSON is a LONGTEXT with this check.
JSON_CHECKS: Final = """
SELECT CHECK_CLAUSE FROM information_schema.CHECK_CONSTRAINTS
 WHERE CONSTRAINT_SCHEMA = %s AND TABLE_NAME = %s
"""

# One row an index column. Which further columns there are depends on the server, so all of them are asked for.
INDEXES: Final = """
SELECT s.*
  FROM information_schema.STATISTICS AS s
 WHERE s.TABLE_SCHEMA = %s AND s.TABLE_NAME = %s
 ORDER BY s.INDEX_NAME <> 'PRIMARY', s.INDEX_NAME, s.SEQ_IN_INDEX
"""

COLLATIONS: Final = """
SELECT c.ID, c.COLLATION_NAME, s.MAXLEN
  FROM information_schema.COLLATIONS AS c JOIN information_schema.CHARACTER_SETS AS s USING (CHARACTER_SET_NAME)
 WHERE c.ID IN ({numbers})
"""
MARIADB_COLLATIONS: Final = """
SELECT c.ID, c.FULL_COLLATION_NAME, s.MAXLEN
  FROM information_schema.COLLATION_CHARACTER_SET_APPLICABILITY AS c
  JOIN information_schema.CHARACTER_SETS AS s USING (CHARACTER_SET_NAME)
 WHERE c.ID IN ({numbers})
"""

NOW: Final = "SELECT UTC_TIMESTAMP(6)"

# `{hint}` forces the index, if the key has one: rows come in its order without a sort, and from it without a scan of
# the table, whatever the statistics say.

# The key of the n-th row beyond a key: walks n entries of the index and returns one row.
WALK: Final = """
SELECT /* rivet_dagster */ {key_texts}
  FROM {table} AS t{hint}{within} ORDER BY {key} LIMIT 1 OFFSET {skip}
"""

# Where fewer rows are left: the last of them, and how many. In one statement with a count the server would sort the
# keys' texts in a table of its own, which cuts the texts of some numbers.
LAST: Final = """
SELECT /* rivet_dagster */ {key_texts}
  FROM {table} AS t{hint}{within} ORDER BY {key_descending} LIMIT 1
"""
COUNT: Final = "SELECT /* rivet_dagster */ count(*) FROM {table} AS t{hint}{within}"

# Whether there are so many rows, in any order.
NTH: Final = "SELECT /* rivet_dagster */ 1 FROM {table} AS t{hint}{within} LIMIT 1 OFFSET {skip}"

# One end of an index's first column, and how many rows the statistics expect between two of its values.
END: Final = """
SELECT /* rivet_dagster */ {text} FROM {table} AS t{hint}{within} ORDER BY {name}{direction} LIMIT 1
"""
ESTIMATE: Final = """
EXPLAIN FORMAT = TRADITIONAL SELECT /* rivet_dagster */ {name} FROM {table} AS t{hint}{within}
"""

PAGE: Final = """\
SELECT /* rivet_dagster */ {columns} FROM {table} AS t{hint}{within} ORDER BY {key} LIMIT ?"""

PIECES: Final = "SELECT /* rivet_dagster */ {columns} FROM {table} AS t{hint}{within}"
