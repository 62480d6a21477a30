"""Heat maps on paper, with matplotlib: what fits is printed and named, at 7 to 8 points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import holoviews as hv
import numpy as np

from layerscope.plots._backends import FONT_SIZES, NARROW, escape_dollars
from layerscope.plots._finishing import (
    MARKS,
    OUTSIDE,
    REFUSED,
    names_along,
    needed_columns,
    row_order_of,
)
from layerscope.plots._layout import UNBOUND, Room, arrange, ride
from layerscope.plots._names import shorten_layers
from layerscope.plots._thinning import (
    POINTS,
    Named,
    columns_named,
    length,
    round_first,
    rows_named,
)

__all__ = [
    "add_colour_bar",
    "cross_out",
    "finish_matplotlib",
    "name_columns",
    "name_rows",
    "refuse",
]

_GAP = 3.0  # points between two names
_NAMES_SHARE = 0.36, 0.3  # of a figure's width, at most for the names of rows; of a narrow one
_LEADER = 9.0  # points between rows and names that do not stand at them
_MARK = 3.0
_AT_ITS_ROW = 0.3  # rows that a name may stand off before a line leads to it
_LEADERS = "leader"
_LONG = 6  # signs of a column's name that stands upright
# Of a colour bar, where values lie below and above it.
_EXTENDS = {
    (False, False): "neither",
    (True, False): "min",
    (False, True): "max",
    (True, True): "both",
}


def finish_matplotlib(
    plot: Any, element: hv.HeatMap, inches: tuple[float, float], label: str, printed: bool
) -> None:
    """Print values and marks, hatch the ground, take every name as it is."""
    axes, mesh = plot.handles["axis"], plot.handles["artist"]
    # HoloViews leaves infinite cells blank here, which would read as "not computed".
    largest = np.finfo(float).max ** 0.5  # matplotlib multiplies it
    values = np.clip(element.dimension_values("value"), -largest, largest)
    mesh.set_array(np.ma.masked_invalid(values).reshape(mesh.get_array().shape))
    axes.patch.set(facecolor="white", hatch="/////", edgecolor="#b0b0b0", linewidth=0)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=POINTS)
    add_colour_bar(plot, label)
    for drawn in plot.handles.pop("cell_extras", ()):
        drawn.remove()
    plot.handles["cell_extras"] = _draw(axes, element, printed=printed)
    fit = partial(_fit, element=element, printed=printed, named=plot.yaxis is not None)
    arrange(axes, lambda _: inches[1], fit, least=0.1 * min(_columns(element), 9) + 0.25)
    fit(axes, Room(*inches, UNBOUND, first=False))


def _columns(element: hv.HeatMap) -> int:
    return len(element.dimension_values("column", expanded=False))


def _fit(axes: Any, room: Room, *, element: hv.HeatMap, printed: bool, named: bool) -> None:
    """Choose for a room what is named, whether values are printed, and where marks stand."""
    columns, rows = _columns(element), len(element.dimension_values("layer", expanded=False))
    cell = 72 * room.wide / columns, 72 * room.high / rows
    texts = [text for text in axes.texts if text.get_text()]
    fits = printed and cell[1] >= 1.1 * POINTS
    fits = fits and all(length(text.get_text()) + 1.0 <= cell[0] for text in texts)
    for text in texts:
        text.set_visible(fits)
    # Thinner where rows or columns are thin, or the gaps would be all there is to see.
    for mesh in axes.collections:
        mesh.set_linewidth(min(0.8, 0.08 * min(cell)))
    for mark in axes.lines:
        _fit_mark(mark, cell, beside=fits)
    _name_columns(axes, element, room)
    # Of panels side by side the first one may name the rows of all.
    axes.yaxis.set_visible(named or room.first)
    _name_rows(axes, element, room)


def _fit_mark(mark: Any, cell: tuple[float, float], *, beside: bool) -> None:
    """Put a mark into the corner of its cell where a value is printed, else into the middle."""
    place = getattr(mark, "layerscope_place", None)
    if place is None:
        return
    x, y = place
    mark.set_data([x + 0.37 * beside], [y + 0.3 * beside])
    points = min(_MARK, 0.45 * min(cell))
    mark.set(markersize=points, markeredgewidth=0.2 * points)


def _name_columns(axes: Any, element: hv.HeatMap, room: Room) -> None:
    names = list(names_along(element, "column").values())
    name_columns(axes, names, room, lambda column: column)


def name_columns(axes: Any, names: Sequence[str], room: Room, at: Callable[[float], float]) -> None:
    """Name columns below them: upright where they are long, or those needed most don't fit."""
    needed, wide = needed_columns(names), room.wide * 72 / len(names)
    places, lengths = [column * wide for column in range(len(names))], list(map(length, names))
    order = round_first(names, places, lengths, needed, _GAP)
    kept = columns_named(places, lengths, order, _GAP)
    long = max(map(len, names)) > _LONG and len(kept) < len(names)
    upright = long or not set(needed) <= set(kept)
    named = [Named(column, float(column)) for column in kept]
    if upright:
        order = round_first(names, places, [POINTS] * len(names), needed, _GAP)
        named = rows_named(len(names), 72 * room.wide, needed, order)
    told = [escape_dollars(names[each.row]) for each in named]
    axes.set_xticks([at(each.place) for each in named], told)
    axes.tick_params("x", labelrotation=90 if upright else 0)
    _lead_all(axes, named, at, axes.xaxis)


