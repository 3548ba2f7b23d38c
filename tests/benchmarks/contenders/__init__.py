"""Every contender, in the order of the tables. Libraries are imported by `load`, never with these modules."""

from __future__ import annotations

from tests.benchmarks.contender import Contender
from tests.benchmarks.contenders import dlt_pipeline, drains, libraries, ours, rivet_cli

CONTENDERS: dict[str, Contender] = {
    contender.name: contender
    for contender in (
        *ours.CONTENDERS,
        *libraries.CONTENDERS,
        *dlt_pipeline.CONTENDERS,
        *rivet_cli.CONTENDERS,
        *drains.CONTENDERS,
    )
}
