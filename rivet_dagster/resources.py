"""The resource that wraps a source database and a destination."""

import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import dagster as dg
from pydantic import Field, field_validator

from rivet_dagster._compat import awaited_partitions, is_automated, provenance_tags, replan_id_of, work_id_of
from rivet_dagster._interrupts import uninterrupted
from rivet_dagster.errors import ConfigError, InterruptedExport, RivetError
from rivet_dagster.export.config import ExportConfig, TimeWindows
from rivet_dagster.export.faults import fault_point
from rivet_dagster.export.governing import parse_governor
from rivet_dagster.export.journal import read_journal
from rivet_dagster.export.names import generation_of
from rivet_dagster.export.operations import TableExport
from rivet_dagster.export.plan import USUAL_LIMIT, Plan, Window
from rivet_dagster.export.planning import Wish
from rivet_dagster.export.seal import named
from rivet_dagster.export.workers import WindowOutcome
from rivet_dagster.metadata import (
    CODE_VERSION,
    DATA_VERSION,
    IS_USER_PROVIDED,
    journal_metadata,
    plan_metadata,
    seal_metadata,
    window_event,
)
from rivet_dagster.partitions import publish_windows, slices_of
from rivet_dagster.run_config import RivetPlanConfig, RivetRunConfig
from rivet_dagster.translator import ExportKeys, running_export

# In most failures the first few errors say it all; the others are in the windows' own log lines.
_ERRORS_SHOWN = 5


_PASSWORD = re.compile(r"://[^/@]*:[^@]*@|[?&]password=", re.IGNORECASE)


@dataclass(frozen=True)
class ExportedWindows:
    """What a run committed.

    Attributes:
        windows: how many.
        reused: how many of them an earlier try of the same work had committed.
        rows: rows of all of them.
        bytes: size of their parts.
    """

    windows: int = 0
    reused: int = 0
    rows: int = 0
    bytes: int = 0

    def plus(self, outcome: WindowOutcome) -> "ExportedWindows":
        """With one more window."""
        assert outcome.manifest is not None
        return ExportedWindows(
            self.windows + 1,
            self.reused + outcome.reused,
            self.rows + outcome.manifest.rows,
            self.bytes + sum(part.bytes for part in outcome.manifest.parts),
        )


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
    engine: Literal["threads", "processes"] = Field(
        default="threads",
        description="Whether workers are threads of the run's process, or processes of their own, which die alone.",
    )
    governor: Any = Field(
        default=None,
        description="How the source is taken care of: a GovernorConfig, or a mapping of its fields. Load, replicas and "
        "connections are looked at by default.",
    )
    spool_dir: str | None = Field(
        default=None,
        description="Local folder for parts that are being written; the temporary folder by default.",
    )

    @field_validator("governor", mode="before")
    @classmethod
    def _plain(cls, value: Any) -> dict[str, Any]:
        """As Dagster stores it: plain values, of those fields alone that were given."""
        return parse_governor(value).model_dump(mode="json", exclude_unset=True)

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
        return TableExport(config, self.source, self.destination, self.spool_dir, parse_governor(self.governor))

    def plan(
        self,
        context: dg.AssetExecutionContext,
        config: ExportConfig,
        keys: ExportKeys,
        wish: RivetPlanConfig | None = None,
    ) -> dg.MaterializeResult[None]:
        """Extend the plan of a table, or begin a new one, and make its windows partitions of the table asset."""
        replan = replan_id_of(context) if wish is not None and wish.replan else None
        with explained():
            export = self.open(config)
            plan, appended = export.plan(Wish(replan))
        came, went = publish_windows(context.instance, keys.table, plan)
        context.log.info(
            f"{len(plan.windows)} windows of generation {plan.generation}, {appended} new in the plan; as partitions "
            f"{came} came and {went} went"
        )
        if len(plan.windows) > USUAL_LIMIT:
            context.log.warning(
                f"{len(plan.windows)} windows make Dagster's pages slow: ask for more rows a window, and replan"
            )
        if not plan.windows:
            self._seal_empty(context, export, plan, keys)
        return dg.MaterializeResult(
            metadata=plan_metadata(export.store, plan, appended, str(export.server)),
            data_version=dg.DataVersion(plan.fingerprint),
        )

    def _seal_empty(self, context: dg.AssetExecutionContext, export: TableExport, plan: Plan, keys: ExportKeys) -> None:
        """An empty table has no window whose event could have it sealed."""
        with explained():
            seal = export.seal(plan)
        context.log_event(
            dg.AssetMaterialization(
                keys.complete,
                metadata=seal_metadata(export.store, seal),
                tags={DATA_VERSION: seal.row_fingerprint, IS_USER_PROVIDED: "true"},
            )
        )

    def export(
        self, context: dg.AssetExecutionContext, run_config: RivetRunConfig | None = None
    ) -> Generator[Any, None, ExportedWindows]:
        """Export the run's partitions, each reported the moment it is committed.

        A generator that never yields: an output would make Dagster add a blank event for every partition.

        Args:
            context: of an asset with the spec of a table asset, which says what is exported.
            run_config: what is asked of this run alone.

        Returns:
            What was committed, to whoever writes `exported = yield from rivet.export(context)`.

        Raises:
            dagster.Failure: windows failed; the others are committed and reported.
        """
        config, table, plan_key = running_export(context)
        options = run_config or RivetRunConfig()
        with explained():
            export = self.open(config)
            plan, windows = self._windows(context, export, options)
        work_id = context.run.run_id if options.fresh else work_id_of(context)
        report = _Reporter(context, table, plan_key, export, plan)
        workers = options.workers or self.workers
        with explained(), export.run(plan, windows, work_id, workers, self.engine, context.run.run_id) as run:
            try:
                for outcome in run:
                    report(outcome)
            finally:
                # Also when the run is being terminated: what was committed meanwhile is reported.
                for outcome in run.stop():
                    report(outcome)
        _observe_run(context, table.key, export)
        if report.failed:
            raise _failure(report.failed, len(windows))
        yield from ()
        return report.exported

    def _windows(
        self, context: dg.AssetExecutionContext, export: TableExport, options: RivetRunConfig
    ) -> tuple[Plan, Sequence[Window]]:
        """The windows that a run is for, and their plan."""
        keys, windows = context.partition_keys, export.config.windows
        if isinstance(windows, TimeWindows):
            # There is no plan asset: the first run freezes the columns.
            plan, _ = export.plan(Wish(replan_id_of(context) if options.replan else None))
            return plan, slices_of(plan, windows, keys)
        if options.replan:
            raise ConfigError(
                "RIVET_CONFIG_REPLAN",
                f"Windows of type {windows.type} are planned by their plan asset.",
                "Run the plan asset with replan in its configuration, then the partitions that it makes.",
                fatal=True,
            )
        plan = export.planned(generation_of(keys[0]))
        return plan, plan.select(keys)

    def complete(
        self, context: dg.AssetExecutionContext, config: ExportConfig, keys: ExportKeys
    ) -> Iterator[dg.MaterializeResult[None]]:
        """Verify every window of a table and write the seal.

        A run that Dagster's automation has asked for seals nothing, and gives nothing, while a window is requested
        that was not read since, as after a re-export that was terminated half-way. A run that somebody launches does.
        """
        with explained():
            export = self.open(config)
            plan = export.planned()
            windows = config.windows
            slices = slices_of(plan, windows) if isinstance(windows, TimeWindows) else []
        expected = {window.key for window in plan.windows or slices}
        awaited = sorted(expected & awaited_partitions(context.instance, keys.table))
        if awaited and is_automated(context):
            context.log.warning(
                f"Not sealed: {len(awaited)} windows were requested and not read since: {named(awaited)}. Export them "
                "(re-execute their run from failure), or launch this asset to seal what is there."
            )
            return
        with explained():
            seal = export.seal(plan, slices)
        context.log.info(f"Sealed {seal.rows} rows in {len(seal.windows)} windows as {seal.seal_id}")
        yield dg.MaterializeResult(
            metadata=seal_metadata(export.store, seal), data_version=dg.DataVersion(seal.row_fingerprint)
        )


