"""Figures of a Dataset, as HoloViews objects that draw with Bokeh and with matplotlib.

>>> from layerscope import plots, testing
>>> plot = plots.heatmap(testing.dataset())
>>> plots.save(plot, "heatmap.pdf")                                         # doctest: +SKIP
>>> plots.show(plot)                                                        # doctest: +SKIP

Nothing is computed here: the numbers come from `layerscope.stats`.
"""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import holoviews as hv
import numpy as np
import pandas as pd
import xarray as xr
from bokeh.models import ColumnDataSource, NoOverlap, Toolbar
from holoviews.core.util import dimension_sanitizer

from layerscope import results, stats
from layerscope.errors import OptionError, ResultError, choose

__all__ = ["curves", "distances", "heatmap", "overview", "save", "show"]

FORMULAS = {
    "l2": "‖Δ‖₂",
    "l2_rms": "‖Δ‖₂/√n",
    "l2_relative": "‖Δ‖₂/‖θ⁰‖₂",
    "l2_fan_in": "‖Δ‖₂/√fan_in",
    "linf": "‖Δ‖∞",
}
"""How each norm of a layer's move Δ = θ − θ⁰ is written."""

_SUFFIXES = (".html", ".pdf", ".png", ".svg")
_MANY_LAYERS = 12
_MOST_PRINTED = 400
# Okabe & Ito's palette without black, which is the whole network's, and without its yellow,
# which is too pale for a thin line on white.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
# Curves differ without colour, too. Each pair holds Bokeh's name and matplotlib's.
_DASHES = (("solid", "-"), ("dashed", "--"), ("dotdash", "-."), ("dotted", ":"))
_MARKERS = (
    ("circle", "o"),
    ("square", "s"),
    ("triangle", "^"),
    ("diamond", "D"),
    ("inverted_triangle", "v"),
)
_FONT_SIZES = {"title": 9, "labels": 8, "ticks": 8, "legend": 8, "cticks": 7}
# The hover line that says "not computed" in a blank cell.
_MEASURED = ("hover value", "hover distance")
# Names along an axis that there is room for.
_ROOM = {"column": 24, "layer": 120}


# Figures


def heatmap(
    ds: xr.Dataset,
    metric: str = "error",
    columns: Sequence[int | str] | None = None,
    title: str | None = None,
) -> hv.HeatMap:
    """Draw the paper's Figure 1: layers by checkpoint, coloured by the metric.

    Light is good and dark is bad. Error and accuracy are coloured over 0…1, so that figures
    compare; any other metric from its lowest to its highest value, on a logarithmic scale where
    these are more than a hundredfold apart. A hatched cell was not computed.

    Parameters
    ----------
    ds : Dataset
        With ``value``; what else it has (``baseline``, ``n_examples``, ``module_type``,
        ``parameters``) shows on hovering.
    metric : str
        One of ``ds.metric``.
    columns : sequence of int or str, optional
        Epochs, "rand" or both, in the order wanted; all that were computed if not given.
    title : str, optional

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
        If there is no such metric or column.

    Examples
    --------
    >>> from layerscope import testing
    >>> plot = heatmap(testing.dataset(), columns=["rand", 0, 1])
    >>> list(plot.dimension_values("column", expanded=False))
    ['rand', '0', '1']
    """
    table = _with_hover(ds, stats.summary(ds, metric), _VALUE_HOVER)
    heading = f"Test {metric} with one layer reset" if title is None else title
    rows = stats.layer_order(ds)
    return _grid(table, rows, columns, _scale(table["value"], metric), heading, _label(metric))


