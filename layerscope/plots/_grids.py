"""Heat maps: layers by checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd
import xarray as xr

from layerscope import results, stats
from layerscope.errors import OptionError
from layerscope.plots._backends import FONT_SIZES, both, escape_braces
from layerscope.plots._colours import ColourMap, ink
from layerscope.plots._finishing import (
    BLANK,
    CROSSED,
    explain_marks,
    finish_bokeh,
    grid_size,
    names_along,
)
from layerscope.plots._hover import (
    DISTANCE_HOVER,
    doubts_of,
    tooltips,
    values_with_hover,
    with_hover,
)
from layerscope.plots._names import within, wrap
from layerscope.plots._printing import finish_matplotlib
from layerscope.plots._relative import Limits, limited, shown
from layerscope.plots._scales import Scale, scale_of
from layerscope.plots._stills import option

FORMULAS = {
    "l2": "‖Δ‖₂",
    "l2_rms": "‖Δ‖₂/√n",
    "l2_relative": "‖Δ‖₂/‖θ⁰‖₂",
    "l2_fan_in": "‖Δ‖₂/√fan_in",
    "linf": "‖Δ‖∞",
}
"""How each norm of a layer's move Δ = θ − θ⁰ is written."""

# The hover line that says "not computed" in a blank cell.
_MEASURED = ("hover value", "hover distance")
# Pixels of the rows' names and of the colour bar, which the axis' label may stand below.
_BESIDE = 80
# Of a screen 1280 wide without the margins of a page, of a sign of a row's name at most, and of all
# that stands beside a panel.
_SCREEN, _NAME_PIXELS, _BAR_PIXELS = 1205, 6.5, 106
_TEXTS = ("shown", "ink", "ground", "settled", "crossed", "blank")


def heatmap(
    ds: xr.Dataset,
    metric: str | None = None,
    columns: Sequence[int | str] | None = None,
    title: str | None = None,
    cmap: ColourMap | None = None,
    limits: Limits | None = None,
    relative: str | None = None,
) -> hv.HeatMap:
    """Draw the paper's Figure 1: layers by checkpoint, coloured by the metric.

    With the default colours light is good and dark is bad. Error and accuracy are coloured over
    0…1, so that figures compare; any other metric from its lowest to its highest value, on a
    logarithmic scale where these are more than a hundredfold apart (perplexity: tenfold). A hatched
    cell was not computed, a grey one with dots can't be; where the sweep stopped cells once they
    were settled, a mark says to what. A line below the axis explains what of this there is.

    Parameters
    ----------
    ds : Dataset
        With ``value``; what else it has (``baseline``, ``n_examples``, ``module_type``,
        ``parameters``) shows on hovering.
    metric : str, optional
        One of ``ds.metric``; by default the error, or the first where that was not measured.
    columns : sequence of int or str, optional
        Epochs, "rand" or both, in the order wanted; all that were computed if not given.
    title : str, optional
    cmap : str, sequence of str or Colormap, optional
        The colours from the best value to the worst: a name that matplotlib, Bokeh or colorcet
        knows, such as "viridis" (any with "_r" is reversed), or two or more colours to go between.
        What is written in a cell is black or white, whichever can be read on its colour.
    limits : sequence of float, optional
        What the first and the last colour stand for, such as (0, 0.5); None in place of one leaves
        it as it comes. What lies beyond has the colour of the end, which the colour bar says.
    relative : {"difference", "damage"}, optional
        Show, in place of values, how much worse they are than the trained network's: in the
        metric's unit, or as damage, 0 as trained and 1 as by chance. Colours go over what single
        layers give that are put back to checkpoints; what is beyond, as random values often are,
        has the last colour.

    Returns
    -------
    holoviews.HeatMap
        Categorical key dimensions ``column`` and ``layer``. The layers are held from the last to
        the first since the axis goes upwards: the first is drawn on top.

    Raises
    ------
    ResultError
        If the Dataset lacks a dimension or variable.
    OptionError
        If there is no such metric, column or map of colours, or nothing to hold values against.

    Examples
    --------
    >>> from layerscope import testing
    >>> plot = heatmap(testing.dataset(), columns=["rand", 0, 1])
    >>> list(plot.dimension_values("column", expanded=False))
    ['rand', '0', '1']
    """
    metric = results.metric_name(ds, metric)
    table = values_with_hover(ds, metric)
    heading = f"Test {metric} with one layer {results.act(ds)}" if title is None else title
    rows = stats.layer_order(ds)
    info = results.metric(ds, metric)
    layers = stats.layer_order(ds, network=False)
    table, scale, label = shown(table, info, layers, cmap, limits, relative)
    return _grid(table, rows, columns, scale, heading, label, results.refusals(ds))


