"""Which windows should be read again: those without a commit, those whose parts are gone, those that drifted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

from rivet_dagster.export.commit import load_window, stored_fingerprint
from rivet_dagster.export.config import CursorWindows
from rivet_dagster.export.documents import WindowManifest
from rivet_dagster.export.names import data_folder, window_folder, window_stem
from rivet_dagster.export.plan import Plan, Window
from rivet_dagster.sources.base import Key, Session, Table
from rivet_dagster.sources.scales import moment_of
from rivet_dagster.stores.base import Store

_SUFFIX = ".json"


@dataclass(frozen=True)
class Ailing:
    """A window that should be read again.

    Attributes:
        window: which.
        reason: why, for people.
        read_at: when it was last read, as its manifest says.
    """

    window: Window
    reason: str
    read_at: str


def uncommitted(store: Store, plan: Plan, windows: Sequence[Window]) -> list[Window]:
    """The windows that no manifest commits: one listing, no manifest is read."""
    stems = {
        stored.path.rpartition("/")[2].removesuffix(_SUFFIX) for stored in store.list(window_folder(plan.generation))
    }
    return [window for window in windows if window_stem(window.key) not in stems]


def committed(store: Store, plan: Plan, windows: Iterable[Window]) -> Iterator[tuple[Window, WindowManifest]]:
    """The windows that are committed, with their manifests."""
    for window in windows:
        manifest = load_window(store, plan.generation, window.key)
        if manifest is not None:
            yield window, manifest


def without_parts(store: Store, plan: Plan, windows: Iterable[Window]) -> Iterator[Ailing]:
    """Committed windows of which a part is missing, or has another size: one listing for all."""
    sizes = {stored.path: stored.size for stored in store.list(data_folder(plan.generation))}
    for window, manifest in committed(store, plan, windows):
        lost = [part.path for part in manifest.parts if sizes.get(part.path) != part.bytes]
        if lost:
            yield Ailing(window, f"{lost[0]} is missing or has another size", manifest.read_at)


def damaged(store: Store, plan: Plan, windows: Iterable[Window]) -> Iterator[Ailing]:
    """Committed windows of which a part has other bytes than were committed: every byte of them is read."""
    for window, manifest in committed(store, plan, windows):
        for part in manifest.parts:
            if store.size(part.path) == part.bytes and stored_fingerprint(store, part.path) != part.content_fingerprint:
                yield Ailing(window, f"{part.path} has other bytes than were committed", manifest.read_at)
                break


def not_read_since(
    store: Store, plan: Plan, windows: Iterable[Window], moment: datetime, reason: str
) -> Iterator[Ailing]:
    """Windows that have no commit, or one of before this moment."""
    for window in windows:
        manifest = load_window(store, plan.generation, window.key)
        if manifest is None or datetime.fromisoformat(manifest.read_at) < moment:
            yield Ailing(window, reason, manifest.read_at if manifest else "")


def drifted(
    session: Session, table: Table, key: Key, store: Store, plan: Plan, windows: Iterable[Window]
) -> Iterator[Ailing]:
    """Committed windows that have another number of rows in the source now. No more rows are counted than decide it."""
    for window, manifest in committed(store, plan, windows):
        if not key.columns:
            return  # a whole table would have to be counted
        found = session.count(table, key, window.span, manifest.rows + 1)
        if found != manifest.rows:
            more = f"more than {manifest.rows}" if found > manifest.rows else str(found)
            yield Ailing(window, f"it has {more} rows in the source, and {manifest.rows} exported", manifest.read_at)


def round_robin(windows: Sequence[Window], position: int, most: int) -> tuple[list[Window], int]:
    """The next few windows of a round that never ends, and where it goes on."""
    if not windows or most < 1:
        return [], position
    start = position % len(windows)
    chosen = (*windows[start:], *windows[:start])[:most]
    return list(chosen), (start + len(chosen)) % len(windows)


def awaiting_late_rows(store: Store, plan: Plan, options: CursorWindows) -> list[Window]:
    """Committed windows of a cursor export that rows may still come to, in the plan's order.

    Of integers those that end within the lookback of the frontier. Of times those that were read before the lookback
    behind their end was over.
    """
    frontier = plan.frontier
    if not options.lookback or frontier is None:
        return []
    column = next(each for each in plan.head.columns if each.name == options.column)
    bounded = [window for window in plan.windows if window.span.hi]
    try:
        if not column.type.startswith(("date", "timestamp")):
            least = int(frontier[0]) - options.lookback
            recent = [window for window in bounded if int((window.span.hi or ("0",))[0]) >= least]
            # Integers do not tell when rows stop coming.
            return [window for window, _ in committed(store, plan, recent)]
        zone = timezone.utc if column.type.endswith("UTC)") else ZoneInfo(options.timezone)
        return _unsettled(store, plan, bounded, column.type, zone, timedelta(seconds=options.lookback))
    except (ValueError, OverflowError):  # infinity, and times before our era
        return []


def _unsettled(
    store: Store, plan: Plan, windows: Sequence[Window], column_type: str, zone: tzinfo, late: timedelta
) -> list[Window]:
    """Windows that were read too early to have every row, by their own manifests, the newest first."""
    # Rows of a date come until the day is over.
    late += timedelta(days=column_type == "date")
    frontier = _end(windows[-1], zone)
    found = []
    for window, manifest in committed(store, plan, reversed(windows)):
        end = _end(window, zone)
        if datetime.fromisoformat(manifest.read_at) < end + late:
            found.append(window)
        elif end < frontier - late:
            # Windows before this one ended earlier and were read again together with it, if they had to be.
            break
    return found[::-1]


def _end(window: Window, zone: tzinfo) -> datetime:
    assert window.span.hi
    return moment_of(window.span.hi[0]).replace(tzinfo=zone)
