"""CSV parts: every type held against Python's own texts, and whole files against independent readers."""

from __future__ import annotations

import csv
import datetime as dt
import gc
import gzip
import io
import json
import math
import subprocess
import sys
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rivet_dagster.formats import FORMATS, format_of
from rivet_dagster.formats import _csv_kernels as kernels
from rivet_dagster.formats import csv as module
from rivet_dagster.formats.csv import CsvPartWriter, count_rows, csv_rows
from rivet_dagster.sources.typenames import arrow_type

CYCLE_DAYS = 146_097  # of 400 years, after which the calendar repeats
INTERVAL = {"months": 14, "days": -3, "microseconds": -(2**63)}
TRICKY = [
    "",
    " ",
    ",",
    '"',
    '""',
    "a\nb",
    "a\r\nb",
    "null",
    "NULL",
    "\\N",
    "grüße \U0001f600",
    'x","y',
    "\x01\x1f\x7f",
    "#",
]
EXAMPLES = settings(deadline=None)  # the first one may compile
NAMES = ["bool", "int16", "uint64", "float32", "float64", "decimal(9, 2)", "decimal(50, 0)", "date", "time(us)"]
NAMES += ["timestamp(us)", "timestamp(us, UTC)", "interval", "uuid", "text", "json", "binary"]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('",\n\r\\\t\b\f\x00\x1f'))


def cells(values: list[Any], kind: pa.DataType) -> list[str]:
    """The lines of a column between a key and an end, as they stand in the file: quotes and all."""
    column = pa.array(values, kind)
    text = bytes(csv_rows(pa.record_batch([column], ["a"]))).decode()
    lines = text.split("\n")
    assert lines.pop() == ""
    return lines


def parsed(batch: pa.RecordBatch) -> list[list[str]]:
    return list(csv.reader(io.StringIO(bytes(csv_rows(batch)).decode(), newline=""), strict=True))


def date_text(days: int) -> str:
    """ISO 8601 by Python's calendar, moved by whole cycles into its years."""
    cycles = days // CYCLE_DAYS
    moved = dt.date(1970, 1, 1) + dt.timedelta(days=days - cycles * CYCLE_DAYS)
    year = moved.year + 400 * cycles
    sign = "-" if year < 0 else "+" if year > 9999 else ""
    return f"{sign}{abs(year):04d}-{moved.month:02d}-{moved.day:02d}"


def clock(microseconds: int) -> str:
    return (dt.datetime(2000, 1, 1) + dt.timedelta(microseconds=microseconds)).time().isoformat("microseconds")


@pytest.mark.parametrize("name", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_integers_to_their_last_value(name: str) -> None:
    limits = np.iinfo(name)
    values = [int(limits.min), -1 if limits.min else 1, 0, 7, int(limits.max), None]
    assert cells(values, arrow_type(name)) == [str(v) if v is not None else "" for v in values]


def test_booleans() -> None:
    assert cells([True, None, False], pa.bool_()) == ["true", "", "false"]


@pytest.mark.parametrize(
    ("precision", "scale"), [(5, 0), (5, 5), (12, 2), (38, 37), (38, 0), (39, 1), (76, 0), (76, 76)]
)
def test_decimals_have_every_digit_of_their_scale(precision: int, scale: int) -> None:
    most = 10**precision - 1
    units = [0, 1, -1, 9, -10, 10 ** (precision - 1), most, -most]
    values = [Decimal((number < 0, tuple(map(int, str(abs(number)))), -scale)) for number in units]
    kind = arrow_type(f"decimal({precision}, {scale})")
    assert cells([*values, None], kind) == [*(format(value, "f") for value in values), ""]


@EXAMPLES
@given(st.lists(st.floats(width=64), min_size=1))
def test_floats_have_the_fewest_digits_that_read_back_to_the_bit(values: list[float]) -> None:
    for value, text in zip(values, cells(values, pa.float64()), strict=True):
        assert float(text).hex() == value.hex()
        if math.isfinite(value):
            assert Decimal(text) == Decimal(repr(value))  # the fewest digits, by Python's own algorithm


@EXAMPLES
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_small_floats_have_the_fewest_digits_that_read_back_to_the_bit(values: list[float]) -> None:
    for value, text in zip(values, cells(values, pa.float32()), strict=True):
        assert np.float32(text).tobytes() == np.float32(value).tobytes()
        # No text with fewer digits gives the number back.
        digits = len(text.lower().partition("e")[0].replace(".", "").strip("-").strip("0"))
        assert digits <= 1 or np.float32(f"{value:.{digits - 2}e}").tobytes() != np.float32(value).tobytes()


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()])
def test_floats_that_are_no_numbers_have_names(kind: pa.DataType) -> None:
    values = [math.nan, math.inf, -math.inf, None, -0.0, 1.5]
    assert cells(values, kind) == ["NaN", "Infinity", "-Infinity", "", "-0", "1.5"]
    assert cells([values], pa.list_(kind)) == ['"[""NaN"", ""Infinity"", ""-Infinity"", null, -0, 1.5]"']


