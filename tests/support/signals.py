"""The matrix of signals: what is read of which server, with all rights and with none but SELECT."""

from __future__ import annotations

import csv
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from rivet_dagster.sources import vitals
from rivet_dagster.sources.vitals import Vitals

Grants = Literal["full", "minimal"]

MATRIX = Path(__file__).parent / "signals.csv"

SIGNALS = sorted(
    value for name, value in vars(vitals).items() if name.isupper() and name[0] != "_" and isinstance(value, str)
)


def expected_signals(server: str, grants: Grants) -> dict[str, str]:
    """By signal: `read`, `counted`, `none` for what the server has not got, or the right that is missing."""
    with MATRIX.open(newline="") as file:
        return {row["signal"]: row[grants] for row in csv.DictReader(file) if row["server"] == server}


def found_signals(seen: Vitals) -> dict[str, str]:
    """The same of one look, for every signal that there is."""
    found = dict.fromkeys(SIGNALS, "none")
    found |= dict.fromkeys(seen.values, "read")
    found |= dict.fromkeys(seen.counters, "counted")
    assert not set(seen.unseen) & (set(seen.values) | set(seen.counters)), "either it is seen or it is not"
    return found | dict(seen.unseen)


@contextmanager
def meanwhile(run: Callable[[], Any], end: Callable[[], Any]) -> Iterator[None]:
    """`run` in a thread, until `end` makes it end, also with an error."""
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        end()
        thread.join()
