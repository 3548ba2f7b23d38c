"""The MySQL and MariaDB source: an address and limits, from which sessions are opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rivet_dagster.sources.base import Key, SourceLimits, Table, TypeChoices
from rivet_dagster.sources.mysql.connect import connect, parse_dsn
from rivet_dagster.sources.mysql.session import MysqlSession

if TYPE_CHECKING:
    import pyarrow as pa

    from rivet_dagster.sources.mysql.probe import MysqlProbe
    from rivet_dagster.sources.vitals import Identity


def warm() -> None:
    """Load the compiled code that reading MySQL needs, once in a process."""
    from rivet_dagster.wire import mysqlrows  # noqa: PLC0415 (numba is paid for here)

    mysqlrows.warm()


class MysqlSource:
    """A MySQL or MariaDB server.

    Args:
        dsn: `mysql://user:password@host:port/database?ssl-mode=...`, with the TLS options of MySQL's own clients.
        limits: time-outs that the server enforces.
        types: what the user wants of the columns' types.

    Raises:
        ConfigError: RIVET_CONFIG_DSN.
    """

    engine = "mysql"

    def __init__(self, dsn: str, limits: SourceLimits, types: TypeChoices) -> None:
        self._address = parse_dsn(dsn)
        self._limits = limits
        self._types = types

    def __repr__(self) -> str:
        return f"MysqlSource({self.label!r})"

    @property
    def label(self) -> str:
        """Where it is, without secrets."""
        return self._address.label

    def connect(self) -> MysqlSession:
        """Open a session."""
        return MysqlSession(self._address, connect(self._address, self._limits), self._limits, self._types)

    def probe(self, table: Table | None = None, key: Key | None = None) -> MysqlProbe:
        """Look how the server is; connects when it is first looked."""
        from rivet_dagster.sources.mysql.probe import MysqlProbe  # noqa: PLC0415 (most exports need none)

        return MysqlProbe(self._address, table, key)

    def identity(self) -> Identity:
        """As whom it is read, and what that user may do."""
        from rivet_dagster.sources.mysql.identity import identity_of  # noqa: PLC0415 (most exports need none)

        return identity_of(self._address, self._limits)

    def warm(self) -> None:
        """Load the compiled code that reading needs."""
        warm()

    def schema_of(self, table: Table) -> pa.Schema:
        """Arrow schema that reading `table` gives; RIVET_CONFIG_COLUMN, RIVET_CONFIG_TYPE for impossible choices."""
        from rivet_dagster.sources.mysql.types import arrow_schema  # noqa: PLC0415 (pyarrow is paid for here)

        return arrow_schema(table, self._types)
