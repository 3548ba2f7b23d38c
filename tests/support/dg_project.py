"""A project of Dagster components, with the real `dg` commands."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from pydantic import PydanticDeprecatedSince20

from rivet_dagster import RivetExportComponent


@contextmanager
def quietly() -> Iterator[None]:
    """Without the warnings that Dagster's loader of components gives of its own code."""
    with warnings.catch_warnings():
        for category in (dg.PreviewWarning, dg.BetaWarning, PydanticDeprecatedSince20):
            warnings.simplefilter("ignore", category)
        yield


class Project:
    """A project as `create-dagster` lays it out, and what a user does in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # Modules stay loaded from test to test, so each project has a module of its own.
        self.module = f"shop_{uuid.uuid4().hex}"
        self.defs = root / "src" / self.module / "defs"
        self.defs.mkdir(parents=True)
        (root / "home").mkdir()
        (root / "home/dagster.yaml").write_text("telemetry: {enabled: false}\n")
        (root / "pyproject.toml").write_text(
            f'[project]\nname = "shop"\nversion = "1"\n\n[tool.dg]\ndirectory_type = "project"\n\n'
            f'[tool.dg.project]\nroot_module = "{self.module}"\n'
        )
        (self.defs.parent / "__init__.py").touch()
        (self.defs.parent / "definitions.py").write_text(
            "from pathlib import Path\n\nimport dagster as dg\n\n\n"
            "@dg.definitions\ndef defs():\n"
            "    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)\n"
        )

    def dg(self, *arguments: str, fails: bool = False, **variables: str) -> str:
        """Everything that a `dg` command printed."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root / "home"),
            "DAGSTER_HOME": str(self.root / "home"),
            "PYTHONPATH": str(self.root / "src"),
            **variables,
        }
        command = [str(Path(sys.executable).with_name("dg")), *arguments]
        done = subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    def declare(self, text: str, name: str = "lake") -> Path:
        folder = self.defs / name
        folder.mkdir(exist_ok=True)
        (folder / "defs.yaml").write_text(text)
        return folder / "defs.yaml"

    def load(self) -> dg.Definitions:
        """The project's definitions, as a code location loads them."""
        with quietly():
            return dg.ComponentTree.for_project(self.root).build_defs()

    def component(self) -> RivetExportComponent:
        """What the only declaration was read as."""
        with quietly():
            (found,) = dg.ComponentTree.for_project(self.root).get_all_components(of_type=RivetExportComponent)
        return found

    def specs(self) -> dict[str, dg.AssetSpec]:
        return {spec.key.to_user_string(): spec for spec in self.load().resolve_all_asset_specs()}
