"""The resource that wraps a source database and a destination."""

import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
from pydantic import Field

from rivet_dagster._compat import provenance_tags, work_id_of
from rivet_dagster.errors import ConfigError, InterruptedExport, RivetError
from rivet_dagster.export.config import ExportConfig
from rivet_dagster.export.faults import fault_point
from rivet_dagster.export.operations import TableExport
from rivet_dagster.export.plan import Plan
from rivet_dagster.export.runner import WindowOutcome
from rivet_dagster.export.seal import named
from rivet_dagster.metadata import CODE_VERSION, plan_metadata, seal_metadata, window_event
from rivet_dagster.partitions import publish_windows
from rivet_dagster.translator import ExportKeys

# In most failures the first few errors say it all; the others are in the windows' own log lines.
_ERRORS_SHOWN = 5


_PASSWORD = re.compile(r"://[^/@]*:[^@]*@|[?&]password=", re.IGNORECASE)


class RivetResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """A source database and the place that its tables are exported to.

    Nothing is connected when definitions load, and nothing is kept between runs: plans, manifests and seals are in
    the destination.

    Example:
        .. code-block:: python

            RivetResource(source=dg.EnvVar("PG_DSN"), destination="/data/lake", workers=2)
    """

    source: str = Field(
        description="Address of the database, postgresql://user:password@host/database. Give it as an EnvVar: "
        "an address with a password in it is refused."
    )
    destination: str = Field(description="Folder or address below which every table gets a folder.")
    workers: int = Field(default=2, ge=1, le=64, description="Connections that read windows at the same time.")
    spool_dir: str | None = Field(
        default=None,
        description="Local folder for parts that are being written; the temporary folder by default.",
    )

    def get_resource_definition(self) -> Any:
        """The resource as Dagster binds it; refuses an address with a password in it.

        Raises:
            ConfigError: RIVET_CONFIG_SECRET. Dagster stores and shows literal values of a resource.
        """
        # An EnvVar is a str too, but one that refuses to be read here.
        if not isinstance(self.source, dg.EnvVar) and _PASSWORD.search(self.source):
            raise ConfigError(
                "RIVET_CONFIG_SECRET",
                "The address of the source holds a password, which Dagster would store and show.",
                "Put the address into an environment variable and give its name: source=dg.EnvVar(...).",
            )
        return super().get_resource_definition()

    def open(self, config: ExportConfig) -> TableExport:
        """The export of one table, for code that calls plan, run and seal itself."""
        return TableExport(config, self.source, self.destination, self.spool_dir)

    def plan(
        self, context: dg.AssetExecutionContext, config: ExportConfig, keys: ExportKeys
    ) -> dg.MaterializeResult[None]:
        """Extend the plan of a table and make its windows partitions of the table asset."""
        with _explained():
            export = self.open(config)
            plan, appended = export.plan()
        published = publish_windows(context.instance, keys.table, plan)
        context.log.info(f"{len(plan.windows)} windows, {appended} new in the plan, {published} new as partitions")
        return dg.MaterializeResult(
            metadata=plan_metadata(export.store, plan, appended, str(export.server)),
            data_version=dg.DataVersion(plan.fingerprint),
        )

    def export(
        self, context: dg.AssetExecutionContext, config: ExportConfig, keys: ExportKeys
    ) -> Generator[Any, None, None]:
        """Export the run's partitions, each reported the moment it is committed.

        A generator that never yields: an output would make Dagster add a blank event for every partition.

        Raises:
            dagster.Failure: windows failed; the others are committed and reported.
        """
        with _explained():
            export = self.open(config)
            plan = export.planned()
            windows = plan.select(context.partition_keys)
        failed: list[WindowOutcome] = []
        report = _Reporter(context, keys, export, plan, failed)
        with _explained(), export.run(plan, windows, work_id_of(context), self.workers) as run:
            try:
                for outcome in run:
                    report(outcome)
            finally:
                # Also when the run is being terminated: what was committed meanwhile is reported.
                for outcome in run.stop():
                    report(outcome)
        if failed:
            raise _failure(failed, len(windows))
        yield from ()

    def complete(self, context: dg.AssetExecutionContext, config: ExportConfig) -> dg.MaterializeResult[None]:
        """Verify every window of a table and write the seal."""
        with _explained():
            export = self.open(config)
            seal = export.seal(export.planned())
        context.log.info(f"Sealed {seal.rows} rows in {len(seal.windows)} windows as {seal.seal_id}")
        return dg.MaterializeResult(
            metadata=seal_metadata(export.store, seal), data_version=dg.DataVersion(seal.row_fingerprint)
        )


class _Reporter:
    """Tells Dagster of each window's outcome, the moment it is known."""

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        keys: ExportKeys,
        export: TableExport,
        plan: Plan,
        failed: list[WindowOutcome],
    ) -> None:
        self._context = context
        self._key = keys.table
        self._store = export.store
        self._failed = failed
        self._tags = provenance_tags(keys.plan, plan.fingerprint)
        code_version = context.assets_def.specs_by_key[keys.table].code_version
        if code_version:
            self._tags[CODE_VERSION] = code_version

    def __call__(self, outcome: WindowOutcome) -> None:
        """Log a materialization for a committed window, or remember one that failed."""
        key = outcome.window.key
        if isinstance(outcome.error, InterruptedExport):
            self._context.log.info(f"Window {key} was dropped, because the run is being stopped")
            return
        if outcome.error is not None:
            self._failed.append(outcome)
            self._context.log.error(f"Window {key} failed. {outcome.error}")
            return
        fault_point("before_event", key)
        self._context.log_event(window_event(self._key, self._store, outcome, self._tags))
        fault_point("after_event", key)


@contextmanager
def _explained() -> Iterator[None]:
    """Fail the step with a typed error's code and advice where Dagster's UI shows them."""
    try:
        yield
    except RivetError as exc:
        raise dg.Failure(
            description=str(exc),
            metadata={"rivet/code": exc.code, "rivet/advice": exc.advice},
            allow_retries=exc.retryable,
        ) from exc


def _failure(failed: list[WindowOutcome], windows: int) -> dg.Failure:
    keys = sorted(outcome.window.key for outcome in failed)
    reasons = list(dict.fromkeys(str(outcome.error) for outcome in failed))
    return dg.Failure(
        description=f"{len(failed)} of {windows} windows failed: {named(keys)}. {' '.join(reasons[:_ERRORS_SHOWN])}",
        metadata={
            "rivet/failed_windows": dg.MetadataValue.json(keys),
            "rivet/errors": dg.MetadataValue.json(reasons[:_ERRORS_SHOWN]),
        },
        # The engine has tried each window already; a retry of the step would only repeat the same list.
        allow_retries=False,
    )
