"""States of several layers that were kept under a name, as a table with bars."""

from __future__ import annotations

import math
from typing import NamedTuple

import xarray as xr

from layerscope import results
from layerscope.results import KeptState, MetricInfo

__all__ = ["KeptSection", "kept_section"]


class KeptSection(NamedTuple):
    """A table of kept states.

    Attributes
    ----------
    columns : list of str
    rows : list of tuple
        Four texts, and the length of the bar in percent.
    """

    columns: list[str]
    rows: list[tuple[str, str, str, str, int]]


def kept_section(ds: xr.Dataset, metric: str) -> KeptSection | None:
    """Write the states that a Dataset keeps; None where it keeps none.

    They come from `LayerExplorer.keep`.
    """
    states = results.kept_states(ds)
    if not states:
        return None
    info = results.metric(ds, metric)
    values = [state.values.get(metric, math.nan) for state in states]
    top = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    rows = [
        (
            state.name,
            state.words,
            _number(value),
            _moved(state, info),
            round(100 * abs(value) / top) if top and math.isfinite(value) else 0,
        )
        for state, value in zip(states, values, strict=True)
    ]
    return KeptSection(["state", "what was done", metric, "against trained", ""], rows)


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else results.NOT_FINITE


def _moved(state: KeptState, metric: MetricInfo) -> str:
    """Write the change against trained."""
    if not state.changes:
        return "0"
    change = state.differences.get(metric.name, math.nan)
    if not math.isfinite(change):
        return results.NOT_FINITE
    return metric.write_change(change)