def distances(
    ds: xr.Dataset,
    norm: str = "l2_fan_in",
    columns: Sequence[int | str] | None = None,
    title: str | None = None,
    cmap: ColourMap | None = None,
    limits: Limits | None = None,
) -> hv.HeatMap:
    """Draw how far each layer lies from its initial value, laid out as in `heatmap`.

    Colours go from 0 to the largest distance of a single layer; where the whole network lies
    further, its cells have the darkest colour and a printed colour bar ends in an arrow.

    Parameters
    ----------
    ds : Dataset
        With ``distance``; the column "rand" needs ``draw_distance``, whose draws are averaged.
    norm : str
        One of ``ds.norm``: the keys of `FORMULAS`.
    columns : sequence of int or str, optional
        As in `heatmap`.
    title : str, optional
        The norm's formula if not given.
    cmap : str, sequence of str or Colormap, optional
        As for `heatmap`, from 0 on.
    limits : sequence of float, optional
        As for `heatmap`.

    Returns
    -------
    holoviews.HeatMap

    Raises
    ------
    ResultError
        If the Dataset lacks a dimension or variable.
    OptionError
        If there is no such norm, column or map of colours.

    Examples
    --------
    >>> from layerscope import testing
    >>> distances(testing.dataset(), norm="linf").vdims[0]
    Dimension('value')
    """
    table = with_hover(ds, stats.distances(ds, norm), DISTANCE_HOVER)
    single = table["layer"].isin(stats.layer_order(ds, network=False))
    scale = limited(scale_of(table.loc[single, "value"], None, cmap), limits)
    formula = FORMULAS.get(norm, norm)
    heading = f"Distance from initial value, {formula}" if title is None else title
    return _grid(table, stats.layer_order(ds), columns, scale, heading, "distance")


def overview(
    ds: xr.Dataset,
    metric: str | None = None,
    columns: Sequence[int | str] | None = None,
    title: str | None = None,
    cmap: ColourMap | None = None,
    limits: Limits | None = None,
    relative: str | None = None,
) -> hv.Layout:
    """Draw the heat map beside two maps of distances, as in the paper's figure.

    Parameters
    ----------
    ds : Dataset
        As for `heatmap` and `distances`, with the norms "l2_fan_in" and "linf".
    metric : str, optional
        One of ``ds.metric``; by default the error, or the first where that was not measured.
    columns : sequence of int or str, optional
        As for `heatmap`, of all three.
    title : str, optional
        Of the first.
    cmap : str, sequence of str or Colormap, optional
        As for `heatmap`, of all three.
    limits, relative
        As for `heatmap`, of the first.

    Returns
    -------
    holoviews.Layout
        Three `holoviews.HeatMap`.

    Raises
    ------
    ResultError
        If the Dataset lacks a dimension or variable.
    OptionError
        If there is no such metric, norm or map of colours.

    Examples
    --------
    >>> from layerscope import testing
    >>> len(overview(testing.dataset()))
    3
    """
    metric = results.metric_name(ds, metric)
    # Short titles, and panels wide enough for them, since the panels of a layout share what room
    # there is.
    heading = f"Test {metric}" if title is None else title
    parts = [heatmap(ds, metric, columns, heading, cmap, limits, relative)] + [
        distances(ds, norm, columns, title=f"Distance {FORMULAS[norm]}", cmap=cmap)
        for norm in ("l2_fan_in", "linf")
    ]
    width, height = grid_size(parts[0]).inches
    width = max(width, 2.2)
    # The rows are the same, so their names stand once.
    parts[1:] = [both(part, {"yaxis": None}, {}, {}) for part in parts[1:]]
    wide = [_pixels(part, parts[0]) for part in parts]
    parts = [_narrow(part, pixels) for part, pixels in zip(parts, wide, strict=True)]
    gap = 0.85 / width  # room for a colour bar between the panels, in shares of a panel
    layout = hv.Layout(parts).cols(len(parts)).opts(backend="bokeh", shared_axes=False)
    return layout.opts(
        backend="matplotlib",
        shared_axes=False,
        fig_inches=(width * (len(parts) + gap * (len(parts) - 1)), height),
        fig_bounds=(0, 0, 1, 1),
        sublabel_format="",
        hspace=gap,
    )


