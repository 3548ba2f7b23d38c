"""When automation asks for a seal: after the last window, and after every change of one, also in the worst moment."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest

from rivet_dagster import ExportConfig, build_rivet_assets

# Dagster's own evaluation of conditions warns of itself.
pytestmark = pytest.mark.filterwarnings("ignore:Parameter `include_sources`")

TABLE = dg.AssetKey(["public", "orders"])
COMPLETE = dg.AssetKey([*TABLE.path, "complete"])
KEYS = ["g1-w000000", "g1-w000001", "g1-w000002"]


class Automation:
    """Ticks of the automation sensor, and what happens between them."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.definitions = dg.Definitions(
            assets=build_rivet_assets(ExportConfig(table="public.orders")), resources={"rivet": None}
        )
        self.cursor: dg.AutomationConditionSensorDefinition | None = None
        instance.add_dynamic_partitions(TABLE.to_user_string(), KEYS)

    def tick(self) -> bool:
        """Whether a seal is asked for."""
        found = dg.evaluate_automation_conditions(self.definitions, self.instance, cursor=self.cursor)  # type: ignore[arg-type]
        self.cursor = found.cursor  # type: ignore[assignment]
        return found.total_requested > 0

    def export(self, *keys: str) -> None:
        for key in keys:
            self.instance.report_runless_asset_event(dg.AssetMaterialization(TABLE, partition=key))

    def seal(self) -> None:
        self.instance.report_runless_asset_event(dg.AssetMaterialization(COMPLETE))


@pytest.fixture
def automation() -> Iterator[Automation]:
    with dg.DagsterInstance.ephemeral() as instance:
        automation = Automation(instance)
        assert not automation.tick()
        yield automation


def test_a_seal_follows_the_last_window_and_no_other(automation: Automation) -> None:
    automation.export(KEYS[0])
    assert not automation.tick()
    automation.export(*KEYS[1:])
    assert automation.tick()
    automation.seal()
    assert [automation.tick() for _ in range(3)] == [False, False, False]
    automation.export(KEYS[1])
    assert automation.tick()
    automation.seal()
    assert not automation.tick()


def test_a_window_that_comes_while_a_seal_is_on_its_way_is_sealed_too(automation: Automation) -> None:
    automation.export(*KEYS)
    assert automation.tick()
    automation.seal()
    automation.export(KEYS[1])
    assert automation.tick(), "the seal may have been written before"
    automation.seal()
    assert not automation.tick()


def test_a_seal_that_was_put_off_is_asked_for_again(automation: Automation) -> None:
    """A run that finds a window under way seals nothing; the window's end asks again, in the very next tick."""
    automation.export(*KEYS)
    assert automation.tick()
    automation.export(KEYS[0])
    assert automation.tick()
    automation.seal()
    assert not automation.tick()


def test_new_windows_are_waited_for(automation: Automation) -> None:
    automation.export(*KEYS)
    assert automation.tick()
    automation.seal()
    automation.instance.add_dynamic_partitions(TABLE.to_user_string(), ["g1-w000003"])
    automation.export(KEYS[0])
    assert not automation.tick()
    automation.export("g1-w000003")
    assert automation.tick()
