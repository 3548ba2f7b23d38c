"""`make screenshots`: the pictures of the docs, taken from the demo's state with a headless Chromium."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from rich.console import Console

from demo import DemoError
from demo.stage import ROOT, open_stage, run_to_exit

IMAGES = ROOT / "docs" / "images"

# Name of the picture: page, then width and height of the window in pixels.
PICTURES = {
    "partitions.png": ("assets/public/flights?view=partitions&partition=g1-w000007", 1440, 900),
}

_RENDER_MILLISECONDS = 25_000
_CHROMIUM_SECONDS = 180
_MOST_BYTES = 300_000


def main(console: Console) -> None:
    """Start the demo's services over what `make demo` left, and take every picture."""
    chromium = shutil.which(os.environ.get("CHROMIUM", "chromium"))
    if chromium is None:
        raise DemoError("There is no Chromium: install it, or let CHROMIUM name its program.")
    IMAGES.mkdir(parents=True, exist_ok=True)
    with open_stage() as stage, stage.services() as services:
        if not services.client.partitions("public/flights").materialized:
            raise DemoError("There is nothing to show yet: run `make demo` first.")
        for name, (page, width, height) in PICTURES.items():
            take(chromium, f"{services.url}/{page}", IMAGES / name, width, height)
            console.print(f"{(IMAGES / name).relative_to(ROOT)}: {(IMAGES / name).stat().st_size:,} bytes")


def take(chromium: str, url: str, picture: Path, width: int, height: int) -> None:
    """Render `url` in a fresh profile and save what a window of this size shows.

    Raises:
        DemoError: Chromium wrote no picture, or one too large for the docs.
    """
    with tempfile.TemporaryDirectory() as profile:
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
    if done.returncode or not picture.exists():
        raise DemoError(f"Chromium failed with exit code {done.returncode}:\n{done.stderr}")
    if picture.stat().st_size > _MOST_BYTES:
        raise DemoError(f"{picture.name} has more than {_MOST_BYTES:,} bytes: make its window smaller.")


if __name__ == "__main__":
    run_to_exit(main)
