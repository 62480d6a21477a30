"""All HTML comes from templates, which escape; nothing else in the package writes any."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from layerscope import plots, testing
from layerscope.base import templates

PACKAGE = Path(templates.__file__).parents[1]
# Markdown, in which HTML is escaped because it may hold some.
MARKDOWN = PACKAGE / "paper" / "gallery" / "_markdown.py"


def texts(path):
    """The texts in a file's code, without docstrings and comments."""
    tree = ast.parse(path.read_text("utf-8"))
    said = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said
    ]


def test_no_code_writes_html():
    wrong = [
        f"{path.relative_to(PACKAGE)}: {text!r}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != MARKDOWN
        for text in texts(path)
        if re.search(r"</\w|<(a|b|br|div|img|p|span|table|td|th|tr)\b[^>]*>", text)
    ]
    assert wrong == []
    html = [path for path in PACKAGE.rglob("*.py") if "import html" in path.read_text("utf-8")]
    assert html in ([], [MARKDOWN])


def test_templates_call_nothing_safe_on_their_own():
    paths = sorted(PACKAGE.rglob("*.jinja"))
    assert {path.parent.name for path in paths} == {"templates"}
    for path in paths:
        assert not re.search(r"\bsafe\b|autoescape", path.read_text("utf-8")), path


@pytest.mark.parametrize("odd", ['<b a="1">', "a'b & $c$", "{{ 7 * 7 }}", "{% include 'x' %}"])
def test_what_is_put_in_is_text(odd):
    page = templates.render("plots/templates/picture.html.jinja", title=odd, picture="")
    assert page.count(str(templates.escape(odd))) == 2
    assert "<b" not in page.replace("<body", "")


def test_what_is_missing_is_an_error_not_blank():
    with pytest.raises(UndefinedError, match="picture"):
        templates.render("plots/templates/picture.html.jinja", title="a")


def test_names_break_between_their_components_alone():
    assert templates.render("report/templates/settings.html.jinja", rows=[], everything="")
    table = templates.call(
        "report/templates/parts.html.jinja",
        "table",
        columns=["a.b"],
        rows=[["encoder.layers.0.self_attn", "<i>.x", "0.25", "out_proj"]],
    )
    assert "<td>encoder.<wbr>layers.0.<wbr>self_attn</td>" in table
    assert "<td>&lt;i&gt;.<wbr>x</td><td>0.25</td><td>out_<wbr>proj</td>" in table


def test_pieces_of_a_page_of_ones_own_are_plain_text():
    """A str that escapes what is put before it would spoil the user's own HTML."""
    assert type(plots.library()) is str
    assert type(plots.embed(plots.heatmap(testing.dataset(layers=1, epochs=(0, 5))))) is str
