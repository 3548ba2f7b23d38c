"""Keys as text, from the bytes of a row: as the server would write them, or as it reads them back as the same value."""

from __future__ import annotations

import datetime as dt
import ipaddress
import struct
import uuid
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rivet_dagster.sources.base import Column, ColumnChoice, Table, TypeChoices
from rivet_dagster.sources.mysql.keytext import key_writer
from rivet_dagster.sources.mysql.typemap import RULES
from rivet_dagster.sources.mysql.types import readings
from rivet_dagster.wire.mysqlrows import RowDecoder
from tests.support.mysqlrows_encoder import encode_packets, encode_value

COLLATIONS = {"char": "utf8mb4_general_ci", "varchar": "latin1_bin", "enum": "utf8mb4_bin"}


def written(declared: str, value: bytes, chosen: str | None = None) -> str:
    """The text of a key of the declared type, from the bytes of its field, `chosen` being the type it is read as."""
    column = declared_as(declared)
    (reading,) = readings(Table("s", "t", (column,), ()), TypeChoices({"k": ColumnChoice(chosen)}))
    return key_writer(column, reading.form, text=pa.types.is_string(reading.field.type))(value)


def declared_as(declared: str) -> Column:
    kind = declared.partition("(")[0].partition(" ")[0]
    return Column("k", declared, nullable=False, kind=kind, collation=COLLATIONS.get(kind, ""))


