"""Every statement that looks how a MySQL or MariaDB server is. `{names}` are filled with names of views alone.

Each one but the canary's gives one row. Sessions of this package are those whose statement begins with its comment, and
those of the own user that hold a snapshot in a transaction that only reads.
"""

from __future__ import annotations

from typing import Final

LOOK: Final = "SELECT /* rivet_dagster */ * FROM {groups}"
GROUP: Final = "({statement}) AS {name}"

# Counters of the whole server. Those of temporary tables are none of them: exports move them, too.
STATUS_NAMES: Final = (
    "Threads_running",
    "Threads_connected",
    "Innodb_row_lock_current_waits",
    "Innodb_row_lock_time",
    "Innodb_log_waits",
    "Innodb_history_list_length",
    "Uptime",
    "Uptime_since_flush_status",
)
_VALUES: Final = ", ".join(
    f"MAX(CASE WHEN VARIABLE_NAME = '{name}' THEN VARIABLE_VALUE + 0e0 END) AS {name.lower()}" for name in STATUS_NAMES
)
# MySQL's view of them is empty in MariaDB, whose own MySQL has not got.
STATUS: Final = (
    f"SELECT {_VALUES}, UNIX_TIMESTAMP() AS moment FROM {{status}} "  # noqa: S608 (names of this module)
    f"WHERE VARIABLE_NAME IN ({', '.join(repr(name) for name in STATUS_NAMES)})"
)
MARIADB_STATUS: Final = "information_schema.GLOBAL_STATUS"
MYSQL_STATUS: Final = "performance_schema.global_status"

LIMITS: Final = """
SELECT @@GLOBAL.max_connections AS max_connections, @@SESSION.max_user_connections AS max_user_connections
"""

_OURS: Final = "LEFT(LTRIM(COALESCE({text}, '')), 26) = 'SELECT /* rivet_dagster */'"
_ME: Final = "LEFT(USER(), CHAR_LENGTH(USER()) - LOCATE('@', REVERSE(USER())))"

# Without PROCESS, only the own user's sessions are listed. Locks of users' own (GET_LOCK) are called otherwise.
SESSIONS: Final = f"""
SELECT COALESCE(SUM(p.COMMAND <> 'Sleep' AND {_OURS.format(text="p.INFO")}), 0) AS own_running,
       COALESCE(SUM(p.USER = {_ME}), 0) AS own_connections,
       COALESCE(SUM(p.STATE LIKE 'Waiting for % lock' OR p.STATE = 'Waiting for table flush'), 0) AS lock_waiters,
       COALESCE(SUM(p.ID = CONNECTION_ID()), 0) AS own_session
  FROM {{sessions}} AS p
"""  # noqa: S608
MARIADB_SESSIONS: Final = "information_schema.PROCESSLIST"
# Whether a session that waits for its client has spoken a moment ago; MySQL only counts whole seconds.
MARIADB_SPOKE: Final = "p.TIME_MS < 50"
MYSQL_SPOKE: Final = "p.TIME = 0"
# It stops no other session for its looking, but older servers, and those without the performance schema, have it not.
MYSQL_SESSIONS: Final = "performance_schema.processlist"

# Times of transactions are the server's local ones, whatever the session's time zone is. What this package reads waits
# for no row lock, and others never wait for one of its. Between two statements of a transaction a session is at work,
# too: where processors are short, its next statement has come and waits to be seen. InnoDB makes its list anew for
# whoever asks after nobody has for a tenth of a second.
TRANSACTIONS: Final = f"""
SELECT COALESCE(MAX(CASE WHEN t.ours THEN 0 ELSE t.age END), 0) AS oldest_transaction_s,
       COALESCE(MAX(CASE WHEN t.ours THEN t.age ELSE 0 END), 0) AS own_transaction_s,
       COALESCE(SUM(t.ours), 0) AS own_snapshots,
       COALESCE(SUM(t.ours AND t.is_running), 0) AS own_running_snapshots,
       COALESCE(SUM(NOT t.ours AND t.is_waiting), 0) AS row_waiters,
       COALESCE(SUM(NOT t.ours AND t.at_work), 0) AS others_at_work
  FROM (SELECT GREATEST(0, TIMESTAMPDIFF(MICROSECOND, x.trx_started,
                                         CONVERT_TZ(UTC_TIMESTAMP(6), '+00:00', 'SYSTEM')) / 1e6) AS age,
               x.trx_state = 'LOCK WAIT' AS is_waiting,
               COALESCE(p.COMMAND <> 'Sleep' OR {{spoke}}, 0) AS at_work,
               COALESCE(p.COMMAND <> 'Sleep', 0) AND {_OURS.format(text="p.INFO")} AS is_running,
               COALESCE(x.trx_is_read_only AND p.USER = {_ME}, 0) OR {_OURS.format(text="p.INFO")} AS ours
          FROM information_schema.INNODB_TRX AS x
          LEFT JOIN {{sessions}} AS p ON p.ID = x.trx_mysql_thread_id
         WHERE x.trx_mysql_thread_id <> CONNECTION_ID()) AS t
"""  # noqa: S608

# MariaDB has it among its counters.
HISTORY: Final = """
SELECT (SELECT `COUNT` FROM information_schema.INNODB_METRICS WHERE NAME = 'trx_rseg_history_len') AS history_length
"""

REPLICA: Final = "SHOW REPLICA STATUS"
OLDER_REPLICA: Final = "SHOW SLAVE STATUS"
MARIADB_REPLICA: Final = "SHOW ALL SLAVES STATUS"

# Who waits for the lock of a table that a snapshot of this package's holds, also behind somebody that does.
TABLE_LOCKS: Final = f"""
SELECT (SELECT MAX(ENABLED = 'YES') FROM performance_schema.setup_instruments
         WHERE NAME = 'wait/lock/metadata/sql/mdl' AND @@performance_schema) AS sees_table_locks,
       COUNT(DISTINCT w.OWNER_THREAD_ID) AS waiting_for_us
  FROM performance_schema.metadata_locks AS w
  JOIN performance_schema.metadata_locks AS g
    ON g.OBJECT_TYPE = w.OBJECT_TYPE AND g.OBJECT_SCHEMA <=> w.OBJECT_SCHEMA AND g.OBJECT_NAME <=> w.OBJECT_NAME
  JOIN performance_schema.threads AS t ON t.THREAD_ID = g.OWNER_THREAD_ID
  JOIN information_schema.INNODB_TRX AS x ON x.trx_mysql_thread_id = t.PROCESSLIST_ID
 WHERE w.LOCK_STATUS = 'PENDING' AND g.LOCK_STATUS = 'GRANTED' AND g.OWNER_THREAD_ID <> w.OWNER_THREAD_ID
   AND x.trx_is_read_only AND t.PROCESSLIST_USER = {_ME}
"""  # noqa: S608

# The row is found before it is counted, and counted before the clock is read: NOW is when the statement began, SYSDATE
# is when it is asked.
CANARY: Final = """
SELECT /* rivet_dagster */ TIMESTAMPDIFF(MICROSECOND, NOW(6), SYSDATE(6)), found.n
  FROM (SELECT COUNT(*) AS n FROM (SELECT 1 FROM {table} AS t{hint}{equal} LIMIT 1) AS one) AS found
"""
PLAIN_CANARY: Final = "SELECT /* rivet_dagster */ TIMESTAMPDIFF(MICROSECOND, NOW(6), SYSDATE(6))"
