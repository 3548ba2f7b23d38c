"""What may be said of a single run, from the launchpad, a schedule or a sensor."""

import dagster as dg
from pydantic import Field


class RivetRunConfig(dg.Config):
    """Configuration of a run of a table asset.

    Attributes:
        workers: connections that read windows at the same time; None for the resource's.
        fresh: read every window of the run, also those that an earlier try of the same work committed already.

    Example:
        .. code-block:: python

            dg.RunConfig(ops={"rivet__public__orders": RivetRunConfig(workers=8)})
    """

    workers: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="Connections that read windows at the same time in this run. The resource's number if left out.",
    )
    fresh: bool = Field(
        default=False,
        description="Read every window of this run from the source. Otherwise a retry, or a re-execution from "
        "failure, only reports what an earlier try committed. A run that is launched anew reads all in any case.",
    )
