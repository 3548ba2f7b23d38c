"""Writes the reference pages of types out of the rules that the code itself follows: `python -m docs.typespage`."""

from __future__ import annotations

import re
import tempfile
import textwrap
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rivet_dagster.formats import FORMATS
from rivet_dagster.formats._csv_text import texts
from rivet_dagster.sources.mysql import typemap as mysql
from rivet_dagster.sources.postgres.typemap import INTERVAL_PARTS, RULES, TEXT_RULES, TypeRule
from rivet_dagster.sources.typenames import arrow_type

PAGE = Path(__file__).parent / "reference" / "types.md"
MYSQL_PAGE = PAGE.with_name("types-mysql.md")

HEAD = """\
# PostgreSQL types

What a declared type becomes; [another page](types-mysql.md) has those of MySQL and MariaDB. `python -m docs.typespage`
writes this page out of the rules that the code follows, and a test exports every type in it.

The field metadata `rivet.native_type` of Parquet parts holds the declared type. Columns that are NOT NULL are
required in Parquet parts. The seal names the type in the parts of every column.

## Types with a form of their own
"""

# Not a part of Parquet's types.
_OF_THE_LIBRARY = re.compile(r", (?:is_from|force_set)_converted_type=\w+")

COLUMNS = "| declared | in the parts | Arrow | Parquet | in CSV | it cannot hold | other choices | remarks |"

CHOICES = """\
## Values that a type cannot hold, and other types

PostgreSQL has values that no Arrow type has: infinite dates, NaN in a `numeric`, arrays of two dimensions. Such a
value stops its window with `RIVET_VALUE_UNSUPPORTED`, which names the column; the other windows go on. Two options of
a column, and one of the export, say otherwise:

| option | of | meaning |
|---|---|---|
| `unrepresentable: error` | export, column | refuse the value; the default |
| `unrepresentable: null` | export, column | put NULL in its place and count it: window manifests and the seal \
say how often, under `replaced`; the column may be NULL in the parts |
| `unrepresentable: text` | column | read the whole column as the server's text |
| `type` | column | take another type: one of the other choices above, \
`text` for any type that has a form of its own |

A type that the column cannot have stops the plan with `RIVET_CONFIG_TYPE`, which says what it may be.

```python
import os

from rivet_dagster import ColumnOptions, ExportConfig
from rivet_dagster.export.operations import TableExport

config = ExportConfig(
    table="public.orders",
    unrepresentable="null",
    columns={"id": ColumnOptions(type="text"), "note": ColumnOptions(unrepresentable="error")},
)
plan, _ = TableExport(config, os.environ["PG_DSN"], "typed").plan()
assert [column.type for column in plan.head.columns] == ["text", "text"]
```
"""

TEXT = """\
## Types that are read as text

As the server prints them, with the time zone UTC, ISO dates and names qualified. Every type that is not on this page
is read so too, and loses nothing: ranges, composites, types of extensions.
"""

TEXT_COLUMNS = "| declared | for example | other choices | remarks |"

CONSTRUCTED = """\
## Arrays, domains, enums, composites

| declared | in the parts |
|---|---|
| array of a type on this page | `list(T)`, T being what the type itself becomes; other choices are `text` \
and `list(T)` with T's other choices |
| domain | what its base type becomes |
| enum | `text`: the label |
| composite | `text`, as the server prints it: `(1,"a b")` |

A list has one dimension that begins at 1, and its elements may be NULL. An array of another shape is a value that the
list cannot hold (below); so is one with an element that the element's type cannot hold. With `type: text` every array
is the server's text.

## How CSV shows values

Texts, bytes, JSON, intervals and lists are always in quotes, everything else never is. NULL is nothing between two
commas, so a text without characters is `""`. The header is in quotes.

- **Numbers** that are no numbers are `NaN`, `Infinity` and `-Infinity`; others have the fewest digits that give the
  same bits back. Decimals have every digit of their scale, without an exponent.
- **Dates** follow ISO 8601: years before 1 are `0000` (1 BC), `-0001` (2 BC) and so on, years after 9999 have a sign:
  `+10000-01-01`.
- **Bytes** are lower-case hexadecimal digits.
- **Intervals** (`type: interval`) are a JSON object.
- **Lists** are JSON arrays, NULL being `null`. Booleans, floats and whole numbers up to 32 bits are JSON's own; NaN
  and infinities are strings. Whole numbers of 64 bits, those of an interval too, and decimals are strings, because
  readers that keep every number as a float64 would round them. Everything else is a string as it would be in a
  column, JSON too: JSON's `null` is not NULL.

"""


MYSQL_HEAD = """\
# MySQL and MariaDB types

What a declared type becomes; [another page](types.md) has those of PostgreSQL. `python -m docs.typespage` writes this
page out of the rules that the code follows, and a test exports every type in it.

The field metadata `rivet.native_type` of Parquet parts holds the declared type, as the server prints it. Columns that
are NOT NULL are required in Parquet parts. The seal names the type in the parts of every column.
"""

