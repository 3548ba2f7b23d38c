"""PostgreSQL's errors as typed errors, without secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import pq

from rivet_dagster.errors import SourceError

_AUTH_WORDS = re.compile(
    r"password authentication failed|no password supplied|authentication failed|"
    r"no pg_hba\.conf entry|role \".*\" does not exist|not permitted to log in|SCRAM",
    re.IGNORECASE,
)
_DATABASE_WORDS = re.compile(r'database "[^"]*" does not exist')

# The server is there and knows the user, but takes nobody in at the moment. Poolers say it without a SQLSTATE, and
# libpq keeps none for a connection that failed.
_BUSY_WORDS = re.compile(
    r"too many (clients|connections)|connection slots|no more connections allowed|max_client_conn|"
    r"is (starting up|shutting down|in recovery mode)|not (yet )?accepting connections|"
    r"server login has been failing|server_login_retry|query_wait_timeout|pgbouncer cannot connect",
    re.IGNORECASE,
)

# A standby ends readers that stand in the way of what it has to replay. 40001 has no other cause in a transaction that
# only reads, and 57P04 is a dropped database. A deadlock with the replay is 40P01 like any other, but for its words.
_CONFLICT_STATES = ("40001", "57P04")
_CONFLICT_WORDS = "conflict with recovery"

_TRANSIENT_CLASSES = ("08", "40", "53", "57", "58")
_TRANSIENT_ADVICE = "It is tried again; if it goes on, look at the server's log and load."

# What the server says of a row, or of the text of a value, that has more than the GiB that its buffers hold.
_TOO_LARGE_STATE = "54000"
_TOO_LARGE_WORDS = "invalid memory alloc request size"

# SQLSTATE -> (code, advice). The server's own message says what happened.
_BY_STATE = {
    "28000": ("RIVET_SOURCE_AUTH", "Check the user, the password and the server's pg_hba.conf."),
    "28P01": ("RIVET_SOURCE_AUTH", "Check the user and the password."),
    "3D000": ("RIVET_SOURCE_DATABASE_MISSING", "Check the database's name in the source's address."),
    "42P01": (
        "RIVET_SOURCE_TABLE_MISSING",
        "Check the schema and the table's name, in the case it was made with.",
    ),
    "42703": (
        "RIVET_SOURCE_COLUMN_MISSING",
        "A column was dropped or renamed since the plan was made: plan anew.",
    ),
    "42501": (
        "RIVET_SOURCE_FORBIDDEN",
        "Grant SELECT on the table and USAGE on its schema to this user; where row security hides rows from it, "
        "also BYPASSRLS.",
    ),
}

_ONCE_MORE = {
    "57014": ("RIVET_SOURCE_TIMEOUT", "It is tried again with smaller pages."),
    "55P03": ("RIVET_SOURCE_LOCKED", _TRANSIENT_ADVICE),
}


def describe(exc: psycopg.Error) -> str:
    """The server's primary message, or the driver's first line: without detail, which may quote rows."""
    message = exc.diag.message_primary or str(exc).strip().split("\n", 1)[0]
    return message.rstrip(".") or type(exc).__name__


def connect_failure(exc: psycopg.Error, label: str, password: str | None) -> SourceError:
    """Why a connection could not be made."""
    message = str(exc).strip()
    if password:
        message = message.replace(password, "****")
    reason = message.split("\n")[-1].rpartition("failed: ")[2].removeprefix("FATAL:").strip().rstrip(".")
    if _BUSY_WORDS.search(message):
        return SourceError(
            "RIVET_SOURCE_UNREACHABLE",
            f"{label} takes no connection at the moment: {reason}.",
            "Raise the limit of connections that it names, or use fewer workers.",
            retryable=True,
        )
    pgconn = exc.pgconn
    refused = pgconn is not None and (pgconn.needs_password or pgconn.used_password)
    if _DATABASE_WORDS.search(message):
        code, advice = _BY_STATE["3D000"]
        return SourceError(code, f"{label} refused the connection: {reason}.", advice, fatal=True)
    if _AUTH_WORDS.search(message) or (refused and "FATAL" in message):
        code, advice = _BY_STATE["28000"]
        return SourceError(code, f"{label} refused the user: {reason}.", advice, fatal=True)
    if re.search(r"certificate|SSL|root\.crt", message):
        return SourceError(
            "RIVET_SOURCE_TLS",
            f"No verified TLS connection to {label}: {reason}.",
            "Give the server's certificate authority as sslrootcert; or, where plain text is meant, sslmode=disable.",
            fatal=True,
        )
    return SourceError(
        "RIVET_SOURCE_UNREACHABLE",
        f"{label} cannot be reached: {reason}.",
        "Check host, port and firewall, and that the server runs.",
        retryable=True,
    )


def last_words(exc: psycopg.Error, pgconn: pq.abc.PGconn) -> psycopg.Error:
    """Why the server ended an idle connection, in place of an error that only says that the connection is gone.

    Of two errors, libpq's exec returns the last one. The first one, the server's, is then only in the connection's
    own message, without its SQLSTATE.
    """
    said = re.match(r"FATAL: +(.+)", pgconn.error_message.decode(errors="replace"))
    return psycopg.OperationalError(said[1]) if said and exc.sqlstate is None else exc


def failure(exc: psycopg.Error, doing: str) -> SourceError:
    """What the server said while `doing`, e.g. "reading public.orders"."""
    state = exc.sqlstate or ""
    what = f"The server failed {doing}: {describe(exc)}" + (f" (SQLSTATE {state})." if state else ".")
    if state in _BY_STATE:
        code, advice = _BY_STATE[state]
        return SourceError(code, what, advice, fatal=True)
    if state in _ONCE_MORE:
        code, advice = _ONCE_MORE[state]
        return SourceError(code, what, advice, retryable=True)
    if state in _CONFLICT_STATES or _CONFLICT_WORDS in what:
        return SourceError(
            "RIVET_SOURCE_CONFLICT",
            what,
            "It is tried again with smaller pages. If it goes on, raise max_standby_streaming_delay or turn on "
            "hot_standby_feedback on the standby, or lower page_bytes and plan fewer rows a window, so that snapshots "
            "end sooner.",
            retryable=True,
        )
    if state == _TOO_LARGE_STATE or _TOO_LARGE_WORDS in what:
        return SourceError(
            "RIVET_VALUE_TOO_LARGE",
            what,
            "A row of more than 1 GiB cannot be sent: export a query that leaves its largest values out.",
        )
    if state == "25P03" or state[:2] in _TRANSIENT_CLASSES or (not state and _is_connection_loss(exc)):
        return SourceError("RIVET_SOURCE_LOST", what, _TRANSIENT_ADVICE, retryable=True)
    return SourceError("RIVET_SOURCE_FAILED", what, "The server's log says more.")


def _is_connection_loss(exc: psycopg.Error) -> bool:
    """Whether an error without SQLSTATE is the connection's; a result cut short gives a bare DatabaseError."""
    return isinstance(exc, (psycopg.OperationalError, psycopg.InterfaceError)) or type(exc) is psycopg.DatabaseError


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Raise psycopg's errors as typed errors."""
    try:
        yield
    except psycopg.Error as exc:
        # Not chained: a driver's traceback may carry values and addresses that an error must not show.
        raise failure(exc, doing) from None
