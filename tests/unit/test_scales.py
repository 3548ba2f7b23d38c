"""Key values as whole numbers: there and back, and shares that are equal."""

from __future__ import annotations

import uuid
from bisect import bisect_right
from datetime import date, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rivet_dagster.sources import scales

INTEGERS = st.integers(-(2**70), 2**70)
POINTS = st.lists(INTEGERS, min_size=2, max_size=40).map(sorted)


@given(number=INTEGERS)
def test_integers_come_back(number: int) -> None:
    assert scales.INTEGER.number(scales.INTEGER.text(number)) == number
    assert scales.INTEGER.text(number) == str(number)


@given(value=st.uuids())
def test_uuids_come_back(value: uuid.UUID) -> None:
    assert scales.UUID.text(scales.UUID.number(str(value))) == str(value)
    assert scales.UUID.number(str(value)) == int.from_bytes(value.bytes, "big")


@given(value=st.dates(), days=st.integers(0, 40))
def test_dates_come_back(value: date, days: int) -> None:
    assert scales.DATE.text(scales.DATE.number(str(value))) == str(value)
    if value.toordinal() + days <= date.max.toordinal():
        later = date.fromordinal(value.toordinal() + days)
        assert scales.DATE.number(str(later)) - scales.DATE.number(str(value)) == days


@given(value=st.datetimes(), other=st.datetimes())
def test_moments_come_back_in_their_order(value: datetime, other: datetime) -> None:
    for scale, zone in ((scales.TIMESTAMP, ""), (scales.UTC_TIMESTAMP, "+00")):
        number = scale.number(str(value) + zone)
        assert scale.text(number) == str(value) + zone
        assert (number < scale.number(str(other) + zone)) == (value < other)


@pytest.mark.parametrize(
    ("written", "same"),
    [
        ("2024-02-29", "2024-02-29 00:00:00"),
        ("2024-02-29 01:02:03.5", "2024-02-29 01:02:03.500000"),
        ("2024-02-29T01:02:03.000001", "2024-02-29 01:02:03.000001"),
        ("0001-01-01 00:00:00", "0001-01-01 00:00:00"),
    ],
)
def test_fractions_are_read_as_servers_write_them(written: str, same: str) -> None:
    assert scales.TIMESTAMP.text(scales.TIMESTAMP.number(written)) == same


@pytest.mark.parametrize(
    "text",
    ["infinity", "-infinity", "0044-03-15 BC", "0044-03-15 12:00:00 BC", "2024-01-01 00:00:00+01", "10000-01-01"],
)
def test_what_has_no_number_is_refused(text: str) -> None:
    for scale in (scales.DATE, scales.TIMESTAMP, scales.UTC_TIMESTAMP):
        with pytest.raises(ValueError, match=r"calendar"):
            scale.number(text)


@given(points=POINTS, beyond=st.integers(-(2**71), 2**71), parts=st.integers(1, 300))
def test_quantiles_ascend_below_the_top(points: list[int], beyond: int, parts: int) -> None:
    top = max(points[0], points[-1] + beyond)
    found = scales.quantiles(points, top, parts)
    assert len(found) < parts
    assert all(before < after for before, after in pairwise(found))
    assert all(points[0] <= number < top for number in found)


@given(
    first=INTEGERS,
    step=st.integers(1000, 2**60),
    ranges=st.integers(1, 100),
    more=st.integers(0, 100),
    parts=st.integers(2, 500),
)
def test_shares_are_even_on_even_data(first: int, step: int, ranges: int, more: int, parts: int) -> None:
    """Also where rows go on beyond the last point."""
    points = [first + step * number for number in range(ranges + 1)]
    top = points[-1] + step * more
    found = scales.quantiles(points, top, parts)
    assert len(found) == parts - 1
    whole = top - first
    for number, bound in enumerate(found, start=1):
        assert abs((bound - first) * parts - whole * number) <= parts * (2 + step // (1 << 20))


@given(points=st.lists(st.integers(0, 10**6), min_size=3, max_size=30, unique=True).map(sorted), data=st.data())
def test_every_share_has_as_many_ranges(points: list[int], data: st.DataObject) -> None:
    """Where there are as many parts as ranges, or a divisor, the points themselves are the bounds."""
    ranges = len(points) - 1
    parts = data.draw(st.sampled_from([n for n in range(1, ranges + 1) if ranges % n == 0]))
    found = scales.quantiles(points, points[-1], parts)
    assert found == points[:: ranges // parts][1:-1]


@given(points=POINTS, data=st.data(), parts=st.integers(1, 60))
def test_points_beyond_the_top_do_not_count(points: list[int], data: st.DataObject, parts: int) -> None:
    """Rows that were deleted since the statistics were made."""
    top = data.draw(st.sampled_from(points))
    kept = points[: bisect_right(points, top)]
    assert scales.quantiles(points, top, parts) == scales.quantiles(kept, top, parts)


def test_a_single_value_has_nothing_to_cut() -> None:
    assert scales.quantiles([7, 7, 7], 7, 5) == []
    assert scales.quantiles([9], 7, 5) == []
    assert scales.quantiles([], 7, 5) == []
