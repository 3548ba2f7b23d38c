"""What the export asks of a destination: atomic puts, create-only puts, reads and listings below one folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class StoredObject:
    """One object of a listing: its path below the store's root and its size in bytes."""

    path: str
    size: int


class Store(Protocol):
    """Objects below one folder. Paths are relative to it, with `/` between their parts.

    A put is atomic: a reader sees the whole new object, or what was there before. Every method raises `StoreError`
    for what the destination refuses, and is safe to call from several threads.
    """

    uri: str
    """Where the root is, without secrets."""

    def url(self, path: str) -> str:
        """Address of an object for people and other tools."""
        ...

    def get(self, path: str) -> bytes | None:
        """The object's bytes; None if there is none."""
        ...

    def read(self, path: str) -> Iterator[bytes]:
        """The object's bytes in blocks of some megabytes; RIVET_STORE_MISSING if there is none."""
        ...

    def put(self, path: str, data: bytes) -> None:
        """Write a small object over whatever is there."""
        ...

    def create(self, path: str, data: bytes) -> bool:
        """Write a small object unless there is one already; says whether it was written."""
        ...

    def put_file(self, path: str, source: Path) -> None:
        """Publish a local file over whatever is there, in bounded memory."""
        ...

    def size(self, path: str) -> int | None:
        """The object's size in bytes; None if there is none."""
        ...

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Objects below the folder `prefix`, in no particular order."""
        ...

    def delete(self, path: str) -> None:
        """Remove an object; harmless if there is none."""
        ...
