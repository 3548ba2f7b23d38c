"""The footer's walker, against an encoder of the compact protocol made here and against pyarrow."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rivet_dagster.formats._footer import FooterError, set_created_by, with_created_by
from rivet_dagster.formats.parquet import CREATED_BY, ParquetPartWriter

# A value of the compact protocol: kind, and what it holds.
Value = tuple[str, Any]
KINDS = {"byte": 3, "i16": 4, "i32": 5, "i64": 6, "double": 7, "binary": 8, "list": 9, "set": 10}
KINDS |= {"map": 11, "struct": 12, "uuid": 13, "bool": 1}


def varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number % 128 + 128]) + varint(number // 128)


def zigzag(number: int) -> bytes:
    return varint(2 * number if number >= 0 else -2 * number - 1)


def encoded(value: Value) -> bytes:
    """A value as it stands in lists and behind a field's header."""
    kind, content = value
    if kind == "bool":
        return bytes([1 if content else 2])
    if kind in {"byte", "uuid"}:
        return bytes(content)
    if kind in {"i16", "i32", "i64"}:
        return zigzag(content)
    if kind == "double":
        return struct.pack("<d", content)
    if kind == "binary":
        return varint(len(content)) + bytes(content)
    if kind in {"list", "set"}:
        element, values = content
        short = len(values) < 15
        header = bytes([(len(values) if short else 15) << 4 | KINDS[element]]) + (b"" if short else varint(len(values)))
        return header + b"".join(map(encoded, values))
    if kind == "map":
        key, item, pairs = content
        if not pairs:
            return b"\0"
        kinds = bytes([KINDS[key] << 4 | KINDS[item]])
        return varint(len(pairs)) + kinds + b"".join(encoded(a) + encoded(b) for a, b in pairs)
    return struct_bytes(content)


def struct_bytes(fields: dict[int, Value]) -> bytes:
    out, last = b"", 0
    for number, (kind, content) in fields.items():
        code = (1 if content else 2) if kind == "bool" else KINDS[kind]
        step = number - last
        out += bytes([step << 4 | code]) if 0 < step < 16 else bytes([code]) + zigzag(number)
        out += b"" if kind == "bool" else encoded((kind, content))
        last = number
    return out + b"\0"


SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "byte": st.binary(min_size=1, max_size=1),
    "i16": st.integers(-(2**15), 2**15 - 1),
    "i32": st.integers(-(2**31), 2**31 - 1),
    "i64": st.integers(-(2**63), 2**63 - 1),
    "double": st.floats(),
    "binary": st.binary(max_size=200),
    "uuid": st.binary(min_size=16, max_size=16),
}


def of_kind(kind: str, content: st.SearchStrategy[Any]) -> st.SearchStrategy[Value]:
    return content.map(lambda each: (kind, each))


def nested(inner: st.SearchStrategy[Value]) -> st.SearchStrategy[Value]:
    """Lists, sets and maps of scalars or of structs, and structs of anything."""
    fields = st.dictionaries(st.integers(-(2**15), 2**15 - 1), inner, max_size=6)
    elements = SCALARS | {"struct": fields}
    lists = st.sampled_from(sorted(elements)).flatmap(
        lambda kind: st.lists(of_kind(kind, elements[kind]), max_size=20).map(lambda values: (kind, values))
    )
    maps = st.tuples(st.sampled_from(sorted(elements)), st.sampled_from(sorted(elements))).flatmap(
        lambda kinds: st.lists(
            st.tuples(of_kind(kinds[0], elements[kinds[0]]), of_kind(kinds[1], elements[kinds[1]])), max_size=4
        ).map(lambda pairs: (*kinds, pairs))
    )
    return of_kind("struct", fields) | of_kind("list", lists) | of_kind("set", lists) | of_kind("map", maps)


VALUES = st.recursive(st.one_of(*(of_kind(kind, content) for kind, content in SCALARS.items())), nested, max_leaves=20)
FIELDS = st.dictionaries(st.integers(-50, 2**15 - 1).filter(lambda number: number not in {6, 8}), VALUES, max_size=8)


@given(before=FIELDS, after=FIELDS, name=st.binary(max_size=300), other=st.binary(max_size=300))
def test_nothing_but_field_6_changes(
    before: dict[int, Value], after: dict[int, Value], name: bytes, other: bytes
) -> None:
    before = {number: value for number, value in before.items() if number not in after}
    assert with_created_by(struct_bytes({**before, 6: ("binary", name), **after}), other) == struct_bytes(
        {**before, 6: ("binary", other), **after}
    )


@given(fields=FIELDS, cut=st.integers(1, 10_000))
def test_a_footer_that_is_cut_off_is_an_error(fields: dict[int, Value], cut: int) -> None:
    whole = struct_bytes({**fields, 6: ("binary", b"x")})
    with pytest.raises(FooterError):
        with_created_by(whole[: max(len(whole) - cut, 0)], b"y")


@given(junk=st.binary(max_size=200))
def test_other_bytes_are_an_error_or_left_alone(junk: bytes) -> None:
    """Whatever they are, nothing else is raised, and the walk ends."""
    try:
        result = with_created_by(junk, b"y")
    except FooterError:
        return
    assert result is None or result.endswith(b"\0")


