"""The seams of Dagster that its public interface does not promise. Each has a canary test."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import dagster as dg

# Tags that mark a run as another try of an earlier one, and not as new work.
RETRY_TAGS = ("dagster/is_resume_retry", "dagster/is_asset_resume_retry", "dagster/retry_number")


def work_id_of(context: dg.AssetExecutionContext) -> str:
    """What the tries of one piece of work share: the run's id, or for a retry that of the first run.

    A run that was launched anew, also by re-executing all of an old one, is new work and reads every window.
    """
    run = context.run
    if run.root_run_id and any(tag in run.tags for tag in RETRY_TAGS):
        return str(run.root_run_id)
    return str(run.run_id)
