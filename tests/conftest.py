"""Fixtures that every kind of test shares: real servers, and a database of its own for each test."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest
from pymysql.connections import Connection

from demo.mariadb import MariaServer
from demo.postgres import EmbeddedPostgres
from tests.support.databases import Databases
from tests.support.debian import DebianPostgres

PASSWORD = "s3cr3t/pass@word"  # needs percent-encoding in an address


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """One server for the whole session. Without fsync: what is tested is not this server's durability."""
    server = EmbeddedPostgres(
        tmp_path_factory.mktemp("postgres") / "server",
        password=PASSWORD,
        settings={"fsync": "off", "full_page_writes": "off", "shared_buffers": "256MB", "max_wal_size": "4GB"},
    )
    with server:
        yield server
    server.destroy()


@pytest.fixture(scope="session")
def databases(postgres: EmbeddedPostgres) -> Databases:
    """That server's empty databases."""
    return Databases(postgres)


@pytest.fixture
def dsn(postgres: EmbeddedPostgres, databases: Databases) -> Iterator[str]:
    """Address of an empty database."""
    with databases.one() as name:
        yield postgres.dsn(name)


@contextmanager
def empty_database(server: EmbeddedPostgres) -> Iterator[str]:
    """Name of a database of its own, dropped in the end."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
        yield name
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")  # type: ignore[call-overload]


@pytest.fixture(scope="session")
def debian_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DebianPostgres]:
    """One server out of the distribution's programs, for the whole session.

    Without autovacuum: what it cleans up would end readers of a standby at moments of its own choosing.
    """
    server = DebianPostgres(
        tmp_path_factory.mktemp("debian") / "server",
        password=PASSWORD,
        settings={"fsync": "off", "autovacuum": "off", "shared_buffers": "64MB"},
    )
    with server:
        yield server
    server.destroy()


@pytest.fixture
def debian_dsn(debian_postgres: DebianPostgres) -> Iterator[str]:
    """Address of an empty database there."""
    with empty_database(debian_postgres) as name:
        yield debian_postgres.dsn(name)


@pytest.fixture
def database(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection to that database, as its owner, in autocommit."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """A folder to export to; it does not exist yet."""
    return tmp_path / "lake"


@pytest.fixture
def sql(database: psycopg.Connection[Any]) -> Callable[[str], list[tuple[Any, ...]]]:
    """Run SQL as the owner; gives the rows, if any."""

    def run(statement: str) -> list[tuple[Any, ...]]:
        cursor = database.execute(statement)  # type: ignore[call-overload]
        return list(cursor.fetchall()) if cursor.description else []

    return run


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaServer]:
    """One MariaDB server for the whole session, out of the distribution's programs."""
    server = MariaServer(
        tmp_path_factory.mktemp("mariadb") / "server",
        password=PASSWORD,
        settings={"innodb_flush_log_at_trx_commit": "0", "character_set_server": "utf8mb4"},
    )
    with server:
        yield server
    server.destroy()


@pytest.fixture
def mysql_dsn(mariadb: MariaServer) -> Iterator[str]:
    """Address of an empty database on MariaDB."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with mariadb.connect() as admin, admin.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
        yield mariadb.dsn(name)
        # Whoever still holds a table open there would block the drop.
        cursor.execute("SELECT id FROM information_schema.processlist WHERE db = %s", [name])
        for (session,) in cursor.fetchall():
            with suppress(pymysql.MySQLError):  # it may have ended by itself
                cursor.execute("KILL %s", [session])
        cursor.execute(f"DROP DATABASE {name}")


@pytest.fixture
def mysql_database(mariadb: MariaServer, mysql_dsn: str) -> Iterator[Connection[Any]]:
    """A connection to that database, as its owner, in autocommit."""
    with mariadb.connect(mysql_dsn.rpartition("/")[2]) as connection:
        yield connection


@pytest.fixture
def mysql_sql(mysql_database: Connection[Any]) -> Callable[[str], list[tuple[Any, ...]]]:
    """Run SQL as the owner there; gives the rows, if any."""

    def run(statement: str) -> list[tuple[Any, ...]]:
        with mysql_database.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    return run
