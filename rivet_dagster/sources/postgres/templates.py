"""Every statement that is sent to PostgreSQL. `{names}` are filled by psycopg's SQL composition, never by hand."""

from __future__ import annotations

from typing import Final

# Settings are local to the transaction: nothing leaks into a pooled server connection, and a pooler in
# transaction mode cannot lose them. row_security = off makes the server refuse a table whose policies would hide
# rows from this role, instead of hiding them. Where the server can tell that its client is gone, it ends the statement
# of a reader that was killed.
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
SET LOCAL max_parallel_workers_per_gather = 0;
SELECT set_config('client_connection_check_interval', '1s', true)
 WHERE current_setting('server_version_num')::int >= 140000 AND version() LIKE '%linux%'
"""

# A page and a walk come from the key's index, whatever the statistics say: no scan of the table, no sort.
STEER: Final = """
SET LOCAL enable_indexscan = on;
SET LOCAL enable_indexonlyscan = on;
SET LOCAL enable_tidscan = on;
SET LOCAL enable_seqscan = off;
SET LOCAL enable_bitmapscan = off;
SET LOCAL enable_sort = off
"""

# One statement for all of a view, or of rows that nothing tells apart, takes as long as a snapshot may last.
LONG: Final = "SET LOCAL statement_timeout = {snapshot_ms}"

NOW: Final = "SELECT clock_timestamp()"

SERVER: Final = "SELECT current_setting('server_version'), pg_is_in_recovery(), pg_backend_pid()"

# Rows and bytes of a partitioned table are those of its leaves. Bytes include what is stored out of line.
TABLE: Final = """
SELECT c.oid, c.relkind, leaves.tuples, leaves.bytes,
       c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits AS h WHERE h.inhparent = c.oid),
       has_table_privilege(c.oid, 'SELECT') OR has_any_column_privilege(c.oid, 'SELECT')
  FROM pg_class AS c
  JOIN pg_namespace AS n ON n.oid = c.relnamespace
 CROSS JOIN LATERAL (
       SELECT sum(greatest(leaf.reltuples, 0))::float8 AS tuples, sum(pg_table_size(leaf.oid))::float8 AS bytes
         FROM pg_class AS leaf
        WHERE leaf.relkind <> 'p'
          AND leaf.oid IN (SELECT c.oid UNION SELECT relid FROM pg_partition_tree(c.oid))
       ) AS leaves
 WHERE n.nspname = %(schema)s AND c.relname = %(name)s AND c.relkind IN ('r', 'p', 'm', 'v', 'f')
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

# Every type that some columns are made of, also what domains are over and what arrays hold. The types of
# int2vector's kind have elements but are no arrays: their elements' array type is another one.
TYPES: Final = """
WITH RECURSIVE made_of(oid) AS (
       SELECT unnest(%(types)s::oid[])
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

# Columns of a query, as its preparation describes them. What is not known to be narrow may be wide.
QUERY: Final = "SELECT * FROM ({query}\n) AS t"
QUERY_COLUMNS: Final = """
SELECT format_type(d.type, d.modifier), t.typstorage <> 'p' AND d.modifier < 0
  FROM unnest(%(types)s::oid[], %(modifiers)s::int4[]) WITH ORDINALITY AS d(type, modifier, place)
  JOIN pg_type AS t ON t.oid = d.type
 ORDER BY d.place
"""

# Places behind the point of this session's money.
MONEY_SCALE: Final = "SELECT scale(0::money::numeric)"

# One row an index, with everything that decides whether rows can be walked by it.
INDEXES: Final = """
SELECT i.relname, x.indisunique, x.indisprimary, am.amname, x.indisvalid AND x.indisready, x.indimmediate,
       x.indpred IS NOT NULL, 0 = ANY (x.indkey[0:x.indnkeyatts - 1]),
       k.names, k.all_not_null, k.same_collation, k.directions = 1, k.nulls_last
  FROM pg_index AS x
  JOIN pg_class AS i ON i.oid = x.indexrelid
  JOIN pg_am AS am ON am.oid = i.relam
 CROSS JOIN LATERAL (
       SELECT array_agg(a.attname::text ORDER BY p.n) AS names,
              bool_and(a.attnotnull) AS all_not_null,
              bool_and(x.indcollation[p.n] IN (0, a.attcollation)) AS same_collation,
              count(DISTINCT x.indoption[p.n] & 1) AS directions,
              bool_and((x.indoption[p.n] & 1) = ((x.indoption[p.n] >> 1) & 1)) AS nulls_last
         FROM generate_series(0, x.indnkeyatts - 1) AS p(n)
         JOIN pg_attribute AS a ON a.attrelid = x.indrelid AND a.attnum = x.indkey[p.n]
       ) AS k
 WHERE x.indrelid = %(oid)s
 ORDER BY x.indisprimary DESC, x.indnkeyatts, i.relname
