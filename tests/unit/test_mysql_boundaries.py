"""Keys as whole numbers, and windows cut by estimates that are exact, rough or wrong."""

from __future__ import annotations

from bisect import bisect_right
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rivet_dagster.sources.base import Column
from rivet_dagster.sources.mysql.boundaries import cut, refined
from rivet_dagster.sources.mysql.ordinals import Ordinals, ordinals_of


def of(declared: str) -> Ordinals:
    kind = declared.partition("(")[0].partition(" ")[0]
    found = ordinals_of(Column("k", declared, nullable=True, kind=kind))
    assert found is not None
    return found


# In the order of the server, which tests with one hold them against.
ASCENDING = {
    "bigint": ["-9223372036854775808", "-9223372036854775807", "-1", "0", "1", "9223372036854775807"],
    "bigint(20) unsigned": ["0", "9223372036854775808", "18446744073709551614", "18446744073709551615"],
    "decimal(5,2)": ["-999.99", "-1.01", "-1.00", "-0.01", "0.00", "0.01", "1.00", "999.99"],
    "decimal(65,30)": ["-" + "9" * 35 + "." + "9" * 30, "0." + "0" * 29 + "1", "9" * 35 + "." + "9" * 30],
    "decimal(3,0) unsigned": ["0", "1", "999"],
    "date": ["0001-01-01", "2024-02-29", "2024-03-01", "9999-12-31"],
    "datetime": ["0001-01-01 00:00:00.000000", "2024-02-29 23:59:59.000000", "9999-12-31 23:59:59.000000"],
    "datetime(3)": ["2024-02-29 23:59:59.998000", "2024-02-29 23:59:59.999000", "2024-03-01 00:00:00.000000"],
    "timestamp(6)": ["1970-01-01 00:00:01.000000", "2038-01-19 03:14:07.999999"],
    "binary(3)": ["000000", "0000FF", "010000", "FFFFFF"],
}


@pytest.mark.parametrize("declared", ASCENDING)
def test_numbers_ascend_with_the_values_and_give_them_back(declared: str) -> None:
    ordinals, texts = of(declared), ASCENDING[declared]
    numbers = [ordinals.number(text) for text in texts]
    assert all(one < other for one, other in pairwise(numbers))
    assert [ordinals.text(number) for number in numbers] == texts


@given(number=st.integers(-(10**20), 10**20), places=st.integers(0, 30))
def test_decimals_are_exact(number: int, places: int) -> None:
    text = of(f"decimal(65,{places})").text(number)
    assert Decimal(text).as_tuple() == Decimal(number).scaleb(-places).as_tuple()
    assert of(f"decimal(65,{places})").number(text) == number


@pytest.mark.parametrize(
    ("declared", "one", "other"),
    [
        # Dates that there are not, beside the day that follows them and the one before.
        ("date", "2023-12-31", "2024-00-00"),
        ("date", "2024-00-31", "2024-01-02"),
        ("date", "2023-02-31", "2023-03-01"),
        ("datetime", "2023-02-31 10:00:00", "2023-03-01 00:00:00"),
        ("datetime", "2023-02-28 09:00:00", "2023-02-31 01:00:00"),
        ("datetime", "2024-04-30 23:59:59", "2024-05-00 13:00:00"),
        ("datetime", "0000-00-00 00:00:00", "0001-01-02 00:00:00"),
        ("datetime", "2024-01-01 00:00:00.999999", "2024-01-01 00:00:01"),
        ("decimal(5,1)", "-0.15", "-0.1"),
        ("int", "-0.5", "0"),
    ],
)
def test_what_is_no_value_of_a_column_keeps_its_place(declared: str, one: str, other: str) -> None:
    assert of(declared).number(one) < of(declared).number(other)


@pytest.mark.parametrize(
    ("declared", "text"), [("int", "x"), ("int", ""), ("decimal(5,2)", "."), ("date", "today"), ("binary(2)", "xy")]
)
def test_what_is_no_value_at_all_has_no_number(declared: str, text: str) -> None:
    ordinals = of(declared)
    with pytest.raises(ValueError, match=r"^(.*\D.*|)$"):
        ordinals.number(text)


VALUES = st.one_of(
    st.lists(st.integers(-(2**63), 2**64), min_size=1, max_size=200),
    st.lists(st.integers(0, 50), min_size=1, max_size=200),
)


@given(values=VALUES, windows=st.integers(1, 40))
def test_exact_estimates_make_windows_alike(values: list[int], windows: int) -> None:
    values.sort()
    lo, hi = values[0] - 1, values[-1]

    def expected(lo: int, hi: int) -> int:
        return bisect_right(values, hi) - bisect_right(values, lo)

    leaves = refined(expected, lo, hi, windows)
    assert leaves is not None
    assert sum(rows for _, _, rows in leaves) == len(values)
    assert [leaves[0][0], leaves[-1][1]] == [lo, hi]
    assert all(one[1] == other[0] for one, other in pairwise(leaves))
    edges = [lo, *cut(leaves, windows), hi]
    assert all(one < other for one, other in pairwise(edges))
    assert len(edges) <= windows + 1
    # No more rows than a window's share, the range at its end, and rows of one value.
    most = max(values.count(value) for value in set(values))
    finest = max((rows for lo, hi, rows in leaves if hi - lo > 1), default=0)
    assert all(expected(*ends) <= len(values) / windows + 2 * max(finest, most) for ends in pairwise(edges))


@given(rows=st.lists(st.integers(0, 5), min_size=1, max_size=50), windows=st.integers(1, 60), hi=st.integers(1, 2**64))
def test_estimates_that_are_wrong_make_ascending_bounds(rows: list[int], windows: int, hi: int) -> None:
    asked = 0

    def expected(_lo: int, _hi: int) -> int:
        nonlocal asked
        asked += 1
        return rows[asked % len(rows)]

    leaves = refined(expected, 0, hi, windows)
    assert leaves is not None
    bounds = cut(leaves, windows)
    assert all(one < other for one, other in pairwise([0, *bounds, hi]))
    assert asked <= 401


def test_a_server_that_does_not_say_is_asked_no_more() -> None:
    assert refined(lambda lo, hi: None, 0, 100, 5) is None
    answers = iter([100, 50, None])
    assert refined(lambda lo, hi: next(answers), 0, 100, 5) is None
    assert next(answers, "all used") == "all used"
