"""What every face of the demo needs: its folder, the database with its tables, and Dagster's configuration."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
from rich.console import Console

from demo import DemoError, data
from demo.postgres import EmbeddedPostgres
from demo.services import DagsterServices

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(os.environ.get("RIVET_DEMO_FOLDER", ROOT / ".demo")).absolute()
LAKE = FOLDER / "lake"
LOGS = FOLDER / "logs"

_HOME = FOLDER / "dagster"


@dataclass(frozen=True)
class Stage:
    """The demo's running database and what its code location has to know.

    Attributes:
        server: with all tables loaded.
        environment: variables that definitions.py reads.
    """

    server: EmbeddedPostgres
    environment: dict[str, str]

    def services(self, port: int | None = None) -> DagsterServices:
        """Dagster's services over the demo's definitions; not started yet."""
        return DagsterServices(ROOT / "definitions.py", home=_HOME, logs=LOGS, environment=self.environment, port=port)


@contextlib.contextmanager
def open_stage() -> Iterator[Stage]:
    """Start the database, fill it where it is not filled, and configure Dagster; the database ends with the context.

    Raises:
        DemoError: another process has the stage, or something does not start.
    """
    for folder in (LAKE, LOGS, _HOME):
        folder.mkdir(parents=True, exist_ok=True)
    with _alone(), EmbeddedPostgres(FOLDER / "postgres", password=_kept_password()) as server:
        reader_password = secrets.token_urlsafe()
        data.load(server, reader_password)
        shutil.copyfile(Path(__file__).with_name("dagster.yaml"), _HOME / "dagster.yaml")
        yield Stage(
            server,
            {"RIVET_DEMO_DSN": data.reader_dsn(server, reader_password), "RIVET_DEMO_LAKE": str(LAKE)},
        )


def run_to_exit(main: Callable[[Console], None]) -> None:
    """Run `main` and end the process: with 0, or with 1 and a short message where the demo fails.

    Ctrl-C and SIGTERM stop in order what was started, and end the process with 130.
    """
    console = Console(highlight=False)

    def interrupt(*_: object) -> None:
        # Stopping takes seconds, each step of it is bounded: a second Ctrl-C would only leave processes behind.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        console.print("Stopping ...")
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        main(console)
    except KeyboardInterrupt:
        sys.exit(130)
    except (DemoError, psycopg.Error, OSError) as error:
        console.print("[bold red]The demo failed.[/]")
        console.print(str(error), markup=False, soft_wrap=True)
        console.print(f"Logs: {os.path.relpath(LOGS)}")
        sys.exit(1)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Keep other processes off the folder: two daemons over one instance would disturb each other."""
    with (FOLDER / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoError("The demo runs already: stop the other `make demo` or `make ui` first.") from None
        yield


def _kept_password() -> str:
    """The superuser's password, made up once: anybody on this machine can reach the port."""
    path = FOLDER / "postgres.password"
    if not path.exists():
        with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(secrets.token_urlsafe())
    return path.read_text()
