"""What CSV parts hold, in the server's words: read by pyarrow as texts, which the types of the seal then explain."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv

from tests.support.universe.expected import EXACT, Value, days, digits
from tests.support.universe.reading import bits, interval_words

_DATE = re.compile(r"([+-]?\d{4,})-(\d\d)-(\d\d)")
_TIME = re.compile(r"(\d\d):(\d\d):(\d\d)\.(\d{6})")
_WIDEST = 64 << 20


def csv_rows(files: Sequence[Path], names: Sequence[str], types: Sequence[str]) -> list[tuple[Value, ...]]:
    """All rows of the files; AssertionError for another header, or a text that is not written as its type is."""
    words = [_words(canonical) for canonical in types]
    rows: list[tuple[Value, ...]] = []
    for file in files:
        table = csv.read_csv(
            file,
            csv.ReadOptions(use_threads=False, block_size=_WIDEST),
            csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
            csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
        assert table.column_names == list(names)
        columns = [
            [None if text is None else word(text) for text in column.to_pylist()]
            for word, column in zip(words, table.columns, strict=True)
        ]
        rows += zip(*columns, strict=True)
    return rows


def _words(canonical: str) -> Callable[[Any], Value]:
    """What makes a text, or an element of a list, the words of its type."""
    if canonical.startswith("list("):
        inner = _words(canonical[len("list(") : -1])
        return lambda text: [None if element is None else inner(element) for element in _list(text)]
    if canonical.startswith("decimal("):
        return lambda text: _unscaled(text, digits(canonical)[1])
    if canonical == "interval":
        return lambda found: interval_words(
            {name: int(part) for name, part in (_parsed(found) if isinstance(found, str) else found).items()}
        )
    return _WORDS.get(canonical, _same)


def _list(text: Any) -> list[Any]:
    found = _parsed(text) if isinstance(text, str) else text
    assert isinstance(found, list), text
    return found


def _parsed(text: str) -> Any:
    """JSON with its numbers as they are written."""
    return json.loads(text, parse_float=str, parse_int=str)


def _same(text: Any) -> str:
    assert isinstance(text, str), text
    return text


def _bool(found: Any) -> str:
    text = {True: "true", False: "false"}.get(found, found)
    assert text in ("true", "false"), found
    return str(text)


def _whole(text: str) -> str:
    assert str(int(text)) == text
    return text


def _unscaled(text: str, scale: int) -> str:
    assert len(text.partition(".")[2]) == scale, text
    return str(int(Decimal(text).scaleb(scale, EXACT)))


def _days(text: str) -> int:
    match = _DATE.fullmatch(text)
    assert match, text
    return days(*map(int, match.groups()))


def _microseconds(text: str) -> int:
    match = _TIME.fullmatch(text)
    assert match, text
    hours, minutes, seconds, fraction = map(int, match.groups())
    return ((hours * 60 + minutes) * 60 + seconds) * 10**6 + fraction


def _moment(text: str) -> str:
    date, time = text.split(" ")
    return str(_days(date) * 86_400 * 10**6 + _microseconds(time))


def _utc(text: str) -> str:
    assert text.endswith("Z"), text
    return _moment(text[:-1])


_WORDS: dict[str, Callable[[Any], Value]] = {
    "bool": _bool,
    **dict.fromkeys(("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"), _whole),
    "float32": lambda text: bits(float(text), ">f"),
    "float64": lambda text: bits(float(text), ">d"),
    "date": lambda text: str(_days(text)),
    "time(us)": lambda text: str(_microseconds(text)),
    "timestamp(us)": _moment,
    "timestamp(us, UTC)": _utc,
}
