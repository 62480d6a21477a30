"""Docstrings begin with what a thing is or does, in the field's words."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

from numpydoc.docscrape import NumpyDocString

import layerscope

PACKAGE = Path(__file__).resolve().parents[1] / "layerscope"

# "Whether …" and "What …" ask where a docstring should say; "Of the JSON." is no sentence.
OPENING = re.compile(r"(What|Whether|Of|The same)\b")


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
    assert found == []


def _public() -> dict[str, object]:
    """Functions and classes that users may import, by the names that lead to them."""
    found: dict[str, object] = {}
    for name in layerscope.__all__:
        thing = getattr(layerscope, name)
        inside = getattr(thing, "__all__", ()) if inspect.ismodule(thing) else ()
        things = [getattr(thing, each) for each in inside] or [thing]
        for each in filter(callable, things):
            if getattr(each, "__module__", "").startswith("layerscope"):
                found[f"{each.__module__}.{each.__qualname__}"] = each
    return found


def _arguments(thing: object) -> set[str]:
    if getattr(thing, "_is_protocol", False):  # nobody calls it
        return set()
    try:
        return {name for name in inspect.signature(thing).parameters if not name.startswith("_")}
    except ValueError:  # a subclass of dict has none
        return set()


def _unsaid(thing: object) -> set[str]:
    """Arguments that neither Parameters nor, of a class of values, Attributes names."""
    said = NumpyDocString(inspect.getdoc(thing) or "")
    names = ", ".join(each.name for part in ("Parameters", "Attributes") for each in said[part])
    return _arguments(thing) - {name.strip().lstrip("*") for name in names.split(",")}


def test_public_things_document_all_their_arguments():
    """Of a single argument the summary may say what there is to say."""
    found = {
        name: sorted(_unsaid(thing))
        for name, thing in sorted(_public().items())
        if len(_arguments(thing)) > 1 and _unsaid(thing)
    }
    assert found == {}
