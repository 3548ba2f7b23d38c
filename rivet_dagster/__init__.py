"""Exports of production database tables to Parquet or CSV as Dagster assets.

Names are imported when they are first used: the command line does not pay for Dagster, and a code location does
not pay for drivers and kernels.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rivet_dagster.assets import build_rivet_asset_specs, build_rivet_assets, rivet_assets
    from rivet_dagster.automation import Automation, build_rivet_automation
    from rivet_dagster.checks import Checks, build_rivet_checks
    from rivet_dagster.component import RivetExportComponent
    from rivet_dagster.errors import RivetError
    from rivet_dagster.export.config import (
        ColumnOptions,
        CsvFormat,
        CursorWindows,
        ExportConfig,
        FullWindows,
        IntRangeWindows,
        KeysetWindows,
        ParquetFormat,
        ReadLimits,
        TimeWindows,
    )
    from rivet_dagster.export.governing import GovernorConfig
    from rivet_dagster.export.reader import Export, open_export
    from rivet_dagster.reload import ReloadChecks, build_rivet_reload_sensor
    from rivet_dagster.resources import RivetResource
    from rivet_dagster.run_config import RivetPlanConfig, RivetRunConfig
    from rivet_dagster.schedules import build_rivet_schedule
    from rivet_dagster.schema_component import RivetSchemaComponent
    from rivet_dagster.selection import select_tables
    from rivet_dagster.sensors import build_rivet_cursor_sensor, build_rivet_plan_sensor
    from rivet_dagster.translator import DagsterRivetTranslator, RivetTranslatorData

__version__ = "0.1.0"

_HOMES = {
    "rivet_assets": "rivet_dagster.assets",
    "build_rivet_assets": "rivet_dagster.assets",
    "build_rivet_asset_specs": "rivet_dagster.assets",
    "Automation": "rivet_dagster.automation",
    "build_rivet_automation": "rivet_dagster.automation",
    "Checks": "rivet_dagster.checks",
    "build_rivet_checks": "rivet_dagster.checks",
    "build_rivet_schedule": "rivet_dagster.schedules",
    "build_rivet_plan_sensor": "rivet_dagster.sensors",
    "build_rivet_cursor_sensor": "rivet_dagster.sensors",
    "build_rivet_reload_sensor": "rivet_dagster.reload",
    "ReloadChecks": "rivet_dagster.reload",
    "RivetExportComponent": "rivet_dagster.component",
    "RivetSchemaComponent": "rivet_dagster.schema_component",
    "select_tables": "rivet_dagster.selection",
    "RivetResource": "rivet_dagster.resources",
    "RivetRunConfig": "rivet_dagster.run_config",
    "RivetPlanConfig": "rivet_dagster.run_config",
    "DagsterRivetTranslator": "rivet_dagster.translator",
    "RivetTranslatorData": "rivet_dagster.translator",
    "ExportConfig": "rivet_dagster.export.config",
    "FullWindows": "rivet_dagster.export.config",
    "KeysetWindows": "rivet_dagster.export.config",
    "IntRangeWindows": "rivet_dagster.export.config",
    "TimeWindows": "rivet_dagster.export.config",
    "CursorWindows": "rivet_dagster.export.config",
    "ColumnOptions": "rivet_dagster.export.config",
    "ParquetFormat": "rivet_dagster.export.config",
    "CsvFormat": "rivet_dagster.export.config",
    "ReadLimits": "rivet_dagster.export.config",
    "GovernorConfig": "rivet_dagster.export.governing",
    "open_export": "rivet_dagster.export.reader",
    "Export": "rivet_dagster.export.reader",
    "RivetError": "rivet_dagster.errors",
}

__all__ = [
    "rivet_assets",
    "build_rivet_assets",
    "build_rivet_asset_specs",
    "Automation",
    "build_rivet_automation",
    "Checks",
    "build_rivet_checks",
    "build_rivet_schedule",
    "build_rivet_plan_sensor",
    "build_rivet_cursor_sensor",
    "build_rivet_reload_sensor",
    "ReloadChecks",
    "RivetExportComponent",
    "RivetSchemaComponent",
    "select_tables",
    "RivetResource",
    "RivetRunConfig",
    "RivetPlanConfig",
    "DagsterRivetTranslator",
    "RivetTranslatorData",
    "ExportConfig",
    "FullWindows",
    "KeysetWindows",
    "IntRangeWindows",
    "TimeWindows",
    "CursorWindows",
    "ColumnOptions",
    "ParquetFormat",
    "CsvFormat",
    "ReadLimits",
    "GovernorConfig",
    "open_export",
    "Export",
    "RivetError",
    "__version__",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
