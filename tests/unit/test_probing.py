"""What the probes share, with servers that are made up: refusals, the canary's choice, and the maths of lag."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rivet_dagster.errors import SourceError
from rivet_dagster.sources.probing import LIMITS, Canary, Group, Groups, Lag, Positions
from tests.support.signals import expected_signals

LOOKS = 60


def fault(code: str) -> SourceError:
    return SourceError(code, "What happened.", "What to do.")


class Server:
    """Answers for groups, each by its name, unless something is wrong with one of them."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.faults: dict[str, str] = {}

    def ask(self, groups: Sequence[Group]) -> Mapping[str, Any]:
        self.asked.append("+".join(group.name for group in groups))
        for group in groups:
            if group.name in self.faults:
                raise fault(self.faults[group.name])
        return {group.name: 1 for group in groups}

    def take_asked(self) -> list[str]:
        asked, self.asked = self.asked, []
        return asked


def groups_of(server: Server) -> Groups:
    groups = [Group(name, "", (f"{name}_s",), f"right to {name}", alone=name == "d") for name in "abcd"]
    return Groups(groups, server.ask)


def test_groups_are_tried_one_by_one_and_then_read_together() -> None:
    server = Server()
    groups = groups_of(server)
    for asked in (["a", "b", "c", "d"], ["a+b+c", "d"], ["a+b+c", "d"]):
        assert groups.read() == ({"a": 1, "b": 1, "c": 1, "d": 1}, {})
        assert server.take_asked() == asked


@pytest.mark.parametrize(
    ("code", "missing"),
    [
        ("RIVET_SOURCE_FORBIDDEN", "right to b"),
        ("RIVET_SOURCE_AUTH", "right to b"),
        ("RIVET_SOURCE_TIMEOUT", "an answer within 2 s"),
        ("RIVET_SOURCE_LOCKED", "an answer within 2 s"),
        ("RIVET_SOURCE_TABLE_MISSING", "a server that has it"),
        ("RIVET_SOURCE_FAILED", "a server that has it"),
    ],
)
def test_what_is_refused_is_remembered_and_tried_again_much_later(code: str, missing: str) -> None:
    server = Server()
    server.faults["b"] = code
    groups = groups_of(server)
    for look in range(LOOKS):
        assert groups.read() == ({"a": 1, "c": 1, "d": 1}, {"b_s": missing})
        assert server.take_asked() == (["a+c", "d"] if look else ["a", "b", "c", "d"])
    groups.read()
    assert server.take_asked() == ["a+c", "d", "b"]
    del server.faults["b"]
    for _ in range(LOOKS):
        row, unseen = groups.read()
    assert (sorted(row), unseen) == (["a", "b", "c", "d"], {})


def test_a_right_that_is_taken_away_takes_no_other_group_with_it() -> None:
    server = Server()
    groups = groups_of(server)
    groups.read()
    server.faults["c"] = "RIVET_SOURCE_FORBIDDEN"
    server.take_asked()
    assert groups.read() == ({"a": 1, "b": 1, "d": 1}, {"c_s": "right to c"})
    assert server.take_asked() == ["a+b+c", "a", "b", "c", "d"]


def test_a_look_that_takes_too_long_is_not_made_longer() -> None:
    server = Server()
    groups = groups_of(server)
    groups.read()
    server.faults["c"] = "RIVET_SOURCE_TIMEOUT"
    server.take_asked()
    with pytest.raises(SourceError, match="RIVET_SOURCE_TIMEOUT"):
        groups.read()
    assert server.take_asked() == ["a+b+c"]
    assert groups.read() == ({"a": 1, "b": 1, "d": 1}, {"c_s": "an answer within 2 s"})


@pytest.mark.parametrize("code", ["RIVET_SOURCE_LOST", "RIVET_SOURCE_UNREACHABLE", "RIVET_PROTOCOL_ERROR"])
@pytest.mark.parametrize("looks", [0, 1])
def test_a_lost_connection_is_nothing_that_is_refused(code: str, looks: int) -> None:
    server = Server()
    groups = groups_of(server)
    for _ in range(looks):
        groups.read()
    server.faults["b"] = code
    with pytest.raises(SourceError, match=code):
        groups.read()
    server.faults.clear()
    assert groups.read() == ({"a": 1, "b": 1, "c": 1, "d": 1}, {})


# ------------------------------------------------------------------------------------------------------- canary


def canary_of(measure: Callable[[str], Sequence[float]], find: Callable[[], str | None] = lambda: "row") -> Canary[str]:
    return Canary(find, "plain", measure)


def test_the_canary_is_the_median_of_a_row_that_is_chosen_now_and_then() -> None:
    found: list[int] = []

    def find() -> str:
        found.append(len(found))
        return "row"

    canary = canary_of(lambda statement: {"row": [9.0, 0.1, 0.2]}[statement], find)
    assert [canary.seconds() for _ in range(LOOKS)] == [0.2] * LOOKS
    assert found == [0]
    canary.seconds()
    assert found == [0, 1]


