"""What is known before an export, and what it means: verdicts by rules. Pure: no clock, no I/O.

A rule holds or does not hold of `Facts`; the verdict is the worst of the rules that hold. What is not known is None,
and no rule holds of it but one that says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from rivet_dagster.errors import RivetError
from rivet_dagster.export.plan import USUAL_LIMIT
from rivet_dagster.export.width import HIGH

UNSAFE_STATEMENT_S: Final = 60.0
LONG_STATEMENT_S: Final = 2.0
MiB: Final = 1 << 20


class Verdict(IntEnum):
    """How kind an export is to its source and to this machine, the best one first."""

    EFFICIENT = 0
    ACCEPTABLE = 1
    DEGRADED = 2
    UNSAFE = 3


@dataclass(frozen=True)
class Reason:
    """Why a verdict is no better.

    Attributes:
        rule: stable name of the rule, or the code of an error.
        verdict: no better than this.
        what: in one sentence.
        advice: what to do about it.
        exit_code: of the command line, where the verdict is UNSAFE.
    """

    rule: str
    verdict: Verdict
    what: str
    advice: str
    exit_code: int = 1

    def to_json(self) -> dict[str, object]:
        """As the command line prints it with `--json`."""
        return {"rule": self.rule, "verdict": self.verdict.name, "what": self.what, "advice": self.advice}


@dataclass(frozen=True)
class Facts:
    """What rules go by. Sizes are bytes, times seconds.

    Attributes:
        workers: how many are asked for.
        kind: `table`, `view` or `query`; empty where no table is looked at.
        is_analysed: whether the server's statistics count the rows.
        has_key: whether an order is there to read in; without one rows are read as a whole.
        by_blocks: whether a table as a whole is read by ranges of its storage, a short statement each.
        in_pieces: whether nothing tells rows of a window apart, so that it is one statement.
        is_declared: whether only the user says that the key is unique.
        has_snapshots: whether the pages of a window show one moment.
        is_estimated: whether windows are cut by statistics alone.
        statement_s: how long a statement runs at most; None where nothing tells.
        statement_limit_s: the server ends it then; None where no statement is looked at.
        windows: how many there are; None where nothing tells.
        max_windows: more are refused.
        memory_bytes: what the process takes at most.
        memory_limit: what it may take.
        wide_columns: those whose values may be wider than the catalog says, as long as no width was measured.
        pressure: 0 idle, 1 full load; None where it is not known.
        pressed_by: the signal that it is of.
        unseen_load: why the load cannot be looked at; empty where it can.
        unseen: signals that the user may not see, each with the right that is missing.
        gates: why no window may begin now.
        critical: why a run would be ended at once.
        room: connections that could be opened; None where it is not known.
        min_connections: no window begins while fewer than this are left.
        spool_free: of the spool folder; None where it is not looked at.
        spool_needed: what windows being written take there.
        cold_kernels: modules whose compiled code is in no cache.
        is_exposed: whether the connection goes to another machine without TLS.
        excessive_rights: of the user.
    """

    workers: int = 1
    kind: str = ""
    is_analysed: bool = True
    has_key: bool = True
    by_blocks: bool = False
    in_pieces: bool = False
    is_declared: bool = False
    has_snapshots: bool = True
    is_estimated: bool = False
    statement_s: float | None = None
    statement_limit_s: float | None = None
    windows: int | None = None
    max_windows: int | None = None
    memory_bytes: int | None = None
    memory_limit: int | None = None
    wide_columns: tuple[str, ...] = ()
    pressure: float | None = None
    pressed_by: str = ""
    unseen_load: str = ""
    unseen: Mapping[str, str] = field(default_factory=dict)
    gates: tuple[str, ...] = ()
    critical: str = ""
    room: int | None = None
    min_connections: int = 0
    spool_free: int | None = None
    spool_needed: int = 0
    cold_kernels: tuple[str, ...] = ()
    is_exposed: bool = False
    excessive_rights: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule:
    """What makes a verdict no better than some.

    Attributes:
        name: stable.
        verdict: no better than this.
        holds: whether it is so.
        what: says so.
        advice: what to do about it.
    """

    name: str
    verdict: Verdict
    holds: Callable[[Facts], bool]
    what: Callable[[Facts], str]
    advice: str


def _takes_longer(facts: Facts, seconds: float) -> bool:
    return facts.statement_s is not None and facts.statement_s > seconds


def _is_ended(facts: Facts) -> bool:
    limit = facts.statement_limit_s
    return limit is not None and _takes_longer(facts, limit)


def _windows_beyond(facts: Facts, most: int | None) -> bool:
    return facts.windows is not None and most is not None and facts.windows > most


def _lacks_room(facts: Facts, spare: int) -> bool:
    return facts.room is not None and facts.room < facts.workers + 1 + spare


def _takes_too_much(facts: Facts) -> bool:
    return None not in (facts.memory_bytes, facts.memory_limit) and (facts.memory_bytes or 0) > (
        facts.memory_limit or 0
    )


def _whole(facts: Facts) -> str:
    how = "by ranges of its storage, a short statement each" if facts.by_blocks else "by one statement"
    return f"No order to read the rows in: they are one window, read {how}, which begins anew after a failure."


def _missing(unseen: Mapping[str, str]) -> str:
    """Signals by the right that each lacks."""
    rights: dict[str, list[str]] = {}
    for signal, right in sorted(unseen.items()):
        rights.setdefault(right, []).append(signal)
    return "; ".join(f"{', '.join(signals)} without {right}" for right, signals in rights.items())


def _some(names: tuple[str, ...], most: int = 5) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


RULES: Final[tuple[Rule, ...]] = (
    Rule(
        "statement_endless",
        Verdict.UNSAFE,
        lambda f: _takes_longer(f, UNSAFE_STATEMENT_S),
        lambda f: f"One statement would run for about {f.statement_s:,.0f} s on the source.",
        "Read in the order of a key, or of an index with a key behind it; ask for smaller windows.",
    ),
    Rule(
        "statement_ended",
        Verdict.UNSAFE,
        lambda f: _is_ended(f) and not _takes_longer(f, UNSAFE_STATEMENT_S),
        lambda f: (
            f"A statement would run for about {f.statement_s:,.1f} s, and is ended after {f.statement_limit_s:g}."
        ),
        "Raise statement_timeout_s or snapshot_s in limits, or ask for smaller pages.",
    ),
    Rule(
        "no_room",
        Verdict.UNSAFE,
        lambda f: _lacks_room(f, 0),
        lambda f: f"{f.workers + 1} connections are needed, one of them to look, and {f.room} could be opened.",
        "Ask for fewer workers, or free connections of the server or the user.",
    ),
    Rule(
        "too_much_memory",
        Verdict.UNSAFE,
        _takes_too_much,
        lambda f: (
            f"About {(f.memory_bytes or 0) // MiB:,} MiB of memory are needed, and "
            f"{(f.memory_limit or 0) // MiB:,} MiB may be taken."
        ),
        "Ask for fewer workers, smaller pages or row groups, or allow more in memory_bytes.",
    ),
    Rule(
        "too_many_windows",
        Verdict.UNSAFE,
        lambda f: _windows_beyond(f, f.max_windows),
        lambda f: f"About {f.windows:,} windows would be planned, and more than {f.max_windows:,} are refused.",
        "Ask for more rows a window (or a larger size), or raise max_windows.",
    ),
    Rule(
        "critical_load",
        Verdict.UNSAFE,
        lambda f: bool(f.critical),
        lambda f: f"A run would be ended at once: {f.critical}.",
        "Wait until the load is over, or raise the limit in critical.above.",
    ),
    Rule(
        "statement_long",
        Verdict.DEGRADED,
        lambda f: _takes_longer(f, LONG_STATEMENT_S) and not _takes_longer(f, UNSAFE_STATEMENT_S) and not _is_ended(f),
        lambda f: f"A statement would run for about {f.statement_s:,.1f} s on the source.",
        "Ask for smaller pages (profile safe, page_bytes) or windows; read in the order of an index.",
    ),
    Rule(
        "statement_unknown",
        Verdict.DEGRADED,
        lambda f: f.statement_limit_s is not None and f.statement_s is None,
        lambda f: (
            f"Nothing tells how long a statement takes: of a {f.kind} every page may run all of it."
            if f.is_declared and f.kind != "table"
            else f"Nothing tells how long the statement for all rows takes: nobody counted those of this {f.kind}."
        ),
        "See that its key has an index that the server uses; after a first export the time is measured.",
    ),
    Rule(
        "no_key",
        Verdict.DEGRADED,
        lambda f: bool(f.kind) and not f.has_key,
        _whole,
        "Add a primary key, or a unique index over NOT NULL columns; of a view or a query, declare a key.",
    ),
    Rule(
        "many_windows",
        Verdict.DEGRADED,
        lambda f: _windows_beyond(f, USUAL_LIMIT) and not _windows_beyond(f, f.max_windows),
        lambda f: f"About {f.windows:,} windows make Dagster's pages slow; up to {USUAL_LIMIT:,} do not.",
        "Ask for more rows a window, or a larger size.",
    ),
    Rule(
        "gate_closed",
        Verdict.DEGRADED,
        lambda f: bool(f.gates),
        lambda f: f"No window would begin now: {'; '.join(f.gates)}.",
        "Wait, or change what closes it in the governor.",
    ),
    Rule(
        "loaded",
        Verdict.DEGRADED,
        lambda f: f.pressure is not None and f.pressure >= HIGH,
        lambda f: f"The source is loaded now: {f.pressed_by or 'its load'} is at {f.pressure:.2f} of full load.",
        "Export at another time; if the server bears more than this, say so with cores or limits in the governor.",
    ),
    Rule(
        "little_room",
        Verdict.DEGRADED,
        lambda f: _lacks_room(f, f.min_connections) and not _lacks_room(f, 0),
        lambda f: (
            f"{f.room} connections could be opened: with {f.workers + 1} of them in use windows would wait, because "
            f"{f.min_connections} are to be left."
        ),
        "Ask for fewer workers, or lower min_connections in the governor.",
    ),
    Rule(
        "load_unseen",
        Verdict.DEGRADED,
        lambda f: bool(f.unseen_load),
        lambda f: f"The source's load cannot be seen: {f.unseen_load}",
        "Without it half of the workers begin, and none follows the load.",
    ),
    Rule(
        "little_spool",
        Verdict.DEGRADED,
        lambda f: f.spool_free is not None and f.spool_free < f.spool_needed,
        lambda f: (
            f"The spool folder has {(f.spool_free or 0) // MiB:,} MiB left, and windows that are being written may "
            f"take {f.spool_needed // MiB:,} MiB."
        ),
        "Free space there, or name another folder in RIVET_SPOOL_DIR.",
    ),
    Rule(
        "never_analysed",
        Verdict.ACCEPTABLE,
        lambda f: f.kind == "table" and not f.is_analysed,
        lambda _: "The server has no statistics of the table, so that sizes are guessed.",
        "Run ANALYZE on it.",
    ),
    Rule(
        "width_unmeasured",
        Verdict.ACCEPTABLE,
        lambda f: bool(f.wide_columns),
        lambda f: f"Rows may be wider than the catalog says, by {_some(f.wide_columns)}.",
        "Nothing has to be done: pages begin with a few rows. After a first export the width is measured.",
    ),
    Rule(
        "signals_unseen",
        Verdict.ACCEPTABLE,
        lambda f: bool(f.unseen),
        lambda f: f"Signals of the source's load are not seen: {_missing(f.unseen)}.",
        "Grant the right if workers are to follow these signals, too.",
    ),
    Rule(
        "boundaries_estimated",
        Verdict.ACCEPTABLE,
        lambda f: f.is_estimated,
        lambda _: "Windows are cut by the server's statistics, so that some may have far more rows than others.",
        "Nothing has to be done; boundaries: exact walks the index once instead.",
    ),
    Rule(
        "one_statement_a_window",
        Verdict.ACCEPTABLE,
        lambda f: f.in_pieces and f.has_key,
        lambda _: "No unique key stands behind the column that windows go by, so that each window is one statement.",
        "Keep windows small, or add a primary key.",
    ),
    Rule(
        "key_declared",
        Verdict.ACCEPTABLE,
        lambda f: f.is_declared,
        lambda f: (
            f"Only its declaration says that the key of this {f.kind} is unique; at each page's end it is checked."
        ),
        "Nothing has to be done where it is.",
    ),
    Rule(
        "no_snapshots",
        Verdict.ACCEPTABLE,
        lambda f: not f.has_snapshots,
        lambda _: "The table's storage engine has no snapshots: pages of a window show different moments.",
        "Export it while nobody writes to it, or convert it to InnoDB.",
    ),
    Rule(
        "kernels_cold",
        Verdict.ACCEPTABLE,
        lambda f: bool(f.cold_kernels),
        lambda f: f"The first export compiles for seconds: no code is kept for {_some(f.cold_kernels)}.",
        "Run rivet-dagster warm, in an image while it is built.",
    ),
    Rule(
        "connection_exposed",
        Verdict.ACCEPTABLE,
        lambda f: f.is_exposed,
        lambda _: "The connection goes to another machine, and is not encrypted.",
        "Ask for TLS in the source's address (sslmode, ssl-mode).",
    ),
    Rule(
        "rights_excessive",
        Verdict.ACCEPTABLE,
        lambda f: bool(f.excessive_rights),
        lambda f: f"The user may do what no export needs: {_some(f.excessive_rights)}.",
        "Export as a user who may only read.",
    ),
)


def judge(facts: Facts) -> tuple[Reason, ...]:
    """Every rule that holds, the worst ones first."""
    held = (rule for rule in RULES if rule.holds(facts))
    return tuple(Reason(rule.name, rule.verdict, rule.what(facts), rule.advice) for rule in held)


def failed(error: RivetError) -> Reason:
    """What cannot be done at all."""
    return Reason(error.code, Verdict.UNSAFE, error.what, error.advice, error.process_exit_code)


def worst(reasons: Iterable[Reason]) -> Verdict:
    """The verdict that reasons leave."""
    return max((reason.verdict for reason in reasons), default=Verdict.EFFICIENT)


def exit_code(reasons: Iterable[Reason]) -> int:
    """0 unless something is UNSAFE; what errors say where all of these say the same, else 1."""
    codes = {reason.exit_code for reason in reasons if reason.verdict is Verdict.UNSAFE}
    return (codes.pop() if len(codes) == 1 else 1) if codes else 0


class Judged:
    """A report that reasons were found for."""

    reasons: tuple[Reason, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of the reasons."""
        return worst(self.reasons)

    @property
    def exit_code(self) -> int:
        """Of the command line."""
        return exit_code(self.reasons)
