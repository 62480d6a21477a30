"""The code in a page: found, made into cells that are executed, and read for the names it uses.

Pages are plain Markdown, which a repository's host shows as it is. Every block of Python is
executed when the site is built, unless the line above it says where else it is run, or that it is
not. What a page takes for granted stands in a comment, is executed, and is not shown::

    <!-- setup
    network = models.build("fcn-2x16")
    -->
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["Block", "as_cells", "commands", "find", "names_used", "title"]

_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>not run|run in [\w/.-]+) -->\n)?```python\n(?P<code>.*?)^```$"
    r"|^<!-- setup\n(?P<setup>.*?)^-->$",
    re.MULTILINE | re.DOTALL,
)
_TOP = "---\nfile_format: mystnb\nkernelspec: {name: python3}\n---\n"
_HIDDEN = ":tags: [remove-cell]\n"


@dataclass(frozen=True)
class Block:
    """Python in a page."""

    code: str
    run: bool  # when the site is built
    shown: bool


def find(text: str) -> list[Block]:
    """Find the Python in a page, in its order."""
    return [_block(match) for match in _BLOCK.finditer(text)]


def _block(match: re.Match[str]) -> Block:
    hidden = match["setup"]
    return Block(match["code"] or hidden, match["mark"] is None, shown=hidden is None)


def as_cells(text: str) -> str:
    """Make a page into a notebook in MyST's form; one without Python that runs stays as it is."""
    if not any(block.run for block in find(text)):
        return text
    return _TOP + _BLOCK.sub(_cell, text)


def _cell(match: re.Match[str]) -> str:
    block = _block(match)
    if not block.run:
        return match[0]
    return f"```{{code-cell}} python\n{'' if block.shown else _HIDDEN}{block.code}```"


def title(text: str) -> str:
    """Find the first heading of a page."""
    match = re.search(r"^# (.+)$", text, re.MULTILINE)
    return match[1] if match else ""


def commands(text: str) -> list[str]:
    """Find the commands of layerscope that a page shows, indented, as one types them."""
    found = re.findall(r"^    layerscope ([^\n#]*?)(?: +#.*)?$", text, re.MULTILINE)
    return [command for command in found if "…" not in command]


def names_used(code: Iterable[str]) -> set[str]:
    """List the names under `layerscope` that pieces of code use, such as ``layerscope.sweep``."""
    alias: dict[str, str] = {}
    found = set()
    for tree in map(ast.parse, code):
        for node in ast.walk(tree):
            for name, at in _imported(node):
                alias[name] = at
                found.add(at)
        for node in ast.walk(tree):
            dotted = _dotted(node)
            if dotted and dotted[0] in alias:
                found.add(".".join((alias[dotted[0]], *dotted[1:])))
    return found - {"layerscope"}


def _imported(node: ast.AST) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Import):
        for each in node.names:
            if each.name == "layerscope":
                yield each.asname or each.name, each.name
    if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "layerscope":
        for each in node.names:
            yield each.asname or each.name, f"{node.module}.{each.name}"


def _dotted(node: ast.AST) -> list[str]:
    """Take ``a.b.c`` apart; anything else has no names."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    return [node.id, *names] if isinstance(node, ast.Name) and names else []
