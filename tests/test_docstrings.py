"""Docstrings begin with what a thing is or does, in the field's words."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "layerscope"

# "Whether …" and "What …" ask where a docstring should say; "Of the JSON." is no sentence.
OPENING = re.compile(r"(What|Whether|Of|The same)\b")

# How many there are still, by wing. Only ever less.
LEFT = {
    "base": 3,
    "cli": 1,
    "core": 109,
    "errors": 2,
    "jupyter": 12,
    "paper": 29,
    "plots": 7,
    "report": 3,
    "results": 8,
    "stats": 5,
    "zoo": 31,
}


def wing(path: Path) -> str:
    """The first name below the package: ``core``, ``errors``."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def openings() -> list[tuple[Path, str]]:
    """Every docstring that begins so, with its file."""
    documented = (ast.FunctionDef, ast.ClassDef, ast.Module)
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = ast.get_docstring(node) if isinstance(node, documented) else None
            if text and OPENING.match(text):
                found.append((path, text.splitlines()[0]))
    return found


def test_docstrings_begin_with_what_a_thing_is_or_does():
    found = openings()
    counts = Counter(wing(path) for path, _ in found)
    more = {name: count for name, count in counts.items() if count > LEFT.get(name, 0)}
    assert not more, [f"{path.name}: {line}" for path, line in found if wing(path) in more]