MYSQL_NOTES = """\
A type that is not in this table is read as the server's own text. Generated and invisible columns are read like any
others. The server takes `varchar`, `char` and `text` with `CHARACTER SET binary` for `varbinary`, `binary` and `blob`.

## Values that a type cannot hold, and other types

Neither Arrow nor any calendar has the dates `0000-00-00`, `2024-02-00` and `2024-02-31`, which the servers keep where
`sql_mode` allows it, and a time of day is neither negative nor more than a day. Such a value stops its window with
`RIVET_VALUE_UNSUPPORTED`, or what the options `unrepresentable` and `type` say becomes of it: they are the same
[for every engine](types.md#values-that-a-type-cannot-hold-and-other-types). NULLs in their places are counted as
`zero date` (a month or a day is 0), `invalid date` and `out of range`.

## Character sets

Texts are exported as UTF-8, whatever their character set. Some character sets have two codes for one character, or
codes that Unicode has not, such as bytes from 80 on in `ascii`: the server itself would write `?` or another code for
them. A text whose bytes would not come back out of UTF-8 stops its window with `RIVET_VALUE_UNSUPPORTED`, and so does
the half of a surrogate pair. `type: binary` exports the column's bytes as they are.

## CSV

CSV shows every type [in the same way](types.md#how-csv-shows-values) for all engines.
"""

KEYS = (
    "A key may have columns of {}; a column of any other type is no part of one. Neither is a `char` in one of "
    "MariaDB's `nopad` collations, because an index of it is not sorted as its values compare."
)


def parquet_types(arrow: pa.DataType) -> str:
    """What Parquet's own schema says of a column of this type, leaf by leaf."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.parquet"
        schema = pa.schema([pa.field("c", arrow)])
        writer = FORMATS["parquet"].open(path, pa.RecordBatch.from_pylist([], schema), compression="none", level=None)
        writer.close()
        found = pq.read_metadata(path).schema
    leaves = [found.column(number) for number in range(len(found))]
    return ", ".join(f"{leaf.path.partition('.')[2]} {_leaf(leaf)}".strip() for leaf in leaves)


def _leaf(leaf: pq.ColumnSchema) -> str:
    physical = leaf.physical_type
    if physical == "FIXED_LEN_BYTE_ARRAY":
        physical += f"({leaf.length})"
    logical = _OF_THE_LIBRARY.sub("", str(leaf.logical_type))
    return physical if logical == "None" else f"{physical} {logical}"


def csv_cell(rule: TypeRule | mysql.TypeRule) -> str:
    """The sample as it stands in a CSV part."""
    quoted = texts(pa.nulls(1, arrow_type(rule.type))).quoted
    return '"' + rule.csv.replace('"', '""') + '"' if quoted else rule.csv


def _code(*values: str) -> str:
    return ", ".join(f"{value}" if value.startswith("past ") else f"`{value}`" for value in values)


def _row(rule: TypeRule) -> str:
    arrow = arrow_type(rule.type)
    cells = [
        _code(rule.declared),
        _code(rule.type),
        str(arrow),
        parquet_types(arrow),
        _code(csv_cell(rule)),
        _code(*rule.beyond),
        _code(*(choice for choice in rule.choices if choice != rule.type)),
        rule.remark,
    ]
    return _line(cells)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _table(columns: str, lines: list[str]) -> str:
    return "\n".join([columns, "|---" * (columns.count("|") - 1) + "|", *lines]) + "\n"


def page() -> str:
    """The whole page of PostgreSQL."""
    own = [_row(rule) for rule in (*RULES, INTERVAL_PARTS)]
    as_text = [
        _line([_code(rule.declared), _code(csv_cell(rule)), _code(*rule.choices), rule.remark]) for rule in TEXT_RULES
    ]
    return "\n".join([HEAD, _table(COLUMNS, own), TEXT, _table(TEXT_COLUMNS, as_text), CONSTRUCTED + CHOICES])


def _mysql_row(rule: mysql.TypeRule) -> str:
    arrow = arrow_type(rule.type)
    cells = [
        _code(rule.declared),
        _code(rule.type),
        str(arrow),
        parquet_types(arrow),
        _code(csv_cell(rule)),
        ", ".join(rule.beyond),
        _code(*rule.choices),
        rule.remark,
    ]
    return _line(cells)


def mysql_page() -> str:
    """The whole page of MySQL and MariaDB."""
    # No line ends within a name.
    names = _code(*(rule.name.replace(" ", "\0") for rule in mysql.RULES if rule.key))
    keys = textwrap.fill(KEYS.format(names), 120).replace("\0", " ")
    table = _table(COLUMNS, [_mysql_row(rule) for rule in mysql.RULES])
    return "\n".join([MYSQL_HEAD, table, keys + "\n", MYSQL_NOTES])


if __name__ == "__main__":
    PAGE.write_text(page())
    MYSQL_PAGE.write_text(mysql_page())
