"""Spool folders: private, gone with their process, and never taken from one that lives."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rivet_dagster.export import spool
from rivet_dagster.export.spool import clear_orphans, spool_folder


def folders(base: Path) -> list[str]:
    return sorted(path.name for path in base.iterdir())


def test_it_is_private_and_gone_in_the_end(tmp_path: Path) -> None:
    with spool_folder(str(tmp_path / "made")) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "part").write_bytes(b"x")
        assert folders(tmp_path / "made") == [folder.name]
    assert folders(tmp_path / "made") == []


# However far the process came: a folder, its lock, files.
@pytest.mark.parametrize("left", [[], [".lock"], [".lock", "part"], ["part"]])
def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path, left: list[str]) -> None:
    orphan = tmp_path / "rivet-spool-orphan"
    orphan.mkdir(mode=0o700)
    for name in left:
        (orphan / name).touch()
    with spool_folder(str(tmp_path)) as folder:
        assert folders(tmp_path) == [folder.name]


def test_the_folder_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom rivet_dagster.export.spool import spool_folder\n"
        "with spool_folder(sys.argv[1]) as folder:\n    print(folder.name, flush=True)\n    sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        assert clear_orphans(tmp_path) == 0
        assert folders(tmp_path) == [name]
        process.kill()
        process.wait()
    assert clear_orphans(tmp_path) == 1
    assert folders(tmp_path) == []


@pytest.mark.parametrize("moment", ["before it is locked", "while it is locked"])
def test_a_new_folder_that_is_taken_for_an_orphan_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    locked, taken = spool._locked, []

    def locked_later(folder: Path) -> int:
        if not taken and moment == "before it is locked":
            taken.append(folder)
            spool.shutil.rmtree(folder)
        descriptor = locked(folder)
        if not taken:
            taken.append(folder)
            spool.shutil.rmtree(folder)
        return descriptor

    monkeypatch.setattr(spool, "_locked", locked_later)
    with spool_folder(str(tmp_path)) as folder:
        assert folder not in taken
        assert folders(tmp_path) == [folder.name]


def test_one_that_another_process_is_clearing_away_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked, held = spool._locked, []

    def locked_by_another_first(folder: Path) -> int:
        if not held:
            held.append((folder, locked(folder)))
        return locked(folder)

    monkeypatch.setattr(spool, "_locked", locked_by_another_first)
    with spool_folder(str(tmp_path)) as folder:
        assert folder != held[0][0]
    os.close(held[0][1])
    assert clear_orphans(tmp_path) == 1


def test_no_link_is_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").touch()
    base = tmp_path / "base"
    base.mkdir()
    (base / "rivet-spool-link").symlink_to(elsewhere)
    (base / "rivet-spool-file").touch()
    assert clear_orphans(base) == 0
    assert folders(elsewhere) == ["file"]
    assert folders(base) == ["rivet-spool-file", "rivet-spool-link"]


def test_many_at_once_never_lose_theirs(tmp_path: Path) -> None:
    """Each makes folders while all others look for orphans."""
    lost: list[str] = []

    def export() -> None:
        for _ in range(40):
            with spool_folder(str(tmp_path)) as folder:
                try:
                    (folder / "part").write_bytes(b"x")
                    assert (folder / "part").read_bytes() == b"x"
                except (OSError, AssertionError):
                    lost.append(folder.name)

    threads = [threading.Thread(target=export) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lost == []
    assert folders(tmp_path) == []
