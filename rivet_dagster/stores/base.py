"""What the export asks of a destination: atomic puts, create-only puts, reads and listings below one folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class StoredObject:
    """One object of a listing.

    Attributes:
        path: below the store's root.
        size: in bytes.
        modified: when it was written last, by the store's clock.
    """

    path: str
    size: int
    modified: datetime


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

    def replace(self, path: str, data: bytes, before: bytes | None) -> bool:
        """Write a small object over `before`, None being no object, unless something else is there by now.

        Says whether it was written.
        """
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

    def move(self, path: str, to: str) -> None:
        """Give an object another path; harmless if there is none."""
        ...

    def delete(self, path: str) -> None:
        """Remove an object; harmless if there is none."""
        ...
