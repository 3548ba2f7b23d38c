"""How a server is: raw readings that every engine gives under the same names. What they mean is judged above."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from rivet_dagster.sources.base import ServerFacts

ACTIVE_SESSIONS: Final = "active_sessions"
"""Sessions of others that are at work: that run a statement, or are between two of a transaction for some milliseconds.

This package's own are left out.
"""
WAITING_SESSIONS: Final = "waiting_sessions"
"""Of these, the ones that wait for storage or for the server's own locks (PostgreSQL)."""
BLOCKED_SESSIONS: Final = "blocked_sessions"
"""Sessions of others that wait for a lock of a table or a row. Locks that applications make up do not count."""
BLOCKED_BY_US: Final = "blocked_by_us"
"""Of these, the ones that wait for this package's sessions, also behind others that do; at most so many on a MySQL or
MariaDB server that does not say whom somebody waits for."""
OWN_SESSIONS: Final = "own_sessions"
"""Sessions of this package that run a statement or hold a snapshot, from any machine."""
CANARY: Final = "canary_s"
"""Seconds that the server takes for a look-up of one row, by its own clock: the median of three."""
REPLICA_LAG: Final = "replica_lag_s"
"""Seconds that the slowest replica is behind, or this server, where it is one. 0 where nothing is left to replay. MySQL
and MariaDB do not know their replicas' lag; subscribers by logical replication are no replicas."""
CONNECTION_ROOM: Final = "connection_room"
"""Connections that this user could still open, as far as the server's limits go."""
OLDEST_TRANSACTION: Final = "oldest_transaction_s"
"""Age in seconds of the oldest transaction of others."""
OWN_TRANSACTION: Final = "own_transaction_s"
"""Age in seconds of the oldest transaction of this package's."""
OWN_XMIN_AGE: Final = "own_xmin_age"
"""Transactions begun since the oldest snapshot of this package's, which no vacuum can pass (PostgreSQL)."""
ROW_LOCK_WAITS: Final = "row_lock_waits"
"""Waits for row locks at this moment (MySQL, MariaDB)."""
HISTORY_LIST: Final = "history_list"
"""Undo log entries that wait for being purged (MySQL, MariaDB)."""

CHECKPOINTS_REQUESTED: Final = "checkpoints_requested"
"""Counter of checkpoints that were not due yet: others write much (PostgreSQL)."""
LOG_WAITS: Final = "log_waits"
"""Counter of waits for a log buffer that was full: others write much (MySQL, MariaDB)."""
CONFLICTS: Final = "conflicts"
"""Counter of statements that a standby ended because it had changes to replay (PostgreSQL)."""
LOCK_TIME: Final = "row_lock_time_s"
"""Counter of seconds that sessions waited for row locks (MySQL, MariaDB)."""


@dataclass(frozen=True)
class Vitals:
    """How a server is at one moment, as far as the user may see it.

    Attributes:
        at: when it was looked, in seconds of a monotonic clock of this process.
        values: what is so now, by name.
        counters: what only grows until the server restarts or somebody resets it, by name.
        epoch: changes when the counters begin anew.
        unseen: names that the engine has but the user may not see, each with the right that is missing.
    """

    at: float
    values: Mapping[str, float] = field(default_factory=dict)
    counters: Mapping[str, float] = field(default_factory=dict)
    epoch: str = ""
    unseen: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Identity:
    """As whom, and how, a source is talked to.

    Attributes:
        user: as the server knows them.
        encrypted: whether the connection is under TLS.
        rights: what the user may do beside reading single tables, in the server's own words.
        excessive: of these, the ones that no export needs.
    """

    user: str
    encrypted: bool
    rights: tuple[str, ...] = ()
    excessive: tuple[str, ...] = ()


class Probe(Protocol):
    """A connection of its own that looks how the server is. It holds no transaction open. Not thread-safe."""

    def facts(self) -> ServerFacts:
        """What it is connected to."""
        ...

    def look(self) -> Vitals:
        """Read everything that the user may see, by a few short statements.

        Raises:
            SourceError: it cannot be looked at at all. The next look connects anew.
        """
        ...

    def close(self) -> None:
        """Close the connection; closing twice is harmless."""
        ...
