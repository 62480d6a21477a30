"""Stand-in for the explorer where no kernel runs: a table and a picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import xarray as xr

from layerscope import plots
from layerscope.base.templates import render
from layerscope.core.session import Estimate

__all__ = ["bundle"]


def bundle(
    live: Any,
    name: str,
    state: Mapping[str, Any],
    estimate: Estimate | None,
    ds: xr.Dataset | None,
    metric: str,
) -> Any:
    """Put a still page beside the live widget, in which nothing asks for anything outside.

    Parameters
    ----------
    live : mapping, tuple or None
        What the widget gives Jupyter.
    """
    data, *more = live if isinstance(live, tuple) else (live,)
    page = render(
        "jupyter/templates/still.html.jinja",
        name=name,
        rows=_rows(state, estimate),
        **_picture(ds, metric),
    )
    told = {**(data or {}), "text/html": str(page)}
    return (told, *more) if more else told


def _picture(ds: xr.Dataset | None, metric: str) -> dict[str, str]:
    """Draw the heat map, and say in words what it shows; empty without a Dataset."""
    if ds is None:
        return {"picture": "", "words": ""}
    drawn, _ = plots.show(plots.heatmap(ds, metric), live=False)._repr_mimebundle_()
    return {"picture": drawn["image/png"], "words": drawn["text/plain"]}


def _rows(state: Mapping[str, Any], estimate: Estimate | None) -> list[tuple[str, str]]:
    rows = [(str(row), str(change)) for row, change in state.items()]
    if estimate is None:
        return rows
    for metric in estimate.tallies:
        lower, upper = estimate.interval(metric)
        value = f"{estimate.mean(metric):.4g} (95 %: {lower:.4g} to {upper:.4g})"
        rows.append((metric, value))
    return [*rows, ("examples", f"{estimate.examples:,} of {estimate.total:,}")]
