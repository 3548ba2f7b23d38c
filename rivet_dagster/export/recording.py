"""What a run writes into its journal: windows, retries, and what the governor sees and does."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from rivet_dagster.errors import InterruptedExport, RivetError
from rivet_dagster.export import journal_entries as entries
from rivet_dagster.export.governor import Decision
from rivet_dagster.export.journal import Journal
from rivet_dagster.export.pressure import Pressure
from rivet_dagster.export.reading import Retry
from rivet_dagster.export.width import Move
from rivet_dagster.export.workers import WindowOutcome


@dataclass
class _Totals:
    """Of all windows so far."""

    committed: int = 0
    reused: int = 0
    failed: int = 0
    dropped: int = 0
    rows: int = 0
    bytes: int = 0
    longest_statement_s: float = 0.0
    longest_transaction_s: float = 0.0
    peak_memory_bytes: int = 0
    width_min: int | None = None
    width_max: int = 0
    sheds: int = 0
    held_s: float = 0.0
    replaced: dict[tuple[str, str, str], int] = field(default_factory=dict)


class Recorder:
    """Tells a journal of everything in a run, and adds it up for the verdict. Safe to call from any thread.

    Args:
        journal: the run's.
        begun: its first entry. It waits for the governor's first look, which says what can be seen of the source.
        planned: its second one.
    """

    def __init__(self, journal: Journal, begun: entries.RunEntry, planned: entries.PlanEntry) -> None:
        self._journal = journal
        self._begun: entries.RunEntry | None = begun
        self._planned = planned
        self._lock = threading.Lock()
        self._totals = _Totals()
        self._began = time.monotonic()

    def _begin(self, pressure: Pressure | None = None) -> None:
        """Write the first entries, if they are not written yet."""
        begun, self._begun = self._begun, None
        if begun is None:
            return
        if pressure is not None:
            seen = {"signals": tuple(sorted(pressure.readings)), "unseen": dict(sorted(pressure.unseen.items()))}
            begun = begun.model_copy(update=seen)
        self._journal.record(begun)
        self._journal.record(self._planned)

    def ended(self, outcome: WindowOutcome) -> None:
        """A window ended."""
        self._add(outcome)
        manifest, key = outcome.manifest, outcome.window.key
        if manifest is None:
            error = outcome.error
            said: entries.WindowEnd = "dropped" if isinstance(error, InterruptedExport) else "failed"
            code = error.code if isinstance(error, RivetError) else type(error).__name__
            self._journal.record(entries.WindowEntry(key=key, outcome=said, code=code))
            return
        read = manifest.statistics
        self._journal.record(
            entries.WindowEntry(
                key=key,
                outcome="reused" if outcome.reused else "committed",
                rows=manifest.rows,
                bytes=sum(part.bytes for part in manifest.parts),
                wire_bytes=read.wire_bytes,
                pages=read.pages,
                duration_s=read.duration_s,
                longest_statement_s=read.longest_statement_s,
                transaction_s=read.transaction_s,
                attempts=read.attempts,
                peak_memory_bytes=read.peak_memory_bytes,
            )
        )
        if not outcome.reused:
            for each in manifest.replaced:
                self._journal.record(
                    entries.PolicyEntry(window=key, column=each.column, reason=each.reason, values=each.values)
                )

    def _add(self, outcome: WindowOutcome) -> None:
        with self._lock:
            totals, manifest = self._totals, outcome.manifest
            if manifest is None:
                if isinstance(outcome.error, InterruptedExport):
                    totals.dropped += 1
                else:
                    totals.failed += 1
                return
            totals.rows += manifest.rows
            totals.bytes += sum(part.bytes for part in manifest.parts)
            if outcome.reused:
                totals.reused += 1
                return
            read = manifest.statistics
            totals.committed += 1
            totals.longest_statement_s = max(totals.longest_statement_s, read.longest_statement_s)
            totals.longest_transaction_s = max(totals.longest_transaction_s, read.transaction_s)
            totals.peak_memory_bytes = max(totals.peak_memory_bytes, read.peak_memory_bytes)

    def retried(self, retry: Retry) -> None:
        """A window is tried again."""
        self._journal.record(
            entries.RetryEntry(window=retry.window, attempt=retry.attempt, code=retry.code, pause_s=retry.pause_s)
        )

    def looked(self, decision: Decision, busy: int) -> None:
        """A tick of the governor."""
        self._begin(decision.pressure)
        with self._lock:
            totals, width = self._totals, decision.width
            totals.width_min = width if totals.width_min is None else min(totals.width_min, width)
            totals.width_max = max(totals.width_max, width)
        pressure = decision.pressure
        self._journal.record(
            entries.PressureEntry(
                width=decision.width,
                busy=busy,
                u=pressure.u,
                by=pressure.by,
                signals=dict(pressure.readings),
                stale=pressure.stale,
            )
        )

    def moved(self, move: Move, pressure: Pressure) -> None:
        """The width changed."""
        with self._lock:
            self._totals.sheds += move.after < move.before
        self._journal.record(
            entries.GovernorEntry(width_from=move.before, width_to=move.after, u=pressure.u, reason=move.reason)
        )

    def held(self, reasons: tuple[str, ...]) -> None:
        """No window begins from now on."""
        self._journal.record(entries.GateEntry(state="held", reasons=reasons))

    def released(self, reasons: tuple[str, ...], seconds: float) -> None:
        """Windows begin again."""
        with self._lock:
            self._totals.held_s += seconds
        self._journal.record(entries.GateEntry(state="released", reasons=reasons, held_s=round(seconds, 3)))

    def aborted(self, reason: str) -> None:
        """The run has to end."""
        self._journal.record(entries.GateEntry(state="aborted", reasons=(reason,)))

    def drifted(self, what: str) -> None:
        """The source's columns are no longer those of the plan."""
        self._begin()
        self._journal.record(entries.DriftEntry(what=what, action="fail"))

    def conclude(self, windows: int, error: BaseException | None) -> None:
        """The run is over: with an error of its own, or with what became of its windows."""
        self._begin()
        with self._lock:
            totals = self._totals
        self._journal.record(
            entries.VerdictEntry(
                outcome=self._outcome(totals, windows, error),
                committed=totals.committed,
                reused=totals.reused,
                failed=totals.failed,
                rows=totals.rows,
                bytes=totals.bytes,
                seconds=round(time.monotonic() - self._began, 3),
                longest_statement_s=totals.longest_statement_s,
                longest_transaction_s=totals.longest_transaction_s,
                peak_memory_bytes=totals.peak_memory_bytes,
                width_min=totals.width_min or 0,
                width_max=totals.width_max,
                sheds=totals.sheds,
                held_s=round(totals.held_s, 3),
            )
        )

    @staticmethod
    def _outcome(totals: _Totals, windows: int, error: BaseException | None) -> entries.RunEnd:
        if error is not None and not isinstance(error, Exception):
            return "interrupted"
        if totals.failed or error is not None:
            return "failed"
        return "done" if totals.committed + totals.reused >= windows else "interrupted"
