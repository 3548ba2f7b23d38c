"""What a part whose bytes changed still holds, and in which columns it is damaged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rivet_dagster.export.documents import Part
from rivet_dagster.formats import format_of

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq


def describe(copy: Path, part: Part, names: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """What is left of a damaged part.

    Args:
        copy: local file with the bytes as they are now; its suffix is the part's.
        part: the part as it was committed.
        names: the columns that it should have, in order.

    Returns:
        A few words for people, and the columns that are known to be damaged.
    """
    if format_of(part.path).reader is None:
        return _counted(copy, part), ()
    try:
        return _held(copy, part, names)
    except Exception as exc:  # noqa: BLE001 (a damaged file may fail in any way)
        return f"it cannot be read at all ({_first_line(exc)})", ()


def _counted(copy: Path, part: Part) -> str:
    """Texts have no types, so of their rows only the number can be held against anything."""
    try:
        rows = format_of(part.path).count(copy)
    except Exception as exc:  # noqa: BLE001
        return f"it cannot be read at all ({_first_line(exc)})"
    if rows != part.rows:
        return f"it has {rows} rows, not {part.rows}"
    return "the number of its rows is right, and which values are not cannot be told of CSV"


def _held(copy: Path, part: Part, names: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    import pyarrow.parquet as pq  # noqa: PLC0415 (only for what is damaged)

    with pq.ParquetFile(copy) as file:
        if len(file.schema_arrow) != len(names):
            return f"it has {len(file.schema_arrow)} columns, not {len(names)}", ()
        found = [_checksum(file, number) for number in range(len(names))]
    unreadable = [name for name, checksum in zip(names, found, strict=True) if checksum is None]
    known = part.columns if len(part.columns) == len(names) else found
    changed = [
        name
        for name, checksum, committed in zip(names, found, known, strict=True)
        if checksum is not None and checksum != committed
    ]
    damaged = tuple(name for name in names if name in {*unreadable, *changed})
    if damaged:
        said = [f"{_columns(unreadable)} cannot be read"] if unreadable else []
        said += [f"{_columns(changed)} {'has' if len(changed) == 1 else 'have'} other values"] if changed else []
        return " and ".join(said), damaged
    if known is found:
        return "every column can be read, but no checksums of columns were kept that tell which one is damaged", ()
    return "its rows are those that were committed", ()


def _columns(names: Sequence[str]) -> str:
    return f"{'column' if len(names) == 1 else 'columns'} {', '.join(names)}"


def _checksum(file: pq.ParquetFile, number: int) -> str | None:
    """Checksum of a column, read alone; None if it cannot be read."""
    import pyarrow as pa  # noqa: PLC0415

    from rivet_dagster.export.rowhash import RowHasher  # noqa: PLC0415

    try:
        first = sum(_leaves(file.schema_arrow.field(before).type) for before in range(number))
        leaves = list(range(first, first + _leaves(file.schema_arrow.field(number).type)))
        hasher = RowHasher(pa.schema([file.schema_arrow.field(number)]), [number])
        reader: Any = file.reader  # by number: names of columns may have dots, which elsewhere stand for nesting
        for group in range(file.num_row_groups):
            for batch in reader.read_row_group(group, column_indices=leaves, use_threads=False).to_batches():
                hasher.update(batch)
    except Exception:  # noqa: BLE001
        return None
    return hasher.take_columns()[0]


def _leaves(kind: pa.DataType) -> int:
    """How many columns of a Parquet file hold a column of this type."""
    import pyarrow as pa  # noqa: PLC0415

    storage = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    return sum(_leaves(storage.field(child).type) for child in range(storage.num_fields)) or 1


def _first_line(exc: Exception) -> str:
    return (str(exc).strip() or type(exc).__name__).split("\n", 1)[0].rstrip(".")
