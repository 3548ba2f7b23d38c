"""The PostgreSQL source: an address and limits, from which sessions are opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rivet_dagster.sources.base import Key, SourceLimits, Table, TypeChoices
from rivet_dagster.sources.postgres.connect import connect, label_of, parse_dsn
from rivet_dagster.sources.postgres.session import PostgresSession

if TYPE_CHECKING:
    import pyarrow as pa

    from rivet_dagster.sources.postgres.probe import PostgresProbe
    from rivet_dagster.sources.vitals import Identity


def warm() -> None:
    """Load the compiled code that reading PostgreSQL needs, once in a process."""
    from rivet_dagster.sources.postgres import warm as kernels  # noqa: PLC0415 (numba is paid for here)

    kernels.warm()


class PostgresSource:
    """A PostgreSQL database.

    Args:
        dsn: `postgresql://user:password@host:port/database?sslmode=...`, libpq's parameters as it knows them.
        limits: time-outs that the server enforces.
        types: what the user wants of the columns' types.

    Raises:
        ConfigError: RIVET_CONFIG_DSN.
    """

    engine = "postgresql"

    def __init__(self, dsn: str, limits: SourceLimits, types: TypeChoices) -> None:
        self._params = parse_dsn(dsn)
        self._limits = limits
        self._types = types

    def __repr__(self) -> str:
        return f"PostgresSource({self.label!r})"

    @property
    def label(self) -> str:
        """Where it is, without secrets."""
        return label_of(self._params)

    def connect(self) -> PostgresSession:
        """Open a session."""
        return PostgresSession(connect(self._params, self._limits), self._limits, self._types)

    def probe(self, table: Table | None = None, key: Key | None = None) -> PostgresProbe:
        """Look how the server is; connects when it is first looked."""
        from rivet_dagster.sources.postgres.probe import PostgresProbe  # noqa: PLC0415 (most exports need none)

        return PostgresProbe(self._params, table, key)

    def identity(self) -> Identity:
        """As whom it is read, and what that user may do."""
        from rivet_dagster.sources.postgres.identity import identity_of  # noqa: PLC0415 (most exports need none)

        return identity_of(self._params, self._limits)

    def warm(self) -> None:
        """Load the compiled code that reading needs."""
        warm()

    def schema_of(self, table: Table) -> pa.Schema:
        """Arrow schema that reading `table` gives; RIVET_CONFIG_COLUMN, RIVET_CONFIG_TYPE for impossible choices."""
        from rivet_dagster.sources.postgres.types import arrow_schema  # noqa: PLC0415 (pyarrow is paid for here)

        return arrow_schema(table, self._types)
