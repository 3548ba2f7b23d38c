"""The tests' own databases: each is empty, however it was left."""

from __future__ import annotations

import psycopg
import pytest

from demo.postgres import EmbeddedPostgres
from tests.support.databases import Databases

CLEAN = """
SELECT array_agg(nspname || pg_get_userbyid(nspowner) || nspacl::text ORDER BY nspname),
       (SELECT count(*) FROM pg_class WHERE relnamespace <> ALL (ARRAY(
           SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_' OR nspname = 'information_schema')))
  FROM pg_namespace WHERE nspname !~ '^pg_'
"""


@pytest.mark.parametrize(
    ("left", "used_again"),
    [
        ("SELECT 1", True),
        ("CREATE TABLE public.t (id serial PRIMARY KEY, note text)", True),
        (
            "CREATE SCHEMA other; CREATE TYPE other.mood AS ENUM ('good');"
            " CREATE VIEW public.v AS SELECT 'good'::other.mood",
            True,
        ),
        ("REVOKE ALL ON SCHEMA public FROM PUBLIC; DROP SCHEMA public", True),
        ("CREATE TEMPORARY TABLE t (id int)", True),
        ("SELECT lo_create(0)", False),
        ("CREATE PUBLICATION p FOR ALL TABLES", False),
        ("CREATE EXTENSION hstore SCHEMA pg_catalog", False),
        ("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = 1000', current_database()); END $$", False),
        ("DO $$ BEGIN EXECUTE format('REVOKE CONNECT ON DATABASE %I FROM PUBLIC', current_database()); END $$", False),
        ("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC", False),
    ],
)
def test_what_a_test_leaves_is_gone(postgres: EmbeddedPostgres, left: str, used_again: bool) -> None:
    databases = Databases(postgres)
    with databases.one() as first, psycopg.connect(postgres.dsn(first), autocommit=True) as owner:
        fresh = owner.execute(CLEAN.encode()).fetchone()
        owner.execute(left.encode())
    with databases.one() as second, psycopg.connect(postgres.dsn(second), autocommit=True) as owner:
        assert owner.execute(CLEAN.encode()).fetchone() == fresh
        assert (first == second) is used_again


def test_a_session_that_is_still_there_is_ended(postgres: EmbeddedPostgres) -> None:
    databases = Databases(postgres)
    with databases.one() as first:
        forgotten = psycopg.connect(postgres.dsn(first))
        forgotten.execute("CREATE TABLE public.held (id int)")
    with databases.one() as second:
        assert second == first
        with pytest.raises(psycopg.OperationalError):
            forgotten.execute("SELECT 1")
        forgotten.close()