def _name_rows(axes: Any, element: hv.HeatMap, room: Room) -> None:
    name_rows(
        axes,
        [str(name) for name in element.dimension_values("layer", expanded=False)],
        row_order_of(element),
        room,
        lambda row: row,
    )


def name_rows(
    axes: Any, rows: Sequence[str], order: Sequence[int], room: Room, at: Callable[[float], float]
) -> None:
    """Name the rows of a grid beside them, those that come first in an order before others.

    Parameters
    ----------
    rows : sequence of str
        From the lowest.
    order : sequence of int
        Of the rows that are to be named first, as far as there is room.
    room : Room
    at : callable
        Place on the axis of a row, counted from the lowest.
    """
    share = _NAMES_SHARE[room.figure < NARROW]
    longest = int(share * room.figure * 72 / (0.6 * POINTS))
    written = shorten_layers(rows, max(min(longest, 40), 8))
    named = rows_named(len(rows), 72 * room.high, order)
    texts = [escape_dollars(written[rows[each.row]]) for each in named]
    axes.set_yticks([at(each.place) for each in named], texts)
    _lead_all(axes, named, at, axes.yaxis)


def _lead_all(axes: Any, named: Sequence[Named], at: Callable[[float], float], axis: Any) -> None:
    """Draw lines from rows, or columns, to names that don't stand at them."""
    sign = f"{_LEADERS} {axis.axis_name}"
    for leader in [text for text in axes.texts if text.get_gid() == sign]:
        leader.remove()
    moved = any(abs(each.place - each.row) > _AT_ITS_ROW for each in named) and axis.get_visible()
    axes.tick_params(axis.axis_name, pad=_LEADER + 1.5 if moved else 3)
    for each in named if moved else ():
        _lead(axes, at(each.row), at(each.place), axis.axis_name, sign)


def _lead(axes: Any, start: float, end: float, axis: str, sign: str) -> None:
    from matplotlib.transforms import ScaledTranslation

    down = axis == "x"
    edge = axes.get_xaxis_transform() if down else axes.get_yaxis_transform()
    off = (0.0, -_LEADER / 72) if down else (-_LEADER / 72, 0.0)
    away = ScaledTranslation(off[0], off[1], axes.figure.dpi_scale_trans)
    look = {"arrowstyle": "-", "linewidth": 0.4, "color": "#777777", "shrinkA": 0, "shrinkB": 0}
    ends = [(place, 0) if down else (0, place) for place in (start, end)]
    axes.annotate("", *ends, edge, edge + away, arrowprops=look, gid=sign, annotation_clip=False)


def _draw(axes: Any, element: hv.HeatMap, *, printed: bool) -> list[Any]:
    """Draw values, marks and what can't be computed."""
    from matplotlib.patches import Rectangle

    columns, rows = (
        list(element.dimension_values(name, expanded=False)) for name in ("column", "layer")
    )
    drawn: list[Any] = []
    look = {"ha": "center", "va": "center_baseline", "fontsize": POINTS}
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
        if cell.shown and printed:
            ground = {"facecolor": cell.ground, "edgecolor": "none", "pad": 0.6}
            more = {"bbox": ground} if cell.crossed else {}
            drawn.append(axes.text(x, y, cell.shown, color=cell.ink, **look, **more))
        if cell.settled:
            drawn += _mark(axes, cell.settled, (x, y), cell.ink)
    return drawn


def _mark(axes: Any, settled: str, place: tuple[int, int], ink: str) -> list[Any]:
    _, _, marker, filled = MARKS[settled]
    look = {"markeredgecolor": ink, "markerfacecolor": ink if filled else "none"}
    marks: list[Any] = axes.plot(*place, marker, **look)
    for mark in marks:
        mark.layerscope_place = place
    return marks


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
    axes = plot.handles["axis"]
    box, inches = axes.get_position(), figure.get_figwidth()
    beside = figure.add_axes((box.x1 + 0.1 / inches, box.y0, 0.12 / inches, box.height))
    ends = mesh.get_array().min(), mesh.get_array().max()
    over = ends[0] < mesh.norm.vmin, ends[1] > mesh.norm.vmax
    bar = figure.colorbar(mesh, cax=beside, extend=_EXTENDS[over], extendfrac=0.06)
    bar.set_label(label, fontsize=FONT_SIZES["cticks"])
    bar.ax.tick_params(labelsize=FONT_SIZES["cticks"], length=2)
    ride(beside, axes)
    bar.outline.set_visible(False)
    plot.handles["cbar"] = bar
