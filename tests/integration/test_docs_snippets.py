"""Every snippet of the docs runs, in the order of its page, against a database with an orders table."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

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


def run_shell(text: str, dsn: str) -> None:
    for line in text.splitlines():
        program, *arguments = shlex.split(line.replace("$PG_DSN", dsn))
        assert program == "rivet-dagster", line
        done = rivet(*arguments)
        assert done.code == 0, (line, done.err)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_snippets_run(page: Path, shop: Callable[[str], Any], dsn: str) -> None:
    snippets = SNIPPET.findall(page.read_text())
    if not any("rivet-dagster export" in text for _, text in snippets):
        run_shell('rivet-dagster export --source "$PG_DSN" --table public.orders --to lake', dsn)
    for language, text in snippets:
        if language == "python":
            exec(compile(text, str(page), "exec"), {"__name__": "snippet"})
        elif language == "sql":
            for statement in text.replace("DATABASE shop", f"DATABASE {dsn.rpartition('/')[2]}").split(";"):
                if statement.strip():
                    shop(statement)
        else:
            run_shell(text, dsn)


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
