"""Compiled code on disk, where several processes write it at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from rivet_dagster._jit import CodeFiles, kernel

WRITERS = 4


def code_files(folder: Path, function: str, source: str = "source") -> CodeFiles:
    """The files of a function, as another process would open them."""
    return CodeFiles(str(folder), f"module.{function}-1.py311", source)


def test_kernels_keep_their_code_so() -> None:
    def double(x: int) -> int:
        return 2 * x

    assert type(kernel(double)._cache._cache_file) is CodeFiles  # type: ignore[attr-defined]


def test_writers_at_once_never_give_each_other_s_code(tmp_path: Path) -> None:
    """Numba's own files do, within a few of these rounds."""
    with ThreadPoolExecutor(WRITERS) as pool:
        for number in range(100):
            ready = Barrier(WRITERS)

            def save(key: int, ready: Barrier = ready, function: str = f"f{number}") -> None:
                files = code_files(tmp_path, function)
                ready.wait()
                files.save(key, f"code for {key}")

            list(pool.map(save, range(WRITERS)))
            found = [code_files(tmp_path, f"f{number}").load(key) for key in range(WRITERS)]
            assert any(found), "the last writer's is there"
            assert all(code in (None, f"code for {key}") for key, code in enumerate(found))


def test_code_that_was_forgotten_is_kept_the_next_time(tmp_path: Path) -> None:
    for key in (1, 2, 1):
        code_files(tmp_path, "f").save(key, f"code for {key}")
    files = code_files(tmp_path, "f")
    assert [files.load(key) for key in (1, 2, 3)] == ["code for 1", "code for 2", None]


def test_code_of_an_older_source_is_not_found_and_goes(tmp_path: Path) -> None:
    code_files(tmp_path, "f", "old").save(1, "old")
    code_files(tmp_path, "other", "old").save(1, "another function's")
    files = code_files(tmp_path, "f", "new")
    assert files.load(1) is None
    files.save(1, "new")
    assert files.load(1) == "new"
    assert code_files(tmp_path, "other", "old").load(1) == "another function's"
    assert len(list(tmp_path.glob("module.f-*.nbc"))) == 1
