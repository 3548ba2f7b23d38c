from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

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


def read_window(servo: PageServo, widths: Sequence[int], most: int, slack: int = 0) -> tuple[list[list[int]], int]:
    """Widths of the rows of each page of a window, and how often it was read; no page of several rows has more bytes.

    Pages have up to `slack` rows more than the servo asks for, as ranges of storage may; not where it asks for one.
    """
    tries = 0
    while True:
        tries += 1
        servo.begin("window")
        pages: list[list[int]] = []
        passed = 0
        while passed < len(widths):
            asked = servo.rows
            page = list(widths[passed : passed + asked + (slack if asked > 1 else 0)])
            sums = list(accumulate(page))
            refused = next((number for number, size in enumerate(sums) if number and size > most), None)
            if asked > 1 and refused is not None:
                servo.overflow(refused + 1)
                break
            servo.observe(asked, len(page), sums[-1], len(page) * 1e-7)
            passed += len(page)
            pages.append(page)
        else:
            servo.relax()
            return pages, tries


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


def test_pages_end_before_the_row_that_was_too_much() -> None:
    servo = PageServo(16 * MIB, 1.0, row_bytes=100)
    widths = [100] * 1_000_000
    widths[500_000:500_050] = [100 * MIB] * 50
    pages, tries = read_window(servo, widths, 64 * MIB)
    assert tries == 2
    assert [width for page in pages for width in page] == widths
    assert all(len(page) == 1 for page in pages if 100 * MIB in page)
    assert len(pages) < 150, "neither before those rows nor long after them pages are small"


def test_another_window_knows_nothing_of_it() -> None:
    servo = PageServo(16 * MIB, 1.0, row_bytes=100)
    feed(servo, 100, 1e-7, 20)
    before = servo.rows
    servo.begin("a")
    servo.observe(before, before, before * 100, before * 1e-7)
    servo.overflow(11)
    servo.begin("a")
    servo.observe(before, before, before * 100, before * 1e-7)
    assert servo.rows == 10
    servo.observe(10, 10, 1000, 1e-6)
    assert servo.rows == 1
    servo.begin("a")
    feed(servo, 100, 1e-7, 40)
    servo.begin("b")
    assert servo.rows == before


def test_a_page_of_a_row_grows_again() -> None:
    servo = PageServo(16 * MIB, 1.0, row_bytes=100)
    for _ in range(40):
        servo.shrink()
    assert servo.rows == 1
    servo.relax()
    feed(servo, 100, 1e-7, 60)
    assert servo.rows == 16 * MIB // 100


@given(
    st.lists(st.tuples(st.integers(1, 60), st.sampled_from([10, 300, 3000, 50_000])), min_size=1, max_size=20),
    st.sampled_from([0, 7]),
)
def test_every_window_comes_to_its_end(runs: list[tuple[int, int]], slack: int) -> None:
    widths = [width for count, width in runs for _ in range(count)]
    pages, tries = read_window(PageServo(1000, 1.0, unbounded=True), widths, 4000, slack)
    assert [width for page in pages for width in page] == widths
    assert all(len(page) == 1 or sum(page) <= 4000 for page in pages)
    assert tries < 100
