"""The journal of a run: what happened, when and why, as JSON lines in the destination.

`journal/<run id>.jsonl` below the export's folder, and `journal/<run id>.2.jsonl` … when it gets long. A store has no
append, so the object of the present segment is put anew every few seconds: a killed run loses what was recorded after
the last put, and never leaves half a line. A journal fails no export: what cannot be kept is counted, and said once.
"""

from __future__ import annotations

import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from types import TracebackType
from typing import Final

from rivet_dagster.errors import RivetError, StoreError
from rivet_dagster.export.journal_entries import JournalEntry, RunEntry, VerdictEntry, parse_lines
from rivet_dagster.export.names import plain_name
from rivet_dagster.stores.base import Store

logger = logging.getLogger("rivet_dagster")

FOLDER: Final = "journal"
KEPT_RUNS: Final = 50
KEPT_FOR: Final = timedelta(days=1)
SEGMENT_BYTES: Final = 1 << 20
"""A segment that would grow beyond this ends: putting it anew would cost more and more."""
UNWRITTEN_BYTES: Final = 8 << 20
"""What is held in memory while the destination fails; entries beyond it are lost."""

_NAME = re.compile(r"(?P<run>[^./]+)(?:\.(?P<number>[1-9][0-9]*))?\.jsonl")
_ESCAPE = re.compile(r"_x([0-9A-F]{4,6})_")
_JOIN_SECONDS = 30.0


def new_run_id(now: datetime | None = None) -> str:
    """A name for a run that has none: names of later runs sort behind it."""
    return f"{now or _utc_now():%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"


def segment_path(run_id: str, number: int) -> str:
    """Path of a segment of a run's journal; numbers begin at 1."""
    return f"{FOLDER}/{plain_name(run_id)}{f'.{number}' if number > 1 else ''}.jsonl"


class Journal:
    """Records what happens in a run. A context manager; safe to call from any thread, and it never raises.

    Where the run has a journal already, because a step of it is tried again, another segment begins. Opening a journal
    deletes those that nobody looks at any more (`rotate`).

    Args:
        store: the export's folder.
        run_id: name of the run; empty for a new one.
        clock: monotonic seconds.
        flush_seconds: how long an entry waits at most until it is written.
        now: the present, in UTC.
        segment_bytes: the size in bytes at which a segment ends.
        unwritten_bytes: bytes that may wait while the destination fails.

    Attributes:
        run_id: name of the run.
    """

    def __init__(
        self,
        store: Store,
        run_id: str = "",
        *,
        clock: Callable[[], float] = time.monotonic,
        flush_seconds: float = 5.0,
        now: Callable[[], datetime] | None = None,
        segment_bytes: int = SEGMENT_BYTES,
        unwritten_bytes: int = UNWRITTEN_BYTES,
    ) -> None:
        self.run_id = run_id or new_run_id()
        self._clock = clock
        self._now = now or _utc_now
        self._began = clock()
        self._flush_seconds = flush_seconds
        self._store = store
        self._segments = _Segments(store, self.run_id, segment_bytes)
        self._most = unwritten_bytes
        self._changed = threading.Condition()
        self._unwritten: list[bytes] = []
        self._size = 0
        self._lost = 0
        self._closed = False
        self._failed = False
        self._rotated = False
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="rivet-journal", daemon=True)

    @property
    def lost(self) -> int:
        """Entries that could not be kept."""
        return self._lost

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def record(self, entry: JournalEntry) -> None:
        """Record what has just happened. It is written within seconds, by another thread."""
        with self._changed:
            try:
                line = self._stamped(entry).to_line()
            except Exception:  # a defect of whoever made the entry, which must not stop the export
                logger.exception("An entry of the journal cannot be written.")
                self._lost += 1
                return
            if self._closed or self._size + len(line) > self._most:
                self._lost += 1
                return
            self._unwritten.append(line)
            self._size += len(line)
            if self._thread.ident is None:
                with suppress(RuntimeError):  # without a thread, everything is written in the end
                    self._thread.start()
            self._changed.notify()

    def flush(self) -> None:
        """Write what is not written yet. What fails is tried again with the next flush."""
        with self._writing:
            with self._changed:
                lines = list(self._unwritten)
            written = 0
            try:
                for some in self._segments.append(lines):
                    written += some
                self._rotate()
            except RivetError as exc:
                self._say(exc)
            except Exception:  # a defect here must not stop the export
                logger.exception("The journal cannot be written.")
            else:
                self._failed = False
            with self._changed:
                self._size -= sum(map(len, self._unwritten[:written]))
                del self._unwritten[:written]

    def close(self) -> None:
        """Write what is left; entries that come later are lost."""
        with self._changed:
            already, self._closed = self._closed, True
            self._changed.notify()
        if already:
            return
        if self._thread.ident is not None:
            self._thread.join(_JOIN_SECONDS)
        if not self._thread.is_alive():  # one that is still alive hangs in the destination, where this one would, too
            self.flush()
        with self._changed:
            self._lost += len(self._unwritten)
            self._unwritten.clear()
            self._size = 0
        if self._lost:
            logger.warning("%d entries of the journal of run %s were lost.", self._lost, self.run_id)

    def _stamped(self, entry: JournalEntry) -> JournalEntry:
        """The entry with what the journal knows."""
        own: dict[str, object] = {"at": _text(self._now()), "t": round(self._clock() - self._began, 3)}
        if isinstance(entry, RunEntry):
            own["run_id"] = self.run_id
        if isinstance(entry, VerdictEntry):
            own["lost_entries"] = self._lost
        return entry.model_copy(update=own)

    def _run(self) -> None:
        """Write now and then, until the journal is closed."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._unwritten)
                self._changed.wait_for(lambda: self._closed, self._flush_seconds)
                if self._closed:
                    return
            self.flush()

    def _rotate(self) -> None:
        """Once, behind the first entries: nobody waits for it."""
        if not self._rotated:
            self._rotated = True
            rotate(self._store, now=self._now(), but=self.run_id)

    def _say(self, exc: Exception) -> None:
        """Say once that the destination fails."""
        if not self._failed:
            logger.warning("The journal of run %s cannot be written for now; the export goes on. %s", self.run_id, exc)
        self._failed = True


class _Segments:
    """Appends lines to a run's segments. Not safe to call from several threads."""

    def __init__(self, store: Store, run_id: str, most: int) -> None:
        self._store = store
        self._run_id = run_id
        self._most = most
        self._number = 1
        self._claimed = False
        self._uncertain = False
        self._written = b""

    def append(self, lines: list[bytes]) -> Iterator[int]:
        """Write lines; gives how many each put wrote, as soon as they are safe."""
        while lines:
            some = self._fitting(lines)
            if self._written and not some:
                self._number, self._claimed, self._written = self._number + 1, False, b""
                continue
            some = max(some, 1)
            data = b"".join((self._written, *lines[:some]))
            self._put(data)
            self._written = data
            yield some
            lines = lines[some:]

    def _fitting(self, lines: list[bytes]) -> int:
        """How many lines the segment takes without growing too long."""
        size = len(self._written)
        for count, line in enumerate(lines):
            size += len(line)
            if size > self._most:
                return count
        return len(lines)

    def _put(self, data: bytes) -> None:
        if self._claimed:
            self._store.put(segment_path(self._run_id, self._number), data)
            return
        while not self._claim(data):  # an earlier try of the run has this number
            self._number += 1

    def _claim(self, data: bytes) -> bool:
        """Write the beginning of a segment, unless another journal has its number; says whether it was written."""
        path = segment_path(self._run_id, self._number)
        uncertain, self._uncertain = self._uncertain, True
        self._claimed = self._store.create(path, data)
        # A create that failed may have written nevertheless, and then what it wrote is the beginning of this.
        if not self._claimed and uncertain and data.startswith(self._store.get(path) or b"-"):
            self._store.put(path, data)
            self._claimed = True
        self._uncertain = False
        return self._claimed


