"""What a model of an export's history is made of: how its table is cut, and what is committed, sealed, disturbed."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from unittest import mock

import pyarrow.parquet as pq

from rivet_dagster.export import faults
from rivet_dagster.export.config import ExportConfig, parse_config
from rivet_dagster.sources.base import KeyRange

Row = tuple[int, int, str]
Rows = tuple[Row, ...]
Place = tuple[int, str]  # a generation and the key of a window


@dataclass(frozen=True)
class Committed:
    """What a window's manifest must be, and the rows that its parts must hold."""

    work: str
    raw: bytes
    parts: tuple[str, ...]
    rows: Rows


@dataclass(frozen=True)
class Sealed:
    """What readers must see: windows in key order."""

    generation: int
    windows: tuple[tuple[str, Committed], ...]
    seal_id: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        """Paths of all parts."""
        return tuple(path for _, window in self.windows for path in window.parts)

    @property
    def rows(self) -> Rows:
        """Rows of all windows."""
        return tuple(row for _, window in self.windows for row in window.rows)


@dataclass(frozen=True)
class Shape:
    """How the table is cut: the mode, rows a window, of cursor windows the lag, and whether windows have many parts."""

    mode: str
    rows: int
    lag: int = 0
    many_parts: bool = False

    def config(self, table: str) -> ExportConfig:
        """The export's configuration."""
        windows = {"type": self.mode, "rows": self.rows}
        if self.mode == "cursor":
            windows |= {"column": "at", "lag": self.lag}
        config = parse_config({"table": f"public.{table}", "windows": windows, "limits": {"attempts": 1}})
        if not self.many_parts:
            return config
        # Far less than a user may ask for: a part ends with every few rows.
        small = config.format.model_copy(update={"row_group_bytes": 80, "part_bytes": 1})
        return config.model_copy(update={"format": small})

    def key(self, row: Row) -> tuple[int, ...]:
        """A row's place in the planned order."""
        return row[:1] if self.mode == "keyset" else (row[1], row[0])

    def within(self, rows: Rows, span: KeyRange) -> Rows:
        """Rows between the bounds of a window, which may compare only the first columns of the key."""
        lo, hi = (tuple(map(int, bound)) if bound else () for bound in (span.lo, span.hi))
        found = [row for row in rows if not lo or self.key(row)[: len(lo)] > lo]
        return tuple(sorted((row for row in found if self.key(row)[: len(hi)] <= hi), key=self.key))


@lru_cache(maxsize=4096)
def decoded(data: bytes) -> Rows:
    """Rows of a part."""
    table = pq.ParquetFile(io.BytesIO(data)).read()
    return tuple(zip(*(column.to_pylist() for column in table.columns), strict=True))


@contextmanager
def fault(point: str, key: str = "") -> Iterator[None]:
    """The export fails at the first passage of a point."""
    faults._passed.clear()
    rule = f"{point}@{key}:1:raise" if key else f"{point}:1:raise"
    with mock.patch.dict(os.environ, {"RIVET_FAULT": rule}):
        yield


@dataclass
class Interlude:
    """What happens while a run is at a point of one of its windows; `happened` says whether it came there."""

    point: str
    key: str
    action: Callable[[], None]
    happened: bool = False
    failed: list[Exception] = field(default_factory=list)

    def __call__(self, point: str, key: str = "") -> None:
        """In place of a fault point."""
        if self.happened or (point, key) != (self.point, self.key):
            return
        self.happened = True
        try:
            self.action()
        except Exception as exc:  # noqa: BLE001 (a run takes it for a failure of the window)
            self.failed.append(exc)