def _pixels(part: hv.HeatMap, first: hv.HeatMap) -> int:
    """Choose how wide a panel is, such that three and the names fit a usual screen."""
    names = max(map(len, names_along(first, "layer").values()))
    left = (_SCREEN - _NAME_PIXELS * names) / 3 - _BAR_PIXELS
    return max(160, round(min(0.75 * grid_size(part).pixels[0], left)))


def _narrow(part: hv.HeatMap, pixels: int) -> hv.HeatMap:
    """Make a heat map as wide on the screen as this, and its label no wider."""
    label = wrap(option(part, "xlabel"), pixels)
    return part.opts(backend="bokeh", frame_width=pixels, xlabel=label)


def _grid(
    table: pd.DataFrame,
    rows: list[str],
    columns: Sequence[int | str] | None,
    scale: Scale,
    title: str,
    label: str,
    refused: Mapping[tuple[str, str], str] | None = None,
) -> hv.HeatMap:
    """Lay a long table out as a heat map with both backends' options set."""
    table = with_looks(table, scale)
    # HoloViews draws the first row at the bottom; its invert_yaxis fails with matplotlib.
    grid = pd.MultiIndex.from_product(
        [rows[::-1], _select_columns(table, columns)], names=["layer", "column"]
    )
    cells = table.set_index(["layer", "column"]).reindex(grid).reset_index()
    texts = texts_of(cells)
    cells = cells.assign(**cells[texts].fillna(""))
    cells["hover layer"], cells["hover reset to"] = cells["layer"], cells["column"]
    cells["blank"], cells[next(name for name in texts if name in _MEASURED)] = _blanks(
        cells, table, refused or {}
    )
    return draw_cells(cells, scale, title, label, _axis_label(cells))


def with_looks(table: pd.DataFrame, scale: Scale) -> pd.DataFrame:
    """Say of each value how it is written, and in which colours."""
    grounds = [scale.colour(value) for value in table["value"]]
    crossed = table["not_finite"] > 0 if "not_finite" in table else np.zeros(len(table), bool)
    settled = table["verdict"] if "verdict" in table else pd.Series("", table.index)
    return table.assign(
        shown=[scale.text(value) for value in table["value"]],
        ink=[ink(ground) for ground in grounds],
        ground=grounds,
        share=[scale.share(value) for value in table["value"]],
        settled=settled.where(doubts_of(table) == "", "in doubt"),
        crossed=np.where(crossed, "crossed", ""),
    )


