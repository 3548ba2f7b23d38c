"""Every statement that looks how a PostgreSQL server is. `{names}` are filled by psycopg's SQL composition.

Each one but the canary's gives one row. Sessions of this package have its name while a transaction is
open.
"""

from __future__ import annotations

from typing import Final

# The views are made of many joins, and trying their orders would take ten times as long as running them in their own.
BEGIN: Final = """
BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY;
SET LOCAL application_name = {application_name};
SET LOCAL statement_timeout = {statement_timeout_ms};
SET LOCAL lock_timeout = {lock_timeout_ms};
SET LOCAL idle_in_transaction_session_timeout = {idle_in_transaction_timeout_ms};
SET LOCAL search_path = pg_catalog;
SET LOCAL timezone = 'UTC';
SET LOCAL datestyle = 'ISO';
SET LOCAL extra_float_digits = 1;
SET LOCAL row_security = off;
SET LOCAL jit = off;
SET LOCAL join_collapse_limit = 1;
SET LOCAL from_collapse_limit = 1;
SET LOCAL max_parallel_workers_per_gather = 0
"""

# Everything in one statement: each group is a row. With the transaction's end the role's own settings are back, before
# the driver reads what it has got: no value is of a type that they would change.
LOOK: Final = "SELECT * FROM {groups}; ROLLBACK"
GROUP: Final = "({statement}) AS {name}"

# PostgreSQL 17 moved the counter. A statement that names a view that is not there fails, also in a branch not taken.
HAS_CHECKPOINTER: Final = "SELECT to_regclass('pg_catalog.pg_stat_checkpointer') IS NOT NULL"

# Without the right, states and times of other roles' sessions are NULL, and so are their types. Those of the own role
# are always seen. A session without track_activities says so in place of a state. Between two statements of a
# transaction a session is at work, too: where processors are short, its next statement has come and waits to be seen.
SESSIONS: Final = """
SELECT count(*) FILTER (WHERE NOT a.ours
                          AND (a.state = 'active'
                               OR a.state = 'idle in transaction'
                              AND a.state_change > clock_timestamp() - interval '50 milliseconds')) AS active_sessions,
       count(*) FILTER (WHERE NOT a.ours AND a.state = 'active'
                          AND a.wait_event_type IN ('IO', 'LWLock', 'BufferPin', 'Buffer')) AS waiting_sessions,
       count(*) FILTER (WHERE a.ours AND a.state <> 'idle') AS own_sessions,
       coalesce(extract(epoch FROM clock_timestamp() - min(a.xact_start) FILTER (WHERE NOT a.ours)), 0)::float8
         AS oldest_transaction_s,
       coalesce(extract(epoch FROM clock_timestamp() - min(a.xact_start) FILTER (WHERE a.ours)), 0)::float8
         AS own_transaction_s,
       coalesce(max(age(a.backend_xmin)) FILTER (WHERE a.ours), 0) AS own_xmin_age,
       pg_has_role('pg_read_all_stats', 'USAGE') AS sees_sessions,
       coalesce(bool_or(a.state = 'disabled'), false) AS untracked
  FROM (SELECT *, application_name = {application_name} AS ours FROM pg_stat_activity
         WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()) AS a
"""

# Who waits is in every session's state, or else, for those who may not see it, in the table of locks. Advisory locks
# are the applications' own business: some of them wait for one for hours. Asking whom somebody waits for stops the lock
# manager for a moment, so it is only asked where somebody waits, and of a hundred sessions at most. Who waits behind
# somebody that waits for us waits for us, too.
LOCKS: Final = """
WITH RECURSIVE
ours(pid) AS MATERIALIZED (
       SELECT pid FROM pg_stat_activity WHERE application_name = {application_name}
       ),
waiting(pid) AS MATERIALIZED (
       SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND wait_event <> 'advisory'
        UNION
       SELECT pid FROM pg_locks
        WHERE NOT granted AND locktype <> 'advisory' AND NOT pg_has_role('pg_read_all_stats', 'USAGE')
       ),
edge(pid, blocker) AS MATERIALIZED (
       SELECT w.pid, b.pid
         FROM (SELECT pid FROM waiting LIMIT 100) AS w CROSS JOIN LATERAL unnest(pg_blocking_pids(w.pid)) AS b(pid)
       ),
behind(pid) AS (
       SELECT pid FROM edge WHERE blocker IN (SELECT pid FROM ours)
        UNION
       SELECT e.pid FROM edge AS e JOIN behind AS b ON e.blocker = b.pid
       )
SELECT (SELECT count(*) FROM waiting WHERE pid NOT IN (SELECT pid FROM ours)) AS blocked_sessions,
       (SELECT count(*) FROM behind WHERE pid NOT IN (SELECT pid FROM ours)) AS blocked_by_us
"""

