"""The three assets of an export: its plan, its table, its seal."""

import hashlib
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import dagster as dg

from rivet_dagster.export.config import ExportConfig
from rivet_dagster.partitions import window_partitions
from rivet_dagster.resources import RivetResource
from rivet_dagster.translator import DagsterRivetTranslator, ExportKeys, RivetTranslatorData, Role

# One planned event is written for every partition before a ranged run starts, so runs must stay short of the
# instance's start timeout.
WINDOWS_A_RUN = 200


def build_rivet_assets(
    *exports: ExportConfig,
    resource_key: str = "rivet",
    translator: DagsterRivetTranslator | None = None,
    group_name: str | None = None,
    pool: str | None = None,
    op_tags: Mapping[str, str] | None = None,
    backfill_policy: dg.BackfillPolicy | None = None,
) -> list[dg.AssetsDefinition]:
    """Assets that plan, export and seal tables.

    Each export becomes three assets: `<table>/plan`, whose runs freeze windows and make them partitions; `<table>`,
    a partition a window; and `<table>/complete`, which verifies and seals, and which downstream assets depend on.

    Args:
        exports: the tables.
        resource_key: key of the `RivetResource` in the definitions.
        translator: names, groups and descriptions of the assets.
        group_name: group of assets whose spec names none.
        pool: concurrency pool of the runs that read from the source.
        op_tags: tags of the ops that read from the source.
        backfill_policy: how many windows a run takes; 200 by default.

    Returns:
        Three assets an export, in the order of `exports`.

    Example:
        .. code-block:: python

            defs = dg.Definitions(
                assets=build_rivet_assets(ExportConfig(table="public.orders")),
                resources={"rivet": RivetResource(source=dg.EnvVar("PG_DSN"), destination="/data/lake")},
            )
    """
    builder = _Builder(
        resource_key,
        translator or DagsterRivetTranslator(),
        group_name,
        pool,
        dict(op_tags or {}),
        backfill_policy or dg.BackfillPolicy.multi_run(max_partitions_per_run=WINDOWS_A_RUN),
    )
    return [asset for export in exports for asset in builder.build(export)]


class _Builder:
    def __init__(
        self,
        resource_key: str,
        translator: DagsterRivetTranslator,
        group_name: str | None,
        pool: str | None,
        op_tags: Mapping[str, str],
        backfill_policy: dg.BackfillPolicy,
    ) -> None:
        self._resource_key = resource_key
        self._translator = translator
        self._group_name = group_name
        self._pool = pool
        self._op_tags = op_tags
        self._backfill_policy = backfill_policy

    def build(self, config: ExportConfig) -> Sequence[dg.AssetsDefinition]:
        """The three assets of one export."""
        plan, table, complete = (self._spec(config, role) for role in ("plan", "table", "complete"))
        keys = ExportKeys(plan.key, table.key, complete.key)
        return self._plan(config, plan, keys), self._table(config, table, keys), self._complete(config, complete, keys)

    def _spec(self, config: ExportConfig, role: Role) -> dg.AssetSpec:
        spec = self._translator.get_asset_spec(RivetTranslatorData(config, role))
        return spec.replace_attributes(
            group_name=spec.group_name or self._group_name,
            code_version=spec.code_version or _code_version(config),
        )

    def _resource(self, context: dg.AssetExecutionContext) -> RivetResource:
        resource = getattr(context.resources, self._resource_key)
        assert isinstance(resource, RivetResource)
        return resource

    def _plan(self, config: ExportConfig, spec: dg.AssetSpec, keys: ExportKeys) -> dg.AssetsDefinition:
        @dg.multi_asset(
            name=_op_name(spec.key),
            specs=[spec],
            required_resource_keys={self._resource_key},
            op_tags=self._op_tags,
            pool=self._pool,
        )
        def plan(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
            return self._resource(context).plan(context, config, keys)

        return plan

    def _table(self, config: ExportConfig, spec: dg.AssetSpec, keys: ExportKeys) -> dg.AssetsDefinition:
        # Skippable, with a generator that yields nothing: only the window's own events count. An output would add
        # a blank event for every partition, over the row counts and data versions that are there.
        @dg.multi_asset(
            name=_op_name(spec.key),
            specs=[
                spec.merge_attributes(deps=[keys.plan]).replace_attributes(
                    partitions_def=window_partitions(keys.table), skippable=True
                )
            ],
            required_resource_keys={self._resource_key},
            backfill_policy=self._backfill_policy,
            op_tags=self._op_tags,
            pool=self._pool,
        )
        def table(context: dg.AssetExecutionContext) -> Generator[Any, None, None]:
            yield from self._resource(context).export(context, config, keys)

        return table

    def _complete(self, config: ExportConfig, spec: dg.AssetSpec, keys: ExportKeys) -> dg.AssetsDefinition:
        dependency = dg.AssetDep(keys.table, partition_mapping=dg.AllPartitionMapping())
        condition = dg.AutomationCondition.eager() & ~dg.AutomationCondition.any_deps_match(
            dg.AutomationCondition.backfill_in_progress()
        )

        @dg.multi_asset(
            name=_op_name(spec.key),
            specs=[
                spec.merge_attributes(deps=[dependency]).replace_attributes(
                    automation_condition=spec.automation_condition or condition
                )
            ],
            required_resource_keys={self._resource_key},
        )
        def complete(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
            return self._resource(context).complete(context, config)

        return complete


def _op_name(key: dg.AssetKey) -> str:
    """A name that Dagster allows for ops, distinct for distinct keys."""
    plain = "__".join(key.path)
    name = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in plain)
    if name == plain:
        return f"rivet__{name}"
    return f"rivet__{name}_{hashlib.sha256(plain.encode()).hexdigest()[:8]}"


def _code_version(config: ExportConfig) -> str:
    """Changes with anything that a user says about the export."""
    return hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:16]
