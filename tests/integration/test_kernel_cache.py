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


@pytest.fixture
def orders(dsn: str, sql: Callable[[str], Any]) -> list[str]:
    sql("CREATE TABLE public.orders (id int PRIMARY KEY, note text, amount numeric(12,2), at timestamptz, tags text[])")
    sql("INSERT INTO public.orders SELECT n, 'order ' || n, n, now(), '{a,b}' FROM generate_series(1, 3000) AS n")
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


def test_warming_an_image_serves_those_who_cannot_write_to_it(
    installed: Path, orders: list[str], tmp_path: Path
) -> None:
    run(installed, tmp_path / "builder", "warm")
    assert list(installed.rglob("*.nbi"))
    freeze(installed)
    try:
        _, loaded, saved = run(installed, tmp_path / "user", *orders, "--to", str(tmp_path / "lake"))
    finally:
        freeze(installed, writable=True)
    assert (loaded > 0, saved) == (True, 0)


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
