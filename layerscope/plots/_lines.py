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
from layerscope.plots._colours import LINES, shades
from layerscope.plots._hover import VALUE_HOVER, tooltips, with_hover
from layerscope.plots._names import shorten_layers, within
from layerscope.plots._scales import Scale, label_of, scale_of

_MANY_LAYERS = 12
# Curves differ without colour, too. Each pair holds Bokeh's name and matplotlib's.
_DASHES = (("solid", "-"), ("dashed", "--"), ("dotdash", "-."), ("dotted", ":"))
_MARKERS = (
    ("circle", "o"),
    ("square", "s"),
    ("triangle", "^"),
    ("diamond", "D"),
    ("inverted_triangle", "v"),
)


def curves(ds: xr.Dataset, metric: str | None = None, title: str | None = None) -> hv.Overlay:
    """Draw one curve per layer over the checkpoint it is reset to.

    Checkpoints stand at equal distances, since the first ones matter most. Shading is the
    interval of `layerscope.stats.summary`. Above twelve layers the colour tells the depth and
    the shading is left out.

    Parameters
    ----------
    ds : Dataset
        With ``value`` and ``baseline``.
    metric : str, optional
        One of ``ds.metric``; by default the error, or the first where that was not measured.
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
    metric = results.metric_name(ds, metric)
    table = with_hover(ds, stats.summary(ds, metric), VALUE_HOVER)
    table = table[table["column"] == table["epoch"].astype(str)]
    if table.empty:
        raise ResultError(f"no layer was reset to a checkpoint here; sweep with {results.RESET!r}.")
    epochs = sorted(table["epoch"].unique())
    info = results.metric(ds, metric)
    scale = scale_of(table["value"], info)
    table = table.assign(place=table["epoch"].map(epochs.index))
    parts = [_baseline_curve(ds, metric, len(epochs)), *layer_lines(ds, table, scale)]
    heading = f"Test {metric} with one layer {results.act(ds)}" if title is None else title
    names = within(stats.layer_order(ds))
    return _framed(hv.Overlay(parts), epochs, scale, heading, info, names)


def layer_lines(ds: xr.Dataset, table: pd.DataFrame, scale: Scale) -> list[Any]:
    """Draw a line for each layer, with intervals where there are few, and a cross for no number.

    Parameters
    ----------
    ds : Dataset
        Whose layers they are.
    table : DataFrame
        ``layer``, ``place``, ``value``, ``lower``, ``upper``, ``not_finite`` and what hovers.
    scale : Scale
        Of the values.
    """
    table, looks = _break_curves(table, scale), _looks(stats.layer_order(ds, network=False))
    parts, names = _bundle(table, looks), shorten_layers(stats.layer_order(ds))
    for name, of_layer in table.groupby("layer", sort=False):
        look = looks.get(str(name), _NETWORK_LOOK)
        parts += _curve(of_layer, names[str(name)], look) if look.named else []
    return parts + _crosses(table, looks)


class _Look(NamedTuple):
    """Look of one layer's curve; dash and marker as Bokeh and as matplotlib name them."""

    colour: str
    dash: tuple[str, str]
    marker: tuple[str, str]
    width: float = 1.5
    shaded: bool = True
    named: bool = True


_NETWORK_LOOK = _Look("#000000", _DASHES[0], _MARKERS[0], width=2.0)


def _looks(layers: list[str]) -> dict[str, _Look]:
    """Give each layer its look: told apart without colour if few, coloured by depth if many."""
    if len(layers) <= _MANY_LAYERS:
        return {
            name: _Look(
                LINES[index % len(LINES)],
                _DASHES[(index + index // len(LINES)) % len(_DASHES)],
                _MARKERS[index % len(_MARKERS)],
            )
            for index, name in enumerate(layers)
        }
    # The palest third does not show as a thin line on white.
    colours = shades()[80:]
    ends = (0, len(layers) - 1)
    return {
        name: _Look(
            colours[index * (len(colours) - 1) // (len(layers) - 1)],
            _DASHES[0],
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
    crossed = (table["not_finite"] > 0) | ~finite
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
    parts.append(
        both(
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
    steps = steps.dropna(subset="next")
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


def _baseline_curve(ds: xr.Dataset, metric: str, places: int) -> hv.Curve:
    level = float(results.require(ds, "metric", variable="baseline").sel(metric=metric).mean())
    line = hv.Curve([(-0.4, level), (places - 0.6, level)], "place", "value", label="unperturbed")
    return dotted(line)


def dotted(line: hv.Curve) -> hv.Curve:
    """Give a line the looks of what curves of layers are held against."""
    return both(
        line,
        {"color": "#777777"},
        bokeh={"line_dash": [2, 4], "line_width": 1.5},
        matplotlib={"linestyle": (0, (1, 2)), "linewidth": 1.5},
    )


def _framed(
    overlay: hv.Overlay,
    epochs: list[int],
    scale: Scale,
    title: str,
    metric: results.MetricInfo,
    names: str,
) -> hv.Overlay:
    """Give curves their axes, size and legend."""
    shared: dict[str, Any] = {
        "xlabel": "checkpoint the layer is reset to (epoch)",
        "ylabel": label_of(metric),
        "xlim": (-0.4, len(epochs) - 0.6),
        "xticks": [(place, str(epoch)) for place, epoch in enumerate(epochs)],
        "logy": scale.log,
    }
    if metric.fraction_of:
        shared["ylim"] = (-0.02, 1.02)
    return with_frame(overlay, title, shared, names)
