"""Moments in which signals are held back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from rivet_dagster._interrupts import uninterrupted


class Stopped(BaseException):
    """What the handlers of these tests raise."""


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    def stop(number: int, _frame: object) -> None:
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end(number: signal.Signals) -> None:
    done = []

    def work() -> None:
        with uninterrupted():
            signal.raise_signal(number)
            done.append(number)

    with pytest.raises(Stopped) as caught:
        work()
    assert done
    assert caught.value.args == (number,)


def test_a_signal_is_not_lost_where_something_fails() -> None:
    def work() -> None:
        with uninterrupted():
            signal.raise_signal(signal.SIGTERM)
            raise ValueError

    with pytest.raises(Stopped):
        work()


def test_without_a_signal_nothing_changes() -> None:
    handler = signal.getsignal(signal.SIGTERM)
    with uninterrupted():
        assert signal.getsignal(signal.SIGTERM) is not handler
    assert signal.getsignal(signal.SIGTERM) is handler


def test_other_threads_hold_nothing_back() -> None:
    handler = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def work() -> None:
        with uninterrupted():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [handler]
