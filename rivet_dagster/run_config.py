"""What may be said of a single run, from the launchpad, a schedule or a sensor."""

import dagster as dg
from pydantic import Field


class RivetRunConfig(dg.Config):
    """Configuration of a run of a table asset.

    Attributes:
        workers: connections that read windows at the same time; None for the resource's.
        fresh: read every window of the run, also those that an earlier try of the same work committed already.
        replan: of slices of time, begin a new generation, as after a change of the table's columns.

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
    replan: bool = Field(
        default=False,
        description="Slices of time only: begin a new generation beside the one that is sealed, as after a change of "
        "the table's columns. Other windows are planned anew by their plan asset.",
    )


class RivetPlanConfig(dg.Config):
    """Configuration of a run of a plan asset.

    Attributes:
        replan: begin a new generation instead of appending windows.

    Example:
        .. code-block:: python

            dg.RunConfig(ops={"rivet__public__orders__plan": RivetPlanConfig(replan=True)})
    """

    replan: bool = Field(
        default=False,
        description="Begin a new generation of windows, beside the one that is sealed, as after a change of the "
        "table's columns or of its windows. Its windows take the place of the old ones among the partitions; readers "
        "see the old rows until the new generation is sealed.",
    )
