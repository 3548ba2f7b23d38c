"""Databases of PostgreSQL, one for each test. To make one costs a fifth of a second, to empty one far less."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg

from demo.postgres import EmbeddedPostgres

_ALONE: Final = """
SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_EMPTY: Final = """
DO $$
DECLARE schema name;
BEGIN
    FOR schema IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' LOOP
        EXECUTE format('DROP SCHEMA %I CASCADE', schema);
    END LOOP;
END $$;
CREATE SCHEMA public AUTHORIZATION pg_database_owner;
GRANT USAGE ON SCHEMA public TO PUBLIC
"""
_CATALOGS: Final = (
    "pg_am",
    "pg_cast",
    "pg_class",
    "pg_collation",
    "pg_conversion",
    "pg_event_trigger",
    "pg_extension",
    "pg_foreign_data_wrapper",
    "pg_foreign_server",
    "pg_language",
    "pg_opclass",
    "pg_operator",
    "pg_opfamily",
    "pg_proc",
    "pg_publication",
    "pg_transform",
    "pg_ts_config",
    "pg_ts_dict",
    "pg_ts_parser",
    "pg_ts_template",
    "pg_type",
)
# What users make has a number of 16384 or more. Schemas of temporary tables stay, empty, by the server's own design.
_LEFT: Final = f"""
SELECT {" + ".join(f"(SELECT count(*) FROM {catalog} WHERE oid >= 16384)" for catalog in _CATALOGS)}
    + (SELECT count(*) FROM pg_namespace WHERE oid >= 16384 AND nspname <> 'public' AND nspname !~ '^pg_(toast_)?temp_')
    + (SELECT count(*) FROM pg_largeobject_metadata) + (SELECT count(*) FROM pg_default_acl)
    + (SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database())
    + (SELECT count(*) FROM pg_replication_slots WHERE database = current_database())
    + (SELECT count(*) FROM pg_db_role_setting JOIN pg_database AS d ON d.oid = setdatabase
          WHERE datname = current_database())
    + (SELECT count(*) FROM pg_database WHERE datname = current_database()
          AND (datacl IS NOT NULL OR datconnlimit <> -1 OR datdba <> 10 OR NOT datallowconn))
"""


class Databases:
    """Empty databases of one server. What a test leaves in one that schemas do not hold, ends it."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self._server = server
        self._free: list[str] = []

    @contextmanager
    def one(self) -> Iterator[str]:
        """Name of an empty database, nobody else's meanwhile."""
        name = self._free.pop() if self._free else self._made()
        yield name
        if self._emptied(name):
            self._free.append(name)
        else:
            self._run(f"DROP DATABASE {name} WITH (FORCE)")

    def _made(self) -> str:
        name = f"test_{uuid.uuid4().hex[:12]}"
        self._run(f"CREATE DATABASE {name}")
        return name

    def _emptied(self, name: str) -> bool:
        try:
            with psycopg.connect(self._server.dsn(name), autocommit=True, options="-c lock_timeout=5s") as owner:
                for statement in (_ALONE, _EMPTY):
                    owner.execute(statement.encode())
                left: tuple[Any, ...] | None = owner.execute(_LEFT.encode()).fetchone()
        except psycopg.Error:
            return False
        return left == (0,)

    def _run(self, statement: str) -> None:
        with psycopg.connect(self._server.dsn(), autocommit=True) as admin:
            admin.execute(statement.encode())
