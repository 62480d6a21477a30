"""Curves: one per layer, over the checkpoint it is reset to."""

from __future__ import annotations

from typing import Any, NamedTuple

import holoviews as hv
import numpy as np
import pandas as pd
import xarray as xr

from layerscope import results, stats
from layerscope.errors import ResultError
from layerscope.plots._backends import both, with_frame
from layerscope.plots._colours import LINES, ColourMap, shades
from layerscope.plots._epochs import Epochs, epochs_along
from layerscope.plots._hover import tooltips, values_with_hover
from layerscope.plots._names import shorten_layers, within
from layerscope.plots._outlying import outlying
from layerscope.plots._relative import Limits, shown
from layerscope.plots._scales import Scale, damage_scale

_MANY_LAYERS = 12
_MOST_MARKED = 24  # checkpoints, which are marked on the line of a layer
_POINTS_ON_SCREEN = 360.0
# Curves differ without colour, too. Each pair holds Bokeh's name and matplotlib's.
DASHES = (("solid", "-"), ("dashed", "--"), ("dotdash", "-."), ("dotted", ":"))
_MARKERS = (
    ("circle", "o"),
    ("square", "s"),
    ("triangle", "^"),
    ("diamond", "D"),
    ("inverted_triangle", "v"),
)


def curves(
    ds: xr.Dataset,
    metric: str | None = None,
    title: str | None = None,
    cmap: ColourMap | None = None,
    limits: Limits | None = None,
    relative: str | None = None,
) -> hv.Overlay:
    """Draw one curve per layer over the checkpoint it is reset to.

    Checkpoints stand at their epochs; where these lie far apart, as the first ones mostly do, the
    axis is logarithmic, and broken between 0 and the next. A curve has a gap where a checkpoint was
    not computed, and a cross where the value is no finite number. Shading is the interval of
    `layerscope.stats.summary`, which the line below the axis describes. Curves that lie apart from
    the others are named where they do. Above twelve layers the colour tells the depth, and the
    shading is left out.

    Parameters
    ----------
    ds : Dataset
        With ``value`` and ``baseline``.
    metric : str, optional
        One of ``ds.metric``; by default the error, or the first where that was not measured.
    title : str, optional
    cmap : str, sequence of str or Colormap, optional
        Of more than twelve layers the colours from the first to the last, as for `heatmap`.
    limits, relative
        As for `heatmap`; limits are those of the axis.

    Returns
    -------
    holoviews.Overlay

    Raises
    ------
    ResultError
        If the Dataset lacks a dimension or variable, or no layer was reset to a checkpoint.
    OptionError
        If there is no such metric or map of colours, or nothing to hold values against.

    Examples
    --------
    >>> from layerscope import testing
    >>> len(curves(testing.dataset()).Curve) > 4
    True
    """
    metric = results.metric_name(ds, metric)
    table = values_with_hover(ds, metric)
    table = table[table["column"] == table["epoch"].astype(str)]
    if table.empty:
        raise ResultError(f"no layer was reset to a checkpoint here; sweep with {results.RESET!r}.")
    info = results.metric(ds, metric)
    layers = stats.layer_order(ds, network=False)
    table, scale, label = shown(table, info, layers, limits=limits, relative=relative)
    if relative is not None and limits is None:
        # An axis has room for all, other than colours.
        scale = damage_scale(table["value"], False, None)
    unit = ds["epoch"].attrs.get("units", "epoch")
    axis = epochs_along(sorted(int(epoch) for epoch in table["epoch"].unique()), unit)
    table = _with_gaps(table, axis)
    parts = [_baseline_curve(ds, metric, axis, relative), *layer_lines(ds, table, scale, cmap)]
    heading = f"Test {metric} with one layer {results.act(ds)}" if title is None else title
    own_range = bool(info.fraction_of) and relative is None and limits is None
    frame = _Frame(
        f"checkpoint the layer is reset to ({axis.words})\n{_caption(table, len(layers))}".strip(),
        label,
        (-0.02, 1.02) if own_range else _ends(scale, limits),
        within(stats.layer_order(ds)),
    )
    return _framed(hv.Overlay(parts), axis, scale, heading, frame)


def _with_gaps(table: pd.DataFrame, axis: Epochs) -> pd.DataFrame:
    """Place cells along the axis, and leave a row without a value where one was not computed."""
    every = pd.MultiIndex.from_product(
        [table["layer"].unique(), axis.places], names=["layer", "epoch"]
    )
    cells = table.assign(missing=False).set_index(["layer", "epoch"]).reindex(every).reset_index()
    missing = cells["missing"].isna()
    texts = [name for name in map(str, cells) if name.startswith("hover ")]
    cells = cells.assign(missing=missing, **cells[texts].fillna(""))
    cells["not_finite"] = cells["not_finite"].fillna(0)
    return cells.assign(place=cells["epoch"].map(axis.places))


