"""The docs say what the code does: links lead somewhere, codes are listed, dependencies have their reasons."""

from __future__ import annotations

import ast
import re
import sys
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
    raised = set(re.findall(r'"(RIVET_[A-Z_]+)"', code)) - {
        "RIVET_SPOOL_DIR",
        "RIVET_SOURCE",
        "RIVET_FAULT_ONCE",
    }  # variables
    explained = set(re.findall(r"^\| `(RIVET_[A-Z_]+)`", (ROOT / "docs/reference/errors.md").read_text(), re.MULTILINE))
    assert raised == explained


def test_every_dependency_has_a_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["postgres"]]
    page = (ROOT / "docs/dependencies.md").read_text()
    for requirement in wanted:
        name = re.split(r"[\[<>=]", requirement)[0]
        assert re.search(rf"^\| [^|]*\b{name}\b", page, re.MULTILINE), name


def test_every_package_that_is_imported_is_a_dependency() -> None:
    """What another package happens to bring may be gone with its next version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *extras["postgres"], *extras["mysql"]]
    known = {re.split(r"[\[<>=]", requirement)[0].lower() for requirement in declared} | {"rivet_dagster", "__future__"}
    imported: set[str] = set()
    for path in (ROOT / "rivet_dagster").rglob("*.py"):
        imported |= packages(ast.parse(path.read_text()))
    assert imported - set(sys.stdlib_module_names) <= known


def packages(tree: ast.AST) -> set[str]:
    """Packages that are imported when the code runs."""
    if isinstance(tree, ast.If) and ast.unparse(tree.test) == "TYPE_CHECKING":
        return set()
    names = [alias.name for alias in tree.names] if isinstance(tree, ast.Import) else []
    if isinstance(tree, ast.ImportFrom) and tree.module:
        names.append(tree.module)
    return {name.partition(".")[0] for name in names}.union(*map(packages, ast.iter_child_nodes(tree)))


def test_the_destination_page_names_every_field_of_documents() -> None:
    from rivet_dagster.export.documents import ExportManifest, PlannedWindow, PlanSegment, Replacement, WindowManifest
    from rivet_dagster.export.journal_entries import ENTRIES, JournalEntry
    from rivet_dagster.reload import ReloadRequest

    page = (ROOT / "docs/reference/destination.md").read_text()
    requests, _, rest = page.partition("## Plan segments")
    plans, _, rest = rest.partition("## Window manifests")
    windows, _, rest = rest.partition("## The seal")
    seal, _, journals = rest.partition("## Journals")
    for text, documents in (
        (requests, [ReloadRequest]),
        (plans, [PlanSegment, PlannedWindow]),
        (windows, [WindowManifest, Replacement]),
        (seal, [ExportManifest, Replacement]),
    ):
        for document in documents:
            assert [name for name in document.model_fields if f"`{name}" not in text] == []
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^\n]*)", journals, re.MULTILINE))
    assert rows.keys() == {entry.EVENT for entry in ENTRIES}
    for entry in ENTRIES:
        own = set(entry.model_fields) - set(JournalEntry.model_fields)
        assert [name for name in sorted(own) if f"`{name}`" not in rows[entry.EVENT]] == []


def test_links_to_headings_lead_to_headings() -> None:
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#\s:]*)#([^)\s]+)\)", page.read_text()):
            linked = (page.parent / target if target else page).read_text()
            titles = re.findall(r"^#+ (.*)$", linked, re.MULTILINE)
            assert anchor in {slug_of(title) for title in titles}, f"{page.name} links to {target}#{anchor}"


def slug_of(title: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


@pytest.mark.parametrize(
    ("page", "models"),
    [
        ("declare-in-yaml.md", ["Automation", "Extension", "Reload", "Schedule", "Checks"]),
        ("declare-in-python.md", ["RivetRunConfig", "RivetPlanConfig"]),
        ("govern-an-export.md", ["GovernorConfig", "QuietHours", "CriticalLoad", "HttpVeto"]),
    ],
)
def test_pages_name_every_field_of_what_they_explain(page: str, models: list[str]) -> None:
    from rivet_dagster import automation, checks, run_config
    from rivet_dagster.export import governing

    text = (ROOT / "docs/how-to" / page).read_text()
    explained = {**vars(automation), **vars(checks), **vars(run_config), **vars(governing)}
    fields = {name for model in models for name in explained[model].model_fields}
    assert fields
    assert [name for name in sorted(fields) if f"`{name}`" not in text] == []


def test_the_page_on_windows_has_every_type_and_option() -> None:
    from typing import get_args

    from rivet_dagster.export import config

    pages = "".join(
        (ROOT / "docs/how-to" / name).read_text()
        for name in ("choose-windows.md", "incremental-by-updated-at.md", "schedule-a-daily-slice.md")
    )
    for option in get_args(get_args(config.Windows)[0]):
        model = get_args(option)[0]
        assert f"`{model.model_fields['type'].default}`" in pages
        missing = [name for name in model.model_fields if not re.search(rf"\b{name}\b", pages)]
        assert missing == [], model.__name__


def test_the_readme_links_every_page() -> None:
    readme = (ROOT / "README.md").read_text()
    pages = [str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if f"]({page})" not in readme] == []


def test_every_name_that_the_package_offers_is_there() -> None:
    import rivet_dagster

    assert all(getattr(rivet_dagster, name).__name__ == name for name in rivet_dagster.__all__ if name[0] != "_")
    assert set(rivet_dagster._HOMES) | {"__version__"} == set(rivet_dagster.__all__)


def test_no_machine_and_no_registry_is_named() -> None:
    for path in ROOT.rglob("*"):
        inner = path.relative_to(ROOT).parts
        if path.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in inner):
            text = path.read_bytes()
            assert b"files.pythonhosted" not in text or path == Path(__file__), path
