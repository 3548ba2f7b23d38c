from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rivet_dagster.export.servo import PageServo

MIB = 1 << 20


def feed(servo: PageServo, width: float, seconds_a_row: float, pages: int) -> list[int]:
    """Sizes that the servo asks for, of a table with rows of one width on a server of one speed."""
    asked = []
    for _ in range(pages):
        rows = servo.rows
        asked.append(rows)
        servo.observe(rows, rows, int(rows * width), rows * seconds_a_row)
    return asked


def test_first_page_is_a_probe() -> None:
    assert PageServo(16 * MIB, 1.0, row_bytes=1024).rows == 2048


@pytest.mark.parametrize("width", [40, 200, 40_000, 4_000_000])
def test_rows_of_unknown_width_are_probed_by_a_few(width: int) -> None:
    servo = PageServo(16 * MIB, 1.0, row_bytes=30, unbounded=True)
    sizes = feed(servo, width, 1e-9, 30)
    assert sizes[0] == 200
    assert sizes[-1] == 16 * MIB // width
    assert all(rows * width <= 16 * MIB for rows in sizes[2:])
    arrived = next(place for place, rows in enumerate(sizes) if rows == sizes[-1])
    assert arrived <= 4


def test_after_the_probe_pages_grow_slowly_again() -> None:
    servo = PageServo(16 * MIB, 1.0, row_bytes=30, unbounded=True)
    feed(servo, 1000, 1e-9, 10)
    sizes = feed(servo, 10, 1e-9, 30)
    assert all(later <= earlier * 1.5 + 1 for earlier, later in pairwise(sizes))


def test_after_the_server_ended_a_statement_pages_stay_small_until_relaxed() -> None:
    servo = PageServo(16 * MIB, 1.0, row_bytes=100)
    feed(servo, 100, 1e-7, 20)
    before = servo.rows
    servo.shrink()
    assert set(feed(servo, 100, 1e-7, 5)) == {before // 2}
    servo.relax()
    feed(servo, 100, 1e-7, 20)
    assert servo.rows == before


def test_settles_at_the_byte_target() -> None:
    sizes = feed(PageServo(16 * MIB, 1.0, row_bytes=100), 200, 1e-7, 30)
    assert sizes[-1] == 16 * MIB // 200
    assert all(later <= earlier * 1.5 + 1 for earlier, later in pairwise(sizes))


def test_a_slow_server_gets_smaller_pages() -> None:
    sizes = feed(PageServo(16 * MIB, 1.0, row_bytes=100), 100, 1e-4, 30)
    assert 0.5 < sizes[-1] * 1e-4 <= 1.0


def test_panic_cuts_to_a_tenth_and_recovers() -> None:
    servo = PageServo(16 * MIB, 1.0, row_bytes=100)
    feed(servo, 100, 1e-7, 20)
    before = servo.rows
    servo.observe(before, before, before * 100, 6.0)
    assert servo.rows == before // 10
    feed(servo, 100, 1e-7, 20)
    assert servo.rows == before


def test_wide_rows_after_narrow_ones_cut_at_once() -> None:
    servo = PageServo(16 * MIB, 1.0, row_bytes=100)
    feed(servo, 100, 1e-7, 20)
    before = servo.rows
    servo.observe(before, before, before * 40_000, 0.5)
    assert servo.rows == before // 10


def test_feedback_of_another_size_is_ignored() -> None:
    servo = PageServo(16 * MIB, 1.0, row_bytes=100)
    before = servo.rows
    servo.observe(before + 1, before + 1, 10, 100.0)
    assert servo.rows == before


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 1 << 40), st.floats(0, 1000)), max_size=40),
    st.integers(0, 1 << 30),
)
def test_never_asks_for_less_than_a_row(pages: list[tuple[int, int, float]], row_bytes: int) -> None:
    servo = PageServo(16 * MIB, 1.0, row_bytes)
    for rows, wire_bytes, seconds in pages:
        servo.observe(servo.rows, rows, wire_bytes, seconds)
        assert servo.rows >= 1
    servo.shrink()
    assert servo.rows >= 1


def test_a_slow_server_gets_no_saw() -> None:
    sizes = feed(PageServo(16 * MIB, 1.0, row_bytes=100), 100, 1e-4, 60)
    assert max(sizes[1:]) * 1e-4 <= 1.0, "behind the probe, the target is come to from below"
    assert len(set(sizes[-20:])) == 1


def test_after_a_few_very_wide_rows_pages_are_soon_large_again() -> None:
    servo = PageServo(16 * MIB, 1.0, row_bytes=100)
    feed(servo, 100, 1e-7, 20)
    before = servo.rows
    servo.observe(before, before, before * 40_000, 0.5)
    sizes = feed(servo, 100, 1e-7, 15)
    assert sizes[-1] == before
