"""Verdicts over a grid of both thresholds: how many change, and of which layers."""

from __future__ import annotations

from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd
import xarray as xr

from layerscope import results, stats
from layerscope.plots._backends import both, side_by_side, with_frame
from layerscope.plots._colours import shades
from layerscope.plots._grids import draw_cells, with_looks
from layerscope.plots._names import shorten_layers
from layerscope.plots._printing import add_colour_bar
from layerscope.plots._scales import Scale

__all__ = ["sensitivity"]

_WORDS = ("robust", "intermediate", "critical", "undecided")


def sensitivity(
    ds: xr.Dataset, metric: str | None = None, title: str | None = None, **options: Any
) -> hv.Layout:
    """Draw which verdicts hang on where the two thresholds lie.

    On the left, by the degradation up to which a layer is robust and the one from which on it is
    critical, how many layers are judged otherwise than by the pair of thresholds that is marked.
    On the right, layer by layer, at which share of all these pairs it is robust, intermediate,
    critical and undecided: a layer with 1 in one column is judged alike wherever they lie.

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
    return side_by_side(_grid(found, info.label, heading), _layers(found), (8.6, 3.2), 0.5)


def _grid(found: xr.Dataset, metric: str, title: str) -> hv.Overlay:
    """Draw how many layers change at each pair."""
    changed = found["n_changed"].transpose("critical", "robust")
    # Thresholds are numbers: a heat map of HoloViews would put the mark by the place in a list.
    cells = both(
        hv.QuadMesh(
            (found["robust"].values, found["critical"].values, changed.values),
            ["robust", "critical"],
            hv.Dimension("n_changed", label="layers"),
        ),
        {"cmap": shades(), "clim": (0, max(int(changed.max()), 1))},
        {"tools": ["hover"], "colorbar": True},
        {"hooks": [_count_layers]},
    )
    at = (found.attrs["robust"], found.attrs["critical"])
    mark = both(
        hv.Points([at], ["robust", "critical"]),
        {},
        {"size": 9, "line_width": 2, "line_color": "black", "fill_color": "white"},
        {"s": 40, "edgecolor": "black", "color": "white"},
    )
    unit = found.attrs["critical_unit"]
    below = f"critical from here on, in {metric if unit == 'metric' else unit}"
    axes = {"xlabel": f"robust up to here, in {metric}", "ylabel": below}
    return with_frame(hv.Overlay([cells, mark]), title, axes)


def _count_layers(plot: Any, element: hv.QuadMesh) -> None:  # noqa: ARG001
    """Give matplotlib's colour bar whole numbers: there is no half layer."""
    from matplotlib.ticker import MaxNLocator

    add_colour_bar(plot, "layers")
    plot.handles["cbar"].ax.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _layers(found: xr.Dataset) -> hv.HeatMap:
    """Draw of each layer by how many of all pairs it is what."""
    names = [str(name) for name in found["layer"].values]
    there = np.unique(found["verdict"].values).astype(str).tolist()
    words = [*(w for w in _WORDS if w in there), *(w for w in there if w not in _WORDS)]
    shown = shorten_layers(names)
    cells = pd.DataFrame(
        [
            (shown[name], word, float((found["verdict"].sel(layer=name) == word).mean()))
            for name in names[::-1]
            for word in words
        ],
        columns=["layer", "column", "value"],
    )
    more: dict[str, Any] = {
        "verdict": "",
        "not_finite": 0,
        "blank": "",
        "hover layer": cells["layer"],
        "hover verdict": cells["column"],
        "hover share of all pairs": [f"{share:.0%}" for share in cells["value"]],
    }
    cells = cells.assign(**more)
    scale = Scale(0.0, 1.0, False, 2, shades())
    title = "How often a layer is judged what"
    return draw_cells(with_looks(cells, scale), scale, title, "share of all pairs", "verdict")
