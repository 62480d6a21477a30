"""What HoloViews has no option for in a heat map: printed values, hatching, a colour bar."""

from __future__ import annotations

from typing import Any, NamedTuple

import holoviews as hv
import numpy as np
from bokeh.models import ColumnDataSource, NoOverlap

from layerscope.plots.backends import FONT_SIZES, literal, quieten

_MOST_PRINTED = 400
# Names along an axis that there is room for.
_ROOM = {"column": 24, "layer": 120}


class _Size(NamedTuple):
    """Of a grid: inches and pixels of all of it, points of its type, whether values fit."""

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
    return _Size(
        (wide * columns, high * rows),
        (round(110 * wide) * columns, max(14, round(96 * high)) * rows),
        min(8.0, 72 * high * 0.62),
        wide > 0.3 and rows * columns <= _MOST_PRINTED,
    )


def finish_bokeh(plot: Any, element: hv.HeatMap, size: _Size) -> None:
    """Print the values and hatch what is blank; HoloViews has no option for either."""
    figure = plot.state
    quieten(plot)
    figure.grid.visible = False
    figure.outline_line_color = None
    for axis in (*figure.xaxis, *figure.yaxis):
        axis.major_label_policy = NoOverlap(min_distance=0)
        axis.update(major_tick_line_color=None, axis_line_color=None)
    if _crowded(element):
        figure.xaxis.major_label_orientation = "vertical"
    figure.yaxis.major_label_text_font_size = f"{min(11, round(size.points * 1.6))}px"
    cells = element.dframe()
    blank = cells.loc[cells["value"].isna(), ["column", "layer"]].to_dict("list")
    # The hook runs again when a DynamicMap changes; the printed values follow their source.
    if "blank" in plot.handles:
        plot.handles["blank"].data = blank
        return
    plot.handles["blank"] = ColumnDataSource(blank)
    at = {"x": "column", "y": "layer"}
    figure.rect(
        **at,
        **dict.fromkeys(("width", "height"), 1),
        **dict.fromkeys(("fill_color", "line_color"), "white"),
        hatch_pattern="/",
        hatch_color="#b0b0b0",
        hatch_scale=8,
        level="underlay",
        source=plot.handles["blank"],
    )
    if size.printed:
        figure.text(
            **at,
            text="shown",
            text_color="ink",
            text_align="center",
            text_baseline="middle",
            text_font_size=f"{round(size.points * 1.5)}px",
            source=plot.handles["cds"],
        )
    plot.handles["hover"].renderers = [plot.handles["glyph_renderer"]]


def finish_matplotlib(plot: Any, element: hv.HeatMap, size: _Size, label: str) -> None:
    """Print the values, hatch the ground, take every name as it is."""
    axes, mesh = plot.handles["axis"], plot.handles["artist"]
    # HoloViews leaves infinite cells blank here, which would read as "not computed".
    largest = np.finfo(float).max
    values = np.clip(element.dimension_values("value"), -largest, largest)
    mesh.set_array(np.ma.masked_invalid(values).reshape(mesh.get_array().shape))
    axes.patch.set(facecolor="white", hatch="/////", edgecolor="#b0b0b0", linewidth=0)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    for axis, name in ((axes.xaxis, "column"), (axes.yaxis, "layer")):
        names = element.dimension_values(name, expanded=False)
        # Every so many where there is no room for each.
        step = -(-len(names) // _ROOM[name])
        axis.set_ticks(range(0, len(names), step), [literal(each) for each in names[::step]])
    if _crowded(element):
        axes.tick_params("x", labelrotation=90)
    if plot.yaxis is None:
        axes.tick_params(labelleft=False)
    _add_colour_bar(plot, label)
    for text in plot.handles.pop("cell_texts", ()):
        text.remove()
    if size.printed:
        plot.handles["cell_texts"] = _print_values(axes, element, size.points)


def _crowded(element: hv.HeatMap) -> bool:
    """Whether the columns' names are too long to stand side by side."""
    return max(len(str(name)) for name in element.dimension_values("column", False)) > 6


def _print_values(axes: Any, element: hv.HeatMap, points: float) -> list[Any]:
    columns, rows = (
        list(element.dimension_values(name, expanded=False)) for name in ("column", "layer")
    )
    look = {"ha": "center", "va": "center_baseline", "fontsize": points}
    return [
        axes.text(
            columns.index(cell.column), rows.index(cell.layer), cell.shown, color=cell.ink, **look
        )
        for cell in element.dframe().itertuples()
        if cell.shown
    ]


def _add_colour_bar(plot: Any, label: str) -> None:
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
