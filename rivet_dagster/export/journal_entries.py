"""The entries of a run's journal: one JSON object a line, told apart by `event`.

Every line has `format`, `at`, `t` and `event`; the rest is the event's. Readers ignore fields and events that they do
not know, so that a later version may add some; a number after the slash that they do not know stops them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from rivet_dagster.errors import IntegrityError

FORMAT: Final = "rivet.journal/1"

WindowEnd = Literal["committed", "reused", "failed", "dropped"]
GateState = Literal["held", "released", "aborted"]
RunEnd = Literal["done", "failed", "interrupted"]

_SIGNAL_DIGITS = 6


def _finite(values: dict[str, float]) -> dict[str, float]:
    """Values that are numbers, to six digits: JSON has no infinity, and nobody reads the rest."""
    return {name: float(f"{value:.{_SIGNAL_DIGITS}g}") for name, value in values.items() if math.isfinite(value)}


Signals = Annotated[dict[str, float], AfterValidator(_finite)]


class JournalEntry(BaseModel):
    """What every line has.

    Attributes:
        at: when it was recorded, ISO 8601 in UTC with milliseconds; the journal fills it in.
        t: seconds since the journal was opened; the journal fills it in.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    EVENT: ClassVar[str] = ""

    at: str = ""
    t: float = 0.0

    def to_line(self) -> bytes:
        """The entry's line, with its end; ValueError where a value is no finite number."""
        values: dict[str, Any] = {"format": FORMAT, "at": self.at, "t": self.t, "event": self.EVENT}
        values |= self.model_dump(mode="json", exclude={"at", "t"})
        text = json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode(errors="backslashreplace") + b"\n"


class RunEntry(JournalEntry):
    """A run begins.

    Attributes:
        run_id: the run; the journal fills it in.
        table: `schema.table`.
        engine: the source's engine, `postgresql` or `mysql`.
        source: what the source is, without secrets.
        work_id: what several tries of the same work share.
        workers: what reads windows, `threads` or `processes`.
        workers_min: as many go on under any load.
        workers_max: no more than these read at a time.
        windows: how many are to be exported.
        page_bytes: what a page aims at, in bytes on the wire.
        profile: name of the set of limits; empty where there is none.
        governed: whether the number of workers follows the source's load.
        slots: how many connections may read from the server, over all runs; null where they are not counted.
        signals: names of the signals that can be read.
        unseen: names of those that the user may not see, each with the right that is missing.
    """

    EVENT: ClassVar[str] = "run"

    run_id: str = ""
    table: str
    engine: str
    source: str = ""
    work_id: str = ""
    workers: str = "threads"
    workers_min: int = 1
    workers_max: int
    windows: int
    page_bytes: int = 0
    profile: str = ""
    governed: bool = False
    slots: int | None = None
    signals: tuple[str, ...] = ()
    unseen: dict[str, str] = {}


class PlanEntry(JournalEntry):
    """A table was planned.

    Attributes:
        generation: number of the plan.
        windows: how many it has.
        appended: how many of them are new.
        seconds: what planning took.
    """

    EVENT: ClassVar[str] = "plan"

    generation: int
    windows: int
    appended: int = 0
    seconds: float = 0.0


class WindowEntry(JournalEntry):
    """A window ended.

    Attributes:
        key: the window's key.
        outcome: `committed`; `reused` where an earlier try of the same work had committed it; `failed`; `dropped`
            where the run was stopped before it was done.
        rows: rows in its parts.
        bytes: of its parts.
        wire_bytes: bytes of the rows on the wire.
        pages: statements that returned rows.
        duration_s: seconds from the window's start to its commit.
        longest_statement_s: the longest time that one statement ran, in seconds.
        transaction_s: how long its snapshot was held, in seconds.
        attempts: tries it took.
        peak_memory_bytes: the most resident memory that the process took meanwhile; 0 where it was not noted.
        code: of the error that ended the last try; empty where there was none.
    """

    EVENT: ClassVar[str] = "window"

    key: str
    outcome: WindowEnd
    rows: int = 0
    bytes: int = 0
    wire_bytes: int = 0
    pages: int = 0
    duration_s: float = 0.0
    longest_statement_s: float = 0.0
    transaction_s: float = 0.0
    attempts: int = 0
    peak_memory_bytes: int = 0
    code: str = ""


class RetryEntry(JournalEntry):
    """A window is tried again.

    Attributes:
        window: its key.
        attempt: the try that failed, from 1.
        code: of the failure.
        pause_s: seconds until the next try.
    """

    EVENT: ClassVar[str] = "retry"

    window: str
    attempt: int
    code: str
    pause_s: float = 0.0


