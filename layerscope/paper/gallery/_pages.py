"""The gallery as HTML and as Markdown."""

from __future__ import annotations

import base64
import html
import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from layerscope.paper.gallery._runs import Run
from layerscope.report import _markup as markup

__all__ = ["as_html", "as_markdown"]

_TITLE = "The paper's experiments, run again"
_ABOUT = (
    "Each experiment asks one question of Zhang, Bengio and Singer, “Are All Layers Created "
    "Equal?” (JMLR 2022). This page is made from the runs' manifests by a command; where the paper "
    "and a run disagree, it says so."
)
_ANSWERS = {True: "yes", False: "no", None: "undecided"}
_KINDS = {True: "yes", False: "no", None: "open"}
_CLAIMS = ("the paper says", "we measured", "agrees?")
_PIXELS = 0.45  # of the screen, for one of a picture with 300 to the inch
_PICTURES = {".png": "image/png", ".svg": "image/svg+xml"}


def as_html(runs: Sequence[Run], base: Path) -> str:
    """Make a page with the figures in it; links are relative to the folder `base`."""
    rows = [
        [
            markup.link(f"#run{at}", f"{run.name}, {run.scale}"),
            markup.text(run.agreement),
            markup.text(run.finding),
        ]
        for at, run in enumerate(runs)
    ]
    parts = [
        markup.element("h1", _TITLE),
        markup.element("p", _ABOUT),
        markup.table(["run", "beside the paper", "finding"], rows),
    ]
    for at, run in enumerate(runs):
        parts += _html_run(run, f"run{at}", base)
    return markup.document(_TITLE, "", "\n".join(parts))


def _html_run(run: Run, anchor: str, base: Path) -> list[str]:
    parts = [
        "<section>",
        f'<h2 id="{anchor}">{markup.text(run.title)}</h2>',
        markup.element("p", f"{run.name}, scale {run.scale}", "note"),
        markup.element("p", run.finding, "finding"),
    ]
    if run.figure is not None:
        content = base64.b64encode(run.figure.read_bytes()).decode()
        kind = _PICTURES.get(run.figure.suffix.lower(), "image/png")
        alt = markup.text(f"{run.title} {run.finding}")
        size = _size(run.figure)
        parts.append(f'<figure><img{size} alt="{alt}" src="data:{kind};base64,{content}"></figure>')
    if run.claims:
        rows = [
            [
                markup.text(claim.paper),
                markup.text(claim.measured),
                f'<span class="{_KINDS[claim.agrees]}">{_ANSWERS[claim.agrees]}</span>',
            ]
            for claim in run.claims
        ]
        parts.append(markup.table(_CLAIMS, rows))
    if run.rows:
        cells = [[markup.text(cell) for cell in row] for row in run.rows[1:]]
        parts.append(markup.table(run.rows[0], cells))
    facts = [[markup.text(name), markup.text(fact)] for name, fact in run.facts.items()]
    parts.append(markup.table(["", ""], facts, "settings"))
    if run.notebook is not None:
        link = markup.link(_relative(run.notebook, base), "The executed notebook")
        parts.append(f"<p>{link}</p>")
    return [*parts, "</section>"]


def _size(picture: Path) -> str:
    """Show a PNG, which is made for printing, so large that its text is that of the page."""
    with open(picture, "rb") as file:
        head = file.read(24)
    if not head.startswith(b"\x89PNG\r\n\x1a\n") or head[12:16] != b"IHDR":
        return ""
    return f' width="{round(int.from_bytes(head[16:20]) * _PIXELS)}"'


def as_markdown(runs: Sequence[Run], base: Path) -> str:
    """Make a page for the repository, with figures and links relative to the folder `base`."""
    # Numbered anchors: those that hosts make of headings differ between them.
    rows = [
        (
            f"[{_plain(f'{run.name}, {run.scale}')}](#run{at})",
            _plain(run.agreement),
            _plain(run.finding),
        )
        for at, run in enumerate(runs)
    ]
    blocks = [f"# {_TITLE}", _ABOUT, _grid(("run", "beside the paper", "finding"), rows)]
    for at, run in enumerate(runs):
        blocks += _markdown_run(run, f"run{at}", base)
    return "\n\n".join(blocks) + "\n"


def _markdown_run(run: Run, anchor: str, base: Path) -> list[str]:
    blocks = [
        f'<a id="{anchor}"></a>\n\n## {_plain(run.title)}',
        f"*{_plain(f'{run.name}, scale {run.scale}')}*",
        f"**{_plain(run.finding)}**",
    ]
    if run.figure is not None:
        blocks.append(f"![{_plain(run.title)}]({_relative(run.figure, base)})")
    if run.claims:
        rows = [
            (_plain(claim.paper), _plain(claim.measured), f"**{_ANSWERS[claim.agrees]}**")
            for claim in run.claims
        ]
        blocks.append(_grid(_CLAIMS, rows))
    if run.rows:
        header, *cells = [tuple(map(_plain, row)) for row in run.rows]
        blocks.append(_grid(header, cells))
    blocks.append(
        "\n".join(f"- {_plain(name)}: {_plain(fact)}" for name, fact in run.facts.items())
    )
    if run.notebook is not None:
        blocks.append(f"[The executed notebook]({_relative(run.notebook, base)})")
    return blocks


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """Keep Markdown and HTML from taking a text for their own marks."""
    one_line = " ".join(str(text).split())
    return re.sub(r"([\\`*_{}\[\]|~$])", r"\\\1", html.escape(one_line, quote=False))


def _relative(path: Path, base: Path) -> str:
    """Link to a file from a page in a folder."""
    return quote(Path(os.path.relpath(path.resolve(), base.resolve())).as_posix())
