"""The governor on made-up sources with a counted clock: steps of load, its own exhaust, queues, meters that fail."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rivet_dagster.export import pressure, width
from rivet_dagster.export.governing import GovernorConfig
from rivet_dagster.export.pressure import Pressure, PressureModel, together
from rivet_dagster.export.width import WidthLaw
from rivet_dagster.sources import vitals
from rivet_dagster.sources.vitals import Vitals
from tests.support.governing import NOISE, TICK_S, Simulation, active, seen, steps

CORES = GovernorConfig(cores=8)


def falls(widths: list[int]) -> int:
    return sum(later < earlier for earlier, later in pairwise(widths))


def test_an_idle_source_sheds_nothing_and_gets_all_workers() -> None:
    widths = Simulation(CORES, 4, active(lambda tick: abs(NOISE[tick % 4]))).run(200)
    assert set(widths) == {4}


def test_many_workers_climb_one_by_one() -> None:
    simulation = Simulation(CORES, 16, active(lambda _: 0.0))
    widths = simulation.run(60)
    assert simulation.widths[0] == 8, "half of them at once"
    assert widths[-1] == 16
    assert all(later - earlier in (0, 1) for earlier, later in pairwise(simulation.widths))


def test_its_own_exhaust_does_not_make_it_hunt() -> None:
    """A signal that is nothing but the workers themselves: an eighth of full load each, and noise."""

    def law(tick: int, workers: int) -> Vitals:
        return seen(tick, {vitals.ACTIVE_SESSIONS: 8 * (workers / 8 + NOISE[tick % 4])})

    simulation = Simulation(CORES, 8, law)
    widths = simulation.run(200)
    assert sum(earlier == later for earlier, later in pairwise(simulation.widths)) >= 150
    assert len(set(widths[-150:])) == 1, "it rests"
    assert 0.3 <= widths[-1] / 8 <= 0.7
    assert falls(simulation.widths) <= 2


@pytest.mark.parametrize("load", [0.85, 1.0, 1.5, 3.0])
def test_a_step_of_load_takes_workers_within_three_ticks_and_relief_gives_them_back(load: float) -> None:
    simulation = Simulation(CORES, 4, active(steps((20, 0.1), (30, load), (60, 0.1))))
    simulation.run(109)
    before, after = simulation.widths[19], simulation.widths[20:]
    assert before == 4
    if load >= 1.5:
        assert min(after[:3]) < 4, "within three ticks"
    assert min(after[:30]) == 1
    relief = simulation.widths[50:]
    assert relief.index(4) <= 20, "all are back"
    assert falls(relief) == 0


def test_workers_leave_one_by_one_before_full_load_and_by_halves_at_it() -> None:
    gentle = Simulation(CORES, 16, active(steps((40, 0.0), (60, 0.9))))
    gentle.run(99)
    assert min(later - earlier for earlier, later in pairwise(gentle.widths)) == -1
    hard = Simulation(CORES, 16, active(steps((40, 0.0), (60, 2.0))))
    hard.run(99)
    assert min(later - earlier for earlier, later in pairwise(hard.widths)) <= -4


def test_load_in_the_dead_band_moves_nothing() -> None:
    simulation = Simulation(CORES, 8, active(lambda tick: 0.55 + NOISE[tick % 4]))
    assert len(set(simulation.run(200))) == 1


def test_a_meter_that_fails_freezes_the_width() -> None:
    def law(tick: int, _: int) -> Vitals | None:
        return None if 20 <= tick < 60 else seen(tick, {vitals.ACTIVE_SESSIONS: 6.8 if tick >= 18 else 0.0})

    simulation = Simulation(CORES, 8, law)
    simulation.run(80)
    frozen = simulation.widths[22:60]
    assert len(set(frozen)) == 1
    assert [decision.pressure.stale for decision in simulation.decisions[22:60]] == [True] * 38
    assert simulation.widths[-1] < frozen[-1], "the meter is back, and so is the load that it shows"


def test_without_a_meter_half_of_the_workers_go_on() -> None:
    simulation = Simulation(CORES, 8, lambda *_: None)
    assert set(simulation.run(50)) == {2}


@pytest.mark.parametrize("epoch", ["", "another"])
def test_a_counter_that_begins_anew_is_no_relief_and_no_load(epoch: str) -> None:
    """Log waits at a steady three quarters of full load; the server restarts at tick 50."""

    def law(tick: int, _: int) -> Vitals:
        began = 50 if tick >= 50 else 0
        counters = {vitals.LOG_WAITS: 3.75 * TICK_S * (tick - began)}
        return seen(tick, {}, counters, epoch if began else "")

    simulation = Simulation(CORES, 8, law)
    simulation.run(100)
    assert vitals.LOG_WAITS not in simulation.decisions[50].pressure.readings, "the sample is dropped"
    assert simulation.decisions[49].pressure.readings[vitals.LOG_WAITS] == pytest.approx(3.75)
    assert simulation.decisions[51].pressure.readings[vitals.LOG_WAITS] == pytest.approx(3.75)
    assert max(later - earlier for earlier, later in pairwise(simulation.widths[40:])) <= 0, "nobody was let in"


def test_a_source_that_only_looks_idle_while_nobody_reads_is_troubled_ever_more_seldom() -> None:
    """Each worker makes others queue; without one they hardly show."""
    config = GovernorConfig(cores=8, min_workers=0)
    load = 0.3

    def law(tick: int, workers: int) -> Vitals:
        return seen(tick, {vitals.ACTIVE_SESSIONS: 8 * (1.2 if workers and load > 0.1 else load)})

    simulation = Simulation(config, 4, law)
    widths = simulation.run(300)
    tries = [tick for tick, (earlier, later) in enumerate(pairwise(widths)) if later > earlier]
    waits = [later - earlier for earlier, later in pairwise(tries)]
    assert 2 <= len(tries) <= 12
    assert waits == sorted(waits), "each wait is as long as the one before, or longer"
    assert waits[-1] * TICK_S >= width.LONGEST_WAIT_S
    load = 0.01
    assert simulation.run(12)[-1] == 4, "relief is not made to wait"


def test_two_governors_on_one_source_settle_and_share() -> None:
    """Each sees the other's workers as load of others, an eighth of full load each, and not its own."""
    widths = [8, 8]
    first = Simulation(CORES, 8, lambda tick, _: seen(tick, {vitals.ACTIVE_SESSIONS: 2.0 + widths[1]}))
    second = Simulation(CORES, 8, lambda tick, _: seen(tick, {vitals.ACTIVE_SESSIONS: 2.0 + widths[0]}))
    totals = []
    for _ in range(200):
        widths = [first.run(1)[0], second.run(1)[0]]
        totals.append(sum(widths))
    assert max(totals[50:]) <= 8, "together they stay below what one alone may take the source to"
    assert min(totals[50:]) >= 2
    assert len(set(totals[-100:])) <= 2, "they rest"


