"""The three assets of an export: its plan, its table, its seal."""

import hashlib
import inspect
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import dagster as dg

from rivet_dagster.export.config import ExportConfig, TimeWindows
from rivet_dagster.export.names import table_folder
from rivet_dagster.partitions import partitions_of
from rivet_dagster.resources import RivetResource
from rivet_dagster.run_config import RivetPlanConfig, RivetRunConfig
from rivet_dagster.translator import (
    DagsterRivetTranslator,
    ExportKeys,
    RivetTranslatorData,
    Role,
    table_metadata,
)

# One planned event is written for every partition before a ranged run starts, so runs must stay short of the
# instance's start timeout.
WINDOWS_A_RUN = 200

_CODE_REFERENCES = "dagster/code_references"
_ENGINES = {"postgresql": "postgresql", "postgres": "postgresql", "mysql": "mysql", "mariadb": "mysql"}

Body = Callable[..., Generator[Any, Any, Any]]
"""What a user writes: a generator that takes a context, a `RivetResource` and, if it likes, a `RivetRunConfig`."""


def build_rivet_assets(
    *exports: ExportConfig,
    resource_key: str = "rivet",
    translator: DagsterRivetTranslator | None = None,
    group_name: str | None = None,
    pool: str | None = None,
    op_tags: Mapping[str, str] | None = None,
    backfill_policy: dg.BackfillPolicy | None = None,
    owners: Sequence[str] | None = None,
    tags: Mapping[str, str] | None = None,
    resource: RivetResource | None = None,
) -> list[dg.AssetsDefinition]:
    """Assets that plan, export and seal tables.

    Each export becomes three assets: `<table>/plan`, whose runs freeze windows and make them partitions; `<table>`,
    a partition a window; and `<table>/complete`, which verifies and seals, and which downstream assets depend on.
    Slices of time need no plan: their partitions are Dagster's own. Runs of the table asset take a
    `RivetRunConfig`, those of the plan a `RivetPlanConfig`.

    Args:
        exports: the tables.
        resource_key: key of the `RivetResource` in the definitions.
        translator: names, groups and descriptions of the assets.
        group_name: group of assets whose spec names none.
        pool: concurrency pool of the runs that read from the source.
        op_tags: tags of the ops that read from the source.
        backfill_policy: how many windows a run takes; 200 by default.
        owners: owners of the assets, beside those that the translator gives.
        tags: tags of the assets; the translator's own win.
        resource: the resource itself, so that the assets can tell engine and address of the export before a run;
            nothing is connected.

    Returns:
        Three assets an export, two for slices of time, in the order of `exports`.

    Example:
        .. code-block:: python

            defs = dg.Definitions(
                assets=build_rivet_assets(ExportConfig(table="public.orders")),
                resources={"rivet": RivetResource(source=dg.EnvVar("PG_DSN"), destination="/data/lake")},
            )
    """
    look = _Look(translator, group_name, owners, tags, resource, _declared_at())
    builder = _Builder(resource_key, pool, op_tags, backfill_policy)
    return [asset for config in exports for asset in builder.build(config, look.specs(config))]


def build_rivet_asset_specs(
    configs: Iterable[ExportConfig],
    translator: DagsterRivetTranslator | None = None,
    *,
    group_name: str | None = None,
    owners: Sequence[str] | None = None,
    tags: Mapping[str, str] | None = None,
    resource: RivetResource | None = None,
) -> list[dg.AssetSpec]:
    """The specs of the assets that `build_rivet_assets` makes, complete with partitions and dependencies.

    For code that only needs to know the assets, such as another code location, or that makes assets of its own from
    them: `RivetResource.export` serves any asset that has the spec of a table asset.

    Args:
        configs: the tables.
        translator: names, groups and descriptions of the assets.
        group_name: group of assets whose spec names none.
        owners: owners of the assets, beside those that the translator gives.
        tags: tags of the assets; the translator's own win.
        resource: the resource that will run them, for what it tells of engine and address.

    Returns:
        Plan, table and complete of each export, in the order of `configs`.
    """
    look = _Look(translator, group_name, owners, tags, resource, _declared_at())
    return [spec for config in configs for spec in look.specs(config) if spec is not None]


