"""Moments in which a run must not be interrupted."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back while the context lasts; what came meanwhile is handled as soon as it ends.

    Dagster terminates a run by an exception at whatever line the main thread has reached. Elsewhere than in the main
    thread nothing can be interrupted, and nothing is held back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[tuple[int, FrameType | None]] = []
    before = {number: signal.signal(number, lambda *signalled: held.append(signalled)) for number in _NUMBERS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in dict.fromkeys(number for number, _ in held):
            signal.raise_signal(late)
