"""The layers of docs/architecture.md: imports may only point down, and the lower ones know no Dagster."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "rivet_dagster"

# From the top. A module may import from its own layer and from those below it.
LAYERS = ("dagster", "export", "sources", "wire", "formats", "stores", "_jit", "_jit_cache", "_memory", "errors")
# Layers that stand side by side: none of them may import from another.
APART = {("wire", "formats"), ("wire", "stores"), ("sources", "formats"), ("sources", "stores"), ("formats", "stores")}

MODULES = sorted(PACKAGE.rglob("*.py"))


def layer_of(dotted: str) -> str:
    parts = dotted.split(".")
    second = parts[1] if len(parts) > 1 else ""
    return second if second in LAYERS else "dagster"


def imported(path: Path) -> set[str]:
    """Dotted names of every module that a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    own = layer_of("rivet_dagster." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts))
    for name in imported(path):
        if not name.startswith("rivet_dagster."):
            continue
        other = layer_of(name)
        assert LAYERS.index(other) >= LAYERS.index(own), f"{path.name} ({own}) imports {name}, which is above it"
        assert not {(own, other), (other, own)} & APART, f"{own} and {other} must not know each other"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_top_layer_knows_dagster(path: Path) -> None:
    inner = path.relative_to(PACKAGE).parts[0] in LAYERS
    assert not (inner and any(name.split(".")[0].startswith("dagster") for name in imported(path)))


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.name)
def test_no_postponed_annotations_where_dagster_reads_them(path: Path) -> None:
    private = {"_compat.py", "_interrupts.py", "_jit.py", "_jit_cache.py", "_memory.py"}
    if path.name in {"__init__.py", "cli.py", "cli_upkeep.py", "errors.py", *private}:
        return
    assert "from __future__ import annotations" not in path.read_text()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_stay_readable(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 500
