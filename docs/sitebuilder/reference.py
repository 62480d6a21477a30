"""The pages of the API: one for every public module, one for every public name."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import layerscope

__all__ = ["Public", "public", "told", "write"]

# Users import from these, too, which `layerscope` itself does not list.
_BESIDE = ("layerscope.errors", "layerscope.zoo.recorders")


class Public(NamedTuple):
    """Something that users import, by the name under which they find it."""

    name: str  # layerscope.plots.heatmap
    thing: object

    @property
    def module(self) -> str:
        """The public module that it is found in."""
        return self.name.rpartition(".")[0]

    @property
    def last(self) -> str:
        """Its name in there."""
        return self.name.rpartition(".")[2]


@functools.cache
def public() -> list[Public]:
    """List what `layerscope` has, and each of its public modules."""
    found = []
    for name in layerscope.__all__:
        thing = getattr(layerscope, name)
        found.append(Public(f"layerscope.{name}", thing))
        if inspect.ismodule(thing):
            found += _inside(f"layerscope.{name}", thing)
    for module in _BESIDE:
        thing = importlib.import_module(module)
        found += [Public(module, thing), *_inside(module, thing)]
    return found


def _inside(module: str, thing: ModuleType) -> list[Public]:
    return [Public(f"{module}.{name}", getattr(thing, name)) for name in thing.__all__]


def write(folder: Path, used: Mapping[str, Sequence[str]]) -> None:
    """Write the pages into a folder; `used` says which pages of the site use a name."""
    folder.mkdir(exist_ok=True)
    names = public()
    pages = {"index": _index(names)}
    for each in names:
        page = _module(each) if isinstance(each.thing, ModuleType) else _entry(each)
        pages[each.name] = page + _used(used.get(each.name, ()))
    for name, text in pages.items():
        _write(folder / f"{name}.rst", text)
    for path in folder.glob("*.rst"):
        if path.stem not in pages:
            path.unlink()


def _write(path: Path, text: str) -> None:
    """Leave a page alone that would be the same, so that Sphinx need not read it again."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def _index(names: Sequence[Public]) -> str:
    at_top = [each for each in names if each.module == "layerscope"]
    plain = [each.last for each in at_top if not isinstance(each.thing, ModuleType)]
    modules = [each for each in names if isinstance(each.thing, ModuleType)]
    rows = "\n".join(
        f"   * - :doc:`{each.name} <{each.name}>`\n     - {_first(each.thing)}" for each in modules
    )
    return (
        f"{_heading('API')}Everything that users import. Anything else may change without notice.\n"
        f"\n{_heading('layerscope', '-')}{_table(plain, 'layerscope')}\n{_heading('Modules', '-')}"
        "Written ``from layerscope import plots``.\n\n"
        f".. list-table::\n   :widths: 30 70\n\n{rows}\n\n{_toctree(each.name for each in modules)}"
    )


def _module(each: Public) -> str:
    names = getattr(each.thing, "__all__", ())
    start = f"{_heading(each.name)}.. py:module:: {each.name}\n\n"
    return f"{start}{told(each.thing)}\n\n{_table(names, each.name)}"


def told(module: object) -> str:
    """Take the docstring of a module, whose sections are none of the page's."""
    text = inspect.getdoc(module) or ""
    return re.sub(r"^(Notes|References)\n-+$", r".. rubric:: \1\n", text, flags=re.MULTILINE)


def _entry(each: Public) -> str:
    start = f"{_heading(each.name)}.. currentmodule:: {each.module}\n\n"
    top = f"layerscope.{each.thing.__name__}" if hasattr(each.thing, "__name__") else ""
    if each.name != top and getattr(layerscope, top.rpartition(".")[2], None) is each.thing:
        kind = "class" if inspect.isclass(each.thing) else "function"
        return f"{start}.. py:{kind}:: {each.last}\n\n   Another name of :py:obj:`{top}`.\n"
    if inspect.isclass(each.thing):
        members = "" if issubclass(each.thing, BaseException) else "   :members:\n"
        return f"{start}.. autoclass:: {each.last}\n{members}"
    if inspect.isroutine(each.thing):
        return f"{start}.. autofunction:: {each.last}\n"
    return f"{start}.. py:data:: {each.last}\n\n{_indented(_remark(each))}\n"


def _used(pages: Sequence[str]) -> str:
    if not pages:
        return ""
    lines = "\n".join(f"- :doc:`/{page}`" for page in pages)
    return f"\n.. rubric:: Used in\n\n{lines}\n"


def _remark(each: Public) -> str:
    """Say of a constant what its source says below it, and what it holds."""
    held = each.thing if isinstance(each.thing, Mapping | tuple) else [repr(each.thing)]
    told = _texts_of_constants().get(each.last)
    return "\n\n".join(filter(None, (told, ", ".join(f"``{name}``" for name in held))))


@functools.cache
def _texts_of_constants() -> dict[str, str]:
    """Read the strings that stand below constants in the source, which Python drops."""
    found: dict[str, str] = {}
    for path in Path(layerscope.__file__).parent.rglob("*.py"):
        lines = ast.parse(path.read_text(encoding="utf-8")).body
        for line, below in itertools.pairwise(lines):
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                for name in _assigned(line):
                    found[name] = str(below.value.value)
    return found


def _assigned(line: ast.stmt) -> list[str]:
    targets = line.targets if isinstance(line, ast.Assign) else []
    targets = [line.target] if isinstance(line, ast.AnnAssign) else targets
    return [each.id for each in targets if isinstance(each, ast.Name)]


def _first(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n\n")[0].replace("\n", " ")


def _heading(text: str, under: str = "=") -> str:
    return f"{text}\n{under * len(text)}\n\n"


def _table(names: Sequence[str], module: str) -> str:
    """List names with their first sentences; each leads to its page."""
    if not names:
        return ""
    pages = "\n".join(f"   {module}.{name}" for name in names)
    rows = "\n".join(f"   ~{name}" for name in names)
    return (
        f".. currentmodule:: {module}\n\n.. autosummary::\n   :nosignatures:\n\n{rows}\n\n"
        f".. toctree::\n   :hidden:\n\n{pages}\n"
    )


def _toctree(names: Iterable[str]) -> str:
    rows = "\n".join(f"   {name}" for name in names)
    return f".. toctree::\n   :hidden:\n\n{rows}\n"


def _indented(text: str) -> str:
    return "\n".join(f"   {line}".rstrip() for line in text.splitlines())
