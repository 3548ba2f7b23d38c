"""Every snippet of the docs runs, in the order of its page, against a database with an orders table."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.mariadb import MariaServer
from tests.support.cli import rivet

ROOT = Path(__file__).parents[2]
SNIPPET = re.compile(r"^```(python|sh|sql)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [
    page for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if SNIPPET.search(page.read_text())
]


@pytest.fixture
def shop(
    dsn: str, sql: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Any]]:
    sql("CREATE TABLE public.orders (id int PRIMARY KEY, note text)")
    sql("INSERT INTO public.orders SELECT n, 'order ' || n FROM generate_series(1, 3000) AS n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PG_DSN", dsn)
    monkeypatch.setenv("LAKE", str(tmp_path / "lake"))
    yield sql
    sql("DROP OWNED BY rivet_reader") if sql("SELECT 1 FROM pg_roles WHERE rolname = 'rivet_reader'") else None
    sql("DROP ROLE IF EXISTS rivet_reader")


@pytest.fixture
def mysql_shop(mariadb: MariaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """A database called `shop`, as grants need to name it."""
    with mariadb.connect() as connection:

        def run(statement: str) -> Any:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall()

        run("CREATE DATABASE shop")
        run("USE shop")
        run("CREATE TABLE shop.orders (id int PRIMARY KEY, note text, shipped date)")
        run("INSERT INTO shop.orders SELECT seq, concat('order ', seq), '2024-02-29' FROM seq_1_to_3000")
        run("CREATE TABLE shop.visits (page varchar(20), at datetime(6))")
        run("INSERT INTO shop.visits SELECT concat('page ', seq MOD 7), now(6) FROM seq_1_to_3000")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("MYSQL_DSN", mariadb.dsn("shop"))
        yield run
        run("DROP DATABASE shop")
        run("DROP USER IF EXISTS rivet_reader@'%'")


def run_shell(text: str) -> None:
    for line in text.splitlines():
        program, *arguments = shlex.split(os.path.expandvars(line))
        assert program == "rivet-dagster", line
        done = rivet(*arguments)
        assert done.code == 0, (line, done.err)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_snippets_run(page: Path, request: pytest.FixtureRequest) -> None:
    snippets = SNIPPET.findall(page.read_text())
    engine = "MYSQL" if "MYSQL_DSN" in page.read_text() else "PG"
    shop = request.getfixturevalue("mysql_shop" if engine == "MYSQL" else "shop")
    schema = "shop" if engine == "MYSQL" else "public"
    database = os.environ[f"{engine}_DSN"].rpartition("/")[2]
    if not any("rivet-dagster export" in text for _, text in snippets):
        run_shell(f'rivet-dagster export --source "${engine}_DSN" --table {schema}.orders --to lake')
    for language, text in snippets:
        if language == "python":
            exec(compile(text, str(page), "exec"), {"__name__": "snippet"})
        elif language == "sql":
            for statement in text.replace("DATABASE shop", f"DATABASE {database}").split(";"):
                if statement.strip():
                    shop(statement)
        else:
            run_shell(text)


def test_the_least_privilege_of_the_docs_is_enough(
    shop: Callable[[str], Any], dsn: str, postgres: Any, tmp_path: Path
) -> None:
    page = (ROOT / "docs/how-to/least-privilege.md").read_text()
    database = dsn.rpartition("/")[2]
    for _, text in SNIPPET.findall(page):
        for statement in text.replace("DATABASE shop", f"DATABASE {database}").split(";"):
            if statement.strip():
                shop(statement)
    shop(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")
    reader = postgres.dsn(database, user="rivet_reader", password="choose one")
    done = rivet("export", "--source", reader, "--table", "public.orders", "--to", str(tmp_path / "other"))
    assert done.code == 0, done.err


def test_the_user_of_the_mysql_page_is_enough(
    mysql_shop: Callable[[str], Any], mariadb: MariaServer, tmp_path: Path
) -> None:
    page = (ROOT / "docs/how-to/mysql-and-mariadb.md").read_text()
    for language, text in SNIPPET.findall(page):
        for statement in text.split(";") if language == "sql" else ():
            if statement.strip():
                mysql_shop(statement)
    reader = mariadb.dsn("shop", user="rivet_reader", password="choose one")
    done = rivet("export", "--source", reader, "--table", "shop.orders", "--to", str(tmp_path / "lake"))
    assert done.code == 0, done.err
    refused = rivet("export", "--source", reader, "--table", "shop.visits", "--to", str(tmp_path / "lake"), "--whole")
    assert refused.code == 1
    assert "RIVET_SOURCE" in refused.err
