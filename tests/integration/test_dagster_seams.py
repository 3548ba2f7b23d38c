"""What Dagster does not promise, and this project relies on: a new version of Dagster that changes it fails here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest
from dagster._core.storage import tags as dagster_tags
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from rivet_dagster import _compat, requests
from rivet_dagster._compat import delete_partitions, latest_evaluation
from tests.support.orchestrating import statements


@pytest.fixture(params=["memory", "disk"])
def instance(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    build: Callable[..., dg.DagsterInstance] = dg.DagsterInstance.local_temp
    with dg.DagsterInstance.ephemeral() if request.param == "memory" else build(str(tmp_path)) as found:
        yield found


def test_partitions_go_in_one_statement(instance: dg.DagsterInstance) -> None:
    old = [f"g1-w{n:06d}" for n in range(3000)]
    new = [f"g2-w{n:06d}" for n in range(50)]
    instance.add_dynamic_partitions("public/orders", old + new)
    instance.add_dynamic_partitions("public/others", old)
    with statements() as seen:
        delete_partitions(instance, "public/orders", [*old, "g1-w999999"])
    assert [statement[:31] for statement in seen if "dynamic_partitions" in statement] == [
        "DELETE FROM dynamic_partitions "
    ]
    assert list(instance.get_dynamic_partitions("public/orders")) == new
    assert list(instance.get_dynamic_partitions("public/others")) == old
    assert not instance.has_dynamic_partition("public/orders", old[0])
    instance.add_dynamic_partitions("public/orders", ["g1-w000001"])
    assert list(instance.get_dynamic_partitions("public/orders")) == [*new, "g1-w000001"], "the last one that was added"


def test_a_storage_without_sql_deletes_one_by_one() -> None:
    deleted: list[tuple[str, str]] = []
    other = SimpleNamespace(
        event_log_storage=object(), delete_dynamic_partition=lambda name, key: deleted.append((name, key))
    )
    delete_partitions(other, "public/orders", ["b", "a"])  # type: ignore[arg-type]
    assert deleted == [("public/orders", "b"), ("public/orders", "a")]


def test_dagster_still_calls_its_tags_so() -> None:
    assert set(_compat.RETRY_TAGS) == {
        dagster_tags.RESUME_RETRY_TAG,
        dagster_tags.ASSET_RESUME_RETRY_TAG,
        dagster_tags.RETRY_NUMBER_TAG,
    }
    assert requests.RANGE_START == dagster_tags.ASSET_PARTITION_RANGE_START_TAG
    assert requests.RANGE_END == dagster_tags.ASSET_PARTITION_RANGE_END_TAG
    run = SimpleNamespace(run=SimpleNamespace(tags={dagster_tags.BACKFILL_ID_TAG: "b"}, run_id="r", root_run_id=None))
    assert _compat.replan_id_of(run) == "b"  # type: ignore[arg-type]


def test_the_last_word_of_a_check_is_found_behind_runs_that_said_nothing(instance: dg.DagsterInstance) -> None:
    heard: list[dg.AssetCheckEvaluation | None] = []

    @dg.asset
    def orders() -> None:
        pass

    @dg.multi_asset_check(specs=[dg.AssetCheckSpec("sound", asset="orders")], config_schema={"number": int})
    def sound(context):  # type: ignore[no-untyped-def]  # Dagster reads no postponed ones
        heard.append(latest_evaluation(context.instance, orders.key, "sound"))
        number = context.op_execution_context.op_config["number"]
        if number < 0:
            raise ValueError("no word")
        yield dg.AssetCheckResult(passed=number % 2 == 0, metadata={"number": number})

    for number in (1, -1, 2, -2):
        config = {"ops": {"sound": {"config": {"number": number}}}}
        dg.materialize([orders, sound], instance=instance, run_config=config, raise_on_error=False)
    said = [(each.passed, each.metadata["number"].value) if each else None for each in heard]
    assert said == [None, (False, 1), (False, 1), (True, 2)]
    last = latest_evaluation(instance, orders.key, "sound")
    assert last is not None
    assert last.metadata["number"].value == 2
    assert latest_evaluation(instance, orders.key, "other") is None
    assert latest_evaluation(instance, dg.AssetKey("other"), "sound") is None


def test_the_runs_that_have_not_ended_are_those_that_dagster_counts_so() -> None:
    assert set(requests.UNFINISHED) == set(NOT_FINISHED_STATUSES)
