"""Modules import leftwards only, stay small, and nothing heavy is loaded before it is needed."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "layerscope"

ORDER = [
    "errors", "validate", "seeds", "progress", "undoing", "devices", "data", "models", "layers",
    "results", "files", "checkpoints", "distances", "metrics", "borrow", "recorders", "training",
    "perturb", "store", "reuse", "sequential", "engine", "testing", "stats", "session", "analyses",
    "reference", "plots", "report", "widgets", "experiments", "reproduce", "explore", "batch",
    "gallery", "smoke", "arguments", "cli",
]  # fmt: skip

# May be imported by anything; imports nothing of the package.
FREE = {"_version"}

LONGEST = 450

HEAVY = [
    "torch", "xarray", "holoviews", "matplotlib", "pandas", "scipy", "bokeh",
    "lightning", "transformers", "huggingface_hub",
]  # fmt: skip


def part(path: Path) -> str:
    """The module, or the sub-package, that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]
PARTS = sorted({part(path) for path in FILES} - FREE)


def imported(path: Path) -> set[str]:
    """The parts of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            if node.module == "layerscope":
                found |= {alias.name for alias in node.names}
            elif node.module and node.module.startswith("layerscope."):
                found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            found |= {name[1] for name in names if name[0] == "layerscope" and len(name) > 1}
            assert ["layerscope"] not in names, f"{path.name} imports the whole package"
    return found


def test_every_module_has_its_place():
    assert set(PARTS) <= set(ORDER), "give new modules their place in ORDER"
    assert len(set(ORDER)) == len(ORDER)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_import_only_what_stands_to_their_left(path):
    name = part(path)
    allowed = set() if name in FREE else set(ORDER[: ORDER.index(name)]) | FREE | {name}
    assert imported(path) <= allowed


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_are_short_enough_to_read(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize("module", ["layerscope", "layerscope.errors", "layerscope.cli"])
def test_importing_loads_nothing_heavy(module, repository):
    code = f"import sys, {module}; print(*(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_every_public_name_is_there():
    import layerscope

    for name in layerscope.__all__:
        assert getattr(layerscope, name) is not None
    assert dir(layerscope) == layerscope.__all__
    with pytest.raises(AttributeError, match="no attribute 'sweeep'"):
        _ = layerscope.sweeep
    for name in PARTS:
        module = importlib.import_module(f"layerscope.{name}")
        for public in module.__all__:
            assert hasattr(module, public), f"{name}.{public}"
