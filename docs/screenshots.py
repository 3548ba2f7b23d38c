"""`make screenshots`: the pictures of the docs, taken from the demo's state with a headless Chromium.

The pictures show the demo's folder; RIVET_DEMO_FOLDER chooses it, here as for `make demo`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dagster import AssetKey, AssetRecordsFilter, DagsterInstance
from rich.console import Console

from demo import DemoError
from demo.services import DagsterServices
from demo.stage import ROOT, open_stage, run_to_exit

IMAGES = ROOT / "docs" / "images"

_ASSET = "public/flights"
_WINDOW = "g1-w000007"
# Name of the picture: page, then width and height of the window in pixels.
PICTURES = {
    "partitions.png": (f"assets/{_ASSET}?view=partitions&partition={_WINDOW}", 1440, 900),
    "window.png": (f"assets/{_ASSET}?view=events&partition={_WINDOW}", 1440, 1150),
    "lineage.png": (f"assets/{_ASSET}?view=lineage", 1440, 620),
}
BACKFILL_PICTURE = ("backfill.png", f"assets/{_ASSET}?view=partitions", 1440, 900)

_RENDER_MILLISECONDS = 25_000
_BACKFILL_SECONDS = 120.0
_LOOK_SECONDS = 0.01
_CHROMIUM_SECONDS = 180
_MOST_BYTES = 300_000


def main(console: Console) -> None:
    """Start the demo's services over what `make demo` left, and take every picture."""
    chromium = shutil.which(os.environ.get("CHROMIUM", "chromium"))
    if chromium is None:
        raise DemoError("There is no Chromium: install it, or let CHROMIUM name its program.")
    IMAGES.mkdir(parents=True, exist_ok=True)
    with open_stage() as stage, stage.services() as services:
        if not services.client.partitions(_ASSET).materialized:
            raise DemoError("There is nothing to show yet: run `make demo` first.")

        def show(name: str, page: str, width: int, height: int) -> None:
            take(chromium, f"{services.url}/{page}", IMAGES / name, width, height)
            console.print(f"{(IMAGES / name).relative_to(ROOT)}: {(IMAGES / name).stat().st_size:,} bytes")

        for name, picture in PICTURES.items():
            show(name, *picture)
        with half_done(services, stage.folder / "dagster"):
            show(*BACKFILL_PICTURE)


@contextmanager
def half_done(services: DagsterServices, home: Path) -> Iterator[None]:
    """Export the table again by a backfill, whose run stands still in the middle for as long as the context lasts.

    Raises:
        DemoError: the run ended before it could be held, or did not begin.
    """
    client = services.client
    windows = client.partition_keys(_ASSET)
    began = time.time()
    backfill = client.launch_backfill(_ASSET, windows, title="Export all flights again")
    held = _hold(home, began, len(windows) // 3)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(held, signal.SIGCONT)
        ended = services.wait_for_backfill(backfill)
    if ended.status != "COMPLETED_SUCCESS":
        raise DemoError(f"The backfill ended as {ended.status}.")


def _hold(home: Path, began: float, windows: int) -> int:
    """Stop the process that exports, once it has reported this many windows since `began`; its id."""
    key = AssetKey(_ASSET.split("/"))
    with DagsterInstance.from_config(str(home)) as instance:
        filters = AssetRecordsFilter(key, after_timestamp=began)
        deadline = time.monotonic() + _BACKFILL_SECONDS
        while time.monotonic() < deadline:
            records = instance.fetch_materializations(filters, limit=windows).records
            if len(records) == windows:
                event = records[0].event_log_entry.dagster_event
                if event is None or event.pid is None:
                    raise DemoError("Dagster does not say which process exports.")
                os.kill(event.pid, signal.SIGSTOP)
                return event.pid
            time.sleep(_LOOK_SECONDS)
    raise DemoError(f"The backfill reported no {windows} windows within {_BACKFILL_SECONDS:.0f} seconds.")


def take(chromium: str, url: str, picture: Path, width: int, height: int) -> None:
    """Render `url` in a fresh profile and save what a window of this size shows.

    Raises:
        DemoError: Chromium wrote no picture, took too long, or wrote one too large for the docs.
    """
    # Chromium's helpers may outlive it for a moment, and write to the profile still.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        try:
            done = subprocess.run(
                [
                    chromium,
                    "--headless=new",
                    "--no-sandbox",  # in containers it cannot be had; the only page is our own
                    "--disable-gpu",
                    "--disable-quic",
                    "--disable-sync",
                    "--disable-background-networking",
                    "--disable-component-update",
                    "--no-first-run",
                    "--hide-scrollbars",
                    f"--user-data-dir={profile}",
                    f"--window-size={width},{height}",
                    f"--virtual-time-budget={_RENDER_MILLISECONDS}",
                    f"--screenshot={picture}",
                    url,
                ],
                capture_output=True,
                timeout=_CHROMIUM_SECONDS,
                check=False,
                text=True,
            )
        except subprocess.TimeoutExpired:
            raise DemoError(f"Chromium did not render {url} within {_CHROMIUM_SECONDS} seconds.") from None
    if done.returncode or not picture.exists():
        raise DemoError(f"Chromium failed with exit code {done.returncode}:\n{done.stderr}")
    if picture.stat().st_size > _MOST_BYTES:
        raise DemoError(f"{picture.name} has more than {_MOST_BYTES:,} bytes: make its window smaller.")


if __name__ == "__main__":
    run_to_exit(main)
