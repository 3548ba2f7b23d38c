"""Windows as Dagster partitions."""

import dagster as dg

from rivet_dagster.export.plan import Plan


def window_partitions(asset_key: dg.AssetKey) -> dg.DynamicPartitionsDefinition:
    """The partitions of a table asset. Named after the asset, whose key is unique in an instance."""
    return dg.DynamicPartitionsDefinition(name=asset_key.to_user_string())


def publish_windows(instance: dg.DagsterInstance, asset_key: dg.AssetKey, plan: Plan) -> int:
    """Make the plan's windows partitions; says how many are new.

    All keys go in one ordered call: ranges of dynamic partitions follow the order in which keys were added, and
    every addition makes Dagster rebuild what it knows of the asset's status.
    """
    name = str(window_partitions(asset_key).name)
    known = set(instance.get_dynamic_partitions(name))
    missing = [window.key for window in plan.windows if window.key not in known]
    if missing:
        instance.add_dynamic_partitions(name, missing)
    return len(missing)
