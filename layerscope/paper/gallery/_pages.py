"""The gallery as a page of HTML that holds everything."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from layerscope.base import files
from layerscope.base.templates import render
from layerscope.errors import ResultError
from layerscope.paper import rules
from layerscope.paper.experiments import Cell, Claim, Comparison
from layerscope.paper.gallery._glossary import ABOUT, GLOSSARY, HEADERS, LEGEND, TITLE, rule_rows
from layerscope.paper.gallery._runs import Run

__all__ = [
    "ANSWERS",
    "as_html",
    "grid",
    "link",
    "number",
    "read_figure",
    "shrink",
    "totals",
]

ANSWERS = {True: "agrees", False: "disagrees", None: "undecided"}
_KINDS = {True: "yes", False: "no", None: "open"}
_PIXELS = 0.45  # of the screen, for one of a picture with 300 to the inch
_THUMBNAIL = 640  # pixels: twice as many as are shown, for fine screens
_LONGEST = 2**25  # bytes of a figure
_PICTURES = {".png": "image/png", ".svg": "image/svg+xml"}


def as_html(runs: Sequence[Run], base: Path) -> str:
    """Make a page with the figures in it; links are relative to the folder `base`."""
    entries = [_entry(run, at, base) for at, run in enumerate(runs)]
    return str(
        render(
            "paper/gallery/templates/gallery.html.jinja",
            title=TITLE,
            about=ABOUT,
            totals=totals(runs),
            legend=LEGEND,
            groups=_by_question(entries),
            answers=ANSWERS,
            kinds=_KINDS,
            reason_of=_reason_of,
            grid=grid,
            number=number,
            glossary=GLOSSARY,
            headers=HEADERS,
            rules=rule_rows(),
        )
    )


@dataclass(frozen=True)
class _Picture:
    """A picture within a page; without a width it is shown as large as it is."""

    kind: str
    content: str
    width: int | None


@dataclass(frozen=True)
class _Entry:
    """A run, its pictures as the page holds them, and a link to its notebook."""

    run: Run
    at: int
    picture: _Picture | None
    thumbnail: _Picture | None
    notebook: str | None


def _entry(run: Run, at: int, base: Path) -> _Entry:
    content = None if run.figure is None else read_figure(run.figure)
    kind = _PICTURES.get(run.figure.suffix.lower(), "image/png") if run.figure else ""
    picture = thumbnail = None
    if content is not None:
        picture = _Picture(kind, base64.b64encode(content).decode(), _width(content))
        small = shrink(content, _THUMBNAIL)
        thumbnail = picture
        if small is not None:
            thumbnail = _Picture("image/png", base64.b64encode(small).decode(), None)
    return _Entry(run, at, picture, thumbnail, link(run.notebook, base))


def _width(picture: bytes) -> int | None:
    """Choose the width of a PNG, made for printing, at which its text is as large as the page's."""
    if not picture.startswith(b"\x89PNG\r\n\x1a\n") or picture[12:16] != b"IHDR":
        return None
    return round(int.from_bytes(picture[16:20]) * _PIXELS)


def read_figure(path: Path) -> bytes:
    """Read a figure of a run.

    Raises
    ------
    ResultError
        If it can't be read, or is too large.
    """
    return files.read_bytes(path, error=ResultError, what="a figure of a run", most=_LONGEST)


def shrink(picture: bytes, width: int) -> bytes | None:
    """Make a thumbnail of a PNG, so many pixels wide; None where it is none, or damaged."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(picture), formats=["PNG"]) as image:
            image.load()
            small = image.convert("RGB")
    except Exception:  # noqa: BLE001 - Pillow has errors of many kinds for what is no picture
        return None
    small.thumbnail((width, 4 * width), Image.Resampling.LANCZOS)
    target = io.BytesIO()
    small.quantize(64).save(target, "PNG", optimize=True)
    return target.getvalue()


def _by_question(entries: Sequence[_Entry]) -> dict[str, list[_Entry]]:
    """Group what stands on the page, in the order in which the questions first come."""
    groups: dict[str, list[_Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.run.question, []).append(entry)
    return groups


def totals(runs: Sequence[Run]) -> str:
    """Count everything on the page in words, what is of a single run apart."""
    several = [run for run in runs if any(claim.runs > 1 for claim in run.claims)]
    count = {kind: sum(run.statements[kind] for run in several) for kind in ("yes", "no", "open")}
    met, compared, others = (sum(run.cells[at] for run in several) for at in range(3))
    said = (
        f"{len(runs)} executed notebooks of {len({run.name for run in runs})} experiments, each "
        f"over one or more training runs. Of {sum(count.values())} tests of the paper's statements "
        f"{count['yes']} agree, {count['no']} disagree and {count['open']} are undecided"
    )
    if compared:
        said += f"; {met} of {compared} printed numbers agree"
        said += f", beside {others} with which ours scatter too much to be compared" * bool(others)
    said += ". Single training runs decide nothing and are not counted."
    later, judged = sum(run.later for run in several), sum(count.values())
    if later:
        which = "All tests are" if later == judged else f"Of the {judged} tests {later} are"
        said += (
            f" {which} by rules that were fixed when the run had been seen: they describe it, and "
            "test only runs that begin later."
        )
    return said


def _reason_of(claim: Claim) -> str:
    """Reason for the threshold of a statement; empty where no rule is known."""
    rule = rules.RULES.get(claim.rule)
    return f"{rule.reason}. Fixed on {rule.fixed}." if rule else ""


def grid(comparison: Comparison) -> tuple[list[str], list[tuple[str, list[Cell | None]]]]:
    """Lay printed numbers out as the paper's figure does: layers by columns; None where none is."""
    columns = list(dict.fromkeys(cell.column for cell in comparison.cells))
    rows: dict[str, list[Cell | None]] = {}
    for cell in comparison.cells:
        rows.setdefault(cell.layer, [None] * len(columns))[columns.index(cell.column)] = cell
    return columns, list(rows.items())


def number(value: float) -> str:
    """Write a measured number beside a printed one."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.3g}"


def link(path: Path | None, base: Path) -> str | None:
    """Link to a file from a page in a folder; no scheme can stand in it."""
    if path is None:
        return None
    place = Path(os.path.relpath(path.resolve(), base.resolve())).as_posix()
    return quote(os.fsencode(place))  # also where the name is not UTF-8
