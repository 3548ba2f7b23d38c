"""What a user says about being kind to the source: how many may read, when nobody may, and what load is too much."""

from __future__ import annotations

import re
from datetime import time
from typing import Annotated, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from rivet_dagster.export.config import Zone, invalid
from rivet_dagster.sources import vitals

SIGNALS = frozenset(
    {
        vitals.ACTIVE_SESSIONS,
        vitals.WAITING_SESSIONS,
        vitals.BLOCKED_SESSIONS,
        vitals.BLOCKED_BY_US,
        vitals.CANARY,
        vitals.REPLICA_LAG,
        vitals.ROW_LOCK_WAITS,
        vitals.HISTORY_LIST,
        vitals.OLDEST_TRANSACTION,
        vitals.OWN_TRANSACTION,
        vitals.OWN_XMIN_AGE,
        vitals.CHECKPOINTS_REQUESTED,
        vitals.LOG_WAITS,
        vitals.CONFLICTS,
        vitals.LOCK_TIME,
    }
)
"""Signals that limits may be set for; of counters the rate a second."""

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: Final[tuple[Day, ...]] = get_args(Day)


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class QuietHours(_Model):
    """Hours of the day in which no window begins.

    Attributes:
        begin: when they begin, `22:00`.
        end: when they end; before `begin` it is the next day's.
        days: days on which they begin, `mon` to `sun`; all of them where it is left out.
        timezone: IANA name of the zone.
    """

    begin: str
    end: str
    days: tuple[Day, ...] = DAYS
    timezone: Zone = "UTC"

    @field_validator("begin", "end")
    @classmethod
    def _clock(cls, value: str) -> str:
        if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", value):
            raise ValueError("write an hour and a minute, 22:30")
        return value

    @model_validator(mode="after")
    def _differ(self) -> QuietHours:
        if self.begin == self.end:
            raise ValueError("begin and end are the same moment")
        return self

    @property
    def bounds(self) -> tuple[time, time]:
        """Beginning and end as times of the day."""
        return time.fromisoformat(self.begin), time.fromisoformat(self.end)


class FileVeto(_Model):
    """No window begins while a file exists on the machine that exports.

    Attributes:
        path: the file.
    """

    type: Literal["file"] = "file"
    path: str


class HttpVeto(_Model):
    """No window begins unless an address answers with a status of 200 to 299.

    Attributes:
        url: what is asked, by GET. Its query is shown nowhere.
        timeout_s: seconds to wait for the answer.
        unreachable: whether the gate is closed or open when nobody answers.
    """

    type: Literal["http"] = "http"
    url: str
    timeout_s: Annotated[float, Field(gt=0, le=30)] = 2.0
    unreachable: Literal["closed", "open"] = "closed"

    @field_validator("url")
    @classmethod
    def _scheme(cls, value: str) -> str:
        if not re.match(r"https?://[^/?#]", value):
            raise ValueError("write an address that begins with http:// or https://")
        return value


class CallableVeto(_Model):
    """No window begins while a Python function gives a reason.

    Attributes:
        function: `package.module:name`; called without arguments, gives None, or why no window may begin.
        failing: whether the gate is closed or open when the function raises.
    """

    type: Literal["callable"] = "callable"
    function: str
    failing: Literal["closed", "open"] = "closed"

    @field_validator("function")
    @classmethod
    def _place(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", value):
            raise ValueError("write package.module:name")
        return value


Veto = Annotated[FileVeto | HttpVeto | CallableVeto, Field(discriminator="type")]

Limits = dict[str, Annotated[float, Field(gt=0)]]


def _known(value: Limits) -> Limits:
    unknown = sorted(set(value) - SIGNALS)
    if unknown:
        raise ValueError(f"there is no signal {unknown[0]}; there are {', '.join(sorted(SIGNALS))}")
    return value


class CriticalLoad(_Model):
    """A load at which nothing should be read at all.

    Attributes:
        above: values by signal; more than one of them is critical.
        action: `hibernate` begins no window for a while, `abort` ends the run and what it reads.
        hibernate_s: how long.
    """

    above: Limits
    action: Literal["hibernate", "abort"] = "hibernate"
    hibernate_s: Annotated[float, Field(gt=0)] = 300.0

    @field_validator("above")
    @classmethod
    def _signals(cls, value: Limits) -> Limits:
        return _known(value)


class GovernorConfig(_Model):
    """How an export takes care of its source. The usual values suit a server that others work on.

    Attributes:
        enabled: whether the server is looked at, and the number of workers follows its load. Without it quiet hours,
            vetoes and slots hold, and nothing else does.
        min_workers: how many workers go on under any load; with 0 all of them pause, and a window a minute goes on.
        tick_s: seconds between two looks.
        cores: cores of the database server: as many sessions of others as it has cores are its full load.
        limits: what is full load by other signals, by name; a rate a second for counters.
        max_replica_lag_s: no window begins while a replica is farther behind.
        min_connections: no window begins while fewer connections than this could still be opened.
        quiet_hours: when no window begins.
        vetoes: who else may say that no window begins.
        critical: a load at which nothing should be read at all.
        slots: how many connections may read from this server, over all runs and machines; None does not count them.
        slot_wait_s: how long a window waits for a slot before it fails.
        memory_bytes: resident memory of a process above which it begins no window; None takes 80 % of what the machine
            or the container has.
    """

    enabled: bool = True
    min_workers: Annotated[int, Field(ge=0, le=64)] = 1
    tick_s: Annotated[float, Field(ge=0.1, le=60)] = 2.0
    cores: Annotated[int, Field(ge=1)] | None = None
    limits: Limits = {}
    max_replica_lag_s: Annotated[float, Field(gt=0)] | None = 60.0
    min_connections: Annotated[int, Field(ge=0)] = 3
    quiet_hours: tuple[QuietHours, ...] = ()
    vetoes: tuple[Veto, ...] = ()
    critical: CriticalLoad | None = None
    slots: Annotated[int, Field(ge=1, le=1000)] | None = None
    slot_wait_s: Annotated[float, Field(ge=0)] = 3600.0
    memory_bytes: Annotated[int, Field(ge=64 << 20)] | None = None

    @field_validator("limits")
    @classmethod
    def _signals(cls, value: Limits) -> Limits:
        return _known(value)


def parse_governor(values: object) -> GovernorConfig:
    """A `GovernorConfig` from plain values, or from one.

    Raises:
        ConfigError: RIVET_CONFIG_INVALID that names every field at fault.
    """
    if isinstance(values, GovernorConfig):
        return values
    try:
        return GovernorConfig.model_validate({} if values is None else values)
    except ValidationError as exc:
        raise invalid("governor", exc, lambda loc: ".".join(map(str, loc)) or "governor") from None