@EXAMPLES
@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1))
def test_dates_of_every_year(days: list[int]) -> None:
    assert cells(days, pa.date32()) == [date_text(each) for each in days]


def test_dates_around_the_turns_of_the_calendar() -> None:
    turns = [0, -719_162, -719_163, -719_528, -719_529, 2_932_896, 2_932_897, 11_016, 19_782, -2_440_588 - 38]
    days = [turn + step for turn in turns for step in (-366, -365, -1, 0, 1, 59, 60, 365, 366)]
    assert cells(days, pa.date32()) == [date_text(each) for each in days]
    assert cells([dt.date(1, 1, 1), dt.date(9999, 12, 31), None], pa.date32()) == ["0001-01-01", "9999-12-31", ""]


@EXAMPLES
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_timestamps_of_every_year(moments: list[int]) -> None:
    day = 86_400_000_000
    expected = [f"{date_text(each // day)} {clock(each % day)}" for each in moments]
    assert cells(moments, pa.timestamp("us")) == expected
    assert cells(moments, pa.timestamp("us", "UTC")) == [f"{text}Z" for text in expected]


@EXAMPLES
@given(st.lists(st.integers(0, 86_399_999_999), min_size=1))
def test_times(moments: list[int]) -> None:
    assert cells(moments, pa.time64("us")) == [clock(each) for each in moments]


def test_uuids_and_bytes() -> None:
    ids = [uuid.UUID(int=0), uuid.UUID(int=2**128 - 1), uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")]
    assert cells([*(each.bytes for each in ids), None], pa.uuid()) == [*map(str, ids), ""]
    assert cells([b"", bytes(range(256)), None], pa.binary()) == ['""', f'"{bytes(range(256)).hex()}"', ""]


def test_intervals_are_json_objects() -> None:
    (line, missing) = cells([INTERVAL, None], arrow_type("interval"))
    assert line == '"{""months"": 14, ""days"": -3, ""microseconds"": ""-9223372036854775808""}"'
    assert missing == ""


@EXAMPLES
@given(st.lists(st.none() | TEXTS, min_size=1))
def test_texts_keep_every_character_and_null_is_no_text(values: list[str | None]) -> None:
    batch = pa.record_batch({"a": pa.array(values, pa.string()), "b": pa.array(range(len(values)))})
    assert parsed(batch) == [[value or "", str(number)] for number, value in enumerate(values)]
    assert bytes(csv_rows(batch)).decode() == "".join(
        ("" if value is None else '"' + value.replace('"', '""') + '"') + f",{number}\n"
        for number, value in enumerate(values)
    )


@EXAMPLES
@given(st.lists(st.none() | st.lists(st.none() | TEXTS), min_size=1))
def test_lists_of_texts_are_what_json_makes_of_them(values: list[list[str | None] | None]) -> None:
    rows = parsed(pa.record_batch({"a": pa.array(values, pa.list_(pa.string())), "end": pa.array([0] * len(values))}))
    assert [row[0] for row in rows] == ["" if v is None else json.dumps(v, ensure_ascii=False) for v in values]


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("bool", [True, None], [True, None]),
        ("int16", [-1, None], [-1, None]),
        ("uint32", [2**32 - 1], [2**32 - 1]),
        ("int64", [2**53 + 1, None], ["9007199254740993", None]),
        ("uint64", [2**64 - 1], ["18446744073709551615"]),
        ("float64", [0.1, 1e300, None], [0.1, 1e300, None]),
        ("decimal(9, 2)", [Decimal("-0.05")], ["-0.05"]),
        ("date", [-800_000, 3_000_000, None], [date_text(-800_000), date_text(3_000_000), None]),
        ("timestamp(us, UTC)", [0], ["1970-01-01 00:00:00.000000Z"]),
        ("uuid", [bytes(16)], [str(uuid.UUID(int=0))]),
        ("json", ['{"a": "\\n"}', "null", None], ['{"a": "\\n"}', "null", None]),
        ("binary", [b"\x00\xff", b""], ["00ff", ""]),
        ("interval", [INTERVAL, None], [{**INTERVAL, "microseconds": str(-(2**63))}, None]),
        ("list(int32)", [[1], [], None], [[1], [], None]),
    ],
)
def test_lists_hold_json_values(name: str, values: list[Any], expected: list[Any]) -> None:
    elements = pa.array(values, getattr(arrow_type(name), "storage_type", arrow_type(name))).cast(arrow_type(name))
    offsets = pa.array([0, 0, len(values), len(values)], pa.int32())
    column = pa.ListArray.from_arrays(offsets, elements, mask=pa.array([False, False, True]))
    rows = parsed(pa.record_batch({"a": column, "end": pa.array([1, 2, 3])}))
    assert json.loads(rows[0][0]) == []
    assert json.loads(rows[1][0]) == expected
    assert rows[2] == ["", "3"]


