"""The docs say what the code does: links lead somewhere, codes are listed, dependencies have their reasons."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib  # type: ignore[no-redef]

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_error_code_is_explained() -> None:
    code = "".join(path.read_text() for path in (ROOT / "rivet_dagster").rglob("*.py"))
    raised = set(re.findall(r'"(RIVET_[A-Z_]+)"', code)) - {"RIVET_SPOOL_DIR", "RIVET_SOURCE"}  # variables
    explained = set(re.findall(r"^\| `(RIVET_[A-Z_]+)`", (ROOT / "docs/reference/errors.md").read_text(), re.MULTILINE))
    assert raised == explained


def test_every_dependency_has_a_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["postgres"]]
    page = (ROOT / "docs/dependencies.md").read_text()
    for requirement in wanted:
        name = re.split(r"[\[<>=]", requirement)[0]
        assert re.search(rf"^\| [^|]*\b{name}\b", page, re.MULTILINE), name


def test_the_destination_page_names_every_field_of_the_seal() -> None:
    from rivet_dagster.export.documents import ExportManifest

    page = (ROOT / "docs/reference/destination.md").read_text()
    assert all(f"`{name}" in page for name in ExportManifest.model_fields)


def test_no_machine_and_no_registry_is_named() -> None:
    for path in ROOT.rglob("*"):
        inner = path.relative_to(ROOT).parts
        if path.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in inner):
            text = path.read_bytes()
            assert b"files.pythonhosted" not in text or path == Path(__file__), path