def rivet_assets(
    config: ExportConfig,
    *,
    name: str | None = None,
    resource_key: str = "rivet",
    translator: DagsterRivetTranslator | None = None,
    group_name: str | None = None,
    pool: str | None = None,
    op_tags: Mapping[str, str] | None = None,
    backfill_policy: dg.BackfillPolicy | None = None,
    owners: Sequence[str] | None = None,
    tags: Mapping[str, str] | None = None,
    resource: RivetResource | None = None,
) -> Callable[[Body], list[dg.AssetsDefinition]]:
    """Assets of one table, of which the decorated function exports the windows; plan and seal come with it.

    The function is a generator that delegates to `RivetResource.export` and yields nothing of its own: an output
    would make Dagster add a blank event for every partition, over those of the windows.

    Args:
        config: the table.
        name: name of the table's op, for run configuration; that of the function by default.
        resource_key: key of the `RivetResource` for plan and seal; the function's parameter should be called so too.
        translator: as in `build_rivet_assets`, like all that follow.
        group_name: group of assets whose spec names none.
        pool: concurrency pool of the runs that read from the source.
        op_tags: tags of the ops that read from the source.
        backfill_policy: how many windows a run takes; 200 by default.
        owners: owners of the assets.
        tags: tags of the assets.
        resource: the resource itself, for what it tells of engine and address.

    Returns:
        A decorator that gives plan, table and complete.

    Raises:
        dagster.DagsterInvalidDefinitionError: the decorated function is no generator.

    Example:
        .. code-block:: python

            @rivet_assets(ExportConfig(table="public.orders"))
            def orders(context: dg.AssetExecutionContext, rivet: RivetResource, config: RivetRunConfig):
                exported = yield from rivet.export(context, config)
                context.log.info(f"{exported.rows} rows")


            defs = dg.Definitions(assets=orders, resources={"rivet": RivetResource(...)})
    """
    builder = _Builder(resource_key, pool, op_tags, backfill_policy)

    def decorate(body: Body) -> list[dg.AssetsDefinition]:
        if not inspect.isgeneratorfunction(body):
            raise dg.DagsterInvalidDefinitionError(
                f"{getattr(body, '__name__', body)!s} exports nothing, because it is no generator: "
                "write `yield from rivet.export(context)` in it."
            )
        look = _Look(translator, group_name, owners, tags, resource, _reference(body.__code__))
        return builder.build(config, look.specs(config), body, name or body.__name__)

    return decorate


def seal_condition() -> dg.AutomationCondition[Any]:
    """When automation asks for a seal: a window was exported, all are there, and none is under way or has failed.

    As `AutomationCondition.eager()`, but for windows that fail, and for updates in the very moment in which an earlier
    one is noted as handled. Eager forgets those: a window that is exported again just after a seal was requested
    would not be sealed before another one is.
    """
    any_updated = dg.AutomationCondition.any_deps_updated()
    handled = dg.AutomationCondition.newly_requested() | dg.AutomationCondition.newly_updated()
    return (
        dg.AutomationCondition.in_latest_time_window()
        & (dg.AutomationCondition.newly_missing() | any_updated).since(
            dg.AutomationCondition.initial_evaluation() | (handled & ~any_updated)
        )
        & ~dg.AutomationCondition.any_deps_missing()
        & ~dg.AutomationCondition.any_deps_in_progress()
        & ~dg.AutomationCondition.in_progress()
        & ~dg.AutomationCondition.any_deps_match(dg.AutomationCondition.execution_failed())
    ).with_label("every window exported")


class _Specs(NamedTuple):
    """Specs of one export's assets; slices of time have no plan."""

    plan: dg.AssetSpec | None
    table: dg.AssetSpec
    complete: dg.AssetSpec

    @property
    def keys(self) -> ExportKeys:
        """Keys of the assets."""
        return ExportKeys(self.plan.key if self.plan else None, self.table.key, self.complete.key)


@dataclass(frozen=True)
class _Look:
    """What the assets of several exports share for people to see."""

    translator: DagsterRivetTranslator | None
    group_name: str | None
    owners: Sequence[str] | None
    tags: Mapping[str, str] | None
    resource: RivetResource | None
    declared_at: dg.CodeReferencesMetadataValue | None

    def specs(self, config: ExportConfig) -> _Specs:
        """The specs of one export."""
        plan = None if isinstance(config.windows, TimeWindows) else self._spec(config, "plan")
        table, complete = self._spec(config, "table"), self._spec(config, "complete")
        whole = dg.AssetDep(table.key, partition_mapping=dg.AllPartitionMapping())
        # Eager waits for runs and backfills that are under way. Windows that failed are waited for too: the seal of an
        # export that is being repeated would hold old windows beside new ones.
        return _Specs(
            plan,
            # Skippable: only the window's own events count. An output would add a blank event for every partition,
            # over the row counts and data versions that are there.
            table.merge_attributes(
                deps=[plan.key] if plan else [], metadata=table_metadata(config, plan.key if plan else None)
            ).replace_attributes(partitions_def=partitions_of(config, table.key), skippable=True),
            # Skippable: a run that must not seal yet gives nothing.
            complete.merge_attributes(deps=[whole]).replace_attributes(
                automation_condition=complete.automation_condition or seal_condition(), skippable=True
            ),
        )

    def _spec(self, config: ExportConfig, role: Role) -> dg.AssetSpec:
        translator = self.translator or DagsterRivetTranslator()
        engine, uri = _known(self.resource, config) if self.resource else (None, None)
        spec = translator.get_asset_spec(RivetTranslatorData(config, role, engine, uri))
        reference = {_CODE_REFERENCES: self.declared_at} if self.declared_at else {}
        return spec.merge_attributes(
            owners=[owner for owner in self.owners or () if owner not in spec.owners],
            tags={name: value for name, value in (self.tags or {}).items() if name not in spec.tags},
            metadata={name: value for name, value in reference.items() if name not in spec.metadata},
        ).replace_attributes(
            group_name=spec.group_name or self.group_name,
            code_version=spec.code_version or _code_version(config),
        )


