"""What every example gave in every cell."""

from __future__ import annotations

import numpy as np
import xarray as xr

from layerscope import results
from layerscope.engine.loop import Measured, part_name
from layerscope.engine.plan import Plan
from layerscope.engine.sums import Found
from layerscope.store import Parts

__all__ = ["gather"]


def gather(plan: Plan, measured: Measured, parts: Parts) -> xr.Dataset:
    """Put the outcomes of all parts together.

    Returns
    -------
    Dataset
        ``outcome`` (cell, metric, example), NaN for examples that a cell did not need, with
        ``layer``, ``epoch``, ``perturbation`` and ``draw`` along ``cell``; ``baseline_outcome``
        and ``weight`` (metric, example). The coordinate ``example`` counts from 0 in the data
        as they were given.
    """
    cells = {cell.key: cell for cell in measured.cells}
    place = {key: index for index, key in enumerate(cells)}
    names, count = plan.each, plan.data.count
    outcome = np.full((len(cells), len(names), count), np.nan, np.float32)
    baseline, weight = np.full((2, len(names), count), np.nan, np.float32)
    start = 0
    for index, length in enumerate(plan.data.lengths):
        where = slice(start, start := start + length)
        for part in range(len(measured.sums.next)):
            arrays = parts.read(part_name(index, part))
            if arrays is None:
                continue  # no cell of this part needed the batch
            found = Found.of(arrays, plan.metrics)
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
            "example": plan.data.indices,
        },
        plan.identity(),
    )
    return ds.sortby("example")
