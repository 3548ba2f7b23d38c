"""Connections to PostgreSQL: addresses, TLS, time-outs."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from rivet_dagster.sources.addresses import is_local, malformed, place, refuse_ambiguous
from rivet_dagster.sources.base import ServerFacts, SourceLimits
from rivet_dagster.sources.postgres import templates
from rivet_dagster.sources.postgres.failures import connect_failure

APPLICATION_NAME = "rivet_dagster"

_SCHEME = "postgresql"

_DEFAULTS: dict[str, Any] = {
    # No application_name: a pooler would leave it on the server's connection to the next client that has none.
    "client_encoding": "UTF8",
    # Notice a dead peer within about a minute, also while only waiting for it.
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}


def parse_dsn(dsn: str) -> dict[str, Any]:
    """Connection parameters from an address, with verified TLS to every host that is not this machine.

    Raises:
        ConfigError: RIVET_CONFIG_DSN; the message never quotes the address, which may hold a password.
    """
    refuse_ambiguous(_SCHEME, dsn)
    try:
        given = conninfo_to_dict(dsn)
    except psycopg.Error:
        raise malformed(_SCHEME, "its parts cannot be told apart") from None
    if not all(port.isdecimal() for port in str(given.get("port") or "").split(",") if port):
        raise malformed(_SCHEME, "its port is not a number")
    params = {**_DEFAULTS, **given}
    # A driver's default is to fall back to plain text in silence: only this machine may be talked to like that.
    if "sslmode" not in params and not all(is_local(host) for host in _hosts(params)):
        params["sslmode"] = "verify-full"
        params.setdefault("sslrootcert", "system")
    return params


def _hosts(params: dict[str, Any]) -> list[str]:
    named = str(params.get("hostaddr") or params.get("host") or "")
    return named.split(",")


def label_of(params: dict[str, Any]) -> str:
    """Where the parameters lead, without secrets: `postgresql://host:5432/database`."""
    host = str(params.get("host") or params.get("hostaddr") or "localhost")
    port = params.get("port", 5432)
    return f"postgresql://{place(host, port)}/{params.get('dbname', '')}"


def connect(params: dict[str, Any], limits: SourceLimits) -> psycopg.Connection[tuple[Any, ...]]:
    """Open one connection, in autocommit so that transactions begin and end where the code says so.

    Raises:
        SourceError: RIVET_SOURCE_UNREACHABLE, RIVET_SOURCE_AUTH, RIVET_SOURCE_DATABASE_MISSING, RIVET_SOURCE_TLS.
    """
    options = {"connect_timeout": max(2, round(limits.connect_timeout_s)), **params}
    try:
        return psycopg.connect(**options, autocommit=True, prepare_threshold=None)
    except psycopg.Error as exc:
        raise connect_failure(exc, label_of(params), options.get("password")) from None


def application_name(connection: psycopg.Connection[tuple[Any, ...]]) -> str:
    """What transactions are called in the server's views: what the address says, or our own name."""
    return connection.info.get_parameters().get("application_name", APPLICATION_NAME)


def server_facts(connection: psycopg.Connection[tuple[Any, ...]]) -> ServerFacts:
    """What `connection` leads to; psycopg.Error as the server or the connection has it."""
    row = connection.execute(templates.SERVER).fetchone()
    assert row is not None
    version, standby, backend = row
    # Distributions add words of their own behind the number. A pooler hands out process ids, or keys in their
    # place, that are not those of the server process: pgBouncer and Odyssey alike.
    pooled = backend != connection.info.backend_pid
    marks = (("hot standby", standby), ("behind a connection pooler", pooled))
    return ServerFacts(f"PostgreSQL {version.split()[0]}", tuple(words for words, holds in marks if holds))
