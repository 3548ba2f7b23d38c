"""Choosing Parquet encodings by a look at the first rows of a part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

_SAMPLE_ROWS = 8192
# A dictionary pays while its codes are much shorter than the values, which is so for few distinct ones.
_ROWS_A_DISTINCT_VALUE = 8


@dataclass(frozen=True)
class Encodings:
    """Encodings of a part's columns.

    Attributes:
        dictionary: columns whose values repeat.
        delta: other columns of integers, dates and moments, which are stored as differences.
    """

    dictionary: list[str]
    delta: dict[str, str]


def choose_encodings(batch: pa.RecordBatch) -> Encodings:
    """Encodings for a part that begins with `batch`; they depend on its rows alone."""
    sample = batch.slice(0, _SAMPLE_ROWS)
    dictionary, delta = [], {}
    for field, column in zip(sample.schema, sample.columns, strict=True):
        if _repeats(column):
            dictionary.append(field.name)
        elif _is_integer_inside(field.type):
            delta[field.name] = "DELTA_BINARY_PACKED"
    return Encodings(dictionary, delta)


def _repeats(column: pa.Array[Any]) -> bool:
    storage = column.storage if isinstance(column, pa.ExtensionArray) else column
    if pt.is_boolean(storage.type):
        return False
    distinct = pc.count_distinct(storage, mode="all").as_py()
    return bool(distinct * _ROWS_A_DISTINCT_VALUE <= len(storage))


def _is_integer_inside(kind: pa.DataType) -> bool:
    """Whether Parquet stores the type as INT32 or INT64; decimals of up to 18 digits are."""
    if pt.is_decimal(kind):
        return bool(kind.precision <= 18)
    return pt.is_integer(kind) or pt.is_date32(kind) or pt.is_timestamp(kind)