@dataclass(frozen=True)
class JournalFile:
    """A run's journal as it is stored.

    Attributes:
        run_id: the run.
        segments: paths of its segments, in order.
        bytes: of all segments.
        modified: when it was written last, by the store's clock.
    """

    run_id: str
    segments: tuple[str, ...]
    bytes: int
    modified: datetime


def list_journals(store: Store) -> list[JournalFile]:
    """The journals below an export's folder, the newest one first."""
    found: dict[str, list[tuple[int, str, int, datetime]]] = {}
    for stored in store.list(FOLDER):
        match = _NAME.fullmatch(stored.path.removeprefix(f"{FOLDER}/"))
        if match:
            segment = (int(match["number"] or 1), stored.path, stored.size, stored.modified)
            found.setdefault(match["run"], []).append(segment)
    journals = [
        JournalFile(
            _ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), run),
            tuple(path for _, path, _, _ in sorted(segments)),
            sum(size for _, _, size, _ in segments),
            max(modified for _, _, _, modified in segments),
        )
        for run, segments in found.items()
    ]
    return sorted(journals, key=lambda journal: (journal.modified, journal.run_id), reverse=True)


def read_journal(store: Store, run_id: str | None = None) -> list[JournalEntry]:
    """The entries of a run's journal, in order; of the newest run where none is named.

    A run whose step was tried again has an entry `run` a try, and `t` begins anew with each.

    Raises:
        StoreError: RIVET_JOURNAL_MISSING.
        IntegrityError: RIVET_DOCUMENT_INVALID.
    """
    journals = [journal for journal in list_journals(store) if run_id is None or journal.run_id == run_id]
    if not journals:
        run = "" if run_id is None else f" of run {run_id}"
        raise StoreError(
            "RIVET_JOURNAL_MISSING",
            f"{store.uri} has no journal{run}.",
            f"Check the address and the run; journals of the newest {KEPT_RUNS} runs are kept, and those of a day.",
        )
    entries: list[JournalEntry] = []
    for path in journals[0].segments:
        data = store.get(path)
        if data is not None:  # else it was rotated away a moment ago
            entries.extend(parse_lines(data, store.url(path)))
    return entries


def rotate(
    store: Store,
    *,
    keep: int = KEPT_RUNS,
    kept_for: timedelta = KEPT_FOR,
    now: datetime | None = None,
    but: str | None = None,
) -> list[str]:
    """Delete the journals beyond those of the newest runs, unless they were written a short while ago.

    Args:
        store: the export's folder.
        keep: how many runs keep theirs.
        kept_for: no younger one is deleted.
        now: the present; None for the clock's.
        but: a run that is under way, whose journal stays.

    Returns:
        Runs whose journals were deleted, the newest one first.
    """
    since = (now or _utc_now()) - kept_for
    gone = [each for each in list_journals(store)[keep:] if each.modified < since and each.run_id != but]
    for journal in gone:
        for path in reversed(journal.segments):  # a first segment shows that there is a journal
            store.delete(path)
    return [journal.run_id for journal in gone]


def _utc_now() -> datetime:
    return datetime.now(timezone.utc)


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")