# A standby that receives nothing is not level, however much of what it has is replayed. Of a primary's replicas those
# do not count that replay nothing: backups, receivers of the log, and subscribers, who confirm when they like.
REPLICATION: Final = """
SELECT r.standby, r.is_level AS level,
       CASE WHEN r.standby THEN extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8 END
         AS replay_age,
       CASE WHEN NOT r.standby THEN pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::float8 END AS log_end,
       s.reached, s.said, coalesce(s.hidden, 0) AS hidden_replicas
  FROM (SELECT pg_is_in_recovery() AS standby,
               CASE WHEN pg_is_in_recovery() THEN
                 (SELECT pg_last_wal_replay_lsn() >= greatest(pg_last_wal_receive_lsn(), max(w.latest_end_lsn))
                         AND count(*) > 0
                    FROM pg_stat_wal_receiver AS w)
               END AS is_level) AS r
 CROSS JOIN (
       SELECT array_agg(pg_wal_lsn_diff(p.replay_lsn, '0/0')::float8 ORDER BY p.pid)
                FILTER (WHERE p.replay_lsn IS NOT NULL) AS reached,
              array_agg(extract(epoch FROM p.replay_lag)::float8 ORDER BY p.pid)
                FILTER (WHERE p.replay_lsn IS NOT NULL) AS said,
              count(*) FILTER (WHERE p.state IS NULL) AS hidden
         FROM pg_stat_replication AS p
         LEFT JOIN pg_replication_slots AS slot ON slot.active_pid = p.pid
        WHERE slot.slot_type IS DISTINCT FROM 'logical'
       ) AS s
"""

# Limits of roles and databases, and what is kept free for superusers, do not bind superusers. Sessions whose type is
# hidden count where they have a database and a user, as clients have.
ROOM: Final = """
SELECT greatest(0, least(
         current_setting('max_connections')::int - u.everywhere - CASE WHEN NOT me.rolsuper THEN
           current_setting('superuser_reserved_connections')::int
           + coalesce(current_setting('reserved_connections', true)::int, 0) ELSE 0 END,
         CASE WHEN me.rolconnlimit >= 0 AND NOT me.rolsuper THEN me.rolconnlimit - u.by_me END,
         CASE WHEN db.datconnlimit >= 0 AND NOT me.rolsuper THEN db.datconnlimit - u.here END
       )) AS connection_room
  FROM pg_roles AS me
 CROSS JOIN pg_database AS db
 CROSS JOIN LATERAL (
       SELECT count(*) AS everywhere, count(*) FILTER (WHERE a.usesysid = me.oid) AS by_me,
              count(*) FILTER (WHERE a.datid = db.oid) AS here
         FROM pg_stat_activity AS a
        WHERE CASE WHEN a.backend_type IS NULL THEN a.datid IS NOT NULL AND a.usesysid IS NOT NULL
                   ELSE a.backend_type = 'client backend' END
       ) AS u
 WHERE me.rolname = session_user AND db.datname = current_database()
"""

CHECKPOINTS: Final = """
SELECT num_requested + restartpoints_req AS checkpoints_requested, stats_reset::text AS checkpoints_since
  FROM pg_stat_checkpointer
"""
OLDER_CHECKPOINTS: Final = """
SELECT checkpoints_req AS checkpoints_requested, stats_reset::text AS checkpoints_since FROM pg_stat_bgwriter
"""

DATABASE: Final = """
SELECT conflicts, stats_reset::text AS database_since, pg_postmaster_start_time()::text AS server_since
  FROM pg_stat_database WHERE datname = current_database()
"""

# A message of its own each time, by which the server's clock of statements is set. The row is found before it is
# counted, and counted before the clock is read.
CANARY: Final = """
SELECT extract(epoch FROM clock_timestamp() - statement_timestamp())::float8, found.n
  FROM (SELECT count(*) AS n FROM (SELECT 1 FROM {table} AS t{equal} LIMIT 1) AS row) AS found
"""
PLAIN_CANARY: Final = "SELECT extract(epoch FROM clock_timestamp() - statement_timestamp())::float8"

FIRST: Final = "SELECT {key_texts} FROM {table} AS t{within}{order} LIMIT 1"
