"""The present state as one figure for a paper: the strip, the numbers, the heat map."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import holoviews as hv
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from layerscope import plots, results, stats
from layerscope.core.session import Estimate
from layerscope.jupyter import _drawing as drawing, _rows as rows, _words as words
from layerscope.jupyter._colouring import colouring
from layerscope.jupyter._history import Scene
from layerscope.jupyter._sheet import LEADING as _LEADING, TYPE as _TYPE, Listed, Sheet
from layerscope.jupyter._strip import Strip
from layerscope.jupyter._words import Reading
from layerscope.plots import shorten_layers

__all__ = ["Look", "draw", "of_state"]

_ACCENT, _QUIET, _LINE = "#b83c0c", "#59636e", "#8c959f"
# Inches: of the narrowest and the widest strip, of its widest block, between stages and blocks.
_NARROWEST, _WIDEST, _BLOCK, _STAGES, _MODULES = 5.4, 6.75, 0.85, 0.12, 0.05
_LOWEST, _HIGHEST = 0.22, 0.5
# And of a cell of a heat map, names included.
_CELL = 0.55
# Inches of a sign on average.
_SIGN = 0.058
_COLUMNS = (0.0, 1.3, 2.1, 3.35, 4.3)


class Look(NamedTuple):
    """Strip as it stood at some moment."""

    blocks: Sequence[Mapping[str, Any]]
    legend: Sequence[Mapping[str, Any]]


def of_state(
    name: str,
    scene: Scene,
    strip: Strip | Look,
    estimate: Estimate | None,
    ds: xr.Dataset | None,
    metric: str,
    by: str = "damage",
    kept: Sequence[Mapping[str, Any]] = (),
    note: str = "",
) -> Figure:
    """Draw what the explorer shows of a scene; without numbers, or heat map, if there are none.

    Strip and heat map are coloured by the same, as on the page.
    """
    return draw(
        name,
        rows.name(scene),
        strip.blocks,
        words.readings(estimate, not scene.state) if estimate else [],
        words.coverage(estimate) if estimate else "",
        [*(str(entry["text"]) for entry in strip.legend), *([note.rstrip(".")] if note else [])],
        None if ds is None else plots.heatmap(ds, metric, relative=_relative(ds, metric, by)),
        [(row, drawing.column_of(change)) for row, change in scene.state.items()],
        Listed(metric, kept),
    )


def _relative(ds: xr.Dataset, metric: str, by: str) -> str | None:
    return colouring(stats.summary(ds, metric), results.metric(ds, metric), by).relative


def draw(
    title: str,
    about: str,
    blocks: Sequence[Mapping[str, Any]],
    readings: Sequence[Reading],
    seen: str,
    legend: Sequence[str],
    heat: hv.HeatMap | None = None,
    marked: Collection[tuple[str, str]] = (),
    kept: Listed | None = None,
) -> Figure:
    """Draw a state with matplotlib.

    Parameters
    ----------
    title, about : str
        The network, and what is done to it.
    blocks : sequence of mapping
        As `drawing.blocks` gives.
    readings : sequence of Reading
        What was measured; none of a Dataset alone.
    seen : str
        Of how many examples.
    legend : sequence of str
        What is to be said of the strip.
    heat : HeatMap, optional
        As `plots.heatmap` gives.
    marked : collection of (str, str)
        Layer and column of the cells that are the state's.
    kept : Listed, optional
        States that were given a name.

    Returns
    -------
    matplotlib.figure.Figure
        Its label says what it shows.
    """
    figure = Figure(figsize=(_NARROWEST, 1.0)) if heat is None else _heatmap(heat, marked)
    left, right, top = 0.0, _NARROWEST, 0.0
    if heat is not None:
        there = figure.get_tightbbox()
        left, right, top = there.x0, there.x1, there.y1 + 0.22
    sheet = Sheet(figure, left)
    width = max(right - left, _NARROWEST, min(_WIDEST, 0.1 * len(blocks)))
    # Upwards, since the heat map is there already.
    if kept and kept.rows:
        top = kept.write(sheet, top, _NARROWEST) + 0.2
    if readings:
        top = _numbers(sheet, top, readings, seen) + 0.2
    for line in _wrap("; ".join(legend), width / 0.056):
        sheet.text(0, top, line, color=_QUIET, size=_TYPE - 0.5)
        top += _LEADING
    top = _strip(sheet, top + 0.05, width, blocks) + 0.14
    for line in _wrap(about, width / (1.15 * _SIGN)):
        sheet.text(0, top, line, size=8.5)
        top += 1.1 * _LEADING
    sheet.text(0, top + 0.03, title, size=10, weight="bold")
    figure.set_label(f"{title}: {about}")
    return figure


def _wrap(words: str, signs: float) -> list[str]:
    """Break words into lines of so many signs, the last line first."""
    return textwrap.wrap(words, int(signs), break_on_hyphens=False)[::-1]


def _heatmap(heat: hv.HeatMap, marked: Collection[tuple[str, str]]) -> Figure:
    """Draw the heat map with frames around some of its cells."""
    columns, rows = (list(heat.dimension_values(name, False)) for name in ("column", "layer"))
    wide = min(_WIDEST, max(_NARROWEST, _CELL * len(columns)))
    figure: Figure = plots.drawn(heat, wide)
    axes = figure.axes[0]
    framed = [(columns.index(c), rows.index(r)) for r, c in marked if c in columns and r in rows]
    for x, y in framed:
        frame = Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor=_ACCENT, linewidth=1.6)
        frame.set(zorder=5, clip_on=False)
        axes.add_patch(frame)
    if framed:
        axes.set_xlabel(f"{axes.get_xlabel()}\nframed: these changes, each of them alone")
    return figure


def _numbers(sheet: Sheet, bottom: float, readings: Sequence[Reading], seen: str) -> float:
    """Write a table of what was measured, upwards; return where it ends."""
    wide = _NARROWEST
    sheet.text(0, bottom, seen, color=_QUIET)
    bottom += 1.25 * _LEADING
    sheet.rule(0, bottom - 0.02, wide, 0.8)
    for reading in readings[::-1]:
        for x, said in zip(_COLUMNS, reading, strict=True):
            sheet.text(x, bottom + 0.04, said, weight="bold" if x == _COLUMNS[1] else "normal")
        bottom += 1.1 * _LEADING
    bottom += 0.03
    sheet.rule(0, bottom - 0.02, wide, 0.4)
    heads = ("", "value", "95 % interval", "against trained", "95 % interval")
    for x, head in zip(_COLUMNS, heads, strict=True):
        sheet.text(x, bottom + 0.04, head, color=_QUIET)
    bottom += 1.2 * _LEADING
    sheet.rule(0, bottom, wide, 0.8)
    return bottom


def _strip(sheet: Sheet, bottom: float, width: float, blocks: Sequence[Mapping[str, Any]]) -> float:
    """Draw the layers side by side, upwards; return where that ends."""
    gaps = _gaps(blocks)
    slot = min(_BLOCK, (width - sum(gaps)) / max(len(blocks), 1))
    names = shorten_layers([str(block["name"]) for block in blocks], 24)
    longest = _SIGN * max((len(name) for name in names.values()), default=0)
    across, upright = longest < slot, slot > 0.11
    told = any(block["state"] != "trained" for block in blocks)
    below = (2.1 if told else 1.1) * _LEADING if across else longest + 0.06 if upright else 0.0
    base = bottom + below
    x = 0.0
    stages: dict[str, list[float]] = {}
    for gap, block in zip(gaps, blocks, strict=True):
        x += gap
        _body(sheet, x, base, slot, block)
        middle, changed = x + slot / 2, block["state"] != "trained"
        look = {"ha": "center", "color": _ACCENT if changed else "black"}
        name = names[str(block["name"])]
        if across:
            sheet.text(middle, base - _LEADING, name, **look)
            said = str(block["state"]) if changed else ""
            size = min(_TYPE - 0.5, _TYPE * slot / (_SIGN * max(len(said), 1)))
            sheet.text(middle, base - 1.95 * _LEADING, said, **look, size=size)
        elif upright:
            size = min(_TYPE, 60 * slot)
            sheet.text(middle, base - 0.04, name, **look, size=size, rotation=90, va="top")
        stages.setdefault(str(block["stage"]), []).append(x)
        x += slot
    return _captions(sheet, base + _HIGHEST + 0.05, slot, stages)


def _gaps(blocks: Sequence[Mapping[str, Any]]) -> list[float]:
    """Room before each layer: more where a stage or a block begins."""
    gaps = [0.0]
    for before, block in itertools.pairwise(blocks):
        stays = block["block"] and block["block"] == before["block"]
        gaps.append(_STAGES if block["stage"] != before["stage"] else 0 if stays else _MODULES)
    # Of hundreds of layers the gaps must not take all the room.
    return [gap * min(1.0, 20 / len(blocks)) for gap in gaps[: len(blocks)]]


def _body(sheet: Sheet, x: float, y: float, slot: float, block: Mapping[str, Any]) -> None:
    """Draw one layer: its colour, how large it is, what is done to it."""
    changed = block["state"] != "trained"
    high = _LOWEST + (_HIGHEST - _LOWEST) * float(block["share"])
    inset = min(0.03, 0.1 * slot)
    edge = {"edgecolor": _LINE, "linewidth": min(0.5, 10 * slot)}
    if changed:
        edge = {"edgecolor": _ACCENT, "linewidth": min(1.8, 15 * slot), "hatch": "////"}
    sheet.box(x + inset, y, slot - 2 * inset, high, facecolor=block["colour"], **edge)
    if slot < 0.14 or not block["badge"]:
        return
    look = {"color": _ACCENT if changed else block["ink"], "ha": "center", "va": "center_baseline"}
    if changed:
        ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
        look |= {"weight": "bold", "bbox": ground}
    sheet.text(x + slot / 2, y + high / 2, str(block["badge"]), **look, size=min(8, 40 * slot))


def _captions(sheet: Sheet, bottom: float, slot: float, stages: Mapping[str, list[float]]) -> float:
    """Name the stages that have more than one layer, where there is room for it."""
    shown = {name: places for name, places in stages.items() if name and len(places) > 1}
    for name, places in shown.items():
        wide = places[-1] + slot - places[0]
        room = int(wide / _SIGN)
        sheet.rule(places[0], bottom, wide, 0.6)
        if room >= 3:
            said = name if len(name) <= room else f"{name[: room - 1]}…"
            sheet.text(places[0], bottom + 0.04, said, color=_QUIET)
    return bottom + (_LEADING if shown else 0.0)
