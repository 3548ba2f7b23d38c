"""Compiled kernels: made once, found again, also where the installed package cannot be written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.readers import sealed

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package without compiled code; its folder stands for site-packages."""
    place = tmp_path_factory.mktemp("site-packages")
    shutil.copytree(ROOT / "rivet_dagster", place / "rivet_dagster", ignore=shutil.ignore_patterns("__pycache__"))
    return place


def run(installed: Path, home: Path, *arguments: str) -> tuple[str, int, int]:
    """Run the command line from the copy, obeying file modes: its output, and how much code it loaded and saved."""
    home.mkdir(exist_ok=True)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "XDG_", "RIVET_"))}
    env |= {
        "PYTHONPATH": str(installed),
        "PYTHONDONTWRITEBYTECODE": "1",
        "NUMBA_DEBUG_CACHE": "1",
        "HOME": str(home),
        "TMPDIR": str(home),
    }
    dropped = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"] if os.geteuid() == 0 else []
    program = "import rivet_dagster; print(rivet_dagster.__file__); from rivet_dagster.cli import main; main()"
    # An editable installation would be found first otherwise.
    command = [
        *dropped,
        sys.executable,
        "-W",
        "error",
        "-c",
        f"import sys; sys.path.insert(0, {str(installed)!r}); {program}",
    ]
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, env=env, cwd=home, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert str(installed) in done.stdout.splitlines()[0] + done.stdout
    return done.stdout, done.stdout.count("[cache] data loaded"), done.stdout.count("[cache] data saved")


def freeze(folder: Path, *, writable: bool = False) -> None:
    for path in [folder, *folder.rglob("*")]:
        path.chmod((0o755 if writable else 0o555) if path.is_dir() else 0o644 if writable else 0o444)


EVERY_FORM = """
CREATE TABLE public.every_form (id int PRIMARY KEY, flag boolean, small smallint, big bigint, unsigned oid, wide xid8,
    single real, ratio double precision, amount numeric(12,2), whole numeric(9,0), great numeric(60,10), born date,
    clock time, local timestamp, at timestamptz, gap interval, key uuid, note text, raw bytea, doc jsonb, name name,
    flags boolean[], numbers bigint[], ratios double precision[], amounts numeric(12,2)[], days date[],
    moments timestamptz[], gaps interval[], keys uuid[], notes text[], raws bytea[], docs jsonb[]);
INSERT INTO public.every_form
SELECT n, n % 2 = 0, n, n, n::oid, n::text::xid8, n / 3.0, n / 7.0, n / 100.0, n, n / 7.0, DATE '2024-01-01' + n,
       TIME '00:00' + n * INTERVAL '1 second', TIMESTAMP '2024-01-01' + n * INTERVAL '1 hour',
       TIMESTAMPTZ '2024-01-01' + n * INTERVAL '1 hour', n * INTERVAL '1 hour', md5(n::text)::uuid, 'a "quoted" note',
       decode(md5(n::text), 'hex'), jsonb_build_object('n', n), 'name', '{t,NULL}', '{1,NULL}', '{0.5,NULL,NaN}',
       '{1.5,NULL}', '{2024-01-01,NULL}', '{2024-01-01 00:00:00+00,NULL}', '{1 day,NULL}',
       ARRAY[md5(n::text)::uuid, NULL], '{"a \\" b",NULL,""}', '{"\\\\x00ff",NULL}', ARRAY['{"a": 1}'::jsonb, NULL]
  FROM generate_series(1, 500) AS n;
INSERT INTO public.every_form (id) SELECT generate_series(501, 600)
"""


@pytest.fixture
def orders(dsn: str, sql: Callable[[str], Any]) -> list[str]:
    """A table that needs few kernels: what is compiled does not matter, only where it is kept."""
    sql("CREATE TABLE public.orders (id int PRIMARY KEY, note text)")
    sql("INSERT INTO public.orders SELECT n, 'order ' || n FROM generate_series(1, 3000) AS n")
    return ["export", "--source", dsn, "--table", "public.orders"]


@pytest.mark.parametrize("home_is_writable", [True, False])
def test_the_first_export_from_a_read_only_installation_compiles_once(
    installed: Path, orders: list[str], tmp_path: Path, home_is_writable: bool
) -> None:
    freeze(installed)
    home = tmp_path / "home"
    home.mkdir()
    if not home_is_writable:
        (home / ".cache").write_text("a file, where the cache folder would have to be")
    try:
        _, loaded, saved = run(installed, home, *orders, "--to", str(tmp_path / "first"))
        assert saved > 0
        assert loaded < saved
        _, loaded, saved = run(installed, home, *orders, "--to", str(tmp_path / "second"))
        assert saved == 0
        assert loaded > 0
    finally:
        freeze(installed, writable=True)
    assert not list(installed.rglob("*.nbi"))


def test_warming_an_image_serves_every_type_and_format_to_those_who_cannot_write_to_it(
    installed: Path, dsn: str, sql: Callable[[str], Any], tmp_path: Path
) -> None:
    for statement in EVERY_FORM.split(";\n"):
        sql(statement)
    run(installed, tmp_path / "builder", "warm")
    assert list(installed.rglob("*.nbi"))
    freeze(installed)
    arguments = ("export", "--source", dsn, "--table", "public.every_form", "--to")
    try:
        for parts_format, kernel in (("parquet", "pgcopy"), ("csv", "_csv_kernels.put_json_lists")):
            lake = tmp_path / parts_format
            said, loaded, saved = run(installed, tmp_path / "user", *arguments, str(lake), "--format", parts_format)
            assert kernel in said
            assert (loaded > 10, saved) == (True, 0)
            assert sealed(lake / "public.every_form")["rows"] == 600
    finally:
        freeze(installed, writable=True)


def test_a_foreign_folder_is_no_cache(installed: Path, orders: list[str], tmp_path: Path) -> None:
    """A folder that others may write to could make us load their code."""
    shutil.rmtree(installed / "rivet_dagster" / "__pycache__", ignore_errors=True)
    freeze(installed)
    home = tmp_path / "home"
    home.mkdir()
    (home / ".cache").write_text("no folder")
    open_to_all = home / f"rivet_dagster-{os.getuid()}"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    try:
        run(installed, home, *orders, "--to", str(tmp_path / "lake"))
    finally:
        freeze(installed, writable=True)
    assert not list(open_to_all.iterdir())