def _caption(table: pd.DataFrame, layers: int) -> str:
    """Say what a curve is the mean of, and what its band covers."""
    known = table[~table["missing"]]
    runs, draws = (int(known[name].max()) for name in ("n_seeds", "n_draws"))
    means = [f"{runs} runs"] * (runs > 1) + [f"{draws} draws"] * (draws > 1)
    told = [f"mean of {' of '.join(means)}"] if means else []
    kinds = known["interval_kind"][known["lower"].notna()].unique()
    if len(kinds) and layers <= _MANY_LAYERS:
        told.append(f"band: 95 % interval over {' or '.join(map(str, kinds))}")
    return ", ".join(told)


def _ends(scale: Scale, limits: Limits | None) -> tuple[float, float] | None:
    return None if limits is None else (scale.low, scale.high)


def layer_lines(
    ds: xr.Dataset, table: pd.DataFrame, scale: Scale, cmap: ColourMap | None = None
) -> list[Any]:
    """Draw a line for each layer, with intervals where there are few, and a cross for no number.

    Parameters
    ----------
    ds : Dataset
        Whose layers they are.
    table : DataFrame
        ``layer``, ``place``, ``value``, ``lower``, ``upper``, ``not_finite`` and what hovers.
    scale : Scale
        Of the values.
    cmap : str, sequence of str or Colormap, optional
        Of many layers.
    """
    single = stats.layer_order(ds, network=False)
    table, looks = _break_curves(table, scale), _looks(single, cmap)
    parts, names = _bundle(table, looks), shorten_layers(stats.layer_order(ds))
    for name, of_layer in table.groupby("layer", sort=False):
        look = looks.get(str(name), _NETWORK_LOOK)
        parts += _curve(of_layer, names[str(name)], look) if look.named else []
    parts += _crosses(table, looks)
    inks = {name: look.colour for name, look in looks.items()}
    return parts + outlying(table, inks, names, scale)


class _Look(NamedTuple):
    """Look of one layer's curve; dash and marker as Bokeh and as matplotlib name them."""

    colour: str
    dash: tuple[str, str]
    marker: tuple[str, str]
    width: float = 1.5
    shaded: bool = True
    named: bool = True


_NETWORK_LOOK = _Look("#000000", DASHES[0], _MARKERS[0], width=2.0)


