"""As whom a MySQL or MariaDB server is read: the account, and what it was granted."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from contextlib import closing
from typing import Final

from rivet_dagster.sources.base import SourceLimits
from rivet_dagster.sources.mysql.connect import Address, connect
from rivet_dagster.sources.mysql.failures import translated
from rivet_dagster.sources.mysql.statements import socket_of
from rivet_dagster.sources.vitals import Identity

USER: Final = "SELECT /* rivet_dagster */ CURRENT_USER()"
GRANTS: Final = "SHOW GRANTS"

# What stands behind TO is never looked at: MariaDB shows the hash of the password there.
_GRANT = re.compile(r"GRANT (?P<rights>.+?) ON (?P<scope>.+?) TO ")
_NONE: Final = "USAGE"
_EXCESSIVE: Final = frozenset(
    ("ALL PRIVILEGES", "ALTER", "CREATE", "CREATE USER", "DELETE", "DROP", "FILE", "INSERT", "SUPER", "UPDATE")
)


def identity_of(address: Address, limits: SourceLimits) -> Identity:
    """Who is logged in at an address, as the server that answers sees it.

    Raises:
        SourceError: as in `connect`, and what the server says.
    """
    with closing(connect(address, limits)) as connection, translated("asking for the user's rights"):
        with connection.cursor() as cursor:
            cursor.execute(USER)
            (user,) = cursor.fetchone() or ("",)
            cursor.execute(GRANTS)
            granted = [str(row[0]) for row in cursor.fetchall()]
        encrypted = isinstance(socket_of(connection), ssl.SSLSocket)
    found = [pair for line in granted for pair in rights_in(line)]
    excessive = tuple(f"{right} on {scope}" for right, scope in found if right.partition(" (")[0] in _EXCESSIVE)
    return Identity(str(user), encrypted, tuple(f"{right} on {scope}" for right, scope in found), excessive)


def rights_in(line: str) -> Iterator[tuple[str, str]]:
    """The rights that a line of SHOW GRANTS gives, each with what it is on; none of one that gives a role."""
    found = _GRANT.match(line)
    if found is None:
        return
    # Names of columns in brackets have commas between them, too.
    for right in re.split(r", (?![^(]*\))", found["rights"]):
        if right != _NONE:
            yield right, found["scope"]
