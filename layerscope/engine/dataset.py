"""Everything that was measured, as arrays with names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from layerscope import distances, results
from layerscope.engine.loop import BASELINE, Measured
from layerscope.engine.plan import Plan
from layerscope.results import FULL_MODEL, NO_EPOCH

__all__ = ["assemble"]

_DIMS = ("layer", "epoch", "perturbation", "draw", "metric")


def assemble(plan: Plan, measured: Measured, attrs: Mapping[str, Any]) -> xr.Dataset:
    """Put what was measured into the Dataset that `layerscope.results` describes."""
    coords = _coords(plan, measured)
    value, error = _values(plan, measured, coords)
    distance, draw_distance = _distances(plan, measured, coords)
    baseline = [measured.tallies[BASELINE][name] for name in coords["metric"]]
    return results.build(
        {
            "value": (_DIMS, value),
            "standard_error": (_DIMS, error),
            "baseline": (["metric"], [tally.mean for tally in baseline]),
            "baseline_standard_error": (["metric"], [t.standard_error for t in baseline]),
            "n_examples": ([], plan.data.count),
            "chance": ([], plan.data.chance),
            "distance": (["layer", "epoch", "norm"], distance),
            "draw_distance": (["layer", "draw", "norm"], draw_distance),
        },
        coords | _described(measured),
        attrs,
    )


def _coords(plan: Plan, measured: Measured) -> dict[str, list[Any]]:
    from_none = any(not p.uses_checkpoint for p in plan.perturbations)
    draws = plan.draws if any(p.stochastic for p in plan.perturbations) else 1
    return {
        "layer": [row.name for row in measured.rows],
        "epoch": [NO_EPOCH] * from_none + plan.epochs,
        "perturbation": [p.name for p in plan.perturbations],
        "draw": list(range(draws)),
        "metric": [m.name for m in plan.metrics],
        "norm": list(distances.NORMS),
    }


def _values(
    plan: Plan, measured: Measured, coords: Mapping[str, list[Any]]
) -> tuple[np.ndarray, np.ndarray]:
    value = np.full([len(coords[dim]) for dim in _DIMS], np.nan)
    error = value.copy()
    for cell in plan.cells():
        at = (
            coords["layer"].index(cell.layer.name),
            coords["epoch"].index(cell.epoch),
            coords["perturbation"].index(cell.perturbation.name),
            cell.draw,
        )
        tallies = measured.tallies[cell.key]
        value[at] = [tallies[name].mean for name in coords["metric"]]
        error[at] = [tallies[name].standard_error for name in coords["metric"]]
    return value, error


def _distances(
    plan: Plan, measured: Measured, coords: Mapping[str, list[Any]]
) -> tuple[np.ndarray, np.ndarray]:
    names, norms = coords["layer"], coords["norm"]
    distance = np.full((len(names), len(coords["epoch"]), len(norms)), np.nan)
    for (name, epoch), found in measured.distances.items():
        at = names.index(name), coords["epoch"].index(epoch)
        distance[at] = [found[norm] for norm in norms]
    drawn = np.full((len(names), len(coords["draw"]), len(norms)), np.nan)
    for cell in plan.cells():
        if cell.key in measured.draw_distances:
            moved = measured.draw_distances[cell.key]
            drawn[names.index(cell.layer.name), cell.draw] = [moved[norm] for norm in norms]
    return distance, drawn


def _described(measured: Measured) -> dict[str, Any]:
    rows = measured.rows
    return {
        "depth": ("layer", np.arange(len(rows))),
        "kind": ("layer", ["network" if row.name == FULL_MODEL else "layer" for row in rows]),
        "module_type": ("layer", [row.module_type for row in rows]),
        "parameters": ("layer", [row.size for row in rows]),
        "component": ("layer", [row.component for row in rows]),
        "block": ("layer", [row.block for row in rows]),
        "stage": ("layer", [row.stage for row in rows]),
        "initializer": ("layer", [measured.origins[row.name] for row in rows]),
    }
