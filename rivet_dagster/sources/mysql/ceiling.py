"""Values that are larger than anybody wants to hold: refused by their lengths, before their bytes are taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from rivet_dagster.sources.base import Key, Table, value_too_large
from rivet_dagster.wire.mysqlrows import LARGEST_PAYLOAD, LargeRow, WireColumn

if TYPE_CHECKING:
    from rivet_dagster.wire._columns import Bytes

_KEY_CHARACTERS: Final = 200


def wire_order(table: Table, key: Key) -> list[int]:
    """Numbers of the table's columns in the order that rows have them on the wire.

    The key's columns come before all others where a column that may be large is in front of one of them: of a row with
    a large value, only what stands before that is known.
    """
    names = [column.name for column in table.columns]
    keys = [names.index(name) for name in key.columns]
    others = [number for number in range(len(names)) if number not in keys]
    if any(table.columns[number].unbounded for number in range(max(keys, default=0))):
        return keys + others
    return list(range(len(names)))


class ValueCeiling:
    """No value of more than `most` bytes is taken from the rows of one result.

    Args:
        table: what is read.
        columns: of the rows, in their order.
        key: names of the key's columns, which tell the row in the error.
        numbers: the key's columns among `columns`.
        writers: what writes their bytes as text.
        most: bytes of a value.
    """

    def __init__(
        self,
        table: Table,
        columns: Sequence[WireColumn],
        key: Sequence[str],
        numbers: Sequence[int],
        writers: Sequence[Callable[[bytes], str]],
        most: int,
    ) -> None:
        self._table = table
        self._columns = columns
        self._key = key
        self._numbers = numbers
        self._writers = writers
        self._most = most

    @property
    def packet_bytes(self) -> int:
        """A row whose first packet has more may hold such a value; one of several packets has as much as fits."""
        return min(self._most, LARGEST_PAYLOAD - 1)

    def next_row(self) -> LargeRow:
        """For the walk along a row that may hold one."""
        return LargeRow(self._columns, self._most)

    def check(self, row: LargeRow, buffer: Bytes, at: int) -> None:
        """Refuse a row that was walked, and that begins at byte `at`, if a value in it is too large.

        Raises:
            SourceError: RIVET_VALUE_TOO_LARGE.
        """
        if row.too_large is None:
            return
        number, size = row.too_large
        # A key that is itself too large does not tell the row.
        told = [place for place, column in enumerate(self._numbers) if column < number]
        values = row.fields(buffer, at, [self._numbers[place] for place in told])
        texts = [
            "NULL" if value is None else self._writers[place](value) for place, value in zip(told, values, strict=True)
        ]
        where = tuple((self._key[place], text[:_KEY_CHARACTERS]) for place, text in zip(told, texts, strict=True))
        raise value_too_large(self._table, self._columns[number].field.name, size, self._most, where)
