"""What Sphinx is told: pages become notebooks, names in backticks links, the API is written."""

from __future__ import annotations

import importlib
import inspect
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from docutils.utils import unescape
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

from . import adopted, blocks, exported, pages, reference

__all__ = ["setup"]

_ADOPTED = ("project/", "runs/")


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect everything."""
    app.connect("config-inited", _prepare)
    app.connect("source-read", _read)
    app.connect("missing-reference", _leave_plain)
    app.add_role("name", _name)
    app.add_directive("docstring", _Docstring)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _prepare(app: Sphinx, config: Config) -> None:
    """Write the pages that are made, before Sphinx looks which there are."""
    del app, config
    adopted.adopt_all()
    exported.export()
    reference.write(adopted.DOCS / "api", examples())


def examples() -> dict[str, list[str]]:
    """Find the pages that use a public name: written ones, then one run of each notebook."""
    found: dict[str, list[str]] = defaultdict(list)
    names = {each.name for each in reference.public()}
    for page, code in (*_pages(), *_notebooks()):
        for name in blocks.names_used(code) & names:
            found[name].append(page)
    return found


def _pages() -> Iterator[tuple[str, list[str]]]:
    for path in sorted(adopted.DOCS.rglob("*.md")):
        page = path.relative_to(adopted.DOCS).with_suffix("").as_posix()
        if not page.startswith(("api/", *_ADOPTED)):
            text = pages.expand(path.read_text(encoding="utf-8"))
            yield page, [block.code for block in blocks.find(text) if block.shown]


def _notebooks() -> Iterator[tuple[str, list[str]]]:
    sources = {Path(source).name: source for source in reversed(adopted.adopt_notebooks())}
    made = {source: adopted.adopt_notebooks()[source] for source in sources.values()}
    quickstart = {source: page for source, page in adopted.PAGES.items() if "ipynb" in source}
    for source, page in sorted((quickstart | made).items(), key=lambda pair: Path(pair[0]).name):
        cells = json.loads((adopted.ROOT / source).read_text(encoding="utf-8"))["cells"]
        code = ["".join(each["source"]) for each in cells if each["cell_type"] == "code"]
        yield page.removesuffix(".ipynb"), code


def _read(app: Sphinx, page: str, source: list[str]) -> None:
    """Make Markdown into what MyST-NB executes; pages from elsewhere are run where they stand."""
    if app.env.doc2path(page).suffix == ".md":
        text = pages.expand(source[0])
        source[0] = text if page.startswith(_ADOPTED) else blocks.as_cells(text)


class _Docstring(SphinxDirective):
    """The docstring of a module, without a heading of its own."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        text = reference.told(importlib.import_module(self.arguments[0]))
        box = nodes.container()
        self.state.nested_parse(StringList(text.splitlines(), self.arguments[0]), 0, box)
        return list(box.children)


def _name(
    role: str, raw: str, text: str, line: int, inliner: Any, options: Any = None, content: Any = ()
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """Link a name in single backticks, as docstrings have them, where it is a public one."""
    del role, line, options, content
    env: BuildEnvironment = inliner.document.settings.env
    text = unescape(text)
    goal = _goal(text, env.ref_context.get("py:module") or "layerscope")
    shown = nodes.literal(raw, text, classes=["py"])
    if goal is None:
        return [shown], []
    link = pending_xref(
        "", shown, refdomain="py", reftype="obj", reftarget=goal, refexplicit=True, refwarn=True
    )
    link["refdoc"] = env.docname
    return [link], []


def _goal(text: str, module: str) -> str | None:
    """Find the public name meant: in the same module, at the top, or the only one called so.

    A module by its bare name is none: `metrics` and `checkpoints` are arguments, too.
    """
    bare = "." not in text
    names = {
        each.name for each in reference.public() if not (bare and inspect.ismodule(each.thing))
    }
    wanted = text.removeprefix("layerscope.").removesuffix("()")
    for name in (f"{module}.{wanted}", f"layerscope.{wanted}"):
        if name in names:
            return name
    only = [name for name in names if name.endswith(f".{wanted}")]
    return only[0] if len(only) == 1 else None


def _leave_plain(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element
) -> nodes.Element | None:
    """Pass over types of other packages: their pages are elsewhere, and this is built offline."""
    del app, env
    foreign = node.get("reftype") in ("class", "obj", "exc") and not _ours(node["reftarget"])
    return content if foreign else None


def _ours(target: str) -> bool:
    return target.startswith("layerscope")
