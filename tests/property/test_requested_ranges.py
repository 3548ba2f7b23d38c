"""Laws of ranges: what a sensor asks for is what it wants, in few runs, none of them too long."""

from __future__ import annotations

from itertools import pairwise

import dagster as dg
from hypothesis import given
from hypothesis import strategies as st

from rivet_dagster.export.plan import Window
from rivet_dagster.requests import RANGE_END, RANGE_START, ranges, run_requests
from rivet_dagster.sources.base import KeyRange

ORDERS = st.integers(0, 30).flatmap(lambda size: st.permutations([f"w{number}" for number in range(size)]))


@st.composite
def wishes(draw: st.DrawFn) -> tuple[list[str], list[str], int]:
    """Partitions in some order, some of them and some unknown ones in any order, and a limit."""
    order = draw(ORDERS)
    wanted = draw(st.lists(st.sampled_from([*order, "unknown"]), max_size=40))
    return order, wanted, draw(st.integers(1, 8))


@given(wishes())
def test_ranges_cover_what_is_wanted_and_nothing_else(wish: tuple[list[str], list[str], int]) -> None:
    order, wanted, most = wish
    found = list(ranges(order, wanted, most))
    assert [key for keys in found for key in keys] == [key for key in order if key in wanted], "each once, in order"
    for keys in found:
        assert 1 <= len(keys) <= most
        first, last = order.index(keys[0]), order.index(keys[-1])
        assert order[first : last + 1] == keys, "what Dagster makes of its ends"
    for before, after in pairwise(found):
        adjacent = order.index(before[-1]) + 1 == order.index(after[0])
        assert not adjacent or len(before) == most, "none is cut short"


@given(wishes(), st.text(max_size=3))
def test_equal_wishes_have_equal_run_keys_and_others_do_not(
    wish: tuple[list[str], list[str], int], occasion: str
) -> None:
    order, wanted, most = wish
    table = dg.AssetKey(["public", "orders"])
    windows = [Window(1, 0, KeyRange(None, None), 0, key) for key in wanted]

    def spans(most: int) -> dict[tuple[str, str], str]:
        requests = run_requests(table, order, windows, most, occasion, "why")
        return {(each.tags[RANGE_START], each.tags[RANGE_END]): str(each.run_key) for each in requests}

    def keys(table: dg.AssetKey, windows: list[Window], occasion: str) -> list[str]:
        return [str(request.run_key) for request in run_requests(table, order, windows, most, occasion, "why")]

    found = keys(table, windows, occasion)
    assert found == keys(table, windows[::-1], occasion)
    assert list(spans(most)) == [(run[0], run[-1]) for run in ranges(order, wanted, most)]
    assert list(spans(most).values()) == found
    longer = {**spans(most), **spans(most + 1)}
    assert len(set(longer.values())) == len(longer), "other ranges, other keys"
    assert not set(found) & set(keys(table, windows, occasion + "x"))
    assert not set(found) & set(keys(dg.AssetKey(["public", "others"]), windows, occasion))
