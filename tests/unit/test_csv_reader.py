"""CSV parts read back: whatever the writer wrote comes back to the bit, wherever the file is cut into blocks."""

from __future__ import annotations

import datetime as dt
import math
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rivet_dagster.errors import IntegrityError
from rivet_dagster.export.rowhash import RowHasher
from rivet_dagster.formats import FORMATS, csv_reader
from rivet_dagster.formats.csv_reader import read_csv
from rivet_dagster.sources.typenames import arrow_type

EXAMPLES = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # may compile
TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('",\n\r\\[]'), max_size=8)
INT64 = st.integers(-(2**63), 2**63 - 1)
INT32 = st.integers(-(2**31), 2**31 - 1)
# Numbers stand for dates and moments, which Python knows only some of.
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "int8": st.integers(-128, 127),
    "int16": st.integers(-(2**15), 2**15 - 1),
    "int32": INT32,
    "int64": INT64,
    "uint32": st.integers(0, 2**32 - 1),
    "uint64": st.integers(0, 2**64 - 1),
    "float32": st.floats(width=32),
    "float64": st.floats(),
    "decimal(12, 2)": st.decimals(-9_999_999_999, 9_999_999_999, places=2),
    "decimal(38, 38)": st.decimals("-0.9", "0.9", places=38),
    "decimal(76, 0)": st.integers(-(10**75), 10**75),
    "date": INT32,
    "time(us)": st.times(),
    "timestamp(us)": INT64,
    "timestamp(us, UTC)": INT64,
    "uuid": st.uuids().map(lambda value: value.bytes),
    "text": TEXTS,
    "json": TEXTS,
    "binary": st.binary(max_size=5),
    "interval": st.fixed_dictionaries({"months": INT32, "days": INT32, "microseconds": INT64}),
}


def array(values: list[Any], kind: pa.DataType) -> pa.Array[Any]:
    """An array of any type that exports have; numbers for dates and moments."""
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, array(values, kind.storage_type))
    if isinstance(kind, pa.ListType):
        offsets = [0]
        for value in values:
            offsets.append(offsets[-1] + len(value or []))
        elements = array([element for value in values for element in value or []], kind.value_type)
        mask = pa.array([value is None for value in values], pa.bool_())
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), elements, type=kind, mask=mask)
    if pa.types.is_date32(kind) or pa.types.is_timestamp(kind):
        return pa.array(values, pa.int32() if pa.types.is_date32(kind) else pa.int64()).view(kind)
    return pa.array(values, kind)


def part(folder: Path, batch: pa.RecordBatch, compression: str = "none") -> Path:
    form = FORMATS["csv"]
    path = folder / f"part.{form.suffix_of(compression)}"
    writer = form.open(path, batch, compression=compression)
    writer.write(batch)
    writer.close()
    return path


def read(path: Path, schema: pa.Schema) -> pa.Table:
    with pa.input_stream(str(path)) as stream:
        return pa.Table.from_batches(read_csv(stream, schema), schema)


def fingerprint(schema: pa.Schema, batches: list[pa.RecordBatch]) -> str:
    hasher = RowHasher(schema)
    for batch in batches:
        hasher.update(batch)
    return f"{hasher.fingerprint} of {hasher.fingerprint.rows}"


