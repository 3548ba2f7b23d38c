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
import pymysql
from rich.console import Console

from demo import DemoError
from demo.engines import DEFAULT, Engine, EngineError, chosen_engine
from demo.services import DagsterServices

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(os.environ.get("RIVET_DEMO_FOLDER", ROOT / ".demo")).absolute()


@dataclass(frozen=True)
class Stage:
    """The demo's running database and what its code location has to know.

    Attributes:
        engine: the database's, with all tables loaded.
        folder: where everything of this engine's demo is kept.
        environment: variables that definitions.py reads.
    """

    engine: Engine
    folder: Path
    environment: dict[str, str]

    @property
    def lake(self) -> Path:
        """Folder that the tables are exported to."""
        return self.folder / "lake"

    def services(self, port: int | None = None) -> DagsterServices:
        """Dagster's services over the demo's definitions; not started yet."""
        return DagsterServices(
            ROOT / "definitions.py",
            home=self.folder / "dagster",
            logs=self.folder / "logs",
            environment=self.environment,
            port=port,
        )


@contextlib.contextmanager
def open_stage() -> Iterator[Stage]:
    """Start the database, fill it where it is not filled, and configure Dagster; the database ends with the context.

    Raises:
        DemoError: another process has the stage, or something does not start.
    """
    engine = chosen_engine()
    folder = _folder(engine)
    for name in ("lake", "logs", "dagster"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with _alone(folder), engine.open(folder / engine.name, _kept_password(folder, engine)) as dsn:
        shutil.copyfile(Path(__file__).with_name("dagster.yaml"), folder / "dagster" / "dagster.yaml")
        variables = {
            "RIVET_DEMO_DSN": dsn,
            "RIVET_DEMO_SCHEMA": engine.schema,
            "RIVET_DEMO_LAKE": str(folder / "lake"),
        }
        yield Stage(engine, folder, variables)


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
    except (DemoError, psycopg.Error, pymysql.MySQLError, OSError) as error:
        console.print("[bold red]The demo failed.[/]")
        console.print(str(error), markup=False, soft_wrap=True)
        if not isinstance(error, EngineError):
            console.print(f"Logs: {os.path.relpath(_folder(chosen_engine()) / 'logs')}")
        sys.exit(1)


def _folder(engine: Engine) -> Path:
    """Where everything of one engine's demo is kept: the default one's has the others' beside its own."""
    return FOLDER if engine.name == DEFAULT else FOLDER / engine.name


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes off the folder: two daemons over one instance would disturb each other."""
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoError("The demo runs already: stop the other `make demo` or `make ui` first.") from None
        yield


def _kept_password(folder: Path, engine: Engine) -> str:
    """The superuser's password, made up once: anybody on this machine can reach the port."""
    path = folder / f"{engine.name}.password"
    if not path.exists():
        with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(secrets.token_urlsafe())
    return path.read_text()