def distances(
    ds: xr.Dataset,
    norm: str = "l2_fan_in",
    columns: Sequence[int | str] | None = None,
    title: str | None = None,
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

    Returns
    -------
    holoviews.HeatMap

    Raises
    ------
    ResultError
        If the Dataset lacks a dimension or variable.
    OptionError
        If there is no such norm or column.

    Examples
    --------
    >>> from layerscope import testing
    >>> distances(testing.dataset(), norm="linf").vdims[0]
    Dimension('value')
    """
    table = _with_hover(ds, stats.distances(ds, norm), _DISTANCE_HOVER)
    single = table["layer"].isin(stats.layer_order(ds, network=False))
    scale = _scale(table.loc[single, "value"], "distance")
    formula = FORMULAS.get(norm, norm)
    heading = f"Distance from initial value, {formula}" if title is None else title
    return _grid(table, stats.layer_order(ds), columns, scale, heading, "distance")


def overview(ds: xr.Dataset, metric: str = "error") -> hv.Layout:
    """Draw the heat map beside two maps of distances, as in the paper's figure.

    Parameters
    ----------
    ds : Dataset
        As for `heatmap` and `distances`, with the norms "l2_fan_in" and "linf".
    metric : str
        One of ``ds.metric``.

    Returns
    -------
    holoviews.Layout
        Three `holoviews.HeatMap`.

    Raises
    ------
    ResultError
        If the Dataset lacks a dimension or variable.
    OptionError
        If there is no such metric or norm.

    Examples
    --------
    >>> from layerscope import testing
    >>> len(overview(testing.dataset()))
    3
    """
    parts = [heatmap(ds, metric), distances(ds, "l2_fan_in"), distances(ds, "linf")]
    width, height = _grid_size(parts[0]).inches
    # The rows are the same, so their names stand once.
    parts[1:] = [_both(part, {"yaxis": None}, {}, {}) for part in parts[1:]]
    narrow = round(0.75 * _grid_size(parts[0]).pixels[0])
    parts = [part.opts(backend="bokeh", frame_width=narrow) for part in parts]
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


def curves(ds: xr.Dataset, metric: str = "error", title: str | None = None) -> hv.Overlay:
    """Draw one curve per layer over the checkpoint it is reset to.

    Checkpoints stand at equal distances, since the first ones matter most. Shading is the
    interval of `layerscope.stats.summary`. Above twelve layers the colour tells the depth and
    the shading is left out.

    Parameters
    ----------
    ds : Dataset
        With ``value`` and ``baseline``.
    metric : str
        One of ``ds.metric``.
    title : str, optional

    Returns
    -------
    holoviews.Overlay

    Raises
    ------
    ResultError
        If the Dataset lacks a dimension or variable, or no layer was reset to a checkpoint.
    OptionError
        If there is no such metric.

    Examples
    --------
    >>> from layerscope import testing
    >>> len(curves(testing.dataset()).Curve) > 4
    True
    """
    table = _with_hover(ds, stats.summary(ds, metric), _VALUE_HOVER)
    table = table[table["perturbation"] == "reinitialize"]
    if table.empty:
        raise ResultError("no layer was reset to a checkpoint here; sweep with 'reinitialize'.")
    epochs = sorted(table["epoch"].unique())
    table = table.assign(place=table["epoch"].map(epochs.index))
    looks = _looks(stats.layer_order(ds, network=False))
    parts = [_baseline_curve(ds, metric, len(epochs)), *_bundle(table, looks)]
    for name, of_layer in table.groupby("layer", sort=False):
        look = looks.get(str(name), _NETWORK_LOOK)
        parts += _curve(of_layer, str(name), look) if look.named else []
    heading = f"Test {metric} with one layer reset" if title is None else title
    return _framed(hv.Overlay(parts), epochs, _scale(table["value"], metric), heading, metric)


# Files and notebooks


def save(plot: Any, path: str | os.PathLike[str], title: str | None = None) -> Path:
    """Write a figure, in the form that the suffix names.

    Parameters
    ----------
    plot : HoloViews object
        From this module, or any other.
    path : path-like
        ``.html`` is one self-contained interactive page; ``.png`` (300 dots per inch), ``.svg``
        and ``.pdf`` are for a paper, with fonts embedded. The same plot gives the same bytes,
        except in HTML.
    title : str, optional
        Of the document; the plot's description if not given.

    Returns
    -------
    Path

    Raises
    ------
    OptionError
        If the suffix is none of these.
    ResultError
        If the place is not writable.

    Examples
    --------
    >>> from layerscope import testing
    >>> save(heatmap(testing.dataset()), "heatmap.svg")                     # doctest: +SKIP
    """
    path = Path(path)
    suffix = choose(path.suffix.lower(), _SUFFIXES, "kind of figure with the suffix")
    if suffix == ".html":
        return results.write_bytes(path, _page(plot, title or _description(plot)).encode())
    return results.write_bytes(path, _still(plot, suffix[1:], 300, title))


def show(plot: Any, live: bool | None = None) -> Shown:
    """Show a figure in a notebook, interactive or as a still picture.

    Parameters
    ----------
    plot : HoloViews object
    live : bool, optional
        With hover and zoom (1.5 MB, in a frame that needs nothing from outside), or a PNG of
        some 30 kB without JavaScript. If not given: live in an interactive kernel; still where a
        notebook is executed in one go (papermill, nbconvert), outside notebooks, and where the
        environment variable ``LAYERSCOPE_STILL`` is set.

    Returns
    -------
    Shown
        Displays itself as the last value of a cell.

    Examples
    --------
    >>> from layerscope import testing
    >>> show(heatmap(testing.dataset(layers=2)), live=False)
    Test error with one layer reset: 3 rows × 9 columns, from .02 (layer1, 100) to .95 \
(fullmodel, 0).
    """
    return Shown(plot, _is_interactive() if live is None else live)


class Shown:
    """A figure that a notebook displays; made by `show`."""

    def __init__(self, plot: Any, live: bool) -> None:
        self.plot = plot
        self.live = live

    def __repr__(self) -> str:
        return _description(self.plot)

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, str], dict[str, dict[str, object]]]:
        """Give Jupyter a picture, its description and, if live, a page in a frame."""
        del include, exclude  # Jupyter passes them; every form is cheap enough to give.
        picture = _fewer_colours(_still(self.plot, "png", 144, None))
        bundle = {"text/plain": repr(self), "image/png": base64.b64encode(picture).decode()}
        if self.live:
            bundle["text/html"] = _frame(self.plot)
        # 144 dots per inch are sharp on fine screens; shown at 96 they keep the figure's size.
        size = int(int.from_bytes(picture[16:20], "big") * 96 / 144)
        return bundle, {"image/png": {"width": size, "alt": repr(self)}}


# The steps of the above


class _Scale(NamedTuple):
    """Which values the colours stand for, and how the values are written."""

    low: float
    high: float
    log: bool
    decimals: int | None
    colours: list[str]

    def colour(self, value: float) -> str:
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = np.log([low, high, max(at, low)])
        share = float(np.clip((at - low) / (high - low), 0, 1))
        return self.colours[round(share * (len(self.colours) - 1))]

    def text(self, value: float) -> str:
        """Write a value as the paper does: .38."""
        if value == 0:
            return "0"
        if self.decimals is None or not np.isfinite(value):
            return f"{value:.2g}"
        text = f"{value:.{self.decimals}f}"
        return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def _scale(values: pd.Series, metric: str) -> _Scale:
    """Choose the range of the colours, and the decimals that fit it."""
    colours = _colours(reverse=metric in stats.HIGHER_IS_BETTER)
    if metric in stats.FRACTIONS:
        return _Scale(0.0, 1.0, False, 2, colours)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    if metric == "distance":
        low = 0.0
    if high <= low:
        high = low + 1.0
    log = low > 0 and high / low > 100
    decimals = int(np.clip(2 - np.floor(np.log10(max(-low, high))), 0, 4))
    return _Scale(low, high, log, None if log else decimals, colours)


def _colours(reverse: bool) -> list[str]:
    """Give 256 colours from light to dark that keep their order in grey."""
    import matplotlib as mpl
    from matplotlib.colors import to_hex

    # From a little way in: the palest of the map can't be told from blank paper.
    colours = [to_hex(mpl.colormaps["YlGnBu"](place)) for place in np.linspace(0.04, 1, 256)]
    return colours[::-1] if reverse else colours


def _ink(colour: str) -> str:
    """Black or white, whichever has the higher contrast on `colour` (WCAG 2.2)."""
    from matplotlib.colors import to_rgb

    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    luminance = float(np.dot([0.2126, 0.7152, 0.0722], linear))
    return "#000000" if luminance > 0.179 else "#ffffff"


def _label(metric: str) -> str:
    return f"test {metric}" + (" (fraction)" if metric in stats.FRACTIONS else "")


# What shows on hovering: name, form, and what must be known for the line to say something.
_VALUE_HOVER = {
    "layer": "{layer}",
    "reset to": "{column}",
    "value": "{value:.4g}",
    "95 % interval": "{lower:.4g} to {upper:.4g}, over {interval_kind}",
    "degradation": "{degradation:+.4g}",
    "examples": "{n_examples:,.0f}",
    "draws, seeds": "{n_draws}, {n_seeds}",
}
_DISTANCE_HOVER = {
    "layer": "{layer}",
    "reset to": "{column}",
    "distance": "{value:.4g}",
    "standard deviation": "{spread:.2g}",
    "draws, seeds": "{n_draws}, {n_seeds}",
}
_LAYER_HOVER = {"module": "{module_type}", "parameters": "{parameters:,.0f}"}


def _with_hover(ds: xr.Dataset, table: pd.DataFrame, forms: dict[str, str]) -> pd.DataFrame:
    """Add a column for each line that shows on hovering, named "hover …".

    The lines are written here, since a number that is unknown should read as "–", not as "NaN".
    """
    if table.empty:
        raise ResultError("every cell of this Dataset is NaN: nothing was computed yet.")
    known = {
        name: dict(zip(map(str, ds["layer"].values), ds[name].values, strict=True))
        for name in ("module_type", "parameters")
        if name in ds.coords and ds[name].dims == ("layer",)
    }
    if len(known) == len(_LAYER_HOVER):
        forms = forms | _LAYER_HOVER
    rows = [
        row | {name: values[row["layer"]] for name, values in known.items()}
        for row in table.to_dict("records")
    ]
    return table.assign(
        **{f"hover {name}": [_filled(form, row) for row in rows] for name, form in forms.items()}
    )


def _filled(form: str, row: dict[Any, Any]) -> str:
    text = form.format(**row)
    return "–" if "nan" in text and text != row["layer"] else text


def _tooltips(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Pair each hover line with its column; Bokeh escapes what it puts there."""
    lines = [name for name in texts if name.startswith("hover ")]
    return [(name.removeprefix("hover "), f"@{{{dimension_sanitizer(name)}}}") for name in lines]


def _chosen(table: pd.DataFrame, columns: Sequence[int | str] | None) -> list[str]:
    """Check the columns asked for; all of them, in the paper's order, if none were."""
    there = stats.column_order(table)
    if columns is None:
        return there
    wanted = [str(column) for column in columns]
    missing = [column for column in wanted if column not in there]
    if missing or not wanted:
        came = f"{', '.join(missing)} was not recorded, or not computed" if missing else "none came"
        raise OptionError(f"of the columns asked for, {came}. There is: {', '.join(there)}.")
    return wanted


class _Size(NamedTuple):
    """Of a grid: inches and pixels of all of it, points of its type, whether values fit."""

    inches: tuple[float, float]
    pixels: tuple[int, int]
    points: float
    printed: bool


def _size(rows: int, columns: int) -> _Size:
    wide = float(np.clip(7 / columns, 0.1, 0.42))
    high = float(np.clip(6.5 / rows, 0.125, max(0.3, 1.0 / rows)))
    return _Size(
        (wide * columns, high * rows),
        (round(110 * wide) * columns, max(14, round(96 * high)) * rows),
        min(8.0, 72 * high * 0.62),
        wide > 0.3 and rows * columns <= _MOST_PRINTED,
    )


def _grid_size(plot: hv.HeatMap) -> _Size:
    return _size(*(len(plot.dimension_values(name, False)) for name in ("layer", "column")))


def _grid(
    table: pd.DataFrame,
    rows: list[str],
    columns: Sequence[int | str] | None,
    scale: _Scale,
    title: str,
    label: str,
) -> hv.HeatMap:
    """Lay a long table out as a heat map with both backends' options set."""
    table = table.assign(
        shown=[scale.text(value) for value in table["value"]],
        ink=[_ink(scale.colour(value)) for value in table["value"]],
    )
    # HoloViews draws the first row at the bottom; its invert_yaxis fails with matplotlib.
    grid = pd.MultiIndex.from_product(
        [rows[::-1], _chosen(table, columns)], names=["layer", "column"]
    )
    cells = table.set_index(["layer", "column"]).reindex(grid).reset_index()
    texts = [n for n in map(str, cells) if n in ("shown", "ink") or n.startswith("hover ")]
    cells = cells.assign(**cells[texts].fillna(""))
    cells["hover layer"], cells["hover reset to"] = cells["layer"], cells["column"]
    blank = cells["value"].isna()
    cells.loc[blank, next(name for name in texts if name in _MEASURED)] = "not computed"
    plot = hv.HeatMap(cells, ["column", "layer"], ["value", *texts])
    size = _grid_size(plot)
    shared: dict[str, Any] = {
        "cmap": scale.colours,
        "clim": (scale.low, scale.high),
        "logz": scale.log,
        "clipping_colors": {"NaN": "#00000000"},  # lets the hatching behind show
        "xlabel": "checkpoint the layer is reset to",
        "ylabel": "",
    }
    return _both(
        plot,
        shared | {"title": _unformatted(title)},
        bokeh={
            "frame_width": size.pixels[0],
            "frame_height": size.pixels[1],
            "line_color": "white",
            "tools": ["hover"],
            "hover_tooltips": _tooltips(texts),
            "default_tools": ["save"],
            "line_width": 2,
            "colorbar": True,
            "clabel": label,
            "hooks": [partial(_finish_bokeh_grid, size=size)],
        },
        matplotlib={
            "aspect": "auto",
            "fig_inches": size.inches,
            "fig_bounds": (0, 0, 1, 1),
            "edgecolors": "white",
            "linewidths": 0.8,
            "show_values": False,
            "fontsize": _FONT_SIZES | {"yticks": min(8, size.points + 1)},
            "hooks": [partial(_finish_matplotlib_grid, size=size, label=label)],
        },
    )


def _finish_bokeh_grid(plot: Any, element: hv.HeatMap, size: _Size) -> None:
    """Print the values and hatch what is blank; HoloViews has no option for either."""
    figure = plot.state
    _quieten(plot)
    figure.grid.visible = False
    figure.outline_line_color = None
    for axis in (*figure.xaxis, *figure.yaxis):
        axis.major_label_policy = NoOverlap(min_distance=0)
        axis.update(major_tick_line_color=None, axis_line_color=None)
    if _crowded(element):
        figure.xaxis.major_label_orientation = "vertical"
    figure.yaxis.major_label_text_font_size = f"{min(11, round(size.points * 1.6))}px"
    blank = element.dframe()[lambda cells: cells["value"].isna()]
    blank = {name: list(blank[name]) for name in ("column", "layer")}
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


def _finish_matplotlib_grid(plot: Any, element: hv.HeatMap, size: _Size, label: str) -> None:
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
        axis.set_ticks(range(0, len(names), step), [_literal(each) for each in names[::step]])
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
    bar.set_label(label, fontsize=_FONT_SIZES["cticks"])
    bar.ax.tick_params(labelsize=_FONT_SIZES["cticks"], length=2)
    bar.outline.set_visible(False)
    plot.handles["cbar"] = bar


# Curves, step by step


class _Look(NamedTuple):
    """How one layer's curve looks; dash and marker as Bokeh and as matplotlib name them."""

    colour: str
    dash: tuple[str, str]
    marker: tuple[str, str]
    width: float
    shaded: bool
    named: bool


_NETWORK_LOOK = _Look("#000000", ("solid", "-"), ("circle", "o"), 2.0, True, True)


def _looks(layers: list[str]) -> dict[str, _Look]:
    """Give each layer its look: told apart without colour if few, coloured by depth if many."""
    if len(layers) <= _MANY_LAYERS:
        return {
            name: _Look(
                _COLOURS[index % len(_COLOURS)],
                _DASHES[(index + index // len(_COLOURS)) % len(_DASHES)],
                _MARKERS[index % len(_MARKERS)],
                *(1.5, True, True),
            )
            for index, name in enumerate(layers)
        }
    # The palest third does not show as a thin line on white.
    colours = _colours(reverse=False)[80:]
    ends = (0, len(layers) - 1)
    return {
        name: _Look(
            colours[index * (len(colours) - 1) // (len(layers) - 1)],
            _DASHES[0],
            _MARKERS[0],
            *(1.0, False, index in ends),
        )
        for index, name in enumerate(layers)
    }


def _curve(table: pd.DataFrame, name: str, look: _Look) -> list[Any]:
    """Draw one layer: its interval, its line, and dots to hover over."""
    line = hv.Curve(table, "place", "value", label=name)
    parts = [_interval_band(table, look)] if look.shaded else []
    parts.append(
        _both(
            line,
            {"color": look.colour},
            bokeh={"line_dash": look.dash[0], "line_width": look.width, "muted_alpha": 0.1},
            matplotlib={
                "linestyle": look.dash[1],
                "linewidth": look.width,
                "marker": look.marker[1] if look.shaded else "None",
                "ms": 4,
            },
        )
    )
    dots = _dots(table, name, 6 if look.shaded else 3)
    dots = dots.opts(backend="bokeh", color=look.colour, marker=look.marker[0], show_legend=True)
    return [*parts, dots]


def _dots(table: pd.DataFrame, label: str, size: int) -> hv.Scatter:
    """Give the pointer something to hover over; for matplotlib, whose lines have markers, none."""
    texts = [name for name in map(str, table) if name.startswith("hover ")]
    return _both(
        hv.Scatter(table, "place", ["value", *texts], label=label),
        {"show_legend": False},
        bokeh={"size": size, "tools": ["hover"], "hover_tooltips": _tooltips(texts)},
        matplotlib={"visible": False},
    )


def _bundle(table: pd.DataFrame, looks: dict[str, _Look]) -> list[Any]:
    """Draw the layers that have no name in the legend as one element: hundreds would be slow."""
    plain = {name: depth for depth, (name, look) in enumerate(looks.items()) if not look.named}
    table = table[table["layer"].isin(list(plain))]
    if table.empty:
        return []
    lines = [
        {"place": of_layer["place"], "value": of_layer["value"], "depth": plain[str(name)]}
        for name, of_layer in table.groupby("layer", sort=False)
    ]
    colours = [looks[name].colour for name in plain]
    paths = _both(
        hv.Path(lines, ["place", "value"], "depth"),
        {"color": "depth", "cmap": colours, "clim": (min(plain.values()), max(plain.values()))},
        bokeh={"line_width": 1, "show_legend": False},
        matplotlib={"linewidth": 1, "show_legend": False},
    )
    dots = _dots(table, "", 3)
    return [paths, dots.opts(backend="bokeh", color="#888888")]


def _interval_band(table: pd.DataFrame, look: _Look) -> hv.Spread:
    known = table.dropna(subset=["lower", "upper"])
    below, above = known["value"] - known["lower"], known["upper"] - known["value"]
    band = hv.Spread(
        (known["place"], known["value"], below, above), "place", ["value", "below", "above"]
    )
    return _both(
        band,
        {"alpha": 0.18, "show_legend": False},
        bokeh={"fill_color": look.colour, "line_color": None},
        matplotlib={"facecolor": look.colour, "edgecolor": "none"},
    )


def _baseline_curve(ds: xr.Dataset, metric: str, places: int) -> hv.Curve:
    level = float(results.require(ds, "metric", variable="baseline").sel(metric=metric).mean())
    line = hv.Curve([(-0.4, level), (places - 0.6, level)], "place", "value", label="unperturbed")
    return _both(
        line,
        {"color": "#777777"},
        bokeh={"line_dash": [2, 4], "line_width": 1.5},
        matplotlib={"linestyle": (0, (1, 2)), "linewidth": 1.5},
    )


def _framed(
    overlay: hv.Overlay, epochs: list[int], scale: _Scale, title: str, metric: str
) -> hv.Overlay:
    """Give curves their axes, size and legend."""
    shared: dict[str, Any] = {
        "title": _unformatted(title),
        "xlabel": "checkpoint the layer is reset to (epoch)",
        "ylabel": _label(metric),
        "xlim": (-0.4, len(epochs) - 0.6),
        "xticks": [(place, str(epoch)) for place, epoch in enumerate(epochs)],
        "legend_position": "right",
        "logy": scale.log,
    }
    if metric in stats.FRACTIONS:
        shared["ylim"] = (-0.02, 1.02)
    return _both(
        overlay,
        shared,
        bokeh={
            "frame_width": 520,
            "frame_height": 320,
            "toolbar": "above",
            "default_tools": ["save", "box_zoom", "reset"],
            "click_policy": "mute",
            "legend_limit": 1000,
            "hooks": [_finish_bokeh_curves],
        },
        matplotlib={
            "aspect": "auto",
            "fig_inches": (4.2, 2.7),
            "fig_bounds": (0, 0, 1, 1),
            "show_frame": False,
            "fontsize": _FONT_SIZES,
            "legend_limit": 1000,
            "hooks": [_finish_matplotlib_curves],
        },
    )


def _finish_bokeh_curves(plot: Any, element: hv.Overlay) -> None:  # noqa: ARG001
    _quieten(plot)
    plot.state.xaxis.major_label_policy = NoOverlap(min_distance=0)
    plot.state.outline_line_color = None
    plot.state.yaxis.minor_tick_line_color = None
    for legend in plot.state.legend:
        legend.update(location="top_left", border_line_color=None)


def _finish_matplotlib_curves(plot: Any, element: hv.Overlay) -> None:  # noqa: ARG001
    axes = plot.handles["axis"]
    axes.spines[["top", "right"]].set_visible(False)
    legend = axes.get_legend()
    if legend is None:
        return
    legend.set_frame_on(False)
    legend.set_loc("upper left")
    legend.set_bbox_to_anchor((1.02, 1))
    for text in legend.get_texts():
        text.set_text(_literal(text.get_text()))


# Both backends


def _both(
    plot: Any, shared: dict[str, Any], bokeh: dict[str, Any], matplotlib: dict[str, Any]
) -> Any:
    """Set the options of both backends, whichever the user draws with."""
    _load_backends()
    plot = plot.opts(backend="bokeh", **(shared | bokeh))
    return plot.opts(backend="matplotlib", **(shared | matplotlib))


def _load_backends() -> None:
    """Register both backends, leaving the user's choice of one; loading them changes it."""
    chosen = hv.Store.current_backend if hv.Store.registry else "bokeh"
    if not {"bokeh", "matplotlib"} <= set(hv.Store.registry):
        import holoviews.plotting.bokeh
        import holoviews.plotting.mpl  # noqa: F401

        hv.Store.set_current_backend(chosen)


def _unformatted(title: str) -> str:
    """Keep HoloViews from taking braces for its own placeholders."""
    return title.replace("{", "{{").replace("}", "}}")


def _literal(name: object) -> str:
    """Keep matplotlib from setting what stands between dollars as mathematics."""
    return str(name).replace("$", r"\$")


def _quieten(plot: Any) -> None:
    """Drop the sizing mode, which Bokeh warns about beside a frame's size."""
    plot.state.sizing_mode = None


# Files


def _still(plot: Any, form: str, dots: int, title: str | None) -> bytes:
    """Draw with matplotlib; the same plot gives the same bytes."""
    import matplotlib as mpl

    _load_backends()
    words = _description(plot)
    metadata: dict[str, dict[str, str | None]] = {
        "png": {"Title": title or words, "Software": None},
        "svg": {"Title": title or words, "Date": None},
        "pdf": {"Title": title or words, "CreationDate": None},
    }
    settings: dict[Any, Any] = {
        "svg.hashsalt": "layerscope",
        "svg.fonttype": "path",
        "pdf.fonttype": 42,
    }
    content = io.BytesIO()
    with mpl.rc_context(settings):
        figure = hv.renderer("matplotlib").get_plot(plot).state
        figure.savefig(
            content,
            format=form,
            dpi=dots,
            bbox_inches="tight",
            pad_inches=0.05,
            metadata=metadata[form],
        )
    return content.getvalue()


def _fewer_colours(picture: bytes) -> bytes:
    """Shrink a PNG to a third with a palette of 256 colours, to keep notebooks small."""
    from PIL import Image

    content = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
            content, "png", optimize=True
        )
    return content.getvalue()


def _page(plot: Any, title: str) -> str:
    """Draw with Bokeh, into a page that asks nothing of the network.

    Bokeh's own INLINE pages also ask for a script of panel's, which holoviews imports.
    """
    from bokeh.embed import components
    from bokeh.settings import settings

    _load_backends()
    figure = hv.render(plot, backend="bokeh")
    for toolbar in figure.select({"type": Toolbar}):
        toolbar.logo = None
    script, place = components(figure)
    library = (Path(settings.bokehjs_path()) / "js" / "bokeh.min.js").read_text("utf-8")
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{html.escape(title)}</title>\n<script>{library}</script>\n</head>\n"
        f"<body>\n{place}\n{script}\n</body>\n</html>\n"
    )


def _frame(plot: Any) -> str:
    """Put the page into a frame, where it can't disturb other output, nor that it."""
    words = _description(plot)
    heights = plot.traverse(lambda part: _option(part, "frame_height") or 0)
    return (
        f'<iframe title="{html.escape(words)}" srcdoc="{html.escape(_page(plot, words))}" '
        f'width="100%" height="{170 + (max(heights) or 400)}" style="border: 0"></iframe>'
    )


def _description(plot: Any) -> str:
    """Say in words what a figure shows."""
    if isinstance(plot, hv.Layout):
        return " ".join(_description(part) for part in plot)
    title = str(_option(plot, "title") or plot.label or type(plot).__name__)
    title = title.replace("{{", "{").replace("}}", "}")
    if isinstance(plot, hv.HeatMap) and "shown" in plot:
        cells = plot.dframe().dropna(subset=["value"])
        rows, columns = (len(plot.dimension_values(name, False)) for name in ("layer", "column"))
        ends = [
            cells.loc[cells["value"] == found]
            for found in (cells["value"].min(), cells["value"].max())
        ]
        low, high = (
            f"{end.shown.iloc[-1]} ({end.layer.iloc[-1]}, {end.column.iloc[-1]})" for end in ends
        )
        return f"{title}: {rows} rows × {columns} columns, from {low} to {high}."
    if isinstance(plot, hv.Overlay):
        names = dict.fromkeys(part.label for part in plot if part.label)
        return f"{title}: {', '.join(names)}."
    return f"{title}."


def _option(plot: Any, name: str) -> Any:
    _load_backends()
    return hv.Store.lookup_options("bokeh", plot, "plot").kwargs.get(name)


def _is_interactive() -> bool:
    """Whether a person sits at this kernel.

    papermill sets no mark of its own; but nbclient, which it, nbconvert and Voila run notebooks
    with, keeps the kernel's history in memory instead of the user's file.
    """
    if os.environ.get("LAYERSCOPE_STILL", "0") not in ("", "0"):
        return False
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    history = getattr(shell, "history_manager", None)
    return hasattr(shell, "kernel") and history is not None and history.hist_file != ":memory:"
