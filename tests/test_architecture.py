"""Modules import leftwards only, stay small, and nothing heavy is loaded before it is needed."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "layerscope"

# Each wing imports only wings before it; and each room of `ROOMS`, only rooms before it.
WINGS = ["errors", "base", "results", "stats", "plots", "report", "core", "testing", "zoo",
         "jupyter", "paper", "cli", "__main__"]  # fmt: skip

ROOMS = {
    "base": ["tensors", "fingerprints", "copies", "extras", "memory", "literals", "validate",
             "files", "notebooks", "templates", "undoing", "owners", "writing", "seeds",
             "progress", "devices"],
    "core": ["batches", "layers", "checkpoints", "networks", "running", "metrics", "perturb",
             "plain", "lending", "reuse", "stopping", "probe", "measures", "sweep",
             "drilling", "pruning", "session", "export"],
    "zoo": ["models", "data", "recorders", "training"],
    "paper": ["rules", "analyses", "reference", "experiments", "reproduce", "batch", "gallery"],
}  # fmt: skip

# May be imported by anything; imports nothing of the package.
FREE = {"_version"}

LONGEST = 450

# Imports of another room's underscored files, by wing of the file that imports. Only ever less.
UNDERSCORED: dict[str, int] = {}

# Names in `layerscope.__all__` that are no modules, and in all of its public modules together.
AT_THE_TOP = 19
PUBLIC = 221

HEAVY = [
    "torch", "xarray", "holoviews", "matplotlib", "pandas", "scipy", "bokeh",
    "lightning", "transformers", "huggingface_hub",
]  # fmt: skip


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def parts(path: Path) -> tuple[str, ...]:
    """The names that lead to a module."""
    names = path.relative_to(PACKAGE).with_suffix("").parts
    return names[:-1] if names[-1] == "__init__" else names


def imported(path: Path) -> set[tuple[str, ...]]:
    """What a file imports of the package, anywhere in it, each as the names that lead to it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            if node.module and node.module.split(".")[0] == "layerscope":
                base = tuple(node.module.split(".")[1:])
                found |= {(*base, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
            found |= {name[1:] for name in names if name[0] == "layerscope" and len(name) > 1}
            assert ("layerscope",) not in names, f"{path.name} imports the whole package"
    return found


def forbidden(path: Path) -> list[str]:
    """What a file imports that does not stand before it."""
    wing, *rest = parts(path)
    found = []
    for name in sorted(imported(path)):
        if name[0] in FREE:
            continue
        earlier = WINGS[: WINGS.index(wing)] if wing not in FREE else []
        inside = name[0] == wing and (
            wing not in ROOMS or not rest or name[1] == rest[0]
            or name[1] in ROOMS[wing][: ROOMS[wing].index(rest[0])]
        )  # fmt: skip
        if name[0] not in earlier and not inside:
            found.append(".".join(name))
    return found


def test_every_module_has_its_place():
    assert {parts(path)[0] for path in FILES} - FREE == set(WINGS)
    for wing, rooms in ROOMS.items():
        held = {parts(path)[1] for path in FILES if parts(path)[0] == wing and parts(path)[1:]}
        assert held == set(rooms), wing


def test_modules_import_only_what_stands_before_them():
    wrong = {str(path.relative_to(PACKAGE)): forbidden(path) for path in FILES}
    assert {name: found for name, found in wrong.items() if found} == {}


def room(names: tuple[str, ...]) -> tuple[str, ...]:
    """The room that a module or name belongs to: its wing, where that has no rooms."""
    return names[: 2 if names[0] in ROOMS else 1]


def past_the_face(path: Path) -> list[str]:
    """What a file imports of another room's underscored files or names."""
    return [
        ".".join(name)
        for name in sorted(imported(path))
        if name[0] not in FREE and room(name) != room(parts(path))
        and any(part.startswith("_") for part in name[len(room(name)) :])
    ]  # fmt: skip


def test_a_room_is_entered_by_its_face():
    found = {str(path.relative_to(PACKAGE)): past_the_face(path) for path in FILES}
    assert {name: imports for name, imports in found.items() if imports} == {}


def test_modules_are_short_enough_to_read():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {str(path): length for path, length in lengths.items() if length > LONGEST} == {}


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


def test_public_names_are_few():
    import layerscope

    there = {name: getattr(layerscope, name) for name in layerscope.__all__}
    modules = {name: thing for name, thing in there.items() if isinstance(thing, ModuleType)}
    assert len(there) - len(modules) <= AT_THE_TOP
    counts = {name: len(module.__all__) for name, module in modules.items()}
    assert sum(counts.values()) <= PUBLIC, counts


def test_every_module_has_what_it_calls_public():
    for path in FILES:
        if path.name == "__main__.py":
            continue
        module = importlib.import_module(".".join(("layerscope", *parts(path))))
        for public in getattr(module, "__all__", ()):
            assert hasattr(module, public), f"{path}.{public}"
