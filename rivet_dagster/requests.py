"""What sensors ask Dagster for: runs over ranges of a table asset's windows."""

import hashlib
from collections.abc import Iterator, Sequence

import dagster as dg

from rivet_dagster.export.plan import Window

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"
REASON_TAG = "rivet/reason"
TABLE_TAG = "rivet/table"

# By their names: not every version has all of them.
UNFINISHED = tuple(
    status for status in dg.DagsterRunStatus if status.value not in ("SUCCESS", "FAILURE", "CANCELED", "MANAGED")
)


def is_being_read(instance: dg.DagsterInstance, table: dg.AssetKey) -> bool:
    """Whether a run that a sensor asked for is still under way."""
    under_way = dg.RunsFilter(tags={TABLE_TAG: table.to_user_string()}, statuses=list(UNFINISHED))
    return instance.get_runs_count(under_way) > 0


def ranges(order: Sequence[str], wanted: Sequence[str], most: int) -> Iterator[list[str]]:
    """Wanted keys in runs of keys that follow one another in Dagster's order, each of at most `most`."""
    chosen = set(wanted)
    found: list[str] = []
    for key in order:
        if key in chosen:
            found.append(key)
        if found and (key not in chosen or len(found) == most):
            yield found
            found = []
    if found:
        yield found


def run_requests(
    table: dg.AssetKey, order: Sequence[str], wanted: Sequence[Window], most: int, occasion: str, reason: str
) -> list[dg.RunRequest]:
    """A run for every range of the wanted windows.

    Args:
        table: the table asset.
        order: all of its partitions, in Dagster's order.
        wanted: windows to read.
        most: windows a run.
        occasion: what makes the same windows worth another run; equal occasions are served once.
        reason: why, for people: a tag of the runs.
    """
    found = []
    for keys in ranges(order, [window.key for window in wanted], most):
        words = "\n".join((table.to_user_string(), occasion, *keys))
        found.append(
            dg.RunRequest(
                run_key=f"{table.to_user_string()}:{hashlib.sha256(words.encode()).hexdigest()[:24]}",
                asset_selection=[table],
                tags={
                    RANGE_START: keys[0],
                    RANGE_END: keys[-1],
                    REASON_TAG: reason,
                    TABLE_TAG: table.to_user_string(),
                },
            )
        )
    return found