class PressureEntry(JournalEntry):
    """A look at the source: one a tick of the governor.

    Attributes:
        width: how many workers may read.
        busy: the most windows that were being read at a time since the look before.
        u: the smoothed pressure; 0 is idle, 1 is full load.
        by: the signal that presses most; empty where none does.
        signals: readings by name, rates a second in place of counters.
        stale: nothing could be read for so long that `u` is only a place holder.
    """

    EVENT: ClassVar[str] = "pressure"

    width: int
    busy: int = 0
    u: float
    by: str = ""
    signals: Signals = {}
    stale: bool = False


class GovernorEntry(JournalEntry):
    """The governor changed how many workers may read.

    Attributes:
        width_from: workers before.
        width_to: workers from now on.
        u: the smoothed pressure.
        reason: in words.
    """

    EVENT: ClassVar[str] = "governor"

    width_from: int
    width_to: int
    u: float = 0.0
    reason: str = ""


class GateEntry(JournalEntry):
    """A gate closed or opened.

    Attributes:
        state: `held`: no window begins from now on; `released`: windows begin again; `aborted`: the run has to end.
        reasons: why windows are, or were, held.
        held_s: how long they were held, in seconds; of `released`.
    """

    EVENT: ClassVar[str] = "gate"

    state: GateState
    reasons: tuple[str, ...] = ()
    held_s: float = 0.0


class PolicyEntry(JournalEntry):
    """Something was done that the export's options allow.

    Attributes:
        kind: `replaced`: values that a type cannot hold became NULL; or what else was done.
        window: key of the window; empty where it was none's.
        column: of the values.
        reason: why they cannot be held.
        values: how many.
        detail: in words.
    """

    EVENT: ClassVar[str] = "policy"

    kind: str = "replaced"
    window: str = ""
    column: str = ""
    reason: str = ""
    values: int = 0
    detail: str = ""


class DriftEntry(JournalEntry):
    """The source's columns are no longer those of the plan.

    Attributes:
        what: what differs, in words.
        action: what follows from it, `fail`.
    """

    EVENT: ClassVar[str] = "drift"

    what: str
    action: str = "fail"


class VerdictEntry(JournalEntry):
    """A run ended. A journal without one is of a run that goes on, or that was killed.

    Attributes:
        outcome: `done`, `failed` or `interrupted`.
        committed: windows that were read and committed.
        reused: windows that an earlier try had committed.
        failed: windows that failed.
        rows: of the committed and the reused windows.
        bytes: of their parts.
        seconds: what the run took.
        longest_statement_s: the longest time that one statement ran, in seconds.
        longest_transaction_s: the longest time that a snapshot was held, in seconds.
        peak_memory_bytes: the most resident memory that a process took; 0 where it was not noted.
        width_min: the fewest workers that were allowed; 0 where nobody looked.
        width_max: the most workers that were allowed; 0 where nobody looked.
        sheds: how often the width fell.
        held_s: how long gates held windows, in seconds.
        lost_entries: entries that could not be kept, because the destination failed; the journal fills it in.
    """

    EVENT: ClassVar[str] = "verdict"

    outcome: RunEnd
    committed: int = 0
    reused: int = 0
    failed: int = 0
    rows: int = 0
    bytes: int = 0
    seconds: float = 0.0
    longest_statement_s: float = 0.0
    longest_transaction_s: float = 0.0
    peak_memory_bytes: int = 0
    width_min: int = 0
    width_max: int = 0
    sheds: int = 0
    held_s: float = 0.0
    lost_entries: int = 0


ENTRIES: Final[tuple[type[JournalEntry], ...]] = (
    RunEntry,
    PlanEntry,
    WindowEntry,
    RetryEntry,
    PressureEntry,
    GovernorEntry,
    GateEntry,
    PolicyEntry,
    DriftEntry,
    VerdictEntry,
)
_BY_EVENT: Final[dict[str, type[JournalEntry]]] = {entry.EVENT: entry for entry in ENTRIES}


def parse_lines(data: bytes, where: str) -> Iterator[JournalEntry]:
    """The entries of a journal's bytes, in order, without those of events that are not known.

    Raises:
        IntegrityError: RIVET_DOCUMENT_INVALID that names `where` it was read, and the line.
    """
    for number, line in enumerate(data.splitlines(), 1):
        try:
            entry = _parse(line)
        except (ValueError, ValidationError) as exc:
            reason = "fields are missing or wrong" if isinstance(exc, ValidationError) else str(exc)
            raise IntegrityError(
                "RIVET_DOCUMENT_INVALID",
                f"Line {number} of {where} cannot be read: {reason}.",
                "Delete the journal, which no export needs; if a newer version wrote it, upgrade.",
            ) from None
        if entry is not None:
            yield entry


def _parse(line: bytes) -> JournalEntry | None:
    values: Any = json.loads(line)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ValueError(f"it is not in the format {FORMAT}")
    if not {"at", "t", "event"} <= values.keys():
        raise ValueError("at, t or event is missing")
    model = _BY_EVENT.get(str(values["event"]))
    return None if model is None else model.model_validate(values)
