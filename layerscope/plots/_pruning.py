"""The path on which a network loses block after block."""

from __future__ import annotations

from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd
import xarray as xr

from layerscope import results
from layerscope.plots._backends import both, with_frame
from layerscope.plots._hover import tooltips
from layerscope.plots._lines import dotted
from layerscope.plots._names import shorten_layers, within
from layerscope.plots._scales import Scale, label_of, scale_of

__all__ = ["pruning"]

_TURNED = 8
"""Blocks whose names stand beside one another below the axis; of more they stand upright."""


def pruning(path: xr.Dataset, metric: str | None = None, title: str | None = None) -> hv.Overlay:
    """Draw what a network gives as it loses one block after the other.

    Below each step stands the block that it removes. Small dots are what the network would give
    without another of the blocks that were left; shading is the interval of `layerscope.prune`.

    Parameters
    ----------
    path : Dataset
        As `layerscope.prune` returns it.
    metric : str, optional
        One of ``path.metric``; by default the error, or the first where that was not measured.
    title : str, optional

    Returns
    -------
    holoviews.Overlay

    Raises
    ------
    ResultError
        If it is no such Dataset.
    OptionError
        If there is no such metric.

    Examples
    --------
    >>> plot = pruning(layerscope.prune(net, tokens, blocks=8))             # doctest: +SKIP
    """
    for name in ("value", "degradation", "lower", "upper"):
        results.require(path, "step", "metric", variable=name)
    results.require(path, "step", "layer", "metric", variable="candidate")
    metric = results.metric_name(path, metric)
    info, at = results.metric(path, metric), path.sel(metric=metric)
    every = [str(name) for name in path["layer"].values]
    names = shorten_layers(every)
    tried, taken = _tried(at, names), _taken(at, info.worse, names)
    scale = scale_of(pd.concat([tried["value"], taken["value"]]), info)
    parts = [_whole(taken), _others(tried), *_line(taken)]
    heading = f"Test {metric} without blocks, the cheapest first" if title is None else title
    axis = within(every).replace("layer in", "block in")
    return _framed(hv.Overlay(parts), taken, scale, heading, info, axis)


def _taken(at: xr.Dataset, worse: int, names: dict[str, str]) -> pd.DataFrame:
    """Lay out the steps that were taken, with their interval in the metric's own unit."""
    whole = float(at["value"].values[0])
    ends = np.sort(whole + worse * np.stack([at["lower"].values, at["upper"].values]), axis=0)
    removed = [str(name) for name in at["removed"].values]
    return pd.DataFrame({
        "step": at["step"].values,
        "value": at["value"].values,
        "below": at["value"].values - ends[0],
        "above": ends[1] - at["value"].values,
        "block": ["none", *(names[name] for name in removed[1:])],
        "hover without": ["no block", *(f"also {name}" for name in removed[1:])],
        "hover value": [f"{value:.4g}" for value in at["value"].values],
    })  # fmt: skip


def _tried(at: xr.Dataset, names: dict[str, str]) -> pd.DataFrame:
    """Lay out the blocks that might have been removed instead."""
    found = at["candidate"].to_series().dropna().reset_index(name="value")
    removed = at["removed"].to_series()
    found = found[found["layer"] != found["step"].map(removed)]
    return found.assign(**{
        "hover without": [f"{names[name]} instead" for name in found["layer"]],
        "hover value": [f"{value:.4g}" for value in found["value"]],
    })  # fmt: skip


def _whole(taken: pd.DataFrame) -> hv.Curve:
    level, last = float(taken["value"].iloc[0]), int(taken["step"].iloc[-1])
    line = hv.Curve([(-0.4, level), (last + 0.4, level)], "step", "value", label="whole network")
    return dotted(line)


def _others(tried: pd.DataFrame) -> hv.Scatter:
    vdims = ["value", "hover without", "hover value"]
    return both(
        hv.Scatter(tried, "step", vdims, label="without another block"),
        {"color": "#999999"},
        bokeh={"size": 4, "tools": ["hover"], "hover_tooltips": tooltips(vdims[1:])},
        matplotlib={"s": 7},
    )


def _line(taken: pd.DataFrame) -> list[Any]:
    """Draw the path: its interval, its line, and dots to hover over."""
    vdims, ink = ["value", "hover without", "hover value"], "#4477aa"
    band = both(
        hv.Spread(taken[taken["below"].notna()], "step", ["value", "below", "above"]),
        {"alpha": 0.2, "show_legend": False},
        bokeh={"fill_color": ink, "line_color": None},
        matplotlib={"color": ink, "facecolor": ink, "edgecolor": "none"},
    )
    line = both(
        hv.Curve(taken, "step", "value", label="path"),
        {"color": ink},
        bokeh={"line_width": 2},
        matplotlib={"linewidth": 1.8, "marker": "o", "ms": 4},
    )
    dots = both(
        hv.Scatter(taken, "step", vdims, label="path"),
        {"color": ink, "show_legend": False},
        bokeh={"size": 7, "tools": ["hover"], "hover_tooltips": tooltips(vdims[1:])},
        matplotlib={"visible": False},
    )
    return [band, line, dots]


def _framed(
    overlay: hv.Overlay,
    taken: pd.DataFrame,
    scale: Scale,
    title: str,
    metric: results.MetricInfo,
    axis: str,
) -> hv.Overlay:
    """Give the path its axes, size and legend."""
    last, blocks = int(taken["step"].iloc[-1]), taken["block"].tolist()
    shared: dict[str, Any] = {
        "xlabel": f"number of blocks removed: {axis or 'block'} that goes last",
        "ylabel": label_of(metric),
        "xlim": (-0.4, last + 0.4),
        "xticks": [(step, f"{step}: {name}") for step, name in enumerate(blocks)],
        "xrotation": 90 if last > _TURNED else 0,
        "logy": scale.log,
    }
    if metric.fraction_of:
        shared["ylim"] = (-0.02, 1.02)
    return with_frame(overlay, title, shared)