def test_a_queue_of_foreground_work_keeps_its_waiting_time() -> None:
    """M/M/c with as many servers as cores: each worker keeps one busy, and what arrives waits for the others."""
    cores, service_s = 8, 0.01

    def waiting(rate: float, workers: int) -> float:
        """Mean seconds in the queue by Erlang's C formula; without bound where more arrives than can be served."""
        servers, offered = cores - workers, rate * service_s
        if servers <= offered:
            return math.inf
        terms = [offered**n / math.factorial(n) for n in range(servers)]
        last = offered**servers / math.factorial(servers) * servers / (servers - offered)
        return last / (sum(terms) + last) * service_s / (servers - offered)

    rates = steps((30, 50.0), (60, 600.0), (60, 50.0))
    waits: list[float] = []

    def law(tick: int, workers: int) -> Vitals:
        offered = rates(tick) * service_s
        waits.append(waiting(rates(tick), workers))
        queue = min(rates(tick) * waits[-1], 100.0)
        return seen(tick, {vitals.ACTIVE_SESSIONS: offered + queue, vitals.CANARY: 0.0003 + min(waits[-1], 0.1)})

    simulation = Simulation(CORES, 6, law)
    simulation.run(149)
    assert simulation.widths[29] == 6
    governed = waits[45:90]
    assert math.inf in waits[30:40], "all workers together would starve the foreground"
    assert max(governed) <= 5 * service_s, "governed, it waits for a few services at the most"
    assert simulation.widths[-1] == 6, "relief"


def test_one_burst_of_a_counter_takes_nobody_away() -> None:
    law = lambda tick, _: seen(tick, {}, {vitals.CHECKPOINTS_REQUESTED: 5.0 * (tick >= 20)})  # noqa: E731
    assert set(Simulation(CORES, 4, law).run(60)) == {4}


def test_all_may_pause_and_one_goes_on_in_the_end() -> None:
    config = GovernorConfig(cores=8, min_workers=0)
    simulation = Simulation(config, 4, active(lambda tick: 1.5 if tick else 0.0))
    widths = simulation.run(120)
    assert 0 in widths
    paused = widths[widths.index(0) :]
    runs = "".join(str(each) for each in paused).split("1")
    assert max(map(len, runs)) <= width.LONGEST_PAUSE_S / TICK_S
    assert paused.count(1) >= 2, "every minute a window goes on"