def draw_cells(
    cells: pd.DataFrame, scale: Scale, title: str, label: str, xlabel: str, ylabel: str = ""
) -> hv.HeatMap:
    """Draw a grid with both backends' options set.

    Parameters
    ----------
    cells : DataFrame
        One row per place of the grid, the lowest first: ``column``, ``layer``, ``value``,
        ``blank`` (what is the matter where there is none), what `with_looks` adds, and "hover …".
    scale : Scale
    title, label, xlabel, ylabel : str
        `label` is of the colour bar.
    """
    texts = texts_of(cells)
    # With pyarrow installed, pandas keeps text in a form that HoloViews can't lay out as a grid.
    cells = cells.astype(dict.fromkeys([*texts, "layer", "column"], object))
    plot = hv.HeatMap(cells, ["column", "layer"], ["value", "share", *texts])
    size = grid_size(plot)
    shared: dict[str, Any] = {
        "cmap": scale.colours,
        "clim": (scale.low, scale.high),
        "logz": scale.log,
        "clipping_colors": {"NaN": "#00000000"},  # lets the hatching behind show
        "xlabel": xlabel,
        "ylabel": ylabel or within(list(plot.dimension_values("layer", False))),
    }
    return both(
        plot,
        shared | {"title": escape_braces(title)},
        bokeh={
            "frame_width": size.pixels[0],
            "frame_height": size.pixels[1],
            "line_color": "white",
            "tools": ["hover"],
            "hover_tooltips": tooltips(texts),
            "default_tools": ["save"],
            "line_width": 2,
            "colorbar": True,
            "xlabel": wrap(xlabel, size.pixels[0] + _BESIDE),
            "clabel": wrap(label, size.pixels[1]),
            "hooks": [partial(finish_bokeh, size=size)],
        },
        matplotlib={
            "aspect": "auto",
            "fig_inches": size.inches,
            "fig_bounds": (0, 0, 1, 1),
            "edgecolors": "white",
            "show_values": False,
            "fontsize": FONT_SIZES,
            "hooks": [
                partial(finish_matplotlib, inches=size.inches, label=label, printed=size.printed)
            ],
        },
    )


def texts_of(cells: pd.DataFrame) -> list[str]:
    """Name the columns of cells that hold texts."""
    return [name for name in map(str, cells) if name in _TEXTS or name.startswith("hover ")]


def _blanks(
    cells: pd.DataFrame, table: pd.DataFrame, refused: Mapping[tuple[str, str], str]
) -> tuple[list[str], list[str]]:
    """Name the state of each cell, and what it says of its value on hovering."""
    done = dict(zip(table["column"], table["perturbation"], strict=True))
    kinds, said = [], []
    measured = next(name for name in _MEASURED if name in cells)
    looked_at = ["layer", "column", "value", "crossed", measured]
    for layer, column, value, crossed, text in cells[looked_at].itertuples(index=False):
        why = refused.get((layer, done[column]))
        kind = "broken" if crossed else "open" if why is None else "refused"
        kinds.append(kind if pd.isna(value) else "")
        unknown = {"broken": "NaN", "open": "not computed", "refused": f"can't be computed: {why}"}
        said.append(unknown[kind] if pd.isna(value) else text)
    return kinds, said


def _axis_label(cells: pd.DataFrame) -> str:
    """Say what the columns are, and what the marks mean that there are."""
    columns = cells["column"].unique()
    label = "checkpoint the layer is reset to"
    if any(name != results.RAND and not name.isdigit() for name in columns):
        label = "what is done to the layer"
        if any(name.isdigit() for name in columns):
            label += "\n(a number: reset to that checkpoint)"
    told = [text for kind, text in BLANK.items() if kind in set(cells["blank"])]
    told += [CROSSED] if cells["crossed"].any() else []
    return "\n".join(filter(None, [label, *told, explain_marks(cells["settled"])]))


def _select_columns(table: pd.DataFrame, columns: Sequence[int | str] | None) -> list[str]:
    """Check the columns asked for; all of them, in the paper's order, if none were."""
    there = stats.column_order(table)
    if columns is None:
        return there
    # One alone, too: the name of a column is no list of its letters.
    listed = isinstance(columns, Iterable) and not isinstance(columns, str)
    wanted = [str(column) for column in (columns if listed else [columns])]
    missing = [column for column in wanted if column not in there]
    if missing or not wanted:
        came = f"{', '.join(missing)} was not recorded, or not computed" if missing else "none came"
        raise OptionError(f"of the columns asked for, {came}. There is: {', '.join(there)}.")
    return wanted
