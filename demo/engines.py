"""The databases that the demo can run on, by the names that DEMO_ENGINE may have."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from demo import DemoError, load_mariadb, load_postgres
from demo.data import DATABASE
from demo.mariadb import MariaServer
from demo.postgres import EmbeddedPostgres

DEFAULT = "postgres"


class EngineError(DemoError):
    """DEMO_ENGINE names no database that the demo can run on."""


@dataclass(frozen=True)
class Engine:
    """One of the databases.

    Attributes:
        name: as DEMO_ENGINE has it.
        title: for people.
        schema: schema or database that holds the tables.
        options: what has to follow `make demo` and `make ui` for this one; begins with a blank.
        open: starts a private server over a folder, with a superuser's password, and fills it where it is not filled;
            gives the URL under which the demo exports, and stops the server in the end.
    """

    name: str
    title: str
    schema: str
    options: str
    open: Callable[[Path, str], AbstractContextManager[str]]


@contextlib.contextmanager
def _postgres(folder: Path, password: str) -> Iterator[str]:
    with EmbeddedPostgres(folder, password=password) as server:
        yield load_postgres.load(server, secrets.token_urlsafe())


@contextlib.contextmanager
def _mariadb(folder: Path, password: str) -> Iterator[str]:
    with MariaServer(folder, password=password) as server:
        yield load_mariadb.load(server, secrets.token_urlsafe())


ENGINES = {
    engine.name: engine
    for engine in (
        Engine(DEFAULT, "PostgreSQL", "public", "", _postgres),
        Engine("mariadb", "MariaDB", DATABASE, " DEMO_ENGINE=mariadb", _mariadb),
    )
}


def chosen_engine() -> Engine:
    """The engine that the variable DEMO_ENGINE names; PostgreSQL where it is empty or missing.

    Raises:
        EngineError: there is no such engine.
    """
    name = os.environ.get("DEMO_ENGINE") or DEFAULT
    if name not in ENGINES:
        raise EngineError(f"DEMO_ENGINE is {name!r}, and the demo runs on one of: {', '.join(ENGINES)}.")
    return ENGINES[name]
