"""`make ui`: the demo's database and Dagster's UI over it, until Ctrl-C.

PORT chooses the UI's port, DEMO_ENGINE the database.
"""

from __future__ import annotations

import os

from rich.console import Console

from demo.engines import chosen_engine
from demo.stage import open_stage, run_to_exit

_DEFAULT_PORT = 3000
_FOREVER = float("inf")


def main(console: Console) -> None:
    """Start everything and watch it; DemoError if a service ends by itself."""
    port = int(os.environ.get("PORT", _DEFAULT_PORT))
    console.print(f"Starting {chosen_engine().title} and Dagster ...")
    with open_stage() as stage, stage.services(port) as services:
        console.print(f"Dagster's UI is at {services.url} (Ctrl-C stops it).")
        for _ in services.poll(_FOREVER):
            pass


if __name__ == "__main__":
    run_to_exit(main)
