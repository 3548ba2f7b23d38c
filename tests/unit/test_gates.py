from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, ClassVar

import pytest

from rivet_dagster.errors import ConfigError
from rivet_dagster.export import gates
from rivet_dagster.export.gates import Gates, Look, gates_of
from rivet_dagster.export.governing import CallableVeto, FileVeto, GovernorConfig, HttpVeto, parse_governor
from rivet_dagster.export.memory import MemoryGate
from rivet_dagster.sources import vitals
from rivet_dagster.sources.vitals import Vitals

NOON = datetime(2026, 3, 4, 12, tzinfo=timezone.utc)  # a Wednesday


def look(moment: datetime = NOON, **values: float) -> Look:
    return Look(Vitals(0.0, values), moment)


BLIND = Look(None, NOON)
REFUSED = Look(Vitals(0.0, unseen={vitals.REPLICA_LAG: "pg_read_all_stats"}), NOON)


def test_a_replica_that_lags_closes_the_gate_until_it_is_well_back() -> None:
    found = gates_of(GovernorConfig(max_replica_lag_s=60))
    said = [found.reasons(look(replica_lag_s=lag)) for lag in (10, 61, 55, 47, 55)]
    assert said == [
        (),
        ("replicas are 61 s behind; windows begin again at 48 s",),
        ("replicas are 55 s behind; windows begin again at 48 s",),
        (),
        (),
    ]


def test_little_room_for_connections_closes_the_gate() -> None:
    found = gates_of(GovernorConfig(min_connections=3))
    said = [bool(found.reasons(look(connection_room=room))) for room in (10, 2, 3, 4)]
    assert said == [False, True, True, False]


def test_sessions_that_wait_for_this_export_go_first() -> None:
    found = gates_of(GovernorConfig())
    assert found.reasons(look(blocked_by_us=2)) == ("2 sessions wait for locks of this export",)
    assert found.reasons(look(blocked_by_us=0)) == ()


def test_a_budget_that_cannot_be_read_any_more_is_used_up() -> None:
    found = gates_of(GovernorConfig(min_connections=0))
    found.reasons(look(replica_lag_s=1))
    said = [found.reasons(BLIND) for _ in range(gates.CLOSED_AFTER)]
    assert said == [(), (), ("replica_lag_s cannot be read any more",)]
    assert found.reasons(look(replica_lag_s=1)) == ()


@pytest.mark.parametrize("shown", [BLIND, REFUSED])
def test_a_budget_that_never_could_be_read_is_open(shown: Look) -> None:
    found = gates_of(GovernorConfig())
    assert {found.reasons(shown) for _ in range(10)} == {()}


def test_a_server_that_is_no_replica_any_more_has_no_lag() -> None:
    found = gates_of(GovernorConfig())
    assert found.reasons(look(replica_lag_s=100))
    assert {found.reasons(look()) for _ in range(10)} == {()}


@pytest.mark.parametrize(
    ("hours", "moment", "closed"),
    [
        ({"begin": "11:00", "end": "13:00"}, NOON, True),
        ({"begin": "12:00", "end": "13:00"}, NOON, True),
        ({"begin": "11:00", "end": "12:00"}, NOON, False),
        ({"begin": "22:00", "end": "06:00"}, NOON, False),
        ({"begin": "22:00", "end": "12:30"}, NOON, True),
        ({"begin": "11:00", "end": "13:00", "days": ["mon", "tue"]}, NOON, False),
        ({"begin": "11:00", "end": "13:00", "days": ["wed"]}, NOON, True),
        ({"begin": "22:00", "end": "12:30", "days": ["tue"]}, NOON, True),  # they began the day before
        ({"begin": "22:00", "end": "12:30", "days": ["wed"]}, NOON, False),
        ({"begin": "11:00", "end": "13:00", "timezone": "Asia/Tokyo"}, NOON, False),
        ({"begin": "20:59", "end": "21:01", "timezone": "Asia/Tokyo"}, NOON, True),
    ],
)
def test_quiet_hours(hours: dict[str, Any], moment: datetime, closed: bool) -> None:
    found = gates_of(parse_governor({"quiet_hours": [hours]})).reasons(look(moment))
    assert bool(found) is closed
    assert not found or f"until {hours['end']}" in found[0]


