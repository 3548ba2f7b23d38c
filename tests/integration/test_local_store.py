"""The local store: atomic and create-only puts, unfinished files of killed writers, refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rivet_dagster.errors import ConfigError, StoreError
from rivet_dagster.stores import open_store
from rivet_dagster.stores.local import LocalStore


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "lake"


def test_objects_come_back(folder: Path) -> None:
    store = open_store(str(folder))
    assert store.get("a/b.json") is None
    assert list(store.list("a")) == []
    assert not folder.exists(), "reading creates nothing"
    store.put("a/b.json", b"one")
    store.put("a/b.json", b"two")
    assert store.get("a/b.json") == b"two"
    assert store.size("a/b.json") == 3
    assert [(stored.path, stored.size) for stored in store.list("a")] == [("a/b.json", 3)]
    store.delete("a/b.json")
    store.delete("a/b.json")
    assert store.size("a/b.json") is None


def test_create_only_writes_once(folder: Path) -> None:
    store = open_store(folder.as_uri())
    assert store.create("plan/1.json", b"first")
    assert not store.create("plan/1.json", b"second")
    assert store.get("plan/1.json") == b"first"


def test_large_files_are_published_whole(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "spool"
    source.write_bytes(os.urandom(23 << 20))
    store = open_store(str(folder))
    store.put_file("data/part", source)
    assert b"".join(store.read("data/part")) == source.read_bytes()


def test_a_missing_object_is_named(folder: Path) -> None:
    with pytest.raises(StoreError) as caught:
        list(open_store(str(folder)).read("data/part"))
    assert caught.value.code == "RIVET_STORE_MISSING"
    assert "data/part" in caught.value.what


def test_what_a_killed_writer_left_is_cleared_by_the_next(folder: Path) -> None:
    (folder / "g1/data").mkdir(parents=True)
    left, kept = folder / "g1/data/part.parquet#1", folder / "g1/data/note#one"
    left.write_bytes(b"half")
    kept.write_bytes(b"not ours")
    store = open_store(str(folder))
    store.get("manifest.json")
    assert left.exists(), "a reader removes nothing"
    store.put("manifest.json", b"{}")
    assert not left.exists()
    assert kept.exists()


def test_a_writer_that_lives_keeps_its_files(folder: Path) -> None:
    other = LocalStore(str(folder))
    other.put("a", b"1")
    unfinished = folder / "part.parquet#1"
    unfinished.write_bytes(b"half")
    code = f"from rivet_dagster.stores import open_store; open_store({str(folder)!r}).put('b', b'2')"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert unfinished.exists(), "another process is not alone while this one may be writing"
    del other
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not unfinished.exists()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError) as caught:
        open_store(str(tmp_path / "file/lake")).put("a", b"1")
    assert caught.value.code == "RIVET_STORE_NOT_WRITABLE"
    assert caught.value.fatal


@pytest.mark.parametrize("uri", ["ftp://host/lake", "file://host/lake"])
def test_other_addresses_are_refused(uri: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(uri)
    assert caught.value.code == "RIVET_CONFIG_DESTINATION"