def _looks(layers: list[str], cmap: ColourMap | None = None) -> dict[str, _Look]:
    """Give each layer its look: told apart without colour if few, coloured by depth if many."""
    if len(layers) <= _MANY_LAYERS:
        return {
            name: _Look(
                LINES[index % len(LINES)],
                DASHES[(index + index // len(LINES)) % len(DASHES)],
                _MARKERS[index % len(_MARKERS)],
            )
            for index, name in enumerate(layers)
        }
    # The palest third does not show as a thin line on white.
    colours = shades()[80:] if cmap is None else shades(cmap)
    ends = (0, len(layers) - 1)
    return {
        name: _Look(
            colours[index * (len(colours) - 1) // (len(layers) - 1)],
            DASHES[0],
            _MARKERS[0],
            width=1.0,
            shaded=False,
            named=index in ends,
        )
        for index, name in enumerate(layers)
    }


def _break_curves(table: pd.DataFrame, scale: Scale) -> pd.DataFrame:
    """Break curves where the value is no finite number, and say where a cross is to stand.

    At the value where there is one, as an error always is; else beyond all values. Crosses of
    several layers over one checkpoint stand side by side.
    """
    finite = np.isfinite(table["value"])
    missing = table.get("missing", pd.Series(False, table.index))
    crossed = (table["not_finite"] > 0) | (~finite & ~missing)
    at = table["value"].where(finite, scale.beyond)
    beside = table[crossed].groupby(["place", at[crossed]], sort=False)["layer"]
    offset = 0.12 * (beside.cumcount() - (beside.transform("size") - 1) / 2)
    crosses = {"cross": at.where(crossed), "cross place": table["place"] + offset}
    return table.assign(value=table["value"].where(finite), **crosses)


def _crosses(table: pd.DataFrame, looks: dict[str, _Look]) -> list[Any]:
    """Draw a cross wherever something was not finite, in its layer's colour."""
    there = table.dropna(subset="cross")
    if there.empty:
        return []
    colours = [looks.get(str(name), _NETWORK_LOOK).colour for name in there["layer"]]
    there = there.assign(value=there["cross"], place=there["cross place"], ink=colours)
    texts = [name for name in map(str, there) if name.startswith("hover ")]
    label = "not finite (layer's colour)"
    crosses = hv.Scatter(there, "place", ["value", "ink", *texts], label=label)
    hover = {"tools": ["hover"], "hover_tooltips": tooltips(texts)}
    return [
        both(
            crosses,
            {"color": "ink"},
            bokeh=hover | {"marker": "x", "size": 14, "line_width": 2},
            matplotlib={"marker": "X", "s": 60},
        )
    ]


def _curve(table: pd.DataFrame, name: str, look: _Look) -> list[Any]:
    """Draw one layer: its interval, its line, and dots to hover over."""
    line = hv.Curve(table, "place", "value", label=name)
    parts = [_interval_band(table, look)] if look.shaded else []
    marked = look.shaded and len(table) <= _MOST_MARKED
    parts.append(
        both(
            line,
            {"color": look.colour},
            bokeh={"line_dash": look.dash[0], "line_width": look.width, "muted_alpha": 0.1},
            matplotlib={
                "linestyle": look.dash[1],
                "linewidth": look.width,
                "marker": look.marker[1] if marked else "None",
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
    return both(
        hv.Scatter(table, "place", ["value", *texts], label=label),
        {"show_legend": False},
        bokeh={"size": size, "tools": ["hover"], "hover_tooltips": tooltips(texts)},
        matplotlib={"visible": False},
    )


def _bundle(table: pd.DataFrame, looks: dict[str, _Look]) -> list[Any]:
    """Draw the layers that have no name in the legend as one element: hundreds would be slow.

    From point to point, since HoloViews takes a tenth of a second for each whole line.
    """
    plain = {name: depth for depth, (name, look) in enumerate(looks.items()) if not look.named}
    table = table[table["layer"].isin(list(plain))]
    if table.empty:
        return []
    ends = table.groupby("layer", sort=False)[["place", "value"]].shift(-1)
    steps = table.assign(next=ends["place"], then=ends["value"], depth=table["layer"].map(plain))
    steps = steps.dropna(subset=["value", "next", "then"])
    colours = [looks[name].colour for name in plain]
    lines = both(
        hv.Segments(steps, ["place", "value", "next", "then"], "depth"),
        {"color": "depth", "cmap": colours, "clim": (min(plain.values()), max(plain.values()))},
        bokeh={"line_width": 1, "line_cap": "round", "show_legend": False},
        matplotlib={"linewidth": 1, "show_legend": False},
    )
    dots = _dots(table, "", 3)
    return [lines, dots.opts(backend="bokeh", color="#888888")]


def _interval_band(table: pd.DataFrame, look: _Look) -> hv.Spread:
    # Rows without a value stay, where the band breaks as the line does.
    known = table[table[["lower", "upper"]].notna().all(axis=1) | table["value"].isna()]
    below, above = known["value"] - known["lower"], known["upper"] - known["value"]
    band = hv.Spread(
        (known["place"], known["value"], below, above), "place", ["value", "below", "above"]
    )
    return both(
        band,
        {"alpha": 0.18, "show_legend": False},
        bokeh={"fill_color": look.colour, "line_color": None},
        # Of both names HoloViews otherwise takes the one not given from its own cycle.
        matplotlib={"color": look.colour, "facecolor": look.colour, "edgecolor": "none"},
    )


def _baseline_curve(
    ds: xr.Dataset, metric: str, axis: Epochs, relative: str | None = None
) -> hv.Curve:
    level = float(results.require(ds, "metric", variable="baseline").sel(metric=metric).mean())
    level = level if relative is None else 0.0
    line = hv.Curve([(end, level) for end in axis.ends], "place", "value", label="unperturbed")
    return dotted(line)


def dotted(line: hv.Curve) -> hv.Curve:
    """Give a line the looks of what curves of layers are held against."""
    return both(
        line,
        {"color": "#777777"},
        bokeh={"line_dash": [2, 4], "line_width": 1.5},
        matplotlib={"linestyle": (0, (1, 2)), "linewidth": 1.5},
    )


class _Frame(NamedTuple):
    """Names of the axes, the range of values if it is set, and the title of the legend."""

    xlabel: str
    ylabel: str
    ylim: tuple[float, float] | None
    legend: str


def _framed(
    overlay: hv.Overlay, axis: Epochs, scale: Scale, title: str, frame: _Frame
) -> hv.Overlay:
    """Give curves their axes, size and legend."""
    shared: dict[str, Any] = {
        "xlabel": frame.xlabel,
        "ylabel": frame.ylabel,
        "xlim": axis.ends,
        "xticks": axis.ticks(_POINTS_ON_SCREEN),
        "logy": scale.log,
    }
    if frame.ylim is not None:
        shared["ylim"] = frame.ylim
    return with_frame(overlay, title, shared, frame.legend, axis)
