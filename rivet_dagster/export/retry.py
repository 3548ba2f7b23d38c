"""Trying again what may pass: doubling pauses with jitter, a new connection for every try."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import closing
from typing import TypeVar

from rivet_dagster.errors import RivetError
from rivet_dagster.export.config import ReadLimits
from rivet_dagster.sources.base import Session, Source

_LONGEST_PAUSE_S = 30.0

T = TypeVar("T")


def pause_seconds(limits: ReadLimits, attempt: int) -> float:
    """Seconds before the try after number `attempt`; with jitter, so that workers do not come back together."""
    return min(limits.retry_seconds * 2.0 ** (attempt - 1), _LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)  # noqa: S311


def with_session(source: Source, limits: ReadLimits, action: Callable[[Session], T]) -> T:
    """Run `action` with a session of its own, again after failures that may pass.

    Raises:
        RivetError: what `action` or the connection raised last.
    """
    attempt = 1
    while True:
        try:
            with closing(source.connect()) as session:
                return action(session)
        except RivetError as exc:
            if not exc.retryable or attempt >= limits.attempts:
                raise
        time.sleep(pause_seconds(limits, attempt))
        attempt += 1