@pytest.mark.parametrize("listed", [False, True], ids=["alone", "list"])
@pytest.mark.parametrize("name", VALUES)
@EXAMPLES
@given(data=st.data(), block=st.integers(1, 40))
def test_values_come_back_to_the_bit(
    name: str, listed: bool, data: st.DataObject, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = arrow_type(f"list({name})" if listed else name)
    each = st.none() | VALUES[name]
    values = data.draw(st.lists(st.none() | st.lists(each, max_size=3) if listed else each, max_size=8))
    keys = pa.array(range(len(values)), pa.int32())
    found = array(values, kind)
    for batch in (pa.record_batch([found], ["one"]), pa.record_batch([keys, found], ["id", 'the "value", really'])):
        path = part(tmp_path, batch)
        with monkeypatch.context() as patched:
            patched.setattr(csv_reader, "_READ_BYTES", block)
            table = read(path, batch.schema)
        table.validate(full=True)
        assert fingerprint(batch.schema, table.to_batches()) == fingerprint(batch.schema, [batch])
        assert table.column(0).null_count == batch.column(0).null_count
        if len(batch.columns) == 2:
            assert table.column("id").to_pylist() == keys.to_pylist()


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_values_that_python_knows(tmp_path: Path, compression: str) -> None:
    """Against Python's own values, so that writer and hash cannot agree on a mistake."""
    columns = {
        "date": [dt.date(1, 1, 1), dt.date(2024, 2, 29), dt.date(9999, 12, 31), None],
        "timestamp(us)": [
            dt.datetime(1969, 12, 31, 23, 59, 59, 999999),
            dt.datetime(2000, 3, 1),
            None,
            dt.datetime.max,
        ],
        "timestamp(us, UTC)": [dt.datetime(2024, 1, 1, 12, 30, tzinfo=dt.timezone.utc), None, None, None],
        "time(us)": [dt.time(0), dt.time.max, None, dt.time(1, 2, 3)],
        "uuid": [uuid.UUID(int=0), uuid.UUID(int=2**128 - 1), None, uuid.UUID(int=7)],
        "binary": [b"", b"\x00\xff", None, "ü".encode()],
        "text": ["", None, "null", '",\n'],
        "list(float64)": [[], [math.inf, None, -0.5], None, [1e300]],
        "list(text)": [[""], [None, "null", '"'], None, []],
        "list(date)": [[dt.date(2024, 12, 31), None], [], None, [None]],
    }
    kinds = [arrow_type(name) for name in columns]
    arrays = [pa.array(values, kind) for values, kind in zip(columns.values(), kinds, strict=True)]
    batch = pa.record_batch(arrays, list(columns))
    assert read(part(tmp_path, batch, compression), batch.schema).to_pydict() == columns


def test_a_stream_of_many_blocks_is_read_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = pa.record_batch([pa.array(range(20_000)), pa.array(["a\n" * 10] * 20_000)], ["id", "note"])
    path = part(tmp_path, batch)
    monkeypatch.setattr(csv_reader, "_READ_BYTES", 10_000)
    with pa.input_stream(str(path)) as stream:
        batches = list(read_csv(stream, batch.schema))
    assert pa.Table.from_batches(batches).equals(pa.Table.from_batches([batch]))
    assert max(each.nbytes for each in batches) < 30_000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no header"),
        ('"id","note"\n1,"a', "within a row"),
        ('"id","note"\n1,"a"\n2', "within a row"),
        ('"id","other"\n1,"a"\n', "header"),
        ('"id"\n1\n', "columns"),
        ('"id","note"\n1,"a"\n2\n', "columns"),
    ],
)
def test_what_is_no_part_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "part.csv"
    path.write_text(text)
    with pytest.raises(IntegrityError, match=said) as caught:
        read(path, pa.schema([("id", pa.int32()), ("note", pa.string())]))
    assert caught.value.code == "RIVET_PART_DAMAGED"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("int32", "1x"),
        ("bool", "yes!"),
        ("date", "2024-0a-01"),
        ("timestamp(us)", "soon"),
        ("interval", '"{""months"": 1}"'),
        ("list(int64)", '"[1"'),
        ("uuid", "12"),
        ("binary", '"0"'),
        ("binary", '"0g"'),
    ],
)
def test_what_is_no_value_of_its_type_is_refused(tmp_path: Path, kind: str, text: str) -> None:
    path = tmp_path / "part.csv"
    path.write_text(f'"one"\n{text}\n')
    with pytest.raises(pa.ArrowInvalid):
        read(path, pa.schema([("one", arrow_type(kind))]))
