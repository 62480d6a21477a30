"""Outcomes of every example in every cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from layerscope import results
from layerscope.core.sweep._loop import SweepState
from layerscope.core.sweep._plan import Plan
from layerscope.core.sweep._store import FinishedElsewhere, Parts
from layerscope.core.sweep._sums import PartResult
from layerscope.errors import ResultError

__all__ = ["gather"]


def gather(plan: Plan, state: SweepState, parts: Parts, attrs: Mapping[str, Any]) -> xr.Dataset:
    """Put the outcomes of all parts together.

    Returns
    -------
    Dataset
        ``outcome`` (cell, metric, example), NaN for examples that a cell did not need, with
        ``layer``, ``epoch``, ``perturbation`` and ``draw`` along ``cell``; ``baseline_outcome``
        and ``weight`` (metric, example). The coordinate ``example`` counts from 0 in the data
        as they were given.

    Raises
    ------
    FinishedElsewhere
        If another process has put them together, and removed the parts.
    ResultError
        If a part that was recorded is gone or damaged.
    """
    cells = {cell.key: cell for cell in state.cells}
    place = {key: index for index, key in enumerate(cells)}
    names, data = plan.each, plan.subject.data
    outcome = np.full((len(cells), len(names), data.count), np.nan, np.float32)
    baseline, weight = np.full((2, len(names), data.count), np.nan, np.float32)
    ends = np.cumsum(data.lengths)
    fragments = state.fragments
    for fragment, numbers in fragments.sources():
        index = fragment.batch
        where = slice(ends[index] - data.lengths[index], ends[index])
        found = PartResult.of(_recorded(parts, fragment.name), plan.subject.metrics)
        # Ahead of their turn, cells may have been computed that turned out to be settled by then.
        needed = fragments.needed(index, numbers)
        found = found.only(needed)
        rows = [place[key] for key in found.keys]
        for at, name in enumerate(names):
            outcome[rows, at, where] = found.outcomes[name][1:]
            baseline[at, where] = found.outcomes[name][0]
            weight[at, where] = found.weights[name]
    each = list(cells.values())
    ds = results.build(
        {
            "outcome": (["cell", "metric", "example"], outcome),
            "baseline_outcome": (["metric", "example"], baseline),
            "weight": (["metric", "example"], weight),
        },
        {
            "layer": ("cell", [cell.layer.name for cell in each]),
            "epoch": ("cell", [cell.epoch for cell in each]),
            "perturbation": ("cell", [cell.perturbation.name for cell in each]),
            "draw": ("cell", [cell.draw for cell in each]),
            "metric": names,
            "example": data.indices,
        },
        attrs,
    )
    return ds.sortby("example")


def _recorded(parts: Parts, name: str) -> Mapping[str, np.ndarray]:
    arrays = parts.read(name)
    if arrays is not None:
        return arrays
    if parts.store.is_finished():
        raise FinishedElsewhere
    raise ResultError(
        f"the part {name} was recorded in {parts.store.folder}, and is gone or damaged now. The "
        "same call computes it again; does something else remove files from that folder?"
    )
