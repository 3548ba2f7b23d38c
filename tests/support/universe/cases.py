"""Cases: a table and how it is exported, as one JSON document."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class CaseColumn:
    """One column.

    Attributes:
        name: its name.
        kind: a row of the engine's matrix.csv.
        declared: its declaration; that of its elements, where it is an array.
        array: whether it is an array of the kind.
        nullable: whether NULL is allowed.
        values: literals, None for NULL. Row number r has value number r modulo their number.
        type: option of the export.
        unrepresentable: option of the export.
        extra: what else its declaration says, in the engine's own words.
    """

    name: str
    kind: str
    declared: str
    array: bool
    nullable: bool
    values: tuple[str | None, ...]
    type: str | None = None
    unrepresentable: str | None = None
    extra: str = ""

    @property
    def declaration(self) -> str:
        """The whole declaration."""
        return self.declared + "[]" * self.array


@dataclass(frozen=True)
class Case:
    """A table and how it is exported.

    Attributes:
        schema, table: where the rows are.
        columns: in order.
        key: columns of the primary key; a row whose key is there already is left out. Without any, the table is read
            as a whole.
        rows: how many.
        window_rows, page_bytes, row_group_bytes, workers: of the first export.
        unrepresentable: option of the export.
        options: of the table, in the engine's own words.
    """

    schema: str
    table: str
    columns: tuple[CaseColumn, ...]
    key: tuple[str, ...]
    rows: int
    window_rows: int = 1000
    page_bytes: int = 65536
    row_group_bytes: int = 65536
    workers: int = 1
    unrepresentable: str = "error"
    options: str = ""

    @classmethod
    def from_json(cls, text: str) -> Case:
        """The case that `to_json` wrote."""
        found: dict[str, Any] = json.loads(text)
        columns = tuple(CaseColumn(**{**column, "values": tuple(column["values"])}) for column in found.pop("columns"))
        return cls(columns=columns, key=tuple(found.pop("key")), **found)

    def to_json(self) -> str:
        """The document, one column a line."""
        fields = asdict(self)
        columns = ",\n    ".join(json.dumps(column, ensure_ascii=False) for column in fields.pop("columns"))
        rest = json.dumps(fields, ensure_ascii=False, indent=2)
        return f'{rest[:-2]},\n  "columns": [\n    {columns}\n  ]\n}}\n'

    def row(self, number: int) -> list[str | None]:
        """Literals of one row."""
        return [column.values[number % len(column.values)] for column in self.columns]


def named(columns: Iterable[CaseColumn], names: Sequence[str]) -> tuple[CaseColumn, ...]:
    """The columns with these names; one without values gets NULL, for the rows that it has not."""
    return tuple(
        CaseColumn(**{**vars(column), "name": name, "values": column.values or (None,)})
        for column, name in zip(columns, names, strict=True)
    )