def test_without_a_row_the_canary_looks_nothing_up() -> None:
    assert canary_of(lambda statement: {"plain": [0.3]}[statement], lambda: None).seconds() == 0.3


@pytest.mark.parametrize(
    ("code", "seconds", "measured"),
    [
        ("RIVET_SOURCE_TIMEOUT", LIMITS.statement_timeout_s, ["row", "row"]),
        ("RIVET_SOURCE_LOCKED", 0.3, ["row", "plain", "row", "plain"]),
        ("RIVET_SOURCE_FORBIDDEN", 0.3, ["row", "plain", "plain"]),
        ("RIVET_SOURCE_TABLE_MISSING", 0.3, ["row", "plain", "plain"]),
    ],
)
def test_a_canary_whose_row_cannot_be_looked_up(code: str, seconds: float, measured: list[str]) -> None:
    tried: list[str] = []

    def measure(statement: str) -> list[float]:
        tried.append(statement)
        if statement == "row":
            raise fault(code)
        return [0.3]

    canary = canary_of(measure)
    assert [canary.seconds(), canary.seconds()] == [seconds] * 2
    assert tried == measured


def test_a_canary_whose_table_cannot_be_read_at_first() -> None:
    def find() -> str:
        raise fault("RIVET_SOURCE_TIMEOUT")

    assert canary_of(lambda statement: {"plain": [0.3]}[statement], find).seconds() == 0.3


def test_a_canary_on_a_lost_connection() -> None:
    def measure(statement: str) -> list[float]:
        raise fault("RIVET_SOURCE_LOST")

    with pytest.raises(SourceError, match="RIVET_SOURCE_LOST"):
        canary_of(measure).seconds()


# ---------------------------------------------------------------------------------------------------------- lag


def lags(*looks: tuple[float, bool, float | None]) -> list[float]:
    lag = Lag()
    return [lag.take(at, level=level, said=said) for at, level, said in looks]


def test_a_replica_that_is_level_is_not_behind_however_long_nothing_happened() -> None:
    assert lags((0, True, 0), (1000, True, 1000), (9000, True, None)) == [0, 0, 0]


def test_what_comes_in_after_a_rest_is_no_older_than_the_look_before() -> None:
    assert lags((0, True, 3600), (2, False, 3602), (4, True, 1), (6, False, 0.5)) == [0, 2, 0, 0.5]


def test_a_replica_that_was_never_seen_level_is_as_far_behind_as_it_says() -> None:
    assert lags((0, False, 500), (2, False, 450), (4, False, -1)) == [500, 450, 0]


def test_a_replica_that_does_not_replay_falls_behind_with_the_time() -> None:
    assert lags((0, False, 500), (2, False, None), (10, False, None), (12, True, None)) == [500, 502, 510, 0]
    assert lags((5, False, None), (8, False, None)) == [0, 3]
    assert lags((5, True, None), (8, False, None)) == [0, 3]


def test_a_primary_measures_replicas_by_its_own_log() -> None:
    positions = Positions()
    assert positions.take(0, 100, [(100, None)]) == 0
    assert positions.take(2, 200, [(200, 0.1), (100, None)]) == 0, "it was written since the last look"
    assert positions.take(4, 300, [(300, 0.1), (100, 0.1)]) == 2
    assert positions.take(9, 400, [(400, 0.1), (100, 0.1)]) == 7, "a replica that stopped says no more than before"
    assert positions.take(10, 400, [(400, 0.1), (250, 0.1)]) == 6
    assert positions.take(11, 400, [(400, 60), (400, 60)]) == 0, "what was measured last does not count when level"
    assert positions.take(12, 500, [(450, 3.0)]) == 3, "the primary has measured more than two looks can"


def test_a_primary_without_replicas_and_one_whose_log_is_another() -> None:
    positions = Positions()
    assert [positions.take(at, 100 * at, []) for at in range(3)] == [0, 0, 0]
    assert positions.take(3, 50, [(20, None)]) == 0
    assert positions.take(5, 60, [(20, None)]) == 2


def test_a_replica_that_has_stopped_for_hours_is_not_forgotten() -> None:
    positions = Positions()
    for at in range(12_000):
        behind = positions.take(at, 1000 + at, [(1000, None)])
    assert behind == 11_998
    assert positions.take(12_000, 13_000, [(13_000, None)]) == 0
    assert positions.take(12_001, 13_001, [(13_000, None)]) == 0


# --------------------------------------------------------------------------------------------------------- docs


def test_the_page_on_least_privilege_names_what_is_missing_without_each_right() -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/least-privilege.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    missing = [
        (right, signal)
        for server in ("postgresql", "postgresql with a standby", "mariadb", "mariadb replica")
        for signal, right in expected_signals(server, "minimal").items()
        if right not in ("read", "counted", "none")
    ]
    assert len(missing) == 10
    for right, signal in missing:
        assert any(f"`{right}`" in row and f"`{signal}`" in row for row in rows), (right, signal)