@pytest.mark.parametrize("name", [*NAMES, "list(text)"])
def test_lists_without_elements(name: str) -> None:
    offsets, missing = pa.array([0, 0, 0], pa.int32()), pa.array([False, True])
    column = pa.ListArray.from_arrays(offsets, pa.nulls(0, arrow_type(name)), mask=missing)
    assert bytes(csv_rows(pa.record_batch({"a": column}))) == b'"[]"\n\n'


@pytest.mark.parametrize("name", [*NAMES, "list(text)"])
def test_columns_without_values(name: str) -> None:
    batch = pa.record_batch({"a": pa.nulls(3, arrow_type(name)), "b": pa.array([1, 2, 3])})
    assert bytes(csv_rows(batch)) == b",1\n,2\n,3\n"


def table() -> pa.RecordBatch:
    """Rows with a bit of everything, in blocks that are longer than one of the writer's."""
    rows = 20_000
    numbers = np.arange(rows)
    texts = pa.array([None if n % 5 == 0 else TRICKY[n % len(TRICKY)] for n in range(rows)])
    columns = {
        "id": pa.array(numbers),
        'the "text"': texts,
        "when": pa.array(numbers - 10_000, pa.int32()).view(pa.date32()),
        "list": pa.array([None if n % 7 == 0 else [n, None][: n % 3] for n in range(rows)], pa.list_(pa.int32())),
        "note": texts,
    }
    return pa.record_batch(columns)


@pytest.mark.parametrize("start", [0, 1, 7, 8, 13, 8191])
def test_a_slice_has_the_lines_of_its_rows(start: int) -> None:
    batch = table()
    copied = pa.Table.from_batches([batch.slice(start, 500)]).take(np.arange(500)).combine_chunks().to_batches()[0]
    assert bytes(csv_rows(batch.slice(start, 500))) == bytes(csv_rows(copied))


