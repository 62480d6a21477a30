"""Parts of a heat map without an option in HoloViews: values, marks, hatching, colour bar."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import holoviews as hv
import numpy as np
import pandas as pd
from bokeh.models import ColumnDataSource, NoOverlap
from bokeh.transform import dodge

from layerscope.plots._backends import FONT_SIZES, drop_sizing_mode, escape_dollars
from layerscope.plots._colours import NO_NUMBER
from layerscope.plots._names import shorten, shorten_layers

_MOST_PRINTED = 400
_MOST_COLUMN_NAMES = 24
_LONGEST = {"column": 24, "layer": 40}
# Of paper, and of a screen that one scrolls: beyond it rows get thinner, and some go unnamed.
_HIGHEST_INCHES, _HIGHEST_PIXELS = 9.5, 1500

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
    high = float(np.clip(6.5 / rows, 0.125, max(0.3, 1.0 / rows)))
    high = min(high, _HIGHEST_INCHES / rows)
    pixels = min(max(14, round(96 * high)), max(4, _HIGHEST_PIXELS // rows))
    return _Size(
        (wide * columns, high * rows),
        (round(110 * wide) * columns, pixels * rows),
        min(8.0, 72 * high * 0.62),
        wide > 0.3 and rows * columns <= _MOST_PRINTED,
    )


def name_size(size: _Size) -> float:
    """Choose the size of the rows' names, in points."""
    return float(np.clip(size.points + 1, 6, 8))


def finish_bokeh(plot: Any, element: hv.HeatMap, size: _Size) -> None:
    """Print values and marks, hatch what is blank; HoloViews has no option for these."""
    figure = plot.state
    drop_sizing_mode(plot)
    figure.grid.visible = False
    figure.outline_line_color = None
    for axis, name in ((figure.xaxis, "column"), (figure.yaxis, "layer")):
        axis.major_label_policy = NoOverlap(min_distance=0)
        axis.major_tick_line_color = axis.axis_line_color = None
        axis.major_label_overrides = _names(element, name)
    if _crowded(element):
        figure.xaxis.major_label_orientation = "vertical"
    figure.yaxis.major_label_text_font_size = f"{int(np.clip(size.points * 1.6, 9, 11))}px"
    sources = _sources(element.dframe())
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