class _Reporter:
    """Tells Dagster of each window's outcome, the moment it is known."""

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        table: dg.AssetSpec,
        plan_key: dg.AssetKey | None,
        export: TableExport,
        plan: Plan,
    ) -> None:
        self.failed: list[WindowOutcome] = []
        self.exported = ExportedWindows()
        self._reported: set[str] = set()
        self._context = context
        self._key = table.key
        self._store = export.store
        self._tags = provenance_tags(plan_key, plan.fingerprint) if plan_key else {}
        if table.code_version:
            self._tags[CODE_VERSION] = table.code_version

    def __call__(self, outcome: WindowOutcome) -> None:
        """Log a materialization for a committed window, or remember one that failed."""
        key = outcome.window.key
        if key in self._reported:
            return
        if isinstance(outcome.error, InterruptedExport):
            self._context.log.info(f"Window {key} was dropped, because the run is being stopped")
            return
        if outcome.error is not None:
            self.failed.append(outcome)
            self._reported.add(key)
            self._context.log.error(f"Window {key} failed. {outcome.error}")
            return
        fault_point("before_event", key)
        # Interrupted in here, a committed window would not be reported, or twice.
        with uninterrupted():
            self._context.log_event(window_event(self._key, self._store, outcome, self._tags))
            self._reported.add(key)
        self.exported = self.exported.plus(outcome)
        fault_point("after_event", key)


def _observe_run(context: dg.AssetExecutionContext, key: dg.AssetKey, export: TableExport) -> None:
    """Tell Dagster what the run's journal comes to. A journal that cannot be read fails no run."""
    try:
        metadata = journal_metadata(export.store, read_journal(export.store, export.run_id))
    except RivetError as exc:
        context.log.warning(f"The run's journal cannot be shown. {exc}")
        return
    with uninterrupted():
        context.log_event(dg.AssetObservation(key, metadata=metadata))


@contextmanager
def explained() -> Iterator[None]:
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
