"""Looks how a PostgreSQL server is: one statement for all signals, and the canary."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from rivet_dagster.sources import vitals
from rivet_dagster.sources.base import Key, KeyRange, ServerFacts, Table
from rivet_dagster.sources.postgres import probe_templates, templates
from rivet_dagster.sources.postgres.connect import application_name, connect, server_facts
from rivet_dagster.sources.postgres.failures import last_words, translated
from rivet_dagster.sources.postgres.keys import KeyShape, key_text
from rivet_dagster.sources.postgres.session import begin_transaction
from rivet_dagster.sources.probing import CANARIES, LIMITS, Canary, Group, Groups, Lag, Positions, seen_of
from rivet_dagster.sources.vitals import Vitals

if TYPE_CHECKING:
    from typing_extensions import LiteralString

_Found = TypeVar("_Found")

_READ_ALL_STATS: Final = "pg_read_all_stats"
_OF_OTHERS: Final = (vitals.ACTIVE_SESSIONS, vitals.WAITING_SESSIONS, vitals.OLDEST_TRANSACTION)
_OWN: Final = (vitals.OWN_SESSIONS, vitals.OWN_TRANSACTION, vitals.OWN_XMIN_AGE)
_LOCKS: Final = (vitals.BLOCKED_SESSIONS, vitals.BLOCKED_BY_US)
_COUNTERS: Final = (vitals.CHECKPOINTS_REQUESTED, vitals.CONFLICTS)
_SINCE: Final = ("server_since", "checkpoints_since", "database_since")


class PostgresProbe:
    """A connection that looks how its server is. No transaction is open between two looks. Not thread-safe.

    Args:
        params: of the connection, as `parse_dsn` gives them.
        table: of which the canary looks up a row, by an index; None for a canary that looks nothing up.
        key: by which it does.
    """

    def __init__(self, params: dict[str, Any], table: Table | None = None, key: Key | None = None) -> None:
        self._params = params
        self._looked_up = (table, key) if table and key and table.kind == "table" and key.index else None
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._groups: Groups | None = None
        self._canary = self._new_canary()
        self._lag, self._positions = Lag(), Positions()

    def facts(self) -> ServerFacts:
        """What it is connected to."""
        with self._connected("asking for its version") as connection, self._transaction(connection):
            return server_facts(connection)

    def look(self) -> Vitals:
        """Read everything that the user may see, by a few short statements."""
        with self._connected("looking how it is"):
            at = time.monotonic()
            self._groups = self._groups or Groups(self._known_groups(), self._ask)
            row, unseen = self._groups.read()
            values = {
                **seen_of(row, (*_OWN, *_LOCKS, vitals.CONNECTION_ROOM)),
                **self._of_others(row, unseen),
                **self._replica_lag(row, unseen, at),
                vitals.CANARY: self._canary.seconds(),
            }
        epoch = " ".join(str(row.get(name)) for name in _SINCE)
        return Vitals(at, values, seen_of(row, _COUNTERS), epoch, unseen)

    def close(self) -> None:
        """Close the connection; closing twice is harmless."""
        connection, self._connection, self._groups = self._connection, None, None
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()

    # ------------------------------------------------------------------------------------------- statements

    @contextmanager
    def _connected(self, doing: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """The connection; it is closed by whatever goes wrong, so that the next look begins anew."""
        try:
            if self._connection is None:
                self._connection = connect(self._params, LIMITS)
                # Another server may answer now, or the same with other rights.
                self._canary = self._new_canary()
            with translated(doing):
                yield self._connection
        except BaseException:
            self.close()
            raise

    def _begin(self, connection: psycopg.Connection[tuple[Any, ...]], settings: LiteralString = "") -> None:
        begin = sql.SQL(probe_templates.BEGIN).format(
            application_name=self._name(),
            statement_timeout_ms=sql.Literal(round(LIMITS.statement_timeout_s * 1000)),
            lock_timeout_ms=sql.Literal(round(LIMITS.lock_timeout_s * 1000)),
            idle_in_transaction_timeout_ms=sql.Literal(round(LIMITS.idle_in_transaction_timeout_s * 1000)),
        )
        begin_transaction(connection, begin + sql.SQL(";" + settings if settings else ""))

    def _name(self) -> sql.Literal:
        assert self._connection is not None
        return sql.Literal(application_name(self._connection))

    @contextmanager
    def _transaction(
        self, connection: psycopg.Connection[tuple[Any, ...]], settings: LiteralString = ""
    ) -> Iterator[None]:
        """A transaction with the settings of looks and with `settings`; a statement may end it itself."""
        try:
            self._begin(connection, settings)
            yield
        except psycopg.Error as exc:
            raise last_words(exc, connection.pgconn) from None
        finally:
            with suppress(psycopg.Error):
                connection.rollback()

    def _known_groups(self) -> Iterator[Group]:
        assert self._connection is not None
        with self._transaction(self._connection):
            found = self._connection.execute(probe_templates.HAS_CHECKPOINTER).fetchone()
        newer = found == (True,)
        checkpoints = probe_templates.CHECKPOINTS if newer else probe_templates.OLDER_CHECKPOINTS
        counted = "pg_stat_checkpointer" if newer else "pg_stat_bgwriter"
        for name, template, signals, view in (
            ("sessions", probe_templates.SESSIONS, (*_OF_OTHERS, *_OWN), "pg_stat_activity"),
            ("locks", probe_templates.LOCKS, _LOCKS, "pg_stat_activity and pg_locks"),
            ("replication", probe_templates.REPLICATION, (vitals.REPLICA_LAG,), "pg_stat_replication"),
            ("room", probe_templates.ROOM, (vitals.CONNECTION_ROOM,), "pg_stat_activity"),
            ("checkpoints", checkpoints, (vitals.CHECKPOINTS_REQUESTED,), counted),
            ("database", probe_templates.DATABASE, (vitals.CONFLICTS,), "pg_stat_database"),
        ):
            statement = sql.SQL(template).format(application_name=self._name())
            yield Group(name, statement, signals, f"SELECT on {view}")

    def _ask(self, groups: Sequence[Group]) -> Mapping[str, Any]:
        """Two round trips: one to begin, and one for all there is, with the transaction's end."""
        assert self._connection is not None
        joined = sql.SQL(" CROSS JOIN ").join(
            sql.SQL(probe_templates.GROUP).format(statement=group.statement, name=sql.Identifier(group.name))
            for group in groups
        )
        look = sql.SQL(probe_templates.LOOK).format(groups=joined)
        connection = self._connection
        with (
            translated("looking how it is"),
            self._transaction(connection),
            connection.cursor(row_factory=dict_row) as c,
        ):
            return c.execute(look).fetchone() or {}

    # ------------------------------------------------------------------------------------------- signals

    def _of_others(self, row: Mapping[str, Any], unseen: dict[str, str]) -> dict[str, float]:
        """What other roles' sessions do; what could be read of some of them only is not said at all."""
        missing = "" if row.get("sees_sessions") else _READ_ALL_STATS
        missing = missing or ("track_activities" if row.get("untracked") else "")
        if missing:
            for name in _OF_OTHERS:
                unseen.setdefault(name, missing)
            return {}
        return seen_of(row, _OF_OTHERS)

    def _replica_lag(self, row: Mapping[str, Any], unseen: dict[str, str], at: float) -> dict[str, float]:
        if row.get("standby"):
            said = row["replay_age"]
            # A standby that has replayed no transaction yet has nothing to be measured by.
            if said is None and not row["level"]:
                return {}
            return {vitals.REPLICA_LAG: self._lag.take(at, level=bool(row["level"]), said=said)}
        if row.get("hidden_replicas"):
            unseen.setdefault(vitals.REPLICA_LAG, _READ_ALL_STATS)
            return {}
        replicas = list(zip(row.get("reached") or (), row.get("said") or (), strict=True))
        if row.get("log_end") is None or not replicas:
            return {}
        return {vitals.REPLICA_LAG: self._positions.take(at, row["log_end"], replicas)}

    # ------------------------------------------------------------------------------------------- canary

    def _new_canary(self) -> Canary[sql.SQL | sql.Composed]:
        return Canary(self._find_row, sql.SQL(probe_templates.PLAIN_CANARY), self._measure)

    def _find_row(self) -> sql.SQL | sql.Composed | None:
        """Looks up what is the first row now by its key. Once it is deleted, the index is searched all the same."""
        if self._looked_up is None:
            return None
        table, key = self._looked_up
        shape, everything = KeyShape(table, key), KeyRange(None, None)
        first = sql.SQL(probe_templates.FIRST).format(
            key_texts=shape.texts, table=shape.table, within=shape.where(everything), order=shape.order(everything)
        )
        found = self._steered(lambda connection: connection.execute(first).fetchone())
        if found is None:
            return None
        equal = shape.equal(key_text(found), nulls=False)
        return sql.SQL(probe_templates.CANARY).format(table=shape.table, equal=equal)

    def _measure(self, statement: sql.SQL | sql.Composed) -> list[float]:
        def run(connection: psycopg.Connection[tuple[Any, ...]]) -> list[float]:
            rows = (connection.execute(statement).fetchone() for _ in range(CANARIES))
            return [max(0.0, row[0]) for row in rows if row]

        return self._steered(run)

    def _steered(self, run: Callable[[psycopg.Connection[tuple[Any, ...]]], _Found]) -> _Found:
        """What `run` gives in a transaction that reads tables by their indexes."""
        assert self._connection is not None
        with translated("looking a row up"), self._transaction(self._connection, templates.STEER):
            return run(self._connection)