def little(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little", signed=value < 0)


# ------------------------------------------------------------------------------------------ written by hand


@pytest.mark.parametrize(
    ("declared", "value", "text"),
    [
        ("tinyint(4)", "80", "-128"),
        ("tinyint(1)", "ff", "-1"),
        ("tinyint(3) unsigned", "ff", "255"),
        ("smallint(6)", "0080", "-32768"),
        ("smallint(5) unsigned zerofill", "ffff", "65535"),
        ("mediumint(9)", "000080ff", "-8388608"),
        ("mediumint(8) unsigned", "ffffff00", "16777215"),
        ("int", "ffffffff", "-1"),
        ("int(10) unsigned", "ffffffff", "4294967295"),
        ("bigint(20)", "0000000000000080", "-9223372036854775808"),
        ("bigint(20) unsigned", "ffffffffffffffff", "18446744073709551615"),
        ("bigint(20) unsigned", "0000000000000080", "9223372036854775808"),
        ("year(4)", "0000", "0"),
        ("year(4)", "6b08", "2155"),
        ("decimal(12,2)", b"-1234567.89".hex(), "-1234567.89"),
        ("decimal(65,30)", b"0.000000000000000000000000000001".hex(), "0.000000000000000000000000000001"),
        ("float", "cdcccc3d", "0.10000000149011612"),
        ("float", "00000080", "-0.0"),
        ("float", "01000000", "1.401298464324817e-45"),
        ("double", "9a9999999999b93f", "0.1"),
        ("double", "ffffffffffffef7f", "1.7976931348623157e+308"),
        ("double", "0100000000000000", "5e-324"),
        ("bit(1)", "01", "1"),
        ("bit(8)", "a5", "165"),
        ("bit(12)", "0f01", "3841"),
        ("bit(64)", "ffffffffffffffff", "18446744073709551615"),
        ("bit(64)", "8000000000000000", "9223372036854775808"),
        # As many bytes of a moment as there is something in them.
        ("date", "", "0000-00-00"),
        ("date", "e807021d", "2024-02-29"),
        ("date", "e8070200", "2024-02-00"),
        ("date", "e7070300", "2023-03-00"),
        ("date", "0f270c1f", "9999-12-31"),
        ("datetime", "", "0000-00-00 00:00:00.000000"),
        ("datetime(6)", "e807021d", "2024-02-29 00:00:00.000000"),
        ("datetime(6)", "e807021d0a2238", "2024-02-29 10:34:56.000000"),
        ("datetime(6)", "e807021d0a223801000000", "2024-02-29 10:34:56.000001"),
        ("datetime(6)", "e807021d000000400d0300", "2024-02-29 00:00:00.200000"),
        ("timestamp(3)", "b2070101000001c0b60b00", "1970-01-01 00:00:01.767680"),
        ("time", "", "00:00:00.000000"),
        ("time", "00000000000c2238", "12:34:56.000000"),
        ("time(6)", "010000000000000001000000", "-00:00:00.000001"),
        ("time(6)", "0022000000163b3b3f420f00", "838:59:59.999999"),
        ("time(6)", "0122000000163b3b3f420f00", "-838:59:59.999999"),
        ("time", "0104000000030000", "-99:00:00.000000"),
        ("uuid", "6ba7b8109dad11d180b400c04fd430c8", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
        ("binary(4)", "00ff0a80", "00ff0a80"),
        ("varbinary(16)", "", ""),
        ("char(20)", "grüße".encode().hex(), "grüße"),
        ("varchar(20)", "日本' \\".encode().hex(), "日本' \\"),
        ("varchar(20)", "", ""),
        ("inet4", b"10.1.2.3".hex(), "10.1.2.3"),
        ("inet6", b"2001:db8::ff00:42:8329".hex(), "2001:db8::ff00:42:8329"),
    ],
)
def test_a_key_is_written_as_the_server_writes_it(declared: str, value: str, text: str) -> None:
    assert written(declared, bytes.fromhex(value)) == text


@pytest.mark.parametrize(
    ("declared", "chosen", "value", "text"),
    [
        ("binary(16)", "uuid", bytes(range(16)), "000102030405060708090a0b0c0d0e0f"),
        ("binary(16)", None, bytes(range(16)), "000102030405060708090a0b0c0d0e0f"),
        ("binary(4)", "text", b"00ff0a80", "00ff0a80"),  # the server has written it in hexadecimal
        ("varbinary(4)", "text", b"", ""),
        ("tinyint(1)", "bool", b"\1", "1"),
        ("int(11)", "text", b"-17", "-17"),
        ("bigint(20) unsigned", "text", b"18446744073709551615", "18446744073709551615"),
        ("double", "text", b"1e20", "1e20"),
        ("date", "text", b"2024-02-00", "2024-02-00"),
        ("datetime(3)", "text", b"2024-02-29 01:02:03.400", "2024-02-29 01:02:03.400"),
        ("time", "text", b"-01:00:00", "-01:00:00"),
        ("decimal(12,2)", "text", b"1.50", "1.50"),
        ("decimal(12,2)", "decimal(20, 4)", b"1.50", "1.50"),
        ("bit(1)", "uint64", b"\1", "1"),
        ("uuid", "text", b"6ba7b810-9dad-11d1-80b4-00c04fd430c8", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
        ("varchar(20)", "json", b"[1]", "[1]"),
    ],
)
def test_a_key_that_is_read_as_another_type_is_the_same_text(
    declared: str, chosen: str | None, value: bytes, text: str
) -> None:
    assert written(declared, value, chosen) == text


@pytest.mark.parametrize("value", [b"\xff", b"gr\xfc\xdfe"])
def test_bytes_that_are_no_text_are_not_bent(value: bytes) -> None:
    with pytest.raises(UnicodeDecodeError):
        written("varchar(20)", value)


def test_every_type_that_rows_are_walked_by_has_a_writer() -> None:
    """Through the decoder, which says where in a row the key's bytes are."""
    walked = [rule for rule in RULES if rule.key]
    assert len(walked) >= 25
    values: dict[str, Any] = {"decimal": Decimal("1.50"), "float4": 1.5, "float8": 1.5, "date": (2024, 2, 29)}
    values |= {"datetime": (2024, 2, 29), "time": 1, "uuid": uuid.UUID(int=1), "bytes": b"10", "bit": 10}
    for rule in walked:
        column = declared_as(rule.declared)
        (reading,) = readings(Table("s", "t", (column,), ()), TypeChoices())
        decoder = RowDecoder([reading.wire_column()], batch_bytes=1, batch_rows=1)
        page = encode_packets(b"\0\0" + encode_value(reading.form, values.get(reading.form, 10)))
        assert len(list(decoder.decode(np.frombuffer(bytearray(page), np.uint8), len(page)))) == 1
        (found,) = decoder.last_row([0])
        assert found is not None
        text = key_writer(column, reading.form, text=pa.types.is_string(reading.field.type))(found)
        expected = {
            "decimal": "1.50",
            "float4": "1.5",
            "float8": "1.5",
            "date": "2024-02-29",
            "uuid": str(uuid.UUID(int=1)),
        }
        expected |= {"datetime": "2024-02-29 00:00:00.000000", "time": "00:00:00.000001"}
        plain = "3130" if rule.name in ("binary", "varbinary") else "10"
        assert text == expected.get(reading.form, plain), rule.name


# ------------------------------------------------------------------------------------------ against Python's own


@pytest.mark.parametrize(
    ("declared", "code"),
    [
        ("tinyint(4)", "<b"),
        ("tinyint(3) unsigned", "<B"),
        ("smallint(6)", "<h"),
        ("smallint(5) unsigned", "<H"),
        ("mediumint(9)", "<i"),
        ("int(11)", "<i"),
        ("int(10) unsigned", "<I"),
        ("bigint(20)", "<q"),
        ("bigint(20) unsigned", "<Q"),
    ],
)
@given(data=st.data())
def test_integers(declared: str, code: str, data: st.DataObject) -> None:
    value = data.draw(st.binary(min_size=struct.calcsize(code), max_size=struct.calcsize(code)))
    assert int(written(declared, value)) == struct.unpack(code, value)[0]


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_floats_are_written_as_the_double_that_is_equal(value: float) -> None:
    text = written("float", struct.pack("<f", value))
    assert float(text).hex() == value.hex()


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_doubles_are_written_to_the_bit(value: float) -> None:
    assert float(written("double", struct.pack("<d", value))).hex() == value.hex()


@given(st.datetimes())
def test_moments(value: dt.datetime) -> None:
    field = encode_value("datetime", value)[1:]
    for declared in ("datetime(6)", "timestamp(6)"):
        assert written(declared, field) == value.isoformat(" ", "microseconds")
    assert written("date", encode_value("date", value.date())[1:]) == value.date().isoformat()


@given(st.tuples(st.integers(0, 9999), st.integers(0, 12), st.integers(0, 31)))
def test_dates_that_no_calendar_has(value: tuple[int, int, int]) -> None:
    text = written("date", encode_value("date", value)[1:])
    assert (len(text), tuple(map(int, text.split("-")))) == (10, value)


LONGEST = dt.timedelta(hours=838, minutes=59, seconds=59, microseconds=999_999)


@given(st.timedeltas(-LONGEST, LONGEST))
def test_times(value: dt.timedelta) -> None:
    text = written("time(6)", encode_value("time", value // dt.timedelta(microseconds=1))[1:])
    hours, minutes, seconds = text.lstrip("-").split(":")
    read = dt.timedelta(hours=int(hours), minutes=int(minutes), seconds=int(seconds[:2]), microseconds=int(seconds[3:]))
    assert (-read if text.startswith("-") else read) == value
    assert (len(hours) >= 2, len(minutes), len(seconds)) == (True, 2, 9)


@given(st.integers(0, 2**64 - 1))
def test_bits(value: int) -> None:
    for size in range((value.bit_length() + 7) // 8, 9):
        assert written(f"bit({size * 8})" if size else "bit(8)", value.to_bytes(size, "big")) == str(value)


@given(st.uuids())
def test_uuids(value: uuid.UUID) -> None:
    assert written("uuid", value.bytes) == str(value)
    assert written("binary(16)", value.bytes, "uuid") == value.hex


@given(st.binary(max_size=40))
def test_bytes(value: bytes) -> None:
    assert bytes.fromhex(written("varbinary(40)", value)) == value
    assert written("varbinary(40)", value.hex().encode(), "text") == value.hex()


@given(st.text(max_size=40), st.ip_addresses(v=6))
def test_texts(value: str, address: ipaddress.IPv6Address) -> None:
    assert written("varchar(40)", value.encode()) == value
    assert written("inet6", str(address).encode()) == str(address)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=30))
def test_decimals_have_all_their_digits(value: Decimal) -> None:
    assert written("decimal(65,30)", encode_value("decimal", value)[1:]) == f"{value:f}"