"""

# Key columns are always named with their table's alias: a bare name in ORDER BY would mean the output column of
# that name, which is text here and sorts differently.

# The key of the n-th row beyond a key: walks n entries of the index and returns one row.
WALK: Final = "SELECT {key_texts} FROM {table} AS t{within}{order} OFFSET {skip} LIMIT 1"

# Where fewer rows are left: the last of them, and how many. The count has no name that a key column may have too.
WALK_TAIL: Final = """
SELECT {key_texts}, count(*) OVER ()
  FROM (SELECT {key} FROM {table} AS t{within}{order} LIMIT {limit}) AS t
 ORDER BY {key_descending} LIMIT 1
"""

LAST: Final = "SELECT {key_texts} FROM {table} AS t{within} ORDER BY {key_descending} LIMIT 1"

COUNT: Final = "SELECT count(*) FROM (SELECT 1 FROM {table} AS t{within} LIMIT {limit}) AS t"

PAGE: Final = "COPY (SELECT {columns} FROM {table} AS t{within}{order} LIMIT {limit}) TO STDOUT (FORMAT binary)"

# The pieces of one statement, for rows that nothing tells apart.
WHOLE: Final = "COPY (SELECT {columns} FROM {table} AS t{within}) TO STDOUT (FORMAT binary)"

# A range of blocks of a table's storage; also of its partitions, or of what inherits from it. Rows do not move while
# a snapshot sees them.
BLOCKS: Final = """\
COPY (SELECT {columns} FROM {table} AS t WHERE t.ctid >= {first} AND t.ctid < {end}) TO STDOUT (FORMAT binary)"""

# Where the rows of such a range are; none of their values is read.
PLACES: Final = "SELECT t.ctid::text FROM {table} AS t WHERE t.ctid >= {first} AND t.ctid < {end}"

# A column that may be large. How a value is stored is read off, and as a rule that is all; NULL is stored in nothing.
MEASURED: Final = """\
CASE WHEN pg_column_size({column}) >= {stored}
     THEN CASE WHEN {size} > {most} THEN CASE WHEN {refusal} IS NULL THEN {value} END ELSE {value} END
     ELSE {value} END"""

# The same for what the server has to render: it does so once. OFFSET keeps it from putting the text in each place.
RENDERED: Final = """\
CASE WHEN pg_column_size({column}) >= {stored}
     THEN (SELECT CASE WHEN {size} > {most} THEN CASE WHEN {refusal} IS NULL THEN v.value END ELSE v.value END
             FROM (SELECT {value} AS value OFFSET 0) AS v)
     ELSE {value} END"""

# A text that is no number, so that the server fails and repeats it. It is not immutable, so it is never computed for
# a plan, but only for the row.
REFUSAL: Final = "json_build_array({mark}::text, {column}::text, {size}{row})::text::int4"
KEY_PART: Final = ", {name}::text, left({column}::text, 200)"
PLACE: Final = ", 'tableoid', t.tableoid::regclass::text, 'ctid', t.ctid::text"

# Blocks of the largest of them; NULL where rows are not stored in blocks, or the server cannot read a range of them.
STORED_BLOCKS: Final = """
WITH RECURSIVE family(oid) AS (
       SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = %(schema)s AND c.relname = %(name)s
        UNION
       SELECT h.inhrelid FROM family AS f JOIN pg_inherits AS h ON h.inhparent = f.oid
       )
SELECT CASE WHEN current_setting('server_version_num')::int >= 140000 AND bool_and(coalesce(am.amname = 'heap', false))
            THEN max(pg_relation_size(leaf.oid) / current_setting('block_size')::int8) END
  FROM family AS f
  JOIN pg_class AS leaf ON leaf.oid = f.oid
  LEFT JOIN pg_am AS am ON am.oid = leaf.relam
 WHERE leaf.relkind <> 'p'
"""

# Whether another row has a key that the user says is unique.
TWICE: Final = "SELECT 1 FROM {table} AS t{equal} OFFSET 1 LIMIT 1"

# Bounds of about a hundred ranges of as many rows, as text; of a partitioned table those that ANALYZE made of all.
HISTOGRAM: Final = """
SELECT histogram_bounds::text::text[]
  FROM pg_stats
 WHERE schemaname = %(schema)s AND tablename = %(name)s AND attname = %(column)s
 ORDER BY inherited DESC
 LIMIT 1
"""

# The server drops, sorts and compares bounds, in the order of the column itself.
SORTED: Final = """
SELECT b.key::text
  FROM (SELECT DISTINCT t.{column} FROM unnest({values}::text[]) AS u(value)
         CROSS JOIN LATERAL (SELECT u.value::{type}{collation} AS {column}) AS t{within}) AS b(key)
 ORDER BY b.key
"""

COLLATION: Final = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(o.collname)
  FROM pg_attribute AS a
  JOIN pg_collation AS o ON o.oid = a.attcollation
  JOIN pg_namespace AS n ON n.oid = o.collnamespace
 WHERE a.attrelid = (SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                      WHERE n.nspname = %(schema)s AND c.relname = %(name)s)
   AND a.attname = %(column)s
"""
