"""Docstrings begin with what a thing is or does, in the field's words."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "layerscope"

# "Whether …" and "What …" ask where a docstring should say; "Of the JSON." is no sentence.
OPENING = re.compile(r"(What|Whether|Of|The same)\b")

# How many there are still. Only ever less.
LEFT = 36


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
    found = [f"{path.relative_to(PACKAGE)}: {line}" for path, line in openings()]
    assert len(found) <= LEFT, found
