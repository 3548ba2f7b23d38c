"""One table's export as a whole: plan, export, seal. Dagster's assets and the command line call the same things."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Literal, TypeVar

from rivet_dagster._memory import import_arrow
from rivet_dagster.errors import DriftError, PlanError, SourceError, StoreError
from rivet_dagster.export.config import ExportConfig, TimeWindows
from rivet_dagster.export.documents import ExportManifest, WorkMarker
from rivet_dagster.export.faults import fault_point
from rivet_dagster.export.governing import GovernorConfig
from rivet_dagster.export.governor import Governor
from rivet_dagster.export.journal import Journal
from rivet_dagster.export.journal_entries import PlanEntry, RunEntry
from rivet_dagster.export.memory import MemoryGate, usual_limit
from rivet_dagster.export.names import WORK, table_folder
from rivet_dagster.export.plan import Plan, Window, check_drift, load_plan
from rivet_dagster.export.planning import EXTEND, Wish, current_plan, describe, extend_plan, planned_key, preview_plan
from rivet_dagster.export.recording import Recorder
from rivet_dagster.export.retry import with_session
from rivet_dagster.export.runner import WindowRun
from rivet_dagster.export.schema import planned_columns
from rivet_dagster.export.seal import seal_export
from rivet_dagster.export.spool import spool_folder
from rivet_dagster.export.upkeep import Ailing, drifted
from rivet_dagster.export.warm import warm_kernels
from rivet_dagster.export.window import ExportJob
from rivet_dagster.export.workers import MakeWorker, SessionWorker
from rivet_dagster.sources import SourceLimits, open_source
from rivet_dagster.sources.base import Key, KeyRange, ServerFacts, Session, Source, Table
from rivet_dagster.stores import Store, open_store

T = TypeVar("T")

Engine = Literal["threads", "processes"]

# A page aims at `page_bytes`. One that would come to so many times as much is given up.
_LARGEST_PAGE = 4


class TableExport:
    """One table, from one source to one destination.

    Args:
        config: the table and how it is exported.
        source: address of the database, with its password.
        destination: address below which the export's folder is.
        spool_dir: local folder for growing parts; None for RIVET_SPOOL_DIR or the system's temporary folder.
        governor: how the source is taken care of; None for the usual way.

    Attributes:
        server: what the source's server is, once `plan` has asked it.
        run_id: name of the last run's journal; empty before the first.

    Raises:
        ConfigError: an address that cannot be used.
    """

    def __init__(
        self,
        config: ExportConfig,
        source: str,
        destination: str,
        spool_dir: str | None = None,
        governor: GovernorConfig | None = None,
    ) -> None:
        import_arrow()
        self.config = config
        self.governor = governor or GovernorConfig()
        limits = config.limits
        self._address = source
        self._limits = SourceLimits(
            statement_timeout_s=limits.statement_timeout_s,
            lock_timeout_s=limits.lock_timeout_s,
            idle_in_transaction_timeout_s=limits.idle_in_transaction_timeout_s,
            snapshot_s=limits.snapshot_s,
            max_value_bytes=limits.max_value_bytes,
            page_bytes=_LARGEST_PAGE * limits.page_bytes,
            slots=self.governor.slots,
        )
        self.source: Source = open_source(source, self._limits, config.type_choices)
        self._folder = f"{destination.rstrip('/')}/{table_folder(*config.relation)}"
        self.store: Store = open_store(self._folder)
        self.server: ServerFacts | None = None
        self.run_id = ""
        self._planned: PlanEntry | None = None
        self._spool_dir = spool_dir or os.environ.get("RIVET_SPOOL_DIR")

    def plan(self, wish: Wish = EXTEND) -> tuple[Plan, int]:
        """Plan the rows beyond the frontier; gives the plan and how many windows were appended."""
        began = time.monotonic()
        plan, appended = self._look(lambda session: extend_plan(self.source, session, self.config, self.store, wish))
        seconds = round(time.monotonic() - began, 3)
        self._planned = PlanEntry(
            generation=plan.generation, windows=len(plan.windows), appended=appended, seconds=seconds
        )
        fault_point("after_plan_segment")
        return plan, appended

    def preview(self, wish: Wish = EXTEND) -> tuple[Plan, int]:
        """What `plan` would give, without writing anything."""
        return self._look(lambda session: preview_plan(self.source, session, self.config, self.store, wish))

    def _look(self, action: Callable[[Session], T]) -> T:
        def with_facts(session: Session) -> T:
            self.server = session.facts()
            return action(session)

        return with_session(self.source, self.config.limits, with_facts)

    def planned(self, generation: int | None = None) -> Plan:
        """The plan in the destination: the newest one, or that of a generation.

        Raises:
            PlanError: RIVET_PLAN_MISSING.
        """
        plan = current_plan(self.store) if generation is None else load_plan(self.store, generation)
        if plan is None:
            raise PlanError(
                "RIVET_PLAN_MISSING",
                f"{self.store.uri} holds no plan" + (f" of generation {generation}." if generation else "."),
                "Run the plan asset first.",
                fatal=True,
            )
        return plan

    @contextmanager
    def run(
        self,
        plan: Plan,
        windows: Sequence[Window],
        work_id: str,
        workers: int,
        engine: Engine = "threads",
        run_id: str = "",
    ) -> Iterator[WindowRun]:
        """Export windows for as long as the context lasts; iterate over the run for their outcomes.

        Args:
            plan: the plan.
            windows: of the plan.
            work_id: what several tries of the same work share.
            workers: how many windows are read at the same time.
            engine: whether workers are threads of this process, or processes that die alone.
            run_id: name of the run's journal; empty for a name of its own.

        Raises:
            DriftError: RIVET_SCHEMA_DRIFT, before anything is read.
        """
        workers = max(1, min(workers, len(windows)))
        with self._recording(plan, windows, work_id, workers, engine, run_id) as recorder:
            table, key = with_session(self.source, self.config.limits, lambda session: self._ready(session, plan))
            # Before the first snapshot opens: compiling takes seconds that the source should not wait for. Children
            # find the kernels in the cache.
            warm_kernels(self.source, self.config.format.type)
            memory = self.governor.memory_bytes
            probe = self.source.probe(table, key) if self.governor.enabled else None
            with (
                spool_folder(self._spool_dir) as spool,
                Governor(self.governor, workers, probe, recorder, MemoryGate(memory)) as governor,
            ):
                slot_wait_s = self.governor.slot_wait_s
                job = ExportJob(self.config, table, key, self.store, spool, work_id, memory, slot_wait_s)
                with WindowRun(self._maker(job, engine, workers), windows, workers, governor, recorder) as run:
                    governor.abort = run.abort
                    yield run

    @contextmanager
    def _recording(
        self, plan: Plan, windows: Sequence[Window], work_id: str, workers: int, engine: Engine, run_id: str
    ) -> Iterator[Recorder]:
        """A journal for as long as a run lasts."""
        begun = RunEntry(
            table=self.config.table,
            engine=self.source.engine,
            source=self.source.label,
            work_id=work_id,
            workers=engine,
            workers_min=min(self.governor.min_workers, workers),
            workers_max=workers,
            windows=len(windows),
            page_bytes=self.config.limits.page_bytes,
            profile=self.config.limits.profile,
            governed=self.governor.enabled,
            slots=self.governor.slots,
        )
        planned = self._planned or PlanEntry(generation=plan.generation, windows=len(plan.windows))
        with Journal(self.store, run_id) as journal:
            self.run_id = journal.run_id
            recorder = Recorder(journal, begun, planned)
            try:
                yield recorder
            except BaseException as exc:
                if isinstance(exc, DriftError):
                    recorder.drifted(exc.what)
                recorder.conclude(len(windows), exc)
                raise
            recorder.conclude(len(windows), None)

    def _maker(self, job: ExportJob, engine: Engine, workers: int) -> MakeWorker:
        if engine == "threads":
            return lambda control: SessionWorker(self.source, job, control)
        from rivet_dagster.export.processes import ProcessWorker, Setup  # noqa: PLC0415 (most exports have none)

        setup = Setup(
            self._address,
            self._limits,
            self._folder,
            self.config,
            job.table,
            job.key,
            job.spool,
            job.work_id,
            memory_bytes=(job.memory_bytes or usual_limit()) // workers,
            slot_wait_s=job.slot_wait_s,
        )
        return lambda control: ProcessWorker(setup, control)

    def _ready(self, session: Session, plan: Plan) -> tuple[Table, Key]:
        """The table and its planned order, once it is sure that its rows can be read as planned."""
        table = describe(session, self.config)
        check_drift(plan, planned_columns(table, self.source.schema_of(table)))
        key = planned_key(table, plan)
        windows = self.config.windows
        if isinstance(windows, TimeWindows) and windows.nulls == "error" and key.nullable:
            _refuse_nulls(session, table, key)
        return table, key

    def drifted(self, plan: Plan, windows: Sequence[Window]) -> list[Ailing]:
        """Which of these windows have another number of rows in the source now."""

        def count(session: Session) -> list[Ailing]:
            table = describe(session, self.config)
            return list(drifted(session, table, planned_key(table, plan), self.store, plan, windows))

        return with_session(self.source, self.config.limits, count)

    def seal(self, plan: Plan, slices: Sequence[Window] = ()) -> ExportManifest:
        """Verify every window and write the seal; `slices` are the windows of a plan that lists none."""
        return seal_export(self.store, plan, slices)


def _refuse_nulls(session: Session, table: Table, key: Key) -> None:
    """No slice of time has the rows without a time."""
    if session.count(table, key, KeyRange(None, None, nulls=True), 1):
        raise SourceError(
            "RIVET_WINDOW_UNCOVERED",
            f"{table.label} has rows whose {key.columns[0]} is NULL, which are in no slice of time.",
            "Correct them, or leave them out with nulls: ignore; keyset and cursor windows have one for such rows.",
            fatal=True,
        )


def begin_work(store: Store, *, fresh: bool) -> tuple[str, bool]:
    """Work id for an export without an orchestrator: that of an unfinished one in this folder, or a new one.

    Args:
        store: the export's folder.
        fresh: start over even if there is an unfinished one.

    Returns:
        The work id, and whether it goes on with an unfinished export.
    """
    data = store.get(WORK)
    if data is not None and not fresh:
        return WorkMarker.from_bytes(data, store.url(WORK)).work_id, True
    marker = WorkMarker(
        work_id=f"cli-{uuid.uuid4().hex}", started_at=datetime.now(timezone.utc).isoformat(timespec="seconds")
    )
    if fresh:
        store.put(WORK, marker.to_bytes())
    elif not store.create(WORK, marker.to_bytes()):
        raise StoreError(
            "RIVET_WORK_CONFLICT",
            f"Another export began in {store.uri} at this moment.",
            "Let it finish, or start again to go on together with it.",
            retryable=True,
        )
    return marker.work_id, False


def end_work(store: Store) -> None:
    """The export is sealed: the next one is new work."""
    store.delete(WORK)
