"""Every statement that is sent to PostgreSQL. `{names}` are filled by psycopg's SQL composition, never by hand."""

from __future__ import annotations

from typing import Final

# Settings are local to the transaction: nothing leaks into a pooled server connection, and a pooler in
# transaction mode cannot lose them. row_security = off makes the server refuse a table whose policies would hide
# rows from this role, instead of hiding them.
BEGIN: Final = """
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SET LOCAL application_name = {application_name};
SET LOCAL statement_timeout = {statement_timeout_ms};
SET LOCAL lock_timeout = {lock_timeout_ms};
SET LOCAL idle_in_transaction_session_timeout = {idle_in_transaction_timeout_ms};
SET LOCAL search_path = pg_catalog;
SET LOCAL timezone = 'UTC';
SET LOCAL datestyle = 'ISO';
SET LOCAL intervalstyle = 'iso_8601';
SET LOCAL bytea_output = 'hex';
SET LOCAL extra_float_digits = 1;
SET LOCAL quote_all_identifiers = off;
SET LOCAL row_security = off;
SET LOCAL jit = off;
SET LOCAL max_parallel_workers_per_gather = 0
"""

# A page and a walk come from the key's index, whatever the statistics say: no scan of the table, no sort.
STEER: Final = """
SET LOCAL enable_indexscan = on;
SET LOCAL enable_indexonlyscan = on;
SET LOCAL enable_seqscan = off;
SET LOCAL enable_bitmapscan = off;
SET LOCAL enable_sort = off
"""

SERVER: Final = "SELECT current_setting('server_version'), pg_is_in_recovery(), pg_backend_pid()"

# Rows and bytes of a partitioned table are those of its leaves. Bytes include what is stored out of line.
TABLE: Final = """
SELECT c.oid, leaves.tuples, leaves.bytes,
       has_table_privilege(c.oid, 'SELECT') OR has_any_column_privilege(c.oid, 'SELECT')
  FROM pg_class AS c
  JOIN pg_namespace AS n ON n.oid = c.relnamespace
 CROSS JOIN LATERAL (
       SELECT sum(greatest(leaf.reltuples, 0))::float8 AS tuples, sum(pg_table_size(leaf.oid))::float8 AS bytes
         FROM pg_class AS leaf
        WHERE leaf.relkind <> 'p'
          AND leaf.oid IN (SELECT c.oid UNION SELECT relid FROM pg_partition_tree(c.oid))
       ) AS leaves
 WHERE n.nspname = %(schema)s AND c.relname = %(name)s AND c.relkind IN ('r', 'p', 'm')
"""

# What a partitioned table has of partitions is read with it.
TABLES: Final = """
SELECT c.relname
  FROM pg_class AS c
  JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE n.nspname = %(schema)s AND c.relkind IN ('r', 'p') AND NOT c.relispartition
   AND has_schema_privilege(n.oid, 'USAGE')
   AND (SELECT bool_and(has_column_privilege(c.oid, a.attnum, 'SELECT'))
          FROM pg_attribute AS a
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
"""

COLUMNS: Final = """
SELECT a.attname, a.atttypid::int8, a.atttypmod, format_type(a.atttypid, a.atttypmod), a.attnotnull,
       coalesce((SELECT max(s.avg_width) FROM pg_stats AS s
                  WHERE s.schemaname = %(schema)s AND s.tablename = %(name)s AND s.attname = a.attname), 0),
       a.attstorage <> 'p' AND a.atttypmod < 0
  FROM pg_attribute AS a
 WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum
"""

# Every type that the table's columns are made of, also what domains are over and what arrays hold. The types of
# int2vector's kind have elements but are no arrays: their elements' array type is another one.
TYPES: Final = """
WITH RECURSIVE made_of(oid) AS (
       SELECT a.atttypid FROM pg_attribute AS a WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND NOT a.attisdropped
        UNION
       SELECT inner_type FROM made_of AS m JOIN pg_type AS t ON t.oid = m.oid
        CROSS JOIN LATERAL (VALUES (t.typbasetype), (t.typelem)) AS of(inner_type)
        WHERE inner_type <> 0
       )
SELECT t.oid::int8, t.typtype, t.typbasetype::int8, t.typtypmod,
       CASE WHEN e.typarray = t.oid THEN e.oid::int8 ELSE 0 END, format_type(e.oid, NULL), format_type(t.oid, NULL)
  FROM made_of AS m
  JOIN pg_type AS t ON t.oid = m.oid
  LEFT JOIN pg_type AS e ON e.oid = t.typelem
"""

# Places behind the point of this session's money.
MONEY_SCALE: Final = "SELECT scale(0::money::numeric)"

# One row a unique index, with everything that decides whether rows can be walked by it.
UNIQUE_INDEXES: Final = """
SELECT i.relname, x.indisprimary, am.amname, x.indisvalid AND x.indisready, x.indimmediate,
       x.indpred IS NOT NULL, 0 = ANY (x.indkey[0:x.indnkeyatts - 1]),
       k.names, k.all_not_null, k.same_collation, k.directions = 1
  FROM pg_index AS x
  JOIN pg_class AS i ON i.oid = x.indexrelid
  JOIN pg_am AS am ON am.oid = i.relam
 CROSS JOIN LATERAL (
       SELECT array_agg(a.attname::text ORDER BY p.n) AS names,
              bool_and(a.attnotnull) AS all_not_null,
              bool_and(x.indcollation[p.n] IN (0, a.attcollation)) AS same_collation,
              count(DISTINCT x.indoption[p.n] & 1) AS directions
         FROM generate_series(0, x.indnkeyatts - 1) AS p(n)
         JOIN pg_attribute AS a ON a.attrelid = x.indrelid AND a.attnum = x.indkey[p.n]
       ) AS k
 WHERE x.indrelid = %(oid)s AND x.indisunique
 ORDER BY x.indisprimary DESC, x.indnkeyatts, i.relname
"""

# Key columns are always named with their table's alias: a bare name in ORDER BY would mean the output column of
# that name, which is text here and sorts differently.

# The key of the n-th row beyond a key: walks n entries of the index and returns one row.
WALK: Final = "SELECT {key_texts} FROM {table} AS t{beyond} ORDER BY {key} OFFSET {skip} LIMIT 1"

# Where fewer rows are left: the last of them, and how many. The count has no name that a key column may have too.
WALK_TAIL: Final = """
SELECT {key_texts}, count(*) OVER ()
  FROM (SELECT {key} FROM {table} AS t{beyond} ORDER BY {key} LIMIT {limit}) AS t
 ORDER BY {key_descending} LIMIT 1
"""

PAGE: Final = "COPY (SELECT {columns} FROM {table} AS t{within} ORDER BY {key} LIMIT {limit}) TO STDOUT (FORMAT binary)"
