"""The seams of Dagster that its public interface does not promise. Each has a canary test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import dagster as dg

# Tags that mark a run as another try of an earlier one, and not as new work.
RETRY_TAGS = ("dagster/is_resume_retry", "dagster/is_asset_resume_retry", "dagster/retry_number")


# Tags of a materialization that tell which upstream data it was made from. Without them Dagster shows every window
# as out of step with its plan.
_INPUT_DATA_VERSION = "dagster/input_data_version"
_INPUT_EVENT_POINTER = "dagster/input_event_pointer"

_BACKFILL = "dagster/backfill"
_ROOT_BACKFILL = "dagster/root_backfill_id"
_AUTOMATED = "dagster/from_automation_condition"


def provenance_tags(upstream: dg.AssetKey, data_version: str) -> dict[str, str]:
    """Tags that say: made from this version of `upstream`, whichever of its events brought it."""
    key = upstream.to_user_string()
    return {f"{_INPUT_DATA_VERSION}/{key}": data_version, f"{_INPUT_EVENT_POINTER}/{key}": "NULL"}


def work_id_of(context: dg.AssetExecutionContext) -> str:
    """What the tries of one piece of work share: the run's id, or for a retry that of the first run.

    A run that was launched anew, also by re-executing all of an old one, is new work and reads every window.
    """
    run = context.run
    if run.root_run_id and any(tag in run.tags for tag in RETRY_TAGS):
        return str(run.root_run_id)
    return str(run.run_id)


def replan_id_of(context: dg.AssetExecutionContext) -> str:
    """What the runs that share one wish for a new generation have in common.

    Their backfill, or the one that it re-executes; of a run that is another try of an earlier one, the same of that.
    """
    run = context.run
    if run.root_run_id and any(tag in run.tags for tag in RETRY_TAGS):
        run = context.instance.get_run_by_id(run.root_run_id) or run
    return str(run.tags.get(_ROOT_BACKFILL) or run.tags.get(_BACKFILL) or work_id_of(context))


def delete_partitions(instance: dg.DagsterInstance, name: str, keys: Sequence[str]) -> None:
    """Take keys out of a set of dynamic partitions at once; Dagster's own call takes one, a statement each."""
    # Imported late: SQLAlchemy and the storage are there only where there is an instance.
    from dagster._core.storage.event_log.schema import DynamicPartitionsTable  # noqa: PLC0415
    from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage  # noqa: PLC0415

    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        for key in keys:
            instance.delete_dynamic_partition(name, key)
        return
    table = DynamicPartitionsTable
    chosen = (table.c.partitions_def_name == name) & table.c.partition.in_(list(keys))
    with storage.index_connection() as connection:
        connection.execute(table.delete().where(chosen))


def is_automated(context: dg.AssetExecutionContext) -> bool:
    """Whether an automation condition asked for the run, and nobody in person."""
    return _AUTOMATED in context.run.tags


def latest_evaluation(instance: dg.DagsterInstance, asset: dg.AssetKey, check: str) -> dg.AssetCheckEvaluation | None:
    """What a check said when it last said something; None if it never did.

    Dagster's own call gives its last run, which may be under way, or have ended without a word.
    """
    from dagster import AssetCheckKey  # noqa: PLC0415
    from dagster._core.storage.asset_check_execution_record import (  # noqa: PLC0415
        COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES as COMPLETED,
    )

    storage = instance.event_log_storage
    records = storage.get_asset_check_execution_history(AssetCheckKey(asset, check), limit=1, status=COMPLETED)
    return records[0].evaluation if records else None


def awaited_partitions(instance: dg.DagsterInstance, asset: dg.AssetKey) -> set[str]:
    """Partitions that a run was to materialize and has not since: it runs still, failed there, or was terminated."""
    from dagster import DagsterEventType  # noqa: PLC0415

    planned = instance.get_latest_storage_id_by_partition(asset, DagsterEventType.ASSET_MATERIALIZATION_PLANNED)
    made = instance.get_latest_storage_id_by_partition(asset, DagsterEventType.ASSET_MATERIALIZATION)
    return {partition for partition, event in planned.items() if event > made.get(partition, 0)}