def write(folder: Path, batches: list[pa.RecordBatch], compression: str) -> Path:
    path = folder / f"part.{FORMATS['csv'].suffix_of(compression)}"
    writer = FORMATS["csv"].open(path, batches[0], compression=compression)
    for batch in batches:
        writer.write(batch)
    writer.close()
    assert writer.rows == sum(batch.num_rows for batch in batches)
    return path


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_pyarrow_reads_back_what_was_written(tmp_path: Path, compression: str) -> None:
    batch = table()
    path = write(tmp_path, [batch.slice(0, 9000), batch.slice(9000)], compression)
    with pa.input_stream(str(path)) as stream:
        found = pacsv.read_csv(
            stream,
            parse_options=pacsv.ParseOptions(newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(
                column_types={"list": pa.string()},
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
    assert found.drop_columns(["list"]).to_pylist() == pa.table(batch).drop_columns(["list"]).to_pylist()
    lists = [None if text is None else json.loads(text) for text in found["list"].to_pylist()]
    assert lists == batch["list"].to_pylist()


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_duckdb_reads_back_what_was_written(tmp_path: Path, compression: str) -> None:
    batch = table()
    path = write(tmp_path, [batch], compression)
    found = duckdb.execute(
        "SELECT * FROM read_csv(?, auto_detect = false, header = true, delim = ',', quote = '\"', escape = '\"',"
        " nullstr = '', allow_quoted_nulls = false, columns = {'id': 'BIGINT', 'text': 'VARCHAR', 'when': 'DATE',"
        " 'list': 'INTEGER[]', 'note': 'VARCHAR'}) ORDER BY id",
        [str(path)],
    ).fetchall()
    assert found == [tuple(row.values()) for row in batch.to_pylist()]


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_equal_rows_give_equal_bytes(tmp_path: Path, compression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = table()
    first = write(tmp_path, [batch], compression).read_bytes()
    monkeypatch.setattr("time.time", lambda: 86_400.0)
    (tmp_path / "other").mkdir()
    assert write(tmp_path / "other", [batch], compression).read_bytes() == first
    if compression == "none":
        assert write(tmp_path, [batch.slice(0, 11), batch.slice(11)], compression).read_bytes() == first


def test_gzip_names_no_file_and_no_time(tmp_path: Path) -> None:
    data = write(tmp_path, [table()], "gzip").read_bytes()
    assert data[:8] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00"
    assert gzip.decompress(data) == write(tmp_path, [table()], "none").read_bytes()


@pytest.mark.parametrize("block", [1, 2, 3, 1 << 20])
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_rows_are_counted_by_line_ends_outside_of_quotes(
    tmp_path: Path, compression: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_READ_BYTES", block)
    batch = table().slice(0, 400)
    assert count_rows(write(tmp_path, [batch], compression)) == 400
    assert count_rows(write(tmp_path, [batch.slice(0, 0)], compression)) == 0


def test_the_header_quotes_names_and_comes_without_rows_too(tmp_path: Path) -> None:
    path = write(
        tmp_path, [pa.record_batch({'a"b': pa.array([], pa.int32()), "c,d": pa.array([], pa.int32())})], "none"
    )
    assert path.read_bytes() == b'"a""b","c,d"\n'


def test_bytes_written_grow_with_the_file(tmp_path: Path) -> None:
    writer = CsvPartWriter(tmp_path / "part.csv", table(), compression="none")
    header = writer.bytes_written
    writer.write(table())
    assert writer.bytes_written == header + len(bytes(csv_rows(table())))
    writer.abandon()
    writer.abandon()


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_a_full_disk_is_an_error_and_leaves_nothing_open(compression: str) -> None:
    def fill() -> None:
        writer = FORMATS["csv"].open(Path("/dev/full"), table(), compression=compression)
        try:
            for _ in range(20):
                writer.write(table())
            writer.close()
        finally:
            writer.abandon()
            writer.abandon()

    with pytest.raises(OSError, match="No space left"):
        fill()
    gc.collect()  # a file left open would warn here


def test_a_type_that_exports_do_not_have_is_refused() -> None:
    with pytest.raises(TypeError, match="month_day_nano"):
        csv_rows(pa.record_batch({"a": pa.array([None], pa.month_day_nano_interval())}))


WARMED = """
from rivet_dagster.formats import FORMATS, _csv_kernels as kernels
for each in FORMATS.values():
    each.warm()
loops = [loop for name, loop in vars(kernels).items() if name.startswith(("put_", "join_"))]
print(len(loops), {len(loop.signatures) for loop in loops})
"""


def test_warming_compiles_every_loop_once() -> None:
    done = subprocess.run([sys.executable, "-c", WARMED], capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=1)[1] == "{1}\n"


def test_no_loop_is_compiled_for_a_second_kind_of_array() -> None:
    kinds = ["date", "timestamp(us)", "timestamp(us, UTC)", "time(us)", "decimal(9, 2)", "decimal(50, 9)", "text"]
    kinds += [f"list({kind})" for kind in kinds]
    batch = pa.record_batch({kind: pa.nulls(20, arrow_type(kind)) for kind in kinds})
    for each in (batch, batch.slice(3, 5), table(), table().slice(1, 9)):
        csv_rows(each)
    loops = [loop for name, loop in vars(kernels).items() if name.startswith(("put_", "join_"))]
    assert [len(loop.signatures) for loop in loops] == [1] * len(loops)


def test_parts_are_known_by_their_suffix() -> None:
    assert format_of("g1/data/w000000/part-00000-0123456789abcdef.csv.gz") is FORMATS["csv"]
    assert format_of("a.csv/part-00000.parquet") is FORMATS["parquet"]
