"""A folder on this machine or on a mounted file system, through obstore."""

from __future__ import annotations

import fcntl
import os
import re
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore as ObstoreLocalStore

from rivet_dagster.errors import ConfigError, StoreError
from rivet_dagster.stores.base import StoredObject

_BLOCK_BYTES = 4 << 20
# Blocks that obstore may hold at once while it copies a file: bounds the memory of a publication.
_BLOCKS_IN_FLIGHT = 2
_UNFINISHED = re.compile(r".+#[0-9]+")
_REFUSED = re.compile(r"permission denied|read-only file system|operation not permitted|not a directory", re.IGNORECASE)


class LocalStore:
    """Objects as files below a folder, which is created when the first object is written.

    obstore writes a file under a name that ends in `#` and a number, and renames it when it is whole. A killed
    process leaves such a file behind: the next one that writes to the folder, and is alone with it, removes it.
    """

    def __init__(self, uri: str) -> None:
        self._root = _folder_of(uri)
        self.uri = self._root.as_uri()
        self._opening = threading.Lock()
        self._opened: ObstoreLocalStore | None = None
        self._reading: ObstoreLocalStore | None = None

    def __repr__(self) -> str:
        return f"LocalStore({self.uri!r})"

    @property
    def _writable(self) -> ObstoreLocalStore:
        with self._opening:
            if self._opened is None:
                self._opened = ObstoreLocalStore(self._root, mkdir=True)
                self._announce_writer()
            return self._opened

    @property
    def _readable(self) -> ObstoreLocalStore | None:
        """None while there is no folder: reading must not create one."""
        if self._reading is None and self._root.is_dir():
            self._reading = ObstoreLocalStore(self._root)
        return self._reading

    def _announce_writer(self) -> None:
        """Share a lock on the folder for as long as this object lives; who is alone with it clears it up first."""
        with suppress(OSError):  # some network file systems have no locks: then nothing is cleared
            folder = os.open(self._root, os.O_RDONLY)
            weakref.finalize(self, os.close, folder)
            with suppress(BlockingIOError):
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _clear_unfinished(self._root)
            fcntl.flock(folder, fcntl.LOCK_SH)

    def url(self, path: str) -> str:
        """`file://` address of an object."""
        return f"{self.uri}/{path}"

    def get(self, path: str) -> bytes | None:
        """The object's bytes; None if there is none."""
        store = self._readable
        if store is None:
            return None
        with _translated("read", self.url(path)):
            try:
                return bytes(obstore.get(store, path).bytes())
            except (FileNotFoundError, NotADirectoryError):
                return None

    def read(self, path: str) -> Iterator[bytes]:
        """The object's bytes, block by block."""
        store = self._readable
        with _translated("read", self.url(path)):
            try:
                if store is None:
                    raise FileNotFoundError(path)
                for block in obstore.get(store, path).stream(min_chunk_size=_BLOCK_BYTES):
                    yield bytes(block)
            except FileNotFoundError:
                raise StoreError(
                    "RIVET_STORE_MISSING",
                    f"There is no object {self.url(path)}.",
                    "Validate the export and export the window again.",
                ) from None

    def put(self, path: str, data: bytes) -> None:
        """Write a small object over whatever is there."""
        with _translated("write", self.url(path)):
            obstore.put(self._writable, path, data, use_multipart=False)

    def create(self, path: str, data: bytes) -> bool:
        """Write a small object unless there is one already."""
        with _translated("write", self.url(path)):
            try:
                obstore.put(self._writable, path, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
            return True

    def replace(self, path: str, data: bytes, before: bytes | None) -> bool:
        """Write a small object over `before`, unless something else is there by now.

        Writers of a folder's objects wait for one another. Some network file systems have no locks: there, whoever
        writes last wins.
        """
        if before is None:
            return self.create(path, data)
        with self._alone(path):
            if self.get(path) != before:
                return False
            self.put(path, data)
            return True

    @contextmanager
    def _alone(self, path: str) -> Iterator[None]:
        """Alone with the folder of an object, among those who ask to be."""
        folder = os.open((self._root / path).parent, os.O_RDONLY)
        try:
            with suppress(OSError):
                fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def put_file(self, path: str, source: Path) -> None:
        """Publish a local file; it becomes visible as a whole by a rename."""
        with _translated("write", self.url(path)):
            obstore.put(
                self._writable,
                path,
                source,
                chunk_size=_BLOCK_BYTES,
                max_concurrency=_BLOCKS_IN_FLIGHT,
            )

    def size(self, path: str) -> int | None:
        """The object's size in bytes; None if there is none."""
        store = self._readable
        if store is None:
            return None
        with _translated("read", self.url(path)):
            try:
                return obstore.head(store, path)["size"]
            except (FileNotFoundError, NotADirectoryError):
                return None

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Objects below the folder `prefix`."""
        store = self._readable
        if store is None:
            return
        with _translated("list", self.url(prefix)):
            for batch in obstore.list(store, prefix):
                for meta in batch:
                    yield StoredObject(meta["path"], meta["size"], meta["last_modified"])

    def move(self, path: str, to: str) -> None:
        """Give an object another path; harmless if there is none."""
        with _translated("move", self.url(path)), suppress(FileNotFoundError):
            obstore.rename(self._writable, path, to)

    def delete(self, path: str) -> None:
        """Remove an object; harmless if there is none."""
        store = self._readable
        if store is None:
            return
        with _translated("delete", self.url(path)):
            try:
                obstore.delete(store, path)
            except FileNotFoundError:
                return


def _clear_unfinished(root: Path) -> None:
    for path in root.rglob("*#*"):
        if _UNFINISHED.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def _folder_of(uri: str) -> Path:
    parts = urlsplit(uri)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise ConfigError(
                "RIVET_CONFIG_DESTINATION",
                f"{uri} names a host, and a file address cannot.",
                "Write file:///folder with three slashes.",
            )
        return Path(unquote(parts.path))
    return Path(uri).expanduser().absolute()


@contextmanager
def _translated(action: str, url: str) -> Iterator[None]:
    """Raise what obstore and the operating system say as typed errors."""
    try:
        yield
    except (BaseError, OSError) as exc:
        reason = str(exc).split("\n", 1)[0]
        if action != "read" and (isinstance(exc, PermissionError) or _REFUSED.search(reason)):
            raise StoreError(
                "RIVET_STORE_NOT_WRITABLE",
                f"The destination refused to {action} {url}: {reason}.",
                "Give the user that runs the export the right to create files there, or choose another destination.",
                fatal=True,
            ) from exc
        raise StoreError(
            "RIVET_STORE_FAILED",
            f"The destination failed to {action} {url}: {reason}.",
            "Check the destination's disk and rights, then run the export again: finished windows are kept.",
            retryable=True,
        ) from exc
