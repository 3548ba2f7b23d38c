"""Source slots of PostgreSQL: advisory locks that end with a window's transaction, and so with its connection."""

from __future__ import annotations

import random
from typing import Any, Final

import psycopg
from psycopg import sql

from rivet_dagster.sources.base import no_slot

SLOT_CLASS: Final = 0x72697665
"""First half of the locks' keys; the second is the slot's number. Each database of a server has slots of its own."""

# One slot after the other in the given order, until one is free: no sort stands between the first one and the limit.
TAKE: Final = """
SELECT s.slot FROM unnest({slots}::int4[]) AS s(slot) WHERE pg_try_advisory_xact_lock({slot_class}, s.slot) LIMIT 1
"""


def take_slot(connection: psycopg.Connection[tuple[Any, ...]], slots: int | None) -> None:
    """Take one of so many slots until the open transaction ends, in one round trip; None needs none.

    Raises:
        SourceError: RIVET_SOURCE_SLOTS.
        psycopg.Error: what the server says.
    """
    if slots is None:
        return
    # In an order of its own, so that those that look for one at a time do not try the same.
    order = random.sample(range(slots), slots)
    taken = connection.execute(sql.SQL(TAKE).format(slots=sql.Literal(order), slot_class=sql.Literal(SLOT_CLASS)))
    if taken.fetchone() is None:
        raise no_slot(slots)
