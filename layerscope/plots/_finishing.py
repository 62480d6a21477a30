"""Parts of a heat map without an option in HoloViews: values, marks, hatching; with Bokeh."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import holoviews as hv
import numpy as np
import pandas as pd
from bokeh.models import ColumnDataSource, NoOverlap
from bokeh.transform import dodge

from layerscope.plots._backends import drop_sizing_mode
from layerscope.plots._colours import NO_NUMBER
from layerscope.plots._names import shorten, shorten_layers
from layerscope.plots._thinning import columns_named, evenly, round_first, standing_out

_MOST_PRINTED = 400
_LINE_PIXELS = 11.5
_LONGEST = {"column": 24, "layer": 40}
# Of a page with a title, and of a screen that one scrolls: beyond it rows get thinner, and some go
# unnamed.
_HIGHEST_INCHES, _HIGHEST_PIXELS = 8.2, 1500

# What can be the matter with a cell that has no value, and how it looks.
BLANK = {"open": "hatched: not computed", "refused": "grey with dots: can't be computed"}
REFUSED: dict[str, Any] = {
    "fill_color": "#d8d8d8",
    "hatch_pattern": ".",
    "hatch_color": "#606060",
    "hatch_scale": 7,
}
"""How Bokeh draws a cell that can't be computed: as no map of colours does, not even a grey one."""

CROSSED = "crossed: outputs or value not finite"
"""What is said of cells that were computed, with outputs or a value that are no finite numbers."""

# How a settled cell is marked: in words, as Bokeh names it, as matplotlib does, whether filled.
MARKS = {
    "critical": ("●", "circle", "o", True),
    "intermediate": ("×", "x", "x", True),
    "robust": ("○", "circle", "o", False),
    "in doubt": ("△", "triangle", "^", False),
}


CROSSING = {
    "fill_color": "ground",
    "line_color": None,
    "hatch_pattern": "x",
    "hatch_color": "ink",
    "hatch_alpha": 0.5,
    "hatch_scale": 7,
}
"""How Bokeh crosses a cell out, in the colour that it has or on the ground of no number."""


def explain_marks(settled: Iterable[str]) -> str:
    """Say what the marks mean that there are; empty without any."""
    there = set(settled)
    signs = {name: f"{look[0]} {name}" for name, look in MARKS.items() if name in there}
    doubt = signs.pop("in doubt", "")
    settled = f"settled: {', '.join(signs.values())}" if signs else ""
    return "; ".join(filter(None, [settled, doubt and f"{doubt}, as notices say"]))


class _Size(NamedTuple):
    """Size of a grid: inches and pixels of all of it, points of its type, whether values fit."""

    inches: tuple[float, float]
    pixels: tuple[int, int]
    points: float
    printed: bool


def grid_size(plot: hv.HeatMap) -> _Size:
    """Choose the size that its rows and columns need."""
    return _size(*(len(plot.dimension_values(name, False)) for name in ("layer", "column")))