def test_the_canary_is_held_against_the_idle_server_and_ignores_noise() -> None:
    def shares(*seconds: float) -> list[float]:
        model = PressureModel(GovernorConfig())
        return [model.observe(seen(tick, {vitals.CANARY: each})).raw for tick, each in enumerate(seconds)]

    assert shares(0.0002, 0.0019, 0.0021) == [0.0, 0.0, 0.0], "below the floor"
    assert shares(0.0002, 0.05)[1] == pressure.GENTLE
    assert shares(0.01, 0.017)[1] == pytest.approx(0.5)
    assert shares(0.02, 0.01, 0.017)[2] == pytest.approx(0.5), "a quicker one is the idle server's"


def test_looks_of_a_tick_are_taken_together() -> None:
    looks = [
        seen(0, {vitals.ACTIVE_SESSIONS: 0, vitals.CANARY: 0.001, vitals.REPLICA_LAG: 9}, {vitals.LOG_WAITS: 1}),
        seen(1, {vitals.ACTIVE_SESSIONS: 6, vitals.CANARY: 0.9, vitals.REPLICA_LAG: 8}, {vitals.LOG_WAITS: 2}),
        seen(2, {vitals.ACTIVE_SESSIONS: 3, vitals.CANARY: 0.002, vitals.REPLICA_LAG: 7}, {vitals.LOG_WAITS: 5}, "e"),
    ]
    assert together(looks) == seen(
        2, {vitals.ACTIVE_SESSIONS: 3, vitals.CANARY: 0.002, vitals.REPLICA_LAG: 7}, {vitals.LOG_WAITS: 5}, "e"
    )
    assert together(looks[1:2]) == looks[1]
    without = seen(3, {vitals.ACTIVE_SESSIONS: 1})
    assert together([*looks, without]).values == {vitals.ACTIVE_SESSIONS: 2.5}, "what is gone is gone"


def test_a_limit_of_the_canary_is_a_time() -> None:
    model = PressureModel(GovernorConfig(limits={vitals.CANARY: 0.1}))
    assert model.observe(seen(0, {vitals.CANARY: 0.05})).raw == pytest.approx(0.5)


def test_relations_between_constants() -> None:
    assert width.LOW < pressure.STALE_PRESSURE < width.HIGH < width.FULL, "without a meter nothing moves"
    assert width.HIGH <= pressure.GENTLE < width.FULL, "a hint takes workers away, but never halves them"
    assert pressure.STALE_TICKS <= width.COOLDOWN_TICKS + 1, "no two increases on what is not seen any more"
    assert width.HIGH - width.LOW > 1 / 4, "the dead band is wider than one worker of four"
    assert pressure.MOST * (1 - pressure.SMOOTHING) ** 5 < width.LOW, "relief shows within five ticks"
    assert pressure.GENTLE * pressure.SMOOTHING < width.LOW, "one tick of a hint keeps nobody out"
    assert pressure.CANARY_FLOOR_S < 0.01
    assert width.HOLDS_TICKS >= width.COOLDOWN_TICKS * (width.EAGER_WIDTH - 1), "four workers are one try"


@given(
    st.integers(0, 4),
    st.integers(1, 32),
    st.lists(st.tuples(st.floats(0, 3), st.booleans(), st.integers(0, 32)), max_size=80),
)
def test_the_width_stays_within_its_bounds_whatever_comes(
    least: int, most: int, ticks: list[tuple[float, bool, int]]
) -> None:
    law = WidthLaw(least, most)
    law.begin(Pressure(0.5, 0.5))
    for u, stale, busy in ticks:
        before = law.width
        move = law.tick(Pressure(u, u, "active_sessions", stale=stale), busy)
        assert min(least, most) <= law.width <= most
        assert (move is None) == (before == law.width)
        assert move is None or (move.before, move.after) == (before, law.width)
        assert law.width <= before + 1
        assert not stale or move is None or before == 0


@given(st.integers(0, 2**32))
def test_random_load_never_ends_in_another_width_than_calm_or_storm_ask_for(seed: int) -> None:
    draw = random.Random(seed)
    load = [draw.uniform(0, 2) for _ in range(60)]
    calm = Simulation(CORES, 6, active(lambda tick: load[tick] if tick < 60 else 0.05))
    calm.run(110)
    assert calm.widths[-1] == 6
    storm = Simulation(CORES, 6, active(lambda tick: load[tick] if tick < 60 else 1.4))
    storm.run(110)
    assert storm.widths[-1] == 1