def finish_matplotlib(plot: Any, element: hv.HeatMap, size: _Size, label: str) -> None:
    """Print values and marks, hatch the ground, take every name as it is."""
    axes, mesh = plot.handles["axis"], plot.handles["artist"]
    # HoloViews leaves infinite cells blank here, which would read as "not computed".
    largest = np.finfo(float).max ** 0.5  # matplotlib multiplies it
    values = np.clip(element.dimension_values("value"), -largest, largest)
    mesh.set_array(np.ma.masked_invalid(values).reshape(mesh.get_array().shape))
    axes.patch.set(facecolor="white", hatch="/////", edgecolor="#b0b0b0", linewidth=0)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    for axis, name in ((axes.xaxis, "column"), (axes.yaxis, "layer")):
        names = list(_names(element, name).values())
        # Every so many where there is no room for each.
        step = max(1, -(-len(names) // _MOST_COLUMN_NAMES))
        if name == "layer":
            high = size.inches[1] / len(names)
            step = max(1, int(np.ceil(name_size(size) * 1.25 / 72 / high - 0.2)))
        axis.set_ticks(range(0, len(names), step), [escape_dollars(each) for each in names[::step]])
    if _crowded(element):
        axes.tick_params("x", labelrotation=90)
    if plot.yaxis is None:
        axes.tick_params(labelleft=False)
    add_colour_bar(plot, label)
    for drawn in plot.handles.pop("cell_extras", ()):
        drawn.remove()
    plot.handles["cell_extras"] = _draw_matplotlib(axes, element, size)


def _names(element: hv.HeatMap, name: str) -> dict[str, str]:
    """Shorten the names along an axis, in its order."""
    write = shorten_layers if name == "layer" else shorten
    return write(list(element.dimension_values(name, expanded=False)), _LONGEST[name])


def _crowded(element: hv.HeatMap) -> bool:
    """Check whether the columns' names are too long to stand side by side."""
    return max(len(name) for name in _names(element, "column").values()) > 6


def _draw_matplotlib(axes: Any, element: hv.HeatMap, size: _Size) -> list[Any]:
    """Draw values, marks and what can't be computed."""
    from matplotlib.patches import Rectangle

    columns, rows = (
        list(element.dimension_values(name, expanded=False)) for name in ("column", "layer")
    )
    drawn: list[Any] = []
    look = {"ha": "center", "va": "center_baseline", "fontsize": size.points}
    for cell in element.dframe().itertuples():
        x, y = columns.index(cell.column), rows.index(cell.layer)
        if cell.blank == OUTSIDE:
            white = Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor="white", edgecolor="white")
            drawn.append(axes.add_patch(white))
        if cell.blank == "refused":
            drawn += refuse(axes, (x - 0.5, y - 0.5, 1, 1))
        if cell.crossed:
            # Within the white lines between cells.
            inside = x - 0.48, y - 0.47, 0.96, 0.94
            drawn += cross_out(axes, inside, cell.ground, cell.ink)
        if cell.shown and size.printed:
            ground = {"facecolor": cell.ground, "edgecolor": "none", "pad": 0.6}
            more = {"bbox": ground} if cell.crossed else {}
            drawn.append(axes.text(x, y, cell.shown, color=cell.ink, **look, **more))
        if cell.settled:
            _, _, marker, filled = MARKS[cell.settled]
            points = min(3.2, 0.4 * size.points)
            drawn += axes.plot(
                *((x + 0.37, y + 0.3) if size.printed else (x, y)),
                marker,
                markersize=points,
                markeredgewidth=0.2 * points,
                markeredgecolor=cell.ink,
                markerfacecolor=cell.ink if filled else "none",
            )
    return drawn


def refuse(axes: Any, box: tuple[float, float, float, float]) -> list[Any]:
    """Draw a box that can't be computed with matplotlib, as `REFUSED` does."""
    from matplotlib.patches import Rectangle

    ground = Rectangle(box[:2], *box[2:], facecolor=REFUSED["fill_color"], edgecolor="white")
    # Within the white lines between cells.
    (x, y), (wide, high) = box[:2], box[2:]
    inside = (x + 0.03 * wide, y + 0.03 * high), 0.94 * wide, 0.94 * high
    dots = Rectangle(*inside, fill=False, hatch="....", linewidth=0)
    dots.set_edgecolor(REFUSED["hatch_color"])
    return [axes.add_patch(ground), axes.add_patch(dots)]


def cross_out(
    axes: Any, box: tuple[float, float, float, float], ground: str, ink: str
) -> list[Any]:
    """Cross a box (left, bottom, width, height) out with matplotlib, as `CROSSING` does."""
    from matplotlib.patches import Rectangle

    corner, (wide, high) = box[:2], box[2:]
    under = Rectangle(corner, wide, high, facecolor=ground, linewidth=0)
    lines = Rectangle(corner, wide, high, fill=False, hatch="xxx", linewidth=0)
    lines.set_edgecolor((ink, 0.4))
    return [axes.add_patch(under), axes.add_patch(lines)]


def add_colour_bar(plot: Any, label: str) -> None:
    """Add the colour bar at a distance in inches, so that it fits alone and within a layout.

    HoloViews' own is placed in shares of the figure, and draws the figure anew for each.
    """
    figure, mesh = plot.handles["fig"], plot.handles["artist"]
    if "cbar" in plot.handles:
        plot.handles["cbar"].update_normal(mesh)
        return
    box, inches = plot.handles["axis"].get_position(), figure.get_figwidth()
    beside = figure.add_axes((box.x1 + 0.1 / inches, box.y0, 0.12 / inches, box.height))
    beyond = bool(np.ma.max(mesh.get_array()) > mesh.norm.vmax)
    bar = figure.colorbar(mesh, cax=beside, extend="max" if beyond else "neither")
    bar.set_label(label, fontsize=FONT_SIZES["cticks"])
    bar.ax.tick_params(labelsize=FONT_SIZES["cticks"], length=2)
    bar.outline.set_visible(False)
    plot.handles["cbar"] = bar
