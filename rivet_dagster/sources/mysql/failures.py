"""MySQL's and MariaDB's errors as typed errors, without secrets."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from pymysql import err

from rivet_dagster.errors import SourceError

_TRANSIENT_ADVICE = "It is tried again; if it goes on, look at the server's log and load."
_RIGHTS_ADVICE = "Grant SELECT on the whole table to this user, or export a view of the columns that it may read."

# Error number -> (code, advice). The server's own message says what happened.
_FATAL = {
    1044: ("RIVET_SOURCE_AUTH", "Check the user's rights to this database."),
    1045: ("RIVET_SOURCE_AUTH", "Check the user, the password and the host that the user may come from."),
    1049: ("RIVET_SOURCE_DATABASE_MISSING", "Check the database's name in the source's address."),
    1054: ("RIVET_SOURCE_COLUMN_MISSING", "A column was dropped or renamed since the plan was made: plan anew."),
    1130: ("RIVET_SOURCE_AUTH", "Let the server accept this host for the user."),
    1142: ("RIVET_SOURCE_FORBIDDEN", _RIGHTS_ADVICE),
    1143: ("RIVET_SOURCE_FORBIDDEN", _RIGHTS_ADVICE),
    1146: ("RIVET_SOURCE_TABLE_MISSING", "Check the database and the table's name, in the case it was made with."),
    1227: ("RIVET_SOURCE_FORBIDDEN", _RIGHTS_ADVICE),
    1251: ("RIVET_SOURCE_AUTH", "Give the user an authentication plugin that this client has."),
    1698: ("RIVET_SOURCE_AUTH", "Check the user, the password and the host that the user may come from."),
    1820: ("RIVET_SOURCE_AUTH", "The user's password has expired: set a new one."),
    1862: ("RIVET_SOURCE_AUTH", "The user's password has expired: set a new one."),
    2059: ("RIVET_SOURCE_AUTH", "Give the user an authentication plugin that this client has."),
    3118: ("RIVET_SOURCE_AUTH", "The user's account is locked: unlock it."),
    4151: ("RIVET_SOURCE_AUTH", "The user's account is locked: unlock it."),
}
# The server is there and knows the user, but takes nobody in at the moment.
_BUSY = {1040, 1053, 1129, 1203, 1226}
_LOCKED = {1205}
# The statement ran for too long, or was ended from elsewhere.
_TIMEOUTS = {1317, 1969, 3024}
# Lost connections, servers that go down, and what a new snapshot mends: deadlocks, tables that were changed.
_LOST = {
    1020,
    1043,
    1053,
    1077,
    1079,
    1152,
    1158,
    1159,
    1160,
    1161,
    1184,
    1213,
    1412,
    1615,
    1927,
    2006,
    2013,
    2055,
    4031,
}
_TLS = {2026}
# Errors of TLS that are a lost connection.
_BROKEN_OFF = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)


def number_of(exc: err.MySQLError) -> int:
    """The error's number; 0 for one without."""
    return exc.args[0] if exc.args and isinstance(exc.args[0], int) else 0


def describe(exc: err.MySQLError) -> str:
    """The server's or the driver's message, one line."""
    message = str(exc.args[-1]) if exc.args else ""
    return message.strip().split("\n", 1)[0].rstrip(".") or type(exc).__name__


def connect_failure(exc: err.MySQLError, label: str, password: str) -> SourceError:
    """Why a connection could not be made."""
    number, reason = number_of(exc), describe(exc)
    if password:
        reason = reason.replace(password, "****")
    cause = getattr(exc, "original_exception", None)
    if number in _TLS or (isinstance(cause, ssl.SSLError) and not isinstance(cause, _BROKEN_OFF)):
        return SourceError(
            "RIVET_SOURCE_TLS",
            f"No verified TLS connection to {label}: {reason}.",
            "Give the server's certificate authority as ssl-ca; or, where plain text is meant, ssl-mode=DISABLED.",
            fatal=True,
        )
    if number in _BUSY:
        return SourceError(
            "RIVET_SOURCE_UNREACHABLE",
            f"{label} takes no connection at the moment: {reason}.",
            "Raise the limit of connections that it names, or use fewer workers.",
            retryable=True,
        )
    if number in _FATAL:
        code, advice = _FATAL[number]
        return SourceError(code, f"{label} refused the connection: {reason}.", advice, fatal=True)
    return SourceError(
        "RIVET_SOURCE_UNREACHABLE",
        f"{label} cannot be reached: {reason}.",
        "Check host, port and firewall, and that the server runs.",
        retryable=True,
    )


def unintelligible(exc: Exception, label: str) -> SourceError:
    """What listens at an address, or stands between, does not speak the protocol."""
    return SourceError(
        "RIVET_SOURCE_UNREACHABLE",
        # Without the error's text, which may quote what was sent.
        f"What answers at {label} does not speak MySQL's protocol ({type(exc).__name__}).",
        "Check host and port.",
        retryable=True,
    )


def failure(exc: err.MySQLError, doing: str) -> SourceError:
    """What the server said while `doing`, e.g. "reading shop.orders"."""
    number = number_of(exc)
    what = f"The server failed {doing}: {describe(exc)}" + (f" (error {number})." if number else ".")
    if number in _FATAL:
        code, advice = _FATAL[number]
        return SourceError(code, what, advice, fatal=True)
    if number in _TIMEOUTS:
        return SourceError("RIVET_SOURCE_TIMEOUT", what, "It is tried again with smaller pages.", retryable=True)
    if number in _LOCKED:
        return SourceError("RIVET_SOURCE_LOCKED", what, _TRANSIENT_ADVICE, retryable=True)
    if number in _LOST or isinstance(exc, err.InterfaceError) or (not number and isinstance(exc, err.OperationalError)):
        return SourceError("RIVET_SOURCE_LOST", what, _TRANSIENT_ADVICE, retryable=True)
    if not number and isinstance(exc, err.InternalError):
        # The driver's own: a packet is not the next one.
        return SourceError("RIVET_PROTOCOL_ERROR", what, _TRANSIENT_ADVICE, retryable=True)
    return SourceError("RIVET_SOURCE_FAILED", what, "The server's log says more.")


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Raise PyMySQL's errors as typed errors."""
    try:
        yield
    except err.MySQLError as exc:
        # Not chained: a driver's traceback may carry values and addresses that an error must not show.
        raise failure(exc, doing) from None
