"""The PostgreSQL source: an address and limits, from which sessions are opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rivet_dagster.sources.base import SourceLimits, Table
from rivet_dagster.sources.postgres.connect import connect, label_of, parse_dsn
from rivet_dagster.sources.postgres.session import PostgresSession

if TYPE_CHECKING:
    import pyarrow as pa


class PostgresSource:
    """A PostgreSQL database.

    Args:
        dsn: `postgresql://user:password@host:port/database?sslmode=...`, libpq's parameters as it knows them.
        limits: time-outs that the server enforces.

    Raises:
        ConfigError: RIVET_CONFIG_DSN.
    """

    engine = "postgresql"

    def __init__(self, dsn: str, limits: SourceLimits) -> None:
        self._params = parse_dsn(dsn)
        self._limits = limits

    def __repr__(self) -> str:
        return f"PostgresSource({self.label!r})"

    @property
    def label(self) -> str:
        """Where it is, without secrets."""
        return label_of(self._params)

    def connect(self) -> PostgresSession:
        """Open a session."""
        return PostgresSession(connect(self._params, self._limits), self._limits)

    def schema_of(self, table: Table) -> pa.Schema:
        """Arrow schema that reading `table` gives; RIVET_TYPE_UNSUPPORTED names every column it cannot read."""
        from rivet_dagster.sources.postgres.types import arrow_schema  # noqa: PLC0415 (pyarrow is paid for here)

        return arrow_schema(table)