class _Builder:
    """Makes assets of specs."""

    def __init__(
        self,
        resource_key: str,
        pool: str | None,
        op_tags: Mapping[str, str] | None,
        backfill_policy: dg.BackfillPolicy | None,
    ) -> None:
        self._resource_key = resource_key
        self._reads: dict[str, Any] = {"pool": pool, "op_tags": dict(op_tags or {})}
        self._backfill_policy = backfill_policy or dg.BackfillPolicy.multi_run(max_partitions_per_run=WINDOWS_A_RUN)

    def build(
        self, config: ExportConfig, specs: _Specs, body: Body | None = None, name: str | None = None
    ) -> list[dg.AssetsDefinition]:
        """The assets of one export, with `body` in place of the usual one and its op called `name`."""
        return [
            *([self._plan(config, specs.plan, specs.keys)] if specs.plan else []),
            self._table(specs.table, body, name),
            self._complete(config, specs.complete, specs.keys),
        ]

    def _resource(self, context: dg.AssetExecutionContext) -> RivetResource:
        resource = getattr(context.resources, self._resource_key)
        assert isinstance(resource, RivetResource)
        return resource

    def _plan(self, export: ExportConfig, spec: dg.AssetSpec, keys: ExportKeys) -> dg.AssetsDefinition:
        @dg.multi_asset(
            name=op_name(spec.key), specs=[spec], required_resource_keys={self._resource_key}, **self._reads
        )
        def plan(context: dg.AssetExecutionContext, config: RivetPlanConfig) -> dg.MaterializeResult[Any]:
            return self._resource(context).plan(context, export, keys, config)

        return plan

    def _table(self, spec: dg.AssetSpec, body: Body | None, name: str | None) -> dg.AssetsDefinition:
        def table(context: dg.AssetExecutionContext, config: RivetRunConfig) -> Generator[Any, None, None]:
            yield from self._resource(context).export(context, config)

        decorate = dg.multi_asset(
            name=name or op_name(spec.key),
            specs=[spec],
            # A body says by its parameters what it needs.
            required_resource_keys=None if body else {self._resource_key},
            backfill_policy=self._backfill_policy,
            **self._reads,
        )
        return decorate(body or table)

    def _complete(self, export: ExportConfig, spec: dg.AssetSpec, keys: ExportKeys) -> dg.AssetsDefinition:
        @dg.multi_asset(
            name=op_name(spec.key),
            specs=[spec],
            required_resource_keys={self._resource_key},
        )
        def complete(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[Any]]:
            yield from self._resource(context).complete(context, export, keys)

        return complete


def op_name(key: dg.AssetKey) -> str:
    """A name that Dagster allows for ops, distinct for distinct keys."""
    plain = "__".join(key.path)
    name = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in plain)
    if name == plain:
        return f"rivet__{name}"
    return f"rivet__{name}_{hashlib.sha256(plain.encode()).hexdigest()[:8]}"


def _code_version(config: ExportConfig) -> str:
    """Changes with anything that a user says about the export."""
    return hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:16]


def _known(resource: RivetResource, config: ExportConfig) -> tuple[str | None, str | None]:
    """Engine and address of an export, as far as the resource's values are known already: variables may not be set."""
    source, destination = (
        value.get_value() if isinstance(value, dg.EnvVar) else value
        for value in (resource.source, resource.destination)
    )
    engine = _ENGINES.get(source.partition("://")[0]) if source else None
    return engine, _address(destination, table_folder(*config.relation)) if destination else None


def _address(destination: str, folder: str) -> str | None:
    """Address of a folder below a destination, as the stores write it; None where it may hold a secret."""
    parts = urlsplit(destination)
    if not parts.scheme:
        return (Path(destination).expanduser().absolute() / folder).as_uri()
    if parts.query or "@" in parts.netloc:
        return None
    return f"{destination.rstrip('/')}/{folder}"


def _declared_at() -> dg.CodeReferencesMetadataValue | None:
    """The line that called this package; None where it was Dagster, which knows the file of a component by itself."""
    frame = inspect.currentframe()
    package = __name__.partition(".")[0]
    while frame is not None and _package_of(frame.f_globals) == package:
        frame = frame.f_back
    if frame is None or _package_of(frame.f_globals) == "dagster":
        return None
    return _reference(frame.f_code, frame.f_lineno)


def _package_of(names: Mapping[str, Any]) -> str:
    return str(names.get("__name__", "")).partition(".")[0]


def _reference(code: Any, line: int | None = None) -> dg.CodeReferencesMetadataValue | None:
    """A link to a line, by default the first one of `code`; None for code that is in no file."""
    path = Path(code.co_filename).absolute()
    if not path.is_file():
        return None
    with warnings.catch_warnings():
        # Whoever declares assets need not hear that the class of their links is in beta.
        warnings.simplefilter("ignore", dg.BetaWarning)
        reference = dg.LocalFileCodeReference(file_path=str(path), line_number=line or code.co_firstlineno)
        return dg.CodeReferencesMetadataValue(code_references=[reference])