def test_footers_without_the_name_and_signed_ones_are_left_alone() -> None:
    assert with_created_by(struct_bytes({1: ("i32", 2)}), b"y") is None
    signed = struct_bytes({6: ("binary", b"x"), 8: ("struct", {1: ("struct", {})})}) + bytes(28)
    assert with_created_by(signed, b"y") is None


@pytest.mark.parametrize(
    ("footer", "message"),
    [
        (b"\x19" * 5000, "depth"),
        (b"\x1f\0\0", "kind 15"),
        (struct_bytes({6: ("binary", b"x")}) + b"\0", "wrong length"),
        (b"\x18" + b"\xff" * 20, "64 bits"),
        (b"", "cut off"),
    ],
)
def test_what_is_wrong_is_said(footer: bytes, message: str) -> None:
    with pytest.raises(FooterError, match=message):
        with_created_by(footer, b"y")


TYPES = st.sampled_from(
    [
        *(pa.int32(), pa.int64(), pa.string(), pa.bool_(), pa.decimal128(30, 3), pa.timestamp("us", "UTC")),
        *(pa.date32(), pa.float64(), pa.list_(pa.field("element", pa.int32()))),
        pa.struct([("x", pa.int64()), ("y", pa.string())]),
    ]
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    types=st.lists(TYPES, min_size=1, max_size=12),
    groups=st.integers(0, 12),
    notes=st.dictionaries(st.text(min_size=1, max_size=20), st.text(max_size=3000), max_size=5),
    index=st.booleans(),
    name=st.text(max_size=400),
)
def test_pyarrow_reads_the_same_but_the_name(
    tmp_path: Path, types: list[pa.DataType], groups: int, notes: dict[str, str], index: bool, name: str
) -> None:
    path = tmp_path / "part"
    schema = pa.schema(
        [(f"c{number}", kind) for number, kind in enumerate(types)],
        metadata={key.encode("utf-8", "replace"): note.encode("utf-8", "replace") for key, note in notes.items()},
    )
    table = pa.table([pa.nulls(groups, kind) for kind in types], schema=schema)
    pq.write_table(table, path, row_group_size=1, write_page_index=index)
    before = pq.read_metadata(path).to_dict()
    name = name.replace("\0", "").encode("utf-8", "replace").decode()
    assert set_created_by(path, name)
    after = pq.read_metadata(path).to_dict()
    assert after.pop("created_by") == name
    before.pop("created_by")
    assert {**after, "serialized_size": 0} == {**before, "serialized_size": 0}
    assert pq.read_table(path, partitioning=None).equals(table, check_metadata=True)


def test_readers_take_the_name_and_use_the_statistics(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    batches = [
        pa.RecordBatch.from_pydict({"n": list(range(begin, begin + 1000)), "t": [f"{begin:05d}"] * 1000})
        for begin in range(0, 5000, 1000)
    ]
    writer = ParquetPartWriter(path, batches[0], compression="zstd", level=1)
    for batch in batches:
        writer.write(batch)
    writer.close()
    assert pq.read_metadata(path).created_by == CREATED_BY
    fragment = next(iter(ds.dataset(path).get_fragments()))
    assert fragment.subset(ds.field("n") == 2500).row_groups[0].id == 2
    assert len(fragment.subset(ds.field("n") == 2500).row_groups) == 1
    assert [group.id for group in fragment.subset(ds.field("t") == "04000").row_groups] == [4]
    with duckdb.connect() as connection:
        found = connection.execute("SELECT created_by FROM parquet_file_metadata(?)", [str(path)]).fetchone()
        assert found == (CREATED_BY,)
        ranges = connection.execute(
            "SELECT stats_min_value, stats_max_value FROM parquet_metadata(?) WHERE path_in_schema = 'n' ORDER BY 1",
            [str(path)],
        ).fetchall()
        assert ranges == [(str(begin), str(begin + 999)) for begin in range(0, 5000, 1000)]
        query = "SELECT n, t FROM read_parquet(?) WHERE n BETWEEN 2999 AND 3000 ORDER BY n"
        assert connection.execute(query, [str(path)]).fetchall() == [(2999, "02000"), (3000, "03000")]


def test_the_name_has_the_form_that_readers_parse() -> None:
    """parquet-mr ignores all statistics of a file whose writer's name it cannot parse."""
    import re

    pattern = r"(.*?)\s+version\s*(?:([^(]*?)\s*(?:\(\s*build\s*([^)]*?)\s*\))?)?"
    match = re.fullmatch(pattern, CREATED_BY)
    assert match is not None
    assert match.groups() == ("rivet-dagster", "1.0.0", "rivet-parquet-1")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"x" * 40, b"PAR1\xff\xff\0\0PAR1"])
def test_other_files_are_an_error_and_stay(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "part"
    path.write_bytes(content)
    with pytest.raises(FooterError, match="part does not end like a Parquet file"):
        set_created_by(path, CREATED_BY)
    assert path.read_bytes() == content


def test_a_file_with_an_encrypted_footer_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "part"
    path.write_bytes(b"PARE" + b"x" * 40 + b"\x10\0\0\0PARE")
    assert not set_created_by(path, CREATED_BY)
    assert path.read_bytes() == b"PARE" + b"x" * 40 + b"\x10\0\0\0PARE"
