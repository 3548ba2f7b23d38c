"""As whom a PostgreSQL server is read: the role, and what it may do beside reading tables."""

from __future__ import annotations

from contextlib import closing
from typing import Any, Final

from rivet_dagster.sources.base import SourceLimits
from rivet_dagster.sources.postgres.connect import connect
from rivet_dagster.sources.postgres.failures import translated
from rivet_dagster.sources.vitals import Identity

# A superuser may do all there is, so that only this is said of one.
RIGHTS: Final = """
SELECT r.rolname::text,
       CASE WHEN r.rolsuper THEN ARRAY['superuser']
            ELSE array_remove(ARRAY[CASE WHEN r.rolbypassrls THEN 'BYPASSRLS' END,
                                    CASE WHEN r.rolcreatedb THEN 'CREATEDB' END,
                                    CASE WHEN r.rolcreaterole THEN 'CREATEROLE' END,
                                    CASE WHEN r.rolreplication THEN 'REPLICATION' END], NULL)
                 || ARRAY(SELECT p.rolname::text
                            FROM pg_catalog.pg_roles AS p
                           WHERE p.rolname IN ('pg_monitor', 'pg_read_all_data',
                                               'pg_read_all_stats', 'pg_write_all_data')
                             AND pg_catalog.pg_has_role(p.oid, 'USAGE')
                           ORDER BY 1)
       END
  FROM pg_catalog.pg_roles AS r
 WHERE r.rolname = session_user
"""
EXCESSIVE: Final = frozenset(("superuser", "CREATEDB", "CREATEROLE", "REPLICATION", "pg_write_all_data"))


def identity_of(params: dict[str, Any], limits: SourceLimits) -> Identity:
    """Who is logged in with these parameters, as the server that answers sees it.

    Raises:
        SourceError: as in `connect`, and what the server says.
    """
    with closing(connect(params, limits)) as connection:
        with translated("asking for the user's rights"):
            row = connection.execute(RIGHTS).fetchone()
        assert row is not None
        user, rights = row
        # Of this end: behind a pooler the server sees another connection.
        encrypted = bool(connection.pgconn.ssl_in_use)
    return Identity(user, encrypted, tuple(rights), tuple(right for right in rights if right in EXCESSIVE))
