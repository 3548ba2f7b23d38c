"""What an export of a table must hold, as the server itself says: the same words for every engine."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal
from pathlib import Path
from typing import Any, TypeAlias

Value: TypeAlias = "str | list[Value] | None"

EXACT = Context(prec=5000, Emax=10**6, Emin=-(10**6))


@dataclass(frozen=True)
class Expected:
    """A row of an engine's matrix.csv.

    Attributes:
        canonical: name of the type in the parts.
        server: how the server is asked for a value, see the engine's questions.
        key: whether it can be a key.
        beyond: reasons for which a value may be replaced.
        pyarrow, duckdb: how what they read is compared.
    """

    canonical: str
    server: str
    key: bool
    beyond: tuple[str, ...]
    pyarrow: str
    duckdb: str


def matrix(file: Path) -> dict[str, Expected]:
    """An engine's matrix.csv, by kind."""
    with file.open(newline="") as lines:
        return {
            row["type"]: Expected(
                row["canonical"],
                row["server"],
                row["key"] == "yes",
                tuple(filter(None, row["beyond"].split("; "))),
                row["pyarrow"],
                row["duckdb"],
            )
            for row in csv.DictReader(lines)
        }


@dataclass(frozen=True)
class Reading:
    """What an export makes of one column.

    Attributes:
        canonical: name of the type.
        question: how the server is asked, in the engine's own words.
        replaces: whether NULL replaces what the type cannot hold.
    """

    canonical: str
    question: str
    replaces: bool = False


@dataclass(frozen=True)
class Unheld:
    """A value that the column's type cannot hold.

    Attributes:
        reason: as manifests count it; empty where NULL never replaces it.
    """

    reason: str


Cell: TypeAlias = "str | list[Any] | Unheld | None"


@dataclass
class Expectation:
    """What an export of a table must hold.

    Attributes:
        readings: of its columns.
        native_types: of its columns, as the server prints them.
        nullable: whether a part's column may hold NULL.
        rows: in key order; each cell in words that readers are held to, what is replaced being None.
        replaced: by row, how many values by column and reason.
        refused: by row, columns with a value that is refused.
    """

    readings: list[Reading]
    native_types: list[str]
    nullable: list[bool]
    rows: list[tuple[Value, ...]] = field(default_factory=list)
    replaced: list[Counter[tuple[str, str]]] = field(default_factory=list)
    refused: list[set[str]] = field(default_factory=list)

    def add(self, names: Sequence[str], row: Iterable[Cell]) -> None:
        """Append a row of cells."""
        cells: list[Value] = []
        replaced: Counter[tuple[str, str]] = Counter()
        refused: set[str] = set()
        for name, each, cell in zip(names, self.readings, row, strict=True):
            reasons: list[str] = []
            cells.append(_held(cell, reasons))
            if reasons and not (each.replaces and all(reasons)):
                refused.add(name)
            replaced.update((name, reason) for reason in reasons)
        self.rows.append(tuple(cells))
        self.replaced.append(replaced)
        self.refused.append(refused)


def _held(cell: Cell, reasons: list[str]) -> Value:
    """The cell with None for what the type cannot hold; the reasons are appended."""
    if isinstance(cell, Unheld):
        reasons.append(cell.reason)
        return None
    if isinstance(cell, list):
        return [_held(element, reasons) for element in cell]
    return cell


def decimal_cell(canonical: str, text: str) -> Cell:
    """The unscaled number, if the type holds it."""
    precision, scale = digits(canonical)
    number = Decimal(text)
    if number.is_nan():
        return Unheld("NaN")
    if number.is_infinite():
        return Unheld("infinity")
    unscaled = number.scaleb(scale, EXACT)
    whole = int(unscaled)
    return str(whole) if whole == unscaled and abs(whole) < 10**precision else Unheld("")


def digits(canonical: str) -> tuple[int, int]:
    """Precision and scale of a decimal."""
    precision, scale = map(int, re.findall(r"\d+", canonical))
    return precision, scale


def days(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 in the proleptic Gregorian calendar, for any year; 0 is the year before 1."""
    # From March, in eras of 400 years: https://howardhinnant.github.io/date_algorithms.html
    year -= month <= 2
    of_era = year % 400
    of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return year // 400 * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468
