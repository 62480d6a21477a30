"""The arguments of a function or dataclass of the package, read from its source as text.

So the command line knows what `sweep` takes, with its defaults and its words, before anything heavy
is imported: help must come at once.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Argument", "arguments", "names_in"]

_PACKAGE = Path(__file__).resolve().parents[1]
_Definition = ast.FunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Argument:
    """An argument, as the signature and the docstring have it.

    Attributes
    ----------
    name : str
    kind : str
        Its type in the docstring, such as ``"sequence of int"``.
    default : str or None
        As it is written, a constant of the same file by its value; None where there is none.
    words : str
        Its description in one line.
    """

    name: str
    kind: str
    default: str | None
    words: str


def arguments(room: str, name: str) -> dict[str, Argument]:
    """Read the arguments of a function, or the fields of a dataclass.

    Parameters
    ----------
    room : str
        Its folder in the package, such as ``"core/sweep"``.
    name : str

    Examples
    --------
    >>> found = arguments("core/sweep", "sweep")
    >>> found["draws"].default, found["draws"].kind, found["epochs"].kind
    ('3', 'int', 'sequence of int, optional')
    """
    file, definition = _definition(_PACKAGE / room, name)
    constants = {
        ast.unparse(target): ast.unparse(node.value)
        for node in file.body
        if isinstance(node, ast.Assign)
        for target in node.targets
    }
    documented = dict(_documented(ast.get_docstring(definition) or ""))
    return {
        name: Argument(name, kind, constants.get(default or "", default), words)
        for name, default in _defaults(definition).items()
        for kind, words in [documented[name]]
    }


def names_in(room: str, variable: str = "__all__") -> list[str]:
    """Read the names that a room's ``_named.py`` lists, or gives to what it makes.

    Examples
    --------
    >>> "reinitialize" in names_in("core/perturb"), "error" in names_in("core/metrics", "METRICS")
    (True, True)
    """
    file = ast.parse((_PACKAGE / room / "_named.py").read_text(encoding="utf-8"))
    for node in file.body:
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if variable in map(ast.unparse, targets):
            listed = node.value.elts if isinstance(node.value, ast.List) else _firsts(node)
            names = [each.value for each in listed if isinstance(each, ast.Constant)]
            return [name for name in names if isinstance(name, str)]
    raise LookupError(f"{variable} is not in {room}")


def _firsts(node: ast.AST) -> list[ast.expr]:
    """List the first arguments of all calls."""
    calls = [each for each in ast.walk(node) if isinstance(each, ast.Call)]
    return [first for call in calls for first in call.args[:1]]


def _definition(room: Path, name: str) -> tuple[ast.Module, _Definition]:
    """Find where a function or class is defined, in whichever file of its room."""
    for path in sorted(room.glob("*.py")):
        file = ast.parse(path.read_text(encoding="utf-8"))
        for node in file.body:
            if isinstance(node, _Definition) and node.name == name:
                return file, node
    raise LookupError(f"{name} is not defined in {room}")


def _defaults(definition: _Definition) -> dict[str, str | None]:
    """Name the arguments in order, each with its default as it is written."""
    if isinstance(definition, ast.ClassDef):
        fields = [node for node in definition.body if isinstance(node, ast.AnnAssign)]
        return {ast.unparse(node.target): _written(node.value) for node in fields}
    given = definition.args
    names = [argument.arg for argument in (*given.posonlyargs, *given.args)]
    missing = [None] * (len(names) - len(given.defaults))
    found = dict(zip(names, map(_written, (*missing, *given.defaults)), strict=True))
    by_name = zip(given.kwonlyargs, given.kw_defaults, strict=True)
    return found | {argument.arg: _written(default) for argument, default in by_name}


def _written(default: ast.expr | None) -> str | None:
    return None if default is None else ast.unparse(default)


def _documented(docstring: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """Read the section on parameters: of each its name, its type and its words."""
    _, _, section = docstring.partition("Parameters\n----------\n")
    section = re.split(r"\n\n?\w[\w ]*\n---+\n", section)[0]
    for entry in re.split(r"\n(?=\S)", section):
        head, *lines = entry.splitlines()
        names, _, kind = head.partition(" : ")
        words = " ".join(inspect.cleandoc("\n".join(lines)).split())
        for name in names.split(", "):
            yield name, (kind, words)
