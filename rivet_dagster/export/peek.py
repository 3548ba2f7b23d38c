"""A few rows of a small table, as Python values: what people write into a table of requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rivet_dagster._memory import import_arrow
from rivet_dagster.export.config import ExportConfig
from rivet_dagster.export.retry import with_session
from rivet_dagster.sources import open_source
from rivet_dagster.sources.base import BatchLimits, KeyRange, Session
from rivet_dagster.sources.ordering import check_columns, choose_key

# More than a person asks for at a time. What is left is read the next time.
_MOST_ROWS = 10_000

Found = tuple[list[tuple[Any, ...]], list[str] | None]


def rows_beyond(address: str, config: ExportConfig, after: Sequence[str] | None, columns: Sequence[str]) -> Found:
    """Rows of a table beyond a key, in its order.

    Args:
        address: of the source, with its password.
        config: the table, whose key grows.
        after: key of the last row that is known already; None for all rows.
        columns: whose values are wanted.

    Returns:
        A tuple a row, and the key of the last row: `after`, where there is none beyond it.

    Raises:
        SourceError: no such table, no usable key; failures to connect and to read.
        ConfigError: RIVET_CONFIG_COLUMN.
    """
    import_arrow()
    source = open_source(address)
    start = tuple(after) if after is not None else None
    rows, last = with_session(source, config.limits, lambda session: _read(session, config, start, columns))
    return rows, last or (None if after is None else list(after))


def _read(session: Session, config: ExportConfig, after: tuple[str, ...] | None, columns: Sequence[str]) -> Found:
    table = session.describe(*config.relation)
    check_columns(table, columns)
    key = choose_key(table, None)
    with session.open_window(table, key, BatchLimits()) as reader:
        reader.read_page(KeyRange(None, None, after=after), _MOST_ROWS)
        batches = [*reader.decode_page()]
        last = reader.last_key() if batches else None
        batches += reader.finish()
        found = [row for batch in batches for row in zip(*(batch[name].to_pylist() for name in columns), strict=True)]
        if found and last is None:
            last = reader.last_key()
    return found, list(last) if last else None
