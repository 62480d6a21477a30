"""The gallery in Markdown, for the repository: figures and notebooks lie beside it."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path

from layerscope.paper.experiments import Comparison
from layerscope.paper.gallery._glossary import ABOUT, GLOSSARY, HEADERS, LEGEND, TITLE, rule_rows
from layerscope.paper.gallery._pages import ANSWERS, grid, link, number, read_figure, shrink, totals
from layerscope.paper.gallery._runs import AGAIN, Run

__all__ = ["THUMBNAILS", "as_markdown", "draw_thumbnails"]

THUMBNAILS = "thumbnails"
"""Folder beside the page with a small picture of every run."""

_WIDTH = 260  # pixels of it


def as_markdown(runs: Sequence[Run], base: Path) -> str:
    """Make a page for the repository, with figures and links relative to the folder `base`."""
    blocks = [f"# {TITLE}", _plain(ABOUT), _plain(totals(runs)), _plain(LEGEND)]
    numbered = list(enumerate(runs))
    questions = dict.fromkeys(run.question for run in runs)
    for question in questions:
        rows = [_card(run, at) for at, run in numbered if run.question == question]
        blocks += [f"## {_plain(question)}", _grid(("", "what was found", "the paper"), rows)]
    blocks.append("## Run by run")
    for at, run in numbered:
        blocks += _markdown_run(run, f"run{at}", base)
    blocks += ["## Words", _grid(("word", "meaning"), [tuple(map(_plain, r)) for r in GLOSSARY])]
    blocks += ["## Rules", _grid(HEADERS, [tuple(map(_plain, row)) for row in rule_rows()])]
    return "\n\n".join(blocks) + "\n"


def draw_thumbnails(runs: Sequence[Run]) -> dict[str, bytes]:
    """Draw a small picture of every run that has a figure, by the name of its file."""
    found = {}
    for run in runs:
        if run.figure is not None:
            content = read_figure(run.figure)
            found[_file_name(run)] = shrink(content, _WIDTH) or content
    return found


def _file_name(run: Run) -> str:
    return re.sub(r"[^\w.-]+", "-", f"{run.name}-{run.scale}") + ".png"


def _card(run: Run, at: int) -> tuple[str, str, str]:
    # Numbered anchors: those that hosts make of headings differ between them.
    picture = "" if run.figure is None else f"![]({THUMBNAILS}/{_file_name(run)})"
    below = f"*{_plain(run.subheading)}*<br>" if run.subheading else ""
    said = f"[{_plain(run.heading)}](#run{at})<br>{below}{_plain(run.found)}."
    if run.is_single:
        return picture, said, _plain(f"{run.agreement[0].upper()}{run.agreement[1:]}.")
    counts = _counts(run)
    # Where nothing is refuted the counts say it all.
    beside = (
        [f"{_plain(run.beside)}."] if run.beside and (run.statements["no"] or not counts) else []
    )
    return picture, said, "<br>".join(beside + counts) or "*nothing of the paper to compare with*"


def _counts(run: Run) -> list[str]:
    """Count as the head of the page does: the paper's statements, then its printed numbers."""
    words = {"yes": "agree", "no": "disagree", "open": "undecided"}
    count = run.statements
    parts = [f"{count[kind]} {word}" for kind, word in words.items() if count[kind]]
    met, compared, others = run.cells
    said = [f"*statements: {', '.join(parts)}*"] if parts else []
    if compared:
        more = f", {others} more can't be compared" if others else ""
        said.append(f"*printed numbers: {met} of {compared} agree{more}*")
    return said


def _markdown_run(run: Run, anchor: str, base: Path) -> list[str]:
    below = [f"*{_plain(run.subheading)}*"] if run.subheading else []
    below += [_plain(f"Reduced: {run.reduced}.")] if run.reduced else []
    blocks = [
        f'<a id="{anchor}"></a>\n\n### {_plain(run.heading)}',
        " ".join(below),
        f"**{_plain(run.sentence)}**",
        _plain(run.detail),
    ]
    if run.figure is not None:
        blocks.append(f"![{_plain(run.title)}]({link(run.figure, base)})")
    if run.claims:
        rows = [
            (
                _plain(claim.paper) + (" (reduced)" if claim.reduced else ""),
                _plain(claim.measured),
                f"**{ANSWERS[claim.agrees]}**",
            )
            for claim in run.claims
        ]
        blocks.append(_grid((run.stated, "we measured", "agrees?"), rows))
    blocks += [_numbers(each) for each in run.comparisons]
    if run.rows:
        header, *cells = [tuple(map(_plain, row)) for row in run.rows]
        blocks.append(_grid(header, cells))
    blocks.append(
        "\n".join(
            f"- {_plain(name)}: {_code(fact) if name == AGAIN else _plain(fact)}"
            for name, fact in run.facts.items()
        )
    )
    if run.notebook is not None:
        blocks.append(f"[The executed notebook]({link(run.notebook, base)})")
    return [block for block in blocks if block]


def _numbers(comparison: Comparison) -> str:
    """Set printed numbers out beside ours; ours are bold where they disagree."""
    columns, rows = grid(comparison)
    lines = [
        (
            _plain(layer),
            *(
                ""
                if cell is None
                else f"{_plain(cell.paper)} / "
                + (number(cell.measured) if cell.agrees else f"**{number(cell.measured)}**")
                + ("" if cell.told else "?")
                for cell in cells
            ),
        )
        for layer, cells in rows
    ]
    reduced = f" (reduced: {comparison.reduced})" if comparison.reduced else ""
    head = f"{_plain(comparison.what + reduced)}, the paper / ours, bold where they disagree"
    head += ", ? where ours scatter too much to tell:"
    return f"{head}\n\n{_grid(('', *map(_plain, columns)), lines)}"


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(text: str) -> str:
    """Set a command in Markdown so that it can be copied as it is."""
    one_line = " ".join(text.split())
    marks = "`" * (1 + max(map(len, re.findall("`+", one_line)), default=0))
    return f"{marks} {one_line} {marks}"


def _plain(text: str) -> str:
    """Keep Markdown and HTML from taking a text for their own marks."""
    one_line = " ".join(str(text).split())
    return re.sub(r"([\\`*_{}\[\]|~$])", r"\\\1", html.escape(one_line, quote=False))