def _size(rows: int, columns: int) -> _Size:
    wide = float(np.clip(7 / columns, 0.1, 0.42))
    high = float(np.clip(3.8 / rows, 0.125, max(0.26, 1.0 / rows)))
    high = min(high, _HIGHEST_INCHES / rows)
    pixels = min(max(14, round(96 * high)), max(4, _HIGHEST_PIXELS // rows))
    return _Size(
        (wide * columns, high * rows),
        (round(110 * wide) * columns, pixels * rows),
        min(8.0, 72 * high * 0.62),
        wide > 0.3 and rows * columns <= _MOST_PRINTED,
    )


def finish_bokeh(plot: Any, element: hv.HeatMap, size: _Size) -> None:
    """Print values and marks, hatch what is blank; HoloViews has no option for these."""
    figure = plot.state
    drop_sizing_mode(plot)
    figure.grid.visible = False
    figure.outline_line_color = None
    for axis in (figure.xaxis, figure.yaxis):
        axis.major_label_policy = NoOverlap(min_distance=0)
        axis.major_tick_line_color = axis.axis_line_color = None
    if is_crowded(element):
        figure.xaxis.major_label_orientation = "vertical"
    figure.yaxis.major_label_text_font_size = f"{int(np.clip(size.points * 1.6, 9, 11))}px"
    sources = _sources(element.dframe())
    for name, along in (("column", figure.x_range), ("layer", figure.y_range)):
        written = _few_names(element, name, size)
        along.factors = [written.get(each, each) for each in along.factors]
        for data in (plot.handles["cds"].data, *sources.values()):
            data[name] = [written.get(str(each), each) for each in data[name]]
    # The hook runs again when a DynamicMap changes; what it drew follows its source.
    if "blank" in plot.handles:
        for name, data in sources.items():
            plot.handles[name].data = data
        return
    plot.handles.update({name: ColumnDataSource(data) for name, data in sources.items()})
    _draw_bokeh(plot, size)
    plot.handles["hover"].renderers = [plot.handles["glyph_renderer"]]


OUTSIDE = "outside"
"""Kind of the places of a grid that stand for nothing, and stay white."""

_GROUNDS = {"blank": "open", "refused": "refused", "no_number": "broken"}
"""What lies under cells without a colour of their own: the source's name, the cells' kind."""


def _sources(cells: pd.DataFrame) -> dict[str, dict[Any, Any]]:
    """Find the cells with something to draw beside their value, by what it is."""
    blank = {name: cells["blank"] == kind for name, kind in _GROUNDS.items()}
    marked = {name: cells["settled"] == name for name in MARKS}
    at = ["column", "layer"]
    crossed = cells.loc[cells["crossed"] != "", [*at, "ink", "ground", "shown"]]
    return {
        "crossed": crossed.to_dict("list"),
        **{name: cells.loc[there, at].to_dict("list") for name, there in blank.items()},
        **{name: cells.loc[at_, [*at, "ink"]].to_dict("list") for name, at_ in marked.items()},
    }


def _draw_bokeh(plot: Any, size: _Size) -> None:
    figure, at = plot.state, {"x": "column", "y": "layer"}
    hatching = {"hatch_pattern": "/", "hatch_color": "#b0b0b0", "hatch_scale": 8}
    for name, look in (
        ("blank", {"fill_color": "white", **hatching}),
        ("refused", REFUSED),
        ("no_number", {"fill_color": NO_NUMBER}),
    ):
        box = {"width": 1, "height": 1, "line_color": "white", "level": "underlay"}
        figure.rect(**at, **box, **look, source=plot.handles[name])
    figure.rect(**at, width=0.94, height=0.94, **CROSSING, source=plot.handles["crossed"])
    corner = {
        "x": dodge("column", 0.36, range=figure.x_range),
        "y": dodge("layer", 0.28, range=figure.y_range),
    }
    for name, (_, marker, _, filled) in MARKS.items():
        figure.scatter(
            **(corner if size.printed else at),
            marker=marker,
            size=min(5.0, 0.5 * size.points + 1.5),
            fill_color="ink" if filled else None,
            line_color="ink",
            source=plot.handles[name],
        )
    if size.printed:
        look = {
            "text": "shown",
            "text_color": "ink",
            "text_align": "center",
            "text_baseline": "middle",
            "text_font_size": f"{round(size.points * 1.5)}px",
        }
        figure.text(
            **at,
            **look,
            source=plot.handles["cds"],
        )
        # Once more, on a ground on which it can be read.
        figure.text(
            **at,
            **look,
            background_fill_color="ground",
            source=plot.handles["crossed"],
        )


def names_along(element: hv.HeatMap, name: str) -> dict[str, str]:
    """Shorten the names along an axis, in its order."""
    write = shorten_layers if name == "layer" else shorten
    return write(list(element.dimension_values(name, expanded=False)), _LONGEST[name])


def _few_names(element: hv.HeatMap, name: str, size: _Size) -> dict[str, str]:
    """Write names short, and blank those that would run into others.

    Bokeh's own policy keeps whichever come first, and its axes of categories write them as they
    are, so that they are called there what they are to be written; hovering tells them in full.
    """
    names = names_along(element, name)
    along = size.pixels[0 if name == "column" else 1] / len(names)
    upright = name == "layer" or is_crowded(element)
    lengths = [_LINE_PIXELS if upright else 6.0 * len(each) for each in names.values()]
    places = [at * along for at in range(len(names))]
    if name == "layer":
        order = evenly(len(names), row_order_of(element))
    else:
        needed = needed_columns(list(names))
        order = round_first(list(names.values()), places, lengths, needed, 0.0)
    kept = columns_named(places, lengths, order, 0.0)
    return {
        each: told if at in kept else _blank(at) for at, (each, told) in enumerate(names.items())
    }


def _blank(at: int) -> str:
    """Make a name that takes no room, and is no other's: of signs without a width."""
    return f"{at:b}".replace("0", "\u200b").replace("1", "\u200c")


def is_crowded(element: hv.HeatMap) -> bool:
    """Check whether the columns' names are too long to stand side by side."""
    return max(len(name) for name in names_along(element, "column").values()) > 6


def needed_columns(names: Sequence[str]) -> list[int]:
    """Find the columns that need their name: what is done at random, the first and the last one."""
    numbered = [at for at, name in enumerate(names) if name.isdigit()]
    others = [at for at in range(len(names)) if at not in numbered]
    return list(dict.fromkeys([*others[:1], *numbered[:1], *numbered[-1:]]))


def row_order_of(element: hv.HeatMap) -> list[int]:
    """Order the rows that need their name most: the first and the last, then the worst."""
    cells = element.dframe()
    rows = list(element.dimension_values("layer", expanded=False))
    # Random values harm most layers, and tell them apart less.
    numbered = cells[[str(name).isdigit() for name in cells["column"]]]
    cells = numbered if len(numbered) else cells
    worst = cells.groupby("layer")["share"].max().reindex(rows)
    return list(dict.fromkeys([len(rows) - 1, 0, *standing_out(worst.to_numpy())]))
