"""What a run's journal comes to: figures of all windows, and what was decided and why. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final, TypeVar

from rivet_dagster.export.journal_entries import (
    DriftEntry,
    GateEntry,
    GovernorEntry,
    JournalEntry,
    PolicyEntry,
    PressureEntry,
    RetryEntry,
    RunEntry,
    VerdictEntry,
    WindowEntry,
)
from rivet_dagster.export.timeline import duration_text, last_try, timeline_of

UNFINISHED: Final = "unfinished"
"""The outcome of a run without a verdict: it goes on, or it was killed."""

_OUTCOMES: Final = {UNFINISHED: ": the run goes on, or it was killed"}

EntryType = TypeVar("EntryType", bound=JournalEntry)


@dataclass(frozen=True)
class JournalDecision:
    """Something that was decided, or that went wrong, with its reason.

    Attributes:
        t: seconds since the run began.
        what: in a few words.
        why: in words.
    """

    t: float
    what: str
    why: str


@dataclass(frozen=True)
class JournalSummary:
    """The last try of a run.

    Attributes:
        run_id, table, engine, source, work_id, workers, workers_max, governed, profile, slots: as the run began.
        tries: how often a step of the run was tried.
        began: when, ISO 8601 in UTC.
        outcome: `done`, `failed`, `interrupted`; `unfinished` where the run goes on or was killed.
        seconds: what it took so far.
        windows: how many were to be exported.
        committed, reused, failed, dropped: windows, by what became of them.
        rows, bytes: of the committed and the reused windows.
        wire_bytes, pages: of the committed windows.
        longest_statement_s, longest_transaction_s: the longest time in seconds.
        peak_memory_bytes: the most resident memory that a process took; 0 where it was not noted.
        retries: how often windows were tried again.
        width_min, width_max: workers that could read; 0 where nobody looked.
        sheds: how often the width fell.
        held_s: how long no window could begin, in seconds.
        pressure_max: the greatest pressure; None where it was not looked at.
        looks, stale_looks: looks at the source, and those without anything seen.
        replaced: values that NULL replaced.
        lost_entries: entries that could not be kept.
        unseen: signals that the user may not see, each with the right that is missing.
        decisions: in order.
    """

    run_id: str
    table: str
    engine: str
    source: str
    work_id: str
    workers: str
    workers_max: int
    governed: bool
    profile: str
    slots: int | None
    tries: int
    began: str
    outcome: str
    seconds: float
    windows: int
    committed: int
    reused: int
    failed: int
    dropped: int
    rows: int
    bytes: int
    wire_bytes: int
    pages: int
    longest_statement_s: float
    longest_transaction_s: float
    peak_memory_bytes: int
    retries: int
    width_min: int
    width_max: int
    sheds: int
    held_s: float
    pressure_max: float | None
    looks: int
    stale_looks: int
    replaced: int
    lost_entries: int
    unseen: dict[str, str]
    decisions: tuple[JournalDecision, ...]

    def to_json(self) -> dict[str, object]:
        """As the command line prints it with `--json`."""
        return asdict(self)

    @property
    def title(self) -> str:
        """The run in one line."""
        source = f" from {self.source}" if self.source else ""
        return f"{self.table or self.run_id}{source}: {self.outcome} after {duration_text(self.seconds)}"

    def lines(self) -> dict[str, str]:
        """Names and values for people; what did not happen is left out."""
        width = f"{self.width_min} to {self.width_max} of {self.workers_max}"
        said = {
            "run": self.run_id + (f", try {self.tries}" if self.tries > 1 else ""),
            "began": f"{self.began[:19].replace('T', ' ')} UTC",
            "outcome": self.outcome + _OUTCOMES.get(self.outcome, ""),
            "windows": self._windows(),
            "rows": f"{self.rows:,} ({self.bytes / 1e6:,.1f} MB in files)",
            "took": f"{self.seconds:,.1f} s",
            "longest statement": f"{self.longest_statement_s:.2f} s",
            "longest transaction": f"{self.longest_transaction_s:.2f} s",
            "workers": width if self.looks else f"{self.workers_max}, nobody looked at the source",
        }
        rest = {
            "pressure": f"at most {self.pressure_max:.2f}, 1 is full load" if self.pressure_max is not None else "",
            "looks without a signal": f"{self.stale_looks:,} of {self.looks:,}" if self.stale_looks else "",
            "held": duration_text(self.held_s) if self.held_s else "",
            "workers taken away": f"{self.sheds:,} times" if self.sheds else "",
            "retries": f"{self.retries:,}" if self.retries else "",
            "most memory": f"{self.peak_memory_bytes / 1e6:,.1f} MB" if self.peak_memory_bytes else "",
            "values that NULL replaced": f"{self.replaced:,}" if self.replaced else "",
            "signals not seen": "; ".join(f"{name} ({right})" for name, right in self.unseen.items()),
            "entries lost": f"{self.lost_entries:,}, the destination failed" if self.lost_entries else "",
        }
        return said | {name: value for name, value in rest.items() if value}

    def _windows(self) -> str:
        ends = {"reused": self.reused, "failed": self.failed, "dropped": self.dropped}
        said = [f"{self.committed:,} committed", *(f"{count:,} {end}" for end, count in ends.items() if count)]
        return f"{', '.join(said)} of {self.windows:,}"


def summarize(entries: Sequence[JournalEntry]) -> JournalSummary:
    """What the entries of a run come to. Figures are counted again, so that a killed run has them, too."""
    tries = len(_of(entries, RunEntry))
    entries = last_try(entries)
    run = next(iter(_of(entries, RunEntry)), RunEntry(table="", engine="", workers_max=0, windows=0))
    verdict = next(reversed(_of(entries, VerdictEntry)), None)
    windows = _of(entries, WindowEntry)
    committed = [each for each in windows if each.outcome == "committed"]
    ends = Counter(each.outcome for each in windows)
    kept = [each for each in windows if each.outcome in {"committed", "reused"}]
    looks, moves = _of(entries, PressureEntry), _of(entries, GovernorEntry)
    seen = [each for each in looks if not each.stale]
    widths = [*(each.width for each in looks), *(width for each in moves for width in (each.width_from, each.width_to))]
    return JournalSummary(
        **run.model_dump(include=_AS_IT_BEGAN),
        tries=max(tries, 1),
        began=entries[0].at if entries else "",
        outcome=verdict.outcome if verdict else UNFINISHED,
        seconds=verdict.seconds if verdict else max((each.t for each in entries), default=0.0),
        committed=ends["committed"],
        reused=ends["reused"],
        failed=ends["failed"],
        dropped=ends["dropped"],
        rows=sum(each.rows for each in kept),
        bytes=sum(each.bytes for each in kept),
        wire_bytes=sum(each.wire_bytes for each in committed),
        pages=sum(each.pages for each in committed),
        longest_statement_s=max((each.longest_statement_s for each in committed), default=0.0),
        longest_transaction_s=max((each.transaction_s for each in committed), default=0.0),
        peak_memory_bytes=max((each.peak_memory_bytes for each in committed), default=0),
        retries=len(_of(entries, RetryEntry)),
        width_min=min(widths, default=0),
        width_max=max(widths, default=0),
        sheds=sum(each.width_to < each.width_from for each in moves),
        held_s=sum((each.end - each.begin for each in timeline_of(entries, 1).held), 0.0),
        pressure_max=max((each.u for each in seen), default=None),
        looks=len(looks),
        stale_looks=len(looks) - len(seen),
        replaced=sum(each.values for each in _of(entries, PolicyEntry)),
        lost_entries=verdict.lost_entries if verdict else 0,
        decisions=tuple(_decisions(entries)),
    )


_AS_IT_BEGAN: Final = {
    "run_id",
    "table",
    "engine",
    "source",
    "work_id",
    "workers",
    "workers_max",
    "windows",
    "governed",
    "profile",
    "slots",
    "unseen",
}


def _of(entries: Sequence[JournalEntry], kind: type[EntryType]) -> list[EntryType]:
    return [each for each in entries if isinstance(each, kind)]


def _decisions(entries: Sequence[JournalEntry]) -> list[JournalDecision]:
    """Everything that was decided, in order; values that NULL replaced as one for each column and reason."""
    replaced: dict[tuple[str, str], list[PolicyEntry]] = {}
    found: list[JournalDecision] = []
    for entry in entries:
        if isinstance(entry, PolicyEntry) and entry.kind == "replaced":
            replaced.setdefault((entry.column, entry.reason), []).append(entry)
            continue
        said = _of_run(entry) or _of_window(entry)
        if said is not None:
            found.append(JournalDecision(entry.t, *said))
    for (column, reason), policies in replaced.items():
        what = f"NULL in place of {sum(each.values for each in policies):,} values"
        windows = len({each.window for each in policies})
        found.append(JournalDecision(policies[0].t, what, f"column {column}: {reason}, in {windows:,} windows"))
    return sorted(found, key=lambda each: each.t)


def _of_run(entry: JournalEntry) -> tuple[str, str] | None:
    """What was decided for all windows, and why; None for what is no such decision."""
    if isinstance(entry, GovernorEntry):
        return f"workers {entry.width_from} to {entry.width_to}", entry.reason
    if isinstance(entry, GateEntry):
        held = f" after {duration_text(entry.held_s)}" if entry.state == "released" else ""
        return f"windows {entry.state}{held}" if entry.state != "aborted" else "run aborted", "; ".join(entry.reasons)
    if isinstance(entry, DriftEntry):
        return f"drift, {entry.action}", entry.what
    return None


def _of_window(entry: JournalEntry) -> tuple[str, str] | None:
    """The same of one window."""
    if isinstance(entry, RetryEntry):
        return f"{entry.window} tried again", f"{entry.code} in try {entry.attempt}"
    if isinstance(entry, WindowEntry) and entry.outcome == "failed":
        return f"{entry.key} failed", entry.code
    if isinstance(entry, PolicyEntry):
        return " ".join(filter(None, (entry.window, entry.kind))), entry.detail or entry.reason
    return None
