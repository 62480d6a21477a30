"""What stands in place of the explorer where no kernel runs: a table and a picture."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import xarray as xr

from layerscope import plots
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
    page = [f"<p><b>{html.escape(name)}</b></p>", _table(state, estimate)]
    if ds is not None:
        picture, _ = plots.show(plots.heatmap(ds, metric), live=False)._repr_mimebundle_()
        source = f"data:image/png;base64,{picture['image/png']}"
        words = html.escape(picture["text/plain"])
        page.append(f'<img alt="{words}" style="max-width:100%" src="{source}">')
    told = {**(data or {}), "text/html": "\n".join(page)}
    return (told, *more) if more else told


def _table(state: Mapping[str, Any], estimate: Estimate | None) -> str:
    rows = [(str(row), str(change)) for row, change in state.items()]
    if estimate is not None:
        for metric in estimate.tallies:
            lower, upper = estimate.interval(metric)
            value = f"{estimate.mean(metric):.4g} (95 %: {lower:.4g} to {upper:.4g})"
            rows.append((metric, value))
        rows.append(("examples", f"{estimate.examples:,} of {estimate.total:,}"))
    lines = (f"<tr><th>{html.escape(a)}</th><td>{html.escape(b)}</td></tr>" for a, b in rows)
    return f"<table>{''.join(lines)}</table>"
