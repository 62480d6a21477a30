"""Verdicts over a grid of both thresholds: how many change, and of which layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd
import xarray as xr

from layerscope import results, stats
from layerscope.plots._backends import FONT_SIZES, both, drop_sizing_mode, escape_braces
from layerscope.plots._colours import ink, shades
from layerscope.plots._hover import tooltips
from layerscope.plots._names import shorten_layers

__all__ = ["sensitivity"]

_WORDS = ("robust", "intermediate", "critical", "undecided")


def sensitivity(
    ds: xr.Dataset, metric: str | None = None, title: str | None = None, **options: Any
) -> hv.Layout:
    """Draw which verdicts hang on where the two thresholds lie.

    On the left, by the degradation up to which a layer is robust and the one from which on it is
    critical, how many layers are judged otherwise than by the thresholds that are marked with a
    cross; hovering names them. On the right, layer by layer, by how many per cent of all these
    pairs it is robust, intermediate, critical and undecided: a layer with 100 in one column is
    judged alike wherever they lie.

    Parameters
    ----------
    ds : Dataset
    metric : str, optional
        One of ``ds.metric``; by default the error, or the first where that was not measured.
    title : str, optional
        Of the left side.
    **options
        Of `stats.sensitivity`: ``tolerances``, ``critical_shares``, ….

    Returns
    -------
    holoviews.Layout

    Raises
    ------
    ResultError, OptionError
        As `stats.sensitivity`.

    Examples
    --------
    >>> from layerscope import testing
    >>> len(sensitivity(testing.dataset()))
    2
    """
    found = stats.sensitivity(ds, metric, **options)
    info = results.metric(ds, found.attrs["metric"])
    heading = "Layers with another verdict" if title is None else title
    layout = hv.Layout([_grid(found, info.label, heading), _layers(found)]).cols(2)
    return layout.opts(backend="bokeh", shared_axes=False).opts(
        backend="matplotlib",
        shared_axes=False,
        fig_inches=(8.6, 3.2),
        fig_bounds=(0, 0, 1, 1),
        sublabel_format="",
        hspace=0.5,
        aspect_weight=0,
    )


def _grid(found: xr.Dataset, metric: str, title: str) -> hv.Overlay:
    """Draw how many layers change at each pair."""
    names = found["layer"].values
    table = found["n_changed"].to_series().reset_index()
    changed = found["changed"].transpose("robust", "critical", "layer").values
    which = [", ".join(names[row]) or "none" for row in changed.reshape(-1, len(names))]
    table = table.sort_values(["robust", "critical"]).assign(
        # HoloViews lays cells out anew, which strings of Arrow's can't be.
        **{"hover layers": np.array(which, dtype=object)}
    )
    table = table.astype({"hover layers": object})
    cells = both(
        hv.HeatMap(table, ["robust", "critical"], ["n_changed", "hover layers"]),
        {"cmap": shades(), "clim": (0, max(len(names), 1)), "colorbar": True},
        {"tools": ["hover"], "hover_tooltips": tooltips(["hover layers"])},
        {},
    )
    at = (found.attrs["robust"], found.attrs["critical"])
    cross = both(
        hv.Points([at], ["robust", "critical"]),
        {"color": ink(shades()[0]), "marker": "x"},
        {"size": 9, "line_width": 2},
        {"s": 36},
    )
    unit = found.attrs["critical_unit"]
    below = f"critical from here on ({metric if unit == 'metric' else unit})"
    return _framed(hv.Overlay([cells, cross]), title, f"robust up to here ({metric})", below, {})


def _layers(found: xr.Dataset) -> hv.Overlay:
    """Draw of each layer by how many of all pairs it is what."""
    order = [str(name) for name in found["layer"].values]
    shown = shorten_layers(order)
    words = [word for word in _WORDS if bool((found["verdict"] == word).any())]
    others = sorted({str(word) for word in np.unique(found["verdict"].values)} - set(_WORDS))
    rows = [
        (word, shown[name], 100 * float((found["verdict"].sel(layer=name) == word).mean()))
        for name in order[::-1]
        for word in [*words, *others]
    ]
    table = pd.DataFrame(rows, columns=["verdict", "layer", "share"])
    cells = both(
        hv.HeatMap(table, ["verdict", "layer"], "share"),
        {"cmap": shades(), "clim": (0, 100)},
        {"tools": ["hover"]},
        {},
    )
    colours = shades()
    parts: list[Any] = [cells]
    for colour, those in _by_ink(table, colours):
        label = those.assign(text=[f"{share:.0f}" if share else "" for share in those["share"]])
        parts.append(
            both(
                hv.Labels(label, ["verdict", "layer"], "text"),
                {},
                {"text_color": colour, "text_font_size": "8pt"},
                {"color": colour, "size": 7},
            )
        )
    return _framed(hv.Overlay(parts), "Per cent of the grid, by layer", "verdict", "layer", {})


def _by_ink(table: pd.DataFrame, colours: Sequence[str]) -> list[tuple[str, pd.DataFrame]]:
    """Part cells by the colour in which a number on them can be read."""
    places = (table["share"] / 100 * (len(colours) - 1)).round().astype(int)
    return [(str(key), part) for key, part in table.groupby([ink(colours[at]) for at in places])]


def _framed(
    overlay: hv.Overlay, title: str, below: str, beside: str, more: dict[str, Any]
) -> hv.Overlay:
    return both(
        overlay,
        {"title": escape_braces(title), "xlabel": below, "ylabel": beside, **more},
        {
            "frame_width": 360,
            "frame_height": 280,
            "toolbar": "above",
            "hooks": [lambda plot, _: drop_sizing_mode(plot)],
        },
        {"aspect": "auto", "show_frame": False, "fontsize": FONT_SIZES},
    )