def test_a_file_says_no(tmp_path: Path) -> None:
    flag = tmp_path / "hold"
    found = gates_of(GovernorConfig(vetoes=(FileVeto(path=str(flag)),)))
    assert found.reasons(look()) == ()
    flag.touch()
    assert found.reasons(look()) == (f"the file {flag} exists",)


class _Oracle(http.server.BaseHTTPRequestHandler):
    status: ClassVar[int] = 200

    def do_GET(self) -> None:
        self.send_response(type(self).status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quietly."""


@pytest.fixture
def oracle() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Oracle)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/check?token=secret"
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_address_says_yes_or_no(oracle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = gates_of(GovernorConfig(vetoes=(HttpVeto(url=oracle),)))
    for status in (200, 204):
        monkeypatch.setattr(_Oracle, "status", status)
        assert found.reasons(look()) == ()
    monkeypatch.setattr(_Oracle, "status", 429)
    (said,) = found.reasons(look())
    assert said == "http://127.0.0.1/check answers 429"
    assert "secret" not in said


@pytest.mark.parametrize(("unreachable", "closed"), [("closed", True), ("open", False)])
def test_an_address_that_does_not_answer(unreachable: Any, closed: bool) -> None:
    veto = HttpVeto(url="http://127.0.0.1:1/check", unreachable=unreachable)
    assert bool(gates_of(GovernorConfig(vetoes=(veto,))).reasons(look())) is closed


def agreeing() -> None:
    """No reason."""


def refusing() -> str:
    return "the month is being closed"


def failing() -> str:
    raise LookupError


@pytest.mark.parametrize(
    ("name", "mode", "said"),
    [
        ("agreeing", "closed", ()),
        ("refusing", "closed", ("the month is being closed",)),
        ("failing", "closed", (f"{__name__}:failing failed with LookupError",)),
        ("failing", "open", ()),
    ],
)
def test_a_function_says_why(name: str, mode: Any, said: tuple[str, ...]) -> None:
    veto = CallableVeto(function=f"{__name__}:{name}", failing=mode)
    assert gates_of(GovernorConfig(vetoes=(veto,))).reasons(look()) == said


def test_critical_load_hibernates_for_a_while() -> None:
    config = parse_governor({"critical": {"above": {"active_sessions": 50}, "hibernate_s": 60}})
    found: Gates = gates_of(config)
    assert found.reasons(look(active_sessions=50)) == ()
    assert found.reasons(look(active_sessions=51)) == ("active_sessions is at 51, above the critical 50",)
    assert "hibernating until 12:01:00" in found.reasons(look(NOON.replace(second=59), active_sessions=1))[0]
    assert found.reasons(look(NOON.replace(minute=1), active_sessions=1)) == ()


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"limits": {"rows": 1}}, "there is no signal rows"),
        ({"quiet_hours": [{"begin": "25:00", "end": "1:00"}]}, "quiet_hours.0.begin"),
        ({"quiet_hours": [{"begin": "01:00", "end": "01:00"}]}, "the same moment"),
        ({"vetoes": [{"type": "http", "url": "ftp://x"}]}, "http://"),
        ({"vetoes": [{"type": "callable", "function": "x"}]}, "package.module:name"),
        ({"slots": 0}, "slots"),
        ({"width": 1}, "width"),
        ({"critical": {"above": {"cpu": 1}}}, "there is no signal cpu"),
        ([], "governor"),
    ],
)
def test_mistakes_are_named(values: Any, word: str) -> None:
    with pytest.raises(ConfigError, match="RIVET_CONFIG_INVALID") as caught:
        parse_governor(values or [1])
    assert word in str(caught.value)


def test_memory_closes_a_gate_and_opens_it_well_below() -> None:
    taken = [90, 101, 99, 86, 84, 99]
    gate = MemoryGate(100 << 20, resident=lambda: taken.pop(0) << 20)
    assert [gate.reason() is not None for _ in range(6)] == [False, True, True, True, False, False]
    assert gate.trims == 3


def test_a_page_waits_for_memory_only_for_a_moment() -> None:
    slept: list[float] = []
    gate = MemoryGate(100 << 20, resident=lambda: 200 << 20, sleep=slept.append)
    assert gate.between_pages() == 200 << 20
    assert 1.0 < sum(slept) <= 2.1
    freed = [200, 200, 80]
    gate = MemoryGate(100 << 20, resident=lambda: freed.pop(0) << 20, sleep=slept.append)
    before = len(slept)
    gate.between_pages()
    assert len(slept) == before + 1
