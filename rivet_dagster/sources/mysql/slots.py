"""Source slots of MySQL and MariaDB: named locks of the server, which end with their connection at the latest."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import pymysql
from pymysql import err

from rivet_dagster.sources.base import no_slot

SLOT: Final = "rivet_dagster.slot.{number}"

# A CASE stops at the first lock that is granted.
TAKE: Final = "SELECT /* rivet_dagster */ CASE {tries} END"
TRY: Final = "WHEN GET_LOCK('{slot}', 0) = 1 THEN {number}"
RELEASE: Final = "DO RELEASE_LOCK('{slot}')"


@contextmanager
def slot_held(connection: pymysql.Connection[Any], slots: int | None) -> Iterator[None]:
    """Hold one of so many slots as long as the context lasts, for a round trip at either end; None needs none.

    Raises:
        SourceError: RIVET_SOURCE_SLOTS.
        pymysql.err.MySQLError: what the server says.
    """
    if slots is None:
        yield
        return
    slot = _take(connection, slots)
    try:
        yield
    finally:
        if connection.open:
            with suppress(err.MySQLError, OSError), connection.cursor() as cursor:
                cursor.execute(RELEASE.format(slot=slot))


def _take(connection: pymysql.Connection[Any], slots: int) -> str:
    # In an order of its own, so that those that look for one at a time do not try the same.
    order = random.sample(range(slots), slots)
    tries = " ".join(TRY.format(slot=SLOT.format(number=number), number=number) for number in order)
    with connection.cursor() as cursor:
        cursor.execute(TAKE.format(tries=tries))
        (number,) = cursor.fetchone() or (None,)
    if number is None:
        raise no_slot(slots)
    return SLOT.format(number=number)
