"""Pages of the gallery: HTML, and Markdown."""

from __future__ import annotations

import base64
import html
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from layerscope.base import files
from layerscope.base.templates import render
from layerscope.errors import ResultError
from layerscope.paper.gallery._runs import Run

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
_LONGEST = 2**25  # bytes of a figure
_PICTURES = {".png": "image/png", ".svg": "image/svg+xml"}


def as_html(runs: Sequence[Run], base: Path) -> str:
    """Make a page with the figures in it; links are relative to the folder `base`."""
    return str(
        render(
            "paper/gallery/templates/gallery.html.jinja",
            title=_TITLE,
            about=_ABOUT,
            entries=[_Entry(run, _picture(run.figure), _link(run.notebook, base)) for run in runs],
            claims=_CLAIMS,
            answers=_ANSWERS,
            kinds=_KINDS,
        )
    )


class _Entry(NamedTuple):
    """A run, its figure as the page holds it, and a link to its notebook."""

    run: Run
    picture: _Picture | None
    notebook: str | None


class _Picture(NamedTuple):
    """A picture within a page; without a width it is shown as large as it is."""

    kind: str
    content: str
    width: int | None


def _picture(path: Path | None) -> _Picture | None:
    if path is None:
        return None
    content = files.read_bytes(path, error=ResultError, what="a figure of a run", most=_LONGEST)
    kind = _PICTURES.get(path.suffix.lower(), "image/png")
    return _Picture(kind, base64.b64encode(content).decode(), _width(content))


def _width(picture: bytes) -> int | None:
    """Choose the width of a PNG, made for printing, at which its text is as large as the page's."""
    if not picture.startswith(b"\x89PNG\r\n\x1a\n") or picture[12:16] != b"IHDR":
        return None
    return round(int.from_bytes(picture[16:20]) * _PIXELS)


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
        blocks.append(f"![{_plain(run.title)}]({_link(run.figure, base)})")
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
        blocks.append(f"[The executed notebook]({_link(run.notebook, base)})")
    return blocks


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """Keep Markdown and HTML from taking a text for their own marks."""
    one_line = " ".join(str(text).split())
    return re.sub(r"([\\`*_{}\[\]|~$])", r"\\\1", html.escape(one_line, quote=False))


def _link(path: Path | None, base: Path) -> str | None:
    """Link to a file from a page in a folder; no scheme can stand in it."""
    if path is None:
        return None
    place = Path(os.path.relpath(path.resolve(), base.resolve())).as_posix()
    return quote(os.fsencode(place))  # also where the name is not UTF-8
