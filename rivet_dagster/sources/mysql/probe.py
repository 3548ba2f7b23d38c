"""Looks how a MySQL or MariaDB server is: one statement for most signals, one for replication, and the canary."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

import pymysql
from pymysql import err
from pymysql.cursors import DictCursor

from rivet_dagster.sources import vitals
from rivet_dagster.sources.base import Key, ServerFacts, Table
from rivet_dagster.sources.mysql import probe_templates, templates
from rivet_dagster.sources.mysql.connect import Address, connect, server_facts
from rivet_dagster.sources.mysql.failures import translated
from rivet_dagster.sources.mysql.keys import KeyShape
from rivet_dagster.sources.mysql.statements import wait_at_most
from rivet_dagster.sources.mysql.walks import Walker
from rivet_dagster.sources.probing import CANARIES, LIMITS, Canary, Group, Groups, Lag, seen_of
from rivet_dagster.sources.vitals import Vitals

_PROCESS: Final = "PROCESS"
# SHOW is not ended by the server.
_PATIENCE_S: Final = LIMITS.statement_timeout_s + LIMITS.connect_timeout_s

_STATUS: Final = (vitals.ACTIVE_SESSIONS, vitals.ROW_LOCK_WAITS, vitals.LOG_WAITS, vitals.LOCK_TIME)
_LOCKS: Final = (vitals.BLOCKED_SESSIONS, vitals.BLOCKED_BY_US)
_TRANSACTIONS: Final = (*_LOCKS, vitals.OLDEST_TRANSACTION, vitals.OWN_TRANSACTION)


class MysqlProbe:
    """A connection that looks how its server is. No transaction is open between two looks. Not thread-safe.

    Args:
        address: of the server.
        table: of which the canary looks up a row, by an index; None for a canary that looks nothing up.
        key: by which it does.
    """

    def __init__(self, address: Address, table: Table | None = None, key: Key | None = None) -> None:
        self._address = address
        self._looked_up = (table, key) if table and key and table.kind == "table" and key.index else None
        self._connection: pymysql.Connection[Any] | None = None
        self._groups: Groups | None = None
        self._table_locks = self._new_table_locks()
        self._canary = self._new_canary()
        self._lags: defaultdict[str, Lag] = defaultdict(Lag)

    def facts(self) -> ServerFacts:
        """What it is connected to."""
        with self._connected("asking for its version") as connection:
            return server_facts(connection)

    def look(self) -> Vitals:
        """Read everything that the user may see, by a few short statements."""
        with self._connected("looking how it is"):
            at = time.monotonic()
            self._groups = self._groups or Groups(self._known_groups(), self._ask)
            row, unseen = self._groups.read()
            values = {
                **_sessions(row),
                **self._locks(row),
                **_room(row, unseen),
                **self._replica_lag(row, at),
                vitals.CANARY: self._canary.seconds(),
            }
        return Vitals(at, values, _counters(row), _epoch(row), unseen)

    def close(self) -> None:
        """Close the connection; closing twice is harmless."""
        connection, self._connection, self._groups = self._connection, None, None
        if connection is not None:
            with suppress(err.MySQLError, OSError):
                connection.close()

    # ------------------------------------------------------------------------------------------- statements

    @contextmanager
    def _connected(self, doing: str) -> Iterator[pymysql.Connection[Any]]:
        """The connection; it is closed by whatever goes wrong, so that the next look begins anew."""
        try:
            if self._connection is None:
                self._connection = connect(self._address, LIMITS)
                with translated(doing):
                    wait_at_most(self._connection, _PATIENCE_S)
                # Another server may answer now, or the same with other rights.
                self._canary, self._table_locks = self._new_canary(), self._new_table_locks()
            with translated(doing):
                yield self._connection
        except BaseException:
            self.close()
            raise

    def _rows(self, statement: str) -> list[dict[str, Any]]:
        assert self._connection is not None
        with translated("looking how it is"), self._connection.cursor(DictCursor) as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    def _ask(self, groups: Sequence[Group]) -> Mapping[str, Any]:
        """One round trip: one statement."""
        if groups[0].alone:
            return {groups[0].name: self._rows(groups[0].statement)}
        joined = " CROSS JOIN ".join(
            probe_templates.GROUP.format(statement=group.statement, name=f"{group.name}_") for group in groups
        )
        return self._rows(probe_templates.LOOK.format(groups=joined))[0]

    def _known_groups(self) -> Iterator[Group]:
        version = str(self._rows(f"{templates.VERSION} AS version")[0]["version"])
        mariadb = "mariadb" in version.lower()
        status = probe_templates.MARIADB_STATUS if mariadb else probe_templates.MYSQL_STATUS
        sessions = self._session_view(mariadb=mariadb)
        status, listed = (
            template.format(status=status, sessions=sessions)
            for template in (probe_templates.STATUS, probe_templates.SESSIONS)
        )
        spoke = probe_templates.MARIADB_SPOKE if mariadb else probe_templates.MYSQL_SPOKE
        transactions = probe_templates.TRANSACTIONS.format(sessions=sessions, spoke=spoke)
        yield Group("status", status, _STATUS, "SELECT on the server's status")
        yield Group("limits", probe_templates.LIMITS, (vitals.CONNECTION_ROOM,), "reading system variables")
        yield Group("sessions", listed, (vitals.ACTIVE_SESSIONS, vitals.OWN_SESSIONS), _PROCESS)
        yield Group("transactions", transactions, _TRANSACTIONS, _PROCESS)
        if not mariadb:
            yield Group("history", probe_templates.HISTORY, (vitals.HISTORY_LIST,), _PROCESS)
        replica, right = _replica_statement(version, mariadb=mariadb)
        yield Group("replication", replica, (vitals.REPLICA_LAG,), right, alone=True)

    def _session_view(self, *, mariadb: bool) -> str:
        """The list of sessions that this server has; one that does not list this session is empty."""
        if not mariadb:
            with suppress(Exception):
                view = probe_templates.MYSQL_SESSIONS
                if self._rows(probe_templates.SESSIONS.format(sessions=view))[0]["own_session"]:
                    return view
        return probe_templates.MARIADB_SESSIONS

    def _new_table_locks(self) -> Groups:
        group = Group(
            "table_locks", probe_templates.TABLE_LOCKS, (vitals.BLOCKED_BY_US,), "SELECT on performance_schema"
        )
        return Groups([group], self._ask)

    # ------------------------------------------------------------------------------------------- signals

    def _locks(self, row: Mapping[str, Any]) -> dict[str, float]:
        """Who waits for rows and tables; without PROCESS nobody knows.

        Without the performance schema nobody knows whom somebody waits for that waits for a table. Then everybody
        does so for this package, as long as it holds a snapshot: at worst its windows end before more of them begin.
        """
        if row.get("row_waiters") is None or row.get("lock_waiters") is None:
            return {}
        waiters, by_us = float(row["lock_waiters"]), 0.0
        if waiters and row["own_snapshots"]:
            seen, _ = self._table_locks.read()
            by_us = float(seen["waiting_for_us"]) if seen.get("sees_table_locks") else waiters
        return {
            vitals.BLOCKED_SESSIONS: waiters + float(row["row_waiters"]),
            vitals.BLOCKED_BY_US: by_us,
            **seen_of(row, (vitals.OLDEST_TRANSACTION, vitals.OWN_TRANSACTION)),
        }

    def _replica_lag(self, row: Mapping[str, Any], at: float) -> dict[str, float]:
        """Of the channel that is farthest behind. One that was stopped as a whole is none: that is how it is left."""
        channels = [_old_names(channel) for channel in row.get("replication") or ()]
        lags = []
        for channel in channels:
            receives, replays = channel["Slave_IO_Running"], channel["Slave_SQL_Running"]
            if (receives, replays) == ("No", "No"):
                continue
            received = channel["Master_Log_File"], channel["Read_Master_Log_Pos"]
            replayed = channel["Relay_Master_Log_File"], channel["Exec_Master_Log_Pos"]
            said = channel["Seconds_Behind_Master"]
            name = str(channel.get("Connection_name") or channel.get("Channel_Name") or "")
            level = (receives, replays) == ("Yes", "Yes") and received == replayed
            lags.append(self._lags[name].take(at, level=level, said=None if said is None else float(said)))
        return {vitals.REPLICA_LAG: max(lags)} if lags else {}

    # ------------------------------------------------------------------------------------------- canary

    def _new_canary(self) -> Canary[str]:
        return Canary(self._find_row, probe_templates.PLAIN_CANARY, self._measure)

    def _find_row(self) -> str | None:
        """Looks up what is the first row now by its key. Once it is deleted, the index is searched all the same."""
        if self._looked_up is None:
            return None
        table, key = self._looked_up
        assert self._connection is not None
        with translated(f"looking for the first row of {table.label}"):
            step = Walker(self._connection, table, key).walk(None, 1, None)
        if step is None:
            return None
        shape = KeyShape(table, key)
        equal = shape.equals(step.key, self._connection.escape, nulls=False)
        return probe_templates.CANARY.format(table=shape.table, hint=shape.hint, equal=equal)

    def _measure(self, statement: str) -> list[float]:
        assert self._connection is not None
        seconds, trips = [], []
        with translated("looking a row up"), self._connection.cursor() as cursor:
            for _ in range(CANARIES):
                began = time.monotonic()
                cursor.execute(statement)
                seconds.append(max(0.0, float((cursor.fetchone() or (0,))[0]) / 1e6))
                trips.append(time.monotonic() - began)
        # A server may be told that both its clocks are the statement's beginning. Then this side's has to do.
        return seconds if any(seconds) else trips


def _sessions(row: Mapping[str, Any]) -> dict[str, float]:
    values = {}
    if row.get("threads_running") is not None and row.get("own_running") is not None:
        running = float(row["threads_running"]) - float(row["own_running"])
        values[vitals.ACTIVE_SESSIONS] = max(0.0, running, float(row.get("others_at_work") or 0))
    if row.get("own_running") is not None:
        idle = float(row.get("own_snapshots") or 0) - float(row.get("own_running_snapshots") or 0)
        values[vitals.OWN_SESSIONS] = max(0.0, float(row["own_running"]) - 1) + idle  # this one runs, too
    for name, column in ((vitals.ROW_LOCK_WAITS, "innodb_row_lock_current_waits"), *_HISTORY):
        if row.get(column) is not None:
            values[name] = float(row[column])
    return values


_HISTORY: Final = (
    (vitals.HISTORY_LIST, "innodb_history_list_length"),
    (vitals.HISTORY_LIST, "history_length"),
)


def _room(row: Mapping[str, Any], unseen: dict[str, str]) -> dict[str, float]:
    if row.get("max_connections") is None or row.get("threads_connected") is None:
        unseen.setdefault(vitals.CONNECTION_ROOM, "SELECT on the server's status")
        return {}
    rooms = [float(row["max_connections"]) - float(row["threads_connected"])]
    if row.get("max_user_connections") and row.get("own_connections") is not None:
        rooms.append(float(row["max_user_connections"]) - float(row["own_connections"]))
    return {vitals.CONNECTION_ROOM: max(0.0, min(rooms))}


def _counters(row: Mapping[str, Any]) -> dict[str, float]:
    counters = {}
    if row.get("innodb_log_waits") is not None:
        counters[vitals.LOG_WAITS] = float(row["innodb_log_waits"])
    if row.get("innodb_row_lock_time") is not None:
        counters[vitals.LOCK_TIME] = float(row["innodb_row_lock_time"]) / 1000
    return counters


def _epoch(row: Mapping[str, Any]) -> str:
    """When the server began, and when somebody last had its status flushed. Both count in the same whole seconds."""
    if row.get("moment") is None:
        return ""
    flushed = row.get("uptime_since_flush_status")
    return " ".join(str(int(row["moment"]) - int(ago)) for ago in (row["uptime"], flushed) if ago is not None)


def _replica_statement(version: str, *, mariadb: bool) -> tuple[str, str]:
    """How replication is asked for, and the right that it needs."""
    if mariadb:
        return probe_templates.MARIADB_REPLICA, "SLAVE MONITOR"
    number = tuple(int(digits) for digits in re.findall(r"\d+", version)[:3])
    statement = probe_templates.REPLICA if number >= (8, 0, 22) else probe_templates.OLDER_REPLICA
    return statement, "REPLICATION CLIENT"


def _old_names(channel: Mapping[str, Any]) -> dict[str, Any]:
    """A channel's columns by the names that all servers but MySQL's newer ones have."""
    return {name.replace("Source", "Master").replace("Replica_", "Slave_"): value for name, value in channel.items()}
