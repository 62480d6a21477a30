"""Heat maps of several runs beside one another, on a shared axis of depth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import holoviews as hv
import numpy as np
import pandas as pd
from bokeh.models import ColumnDataSource, NoOverlap

from layerscope import stats
from layerscope.plots._backends import (
    FONT_SIZES,
    both,
    drop_sizing_mode,
    escape_braces,
    escape_dollars,
)
from layerscope.plots._colours import ink
from layerscope.plots._finishing import (
    BLANK,
    CROSSED,
    CROSSING,
    MARKS,
    REFUSED,
    explain_marks,
)
from layerscope.plots._hover import tooltips
from layerscope.plots._layout import Room, arrange
from layerscope.plots._names import shorten, shorten_layers, within, wrap
from layerscope.plots._printing import add_colour_bar, cross_out, name_columns, name_rows, refuse
from layerscope.plots._scales import Scale
from layerscope.plots._thinning import POINTS, standing_out

__all__ = ["Size", "panel", "row_names"]

_MOST_NAMED = 40
_PAGE = 6.75  # inches, between the margins of which several panels mostly stand
_SIGN = 8.5  # pixels of a sign of a title on the screen, on average


class Size(NamedTuple):
    """Height of a panel, on paper and on a screen."""

    inches: float
    pixels: int


def row_names(table: pd.DataFrame) -> dict[str, str]:
    """Shorten the names of the layers, from the first to the last."""
    layers = table.drop_duplicates("layer").sort_values("depth", ascending=False)
    return shorten_layers(list(layers["layer"]), 24)


def panel(
    name: str,
    short: str,
    table: pd.DataFrame,
    scale: Scale,
    size: Size,
    bar: str,
    refused: pd.DataFrame,
) -> hv.Rectangles:
    """Draw one run's heat map on the shared axis of depth.

    Parameters
    ----------
    name, short : str
        Of the run, as it is and where there is little room.
    table : DataFrame
        One row per cell of single layers, with its place.
    scale : Scale
    size : Size
    bar : str
        The name of its colour bar, if it has one.
    refused : DataFrame
        One row per cell that can't be computed, with its place, and ``why``.
    """
    texts = [text for text in map(str, table) if text.startswith("hover ")]
    columns = stats.column_order(table)
    depths = dict(zip(table["layer"], table["depth"], strict=True))
    ticks = [(depths[layer], written) for layer, written in row_names(table).items()]
    # Upwards: Bokeh leaves out every name that is not above the one before.
    ticks = ticks[:: -(-len(ticks) // _MOST_NAMED)][::-1]
    marks, share = _marks(table, scale), 1 / len(depths)
    crossed = _find_crosses(table, scale)
    told = _explained(table, marks, len(crossed) > 0, refused)
    cells = table.astype(dict.fromkeys([*texts, "layer", "column"], object))
    # HoloViews links axes by the name of their dimension, here that of the lower edge.
    # The columns of other runs are others.
    cells = cells.assign(depth=cells["bottom"], **{f"left of {name}": cells["left"]})
    edges = [hv.Dimension(f"left of {name}"), "depth", "right", "top"]
    boxes = hv.Rectangles(cells, edges, ["value", *texts])
    crowded = max(len(column) for column in columns) > 6 or len(columns) > 9
    names = shorten(columns, 24)
    every = -(-len(columns) // 24)
    wide = int(np.clip(30 * len(columns), 120, 360))
    shared: dict[str, Any] = {
        "color": "value",
        "cmap": scale.colours,
        "clim": (scale.low, scale.high),
        "logz": scale.log,
        "title": escape_braces(name),
        "xlabel": told,
        "ylabel": within(list(depths)),
        "xlim": (0, len(columns)),
        "ylim": (0, 1),
        "xticks": [(at + 0.5, names[each]) for at, each in enumerate(columns)][::every],
        "yticks": ticks,
        "xrotation": 90 if crowded else 0,
    }
    return both(
        boxes,
        shared,
        bokeh={
            "title": escape_braces(name if len(name) * _SIGN <= wide else short),
            "frame_width": wide,
            "frame_height": size.pixels,
            "xlabel": wrap(told, wide),
            "line_color": "white",
            "line_width": 0.5,
            "tools": ["hover"],
            "hover_tooltips": tooltips(texts),
            "default_tools": ["save", "ywheel_zoom", "ypan", "reset"],
            "colorbar": bool(bar),
            "clabel": wrap(bar, size.pixels),
            "hooks": [
                partial(_cross_bokeh, crossed=crossed),
                partial(_refuse_bokeh, greyed=refused),
                partial(_finish_bokeh_panel, marks=marks, size=0.6 * share * size.pixels),
            ],
        },
        matplotlib={
            "aspect": "auto",
            "edgecolor": "white",
            "linewidth": 0.3,
            "fontsize": FONT_SIZES | {"yticks": 7},
            "colorbar": False,
            "hooks": [
                partial(
                    _finish_matplotlib_panel,
                    rows=_Rows(list(row_names(table))[::-1], _worst(table, scale)),
                    columns=[names[each] for each in columns],
                    title=name,
                    bar=bar,
                    inches=size.inches,
                ),
                partial(_cross_matplotlib, crossed=crossed),
                partial(_refuse_matplotlib, greyed=refused),
                partial(_mark_matplotlib, marks=marks, size=0.4 * 72 * share * size.inches),
            ],
        },
    )


def _explained(
    table: pd.DataFrame,
    marks: Mapping[str, pd.DataFrame],
    crossed: bool,
    refused: pd.DataFrame,
) -> str:
    """Say what the marks, crosses, dots and hatching mean that there are."""
    known = table["value"].notna() | (table["not_finite"] > 0)
    rows = len({*table["layer"], *refused["layer"]})
    cells = rows * table["column"].nunique() - len(refused)
    lines = [
        explain_marks(name for name, places in marks.items() if len(places)),
        CROSSED if crossed else "",
        BLANK["open"] if known.sum() < cells else "",
        BLANK["refused"] if len(refused) else "",
    ]
    return "\n".join(filter(None, lines))


def _find_crosses(table: pd.DataFrame, scale: Scale) -> pd.DataFrame:
    """Find the cells that were not finite, and the colours in which they are crossed out."""
    there = table[table["not_finite"] > 0]
    grounds = [scale.colour(value) for value in there["value"]]
    return there[["left", "bottom", "right", "top"]].assign(
        ground=grounds, ink=[ink(ground) for ground in grounds]
    )


def _refuse_bokeh(plot: Any, element: hv.Rectangles, greyed: pd.DataFrame) -> None:  # noqa: ARG001
    from bokeh.models import HoverTool

    corners = {side: side for side in ("left", "bottom", "right", "top")}
    source = ColumnDataSource({str(name): list(greyed[name]) for name in greyed})
    boxes = plot.state.quad(**corners, **REFUSED, line_color="white", source=source)
    said = [("layer", "@layer"), ("column", "@column"), ("can't be computed", "@why")]
    plot.state.add_tools(HoverTool(renderers=[boxes], tooltips=said, visible=False))


def _refuse_matplotlib(
    plot: Any,
    element: hv.Rectangles,  # noqa: ARG001
    greyed: pd.DataFrame,
) -> None:
    cells: Iterable[Any] = greyed.itertuples()
    for cell in cells:
        box = cell.left, cell.bottom, cell.right - cell.left, cell.top - cell.bottom
        refuse(plot.handles["axis"], box)


def _cross_bokeh(plot: Any, element: hv.Rectangles, crossed: pd.DataFrame) -> None:  # noqa: ARG001
    corners = {side: side for side in ("left", "bottom", "right", "top")}
    # Lists, since BokehJS takes no array of colours.
    source = ColumnDataSource({str(name): list(crossed[name]) for name in crossed})
    plot.state.quad(**corners, **CROSSING, source=source)


def _cross_matplotlib(
    plot: Any,
    element: hv.Rectangles,  # noqa: ARG001
    crossed: pd.DataFrame,
) -> None:
    cells: Iterable[Any] = crossed.itertuples()
    for cell in cells:
        box = cell.left, cell.bottom, cell.right - cell.left, cell.top - cell.bottom
        cross_out(plot.handles["axis"], box, cell.ground, cell.ink)


def _marks(table: pd.DataFrame, scale: Scale) -> dict[str, pd.DataFrame]:
    """Place the marks of the cells settled to each verdict, in a colour that shows."""
    colours = [ink(scale.colour(value)) for value in table["value"]]
    places = pd.DataFrame({"x": table["left"] + 0.5, "y": table["depth"], "ink": colours})
    settled = table.get("verdict", pd.Series("", table.index))
    return {name: places[settled == name] for name in MARKS}


def _finish_bokeh_panel(
    plot: Any,
    element: hv.Rectangles,  # noqa: ARG001
    marks: Mapping[str, pd.DataFrame],
    size: float,
) -> None:
    drop_sizing_mode(plot)
    figure = plot.state
    figure.grid.visible = False
    figure.outline_line_color = None
    # Behind the cells, to show where there are none; BokehJS can't hatch a plot's own background.
    figure.quad(
        left=figure.x_range.start,
        right=figure.x_range.end,
        bottom=0,
        top=1,
        fill_color="white",
        line_color=None,
        hatch_pattern="/",
        hatch_color="#b0b0b0",
        hatch_scale=8,
        level="underlay",
    )
    for name, (_, marker, _, filled) in MARKS.items():
        figure.scatter(
            "x",
            "y",
            source=ColumnDataSource({axis: list(marks[name][axis]) for axis in ("x", "y", "ink")}),
            marker=marker,
            size=min(5.0, size),
            fill_color="ink" if filled else None,
            line_color="ink",
        )
    plot.handles["hover"].renderers = [plot.handles["glyph_renderer"]]
    for axis in (*figure.xaxis, *figure.yaxis):
        axis.major_label_policy = NoOverlap(min_distance=0)
        axis.update(major_tick_line_color=None, minor_tick_line_color=None, axis_line_color=None)


class _Rows(NamedTuple):
    """Layers from the last to the first, and which of these need their name most."""

    layers: list[str]
    first: list[int]


def _worst(table: pd.DataFrame, scale: Scale) -> list[int]:
    """Order rows, the lowest is 0: the ends, then those that are far worse than most."""
    layers = list(row_names(table))[::-1]
    own = table[table["column"] == table["epoch"].astype(str)]
    own = own if len(own) else table
    share = own["value"].map(scale.share).groupby(own["layer"]).max().reindex(layers)
    return list(dict.fromkeys([len(layers) - 1, 0, *standing_out(share.to_numpy())]))


def _finish_matplotlib_panel(
    plot: Any,
    element: hv.Rectangles,  # noqa: ARG001
    rows: _Rows,
    columns: list[str],
    title: str,
    bar: str,
    inches: float,
) -> None:
    axes = plot.handles["axis"]
    axes.patch.set(facecolor="white", hatch="/////", edgecolor="#d0d0d0", linewidth=0)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=POINTS)
    axes.set_title(escape_dollars(title), fontsize=FONT_SIZES["title"])
    if bar:
        add_colour_bar(plot, bar)
    fit = partial(_fit_panel, rows=rows, columns=columns)
    arrange(axes, lambda _: inches, fit, least=0.5)
    fit(axes, Room(2.6, inches, _PAGE, first=True))


def _fit_panel(axes: Any, room: Room, *, rows: _Rows, columns: list[str]) -> None:
    count = len(rows.layers)
    name_rows(axes, rows.layers, rows.first, room, lambda row: (row + 0.5) / count)
    name_columns(axes, columns, room, lambda at: at + 0.5)


def _mark_matplotlib(
    plot: Any,
    element: hv.Rectangles,  # noqa: ARG001
    marks: Mapping[str, pd.DataFrame],
    size: float,
) -> None:
    points = min(3.2, size)
    for name, (_, _, marker, filled) in MARKS.items():
        for mark in marks[name].itertuples():
            plot.handles["axis"].plot(
                mark.x,
                mark.y,
                marker,
                markersize=points,
                markeredgewidth=0.2 * points,
                markeredgecolor=mark.ink,
                markerfacecolor=mark.ink if filled else "none",
            )
