"""Gates: reasons why no window may begin now. They stop between windows, never while a snapshot is open.

A gate of a budget (a replica's lag, room for connections) is closed when what it needs was readable and is no more:
a server that cannot be looked at may be in trouble. Where the user lacks the right to see it from the beginning, it
is open, and the journal says so.
"""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from importlib import import_module
from typing import Final, Protocol
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from rivet_dagster.export.governing import DAYS, CallableVeto, FileVeto, GovernorConfig, HttpVeto, QuietHours, Veto
from rivet_dagster.sources import vitals
from rivet_dagster.sources.vitals import Vitals

CLOSED_AFTER: Final = 3
"""Looks that must fail before a budget that was readable counts as used up."""
_HYSTERESIS: Final = 0.8
"""Of a limit: a gate that closed at it opens again only this far within."""
_OK: Final = range(200, 300)


@dataclass(frozen=True)
class Look:
    """What gates go by.

    Attributes:
        seen: what the server shows; None where it could not be looked at.
        now: the present, in UTC.
    """

    seen: Vitals | None
    now: datetime


class Gate(Protocol):
    """Something that may forbid windows to begin."""

    def reason(self, look: Look) -> str | None:
        """Why no window may begin; None where one may."""
        ...


@dataclass
class BudgetGate:
    """Closed while a reading is beyond its limit; it opens again only well within it.

    Attributes:
        signal: which reading.
        limit: the worst that is allowed.
        text: what is said of it, with `{value}`, and `{opens}` from which it is open again.
        least: the limit is the least that is allowed, not the most.
    """

    signal: str
    limit: float
    text: str
    least: bool = False
    _closed: bool = False
    _known: bool = False
    _missed: int = 0

    def reason(self, look: Look) -> str | None:
        """Why no window may begin."""
        value = look.seen.values.get(self.signal) if look.seen else None
        if value is None:
            return self._unread(look)
        self._known, self._missed = True, 0
        limit = self._opens if self._closed else self.limit
        self._closed = value < limit if self.least else value > limit
        return self.text.format(value=value, opens=self._opens) if self._closed else None

    @property
    def _opens(self) -> float:
        return (1 / _HYSTERESIS if self.least else _HYSTERESIS) * self.limit

    def _unread(self, look: Look) -> str | None:
        if look.seen is not None and self.signal not in look.seen.unseen:
            self._closed = False  # there is no such thing any more, such as a replica
            return None
        self._missed += 1
        if self._known and self._missed >= CLOSED_AFTER:
            return f"{self.signal} cannot be read any more"
        return f"{self.signal} cannot be read, and was beyond its limit" if self._closed else None


@dataclass(frozen=True)
class QuietGate:
    """Closed in quiet hours."""

    hours: QuietHours

    def reason(self, look: Look) -> str | None:
        """Why no window may begin."""
        local = look.now.astimezone(ZoneInfo(self.hours.timezone))
        begin, end = self.hours.bounds
        clock = local.time()
        if begin < end:
            inside, began = begin <= clock < end, local
        else:  # over midnight: what is left of it after midnight began the day before
            inside = clock >= begin or clock < end
            began = local if clock >= begin else local - timedelta(days=1)
        if inside and DAYS[began.weekday()] in self.hours.days:
            return f"quiet hours until {self.hours.end} ({self.hours.timezone})"
        return None


@dataclass(frozen=True)
class FileGate:
    """Closed while a file exists."""

    veto: FileVeto

    def reason(self, look: Look) -> str | None:  # noqa: ARG002 (files are asked, not the server)
        """Why no window may begin."""
        return f"the file {self.veto.path} exists" if os.path.lexists(self.veto.path) else None


@dataclass(frozen=True)
class HttpGate:
    """Closed unless an address agrees."""

    veto: HttpVeto

    def reason(self, look: Look) -> str | None:  # noqa: ARG002
        """Why no window may begin."""
        parts = urlsplit(self.veto.url)
        place = f"{parts.scheme}://{parts.hostname}{parts.path}"  # without what may be secret
        try:
            with urllib.request.urlopen(self.veto.url, timeout=self.veto.timeout_s) as answer:  # noqa: S310 (http only)
                status = int(answer.status)
        except urllib.error.HTTPError as exc:
            status = exc.code
            exc.close()
        except (OSError, ValueError):
            return f"{place} does not answer" if self.veto.unreachable == "closed" else None
        return None if status in _OK else f"{place} answers {status}"


@dataclass(frozen=True)
class CallableGate:
    """Closed while a function gives a reason."""

    veto: CallableVeto

    def reason(self, look: Look) -> str | None:  # noqa: ARG002
        """Why no window may begin."""
        try:
            module, _, name = self.veto.function.partition(":")
            said = getattr(import_module(module), name)()
        except Exception as exc:  # noqa: BLE001 (whatever a function of somebody else raises)
            failed = f"{self.veto.function} failed with {type(exc).__name__}"
            return failed if self.veto.failing == "closed" else None
        return str(said) if said else None


@dataclass
class Gates:
    """All gates of an export, and what critical load asks for.

    Attributes:
        gates: every one of them.
        above: critical load: values by signal.
        hibernate_s: how long nothing begins after it.
    """

    gates: Sequence[Gate]
    above: Mapping[str, float] = field(default_factory=dict)
    hibernate_s: float = 0.0
    _until: datetime | None = None

    def reasons(self, look: Look) -> tuple[str, ...]:
        """Why no window may begin; empty where one may."""
        found = [reason for gate in self.gates if (reason := gate.reason(look))]
        critical = self.critical(look.seen)
        if critical and self.hibernate_s:
            self._until = look.now + timedelta(seconds=self.hibernate_s)
        if self._until is not None and look.now < self._until:
            found.append(critical or f"critical load was seen; hibernating until {self._until:%H:%M:%S} UTC")
        return tuple(found)

    def critical(self, seen: Vitals | None) -> str | None:
        """Which signal is at a critical load."""
        if seen is None:
            return None
        for name, most in self.above.items():
            value = seen.values.get(name)
            if value is not None and value > most:
                return f"{name} is at {value:g}, above the critical {most:g}"
        return None


_VETOES: Mapping[type, Callable[..., Gate]] = {FileVeto: FileGate, HttpVeto: HttpGate, CallableVeto: CallableGate}


def gates_of(config: GovernorConfig) -> Gates:
    """The gates that are configured."""
    gates: list[Gate] = [
        BudgetGate(vitals.BLOCKED_BY_US, 0.5, "{value:.0f} sessions wait for locks of this export"),
    ]
    if config.max_replica_lag_s is not None:
        text = "replicas are {value:.0f} s behind; windows begin again at {opens:g} s"
        gates.append(BudgetGate(vitals.REPLICA_LAG, config.max_replica_lag_s, text))
    if config.min_connections:
        text = "only {value:.0f} more connections could be opened; windows begin again with {opens:g}"
        gates.append(BudgetGate(vitals.CONNECTION_ROOM, config.min_connections, text, least=True))
    gates += [QuietGate(hours) for hours in config.quiet_hours]
    gates += [_gate(veto) for veto in config.vetoes]
    critical = config.critical
    hibernate_s = critical.hibernate_s if critical and critical.action == "hibernate" else 0.0
    return Gates(gates, critical.above if critical else {}, hibernate_s)


def _gate(veto: Veto) -> Gate:
    return _VETOES[type(veto)](veto)


def utc_now() -> datetime:
    """The present."""
    return datetime.now(timezone.utc)
