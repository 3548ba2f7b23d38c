from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rivet_dagster.errors import ConfigError
from rivet_dagster.export.names import (
    generation_of,
    parse_table,
    part_path,
    plain_name,
    table_folder,
    window_key,
    window_path,
    window_stem,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("public.orders", ("public", "orders")),
        ('"My Schema".orders', ("My Schema", "orders")),
        ('public."a.b"', ("public", "a.b")),
        ('"a""b"."c d"', ('a"b', "c d")),
    ],
)
def test_table_names_are_parsed(text: str, expected: tuple[str, str]) -> None:
    assert parse_table(text) == expected


@pytest.mark.parametrize("text", ["", "orders", "a.b.c", ".orders", "public.", '"public.orders', "public.or ders"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_table(text)
    assert caught.value.code == "RIVET_CONFIG_TABLE"


NAME = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=63)
# Characters that are escaped, so that most names of some length are too long for a folder.
LONG_NAME = st.text("aä€\U0001f600.-", min_size=20, max_size=63)


@given(NAME, NAME)
def test_quoted_names_come_back(schema: str, name: str) -> None:
    quoted = ".".join('"' + part.replace('"', '""') + '"' for part in (schema, name))
    assert parse_table(quoted) == (schema, name)


@given(st.tuples(NAME, NAME), st.tuples(NAME, NAME))
def test_folders_are_distinct_and_plain(one: tuple[str, str], other: tuple[str, str]) -> None:
    folder = table_folder(*one)
    assert (folder == table_folder(*other)) == (one == other)
    assert folder.isascii()
    assert not set(folder) & set('/\\%~#?*<>|:="')
    assert 0 < len(folder) <= 255


@given(LONG_NAME, LONG_NAME, NAME)
def test_long_names_that_differ_anywhere_have_folders_of_their_own(schema: str, name: str, other: str) -> None:
    names = {(schema, name), (schema, name + other), (schema + other, name), (name, schema), (other, name)}
    folders = {table_folder(*each) for each in names}
    assert len(folders) == len(names)
    assert all(len(folder) <= 255 for folder in folders)


@given(LONG_NAME, LONG_NAME)
def test_a_shortened_folder_is_no_other_table_s_whole_name(schema: str, name: str) -> None:
    whole = f"{plain_name(schema)}.{plain_name(name)}"
    folder = table_folder(schema, name)
    assert folder == whole if len(whole) <= 255 else folder.count(".") == 0
    assert whole.count(".") == 1


def test_a_folder_of_a_long_name_can_be_made_and_keeps_its_name(tmp_path: Path) -> None:
    """Exports that were begun are found again: what the names are must not change."""
    longest, shortened = table_folder("a" * 63, "ä" * 27), table_folder("my schema", "ä" * 31 + "." * 30)
    assert longest == f"{'a' * 63}.{'_x00E4_' * 27}"
    assert shortened == f"my_x0020_schema-{('_x00E4_' * 31)[:84]}-8645c5deb5bada5eeb30f1c0257cb2d0"
    for folder in (longest, shortened):
        (tmp_path / folder).mkdir()


def test_folder_of_a_plain_name_is_the_name() -> None:
    assert table_folder("public", "order_items") == "public.order_items"
    assert table_folder("public", "my table") == "public.my_x0020_table"


@given(st.integers(1, 99), st.integers(0, 10_000_000))
def test_window_keys_come_back(generation: int, index: int) -> None:
    key = window_key(generation, index)
    assert generation_of(key) == generation
    assert window_path(generation, key) == f"g{generation}/windows/w{index:06d}.json"


@pytest.mark.parametrize(
    ("key", "stem"),
    [
        ("2026-01-31", "t2026-01-31"),
        ("2026-10-25-02:00+0100", "t2026-10-25-02_x003A_00_x002B_0100"),
        ("g1-w17", "tg1-w17"),
    ],
)
def test_slices_of_time_are_called_by_their_keys(key: str, stem: str) -> None:
    assert window_stem(key) == stem
    assert generation_of(key) is None


@given(st.sets(st.text(min_size=1, max_size=20), min_size=2, max_size=5))
def test_distinct_keys_have_distinct_files(keys: set[str]) -> None:
    assert len({window_stem(key) for key in keys}) == len(keys)


def test_part_names_hold_the_fingerprint() -> None:
    path = part_path(1, "g1-w000017", 0, "xxh3-128:00112233445566778899aabbccddeeff", "parquet")
    assert path == "g1/data/w000017/part-00000-0011223344556677.parquet"
