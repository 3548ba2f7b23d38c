"""The demo's code location: five tables of a PostgreSQL or MariaDB database, exported to Parquet window by window.

`make demo` and `make ui` start the database and set the variables that say where it is, which schema (or, in MariaDB,
database) holds its tables, and where they go.
"""

import os

import dagster as dg

from rivet_dagster import ExportConfig, KeysetWindows, RivetResource, build_rivet_assets

schema = os.environ.get("RIVET_DEMO_SCHEMA", "public")

assets = build_rivet_assets(
    # Seventeen partitions along the primary key; each is one short, consistent look at the database.
    ExportConfig(
        table=f"{schema}.flights",
        windows=KeysetWindows(columns=("time_hour", "carrier", "flight"), rows=20_000),
    ),
    # Without columns, the table's best unique key decides.
    ExportConfig(table=f"{schema}.weather", windows=KeysetWindows(rows=5_000)),
    # Small tables fit into one window.
    ExportConfig(table=f"{schema}.planes"),
    ExportConfig(table=f"{schema}.airports"),
    ExportConfig(table=f"{schema}.airlines"),
    group_name="lake",
)

defs = dg.Definitions(
    assets=assets,
    resources={
        "rivet": RivetResource(
            source=dg.EnvVar("RIVET_DEMO_DSN"),
            destination=dg.EnvVar("RIVET_DEMO_LAKE"),
            workers=2,
        ),
    },
    # A run of an export is one step that has threads of its own: a process a step would only cost its start.
    executor=dg.in_process_executor,
)
